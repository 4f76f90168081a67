//go:build linux

package repository_test

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
	"testing"
	"time"

	"github.com/kopia/kopia/fs"
	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/blob/filesystem"
	"github.com/kopia/kopia/repo/content"
	"github.com/kopia/kopia/repo/object"
	"github.com/kopia/kopia/snapshot"
	"github.com/kopia/kopia/snapshot/snapshotfs"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
	"github.com/kubectl-backup/kubectl-backup/plugin/volume/volumetest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const treePassword = "for the tests of trees"

// kopiaRepository is a plain kopia repository in a folder, opened by kopia's
// own means.
type kopiaRepository struct {
	t      testing.TB
	dir    string
	config string
	rep    repo.Repository
	root   *snapshot.DirEntry // what was saved last
}

func newKopia(t testing.TB) *kopiaRepository { return newKopiaIn(t, t.TempDir()) }

func newKopiaIn(t testing.TB, dir string) *kopiaRepository {
	t.Helper()
	ctx := context.Background()
	k := &kopiaRepository{t: t, dir: dir, config: filepath.Join(t.TempDir(), "config.json")}
	st, err := filesystem.New(ctx, &filesystem.Options{Path: k.dir}, true)
	require.NoError(t, err)
	require.NoError(t, repo.Initialize(ctx, st, nil, treePassword))
	require.NoError(t, repo.Connect(ctx, k.config, st, treePassword, &repo.ConnectOptions{CachingOptions: content.CachingOptions{}}))
	k.rep, err = repo.Open(ctx, k.config, treePassword, nil)
	require.NoError(t, err)
	t.Cleanup(func() { k.rep.Close(ctx) })
	return k
}

// stored is the number of files and bytes that the repository takes.
func (k *kopiaRepository) stored() (files, size int64) {
	require.NoError(k.t, filepath.Walk(k.dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			files, size = files+1, size+info.Size()
		}
		return err
	}))
	return files, size
}

func (k *kopiaRepository) write(from io.Reader) (repository.TreeResult, error) {
	ctx := context.Background()
	var result repository.TreeResult
	err := repo.WriteSession(ctx, k.rep, repo.WriteSessionOptions{}, func(ctx context.Context, w repo.RepositoryWriter) error {
		var err error
		result, err = repository.WriteTree(ctx, w, volume.NewDecoder(from))
		return err
	})
	return result, err
}

// save stores a directory, through the stream.
func (k *kopiaRepository) save(root string) repository.TreeResult {
	k.t.Helper()
	r, w := io.Pipe()
	go func() {
		w.CloseWithError(volume.ReadTree(context.Background(), root, volume.NewEncoder(w)))
	}()
	result, err := k.write(r)
	require.NoError(k.t, err)
	k.root = result.Root
	return result
}

func (k *kopiaRepository) restore(root *snapshot.DirEntry, prefix, dst string, o volume.WriteOptions) volume.Report {
	k.t.Helper()
	r, w := io.Pipe()
	go func() {
		w.CloseWithError(repository.ReadTree(context.Background(), k.rep, root, volume.NewEncoder(w), prefix))
	}()
	report, err := volume.WriteTree(context.Background(), volume.NewDecoder(r), dst, o)
	require.NoError(k.t, err)
	return report
}

func requireSameTree(t testing.TB, a, b string, ignore ...string) {
	t.Helper()
	diff, err := volumetest.Differences(a, b, ignore...)
	require.NoError(t, err)
	require.Empty(t, diff, strings.Join(diff, "\n"))
}

func TestTreeComesBackInEveryAttribute(t *testing.T) {
	k := newKopia(t)
	for _, tree := range volumetest.Trees {
		t.Run(tree.Name, func(t *testing.T) {
			src, dst := t.TempDir(), t.TempDir()
			tree.Build(t, src)
			saved := k.save(src)
			require.Empty(t, saved.Issues)
			report := k.restore(saved.Root, "", dst, volume.WriteOptions{})
			require.Empty(t, report.Issues)
			require.Equal(t, saved.Totals.Entries, report.Files)
			require.Equal(t, saved.Totals.Bytes, report.Bytes)
			requireSameTree(t, src, dst)

			require.Equal(t, saved.Root, k.save(src).Root, "the same tree is the same object")
			issues, n, err := repository.VerifyTree(context.Background(), k.rep, saved.Root)
			require.NoError(t, err)
			require.Empty(t, issues)
			require.Equal(t, saved.Totals.Bytes, n)
		})
	}
}

