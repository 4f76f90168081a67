package freeze

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// soon is the most that anything may take that is not the time to live, which
// is longer, on a machine that does much else.
const soon = 30 * time.Second

// marked freezes by a file, and notes each step.
func marked() Target {
	return Target{
		Hook: "mark", Before: []string{"sh", "-c", "echo before >>steps; touch FROZEN"}, After: []string{"sh", "-c", "rm -f FROZEN; echo after >>steps"},
		TTL: time.Minute, Timeout: 20 * time.Second,
	}
}

// session is marked as a recipe of one script.
func session(script string) Target {
	return Target{
		Hook: "session", TTL: time.Minute, Timeout: 20 * time.Second,
		Recipe: &v1alpha1.BackupRecipe{Spec: v1alpha1.BackupRecipeSpec{Session: script}},
	}
}

const markedSession = `
echo before >>steps
touch FROZEN
echo frozen >&3
while read -r line; do :; done
rm -f FROZEN
echo after >>steps
`

// both runs a test with commands and with a session, in each shell.
func both(t *testing.T, test func(*testing.T, *container, Target)) {
	t.Run("commands", func(t *testing.T) { everyShell(t, func(t *testing.T, c *container) { test(t, c, marked()) }) })
	t.Run("session", func(t *testing.T) {
		everyShell(t, func(t *testing.T, c *container) { test(t, c, session(markedSession)) })
	})
}

// thawedOnce waits for the end of the script and checks what it did.
func (c *container) thawedOnce(t *testing.T, within time.Duration) {
	t.Helper()
	c.there(t, "FROZEN", false, within)
	select {
	case <-c.ended:
	case <-time.After(soon):
		t.Fatal("the script goes on after its thaw")
	}
	require.Equal(t, []string{"before", "after"}, c.lines(t, "steps"))
}

func TestAPodIsHeldUntilItIsThawed(t *testing.T) {
	both(t, func(t *testing.T, c *container, target Target) {
		s, err := c.hold(t.Context(), target)
		require.NoError(t, err)
		c.there(t, "FROZEN", true, 0)
		r := s.Thaw(t.Context())
		require.NoError(t, r.Err)
		require.False(t, r.Expired)
		require.Less(t, r.Held, soon)
		c.thawedOnce(t, soon)
		require.Equal(t, r, s.Thaw(t.Context()))
	})
}

// A context that ended does not keep a pod frozen.
func TestThawDoesNotMindItsContext(t *testing.T) {
	both(t, func(t *testing.T, c *container, target Target) {
		ctx, cancel := context.WithCancel(t.Context())
		s, err := c.hold(ctx, target)
		require.NoError(t, err)
		cancel()
		r := s.Thaw(ctx)
		require.NoError(t, r.Err)
		require.False(t, r.Expired)
		c.thawedOnce(t, soon)
	})
}

// Whoever is killed or cut off, the pod thaws by itself.
func TestTheScriptThawsByItself(t *testing.T) {
	for name, x := range map[string]struct {
		prepare func(*container, *Target)
		fault   func(*testing.T, *container)
		within  time.Duration
		says    string
	}{
		"connection lost": {
			fault: func(t *testing.T, c *container) { close(c.lose) }, within: soon, says: "lost while it was frozen",
		},
		"connection lost, input open": {
			prepare: func(c *container, target *Target) { c.deaf, target.TTL = true, 3*time.Second },
			fault:   func(t *testing.T, c *container) { close(c.lose) }, within: soon, says: "lost while it was frozen",
		},
		"time to live over": {
			prepare: func(c *container, target *Target) { target.TTL = 2 * time.Second },
			fault:   func(t *testing.T, c *container) {}, within: soon, says: "after its time to live of 2s",
		},
		"terminated":           {fault: signal(syscall.SIGTERM), within: soon, says: "before it was asked to"},
		"hung up":              {fault: signal(syscall.SIGHUP), within: soon, says: "before it was asked to"},
		"all of it terminated": {fault: signalAll(syscall.SIGTERM), within: soon, says: "before it was asked to"},
		"killed":               {fault: signal(syscall.SIGKILL), within: soon, says: "before it was asked to"},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, c *container, target Target) {
				if x.prepare != nil {
					x.prepare(c, &target)
				}
				s, err := c.hold(t.Context(), target)
				require.NoError(t, err)
				c.there(t, "FROZEN", true, 0)
				x.fault(t, c)
				c.thawedOnce(t, x.within)
				r := s.Thaw(t.Context())
				require.True(t, r.Expired, "what was cut was not covered")
				require.ErrorContains(t, r.Err, x.says)
			})
		})
	}
}

