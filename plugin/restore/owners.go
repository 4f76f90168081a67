package restore

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/rewrite"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// findLaterOwners notes which owners are not there yet when what they own is
// written. A claim is filled before what it belongs to may act on it, and of
// objects that need each other in a circle, such as a Secret of the Deployment
// that mounts it, one is always the first.
func (p *Plan) findLaterOwners() {
	for _, i := range p.items {
		written := i.line.Outcome == v1alpha1.OutcomeCreate || i.line.Outcome == v1alpha1.OutcomeApply
		if !written && !(p.request.Resume && i.line.Outcome == v1alpha1.OutcomeUnchanged) {
			continue
		}
		for _, w := range i.owners {
			owner := p.byUID[w.UID]
			if owner == nil {
				continue
			}
			made := owner.line.Outcome == v1alpha1.OutcomeCreate || owner.action == actRecreate
			// What an ended restore had made may lack an owner that it made after.
			lacks := p.request.Resume && i.liveUID != "" && owner.liveUID != "" && !slices.Contains(i.liveOwners, owner.liveUID)
			if made && owner.line.Wave >= i.line.Wave || lacks {
				i.laterOwners = append(i.laterOwners, w.UID)
			}
		}
	}
}

// giveOwners gives what was written its later owners, now that they are there.
func (p *Plan) giveOwners(ctx context.Context) error {
	var lacking []*item
	for _, i := range p.items {
		there := i.filled || i.line.Outcome == v1alpha1.OutcomeRestored || i.line.Outcome == v1alpha1.OutcomeUnchanged
		if len(i.laterOwners) == 0 || !there || i.liveUID == "" {
			continue
		}
		lacking = append(lacking, i)
		// One that failed may be deleted to be made anew, and would take along
		// what it owns.
		i.laterOwners = slices.DeleteFunc(i.laterOwners, func(uid string) bool {
			owner := p.byUID[uid]
			there := owner.liveUID != "" && owner.line.Outcome != v1alpha1.OutcomeFailed
			if !there {
				i.warn("its owner %s is not restored, so it has none now", owner.ref)
			}
			return there
		})
	}
	return p.eachSaved(ctx, lacking, p.request.Workers, func(ctx context.Context, i *item, o *object.Object) error {
		err := p.giveOwnersTo(ctx, i, o)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			i.warn("its owners could not be put back: %s", err)
		}
		return nil
	})
}

func (p *Plan) giveOwnersTo(ctx context.Context, i *item, o *object.Object) error {
	d, before, err := p.prepareQuietly(ctx, i, o, true)
	if err != nil {
		return err
	}
	owners, _ := section(d.Content, "metadata")["ownerReferences"].([]any)
	for n := 1; ; n++ {
		live, err := p.request.Target.Get(ctx, *i.kind, i.ref.Namespace, i.ref.Name)
		if err != nil {
			return err
		}
		joined, err := withOwnersOf(owners, live)
		if err != nil || len(joined) == len(live.Owners) {
			return err
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
			"uid": i.liveUID, "resourceVersion": live.Version, "ownerReferences": joined,
		}})
		if err != nil {
			return err
		}
		made, err := p.request.Target.Patch(ctx, *i.kind, i.ref.Namespace, i.ref.Name, types.MergePatchType, patch, kube.WriteOptions{FieldManager: before.managers.Creator})
		switch {
		case err != nil && p.again(n, err):
			if err := wait(ctx, n); err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		case i.filled: // the owners of its fields come last, with its label
			return nil
		}
		entries, err := withOthers(before.managers.Entries, made)
		if err != nil {
			return err
		}
		if err := p.putManagers(ctx, i, made, rewrite.Managers{Entries: entries}); err != nil {
			return fmt.Errorf("the owners of its fields: %w", err)
		}
		return nil
	}
}

// withOwnersOf adds to owner references those that controllers have given an
// object here.
func withOwnersOf(owners []any, live *object.Object) ([]any, error) {
	d, err := rewrite.Decode(live)
	if err != nil {
		return nil, err
	}
	out := slices.Clone(owners)
	here, _ := section(d.Content, "metadata")["ownerReferences"].([]any)
	for _, h := range here {
		ref, _ := h.(map[string]any)
		if !slices.ContainsFunc(owners, func(o any) bool { m, _ := o.(map[string]any); return m["uid"] == ref["uid"] }) {
			out = append(out, h)
		}
	}
	return out, nil
}
