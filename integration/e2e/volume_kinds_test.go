package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// mounted is where the node has a volume of a running pod: a claim of the CSI
// driver, or an emptyDir.
func mounted(t testing.TB, context, ns, pod, volume string) string {
	t.Helper()
	uid := kubectl(t, context, "-n", ns, "get", "pod", pod, "-o", "jsonpath={.metadata.uid}")
	of := filepath.Join(clusters(t).Dir, context, "kubelet", "pods", uid, "volumes")
	claim := kubectl(t, context, "-n", ns, "get", "pod", pod, "-o", fmt.Sprintf(`jsonpath={.spec.volumes[?(@.name==%q)].persistentVolumeClaim.claimName}`, volume))
	if claim == "" {
		return filepath.Join(of, "kubernetes.io~empty-dir", volume)
	}
	name := kubectl(t, context, "-n", ns, "get", "pvc", claim, "-o", "jsonpath={.spec.volumeName}")
	return filepath.Join(of, "kubernetes.io~csi", name, "mount")
}

// everyKind is a pod with a volume of each kind, and a claim that no pod uses.
func everyKind(ns, host string) string {
	raw := strings.Replace(snapClaim(ns, "raw"), "spec: {", "spec: {volumeMode: Block, ", 1)
	return snapClaim(ns, "books") + raw + snapClaim(ns, "spare") + snapClaim(ns, "alone") + inNamespace(ns, `---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: NS}
data: {k: v}
---
apiVersion: v1
kind: Pod
metadata: {name: matrix, namespace: NS, labels: {app: matrix}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: localhost/busybox:dev
    command: [sh, -c, "sleep 100000"]
    volumeMounts: [{name: claim, mountPath: /a}, {name: scratch, mountPath: /b}, {name: host, mountPath: /c}, {name: info, mountPath: /d}, {name: conf, mountPath: /e}]
    volumeDevices: [{name: device, devicePath: /dev/x}]
  volumes:
  - {name: claim, persistentVolumeClaim: {claimName: books}}
  - {name: device, persistentVolumeClaim: {claimName: raw}}
  - {name: unmounted, persistentVolumeClaim: {claimName: spare}}
  - {name: scratch, emptyDir: {}}
  - {name: host, hostPath: {path: `+host+`}}
  - {name: info, downwardAPI: {items: [{path: l, fieldRef: {fieldPath: metadata.labels}}]}}
  - {name: conf, projected: {sources: [{configMap: {name: settings}}]}}
`)
}

