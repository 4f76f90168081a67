package csi

import (
	"context"
	"log/slog"
	"slices"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func (d *driver) GroupControllerGetCapabilities(context.Context, *spec.GroupControllerGetCapabilitiesRequest) (*spec.GroupControllerGetCapabilitiesResponse, error) {
	return &spec.GroupControllerGetCapabilitiesResponse{Capabilities: []*spec.GroupControllerServiceCapability{{
		Type: &spec.GroupControllerServiceCapability_Rpc{Rpc: &spec.GroupControllerServiceCapability_RPC{
			Type: spec.GroupControllerServiceCapability_RPC_CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT,
		}},
	}}}, nil
}

func (d *driver) CreateVolumeGroupSnapshot(ctx context.Context, r *spec.CreateVolumeGroupSnapshotRequest) (*spec.CreateVolumeGroupSnapshotResponse, error) {
	if r.Name == "" {
		return nil, status.Error(codes.InvalidArgument, "a group snapshot needs a name")
	}
	if len(r.SourceVolumeIds) == 0 {
		return nil, status.Error(codes.InvalidArgument, "a group snapshot needs volumes")
	}
	id := identify(kindGroup, r.Name)
	release, err := d.take(id)
	if err != nil {
		return nil, err
	}
	defer release()
	knobs, err := d.readKnobs()
	if err != nil {
		return nil, err
	}
	var g group
	found, err := d.pool.read(kindGroup, id, &g)
	if err != nil {
		return nil, failed("group "+id, err)
	}
	if !found {
		if g, err = d.cut(ctx, id, r.Name, r.SourceVolumeIds, knobs); err != nil {
			return nil, failed("group "+id, err)
		}
	}
	answer, volumes, err := d.answerGroup(g, knobs)
	if err != nil {
		return nil, err
	}
	wanted := slices.Clone(r.SourceVolumeIds)
	slices.Sort(wanted)
	if slices.Sort(volumes); !slices.Equal(wanted, volumes) {
		return nil, status.Errorf(codes.AlreadyExists, "a group snapshot %s exists, of other volumes", r.Name)
	}
	return &spec.CreateVolumeGroupSnapshotResponse{GroupSnapshot: answer}, nil
}

// cut makes one moment of several volumes: all snapshots, then the group.
func (d *driver) cut(ctx context.Context, id, name string, volumes []string, knobs Knobs) (group, error) {
	g := group{ID: id, Name: name}
	var snapshots []snapshot
	var points []string
	concerned := false
	mounts, err := readMounts()
	if err != nil {
		return g, err
	}
	for _, volumeID := range volumes {
		v, err := d.volume(volumeID)
		if err != nil {
			return g, err
		}
		s := snapshot{ID: identify(kindSnapshot, id+"/"+v.ID), Volume: v.ID, VolumeName: v.Name, Size: v.Size, Block: v.Block, Group: id}
		concerned = concerned || knobs.concern(v)
		snapshots = append(snapshots, s)
		g.Snapshots = append(g.Snapshots, s.ID)
		device, err := deviceOf(d.pool.image(kindVolume, v.ID))
		if err != nil {
			return g, err
		}
		if point := mounts.of(device); device != "" && point != "" {
			points = append(points, point)
		}
	}
	if concerned {
		err = obey(ctx, knobs.GroupDelay, knobs.GroupError)
	}
	if err != nil {
		return g, err
	}
	thaw, err := freezeAll(ctx, points)
	if err != nil {
		return g, err
	}
	frozen := time.Now()
	for _, s := range snapshots {
		if err = reflink(d.pool.image(kindVolume, s.Volume), d.pool.image(kindSnapshot, s.ID)); err != nil {
			break
		}
	}
	g.At = time.Now()
	if thawErr := thaw(); err == nil {
		err = thawErr
	}
	if err != nil {
		return g, err
	}
	slog.Info("cut", "group", id, "volumes", len(volumes), "frozen", time.Since(frozen))
	for _, s := range snapshots {
		s.At = g.At
		if err := d.pool.write(kindSnapshot, s.ID, s); err != nil {
			return g, err
		}
	}
	return g, d.pool.write(kindGroup, id, g)
}

func (d *driver) answerGroup(g group, k Knobs) (answer *spec.VolumeGroupSnapshot, volumes []string, err error) {
	answer = &spec.VolumeGroupSnapshot{GroupSnapshotId: g.ID, CreationTime: timestamppb.New(g.At), ReadyToUse: true}
	for _, id := range g.Snapshots {
		var s snapshot
		found, err := d.pool.read(kindSnapshot, id, &s)
		if err != nil {
			return nil, nil, failed("snapshot "+id, err)
		}
		if !found {
			return nil, nil, status.Errorf(codes.Internal, "snapshot %s of group %s is gone", id, g.ID)
		}
		member := s.answer(k)
		answer.Snapshots = append(answer.Snapshots, member)
		answer.ReadyToUse = answer.ReadyToUse && member.ReadyToUse
		volumes = append(volumes, s.Volume)
	}
	return answer, volumes, nil
}

func (d *driver) GetVolumeGroupSnapshot(_ context.Context, r *spec.GetVolumeGroupSnapshotRequest) (*spec.GetVolumeGroupSnapshotResponse, error) {
	if r.GroupSnapshotId == "" {
		return nil, status.Error(codes.InvalidArgument, "the group's identifier is missing")
	}
	knobs, err := d.readKnobs()
	if err != nil {
		return nil, err
	}
	var g group
	found, err := d.pool.read(kindGroup, r.GroupSnapshotId, &g)
	if err != nil {
		return nil, failed("group "+r.GroupSnapshotId, err)
	}
	if !found {
		return nil, status.Errorf(codes.NotFound, "no group snapshot %s", r.GroupSnapshotId)
	}
	answer, _, err := d.answerGroup(g, knobs)
	if err != nil {
		return nil, err
	}
	return &spec.GetVolumeGroupSnapshotResponse{GroupSnapshot: answer}, nil
}

func (d *driver) DeleteVolumeGroupSnapshot(_ context.Context, r *spec.DeleteVolumeGroupSnapshotRequest) (*spec.DeleteVolumeGroupSnapshotResponse, error) {
	if r.GroupSnapshotId == "" {
		return nil, status.Error(codes.InvalidArgument, "the group's identifier is missing")
	}
	knobs, err := d.readKnobs()
	if err != nil {
		return nil, err
	}
	if knobs.DeleteSnapshotError != "" {
		return nil, status.Error(codes.Internal, knobs.DeleteSnapshotError)
	}
	release, err := d.take(r.GroupSnapshotId)
	if err != nil {
		return nil, err
	}
	defer release()
	var g group
	found, err := d.pool.read(kindGroup, r.GroupSnapshotId, &g)
	if err != nil {
		return nil, failed("group "+r.GroupSnapshotId, err)
	}
	if found {
		// The group last: deleting goes on where it broke off.
		for _, id := range g.Snapshots {
			if err := d.pool.remove(kindSnapshot, id); err != nil {
				return nil, failed("group "+g.ID, err)
			}
		}
		if err := d.pool.remove(kindGroup, g.ID); err != nil {
			return nil, failed("group "+g.ID, err)
		}
	}
	return &spec.DeleteVolumeGroupSnapshotResponse{}, nil
}
