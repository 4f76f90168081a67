//go:build linux

package volumetest

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Tree builds one kind of tree in an empty directory.
type Tree struct {
	Name  string
	Build func(t testing.TB, root string)
}

// Trees is one tree for each kind of attribute that a volume can hold. They
// need root and a file system such as ext4 or XFS.
var Trees = []Tree{
	{"empty root", func(testing.TB, string) {}},
	{"holes", holes},
	{"links", links},
	{"special files", special},
	{"names", names},
	{"owners and modes", owners},
	{"times", times},
	{"extended attributes", attributes},
	{"shapes of directories", shapes},
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Write makes a file with the directories that it needs.
func Write(t testing.TB, path, content string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(content), 0o644))
}

func sparse(t testing.TB, path string, size int64, at map[int64]string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	must(t, f.Truncate(size))
	for off, s := range at {
		_, err := f.WriteAt([]byte(s), off)
		must(t, err)
	}
	must(t, f.Close())
}

func holes(t testing.TB, root string) {
	at := func(n string) string { return filepath.Join(root, n) }
	sparse(t, at("all-hole"), 3<<30, nil)
	sparse(t, at("middle"), 5<<30, map[int64]string{2 << 30: "data in the middle"})
	sparse(t, at("head-and-hole"), 1<<30, map[int64]string{0: "begins"})
	sparse(t, at("hole-and-tail"), 1<<30+5, map[int64]string{1 << 30: "tails"})
	sparse(t, at("small"), 64<<10, map[int64]string{32 << 10: "small and sparse"})
	many := map[int64]string{}
	for i := range int64(200) {
		many[i*128<<10] = strings.Repeat("x", 4096)
	}
	sparse(t, at("many-small-holes"), 200*128<<10, many)
	Write(t, at("allocated-zeros"), strings.Repeat("\x00", 1<<20))
	Write(t, at("empty"), "")
	Write(t, at("large"), strings.Repeat("0123456789abcde\n", 600_000))
}

func links(t testing.TB, root string) {
	at := func(n string) string { return filepath.Join(root, n) }
	Write(t, at("store/one"), "linked content")
	must(t, os.Mkdir(at("alias"), 0o755))
	must(t, os.Link(at("store/one"), at("alias/first")))
	must(t, os.Link(at("store/one"), at("store/two")))
	Write(t, at("store/big"), strings.Repeat("large and linked ", 100_000))
	must(t, os.Link(at("store/big"), at("zz-big")))
	sparse(t, at("store/holes"), 64<<20, map[int64]string{1 << 20: "!"})
	must(t, os.Link(at("store/holes"), at("zz-holes")))
	for name, target := range map[string]string{
		"alias/relative": "../store/one", "nowhere": "/no/such/file", "self": ".", "to-dir": "store",
		"bytes": "caf\xe9/\xff", "long": strings.Repeat("y", 4000),
	} {
		must(t, os.Symlink(target, at(name)))
	}
	must(t, os.Lchown(at("nowhere"), 4242, 4343))
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, at("nowhere"), []unix.Timespec{{}, {Sec: 12345, Nsec: 678}}, unix.AT_SYMLINK_NOFOLLOW))
	must(t, os.Link(at("nowhere"), at("nowhere-too")))
	must(t, unix.Mkfifo(at("pipe"), 0o640))
	must(t, os.Link(at("pipe"), at("pipe-too")))
	must(t, os.Chmod(at("store"), 0o500))
}

func special(t testing.TB, root string) {
	at := func(n string) string { return filepath.Join(root, n) }
	Write(t, at("00-before"), "before")
	Write(t, at("99-after"), "after")
	must(t, unix.Mkfifo(at("10-pipe"), 0o620))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: at("11-socket")})
	must(t, err)
	l.SetUnlinkOnClose(false)
	must(t, l.Close())
	must(t, unix.Mknod(at("12-char"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 7))))
	must(t, unix.Mknod(at("13-block"), unix.S_IFBLK|0o600, int(unix.Mkdev(259, 300000))))
	must(t, os.Mkdir(at("dir"), 0o755))
	must(t, unix.Mkfifo(at("dir/only-a-pipe"), 0o600))
}

