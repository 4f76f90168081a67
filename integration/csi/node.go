package csi

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func (d *driver) NodeGetInfo(context.Context, *spec.NodeGetInfoRequest) (*spec.NodeGetInfoResponse, error) {
	return &spec.NodeGetInfoResponse{NodeId: d.node}, nil
}

func (d *driver) NodeGetCapabilities(context.Context, *spec.NodeGetCapabilitiesRequest) (*spec.NodeGetCapabilitiesResponse, error) {
	r := &spec.NodeGetCapabilitiesResponse{}
	for _, t := range []spec.NodeServiceCapability_RPC_Type{
		spec.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		spec.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		r.Capabilities = append(r.Capabilities, &spec.NodeServiceCapability{Type: &spec.NodeServiceCapability_Rpc{Rpc: &spec.NodeServiceCapability_RPC{Type: t}}})
	}
	return r, nil
}

// NodeStageVolume makes a volume's image a device, and mounts its filesystem.
func (d *driver) NodeStageVolume(ctx context.Context, r *spec.NodeStageVolumeRequest) (*spec.NodeStageVolumeResponse, error) {
	v, release, err := d.onNode(r.VolumeId, r.StagingTargetPath, r.VolumeCapability)
	if err != nil {
		return nil, err
	}
	defer release()
	knobs, err := d.readKnobs()
	if err != nil {
		return nil, err
	}
	if err := obey(ctx, 0, knobs.StageError); err != nil {
		return nil, err
	}
	if v.Block {
		_, err = d.device(v)
	} else {
		err = d.stage(ctx, v, r.StagingTargetPath, r.VolumeCapability)
	}
	if err != nil {
		return nil, failed("volume "+v.ID, err)
	}
	return &spec.NodeStageVolumeResponse{}, nil
}

// onNode checks what all calls of the node have in common.
func (d *driver) onNode(id, path string, capability *spec.VolumeCapability) (v volume, release func(), err error) {
	if path == "" {
		return v, nil, status.Error(codes.InvalidArgument, "a path is missing")
	}
	if id == "" {
		return v, nil, status.Error(codes.InvalidArgument, "the volume's identifier is missing")
	}
	block, err := wantsBlock([]*spec.VolumeCapability{capability})
	if err != nil {
		return v, nil, err
	}
	if release, err = d.take(id); err != nil {
		return v, nil, err
	}
	if v, err = d.volume(id); err == nil && v.Block != block {
		err = status.Errorf(codes.FailedPrecondition, "volume %s is of the other mode", id)
	}
	if err != nil {
		release()
		return v, nil, err
	}
	return v, release, nil
}

// device returns a volume's device, attached as needed.
func (d *driver) device(v volume) (string, error) {
	image := d.pool.image(kindVolume, v.ID)
	device, err := deviceOf(image)
	if err != nil || device != "" {
		return device, err
	}
	f, err := attach(image, unix.LO_FLAGS_DIRECT_IO)
	if err != nil {
		return "", err
	}
	return f.Name(), f.Close()
}

// stage mounts a volume's filesystem. The device is always writable: what a
// snapshot caught half-way is completed from the journal, also for readers.
func (d *driver) stage(ctx context.Context, v volume, target string, capability *spec.VolumeCapability) error {
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	if _, mounted := mounts.at(target); mounted {
		return nil
	}
	if err := os.MkdirAll(target, 0o750); err != nil {
		return err
	}
	image := d.pool.image(kindVolume, v.ID)
	if err := released(ctx, image); err != nil {
		return err
	}
	// The device goes with the mount.
	device, err := attach(image, unix.LO_FLAGS_DIRECT_IO|unix.LO_FLAGS_AUTOCLEAR)
	if err != nil {
		return err
	}
	defer device.Close()
	options := []string{"noinit_itable"}
	switch capability.AccessMode.Mode {
	case spec.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY, spec.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY:
		options = append(options, "ro")
	}
	options = append(options, capability.GetMount().GetMountFlags()...)
	return run("mount", "-t", "ext4", "-o", strings.Join(options, ","), device.Name(), target)
}

