package mover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
)

// podGrace is how long the pods of a namespace of ours get to end, in seconds:
// nobody needs what they would still write.
const podGrace = 1

// RemoveNamespace asks for a namespace of ours to be deleted with all that is in
// it, and has the storage drop the volumes of its claims also where their class
// says that volumes are kept. It returns the names of those volumes and does
// not wait.
func RemoveNamespace(ctx context.Context, c *kube.Cluster, name, uid string) (volumes []string, err error) {
	namespaces, err := c.FindKind(ctx, "", "v1", "Namespace")
	if err != nil {
		return nil, err
	}
	live, err := c.Get(ctx, namespaces, "", name)
	if err != nil {
		return nil, err
	}
	if uid != "" && live.UID != uid || live.Labels[kube.LabelTemporary] != "true" {
		return nil, nil // another one by the same name
	}
	claims, err := c.FindKind(ctx, "", "v1", "PersistentVolumeClaim")
	if err != nil {
		return nil, err
	}
	var errs []error
	_, err = c.List(ctx, claims, kube.ListOptions{Namespace: name}, func(o *object.Object) error {
		var x thing
		if err := json.Unmarshal(o.Raw, &x); err != nil {
			return fmt.Errorf("read %s: %w", o.Ref, err)
		}
		if x.Spec.Volume == "" {
			return nil
		}
		volumes = append(volumes, x.Spec.Volume)
		return (Left{Ref: o.Ref, UID: o.UID, volume: x.Spec.Volume}).letVolumeGo(ctx, c)
	})
	if err != nil {
		// A volume that stays is better than a namespace that does.
		errs = append(errs, fmt.Errorf("volumes of namespace %s: %w", name, err))
	}
	if err := c.Delete(ctx, namespaces, "", name, kube.DeleteOptions{UID: live.UID}); err != nil && !apierrors.IsNotFound(err) {
		return volumes, errors.Join(append(errs, err)...)
	}
	pods, err := c.FindKind(ctx, "", "v1", "Pod")
	if err != nil {
		return volumes, errors.Join(append(errs, err)...)
	}
	grace := int64(podGrace)
	_, err = c.List(ctx, pods, kube.ListOptions{Namespace: name}, func(o *object.Object) error {
		err := c.Delete(ctx, pods, name, o.Ref.Name, kube.DeleteOptions{UID: o.UID, Grace: &grace})
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return nil
		}
		return err
	})
	if err != nil && !apierrors.IsNotFound(err) {
		errs = append(errs, fmt.Errorf("pods of namespace %s: %w", name, err))
	}
	return volumes, errors.Join(errs...)
}
