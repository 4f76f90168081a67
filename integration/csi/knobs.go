package csi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
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
	// MetadataError is answered instead of listing the allocated ranges of a
	// snapshot.
	MetadataError string `json:"metadataError,omitempty"`
	// MetadataBlock lists them in blocks of this length instead of as long as
	// they are. Snapshots are multiples of it.
	MetadataBlock int64 `json:"metadataBlock,omitempty"`
	// MetadataRanges is after how many ranges a call breaks off; the next one
	// goes on. MetadataEnd is the byte at which every call does.
	MetadataRanges int   `json:"metadataRanges,omitempty"`
	MetadataEnd    int64 `json:"metadataEnd,omitempty"`
	// MetadataWrong makes a listing wrong: see spoil.
	MetadataWrong string `json:"metadataWrong,omitempty"`
}

// What a listing of allocated ranges can be, wrongly.
const (
	WrongOrder  = "Order"  // the last range comes first
	WrongBeyond = "Beyond" // the last range ends behind the volume
	WrongEmpty  = "Empty"  // a range has no bytes
	WrongType   = "Type"   // it does not say of which kind it is
	WrongNone   = "None"   // nothing is said to be allocated
)

// spoil makes a message of a listing wrong.
func (k Knobs) spoil(m *spec.GetMetadataAllocatedResponse) {
	n := len(m.BlockMetadata)
	switch {
	case k.MetadataWrong == WrongType:
		m.BlockMetadataType = spec.BlockMetadataType_UNKNOWN
	case n == 0:
	case k.MetadataWrong == WrongOrder:
		m.BlockMetadata = append(m.BlockMetadata[n-1:], m.BlockMetadata[:n-1]...)
	case k.MetadataWrong == WrongBeyond:
		m.BlockMetadata[n-1].SizeBytes = m.VolumeCapacityBytes
	case k.MetadataWrong == WrongEmpty:
		m.BlockMetadata[0].SizeBytes = 0
	case k.MetadataWrong == WrongNone:
		m.BlockMetadata = nil
	}
}

// breaks is the error with which a listing ends before a range.
func (k Knobs) breaks(x extent, sent int) error {
	if k.MetadataRanges > 0 && sent == k.MetadataRanges || k.MetadataEnd > 0 && x.at+x.size > k.MetadataEnd {
		return status.Error(codes.Unavailable, "the array was switched off")
	}
	return nil
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
