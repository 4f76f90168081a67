package drill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/mover"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const (
	// removal bounds the wait for one thing to be gone.
	removal = 3 * time.Minute
	// handled bounds the wait for those who look after objects to let them go.
	handled = 30 * time.Second
)

var errNotGone = errors.New("it was not gone in time")

// remove removes what the drill made and waits until it and its volumes are
// gone: first the objects of kinds that programs look after, while these still
// run, then the namespaces, then the definitions. What stays is in the report.
func (d *drill) remove(ctx context.Context) {
	d.removeCustom(ctx)
	var volumes []string
	for to, uid := range d.made {
		of, err := mover.RemoveNamespace(ctx, d.Restore.Target, to, uid)
		volumes = append(volumes, of...)
		if err != nil && !apierrors.IsNotFound(err) {
			d.warn("remove namespace %s: %s", to, err)
		}
	}
	for to := range d.made {
		if err := d.awaitGone(ctx, handled, "Namespace", to); err != nil {
			d.letGo(ctx, to)
		}
	}
	for to := range d.made {
		d.mustGo(ctx, "Namespace", to)
	}
	for _, name := range volumes {
		d.mustGo(ctx, "PersistentVolume", name)
	}
	d.removeDefinitions(ctx)
	slices.Sort(d.report.Left)
	if len(d.report.Left) > 0 {
		d.warn("not everything was removed; cleanup tries again, and what it names is in the way of that")
	}
}

// removeCustom removes the objects of kinds that are not the cluster's own and
// gives those who look after them the time to do so.
func (d *drill) removeCustom(ctx context.Context) {
	if d.report.Restore == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, handled)
	defer cancel()
	gone := map[v1alpha1.Ref]kube.Kind{}
	for _, o := range d.report.Restore.Objects {
		if d.made[o.Ref.Namespace] == "" || !strings.Contains(o.Ref.Group, ".") || strings.HasSuffix(o.Ref.Group, ".k8s.io") {
			continue
		}
		k, err := d.Restore.Target.FindKind(ctx, o.Ref.Group, o.Ref.Version, o.Ref.Kind)
		if err != nil {
			continue
		}
		if err := d.Restore.Target.Delete(ctx, k, o.Ref.Namespace, o.Ref.Name, kube.DeleteOptions{Propagation: "Background"}); err == nil {
			gone[o.Ref] = k
		} // else it goes with its namespace
	}
	for ref, k := range gone {
		_ = d.Restore.Target.WaitFor(ctx, k, ref.Namespace, ref.Name, func(o *object.Object) (bool, error) { return o == nil, nil })
	}
}

// letGo takes the finalizers off what keeps a namespace of the drill from going:
// who was to act on them is gone, or never was here.
func (d *drill) letGo(ctx context.Context, namespace string) {
	kinds, _, err := d.Restore.Target.Kinds(ctx)
	if err != nil {
		return // that it is not gone is said later
	}
	for _, k := range kinds {
		if !k.Namespaced || !k.Can("list") || !k.Can("patch") {
			continue
		}
		_, err := d.Restore.Target.List(ctx, k, kube.ListOptions{Namespace: namespace}, func(o *object.Object) error {
			if !o.Deleting {
				return nil
			}
			content, err := o.Content()
			if err != nil {
				return err
			}
			own, foreign := finalizersOf(content)
			if len(foreign) == 0 {
				return nil
			}
			patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": o.UID, "finalizers": own}})
			if err != nil {
				return err
			}
			_, err = d.Restore.Target.Patch(ctx, k, namespace, o.Ref.Name, types.MergePatchType, patch, kube.WriteOptions{})
			if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
				return nil
			}
			if err == nil {
				d.warn("%s: nobody answered to its finalizers %s, and they were taken off: what they stand for may be left", d.original(o.Ref), strings.Join(foreign, ", "))
			}
			return err
		})
		if err != nil && !apierrors.IsNotFound(err) {
			d.warn("look for what holds namespace %s: %s", namespace, err)
		}
	}
}

// finalizersOf are Kubernetes' own finalizers of an object, which answer for
// themselves, and the others.
func finalizersOf(content map[string]any) (own, foreign []string) {
	meta, _ := content["metadata"].(map[string]any)
	list, _ := meta["finalizers"].([]any)
	for _, f := range list {
		name, _ := f.(string)
		domain, _, qualified := strings.Cut(name, "/")
		if !qualified || domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io") || strings.HasSuffix(domain, ".k8s.io") {
			own = append(own, name)
		} else {
			foreign = append(foreign, name)
		}
	}
	return own, foreign
}

// removeDefinitions removes the definitions that the drill made. One of which
// somebody else has objects by now stays.
func (d *drill) removeDefinitions(ctx context.Context) {
	if d.report.Restore == nil {
		return
	}
	for _, o := range d.report.Restore.Objects {
		if o.Ref.Kind != definition {
			continue
		}
		used, err := mover.RemoveDefinition(ctx, d.Restore.Target, o.Ref.Name, "")
		switch {
		case used != "":
			d.warn("%s %s stays, because there is %s", o.Ref.Kind, o.Ref.Name, used)
		case err != nil && !apierrors.IsNotFound(err):
			d.report.Left = append(d.report.Left, fmt.Sprintf("%s %s: %s", o.Ref.Kind, o.Ref.Name, err))
		default:
			d.mustGo(ctx, definition, o.Ref.Name)
		}
	}
}

// awaitGone waits for the end of something without a namespace.
func (d *drill) awaitGone(ctx context.Context, patience time.Duration, kind, name string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errNotGone)
	defer cancel()
	group := ""
	if kind == definition {
		group = "apiextensions.k8s.io"
	}
	k, err := d.Restore.Target.FindKind(ctx, group, "v1", kind)
	if err == nil {
		err = d.Restore.Target.WaitFor(ctx, k, "", name, func(o *object.Object) (bool, error) { return o == nil, nil })
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// mustGo is awaitGone with an end that is in the report.
func (d *drill) mustGo(ctx context.Context, kind, name string) {
	err := d.awaitGone(ctx, removal, kind, name)
	if _, _, denied := kube.Denied(err); denied && kind == "PersistentVolume" {
		return // who may not look at volumes has the cluster's word for it
	}
	if err != nil {
		d.report.Left = append(d.report.Left, fmt.Sprintf("%s %s: %s", kind, name, err))
	}
}
