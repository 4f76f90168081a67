package volume

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// smallFile is the largest file that is read ahead of its turn.
	smallFile = 128 << 10
	// pooled is the size from which on buffers are used again.
	pooled = 8 << 10
	// readAhead is how many entries are looked at ahead of their turn. The
	// memory for content is at most their product.
	readAhead = 64
)

// ReadTree sends the tree below root and closes the encoder. The error is
// about the root, the encoder or the context; what is wrong inside the tree
// travels in the stream as issues, and the tree goes on.
//
// Nothing is followed out of the tree, nothing but regular files and
// directories is opened, and what is mounted below root is left out with an
// issue that names it.
func ReadTree(ctx context.Context, root string, enc *Encoder) error {
	s := sender{ctx: ctx, enc: enc, first: map[fileID]*linked{}}
	err := scan(ctx, root, scanning{
		workers: max(2, min(runtime.GOMAXPROCS(0), 8)), ahead: readAhead, work: (*walker).prefetch, each: s.send,
	})
	if err != nil {
		return err
	}
	return enc.Close()
}

// scanning says what becomes of the entries of a tree. found sees each in
// order and before all else, from the goroutine that walks; work sees all but
// directories, from several goroutines; each sees each in order, after work.
type scanning struct {
	workers, ahead int
	found          func(*job) // optional
	work           func(*walker, *job)
	each           func(*job) error
}

func scan(ctx context.Context, root string, o scanning) error {
	// The root may be reached through links: it is what the caller named.
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", root, err)
	}
	st, err := statFD(fd)
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("stat %s: %w", root, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &walker{
		ctx: ctx, dev: st.dev(), found: o.found, ordered: make(chan *job, o.ahead), work: make(chan *job, o.ahead),
	}
	var workers sync.WaitGroup
	for range o.workers {
		workers.Go(func() {
			for j := range w.work {
				o.work(w, j)
				j.worked.Done()
			}
		})
	}
	var walkErr error
	workers.Go(func() {
		defer close(w.ordered)
		defer close(w.work)
		walkErr = w.walk(fd, &st)
	})
	var sendErr error
	for j := range w.ordered {
		j.worked.Wait()
		if sendErr == nil {
			if sendErr = o.each(j); sendErr != nil {
				cancel()
			}
		}
		j.close()
	}
	workers.Wait()
	if err := errors.Join(sendErr, walkErr); err != nil {
		if cause := context.Cause(ctx); sendErr == nil && cause != nil {
			return cause
		}
		return err
	}
	return nil
}

// job is one entry on its way from the walk to the stream.
type job struct {
	dir    *directory // held
	name   string
	path   string
	st     stat
	worked sync.WaitGroup // for the worker that has it, if any
	entry  *Entry         // set by prefetch, and by the walk for directories
	// content of a small file, read by prefetch
	fd       int // an open regular file, or -1
	buf      *[]byte
	data     []byte
	whole    bool // data is all of the content
	end      Kind
	what     string
	issues   []Issue
	vanished bool
	item     Item // what Scan makes of it
}

func (j *job) issue(k Kind, what string) {
	j.issues = append(j.issues, Issue{Path: Escape(j.path), Kind: k, What: what})
}

func (j *job) close() {
	if j.fd >= 0 {
		unix.Close(j.fd)
		j.fd = -1
	}
	if j.buf != nil {
		buffers.Put(j.buf)
		j.buf = nil
	}
	if j.dir != nil {
		j.dir.release()
		j.dir = nil
	}
}

var buffers = sync.Pool{New: func() any { b := make([]byte, smallFile); return &b }}

// walker goes through the tree in order and hands out jobs.
type walker struct {
	ctx     context.Context
	dev     uint64
	found   func(*job)
	ordered chan *job
	work    chan *job
	noatime atomic.Int32 // 1 once the system refused O_NOATIME
}

// level is one directory of the walk: the names that are still to come.
type level struct {
	path  string
	names []string
	lost  bool // lost+found of the volume: what it holds is optional
}

