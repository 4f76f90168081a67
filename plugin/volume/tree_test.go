//go:build linux

package volume_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
	"github.com/kubectl-backup/kubectl-backup/plugin/volume/volumetest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// childEnv makes this test program a sender or a receiver of its own, for the
// tests that need another user or their own memory.
const childEnv = "VOLUME_TEST_CHILD"

func TestMain(m *testing.M) {
	if mode := os.Getenv(childEnv); mode != "" {
		os.Exit(child(mode, os.Args[1]))
	}
	os.Exit(m.Run())
}

type childReport struct {
	Report volume.Report
	Error  string
	// Peak is the most memory that was resident, in KiB.
	Peak int64
}

func child(mode, root string) int {
	var r childReport
	var err error
	switch mode {
	case "send":
		err = volume.ReadTree(context.Background(), root, volume.NewEncoder(os.Stdout))
	case "receive":
		r.Report, err = volume.WriteTree(context.Background(), volume.NewDecoder(os.Stdin), root, volume.WriteOptions{})
	}
	if err != nil {
		r.Error = err.Error()
	}
	r.Peak = peak()
	if json.NewEncoder(os.Stderr).Encode(r) != nil || err != nil {
		return 1
	}
	return 0
}

func peak() int64 {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return -1
	}
	defer f.Close()
	var kib int64
	for s := bufio.NewScanner(f); s.Scan(); {
		if n, _ := fmt.Sscanf(s.Text(), "VmHWM: %d kB", &kib); n == 1 {
			return kib
		}
	}
	return -1
}

// inChild runs a sender or receiver as another process, and as another user
// if uid is not 0.
func inChild(t *testing.T, mode, root string, uid uint32, in io.Reader, out io.Writer) childReport {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", root)
	cmd.Env = append(os.Environ(), childEnv+"="+mode)
	cmd.Stdin, cmd.Stdout = in, out
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.Dir = "/"
	if uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	runErr := cmd.Run()
	var r childReport
	require.NoError(t, json.Unmarshal(stderr.Bytes(), &r), "%v: %s", runErr, stderr.String())
	return r
}

// openDir is a temporary directory that other users can reach.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "volume")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func send(t testing.TB, root string) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, volume.ReadTree(context.Background(), root, volume.NewEncoder(&b)))
	return b.Bytes()
}

func receive(t testing.TB, stream []byte, root string, o volume.WriteOptions) volume.Report {
	t.Helper()
	r, err := volume.WriteTree(context.Background(), volume.NewDecoder(bytes.NewReader(stream)), root, o)
	require.NoError(t, err)
	return r
}

func requireSame(t testing.TB, a, b string, ignore ...string) {
	t.Helper()
	diff, err := volumetest.Differences(a, b, ignore...)
	require.NoError(t, err)
	require.Empty(t, diff, strings.Join(diff, "\n"))
}

// paths returns the issues of a kind by path.
func paths(issues []volume.Issue, k volume.Kind) map[string]string {
	out := map[string]string{}
	for _, i := range issues {
		if i.Kind == k {
			out[i.Path] = i.What
		}
	}
	return out
}

func TestEveryAttributeComesBack(t *testing.T) {
	for _, tree := range volumetest.Trees {
		t.Run(tree.Name, func(t *testing.T) {
			src, dst := t.TempDir(), t.TempDir()
			tree.Build(t, src)
			begun := time.Now()
			stream := send(t, src)
			r := receive(t, stream, dst, volume.WriteOptions{})
			require.Empty(t, r.Issues)
			requireSame(t, src, dst)
			require.Less(t, time.Since(begun), 20*time.Second)
			require.Equal(t, stream, send(t, src), "the same tree gives the same stream")

			// A second time over the first, and over a tree that is in the way.
			r = receive(t, stream, dst, volume.WriteOptions{})
			require.Empty(t, r.Issues)
			requireSame(t, src, dst)
		})
	}
}

