package e2e

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/kubectl-backup/kubectl-backup/integration/csi"
)

// lost is a group snapshot that went while its members were being made, and a
// snapshot that went before its content: what their controllers leave then.
type lost struct {
	group  string // the name that the group had
	member string // a VolumeSnapshot that nobody lets go
	// contents of that member, of one whose VolumeSnapshot was never made, of a
	// snapshot, and of the group.
	contents []string
}

const groupContents = "volumegroupsnapshotcontent/"

// lose makes what is left of a group and of a snapshot with these names. The
// controllers must not run.
func lose(t testing.TB, ns, handle, group, single string) lost {
	t.Helper()
	random := func() string {
		var b [32]byte
		rand.Read(b[:])
		return hex.EncodeToString(b[:])
	}
	known, never, uid, gone := random(), random(), string(uuid.NewUUID()), string(uuid.NewUUID())
	x := lost{group: group, member: "snapshot-" + known, contents: []string{
		"volumesnapshotcontent/snapcontent-" + known, "volumesnapshotcontent/snapcontent-" + never,
		"volumesnapshotcontent/snapcontent-" + gone, groupContents + "groupsnapcontent-" + uid,
	}}
	apply(t, "src", fmt.Sprintf(`apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata:
  name: %s
  namespace: %s
  finalizers: [snapshot.storage.kubernetes.io/volumesnapshot-in-group-protection]
  ownerReferences: [{apiVersion: groupsnapshot.storage.k8s.io/v1, kind: VolumeGroupSnapshot, name: %s, uid: %s}]
spec: {source: {persistentVolumeClaimName: ink}}
`, x.member, ns, group, uid))
	memberUID := kubectl(t, "src", "-n", ns, "get", "volumesnapshot", x.member, "-o", "jsonpath={.metadata.uid}")
	content := func(name, ref, refUID, annotations string) string {
		return fmt.Sprintf(`---
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshotContent
metadata:
  name: %s
  finalizers: [snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection]
  annotations: {%s}
spec:
  deletionPolicy: Retain
  driver: %s
  source: {volumeHandle: %s}
  volumeSnapshotRef: {kind: VolumeSnapshot, namespace: %s, name: %s, uid: %q}
`, strings.TrimPrefix(name, "volumesnapshotcontent/"), annotations, csi.Name, handle, ns, ref, refUID)
	}
	inGroup := "groupsnapshot.storage.k8s.io/volumeGroupSnapshotHandle: group-" + uid
	apply(t, "src", content(x.contents[0], x.member, memberUID, inGroup)+
		content(x.contents[1], "snapshot-"+never, "", inGroup)+
		content(x.contents[2], single, gone, "")+fmt.Sprintf(`---
apiVersion: groupsnapshot.storage.k8s.io/v1
kind: VolumeGroupSnapshotContent
metadata: {name: %s, finalizers: [groupsnapshot.storage.kubernetes.io/volumegroupsnapshotcontent-bound-protection]}
spec:
  deletionPolicy: Retain
  driver: %s
  source: {volumeHandles: [%s]}
  volumeGroupSnapshotRef: {kind: VolumeGroupSnapshot, namespace: %s, name: %s, uid: %s}
`, strings.TrimPrefix(x.contents[3], groupContents), csi.Name, handle, ns, group, uid))
	for i, status := range []string{
		`"snapshotHandle":"of-%[1]s","volumeGroupSnapshotHandle":"group-%[2]s","readyToUse":true`, `"snapshotHandle":"of-%[1]s","volumeGroupSnapshotHandle":"group-%[2]s","readyToUse":true`,
		`"snapshotHandle":"of-%[1]s","readyToUse":true%.0[2]s`, `"volumeGroupSnapshotHandle":"group-%[2]s","volumeSnapshotInfoList":[{"volumeHandle":"` + handle + `","snapshotHandle":"of-%[1]s"}],"readyToUse":true`,
	} {
		kubectl(t, "src", "patch", x.contents[i], "--subresource=status", "--type=merge", "-p", `{"status":{`+fmt.Sprintf(status, group, uid)+`}}`)
	}
	await(t, "the garbage collector asks the member to go", func() (bool, error) {
		at := kubectl(t, "src", "-n", ns, "get", "volumesnapshot", x.member, "-o", "jsonpath={.metadata.deletionTimestamp}")
		return at != "", nil
	})
	return x
}

// there is what is still there of it, each with its policy.
func (x lost) there(t testing.TB, ns string) (all []string) {
	t.Helper()
	for _, name := range append([]string{"volumesnapshot/" + x.member}, x.contents...) {
		args := []string{"get", name, "--ignore-not-found", "-o", "jsonpath={.kind} {.metadata.name} {.metadata.finalizers} {.spec.deletionPolicy}"}
		if strings.HasPrefix(name, "volumesnapshot/") {
			args = append(args, "-n", ns)
		}
		if out := kubectl(t, "src", args...); out != "" {
			all = append(all, out)
		}
	}
	return all
}