// TestVolumesOfEveryKind takes a volume of each kind all the way. Each has one
// line that says the truth, in plan, run, describe and restore: its data come
// back, or the line says that they do not, and why.
func TestVolumesOfEveryKind(t *testing.T) {
	ns := namespace(t, "matrix")
	host := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(host, "file"), []byte("of the node"), 0o644))
	apply(t, "src", everyKind(ns, host))
	ready(t, "src", ns, "pod/matrix")
	bound(t, ns, "books", "raw", "spare", "alone")
	kubectl(t, "src", "-n", ns, "exec", "matrix", "--", "sh", "-c", "echo kept >/a/file; echo scratched >/b/file; yes raw | head -c 1000000 | dd of=/dev/x bs=4096 conv=fsync; sync")
	remote, _ := local(t)
	all := policyIn(ns, "  select: [{}]\n")

	type want struct {
		outcome v1alpha1.Outcome
		reason  string
	}
	saved, skipped, restored := v1alpha1.OutcomeSaved, v1alpha1.OutcomeSkipped, v1alpha1.OutcomeRestored
	check := func(d v1alpha1.Document, wanted map[string]want) {
		t.Helper()
		require.Len(t, d.Volumes, len(wanted), "%+v", d.Volumes)
		for name, w := range wanted {
			line := volumeOf(t, d, name)
			require.Equal(t, w.outcome, line.Outcome, "%+v", line)
			require.Contains(t, line.Reason, w.reason, "%+v", line)
			require.NotEmpty(t, line.Reason, name)
		}
	}

	// What a policy says nothing of.
	f := spec(t, all+"  volumes: [{match: 'volume.mode == \"Block\"', method: Skip}, {method: Auto}]\n", remote)
	few := map[string]want{
		"books": {saved, "snapshot"}, "spare": {saved, "snapshot"}, "alone": {saved, "snapshot"},
		"raw":     {skipped, "volume rule 1 says Skip"},
		"scratch": {skipped, "emptyDir is saved only where a rule says Stream"},
		"host":    {skipped, "part of its node"},
		"info":    {skipped, "never volume data"}, "conf": {skipped, "never volume data"},
	}
	d, r := document(t, "run", "-f", f)
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, d.Volumes)
	check(d, few)
	described, _ := document2(t, 0, "describe", d.Backup, "-f", f)
	check(described, few)
	into := ns + "-few"
	dropNamespace(t, "dst", into)
	back, r := document(t, "restore", d.Backup, "-f", f, "--to-context", "dst", "--map-namespace", ns+"="+into, "--map-storage-class", "snap=snap-premium", "--kinds", "PersistentVolumeClaim")
	require.Contains(t, []int{0, 3}, r.code, r.stderr)
	for _, name := range []string{"books", "raw", "spare", "alone"} {
		line := volumeOf(t, back, name)
		require.Equal(t, few[name].outcome == saved, line.Outcome == restored, "%+v", line)
		require.NotEmpty(t, line.Reason, name)
	}

	// All that can be asked for.
	f = spec(t, all+"  volumes: [{match: 'volume.kind in [\"emptyDir\", \"hostPath\"]', method: Stream}, {method: Auto}]\n", remote)
	d, r = document(t, "run", "-f", f)
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, d.Volumes)
	check(d, map[string]want{
		"books": {saved, "snapshot"}, "spare": {saved, "snapshot"}, "alone": {saved, "snapshot"}, "raw": {saved, "snapshot"},
		"scratch": {saved, "volume rule 1"}, "host": {saved, "volume rule 1"},
		"info": {skipped, "never volume data"}, "conf": {skipped, "never volume data"},
	})
	whole(t, f, d.Backup)
	into = ns + "-all"
	dropNamespace(t, "dst", into)
	back, r = document(t, "restore", d.Backup, "-f", f, "--to-context", "dst", "--map-namespace", ns+"="+into, "--map-storage-class", "snap=snap-premium")
	require.Contains(t, []int{0, 3}, r.code, "%s\n%+v", r.stderr, back.Volumes)
	for _, name := range []string{"books", "spare", "alone", "raw", "scratch"} {
		require.Equal(t, restored, volumeOf(t, back, name).Outcome, "%+v", volumeOf(t, back, name))
	}
	for _, name := range []string{"info", "conf"} {
		require.Equal(t, skipped, volumeOf(t, back, name).Outcome, "%+v", volumeOf(t, back, name))
	}
	line := volumeOf(t, back, "host")
	t.Logf("the hostPath was %s: %s", line.Outcome, line.Reason)
	require.NotEmpty(t, line.Reason)
	ready(t, "dst", into, "pod/matrix")
	require.Equal(t, "kept\nscratched\n0\n", kubectl(t, "dst", "-n", into, "exec", "matrix", "--", "sh", "-c",
		"cat /a/file /b/file; yes raw | head -c 1000000 >/tmp/raw; head -c 1000000 /dev/x | cmp - /tmp/raw; echo $?"))
	content, err := os.ReadFile(filepath.Join(host, "file"))
	require.NoError(t, err)
	require.Equal(t, "of the node", string(content))
}

// TestDistroless captures and restores an emptyDir and a claim of a pod in
// which there is nothing to execute but its own two programs.
func TestDistroless(t *testing.T) {
	ns := namespace(t, "distroless")
	apply(t, "src", snapClaim(ns, "kept")+fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: bare, namespace: %s}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: relay, image: %q, args: [relay, --file, /data/numbers, --postgres, 'nowhere:5432', --scratch, /scratch], volumeMounts: [{name: data, mountPath: /data}, {name: scratch, mountPath: /scratch}]}
  - {name: static, image: %q, args: [--dir, /data/files], volumeMounts: [{name: data, mountPath: /data}]}
  volumes:
  - {name: data, persistentVolumeClaim: {claimName: kept}}
  - {name: scratch, emptyDir: {}}
