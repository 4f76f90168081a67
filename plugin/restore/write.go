package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/rewrite"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// attempts and pause bound the patience with a target that refuses for the
// moment: some fifteen seconds in all.
const (
	attempts = 8
	pause    = 200 * time.Millisecond
	maxPause = 4 * time.Second
)

// create makes the object. It returns nil without an error where the object
// turned out to be there already; its line then says what that means.
//
// Where one manager had written all fields, the object is created in its name:
// it owns the same fields then, at the cost of no further request.
func (p *Plan) create(ctx context.Context, i *item, d *rewrite.Draft, m rewrite.Managers) (*object.Object, error) {
	raw, err := d.Encode()
	if err != nil {
		return nil, err
	}
	o := kube.WriteOptions{FieldManager: m.Creator}
	uncertain := false
	for n := 1; ; n++ {
		warnings := []string{}
		o.Warn = func(w string) {
			// That a version will go one day is true of the source as well.
			if !strings.Contains(w, "deprecated in v") {
				warnings = append(warnings, w)
			}
		}
		created, err := p.request.Target.Create(ctx, *i.kind, i.ref.Namespace, raw, o)
		if err == nil {
			i.liveUID, i.made = created.UID, true
			for _, w := range warnings {
				i.warn("the server says: %s", w)
			}
			return created, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if apierrors.IsAlreadyExists(err) {
			return p.alreadyThere(ctx, i, raw, o, uncertain)
		}
		if !p.again(n, err) {
			return nil, err
		}
		uncertain = uncertain || apierrors.ReasonForError(err) == "" || apierrors.IsInternalError(err) || apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err)
		if err := wait(ctx, n); err != nil {
			return nil, err
		}
	}
}

// alreadyThere decides about an object that came to be after the plan looked:
// by an earlier try of ours whose answer was lost, by a controller that fills
// new namespaces, or by somebody else.
func (p *Plan) alreadyThere(ctx context.Context, i *item, raw []byte, o kube.WriteOptions, uncertain bool) (*object.Object, error) {
	live, err := p.request.Target.Get(ctx, *i.kind, i.ref.Namespace, i.ref.Name)
	if err != nil {
		return nil, err
	}
	if id := p.request.Record.ID; uncertain && (live.Labels[labelFilling] == id || live.Labels[labelHeld] == id) {
		i.liveUID, i.made = live.UID, true
		return live, nil
	}
	if err := p.meet(i, live); err != nil {
		return nil, err
	}
	switch {
	case i.line.Outcome == v1alpha1.OutcomeUnchanged && uncertain:
		i.made = true
		return live, nil
	case i.action == actDraft, i.line.Outcome == v1alpha1.OutcomeConflict && p.madeForNamespace(i):
		// The namespace is ours and new: this is the cluster's own first draft
		// of the object, which nobody has put anything into.
		var content map[string]any
		if err := json.Unmarshal(raw, &content); err != nil {
			return nil, err
		}
		return p.replace(ctx, i, content, live, o)
	}
	return nil, nil
}

func (p *Plan) replace(ctx context.Context, i *item, content map[string]any, live *object.Object, o kube.WriteOptions) (*object.Object, error) {
	section(content, "metadata")["resourceVersion"] = live.Version
	raw, err := json.Marshal(content)
	if err != nil {
		return nil, err
	}
	return p.request.Target.Replace(ctx, *i.kind, i.ref.Namespace, i.ref.Name, raw, o)
}

// madeForNamespace says whether the object is one that a controller puts into
// every new namespace, and the namespace one that this restore made.
func (p *Plan) madeForNamespace(i *item) bool {
	if i.saved.Group != "" || i.saved.Kind != "ServiceAccount" || i.ref.Name != "default" {
		return false
	}
	return i.kind.Namespaced && !p.liveNamespaces[i.ref.Namespace]
}