func TestHolesAreNotRead(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	f, err := os.Create(src + "/image")
	require.NoError(t, err)
	require.NoError(t, f.Truncate(1<<40))
	_, err = f.WriteAt([]byte("island"), 1<<39)
	require.NoError(t, err)
	require.NoError(t, f.Close())

	begun := time.Now()
	stream := send(t, src)
	require.Less(t, len(stream), 64<<10)
	r := receive(t, stream, dst, volume.WriteOptions{})
	require.Less(t, time.Since(begun), 2*time.Second, "a TiB of hole costs no time")
	require.EqualValues(t, 1<<40, r.Bytes)
	requireSame(t, src, dst)
}

// what the target has where the stream has something else
func TestWhatIsInTheWay(t *testing.T) {
	build := func(t *testing.T) string {
		src := t.TempDir()
		volumetest.Write(t, src+"/data/file", "ours")
		require.NoError(t, os.Symlink("elsewhere", src+"/link"))
		require.NoError(t, unix.Mkfifo(src+"/pipe", 0o600))
		volumetest.Write(t, src+"/same", "linked")
		require.NoError(t, os.Link(src+"/same", src+"/same-too"))
		return src
	}
	t.Run("symbolic links that lead out", func(t *testing.T) {
		src, dst, outside := build(t), t.TempDir(), t.TempDir()
		volumetest.Write(t, outside+"/file", "not ours")
		for _, name := range []string{"data", "link", "pipe", "same", "same-too"} {
			require.NoError(t, os.Symlink(outside, dst+"/"+name))
		}
		before, err := volumetest.Describe(outside)
		require.NoError(t, err)
		require.Empty(t, receive(t, send(t, src), dst, volume.WriteOptions{}).Issues)
		requireSame(t, src, dst)
		after, err := volumetest.Describe(outside)
		require.NoError(t, err)
		require.Equal(t, before, after)
	})
	t.Run("a symbolic link as a file inside a directory", func(t *testing.T) {
		src, dst, outside := build(t), t.TempDir(), t.TempDir()
		volumetest.Write(t, outside+"/victim", "not ours")
		require.NoError(t, os.Mkdir(dst+"/data", 0o755))
		require.NoError(t, os.Symlink(outside+"/victim", dst+"/data/file"))
		receive(t, send(t, src), dst, volume.WriteOptions{})
		requireSame(t, src, dst)
		b, err := os.ReadFile(outside + "/victim")
		require.NoError(t, err)
		require.Equal(t, "not ours", string(b))
	})
	t.Run("a file with another name keeps its content there", func(t *testing.T) {
		src, dst := build(t), t.TempDir()
		volumetest.Write(t, dst+"/other", "kept")
		require.NoError(t, os.Link(dst+"/other", dst+"/same"))
		receive(t, send(t, src), dst, volume.WriteOptions{})
		b, err := os.ReadFile(dst + "/other")
		require.NoError(t, err)
		require.Equal(t, "kept", string(b))
	})
	t.Run("other kinds", func(t *testing.T) {
		src, dst := build(t), t.TempDir()
		volumetest.Write(t, dst+"/data", "a file where a directory should be")
		require.NoError(t, os.Mkdir(dst+"/link", 0o755))
		require.NoError(t, os.Mkdir(dst+"/same", 0o755))
		require.NoError(t, unix.Mkfifo(dst+"/same-too", 0o600))
		require.Empty(t, receive(t, send(t, src), dst, volume.WriteOptions{}).Issues)
		requireSame(t, src, dst)
	})
	t.Run("a directory with files", func(t *testing.T) {
		src, dst := build(t), t.TempDir()
		volumetest.Write(t, dst+"/same/deep/precious", "precious")
		r := receive(t, send(t, src), dst, volume.WriteOptions{})
		require.Contains(t, paths(r.Issues, volume.NotWritten), "same")
		require.Contains(t, paths(r.Issues, volume.NotWritten), "same-too")
		require.True(t, r.Lost())
		require.FileExists(t, dst+"/same/deep/precious")
		require.Empty(t, receive(t, send(t, src), dst, volume.WriteOptions{Extra: volume.Remove}).Issues)
		requireSame(t, src, dst)
	})
	t.Run("extra files", func(t *testing.T) {
		src, dst := build(t), t.TempDir()
		for _, p := range []string{"extra", "data/extra", "dir/a/b/c", "lost+found/x"} {
			volumetest.Write(t, dst+"/"+p, "extra")
		}
		require.NoError(t, os.Symlink("/", dst+"/data/to-root"))
		require.NoError(t, unix.Setxattr(dst+"/data", "user.extra", []byte("x"), 0))
		volumetest.Deep(t, dst, "chain", 300)
		require.Empty(t, receive(t, send(t, src), dst, volume.WriteOptions{}).Issues)
		for _, p := range []string{"extra", "data/extra", "dir/a/b/c", "lost+found/x"} {
			require.FileExists(t, dst+"/"+p)
		}
		require.Empty(t, receive(t, send(t, src), dst, volume.WriteOptions{Extra: volume.Remove}).Issues)
		requireSame(t, src, dst, "lost+found", "lost+found/x")
		require.FileExists(t, dst+"/lost+found/x")
	})
	t.Run("a default ACL is not passed on", func(t *testing.T) {
		src, dst := build(t), t.TempDir()
		all := ^uint32(0)
		require.NoError(t, unix.Setxattr(dst, "system.posix_acl_default", volumetest.ACL([3]uint32{1, 7, all}, [3]uint32{2, 7, 99}, [3]uint32{4, 7, all}, [3]uint32{16, 7, all}, [3]uint32{32, 7, all}), 0))
		require.Empty(t, receive(t, send(t, src), dst, volume.WriteOptions{}).Issues)
		requireSame(t, src, dst)
	})
}

