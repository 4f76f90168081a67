package repository

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kopia/kopia/fs"
	"github.com/kopia/kopia/repo/object"
	"github.com/kopia/kopia/snapshot"
	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
)

const (
	// treeSmallFile is the largest file that is kept in memory for a worker
	// to store. Larger ones are stored as they arrive.
	treeSmallFile = 256 << 10
	// treeQueue is how many small files may wait.
	treeQueue = 64
	// maxHoles bounds the memory for the holes of one file. Of a file with
	// more, only those of a MiB and more stay holes.
	maxHoles = 1 << 20
)

// TreeResult is a volume in the repository.
type TreeResult struct {
	// Root is what a snapshot of it needs.
	Root *snapshot.DirEntry
	// Totals counts entries, bytes of content with holes, and issues.
	Totals volume.Totals
	// Issues are what the sender said about paths. They are stored, too.
	Issues []volume.Issue
}

// WriteTree stores a volume as a kopia directory. It returns no error only if
// the stream came to its proper end. Nothing refers to what was written until
// the caller saves a snapshot of the root.
func WriteTree(ctx context.Context, w writer, dec *volume.Decoder) (TreeResult, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	return writeTree(ctx, cancel, fixed(ctx, w, cancel), dec, false)
}

// writeTree is WriteTree with a relay of writers. device says that the one
// file of the volume is a device.
func writeTree(ctx context.Context, cancel context.CancelCauseFunc, r *relay, dec *volume.Decoder, device bool) (TreeResult, error) {
	t := &streamWriter{treeWriter: newTreeWriter(ctx, cancel, r), dec: dec, device: device, queue: make(chan smallFile, treeQueue)}
	var workers sync.WaitGroup
	for range storing() {
		workers.Go(func() {
			for f := range t.queue {
				t.small(f)
			}
		})
	}
	err := t.run()
	if err != nil {
		cancel(err)
	}
	close(t.queue)
	workers.Wait()
	root, err := t.end()
	if err != nil {
		return TreeResult{}, err
	}
	return TreeResult{Root: root, Totals: dec.Totals(), Issues: dec.Issues()}, nil
}

// storing is how many contents are hashed, compressed and encrypted at once.
// It is more than there are cores: one of them is away uploading when a pack
// is full.
func storing() int { return max(4, runtime.GOMAXPROCS(0)) }

// treeWriter makes a kopia tree of the entries of a volume.
type treeWriter struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	store  *store

	root       *folder
	open       []*folder // from the root to the current one
	folders    sync.WaitGroup
	linked     map[string]*linkedFile
	attributes *attributesWriter
}

func newTreeWriter(ctx context.Context, cancel context.CancelCauseFunc, r *relay) *treeWriter {
	return &treeWriter{
		ctx: ctx, cancel: cancel, store: newStore(ctx, r, storing()),
		linked: map[string]*linkedFile{}, attributes: newAttributesWriter(ctx, r.base),
	}
}

// end waits for what is under way and returns the root.
func (t *treeWriter) end() (*snapshot.DirEntry, error) {
	t.folders.Wait()
	t.store.relay.end()
	if cause := context.Cause(t.ctx); cause != nil {
		return nil, cause
	}
	if t.root == nil || t.root.entry.ObjectID == object.EmptyID {
		return nil, errors.New("the root was not finished")
	}
	return t.root.entry, nil
}

// finish leaves all folders, with the attributes in the root.
func (t *treeWriter) finish(issues []volume.Issue) error {
	if t.root == nil {
		return errors.New("there is no root")
	}
	for len(t.open) > 1 {
		t.leave()
	}
	id, size, err := t.attributes.finish(issues)
	if err != nil {
		return err
	}
	t.own(attributesName, id, size)
	t.leave()
	return nil
}

// own adds a file of ours to the root.
func (t *treeWriter) own(name string, id object.ID, size int64) {
	if id == object.EmptyID {
		return
	}
	t.root.entries = append(t.root.entries, &snapshot.DirEntry{
		Name: name, Type: snapshot.EntryTypeFile, Permissions: 0o600, FileSize: size, ObjectID: id, ModTime: t.root.entry.ModTime,
	})
}

// streamWriter takes the entries from a stream.
type streamWriter struct {
	*treeWriter
	dec    *volume.Decoder
	device bool
	queue  chan smallFile
}

// folder is a directory whose files are under way. It is stored once it has
// been left and the last of them is stored, by whoever comes last.
type folder struct {
	parent  *folder
	path    string
	entry   *snapshot.DirEntry
	entries []*snapshot.DirEntry
	pending atomic.Int32 // entries that are not stored, and 1 until it is left
}

// linkedFile is a file that may get further names.
type linkedFile struct {
	entry  *snapshot.DirEntry // nil for what kopia has no form of
	stored chan struct{}      // closed when entry has its object; nil if it has
}

type smallFile struct {
	folder *folder
	entry  *snapshot.DirEntry
	data   []byte
	stored chan struct{}
}

