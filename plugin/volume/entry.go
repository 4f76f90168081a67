// Package volume turns a file tree into a stream of bytes and a stream back
// into a file tree, with every attribute that the two file systems can hold:
// owners, modes, times in nanoseconds, extended attributes, ACLs,
// capabilities, hard links, holes, special files, names of any bytes.
//
//	ReadTree  a directory  -> Encoder     the sender, runs beside the data
//	WriteTree Decoder      -> a directory the receiver
//	FromTar   a tar stream -> Encoder     for senders whose only tool is tar
//
// The stream is self-delimiting and ends in a trailer with counts and a
// checksum: a stream that was cut short is never taken for a whole one. Its
// order is depth first, a directory before what is in it. ReadTree delivers
// the children of a directory sorted by the bytes of their names; FromTar
// delivers them as the tar has them.
//
// Whatever could not be read or set is an Issue with the path and the reason;
// the rest of the tree goes on.
//
// The package does not store anything, does not know Kubernetes, compresses
// nothing and encrypts nothing. ReadTree and WriteTree work on Linux only;
// the stream itself is the same everywhere.
package volume

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Type is the kind of a file.
type Type uint8

// The types of entries. HardLink is a further name of an entry that came
// before it in the same stream.
const (
	File Type = iota + 1
	Dir
	Symlink
	FIFO
	Socket
	CharDevice
	BlockDevice
	HardLink
)

func (t Type) String() string {
	switch t {
	case File:
		return "file"
	case Dir:
		return "directory"
	case Symlink:
		return "symbolic link"
	case FIFO:
		return "named pipe"
	case Socket:
		return "socket"
	case CharDevice:
		return "character device"
	case BlockDevice:
		return "block device"
	case HardLink:
		return "hard link"
	}
	return "type " + strconv.Itoa(int(t))
}

// Entry is one file of a tree, without its content.
type Entry struct {
	// Path is relative to the root, separated by slashes, in the bytes that
	// the file system has. The root itself is "".
	Path string
	Type Type
	// Linked says that further names of this file may follow as HardLink.
	Linked bool
	// Partial says that a directory could not be listed whole: that a name is
	// absent in the stream does not mean that it was absent in the tree.
	Partial bool
	// Mode is the twelve permission bits, 04000 being setuid, 02000 setgid
	// and 01000 the sticky bit.
	Mode     uint32
	UID, GID uint32
	// ModTime has nanoseconds and may lie before 1970. The zero value stands
	// for a time that is not known and is not set.
	ModTime time.Time
	// Size is what the sender saw before it read the file, a hint for
	// progress. The true length is known at the end of the content.
	Size int64
	// Link is the target of a Symlink in raw bytes, or for a HardLink the
	// path of the name that came first.
	Link string
	// Device is the device number of a CharDevice or BlockDevice as mknod
	// takes it on Linux.
	Device uint64
	Xattrs []Xattr
}

// Depth is the number of directories above the entry: 0 for the root.
func (e *Entry) Depth() int {
	if e.Path == "" {
		return 0
	}
	return strings.Count(e.Path, "/") + 1
}

// Name is the last part of the path.
func (e *Entry) Name() string { return e.Path[strings.LastIndexByte(e.Path, '/')+1:] }

// Xattr is one extended attribute. ACLs and file capabilities are extended
// attributes as well: system.posix_acl_access, security.capability.
type Xattr struct {
	Name  string
	Value []byte
}

// Run is a piece of a file's content: bytes, or a hole that reads as zeros
// and has no blocks on disk.
type Run struct {
	// Data is valid until the next call that yields a Run.
	Data []byte
	// Hole is the length of a hole; Data is then empty.
	Hole int64
}

// Extent is a stretch of a file.
type Extent struct{ Offset, Length int64 }

// Kind says what is wrong with a path.
type Kind uint8

// Kinds of issues. OK is none.
const (
	OK Kind = iota
	// Changed: the file was written to while it was read. What is stored is
	// what was read, of the length that was read.
	Changed
	// Vanished: the name was listed and then gone.
	Vanished
	// Unreadable: data of the tree is missing from the stream.
	Unreadable
	// Skipped: left out on purpose, such as what is mounted inside the volume.
	Skipped
	// NotKept: the way that the tree was read cannot carry this attribute.
	NotKept
	// NotSet: the target refused an attribute, or making a special file.
	NotSet
	// NotWritten: the target lacks this file, or lacks part of its content.
	NotWritten
)

func (k Kind) String() string {
	switch k {
	case OK:
		return "ok"
	case Changed:
		return "changed while read"
	case Vanished:
		return "vanished"
	case Unreadable:
		return "unreadable"
	case Skipped:
		return "skipped"
	case NotKept:
		return "not kept"
	case NotSet:
		return "not set"
	case NotWritten:
		return "not written"
	}
	return "kind " + strconv.Itoa(int(k))
}

// Issue is one thing that a reader of a report should know about one path.
type Issue struct {
	// Path is printable: see Escape.
	Path string
	Kind Kind
	// What is the reason, such as the error text of the system.
	What string
}

// Lost says that content is missing, so that the volume was not saved, or not
// restored, completely.
func (i Issue) Lost() bool { return i.Kind.Lost() }

// Lost is that of an issue of this kind.
func (k Kind) Lost() bool { return k == Unreadable || k == NotWritten }

func (i Issue) String() string {
	if i.What == "" {
		return fmt.Sprintf("%s: %s", i.Path, i.Kind)
	}
	return fmt.Sprintf("%s: %s: %s", i.Path, i.Kind, i.What)
}

// Escape makes a path printable on one line. A path that is plain text stays
// as it is, any other becomes a quoted string with escapes, and the root is ".".
func Escape(path string) string {
	if path == "" {
		return "."
	}
	if q := strconv.Quote(path); q[1:len(q)-1] != path || strings.TrimSpace(path) != path {
		return q
	}
	return path
}

// maxIssues bounds the memory that a tree full of trouble may take. Further
// issues are counted.
const maxIssues = 20000

// Issues is a list that stays bounded: after 20,000 issues it only counts.
type Issues struct {
	list []Issue
	more int
	lost bool
}

// Add appends an issue.
func (l *Issues) Add(i Issue) {
	l.lost = l.lost || i.Kind.Lost()
	if len(l.list) >= maxIssues {
		l.more++
		return
	}
	l.list = append(l.list, i)
}

// List returns the issues, and a last one that says how many were left off.
func (l *Issues) List() []Issue {
	if l.more == 0 {
		return l.list
	}
	kind := Skipped
	if l.lost {
		kind = Unreadable
	}
	return append(l.list[:len(l.list):len(l.list)],
		Issue{Path: ".", Kind: kind, What: fmt.Sprintf("and %d more issues that are not listed", l.more)})
}