func (w *walker) walk(fd int, st *stat) error {
	var chain dirChain
	defer chain.close()
	root := &job{fd: -1, st: *st}
	names, err := w.directory(root, fd)
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("list the root of the volume: %w", err)
	}
	chain.push(newDirectory(fd, st.id()))
	if err := w.emit(root); err != nil {
		return err
	}
	levels := []*level{{names: names}}
	for len(levels) > 0 {
		l := levels[len(levels)-1]
		if len(l.names) == 0 {
			levels = levels[:len(levels)-1]
			if err := chain.pop(); err != nil && len(levels) > 0 {
				// The directory above cannot be found again. Everything that
				// was still to come in it, and above, is named as lost.
				for _, l := range levels {
					if len(l.names) > 0 {
						j := &job{fd: -1, path: l.path}
						j.issue(Unreadable, "could not return to it: "+err.Error())
						if err := w.emit(j); err != nil {
							return err
						}
					}
				}
				return nil
			}
			continue
		}
		name := l.names[0]
		l.names = l.names[1:]
		next, fd, err := w.child(chain.top(), l, name)
		if err != nil {
			return err
		}
		if next != nil {
			chain.push(newDirectory(fd, next.id))
			levels = append(levels, &next.level)
		}
	}
	return nil
}

// entered is a directory that the walk goes into.
type entered struct {
	level
	id fileID
}

// child hands out the job for one name, and returns the level to go into if
// it is a directory.
func (w *walker) child(dir *directory, l *level, name string) (*entered, int, error) {
	j := &job{dir: dir.hold(), name: name, path: name, fd: -1}
	if l.path != "" {
		j.path = l.path + "/" + name
	}
	var err error
	j.st, err = statAt(dir.fd, name)
	switch {
	case err == unix.ENOENT:
		j.vanished = true
		return nil, -1, w.emit(j)
	case err != nil:
		if !l.lost {
			j.issue(Unreadable, err.Error())
		}
		return nil, -1, w.emit(j)
	}
	lost := l.lost || l.path == "" && name == "lost+found"
	if j.st.mounted(w.dev) {
		// The entry itself would be that of the other file system.
		j.issue(Skipped, "something else is mounted here; what is mounted inside a volume is not part of it")
		return nil, -1, w.emit(j)
	}
	if !j.st.isDir() {
		if w.found != nil {
			w.found(j)
		}
		j.worked.Add(1)
		select {
		case w.work <- j:
		case <-w.ctx.Done():
			j.close()
			return nil, -1, w.ctx.Err()
		}
		return nil, -1, w.emit(j)
	}
	fd, err := unix.Openat(dir.fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		j.vanished = true
		return nil, -1, w.emit(j)
	}
	var names []string
	if err == nil {
		if j.st, err = statFD(fd); err == nil {
			names, err = w.directory(j, fd)
		}
	}
	if err != nil {
		// The directory itself is kept: its owner and mode are known.
		j.entry = j.st.entry(j.path)
		j.entry.Partial = true
		if j.entry.Xattrs == nil {
			j.entry.Xattrs, _ = xattrsAt(dir, name)
		}
		if !lost {
			j.issue(Unreadable, err.Error())
		}
		if fd >= 0 {
			unix.Close(fd)
		}
		return nil, -1, w.emit(j)
	}
	id := j.st.id()
	if err := w.emit(j); err != nil {
		unix.Close(fd)
		return nil, -1, err
	}
	return &entered{level: level{path: j.path, names: names, lost: lost}, id: id}, fd, nil
}

// directory fills the job of an open directory and lists it.
func (w *walker) directory(j *job, fd int) ([]string, error) {
	names, err := readNames(fd)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	if w.found != nil {
		w.found(j)
	}
	j.entry = j.st.entry(j.path)
	if j.entry.Xattrs, err = xattrsFD(fd); err != nil {
		j.issue(Unreadable, err.Error())
	}
	return names, nil
}