`, ns, witnessImage, noTools))
	ready(t, "src", ns, "pod/bare")
	// What no program of the pod would write again by itself.
	for _, volume := range []string{"data", "scratch"} {
		at := mounted(t, "src", ns, "bare", volume)
		require.NoError(t, os.WriteFile(filepath.Join(at, "once"), []byte("only before, in "+volume), 0o640))
		require.NoError(t, os.Symlink("once", filepath.Join(at, "link")))
	}
	await(t, "all on the disk", func() (bool, error) {
		_, err := os.Stat(filepath.Join(mounted(t, "src", ns, "bare", "data"), "files", "file-2"))
		return err == nil, nil
	})
	syscall.Sync() // a snapshot has what a disk has after a power failure
	remote, _ := local(t)
	f := spec(t, everything(ns)+"  volumes: [{match: 'volume.kind == \"emptyDir\"', method: Stream}, {method: Auto}]\n", remote)
	d, r := document(t, "run", "-f", f)
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, d.Volumes)
	require.Equal(t, "EphemeralContainer", volumeOf(t, d, "scratch").Method)
	back, r := document(t, "restore", d.Backup, "-f", f, "--to-context", "dst", "--map-storage-class", "snap=snap-premium")
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, back.Volumes)
	ready(t, "dst", ns, "pod/bare")
	for _, volume := range []string{"data", "scratch"} {
		was, is := mounted(t, "src", ns, "bare", volume), mounted(t, "dst", ns, "bare", volume)
		content, err := os.ReadFile(filepath.Join(is, "once"))
		require.NoError(t, err, "%s: %+v", volume, back.Volumes)
		require.Equal(t, "only before, in "+volume, string(content))
		link, err := os.Readlink(filepath.Join(is, "link"))
		require.NoError(t, err)
		require.Equal(t, "once", link)
		require.Equal(t, size(t, was), size(t, is), volume)
	}
}

// TestPodsWhoseContainersEnd: a pod's own volumes come and go through a
// container that is added to it, also where other containers of it have done
// their work, or fail again and again; and none is left out for its name or for
// where it is mounted.
func TestPodsWhoseContainersEnd(t *testing.T) {
	ns := namespace(t, "ended")
	apply(t, "src", inNamespace(ns, `apiVersion: v1
kind: Pod
metadata: {name: mill, namespace: NS}
spec:
  terminationGracePeriodSeconds: 0
  initContainers:
  - {name: first, image: localhost/busybox:dev, command: ["true"], volumeMounts: [{name: kube-api-access-grain, mountPath: /grain}]}
  containers:
  - {name: main, image: localhost/static:dev, args: [--dir, /data/files], volumeMounts: [{name: kube-api-access-grain, mountPath: data/}, {name: flour, mountPath: "/data/a sack"}]}
  - {name: once, image: localhost/busybox:dev, command: [sh, -c, "sleep 2; exit 0"]}
  - {name: again, image: localhost/busybox:dev, command: [sh, -c, "exit 3"]}
  volumes:
  - {name: kube-api-access-grain, emptyDir: {}}
  - {name: flour, emptyDir: {}}
