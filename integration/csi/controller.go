package csi

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Sizes are multiples of 1 MiB; who asks for none gets a GiB.
const (
	sizeUnit    = 1 << 20
	defaultSize = 1 << 30
	// smallest is what an ext4 with a journal needs.
	smallest = 8 << 20
)

func (d *driver) ControllerGetCapabilities(context.Context, *spec.ControllerGetCapabilitiesRequest) (*spec.ControllerGetCapabilitiesResponse, error) {
	r := &spec.ControllerGetCapabilitiesResponse{}
	for _, t := range []spec.ControllerServiceCapability_RPC_Type{
		spec.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		spec.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
		spec.ControllerServiceCapability_RPC_LIST_SNAPSHOTS,
		spec.ControllerServiceCapability_RPC_CLONE_VOLUME,
		spec.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		r.Capabilities = append(r.Capabilities, &spec.ControllerServiceCapability{Type: &spec.ControllerServiceCapability_Rpc{Rpc: &spec.ControllerServiceCapability_RPC{Type: t}}})
	}
	return r, nil
}

func (d *driver) CreateVolume(ctx context.Context, r *spec.CreateVolumeRequest) (*spec.CreateVolumeResponse, error) {
	if r.Name == "" {
		return nil, status.Error(codes.InvalidArgument, "a volume needs a name")
	}
	block, err := wantsBlock(r.VolumeCapabilities)
	if err != nil {
		return nil, err
	}
	knobs, err := d.readKnobs()
	if err != nil {
		return nil, err
	}
	if err := obey(ctx, knobs.CreateVolumeDelay, knobs.CreateVolumeError); err != nil {
		return nil, err
	}
	v := volume{
		ID: identify(kindVolume, r.Name), Name: r.Name, Block: block,
		Snapshot: r.GetVolumeContentSource().GetSnapshot().GetSnapshotId(),
		Source:   r.GetVolumeContentSource().GetVolume().GetVolumeId(),
	}
	release, err := d.take(v.ID)
	if err != nil {
		return nil, err
	}
	defer release()
	content, contentSize, err := d.content(v)
	if err != nil {
		return nil, err
	}
	if v.Size, err = sizeFor(r.CapacityRange, contentSize); err != nil {
		return nil, err
	}
	var old volume
	found, err := d.pool.read(kindVolume, v.ID, &old)
	switch {
	case err != nil:
		return nil, failed("volume "+v.ID, err)
	case found && old != v:
		return nil, status.Errorf(codes.AlreadyExists, "a volume %s exists, of other size, mode or content", r.Name)
	case !found:
		if err := d.make(v, content, v.Size > contentSize); err != nil {
			return nil, failed("volume "+v.ID, err)
		}
	}
	return &spec.CreateVolumeResponse{Volume: &spec.Volume{VolumeId: v.ID, CapacityBytes: v.Size, ContentSource: r.VolumeContentSource}}, nil
}

// make makes a volume's image, empty or with the content of another image,
// which may have been smaller, and then its record.
func (d *driver) make(v volume, content string, grow bool) error {
	image := d.pool.image(kindVolume, v.ID)
	switch {
	case content != "":
		if err := reflink(content, image); err != nil {
			return err
		}
		if err := os.Truncate(image, v.Size); err != nil {
			return err
		}
		if grow && !v.Block {
			if err := growFilesystem(image); err != nil {
				return err
			}
		}
	default:
		if err := makeSparse(image, v.Size); err != nil {
			return err
		}
		if v.Block {
			break
		}
		// The kernel knows a hole from a zero, so nothing has to be
		// written now or by the kernel later.
		if err := run("mkfs.ext4", "-q", "-F", "-m", "0", "-b", strconv.Itoa(sectorSize), "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", image); err != nil {
			return err
		}
	}
	return d.pool.write(kindVolume, v.ID, v)
}

// growFilesystem makes an image's filesystem as large as the image. Growing it
// while it is mounted needs a right that a container may lack.
func growFilesystem(image string) error {
	// What a snapshot caught half-way is completed first. 1: with success.
	var exit *exec.ExitError
	if err := run("e2fsck", "-f", "-y", image); err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 1) {
		return err
	}
	return run("resize2fs", image)
}

// content is the image that a volume is made from, or "".
func (d *driver) content(v volume) (image string, size int64, err error) {
	switch {
	case v.Snapshot != "":
		var s snapshot
		found, err := d.pool.read(kindSnapshot, v.Snapshot, &s)
		if err != nil {
			return "", 0, failed("snapshot "+v.Snapshot, err)
		}
		if !found {
			return "", 0, status.Errorf(codes.NotFound, "no snapshot %s", v.Snapshot)
		}
		return d.pool.image(kindSnapshot, s.ID), s.Size, nil
	case v.Source != "":
		source, err := d.volume(v.Source)
		if err != nil {
			return "", 0, err
		}
		return d.pool.image(kindVolume, source.ID), source.Size, nil
	}
	return "", 0, nil
}

