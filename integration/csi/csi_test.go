package csi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// testDriver is a driver that runs, and clients of it.
type testDriver struct {
	t   *testing.T
	dir string
	spec.IdentityClient
	spec.ControllerClient
	spec.GroupControllerClient
	spec.NodeClient
	spec.SnapshotMetadataClient
	stop func()
}

func startDriver(t *testing.T) *testDriver {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("these tests make loop devices and mounts, which needs root")
	}
	// Sockets have short names.
	dir, err := os.MkdirTemp("", "csi")
	if err != nil {
		t.Fatal(err)
	}
	d := &testDriver{t: t, dir: dir}
	t.Cleanup(func() {
		d.stop()
		releaseAll(t, dir)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	d.start()
	return d
}

func (d *testDriver) start() {
	d.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	socket, ended := filepath.Join(d.dir, "s"), make(chan error, 1)
	go func() { ended <- Run(ctx, Options{Dir: d.dir, Socket: socket, Node: "here"}) }()
	conn, err := grpc.NewClient("passthrough:///"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", address)
		}))
	if err != nil {
		d.t.Fatal(err)
	}
	d.stop = func() {
		cancel()
		if err := errors.Join(<-ended, conn.Close()); err != nil {
			d.t.Error(err)
		}
		d.stop = func() {}
	}
	d.IdentityClient, d.ControllerClient = spec.NewIdentityClient(conn), spec.NewControllerClient(conn)
	d.GroupControllerClient, d.NodeClient = spec.NewGroupControllerClient(conn), spec.NewNodeClient(conn)
	d.SnapshotMetadataClient = spec.NewSnapshotMetadataClient(conn)
	if _, err := d.Probe(d.t.Context(), &spec.ProbeRequest{}, grpc.WaitForReady(true)); err != nil {
		d.t.Fatal(err)
	}
}

// releaseAll unmounts and detaches all below a directory.
func releaseAll(t *testing.T, dir string) {
	t.Helper()
	until(t, "nothing is mounted below "+dir, func() error {
		if _, err := DetachBelow(dir); err != nil {
			return err
		}
		mounts, err := readMounts()
		if err != nil {
			return err
		}
		for i := len(mounts) - 1; i >= 0; i-- {
			if strings.HasPrefix(mounts[i].point, dir+"/") {
				if err := unix.Unmount(mounts[i].point, 0); err != nil {
					return err
				}
			}
		}
		if left, err := DetachBelow(dir); err != nil || left > 0 {
			return fmt.Errorf("%d loop devices stayed: %w", left, err)
		}
		return nil
	})
}

func until(t *testing.T, what string, condition func() error) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := condition()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("waited until %s: %v", what, err)
		case <-tick.C:
		}
	}
}

const testSize = 64 << 20

func filesystem(mode spec.VolumeCapability_AccessMode_Mode) *spec.VolumeCapability {
	return &spec.VolumeCapability{
		AccessMode: &spec.VolumeCapability_AccessMode{Mode: mode},
		AccessType: &spec.VolumeCapability_Mount{Mount: &spec.VolumeCapability_MountVolume{FsType: "ext4"}},
	}
}

func device() *spec.VolumeCapability {
	return &spec.VolumeCapability{
		AccessMode: &spec.VolumeCapability_AccessMode{Mode: writer},
		AccessType: &spec.VolumeCapability_Block{Block: &spec.VolumeCapability_BlockVolume{}},
	}
}

const (
	writer = spec.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
	reader = spec.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
)

func fromSnapshot(id string) *spec.VolumeContentSource {
	return &spec.VolumeContentSource{Type: &spec.VolumeContentSource_Snapshot{Snapshot: &spec.VolumeContentSource_SnapshotSource{SnapshotId: id}}}
}

func fromVolume(id string) *spec.VolumeContentSource {
	return &spec.VolumeContentSource{Type: &spec.VolumeContentSource_Volume{Volume: &spec.VolumeContentSource_VolumeSource{VolumeId: id}}}
}

// create makes a volume and returns its identifier.
func (d *testDriver) create(name string, size int64, c *spec.VolumeCapability, content *spec.VolumeContentSource) string {
	d.t.Helper()
	r, err := d.CreateVolume(d.t.Context(), &spec.CreateVolumeRequest{
		Name: name, CapacityRange: &spec.CapacityRange{RequiredBytes: size}, VolumeCapabilities: []*spec.VolumeCapability{c}, VolumeContentSource: content,
	})
	if err != nil {
		d.t.Fatal(err)
	}
	if r.Volume.CapacityBytes != size {
		d.t.Errorf("volume %s has %d bytes, %d were asked for", name, r.Volume.CapacityBytes, size)
	}
	return r.Volume.VolumeId
}

