//go:build linux

// Package volumetest compares file trees for tests, attribute by attribute.
// It shares no code with what it tests and is no part of the program.
package volumetest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Describe lists everything that a user would lose about the tree below root,
// a line for each file. It opens nothing but regular files and directories.
// Files with several names are told by the first of them.
func Describe(root string) (map[string]string, error) {
	out := map[string]string{}
	groups := map[[2]uint64][]string{}
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := describe(fd, "", out, groups); err != nil {
		return nil, err
	}
	for _, names := range groups {
		if len(names) > 1 {
			sort.Strings(names)
			for _, n := range names {
				out[n] += fmt.Sprintf(" same-file-as=%q", names)
			}
		}
	}
	return out, nil
}

func describe(fd int, path string, out map[string]string, groups map[[2]uint64][]string) error {
	line, err := one(fd, "")
	if err != nil {
		return err
	}
	out[path] = line
	dup, err := unix.Dup(fd)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(dup), path)
	names, err := f.Readdirnames(-1)
	f.Close()
	if err != nil {
		return err
	}
	for _, name := range names {
		child := strings.TrimPrefix(path+"/"+name, "/")
		var st unix.Stat_t
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("%q: %w", child, err)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			sub, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
			if err != nil {
				return fmt.Errorf("%q: %w", child, err)
			}
			err = describe(sub, child, out, groups)
			unix.Close(sub)
			if err != nil {
				return err
			}
			continue
		}
		if st.Nlink > 1 {
			id := [2]uint64{st.Dev, st.Ino}
			groups[id] = append(groups[id], child)
		}
		if out[child], err = one(fd, name); err != nil {
			return fmt.Errorf("%q: %w", child, err)
		}
	}
	return nil
}

func one(dir int, name string) (string, error) {
	var st unix.Stat_t
	flags := unix.AT_SYMLINK_NOFOLLOW
	if name == "" {
		flags = unix.AT_EMPTY_PATH
	}
	if err := unix.Fstatat(dir, name, &st, flags); err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "mode=%o owner=%d:%d time=%s", st.Mode, st.Uid, st.Gid,
		time.Unix(st.Mtim.Sec, st.Mtim.Nsec).UTC().Format(time.RFC3339Nano))
	path := fmt.Sprintf("/proc/self/fd/%d/%s", dir, name)
	if name == "" {
		path = fmt.Sprintf("/proc/self/fd/%d/.", dir)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		sum, holes, err := content(path, st.Size)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, " size=%d sum=%x holes=%s", st.Size, sum[:8], holes)
	case unix.S_IFLNK:
		target := make([]byte, 8192)
		n, err := unix.Readlinkat(dir, name, target)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, " to=%q", target[:n])
	case unix.S_IFCHR, unix.S_IFBLK:
		fmt.Fprintf(&b, " device=%d,%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	attrs, err := xattrs(path)
	b.WriteString(attrs)
	return b.String(), err
}

func xattrs(path string) (string, error) {
	list := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, list)
	if err == unix.EOPNOTSUPP {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	names := strings.FieldsFunc(string(list[:n]), func(r rune) bool { return r == 0 })
	sort.Strings(names)
	var b strings.Builder
	for _, name := range names {
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, " %s=%x", name, value[:n])
	}
	return b.String(), nil
}

func content(path string, size int64) ([32]byte, string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return [32]byte{}, "", err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	h := sha256.New()
	var holes []string
	for at := int64(0); at < size; {
		data, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			data = size
		} else if err != nil {
			return [32]byte{}, "", err
		}
		if data > at {
			holes = append(holes, fmt.Sprintf("%d+%d", at, data-at))
			// Position and length stand for a large hole: hashing gigabytes of
			// zeros would only cost time.
			fmt.Fprintf(h, "%d", data-at)
			at = data
			continue
		}
		end, err := unix.Seek(fd, at, unix.SEEK_HOLE)
		if err != nil {
			return [32]byte{}, "", err
		}
		if _, err := io.Copy(h, io.NewSectionReader(f, at, end-at)); err != nil {
			return [32]byte{}, "", err
		}
		at = end
	}
	return [32]byte(h.Sum(nil)), "[" + strings.Join(holes, " ") + "]", nil
}

// Differences compares two trees and returns a line for each file that is not
// the same in both; nil means equal in every attribute. Paths in ignore are
// left out.
func Differences(a, b string, ignore ...string) ([]string, error) {
	left, err := Describe(a)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a, err)
	}
	right, err := Describe(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", b, err)
	}
	for _, p := range ignore {
		delete(left, p)
		delete(right, p)
	}
	var out []string
	for p, l := range left {
		if r, ok := right[p]; !ok {
			out = append(out, fmt.Sprintf("%q is missing: %s", p, l))
		} else if l != r {
			out = append(out, fmt.Sprintf("%q\n  was %s\n  is  %s", p, l, r))
		}
	}
	for p := range right {
		if _, ok := left[p]; !ok {
			out = append(out, fmt.Sprintf("%q is new: %s", p, right[p]))
		}
	}
	sort.Strings(out)
	return out, nil
}

// ACL is the binary form of a POSIX ACL: tag, permissions, id for each entry.
func ACL(entries ...[3]uint32) []byte {
	var b bytes.Buffer
	b.Write([]byte{2, 0, 0, 0})
	for _, e := range entries {
		b.Write([]byte{byte(e[0]), byte(e[0] >> 8), byte(e[1]), byte(e[1] >> 8)})
		b.Write([]byte{byte(e[2]), byte(e[2] >> 8), byte(e[2] >> 16), byte(e[2] >> 24)})
	}
	return b.Bytes()
}