// volume returns the record of a volume that exists.
func (d *driver) volume(id string) (volume, error) {
	if id == "" {
		return volume{}, status.Error(codes.InvalidArgument, "the volume's identifier is missing")
	}
	var v volume
	found, err := d.pool.read(kindVolume, id, &v)
	if err != nil {
		return v, failed("volume "+id, err)
	}
	if !found {
		return v, status.Errorf(codes.NotFound, "no volume %s", id)
	}
	return v, nil
}

func sizeFor(r *spec.CapacityRange, content int64) (int64, error) {
	size := r.GetRequiredBytes()
	if size < 0 || r.GetLimitBytes() < 0 {
		return 0, status.Error(codes.InvalidArgument, "a size is negative")
	}
	if size == 0 {
		size = max(content, defaultSize)
		if limit := r.GetLimitBytes(); content == 0 && limit > 0 {
			size = min(size, limit/sizeUnit*sizeUnit)
		}
	}
	size = max((size+sizeUnit-1)/sizeUnit*sizeUnit, smallest)
	switch {
	case size < content:
		return 0, status.Errorf(codes.OutOfRange, "%d bytes are asked for, the content has %d", size, content)
	case r.GetLimitBytes() > 0 && size > r.GetLimitBytes(), size > poolSize/2:
		return 0, status.Errorf(codes.OutOfRange, "%d bytes are more than can be", size)
	}
	return size, nil
}

// wantsBlock tells what kind of volume is asked for, and refuses what is none
// of ours.
func wantsBlock(capabilities []*spec.VolumeCapability) (block bool, err error) {
	if len(capabilities) == 0 {
		return false, status.Error(codes.InvalidArgument, "no capability is asked for")
	}
	for i, c := range capabilities {
		if c.GetMount() == nil && c.GetBlock() == nil {
			return false, status.Error(codes.InvalidArgument, "a capability is neither of a filesystem nor of a block volume")
		}
		if t := c.GetMount().GetFsType(); t != "" && t != "ext4" {
			return false, status.Errorf(codes.InvalidArgument, "filesystem %s is not offered, ext4 is", t)
		}
		if c.GetAccessMode().GetMode() == spec.VolumeCapability_AccessMode_UNKNOWN {
			return false, status.Error(codes.InvalidArgument, "a capability has no access mode")
		}
		if i > 0 && block != (c.GetBlock() != nil) {
			return false, status.Error(codes.InvalidArgument, "a volume is a filesystem or a block device, not both")
		}
		block = c.GetBlock() != nil
	}
	return block, nil
}

func (d *driver) ValidateVolumeCapabilities(_ context.Context, r *spec.ValidateVolumeCapabilitiesRequest) (*spec.ValidateVolumeCapabilitiesResponse, error) {
	v, err := d.volume(r.VolumeId)
	if err != nil {
		return nil, err
	}
	if len(r.VolumeCapabilities) == 0 {
		return nil, status.Error(codes.InvalidArgument, "no capability is asked for")
	}
	block, err := wantsBlock(r.VolumeCapabilities)
	if err != nil {
		return &spec.ValidateVolumeCapabilitiesResponse{Message: status.Convert(err).Message()}, nil
	}
	if block != v.Block {
		return &spec.ValidateVolumeCapabilitiesResponse{Message: "the volume is of the other mode"}, nil
	}
	return &spec.ValidateVolumeCapabilitiesResponse{Confirmed: &spec.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeContext: r.VolumeContext, VolumeCapabilities: r.VolumeCapabilities, Parameters: r.Parameters,
	}}, nil
}

func (d *driver) DeleteVolume(_ context.Context, r *spec.DeleteVolumeRequest) (*spec.DeleteVolumeResponse, error) {
	if r.VolumeId == "" {
		return nil, status.Error(codes.InvalidArgument, "the volume's identifier is missing")
	}
	release, err := d.take(r.VolumeId)
	if err != nil {
		return nil, err
	}
	defer release()
	device, err := deviceOf(d.pool.image(kindVolume, r.VolumeId))
	if err != nil {
		return nil, failed("volume "+r.VolumeId, err)
	}
	if device != "" {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s is in use as %s", r.VolumeId, device)
	}
	if err := d.pool.remove(kindVolume, r.VolumeId); err != nil {
		return nil, failed("volume "+r.VolumeId, err)
	}
	return &spec.DeleteVolumeResponse{}, nil
}

