package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/integration/csi"
	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/snapshot"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// turn sets the knobs of src's CSI driver until the test ends.
func turn(t testing.TB, k csi.Knobs) {
	t.Helper()
	src := clusters(t).Src
	require.NoError(t, src.SetSnapshotKnobs(k))
	t.Cleanup(func() { require.NoError(t, src.SetSnapshotKnobs(csi.Knobs{})) })
}

// scribe is a pod that shows the claims at the folders of their names, with a
// file of its own in each, on the disk before it is ready.
func scribe(ns, name string, claims ...string) string {
	yaml, write, mounts, volumes := "", "", "", ""
	for _, c := range claims {
		yaml += snapClaim(ns, c)
		write += fmt.Sprintf("mkdir -p /%s/deep; echo %s >/%s/deep/name; ", c, c, c)
		mounts += fmt.Sprintf("{name: %s, mountPath: /%s}, ", c, c)
		volumes += fmt.Sprintf("  - {name: %s, persistentVolumeClaim: {claimName: %s}}\n", c, c)
	}
	return yaml + fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, namespace: %[2]s, labels: {app: %[1]s}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: %[3]s
    command: [sh, -c, %[4]q]
    volumeMounts: [%[5]s]
    readinessProbe: {periodSeconds: 1, exec: {command: [test, -e, /tmp/written]}}
  volumes:
%[6]s`, name, ns, busyboxTar, write+"sync; touch /tmp/written; "+sleep, mounts, volumes)
}

// noTraces checks that a namespace holds the snapshots and claims that it held
// before, and no labels of ours.
func noTraces(t testing.TB, ns string, theirs ...string) {
	t.Helper()
	// The controller removes the members of a group snapshot after it.
	await(t, "the removal of what the run made", func() (bool, error) { return len(traces(t, ns, theirs...)) == 0, nil })
}

func traces(t testing.TB, ns string, theirs ...string) (left []string) {
	t.Helper()
	own := map[string]bool{}
	for _, name := range theirs {
		own[name] = true
	}
	for _, line := range strings.Fields(kubectl(t, "src", "-n", ns, "get", "volumegroupsnapshots,volumesnapshots", "-o", "name") +
		kubectl(t, "src", "-n", ns, "get", "jobs,pods,secrets,pvc", "-l", kube.LabelTemporary, "-o", "name") +
		kubectl(t, "src", "-n", ns, "get", "pvc", "-l", kube.LabelCut, "-o", "name")) {
		if _, name, _ := strings.Cut(line, "/"); !own[name] {
			left = append(left, line)
		}
	}
	for _, kind := range []string{"volumesnapshotcontents", "volumegroupsnapshotcontents"} {
		var list struct {
			Items []struct {
				Metadata struct{ Name string }
				Spec     struct {
					Snapshot struct{ Namespace, Name string } `json:"volumeSnapshotRef"`
					Group    struct{ Namespace, Name string } `json:"volumeGroupSnapshotRef"`
				}
			}
		}
		require.NoError(t, json.Unmarshal([]byte(kubectl(t, "src", "get", kind, "-o", "json")), &list))
		for _, c := range list.Items {
			ref := c.Spec.Snapshot
			if kind == "volumegroupsnapshotcontents" {
				ref = c.Spec.Group
			}
			if ref.Namespace == ns && !own[ref.Name] {
				left = append(left, kind+"/"+c.Metadata.Name)
			}
		}
	}
	if strings.Contains(kubectl(t, "src", "-n", ns, "get", "pvc", "-o", "json"), kube.AnnotationCutOwner) {
		left = append(left, "annotation "+kube.AnnotationCutOwner)
	}
	return left
}

// volumesGone waits until the volumes of temporary claims are gone: whoever
// made them deletes them after their claims.
func volumesGone(t testing.TB, ns string) {
	t.Helper()
	await(t, "the end of temporary volumes", func() (bool, error) {
		names := kubectl(t, "src", "get", "pv", "-o", `jsonpath={range .items[*]}{.spec.claimRef.namespace}/{.spec.claimRef.name}{"\n"}{end}`)
		return !strings.Contains(names, ns+"/kubectl-backup-"), nil
	})
}

// readAgain restores the claims of a backup into another namespace and compares
// what is in them.
func readAgain(t testing.TB, f, id, ns string, claims ...string) {
	t.Helper()
	into := ns + "-again"
	dropNamespace(t, "src", into)
	d, r := document(t, "restore", id, "-f", f, "--map-namespace", ns+"="+into, "--kinds", "PersistentVolumeClaim")
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, d.Volumes)
	var mounts, volumes, command string
	for _, c := range claims {
		mounts += fmt.Sprintf("{name: %s, mountPath: /%s}, ", c, c)
		volumes += fmt.Sprintf("  - {name: %s, persistentVolumeClaim: {claimName: %s}}\n", c, c)
		command += fmt.Sprintf("test \"$(cat /%s/deep/name)\" = %s && ", c, c)
	}
	apply(t, "src", fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: reader, namespace: %s}\nspec:\n  restartPolicy: Never\n  containers:\n  - {name: main, image: %q, command: [sh, -c, %q], volumeMounts: [%s]}\n  volumes:\n%s",
		into, busyboxTar, command+"echo all is there", mounts, volumes))
	await(t, "a look at what was restored", func() (bool, error) {
		phase := kubectl(t, "src", "-n", into, "get", "pod", "reader", "-o", "jsonpath={.status.phase}")
		if phase == "Failed" {
			return false, fmt.Errorf("it is not what was saved")
		}
		return phase == "Succeeded", nil
	})
	kubectl(t, "src", "delete", "namespace", into, "--wait=false")
}

// quietly is a policy whose hook leaves a mark on a volume while it holds.
func quietly(ns, more string) string {
	return everything(ns) + fmt.Sprintf(`  consistency:
    hooks:
    - name: mark
      match: '"app" in labels'
      before: [sh, -c, "echo held >/ink/held; sync"]
      after: [rm, /ink/held]
      ttl: 20s
%s`, more)
}

// cutOf is how the only group that has volumes was cut.
func cutOf(t testing.TB, d v1alpha1.Document) v1alpha1.CutLine {
	t.Helper()
	for _, g := range d.Groups {
		if g.Volumes > 0 {
			require.NotNil(t, g.Cut)
			return *g.Cut
		}
	}
	require.Fail(t, "no group has volumes")
	return v1alpha1.CutLine{}
}

// TestGroupSnapshot cuts two volumes at once while their pod holds still, and
// leaves the claims as they were.
func TestGroupSnapshot(t *testing.T) {
	ns := namespace(t, "atonce")
	apply(t, "src", scribe(ns, "writer", "ink", "paper"))
	ready(t, "src", ns, "pod/writer")
	kubectl(t, "src", "-n", ns, "label", "pvc", "ink", "shelf=left")
	remote, _ := local(t)
	f := spec(t, quietly(ns, ""), remote)
	var skews, frozen []float64
	var d v1alpha1.Document
	for range rounds(3, 25) {
		var r result
		d, r = document(t, "run", "-f", f)
		require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, d.Volumes)
		cut := cutOf(t, d)
		require.Equal(t, snapshot.MethodGroup, cut.Method, cut.Reason)
		for _, c := range []string{"ink", "paper"} {
			line := volumeOf(t, d, c)
			require.Equal(t, snapshot.MethodGroup, line.Cut, "%+v", line)
			at, err := time.Parse(time.RFC3339Nano, line.CutAt)
			require.NoError(t, err)
			require.NotZero(t, at.Nanosecond(), "the time of the cut has seconds only")
		}
		require.Len(t, d.Hooks, 1)
		require.Equal(t, v1alpha1.OutcomeHeld, d.Hooks[0].Outcome, "%+v", d.Hooks)
		skews, frozen = append(skews, cut.SkewSeconds), append(frozen, cut.FrozenSeconds)
		noTraces(t, ns)
	}
	t.Logf("skew: median %.4f s; freeze: median %.3f s, of %d captures", median(skews), median(frozen), len(skews))
	require.Less(t, median(skews), 0.05)
	require.Positive(t, median(frozen))
	volumesGone(t, ns)
	readAgain(t, f, d.Backup, ns, "ink", "paper")

	// The cut is inside of the hold: the mark is in the snapshot, and not in
	// the volume any more.
	require.Equal(t, "deep\nlost+found\n", kubectl(t, "src", "-n", ns, "exec", "writer", "--", "ls", "/ink"))
	require.EqualValues(t, volumeOf(t, d, "paper").Files+1, volumeOf(t, d, "ink").Files, "the mark is not in the snapshot")

	stored := backup(t, "export", d.Backup, "-f", f, "--kinds", "PersistentVolumeClaim")
	require.Equal(t, 0, stored.code, stored.stderr)
	require.Contains(t, stored.stdout, "shelf: left")
	require.NotContains(t, stored.stdout, kube.LabelCut)
	require.Equal(t, `{"shelf":"left"}`, kubectl(t, "src", "-n", ns, "get", "pvc", "ink", "-o", "jsonpath={.metadata.labels}"))
	require.NotContains(t, kubectl(t, "src", "-n", ns, "get", "pvc", "paper", "-o", "yaml", "--show-managed-fields"), "manager: kubectl-backup")
}

// takeAway takes an object of the cluster away for the time of a test.
func takeAway(t testing.TB, kind, name string) {
	t.Helper()
	was := kubectl(t, "src", "get", kind, name, "-o", "json")
	kubectl(t, "src", "delete", kind, name)
	t.Cleanup(func() {
		var o map[string]any
		require.NoError(t, json.Unmarshal([]byte(was), &o))
		for _, field := range []string{"uid", "resourceVersion", "creationTimestamp", "managedFields", "generation"} {
			delete(o["metadata"].(map[string]any), field)
		}
		raw, err := json.Marshal(o)
		require.NoError(t, err)
		kubectlInput(t, "src", string(raw), "create", "-f", "-")
	})
}

// TestSnapshotsTogether has two volumes and no class for groups.
func TestSnapshotsTogether(t *testing.T) {
	ns := namespace(t, "each")
	apply(t, "src", scribe(ns, "writer", "ink", "paper"))
	ready(t, "src", ns, "pod/writer")
	takeAway(t, "volumegroupsnapshotclass", "snap")
	remote, _ := local(t)
	f := spec(t, quietly(ns, ""), remote)
	d, r := document(t, "run", "-f", f)
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, d.Volumes)
	cut := cutOf(t, d)
	require.Equal(t, snapshot.MethodSingle, cut.Method)
	require.Contains(t, cut.Reason, "VolumeGroupSnapshotClass")
	require.Equal(t, "Snapshot", volumeOf(t, d, "ink").Cut)
	require.Positive(t, cut.SkewSeconds)
	t.Logf("skew %.4f s, freeze %.3f s", cut.SkewSeconds, cut.FrozenSeconds)
	noTraces(t, ns)
	volumesGone(t, ns)
	readAgain(t, f, d.Backup, ns, "ink", "paper")
}

// TestGroupSnapshotFails falls back, says why, and leaves nothing of the try.
func TestGroupSnapshotFails(t *testing.T) {
	ns := namespace(t, "nogroup")
	apply(t, "src", scribe(ns, "writer", "ink", "paper"))
	ready(t, "src", ns, "pod/writer")
	turn(t, csi.Knobs{GroupError: "the array has no room for groups"})
	remote, _ := local(t)
	f := spec(t, quietly(ns, ""), remote)
	d, r := document(t, "run", "-f", f)
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, d.Volumes)
	cut := cutOf(t, d)
	require.Equal(t, snapshot.MethodSingle, cut.Method)
	require.Contains(t, cut.Reason, "the array has no room for groups")
	for _, c := range []string{"ink", "paper"} {
		require.Equal(t, "Snapshot", volumeOf(t, d, c).Cut)
	}
	noTraces(t, ns)
	readAgain(t, f, d.Backup, ns, "ink", "paper")
}

// TestNoSnapshotAtAll has a driver that refuses the group, and then some or all
// of its volumes: what was not cut fails, and the claims are left as they were,
// those that were not cut as well.
func TestNoSnapshotAtAll(t *testing.T) {
	ns := namespace(t, "nosnap")
	apply(t, "src", scribe(ns, "writer", "ink", "paper"))
	ready(t, "src", ns, "pod/writer")
	remote, _ := local(t)
	f := spec(t, quietly(ns, ""), remote)
	volume := kubectl(t, "src", "-n", ns, "get", "pvc", "ink", "-o", "jsonpath={.spec.volumeName}")
	for _, x := range []struct {
		volume string // that is refused; all, if empty
		paper  v1alpha1.Outcome
	}{{"", v1alpha1.OutcomeFailed}, {volume, v1alpha1.OutcomeSaved}} {
		turn(t, csi.Knobs{Volume: x.volume, GroupError: "no groups", SnapshotError: "the disk is on fire"})
		d, r := document(t, "run", "-f", f)
		require.Equal(t, 3, r.code, r.stderr)
		line := volumeOf(t, d, "ink")
		require.Equal(t, v1alpha1.OutcomeFailed, line.Outcome, "%+v", line)
		require.Contains(t, line.Reason, "the disk is on fire")
		require.Equal(t, x.paper, volumeOf(t, d, "paper").Outcome)
		noTraces(t, ns)
	}
}

// TestSnapshotFails has a driver that refuses, and one whose snapshots never
// can be used: the volume says it in the driver's words, and nothing is left.
func TestSnapshotFails(t *testing.T) {
	ns := namespace(t, "fails")
	apply(t, "src", scribe(ns, "writer", "ink"))
	ready(t, "src", ns, "pod/writer")
	remote, _ := local(t)
	for reason, knobs := range map[string]csi.Knobs{
		"the disk is on fire": {SnapshotError: "the disk is on fire"},
		"is not ready to use: the volume took longer than spec.mover.timeout, 15s": {SnapshotNotReady: true},
	} {
		turn(t, knobs)
		began := time.Now()
		d, r := document(t, "run", "-f", spec(t, everything(ns)+"  mover: {timeout: 15s}\n", remote))
		require.Equal(t, 3, r.code, r.stderr)
		line := volumeOf(t, d, "ink")
		require.Equal(t, v1alpha1.OutcomeFailed, line.Outcome, "%+v", line)
		require.Contains(t, line.Reason, reason)
		require.Empty(t, line.Snapshot)
		require.Less(t, time.Since(began), 90*time.Second)
		noTraces(t, ns)
	}
}

// TestRetainedClasses: what a class would keep goes all the same where it is
// ours, and stays where it is not.
func TestRetainedClasses(t *testing.T) {
	ns := namespace(t, "retain")
	apply(t, "src", scribe(ns, "writer", "ink", "paper"))
	ready(t, "src", ns, "pod/writer")
	keep := ns + "-keep"
	for _, kind := range []string{"snapshot.storage.k8s.io/v1 VolumeSnapshotClass", "groupsnapshot.storage.k8s.io/v1 VolumeGroupSnapshotClass"} {
		version, name, _ := strings.Cut(kind, " ")
		apply(t, "src", fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: %s}\ndriver: %s\ndeletionPolicy: Retain\n", version, name, keep, csi.Name))
		t.Cleanup(func() { kubectl(t, "src", "delete", name, keep) })
	}
	apply(t, "src", fmt.Sprintf("apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: %s}\nprovisioner: %s\nreclaimPolicy: Retain\nparameters: {csi.storage.k8s.io/fstype: ext4}\n", keep, csi.Name))
	t.Cleanup(func() { kubectl(t, "src", "delete", "storageclass", keep) })
	apply(t, "src", strings.ReplaceAll(scribe(ns, "other", "chalk"), "storageClassName: snap", "storageClassName: "+keep))
	ready(t, "src", ns, "pod/other")
	apply(t, "src", fmt.Sprintf("apiVersion: snapshot.storage.k8s.io/v1\nkind: VolumeSnapshot\nmetadata: {name: theirs, namespace: %s}\nspec: {volumeSnapshotClassName: snap, source: {persistentVolumeClaimName: ink}}\n", ns))
	kubectl(t, "src", "-n", ns, "wait", "--for=jsonpath={.status.readyToUse}=true", "--timeout=120s", "volumesnapshot/theirs")
	theirs := func() string {
		content := kubectl(t, "src", "-n", ns, "get", "volumesnapshot", "theirs", "-o", "jsonpath={.status.boundVolumeSnapshotContentName}")
		return kubectl(t, "src", "get", "volumesnapshotcontent", content, "-o", "jsonpath={.metadata.resourceVersion} {.spec}")
	}
	before := theirs()
	remote, _ := local(t)
	f := spec(t, everything(ns)+fmt.Sprintf("  grouping: {by: Namespace}\n  volumes: [{method: Snapshot, snapshotClass: %[1]s, groupSnapshotClass: %[1]s}]\n", keep), remote)
	d, r := document(t, "run", "-f", f)
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, d.Volumes)
	require.Equal(t, snapshot.MethodGroup, cutOf(t, d).Method, cutOf(t, d).Reason)
	noTraces(t, ns, "theirs")
	volumesGone(t, ns)
	require.Equal(t, before, theirs())
	turn(t, csi.Knobs{GroupError: "not now"})
	d, r = document(t, "run", "-f", f)
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, d.Volumes)
	require.Equal(t, snapshot.MethodSingle, cutOf(t, d).Method)
	noTraces(t, ns, "theirs")
	volumesGone(t, ns)
	require.Equal(t, before, theirs())
	t.Cleanup(func() {
		name := kubectl(t, "src", "-n", ns, "get", "pvc", "chalk", "-o", "jsonpath={.spec.volumeName}")
		kubectl(t, "src", "patch", "pv", name, "--type=merge", "-p", `{"spec":{"persistentVolumeReclaimPolicy":"Delete"}}`)
	})
}

// TestHookFails: a group whose pods do not hold is not captured, or is, with a
// warning, as the policy says; the other group goes on either way.
func TestHookFails(t *testing.T) {
	ns := namespace(t, "unquiet")
	apply(t, "src", scribe(ns, "loud", "drum")+scribe(ns, "calm", "harp"))
	ready(t, "src", ns, "pod/loud", "pod/calm")
	remote, _ := local(t)
	hook := func(onFailure string) string {
		return everything(ns) + "  consistency:\n    hooks:\n    - {name: hush, match: 'object.metadata.name == \"loud\"', before: [sh, -c, 'echo it will not; exit 7'], after: ['true'], onFailure: " + onFailure + "}\n"
	}
	d, r := document(t, "run", "-f", spec(t, hook("Abort"), remote))
	require.Equal(t, 3, r.code, r.stderr)
	require.Equal(t, v1alpha1.OutcomeFailed, volumeOf(t, d, "drum").Outcome)
	require.Contains(t, volumeOf(t, d, "drum").Reason, "hush")
	require.Contains(t, volumeOf(t, d, "drum").Reason, "7")
	require.Equal(t, v1alpha1.OutcomeSaved, volumeOf(t, d, "harp").Outcome)
	noTraces(t, ns)

	d, r = document(t, "run", "-f", spec(t, hook("Continue"), remote))
	require.Contains(t, []int{0, 3}, r.code, r.stderr)
	require.Equal(t, v1alpha1.OutcomeSaved, volumeOf(t, d, "drum").Outcome, "%+v", volumeOf(t, d, "drum"))
	require.Equal(t, "Snapshot", volumeOf(t, d, "drum").Cut)
	require.Equal(t, v1alpha1.OutcomeFailed, d.Hooks[0].Outcome)
	require.Contains(t, strings.Join(d.Warnings, "\n"), "was not quiet")
	noTraces(t, ns)
}

// TestHoldTooShort: storage that is slower than the hold lasts gives no
// consistent copy, and the report says what would.
func TestHoldTooShort(t *testing.T) {
	ns := namespace(t, "short")
	apply(t, "src", scribe(ns, "writer", "ink"))
	ready(t, "src", ns, "pod/writer")
	turn(t, csi.Knobs{SnapshotDelay: 6 * time.Second})
	remote, _ := local(t)
	d, r := document(t, "run", "-f", spec(t, quietly(ns, ""), remote))
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, d.Volumes)
	require.Greater(t, cutOf(t, d).FrozenSeconds, 6.0)

	short := strings.Replace(quietly(ns, ""), "ttl: 20s", "ttl: 2s", 1)
	d, r = document(t, "run", "-f", spec(t, short, remote))
	require.Equal(t, 3, r.code, r.stderr)
	line := volumeOf(t, d, "ink")
	require.Equal(t, v1alpha1.OutcomeFailed, line.Outcome, "%+v", line)
	require.Regexp(t, `the cut took [67]\.\d+s \(hint: a ttl of 1\ds would do\)`, line.Reason)
	require.Less(t, cutOf(t, d).FrozenSeconds, 6.0)
	noTraces(t, ns)

	d, r = document(t, "run", "-f", spec(t, short+"      onFailure: Continue\n", remote))
	require.Contains(t, []int{0, 3}, r.code, r.stderr)
	require.Equal(t, v1alpha1.OutcomeSaved, volumeOf(t, d, "ink").Outcome)
	require.Contains(t, strings.Join(d.Warnings, "\n"), "was not quiet")
	noTraces(t, ns)
}

// TestTwoRunsHoldOnePod: of two runs at the same time the second waits until the
// first has let go, so that neither cuts what is not held.
func TestTwoRunsHoldOnePod(t *testing.T) {
	ns := namespace(t, "twice")
	apply(t, "src", scribe(ns, "writer", "ink"))
	ready(t, "src", ns, "pod/writer")
	turn(t, csi.Knobs{SnapshotDelay: 3 * time.Second})
	remote, _ := local(t)
	f := spec(t, quietly(ns, ""), remote)
	runs := []*running{start(t, "run", "-f", f, "-o", "json"), start(t, "run", "-f", f, "-o", "json")}
	for _, p := range runs {
		r := p.wait(t)
		require.Equal(t, 0, r.code, r.stderr)
		d := decoded(t, r)
		require.Greater(t, cutOf(t, d).FrozenSeconds, 3.0)
		r = backup(t, "cat", d.Backup, ns+"/ink", "held", "-f", f)
		require.Equal(t, 0, r.code, "what was not held was cut: %s", r.stderr)
		require.Equal(t, "held\n", r.stdout)
	}
	noTraces(t, ns)
}

// TestKilledAroundTheCut kills the program while a cut is being made, and after
// it; what it left goes with cleanup, or with the next run.
func TestKilledAroundTheCut(t *testing.T) {
	ns := namespace(t, "cutoff")
	apply(t, "src", scribe(ns, "writer", "ink", "paper"))
	ready(t, "src", ns, "pod/writer")
	remote, _ := local(t)
	f := spec(t, quietly(ns, ""), remote)
	// Snapshots that never can be used keep a run from ending before it is killed.
	kill := func(knobs csi.Knobs, until func(left string) bool) {
		turn(t, knobs)
		p := start(t, "run", "-f", f, "-o", "json")
		await(t, "the moment to kill it", func() (bool, error) {
			select {
			case <-p.ended:
				return false, fmt.Errorf("it ended: %s", p.errOut.String())
			default:
			}
			return until(strings.Join(traces(t, ns), " ")), nil
		})
		require.NoError(t, p.Process.Kill())
		p.wait(t)
		require.NotEmpty(t, traces(t, ns), "nothing was left to remove")
		turn(t, csi.Knobs{})
	}
	during := func(left string) bool {
		return strings.Contains(left, "annotation "+kube.AnnotationCutOwner) && strings.Contains(left, "volumegroupsnapshot.")
	}
	after := func(left string) bool {
		return strings.Contains(left, "volumesnapshotcontents/") && !strings.Contains(left, "annotation")
	}
	for name, x := range map[string]struct {
		knobs csi.Knobs
		until func(string) bool
	}{
		"while it is made":   {csi.Knobs{GroupDelay: 8 * time.Second, SnapshotNotReady: true}, during},
		"when it is made":    {csi.Knobs{SnapshotNotReady: true}, after},
		"one snapshot each":  {csi.Knobs{GroupError: "no", SnapshotNotReady: true}, after},
		"while they are cut": {csi.Knobs{GroupError: "no", SnapshotDelay: 8 * time.Second, SnapshotNotReady: true}, func(left string) bool { return strings.Contains(left, "volumesnapshot.") }},
	} {
		kill(x.knobs, x.until)
		r := backup(t, "cleanup", "-n", ns)
		require.Equal(t, 0, r.code, "%s: %s", name, r.stderr)
		await(t, "the end of what was left "+name, func() (bool, error) { return len(traces(t, ns)) == 0, nil })
	}
	kill(csi.Knobs{SnapshotNotReady: true}, after)
	d, r := document(t, "run", "-f", f)
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, d.Volumes)
	await(t, "the end of what the killed run left", func() (bool, error) { return len(traces(t, ns)) == 0, nil })
	volumesGone(t, ns)
	await(t, "the pod lets go", func() (bool, error) {
		_, err := tryKubectl(t, "src", "", "-n", ns, "exec", "writer", "--", "test", "!", "-e", "/ink/held")
		return err == nil, nil
	})
}

// TestEmptied: a volume that holds nothing any more, or only files that do not,
// is a backup with a flag, and the earlier ones stay what they are.
func TestEmptied(t *testing.T) {
	ns := namespace(t, "emptied")
	apply(t, "src", scribe(ns, "writer", "ink"))
	ready(t, "src", ns, "pod/writer")
	remote, _ := local(t)
	f := spec(t, everything(ns), remote)
	first, r := document(t, "run", "-f", f)
	require.Equal(t, 0, r.code, r.stderr)
	require.Empty(t, volumeOf(t, first, "ink").Warnings)
	ids := []string{first.Backup}
	for _, emptied := range []string{"find /ink -type f -exec truncate -s 0 {} +", "rm -r /ink/deep"} {
		kubectl(t, "src", "-n", ns, "exec", "writer", "--", "sh", "-c", emptied+"; sync")
		d, r := document(t, "run", "-f", f)
		require.Equal(t, 0, r.code, r.stderr)
		require.Contains(t, strings.Join(volumeOf(t, d, "ink").Warnings, "\n"), fmt.Sprintf("the last backup had %d files", volumeOf(t, first, "ink").Files), emptied)
		ids = append(ids, d.Backup)
	}
	var list struct {
		Items []struct {
			ID    string
			Empty []string
		}
	}
	require.NoError(t, json.Unmarshal([]byte(backup(t, "list", "-f", f, "-o", "json").stdout), &list))
	for i, b := range list.Items {
		require.Equal(t, ids[i], b.ID)
		if last := i == len(ids)-1; last {
			require.Equal(t, []string{ns + "/ink"}, b.Empty)
		} else {
			require.Empty(t, b.Empty)
		}
	}
	require.Contains(t, backup(t, "list", "-f", f).stdout, "empty: "+ns+"/ink")
	whole(t, f, first.Backup)
	readAgain(t, f, first.Backup, ns, "ink")
}
