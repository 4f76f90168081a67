package volume

import (
	"bytes"
	"errors"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// stat is what the system says about one file.
type stat struct {
	unix.Statx_t
}

const statMask = unix.STATX_BASIC_STATS

func statAt(dir int, name string) (stat, error) {
	var s stat
	err := retry(func() error {
		return unix.Statx(dir, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, statMask, &s.Statx_t)
	})
	return s, err
}

func statFD(fd int) (stat, error) {
	var s stat
	err := retry(func() error { return unix.Statx(fd, "", unix.AT_EMPTY_PATH, statMask, &s.Statx_t) })
	return s, err
}

func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

func (s *stat) dev() uint64 { return unix.Mkdev(s.Dev_major, s.Dev_minor) }

func (s *stat) id() fileID { return fileID{s.dev(), s.Ino} }

func (s *stat) isDir() bool { return s.Mode&unix.S_IFMT == unix.S_IFDIR }

// mounted says that another file system begins here, on a volume whose root
// has the device number dev. Kernels from 5.8 know it for sure, also for what
// is mounted from the same file system; before, a change of device says it.
func (s *stat) mounted(dev uint64) bool {
	if s.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return s.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
	}
	return s.dev() != dev
}

// changed says that the file was written to between two looks at it.
func (s *stat) changed(o *stat) bool {
	return s.Size != o.Size || s.Mtime != o.Mtime || s.Ctime != o.Ctime || s.Ino != o.Ino
}

// kind is the type that the file has by itself, as if it had one name only.
func (s *stat) kind() Type {
	switch s.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return File
	case unix.S_IFDIR:
		return Dir
	case unix.S_IFLNK:
		return Symlink
	case unix.S_IFIFO:
		return FIFO
	case unix.S_IFSOCK:
		return Socket
	case unix.S_IFCHR:
		return CharDevice
	case unix.S_IFBLK:
		return BlockDevice
	}
	return 0
}

func (s *stat) modified() time.Time { return time.Unix(s.Mtime.Sec, int64(s.Mtime.Nsec)) }

// entry is the entry for a file, without its link and extended attributes.
func (s *stat) entry(path string) *Entry {
	e := &Entry{Path: path, Type: s.kind(), Mode: uint32(s.Mode) & 0o7777, UID: s.Uid, GID: s.Gid, ModTime: s.modified()}
	switch e.Type {
	case File:
		e.Size = int64(s.Size)
	case CharDevice, BlockDevice:
		e.Device = unix.Mkdev(s.Rdev_major, s.Rdev_minor)
	}
	e.Linked = s.Nlink > 1 && e.Type != Dir
	return e
}

// xattrs lists the extended attributes by the two given system calls.
func xattrs(list func([]byte) (int, error), get func(string, []byte) (int, error)) ([]Xattr, error) {
	var small [1024]byte
	names, err := grow(small[:], list)
	if err != nil || len(names) == 0 {
		if errors.Is(err, unix.EOPNOTSUPP) {
			err = nil
		}
		return nil, err
	}
	var out []Xattr
	var failed error
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		if skipXattr(name) {
			continue
		}
		var small [256]byte
		value, err := grow(small[:], func(b []byte) (int, error) { return get(name, b) })
		switch {
		case err == nil:
			out = append(out, Xattr{Name: name, Value: bytes.Clone(value)})
		case errors.Is(err, unix.ENODATA):
		default:
			failed = errors.New("extended attribute " + Escape(name) + ": " + err.Error())
		}
	}
	return out, failed
}

// grow calls with larger and larger buffers until the answer fits.
func grow(b []byte, call func([]byte) (int, error)) ([]byte, error) {
	for {
		n, err := call(b)
		if err == unix.EINTR {
			continue
		}
		if err != unix.ERANGE {
			return b[:max(n, 0)], err
		}
		if len(b) >= maxFrame {
			return nil, unix.E2BIG
		}
		b = make([]byte, 8*len(b))
	}
}

func xattrsFD(fd int) ([]Xattr, error) {
	return xattrs(func(b []byte) (int, error) { return unix.Flistxattr(fd, b) },
		func(name string, b []byte) (int, error) { return unix.Fgetxattr(fd, name, b) })
}

func xattrsAt(dir *directory, name string) ([]Xattr, error) {
	path := dir.procPath(name)
	return xattrs(func(b []byte) (int, error) { return unix.Llistxattr(path, b) },
		func(name string, b []byte) (int, error) { return unix.Lgetxattr(path, name, b) })
}

func readLink(dir int, name string) (string, error) {
	for size := 256; ; size *= 4 {
		b := make([]byte, size)
		n, err := unix.Readlinkat(dir, name, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n < size {
			return string(b[:max(n, 0)]), err
		}
	}
}

// readNames lists a directory, unsorted.
func readNames(fd int) ([]string, error) {
	var names []string
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.ReadDirent(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return names, err
		}
		for b := buf[:n]; len(b) > 0; {
			consumed, _, list := unix.ParseDirent(b, -1, nil)
			if consumed <= 0 {
				break
			}
			names = append(names, list...)
			b = b[consumed:]
		}
	}
}
