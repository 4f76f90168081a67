package restore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// spreadRecreation looks at what a deletion takes along. What the backup holds
// of it is created again too; a claim is never taken along, nor an object that
// goes with its definition and that the backup does not hold.
func (p *Plan) spreadRecreation(ctx context.Context) error {
	deleted := map[string]*item{} // by UID
	var definitions []*item
	for _, i := range p.items {
		if i.action != actRecreate {
			continue
		}
		deleted[i.liveUID] = i
		if defines(i.saved) && i.saved.Group == "apiextensions.k8s.io" {
			definitions = append(definitions, i)
		}
	}
	if len(deleted) == 0 {
		return nil
	}
	for _, d := range definitions {
		takes, why, err := p.objectsOf(ctx, d)
		if err != nil {
			return err
		}
		if why != "" {
			d.stays(deleted, why)
			continue
		}
		p.takes[d] = takes
		maps.Copy(deleted, takes)
	}
	holders, err := p.holdersOfClaims(ctx, deleted)
	if err != nil {
		return err
	}
	for uid, claim := range holders {
		if i := deleted[uid]; i.action == actRecreate {
			i.stays(deleted, "its deletion would take claim "+claim+" along")
		}
		delete(deleted, uid)
	}
	for _, d := range definitions {
		for uid, i := range p.takes[d] {
			if claim, holds := holders[uid]; holds && d.action == actRecreate {
				d.stays(deleted, fmt.Sprintf("its deletion would take %s and with that claim %s along", i.ref, claim))
			}
		}
		if d.action != actRecreate {
			maps.DeleteFunc(deleted, func(uid string, i *item) bool { return p.takes[d][uid] != nil && i.action != actRecreate })
		}
	}
	for again := true; again; {
		again = false
		for _, i := range p.items {
			if i.action == actRecreate || i.liveUID == "" || !goesWith(i, deleted) {
				continue
			}
			switch i.line.Outcome {
			case v1alpha1.OutcomeUnchanged, v1alpha1.OutcomeConflict, v1alpha1.OutcomeSkipped, v1alpha1.OutcomeApply:
				i.recreate("it goes with its owner, which is deleted, and would be created again")
				deleted[i.liveUID], again = i, true
			}
		}
	}
	for _, d := range definitions {
		if d.action != actRecreate {
			continue
		}
		for _, i := range p.takes[d] {
			i.settle(v1alpha1.OutcomeCreate, "it goes with its definition, which is deleted, and would be created again")
			i.liveUID, i.custom, i.action = "", true, actCreate
		}
	}
	return nil
}

// stays leaves something alone that was to be deleted.
func (i *item) stays(deleted map[string]*item, why string) {
	delete(deleted, i.liveUID)
	i.action = actCreate
	i.settle(v1alpha1.OutcomeConflict, "the target holds something else by that name, which is left alone: %s%s", why, differing(i.fields))
}

func goesWith(i *item, deleted map[string]*item) bool {
	if len(i.liveOwners) == 0 {
		return false
	}
	return !slices.ContainsFunc(i.liveOwners, func(uid string) bool { return deleted[uid] == nil })
}

// objectsOf finds the objects, by UID, that go with a definition. why says that
// not all of them would come back.
func (p *Plan) objectsOf(ctx context.Context, definition *item) (takes map[string]*item, why string, err error) {
	plural, group, _ := strings.Cut(definition.ref.Name, ".")
	k, err := p.request.Target.FindResource(ctx, group, "", plural)
	if err != nil {
		return nil, "which objects would go with it cannot be seen: " + err.Error(), nil
	}
	known := map[v1alpha1.Ref]*item{}
	for _, i := range p.items {
		if i.ref.Group == group {
			known[i.ref.Key()] = i
		}
	}
	takes = map[string]*item{}
	var lost []string
	_, err = p.request.Target.List(ctx, k, kube.ListOptions{}, func(o *object.Object) error {
		i := known[o.Ref.Key()]
		if i == nil || i.line.Outcome == v1alpha1.OutcomeFailed || i.line.Outcome == v1alpha1.OutcomeSkipped {
			lost = append(lost, o.Ref.String())
			return nil
		}
		takes[o.UID] = i
		return nil
	})
	switch {
	case ctx.Err() != nil:
		return nil, "", context.Cause(ctx)
	case err != nil:
		return nil, "which objects would go with it cannot be seen: " + err.Error(), nil
	case len(lost) > 0:
		return nil, fmt.Sprintf("its deletion would take along what this restore does not bring back: %s", shortened(lost)), nil
	}
	return takes, "", nil
}