// drop removes it by hand.
func (x lost) drop(t testing.TB, ns string) {
	for _, name := range append([]string{"volumesnapshot/" + x.member}, x.contents...) {
		tryKubectl(t, "src", "", "-n", ns, "delete", name, "--ignore-not-found", "--wait=false")
		tryKubectl(t, "src", "", "-n", ns, "patch", name, "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	}
}

// TestRemnants: what controllers leave of a group snapshot or a snapshot of
// ours that is gone has no mark of ours, and is found and removed all the same,
// by cleanup as by the next run. The same of anybody else, and a group of
// anybody else that is called as ours are, is not touched.
func TestRemnants(t *testing.T) {
	ns := namespace(t, "remnants")
	apply(t, "src", scribe(ns, "writer", "ink", "paper"))
	ready(t, "src", ns, "pod/writer")
	volume := kubectl(t, "src", "-n", ns, "get", "pvc", "ink", "-o", "jsonpath={.spec.volumeName}")
	handle := kubectl(t, "src", "get", "pv", volume, "-o", "jsonpath={.spec.csi.volumeHandle}")
	const lookalike = "kubectl-backup-00112233445566aa"
	kubectl(t, "src", "-n", ns, "label", "pvc", "ink", "paper", "theirs=yes")
	apply(t, "src", fmt.Sprintf("apiVersion: groupsnapshot.storage.k8s.io/v1\nkind: VolumeGroupSnapshot\nmetadata: {name: %s, namespace: %s}\nspec: {volumeGroupSnapshotClassName: snap, source: {selector: {matchLabels: {theirs: \"yes\"}}}}\n", lookalike, ns))
	kubectl(t, "src", "-n", ns, "wait", "--for=jsonpath={.status.readyToUse}=true", "--timeout=120s", "volumegroupsnapshot/"+lookalike)
	theirs := func() string {
		return kubectl(t, "src", "-n", ns, "get", "volumesnapshots,volumegroupsnapshots", "-o", `jsonpath={range .items[?(@.status.readyToUse==true)]}{.kind} {.metadata.name} {.metadata.deletionTimestamp} {.spec}{"\n"}{end}`)
	}
	await(t, "the members of a group of somebody else", func() (bool, error) { return strings.Count(theirs(), "\n") == 3, nil })
	before := theirs()

	src := clusters(t).Src
	leave := func(groups ...string) (all []lost) {
		require.NoError(t, src.StopSnapshots(t.Context()))
		defer func() { require.NoError(t, src.StartSnapshots()) }()
		for _, group := range groups {
			x := lose(t, ns, handle, group, group)
			t.Cleanup(func() { x.drop(t, ns) })
			all = append(all, x)
		}
		return all
	}
	all := leave("kubectl-backup-0123456789abcdef", "nightly", "kubectl-backup-of-mine", "my-kubectl-backup-0123456789abcdef")
	ours, others := all[0], all[1:]
	var kept [][]string
	for _, x := range others {
		kept = append(kept, x.there(t, ns))
		require.Len(t, x.there(t, ns), 5)
	}
	r := backup(t, "cleanup", "-n", ns, "--dry-run")
	require.Equal(t, 0, r.code, r.stderr)
	for _, name := range append([]string{ours.member}, ours.contents...) {
		_, name, _ = strings.Cut("/"+name, "/")
		require.Contains(t, r.stdout, name[strings.LastIndex(name, "/")+1:])
	}
	require.Len(t, strings.Fields(strings.ReplaceAll(r.stdout, " ", "_")), 5, r.stdout)
	require.Len(t, ours.there(t, ns), 5, "a dry run removes nothing")
	r = backup(t, "cleanup", "-n", ns)
	require.Equal(t, 0, r.code, "%s\n%s", r.stderr, r.stdout)
	require.Empty(t, ours.there(t, ns))
	require.Contains(t, r.stderr, "removed 5 ")

	again := leave("kubectl-backup-fedcba9876543210")[0]
	remote, _ := local(t)
	d, r := document(t, "run", "-f", spec(t, everything(ns), remote))
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, d.Volumes)
	await(t, "the end of what the run found", func() (bool, error) { return len(again.there(t, ns)) == 0, nil })

	for i, x := range others {
		require.Equal(t, kept[i], x.there(t, ns), "%s was touched", x.group)
	}
	require.Equal(t, before, theirs())
}

// TestCleanupSaysWhatRemains: storage that does not let go of a snapshot is in
// the exit code, with what it says; when it does, nothing is left.
func TestCleanupSaysWhatRemains(t *testing.T) {
	ns := namespace(t, "remains")
	apply(t, "src", scribe(ns, "writer", "ink", "paper"))
	ready(t, "src", ns, "pod/writer")
	remote, _ := local(t)
	f := spec(t, everything(ns)+"  grouping: {by: Namespace}\n", remote)
	for name, knobs := range map[string]csi.Knobs{
		"of a group": {SnapshotNotReady: true},
		"by itself":  {SnapshotNotReady: true, GroupError: "no"},
	} {
		turn(t, knobs)
		p := start(t, "run", "-f", f, "-o", "json")
		await(t, "a cut that cannot be read", func() (bool, error) {
			left := strings.Join(traces(t, ns), " ")
			return strings.Count(left, "volumesnapshotcontents/") == 2 && !strings.Contains(left, "annotation"), nil
		})
		require.NoError(t, p.Process.Kill())
		p.wait(t)
		turn(t, csi.Knobs{DeleteSnapshotError: "the shelf is locked"})
		began := time.Now()
		r := backup(t, "cleanup", "-n", ns, "--timeout", "8s")
		require.Equal(t, 3, r.code, "%s: %s\n%s", name, r.stderr, r.stdout)
		require.Less(t, time.Since(began), time.Minute)
		require.Contains(t, r.stderr, "still there: Volume", name)
		require.Contains(t, r.stderr, "being deleted", name)
		require.NotEmpty(t, traces(t, ns))
		turn(t, csi.Knobs{})
		r = backup(t, "cleanup", "-n", ns)
		require.Equal(t, 0, r.code, "%s: %s\n%s", name, r.stderr, r.stdout)
		require.Empty(t, traces(t, ns), name)
	}
}