func TestTreeWithHolesCostsWhatItsDataDoes(t *testing.T) {
	k := newKopia(t)
	src, dst := t.TempDir(), t.TempDir()
	sparse := func(name string, size, at int64, data string) {
		f, err := os.Create(filepath.Join(src, name))
		require.NoError(t, err)
		require.NoError(t, f.Truncate(size))
		_, err = f.WriteAt([]byte(data), at)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	sparse("a-disk", 6<<30, 3<<30, "middle")
	sparse("a-tail", 2<<30, 0, "head")
	sparse("a-large-disk", 2<<40, 1<<40+12345, "far out")
	require.NoError(t, os.WriteFile(filepath.Join(src, "zeros"), make([]byte, 1<<20), 0o600))
	begun := time.Now()
	saved := k.save(src)
	require.Less(t, time.Since(begun), 10*time.Second)
	_, size := k.stored()
	require.Less(t, size, int64(5<<20))
	k.restore(saved.Root, "", dst, volume.WriteOptions{})
	requireSameTree(t, src, dst)

	// What kopia itself makes of it has the zeros in place.
	root := snapshotfs.EntryFromDirEntry(k.rep, saved.Root).(fs.Directory)
	e, err := root.Child(context.Background(), "a-disk")
	require.NoError(t, err)
	in, err := e.(fs.File).Open(context.Background())
	require.NoError(t, err)
	defer in.Close()
	for at, want := range map[int64]string{3<<30 - 2: "\x00\x00middle\x00\x00", 0: "\x00\x00", 6<<30 - 3: "\x00\x00\x00"} {
		_, err := in.Seek(at, io.SeekStart)
		require.NoError(t, err)
		got := make([]byte, len(want))
		_, err = io.ReadFull(in, got)
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
}

func TestPartOfATree(t *testing.T) {
	k := newKopia(t)
	src := t.TempDir()
	volumetest.Write(t, src+"/a/first", "several names")
	require.NoError(t, unix.Setxattr(src+"/a/first", "user.x", []byte("of the first"), 0))
	f, err := os.Create(src + "/a/holes")
	require.NoError(t, err)
	require.NoError(t, f.Truncate(1<<20))
	require.NoError(t, f.Close())
	require.NoError(t, unix.Mkfifo(src+"/a/pipe", 0o600))
	require.NoError(t, os.Symlink("x", src+"/a/symlink"))
	require.NoError(t, os.MkdirAll(src+"/b/deep", 0o700))
	for _, name := range []string{"first", "holes", "pipe", "symlink"} {
		require.NoError(t, os.Link(src+"/a/"+name, src+"/b/deep/"+name))
		require.NoError(t, os.Link(src+"/a/"+name, src+"/b/"+name+"-too"))
	}
	volumetest.Write(t, src+"/b/plain", "plain")
	volumetest.Write(t, src+"/bb/not", "in b")
	saved := k.save(src)

	dst := t.TempDir()
	require.Empty(t, k.restore(saved.Root, "b", dst, volume.WriteOptions{}).Issues)
	want, err := volumetest.Describe(src)
	require.NoError(t, err)
	got, err := volumetest.Describe(dst)
	require.NoError(t, err)
	for p := range want {
		_, ok := got[p]
		require.Equal(t, p == "" || p == "b" || strings.HasPrefix(p, "b/"), ok, p)
	}
	attributes := func(s string) string { s, _, _ = strings.Cut(s, " same-file-as="); return s }
	for p := range got {
		require.Equal(t, attributes(want[p]), attributes(got[p]), p)
	}
	require.Contains(t, got["b/first-too"], `same-file-as=["b/deep/first" "b/first-too"]`)

	one := t.TempDir()
	volumetest.Write(t, one+"/b/other", "kept: only a part was asked for")
	require.Empty(t, k.restore(saved.Root, "b/first-too", one, volume.WriteOptions{Extra: volume.Remove}).Issues)
	b, err := os.ReadFile(one + "/b/first-too")
	require.NoError(t, err)
	require.Equal(t, "several names", string(b))
	require.FileExists(t, one+"/b/other")
	require.NoFileExists(t, one+"/b/plain")

	for _, missing := range []string{"c", "b/plain/x", "b/dee"} {
		err := repository.ReadTree(context.Background(), k.rep, saved.Root, volume.NewEncoder(io.Discard), missing)
		require.ErrorContains(t, err, "is not in the volume", missing)
	}
}

// A tar comes in the order of the directory, not sorted, with links before
// what is their first name when sorted.
func TestTreeFromAStreamThatIsNotSorted(t *testing.T) {
	k := newKopia(t)
	var b bytes.Buffer
	e := volume.NewEncoder(&b)
	when := time.Unix(1_600_000_000, 5)
	file := func(path, content string, x ...volume.Xattr) {
		require.NoError(t, e.Entry(&volume.Entry{Path: path, Type: volume.File, Linked: true, Mode: 0o640, ModTime: when, Xattrs: x}))
		require.NoError(t, e.Data([]byte(content)))
		require.NoError(t, e.End(volume.OK, ""))
	}
	dir := func(path string) {
		require.NoError(t, e.Entry(&volume.Entry{Path: path, Type: volume.Dir, Mode: 0o755, ModTime: when}))
	}
	link := func(path, to string) {
		require.NoError(t, e.Entry(&volume.Entry{Path: path, Type: volume.HardLink, Link: to, Mode: 0o640, ModTime: when}))
	}
	dir("")
	dir("z")
	for i := range 20_000 { // more attributes than are sorted in memory at once
		file(fmt.Sprintf("z/%05d", (i*7919)%20_000), "z", volume.Xattr{Name: "user.n", Value: []byte(fmt.Sprint(i))})
	}
	file("z/file", "linked", volume.Xattr{Name: "user.kept", Value: []byte("yes")})
	link("z/again", "z/file")
	dir("a")
	link("a/link", "z/file")
	file("a/0", "0")
	require.NoError(t, e.Entry(&volume.Entry{Path: "a/pipe", Type: volume.FIFO, Linked: true, Mode: 0o600, ModTime: when}))
	link("a/aa", "a/pipe")
	link("m", "a/pipe")
	require.NoError(t, e.Close())
	stream := b.Bytes()

	direct, dst := volumetest.Tmpfs(t), volumetest.Tmpfs(t)
	_, err := volume.WriteTree(context.Background(), volume.NewDecoder(bytes.NewReader(stream)), direct, volume.WriteOptions{})
	require.NoError(t, err)
	saved, err := k.write(bytes.NewReader(stream))
	require.NoError(t, err)
	require.Empty(t, k.restore(saved.Root, "", dst, volume.WriteOptions{}).Issues)
	requireSameTree(t, direct, dst)
}

func TestTreeKeepsWhatTheSenderSaid(t *testing.T) {
	k := newKopia(t)
	var b bytes.Buffer
	e := volume.NewEncoder(&b)
	require.NoError(t, e.Entry(&volume.Entry{Type: volume.Dir, Partial: true}))
	require.NoError(t, e.Entry(&volume.Entry{Path: "f", Type: volume.File}))
	require.NoError(t, e.End(volume.Changed, "grew"))
	require.NoError(t, e.Issue(volume.Issue{Path: "g", Kind: volume.Unreadable, What: "permission denied"}))
	require.NoError(t, e.Close())
	saved, err := k.write(&b)
	require.NoError(t, err)
	want := []volume.Issue{{Path: "f", Kind: volume.Changed, What: "grew"}, {Path: "g", Kind: volume.Unreadable, What: "permission denied"}}
	require.Equal(t, want, saved.Issues)
	got, err := repository.TreeIssues(context.Background(), k.rep, saved.Root)
	require.NoError(t, err)
	require.Equal(t, want, got)

	dst := t.TempDir()
	volumetest.Write(t, dst+"/unlisted", "kept, since the sender may not have seen it")
	k.restore(saved.Root, "", dst, volume.WriteOptions{Extra: volume.Remove})
	require.FileExists(t, dst+"/unlisted")
}

func TestAStreamThatEndsEarlyStoresNothing(t *testing.T) {
	k := newKopia(t)
	src := t.TempDir()
	for i := range 300 {
		volumetest.Write(t, fmt.Sprintf("%s/%d/f", src, i), strings.Repeat("x", i*3000))
	}
	var b bytes.Buffer
	require.NoError(t, volume.ReadTree(context.Background(), src, volume.NewEncoder(&b)))
	for _, cut := range []int{0, 1, 100, b.Len() / 3, b.Len() - 1} {
		result, err := k.write(bytes.NewReader(b.Bytes()[:cut]))
		require.ErrorIs(t, err, volume.ErrTruncated)
		require.Nil(t, result.Root)
	}
	bad := bytes.Clone(b.Bytes())
	bad[len(bad)/2] ^= 4
	_, err := k.write(bytes.NewReader(bad))
	require.ErrorIs(t, err, volume.ErrCorrupt)
	_, err = k.write(&b)
	require.NoError(t, err)
}

func TestDamageIsNamedAndTheRestComesBack(t *testing.T) {
	k := newKopia(t)
	src, dst := t.TempDir(), t.TempDir()
	volumetest.Write(t, src+"/lost/in", "in a directory that is lost")
	require.NoError(t, unix.Mkfifo(src+"/lost/pipe", 0o600))
	volumetest.Write(t, src+"/small", "a small one")
	volumetest.Write(t, src+"/kept", "kept")
	saved := k.save(src)
	ctx := context.Background()

	// Directory entries that point to what is not there stand for lost blobs.
	gone, err := object.ParseID("0123456789abcdef0123456789abcdef")
	require.NoError(t, err)
	goneDir, err := object.ParseID("k0123456789abcdef0123456789abcdef")
	require.NoError(t, err)
	root := *saved.Root
	require.NoError(t, repo.WriteSession(ctx, k.rep, repo.WriteSessionOptions{}, func(ctx context.Context, w repo.RepositoryWriter) error {
		in, err := w.OpenObject(ctx, root.ObjectID)
		if err != nil {
			return err
		}
		var m snapshot.DirManifest
		if err := json.NewDecoder(in).Decode(&m); err != nil {
			return err
		}
		for _, e := range m.Entries {
			switch e.Name {
			case "lost":
				e.ObjectID = goneDir
			case "small":
				e.ObjectID = gone
			}
		}
		root.ObjectID, err = snapshotfs.WriteDirManifest(ctx, w, "", &m, "zstd-fastest")
		return err
	}))
	issues, _, err := repository.VerifyTree(ctx, k.rep, &root)
	require.NoError(t, err)
	var named []string
	for _, i := range issues {
		require.True(t, i.Kind.Lost())
		named = append(named, i.Path)
	}
	require.ElementsMatch(t, []string{"lost", "small"}, named)

	volumetest.Write(t, dst+"/small", "what the target had")
	report := k.restore(&root, "", dst, volume.WriteOptions{})
	require.True(t, report.Lost())
	b, err := os.ReadFile(dst + "/kept")
	require.NoError(t, err)
	require.Equal(t, "kept", string(b))
	b, err = os.ReadFile(dst + "/small")
	require.NoError(t, err)
	require.Equal(t, "what the target had", string(b), "not replaced by an empty file")
}

// kopiaProgram is the stock kopia program.
func kopiaProgram(t testing.TB) string {
	program := os.Getenv("KOPIA")
	if program == "" {
		program = "../../bin/kopia"
	}
	require.FileExists(t, program, "hint: make bin/kopia, or name it in KOPIA")
	return program
}

// The stock kopia program reads what we write.
func TestStockKopiaReadsTheTree(t *testing.T) {
	program := kopiaProgram(t)
	k := newKopia(t)
	src := t.TempDir()
	for _, tree := range volumetest.Trees {
		if tree.Name == "holes" { // gigabytes of zeros, to a reader that knows no holes
			continue
		}
		require.NoError(t, os.Mkdir(filepath.Join(src, tree.Name), 0o755))
		tree.Build(t, filepath.Join(src, tree.Name))
	}
	require.NoError(t, os.Remove(src+"/names/"+strings.Repeat("\xe9", 255))) // too long as text
	saved := k.save(src)
	ctx := context.Background()
	var id string
	require.NoError(t, repo.WriteSession(ctx, k.rep, repo.WriteSessionOptions{}, func(ctx context.Context, w repo.RepositoryWriter) error {
		m := &snapshot.Manifest{Source: snapshot.SourceInfo{Host: "h", UserName: "u", Path: "/volume"}, RootEntry: saved.Root, StartTime: 1, EndTime: 2}
		found, err := snapshot.SaveSnapshot(ctx, w, m)
		id = string(found)
		return err
	}))
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(program, append(args, "--config-file", k.config, "--no-progress", "--log-level=error", "--disable-file-logging")...)
		cmd.Env = append(os.Environ(), "KOPIA_PASSWORD="+treePassword, "KOPIA_CHECK_FOR_UPDATES=false", "HOME="+t.TempDir())
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		return string(out)
	}
	require.Contains(t, run("snapshot", "list", "--all"), "u@h:/volume")
	run("snapshot", "verify", "--verify-files-percent=100")
	dst := t.TempDir()
	run("restore", id, dst)
	for _, p := range []string{"names/café", "links/store/big", "links/zz-big", "shapes of directories/flat/002093", "owners and modes/deep/er/program"} {
		want, err := os.ReadFile(filepath.Join(src, p))
		require.NoError(t, err)
		got, err := os.ReadFile(filepath.Join(dst, p))
		require.NoError(t, err)
		require.Equal(t, want, got, p)
	}
	want, err := volumetest.Describe(src + "/times/dir")
	require.NoError(t, err)
	got, err := volumetest.Describe(dst + "/times/dir")
	require.NoError(t, err)
	require.Equal(t, want["f"], got["f"])

	// And its own clean-up leaves all of it in place.
	run("maintenance", "set", "--owner=me")
	run("maintenance", "run", "--full", "--safety=none")
	require.NoError(t, k.rep.Refresh(ctx))
	back := t.TempDir()
	require.Empty(t, k.restore(saved.Root, "", back, volume.WriteOptions{}).Issues)
	requireSameTree(t, src, back)
}

// treeChildEnv makes this test program store or restore a tree by itself, to
// measure the memory that it takes.
const treeChildEnv = "TREE_TEST_CHILD"

func TestTreeInBoundedMemory(t *testing.T) {
	if mode := os.Getenv(treeChildEnv); mode != "" {
		treeChild(t, mode)
		return
	}
	k := newKopia(t)
	// In memory, which makes creating so many files a matter of seconds.
	src, dst := volumetest.Tmpfs(t), volumetest.Tmpfs(t)
	require.NoError(t, os.Mkdir(src+"/flat", 0o755))
	for i := range 200_000 {
		f, err := os.Create(fmt.Sprintf("%s/flat/%06x", src, i))
		require.NoError(t, err)
		if i%2 == 0 {
			fmt.Fprintln(f, i)
		}
		f.Close()
	}
	volumetest.Deep(t, src, "eight-by", 1000)
	root := filepath.Join(t.TempDir(), "root.json")
	for _, mode := range []string{"save " + src, "restore " + dst} {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestTreeInBoundedMemory$", "-test.v")
		cmd.Env = append(os.Environ(), treeChildEnv+"="+mode, "TREE_CONFIG="+k.config, "TREE_ROOT="+root)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		var kib int64
		for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
			fmt.Sscanf(s.Text(), "peak %d", &kib)
		}
		t.Logf("%s: %d MiB", mode, kib>>10)
		require.NotZero(t, kib, string(out))
		require.Less(t, kib, int64(256<<10))
	}
	requireSameTree(t, src, dst)
	files, _ := k.stored()
	require.Less(t, files, int64(5000))
}

func treeChild(t *testing.T, mode string) {
	ctx := context.Background()
	rep, err := repo.Open(ctx, os.Getenv("TREE_CONFIG"), treePassword, nil)
	require.NoError(t, err)
	k := &kopiaRepository{t: t, rep: rep}
	mode, dir, _ := strings.Cut(mode, " ")
	if mode == "save" {
		b, err := json.Marshal(k.save(dir).Root)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(os.Getenv("TREE_ROOT"), b, 0o600))
	} else {
		b, err := os.ReadFile(os.Getenv("TREE_ROOT"))
		require.NoError(t, err)
		var root snapshot.DirEntry
		require.NoError(t, json.Unmarshal(b, &root))
		require.Empty(t, k.restore(&root, "", dir, volume.WriteOptions{}).Issues)
	}
	require.NoError(t, rep.Close(ctx))
	status, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	var kib int64
	_, err = fmt.Sscan(after, &kib)
	require.NoError(t, err)
	fmt.Printf("peak %d\n", kib)
}