func (d *driver) CreateSnapshot(ctx context.Context, r *spec.CreateSnapshotRequest) (*spec.CreateSnapshotResponse, error) {
	if r.Name == "" {
		return nil, status.Error(codes.InvalidArgument, "a snapshot needs a name")
	}
	if r.SourceVolumeId == "" {
		return nil, status.Error(codes.InvalidArgument, "a snapshot needs a volume")
	}
	id := identify(kindSnapshot, r.Name)
	release, err := d.take(id)
	if err != nil {
		return nil, err
	}
	defer release()
	knobs, err := d.readKnobs()
	if err != nil {
		return nil, err
	}
	var s snapshot
	found, err := d.pool.read(kindSnapshot, id, &s)
	if err != nil {
		return nil, failed("snapshot "+id, err)
	}
	if found && s.Volume != r.SourceVolumeId {
		return nil, status.Errorf(codes.AlreadyExists, "a snapshot %s exists, of another volume", r.Name)
	}
	if !found {
		v, err := d.volume(r.SourceVolumeId)
		if err != nil {
			return nil, err
		}
		if knobs.concern(v) {
			err = obey(ctx, knobs.SnapshotDelay, knobs.SnapshotError)
		}
		if err != nil {
			return nil, err
		}
		s = snapshot{ID: id, Name: r.Name, Volume: v.ID, VolumeName: v.Name, Size: v.Size, Block: v.Block}
		if err := reflink(d.pool.image(kindVolume, v.ID), d.pool.image(kindSnapshot, id)); err != nil {
			return nil, failed("snapshot "+id, err)
		}
		s.At = time.Now()
		if err := d.pool.write(kindSnapshot, id, s); err != nil {
			return nil, failed("snapshot "+id, err)
		}
	}
	return &spec.CreateSnapshotResponse{Snapshot: s.answer(knobs)}, nil
}

func (s snapshot) answer(k Knobs) *spec.Snapshot {
	return &spec.Snapshot{
		SnapshotId: s.ID, SourceVolumeId: s.Volume, SizeBytes: s.Size, CreationTime: timestamppb.New(s.At),
		ReadyToUse: !k.SnapshotNotReady || !k.concern(volume{Name: s.VolumeName}), GroupSnapshotId: s.Group,
	}
}

func (d *driver) DeleteSnapshot(_ context.Context, r *spec.DeleteSnapshotRequest) (*spec.DeleteSnapshotResponse, error) {
	if r.SnapshotId == "" {
		return nil, status.Error(codes.InvalidArgument, "the snapshot's identifier is missing")
	}
	knobs, err := d.readKnobs()
	if err != nil {
		return nil, err
	}
	if knobs.DeleteSnapshotError != "" {
		return nil, status.Error(codes.Internal, knobs.DeleteSnapshotError)
	}
	release, err := d.take(r.SnapshotId)
	if err != nil {
		return nil, err
	}
	defer release()
	var s snapshot
	found, err := d.pool.read(kindSnapshot, r.SnapshotId, &s)
	if err != nil {
		return nil, failed("snapshot "+r.SnapshotId, err)
	}
	if found && s.Group != "" {
		return nil, status.Errorf(codes.FailedPrecondition, "snapshot %s is part of group %s, with which it is deleted", s.ID, s.Group)
	}
	if err := d.pool.remove(kindSnapshot, r.SnapshotId); err != nil {
		return nil, failed("snapshot "+r.SnapshotId, err)
	}
	return &spec.DeleteSnapshotResponse{}, nil
}

func (d *driver) ListSnapshots(_ context.Context, r *spec.ListSnapshotsRequest) (*spec.ListSnapshotsResponse, error) {
	knobs, err := d.readKnobs()
	if err != nil {
		return nil, err
	}
	records, err := filepath.Glob(d.pool.record(kindSnapshot, "*"))
	if err != nil {
		return nil, failed("list snapshots", err)
	}
	sort.Strings(records)
	var all []*spec.ListSnapshotsResponse_Entry
	for _, path := range records {
		id := strings.TrimSuffix(filepath.Base(path), ".json")
		var s snapshot
		found, err := d.pool.read(kindSnapshot, id, &s)
		if err != nil {
			return nil, failed("snapshot "+id, err)
		}
		if !found || r.SnapshotId != "" && r.SnapshotId != id || r.SourceVolumeId != "" && r.SourceVolumeId != s.Volume {
			continue
		}
		all = append(all, &spec.ListSnapshotsResponse_Entry{Snapshot: s.answer(knobs)})
	}
	first := 0
	if r.StartingToken != "" {
		if first, err = strconv.Atoi(r.StartingToken); err != nil || first < 0 || first > len(all) {
			return nil, status.Errorf(codes.Aborted, "no list goes on at %q", r.StartingToken)
		}
	}
	if r.MaxEntries < 0 {
		return nil, status.Error(codes.InvalidArgument, "a number of entries is negative")
	}
	response := &spec.ListSnapshotsResponse{Entries: all[first:]}
	if n := int(r.MaxEntries); n > 0 && n < len(response.Entries) {
		response.Entries, response.NextToken = response.Entries[:n], strconv.Itoa(first+n)
	}
	return response, nil
}
