package repository

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/content"
	kopia "github.com/kopia/kopia/repo/object"
	"github.com/kopia/kopia/snapshot"
	"golang.org/x/sync/errgroup"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Verify reads back every content of a backup: the report, each object, each
// file of each volume. It calls object and volume once for each, always in the
// same order, with the outcome Verified or Failed and a reason. The error is
// ErrDamaged if any failed; another error means that it could not be told.
func (r *Repository) Verify(ctx context.Context, rec Record, object func(v1alpha1.ObjectLine), volume func(v1alpha1.VolumeLine)) error {
	ctx, cancel := r.guard.bind(ctx)
	defer cancel()
	fatal := func(err error) error {
		if ctx.Err() != nil {
			return fmt.Errorf("verify backup %s: %w", rec.ID, r.guard.explain(ctx, err))
		}
		return nil
	}
	var failed []error
	report, err := r.document(ctx, rec)
	if err := fatal(err); err != nil {
		return err
	}
	if err != nil {
		failed = append(failed, fmt.Errorf("report: %w", err))
	}
	objects, broken, err := r.verifyObjects(ctx, rec, object)
	if err := fatal(err); err != nil {
		return err
	}
	switch {
	case err != nil:
		failed = append(failed, fmt.Errorf("index of objects: %w", err))
	case broken > 0:
		failed = append(failed, fmt.Errorf("%d of %d objects", broken, rec.Objects))
	case objects != rec.Objects:
		failed = append(failed, fmt.Errorf("the record says %d objects, the index has %d", rec.Objects, objects))
	}
	lines := map[string]v1alpha1.VolumeLine{}
	if report != nil {
		for _, line := range report.Volumes {
			lines[line.Snapshot] = line
		}
	}
	for _, part := range rec.Volumes {
		line, ok := lines[part.Snapshot]
		if !ok {
			line = v1alpha1.VolumeLine{Snapshot: part.Snapshot, Volume: part.Volume, Files: part.Files, Bytes: part.Bytes}
		}
		line.Ref, line.Outcome = part.Ref, v1alpha1.OutcomeVerified
		bytes, err := r.verifyVolume(ctx, part)
		if err := fatal(err); err != nil {
			return err
		}
		line.Reason = fmt.Sprintf("%d bytes read back", bytes)
		if err != nil {
			line.Outcome, line.Reason = v1alpha1.OutcomeFailed, err.Error()
			failed = append(failed, fmt.Errorf("volume %s", part.Ref))
		}
		volume(line)
	}
	if len(failed) > 0 {
		return fmt.Errorf("backup %s: %w: %w", rec.ID, ErrDamaged, errors.Join(failed...))
	}
	return nil
}

func (r *Repository) verifyObjects(ctx context.Context, rec Record, each func(v1alpha1.ObjectLine)) (found, broken int, err error) {
	line := func(ref v1alpha1.Ref, err error) {
		l := v1alpha1.ObjectLine{Ref: ref, Outcome: v1alpha1.OutcomeVerified, Reason: "read back and equal to its checksum"}
		if err != nil {
			broken++
			l.Outcome, l.Reason = v1alpha1.OutcomeFailed, err.Error()
		}
		each(l)
	}
	err = r.eachKind(ctx, rec, func(kind string, e *snapshot.DirEntry) error {
		err := readDirectory(ctx, r.rep, e.ObjectID, func(e *snapshot.DirEntry) error {
			ref := refOf(kind, e.Name)
			o, err := r.readObject(ctx, ref, e)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err == nil {
				ref = o.Ref
			}
			found++
			line(ref, err)
			return nil
		})
		if err != nil && ctx.Err() == nil {
			line(refOf(kind, ""), fmt.Errorf("the index of this kind cannot be read: %w", err))
			return nil
		}
		return err
	})
	return found, broken, err
}

// verifyVolume reads a volume as a restore would. A content that was changed
// does not decrypt.
func (r *Repository) verifyVolume(ctx context.Context, part VolumePart) (int64, error) {
	if part.Root == nil {
		return 0, errors.New("the record does not say where it is")
	}
	issues, bytes, err := VerifyTree(ctx, r.rep, part.Root)
	if err != nil || len(issues) == 0 {
		return bytes, err
	}
	var text strings.Builder
	for i, issue := range issues[:min(len(issues), shownFaults)] {
		if i > 0 {
			text.WriteString("; ")
		}
		text.WriteString(issue.String())
	}
	return bytes, fmt.Errorf("%d path(s) cannot be read: %s", len(issues), text.String())
}

