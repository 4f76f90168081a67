package restore

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/rewrite"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// OnConflict says what becomes of an object that is in the target already and
// differs from the one of the backup.
type OnConflict string

const (
	// ConflictReport leaves it alone, and the restore is not complete.
	ConflictReport OnConflict = ""
	// ConflictSkip leaves it alone, as asked.
	ConflictSkip OnConflict = "Skip"
	// ConflictFail stops the restore before anything is written.
	ConflictFail OnConflict = "Fail"
	// ConflictApply makes it say what the backup says; what else it says stays.
	ConflictApply OnConflict = "Apply"
	// ConflictRecreate deletes it and creates that of the backup.
	ConflictRecreate OnConflict = "Recreate"
)

// Recreatable are the kinds, by resource, that are never deleted unless
// Request.AllowRecreate names them. Namespaces are never deleted at all.
var Recreatable = []string{resourceClaims, resourceVolumes, resourceDefinitions}

const (
	resourceClaims      = "persistentvolumeclaims"
	resourceVolumes     = "persistentvolumes"
	resourceDefinitions = "customresourcedefinitions"

	// removal bounds the wait for something to be gone after it was deleted.
	removal = 5 * time.Minute
	// removalOfOthers is that bound once something was not gone in time: what
	// holds one may hold many.
	removalOfOthers = 15 * time.Second
)

// action is what is done with an object whose line says Create or Apply.
type action int

const (
	actCreate   action = iota
	actApply           // make the one that is there say what the backup says
	actRecreate        // delete it, then create it
	actSubjects        // add subjects to a role binding
	actFill            // a claim that an ended restore made and did not fill
	actFilled          // one whose data is in place, and that still says so
	actFinish          // one that an ended restore made but for its owners and status
	actDraft           // put it in place of the cluster's own first draft
)

var errStopped = errors.New("stopped by conflicts")

// resolveConflicts decides about what differs in the target, as the request
// says. It asks the server what it would let happen, so that the plan, whether
// it is carried out or not, knows.
func (p *Plan) resolveConflicts(ctx context.Context) error {
	var unlike []*item
	for _, i := range p.items {
		if i.line.Outcome != v1alpha1.OutcomeConflict || !i.differs {
			continue
		}
		switch p.request.OnConflict {
		case ConflictSkip:
			i.settle(v1alpha1.OutcomeSkipped, "the target holds something else by that name, which is left as it is, as asked%s", listed(i.fields))
		case ConflictApply, ConflictRecreate:
			unlike = append(unlike, i)
		}
	}
	if len(unlike) == 0 {
		return nil
	}
	meet := p.planRecreate
	if p.request.OnConflict == ConflictApply {
		meet = p.planApply
	}
	if err := p.eachSaved(ctx, unlike, p.request.Workers, meet); err != nil {
		return err
	}
	return p.spreadRecreation(ctx)
}

// planApply has the server say what an apply would do.
func (p *Plan) planApply(ctx context.Context, i *item, o *object.Object) error {
	live, err := p.request.Target.Get(ctx, *i.kind, i.ref.Namespace, i.ref.Name)
	if apierrors.IsNotFound(err) {
		i.settle(v1alpha1.OutcomeCreate, "it was deleted a moment ago")
		return nil
	}
	if err != nil {
		return err
	}
	result, err := p.apply(ctx, i, o, true)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil && !cannotDryRun(err):
		i.settle(v1alpha1.OutcomeFailed, "%s", notApplied(err, i.fields))
		return nil
	case err == nil:
		same, err := p.same(i, result, live)
		if err != nil {
			return err
		}
		if same {
			i.settle(v1alpha1.OutcomeUnchanged, "the target says all that the backup says of it, and more%s", listed(i.fields))
			return nil
		}
	}
	i.action = actApply
	i.settle(v1alpha1.OutcomeApply, "it differs, and would be made to say what the backup says%s", listed(i.fields))
	return nil
}

// apply makes the object in the target say what the backup says of it. The
// server refuses the whole of it or nothing.
func (p *Plan) apply(ctx context.Context, i *item, o *object.Object, dry bool) (*object.Object, error) {
	d, _, err := p.prepareQuietly(ctx, i, o, dry)
	if err != nil {
		return nil, err
	}
	// With its UID it is this object that is changed, or none.
	section(d.Content, "metadata")["uid"] = i.liveUID
	raw, err := d.Encode()
	if err != nil {
		return nil, err
	}
	options := kube.WriteOptions{Force: true, DryRun: dry}
	for n := 1; ; n++ {
		result, err := p.request.Target.Apply(ctx, *i.kind, i.ref.Namespace, i.ref.Name, raw, options)
		if err == nil || apierrors.IsConflict(err) || apierrors.IsNotFound(err) || !p.again(n, err) {
			return result, err
		}
		if err := wait(ctx, n); err != nil {
			return nil, err
		}
	}
}

// prepareQuietly is prepare; for a plan without the warnings about owners that
// are still to come.
func (p *Plan) prepareQuietly(ctx context.Context, i *item, o *object.Object, quiet bool) (*rewrite.Draft, original, error) {
	warnings := slices.Clone(i.line.Warnings)
	d, before, err := p.prepare(ctx, i, o)
	if quiet {
		i.line.Warnings = warnings
	}
	return d, before, err
}