// signal sends one to the process that was started, as somebody in the
// container may.
func signal(s os.Signal) func(*testing.T, *container) {
	return func(t *testing.T, c *container) { require.NoError(t, (<-c.started).Signal(s)) }
}

// A script that is killed with its container cannot let go, and that is said.
func TestAScriptThatIsKilledWhole(t *testing.T) {
	both(t, func(t *testing.T, c *container, target Target) {
		s, err := c.hold(t.Context(), target)
		require.NoError(t, err)
		// Stopped first, since the end of one would let the others go.
		signalAll(syscall.SIGSTOP, syscall.SIGKILL)(t, c)
		<-s.heard.ended
		r := s.Thaw(t.Context())
		require.True(t, r.Expired)
		require.ErrorContains(t, r.Err, "may be frozen still")
		require.NotContains(t, r.Err.Error(), "by itself")
		c.there(t, "FROZEN", true, 0)
	})
}

// signalAll sends some to each process of the script, which all have its nonce
// among their arguments, as pkill -f does.
func signalAll(signals ...syscall.Signal) func(*testing.T, *container) {
	return func(t *testing.T, c *container) {
		started := <-c.started
		for _, s := range signals {
			signalLike(t, started, s)
		}
	}
}

func signalLike(t *testing.T, started *os.Process, s syscall.Signal) {
	t.Helper()
	own, err := os.ReadFile("/proc/" + strconv.Itoa(started.Pid) + "/cmdline")
	require.NoError(t, err)
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	sent := 0
	for _, file := range all {
		if line, err := os.ReadFile(file); err != nil || !bytes.Equal(line, own) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		require.NoError(t, err)
		if syscall.Kill(pid, s) == nil {
			sent++
		}
	}
	require.GreaterOrEqual(t, sent, 4)
}

func TestAFreezeThatFailsIsUndone(t *testing.T) {
	for name, x := range map[string]struct {
		before, after string
		timeout       time.Duration
		says          []string
	}{
		"fails":           {"touch FROZEN; echo no room >&2; exit 3", "rm FROZEN", 20 * time.Second, []string{"failed with exit code 3", "no room"}},
		"is no program":   {"exec /no/such/program", "rm -f FROZEN", 20 * time.Second, []string{"failed with exit code 127"}},
		"takes too long":  {"touch FROZEN; sleep 60; touch LATE", "rm FROZEN", time.Second, []string{"not frozen within 1s"}},
		"takes no notice": {"trap : TERM; touch FROZEN; while :; do sleep 1; done", "rm FROZEN", time.Second, []string{"not frozen within 1s"}},
		"ends well when it is told to end": {
			"trap 'exit 0' TERM; touch FROZEN; while :; do sleep 1; done", "rm FROZEN", time.Second, []string{"not frozen within 1s"},
		},
		"fails, after too":  {"exit 3", "echo cannot; exit 4", 20 * time.Second, []string{"failed with exit code 3", "exit code 4", "may be frozen still", "cannot"}},
		"says a great deal": {"i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo line $i; done; echo the last one; exit 5", "true", 20 * time.Second, []string{"exit code 5", "the last one"}},
		"says one long line": {
			`i=0; while [ $i -lt 5000 ]; do i=$((i+1)); printf xxxxxxxxxx; done; exit 6`, "true", 20 * time.Second, []string{"exit code 6"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			everyShell(t, func(t *testing.T, c *container) {
				_, err := c.hold(t.Context(), Target{
					Hook: "h", TTL: time.Minute, Timeout: x.timeout,
					Before: []string{"sh", "-c", "echo before >>steps;" + x.before}, After: []string{"sh", "-c", "echo after >>steps;" + x.after},
				})
				for _, said := range append(x.says, "pod den/store-0 container db") {
					require.ErrorContains(t, err, said)
				}
				require.Less(t, len(err.Error()), 3000)
				c.thawedOnce(t, 0)
				c.there(t, "LATE", false, 0)
			})
		})
	}
}

