package repository

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Volumes are the volumes of an open repository: all that a mover is concerned
// with. Its methods may be used from many goroutines.
type Volumes struct {
	guard    *guard
	engine   engine
	readOnly bool
	closing  sync.Once
}

// Close releases the repository.
func (r *Volumes) Close(ctx context.Context) error {
	var err error
	r.closing.Do(func() { err = errors.Join(r.engine.Close(ctx), r.guard.Storage.Close(ctx)) })
	if err != nil {
		return fmt.Errorf("close repository: %w", err)
	}
	return nil
}

// Warnings are sentences about the repository as a whole: index blobs that
// could not be read, a clock that is off.
func (r *Volumes) Warnings() []string {
	var list []string
	var indexes []string
	for _, id := range r.guard.excluded() {
		if isIndex(id) {
			indexes = append(indexes, string(id))
		} else {
			list = append(list, fmt.Sprintf("the blob %s cannot be read; kopia's defaults stand in for it", id))
		}
	}
	if n := len(indexes); n > 0 {
		list = append(list, fmt.Sprintf("%d index blob(s) are listed but cannot be read, the first is %s; backups that only they name are damaged", n, slices.Min(indexes)))
	}
	if w := r.ClockWarning(); w != "" {
		list = append(list, w)
	}
	return list
}

// ClockWarning says that this machine's clock is off, as soon as something was
// put by which it can be told.
func (r *Volumes) ClockWarning() string { return clockWarning(r.guard.clockSkew()) }

// maxClockSkew is how far clocks may be apart before it is said. Times in
// records are corrected by any amount.
const maxClockSkew = 5 * time.Minute

func clockWarning(skew time.Duration, measured bool) string {
	if !measured || skew.Abs() <= maxClockSkew {
		return ""
	}
	direction := "ahead of"
	if skew > 0 {
		direction = "behind"
	}
	return fmt.Sprintf("clock: this machine's clock is %s %s the remote's; times are recorded by the remote's", skew.Abs().Round(time.Second), direction)
}
