package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// WriteTree writes the tree of a stream into an existing directory. The error
// is about the stream, the root, the context or a target that takes no more
// data; a file that could not be written or an attribute that could not be
// set is an issue in the report, and the tree goes on. Without an error the
// stream was read up to its trailer.
//
// Nothing is written outside of root: a symbolic link in the target is
// replaced where the stream has something else, never followed. Writing the
// same stream twice gives the same tree as writing it once.
func WriteTree(ctx context.Context, dec *Decoder, root string, o WriteOptions) (Report, error) {
	w, err := newWriter(ctx, root, o)
	if err != nil {
		return Report{}, err
	}
	defer w.close()
	w.dec = dec
	err = w.run()
	w.report.Issues = append(slices.Clone(dec.Issues()), w.issues.List()...)
	return w.report, err
}

func newWriter(ctx context.Context, root string, o WriteOptions) (*writer, error) {
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", root, err)
	}
	st, err := statFD(fd)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("stat %s: %w", root, err)
	}
	return &writer{
		ctx: ctx, o: o, root: newDirectory(fd, st.id()), linked: map[string]fileID{}, noXattr: map[string]bool{},
		euid: uint32(unix.Geteuid()),
	}, nil
}

func (w *writer) close() {
	w.chain.close()
	w.root.release()
}

type writer struct {
	ctx   context.Context
	dec   *Decoder // of WriteTree
	o     WriteOptions
	root  *directory
	chain dirChain
	// entries are the directories of the chain, whose attributes are set when
	// they are left: writing into them changes their times, and their modes
	// may forbid it.
	entries []*Entry
	names   []map[string]bool // of each, what the stream has; only for Remove
	euid    uint32

	mu sync.Mutex
	// linked are the files written that may get further names.
	linked  map[string]fileID
	noXattr map[string]bool // kinds of attributes that the target does not know
	report  Report
	issues  Issues
}

func (w *writer) issue(path string, k Kind, what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.issues.Add(Issue{Path: Escape(path), Kind: k, What: what})
}

func (w *writer) run() error {
	unmade := "" // a directory that could not be made
	for {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		e, err := w.dec.Next()
		if err == io.EOF {
			for len(w.entries) > 0 {
				if err := w.leave(); err != nil {
					return err
				}
			}
			return nil
		}
		if err != nil {
			return err
		}
		if unmade != "" && strings.HasPrefix(e.Path, unmade) {
			w.issue(e.Path, NotWritten, "its directory could not be made")
			continue
		}
		unmade = ""
		for len(w.entries) > e.Depth() {
			if err := w.leave(); err != nil {
				return err
			}
		}
		if err := w.write(e); err != nil {
			if fatal(err) {
				return fmt.Errorf("write %s: %w", Escape(e.Path), err)
			}
			w.issue(e.Path, NotWritten, err.Error())
			if e.Type == Dir {
				unmade = e.Path + "/"
			}
			continue
		}
		w.report.Files++
	}
}

