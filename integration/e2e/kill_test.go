package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// deadline bounds each run, whatever goes wrong around it.
const deadline = 2 * time.Minute

// running is a run of the program that has not ended.
type running struct {
	*exec.Cmd
	out, errOut lockedBuffer
	ended       chan struct{}
}

// lockedBuffer is read while the program writes.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start starts the program on cluster src.
func start(t testing.TB, args ...string) *running {
	t.Helper()
	return startCommand(t, command(t, append([]string{"--context", "src"}, args...)...))
}

func startCommand(t testing.TB, cmd *exec.Cmd) *running {
	t.Helper()
	p := &running{Cmd: cmd, ended: make(chan struct{})}
	p.Stdout, p.Stderr = &p.out, &p.errOut
	require.NoError(t, p.Start())
	go func() {
		p.Cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.Process.Kill()
		<-p.ended
	})
	return p
}

// wait waits for the end of the program, for as long as a user would.
func (p *running) wait(t testing.TB) result {
	t.Helper()
	return p.waitFor(t, deadline)
}

// waitFor waits until it should have ended in any case.
func (p *running) waitFor(t testing.TB, limit time.Duration) result {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(limit):
		p.Process.Signal(syscall.SIGQUIT)
		<-p.ended
		require.Fail(t, "it hangs", "after %s: %s", limit, p.errOut.String())
	}
	return result{code: p.ProcessState.ExitCode(), stdout: p.out.String(), stderr: p.errOut.String()}
}

func decode(t testing.TB, r result) v1alpha1.Document {
	t.Helper()
	var d v1alpha1.Document
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &d), "stdout: %s\nstderr: %s", r.stdout, r.stderr)
	require.Equal(t, r.code, d.ExitCode, r.stderr)
	return d
}

// sending waits until a program runs in a pod with all these words on its
// command line. The node's processes are this machine's.
func sending(t testing.TB, ns, pod string, words ...string) int {
	t.Helper()
	uid := kubectl(t, "src", "-n", ns, "get", "pod", pod, "-o", "jsonpath={.metadata.uid}")
	require.NotEmpty(t, uid)
	var pid int
	await(t, "a process "+strings.Join(words, " "), func() (bool, error) {
		files, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			return false, err
		}
	next:
		for _, f := range files {
			line, err := os.ReadFile(f)
			if err != nil {
				continue // it has ended
			}
			args := strings.Split(string(line), "\x00")
			for _, w := range words {
				if !contains(args, w) {
					continue next
				}
			}
			group, err := os.ReadFile(filepath.Join(filepath.Dir(f), "cgroup"))
			if err != nil || !strings.Contains(strings.ReplaceAll(string(group), "_", "-"), uid) {
				continue
			}
			_, err = fmt.Sscanf(f, "/proc/%d/", &pid)
			return true, err
		}
		return false, nil
	})
	return pid
}

func contains(list []string, word string) bool {
	for _, l := range list {
		if l == word || filepath.Base(l) == word {
			return true
		}
	}
	return false
}

// fillRandom writes bytes that no repository has yet.
func fillRandom(t testing.TB, path string, size int64) {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	_, err = io.CopyN(f, rand.Reader, size)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// listed are the ids of the backups in the repository.
func listed(t testing.TB, f string) []string {
	t.Helper()
	r := backup(t, "list", "-f", f, "-o", "json")
	require.Equal(t, 0, r.code, r.stderr)
	var d struct {
		Items []struct {
			ID      string `json:"id"`
			Result  string `json:"result"`
			Damaged string `json:"damaged"`
		} `json:"items"`
	}
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &d), r.stdout)
	var ids []string
	for _, b := range d.Items {
		require.Empty(t, b.Damaged)
		require.Equal(t, "Complete", b.Result, b.ID)
		ids = append(ids, b.ID)
	}
	return ids
}

// twoVolumes is an application with a claim that is read through its own
// container and one that no pod uses, which a helper pod reads.
func twoVolumes(t testing.TB, ns string, size int64) (folders []string) {
	t.Helper()
	apply(t, "src", claim(ns, "used", "fast")+claim(ns, "unused", "slow")+podSpec{name: "user", image: gnuTar, claim: "used", command: sleep}.yaml(ns))
	ready(t, "src", ns, "pod/user")
	bound(t, ns, "used", "unused")
	for _, c := range []string{"used", "unused"} {
		folders = append(folders, folder(t, "src", ns, c))
		fillRandom(t, filepath.Join(folders[len(folders)-1], "file"), size)
	}
	return folders
}