// A session that fails, or ends early, is not taken for one that held.
func TestASessionThatEndsByItself(t *testing.T) {
	for name, x := range map[string]struct {
		script string
		held   bool
		says   string
	}{
		"before it froze":       {"echo no server >&2; exit 2", false, "ended with exit code 2 before it was frozen (its last words: no server)"},
		"refuses":               {"echo the tables are busy >&3; while read -r line; do :; done", false, "the tables are busy"},
		"says frozen elsewhere": {"echo frozen; echo frozen >&2", false, "before it was frozen"},
		"while it is held":      {"echo frozen >&3; sleep 1", true, "let go before it was asked to"},
		"lost its lock":         {"echo frozen >&3; while read -r line; do :; done; echo server gone; exit 1", true, "may have let go early (its last words: server gone)"},
	} {
		t.Run(name, func(t *testing.T) {
			everyShell(t, func(t *testing.T, c *container) {
				s, err := c.hold(t.Context(), session(x.script))
				if !x.held {
					require.ErrorContains(t, err, x.says)
					return
				}
				require.NoError(t, err)
				if !strings.Contains(x.script, "read") {
					<-s.heard.ended
				}
				r := s.Thaw(t.Context())
				require.True(t, r.Expired)
				require.ErrorContains(t, r.Err, x.says)
			})
		})
	}
}

func TestAThawThatFailsIsSaid(t *testing.T) {
	everyShell(t, func(t *testing.T, c *container) {
		target := marked()
		target.After = []string{"sh", "-c", "echo after >>steps; echo still busy; exit 9"}
		s, err := c.hold(t.Context(), target)
		require.NoError(t, err)
		r := s.Thaw(t.Context())
		require.ErrorContains(t, r.Err, "exit code 9: it may be frozen still (its last words: still busy)")
		require.False(t, r.Expired, "it was frozen while it was cut")
	})
}

// A run that is cancelled while a pod is being frozen leaves it thawed.
func TestCancelledWhileFreezing(t *testing.T) {
	everyShell(t, func(t *testing.T, c *container) {
		target := marked()
		target.Before = []string{"sh", "-c", "echo before >>steps; touch FROZEN; sleep 1"}
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			for _, err := os.Stat(c.path("FROZEN")); err != nil && ctx.Err() == nil; _, err = os.Stat(c.path("FROZEN")) {
			}
			cancel()
		}()
		_, err := c.hold(ctx, target)
		require.ErrorIs(t, err, context.Canceled)
		c.thawedOnce(t, 0)
	})
}

// What a container lacks is said before anything is frozen.
func TestWhatAContainerLacks(t *testing.T) {
	everyShell(t, func(t *testing.T, c *container) {
		target := session(markedSession)
		target.Recipe.Name = "store"
		target.Recipe.Spec.Requires = []string{"cat", "store-cli", "store-sync"}
		_, err := c.hold(t.Context(), target)
		require.EqualError(t, err, "pod den/store-0 container db: its image lacks what recipe store needs: store-cli store-sync")
		c.there(t, "steps", false, 0)
	})
	_, err := newContainer(t, []string{"/no/such/sh"}).hold(t.Context(), marked())
	require.ErrorContains(t, err, "pod den/store-0 container db: its image has no sh, so nothing can be frozen in it")
}

func TestAPreparationComesFirst(t *testing.T) {
	everyShell(t, func(t *testing.T, c *container) {
		target := session(markedSession)
		target.Recipe.Spec.Prepare = "echo prepare >>steps"
		s, err := c.hold(t.Context(), target)
		require.NoError(t, err)
		require.NoError(t, s.Thaw(t.Context()).Err)
		require.Equal(t, []string{"prepare", "before", "after"}, c.lines(t, "steps"))
	})
}

