package repository

import (
	"context"
	"errors"
	"fmt"
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
	for _, id := range r.guard.excluded() {
		if id == kopiaSettingsID {
			list = append(list, fmt.Sprintf("the blob %s cannot be read; kopia's defaults stand in for it", id))
			continue
		}
		list = append(list, fmt.Sprintf("index blob %s is listed but cannot be read; backups that only it names are damaged", id))
	}
	if w := clockWarning(r.guard.clockSkew()); w != "" {
		list = append(list, w)
	}
	return list
}

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