// transient says whether a refusal may pass by itself.
func transient(err error) bool {
	switch {
	case apierrors.IsTooManyRequests(err), apierrors.IsServiceUnavailable(err), apierrors.IsTimeout(err),
		apierrors.IsServerTimeout(err), apierrors.IsInternalError(err), apierrors.IsConflict(err):
		return true
	case apierrors.IsForbidden(err):
		// A quota that has not been counted yet, and an account that is still
		// being made for a new namespace, are refusals of the moment.
		text := err.Error()
		return strings.Contains(text, "status unknown for quota") ||
			strings.Contains(text, "error looking up service account")
	case apierrors.IsNotFound(err):
		// A kind that was defined a moment ago is not served by every API
		// server at once; a namespace likewise.
		return true
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return status.Status().Code >= 500
	}
	_, _, denied := kube.Denied(err)
	return !denied
}

// unanswered is what the server says where a webhook does not answer.
var unanswered = regexp.MustCompile(`failed calling webhook "([^"]+)"`)

// again says whether something is tried another time after its nth error. A
// webhook that did not answer one object in all that time is not waited for by
// every other object as well.
func (p *Plan) again(n int, err error) bool {
	if !transient(err) {
		return false
	}
	m := unanswered.FindStringSubmatch(err.Error())
	if m == nil {
		return n < attempts
	}
	if n == attempts {
		p.deadWebhooks.Store(m[1], true)
	}
	_, dead := p.deadWebhooks.Load(m[1])
	return !dead
}

func wait(ctx context.Context, n int) error {
	timer := time.NewTimer(min(pause<<(n-1), maxPause))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// putManagers makes the owners of an object's fields those that it had. What
// controllers have come to own here since stays theirs; nothing stays ours.
func (p *Plan) putManagers(ctx context.Context, i *item, live *object.Object, m rewrite.Managers) error {
	entries := m.Entries
	for n := 1; ; n++ {
		if len(entries) == 0 {
			entries = []any{map[string]any{}} // the server takes one empty entry for none
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
			"managedFields": entries, "resourceVersion": live.Version,
		}})
		if err != nil {
			return err
		}
		_, err = p.patch(ctx, i, patch)
		if err == nil || !p.again(n, err) {
			return err
		}
		if err := wait(ctx, n); err != nil {
			return err
		}
		if live, err = p.request.Target.Get(ctx, *i.kind, i.ref.Namespace, i.ref.Name); err != nil {
			return err
		}
		if entries, err = withOthers(m.Entries, live); err != nil {
			return err
		}
	}
}

// withOthers adds to the entries those of live that neither we nor any of the
// entries' own managers made.
func withOthers(entries []any, live *object.Object) ([]any, error) {
	d, err := rewrite.Decode(live)
	if err != nil {
		return nil, err
	}
	known := map[managerKey]bool{}
	for _, e := range entries {
		known[managerKeyOf(e)] = true
	}
	out := append([]any{}, entries...)
	for _, e := range rewrite.ManagersOf(d, true).Entries {
		if k := managerKeyOf(e); k.manager != kube.FieldManager && !known[k] {
			out = append(out, e)
		}
	}
	return out, nil
}

// managerKey tells the entries of managedFields apart.
type managerKey struct{ manager, operation, subresource any }

func managerKeyOf(e any) managerKey {
	m, _ := e.(map[string]any)
	return managerKey{m["manager"], m["operation"], m["subresource"]}
}

func (p *Plan) patch(ctx context.Context, i *item, patch []byte) (*object.Object, error) {
	return p.request.Target.Patch(ctx, *i.kind, i.ref.Namespace, i.ref.Name, types.MergePatchType, patch, kube.WriteOptions{})
}

// putStatus writes the status that an object had through its subresource.
func (p *Plan) putStatus(ctx context.Context, i *item, before original) (*object.Object, error) {
	patch, err := json.Marshal(map[string]any{"status": before.status})
	if err != nil {
		return nil, fmt.Errorf("encode status: %w", err)
	}
	for n := 1; ; n++ {
		live, err := p.request.Target.PatchSubresource(ctx, *i.kind, i.ref.Namespace, i.ref.Name, "status", types.MergePatchType, patch, kube.WriteOptions{FieldManager: before.statusManager})
		if err == nil || !p.again(n, err) {
			return live, err
		}
		if err := wait(ctx, n); err != nil {
			return nil, err
		}
	}
}
