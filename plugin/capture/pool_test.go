package capture

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
)

// watchNodes counts what runs at once, in all and on each node.
type watchNodes struct {
	mu       sync.Mutex
	now      map[string]int
	most     map[string]int
	order    []string
	released chan struct{}
}

func (w *watchNodes) task(node, name string) task {
	return task{node: node, do: func(ctx context.Context) error {
		w.count(node, 1)
		w.mu.Lock()
		w.order = append(w.order, name)
		w.mu.Unlock()
		select {
		case <-w.released:
		case <-ctx.Done():
		}
		w.count(node, -1)
		return nil
	}}
}

func (w *watchNodes) count(node string, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, key := range []string{node, "all"} {
		w.now[key] += n
		w.most[key] = max(w.most[key], w.now[key])
	}
}

// Limits are what a person relies on to keep an application usable while it is
// backed up.
func TestLimits(t *testing.T) {
	for _, x := range []limits{{total: 1}, {total: 3, perNode: 1}, {total: 4, perNode: 2}, {total: 100}, {total: 100, perNode: 3}} {
		w := &watchNodes{now: map[string]int{}, most: map[string]int{}, released: make(chan struct{})}
		var tasks []task
		for i := range 24 {
			tasks = append(tasks, w.task([]string{"red", "red", "green", ""}[i%4], fmt.Sprint(i)))
		}
		go func() {
			for range 24 {
				w.released <- struct{}{}
			}
		}()
		if err := x.run(context.Background(), tasks); err != nil {
			t.Fatal(err)
		}
		if w.most["all"] > x.total {
			t.Errorf("%+v: %d at once", x, w.most["all"])
		}
		for _, node := range []string{"red", "green"} {
			if x.perNode > 0 && w.most[node] > x.perNode {
				t.Errorf("%+v: %d at once on %s", x, w.most[node], node)
			}
		}
		if len(w.order) != 24 {
			t.Errorf("%+v: %d ran", x, len(w.order))
		}
	}
}

// A busy node must not keep the others from work.
func TestLimitsPassBy(t *testing.T) {
	w := &watchNodes{now: map[string]int{}, most: map[string]int{}, released: make(chan struct{})}
	tasks := []task{w.task("red", "1"), w.task("red", "2"), w.task("green", "3")}
	done := make(chan error)
	go func() { done <- limits{total: 2, perNode: 1}.run(context.Background(), tasks) }()
	for range 3 {
		w.released <- struct{}{}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if slices.Index(w.order, "2") != 2 {
		t.Errorf("order %v", w.order)
	}
}

func TestLimitsFirstError(t *testing.T) {
	problem := errors.New("full")
	began := 0
	var tasks []task
	for i := range 10 {
		tasks = append(tasks, task{do: func(context.Context) error {
			if began++; i == 2 {
				return problem
			}
			return nil
		}})
	}
	if err := (limits{total: 1}).run(context.Background(), tasks); !errors.Is(err, problem) {
		t.Error(err)
	}
	if began != 3 {
		t.Errorf("%d began", began)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := (limits{total: 1}).run(ctx, tasks); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
