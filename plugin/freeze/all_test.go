package freeze

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// pods are several containers that share a folder, so that what happens in
// which order is seen in one file.
type pods struct {
	dir string
	mu  sync.Mutex
	all map[string]*container
}

func (p *pods) Exec(ctx context.Context, o kube.ExecOptions) error {
	c := &container{shell: []string{"dash"}, dir: p.dir, lose: make(chan struct{}), started: make(chan *os.Process, 1), ended: make(chan struct{})}
	p.mu.Lock()
	p.all[o.Pod] = c
	p.mu.Unlock()
	return c.Exec(ctx, o)
}

func (p *pods) steps(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile(p.dir + "/steps")
	if os.IsNotExist(err) {
		return ""
	}
	require.NoError(t, err)
	return strings.Join(strings.Fields(string(content)), " ")
}

func (p *pods) target(name, before string) Target {
	return Target{
		Group: "shop", Hook: "quiet", Scope: "Pod", Namespace: "den", Pod: name, Container: "c", TTL: time.Minute,
		Before: []string{"sh", "-c", "echo +" + name + " >>steps; " + before}, After: []string{"sh", "-c", "echo -" + name + " >>steps"},
	}
}

func (p *pods) freeze(t *testing.T, targets ...Target) (*Held, []v1alpha1.HookLine, error) {
	t.Helper()
	return all(t.Context(), p, targets, Target.timed)
}

func newPods(t *testing.T) *pods { return &pods{dir: t.TempDir(), all: map[string]*container{}} }

func TestAllFreezesInOrderAndThawsInReverse(t *testing.T) {
	t.Parallel()
	p := newPods(t)
	held, lines, err := p.freeze(t, p.target("web", "true"), p.target("queue", "true"), p.target("db", "true"))
	require.NoError(t, err)
	require.Empty(t, lines)
	require.Equal(t, "+web +queue +db", p.steps(t))
	lines = held.Thaw(t.Context())
	require.Equal(t, "+web +queue +db -db -queue -web", p.steps(t))
	require.NoError(t, held.Err())
	require.Equal(t, lines, held.Thaw(t.Context()))
	require.Equal(t, "+web +queue +db -db -queue -web", p.steps(t), "thawed twice")
	require.Len(t, lines, 3)
	line := lines[0]
	require.Positive(t, line.FrozenSeconds)
	require.Greater(t, lines[2].FrozenSeconds, line.FrozenSeconds, "the first to be frozen is the last to be thawed")
	line.FrozenSeconds = 0
	require.Equal(t, v1alpha1.HookLine{
		Hook: "quiet", Scope: "Pod", Group: "shop", Container: "c", Outcome: v1alpha1.OutcomeHeld, TTLSeconds: 60,
		Pod: v1alpha1.Ref{Version: "v1", Kind: "Pod", Namespace: "den", Name: "db"},
	}, line)
}

func TestAFailureThatAbortsThawsTheOthers(t *testing.T) {
	t.Parallel()
	p := newPods(t)
	held, lines, err := p.freeze(t, p.target("web", "true"), p.target("queue", "exit 3"), p.target("db", "true"))
	require.ErrorContains(t, err, "freeze by hook quiet: pod den/queue container c: command sh failed with exit code 3")
	require.Nil(t, held)
	require.Equal(t, "+web +queue -queue -web", p.steps(t), "the store was not begun, the others are let go")
	outcomes := map[string]v1alpha1.Outcome{}
	for _, l := range lines {
		outcomes[l.Pod.Name] = l.Outcome
		require.NotEmpty(t, l.Reason)
	}
	require.Equal(t, map[string]v1alpha1.Outcome{"web": v1alpha1.OutcomeSkipped, "queue": v1alpha1.OutcomeFailed, "db": v1alpha1.OutcomeSkipped}, outcomes)
}

// What a container lacks is known before any of the others is frozen.
func TestNothingIsFrozenWhereSomethingIsMissing(t *testing.T) {
	t.Parallel()
	p := newPods(t)
	last := p.target("db", "true")
	last.Before, last.After = nil, nil
	last.Recipe = session("true").Recipe
	last.Recipe.Spec.Requires = []string{"store-cli"}
	_, lines, err := p.freeze(t, p.target("web", "true"), last)
	require.ErrorContains(t, err, "store-cli")
	require.Empty(t, p.steps(t))
	require.Len(t, lines, 2)
}

func TestAFailureThatMayContinue(t *testing.T) {
	t.Parallel()
	p := newPods(t)
	weak := p.target("queue", "exit 3")
	weak.OnFailure = v1alpha1.OnFailureContinue
	held, lines, err := p.freeze(t, p.target("web", "true"), weak, p.target("db", "true"))
	require.NoError(t, err)
	require.Equal(t, "+web +queue -queue +db", p.steps(t))
	require.Len(t, lines, 1)
	require.Equal(t, v1alpha1.OutcomeFailed, lines[0].Outcome)
	require.Contains(t, lines[0].Reason, "exit code 3")
	require.Len(t, held.Thaw(t.Context()), 2)
	require.NoError(t, held.Err())
}

// A pod whose time to live ended is not called held, and what was cut meanwhile
// is not called consistent, unless its hook may fail.
func TestATimeToLiveThatEnds(t *testing.T) {
	t.Parallel()
	for _, onFailure := range []string{"", v1alpha1.OnFailureContinue} {
		p := newPods(t)
		short := p.target("db", "true")
		short.TTL, short.OnFailure = time.Second, onFailure
		held, _, err := p.freeze(t, p.target("web", "true"), short)
		require.NoError(t, err)
		require.Eventually(t, func() bool { return strings.Contains(p.steps(t), "-db") }, soon, 20*time.Millisecond)
		lines := held.Thaw(t.Context())
		require.Equal(t, v1alpha1.OutcomeFailed, lines[0].Outcome)
		require.Contains(t, lines[0].Reason, "after its time to live of 1s")
		require.Equal(t, v1alpha1.OutcomeHeld, lines[1].Outcome)
		if onFailure == "" {
			require.ErrorContains(t, held.Err(), "hook quiet: pod den/db")
		} else {
			require.NoError(t, held.Err())
		}
		require.Equal(t, "+web +db -db -web", p.steps(t))
	}
}
