package repository

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/kopia/kopia/repo/object"
	"github.com/kopia/kopia/snapshot"
	"golang.org/x/sync/errgroup"

	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
)

// captureDevice stores a device as a tree with one file, in blocks at fixed
// places: what changes in one block leaves all others as they are stored.
// Blocks of zeros are holes.
func captureDevice(ctx context.Context, cancel context.CancelCauseFunc, r *relay, path string, o CaptureOptions) (captured, error) {
	d, err := volume.OpenDevice(path, false)
	if err != nil {
		return captured{}, err
	}
	defer d.Close()
	checked, whole := limit(ctx, d, o)
	t := newTreeWriter(ctx, cancel, r)
	c := captured{block: true, whole: whole, totals: volume.Totals{Entries: 2, Files: 1, Bytes: d.Size()}}
	dir := &volume.Entry{Type: volume.Dir, Mode: 0o700}
	file := &volume.Entry{Path: volume.DeviceName, Type: volume.File, Mode: 0o600, Size: d.Size()}
	err = t.other(dir)
	if err == nil {
		de := kopiaEntry(file)
		de.FileSize = d.Size()
		w := &deviceWriter{store: t.store, d: d, o: o, length: int64(blockLength(d.Size()))}
		if de.ObjectID, err = w.run(ctx); err == nil {
			c.read = checked + w.read.Load()
			t.root.entries = append(t.root.entries, de)
			err = t.note(file, de, w.holes.list)
		}
	}
	if err == nil {
		err = t.finish(nil)
	}
	if err != nil {
		cancel(err)
	}
	root, endErr := t.end()
	if endErr != nil {
		return captured{}, endErr
	}
	c.root = root
	return c, err
}

// limit bounds what is read of a device by what its storage says to be allocated.
// whole says why that could not be, where it was asked for: then all is read.
func limit(ctx context.Context, d *volume.Device, o CaptureOptions) (read int64, whole string) {
	if o.Allocated == nil {
		return 0, ""
	}
	a, err := o.Allocated(ctx)
	if err == nil {
		read, err = d.Limit(a)
	}
	if err != nil {
		whole = err.Error()
	}
	return read, whole
}

// deviceWriter stores the blocks of a device, several at once.
type deviceWriter struct {
	store  *store
	d      *volume.Device
	o      CaptureOptions
	length int64
	read   atomic.Int64
	holes  holeList
}

func (w *deviceWriter) run(ctx context.Context) (object.ID, error) {
	blocks := make([]object.ID, (w.d.Size()+w.length-1)/w.length)
	workers := w.o.Workers
	if workers == 0 {
		workers = storing()
	}
	buffers := sync.Pool{New: func() any { b := make([]byte, w.length); return &b }}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	var next int64 // the first block that was not handed out
	err := w.d.Data(func(x volume.Extent) error {
		for n := max(next, x.Offset/w.length); n*w.length < x.Offset+x.Length; n++ {
			next = n + 1
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			group.Go(func() error {
				b := buffers.Get().(*[]byte)
				defer buffers.Put(b)
				id, err := w.block(n*w.length, *b)
				blocks[n] = id
				return err
			})
		}
		return nil
	})
	if waitErr := group.Wait(); waitErr != nil {
		return object.EmptyID, waitErr
	}
	if err != nil {
		return object.EmptyID, err
	}
	return w.join(blocks)
}

// block returns an empty id for a block of zeros.
func (w *deviceWriter) block(at int64, b []byte) (object.ID, error) {
	b = b[:min(w.length, w.d.Size()-at)]
	n, err := w.d.ReadAt(b, at)
	w.read.Add(int64(n))
	if err != nil {
		return object.EmptyID, fmt.Errorf("read at byte %d: %w", at, err)
	}
	if w.o.Progress != nil {
		w.o.Progress(int64(n))
	}
	if volume.IsZero(b) {
		return object.EmptyID, nil
	}
	return w.store.object("block", b)
}

// join makes one object of the blocks, with references to zeros for the holes.
func (w *deviceWriter) join(blocks []object.ID) (object.ID, error) {
	var entries []object.IndirectObjectEntry
	add := func(id object.ID, length int64) {
		var at int64
		if n := len(entries); n > 0 {
			at = entries[n-1].Start + entries[n-1].Length
		}
		entries = append(entries, object.IndirectObjectEntry{Start: at, Length: length, Object: id})
	}
	for n := 0; n < len(blocks); n++ {
		at := int64(n) * w.length
		if blocks[n] != object.EmptyID {
			add(blocks[n], min(w.length, w.d.Size()-at))
			continue
		}
		for n+1 < len(blocks) && blocks[n+1] == object.EmptyID {
			n++
		}
		hole := min(int64(n+1)*w.length, w.d.Size()) - at
		w.holes.add(at, hole)
		if err := w.store.zeros.each(w.store, hole, add); err != nil {
			return object.EmptyID, err
		}
	}
	switch len(entries) {
	case 0:
		return w.store.object("block", nil)
	case 1:
		return entries[0].Object, nil
	}
	return w.store.index(entries)
}

// restoreDevice writes only data, and makes the rest read as zeros.
func (r *Volumes) restoreDevice(ctx context.Context, part VolumePart, path string, o RestoreOptions) (volume.Report, error) {
	file, holes, err := r.device(ctx, part)
	if err != nil {
		return volume.Report{}, err
	}
	d, err := volume.OpenDevice(path, true)
	if err != nil {
		return volume.Report{}, err
	}
	defer d.Close()
	if err := d.Fit(file.FileSize); err != nil {
		return volume.Report{}, err
	}
	c := &storedFile{r: r, id: file.ObjectID, size: file.FileSize, holes: holes, workers: workersOf(o), progress: o.Progress}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		_, err := c.CopyTo(ctx, d)
		return err
	})
	group.Go(func() error {
		if o.Zeroed {
			return nil
		}
		for _, h := range holes {
			if err := d.Zero(h.Offset, h.Length); err != nil {
				return err
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		return volume.Report{}, err
	}
	return volume.Report{Files: 1, Bytes: file.FileSize}, d.Sync()
}

// device finds the content of a device and its holes.
func (r *Volumes) device(ctx context.Context, part VolumePart) (*snapshot.DirEntry, []volume.Extent, error) {
	t := &treeReader{ctx: ctx, r: r.engine}
	children, err := t.list("", part.Root.ObjectID)
	if err != nil {
		return nil, nil, err
	}
	var file *snapshot.DirEntry
	for _, c := range children {
		if c.name == volume.DeviceName && c.entry.Type == snapshot.EntryTypeFile {
			file = c.entry
		}
	}
	if file == nil {
		return nil, nil, errors.New("it is not the backup of a device")
	}
	var holes []volume.Extent
	err = t.eachAttributes(attributesOf(children), func(a *attributes) {
		if a.entry.Path == volume.DeviceName {
			holes = a.holes
		}
	})
	return file, holes, err
}