// fatal errors would meet every file that follows as well.
func fatal(err error) bool {
	for _, e := range [...]error{unix.ENOSPC, unix.EDQUOT, unix.EROFS, unix.EIO, context.Canceled, context.DeadlineExceeded, ErrTruncated, ErrCorrupt, errStream} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// errStream marks an error of the stream inside the writing of a file.
var errStream = errors.New("stream")

func (w *writer) enter(d *directory, e *Entry) {
	// A default ACL from before would pass on to each new file in here.
	_ = unix.Fremovexattr(d.fd, "system.posix_acl_default")
	w.chain.push(d)
	w.entries = append(w.entries, e)
	w.names = append(w.names, nil)
	if w.o.Extra == Remove {
		w.names[len(w.names)-1] = map[string]bool{}
	}
}

func (w *writer) write(e *Entry) error {
	if e.Path == "" {
		w.enter(w.root.hold(), e)
		return nil
	}
	dir := w.chain.top()
	name := e.Name()
	if w.o.Extra == Remove {
		w.names[len(w.names)-1][name] = true
	}
	switch e.Type {
	case Dir:
		return w.dir(dir, name, e)
	case File:
		return w.file(dir, name, e)
	case HardLink:
		return w.hardLink(dir, name, e)
	case Symlink:
		if err := w.make(dir, name, func() error { return unix.Symlinkat(e.Link, dir.fd, name) }); err != nil {
			return err
		}
	default:
		if err := w.special(dir, name, e); err != nil {
			// A special file holds no data, so this alone is not a loss.
			w.issue(e.Path, NotSet, fmt.Sprintf("%s could not be made: %s", e.Type, err))
			return nil
		}
	}
	w.attributes(target{dir: dir, name: name, fd: -1}, e)
	return w.remember(dir, name, e)
}

func (w *writer) remember(dir *directory, name string, e *Entry) error {
	if !e.Linked {
		return nil
	}
	st, err := statAt(dir.fd, name)
	if err == nil {
		w.mu.Lock()
		w.linked[e.Path] = st.id()
		w.mu.Unlock()
	}
	return err
}

// make calls create, and once more after clearing the way.
func (w *writer) make(dir *directory, name string, create func() error) error {
	err := retry(create)
	if err != unix.EEXIST {
		return err
	}
	if err := w.clear(dir, name); err != nil {
		return err
	}
	return retry(create)
}

// clear removes what is in the way of a file. A directory with something in
// it is removed only where the caller wants no extra files.
func (w *writer) clear(dir *directory, name string) error {
	err := unix.Unlinkat(dir.fd, name, 0)
	if err == unix.EISDIR || err == unix.EPERM {
		if st, serr := statAt(dir.fd, name); serr == nil && st.isDir() {
			if w.o.Extra == Remove {
				return removeAll(dir.fd, name)
			}
			if err = unix.Unlinkat(dir.fd, name, unix.AT_REMOVEDIR); err == unix.ENOTEMPTY {
				return errors.New("a directory with other files is in its place")
			}
		}
	}
	return err
}

func (w *writer) special(dir *directory, name string, e *Entry) error {
	mode := map[Type]uint32{FIFO: unix.S_IFIFO, Socket: unix.S_IFSOCK, CharDevice: unix.S_IFCHR, BlockDevice: unix.S_IFBLK}[e.Type]
	return w.make(dir, name, func() error { return unix.Mknodat(dir.fd, name, mode|0o600, int(e.Device)) })
}

func (w *writer) dir(dir *directory, name string, e *Entry) error {
	const open = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	err := retry(func() error { return unix.Mkdirat(dir.fd, name, 0o700) })
	if err == unix.EEXIST {
		st, serr := statAt(dir.fd, name)
		if serr != nil {
			return serr
		}
		if !st.isDir() {
			if err := w.make(dir, name, func() error { return unix.Mkdirat(dir.fd, name, 0o700) }); err != nil {
				return err
			}
		} else if st.Mode&0o700 != 0o700 && w.euid != 0 {
			// The mode of the stream is set when the directory is left.
			if err := unix.Fchmodat(dir.fd, name, 0o700, 0); err != nil {
				return err
			}
		}
		err = nil
	}
	if err != nil {
		return err
	}
	fd, err := openAt(dir.fd, name, open)
	if err != nil {
		return err
	}
	st, err := statFD(fd)
	if err != nil {
		unix.Close(fd)
		return err
	}
	w.enter(newDirectory(fd, st.id()), e)
	return nil
}

// leave sets the attributes of the current directory and goes up.
func (w *writer) leave() error {
	last := len(w.entries) - 1
	e, dir := w.entries[last], w.chain.top()
	if w.o.Extra == Remove && !e.Partial {
		w.removeExtra(dir, e, w.names[last])
	}
	w.attributes(target{fd: dir.fd}, e)
	w.entries, w.names = w.entries[:last], w.names[:last]
	if err := w.chain.pop(); err != nil && last > 0 {
		return fmt.Errorf("return from %s: %w", Escape(e.Path), err)
	}
	return nil
}

func (w *writer) removeExtra(dir *directory, e *Entry, keep map[string]bool) {
	// A descriptor of its own, since the listing moves the position.
	fd, err := openAt(dir.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	var names []string
	if err == nil {
		names, err = readNames(fd)
		unix.Close(fd)
	}
	if err != nil {
		w.issue(e.Path, NotSet, "could not list it for extra files: "+err.Error())
		return
	}
	for _, name := range names {
		if keep[name] || e.Path == "" && name == "lost+found" {
			continue
		}
		if err := removeAll(dir.fd, name); err != nil {
			w.issue(strings.TrimPrefix(e.Path+"/"+name, "/"), NotSet, "extra file could not be removed: "+err.Error())
		}
	}
}

// removeAll removes a name and all below it without following anything, and
// without a limit on depth.
func removeAll(dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	if err != unix.EISDIR && err != unix.EPERM {
		return err
	}
	fd, err := openAt(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC)
	if err != nil {
		return err
	}
	st, err := statFD(fd)
	if err != nil {
		unix.Close(fd)
		return err
	}
	names, err := readNames(fd)
	var chain dirChain
	defer chain.close()
	chain.push(newDirectory(fd, st.id()))
	type level struct {
		name  string
		names []string
	}
	levels := []level{{name, names}}
	for err == nil {
		l := &levels[len(levels)-1]
		if len(l.names) == 0 {
			done := l.name
			levels = levels[:len(levels)-1]
			if len(levels) == 0 {
				return unix.Unlinkat(dir, done, unix.AT_REMOVEDIR)
			}
			if err = chain.pop(); err == nil {
				err = unix.Unlinkat(chain.top().fd, done, unix.AT_REMOVEDIR)
			}
			continue
		}
		next := l.names[0]
		l.names = l.names[1:]
		if err = unix.Unlinkat(chain.top().fd, next, 0); err != unix.EISDIR {
			continue
		}
		if fd, err = openAt(chain.top().fd, next, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC); err != nil {
			break
		}
		if st, err = statFD(fd); err == nil {
			names, err = readNames(fd)
		}
		chain.push(newDirectory(fd, st.id()))
		levels = append(levels, level{next, names})
	}
	return err
}

// file writes content into a new file.
func (w *writer) file(dir *directory, name string, e *Entry) error {
	fd, err := w.create(dir, name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	n, err := w.content(fd)
	w.report.Bytes += n
	if err != nil {
		return err
	}
	w.attributes(target{fd: fd}, e)
	return w.remember(dir, name, e)
}

// create makes a new file. What had the name before is unlinked, not written
// over: it may have other names, which keep their content.
func (w *writer) create(dir *directory, name string) (int, error) {
	const flags = unix.O_WRONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK
	fd := -1
	create := func() (err error) {
		fd, err = unix.Openat(dir.fd, name, flags|unix.O_CREAT|unix.O_EXCL, 0o600)
		return err
	}
	err := w.make(dir, name, create)
	if err == unix.EBUSY {
		// A mount point cannot be unlinked, but it can be filled.
		fd, err = openAt(dir.fd, name, flags|unix.O_TRUNC)
	}
	return fd, err
}

// content writes data where it belongs and leaves the holes out.
func (w *writer) content(fd int) (int64, error) {
	var at int64
	hole := false
	for {
		run, err := w.dec.Run()
		if err == io.EOF {
			break
		}
		if err != nil {
			return at, fmt.Errorf("%w: %w", errStream, err)
		}
		if run.Hole > 0 {
			at, hole = at+run.Hole, true
			continue
		}
		hole = false
		for b := run.Data; len(b) > 0; {
			n, err := unix.Pwrite(fd, b, at)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return at, err
			}
			b, at = b[n:], at+int64(n)
		}
		if len(run.Data) >= maxData {
			if err := w.ctx.Err(); err != nil {
				return at, err
			}
		}
	}
	if hole {
		if err := retry(func() error { return unix.Ftruncate(fd, at) }); err != nil {
			return at, err
		}
	}
	return at, nil
}

// hardLink gives a file that was written before a further name.
func (w *writer) hardLink(dir *directory, name string, e *Entry) error {
	w.mu.Lock()
	id, ok := w.linked[e.Link]
	w.mu.Unlock()
	if !ok {
		return fmt.Errorf("%s, of which it is a further name, was not written", Escape(e.Link))
	}
	from, err := descend(w.root, parentOf(e.Link))
	if err != nil {
		return err
	}
	if from != w.root.fd {
		defer unix.Close(from)
	}
	first := e.Link[strings.LastIndexByte(e.Link, '/')+1:]
	st, err := statAt(from, first)
	if err != nil {
		return err
	}
	if st.id() != id {
		return fmt.Errorf("%s was replaced meanwhile", Escape(e.Link))
	}
	if old, err := statAt(dir.fd, name); err == nil && old.id() == id {
		return nil
	}
	return w.make(dir, name, func() error { return unix.Linkat(from, first, dir.fd, name, 0) })
}

// descend opens a directory below root, following nothing.
func descend(root *directory, path string) (int, error) {
	fd := root.fd
	if path == "" {
		return fd, nil
	}
	for part := range strings.SplitSeq(path, "/") {
		next, err := openAt(fd, part, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC)
		if fd != root.fd {
			unix.Close(fd)
		}
		if err != nil {
			return -1, err
		}
		fd = next
	}
	return fd, nil
}
