package repository

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync/atomic"

	"github.com/kopia/kopia/repo/object"
	"golang.org/x/sync/errgroup"

	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
)

// restoreFolder writes the files of a volume several at once, each straight
// from the repository.
func (r *Volumes) restoreFolder(ctx context.Context, part VolumePart, root string, o RestoreOptions) (volume.Report, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t, walked := walkTree(ctx, cancel, r.engine, part.Root, treeScope{prefix: o.Path, names: true})
	defer walked()
	var damaged volume.Issues
	next := func() (*volume.Entry, func() (volume.Content, error), error) {
		for j := range t.ordered {
			if j.done != nil {
				<-j.done
			}
			switch {
			case ctx.Err() != nil:
				return nil, nil, context.Cause(ctx)
			case j.issue != nil:
				damaged.Add(volume.Issue{Path: volume.Escape(j.entry.Path), Kind: volume.Unreadable, What: "damaged in the repository: " + j.issue.Error()})
				if j.entry.Type != volume.Dir {
					continue
				}
			case j.entry.Type == volume.Symlink:
				j.entry.Link = string(j.data)
			}
			return j.entry, func() (volume.Content, error) { return r.open(ctx, j, o) }, nil
		}
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		return nil, nil, io.EOF
	}
	report, err := volume.BuildTree(ctx, root, volume.WriteOptions{Extra: o.Extra}, workersOf(o), next)
	if err != nil {
		cancel(err)
	}
	report.Issues = append(damaged.List(), report.Issues...)
	return report, err
}

// open reads a small file at once, so that one that cannot be read replaces
// nothing.
func (r *Volumes) open(ctx context.Context, j *treeJob, o RestoreOptions) (volume.Content, error) {
	f := &storedFile{r: r, id: j.id, size: j.size, holes: j.holes, workers: 2, progress: o.Progress}
	var err error
	if j.size <= largestPiece {
		f.data, err = r.whole(ctx, j.id, j.size)
	} else {
		f.entries, err = r.piecesOf(ctx, j.id, j.size)
	}
	if err != nil {
		return nil, fmt.Errorf("damaged in the repository: %w", err)
	}
	return f, nil
}

// storedFile is the content of a file in the repository.
type storedFile struct {
	r        *Volumes
	id       object.ID
	size     int64
	holes    []volume.Extent
	workers  int
	progress func(int64)
	data     []byte // of a small one
	entries  []object.IndirectObjectEntry
}

// whole reads an object that is not large.
func (r *Volumes) whole(ctx context.Context, id object.ID, size int64) ([]byte, error) {
	var data []byte
	if c, compressed, ok := id.ContentID(); ok && !compressed {
		var err error
		if data, err = r.engine.ContentReader().GetContent(ctx, c); err != nil {
			return nil, err
		}
	} else {
		in, err := r.engine.OpenObject(ctx, id)
		if err != nil {
			return nil, err
		}
		defer in.Close()
		if data, err = io.ReadAll(io.LimitReader(in, size+1)); err != nil {
			return nil, err
		}
	}
	if int64(len(data)) != size {
		return nil, fmt.Errorf("it has %d bytes where its directory says %d", len(data), size)
	}
	return data, nil
}

// piecesOf lists the pieces of a large file.
func (r *Volumes) piecesOf(ctx context.Context, id object.ID, size int64) ([]object.IndirectObjectEntry, error) {
	list := struct {
		Entries []object.IndirectObjectEntry `json:"entries"`
	}{Entries: []object.IndirectObjectEntry{{Length: size, Object: id}}}
	if index, ok := id.IndexObjectID(); ok {
		in, err := r.engine.OpenObject(ctx, index)
		if err != nil {
			return nil, err
		}
		defer in.Close()
		list.Entries = nil
		if err := json.NewDecoder(in).Decode(&list); err != nil {
			return nil, fmt.Errorf("its list of pieces: %w", err)
		}
	}
	var end int64
	for _, e := range list.Entries {
		if e.Start != end || e.Length < 0 {
			return nil, fmt.Errorf("its list of pieces has none at byte %d", end)
		}
		end += e.Length
	}
	if end != size {
		return nil, fmt.Errorf("it has %d bytes where its directory says %d", end, size)
	}
	return list.Entries, nil
}

// CopyTo writes what is not a hole, several pieces of a large file at once.
func (f *storedFile) CopyTo(ctx context.Context, to io.WriterAt) (int64, error) {
	var at int64
	for _, h := range f.holes {
		if h.Offset < at || h.Length < 0 || h.Offset+h.Length > f.size {
			return 0, fmt.Errorf("%w: a hole", errAttributes)
		}
		at = h.Offset + h.Length
	}
	if f.data != nil || f.size == 0 {
		return f.size, f.write(to, 0, f.data)
	}
	if f.entries == nil {
		var err error
		if f.entries, err = f.r.piecesOf(ctx, f.id, f.size); err != nil {
			return 0, err
		}
	}
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range f.workers {
		group.Go(func() error {
			for {
				n := next.Add(1) - 1
				if n >= int64(len(f.entries)) {
					return nil
				}
				if err := f.piece(ctx, to, f.entries[n]); err != nil {
					return err
				}
			}
		})
	}
	return f.size, group.Wait()
}

// piece writes one piece, which is not read if it is within a hole.
func (f *storedFile) piece(ctx context.Context, to io.WriterAt, e object.IndirectObjectEntry) error {
	if n := f.holeAfter(e.Start); n < len(f.holes) && f.holes[n].Offset <= e.Start && e.Start+e.Length <= f.holes[n].Offset+f.holes[n].Length {
		if f.progress != nil {
			f.progress(e.Length)
		}
		return nil
	}
	data, err := f.r.whole(ctx, e.Object, e.Length)
	if err != nil {
		return fmt.Errorf("damaged in the repository at byte %d: %w", e.Start, err)
	}
	return f.write(to, e.Start, data)
}

// holeAfter is the index of the first hole that ends after at.
func (f *storedFile) holeAfter(at int64) int {
	n, _ := slices.BinarySearchFunc(f.holes, at, func(h volume.Extent, at int64) int { return cmp.Compare(h.Offset+h.Length, at+1) })
	return n
}

// write writes bytes that belong at a place, but for the holes in them.
func (f *storedFile) write(to io.WriterAt, at int64, data []byte) error {
	if f.progress != nil {
		f.progress(int64(len(data)))
	}
	for n := f.holeAfter(at); len(data) > 0; n++ {
		end, next := at+int64(len(data)), at+int64(len(data))
		if n < len(f.holes) && f.holes[n].Offset < end {
			end = max(f.holes[n].Offset, at)
			next = min(f.holes[n].Offset+f.holes[n].Length, next)
		}
		if end > at {
			if _, err := to.WriteAt(data[:end-at], at); err != nil {
				return err
			}
		}
		data, at = data[next-at:], next
	}
	return nil
}
