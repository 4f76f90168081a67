package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kubectl-backup/kubectl-backup/integration/csi"
)

// claim is a claim of the snapshot class, empty or with a source.
func claim(c *Cluster, name, mode, size, source string) string {
	return fmt.Sprintf(`{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: %s, labels: {set: %[1]s}}, spec: {
		storageClassName: %s, volumeMode: %s, accessModes: [ReadWriteOnce], resources: {requests: {storage: %s}}%s}}`, name, c.SnapshotClass(), mode, size, source)
}

// late makes a claim one that waits for a pod.
func late(claim string, c *Cluster) string {
	return strings.ReplaceAll(claim, "storageClassName: "+c.SnapshotClass(), "storageClassName: "+c.SnapshotClass()+lateClass)
}

func fromSnapshot(name string) string {
	return ", dataSource: {apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: " + name + "}"
}

func snapshotOf(name, claim string) string {
	return fmt.Sprintf(`{apiVersion: snapshot.storage.k8s.io/v1, kind: VolumeSnapshot, metadata: {name: %s}, spec: {source: {persistentVolumeClaimName: %s}}}`, name, claim)
}

// volumePod is a pod with claims at /<claim>: directories, or devices where
// the claim's name begins with raw.
func volumePod(name, command string, claims ...string) string {
	var mounts, devices, volumes []string
	for _, c := range claims {
		if strings.HasPrefix(c, "raw") {
			devices = append(devices, fmt.Sprintf("{name: %s, devicePath: /%[1]s}", c))
		} else {
			mounts = append(mounts, fmt.Sprintf("{name: %s, mountPath: /%[1]s}", c))
		}
		volumes = append(volumes, fmt.Sprintf("{name: %s, persistentVolumeClaim: {claimName: %[1]s}}", c))
	}
	return fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: %s}, spec: {terminationGracePeriodSeconds: 0,
		containers: [{name: main, image: "localhost/busybox:dev", command: [sh, -c, %q], volumeMounts: [%s], volumeDevices: [%s]}], volumes: [%s]}}`,
		name, command, strings.Join(mounts, ", "), strings.Join(devices, ", "), strings.Join(volumes, ", "))
}

func waitReady(t *testing.T, c *Cluster, pods ...string) {
	t.Helper()
	for _, pod := range pods {
		mustKubectl(t, c, "wait", "--for=condition=Ready", "pod/"+pod, "--timeout=90s")
	}
}

func waitSnapshots(t *testing.T, c *Cluster, objects ...string) {
	t.Helper()
	mustKubectl(t, c, append([]string{"wait", "--for=jsonpath={.status.readyToUse}=true", "--timeout=60s"}, objects...)...)
}

func testSnapshots(t *testing.T, c *Cluster) {
	mustApply(t, c, "["+claim(c, "data", "Filesystem", "1Gi", "")+","+claim(c, "raw", "Block", "64Mi", "")+","+
		volumePod("owner", "sleep 10000", "data", "raw")+"]")
	waitReady(t, c, "owner")
	write := func(content string) {
		mustKubectl(t, c, "exec", "owner", "--", "sh", "-c", "echo "+content+" >/data/file && sync /data/file && dd if=/data/file of=/raw bs=4096 seek=100 conv=fsync 2>/dev/null")
	}
	write("before")
	mustApply(t, c, "["+snapshotOf("data-1", "data")+","+snapshotOf("raw-1", "raw")+"]")
	waitSnapshots(t, c, "volumesnapshot/data-1", "volumesnapshot/raw-1")
	write("after")
	mustApply(t, c, "["+claim(c, "restored", "Filesystem", "1Gi", fromSnapshot("data-1"))+","+late(claim(c, "larger", "Filesystem", "2Gi", fromSnapshot("data-1")), c)+","+
		claim(c, "raw-restored", "Block", "64Mi", fromSnapshot("raw-1"))+","+claim(c, "cloned", "Filesystem", "1Gi", ", dataSource: {kind: PersistentVolumeClaim, name: data}")+","+
		volumePod("reader", "sleep 10000", "restored", "larger", "raw-restored", "cloned")+"]")
	waitReady(t, c, "reader")
	for command, want := range map[string]string{
		"cat /restored/file": "before\n", "cat /larger/file": "before\n", "cat /cloned/file": "after\n",
		"dd if=/raw-restored bs=4096 skip=100 count=1 2>/dev/null | head -n 1": "before\n",
		"wc -c </raw-restored": "67108864\n",
	} {
		if out := mustKubectl(t, c, "exec", "reader", "--", "sh", "-c", command); out != want {
			t.Errorf("%s: got %q, want %q", command, out, want)
		}
	}
	// What deletes a claim deletes its volume, whoever was made from it.
	mustKubectl(t, c, "delete", "pod/owner", "pvc/data", "pvc/raw")
	if out := mustKubectl(t, c, "exec", "reader", "--", "cat", "/cloned/file"); out != "after\n" {
		t.Errorf("the clone reads %q", out)
	}
	mustKubectl(t, c, "delete", "pod/reader", "pvc/restored", "pvc/larger", "pvc/raw-restored", "pvc/cloned", "volumesnapshot/data-1", "volumesnapshot/raw-1")
	waitNothingStored(t, c)
}

// waitNothingStored waits until the driver has neither volumes nor snapshots.
func waitNothingStored(t *testing.T, c *Cluster) {
	t.Helper()
	err := WaitFor(t.Context(), time.Minute, "the pool is empty", func(ctx context.Context) error {
		left, err := csi.Stored(c.paths.csi)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("it has %s", strings.Join(left, " "))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	mustKubectl(t, c, "wait", "--for=delete", "volumesnapshotcontent,volumegroupsnapshotcontent", "--all", "--timeout=30s")
}

func testGroupSnapshot(t *testing.T, c *Cluster) {
	const lockstep = "i=0; while true; do i=$((i+1)); for d in one two; do echo $i >>/$d/numbers; sync /$d/numbers; done; done"
	claims := strings.NewReplacer("set: one", "set: both", "set: two", "set: both").Replace(claim(c, "one", "Filesystem", "64Mi", "") + "," + claim(c, "two", "Filesystem", "64Mi", ""))
	mustApply(t, c, "["+claims+","+volumePod("writer", lockstep, "one", "two")+"]")
	waitReady(t, c, "writer")
	waitKubectl(t, c, "numbers are written", "exec", "writer", "--", "test", "-s", "/two/numbers")
	// Both versions of the API serve.
	for i, version := range []string{"v1", "v1beta2"} {
		group := fmt.Sprint("both-", i)
		mustApply(t, c, fmt.Sprintf(`{apiVersion: groupsnapshot.storage.k8s.io/%s, kind: VolumeGroupSnapshot, metadata: {name: %s}, spec: {source: {selector: {matchLabels: {set: both}}}}}`, version, group))
		waitSnapshots(t, c, "volumegroupsnapshots.v1.groupsnapshot.storage.k8s.io/"+group)
		var restored []string
		for line := range strings.Lines(mustKubectl(t, c, "get", "volumesnapshots", "-o", `jsonpath={range .items[*]}{.status.volumeGroupSnapshotName} {.spec.source.persistentVolumeClaimName} {.metadata.name}{"\n"}{end}`)) {
			if f := strings.Fields(line); len(f) == 3 && f[0] == group {
				name := fmt.Sprintf("%s-%d", f[1], i)
				restored = append(restored, name)
				mustApply(t, c, claim(c, name, "Filesystem", "64Mi", fromSnapshot(f[2])))
			}
		}
		if len(restored) != 2 {
			t.Fatalf("the group has the snapshots %v", restored)
		}
		reader := fmt.Sprint("reader-", i)
		mustApply(t, c, volumePod(reader, "sleep 10000", restored...))
		waitReady(t, c, reader)
		var one, two int
		out := mustKubectl(t, c, "exec", reader, "--", "sh", "-c", fmt.Sprintf("tail -n 1 /one-%d/numbers; tail -n 1 /two-%[1]d/numbers", i))
		if _, err := fmt.Sscan(out, &one, &two); err != nil || two < 1 || one < two || one > two+1 {
			t.Errorf("one volume came to %d, the other to %d, %v", one, two, err)
		}
		mustKubectl(t, c, "delete", "pod/"+reader, "pvc/"+restored[0], "pvc/"+restored[1], "volumegroupsnapshots.v1.groupsnapshot.storage.k8s.io/"+group)
	}
	mustKubectl(t, c, "delete", "pod/writer", "pvc/one", "pvc/two")
	waitNothingStored(t, c)
}

func testDriverOutage(t *testing.T, c *Cluster) {
	ctx := t.Context()
	set := func(k csi.Knobs) {
		t.Helper()
		if err := c.SetSnapshotKnobs(k); err != nil {
			t.Fatal(err)
		}
	}
	waitStatus := func(what, object, path, want string) {
		t.Helper()
		err := WaitFor(ctx, time.Minute, what, func(ctx context.Context) error {
			out, err := c.Kubectl(ctx, "get", object, "-o", "jsonpath={"+path+"}")
			if err == nil && !strings.Contains(out, want) {
				err = fmt.Errorf("%s of %s is %q", path, object, out)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	set(csi.Knobs{CreateVolumeError: "no disk", SnapshotError: "no snapshot"})
	mustApply(t, c, claim(c, "data", "Filesystem", "64Mi", ""))
	waitStatus("the claim's trouble is told", "events", ".items[*].message", "no disk")
	set(csi.Knobs{SnapshotError: "no snapshot"})
	mustApply(t, c, volumePod("owner", "echo kept >/data/file; sync; sleep 10000", "data"))
	waitReady(t, c, "owner")
	mustApply(t, c, snapshotOf("data-1", "data"))
	waitStatus("the snapshot's trouble is told", "volumesnapshot/data-1", ".status.error.message", "no snapshot")
	// Cut, with its time, and not of use yet.
	set(csi.Knobs{SnapshotNotReady: true})
	waitStatus("the snapshot has its time", "volumesnapshot/data-1", ".status.creationTime", "T")
	waitStatus("the snapshot is not ready", "volumesnapshot/data-1", ".status.readyToUse", "false")
	set(csi.Knobs{})
	waitSnapshots(t, c, "volumesnapshot/data-1")

	if err := c.StopSnapshots(ctx); err != nil {
		t.Fatal(err)
	}
	mustKubectl(t, c, "exec", "owner", "--", "sh", "-c", "echo more >>/data/file; sync /data/file")
	mustApply(t, c, snapshotOf("data-2", "data"))
	if err := c.StartSnapshots(); err != nil {
		t.Fatal(err)
	}
	waitSnapshots(t, c, "volumesnapshot/data-2")
	mustApply(t, c, "["+claim(c, "restored", "Filesystem", "64Mi", fromSnapshot("data-2"))+","+volumePod("reader", "sleep 10000", "restored")+"]")
	waitReady(t, c, "reader")
	if out := mustKubectl(t, c, "exec", "reader", "--", "cat", "/restored/file"); out != "kept\nmore\n" {
		t.Errorf("the volume reads %q", out)
	}
	if err := c.unhealthy(ctx, true); err != nil {
		t.Error(err)
	}
}

// freezeVolume freezes the filesystem of a pod, and waits until a process of
// the pod waits for it.
func freezeVolume(t *testing.T, c *Cluster) {
	t.Helper()
	if _, err := output(t.Context(), "fsfreeze", "--freeze", volumeMount(t, c, "owner")); err != nil {
		t.Fatal(err)
	}
	// The exec cannot end either: its client is left behind.
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := c.Kubectl(ctx, "exec", "owner", "--", "sh", "-c", "echo x >/data/blocked"); !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		t.Errorf("a frozen filesystem was written to: %v", err)
	}
}

// volumeMount is where the driver's volume of a pod is mounted.
func volumeMount(t *testing.T, c *Cluster, pod string) string {
	t.Helper()
	uid := mustKubectl(t, c, "get", "pod", pod, "-o", "jsonpath={.metadata.uid}")
	mounts, err := readMounts()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		if m.kind == "ext4" && strings.Contains(m.point, uid) && strings.Contains(m.point, "kubernetes.io~csi") {
			return m.point
		}
	}
	t.Fatalf("pod %s has no volume of the driver", pod)
	return ""
}
