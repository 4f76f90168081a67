package restore

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kubectl-backup/kubectl-backup/plugin/argocd"
	"github.com/kubectl-backup/kubectl-backup/plugin/graph"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const (
	// watchers bounds how many kinds and namespaces are watched at the same time.
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
	alike := map[place][]*item{}
	for _, i := range p.items {
		if p.brought(i) && runsForGood(i.saved) {
			at := place{i.kind.GVK, i.ref.Namespace}
			alike[at] = append(alike[at], i)
		}
	}
	var all errgroup.Group
	all.SetLimit(watchers)
	for _, items := range alike {
		all.Go(func() error {
			p.awaitHealth(waiting, items)
			return nil
		})
	}
	_ = all.Wait() // what became of each is in its line
	return ctx.Err()
}

// place is where one watch sees everything.
type place struct {
	kind      schema.GroupVersionKind
	namespace string
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

// awaitHealth waits for workloads of one kind and namespace.
func (p *Plan) awaitHealth(ctx context.Context, items []*item) {
	waiting := make(map[string]*item, len(items))
	last := make(map[string]string, len(items))
	for _, i := range items {
		waiting[i.ref.Name], last[i.ref.Name] = i, unseen
	}
	err := p.request.Target.WaitForEach(ctx, *items[0].kind, items[0].ref.Namespace, slices.Collect(maps.Keys(waiting)), func(name string, o *object.Object) (bool, error) {
		i := waiting[name]
		state, good, err := health(i, o)
		if err != nil {
			i.settle(v1alpha1.OutcomeIncomplete, "created, but not healthy: %s", err)
		}
		last[name] = state
		if good || err != nil {
			delete(waiting, name)
			return true, nil
		}
		return false, nil
	})
	for name, i := range waiting {
		if ctx.Err() != nil {
			i.settle(v1alpha1.OutcomeIncomplete, "created, but not healthy after %s: %s", p.request.Timeout, last[name])
		} else {
			i.settle(v1alpha1.OutcomeIncomplete, "created, but not healthy: %s", err)
		}
	}
}

// untilHealthy waits for one workload; last is what was seen of it.
func (p *Plan) untilHealthy(ctx context.Context, i *item) (last string, err error) {
	last = unseen
	err = p.request.Target.WaitFor(ctx, *i.kind, i.ref.Namespace, i.ref.Name, func(o *object.Object) (good bool, err error) {
		last, good, err = health(i, o)
		return good, err
	})
	return last, err
}

// unseen is the state of what has not been looked at.
const unseen = "nothing was seen of it"

// health says whether a workload is as it should be, and its state in words.
func health(i *item, o *object.Object) (state string, good bool, err error) {
	if o == nil {
		return "", false, errors.New("it was deleted")
	}
	content, err := o.Content()
	if err != nil {
		return "", false, err
	}
	state, message, err := argocd.Health(content)
	if err != nil {
		return "", false, err
	}
	good = argocd.Good(state)
	if message != "" {
		state += ": " + message
	}
	if phase := section(content, "status")["phase"]; i.saved.Kind == "Pod" && (phase == "Running" || phase == "Succeeded") {
		good = true
	}
	return state, good, nil
}