func (d *driver) NodeUnstageVolume(ctx context.Context, r *spec.NodeUnstageVolumeRequest) (*spec.NodeUnstageVolumeResponse, error) {
	if r.VolumeId == "" || r.StagingTargetPath == "" {
		return nil, status.Error(codes.InvalidArgument, "the volume's identifier or the path is missing")
	}
	release, err := d.take(r.VolumeId)
	if err != nil {
		return nil, err
	}
	defer release()
	if err := unmount(r.StagingTargetPath); err != nil {
		return nil, failed("volume "+r.VolumeId, err)
	}
	image := d.pool.image(kindVolume, r.VolumeId)
	device, err := deviceOf(image)
	if err == nil && device != "" {
		err = errors.Join(detach(device), released(ctx, image))
	}
	if err != nil {
		return nil, failed("volume "+r.VolumeId, err)
	}
	return &spec.NodeUnstageVolumeResponse{}, nil
}

// released waits until an image has no device any more: the last user of one
// may still be closing it. Two devices of one image would tear it apart.
func released(ctx context.Context, image string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		device, err := deviceOf(image)
		if err != nil || device == "" {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s is still in use", device)
		}
	}
}

// NodePublishVolume shows a staged volume to one pod: its filesystem in a
// directory, its device in a file.
func (d *driver) NodePublishVolume(_ context.Context, r *spec.NodePublishVolumeRequest) (*spec.NodePublishVolumeResponse, error) {
	if r.StagingTargetPath == "" {
		return nil, status.Error(codes.InvalidArgument, "the path where the volume is staged is missing")
	}
	v, release, err := d.onNode(r.VolumeId, r.TargetPath, r.VolumeCapability)
	if err != nil {
		return nil, err
	}
	defer release()
	if err := d.publish(v, r); err != nil {
		return nil, failed("volume "+v.ID, err)
	}
	return &spec.NodePublishVolumeResponse{}, nil
}

func (d *driver) publish(v volume, r *spec.NodePublishVolumeRequest) error {
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	if _, mounted := mounts.at(r.TargetPath); mounted {
		return nil
	}
	source := r.StagingTargetPath
	if v.Block {
		if source, err = d.device(v); err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(r.TargetPath), 0o750); err != nil {
			return err
		}
		f, err := os.OpenFile(r.TargetPath, os.O_CREATE|os.O_RDONLY, 0o640)
		if err != nil {
			return err
		}
		f.Close()
	} else {
		if _, mounted := mounts.at(source); !mounted {
			return status.Errorf(codes.FailedPrecondition, "volume %s is not staged at %s", v.ID, source)
		}
		if err := os.MkdirAll(r.TargetPath, 0o750); err != nil {
			return err
		}
	}
	if r.VolumeCapability.AccessMode.Mode == spec.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER {
		device, err := deviceOf(d.pool.image(kindVolume, v.ID))
		if err != nil {
			return err
		}
		if other := mounts.besides(device, r.StagingTargetPath); other != "" {
			return status.Errorf(codes.FailedPrecondition, "volume %s is for one pod, and is in use at %s", v.ID, other)
		}
	}
	if err := unix.Mount(source, r.TargetPath, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", source, r.TargetPath, err)
	}
	// What a pod may do with a device, its container runtime says.
	if r.Readonly && !v.Block {
		if err := unix.Mount("", r.TargetPath, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return errors.Join(fmt.Errorf("make %s read-only: %w", r.TargetPath, err), unix.Unmount(r.TargetPath, 0))
		}
	}
	return nil
}

func (d *driver) NodeUnpublishVolume(_ context.Context, r *spec.NodeUnpublishVolumeRequest) (*spec.NodeUnpublishVolumeResponse, error) {
	if r.VolumeId == "" || r.TargetPath == "" {
		return nil, status.Error(codes.InvalidArgument, "the volume's identifier or the path is missing")
	}
	release, err := d.take(r.VolumeId)
	if err != nil {
		return nil, err
	}
	defer release()
	err = unmount(r.TargetPath)
	if err == nil {
		// Only an empty file or directory: never what is below.
		err = os.Remove(r.TargetPath)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, failed("volume "+r.VolumeId, err)
	}
	return &spec.NodeUnpublishVolumeResponse{}, nil
}

// unmount takes away all that is mounted at a path.
func unmount(path string) error {
	for {
		mounts, err := readMounts()
		if err != nil {
			return err
		}
		if _, mounted := mounts.at(path); !mounted {
			return nil
		}
		if err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
}
