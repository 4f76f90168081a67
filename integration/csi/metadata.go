package csi

import (
	"errors"
	"os"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// rangesAtOnce is how many ranges a message has where the caller names no
// number.
const rangesAtOnce = 256

// extent is a stretch of an image that holds data.
type extent struct{ at, size int64 }

// GetMetadataAllocated lists where a block volume's snapshot holds data: where
// its file has no hole.
func (d *driver) GetMetadataAllocated(r *spec.GetMetadataAllocatedRequest, stream spec.SnapshotMetadata_GetMetadataAllocatedServer) error {
	if r.SnapshotId == "" {
		return status.Error(codes.InvalidArgument, "the snapshot's identifier is missing")
	}
	if r.MaxResults < 0 {
		return status.Error(codes.InvalidArgument, "a number of ranges is negative")
	}
	knobs, err := d.readKnobs()
	if err != nil {
		return err
	}
	if err := obey(stream.Context(), 0, knobs.MetadataError); err != nil {
		return err
	}
	var s snapshot
	found, err := d.pool.read(kindSnapshot, r.SnapshotId, &s)
	switch {
	case err != nil:
		return failed("snapshot "+r.SnapshotId, err)
	case !found:
		return status.Errorf(codes.NotFound, "no snapshot %s", r.SnapshotId)
	case !s.Block:
		return status.Errorf(codes.InvalidArgument, "snapshot %s is of a filesystem, and only those of block volumes are listed", s.ID)
	case r.StartingOffset < 0 || r.StartingOffset > s.Size:
		return status.Errorf(codes.OutOfRange, "the volume has %d bytes, and %d is where to begin", s.Size, r.StartingOffset)
	}
	all, err := dataOf(d.pool.image(kindSnapshot, s.ID), s.Size, r.StartingOffset, knobs.MetadataBlock)
	if err != nil {
		return failed("snapshot "+s.ID, err)
	}
	return send(stream, &s, all, int(r.MaxResults), knobs)
}

// send sends what was found in messages of at most a number of ranges.
func send(stream spec.SnapshotMetadata_GetMetadataAllocatedServer, s *snapshot, all []extent, most int, knobs Knobs) error {
	if most == 0 {
		most = rangesAtOnce
	}
	for sent := 0; ; {
		m := &spec.GetMetadataAllocatedResponse{BlockMetadataType: spec.BlockMetadataType_VARIABLE_LENGTH, VolumeCapacityBytes: s.Size}
		if knobs.MetadataBlock > 0 {
			m.BlockMetadataType = spec.BlockMetadataType_FIXED_LENGTH
		}
		var broken error
		for len(all) > 0 && len(m.BlockMetadata) < most && broken == nil {
			x := all[0]
			if broken = knobs.breaks(x, sent); broken == nil {
				m.BlockMetadata = append(m.BlockMetadata, &spec.BlockMetadata{ByteOffset: x.at, SizeBytes: x.size})
				all, sent = all[1:], sent+1
			}
		}
		knobs.spoil(m)
		if err := stream.Send(m); err != nil {
			return err
		}
		if broken != nil || len(all) == 0 || stream.Context().Err() != nil {
			return errors.Join(broken, stream.Context().Err())
		}
	}
}

// dataOf lists the stretches of a file from an offset on that are no holes, in
// blocks of a length where one is given.
func dataOf(image string, size, from, block int64) ([]extent, error) {
	f, err := os.Open(image)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []extent
	for at := from; at < size; {
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break
		}
		if err != nil {
			return nil, err
		}
		hole, err := unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return nil, err
		}
		if block > 0 { // the whole of each block with data in it
			data, hole = data/block*block, (hole+block-1)/block*block
			for ; data < hole; data += block {
				all = append(all, extent{data, block})
			}
		} else {
			all = append(all, extent{data, hole - data})
		}
		at = hole
	}
	return all, nil
}
