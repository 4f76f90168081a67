package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// removal bounds how long one thing may take to go.
const removal = time.Minute

// Claim waits until a volume's snapshot can be read, for as long as the context
// lasts, and makes a claim from it, in the same namespace, of the same class
// and mode, that nothing uses yet. It returns its name.
func (c *Cut) Claim(ctx context.Context, claim v1alpha1.Ref) (string, error) {
	p := c.part(claim)
	if p == nil || p.err != nil {
		return "", c.Err(claim)
	}
	if p.ofGroup {
		c.once.Do(func() { c.members = c.findMembers(ctx) })
		if c.members != nil {
			return "", c.members
		}
		if p.snapshot == "" {
			return "", fmt.Errorf("group snapshot %s/%s has no snapshot of %s", c.namespace, c.groupName, claim)
		}
	}
	ready, err := c.ready(ctx, c.support.snapshots, p.Claim.Namespace, p.snapshot)
	if err != nil {
		return "", fmt.Errorf("snapshot %s/%s is not ready to use: %w", p.Claim.Namespace, p.snapshot, err)
	}
	class, err := c.storageClass(ctx, p)
	if err != nil {
		return "", err
	}
	name := newName()
	raw, err := json.Marshal(c.restored(p, name, class, ready.restoreSize()))
	if err != nil {
		return "", err
	}
	p.restored = name
	if _, err := c.c.Create(ctx, claims, p.Claim.Namespace, raw, kube.WriteOptions{}); err != nil {
		return "", fmt.Errorf("make a claim from snapshot %s/%s: %w", p.Claim.Namespace, p.snapshot, err)
	}
	return name, nil
}

// restored is a claim whose volume is made from a snapshot.
func (c *Cut) restored(p *part, name, class string, least int64) *corev1.PersistentVolumeClaim {
	size := p.claim.Status.Capacity[corev1.ResourceStorage]
	if requested := p.claim.Spec.Resources.Requests[corev1.ResourceStorage]; size.Cmp(requested) < 0 && p.claim.Status.Capacity == nil {
		size = requested
	}
	if size.Value() < least {
		size = *resource.NewQuantity(least, resource.BinarySI)
	}
	api := group
	made := &corev1.PersistentVolumeClaim{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"},
		ObjectMeta: c.metadata(p.Claim.Namespace, name),
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{accessMode(p.claim.Spec.AccessModes)},
			VolumeMode:  p.claim.Spec.VolumeMode,
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: size}},
			DataSource:  &corev1.TypedLocalObjectReference{APIGroup: &api, Kind: "VolumeSnapshot", Name: p.snapshot},
		},
	}
	if class != "" {
		made.Spec.StorageClassName = &class
	}
	return made
}

// accessMode is that of a claim which one mover uses: drivers that share
// volumes can also not share them, but for those that only offer to be read.
func accessMode(of []corev1.PersistentVolumeAccessMode) corev1.PersistentVolumeAccessMode {
	if len(of) > 0 && !slices.ContainsFunc(of, func(m corev1.PersistentVolumeAccessMode) bool { return m != corev1.ReadOnlyMany }) {
		return corev1.ReadOnlyMany
	}
	return corev1.ReadWriteOnce
}

// storageClass is the class of the claim itself where that still is one of its
// driver, else one of the driver: volumes that were made by hand have none.
func (c *Cut) storageClass(ctx context.Context, p *part) (string, error) {
	own := ""
	if p.claim.Spec.StorageClassName != nil {
		own = *p.claim.Spec.StorageClassName
	}
	list, err := c.c.Typed().StorageV1().StorageClasses().List(ctx, metav1.ListOptions{})
	if _, _, denied := kube.Denied(err); denied {
		return own, nil
	}
	if err != nil {
		return "", fmt.Errorf("list storage classes: %w", err)
	}
	class, ok := chooseStorageClass(list.Items, p.Driver, own)
	if !ok {
		return "", fmt.Errorf("no storage class of driver %s can be chosen for a claim from the snapshot: %s has class %q, and the driver's are: %s", p.Driver, p.Claim, own, orNone(classNames(list.Items, p.Driver)))
	}
	return class, nil
}

func chooseStorageClass(all []storagev1.StorageClass, driver, own string) (string, bool) {
	for _, s := range all {
		if s.Name == own && s.Provisioner == driver {
			return own, true
		}
	}
	names := classNames(all, driver)
	for _, s := range all {
		if s.Provisioner == driver && s.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" {
			return s.Name, true
		}
	}
	if len(names) == 1 {
		return names[0], true
	}
	return "", false
}

