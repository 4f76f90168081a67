package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/rewrite"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// guarded are the kinds whose deletion takes away more than the object.
func guarded(r v1alpha1.Ref) (resource string, never bool) {
	switch {
	case r.Group == "" && r.Kind == "PersistentVolumeClaim":
		return resourceClaims, false
	case r.Group == "" && r.Kind == "PersistentVolume":
		return resourceVolumes, false
	case r.Group == "apiextensions.k8s.io" && r.Kind == "CustomResourceDefinition":
		return resourceDefinitions, false
	case r.Group == "" && r.Kind == "Namespace":
		return "", true
	}
	return "", false
}

// planRecreate finds out whether an object can be deleted and created again.
// Where that is not certain, it stays.
func (p *Plan) planRecreate(ctx context.Context, i *item, o *object.Object) error {
	keep := func(format string, args ...any) error {
		i.settle(v1alpha1.OutcomeConflict, "the target holds something else by that name, which is left alone: %s%s", fmt.Sprintf(format, args...), differing(i.fields))
		return nil
	}
	switch resource, never := guarded(i.ref); {
	case never:
		return keep("a namespace is never deleted")
	case resource != "" && !slices.Contains(p.request.AllowRecreate, resource):
		return keep("of its kind none is deleted without --allow-recreate=%s", resource)
	case resource == resourceClaims:
		if !p.hasData(i) {
			return keep("the backup does not hold its data")
		}
		user, err := p.userOf(ctx, i.ref)
		if err != nil {
			return err
		}
		if user != "" {
			return keep("it is%s", strings.NewReplacer("(", "", ")", "").Replace(user))
		}
	case resource == resourceVolumes:
		live, err := p.request.Target.Get(ctx, *i.kind, "", i.ref.Name)
		if err != nil {
			return err
		}
		if content, err := live.Content(); err != nil || section(content, "status")["phase"] == "Bound" {
			return errors.Join(err, keep("it is bound to a claim"))
		}
	}
	d, _, err := p.prepareQuietly(ctx, i, o, true)
	if err != nil {
		return err
	}
	raw, err := d.Encode()
	if err != nil {
		return err
	}
	// That its name is taken is said last, after everything else was found good.
	_, err = p.request.Target.Create(ctx, *i.kind, i.ref.Namespace, raw, kube.WriteOptions{DryRun: true})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil && !apierrors.IsAlreadyExists(err) && !cannotDryRun(err) {
		i.settle(v1alpha1.OutcomeFailed, "it is not deleted, because the server would refuse the new one: %s", err)
		return nil
	}
	same, err := p.wouldEqual(ctx, i, d)
	if err != nil {
		return err
	}
	if same {
		i.settle(v1alpha1.OutcomeUnchanged, "the target equals it but for what the server fills in")
		return nil
	}
	i.recreate("it differs, and would be deleted and created again%s", listed(i.fields))
	return nil
}

// wouldEqual asks the server what it would make of an object, by a name that is
// not taken, and compares that with the one that is there: what was saved at
// another version, or by hand, lacks what this server fills in.
func (p *Plan) wouldEqual(ctx context.Context, i *item, d *rewrite.Draft) (bool, error) {
	meta := section(d.Content, "metadata")
	meta["name"] = fmt.Sprintf("%.40s-%x", i.ref.Name, i.digest[:4])
	raw, err := d.Encode()
	if err != nil {
		return false, err
	}
	made, err := p.request.Target.Create(ctx, *i.kind, i.ref.Namespace, raw, kube.WriteOptions{DryRun: true})
	if err != nil {
		// Not every object may have another name; then nothing is known.
		return false, ctx.Err()
	}
	like, err := rewrite.Decode(made)
	if err != nil {
		return false, err
	}
	section(like.Content, "metadata")["name"] = i.ref.Name
	if raw, err = like.Encode(); err != nil {
		return false, err
	}
	if made, err = object.Parse(raw); err != nil {
		return false, err
	}
	live, err := p.request.Target.Get(ctx, *i.kind, i.ref.Namespace, i.ref.Name)
	if err != nil {
		return false, err
	}
	return p.same(i, made, live)
}

func (i *item) recreate(format string, args ...any) {
	i.action = actRecreate
	i.settle(v1alpha1.OutcomeApply, format, args...)
}

