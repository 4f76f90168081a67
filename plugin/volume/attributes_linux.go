package volume

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// target is a file whose attributes are set: an open one, or a name in a
// directory for what cannot be opened.
type target struct {
	fd   int
	dir  *directory
	name string
}

func (t target) chown(uid, gid int) error {
	return retry(func() error {
		if t.fd >= 0 {
			return unix.Fchown(t.fd, uid, gid)
		}
		return unix.Fchownat(t.dir.fd, t.name, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
	})
}

func (t target) chmod(mode uint32) error {
	return retry(func() error {
		if t.fd >= 0 {
			return unix.Fchmod(t.fd, mode)
		}
		return unix.Fchmodat(t.dir.fd, t.name, mode, 0)
	})
}

func (t target) setXattr(x Xattr) error {
	return retry(func() error {
		if t.fd >= 0 {
			return unix.Fsetxattr(t.fd, x.Name, x.Value, 0)
		}
		return unix.Lsetxattr(t.dir.procPath(t.name), x.Name, x.Value, 0)
	})
}

func (t target) setTime(e *Entry) error {
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: e.ModTime.Unix(), Nsec: int64(e.ModTime.Nanosecond())}}
	return retry(func() error {
		if t.fd >= 0 {
			err := unix.UtimesNanoAt(t.fd, "", ts, unix.AT_EMPTY_PATH)
			if err == unix.EINVAL || err == unix.ENOENT { // kernels before 5.8
				err = unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", t.fd), ts, 0)
			}
			return err
		}
		return unix.UtimesNanoAt(t.dir.fd, t.name, ts, unix.AT_SYMLINK_NOFOLLOW)
	})
}

func (t target) stat() (stat, error) {
	if t.fd >= 0 {
		return statFD(t.fd)
	}
	return statAt(t.dir.fd, t.name)
}

// attributes sets what an entry says, in the order in which one does not undo
// another: a change of owner clears setuid and capabilities, an ACL changes
// the mode, a mode without write forbids user attributes, and everything
// changes times. What the target refuses is an issue.
func (w *writer) attributes(t target, e *Entry) {
	var refused []string
	mode := e.Mode
	if err := w.owner(t, e); err != nil {
		refused = append(refused, fmt.Sprintf("owner %d:%d: %s", e.UID, e.GID, err))
		if mode&0o6000 != 0 && e.Type == File {
			// Setuid for the wrong owner would hand out that owner's rights.
			refused = append(refused, fmt.Sprintf("mode %#o: setuid and setgid left out, for the owner is another", mode))
			mode &^= 0o6000
		}
	}
	refused = append(refused, w.xattrs(t, e)...)
	if e.Type != Symlink {
		if err := t.chmod(mode); err != nil {
			refused = append(refused, fmt.Sprintf("mode %#o: %s", mode, err))
		}
	}
	if !e.ModTime.IsZero() {
		if err := t.setTime(e); err != nil {
			refused = append(refused, "time: "+err.Error())
		}
	}
	if len(refused) == 0 {
		refused = t.differs(e, mode)
	}
	if len(refused) > 0 {
		w.issue(e.Path, NotSet, strings.Join(refused, "; "))
	}
}

// differs looks at what became of it: file systems round times that they
// cannot hold, and chmod drops setgid for a foreign group, without an error.
func (t target) differs(e *Entry, mode uint32) []string {
	st, err := t.stat()
	if err != nil {
		return []string{err.Error()}
	}
	var out []string
	if got := uint32(st.Mode) & 0o7777; got != mode && e.Type != Symlink {
		out = append(out, fmt.Sprintf("mode %#o: it became %#o", mode, got))
	}
	got := time.Unix(st.Mtime.Sec, int64(st.Mtime.Nsec))
	if !e.ModTime.IsZero() && !got.Equal(e.ModTime) {
		out = append(out, fmt.Sprintf("time %s: it became %s", e.ModTime.UTC().Format(time.RFC3339Nano), got.UTC().Format(time.RFC3339Nano)))
	}
	return out
}

func (w *writer) owner(t target, e *Entry) error {
	if w.euid != 0 {
		// Without rights a change to what it already is may still be refused.
		if st, err := t.stat(); err == nil && st.Uid == e.UID && st.Gid == e.GID {
			return nil
		}
		if e.UID == w.euid {
			return t.chown(-1, int(e.GID))
		}
	}
	return t.chown(int(e.UID), int(e.GID))
}

// xattrs makes the extended attributes those of the entry.
func (w *writer) xattrs(t target, e *Entry) []string {
	var refused []string
	for _, x := range e.Xattrs {
		err := t.setXattr(x)
		if err == nil {
			continue
		}
		space, _, _ := strings.Cut(x.Name, ".")
		if errors.Is(err, unix.EOPNOTSUPP) {
			w.mu.Lock()
			said := w.noXattr[space]
			w.noXattr[space] = true
			w.mu.Unlock()
			if !said {
				w.issue("", NotSet, fmt.Sprintf("the target's file system takes no extended attributes %s.*; this is said once, first met at %s", space, Escape(e.Path)))
			}
			continue
		}
		refused = append(refused, fmt.Sprintf("extended attribute %s: %s", Escape(x.Name), err))
	}
	if e.Type != Dir {
		return refused // it is new
	}
	// A directory may have been there, with others.
	have, err := xattrsFD(t.fd)
	if err != nil {
		return append(refused, err.Error())
	}
	for _, x := range have {
		foreign := !strings.HasPrefix(x.Name, "user.") && !strings.HasPrefix(x.Name, "system.posix_acl_")
		if foreign || slices.ContainsFunc(e.Xattrs, func(y Xattr) bool { return x.Name == y.Name }) {
			continue
		}
		if err := unix.Fremovexattr(t.fd, x.Name); err != nil {
			refused = append(refused, fmt.Sprintf("extended attribute %s could not be removed: %s", Escape(x.Name), err))
		}
	}
	return refused
}
