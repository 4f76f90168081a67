package volume

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
)

// The longest values that a reader accepts. They bound what a damaged stream
// can make it allocate.
const (
	maxPath   = 4 << 20
	maxXattrs = 16 << 10
	maxData   = 1 << 20
	maxFrame  = 16 << 20
)

const (
	flagLinked  = 1
	flagPartial = 2
	flagTime    = 4
)

var errShort = errors.New("a field is cut short")

// AppendEntry appends the binary form of e to b. The path is stored as the
// number of bytes shared with the previous path, and the rest.
func AppendEntry(b []byte, e *Entry, previous string) []byte {
	var flags byte
	if e.Linked {
		flags |= flagLinked
	}
	if e.Partial {
		flags |= flagPartial
	}
	if !e.ModTime.IsZero() {
		flags |= flagTime
	}
	b = append(b, byte(e.Type), flags)
	b = appendPath(b, e.Path, previous)
	b = binary.AppendUvarint(b, uint64(e.Mode))
	b = binary.AppendUvarint(b, uint64(e.UID))
	b = binary.AppendUvarint(b, uint64(e.GID))
	if flags&flagTime != 0 {
		b = binary.AppendVarint(b, e.ModTime.Unix())
		b = binary.AppendUvarint(b, uint64(e.ModTime.Nanosecond()))
	}
	b = binary.AppendVarint(b, e.Size)
	switch e.Type {
	case Symlink, HardLink:
		b = appendString(b, e.Link)
	case CharDevice, BlockDevice:
		b = binary.AppendUvarint(b, e.Device)
	}
	b = binary.AppendUvarint(b, uint64(len(e.Xattrs)))
	for _, x := range e.Xattrs {
		b = appendString(b, x.Name)
		b = binary.AppendUvarint(b, uint64(len(x.Value)))
		b = append(b, x.Value...)
	}
	return b
}

// ParseEntry reads what AppendEntry wrote and returns what follows it. It
// refuses paths that lead out of the tree.
func ParseEntry(b []byte, previous string) (*Entry, []byte, error) {
	f := fields{b: b}
	e := &Entry{Type: Type(f.byte())}
	flags := f.byte()
	e.Linked, e.Partial = flags&flagLinked != 0, flags&flagPartial != 0
	e.Path = f.path(previous)
	e.Mode, e.UID, e.GID = uint32(f.max(0o7777)), uint32(f.max(1<<32-1)), uint32(f.max(1<<32-1))
	if flags&flagTime != 0 {
		sec := f.varint()
		e.ModTime = time.Unix(sec, int64(f.max(1e9-1)))
	}
	e.Size = f.varint()
	switch e.Type {
	case Symlink, HardLink:
		e.Link = string(f.bytes(maxPath))
	case CharDevice, BlockDevice:
		e.Device = f.max(1<<64 - 1)
	case File, Dir, FIFO, Socket:
	default:
		f.fail(fmt.Errorf("unknown type of entry %d", e.Type))
	}
	for n := f.max(maxXattrs); n > 0 && f.err == nil; n-- {
		name := string(f.bytes(maxData))
		e.Xattrs = append(e.Xattrs, Xattr{Name: name, Value: append([]byte(nil), f.bytes(maxFrame)...)})
	}
	if f.err == nil && e.Type == HardLink {
		f.fail(checkPath(e.Link))
		if e.Link == "" {
			f.fail(errors.New("a hard link to the root"))
		}
	}
	if f.err == nil && e.Path == "" && e.Type != Dir {
		f.fail(fmt.Errorf("the root is a %s", e.Type))
	}
	if f.err != nil {
		return nil, nil, f.err
	}
	return e, f.b, nil
}

func appendPath(b []byte, path, previous string) []byte {
	n := 0
	for n < len(path) && n < len(previous) && path[n] == previous[n] {
		n++
	}
	b = binary.AppendUvarint(b, uint64(n))
	return appendString(b, path[n:])
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// fields reads values off a slice and keeps the first error.
type fields struct {
	b   []byte
	err error
}

func (f *fields) fail(err error) {
	if f.err == nil {
		f.err = err
	}
}

func (f *fields) byte() byte {
	if len(f.b) == 0 {
		f.fail(errShort)
		return 0
	}
	c := f.b[0]
	f.b = f.b[1:]
	return c
}

func (f *fields) max(limit uint64) uint64 {
	v, n := binary.Uvarint(f.b)
	if n <= 0 {
		f.fail(errShort)
		f.b = nil
		return 0
	}
	f.b = f.b[n:]
	if v > limit {
		f.fail(fmt.Errorf("a value of %d where at most %d is possible", v, limit))
		return 0
	}
	return v
}

func (f *fields) varint() int64 {
	v, n := binary.Varint(f.b)
	if n <= 0 {
		f.fail(errShort)
		f.b = nil
		return 0
	}
	f.b = f.b[n:]
	return v
}

// bytes returns a part of the slice itself.
func (f *fields) bytes(limit uint64) []byte {
	n := f.max(limit)
	if n > uint64(len(f.b)) {
		f.fail(errShort)
		f.b = nil
		return nil
	}
	v := f.b[:n:n]
	f.b = f.b[n:]
	return v
}

func (f *fields) path(previous string) string {
	shared := f.max(maxPath)
	rest := f.bytes(maxPath)
	if shared > uint64(len(previous)) {
		f.fail(errors.New("a path that shares more than there is"))
		return ""
	}
	if int(shared)+len(rest) > maxPath {
		f.fail(fmt.Errorf("a path of more than %d bytes", maxPath))
		return ""
	}
	p := previous[:shared] + string(rest)
	if f.err == nil {
		f.fail(checkPath(p))
	}
	return p
}

// checkPath accepts only paths that stay below the root.
func checkPath(p string) error {
	if p == "" {
		return nil
	}
	if strings.IndexByte(p, 0) >= 0 {
		return fmt.Errorf("path %s has a zero byte", Escape(p))
	}
	for part := range strings.SplitSeq(p, "/") {
		if part == "" || part == "." || part == ".." {
			return fmt.Errorf("path %s leads out of the tree", Escape(p))
		}
	}
	return nil
}

// parentOf returns the path of the directory that holds p, which is not the root.
func parentOf(p string) string {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i]
	}
	return ""
}

// Compare orders paths as a sorted stream does: depth first, and the names in
// one directory by their bytes.
func Compare(a, b string) int {
	n := min(len(a), len(b))
	for i := 0; i < n; i++ {
		if a[i] == b[i] {
			continue
		}
		// A slash ends a name, so it sorts before every byte of a longer one.
		if a[i] == '/' {
			return -1
		}
		if b[i] == '/' {
			return 1
		}
		return int(a[i]) - int(b[i])
	}
	return len(a) - len(b)
}

// skipXattr is true for what belongs to the node and not to the data: the
// kubelet labels a volume for the pod that mounts it, and an old label would
// lock the new pod out.
func skipXattr(name string) bool { return name == "security.selinux" }