// use stages and publishes a volume as the kubelet does, and returns where its
// filesystem or device is.
func (d *testDriver) use(id string, c *spec.VolumeCapability) string {
	d.t.Helper()
	staging, target := filepath.Join(d.dir, "staging", id), filepath.Join(d.dir, "pods", id)
	if err := os.MkdirAll(staging, 0o755); err != nil {
		d.t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		d.t.Fatal(err)
	}
	if _, err := d.NodeStageVolume(d.t.Context(), &spec.NodeStageVolumeRequest{VolumeId: id, StagingTargetPath: staging, VolumeCapability: c}); err != nil {
		d.t.Fatal(err)
	}
	if _, err := d.NodePublishVolume(d.t.Context(), &spec.NodePublishVolumeRequest{VolumeId: id, StagingTargetPath: staging, TargetPath: target, VolumeCapability: c}); err != nil {
		d.t.Fatal(err)
	}
	return target
}

// leave is the reverse of use.
func (d *testDriver) leave(id string) {
	d.t.Helper()
	if _, err := d.NodeUnpublishVolume(d.t.Context(), &spec.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: filepath.Join(d.dir, "pods", id)}); err != nil {
		d.t.Fatal(err)
	}
	if _, err := d.NodeUnstageVolume(d.t.Context(), &spec.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: filepath.Join(d.dir, "staging", id)}); err != nil {
		d.t.Fatal(err)
	}
}

func (d *testDriver) snapshot(name, volume string) *spec.Snapshot {
	d.t.Helper()
	r, err := d.CreateSnapshot(d.t.Context(), &spec.CreateSnapshotRequest{Name: name, SourceVolumeId: volume})
	if err != nil {
		d.t.Fatal(err)
	}
	return r.Snapshot
}

// durable writes a file so that a power failure does not lose it.
func durable(t *testing.T, path, content string) {
	t.Helper()
	f, err := os.Create(path)
	if err == nil {
		_, err = f.WriteString(content)
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func wantContent(t *testing.T, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s reads %q, %v; want %q", path, got, err, want)
	}
}

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if status.Code(err) != want {
		t.Errorf("%s: got %v, want %s", what, err, want)
	}
}

// The makers of CSI have a suite of their own.
func TestConformance(t *testing.T) {
	d := startDriver(t)
	makeDir := filepath.Join(d.dir, "mkdir")
	if err := os.WriteFile(makeDir, []byte("#!/bin/sh\nmkdir -p \"$1\" && echo \"$1\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "-C", "sidecars", "tool", "csi-sanity",
		"--csi.endpoint="+filepath.Join(d.dir, "s"), fmt.Sprintf("--csi.testvolumesize=%d", testSize),
		"--csi.stagingdir="+filepath.Join(d.dir, "a"), "--csi.mountdir="+filepath.Join(d.dir, "b"),
		"--csi.createstagingpathcmd="+makeDir, "--csi.createmountpathcmd="+makeDir, "--ginkgo.no-color")
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("SUCCESS!")) {
		t.Fatalf("%v:\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "Specs in") || strings.Contains(line, "SUCCESS!") {
			t.Log(strings.TrimSpace(line))
		}
	}
}

