package plan

import (
	"context"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
)

// hookMatch is a hook of the policy that matches a pod, or of which nobody
// knows whether it does.
type hookMatch struct {
	hook int
	err  error
}

// matchHooks evaluates the hooks on a pod while it is at hand, so that no pod
// has to be read again or kept.
func (inv *inventory) matchHooks(ctx context.Context, o *object.Object) []hookMatch {
	var out []hookMatch
	for i := range inv.sel.Hooks() {
		if matched, err := inv.sel.Hook(ctx, i, o, inv.namespaceOf(o)); matched || err != nil {
			out = append(out, hookMatch{i, err})
		}
	}
	return out
}
