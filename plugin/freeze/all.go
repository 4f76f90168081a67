package freeze

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// atOnce is how many pods are made ready at the same time.
const atOnce = 16

// inTurn is how long the thaw of one pod keeps the next one waiting.
const inTurn = 2 * time.Second

// Held are the pods that are frozen together.
type Held struct {
	sessions []*Session // in the order in which they were frozen
	once     sync.Once
	lines    []v1alpha1.HookLine
	err      error
}

// All makes all targets ready at the same time and then freezes them in their
// order. Where that fails for one whose OnFailure is Abort, all are thawed
// again, in reverse, and the error says why; the lines are then of all of them.
// Otherwise the lines are of those that failed and may, and the pods that are
// held have theirs from Thaw.
func All(ctx context.Context, c *kube.Cluster, targets []Target) (*Held, []v1alpha1.HookLine, error) {
	return all(ctx, c, targets, func(t Target) (Target, error) { return t.complete(ctx, c) })
}

func all(ctx context.Context, e executor, targets []Target, complete func(Target) (Target, error)) (*Held, []v1alpha1.HookLine, error) {
	targets = slices.Clone(targets)
	sessions, errs := make([]*Session, len(targets)), make([]error, len(targets))
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i := range targets {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if targets[i], errs[i] = complete(targets[i]); errs[i] == nil {
				sessions[i], errs[i] = open(ctx, e, targets[i])
			}
		})
	}
	wg.Wait()

	h := &Held{}
	var lines []v1alpha1.HookLine
	failed := func(i int) error {
		line := targets[i].line(v1alpha1.OutcomeFailed)
		line.Reason = errs[i].Error()
		lines = append(lines, line)
		if targets[i].OnFailure == v1alpha1.OnFailureContinue {
			return nil
		}
		return fmt.Errorf("freeze by hook %s: %w", targets[i].Hook, errs[i])
	}
	var abort error
	for i := range targets {
		if errs[i] != nil {
			abort = errors.Join(abort, failed(i))
		}
	}
	frozen := 0
	for ; frozen < len(targets) && abort == nil; frozen++ {
		s := sessions[frozen]
		if s == nil {
			continue
		}
		if errs[frozen] = s.freeze(ctx); errs[frozen] != nil {
			sessions[frozen] = nil
			abort = failed(frozen)
			continue
		}
		h.sessions = append(h.sessions, s)
	}
	if abort == nil {
		return h, lines, nil
	}
	for _, line := range h.Thaw(ctx) {
		if line.Outcome == v1alpha1.OutcomeHeld {
			line.Outcome, line.Reason = v1alpha1.OutcomeSkipped, "thawed again, since another hook failed"
		}
		lines = append(lines, line)
	}
	var closing sync.WaitGroup
	for i := frozen; i < len(targets); i++ {
		if sessions[i] == nil {
			continue
		}
		closing.Go(func() { sessions[i].release() })
		line := targets[i].line(v1alpha1.OutcomeSkipped)
		line.Reason = "not frozen, since another hook failed"
		lines = append(lines, line)
	}
	closing.Wait()
	return nil, lines, abort
}

// Thaw lets all pods go, the last one first, and returns a line for each. The
// context's end does not keep it from that. Another call returns the same.
func (h *Held) Thaw(ctx context.Context) []v1alpha1.HookLine {
	h.once.Do(func() {
		var thawing []<-chan Result
		for _, s := range slices.Backward(h.sessions) {
			done := make(chan Result, 1)
			go func() { done <- s.Thaw(ctx) }()
			select {
			case result := <-done:
				done <- result
			case <-time.After(inTurn):
			}
			thawing = append(thawing, done)
		}
		for i, s := range slices.Backward(h.sessions) {
			result := <-thawing[len(h.sessions)-1-i]
			line := s.target.line(v1alpha1.OutcomeHeld)
			line.FrozenSeconds = result.Held.Seconds()
			if result.Err != nil {
				line.Outcome, line.Reason = v1alpha1.OutcomeFailed, result.Err.Error()
			}
			if result.Expired && s.target.OnFailure != v1alpha1.OnFailureContinue {
				h.err = errors.Join(h.err, fmt.Errorf("hook %s: %w", s.target.Hook, result.Err))
			}
			h.lines = append(h.lines, line)
		}
	})
	return slices.Clone(h.lines)
}

// Err says, after Thaw, why what was cut meanwhile is not consistent: a pod
// whose hook must not fail was not held to the end.
func (h *Held) Err() error { return h.err }

func (t Target) line(outcome v1alpha1.Outcome) v1alpha1.HookLine {
	line := v1alpha1.HookLine{
		Hook: t.Hook, Scope: t.Scope, Group: t.Group, Container: t.Container, Outcome: outcome, TTLSeconds: t.TTL.Seconds(),
		Pod: v1alpha1.Ref{Version: "v1", Kind: "Pod", Namespace: t.Namespace, Name: t.Pod},
	}
	if t.Recipe != nil {
		line.Recipe = t.Recipe.Name
	}
	return line
}