func TestAPreparationThatFails(t *testing.T) {
	for script, says := range map[string]string{"echo wrong password; exit 1": "failed (its last words: wrong password)", "sleep 30": "took longer than 1s",
		"trap 'exit 0' TERM; while :; do sleep 1; done": "took longer than 1s"} {
		t.Run(script, func(t *testing.T) {
			everyShell(t, func(t *testing.T, c *container) {
				target := session(markedSession)
				target.Recipe.Spec.Prepare, target.Timeout = script, time.Second
				_, err := c.hold(t.Context(), target)
				require.ErrorContains(t, err, says)
				c.there(t, "steps", false, 0)
			})
		})
	}
}

// Parameters reach the scripts whole, and are in no argument.
func TestParameters(t *testing.T) {
	odd := "a 'b' \"c\" $(touch EVIL) `touch EVIL` \\ #run\n#run\nlast"
	everyShell(t, func(t *testing.T, c *container) {
		target := session(`printf %s "$ODD/$PLAIN/$KUBECTL_BACKUP_TTL/$KUBECTL_BACKUP_TIMEOUT" >said; echo frozen >&3; cat >/dev/null`)
		target.Recipe.Spec.Parameters = map[string]string{"ODD": "", "PLAIN": "default"}
		target.Parameters = map[string]string{"ODD": odd}
		target.Timeout = 1500 * time.Millisecond
		s, err := c.hold(t.Context(), target)
		require.NoError(t, err)
		process := <-c.started
		argv, err := os.ReadFile("/proc/" + strconv.Itoa(process.Pid) + "/cmdline")
		require.NoError(t, err)
		require.NotContains(t, string(argv), "ODD")
		require.NotContains(t, string(argv), "frozen")
		require.NoError(t, s.Thaw(t.Context()).Err)
		said, err := os.ReadFile(c.path("said"))
		require.NoError(t, err)
		require.Equal(t, odd+"/default/60/2", string(said))
		c.there(t, "EVIL", false, 0)
	})
	target := session("")
	target.Recipe.Name, target.Recipe.Spec.Parameters, target.Parameters = "store", map[string]string{"SIZE": ""}, map[string]string{"SIZES": "1"}
	_, err := target.timed()
	require.ErrorContains(t, err, `recipe store has no parameter "SIZES"; it has: SIZE`)
}

// What a command leaves running in the background keeps neither the exec nor
// the thaw waiting.
func TestBackgroundProcesses(t *testing.T) {
	everyShell(t, func(t *testing.T, c *container) {
		target := marked()
		target.Before = []string{"sh", "-c", "echo before >>steps; touch FROZEN; sleep 50 & echo $! >pid"}
		s, err := c.hold(t.Context(), target)
		require.NoError(t, err)
		r := s.Thaw(t.Context())
		require.NoError(t, r.Err)
		require.Less(t, r.Held, soon)
		c.thawedOnce(t, 0)
	})
}

// A thaw that writes is not stopped by having no reader any more.
func TestAThawThatWritesToNobody(t *testing.T) {
	everyShell(t, func(t *testing.T, c *container) {
		target := marked()
		target.After = []string{"sh", "-ec", "i=0; while [ $i -lt 800 ]; do i=$((i+1)); echo thawing, step $i of many, and there is a great deal to say about each of these steps, more than fits; done; rm FROZEN; echo after >>steps"}
		_, err := c.hold(t.Context(), target)
		require.NoError(t, err)
		close(c.lose)
		c.thawedOnce(t, soon)
	})
}