func names(t testing.TB, root string) {
	for i, n := range []string{
		"caf\xe9", "café", "cafe\u0301", "\xff\xfe", "new\nline", "tab\t", "cr\r", "space ", "dot.", " lead", "back\\slash",
		"a:b*c?d|e<f>g\"h", "-rf", "~", "nul", "\x01\x02\x7f", "%2e%2e", "...", strings.Repeat("m", 255), strings.Repeat("\xe9", 255),
		"\u2028", "\ufffd", "\xed\xa0\x80", ".kubectl-backup.attributes", ".kubectl-backup.bytes.x", "k\xc0\xaf",
	} {
		Write(t, filepath.Join(root, n), fmt.Sprint("content ", i))
	}
	Write(t, filepath.Join(root, "dir \xa0", "in\xff", "deep\xfe"), "in")
	// Names that sort otherwise than the paths they are part of.
	Write(t, filepath.Join(root, "a", "b"), "1")
	Write(t, filepath.Join(root, "a.b"), "2")
	Write(t, filepath.Join(root, "a-b"), "3")
	Write(t, filepath.Join(root, "a b", "c"), "4")
}

func owners(t testing.TB, root string) {
	at := func(n string) string { return filepath.Join(root, n) }
	must(t, os.MkdirAll(at("kept/0"), 0o755))
	must(t, os.MkdirAll(at("deep/er"), 0o755))
	must(t, os.Mkdir(at("lost+found"), 0o700))
	Write(t, at("lost+found/#12"), "found")
	Write(t, at("deep/er/program"), "x")
	Write(t, at("deep/secret"), "s")
	Write(t, at("ours"), "u")
	must(t, os.Chown(at("kept/0"), 1000680000, 1000680001))
	must(t, os.Chown(at("ours"), 4294967294, 4294967294))
	must(t, unix.Chmod(at("kept/0"), 0o2770))
	must(t, os.Chown(at("deep/er/program"), 12, 34))
	must(t, unix.Chmod(at("deep/er/program"), 0o6755))
	must(t, unix.Chmod(at("deep/secret"), 0))
	must(t, unix.Chmod(at("deep/er"), 0o555))
	must(t, unix.Chmod(at("deep"), 0o1777))
	must(t, unix.Chmod(root, 0o3751))
	must(t, os.Chown(root, 77, 88))
}

func times(t testing.TB, root string) {
	at := func(n string) string { return filepath.Join(root, n) }
	must(t, os.MkdirAll(at("dir/sub"), 0o755))
	for name, when := range map[string]time.Time{
		"dir/f":   time.Date(2019, 3, 4, 5, 6, 7, 123456789, time.UTC),
		"old":     time.Date(1923, 1, 2, 3, 4, 5, 999999999, time.UTC),
		"minus":   time.Unix(-1, 1),
		"epoch":   time.Unix(0, 0),
		"later":   time.Date(2201, 1, 1, 0, 0, 0, 7, time.UTC),
		"dir/sub": time.Date(2018, 1, 1, 0, 0, 0, 1, time.UTC),
		"dir":     time.Date(2017, 1, 1, 0, 0, 0, 2, time.UTC),
	} {
		if !strings.HasPrefix(name, "dir") || name == "dir/f" {
			Write(t, at(name), name)
		}
		must(t, os.Chtimes(at(name), when, when))
	}
	must(t, os.Chtimes(at("dir"), time.Unix(3, 0), time.Unix(1, 5)))
	must(t, os.Chtimes(root, time.Unix(3, 0), time.Unix(-86400*365, 250)))
}