`))
	restarted := func(context, ns string) {
		t.Helper()
		await(t, "containers that end", func() (bool, error) {
			n := kubectl(t, context, "-n", ns, "get", "pod", "mill", "-o", `jsonpath={.status.phase} {.status.containerStatuses[?(@.restartCount>0)].name}`)
			return strings.HasPrefix(n, "Running ") && strings.Contains(n, "again"), nil
		})
	}
	restarted("src", ns)
	volumes := []string{"kube-api-access-grain", "flour"}
	for _, volume := range volumes {
		require.NoError(t, os.WriteFile(filepath.Join(mounted(t, "src", ns, "mill", volume), "once"), []byte("only before, in "+volume), 0o640))
	}
	remote, _ := local(t)
	f := spec(t, everything(ns)+"  volumes: [{match: 'volume.kind == \"emptyDir\"', method: Stream}, {method: Auto}]\n", remote)
	d, r := document(t, "run", "-f", f)
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, d.Volumes)
	for _, volume := range volumes {
		require.Equal(t, "EphemeralContainer", volumeOf(t, d, volume).Method)
	}
	require.NotContains(t, backup(t, "ls", d.Backup, "mill/kube-api-access-grain", "-R", "-f", f).stdout, "flour")
	back, r := document(t, "restore", d.Backup, "-f", f, "--to-context", "dst")
	require.Contains(t, []int{0, 3}, r.code, "%s\n%+v", r.stderr, back.Volumes) // it does not become healthy
	restarted("dst", ns)
	for _, volume := range volumes {
		require.Equal(t, v1alpha1.OutcomeRestored, volumeOf(t, back, volume).Outcome, "%+v", volumeOf(t, back, volume))
		content, err := os.ReadFile(filepath.Join(mounted(t, "dst", ns, "mill", volume), "once"))
		require.NoError(t, err)
		require.Equal(t, "only before, in "+volume, string(content))
	}
}

// TestMoversWhereLittleIsAllowed: in a namespace that refuses root, on a node
// that bears only who says so, what the policy says of movers holds for all
// that we run there: Jobs, pods that bytes are streamed through, and containers
// that are added to pods.
func TestMoversWhereLittleIsAllowed(t *testing.T) {
	for name, stream := range map[string]bool{"by Jobs": false, "as streams": true} {
		t.Run(name, func(t *testing.T) { littleAllowed(t, stream) })
	}
}

func littleAllowed(t *testing.T, stream bool) {
	ns := namespace(t, "strict")
	const taint = "strict.example.org/only=yes:NoSchedule"
	for _, context := range []string{"src", "dst"} {
		kubectl(t, context, "taint", "nodes", "--all", taint)
		t.Cleanup(func() { tryKubectl(t, context, "", "taint", "nodes", "--all", taint+"-") })
	}
	kubectl(t, "src", "label", "namespace", ns, "pod-security.kubernetes.io/enforce=restricted")
	const allowed = "{runAsUser: 1234, runAsGroup: 1234, runAsNonRoot: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}"
	apply(t, "src", snapClaim(ns, "deed")+claim(ns, "bond", "fast")+inNamespace(ns, `---
apiVersion: v1
kind: Pod
metadata: {name: vault, namespace: NS}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {fsGroup: 1234}
  tolerations: [{key: strict.example.org/only, operator: Exists}]
  containers:
  - {name: main, image: localhost/static:dev, args: [--dir, /data/files], securityContext: `+allowed+`, volumeMounts: [{name: deed, mountPath: /data}, {name: bond, mountPath: /bond}, {name: note, mountPath: /note}]}
  volumes:
  - {name: deed, persistentVolumeClaim: {claimName: deed}}
  - {name: bond, persistentVolumeClaim: {claimName: bond}}
  - {name: note, emptyDir: {}}
