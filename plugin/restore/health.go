package restore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/kubectl-backup/kubectl-backup/plugin/argocd"
	"github.com/kubectl-backup/kubectl-backup/plugin/graph"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const (
	// watchers bounds how many workloads are watched at the same time.
	watchers = 64
	// answered bounds the wait for the servers of webhooks. What needs them is
	// tried anyhow then, and fails with the server's words.
	answered = 2 * time.Minute
)

var errNotHealthy = errors.New("not healthy in time")

// waitHealthy waits until the restored workloads run, or the time is over. One
// that does not run is there all the same: its line says so.
func (p *Plan) waitHealthy(ctx context.Context) error {
	if p.request.Timeout <= 0 {
		return nil
	}
	waiting, cancel := context.WithTimeoutCause(ctx, p.request.Timeout, errNotHealthy)
	defer cancel()
	slots := make(chan struct{}, watchers)
	var all sync.WaitGroup
	for _, i := range p.items {
		if !p.brought(i) || !runsForGood(i.saved) {
			continue
		}
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			p.awaitHealth(waiting, i)
		})
	}
	all.Wait()
	return ctx.Err()
}

// brought says whether this restore brought something back, or the one that it
// resumes, whose workloads nobody has waited for.
func (p *Plan) brought(i *item) bool {
	return i.filled || i.line.Outcome == v1alpha1.OutcomeRestored || p.request.Resume && i.line.Outcome == v1alpha1.OutcomeUnchanged
}

// runsForGood says whether a workload is to be seen running. A Job may take
// its time, and a CronJob runs nothing by itself.
func runsForGood(r v1alpha1.Ref) bool {
	return graph.IsWorkload(r) && r.Group != "batch"
}

// awaitAnswers waits until those workloads run that answer for objects of a
// wave: without them objects of a kind that is converted cannot be written, and
// what webhooks admit, the pods of their own servers too, would be refused.
func (p *Plan) awaitAnswers(ctx context.Context, wave []v1alpha1.Ref) error {
	waiting, cancel := context.WithTimeoutCause(ctx, answered, errNotHealthy)
	defer cancel()
	seen := map[v1alpha1.Ref]bool{}
	var all sync.WaitGroup
	for _, ref := range wave {
		for _, server := range p.graph.Answering(ref) {
			i := p.bySaved[server.Key()]
			if seen[server] || i == nil || !p.brought(i) || !runsForGood(i.saved) {
				continue
			}
			seen[server] = true
			all.Go(func() {
				if last, err := p.untilHealthy(waiting, i); err != nil && ctx.Err() == nil {
					i.warn("%s was written although nothing answers for it yet: %s", ref, last)
				}
			})
		}
	}
	all.Wait()
	return context.Cause(ctx)
}

func (p *Plan) awaitHealth(ctx context.Context, i *item) {
	last, err := p.untilHealthy(ctx, i)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		i.settle(v1alpha1.OutcomeIncomplete, "created, but not healthy after %s: %s", p.request.Timeout, last)
	default:
		i.settle(v1alpha1.OutcomeIncomplete, "created, but not healthy: %s", fmt.Sprint(err))
	}
}

// untilHealthy waits for one workload; last is what was seen of it.
func (p *Plan) untilHealthy(ctx context.Context, i *item) (last string, err error) {
	last = "nothing was seen of it"
	err = p.request.Target.WaitFor(ctx, *i.kind, i.ref.Namespace, i.ref.Name, func(o *object.Object) (bool, error) {
		if o == nil {
			return false, errors.New("it was deleted")
		}
		content, err := o.Content()
		if err != nil {
			return false, err
		}
		state, message, err := argocd.Health(content)
		if err != nil {
			return false, err
		}
		last = state
		if message != "" {
			last += ": " + message
		}
		if phase := section(content, "status")["phase"]; i.saved.Kind == "Pod" && (phase == "Running" || phase == "Succeeded") {
			return true, nil
		}
		return argocd.Good(state), nil
	})
	return last, err
}
