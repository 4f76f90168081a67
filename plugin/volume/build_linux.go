package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Content is the content of one file on its way into a tree.
type Content interface {
	// CopyTo writes it and returns its length. What it does not write is a hole.
	CopyTo(ctx context.Context, to io.WriterAt) (int64, error)
}

// Source returns the entries of a tree in the order of a stream, and io.EOF
// after the last. It is called from one goroutine. open is for each File: it
// is called from any goroutine, and if it fails the file is left out, and what
// is in its place stays.
type Source func() (e *Entry, open func() (Content, error), err error)

const (
	// buildAhead is how many files may wait for a worker.
	buildAhead = 256
	// buildFolders is how many folders may wait for their last file: each is
	// an open one.
	buildFolders = 256
)

// BuildTree writes the tree of a source into an existing directory as
// WriteTree writes that of a stream, with several files at once.
func BuildTree(ctx context.Context, root string, o WriteOptions, workers int, from Source) (Report, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w, err := newWriter(ctx, root, o)
	if err != nil {
		return Report{}, err
	}
	defer w.close()
	b := &builder{
		writer: w, from: from, cancel: cancel, files: make(chan *newFile, buildAhead),
		waiting: make(chan struct{}, buildFolders), linking: map[string]chan struct{}{},
	}
	var running sync.WaitGroup
	for range max(1, workers) {
		running.Go(func() {
			for f := range b.files {
				b.build(f)
			}
		})
	}
	if err := b.run(); err != nil {
		cancel(err)
	}
	close(b.files)
	running.Wait()
	w.report.Issues = w.issues.List()
	return w.report, context.Cause(ctx)
}

type builder struct {
	*writer
	from    Source
	cancel  context.CancelCauseFunc
	files   chan *newFile
	open    []*newFolder             // from the root to the current one
	waiting chan struct{}            // taken by each folder that was left and is not finished
	linking map[string]chan struct{} // closed once a file that gets further names is done
}

// newFolder is finished, by whoever comes last, when it was left and all that
// is in it is done: that changes its times, and its mode may forbid it.
type newFolder struct {
	parent  *newFolder
	entry   *Entry
	dir     *directory      // held from when it was left
	names   map[string]bool // what the source has; only for Remove
	pending atomic.Int32    // what is not done in it, and 1 until it was left
}

type newFile struct {
	folder *newFolder
	dir    *directory // held
	entry  *Entry
	open   func() (Content, error)
	done   chan struct{} // nil for a file that has one name
}

func (b *builder) run() error {
	unmade := "" // a directory that could not be made
	for {
		if err := context.Cause(b.ctx); err != nil {
			return err
		}
		e, open, err := b.from()
		if err == io.EOF {
			for len(b.open) > 0 {
				if err := b.climb(); err != nil {
					return err
				}
			}
			return nil
		}
		if err != nil {
			return err
		}
		if unmade != "" && strings.HasPrefix(e.Path, unmade) {
			b.issue(e.Path, NotWritten, "its directory could not be made")
			continue
		}
		unmade = ""
		for len(b.open) > e.Depth() {
			if err := b.climb(); err != nil {
				return err
			}
		}
		switch e.Type {
		case File:
			b.hand(e, open)
			continue
		case HardLink:
			// Its first name may still be under way.
			if done := b.linking[e.Link]; done != nil {
				<-done
			}
		}
		if err := b.write(e); err != nil {
			if fatal(err) {
				return fmt.Errorf("write %s: %w", Escape(e.Path), err)
			}
			b.issue(e.Path, NotWritten, err.Error())
			if e.Type == Dir {
				unmade = e.Path + "/"
			}
			continue
		}
		if e.Type == Dir {
			b.push(e)
		}
		b.count(1, 0)
	}
}

func (b *builder) count(files, bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.report.Files += files
	b.report.Bytes += bytes
}

func (b *builder) push(e *Entry) {
	f := &newFolder{entry: e, names: b.names[len(b.names)-1]}
	f.pending.Store(1)
	if n := len(b.open); n > 0 {
		f.parent = b.open[n-1]
		f.parent.pending.Add(1)
	}
	b.open = append(b.open, f)
}

// climb leaves the current directory.
func (b *builder) climb() error {
	last := len(b.open) - 1
	f := b.open[last]
	b.waiting <- struct{}{}
	f.dir = b.chain.top().hold()
	b.open, b.entries, b.names = b.open[:last], b.entries[:last], b.names[:last]
	err := b.chain.pop()
	b.done(f)
	if err != nil && last > 0 {
		return fmt.Errorf("return from %s: %w", Escape(f.entry.Path), err)
	}
	return nil
}

// done counts one thing in a folder as done, and finishes the folder after
// the last, and then the folder above in the same way.
func (b *builder) done(f *newFolder) {
	for f != nil && f.pending.Add(-1) == 0 {
		if b.ctx.Err() == nil {
			if b.o.Extra == Remove && !f.entry.Partial {
				b.removeExtra(f.dir, f.entry, f.names)
			}
			b.attributes(target{fd: f.dir.fd}, f.entry)
		}
		f.dir.release()
		<-b.waiting
		f = f.parent
	}
}

// hand gives a file to the workers.
func (b *builder) hand(e *Entry, open func() (Content, error)) {
	dir := b.chain.top()
	if b.o.Extra == Remove {
		b.names[len(b.names)-1][e.Name()] = true
	}
	f := &newFile{folder: b.open[len(b.open)-1], dir: dir.hold(), entry: e, open: open}
	if e.Linked {
		f.done = make(chan struct{})
		b.linking[e.Path] = f.done
	}
	f.folder.pending.Add(1)
	b.files <- f
}

func (b *builder) build(f *newFile) {
	if b.ctx.Err() == nil {
		if err := b.fill(f); err != nil {
			if b.ctx.Err() == nil && fatal(err) {
				b.cancel(fmt.Errorf("write %s: %w", Escape(f.entry.Path), err))
			}
			b.issue(f.entry.Path, NotWritten, err.Error())
		} else {
			b.count(1, 0)
		}
	}
	if f.done != nil {
		close(f.done)
	}
	f.dir.release()
	b.done(f.folder)
}

func (b *builder) fill(f *newFile) error {
	content, err := f.open()
	if err != nil {
		return err
	}
	fd, err := b.create(f.dir, f.entry.Name())
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	to := &writerAt{fd: fd}
	n, err := content.CopyTo(b.ctx, to)
	if err == nil && to.end.Load() < n {
		err = retry(func() error { return unix.Ftruncate(fd, n) })
	}
	if err != nil {
		return err
	}
	b.count(0, n)
	b.attributes(target{fd: fd}, f.entry)
	return b.remember(f.dir, f.entry.Name(), f.entry)
}

// writerAt writes to an open file and notes how far.
type writerAt struct {
	fd  int
	end atomic.Int64
}

func (w *writerAt) WriteAt(p []byte, at int64) (int, error) {
	n := 0
	for n < len(p) {
		m, err := unix.Pwrite(w.fd, p[n:], at+int64(n))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return n, err
		}
		if m == 0 {
			return n, errors.New("nothing was written")
		}
		n += m
	}
	for end := at + int64(n); ; {
		old := w.end.Load()
		if old >= end || w.end.CompareAndSwap(old, end) {
			return n, nil
		}
	}
}