func TestWithoutRoot(t *testing.T) {
	const user = 1001
	t.Run("receive", func(t *testing.T) {
		src, dst := t.TempDir(), openDir(t)
		for _, tree := range volumetest.Trees {
			require.NoError(t, os.Mkdir(filepath.Join(src, tree.Name), 0o755))
			tree.Build(t, filepath.Join(src, tree.Name))
		}
		require.NoError(t, os.Chown(dst, user, user))
		r := inChild(t, "receive", dst, user, bytes.NewReader(send(t, src)), io.Discard)
		require.Empty(t, r.Error)
		require.Empty(t, paths(r.Report.Issues, volume.NotWritten), "all content is there")

		want, err := volumetest.Describe(src)
		require.NoError(t, err)
		got, err := volumetest.Describe(dst)
		require.NoError(t, err)
		listed := paths(r.Report.Issues, volume.NotSet)
		for p, w := range want {
			// Each name that is not the same has a line that says so, or is a
			// further name of a file that has one.
			if got[p] == w {
				continue
			}
			_, ok := listed[volume.Escape(p)]
			if _, rest, found := strings.Cut(w, " same-file-as="); !ok && found {
				for _, name := range strings.Split(strings.Trim(rest, "[]"), " ") {
					_, one := listed[strings.Trim(name, `"`)]
					ok = ok || one
				}
			}
			require.True(t, ok, "%q is not listed\n  was %s\n  is  %s", p, w, got[p])
		}
		for _, p := range []string{"owners and modes/deep/er/program", "extended attributes/tool"} {
			st, err := os.Stat(filepath.Join(dst, p))
			require.NoError(t, err)
			require.Zero(t, st.Mode()&(os.ModeSetuid|os.ModeSetgid), "setuid would now be for another user")
		}
		require.Contains(t, listed["extended attributes/tool"], "security.capability")
		require.Contains(t, listed["extended attributes/note"], "trusted.node")
		value := make([]byte, 100)
		n, err := unix.Getxattr(dst+"/extended attributes/note", "user.id", value)
		require.NoError(t, err)
		require.Equal(t, "\x00\x01bin\xff", string(value[:n]))
		require.Contains(t, listed["special files/12-char"], "could not be made")

		// And once more over it, through its own read-only directories.
		again := inChild(t, "receive", dst, user, bytes.NewReader(send(t, src)), io.Discard)
		require.Empty(t, again.Error)
		require.Empty(t, paths(again.Report.Issues, volume.NotWritten))
	})
	t.Run("send", func(t *testing.T) {
		src, dst := openDir(t), t.TempDir()
		volumetest.Write(t, src+"/stay", "ok")
		volumetest.Write(t, src+"/zz/after", "after")
		volumetest.Write(t, src+"/locked/in", "x")
		volumetest.Write(t, src+"/lost+found/in", "x")
		volumetest.Write(t, src+"/closed", "x")
		for p, mode := range map[string]os.FileMode{"locked": 0o700, "lost+found": 0o700, "closed": 0o600} {
			require.NoError(t, os.Chmod(src+"/"+p, mode))
		}
		var b bytes.Buffer
		r := inChild(t, "send", src, user, nil, &b)
		require.Empty(t, r.Error)
		report := receive(t, b.Bytes(), dst, volume.WriteOptions{})
		require.Equal(t, map[string]string{"locked": "permission denied", "closed": "permission denied"}, paths(report.Issues, volume.Unreadable))
		require.True(t, report.Lost())
		require.DirExists(t, dst+"/locked")
		require.DirExists(t, dst+"/lost+found")
		require.NoFileExists(t, dst+"/closed", "what could not be read is not an empty file")
		requireSame(t, src+"/zz", dst+"/zz")
	})
}