`))
	ready(t, "src", ns, "pod/vault")
	put := func(path, content string) {
		t.Helper()
		require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
		require.NoError(t, os.Chown(path, 1234, 1234))
	}
	put(filepath.Join(mounted(t, "src", ns, "vault", "deed"), "once"), "deed")
	put(filepath.Join(mounted(t, "src", ns, "vault", "note"), "once"), "note")
	put(filepath.Join(folder(t, "src", ns, "bond"), "once"), "bond")
	syscall.Sync()
	remote, _ := local(t)
	if !stream {
		remote = reachable(t).document()
	}
	f := spec(t, everything(ns)+"  volumes: [{match: 'volume.kind == \"emptyDir\"', method: Stream}, {method: Auto}]\n  mover: {image: "+moverImage+", securityContext: "+allowed+"}\n", remote)
	r := without(t, "run", "-f", f, "-o", "json")
	d := documentOf(t, r)
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, d.Volumes)
	for volume, method := range map[string]string{"deed": "HelperPod", "bond": "EphemeralContainer", "note": "EphemeralContainer"} {
		if line := volumeOf(t, d, volume); stream || volume == "note" {
			require.Equal(t, method, line.Method, "%+v", line)
		} else {
			require.Equal(t, "Job", line.Method, "%+v", line)
		}
	}
	r = without(t, "restore", d.Backup, "-f", f, "--to-context", "dst", "--map-storage-class", "snap=snap-premium,fast=premium", "-o", "json")
	back := documentOf(t, r)
	require.Contains(t, []int{0, 3}, r.code, "%s\n%+v", r.stderr, back.Volumes)
	ready(t, "dst", ns, "pod/vault")
	for volume, at := range map[string]string{"deed": mounted(t, "dst", ns, "vault", "deed"), "note": mounted(t, "dst", ns, "vault", "note"), "bond": folder(t, "dst", ns, "bond")} {
		content, err := os.ReadFile(filepath.Join(at, "once"))
		require.NoError(t, err, "%+v", volumeOf(t, back, volume))
		require.Equal(t, volume, string(content))
	}

	// Files alone go by a pod of ours as well.
	r = without(t, "restore", d.Backup, "-f", f, "--to-context", "dst", "--volume", "deed", "--path", "once")
	require.Equal(t, 0, r.code, r.stderr)
	content, err := os.ReadFile(filepath.Join(mounted(t, "dst", ns, "vault", "deed"), "restored-"+d.Backup, "once"))
	require.NoError(t, err)
	require.Equal(t, "deed", string(content))
}

// TestPodWithManyEphemeralContainers: they cannot be taken out of a pod again,
// so there is an end to adding them before it is too large to be updated.
func TestPodWithManyEphemeralContainers(t *testing.T) {
	ns := namespace(t, "crowded")
	apply(t, "src", fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: bare, namespace: %s}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: static, image: %q, args: [--dir, /data/files], volumeMounts: [{name: scratch, mountPath: /data}]}]
  volumes: [{name: scratch, emptyDir: {}}, {name: unseen, emptyDir: {}}]
`, ns, noTools))
	ready(t, "src", ns, "pod/bare")
	count := func() int {
		return len(strings.Fields(kubectl(t, "src", "-n", ns, "get", "pod", "bare", "-o", "jsonpath={.spec.ephemeralContainers[*].name}")))
	}
	crowd := func(n int) {
		var list []string
		for i := range n - count() {
			list = append(list, fmt.Sprintf(`{"name": "%d-%d", "image": "localhost/nothing-like-it:dev", "imagePullPolicy": "Never"}`, n, i))
		}
		kubectl(t, "src", "-n", ns, "patch", "pod", "bare", "--subresource=ephemeralcontainers", "--type=strategic", "-p", `{"spec": {"ephemeralContainers": [`+strings.Join(list, ", ")+`]}}`)
		require.Equal(t, n, count())
	}
	remote, _ := local(t)
	f := spec(t, everything(ns)+"  volumes: [{method: Stream}]\n", remote)

	crowd(128)
	d, r := document(t, "run", "-f", f)
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, d.Volumes)
	id := d.Backup
	require.Regexp(t, "pod bare has 12[89] ephemeral containers", strings.Join(volumeOf(t, d, "scratch").Warnings, "\n"))
	require.Equal(t, 130, count())

	crowd(256)
	// Whether a container that shows a volume has GNU tar is found out by the run.
	for command, volumes := range map[string][]string{"plan": {"unseen"}, "run": {"unseen", "scratch"}} {
		d, r = document(t, command, "-f", f)
		require.Equal(t, 3, r.code, "%s: %s", command, r.stderr)
		for _, volume := range volumes {
			v := volumeOf(t, d, volume)
			require.Equal(t, v1alpha1.OutcomeFailed, v.Outcome, "%s: %+v", command, v)
			require.Contains(t, v.Reason, "pod bare has 256 ephemeral containers", command)
		}
	}
	require.Equal(t, 256, count())

	// They are none of what a pod can be made with.
	r = backup(t, "restore", id, "-f", f, "--to-context", "dst", "--filter", `ref.kind == "Pod"`)
	require.Equal(t, 0, r.code, r.stderr)
	ready(t, "dst", ns, "pod/bare")
}
