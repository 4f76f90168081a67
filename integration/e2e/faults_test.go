package e2e

import (
	"fmt"
	"io"
	"io/fs"
	"net"
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

// small is a remote on a file system of its own, in memory, with so many bytes.
func small(t testing.TB, size int64) (remoteYAML, dir string) {
	t.Helper()
	dir = t.TempDir()
	require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)))
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	return remoteAt(t, filepath.Join(dir, "repository")), dir
}

// remoteAt is the spec of a remote named main with a new repository in it.
func remoteAt(t testing.TB, path string) string {
	t.Helper()
	yaml := fmt.Sprintf("apiVersion: kubectl-backup.io/v1alpha1\nkind: BackupRemote\nmetadata: {name: main}\nspec: {path: %q}\n", path)
	r := backup(t, "init", "-f", spec(t, yaml))
	require.Equal(t, 0, r.code, r.stderr)
	return yaml
}

// size is how much a folder holds.
func size(t testing.TB, dir string) int64 {
	t.Helper()
	var n int64
	require.NoError(t, filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil // written and renamed meanwhile
		}
		if err != nil {
			return err
		}
		if i, err := d.Info(); err == nil && !d.IsDir() {
			n += i.Size()
		}
		return nil
	}))
	return n
}

// uploading waits until a run has brought part of its data to a folder.
func uploading(t testing.TB, p *running, dir string, more int64) {
	t.Helper()
	before := size(t, dir)
	await(t, "data in "+dir, func() (bool, error) {
		select {
		case <-p.ended:
			return false, fmt.Errorf("the run ended: %s%s", p.errOut.String(), p.out.String())
		default:
		}
		return size(t, dir) > before+more, nil
	})
}

// clearError is what a user should see of a run that failed: a line that says
// what went wrong, with one of the words, and not a page.
func clearError(t testing.TB, r result, code int, words ...string) {
	t.Helper()
	require.Equal(t, code, r.code, r.stderr)
	var said []string
	for _, line := range strings.Split(strings.TrimSpace(r.stderr), "\n") {
		if strings.HasPrefix(line, "kubectl backup: ") {
			said = append(said, line)
		}
	}
	require.Len(t, said, 1, r.stderr)
	require.Less(t, len(said[0]), 600, "an error that is too long to read")
	require.Less(t, strings.Count(r.stderr, "\n"), 12, "noise: %s", r.stderr)
	for _, w := range words {
		if strings.Contains(said[0], w) {
			return
		}
	}
	require.Fail(t, "unclear", "none of %q is in %s", words, said[0])
}

func TestWrongPasswordAndNoRepository(t *testing.T) {
	ns := namespace(t, "keys")
	remote, _ := local(t)
	empty := fmt.Sprintf("apiVersion: kubectl-backup.io/v1alpha1\nkind: BackupRemote\nmetadata: {name: main}\nspec: {path: %q}\n", t.TempDir())
	for _, args := range [][]string{{"run"}, {"list"}, {"verify", "latest"}} {
		cmd := command(t, append([]string{"--context", "src"}, append(args, "-f", spec(t, everything(ns), remote))...)...)
		cmd.Env = append(cmd.Env, "KUBECTL_BACKUP_PASSWORD=another password")
		clearError(t, startCommand(t, cmd).wait(t), 12, "password")
		clearError(t, start(t, append(args, "-f", spec(t, everything(ns), empty))...).wait(t), 10, "no repository")
	}
}

// TestRemoteBreaksInMidRun has a remote fail under a run in every way, and the
// next run succeed once it is there again.
func TestRemoteBreaksInMidRun(t *testing.T) {
	ns := namespace(t, "breaks")
	folders := twoVolumes(t, ns, 64<<20)
	for _, x := range []struct {
		name  string
		place func(testing.TB) (yaml string, data string, fail, mend func())
		words []string
	}{
		{"full", func(t testing.TB) (string, string, func(), func()) {
			yaml, dir := small(t, 48<<20)
			return yaml, dir, func() {}, func() {
				require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=512M"))
			}
		}, []string{"no space left", "disk space"}},
		{"read-only", func(t testing.TB) (string, string, func(), func()) {
			yaml, dir := small(t, 512<<20)
			return yaml, dir, func() {
					// While a file is open for writing the system refuses.
					await(t, "a moment without open files", func() (bool, error) {
						err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, "")
						if err == syscall.EBUSY {
							return false, nil
						}
						return err == nil, err
					})
				}, func() {
					require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, ""))
				}
		}, []string{"read-only"}},
		{"unreachable", func(t testing.TB) (string, string, func(), func()) {
			dir := t.TempDir()
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			address := listener.Addr().String()
			require.NoError(t, listener.Close())
			stop := webdav(t, dir, address)
			yaml := remoteAt(t, ":webdav,url='http://"+address+"',vendor=rclone:")
			return yaml, dir, func() { stop() }, func() { webdav(t, dir, address) }
		}, []string{"connection refused", "connection reset", "EOF"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			yaml, data, fail, mend := x.place(t)
			f := spec(t, everything(ns), yaml)
			p := start(t, "run", "-f", f)
			if x.name != "full" {
				uploading(t, p, data, 20<<20)
				fail()
			}
			began := time.Now()
			r := p.wait(t)
			t.Logf("it ended after %.0f s: %s", time.Since(began).Seconds(), r.stderr)
			clearError(t, r, 1, x.words...)
			require.Empty(t, temporaryPods(t, ns))
			mend()
			require.Empty(t, listed(t, f))
			good(t, ns, f)
			for _, dir := range folders { // no case is helped by what another has stored
				fillRandom(t, filepath.Join(dir, "file"), 64<<20)
			}
		})
	}
}