func (t *streamWriter) run() error {
	for {
		if err := context.Cause(t.ctx); err != nil {
			return err
		}
		e, err := t.dec.Next()
		if err == io.EOF {
			return t.finish(t.dec.Issues())
		}
		if err != nil {
			return err
		}
		if err := t.entry(e); err != nil {
			return fmt.Errorf("%s: %w", volume.Escape(e.Path), err)
		}
	}
}

func (t *streamWriter) entry(e *volume.Entry) error {
	t.climb(e)
	if e.Type != volume.File {
		return t.other(e)
	}
	de := kopiaEntry(e)
	f := t.open[len(t.open)-1]
	l := &linkedFile{entry: de}
	if e.Linked {
		l.stored = make(chan struct{})
		t.linked[e.Path] = l
	}
	f.entries = append(f.entries, de)
	f.pending.Add(1)
	holes, err := t.file(f, e, de, l.stored)
	if err != nil {
		return err
	}
	return t.note(e, de, holes)
}

// climb leaves the folders that e is not in.
func (t *treeWriter) climb(e *volume.Entry) {
	for len(t.open) > e.Depth() {
		t.leave()
	}
}

// other takes an entry that is no regular file.
func (t *treeWriter) other(e *volume.Entry) error {
	de := kopiaEntry(e)
	if e.Type == volume.Dir {
		return t.enter(e, de)
	}
	f := t.open[len(t.open)-1]
	switch e.Type {
	case volume.Symlink:
		id, err := t.store.object("link", []byte(e.Link))
		if err != nil {
			return err
		}
		de.ObjectID, de.FileSize = id, int64(len(e.Link))
		f.entries = append(f.entries, de)
		if e.Linked {
			t.linked[e.Path] = &linkedFile{entry: de}
		}
	case volume.HardLink:
		first := t.linked[e.Link]
		if first == nil {
			return fmt.Errorf("a further name of %s, which did not come before", volume.Escape(e.Link))
		}
		if first.stored != nil {
			select {
			case <-first.stored:
			case <-t.ctx.Done():
				return context.Cause(t.ctx)
			}
		}
		if first.entry != nil {
			// To kopia it is a file of its own, with the same content.
			same := first.entry.Clone()
			same.Name = de.Name
			f.entries = append(f.entries, same)
		}
	default:
		if e.Linked {
			t.linked[e.Path] = &linkedFile{}
		}
	}
	return t.note(e, de, nil)
}

// note keeps what kopia does not.
func (t *treeWriter) note(e *volume.Entry, de *snapshot.DirEntry, holes []volume.Extent) error {
	if kopiaKeeps(e, de) && len(holes) == 0 {
		return nil
	}
	return t.attributes.add(attributes{entry: e, holes: holes})
}

// kopiaKeeps says that all there is to say about e is in the kopia entry.
func kopiaKeeps(e *volume.Entry, de *snapshot.DirEntry) bool {
	return de.Type != snapshot.EntryTypeUnknown && !e.Partial && len(e.Xattrs) == 0 && de.ModTime.ToTime().Equal(e.ModTime)
}

// kopiaEntry is the entry that kopia has for e, still without its object. Its
// type is unknown for what kopia has no form of.
func kopiaEntry(e *volume.Entry) *snapshot.DirEntry {
	de := &snapshot.DirEntry{Name: storedName(e.Name()), Permissions: snapshot.Permissions(fileMode(e.Mode)), UserID: e.UID, GroupID: e.GID}
	switch e.Type {
	case volume.File:
		de.Type = snapshot.EntryTypeFile
	case volume.Dir:
		de.Type = snapshot.EntryTypeDirectory
	case volume.Symlink:
		de.Type = snapshot.EntryTypeSymlink
	}
	// Times that do not fit into nanoseconds since 1970 are in the attributes.
	if t := e.ModTime; !t.IsZero() && t.After(time.Unix(0, -1<<63)) && t.Before(time.Unix(0, 1<<63-1)) {
		de.ModTime = fs.UTCTimestampFromTime(t)
	}
	return de
}

// fileMode is how Go, and so kopia, writes the twelve permission bits.
func fileMode(mode uint32) os.FileMode {
	m := os.FileMode(mode & 0o777)
	for bit, flag := range modeFlags {
		if mode&bit != 0 {
			m |= flag
		}
	}
	return m
}

func unixMode(m os.FileMode) uint32 {
	mode := uint32(m.Perm())
	for bit, flag := range modeFlags {
		if m&flag != 0 {
			mode |= bit
		}
	}
	return mode
}

var modeFlags = map[uint32]os.FileMode{0o4000: os.ModeSetuid, 0o2000: os.ModeSetgid, 0o1000: os.ModeSticky}

