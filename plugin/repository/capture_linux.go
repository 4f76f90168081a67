package repository

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/kopia/kopia/repo/content"
	"github.com/kopia/kopia/repo/object"

	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
)

// folderWriter takes the entries from a folder. Files are read and stored by
// several workers at once, each from its first byte to its last; the tree is
// put together in order.
type folderWriter struct {
	*treeWriter
	reader   engine
	o        CaptureOptions
	previous *knownReader
	there    map[content.ID]bool // contents that are sure to be there, not all
	known    *knownWriter
	until    time.Time // files that were changed later are not known

	totals volume.Totals
	issues volume.Issues
	read   atomic.Int64
}

// How many contents are listed at most: for each file that the volume had, so
// that listing a large repository does not take longer than looking up the
// files of a small volume, and at all, since they are kept in memory.
const (
	listedShare = 4
	listedMost  = 1 << 20
)

func captureFolder(ctx context.Context, cancel context.CancelCauseFunc, rep engine, r *relay, root string, o CaptureOptions) (captured, error) {
	if o.CutAt.IsZero() {
		o.CutAt = time.Now()
	}
	t := &folderWriter{
		treeWriter: newTreeWriter(ctx, cancel, r), reader: rep, o: o, previous: &knownReader{},
		known: newKnownWriter(ctx, r.base), until: o.CutAt.Add(-settled),
	}
	if o.Previous != nil {
		// Without it all files are read, which is slower and no worse.
		if previous, err := openKnown(ctx, rep, o.Previous.known()); err == nil {
			t.previous = previous
			defer previous.close()
			t.there = someThere(ctx, rep, int(min(o.Previous.Files*listedShare, listedMost)))
		}
	}
	workers := o.Workers
	if workers == 0 {
		workers = storing()
	}
	err := volume.Scan(ctx, root, volume.ScanOptions{Workers: workers, Found: t.found, Work: t.work, Each: t.each})
	var id object.ID
	if err == nil {
		id, err = t.complete()
	}
	if err != nil {
		cancel(err)
	}
	top, endErr := t.end()
	if endErr != nil {
		return captured{}, endErr
	}
	return captured{root: top, totals: t.totals, issues: t.issues.List(), read: t.read.Load(), known: id}, err
}

// complete stores what belongs to the volume as a whole.
func (t *folderWriter) complete() (object.ID, error) {
	id, size, err := t.known.finish()
	if err != nil {
		return id, err
	}
	t.own(knownName, id, size)
	return id, t.finish(t.issues.List())
}

// reading is the caller's part of an item: what is known of a file, and what
// became of its content.
type reading struct {
	known  bool // id is that of its content, unless it is not there any more
	xattrs bool
	id     object.ID
	length int64
	holes  []volume.Extent
	err    error
}

func (t *folderWriter) found(i *volume.Item) {
	v := &reading{}
	if k := t.previous.find(i.Path()); k != nil && k.same(i.Identity()) {
		v.known, v.xattrs, v.id = true, k.xattrs, k.object
	}
	i.Value = v
}

func (t *folderWriter) work(i *volume.Item) {
	v := i.Value.(*reading)
	if v.err = context.Cause(t.ctx); v.err != nil {
		return
	}
	if v.known && t.skip(i, v) {
		t.progress(v.length)
		return
	}
	if !i.Open() {
		return
	}
	size := i.Identity().Size
	var read int64
	if size <= treeSmallFile {
		b := &smallContent{data: t.small(size), progress: t.progress}
		if v.length, read, v.err = i.Read(t.ctx, b); v.err == nil {
			v.holes = b.holes
			v.id, v.err = t.store.object("file", b.data)
		}
		t.store.buffers.Put(&b.data)
	} else {
		p := &largeContent{pieces: t.store.pieces(&gear{}), progress: t.progress}
		if v.length, read, v.err = i.Read(t.ctx, p); v.err == nil {
			v.holes = p.holes.list
			v.id, v.err = p.finish()
		}
		p.pending.Wait()
	}
	t.read.Add(read)
	if v.err != nil {
		t.cancel(fmt.Errorf("%s: %w", volume.Escape(i.Path()), v.err))
	}
}

// small returns a buffer for a small file.
func (t *folderWriter) small(size int64) []byte {
	return (*t.store.buffers.Get().(*[]byte))[:0]
}

// skip takes a file as it is known, if its content is still there.
func (t *folderWriter) skip(i *volume.Item, v *reading) bool {
	if c, _, ok := v.id.ContentID(); (!ok || !t.there[c]) && !stillThere(t.ctx, t.reader, v.id) {
		return false
	}
	now := i.Identity()
	if now.Sparse {
		holes, err := i.Holes()
		if err != nil {
			return false
		}
		v.holes = holes
	}
	i.Skip(v.xattrs)
	v.length = now.Size
	return true
}

func (t *folderWriter) progress(n int64) {
	if t.o.Progress != nil {
		t.o.Progress(n)
	}
}

func (t *folderWriter) each(i *volume.Item) error {
	if err := context.Cause(t.ctx); err != nil {
		return err
	}
	for _, issue := range i.Issues() {
		t.issues.Add(issue)
		t.totals.Issues++
	}
	e := i.Entry()
	if e == nil {
		return nil
	}
	if err := t.entry(i, e); err != nil {
		return fmt.Errorf("%s: %w", volume.Escape(e.Path), err)
	}
	return nil
}

func (t *folderWriter) entry(i *volume.Item, e *volume.Entry) error {
	t.totals.Entries++
	if e.Type != volume.Dir {
		t.totals.Files++
	}
	t.climb(e)
	if e.Type != volume.File {
		return t.other(e)
	}
	v := i.Value.(*reading)
	if v.err != nil {
		return v.err
	}
	t.totals.Bytes += v.length
	de := kopiaEntry(e)
	de.ObjectID, de.FileSize = v.id, v.length
	f := t.open[len(t.open)-1]
	f.entries = append(f.entries, de)
	if e.Linked {
		t.linked[e.Path] = &linkedFile{entry: de}
	}
	if err := t.note(e, de, v.holes); err != nil {
		return err
	}
	now := i.Identity()
	if len(i.Issues()) > 0 || now.Changed.After(t.until) {
		return nil
	}
	return t.known.add(&known{path: e.Path, id: now, xattrs: len(e.Xattrs) > 0, object: v.id})
}

// smallContent keeps the content of a small file.
type smallContent struct {
	data     []byte
	holes    []volume.Extent
	progress func(int64)
}

func (c *smallContent) Buffer() []byte { return c.data[len(c.data):cap(c.data)] }

func (c *smallContent) Filled(n int) error {
	c.data = c.data[:len(c.data)+n]
	c.progress(int64(n))
	return nil
}

func (c *smallContent) Hole(n int64) error {
	at := len(c.data)
	c.holes = append(c.holes, volume.Extent{Offset: int64(at), Length: n})
	c.data = c.data[:at+int(n)]
	clear(c.data[at:])
	c.progress(n)
	return nil
}

// largeContent stores the content of a large file as it is read.
type largeContent struct {
	*pieces
	holes    holeList
	length   int64
	progress func(int64)
}

func (c *largeContent) Filled(n int) error {
	c.length += int64(n)
	c.progress(int64(n))
	return c.pieces.Filled(n)
}

func (c *largeContent) Hole(n int64) error {
	c.holes.add(c.length, n)
	c.length += n
	c.progress(n)
	return c.pieces.Hole(n)
}