func TestSnapshotsAndClones(t *testing.T) {
	d := startDriver(t)
	id := d.create("shop", testSize, filesystem(writer), nil)
	path := d.use(id, filesystem(writer))
	durable(t, path+"/order", "first")
	s := d.snapshot("before", id)
	if !s.ReadyToUse || s.SizeBytes != testSize || s.SourceVolumeId != id || time.Since(s.CreationTime.AsTime()) > time.Minute {
		t.Errorf("the snapshot is %v", s)
	}
	durable(t, path+"/order", "second")
	clone := d.create("clone", testSize, filesystem(writer), fromVolume(id))
	// A snapshot needs neither its volume nor anything made from it.
	d.leave(id)
	if _, err := d.DeleteVolume(t.Context(), &spec.DeleteVolumeRequest{VolumeId: id}); err != nil {
		t.Fatal(err)
	}
	wantContent(t, d.use(clone, filesystem(writer))+"/order", "second")
	for i, size := range []int64{testSize, 4 * testSize} {
		restored := d.create(fmt.Sprint("restored-", i), size, filesystem(writer), fromSnapshot(s.SnapshotId))
		path := d.use(restored, filesystem(writer))
		wantContent(t, path+"/order", "first")
		durable(t, path+"/order", "third")
		var fs unix.Statfs_t
		if err := unix.Statfs(path, &fs); err != nil {
			t.Fatal(err)
		}
		if got := int64(fs.Blocks) * fs.Bsize; got > size || got < size*7/10 {
			t.Errorf("the filesystem has %d bytes, the volume %d", got, size)
		}
	}
	readable := d.create("readable", testSize, filesystem(reader), fromSnapshot(s.SnapshotId))
	path = d.use(readable, filesystem(reader))
	wantContent(t, path+"/order", "first")
	if err := os.WriteFile(path+"/order", nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing where only reading is allowed: %v", err)
	}
	_, err := d.CreateVolume(t.Context(), &spec.CreateVolumeRequest{
		Name: "small", CapacityRange: &spec.CapacityRange{RequiredBytes: testSize / 2},
		VolumeCapabilities: []*spec.VolumeCapability{filesystem(writer)}, VolumeContentSource: fromSnapshot(s.SnapshotId),
	})
	wantCode(t, "a volume smaller than its content", err, codes.OutOfRange)
}

func TestBlockVolumes(t *testing.T) {
	d := startDriver(t)
	id := d.create("device", testSize, device(), nil)
	path := d.use(id, device())
	written := bytes.Repeat([]byte("written "), 512)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	size, err := f.Seek(0, 2)
	if err != nil || size != testSize {
		t.Errorf("the device has %d bytes, %v", size, err)
	}
	write := func(content []byte, at int64) {
		if _, err := f.WriteAt(content, at); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	write(written, 32<<20)
	s := d.snapshot("device-1", id)
	write(make([]byte, len(written)), 32<<20)
	if _, err := f.WriteAt(written, testSize); err == nil {
		t.Error("more was written than the device has")
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	restored := d.create("device-2", testSize, device(), fromSnapshot(s.SnapshotId))
	got, err := os.ReadFile(d.use(restored, device()))
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, testSize)
	copy(want[32<<20:], written)
	if !bytes.Equal(got, want) {
		t.Error("what was written before the snapshot is not what comes back")
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(d.dir, "pool", kindVolume, restored+".img"), &st); err != nil || st.Blocks*512 > 1<<20 {
		t.Errorf("%d bytes take %d, %v", len(written), st.Blocks*512, err)
	}
	d.leave(id)
	d.leave(restored)
	if _, err := d.DeleteVolume(t.Context(), &spec.DeleteVolumeRequest{VolumeId: id}); err != nil {
		t.Error(err)
	}
	wrong := d.create("other-mode", testSize, filesystem(writer), nil)
	_, err = d.NodeStageVolume(t.Context(), &spec.NodeStageVolumeRequest{VolumeId: wrong, StagingTargetPath: d.dir + "/x", VolumeCapability: device()})
	wantCode(t, "a filesystem as a device", err, codes.FailedPrecondition)
}

// A size is a limit, not a hint.
func TestVolumeIsFull(t *testing.T) {
	d := startDriver(t)
	path := d.use(d.create("small", 16<<20, filesystem(writer), nil), filesystem(writer))
	if err := os.WriteFile(path+"/large", make([]byte, 17<<20), 0o644); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("17 MiB in a volume of 16 MiB: %v", err)
	}
}

// Identifiers come from objects that users may have written.
func TestForeignIdentifiers(t *testing.T) {
	d := startDriver(t)
	mine := filepath.Join(d.dir, "mine.json")
	if err := os.WriteFile(mine, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"../../mine", "/etc/passwd", "volume-", "volume-0123456789abcdef0123/../x", strings.Repeat("x", 5000)} {
		_, err := d.DeleteVolume(t.Context(), &spec.DeleteVolumeRequest{VolumeId: id})
		wantCode(t, "delete volume "+id[:min(len(id), 20)], err, codes.OK)
		_, err = d.DeleteSnapshot(t.Context(), &spec.DeleteSnapshotRequest{SnapshotId: id})
		wantCode(t, "delete snapshot", err, codes.OK)
		_, err = d.CreateSnapshot(t.Context(), &spec.CreateSnapshotRequest{Name: "s", SourceVolumeId: id})
		wantCode(t, "snapshot of a volume that is not there", err, codes.NotFound)
		_, err = d.CreateVolumeGroupSnapshot(t.Context(), &spec.CreateVolumeGroupSnapshotRequest{Name: "g", SourceVolumeIds: []string{id}})
		wantCode(t, "group of a volume that is not there", err, codes.NotFound)
		_, err = d.NodeStageVolume(t.Context(), &spec.NodeStageVolumeRequest{VolumeId: id, StagingTargetPath: d.dir + "/x", VolumeCapability: device()})
		wantCode(t, "stage a volume that is not there", err, codes.NotFound)
	}
	if _, err := os.Stat(mine); err != nil {
		t.Error(err)
	}
}

