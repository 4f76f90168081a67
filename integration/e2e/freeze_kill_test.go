package e2e

import (
	"context"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/integration/csi"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const (
	// frozenFor is how long the driver takes for a cut: the time to be killed in.
	frozenFor = 3 * time.Second
	// ttl of both hooks, and what may pass beyond it until a write is
	// acknowledged on a machine that does much else.
	ttl    = 12 * time.Second
	margin = 5 * time.Second
)

// frozen is an application in the middle of whose cuts something happens: the
// witnesses, whose database is held by its recipe and whose writer is paused by
// a command before and let go by one after.
type frozen struct {
	t       testing.TB
	ns, f   string
	address string // of the writer
	scratch string // of the writer's pod, on this machine
}

func startFrozen(t testing.TB, suffix string) *frozen {
	t.Helper()
	ns := namespace(t, suffix)
	startWitnesses(t, ns)
	turn(t, csi.Knobs{GroupDelay: frozenFor})
	remote, _ := local(t)
	z := &frozen{t: t, ns: ns}
	z.locate()
	z.f = spec(t, policy(fmt.Sprintf(`  select:
  - {name: all, kinds: [Pod, PersistentVolumeClaim, Service], namespaces: [%s]}
  volumes: [{match: 'volume.kind == "emptyDir"', method: Skip}, {method: Auto}]
  consistency:
    hooks:
    - {recipe: postgresql, match: 'object.metadata.name == "db"', ttl: %[2]s}
    - name: pause
      match: object.metadata.name == "writer"
      container: quiet
      before: [sh, -c, 'echo before >>/scratch/log; touch /scratch/FROZEN; wget -qO- http://127.0.0.1:7001/pause']
      after: [sh, -c, 'wget -qO- http://127.0.0.1:7001/resume; rm -f /scratch/FROZEN; echo after >>/scratch/log']
      ttl: %[2]s
`, ns, ttl)), remote)
	return z
}

// locate finds the writer's pod, which may be a new one.
func (z *frozen) locate() {
	z.t.Helper()
	found := kubectl(z.t, "src", "-n", z.ns, "get", "pod", "writer", "-o", "jsonpath={.metadata.uid} {.status.podIP}")
	uid, address, _ := strings.Cut(found, " ")
	z.address = address
	z.scratch = filepath.Join(clusters(z.t).Dir, "src", "kubelet", "pods", uid, "volumes", "kubernetes.io~empty-dir", "scratch")
	require.FileExists(z.t, filepath.Join(z.scratch, "seen"))
}

// held says whether the writer is paused, as its hook left word.
func (z *frozen) held() bool {
	_, err := os.Stat(filepath.Join(z.scratch, "FROZEN"))
	return err == nil
}

// freeze starts a run and returns while its group is frozen, at a moment in the
// first so many parts of the cut that nobody knows beforehand.
func (z *frozen) freeze(part float64) *running {
	z.t.Helper()
	p := start(z.t, "run", "-f", z.f, "-o", "json")
	await(z.t, "the freeze", func() (bool, error) {
		select {
		case <-p.ended:
			return false, fmt.Errorf("it ended: %s\n%s", p.errOut.String(), p.out.String())
		default:
		}
		return z.held(), nil
	})
	<-time.After(time.Duration(mathrand.Float64() * part * float64(frozenFor)))
	require.True(z.t, z.held(), "it was let go before anything happened")
	return p
}

// recovers waits until new numbers reach the database, and returns how long
// that took. It asks nobody but the application.
func (z *frozen) recovers(since time.Time, allowed time.Duration) time.Duration {
	z.t.Helper()
	before, err := progressAt(z.address)
	require.NoError(z.t, err)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		p, err := progressAt(z.address)
		if err == nil && p.Acknowledged > before.Acknowledged && !z.held() {
			return time.Since(since)
		}
		require.Less(z.t, time.Since(since), allowed, "the application does not go on")
		<-tick.C
	}
}

// paired checks that each command before had one after.
func (z *frozen) paired() {
	z.t.Helper()
	var log string
	await(z.t, "the last command after", func() (bool, error) {
		raw, err := os.ReadFile(filepath.Join(z.scratch, "log"))
		log = string(raw)
		return strings.HasSuffix(log, "after\n"), err
	})
	require.Equal(z.t, strings.Repeat("before\nafter\n", strings.Count(log, "before")), log)
}

// clean checks that nothing of ours is left in the namespace, after cleanup.
func (z *frozen) clean() {
	z.t.Helper()
	r := backup(z.t, "cleanup", "-n", z.ns)
	require.Equal(z.t, 0, r.code, r.stderr)
	await(z.t, "the end of what was left", func() (bool, error) { return len(traces(z.t, z.ns)) == 0, nil })
}

