package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// lagoon is an application of two workloads of which one calls the other, and a
// pod with a volume of each kind.
const lagoon = `
apiVersion: v1
kind: ConfigMap
metadata: {name: notes, namespace: NS}
data: {a: b}
---
apiVersion: v1
kind: Service
metadata: {name: store, namespace: NS}
spec: {selector: {app: store}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: store, namespace: NS, labels: {app: store}}
spec:
  serviceName: store
  selector: {matchLabels: {app: store}}
  template:
    metadata: {labels: {app: store}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: side, image: "localhost/busybox:dev", command: [sleep, "100000"]}
      - {name: main, image: "localhost/busybox:dev", command: [sleep, "100000"], volumeMounts: [{name: data, mountPath: /data}]}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], storageClassName: snap, resources: {requests: {storage: 32Mi}}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: caller, namespace: NS, labels: {app: caller}}
spec:
  serviceName: caller
  selector: {matchLabels: {app: caller}}
  template:
    metadata: {labels: {app: caller}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: main, image: "localhost/busybox:dev", command: [sleep, "100000"], env: [{name: STORE_URL, value: "http://store:80/"}], volumeMounts: [{name: data, mountPath: /data}]}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], storageClassName: snap, resources: {requests: {storage: 32Mi}}}
`

const diver = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: quick, namespace: NS}
spec: {accessModes: [ReadWriteOnce], storageClassName: snap, resources: {requests: {storage: 32Mi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: plain, namespace: NS}
spec: {accessModes: [ReadWriteOnce], storageClassName: fast, resources: {requests: {storage: 16Mi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: device, namespace: NS}
spec: {accessModes: [ReadWriteOnce], volumeMode: Block, storageClassName: snap, resources: {requests: {storage: 32Mi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: alone, namespace: NS}
spec: {accessModes: [ReadWriteOnce], storageClassName: snap, resources: {requests: {storage: 32Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: diver, namespace: NS, labels: {app: diver}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: localhost/busybox:dev
    command: [sleep, "100000"]
    volumeDevices: [{name: device, devicePath: /dev/deep}]
    volumeMounts:
    - {name: quick, mountPath: /quick}
    - {name: plain, mountPath: /plain}
    - {name: scratch, mountPath: /scratch}
    - {name: node, mountPath: /node, readOnly: true}
    - {name: own, mountPath: /own}
  volumes:
  - {name: quick, persistentVolumeClaim: {claimName: quick}}
  - {name: plain, persistentVolumeClaim: {claimName: plain}}
  - {name: device, persistentVolumeClaim: {claimName: device}}
  - {name: own, ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], storageClassName: snap, resources: {requests: {storage: 32Mi}}}}}}
  - {name: scratch, emptyDir: {}}
  - {name: unseen, emptyDir: {}}
  - {name: node, hostPath: {path: /etc, type: Directory}}
  - {name: facts, downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}
  - {name: several, projected: {sources: [{configMap: {name: notes}}]}}
  - {name: text, configMap: {name: notes}}
`

const noRemote = "apiVersion: kubectl-backup.io/v1alpha1\nkind: BackupRemote\nmetadata: {name: main}\nspec: {path: /nowhere/at/all}\n"

// newLagoon applies the application to a namespace of its own and waits until
// it runs.
func newLagoon(t *testing.T) string {
	t.Helper()
	ns := namespace(t, "lagoon")
	apply(t, "src", inNamespace(ns, lagoon+"---"+diver))
	ready(t, "src", ns, "statefulset/store", "statefulset/caller", "pod/diver")
	bound(t, ns, "alone")
	return ns
}

// decoded is the document that a command printed.
func decoded(t *testing.T, r result) v1alpha1.Document {
	t.Helper()
	var d v1alpha1.Document
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &d), "stdout: %s\nstderr: %s", r.stdout, r.stderr)
	return d
}

type volumeVerdict struct {
	outcome                     v1alpha1.Outcome
	method, cut, class, grouped string
	reason                      string
}

// TestPlanHasAVerdictOnEachVolume has volumes of every kind in one pod, and
// wants the verdict and the true reason for each.
func TestPlanHasAVerdictOnEachVolume(t *testing.T) {
	ns := newLagoon(t)
	const skipped, included, failed = v1alpha1.OutcomeSkipped, v1alpha1.OutcomeInclude, v1alpha1.OutcomeFailed
	snapped := volumeVerdict{included, "Snapshot", "GroupSnapshot", "snap", "snap", "a snapshot by driver snap.csi.kubectl-backup.io with class snap"}
	for name, c := range map[string]struct {
		rules string
		image bool
		code  int
		want  map[string]volumeVerdict
	}{
		"by default": {"", true, 0, map[string]volumeVerdict{
			"quick": snapped, "device": snapped,
			"alone":         {included, "Snapshot", "Snapshot", "snap", "", "with class snap"},
			"plain":         {included, "Stream", "Live", "", "", "read through container main of pod diver at /plain; no snapshot: its volume is of type"},
			"diver-own":     {skipped, "", "", "", "", "an ephemeral volume is gone with its pod"},
			"scratch":       {skipped, "", "", "", "", "emptyDir is saved only where a rule says Stream"},
			"node":          {skipped, "", "", "", "", "a hostPath is a part of its node"},
			"facts":         {skipped, "", "", "", "", "the kubelet fills a downwardAPI volume from objects"},
			"several":       {skipped, "", "", "", "", "the kubelet fills a projected volume from objects"},
			"text":          {skipped, "", "", "", "", "the kubelet fills a configMap volume from objects"},
			"data-store-0":  snapped,
			"data-caller-0": snapped,
		}},
		"streams": {"  volumes: [{match: 'volume.kind == \"hostPath\"', method: Stream}, {method: Stream}]\n", true, 0, map[string]volumeVerdict{
			"quick":     {included, "Stream", "Live", "", "", "volume rule 2: read through container main of pod diver at /quick"},
			"device":    {included, "Stream", "Live", "", "", "volume rule 2: a helper pod on the same node reads the device"},
			"alone":     {included, "Stream", "Live", "", "", "no running container shows the whole of it, so a helper pod reads it"},
			"diver-own": {included, "Stream", "Live", "", "", "read through container main of pod diver at /own"},
			"scratch":   {included, "Stream", "Live", "", "", "read through container main at /scratch"},
			"unseen":    {included, "Stream", "Live", "", "", "an ephemeral container reads it"},
			"node":      {included, "Stream", "Live", "", "", "volume rule 1: read through container main at /node"},
			"facts":     {skipped, "", "", "", "", "downwardAPI"},
		}},
		"a rule for all does not mean the node": {"  volumes: [{method: Stream}]\n", true, 0, map[string]volumeVerdict{
			"node": {skipped, "", "", "", "", "only where a rule with a match says Stream"},
		}},
		"snapshots": {"  volumes: [{match: 'volume.kind == \"emptyDir\"', method: Skip}, {method: Snapshot, snapshotClass: snap, groupSnapshotClass: snap}]\n", true, 3, map[string]volumeVerdict{
			"quick":     {included, "Snapshot", "GroupSnapshot", "snap", "snap", "volume rule 2: a snapshot"},
			"diver-own": {included, "Snapshot", "GroupSnapshot", "snap", "snap", "volume rule 2: a snapshot"},
			"plain":     {failed, "", "", "", "", "volume rule 2 says Snapshot, but its volume is of type"},
			"scratch":   {skipped, "", "", "", "", "volume rule 1 says Skip"},
			"node":      {skipped, "", "", "", "", "part of its node"},
		}},
		"without an image": {"", false, 3, map[string]volumeVerdict{
			"quick":  {included, "Stream", "Live", "", "", "no snapshot: no image for pods of ours is known"},
			"device": {failed, "", "", "", "", "a device is read by a pod of ours, and no image for pods of ours is known"},
			"alone":  {failed, "", "", "", "", "no running container shows the whole of it, and no image for pods of ours is known"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w, as := reader(t)
			f := spec(t, policy(lagoonSelect(ns)+c.rules), noRemote)
			args := append([]string{"plan", "-f", f, "-o", "json"}, as...)
			run := func() result {
				if !c.image {
					return without(t, args...)
				}
				return backup(t, args...)
			}
			first := run()
			require.Equal(t, c.code, first.code, first.stderr)
			require.Equal(t, first.stdout, run().stdout, "the same twice")
			d := decoded(t, first)
			for volume, want := range c.want {
				v := volumeOf(t, d, volume)
				require.Equal(t, volumeVerdict{want.outcome, want.method, want.cut, want.class, want.grouped, v.Reason},
					volumeVerdict{v.Outcome, v.Method, v.Cut, v.SnapshotClass, v.GroupSnapshotClass, v.Reason}, "%s", volume)
				require.Contains(t, v.Reason, want.reason, volume)
			}
			for _, v := range d.Volumes {
				require.NotEmpty(t, v.Reason, "%+v", v)
			}
			w.onlyReads()
		})
	}
}

// lagoonSelect selects the application and all claims, and makes one group of
// the workloads.
func lagoonSelect(ns string) string {
	return inNamespace(ns, "  select: [{kinds: [StatefulSet, Pod, PersistentVolumeClaim], namespaces: [NS]}]\n  grouping: {by: Namespace}\n")
}

// TestPlanAsksLittleAboutStorage counts what a plan asks beside the objects
// themselves: each class once, and each volume once.
func TestPlanAsksLittleAboutStorage(t *testing.T) {
	ns := newLagoon(t)
	for _, dependencies := range []string{"Include", "Report", "Ignore"} {
		w, as := reader(t)
		r := backup(t, append([]string{"plan", "-f", spec(t, policy(lagoonSelect(ns)+"  dependencies: "+dependencies+"\n"), noRemote), "-o", "json"}, as...)...)
		require.Equal(t, 0, r.code, r.stderr)
		asked := map[string]int{}
		for _, q := range w.requests() {
			if q.ObjectRef != nil {
				asked[q.ObjectRef.Resource]++
			}
		}
		require.Equal(t, 1, asked["volumesnapshotclasses"])
		require.Equal(t, 1, asked["volumegroupsnapshotclasses"])
		require.LessOrEqual(t, asked["persistentvolumes"], len(decoded(t, r).Volumes), dependencies)
		w, as = reader(t)
		body := inNamespace(ns, "  select: [{kinds: [ConfigMap], namespaces: [NS]}]\n  dependencies: "+dependencies+"\n")
		backup(t, append([]string{"plan", "-f", spec(t, policy(body), noRemote)}, as...)...)
		for _, q := range w.requests() {
			require.NotContains(t, []string{"volumesnapshotclasses", "persistentvolumes"}, resourceOf(q), "no volume, no question")
		}
	}
}

func resourceOf(q request) string {
	if q.ObjectRef == nil {
		return ""
	}
	return q.ObjectRef.Resource
}

// TestPlanOfCutsAndHooks wants what needs others to be frozen before what is
// needed, and one cut for what shares a point in time.
func TestPlanOfCutsAndHooks(t *testing.T) {
	ns := newLagoon(t)
	sets := inNamespace(ns, "  select: [{kinds: [StatefulSet], namespaces: [NS]}]\n")
	const flush = "{name: flush, before: [sync], after: [\"true\"], container: main}"
	planned := func(body string, code int) v1alpha1.Document {
		t.Helper()
		d, r := document(t, "plan", "-f", spec(t, policy(sets+body), noRemote, inNamespace(ns, recipe)))
		require.Equal(t, code, r.code, "%s\n%+v", r.stderr, d.Hooks)
		return d
	}
	t.Run("one cut, callers first", func(t *testing.T) {
		d := planned("  consistency: {hooks: ["+flush+", {recipe: hush, match: 'labels.app == \"store\"', ttl: 7s}]}\n", 0)
		require.Len(t, d.Groups, 1, "the call joins the two workloads")
		require.Equal(t, &v1alpha1.CutLine{Method: "GroupSnapshot"}, d.Groups[0].Cut)
		require.Equal(t, []string{"flush caller-0 main 30", "flush store-0 main 30", "hush store-0 side 7"}, hooksOf(d))
	})
	t.Run("scopes", func(t *testing.T) {
		d := planned("  consistency: {hooks: ["+flush+", {name: once, recipe: hush, scope: Group}, {name: whole, recipe: hush, scope: Backup}]}\n", 0)
		require.Equal(t, []string{"whole caller-0 main 12", "flush caller-0 main 30", "once caller-0 main 12", "flush store-0 main 30"}, hooksOf(d))
		require.Empty(t, d.Hooks[0].Group)
	})
	t.Run("each workload", func(t *testing.T) {
		d := planned("  consistency: {mode: Workload, hooks: ["+flush+"]}\n", 0)
		require.Equal(t, "Snapshots", d.Groups[0].Cut.Method)
		require.Contains(t, d.Groups[0].Cut.Reason, "2 workloads have a cut of their own each")
		require.Empty(t, volumeOf(t, d, "data-store-0").GroupSnapshotClass)
	})
	t.Run("none", func(t *testing.T) {
		d := planned("  consistency: {mode: None, hooks: ["+flush+"]}\n", 0)
		require.Equal(t, "Snapshots", d.Groups[0].Cut.Method)
		require.Equal(t, v1alpha1.OutcomeSkipped, d.Hooks[0].Outcome)
		require.Contains(t, d.Hooks[0].Reason, "consistency.mode is None")
	})
	t.Run("no pod", func(t *testing.T) {
		d := planned("  consistency: {hooks: [{recipe: hush, match: 'labels.app == \"stroe\"'}]}\n", 0)
		require.Equal(t, v1alpha1.OutcomeMissing, d.Hooks[0].Outcome)
		require.Contains(t, strings.Join(d.Warnings, "\n"), "hook hush: it matches no pod")
	})
	t.Run("no such container", func(t *testing.T) {
		d := planned("  consistency: {hooks: [{recipe: hush, container: mian, match: 'labels.app == \"store\"'}]}\n", 3)
		require.Equal(t, v1alpha1.OutcomeFailed, d.Hooks[0].Outcome)
		require.Contains(t, d.Hooks[0].Reason, "no container mian; it has side, main")
		require.Equal(t, v1alpha1.OutcomeFailed, volumeOf(t, d, "data-caller-0").Outcome, "the group is not captured")
		require.Nil(t, d.Groups[0].Cut)
		d = planned("  consistency: {hooks: [{recipe: hush, container: mian, match: 'labels.app == \"store\"', onFailure: Continue}]}\n", 3)
		require.Equal(t, v1alpha1.OutcomeInclude, volumeOf(t, d, "data-caller-0").Outcome)
	})
	t.Run("nobody knows", func(t *testing.T) {
		d := planned("  consistency: {hooks: [{recipe: hush, match: 'labels[\"tier\"] == \"x\"'}]}\n", 3)
		require.Equal(t, v1alpha1.OutcomeUndecided, d.Hooks[0].Outcome)
		require.Contains(t, d.Hooks[0].Reason, "spec.consistency.hooks[0].match failed on Pod "+ns+"/caller-0")
		require.Equal(t, v1alpha1.OutcomeFailed, volumeOf(t, d, "data-caller-0").Outcome, "it may have been meant")
	})
	t.Run("table", func(t *testing.T) {
		r := backup(t, "plan", "-f", spec(t, policy(sets+"  consistency: {hooks: ["+flush+"]}\n"), noRemote))
		for _, want := range []string{"cut: group snapshot of 2 volumes", "Hooks, in the order of freezing", ns + "/store-0", "with 2 hooks"} {
			require.Contains(t, r.stdout, want)
		}
	})
}

const recipe = `
apiVersion: kubectl-backup.io/v1alpha1
kind: BackupRecipe
metadata: {name: hush}
spec: {freeze: "true", thaw: "true", container: side, ttl: 12s}
`

// hooksOf are the hooks that would be held: name, pod, container and seconds.
func hooksOf(d v1alpha1.Document) []string {
	var out []string
	for _, h := range d.Hooks {
		if h.Outcome == v1alpha1.OutcomeInclude {
			out = append(out, fmt.Sprintf("%s %s %s %g", h.Hook, h.Pod.Name, h.Container, h.TTLSeconds))
		}
	}
	return out
}

// TestPlanSaysWhatCannotBe has what makes a capture fail and can be known
// before: each is said in the plan, with what to do.
func TestPlanSaysWhatCannotBe(t *testing.T) {
	ns := namespace(t, "shoal")
	other := word(t, "class")
	apply(t, "src", fmt.Sprintf("apiVersion: snapshot.storage.k8s.io/v1\nkind: VolumeSnapshotClass\nmetadata: {name: %s}\ndriver: other.example.org\ndeletionPolicy: Delete\n", other))
	t.Cleanup(func() {
		tryKubectl(t, "src", "", "delete", "volumesnapshotclass", other, "--ignore-not-found", "--wait=false")
	})
	static := func(name, source string) string {
		volume := word(t, name)
		t.Cleanup(func() { tryKubectl(t, "src", "", "delete", "pv", volume, "--ignore-not-found", "--wait=false") })
		apply(t, "src", fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolume
metadata: {name: %[3]s}
spec: {capacity: {storage: 1Mi}, accessModes: [ReadWriteOnce], storageClassName: by-hand, persistentVolumeReclaimPolicy: Retain, claimRef: {namespace: %[1]s, name: %[2]s}, %[4]s}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %[2]s, namespace: %[1]s}
spec: {accessModes: [ReadWriteOnce], storageClassName: by-hand, volumeName: %[3]s, resources: {requests: {storage: 1Mi}}}
`, ns, name, volume, source))
		bound(t, ns, name)
		return volume
	}
	static("shell", "nfs: {server: nfs.example.org, path: /x}")
	static("mute", "csi: {driver: mute.example.org, volumeHandle: x}")
	gone := static("lost", "nfs: {server: nfs.example.org, path: /y}")
	kubectl(t, "src", "delete", "pv", gone, "--wait=false")
	kubectl(t, "src", "patch", "pv", gone, "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	apply(t, "src", claim(ns, "waiting", "no-such-class")+claim(ns, "good", "snap"))
	bound(t, ns, "good")
	kubectl(t, "src", "-n", ns, "wait", "--for=jsonpath={.status.phase}=Lost", "--timeout=120s", "pvc/lost")

	claims := inNamespace(ns, "  select: [{kinds: [PersistentVolumeClaim], namespaces: [NS]}]\n")
	for _, c := range []struct {
		rule, claim string
		outcome     v1alpha1.Outcome
		reason      string
	}{
		{"{method: Snapshot}", "shell", v1alpha1.OutcomeFailed, "volume rule 1 says Snapshot, but its volume is of type nfs, and only CSI drivers make snapshots"},
		{"{method: Snapshot}", "mute", v1alpha1.OutcomeFailed, "no VolumeSnapshotClass is of driver mute.example.org (make one, or let a volume rule say Stream)"},
		{"{method: Auto}", "mute", v1alpha1.OutcomeInclude, "no snapshot: no VolumeSnapshotClass is of driver mute.example.org"},
		{"{method: Snapshot}", "waiting", v1alpha1.OutcomeSkipped, "the claim is Pending: it has no volume yet, and so no data"},
		{"{method: Snapshot}", "lost", v1alpha1.OutcomeFailed, "the claim is Lost: its volume is gone"},
		{"{method: Auto}", "lost", v1alpha1.OutcomeFailed, "the claim is Lost"},
		{"{method: Snapshot}", "good", v1alpha1.OutcomeInclude, "with class snap"},
		{"{method: Snapshot, snapshotClass: snapp}", "good", v1alpha1.OutcomeFailed, "VolumeSnapshotClass snapp does not exist"},
		{"{method: Snapshot, snapshotClass: " + other + "}", "good", v1alpha1.OutcomeFailed, "VolumeSnapshotClass " + other + " is of driver other.example.org, and the volume is of snap.csi.kubectl-backup.io"},
	} {
		d, r := document(t, "plan", "-f", spec(t, policy(claims+"  volumes: ["+c.rule+"]\n"), noRemote))
		require.Equal(t, 3, r.code, r.stderr)
		v := volumeOf(t, d, c.claim)
		require.Equal(t, c.outcome, v.Outcome, "%+v", v)
		require.Contains(t, v.Reason, c.reason, "%s of %s", c.rule, c.claim)
	}

	for _, c := range []struct{ body, remote, want string }{
		{"  consistency: {hooks: [{recipe: postgres}]}\n", noRemote, `spec.consistency.hooks[0].recipe: no recipe "postgres"; did you mean "postgresql"?`},
		{"  consistency: {hooks: [{recipe: hush, parameters: {X: '1'}}]}\n", noRemote + "---" + recipe, `spec.consistency.hooks[0].parameters.X: recipe hush has no parameter "X"; it has none`},
		{"", strings.Replace(noRemote, "/nowhere/at/all", "stroe:x, config: {store: {type: local}}", 1), `spec.path: remote "stroe" is not configured; configured: store`},
	} {
		f := spec(t, policy(claims+c.body), c.remote)
		for _, command := range []string{"plan", "validate"} {
			r := backup(t, command, "-f", f)
			require.Equal(t, 2, r.code, "%s: %s", command, r.stdout)
			require.Regexp(t, `spec\.yaml:\d+:\d+: `, r.stderr)
			require.Contains(t, r.stderr, c.want, command)
		}
	}
}