// hasData says whether the backup holds the data of a claim.
func (p *Plan) hasData(claim *item) bool {
	return slices.ContainsFunc(p.saved.Volumes, func(v v1alpha1.VolumeLine) bool {
		return v.Snapshot != "" && v.Ref.Key() == claim.saved.Key()
	})
}

// spreadRecreation looks at what a deletion takes along. What the backup holds
// of it is created again too; a claim is never taken along.
func (p *Plan) spreadRecreation(ctx context.Context) error {
	deleted := map[string]*item{} // by UID
	namespaces := map[string]bool{}
	for _, i := range p.items {
		if i.action == actRecreate {
			deleted[i.liveUID] = i
			if i.kind.Namespaced {
				namespaces[i.ref.Namespace] = true
			}
		}
	}
	if len(deleted) == 0 {
		return nil
	}
	for ns := range namespaces {
		if err := p.keepClaims(ctx, ns, deleted); err != nil {
			return err
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
	for _, i := range p.items {
		if definition := p.definitionOf(i, deleted); definition != nil && i.action != actRecreate && i.liveUID != "" {
			i.settle(v1alpha1.OutcomeCreate, "it goes with its definition, which is deleted, and would be created again")
			i.liveUID, i.custom, i.action = "", true, actCreate
		}
	}
	return nil
}

func goesWith(i *item, deleted map[string]*item) bool {
	if len(i.liveOwners) == 0 {
		return false
	}
	return !slices.ContainsFunc(i.liveOwners, func(uid string) bool { return deleted[uid] == nil })
}

// definitionOf is the definition of an object's kind, where it is deleted.
func (p *Plan) definitionOf(i *item, deleted map[string]*item) *item {
	for _, d := range deleted {
		if d.saved.Kind == "CustomResourceDefinition" && d.ref.Name == i.kind.Resource+"."+i.kind.GVK.Group {
			return d
		}
	}
	return nil
}

// keepClaims leaves alone what owns a claim, itself or by others that it owns:
// the claim's data would go with it.
func (p *Plan) keepClaims(ctx context.Context, namespace string, deleted map[string]*item) error {
	claims, err := p.request.Target.FindKind(ctx, "", "v1", "PersistentVolumeClaim")
	if err != nil {
		return err
	}
	above := map[string][]object.Owner{} // the owners of an owner, by its UID
	var owned []*object.Object
	_, err = p.request.Target.List(ctx, claims, kube.ListOptions{Namespace: namespace}, func(o *object.Object) error {
		if len(o.Owners) > 0 {
			owned = append(owned, o)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look for claims that a deletion would take along: %w", err)
	}
	for _, claim := range owned {
		owners := slices.Clone(claim.Owners)
		for n := 0; n < len(owners) && n < 32; n++ {
			w := owners[n]
			if i := deleted[w.UID]; i != nil && claim.UID != i.liveUID {
				delete(deleted, w.UID)
				i.action = actCreate
				i.settle(v1alpha1.OutcomeConflict, "the target holds something else by that name, which is left alone: its deletion would take claim %s along%s", claim.Ref.Name, differing(i.fields))
			}
			next, known := above[w.UID]
			if !known {
				if next, err = p.ownersOf(ctx, namespace, w); err != nil {
					return err
				}
				above[w.UID] = next
			}
			owners = append(owners, next...)
		}
	}
	return nil
}

func (p *Plan) ownersOf(ctx context.Context, namespace string, w object.Owner) ([]object.Owner, error) {
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
	return o.Owners, nil
}

// remove deletes what is to be created again, and waits until it and its pods
// are gone.
func (p *Plan) remove(ctx context.Context, i *item) error {
	propagation := "Foreground"
	if i.holdsClaim() {
		propagation = "Background"
	}
	err := p.request.Target.Delete(ctx, *i.kind, i.ref.Namespace, i.ref.Name, kube.DeleteOptions{UID: i.liveUID, Propagation: propagation})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete it, to create it again: %w", err)
	}
	waiting, cancel := context.WithTimeoutCause(ctx, removal, errors.New("it was deleted to be created again, and is not gone"))
	defer cancel()
	err = p.request.Target.WaitFor(waiting, *i.kind, i.ref.Namespace, i.ref.Name, func(o *object.Object) (bool, error) {
		return o == nil || o.UID != i.liveUID, nil
	})
	if err != nil {
		return err
	}
	i.liveUID = ""
	return nil
}
