package csi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Knobs make the driver slow, unwilling or wrong. All are off in the zero
// value. A call that was told to wait and is cancelled has done nothing.
type Knobs struct {
	// CreateVolumeDelay is waited before a volume is made, CreateVolumeError
	// is answered instead of making one.
	CreateVolumeDelay time.Duration `json:"createVolumeDelay,omitempty"`
	CreateVolumeError string        `json:"createVolumeError,omitempty"`
	// Volume, the name of a persistent volume, limits what is said of
	// snapshots and groups below to this one, and to groups with it; so one
	// of several can fail.
	Volume string `json:"volume,omitempty"`
	// SnapshotDelay is waited before the cut of a single snapshot,
	// SnapshotError is answered instead of it.
	SnapshotDelay time.Duration `json:"snapshotDelay,omitempty"`
	SnapshotError string        `json:"snapshotError,omitempty"`
	// SnapshotNotReady makes snapshots, cut as ever, and group snapshots say
	// that they cannot be used yet, for as long as it is set: a storage
	// system that copies after the cut.
	SnapshotNotReady bool `json:"snapshotNotReady,omitempty"`
	// GroupDelay and GroupError are the same as for single snapshots.
	GroupDelay time.Duration `json:"groupDelay,omitempty"`
	GroupError string        `json:"groupError,omitempty"`
	// DeleteSnapshotError is answered instead of deleting a snapshot, single
	// or of a group.
	DeleteSnapshotError string `json:"deleteSnapshotError,omitempty"`
	// StageError is answered instead of mounting a volume for a pod.
	StageError string `json:"stageError,omitempty"`
}

// KnobsFile is where a driver with this directory reads its knobs.
func KnobsFile(dir string) string { return filepath.Join(dir, "knobs.json") }

// SetKnobs writes the knobs for a driver with this directory. They hold for
// calls that come later.
func SetKnobs(dir string, k Knobs) error { return writeRecord(KnobsFile(dir), k) }

func (d *driver) readKnobs() (Knobs, error) {
	var k Knobs
	b, err := os.ReadFile(d.knobs)
	if errors.Is(err, os.ErrNotExist) {
		return k, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &k)
	}
	if err != nil {
		return k, status.Error(codes.Internal, fmt.Sprintf("knobs: %v", err))
	}
	return k, nil
}

// concern tells whether what the knobs say of snapshots holds for a volume.
func (k Knobs) concern(v volume) bool { return k.Volume == "" || k.Volume == v.Name }

// obey waits and fails as a knob says.
func obey(ctx context.Context, delay time.Duration, fault string) error {
	if delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
	if fault != "" {
		return status.Error(codes.Internal, fault)
	}
	return nil
}
