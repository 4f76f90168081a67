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

// guarded are the kinds whose deletion takes away more than the object; never
// says why none of a kind is ever deleted.
func guarded(r v1alpha1.Ref) (resource, never string) {
	switch {
	case r.Group == "" && r.Kind == "PersistentVolumeClaim":
		return resourceClaims, ""
	case r.Group == "" && r.Kind == "PersistentVolume":
		return resourceVolumes, ""
	case isDefinition(r):
		return resourceDefinitions, ""
	case r.Group == "" && r.Kind == "Namespace":
		return "", "a namespace is never deleted"
	case r.Group == "snapshot.storage.k8s.io" && !strings.HasSuffix(r.Kind, "Class"), r.Group == "groupsnapshot.storage.k8s.io" && !strings.HasSuffix(r.Kind, "Class"):
		return "", "the snapshot that it stands for could go with it"
	}
	return "", ""
}

// planRecreate finds out whether an object can be deleted and created again.
// Where that is not certain, it stays.
func (p *Plan) planRecreate(ctx context.Context, i *item, o *object.Object) error {
	keep := func(format string, args ...any) error {
		i.settle(v1alpha1.OutcomeConflict, "the target holds something else by that name, which is left alone: %s%s", fmt.Sprintf(format, args...), differing(i.fields))
		return nil
	}
	switch resource, never := guarded(i.ref); {
	case never != "":
		return keep("%s", never)
	case resource != "" && !slices.Contains(p.request.AllowRecreate, resource):
		return keep("of its kind none is deleted without --allow-recreate=%s", resource)
	}
	if _, why, err := p.mayGo(ctx, i); err != nil || why != "" {
		return errors.Join(err, keep("%s", why))
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
		// Not every object may have another name: then what there is is asked to
		// become it, which is refused where that cannot be.
		live, err := p.request.Target.Get(ctx, *i.kind, i.ref.Namespace, i.ref.Name)
		if err != nil {
			return false, err
		}
		meta["name"] = i.ref.Name
		if made, err = p.replace(ctx, i, d.Content, live, kube.WriteOptions{DryRun: true}); err != nil {
			return false, ctx.Err()
		}
		return p.same(i, made, live)
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

// mayGo says why something whose deletion takes away more than the object must
// not be deleted as it is now; version is what it was looked at.
func (p *Plan) mayGo(ctx context.Context, i *item) (version, why string, err error) {
	switch resource, _ := guarded(i.ref); resource {
	case resourceClaims:
		if !p.hasData(i) {
			return "", "the backup does not hold its data", nil
		}
		user, err := p.userOf(ctx, i.ref)
		if user != "" {
			user = "it is" + strings.NewReplacer("(", "", ")", "").Replace(user)
		}
		return "", user, err
	case resourceVolumes:
		live, err := p.request.Target.Get(ctx, *i.kind, "", i.ref.Name)
		if err != nil {
			return "", "", err
		}
		content, err := live.Content()
		if err != nil {
			return "", "", err
		}
		policy := section(content, "spec")["persistentVolumeReclaimPolicy"]
		switch {
		case section(content, "status")["phase"] == "Bound":
			why = "it is bound to a claim"
		case policy != "Retain":
			why = fmt.Sprintf("its disk could go with it, because its reclaim policy is %v (hint: set that to Retain first)", policy)
		}
		return live.Version, why, nil
	case resourceDefinitions:
		if p.takes[i] == nil {
			return "", "", nil // what it takes along is looked at when all else is decided
		}
		now, why, err := p.objectsOf(ctx, i)
		for uid, o := range now {
			if p.takes[i][uid] == nil {
				why = fmt.Sprintf("%s was made meanwhile, and would go with it", o.ref)
			}
		}
		return "", why, err
	}
	return "", "", nil
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

// remove deletes what is to be created again, and waits until it and its pods
// are gone.
func (p *Plan) remove(ctx context.Context, i *item) error {
	propagation := "Foreground"
	if i.holdsClaim() {
		propagation = "Background"
	}
	version, why, err := p.mayGo(ctx, i)
	if apierrors.IsNotFound(err) {
		i.liveUID = ""
		return nil
	}
	if err != nil {
		return err
	}
	if why != "" {
		return fmt.Errorf("it is left as it is: %s", why)
	}
	err = p.request.Target.Delete(ctx, *i.kind, i.ref.Namespace, i.ref.Name, kube.DeleteOptions{UID: i.liveUID, Version: version, Propagation: propagation})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete it, to create it again: %w", err)
	}
	patience := removal
	if p.stuck.Load() {
		patience = removalOfOthers
	}
	waiting, cancel := context.WithTimeoutCause(ctx, patience, errors.New("it was deleted to be created again, and is not gone"))
	defer cancel()
	err = p.request.Target.WaitFor(waiting, *i.kind, i.ref.Namespace, i.ref.Name, func(o *object.Object) (bool, error) {
		return o == nil || o.UID != i.liveUID, nil
	})
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p.stuck.Store(true)
		if live, getErr := p.request.Target.Get(ctx, *i.kind, i.ref.Namespace, i.ref.Name); getErr == nil {
			if d, decodeErr := rewrite.Decode(live); decodeErr == nil {
				return fmt.Errorf("%w%s", err, finalizers(d))
			}
		}
		return err
	}
	i.liveUID = ""
	return nil
}
