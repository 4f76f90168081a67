package repository

import (
	"context"
	"errors"
	"fmt"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/manifest"
)

// ErrKept says that a backup was to be deleted and is whole and still there.
var ErrKept = errors.New("kept, since the remote refuses to delete its record")

// Delete removes a backup: its record first, then the snapshots that kept its
// data. Other backups are not touched; what they share with it stays. The
// space comes back when the repository is maintained. A damaged record can be
// deleted too. Warnings say what was left behind.
//
// Where the remote refuses to delete the record (object lock), nothing is
// changed and the error is ErrKept.
func (r *Repository) Delete(ctx context.Context, id string) (warnings []string, err error) {
	if r.readOnly {
		return nil, errReadOnly
	}
	ctx, cancel := r.guard.bind(ctx)
	defer cancel()
	rec, err := r.Record(ctx, id)
	damaged := errors.Is(err, ErrDamaged)
	if err != nil && !damaged {
		return nil, err
	}
	if err := r.guard.DeleteBlob(ctx, recordBlob(id)); err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("delete backup %s: %w", id, context.Cause(ctx))
		}
		return nil, fmt.Errorf("backup %s: %w: %w", id, ErrKept, r.guard.explain(ctx, err))
	}
	if err := r.deleteVerdicts(ctx, id); err != nil {
		warnings = append(warnings, fmt.Sprintf("what drills found about it stays: %v", r.guard.explain(ctx, err)))
	}
	if damaged {
		return append(warnings, "its record could not be read, so the snapshots that it named stay"), nil
	}
	manifests := []manifest.ID{manifest.ID(rec.Snapshot)}
	for _, v := range rec.Volumes {
		manifests = append(manifests, manifest.ID(v.Manifest))
	}
	err = repo.DirectWriteSession(ctx, r.rep, repo.WriteSessionOptions{Purpose: "delete " + id}, func(ctx context.Context, w repo.DirectRepositoryWriter) error {
		for _, m := range manifests {
			if err := w.DeleteManifest(ctx, m); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return append(warnings, fmt.Sprintf("the backup is gone, but the snapshots of its data stay: %v", r.guard.explain(ctx, err))), nil
	}
	return warnings, nil
}