// shownFaults is how many paths a reason names.
const shownFaults = 5

// walk visits a kopia tree depth first. visit gets the error of a directory
// that cannot be read instead of its entries.
func (r *Repository) walk(ctx context.Context, dir kopia.ID, path string, visit func(path string, e *snapshot.DirEntry, err error) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var below []*snapshot.DirEntry
	var own error
	err := readDirectory(ctx, r.rep, dir, func(e *snapshot.DirEntry) error {
		if own = visit(path+e.Name, e, nil); own != nil {
			return own
		}
		if e.Type == snapshot.EntryTypeDirectory {
			below = append(below, e)
		}
		return nil
	})
	if own != nil {
		return own
	}
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := visit(path, nil, err); err != nil {
			return err
		}
	}
	for _, e := range below {
		if err := r.walk(ctx, e.ObjectID, path+e.Name+"/", visit); err != nil {
			return err
		}
	}
	return nil
}

// Check says quickly whether all parts of a backup are there: every content
// is in the index, and every pack that holds one is on the remote, asked for
// by name. It reads folders, not files. A restore calls it before it touches a
// cluster. A missing part is ErrDamaged.
func (r *Repository) Check(ctx context.Context, rec Record) error {
	ctx, cancel := r.guard.bind(ctx)
	defer cancel()
	err := r.check(ctx, rec)
	if err != nil {
		return fmt.Errorf("backup %s: %w", rec.ID, r.damage(ctx, err))
	}
	return nil
}

func (r *Repository) check(ctx context.Context, rec Record) error {
	if rec.Damaged != "" {
		return errors.New(rec.Damaged)
	}
	if _, err := r.root(ctx, rec); err != nil {
		return err
	}
	ends := map[blob.ID]int64{} // for each pack, the last byte that is needed
	count := func(path string, id kopia.ID) error {
		contents, err := present(ctx, r.rep, id)
		if err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
		for _, info := range contents {
			ends[info.PackBlobID] = max(ends[info.PackBlobID], int64(info.PackOffset)+int64(info.PackedLength))
		}
		return nil
	}
	roots := []string{rec.Tree}
	for _, v := range rec.Volumes {
		roots = append(roots, v.Snapshot)
	}
	for _, root := range roots {
		id, err := kopia.ParseID(root)
		if err != nil {
			return fmt.Errorf("tree %q: %w", root, err)
		}
		if err := count(root, id); err != nil {
			return err
		}
		err = r.walk(ctx, id, "", func(path string, e *snapshot.DirEntry, err error) error {
			if err != nil {
				return fmt.Errorf("%q: %w", path, err)
			}
			return count(path, e.ObjectID)
		})
		if err != nil {
			return err
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(recordReaders)
	for id, end := range ends {
		group.Go(func() error {
			m, err := r.guard.GetMetadata(ctx, id)
			if err != nil {
				return fmt.Errorf("pack %s: %w", id, err)
			}
			if m.Length < end {
				return fmt.Errorf("pack %s has %d bytes, %d are needed", id, m.Length, end)
			}
			return nil
		})
	}
	return group.Wait()
}

// present looks an object up in the indexes: all of its contents, by content.
func present(ctx context.Context, r objects, id kopia.ID) ([]content.Info, error) {
	ids, err := r.VerifyObject(ctx, id)
	if err != nil {
		return nil, err
	}
	infos := make([]content.Info, 0, len(ids))
	for _, c := range ids {
		info, err := r.ContentInfo(ctx, c)
		if err != nil {
			return nil, err
		}
		if info.Deleted {
			return nil, fmt.Errorf("%s: %w", c, content.ErrContentNotFound)
		}
		infos = append(infos, info)
	}
	return infos, nil
}

// stillThere says that an object that another backup stored can be used.
func stillThere(ctx context.Context, r objects, id kopia.ID) bool {
	if c, _, ok := id.ContentID(); ok {
		info, err := r.ContentInfo(ctx, c)
		return err == nil && !info.Deleted
	}
	_, err := present(ctx, r, id)
	return err == nil
}