func bind(t *testing.T, from, at string) {
	t.Helper()
	require.NoError(t, unix.Mount(from, at, "", unix.MS_BIND, ""), "mounting needs root")
	t.Cleanup(func() { require.NoError(t, unix.Unmount(at, 0)) })
}

func TestWhatIsMountedInsideIsNamed(t *testing.T) {
	src, dst, other := t.TempDir(), t.TempDir(), t.TempDir()
	volumetest.Write(t, src+"/file", "ours")
	volumetest.Write(t, src+"/bound-file", "ours, hidden")
	volumetest.Write(t, other+"/foreign", "not ours")
	volumetest.Mount(t, "tmpfs", src+"/memory", "")
	volumetest.Write(t, src+"/memory/foreign", "not ours")
	require.NoError(t, os.Mkdir(src+"/same-device", 0o755))
	bind(t, other, src+"/same-device")
	bind(t, other+"/foreign", src+"/bound-file")
	r := receive(t, send(t, src), dst, volume.WriteOptions{})
	require.Len(t, r.Issues, 3)
	for _, p := range []string{"memory", "same-device", "bound-file"} {
		require.Contains(t, paths(r.Issues, volume.Skipped), p)
		require.NoFileExists(t, dst+"/"+p)
	}
	require.FileExists(t, dst+"/file")
}

func TestATargetWithoutAttributesSaysSoOnce(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	for i := range 20 {
		p := fmt.Sprintf("%s/f%02d", src, i)
		volumetest.Write(t, p, "x")
		require.NoError(t, unix.Setxattr(p, "user.a", []byte("1"), 0))
	}
	volumetest.Mount(t, "ramfs", dst+"/ram", "")
	r := receive(t, send(t, src), dst+"/ram", volume.WriteOptions{})
	require.Len(t, r.Issues, 1)
	require.Contains(t, r.Issues[0].What, "user.*")
	require.False(t, r.Lost())
}

func TestATargetThatIsFull(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	volumetest.Write(t, src+"/a", strings.Repeat("a", 1<<20))
	volumetest.Write(t, src+"/b", strings.Repeat("b", 3<<20))
	volumetest.Mount(t, "tmpfs", dst+"/full", "size=2m")
	_, err := volume.WriteTree(context.Background(), volume.NewDecoder(bytes.NewReader(send(t, src))), dst+"/full", volume.WriteOptions{})
	require.ErrorIs(t, err, unix.ENOSPC)
	require.ErrorContains(t, err, "write b")
}