// holdersOfClaims finds what of the deleted owns a claim, itself or by others
// that it owns, and which: the claim's data would go with it.
func (p *Plan) holdersOfClaims(ctx context.Context, deleted map[string]*item) (map[string]string, error) {
	claims, err := p.request.Target.FindKind(ctx, "", "v1", "PersistentVolumeClaim")
	if err != nil {
		return nil, err
	}
	namespaces := map[string]bool{}
	for _, i := range deleted {
		namespaces[i.ref.Namespace] = true
	}
	if namespaces[""] { // what has no namespace may own in all of them
		namespaces = map[string]bool{"": true}
	}
	var owned []*object.Object
	for ns := range namespaces {
		_, err = p.request.Target.List(ctx, claims, kube.ListOptions{Namespace: ns}, func(o *object.Object) error {
			if len(o.Owners) > 0 {
				owned = append(owned, o)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("look for claims that a deletion would take along: %w", err)
		}
	}
	above := map[string][]object.Owner{} // the owners of an owner, by its UID
	holders := map[string]string{}
	for _, claim := range owned {
		owners := slices.Clone(claim.Owners)
		for n := 0; n < len(owners) && n < 32; n++ {
			w := owners[n]
			if i := deleted[w.UID]; i != nil && claim.UID != w.UID {
				holders[w.UID] = claim.Ref.Name
			}
			next, known := above[w.UID]
			if !known {
				if next, err = p.ownersOf(ctx, claim.Ref.Namespace, w); err != nil {
					return nil, err
				}
				above[w.UID] = next
			}
			owners = append(owners, next...)
		}
	}
	return holders, nil
}

func (p *Plan) ownersOf(ctx context.Context, namespace string, w object.Owner) ([]object.Owner, error) {
	o, err := p.owner(ctx, namespace, w)
	if o == nil {
		return nil, err
	}
	return o.Owners, nil
}

// owner is an owner of something in a namespace, or nil where it is not there.
func (p *Plan) owner(ctx context.Context, namespace string, w object.Owner) (*object.Object, error) {
	group, version := object.SplitAPIVersion(w.APIVersion)
	k, err := p.request.Target.FindKind(ctx, group, version, w.Kind)
	if errors.As(err, new(*kube.NotServedError)) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !k.Namespaced {
		namespace = ""
	}
	o, err := p.request.Target.Get(ctx, k, namespace, w.Name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read owner %s %s: %w", w.Kind, w.Name, err)
	}
	return o, nil
}

// findOwners finds the owners that are in the target as they were, and that
// this restore does not bring back: what is brought back beside them is theirs
// again. Only in the cluster that was backed up can one be the same.
func (p *Plan) findOwners(ctx context.Context) error {
	p.owners = map[string]bool{}
	if p.target.UID == "" || p.target.UID != p.request.Record.Cluster.UID {
		return nil
	}
	looked := map[string]bool{}
	for _, i := range p.items {
		if i.line.Outcome != v1alpha1.OutcomeCreate || i.moved() {
			continue
		}
		for _, w := range i.owners {
			if p.byUID[w.UID] != nil || looked[w.UID] {
				continue
			}
			looked[w.UID] = true
			live, err := p.owner(ctx, i.ref.Namespace, w)
			if _, _, denied := kube.Denied(err); denied {
				continue
			}
			if err != nil {
				return err
			}
			if live != nil && live.UID == w.UID && !live.Deleting {
				p.owners[w.UID] = true
			}
		}
	}
	return nil
}

// moved says whether an object becomes another one here.
func (i *item) moved() bool { return i.ref.Key() != i.saved.Key() }