func classNames(all []storagev1.StorageClass, driver string) []string {
	var names []string
	for _, s := range all {
		if s.Provisioner == driver {
			names = append(names, s.Name)
		}
	}
	slices.Sort(names)
	return names
}

// ready waits until a snapshot, or a group of them, can be used.
func (c *Cut) ready(ctx context.Context, kind kube.Kind, namespace, name string) (*live, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var grace graceful
	defer grace.over()
	var found *live
	err := c.c.WaitFor(ctx, kind, namespace, name, func(o *object.Object) (bool, error) {
		if o == nil || o.Deleting {
			return false, errors.New("it was deleted by somebody else")
		}
		l, err := readLive(o)
		if err != nil {
			return false, err
		}
		found = l
		if !l.Status.ReadyToUse {
			grace.look(l, cancel)
		}
		return l.Status.ReadyToUse, nil
	})
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return found, err
}

// findMembers finds the snapshots that were made for the volumes of a group:
// they are there when the group is ready.
func (c *Cut) findMembers(ctx context.Context) error {
	if _, err := c.ready(ctx, c.support.groupSnapshots, c.namespace, c.groupName); err != nil {
		return fmt.Errorf("group snapshot %s/%s is not ready to use: %w", c.namespace, c.groupName, err)
	}
	_, err := c.c.List(ctx, c.support.snapshots, kube.ListOptions{Namespace: c.namespace}, func(o *object.Object) error {
		if !slices.ContainsFunc(o.Owners, func(w object.Owner) bool { return w.UID == c.groupUID }) {
			return nil
		}
		l, err := readLive(o)
		if err != nil {
			return err
		}
		for _, p := range c.parts {
			if p.ofGroup && p.Claim.Name == l.Spec.Source.Claim {
				p.snapshot = o.Ref.Name
			}
		}
		return nil
	})
	c.found = err == nil
	return err
}

// Release removes what was made for one volume: its claim, and its snapshot
// where that is not part of a group's. Nothing is left, or the error says what.
func (c *Cut) Release(ctx context.Context, claim v1alpha1.Ref) error {
	p := c.part(claim)
	if p == nil {
		return nil
	}
	if err := c.removeClaim(ctx, p); err != nil {
		return err
	}
	if p.ofGroup || p.snapshot == "" {
		return nil
	}
	if err := c.remove(ctx, c.support.snapshots, c.support.contents, p.Claim.Namespace, p.snapshot, p.retain); err != nil {
		return err
	}
	p.snapshot = ""
	return nil
}

// Remove removes all that is left. It may be called again after an error.
func (c *Cut) Remove(ctx context.Context) error {
	err := c.unlabel(ctx)
	err = errors.Join(err, c.each(c.parts, func(p *part) error { return c.Release(ctx, p.Claim) }))
	if c.groupName == "" {
		return err
	}
	if gone := c.remove(ctx, c.support.groupSnapshots, c.support.groupContents, c.namespace, c.groupName, c.retain); gone != nil {
		return errors.Join(err, gone)
	}
	if !c.found {
		if gone := c.removeRemnants(ctx); gone != nil {
			return errors.Join(err, gone)
		}
	}
	c.groupName = ""
	return err
}

// removeRemnants removes what the controllers made for a group that went before
// it was whole, as far as they do not do so themselves.
func (c *Cut) removeRemnants(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, removal)
	defer cancel()
	for {
		all, _, err := Remnants(ctx, c.c, c.namespace)
		if err != nil {
			return fmt.Errorf("what was made for group snapshot %s/%s: %w", c.namespace, c.groupName, err)
		}
		left := slices.DeleteFunc(all, func(r Remnant) bool { return r.Of.Name != c.groupName || r.Held() })
		if len(left) == 0 {
			return nil
		}
		for _, r := range left {
			if err := r.Remove(ctx, c.c, c.o.Mark); err != nil {
				return fmt.Errorf("%s of group snapshot %s/%s: %w", r.Ref, c.namespace, c.groupName, err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s of group snapshot %s/%s was not removed: %w", left[0].Ref, c.namespace, c.groupName, ctx.Err())
		case <-time.After(time.Second):
		}
	}
}

// removeClaim removes the claim made from a snapshot, and sees to it that its
// volume goes too, whatever the class says about volumes of claims that go.
func (c *Cut) removeClaim(ctx context.Context, p *part) error {
	if p.restored == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, removal)
	defer cancel()
	o, err := c.c.Get(ctx, claims, p.Claim.Namespace, p.restored)
	if apierrors.IsNotFound(err) {
		p.restored = ""
		return nil
	}
	if err != nil {
		return fmt.Errorf("temporary claim %s/%s: %w", p.Claim.Namespace, p.restored, err)
	}
	var claim corev1.PersistentVolumeClaim
	if err := json.Unmarshal(o.Raw, &claim); err != nil {
		return fmt.Errorf("read %s: %w", o.Ref, err)
	}
	if err := c.dropVolume(ctx, &claim); err != nil {
		return fmt.Errorf("volume %s of temporary claim %s/%s: %w", claim.Spec.VolumeName, p.Claim.Namespace, p.restored, err)
	}
	if err := c.c.Delete(ctx, claims, p.Claim.Namespace, p.restored, kube.DeleteOptions{UID: o.UID, Propagation: "Background"}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("temporary claim %s/%s: %w", p.Claim.Namespace, p.restored, err)
	}
	if err := c.gone(ctx, claims, p.Claim.Namespace, p.restored); err != nil {
		return fmt.Errorf("temporary claim %s/%s was not removed: %w", p.Claim.Namespace, p.restored, err)
	}
	p.restored = ""
	return nil
}

