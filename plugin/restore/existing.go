package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/rewrite"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const (
	// few is how many objects of one kind in one namespace are looked up one
	// by one; more of them are listed.
	few = 4
)

// lookUp finds out what the target already has by the names that the restore
// would use, and decides about each.
func (p *Plan) lookUp(ctx context.Context) error {
	if err := p.lookUpNamespaces(ctx); err != nil {
		return err
	}
	type place struct {
		kind      kindKey
		namespace string
	}
	places := map[place][]*item{}
	for _, i := range p.items {
		if i.line.Outcome != v1alpha1.OutcomeCreate || i.saved.Group == "" && i.saved.Kind == "Namespace" {
			continue
		}
		if i.kind.Namespaced && !p.liveNamespaces[i.ref.Namespace] {
			continue
		}
		at := place{kindKey{i.kind.GVK.Group, i.kind.GVK.Version, i.kind.GVK.Kind}, i.ref.Namespace}
		places[at] = append(places[at], i)
	}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for at, items := range places {
		if items[0].custom {
			if _, err := p.request.Target.FindKind(ctx, at.kind.group, at.kind.version, at.kind.kind); err != nil {
				continue // defined by the restore itself
			}
		}
		if len(items) <= few {
			for _, i := range items {
				group.Go(func() error {
					o, err := p.request.Target.Get(gctx, *i.kind, i.ref.Namespace, i.ref.Name)
					switch {
					case apierrors.IsNotFound(err):
						return nil
					case err != nil:
						return err
					}
					return p.meet(i, o)
				})
			}
			continue
		}
		group.Go(func() error {
			named := make(map[string]*item, len(items))
			for _, i := range items {
				named[i.ref.Name] = i
			}
			_, err := p.request.Target.List(gctx, *items[0].kind, kube.ListOptions{Namespace: at.namespace}, func(o *object.Object) error {
				if i := named[o.Ref.Name]; i != nil {
					return p.meet(i, o)
				}
				return nil
			})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("look for what exists already: %w", err)
	}
	return p.explain(ctx)
}

// lookUpNamespaces finds out which namespaces are there, and which have to be
// made although nobody asked for them.
func (p *Plan) lookUpNamespaces(ctx context.Context) error {
	needed := map[string]bool{}
	provided := map[string]*item{}
	for _, i := range p.bySaved {
		if i.saved.Group == "" && i.saved.Kind == "Namespace" {
			if before := provided[i.ref.Name]; before == nil || before.spare {
				provided[i.ref.Name] = i
			}
		}
	}
	for _, i := range p.items {
		if i.line.Outcome == v1alpha1.OutcomeCreate {
			needed[i.ref.Namespace] = true
			if i.saved.Group == "" && i.saved.Kind == "Namespace" {
				needed[i.ref.Name] = true
			}
		}
	}
	delete(needed, "")
	k, err := p.request.Target.FindKind(ctx, "", "v1", "Namespace")
	if err != nil {
		return err
	}
	names := make([]string, 0, len(needed))
	for name := range needed {
		names = append(names, name)
	}
	slices.Sort(names)
	if err := p.awaitGone(ctx, k, names); err != nil {
		return err
	}
	for _, name := range names {
		o, err := p.request.Target.Get(ctx, k, "", name)
		i := provided[name]
		switch {
		case apierrors.IsNotFound(err):
			switch {
			case i == nil:
				p.missingNamespaces = append(p.missingNamespaces, name)
				p.warnings = append(p.warnings, fmt.Sprintf("namespace %s is neither in the target nor in the backup: it is made without labels and annotations", name))
			case i.spare:
				i.spare = false
				i.settle(v1alpha1.OutcomeCreate, "what goes into it needs it")
				p.items = append(p.items, i)
			}
		case err != nil:
			return fmt.Errorf("look for namespace %s: %w", name, err)
		case o.Deleting: // what goes into it has failed already
		default:
			p.liveNamespaces[name] = !p.request.NewNamespaces[name]
			if i != nil && i.line.Outcome == v1alpha1.OutcomeCreate {
				if err := p.meetNamespace(ctx, i, o); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// meetNamespace compares the labels and annotations of a namespace that
// exists. It is left alone whatever they are; those that decide what may run
// in it, and as whom, are warned of.
func (p *Plan) meetNamespace(ctx context.Context, i *item, live *object.Object) error {
	i.liveUID = live.UID
	d, err := rewrite.Decode(live)
	if err != nil {
		return err
	}
	i.ours = ownsFields(d)
	saved, err := p.request.Repository.Object(ctx, *p.request.Record, i.saved)
	if err != nil {
		return err
	}
	var lacking []string
	compare := func(what string, want, have map[string]string) {
		keys := make([]string, 0, len(want)+len(have))
		for k := range want {
			keys = append(keys, k)
		}
		for k := range have {
			if _, ok := want[k]; !ok {
				keys = append(keys, k)
			}
		}
		slices.Sort(keys)
		for _, k := range keys {
			w, inBackup := want[k]
			h, inTarget := have[k]
			if k == nameLabel || inBackup && inTarget && w == h {
				continue
			}
			if inBackup {
				lacking = append(lacking, k)
			}
			guards := ""
			if strings.HasPrefix(k, "pod-security.kubernetes.io/") || strings.HasPrefix(k, "openshift.io/sa.scc.") {
				guards = "; it decides how pods may run here, and who owns the files that are restored"
			}
			i.warn("%s %s: %s in the backup, %s in the target%s", what, k, quoted(w, inBackup), quoted(h, inTarget), guards)
		}
	}
	compare("label", saved.Labels, live.Labels)
	compare("annotation", saved.Annotations, live.Annotations)
	if len(lacking) == 0 {
		i.settle(v1alpha1.OutcomeUnchanged, "it exists")
		return nil
	}
	i.differs, i.fields = true, lacking
	i.settle(v1alpha1.OutcomeConflict, "it exists and is left alone; it differs in %s", strings.Join(lacking, ", "))
	return nil
}

func quoted(s string, there bool) string {
	if !there {
		return "absent"
	}
	return fmt.Sprintf("%q", s)
}

// meet decides about an object whose name is taken. It may be called for several
// at once.
func (p *Plan) meet(i *item, live *object.Object) error {
	i.liveUID, i.liveOwners = live.UID, nil
	for _, w := range live.Owners {
		i.liveOwners = append(i.liveOwners, w.UID)
	}
	d, err := rewrite.Decode(live)
	if err != nil {
		return err
	}
	i.ours = ownsFields(d)
	if i.binding != nil {
		p.meetBinding(i, d)
		return nil
	}
	if p.meetMarked(i, live) {
		return nil
	}
	if defines(i.saved) && live.Labels[kube.LabelTemporary] == "true" {
		i.settle(v1alpha1.OutcomeConflict, "a drill made it for itself, and has not removed it yet (hint: where the drill is no more, cleanup does)")
		return nil
	}
	if len(live.Labels) > 0 {
		dropMarks(d)
	}
	held := finalizers(d)
	rewrite.Clean(d, p.cleanOptions(i, true))
	draft := ownDraft(i, d)
	have, err := digest(d)
	if err != nil {
		return err
	}
	switch {
	case live.Deleting:
		i.settle(v1alpha1.OutcomeConflict, "one by that name is being deleted%s: wait until it is gone", held)
	case have == i.digest:
		i.settle(v1alpha1.OutcomeUnchanged, "the target already equals it")
	case draft && p.request.Resume:
		i.action = actDraft
		i.settle(v1alpha1.OutcomeApply, "it would take the place of the one that the cluster made with the namespace")
	case i.shared != nil && have == i.shared.plain:
		i.settle(v1alpha1.OutcomeUnchanged, "there can be only one, and it is there as it was saved")
		i.warn("it is shared with the original and stays as it is: %s", i.shared.changes)
	default:
		i.differs = true
		i.settle(v1alpha1.OutcomeConflict, "the target holds something else by that name, which is left alone")
	}
	return nil
}

// finalizers says which of them hold an object.
func finalizers(d *rewrite.Draft) string {
	list, _ := section(d.Content, "metadata")["finalizers"].([]any)
	if len(list) == 0 {
		return ""
	}
	return fmt.Sprintf(", held by the finalizers %v", list)
}

// meetBinding decides about a role binding that exists and whose subjects a
// rule changed: it serves the old namespace as well, so the new subjects go
// beside those that are there.
func (p *Plan) meetBinding(i *item, live *rewrite.Draft) {
	if !reflect.DeepEqual(i.binding.role, live.Content["roleRef"]) {
		i.differs, i.fields = true, []string{"roleRef"}
		i.settle(v1alpha1.OutcomeConflict, "the target holds a binding to another role by that name, which is left alone: roleRef")
		return
	}
	missing := missingSubjects(i.binding.subjects, live.Content)
	if len(missing) == 0 {
		i.settle(v1alpha1.OutcomeUnchanged, "it already names %s", subjectNames(i.binding.subjects))
		return
	}
	switch p.request.OnConflict {
	case ConflictSkip:
		i.settle(v1alpha1.OutcomeSkipped, "it exists and is left as it is, as asked: it does not name %s", subjectNames(missing))
	case ConflictFail:
		i.settle(v1alpha1.OutcomeConflict, "it exists, and does not name %s", subjectNames(missing))
	default:
		i.action = actSubjects
		i.settle(v1alpha1.OutcomeApply, "it exists: %s would be added, and none of its subjects taken away", subjectNames(missing))
	}
}

func missingSubjects(want []any, live map[string]any) (missing []any) {
	have, _ := live["subjects"].([]any)
	for _, w := range want {
		if !slices.ContainsFunc(have, func(h any) bool { return reflect.DeepEqual(w, h) }) {
			missing = append(missing, w)
		}
	}
	return missing
}

func subjectNames(subjects []any) string {
	var names []string
	for _, s := range subjects {
		m, _ := s.(map[string]any)
		name, _ := m["name"].(string)
		if ns, _ := m["namespace"].(string); ns != "" {
			name += "@" + ns
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}

// explain says of conflicts in which fields they lie, and finds those that are
// none: the same in another notation.
func (p *Plan) explain(ctx context.Context) error {
	var unlike []*item
	for _, i := range p.items {
		if i.differs && i.fields == nil {
			unlike = append(unlike, i)
		}
	}
	return p.eachSaved(ctx, unlike, 8, func(ctx context.Context, i *item, o *object.Object) error {
		live, err := p.request.Target.Get(ctx, *i.kind, i.ref.Namespace, i.ref.Name)
		if apierrors.IsNotFound(err) {
			i.differs = false
			i.settle(v1alpha1.OutcomeCreate, "it was deleted a moment ago")
			return nil
		}
		if err != nil {
			return err
		}
		d, fields, err := p.compare(ctx, i, o, live)
		switch {
		case err != nil:
			return err
		case !d.Differs:
			i.differs = false
			i.settle(v1alpha1.OutcomeUnchanged, "the target equals it but for notation")
		default:
			i.fields = fields
			i.line.Reason += listed(fields)
		}
		return nil
	})
}

func listed(fields []string) string {
	if len(fields) == 0 {
		return ""
	}
	return ": " + strings.Join(fields, ", ")
}

// addSubjects puts the subjects of a changed role binding beside those that it
// has in the target, whose field owners stay what they are.
func (p *Plan) addSubjects(ctx context.Context, i *item) error {
	for range attempts {
		live, err := p.request.Target.Get(ctx, *i.kind, i.ref.Namespace, i.ref.Name)
		if err != nil {
			return err
		}
		d, err := rewrite.Decode(live)
		if err != nil {
			return err
		}
		missing := missingSubjects(i.binding.subjects, d.Content)
		have, _ := d.Content["subjects"].([]any)
		patch, err := json.Marshal(map[string]any{
			"metadata": map[string]any{"resourceVersion": live.Version},
			"subjects": append(slices.Clone(have), missing...),
		})
		if err != nil {
			return err
		}
		owners := rewrite.ManagersOf(d, true)
		changed, err := p.patch(ctx, i, patch)
		if apierrors.IsConflict(err) {
			continue
		}
		if err != nil {
			return err
		}
		if err := p.putManagers(ctx, i, changed, owners); err != nil {
			i.warn("the owners of its fields could not be put back: %s", err)
		}
		i.settle(v1alpha1.OutcomeRestored, "it existed: %s added; none of its subjects was taken away", subjectNames(missing))
		return nil
	}
	return errors.New("it keeps changing while subjects are being added")
}
