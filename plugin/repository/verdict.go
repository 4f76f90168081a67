package repository

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/kopia/kopia/repo/blob"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Verdicts of drills are records of their own, since that of a backup is never
// changed: kbdrill-<backup>-<time>-<random>.
const (
	verdictPrefix = "kbdrill-"
	verdictMagic  = "KBD1"
)

// AddVerdict stores what a drill found about a backup.
func (r *Repository) AddVerdict(ctx context.Context, v v1alpha1.DrillVerdict) error {
	if r.readOnly {
		return errReadOnly
	}
	ctx, cancel := r.guard.bind(ctx)
	defer cancel()
	if err := r.addVerdict(ctx, v); err != nil {
		return fmt.Errorf("verdict about backup %s: %w", v.Backup, r.guard.explain(ctx, err))
	}
	return nil
}

func (r *Repository) addVerdict(ctx context.Context, v v1alpha1.DrillVerdict) error {
	if !idPattern.MatchString(v.Backup) {
		return ErrNoRecord
	}
	id, err := newID(r.now())
	if err != nil {
		return err
	}
	name := verdictPrefix + v.Backup + "-" + id
	sealed, err := r.sealed(verdictMagic, name, v)
	if err != nil {
		return err
	}
	var data buffer
	data.Write(sealed)
	return r.guard.PutBlob(ctx, blob.ID(name), &data, blob.PutOptions{})
}

// Verdicts reads the last verdict about each backup, by its id; backup limits
// it to one, empty means all. One that cannot be read is passed over: it says
// nothing.
func (r *Repository) Verdicts(ctx context.Context, backup string) (map[string]v1alpha1.DrillVerdict, error) {
	ctx, cancel := r.guard.bind(ctx)
	defer cancel()
	names, err := r.verdictNames(ctx, backup)
	if err != nil {
		return nil, fmt.Errorf("verdicts of drills: %w", r.guard.explain(ctx, err))
	}
	last := map[string]v1alpha1.DrillVerdict{}
	// The newest first: one is enough for each backup.
	for _, name := range slices.Backward(names) {
		id := strings.TrimPrefix(name, verdictPrefix)[:len(idTime)+7]
		if _, known := last[id]; known {
			continue
		}
		var sealed buffer
		if err := r.guard.GetBlob(ctx, blob.ID(name), 0, -1, &sealed); errors.Is(err, blob.ErrBlobNotFound) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("verdict %s: %w", name, r.guard.explain(ctx, err))
		}
		var v v1alpha1.DrillVerdict
		if r.unsealed(verdictMagic, name, sealed.Bytes(), &v) == nil && v.Backup == id {
			last[id] = v
		}
	}
	return last, nil
}

// verdictNames are in the order of their backups and times.
func (r *Repository) verdictNames(ctx context.Context, backup string) (names []string, err error) {
	err = r.guard.ListBlobs(ctx, blob.ID(verdictPrefix+backup), func(m blob.Metadata) error {
		if rest := strings.TrimPrefix(string(m.BlobID), verdictPrefix); len(rest) > 2*len(idTime)+8 && idPattern.MatchString(rest[:len(idTime)+7]) {
			names = append(names, string(m.BlobID))
		}
		return nil
	})
	slices.Sort(names)
	return names, err
}

// deleteVerdicts removes what drills found about a backup that is gone.
func (r *Repository) deleteVerdicts(ctx context.Context, backup string) error {
	names, err := r.verdictNames(ctx, backup)
	for _, name := range names {
		err = errors.Join(err, r.guard.DeleteBlob(ctx, blob.ID(name)))
	}
	return err
}