// dropVolume makes the volume of a claim of ours go with its claim.
func (c *Cut) dropVolume(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	if claim.Spec.VolumeName == "" {
		return nil
	}
	volume, err := c.c.Typed().CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	if _, _, denied := kube.Denied(err); denied || apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if ref := volume.Spec.ClaimRef; ref == nil || ref.UID != claim.UID || volume.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete {
		return nil
	}
	_, err = c.c.Patch(ctx, volumes, "", volume.Name, types.MergePatchType, []byte(`{"spec":{"persistentVolumeReclaimPolicy":"Delete"}}`), kube.WriteOptions{})
	return err
}

// remove deletes a snapshot or a group snapshot of ours with all that is
// behind it, and waits until it is gone.
func (c *Cut) remove(ctx context.Context, kind, contents kube.Kind, namespace, name string, retain bool) error {
	ctx, cancel := context.WithTimeout(ctx, removal)
	defer cancel()
	err := c.delete(ctx, kind, contents, namespace, name, retain)
	if err == nil {
		err = c.gone(ctx, kind, namespace, name)
	}
	if err != nil {
		return fmt.Errorf("temporary %s %s/%s was not removed: %w", kind.GVK.Kind, namespace, name, err)
	}
	return nil
}

// deleteGroup begins to remove a group snapshot that failed.
func (c *Cut) deleteGroup(ctx context.Context) error {
	err := c.delete(ctx, c.support.groupSnapshots, c.support.groupContents, c.namespace, c.groupName, c.retain)
	if err != nil {
		return fmt.Errorf("remove the group snapshot that failed: %w", err)
	}
	return nil
}

func (c *Cut) delete(ctx context.Context, kind, contents kube.Kind, namespace, name string, retain bool) error {
	o, err := c.c.Get(ctx, kind, namespace, name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	l, err := readLive(o)
	if err != nil {
		return err
	}
	if retain {
		if err := c.dropAll(ctx, contents, o, l); err != nil {
			return err
		}
	}
	err = c.c.Delete(ctx, kind, namespace, name, kube.DeleteOptions{UID: o.UID, Propagation: "Background"})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// dropAll makes the content of a snapshot go with it, and those of a group's
// members.
func (c *Cut) dropAll(ctx context.Context, contents kube.Kind, o *object.Object, l *live) error {
	content := l.Status.Content + l.Status.GroupContent // it has one of them
	if content != "" {
		if err := c.drop(ctx, contents, content); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("its class retains snapshots, and content %s could not be told to go: %w", content, err)
		}
	}
	if o.Ref.Kind != c.support.groupSnapshots.GVK.Kind {
		return nil
	}
	_, err := c.c.List(ctx, c.support.snapshots, kube.ListOptions{Namespace: o.Ref.Namespace}, func(member *object.Object) error {
		if !slices.ContainsFunc(member.Owners, func(w object.Owner) bool { return w.UID == o.UID }) {
			return nil
		}
		l, err := readLive(member)
		if err != nil {
			return err
		}
		return c.dropAll(ctx, c.support.contents, member, l)
	})
	return err
}

func (c *Cut) gone(ctx context.Context, kind kube.Kind, namespace, name string) error {
	return c.c.WaitFor(ctx, kind, namespace, name, func(o *object.Object) (bool, error) { return o == nil, nil })
}