// TestVerifyNamesWhatIsDamaged: a volume whose data is cut off has a line that
// says so, and all others have theirs.
func TestVerifyNamesWhatIsDamaged(t *testing.T) {
	ns := namespace(t, "damaged")
	folders := twoVolumes(t, ns, 1<<20)
	remote, repository := local(t)
	f := spec(t, everything(ns), remote)
	first := good(t, ns, f)
	packs := filepath.Join(repository, "p")
	before := filesBelow(t, packs)
	fillRandom(t, filepath.Join(folders[0], "file"), 1<<20)
	second := good(t, ns, f)
	for name := range filesBelow(t, packs) {
		if _, old := before[name]; !old {
			require.NoError(t, os.Truncate(filepath.Join(packs, name), 0))
		}
	}

	d, r := document(t, "verify", second.Backup, "-f", f)
	require.Equal(t, 1, r.code)
	require.Equal(t, v1alpha1.ResultFailed, d.Result)
	require.Contains(t, d.Error, "damaged")
	require.Equal(t, second.Backup, d.Backup)
	require.Len(t, d.Objects, len(inBackup(second)))
	outcomes := map[v1alpha1.Outcome]int{}
	for _, v := range d.Volumes {
		outcomes[v.Outcome]++
		if v.Outcome == v1alpha1.OutcomeFailed {
			require.Contains(t, v.Reason, `file: unreadable`)
		}
	}
	require.Equal(t, map[v1alpha1.Outcome]int{v1alpha1.OutcomeFailed: 1, v1alpha1.OutcomeVerified: 1}, outcomes)
	whole(t, f, first.Backup)

	require.NotContains(t, backup(t, "list", "-f", f).stderr, "warning")
	for name := range filesBelow(t, filepath.Join(repository, "x")) {
		require.NoError(t, os.Truncate(filepath.Join(repository, "x", name), 0))
	}
	r = backup(t, "list", "-f", f)
	require.Equal(t, 0, r.code, r.stderr)
	require.Contains(t, r.stderr, "index blob(s) are listed but cannot be read")
}

// webdav serves a folder until it is stopped.
func webdav(t testing.TB, dir, address string) (stop func()) {
	t.Helper()
	cmd := exec.Command(filepath.Join(root(t), "bin", "rclone"), "serve", "webdav", dir, "--addr", address, "--config", "/dev/null", "--log-level", "ERROR")
	require.NoError(t, cmd.Start())
	stop = sync.OnceFunc(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	t.Cleanup(stop)
	await(t, "the WebDAV server", func() (bool, error) {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return false, nil
		}
		return true, conn.Close()
	})
	return stop
}

// gate stands in front of an API server and can be shut.
type gate struct {
	listener net.Listener
	target   string
	mu       sync.Mutex
	shut     bool
	conns    []net.Conn
}

func newGate(t testing.TB, target string) *gate {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	g := &gate{listener: listener, target: target}
	t.Cleanup(func() {
		listener.Close()
		g.set(true)
	})
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			g.pass(in)
		}
	}()
	return g
}

func (g *gate) pass(in net.Conn) {
	out, err := net.Dial("tcp", g.target)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil || g.shut {
		in.Close()
		return
	}
	g.conns = append(g.conns, in, out)
	for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
		go func() {
			io.Copy(pair[0], pair[1])
			pair[0].Close()
		}()
	}
}

// set shuts the gate, which cuts what goes through it, or opens it.
func (g *gate) set(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = shut
	for _, c := range g.conns {
		c.Close()
	}
	g.conns = nil
}

// TestAPIServerGoneInMidRun cuts a run off from the API server, for good and
// for a moment.
func TestAPIServerGoneInMidRun(t *testing.T) {
	ns := namespace(t, "cut")
	twoVolumes(t, ns, 64<<20)
	server := strings.TrimPrefix(kubectl(t, "src", "config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"), "https://")
	g := newGate(t, server)
	config, err := os.ReadFile(clusters(t).Kubeconfig())
	require.NoError(t, err)
	through := filepath.Join(t.TempDir(), "kubeconfig")
	require.NoError(t, os.WriteFile(through, []byte(strings.ReplaceAll(string(config), server, g.listener.Addr().String())), 0o600))
	remote, data := local(t)
	f := spec(t, everything(ns), remote)
	begin := func() *running {
		cmd := command(t, "--context", "src", "run", "-f", f, "-o", "json")
		cmd.Env = append(cmd.Env, "KUBECONFIG="+through)
		return startCommand(t, cmd)
	}

	p := begin()
	uploading(t, p, data, 20<<20)
	g.set(true)
	r := p.wait(t)
	clearError(t, r, 1, "the API server cannot be reached")
	require.Equal(t, 1, decode(t, r).ExitCode)
	require.Empty(t, listed(t, f))
	g.set(false)
	good(t, ns, f) // and what the first one could not remove is gone

	for _, dir := range []string{"used", "unused"} {
		fillRandom(t, filepath.Join(folder(t, "src", ns, dir), "file"), 64<<20)
	}
	p = begin()
	uploading(t, p, data, 20<<20)
	g.set(true)
	g.set(false)
	r = p.wait(t)
	require.Equal(t, 0, r.code, "a moment's interruption: %s\n%s", r.stderr, r.stdout)
	whole(t, f, decode(t, r).Backup)
	require.Empty(t, temporaryPods(t, ns))
}
