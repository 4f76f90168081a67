package capture

import (
	"context"

	"github.com/kubectl-backup/kubectl-backup/plugin/freeze"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// hold is what is frozen, or was.
type hold struct {
	run   *run
	held  *freeze.Held
	lines []int

	// failed says why the cut inside does not count, or is empty; expired says
	// that it is because a pod let go before it was asked to.
	failed  string
	expired bool
	// seconds is from the first freeze to the last thaw.
	seconds float64
}

// hold freezes what the lines say, in their order.
func (r *run) hold(ctx context.Context, hooks []int) *hold {
	h := &hold{run: r, lines: hooks}
	if len(hooks) == 0 {
		return h
	}
	targets := make([]freeze.Target, 0, len(hooks))
	for _, i := range hooks {
		line, hook := r.d.Hooks[i], r.p.Hooks[i]
		targets = append(targets, freeze.Target{
			Group: line.Group, Hook: line.Hook, Scope: line.Scope, Run: r.session.ID(),
			Namespace: line.Pod.Namespace, Pod: line.Pod.Name, Container: line.Container,
			Recipe: hook.Recipe, Before: hook.Before, After: hook.After, TTL: hook.HoldAtMost, Timeout: hook.FreezeWithin,
			Parameters: hook.Parameters, OnFailure: hook.OnFailure,
		})
	}
	held, lines, err := freeze.All(ctx, r.Plan.Cluster, targets)
	h.note(lines)
	if err != nil {
		h.failed = oneLine(err)
		return h
	}
	h.held = held
	return h
}

// thaw lets go, in reverse. It may be called again, and does its work also
// after the run was interrupted.
func (h *hold) thaw(ctx context.Context) {
	if h == nil || h.held == nil {
		return
	}
	held := h.held
	h.held = nil
	h.note(held.Thaw(ctx))
	if err := held.Err(); err != nil {
		h.failed, h.expired = oneLine(err), true
	}
}

// note writes what became of hooks into the report. One that is held for
// several cuts keeps what is worst.
func (h *hold) note(lines []v1alpha1.HookLine) {
	d := h.run.d
	for _, now := range lines {
		h.seconds = max(h.seconds, now.FrozenSeconds)
		for _, i := range h.lines {
			line := &d.Hooks[i]
			if line.Hook != now.Hook || line.Pod.Key() != now.Pod.Key() {
				continue
			}
			line.FrozenSeconds = max(line.FrozenSeconds, now.FrozenSeconds)
			if line.Outcome == v1alpha1.OutcomeInclude || line.Outcome == v1alpha1.OutcomeHeld || now.Outcome == v1alpha1.OutcomeFailed {
				line.Outcome, line.Reason = now.Outcome, now.Reason
			}
			if now.Outcome == v1alpha1.OutcomeFailed && h.run.p.Hooks[i].OnFailure == v1alpha1.OnFailureContinue {
				what := "was not quiet while it was cut"
				if now.FrozenSeconds > 0 {
					what = "was not quiet to the end of the cut, or was not let go after it"
				}
				h.run.warn("hook %s: pod %s/%s %s: %s", now.Hook, now.Pod.Namespace, now.Pod.Name, what, now.Reason)
			}
		}
	}
}

// passedOver gives the hooks that were planned and not held, as nothing was left
// to hold them for, their verdict.
func passedOver(d *v1alpha1.Document) {
	for i := range d.Hooks {
		if line := &d.Hooks[i]; line.Outcome == v1alpha1.OutcomeInclude {
			line.Outcome, line.Reason = v1alpha1.OutcomeSkipped, "not frozen, since no volume was left that it would be held for"
		}
	}
}