// good makes a run that must succeed and leave nothing behind, and verifies it.
func good(t testing.TB, ns, f string) v1alpha1.Document {
	t.Helper()
	d, r := document(t, "run", "-f", f)
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, d.Volumes)
	require.Empty(t, temporaryPods(t, ns))
	whole(t, f, d.Backup)
	return d
}

func whole(t testing.TB, f, id string) {
	t.Helper()
	d, r := document(t, "verify", id, "-f", f)
	require.Equal(t, 0, r.code, "%s: %s", id, r.stderr)
	require.Equal(t, v1alpha1.ResultComplete, d.Result, id)
}

// TestKilledAtAnyMoment kills the program without warning at moments spread
// over a whole run.
func TestKilledAtAnyMoment(t *testing.T) {
	ns := namespace(t, "killed")
	folders := twoVolumes(t, ns, 24<<20)
	remote, _ := local(t)
	f := spec(t, everything(ns), remote)
	began := time.Now()
	good(t, ns, f)
	whole := time.Since(began)

	const kills = 20
	killed := 0
	for i := range kills {
		for _, dir := range folders {
			fillRandom(t, filepath.Join(dir, fmt.Sprint("more-", i)), 2<<20)
		}
		p := start(t, "run", "-f", f, "-o", "json")
		moment := time.Duration((float64(i) + mathrand.Float64()) / kills * float64(whole))
		select {
		case <-p.ended:
		case <-time.After(moment):
			require.NoError(t, p.Process.Kill())
			killed++
		}
		p.wait(t)
		listed(t, f)
	}
	await(t, "the end of what the killed runs had started in the pod", func() (bool, error) {
		commands := kubectl(t, "src", "-n", ns, "exec", "user", "--", "sh", "-c", "cat /proc/[0-9]*/comm 2>/dev/null; :")
		return !strings.Contains(commands, "tar"), nil
	})
	require.Greater(t, killed, kills/2, "most runs ended before they were killed")
	good(t, ns, f)
	for _, id := range listed(t, f) {
		d, r := document(t, "verify", id, "-f", f)
		require.Equal(t, 0, r.code, "%s: %s", id, r.stderr)
		require.Equal(t, v1alpha1.ResultComplete, d.Result, id)
	}
}

// TestInterrupted ends the program in the way that Ctrl-C and a time limit do,
// while a helper pod is at work.
func TestInterrupted(t *testing.T) {
	ns := namespace(t, "stopped")
	twoVolumes(t, ns, 64<<20)
	remote, _ := local(t)
	f := spec(t, everything(ns), remote)
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		p := start(t, "run", "-f", f, "-o", "json")
		await(t, "the helper pod", func() (bool, error) {
			select {
			case <-p.ended:
				return false, fmt.Errorf("it ended: %s", p.errOut.String())
			default:
			}
			return temporaryPods(t, ns) != "", nil
		})
		require.NoError(t, p.Process.Signal(signal))
		r := p.wait(t)
		require.Equal(t, 130, r.code, r.stderr)
		require.Equal(t, 130, decode(t, r).ExitCode)
		require.Empty(t, temporaryPods(t, ns), signal)
		require.Empty(t, listed(t, f))
	}
	good(t, ns, f)
}

// TestRunsAtTheSameTime has two runs of one policy, each with helper pods that
// the other must leave alone.
func TestRunsAtTheSameTime(t *testing.T) {
	ns := namespace(t, "twice")
	twoVolumes(t, ns, 16<<20)
	remote, _ := local(t)
	f := spec(t, everything(ns), remote)
	first, second := start(t, "run", "-f", f, "-o", "json"), start(t, "run", "-f", f, "-o", "json")
	for _, p := range []*running{first, second} {
		r := p.wait(t)
		require.Equal(t, 0, r.code, "%s\n%s", r.stderr, r.stdout)
		whole(t, f, decode(t, r).Backup)
	}
	require.Len(t, listed(t, f), 2)
	require.Empty(t, temporaryPods(t, ns))
}