// same says whether two states of one object are equal but for what a server
// assigns.
func (p *Plan) same(i *item, a, b *object.Object) (bool, error) {
	var digests [2][32]byte
	for n, o := range []*object.Object{a, b} {
		d, err := rewrite.Decode(o)
		if err != nil {
			return false, err
		}
		rewrite.Clean(d, p.cleanOptions(i, true))
		if digests[n], err = digest(d); err != nil {
			return false, err
		}
	}
	return digests[0] == digests[1], nil
}

// restoreApplied applies an object and gives the owners of its fields back:
// those that it had where it was saved, and those that the others have here.
func (p *Plan) restoreApplied(ctx context.Context, i *item, o *object.Object) error {
	before, err := p.request.Target.Get(ctx, *i.kind, i.ref.Namespace, i.ref.Name)
	if err != nil {
		return err
	}
	applied, err := p.apply(ctx, i, o, false)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return errors.New(notApplied(err, i.fields))
	}
	_, saved, err := p.prepareQuietly(ctx, i, o, true)
	if err != nil {
		return err
	}
	if saved.managers.Entries, err = joinManagers(saved.managers.Entries, before); err != nil {
		return err
	}
	saved.managers.Creator = ""
	p.finishObject(ctx, i, applied, saved)
	if i.line.Outcome == v1alpha1.OutcomeRestored {
		i.settle(v1alpha1.OutcomeRestored, "it differed, and says now what the backup says%s", listed(i.fields))
	}
	return nil
}

// joinManagers are the owners of fields that an object had where it was saved,
// together with those that it has here.
func joinManagers(saved []any, live *object.Object) ([]any, error) {
	d, err := rewrite.Decode(live)
	if err != nil {
		return nil, err
	}
	here := map[managerKey]map[string]any{}
	for _, e := range rewrite.ManagersOf(d, true).Entries {
		entry, _ := e.(map[string]any)
		here[managerKeyOf(e)] = section(entry, "fieldsV1")
	}
	var joined []any
	for _, e := range saved {
		entry, _ := e.(map[string]any)
		if fields := here[managerKeyOf(e)]; fields != nil {
			entry["fieldsV1"] = union(section(entry, "fieldsV1"), fields)
		}
		joined = append(joined, entry)
	}
	return withOthers(joined, live)
}

func union(a, b map[string]any) map[string]any {
	out := map[string]any{}
	for _, m := range []map[string]any{a, b} {
		for k, v := range m {
			child, _ := v.(map[string]any)
			before, _ := out[k].(map[string]any)
			out[k] = union(before, child)
		}
	}
	return out
}

// cannotDryRun says whether a server could not say what would happen: there is
// a webhook that cannot be asked without consequences.
func cannotDryRun(err error) bool {
	return apierrors.IsBadRequest(err) && strings.Contains(err.Error(), "dry run")
}

// notApplied says in which fields an object cannot be changed. fields are those
// in which it differs: the server names the part that they are in.
func notApplied(err error, fields []string) string {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Code != http.StatusUnprocessableEntity || status.Status().Details == nil {
		return fmt.Sprintf("left as it is, the server does not let it be changed: %s", err)
	}
	var refused []string
	for _, c := range status.Status().Details.Causes {
		message, _, _ := strings.Cut(c.Message, "\n")
		refused = append(refused, fmt.Sprintf("%s (%s)", c.Field, message))
	}
	slices.Sort(refused)
	word := "refused"
	if slices.ContainsFunc(status.Status().Details.Causes, immutable) {
		word = "immutable"
	}
	return fmt.Sprintf("%s: %s; it is left as it is%s", word, strings.Join(slices.Compact(refused), ", "), differing(fields))
}

func immutable(c metav1.StatusCause) bool {
	return strings.Contains(c.Message, "immutable") || c.Type == metav1.CauseTypeForbidden || strings.Contains(c.Message, "may not change")
}

func differing(fields []string) string {
	if len(fields) == 0 {
		return ""
	}
	return "; it differs in " + strings.Join(fields, ", ")
}

// stop says, where a conflict has to stop the restore, that it does: what would
// have been written then is not.
func (p *Plan) stop() error {
	if p.request.OnConflict != ConflictFail {
		return nil
	}
	var in []string
	for _, i := range p.items {
		if i.line.Outcome == v1alpha1.OutcomeConflict {
			in = append(in, i.ref.String())
		}
	}
	for _, v := range p.volumes {
		if v.line.Outcome == v1alpha1.OutcomeConflict {
			in = append(in, "the data of "+v.name())
		}
	}
	if len(in) == 0 {
		return nil
	}
	const reason = "not written: the restore stops at conflicts"
	for _, i := range p.items {
		if i.line.Outcome == v1alpha1.OutcomeCreate || i.line.Outcome == v1alpha1.OutcomeApply {
			i.settle(v1alpha1.OutcomeFailed, reason)
		}
	}
	for _, v := range p.volumes {
		if v.line.Outcome == v1alpha1.OutcomeCreate || v.line.Outcome == v1alpha1.OutcomeApply {
			v.settle(v1alpha1.OutcomeFailed, reason)
		}
	}
	p.applications = nil
	return fmt.Errorf("%w, and nothing was written: the target holds something else as %s", errStopped, shortened(in))
}

// shortened lists a few of many.
func shortened(names []string) string {
	const shown = 5
	slices.Sort(names)
	if len(names) > shown {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:shown], ", "), len(names)-shown)
	}
	return strings.Join(names, ", ")
}