func attributes(t testing.TB, root string) {
	at := func(n string) string { return filepath.Join(root, n) }
	set := func(name, attr string, value []byte) { must(t, unix.Lsetxattr(at(name), attr, value, 0)) }
	Write(t, at("tool"), "#!tool")
	Write(t, at("note"), "n")
	must(t, os.Mkdir(at("dir"), 0o755))
	must(t, os.Symlink("note", at("link")))
	must(t, os.Chown(at("tool"), 1001, 1002))
	set("tool", "security.capability", []byte{1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	set("note", "user.id", []byte("\x00\x01bin\xff"))
	set("note", "user.empty", nil)
	set("note", "user.large", []byte(strings.Repeat("v", 2000)))
	set("note", "user.\xff name", []byte("odd name"))
	set("note", "trusted.node", []byte("1"))
	set("link", "trusted.of-a-link", []byte("2"))
	set("dir", "user.dir", []byte("yes"))
	set("", "user.root", []byte("the root has some too"))
	set("dir", "system.posix_acl_default", ACL([3]uint32{1, 7, ^uint32(0)}, [3]uint32{2, 5, 4711}, [3]uint32{4, 5, ^uint32(0)}, [3]uint32{16, 5, ^uint32(0)}, [3]uint32{32, 0, ^uint32(0)}))
	set("dir", "system.posix_acl_access", ACL([3]uint32{1, 7, ^uint32(0)}, [3]uint32{2, 4, 4711}, [3]uint32{4, 5, ^uint32(0)}, [3]uint32{16, 7, ^uint32(0)}, [3]uint32{32, 0, ^uint32(0)}))
	set("note", "system.posix_acl_access", ACL([3]uint32{1, 6, ^uint32(0)}, [3]uint32{4, 4, ^uint32(0)}, [3]uint32{8, 6, 815}, [3]uint32{16, 2, ^uint32(0)}, [3]uint32{32, 1, ^uint32(0)}))
	Write(t, at("dir/inherits"), "an ACL of its own from the directory")
	must(t, os.Remove(at("dir/inherits")))
	Write(t, at("dir/plain"), "made before")
	must(t, unix.Lremovexattr(at("dir/plain"), "system.posix_acl_access"))
	must(t, os.Chmod(at("dir/plain"), 0o604))
	must(t, os.Chmod(at("note"), 0o421))
}

func shapes(t testing.TB, root string) {
	at := func(n string) string { return filepath.Join(root, n) }
	must(t, os.MkdirAll(at("empty/in/empty"), 0o755))
	for i := range 300 {
		Write(t, at(fmt.Sprintf("wide/%03d/leaf", i)), fmt.Sprint(i))
		Write(t, at(fmt.Sprintf("flat/%06d", i*7)), strings.Repeat("z", i*911))
	}
	for i := range 200 {
		Write(t, at("zz"+strings.Repeat("/d", i)+"/f"), fmt.Sprint(i))
	}
}

// Deep makes a chain of directories, longer than the system takes as a path,
// with a file at the bottom.
func Deep(t testing.TB, root, name string, depth int) {
	t.Helper()
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	must(t, err)
	for range depth {
		must(t, unix.Mkdirat(fd, name, 0o755))
		next, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		must(t, err)
		unix.Close(fd)
		fd = next
	}
	file, err := unix.Openat(fd, "bottom", unix.O_CREAT|unix.O_WRONLY, 0o644)
	must(t, err)
	_, err = unix.Write(file, []byte("here"))
	must(t, err)
	unix.Close(file)
	unix.Close(fd)
}

// Mount mounts a file system without a device, for as long as the test runs.
func Mount(t testing.TB, kind, at, options string) {
	t.Helper()
	must(t, os.MkdirAll(at, 0o755))
	if err := unix.Mount("none", at, kind, 0, options); err != nil {
		t.Fatalf("mount %s, which needs root: %v", kind, err)
	}
	// A process that is about to end may be in it still.
	t.Cleanup(func() { must(t, unix.Unmount(at, unix.MNT_DETACH)) })
}

// Tmpfs is an empty file system in memory.
func Tmpfs(t testing.TB) string {
	t.Helper()
	at := t.TempDir()
	Mount(t, "tmpfs", at, "size=4g,nr_inodes=0,mode=755")
	return at
}
