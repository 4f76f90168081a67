package repository

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/content"
	kopia "github.com/kopia/kopia/repo/object"
	"github.com/kopia/kopia/snapshot"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Document reads the report of the run that made the backup.
func (r *Repository) Document(ctx context.Context, rec Record) (*v1alpha1.Document, error) {
	ctx, cancel := r.guard.bind(ctx)
	defer cancel()
	d, err := r.document(ctx, rec)
	if err != nil {
		return nil, fmt.Errorf("report of backup %s: %w", rec.ID, r.damage(ctx, err))
	}
	return d, nil
}

func (r *Repository) document(ctx context.Context, rec Record) (*v1alpha1.Document, error) {
	root, err := r.root(ctx, rec)
	if err != nil {
		return nil, err
	}
	d := &v1alpha1.Document{}
	err = r.readFile(ctx, root, reportFile, func(in *json.Decoder) error { return in.Decode(d) })
	if err != nil {
		return nil, err
	}
	d.Objects = []v1alpha1.ObjectLine{}
	err = r.readFile(ctx, root, linesFile, func(in *json.Decoder) error {
		for {
			var line v1alpha1.ObjectLine
			if err := in.Decode(&line); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			d.Objects = append(d.Objects, line)
		}
	})
	return d, err
}

func (r *Repository) readFile(ctx context.Context, folder map[string]*snapshot.DirEntry, name string, read func(*json.Decoder) error) error {
	e := folder[name]
	if e == nil {
		return fmt.Errorf("%s is not in the backup", name)
	}
	in, err := r.rep.OpenObject(ctx, e.ObjectID)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer in.Close()
	if err := read(json.NewDecoder(in)); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// root reads the backup's folder. Where the index that leads to it is not
// known, the index blobs that the record names are fetched: a listing may not
// show them yet.
func (r *Repository) root(ctx context.Context, rec Record) (map[string]*snapshot.DirEntry, error) {
	id, err := kopia.ParseID(rec.Tree)
	if err != nil {
		return nil, fmt.Errorf("folder %q: %w", rec.Tree, err)
	}
	entries, _, err := entriesOf(ctx, r.rep, id)
	if err == nil || !isNotFound(err) {
		return entries, err
	}
	if err := r.learn(ctx, rec); err != nil {
		return nil, err
	}
	entries, _, err = entriesOf(ctx, r.rep, id)
	return entries, err
}

// learn makes the index blobs of a record known.
func (r *Repository) learn(ctx context.Context, rec Record) error {
	var ids []blob.ID
	for _, part := range rec.IndexBlobs {
		ids = append(ids, blob.ID(part.ID))
	}
	if _, err := r.guard.include(ctx, ids); err != nil {
		return err
	}
	return r.rep.Refresh(ctx)
}

func isNotFound(err error) bool {
	return errors.Is(err, kopia.ErrObjectNotFound) || errors.Is(err, content.ErrContentNotFound) || errors.Is(err, blob.ErrBlobNotFound)
}

// damage marks errors that are about the data, not about the way to it.
func (r *Repository) damage(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil || errors.Is(err, ErrDamaged) {
		return r.guard.explain(ctx, err)
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}

// readAhead is how many objects are read while others are dealt with.
const readAhead = 16

// ObjectsOf calls each for the objects of a backup that filter accepts, kind
// by kind and always in the same order. filter sees refs without a version,
// before anything is read, and some objects ahead of each; nil accepts all.
func (r *Repository) ObjectsOf(ctx context.Context, rec Record, filter func(v1alpha1.Ref) bool, each func(*object.Object) error) error {
	ctx, cancel := r.guard.bind(ctx)
	defer cancel()
	reading, stop := context.WithCancel(ctx)
	defer stop()
	read := make(chan *object.Object, readAhead)
	var err error // of reading, once read is closed
	go func() {
		defer close(read)
		err = r.eachRow(reading, rec, func(ref v1alpha1.Ref, e *snapshot.DirEntry) error {
			if filter != nil && !filter(ref) {
				return nil
			}
			o, err := r.readObject(reading, ref, e)
			if err != nil {
				return err
			}
			select {
			case read <- o:
				return nil
			case <-reading.Done():
				return reading.Err()
			}
		})
	}()
	for o := range read {
		if own := each(o); own != nil {
			stop()
			for range read { // nothing of ours reads on
			}
			return own
		}
	}
	if err != nil {
		return fmt.Errorf("objects of backup %s: %w", rec.ID, r.damage(ctx, err))
	}
	return nil
}

// Object reads one object. Its index and its bytes are all that is read.
func (r *Repository) Object(ctx context.Context, rec Record, ref v1alpha1.Ref) (*object.Object, error) {
	var found *object.Object
	stop := errors.New("found")
	err := r.ObjectsOf(ctx, rec, func(c v1alpha1.Ref) bool { return c == ref.Key() }, func(o *object.Object) error {
		found = o
		return stop
	})
	switch {
	case err != nil && !errors.Is(err, stop):
		return nil, err
	case found == nil:
		return nil, fmt.Errorf("%s: not in backup %s", ref, rec.ID)
	}
	return found, nil
}

// eachKind calls each for the index of every kind, in order.
func (r *Repository) eachKind(ctx context.Context, rec Record, each func(kind string, e *snapshot.DirEntry) error) error {
	root, err := r.root(ctx, rec)
	if err != nil {
		return err
	}
	folder := root[objectsFolder]
	if folder == nil {
		return fmt.Errorf("%s is not in the backup", objectsFolder)
	}
	return readDirectory(ctx, r.rep, folder.ObjectID, func(e *snapshot.DirEntry) error { return each(e.Name, e) })
}

func (r *Repository) eachRow(ctx context.Context, rec Record, each func(v1alpha1.Ref, *snapshot.DirEntry) error) error {
	return r.eachKind(ctx, rec, func(kind string, e *snapshot.DirEntry) error {
		return readDirectory(ctx, r.rep, e.ObjectID, func(e *snapshot.DirEntry) error {
			return each(refOf(kind, e.Name), e)
		})
	})
}

func (r *Repository) readObject(ctx context.Context, ref v1alpha1.Ref, e *snapshot.DirEntry) (*object.Object, error) {
	in, err := r.rep.OpenObject(ctx, e.ObjectID)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	defer in.Close()
	raw := make([]byte, e.FileSize)
	if _, err := io.ReadFull(in, raw); err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	if in.Length() != e.FileSize {
		return nil, fmt.Errorf("%s: it has %d bytes, the index says %d", ref, in.Length(), e.FileSize)
	}
	o, err := object.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	if o.Ref.Key() != ref {
		return nil, fmt.Errorf("%s: its bytes are those of %s", ref, o.Ref)
	}
	return o, nil
}