func (t *treeWriter) enter(e *volume.Entry, de *snapshot.DirEntry) error {
	f := &folder{path: e.Path, entry: de}
	f.pending.Store(1)
	if len(t.open) > 0 {
		f.parent = t.open[len(t.open)-1]
		f.parent.entries = append(f.parent.entries, de)
		f.parent.pending.Add(1)
	} else {
		t.root = f
	}
	t.open = append(t.open, f)
	return t.note(e, de, nil)
}

func (t *treeWriter) leave() {
	f := t.open[len(t.open)-1]
	t.open = t.open[:len(t.open)-1]
	if f.pending.Add(-1) == 0 {
		t.folders.Go(func() { t.stored(f) })
	}
}

// done counts one entry of a folder as stored, and stores the folder after
// the last one.
func (t *treeWriter) done(f *folder) {
	if f.pending.Add(-1) == 0 {
		t.stored(f)
	}
}

// stored stores a folder in which all is stored, and then the folder above in
// the same way.
func (t *treeWriter) stored(f *folder) {
	if context.Cause(t.ctx) != nil {
		return
	}
	if err := t.storeFolder(f); err != nil {
		t.cancel(fmt.Errorf("directory %s: %w", volume.Escape(f.path), err))
		return
	}
	if f.parent != nil {
		t.done(f.parent)
	}
}

func (t *treeWriter) storeFolder(f *folder) error {
	isFile := func(e *snapshot.DirEntry) int {
		if e.Type == snapshot.EntryTypeDirectory {
			return 0
		}
		return 1
	}
	// As kopia sorts them.
	slices.SortFunc(f.entries, func(a, b *snapshot.DirEntry) int {
		if d := isFile(a) - isFile(b); d != 0 {
			return d
		}
		return strings.Compare(a.Name, b.Name)
	})
	var stored *snapshot.DirEntry
	err := t.store.relay.use(func(w writer) (err error) {
		stored, err = writeDirectory(t.ctx, w, func(yield func(*snapshot.DirEntry) error) error {
			for i, e := range f.entries {
				if i > 0 && f.entries[i-1].Name == e.Name {
					return fmt.Errorf("%s is in it twice", volume.Escape(trueName(e.Name)))
				}
				if err := yield(e); err != nil {
					return err
				}
			}
			return nil
		})
		return err
	})
	if err != nil {
		return err
	}
	f.entry.ObjectID, f.entry.DirSummary = stored.ObjectID, stored.DirSummary
	f.entries = nil
	return nil
}

func (t *streamWriter) small(f smallFile) {
	if context.Cause(t.ctx) != nil {
		return
	}
	id, err := t.store.object("file", f.data)
	if err != nil {
		t.cancel(fmt.Errorf("%s/%s: %w", volume.Escape(f.folder.path), volume.Escape(trueName(f.entry.Name)), err))
		return
	}
	f.entry.ObjectID, f.entry.FileSize = id, int64(len(f.data))
	if f.stored != nil {
		close(f.stored)
	}
	t.done(f.folder)
}

// file reads the content of one file and returns its holes. A small file is
// handed on, so its entry is not complete yet when file returns.
func (t *streamWriter) file(f *folder, e *volume.Entry, de *snapshot.DirEntry, stored chan struct{}) ([]volume.Extent, error) {
	data := make([]byte, 0, min(max(e.Size, 0), treeSmallFile))
	var holes holeList
	var large *pieces
	var at int64
	for {
		run, err := t.dec.Run()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		length := run.Hole + int64(len(run.Data))
		if large == nil && at+length > treeSmallFile {
			large = t.store.pieces(t.cutter(e))
			defer large.pending.Wait()
			if err := large.data(data); err != nil {
				return nil, err
			}
		}
		switch {
		case run.Hole > 0:
			holes.add(at, run.Hole)
			if large != nil {
				err = large.Hole(run.Hole)
			} else {
				data = append(data, make([]byte, run.Hole)...)
			}
		case large != nil:
			err = large.data(run.Data)
		default:
			data = append(data, run.Data...)
		}
		if err != nil {
			return nil, err
		}
		at += length
	}
	if large == nil {
		select {
		case t.queue <- smallFile{folder: f, entry: de, data: data, stored: stored}:
			return holes.list, nil
		case <-t.ctx.Done():
			return nil, context.Cause(t.ctx)
		}
	}
	id, err := large.finish()
	if err != nil {
		return nil, err
	}
	de.ObjectID, de.FileSize = id, at
	if stored != nil {
		close(stored)
	}
	t.done(f)
	return holes.list, nil
}

// holeList is the holes of one file, in order.
type holeList struct{ list []volume.Extent }

func (l *holeList) add(at, length int64) {
	n := len(l.list)
	if n > 0 && l.list[n-1].Offset+l.list[n-1].Length == at {
		l.list[n-1].Length += length
	} else if n < maxHoles || length >= largeHole && n < 2*maxHoles {
		l.list = append(l.list, volume.Extent{Offset: at, Length: length})
	}
}

func (t *streamWriter) cutter(e *volume.Entry) cutter {
	if t.device {
		return &blocks{length: blockLength(e.Size)}
	}
	return &gear{}
}
