package volume

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// ScanOptions say how a tree is scanned.
type ScanOptions struct {
	// Workers is how many goroutines call Work; 0 means two.
	Workers int
	// Found, if set, is called for each entry in order before all else, from
	// one goroutine, so that what is known of it can be looked up.
	Found func(*Item)
	// Work is called for each entry that is no directory, from any of the
	// workers. It calls Skip, or Open and then Read.
	Work func(*Item)
	// Each is called for each entry in order, from one goroutine, once Work is
	// done with it. An error ends the scan.
	Each func(*Item) error
}

// scanAhead is how many entries are worked on ahead of their turn.
const scanAhead = 512

// Scan goes through the tree below root as ReadTree does, and leaves it to the
// caller to read the files, several at once. The error is about the root, the
// context or Each; what is wrong inside the tree is an issue of an Item.
func Scan(ctx context.Context, root string, o ScanOptions) error {
	links := map[fileID]*firstName{}
	each := func(j *job) error {
		i := itemOf(j)
		if f := i.first; f != nil && (!f.delivered || f.id != j.st.id()) {
			// The first name could not be read, or another file took its
			// place meanwhile: now this one is the first.
			i.first, i.names, i.entry = nil, f, nil
			f.delivered = false
			o.Work(i)
		} else if f != nil {
			i.entry.Link = f.path
		}
		if i.names != nil && i.Entry() != nil {
			i.names.path, i.names.delivered = j.path, true
		}
		return o.Each(i)
	}
	return scan(ctx, root, scanning{
		workers: max(2, o.Workers), ahead: scanAhead,
		found: func(j *job) {
			i := itemOf(j)
			i.link(links)
			if o.Found != nil {
				o.Found(i)
			}
		},
		work: func(w *walker, j *job) {
			i := itemOf(j)
			i.w = w
			if i.first == nil {
				o.Work(i)
			}
		},
		each: each,
	})
}

// Item is one entry of a tree that is scanned. Its methods are for the
// goroutine that the scan is calling at that time.
type Item struct {
	// Value is the caller's.
	Value any

	j     *job
	w     *walker
	entry *Entry
	first *firstName // of a further name of a file
	names *firstName // of the first name of a file
}

// firstName is the name of a file with several that came first.
type firstName struct {
	path      string
	id        fileID // what was read under that name
	left      uint32 // names that are still to come
	delivered bool
}

func itemOf(j *job) *Item {
	j.item.j = j
	return &j.item
}

// link makes all but the first name of a file hard links, before any is read.
func (i *Item) link(links map[fileID]*firstName) {
	j := i.j
	if j.st.Nlink < 2 || j.st.isDir() {
		return
	}
	id := j.st.id()
	if f := links[id]; f != nil {
		if f.left--; f.left == 0 {
			delete(links, id)
		}
		i.first, i.entry = f, j.st.entry(j.path)
		i.entry.Type, i.entry.Linked = HardLink, false
		return
	}
	i.names = &firstName{id: id, left: j.st.Nlink - 1}
	links[id] = i.names
}

// Path is as in an Entry.
func (i *Item) Path() string { return i.j.path }

// Entry is what there is to say about it, or nil if there is nothing but
// issues. It is known to Each, and to Work after Open or Skip.
func (i *Item) Entry() *Entry {
	if i.entry == nil {
		i.entry = i.j.entry
	}
	return i.entry
}

// Issues are what went wrong with it.
func (i *Item) Issues() []Issue { return i.j.issues }

// Identity is as of the last look at the file.
func (i *Item) Identity() Identity {
	st := &i.j.st
	id := Identity{
		Type: st.kind(), Mode: uint32(st.Mode) & 0o7777, Inode: st.Ino, Modified: st.modified(),
		Changed: time.Unix(st.Ctime.Sec, int64(st.Ctime.Nsec)), UID: st.Uid, GID: st.Gid, Links: st.Nlink,
	}
	if id.Type == File {
		id.Size, id.Sparse = int64(st.Size), st.sparse()
	}
	return id
}