func (w *walker) emit(j *job) error {
	if j.vanished {
		j.issue(Vanished, "")
	}
	// Checked first: with room in the channel a select would pick at random.
	if err := w.ctx.Err(); err == nil {
		select {
		case w.ordered <- j:
			return nil
		case <-w.ctx.Done():
		}
	}
	j.worked.Wait()
	j.close()
	return w.ctx.Err()
}

// prefetch looks at everything but directories: it opens files, reads the
// small ones, and reads links and attributes of all.
func (w *walker) prefetch(j *job) {
	if j.st.kind() == File {
		w.small(j)
		return
	}
	e := j.st.entry(j.path)
	var err error
	if e.Type == Symlink {
		if e.Link, err = readLink(j.dir.fd, j.name); err != nil {
			w.gone(j, err)
			return
		}
	}
	if e.Xattrs, err = xattrsAt(j.dir, j.name); err != nil {
		j.issue(Unreadable, err.Error())
	}
	j.entry = e
}

func (w *walker) gone(j *job, err error) {
	if err == unix.ENOENT {
		j.issue(Vanished, "")
	} else {
		j.issue(Unreadable, err.Error())
	}
}

// open opens a regular file and takes its attributes from what was opened. It
// says whether that went well; what went wrong is an issue.
func (w *walker) open(j *job) bool {
	// O_NONBLOCK: what was a file a moment ago may have become a named pipe.
	flags := unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	fd, err := -1, error(unix.EPERM)
	if w.noatime.Load() == 0 {
		fd, err = openAt(j.dir.fd, j.name, flags|unix.O_NOATIME)
	}
	if err == unix.EPERM {
		if fd, err = openAt(j.dir.fd, j.name, flags); err == nil {
			w.noatime.Store(1)
		}
	}
	if err != nil {
		w.gone(j, err)
		return false
	}
	st, err := statFD(fd)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = errors.New("it was replaced by something else meanwhile")
	}
	if err != nil {
		unix.Close(fd)
		j.issue(Unreadable, err.Error())
		return false
	}
	j.fd, j.st = fd, st
	j.entry = st.entry(j.path)
	if j.entry.Xattrs, err = xattrsFD(fd); err != nil {
		j.issue(Unreadable, err.Error())
	}
	return true
}

// sparse says that a file has fewer blocks than bytes, which means holes.
func (s *stat) sparse() bool { return s.Blocks*512 < s.Size }

// small opens a file, and reads it if it is small and without holes. Other
// files are left to the sender.
func (w *walker) small(j *job) {
	if !w.open(j) || j.st.Size > smallFile || j.st.sparse() {
		return
	}
	if j.st.Size > pooled {
		j.buf = buffers.Get().(*[]byte)
		j.data = (*j.buf)[:j.st.Size]
	} else {
		j.data = make([]byte, j.st.Size)
	}
	n, err := readFull(j.fd, j.data, 0)
	j.data, j.whole = j.data[:n], true
	j.end, j.what = verdict(j.fd, &j.st, int64(n), err)
}

func openAt(dir int, name string, flags int) (fd int, err error) {
	err = retry(func() error { fd, err = unix.Openat(dir, name, flags, 0); return err })
	return fd, err
}

// verdict says how the reading of n bytes of an open file went.
func verdict(fd int, before *stat, n int64, err error) (Kind, string) {
	if err != nil {
		return Unreadable, fmt.Sprintf("after %d bytes: %s", n, err)
	}
	after, err := statFD(fd)
	if err != nil {
		return Unreadable, err.Error()
	}
	if before.changed(&after) || n != int64(before.Size) {
		return Changed, fmt.Sprintf("stored with the %d bytes that were read", n)
	}
	return OK, ""
}

// readFull reads until the buffer is full or the file ends.
func readFull(fd int, b []byte, at int64) (int, error) {
	n := 0
	for n < len(b) {
		m, err := unix.Pread(fd, b[n:], at+int64(n))
		if err == unix.EINTR {
			continue
		}
		if err != nil || m <= 0 {
			return n, err
		}
		n += m
	}
	return n, nil
}