func TestKnobs(t *testing.T) {
	d := startDriver(t)
	ctx := t.Context()
	id := d.create("data", testSize, filesystem(writer), nil)
	set := func(k Knobs) {
		t.Helper()
		if err := SetKnobs(d.dir, k); err != nil {
			t.Fatal(err)
		}
	}
	volume := func(ctx context.Context) error {
		_, err := d.CreateVolume(ctx, &spec.CreateVolumeRequest{Name: "knob", CapacityRange: &spec.CapacityRange{RequiredBytes: testSize}, VolumeCapabilities: []*spec.VolumeCapability{device()}})
		return err
	}
	snapshot := func(ctx context.Context) error {
		_, err := d.CreateSnapshot(ctx, &spec.CreateSnapshotRequest{Name: "knob", SourceVolumeId: id})
		return err
	}
	group := func(ctx context.Context) error {
		_, err := d.CreateVolumeGroupSnapshot(ctx, &spec.CreateVolumeGroupSnapshotRequest{Name: "knob", SourceVolumeIds: []string{id}})
		return err
	}
	for name, c := range map[string]struct {
		call        func(context.Context) error
		fault, slow Knobs
	}{
		"volumes":   {volume, Knobs{CreateVolumeError: "disks are out"}, Knobs{CreateVolumeDelay: time.Minute}},
		"snapshots": {snapshot, Knobs{SnapshotError: "disks are out"}, Knobs{SnapshotDelay: time.Minute}},
		"groups":    {group, Knobs{GroupError: "disks are out"}, Knobs{GroupDelay: time.Minute}},
	} {
		set(c.fault)
		if err := c.call(ctx); status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "disks are out") {
			t.Errorf("%s that fail: %v", name, err)
		}
		set(c.slow)
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		wantCode(t, name+" that take long", c.call(short), codes.DeadlineExceeded)
		cancel()
		set(Knobs{})
		// The call that was broken off is still being taken back.
		until(t, name+" are as ever", func() error {
			if err := c.call(ctx); status.Code(err) != codes.Aborted {
				return err
			}
			return errors.New("another call is at it")
		})
	}
	ready := func() []bool {
		list, err := d.ListSnapshots(ctx, &spec.ListSnapshotsRequest{SnapshotId: identify(kindSnapshot, "knob")})
		if err != nil || len(list.Entries) != 1 {
			t.Fatalf("%v: %v", err, list)
		}
		g, err := d.GetVolumeGroupSnapshot(ctx, &spec.GetVolumeGroupSnapshotRequest{GroupSnapshotId: identify(kindGroup, "knob")})
		if err != nil {
			t.Fatal(err)
		}
		return []bool{list.Entries[0].Snapshot.ReadyToUse, g.GroupSnapshot.ReadyToUse, g.GroupSnapshot.Snapshots[0].ReadyToUse}
	}
	set(Knobs{SnapshotNotReady: true})
	if r := ready(); r[0] || r[1] || r[2] {
		t.Errorf("what is not ready is %v", r)
	}
	set(Knobs{DeleteSnapshotError: "kept"})
	if r := ready(); !r[0] || !r[1] || !r[2] {
		t.Errorf("what is ready is %v", r)
	}
	_, err := d.DeleteSnapshot(ctx, &spec.DeleteSnapshotRequest{SnapshotId: identify(kindSnapshot, "knob")})
	wantCode(t, "a snapshot that stays", err, codes.Internal)
	_, err = d.DeleteVolumeGroupSnapshot(ctx, &spec.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: identify(kindGroup, "knob")})
	wantCode(t, "a group that stays", err, codes.Internal)
	// Of several volumes one.
	other := d.create("other", testSize, filesystem(writer), nil)
	set(Knobs{Volume: "other", SnapshotError: "no", GroupError: "no", SnapshotNotReady: true})
	if s := d.snapshot("of-data", id); !s.ReadyToUse {
		t.Error("a snapshot of another volume is not ready")
	}
	_, err = d.CreateSnapshot(ctx, &spec.CreateSnapshotRequest{Name: "of-other", SourceVolumeId: other})
	wantCode(t, "the one snapshot that fails", err, codes.Internal)
	_, err = d.CreateVolumeGroupSnapshot(ctx, &spec.CreateVolumeGroupSnapshotRequest{Name: "of-both", SourceVolumeIds: []string{id, other}})
	wantCode(t, "a group with the one that fails", err, codes.Internal)
	_, err = d.CreateVolumeGroupSnapshot(ctx, &spec.CreateVolumeGroupSnapshotRequest{Name: "of-one", SourceVolumeIds: []string{id}})
	wantCode(t, "a group without it", err, codes.OK)
	set(Knobs{StageError: "no"})
	_, err = d.NodeStageVolume(ctx, &spec.NodeStageVolumeRequest{VolumeId: id, StagingTargetPath: d.dir + "/x", VolumeCapability: filesystem(writer)})
	wantCode(t, "a volume that cannot be mounted", err, codes.Internal)
}