func TestChangedWhileRead(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	volumetest.Write(t, src+"/a-stays", "ok")
	for _, n := range []string{"grows", "shrinks"} {
		volumetest.Write(t, src+"/"+n, strings.Repeat(n, 8<<20))
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		size := int64(7 * 8 << 20)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if f, err := os.OpenFile(src+"/grows", os.O_APPEND|os.O_WRONLY, 0); err == nil {
				fmt.Fprintln(f, "line")
				f.Close()
			}
			if size > 1<<20 {
				size -= 4096
				_ = os.Truncate(src+"/shrinks", size)
			}
			_ = os.Remove(src + "/gone")
			_ = os.WriteFile(src+"/gone", []byte("g"), 0o600)
		}
	}()
	stream := send(t, src)
	close(stop)
	<-stopped
	r := receive(t, stream, dst, volume.WriteOptions{})
	changed := paths(r.Issues, volume.Changed)
	require.Contains(t, changed, "grows")
	require.Contains(t, changed, "shrinks")
	require.False(t, r.Lost(), "%v", r.Issues)
	b, err := os.ReadFile(dst + "/grows")
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(string(b), strings.Repeat("grows", 8<<20)))
	b, err = os.ReadFile(dst + "/shrinks")
	require.NoError(t, err)
	same := 0
	for want := strings.Repeat("shrinks", 8<<20); same < len(b) && b[same] == want[same]; {
		same++
	}
	// The kernel clears what it cuts off while somebody reads it.
	require.Empty(t, bytes.Trim(b[same:], "\x00"), "only the end may be zeros")
	require.Greater(t, same, len(b)-(4<<20))
	b, err = os.ReadFile(dst + "/a-stays")
	require.NoError(t, err)
	require.Equal(t, "ok", string(b))
}

func TestVeryManyFilesInBoundedMemory(t *testing.T) {
	// In memory, which makes creating so many files a matter of seconds.
	src, dst := volumetest.Tmpfs(t), volumetest.Tmpfs(t)
	require.NoError(t, os.Mkdir(src+"/flat", 0o755))
	for i := range 200_000 {
		f, err := os.Create(fmt.Sprintf("%s/flat/%06x", src, i))
		require.NoError(t, err)
		f.Close()
	}
	volumetest.Deep(t, src, "eight-by", 1000) // a path of 9,000 bytes

	in, out, err := os.Pipe()
	require.NoError(t, err)
	sent := make(chan childReport, 1)
	go func() {
		defer out.Close()
		sent <- inChild(t, "send", src, 0, nil, out)
	}()
	got := inChild(t, "receive", dst, 0, in, io.Discard)
	s := <-sent
	in.Close()
	require.Empty(t, s.Error)
	require.Empty(t, got.Error)
	require.Empty(t, got.Report.Issues)
	require.EqualValues(t, 201_003, got.Report.Files)
	t.Logf("peak of the sender %d MiB, of the receiver %d MiB", s.Peak>>10, got.Peak>>10)
	require.Less(t, s.Peak, int64(256<<10))
	require.Less(t, got.Peak, int64(256<<10))
	requireSame(t, src, dst)
}

func TestCancelled(t *testing.T) {
	src := t.TempDir()
	for i := range 2000 {
		volumetest.Write(t, fmt.Sprintf("%s/%d", src, i), strings.Repeat("x", 10_000))
	}
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- volume.ReadTree(ctx, src, volume.NewEncoder(w)) }()
	_, err := r.Read(make([]byte, 1))
	require.NoError(t, err)
	cancel()
	go io.Copy(io.Discard, r)
	require.ErrorIs(t, <-done, context.Canceled)
	w.Close()

	_, err = volume.WriteTree(ctx, volume.NewDecoder(bytes.NewReader(send(t, src))), t.TempDir(), volume.WriteOptions{})
	require.ErrorIs(t, err, context.Canceled)
}
