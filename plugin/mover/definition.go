package mover

import (
	"context"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
)

const (
	definitionGroup = "apiextensions.k8s.io"
	definitionKind  = "CustomResourceDefinition"
)

// RemoveDefinition asks for a definition of ours to be deleted, and does not
// wait. Where an object of it is anywhere but in a namespace of ours that is
// being deleted, it becomes everybody's instead, and stays: used names that
// object.
func RemoveDefinition(ctx context.Context, c *kube.Cluster, name, uid string) (used string, err error) {
	k, err := c.FindKind(ctx, definitionGroup, "v1", definitionKind)
	if err != nil {
		return "", err
	}
	live, err := c.Get(ctx, k, "", name)
	if err != nil {
		return "", err
	}
	if uid != "" && live.UID != uid || live.Labels[kube.LabelTemporary] != "true" {
		return "", nil // another one by the same name
	}
	ours := map[string]bool{}
	namespaces, err := c.FindKind(ctx, "", "v1", "Namespace")
	if err != nil {
		return "", err
	}
	if _, err := c.List(ctx, namespaces, kube.ListOptions{LabelSelector: kube.LabelTemporary + "=true"}, func(o *object.Object) error {
		ours[o.Ref.Name] = o.Deleting
		return nil
	}); err != nil {
		return "", err
	}
	if err := c.Refresh(ctx); err != nil {
		return "", err
	}
	plural, group, _ := strings.Cut(name, ".")
	// A definition that is not served has no objects yet.
	if objects, err := c.FindResource(ctx, group, "", plural); err == nil {
		_, err := c.List(ctx, objects, kube.ListOptions{}, func(o *object.Object) error {
			if !ours[o.Ref.Namespace] {
				used = o.Ref.String()
			}
			return nil
		})
		if err != nil {
			return "", fmt.Errorf("look for objects of it: %w", err)
		}
	}
	if used != "" {
		patch := fmt.Sprintf(`{"metadata":{"uid":%q,"labels":{%q:null},"annotations":{%q:null}}}`, live.UID, kube.LabelTemporary, AnnotationOwner)
		_, err := c.Patch(ctx, k, "", name, types.MergePatchType, []byte(patch), kube.WriteOptions{})
		return used, err
	}
	return "", c.Delete(ctx, k, "", name, kube.DeleteOptions{UID: live.UID})
}