// TestWhileFrozen has something happen between freeze and thaw, at moments that
// nobody chose. The application takes writes again within the time to live,
// each command before had one after, nothing unfinished is listed, and cleanup,
// or the next run, removes what was left.
func TestWhileFrozen(t *testing.T) {
	z := startFrozen(t, "frozen")
	for _, x := range []struct {
		name string
		of   func(*frozen)
	}{
		{"the program is killed", (*frozen).killed},
		{"the program hangs", (*frozen).hangs},
		{"the API server stops", (*frozen).deaf},
		{"a pod is deleted", (*frozen).deleted},
	} {
		t.Run(x.name, func(t *testing.T) {
			z.t = t
			x.of(z)
		})
	}
	z.t = t
	turn(t, csi.Knobs{})
	good(t, z.ns, z.f)
	await(t, "the end of what was left", func() (bool, error) { return len(traces(t, z.ns)) == 0, nil })
	volumesGone(t, z.ns)
}

// killed without warning. Every other time the next run finds what is left.
func (z *frozen) killed() {
	var took []float64
	for i := range rounds(3, 30) {
		p := z.freeze(0.8)
		at := time.Now()
		require.NoError(z.t, p.Process.Kill())
		took = append(took, z.recovers(at, ttl+margin).Seconds())
		<-p.ended
		z.paired()
		require.Empty(z.t, listed(z.t, z.f))
		if i%2 == 0 {
			z.clean()
		}
	}
	z.t.Logf("%d kills; writes were acknowledged again after: median %.2f s, worst %.2f s (time to live %s)", len(took), median(took), slices.Max(took), ttl)
}

// hangs without ending, so that no connection does: only the time to live is
// left. What was cut does not count.
func (z *frozen) hangs() {
	p := z.freeze(0.8)
	at := time.Now()
	require.NoError(z.t, p.Process.Signal(syscall.SIGSTOP))
	took := z.recovers(at, ttl+margin)
	require.NoError(z.t, p.Process.Signal(syscall.SIGCONT))
	z.notCaptured(p, "writer")
	z.t.Logf("writes were acknowledged again after %.2f s (time to live %s)", took.Seconds(), ttl)
	require.Greater(z.t, took, ttl/2, "something else than the time to live let go")
	z.paired()
	z.clean()
}

// deaf stops the API server for 20 seconds: connections end, and no new ones
// come to be.
func (z *frozen) deaf() {
	src := clusters(z.t).Src
	ctx := context.WithoutCancel(z.t.Context())
	for range rounds(1, 5) {
		p := z.freeze(0.8)
		stopped := time.Now()
		require.NoError(z.t, src.StopAPIServer(ctx))
		took := z.recovers(stopped, ttl+margin)
		<-time.After(time.Until(stopped.Add(20 * time.Second))) // as long as it is stopped
		require.NoError(z.t, src.StartAPIServer(ctx))
		r := p.waitFor(z.t, 3*time.Minute)
		require.Contains(z.t, []int{1, 3}, r.code, "%s\n%s", r.stderr, r.stdout)
		for _, v := range decode(z.t, r).Volumes {
			require.NotEqual(z.t, v1alpha1.OutcomeSaved, v.Outcome, "cut, and not held: %+v", v)
		}
		z.t.Logf("writes were acknowledged again after %.2f s, the run ended after %.0f s with %d", took.Seconds(), time.Since(stopped).Seconds(), r.code)
		z.paired()
		z.clean()
	}
}

// deleted is a pod that is held: its group is not captured, the report says
// why, and the application goes on when its pod is back.
func (z *frozen) deleted() {
	turn(z.t, csi.Knobs{GroupDelay: 3 * frozenFor}) // a node ends a container some time after its pod is deleted
	for _, pod := range []string{"db", "writer"} {
		p := z.freeze(0.5)
		kubectl(z.t, "src", "-n", z.ns, "delete", "pod", pod, "--grace-period=0", "--force")
		z.notCaptured(p, pod)
		apply(z.t, "src", witnesses(z.ns))
		ready(z.t, "src", z.ns, "pod/db", "pod/relay", "pod/writer")
		z.locate()
		z.recovers(time.Now(), time.Minute)
		require.Empty(z.t, traces(z.t, z.ns))
	}
}

// notCaptured checks that a run ends with a line that says why the group, and
// by what pod, is not in it.
func (z *frozen) notCaptured(p *running, pod string) {
	z.t.Helper()
	r := p.wait(z.t)
	require.Equal(z.t, 3, r.code, "%s\n%s", r.stderr, r.stdout)
	line := volumeOf(z.t, decode(z.t, r), pod)
	require.Equal(z.t, v1alpha1.OutcomeFailed, line.Outcome, "%+v", line)
	require.Contains(z.t, line.Reason, pod)
}
