package capture

import "context"

// task is work that happens on a node, or on one that is not known.
type task struct {
	node string
	do   func(context.Context) error
}

// limits bound how much of it happens at once.
type limits struct {
	total   int
	perNode int // 0 means no limit but total
}

// run does all tasks, in order as far as the limits allow: one whose node is
// busy lets the next one pass. The first error ends it; what has begun is
// waited for.
func (l limits) run(ctx context.Context, tasks []task) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type end struct {
		node string
		err  error
	}
	ended := make(chan end)
	running, onNode := 0, map[string]int{}
	var failed error
	for {
		next := -1
		for i, t := range tasks {
			if l.perNode == 0 || t.node == "" || onNode[t.node] < l.perNode {
				next = i
				break
			}
		}
		if next >= 0 && running < max(l.total, 1) && failed == nil && ctx.Err() == nil {
			t := tasks[next]
			tasks = append(tasks[:next:next], tasks[next+1:]...)
			running++
			onNode[t.node]++
			go func() { ended <- end{t.node, t.do(ctx)} }()
			continue
		}
		if running == 0 {
			break
		}
		e := <-ended
		running--
		onNode[e.node]--
		if e.err != nil && failed == nil {
			failed = e.err
			cancel()
		}
	}
	if failed == nil {
		failed = ctx.Err()
	}
	return failed
}