// Skip is for a file whose content need not be read. Its extended attributes
// are read if xattrs is true.
func (i *Item) Skip(xattrs bool) {
	j := i.j
	j.entry = j.st.entry(j.path)
	if !xattrs {
		return
	}
	var err error
	if j.entry.Xattrs, err = xattrsAt(j.dir, j.name); err != nil {
		j.issue(Unreadable, err.Error())
	}
}

// Open looks at an entry. It says whether it is a file that can be read now;
// what went wrong is an issue.
func (i *Item) Open() bool {
	if i.j.st.kind() != File {
		i.w.prefetch(i.j)
		return false
	}
	if !i.w.open(i.j) {
		return false
	}
	if i.names != nil {
		i.names.id = i.j.st.id()
	}
	return true
}

// Sink takes the content of a file.
type Sink interface {
	// Buffer returns where the next bytes go, Filled takes the first n of it.
	Buffer() []byte
	Filled(n int) error
	// Hole takes n zeros that have no blocks on disk.
	Hole(n int64) error
}

// Read reads an open file and closes it. The error is that of the sink; what
// is wrong with the file is an issue. It returns the number of bytes that the
// content has, and of those that were read.
func (i *Item) Read(ctx context.Context, to Sink) (length, read int64, err error) {
	j := i.j
	defer func() {
		_ = unix.Close(j.fd)
		j.fd = -1
	}()
	length, read, readErr, err := readInto(ctx, j.fd, &j.st, to)
	if err != nil {
		return length, read, err
	}
	if kind, what := verdict(j.fd, &j.st, length, readErr); kind != OK {
		j.issue(kind, what)
	}
	return length, read, nil
}

// readInto reads the first bytes of a file, as many as it had, without its
// holes. What is written beyond them meanwhile is not chased.
func readInto(ctx context.Context, fd int, st *stat, to Sink) (length, read int64, readErr, err error) {
	size := int64(st.Size)
	data := func(end int64) bool {
		for length < end && err == nil && readErr == nil {
			if err = ctx.Err(); err != nil {
				return false
			}
			b := to.Buffer()
			n, rerr := readFull(fd, b[:min(int64(len(b)), end-length)], length)
			length, read, readErr = length+int64(n), read+int64(n), rerr
			if n > 0 {
				err = to.Filled(n)
			}
			if n == 0 {
				return false // the file ends earlier than it did
			}
		}
		return err == nil && readErr == nil
	}
	if !st.sparse() {
		data(size)
		return length, read, readErr, err
	}
	for length < size {
		next, serr := unix.Seek(fd, length, unix.SEEK_DATA)
		switch {
		case serr == unix.ENXIO: // nothing but a hole up to the end
			now, serr := statFD(fd)
			if serr != nil {
				return length, read, serr, nil
			}
			if n := min(size, int64(now.Size)) - length; n > 0 {
				length += n
				err = to.Hole(n)
			}
			return length, read, nil, err
		case serr != nil: // this file system does not know holes
			data(size)
			return length, read, readErr, err
		}
		if next = min(next, size); next > length {
			n := next - length
			length = next
			if err = to.Hole(n); err != nil {
				return length, read, nil, err
			}
			continue
		}
		end, serr := unix.Seek(fd, length, unix.SEEK_HOLE)
		if serr != nil || end <= length {
			end = size // cut or punched between the two questions
		}
		if !data(min(end, size)) {
			break
		}
	}
	return length, read, readErr, err
}

// Holes lists the holes of a file that is not read.
func (i *Item) Holes() ([]Extent, error) {
	fd, err := openAt(i.j.dir.fd, i.j.name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	size := int64(i.j.st.Size)
	var holes []Extent
	for at := int64(0); at < size; {
		data, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return append(holes, Extent{at, size - at}), nil
		}
		if err != nil {
			return nil, fmt.Errorf("look for holes: %w", err)
		}
		if data = min(data, size); data > at {
			holes = append(holes, Extent{at, data - at})
		}
		if at, err = unix.Seek(fd, data, unix.SEEK_HOLE); err != nil {
			return nil, fmt.Errorf("look for holes: %w", err)
		}
	}
	return holes, nil
}
