package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// gone bounds the wait for namespaces that are being deleted, all of them
// together.
const gone = 2 * time.Minute

var errNotGone = errors.New("it is still there")

// awaitGone waits until the namespaces that are being deleted are gone, and
// fails everything that goes into those that stay. Their finalizers are
// somebody's, and are not touched.
func (p *Plan) awaitGone(ctx context.Context, k kube.Kind, names []string) error {
	patience := min(p.request.Timeout, gone)
	if p.request.dry() {
		patience = 0
	}
	waiting, cancel := context.WithTimeoutCause(ctx, patience, errNotGone)
	defer cancel()
	for _, name := range names {
		live, err := p.request.Target.Get(ctx, k, "", name)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("look for namespace %s: %w", name, err)
		}
		if !live.Deleting {
			continue
		}
		err = errNotGone
		if patience > 0 {
			err = p.request.Target.WaitFor(waiting, k, "", name, func(o *object.Object) (bool, error) {
				if o != nil {
					live = o
				}
				return o == nil || !o.Deleting, nil
			})
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			p.failIn(name, fmt.Sprintf("namespace %s is terminating%s", name, heldBy(live)))
		}
	}
	return nil
}

// failIn fails what goes into a namespace, and the namespace.
func (p *Plan) failIn(name, why string) {
	for _, i := range p.items {
		itself := i.saved.Group == "" && i.saved.Kind == "Namespace" && i.ref.Name == name
		if i.line.Outcome == v1alpha1.OutcomeCreate && (itself || i.ref.Namespace == name) {
			i.settle(v1alpha1.OutcomeFailed, "%s", why)
		}
	}
}

// heldBy says what keeps a namespace from going, in its controller's words.
func heldBy(ns *object.Object) string {
	content, err := ns.Content()
	if err != nil {
		return ""
	}
	var said []string
	conditions, _ := section(content, "status")["conditions"].([]any)
	for _, c := range conditions {
		m, _ := c.(map[string]any)
		if message, _ := m["message"].(string); m["status"] == "True" && message != "" {
			said = append(said, message)
		}
	}
	if len(said) == 0 {
		return ""
	}
	slices.Sort(said)
	return ": " + strings.Join(said, "; ")
}