func TestRestart(t *testing.T) {
	d := startDriver(t)
	ctx := t.Context()
	id := d.create("data", testSize, filesystem(writer), nil)
	raw := d.create("raw", testSize, device(), nil)
	path := d.use(id, filesystem(writer))
	d.use(raw, device())
	durable(t, path+"/file", "kept")
	s := d.snapshot("one", id)
	g, err := d.CreateVolumeGroupSnapshot(ctx, &spec.CreateVolumeGroupSnapshotRequest{Name: "both", SourceVolumeIds: []string{id, raw}})
	if err != nil {
		t.Fatal(err)
	}
	// What a call left that did not come to its end.
	half := filepath.Join(d.dir, "pool", kindSnapshot, identify(kindSnapshot, "half")+".img")
	if err := os.WriteFile(half, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.stop()
	wantContent(t, path+"/file", "kept")
	d.start()
	durable(t, path+"/file", "changed")
	if again := d.create("data", testSize, filesystem(writer), nil); again != id {
		t.Errorf("the volume was %s and is %s", id, again)
	}
	if again := d.snapshot("one", id); again.String() != s.String() {
		t.Errorf("the snapshot was %v and is %v", s, again)
	}
	again, err := d.CreateVolumeGroupSnapshot(ctx, &spec.CreateVolumeGroupSnapshotRequest{Name: "both", SourceVolumeIds: []string{raw, id}})
	if err != nil || again.String() != g.String() {
		t.Errorf("the group was %v and is %v, %v", g, again, err)
	}
	list, err := d.ListSnapshots(ctx, &spec.ListSnapshotsRequest{})
	if err != nil || len(list.Entries) != 3 {
		t.Errorf("%v: %v", err, list)
	}
	wantContent(t, d.use(d.create("restored", testSize, filesystem(writer), fromSnapshot(s.SnapshotId)), filesystem(writer))+"/file", "kept")
	restored := d.create("half", testSize, filesystem(writer), fromSnapshot(d.snapshot("half", id).SnapshotId))
	wantContent(t, d.use(restored, filesystem(writer))+"/file", "changed")
	member := g.GroupSnapshot.Snapshots[0].SnapshotId
	_, err = d.DeleteSnapshot(ctx, &spec.DeleteSnapshotRequest{SnapshotId: member})
	wantCode(t, "deleting a part of a group", err, codes.FailedPrecondition)
	for range 2 {
		if _, err := d.DeleteVolumeGroupSnapshot(ctx, &spec.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: g.GroupSnapshot.GroupSnapshotId}); err != nil {
			t.Error(err)
		}
		if _, err := d.DeleteSnapshot(ctx, &spec.DeleteSnapshotRequest{SnapshotId: member}); err != nil {
			t.Error(err)
		}
	}
	_, err = d.DeleteVolume(ctx, &spec.DeleteVolumeRequest{VolumeId: raw})
	wantCode(t, "deleting a volume in use", err, codes.FailedPrecondition)
	for range 2 {
		d.leave(raw)
		if _, err := d.DeleteVolume(ctx, &spec.DeleteVolumeRequest{VolumeId: raw}); err != nil {
			t.Error(err)
		}
	}
}
