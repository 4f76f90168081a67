// Package argocd is where this program meets Argo CD: its rules of health and
// of difference, by its own code (this is the only importer of gitops-engine),
// and its Applications, which are found and paused while what they manage is
// restored.
//
// It runs no scripts of custom health rules, and knows only the Applications
// of the cluster that it is given.
package argocd

import (
	"fmt"

	"github.com/argoproj/argo-cd/gitops-engine/v3/pkg/health"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// The states that Health tells.
const (
	Healthy     = string(health.HealthStatusHealthy)
	Progressing = string(health.HealthStatusProgressing)
	Degraded    = string(health.HealthStatusDegraded)
	Suspended   = string(health.HealthStatusSuspended)
	Missing     = string(health.HealthStatusMissing)
	Unknown     = string(health.HealthStatusUnknown)
)

// Good says of a state that there is nothing more to wait for.
func Good(state string) bool { return state == "" || state == Healthy || state == Suspended }

// Health judges one object as the server shows it. The state is empty for a
// kind that has no rule: there is nothing to wait for. Numbers in content must
// be int64 or float64.
func Health(content map[string]any) (state, message string, err error) {
	o := &unstructured.Unstructured{Object: content}
	status, err := health.GetResourceHealth(o, nil)
	if err != nil {
		return Unknown, "", fmt.Errorf("health of %s %s/%s: %w", o.GetKind(), o.GetNamespace(), o.GetName(), err)
	}
	if status == nil {
		return "", "", nil
	}
	return string(status.Status), status.Message, nil
}