func TestTimes(t *testing.T) {
	seconds := func(n int) *v1alpha1.BackupRecipe {
		r := session("true").Recipe
		r.Spec.TTL, r.Spec.Timeout = hours(n), hours(n)
		return r
	}
	for _, x := range []struct {
		target       Target
		ttl, timeout time.Duration
	}{
		{Target{Recipe: session("true").Recipe}, v1alpha1.DefaultTTL, v1alpha1.DefaultFreezeTimeout},
		{Target{Recipe: seconds(2)}, 2 * time.Hour, 2 * time.Hour},
		{Target{Recipe: seconds(2), TTL: time.Hour}, time.Hour, time.Hour},
		{Target{Recipe: seconds(2), Timeout: time.Second}, 2 * time.Hour, time.Second},
	} {
		got, err := x.target.timed()
		require.NoError(t, err)
		require.Equal(t, [2]time.Duration{x.ttl, x.timeout}, [2]time.Duration{got.TTL, got.Timeout})
	}
	_, err := Target{Namespace: "den", Pod: "p", Before: []string{"true"}}.timed()
	require.ErrorContains(t, err, "pod den/p: neither a recipe nor commands before and after")
}

func TestLookupPrefersAUsersRecipe(t *testing.T) {
	mine := &v1alpha1.BackupRecipe{}
	mine.Name = "redis"
	found, ok := Lookup("redis", []*v1alpha1.BackupRecipe{mine})
	require.True(t, ok)
	require.Same(t, mine, found)
	found, ok = Lookup("postgresql", []*v1alpha1.BackupRecipe{mine})
	require.True(t, ok)
	require.Equal(t, "postgresql", found.Name)
	_, ok = Lookup("postgres", nil)
	require.False(t, ok)
}

var _ executor = (*kube.Cluster)(nil)

// Two backups of one pod at the same moment hold it one after the other, and not
// across each other; a session that was killed keeps nobody out.
func TestTwoBackupsOfOnePod(t *testing.T) {
	both(t, func(t *testing.T, c *container, target Target) {
		of := func(run string) Target {
			target := target
			target.Before, target.After = slices.Clone(target.Before), slices.Clone(target.After)
			target.Run = run
			return target
		}
		claims := func() []string {
			var list []string
			for _, dir := range []string{"/dev/shm", "/run", "/tmp"} {
				found, err := filepath.Glob(dir + "/kubectl-backup-*")
				require.NoError(t, err)
				for _, f := range found {
					if owner, err := os.Readlink(f); err == nil && strings.HasPrefix(owner, t.Name()) {
						list = append(list, f)
					}
				}
			}
			return list
		}
		script := "echo of " + t.Name() + "\n" // what is held is known by its scripts
		if target.Recipe != nil {
			target.Recipe.Spec.Session = "#" + script + target.Recipe.Spec.Session
		} else {
			target.Before[2] = "#" + script + target.Before[2]
		}
		first, err := c.hold(t.Context(), of(t.Name()+"-1"))
		require.NoError(t, err)
		require.Len(t, claims(), 1)

		impatient := of(t.Name() + "-2")
		impatient.Timeout = time.Second
		_, err = newContainer(t, c.shell).hold(t.Context(), impatient)
		require.ErrorContains(t, err, "another backup holds it, and did not let go within 1 s")
		require.Equal(t, []string{"before"}, c.lines(t, "steps"))

		other := newContainer(t, c.shell)
		other.dir = c.dir
		held := make(chan *Session, 1)
		go func() {
			s, err := other.hold(t.Context(), of(t.Name()+"-3"))
			if err != nil {
				t.Error(err)
			}
			held <- s
		}()
		select {
		case <-held:
			t.Fatal("both hold it")
		case <-time.After(2 * time.Second):
		}
		require.NoError(t, first.Thaw(t.Context()).Err)
		second := <-held
		require.Equal(t, []string{"before", "after", "before"}, c.lines(t, "steps"))
		require.Len(t, claims(), 1)

		signalAll(syscall.SIGSTOP, syscall.SIGKILL)(t, other)
		require.True(t, second.Thaw(t.Context()).Expired)
		require.Len(t, claims(), 1)
		s, err := newContainer(t, c.shell).hold(t.Context(), of(t.Name()+"-4"))
		require.NoError(t, err)
		require.NoError(t, s.Thaw(t.Context()).Err)
		require.Eventually(t, func() bool { return len(claims()) == 0 }, soon, 10*time.Millisecond)
	})
}
