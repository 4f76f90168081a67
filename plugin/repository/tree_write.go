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
	"github.com/kopia/kopia/repo"
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
func WriteTree(ctx context.Context, w repo.RepositoryWriter, dec *volume.Decoder) (TreeResult, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t := &treeWriter{
		ctx: ctx, w: w, dec: dec, cancel: cancel, async: max(2, runtime.GOMAXPROCS(0)),
		queue: make(chan smallFile, treeQueue), linked: map[string]*linkedFile{}, attributes: newAttributesWriter(ctx, w),
	}
	var workers sync.WaitGroup
	for range t.async {
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
	if cause := context.Cause(ctx); cause != nil {
		return TreeResult{}, fmt.Errorf("store volume: %w", cause)
	}
	if t.root.entry.ObjectID == object.EmptyID {
		return TreeResult{}, errors.New("store volume: the root was not finished")
	}
	return TreeResult{Root: t.root.entry, Totals: dec.Totals(), Issues: dec.Issues()}, nil
}

type treeWriter struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	w      repo.RepositoryWriter
	dec    *volume.Decoder
	async  int
	queue  chan smallFile

	root       *folder
	open       []*folder // from the root to the current one
	linked     map[string]*linkedFile
	attributes *attributesWriter
	zeros      zeros
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

func (t *treeWriter) run() error {
	for {
		if err := context.Cause(t.ctx); err != nil {
			return err
		}
		e, err := t.dec.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		for len(t.open) > e.Depth() {
			t.leave()
		}
		if err := t.entry(e); err != nil {
			return fmt.Errorf("%s: %w", volume.Escape(e.Path), err)
		}
	}
	for len(t.open) > 1 {
		t.leave()
	}
	id, size, err := t.attributes.finish(t.dec.Issues())
	if err != nil {
		return err
	}
	if id != object.EmptyID {
		t.root.entries = append(t.root.entries, &snapshot.DirEntry{
			Name: attributesName, Type: snapshot.EntryTypeFile, Permissions: 0o600, FileSize: size, ObjectID: id, ModTime: t.root.entry.ModTime,
		})
	}
	t.leave()
	return nil
}

func (t *treeWriter) entry(e *volume.Entry) error {
	de := kopiaEntry(e)
	if e.Type == volume.Dir {
		return t.enter(e, de)
	}
	f := t.open[len(t.open)-1]
	var holes []volume.Extent
	switch e.Type {
	case volume.File:
		l := &linkedFile{entry: de}
		if e.Linked {
			l.stored = make(chan struct{})
			t.linked[e.Path] = l
		}
		f.entries = append(f.entries, de)
		f.pending.Add(1)
		var err error
		if holes, err = t.file(f, e, de, l.stored); err != nil {
			return err
		}
	case volume.Symlink:
		id, err := t.object("link", []byte(e.Link))
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
	if !kopiaKeeps(e, de) || len(holes) > 0 {
		return t.attributes.add(attributes{entry: e, holes: holes})
	}
	return nil
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
	if !kopiaKeeps(e, de) {
		return t.attributes.add(attributes{entry: e})
	}
	return nil
}

func (t *treeWriter) leave() {
	f := t.open[len(t.open)-1]
	t.open = t.open[:len(t.open)-1]
	t.done(f)
}

// done counts one entry of a folder as stored, and stores the folder after
// the last one, and then the folder above in the same way.
func (t *treeWriter) done(f *folder) {
	for f != nil && f.pending.Add(-1) == 0 {
		if context.Cause(t.ctx) != nil {
			return
		}
		if err := t.storeFolder(f); err != nil {
			t.cancel(fmt.Errorf("directory %s: %w", volume.Escape(f.path), err))
			return
		}
		f = f.parent
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
	stored, err := writeDirectory(t.ctx, t.w, func(yield func(*snapshot.DirEntry) error) error {
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
	if err != nil {
		return err
	}
	f.entry.ObjectID, f.entry.DirSummary = stored.ObjectID, stored.DirSummary
	f.entries = nil
	return nil
}

// object stores a few bytes.
func (t *treeWriter) object(description string, b []byte) (object.ID, error) {
	out := t.w.NewObjectWriter(t.ctx, object.WriterOptions{Description: description, Compressor: compressor, MetadataCompressor: compressor})
	defer out.Close()
	if _, err := out.Write(b); err != nil {
		return object.EmptyID, err
	}
	return out.Result()
}

func (t *treeWriter) small(f smallFile) {
	if context.Cause(t.ctx) != nil {
		return
	}
	id, err := t.object("file", f.data)
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
func (t *treeWriter) file(f *folder, e *volume.Entry, de *snapshot.DirEntry, stored chan struct{}) ([]volume.Extent, error) {
	data := make([]byte, 0, min(max(e.Size, 0), treeSmallFile))
	var holes []volume.Extent
	var large *extents
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
			large = &extents{t: t}
			if err := large.data(data); err != nil {
				return nil, err
			}
		}
		switch {
		case run.Hole > 0:
			if n := len(holes); n > 0 && holes[n-1].Offset+holes[n-1].Length == at {
				holes[n-1].Length += run.Hole
			} else if n < maxHoles || run.Hole >= largeHole && n < 2*maxHoles {
				holes = append(holes, volume.Extent{Offset: at, Length: run.Hole})
			}
			if large != nil {
				err = large.hole(run.Hole)
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
			return holes, nil
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
	return holes, nil
}
