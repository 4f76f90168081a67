package repository

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/kopia/kopia/repo/blob"
	"golang.org/x/sync/errgroup"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// lookedAt is how many of the newest backups are looked at for one of a
// volume.
const lookedAt = 64

// recent keeps the records that were read to find earlier backups: a run asks
// for one volume after the other.
type recent struct {
	mu      sync.Mutex
	records map[string]Record
}

// Previous finds the newest backup of a volume of a cluster among the last few
// backups, or nil. It may be given to CaptureFolder. Backups that are made
// while this process runs may be passed over.
func (r *Repository) Previous(ctx context.Context, line v1alpha1.VolumeLine, clusterUID string) (*VolumePart, error) {
	ctx, cancel := r.guard.bind(ctx)
	defer cancel()
	var ids []string
	err := r.guard.ListBlobs(ctx, recordPrefix, func(m blob.Metadata) error {
		if id := strings.TrimPrefix(string(m.BlobID), recordPrefix); idPattern.MatchString(id) {
			ids = append(ids, id)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("earlier backups: %w", r.guard.explain(ctx, err))
	}
	slices.Sort(ids)
	slices.Reverse(ids)
	path := volumePath(line)
	for batch := range slices.Chunk(ids[:min(len(ids), lookedAt)], recordReaders) {
		records, err := r.recently(ctx, batch)
		if err != nil {
			return nil, fmt.Errorf("earlier backups: %w", r.guard.explain(ctx, err))
		}
		// Ids tell seconds apart; within one, the later commit counts.
		slices.SortStableFunc(records, func(a, b Record) int { return b.Committed.Compare(a.Committed) })
		for _, rec := range records {
			if rec.Cluster.UID != clusterUID {
				continue
			}
			for _, part := range rec.Volumes {
				of := v1alpha1.VolumeLine{Ref: part.Ref, Volume: part.Volume}
				if volumePath(of) == path && part.Root != nil {
					return &part, nil
				}
			}
		}
	}
	return nil, nil
}

// recently reads records; those that cannot be read are empty.
func (r *Repository) recently(ctx context.Context, ids []string) ([]Record, error) {
	r.recent.mu.Lock()
	defer r.recent.mu.Unlock()
	if r.recent.records == nil {
		r.recent.records = map[string]Record{}
	}
	records := make([]Record, len(ids))
	group, ctx := errgroup.WithContext(ctx)
	for i, id := range ids {
		if rec, ok := r.recent.records[id]; ok {
			records[i] = rec
			continue
		}
		group.Go(func() error {
			rec, err := r.readRecord(ctx, id, blob.Metadata{BlobID: recordBlob(id)})
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err == nil {
				records[i] = rec
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for i, id := range ids {
		if len(r.recent.records) < 2*lookedAt {
			r.recent.records[id] = records[i]
		}
	}
	return records, nil
}
