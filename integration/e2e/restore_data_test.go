package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/restore"
	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// addVolume adds a volume with files by path.
func (b *backupOf) addVolume(line v1alpha1.VolumeLine, files map[string]string) *backupOf {
	b.t.Helper()
	dir := b.t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		require.NoError(b.t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(b.t, os.WriteFile(path, []byte(text), 0o640))
	}
	require.NoError(b.t, os.Chmod(dir, 0o755))
	pr, pw := io.Pipe()
	go func() {
		enc := volume.NewEncoder(pw)
		pw.CloseWithError(volume.ReadTree(b.t.Context(), dir, enc))
	}()
	result, err := b.session.WriteVolume(b.t.Context(), line, volume.NewDecoder(pr))
	require.NoError(b.t, err)
	line.Snapshot, line.Outcome, line.Files, line.Bytes = result.Snapshot, v1alpha1.OutcomeSaved, result.Files, result.Bytes
	b.doc.Volumes = append(b.doc.Volumes, line)
	return b
}

// shell runs a command in the first container of a pod.
func (p *place) shell(ns, pod, command string) string {
	p.t.Helper()
	var out bytes.Buffer
	require.NoError(p.t, p.Exec(p.t.Context(), kube.ExecOptions{Namespace: ns, Pod: pod, Command: []string{"sh", "-c", command}, Stdout: &out, Stderr: io.Discard}))
	return strings.TrimSpace(out.String())
}

func (p *place) pods(ns string) []*object.Object {
	p.t.Helper()
	var out []*object.Object
	_, err := p.List(p.t.Context(), p.kind("v1", "Pod"), kube.ListOptions{Namespace: ns}, func(o *object.Object) error {
		if !o.Deleting {
			out = append(out, o)
		}
		return nil
	})
	require.NoError(p.t, err)
	return out
}

const kiln = `
apiVersion: v1
kind: Namespace
metadata: {name: $NS, uid: ns-1, labels: {kubernetes.io/metadata.name: $NS, team: potters}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: clay-kiln-0
  namespace: $NS
  uid: claim-1
  labels: {app: kiln}
  annotations:
    pv.kubernetes.io/bind-completed: "yes"
    pv.kubernetes.io/bound-by-controller: "yes"
    volume.kubernetes.io/selected-node: node-gone-3
    volume.kubernetes.io/storage-provisioner: disk.example.org
    team.example.org/owner: potters
  ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: kiln, uid: set-1, controller: true}]
spec:
  storageClassName: basalt
  volumeName: pvc-0b1f
  selector: {matchLabels: {shelf: "9"}}
  dataSourceRef: {apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: last-year}
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 10Mi}}
status: {phase: Bound, capacity: {storage: 12Mi}}
---
apiVersion: v1
kind: Service
metadata: {name: kiln, namespace: $NS, uid: svc-1}
spec: {clusterIP: None, selector: {app: kiln}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: kiln, namespace: $NS, uid: set-1}
spec:
  serviceName: kiln
  replicas: 1
  selector: {matchLabels: {app: kiln}}
  template:
    metadata: {labels: {app: kiln}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: c
        image: localhost/busybox:dev
        imagePullPolicy: IfNotPresent
        command: [sh, -c, "cat /clay/deep/pot.txt && exec sleep 3600"]
        volumeMounts: [{name: clay, mountPath: /clay}, {name: wheel, mountPath: /wheel}]
      volumes: [{name: wheel, emptyDir: {}}]
  volumeClaimTemplates:
  - metadata: {name: clay}
    spec: {storageClassName: basalt, accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: glaze
  namespace: $NS
  uid: dep-1
  annotations: {deployment.kubernetes.io/revision: "7"}
  managedFields:
  - {manager: gitops, operation: Apply, apiVersion: apps/v1, fieldsType: FieldsV1, fieldsV1: {"f:spec": {"f:replicas": {}, "f:selector": {}, "f:template": {"f:metadata": {"f:labels": {"f:app": {}}}}}}}
  - {manager: kube-controller-manager, operation: Update, subresource: status, apiVersion: apps/v1, fieldsType: FieldsV1, fieldsV1: {"f:status": {"f:replicas": {}}}}
spec:
  replicas: 2
  selector: {matchLabels: {app: glaze}}
  template:
    metadata: {labels: {app: glaze}}
    spec:
      terminationGracePeriodSeconds: 0
      securityContext: {runAsNonRoot: true, runAsUser: 1000}
      initContainers:
      - name: first
        image: localhost/busybox:dev
        imagePullPolicy: IfNotPresent
        command: [sh, -c, "cat /scratch/recipe"]
        volumeMounts: [{name: scratch, mountPath: /scratch}]
      containers:
      - name: c
        image: localhost/busybox:dev
        imagePullPolicy: IfNotPresent
        command: [sh, -c, "cat /scratch/recipe && exec sleep 3600"]
        volumeMounts: [{name: scratch, mountPath: /scratch}]
      volumes: [{name: scratch, emptyDir: {}}]
status: {replicas: 2}
`

func TestRestoreDataBeforeWorkloads(t *testing.T) {
	t.Parallel()
	dst := restorePlace(t, "dst")
	ns := word(t, "kiln")
	copied := ns + "-copy"
	b := newBackup(t).addYAML(kiln, "$NS", ns)
	glaze := v1alpha1.Ref{Group: "apps", Version: "v1", Kind: "Deployment", Namespace: ns, Name: "glaze"}
	b.addVolume(v1alpha1.VolumeLine{Ref: v1alpha1.Ref{Version: "v1", Kind: "PersistentVolumeClaim", Namespace: ns, Name: "clay-kiln-0"},
		VolumeKind: "persistentVolumeClaim", Volume: "clay", StorageClass: "basalt"}, map[string]string{"deep/pot.txt": "terracotta", "other": strings.Repeat("x", 1<<20)})
	for n, recipe := range []string{"ash", "salt"} {
		b.addVolume(v1alpha1.VolumeLine{Ref: v1alpha1.Ref{Version: "v1", Kind: "Pod", Namespace: ns, Name: fmt.Sprintf("glaze-%d", n)},
			VolumeKind: "emptyDir", Volume: "scratch", Workload: &glaze, Pod: fmt.Sprintf("glaze-%d", n)}, map[string]string{"recipe": recipe})
	}
	r := b.request(dst)
	r.Namespaces = map[string]string{ns: copied}
	r.Timeout = 2 * time.Minute

	// A class that is not there stops it before anything is written.
	_, err := restore.Run(t.Context(), r)
	require.ErrorContains(t, err, "storage class basalt is not in the target")
	r.StorageClasses = map[string]string{"basalt": "granite"}
	_, err = restore.Run(t.Context(), r)
	require.ErrorContains(t, err, "storage class granite, which basalt is mapped to, is not in the target")
	_, err = dst.get("v1", "Namespace", "", copied)
	require.True(t, apierrors.IsNotFound(err), "%v", err)

	r.StorageClasses = map[string]string{"basalt": "premium"}
	dst.removeNamespace(copied)
	d := complete(t, r)

	claim := dst.must("v1", "PersistentVolumeClaim", copied, "clay-kiln-0")
	require.Equal(t, "premium", field(claim, "spec", "storageClassName"))
	require.Equal(t, "12Mi", field(claim, "spec", "resources", "requests", "storage"))
	require.Nil(t, field(claim, "spec", "selector"))
	require.Nil(t, field(claim, "spec", "dataSourceRef"))
	require.NotEqual(t, "pvc-0b1f", field(claim, "spec", "volumeName"))
	require.Equal(t, "potters", field(claim, "metadata", "annotations", "team.example.org/owner"))
	require.NotEqual(t, "node-gone-3", field(claim, "metadata", "annotations", "volume.kubernetes.io/selected-node"))
	set := dst.must("apps/v1", "StatefulSet", copied, "kiln")
	require.Equal(t, "premium", field(set, "spec", "volumeClaimTemplates", "0", "spec", "storageClassName"))

	require.Equal(t, "terracotta", dst.shell(copied, "kiln-0", "cat /clay/deep/pot.txt"))
	dep := dst.must("apps/v1", "Deployment", copied, "glaze")
	require.EqualValues(t, 2, field(dep, "spec", "replicas"))
	require.Nil(t, field(dep, "spec", "paused"))
	var recipes []string
	var names []string
	for _, pod := range dst.pods(copied) {
		names = append(names, pod.Ref.Name)
		require.NotContains(t, pod.Labels, kube.LabelTemporary)
		if strings.HasPrefix(pod.Ref.Name, "glaze-") {
			recipes = append(recipes, dst.shell(copied, pod.Ref.Name, "cat /scratch/recipe"))
			for _, s := range field(contentOf(t, pod), "status", "containerStatuses").([]any) {
				require.EqualValues(t, 0, field(s.(map[string]any), "restartCount"))
			}
		}
	}
	slices.Sort(recipes)
	require.Equal(t, []string{"ash", "salt"}, recipes)
	require.Len(t, names, 3)
	require.Len(t, field(dep, "spec", "template", "spec", "initContainers"), 1)
	sets := 0
	_, err = dst.List(t.Context(), dst.kind("apps/v1", "ReplicaSet"), kube.ListOptions{Namespace: copied}, func(o *object.Object) error {
		sets++
		require.Len(t, field(contentOf(t, o), "spec", "template", "spec", "initContainers"), 1)
		require.Len(t, field(contentOf(t, o), "spec", "template", "spec", "volumes"), 1)
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, 1, sets)
	for name := range managers(t, dep) {
		require.NotContains(t, name, kube.FieldManager)
	}
	for _, v := range d.Volumes {
		require.Equal(t, v1alpha1.OutcomeRestored, v.Outcome, "%v", v)
		require.Empty(t, v.Issues)
	}

	// Again: nothing is touched, and what was not brought back is said.
	again := run(t, r)
	require.Equal(t, 3, again.ExitCode)
	for _, v := range again.Volumes {
		require.Equal(t, v1alpha1.OutcomeConflict, v.Outcome)
	}
	require.Contains(t, again.Volumes[0].Reason, "in use by pod kiln-0")
	require.Equal(t, "terracotta", dst.shell(copied, "kiln-0", "cat /clay/deep/pot.txt"))
	require.Equal(t, names, podNames(dst.pods(copied)))
}

func podNames(pods []*object.Object) (names []string) {
	for _, p := range pods {
		names = append(names, p.Ref.Name)
	}
	return names
}

// What a pod of a set had for itself goes back to the pod of the same name,
// before it starts; a bare pod and a pod of a DaemonSet get it late, and the
// report says so. A claim that a pod had made for itself is among it: with that
// there already, no pod of the name would start.
func TestRestorePodVolumes(t *testing.T) {
	t.Parallel()
	dst := restorePlace(t, "dst")
	ns := word(t, "wheel")
	b := newBackup(t).addYAML(kiln, "$NS", ns).addYAML(`
apiVersion: v1
kind: Pod
metadata: {name: lone, namespace: $NS, uid: pod-1}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: "localhost/busybox:dev", imagePullPolicy: IfNotPresent, command: [sleep, "3600"], volumeMounts: [{name: wheel, mountPath: /wheel}]}
  volumes: [{name: wheel, emptyDir: {}}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: throw
  namespace: $NS
  uid: set-2
  managedFields: [{manager: kubectl-create, operation: Update, apiVersion: apps/v1, fieldsType: FieldsV1, fieldsV1: {"f:spec": {"f:replicas": {}}}}]
spec:
  serviceName: throw
  replicas: 2
  selector: {matchLabels: {app: throw}}
  template:
    metadata: {labels: {app: throw}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: c
        image: localhost/busybox:dev
        imagePullPolicy: IfNotPresent
        command: [sh, -c, "cat /wheel/spin && exec sleep 3600"]
        volumeMounts: [{name: wheel, mountPath: /wheel}, {name: slip, mountPath: /slip}]
      volumes:
      - {name: wheel, emptyDir: {}}
      - {name: slip, ephemeral: {volumeClaimTemplate: {spec: {storageClassName: premium, accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}}}}
`, "$NS", ns)
	for n := range 2 {
		b.addYAML(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: throw-$N-slip
  namespace: $NS
  uid: slip-$N
  ownerReferences: [{apiVersion: v1, kind: Pod, name: throw-$N, uid: throw-pod-$N, controller: true, blockOwnerDeletion: true}]
spec: {storageClassName: premium, volumeName: pvc-gone-$N, accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
`, "$NS", ns, "$N", fmt.Sprint(n))
	}
	throw := v1alpha1.Ref{Group: "apps", Version: "v1", Kind: "StatefulSet", Namespace: ns, Name: "throw"}
	for _, pod := range []string{"throw-0", "throw-1", "lone"} {
		line := v1alpha1.VolumeLine{Ref: v1alpha1.Ref{Version: "v1", Kind: "Pod", Namespace: ns, Name: pod}, VolumeKind: "emptyDir", Volume: "wheel", Pod: pod}
		if pod != "lone" {
			line.Workload = &throw
		}
		b.addVolume(line, map[string]string{"spin": pod})
	}
	b.addVolume(v1alpha1.VolumeLine{Ref: v1alpha1.Ref{Version: "v1", Kind: "PersistentVolumeClaim", Namespace: ns, Name: "throw-0-slip"},
		VolumeKind: "ephemeral", Volume: "slip", Pod: "throw-0", Workload: &throw}, map[string]string{"spin": "throw-0"})
	r := b.request(dst)
	r.Timeout = 90 * time.Second
	r.Filter = func(o *object.Object) (bool, error) {
		return o.Ref.Name == "lone" || strings.HasPrefix(o.Ref.Name, "throw") || o.Ref.Name == ns, nil
	}
	dst.removeNamespace(ns)
	d := complete(t, r)
	require.Equal(t, "throw-0", dst.shell(ns, "throw-0", "cat /slip/spin"))
	require.Empty(t, dst.shell(ns, "throw-1", "ls /slip"))
	for n, outcome := range []v1alpha1.Outcome{v1alpha1.OutcomeLeftToOwner, v1alpha1.OutcomeSkipped} {
		name := fmt.Sprintf("throw-%d-slip", n)
		require.Equal(t, outcome, line(t, d, "PersistentVolumeClaim", name).Outcome)
		require.Equal(t, "Pod", field(dst.must("v1", "PersistentVolumeClaim", ns, name), "metadata", "ownerReferences", "0", "kind"))
	}
	set := dst.must("apps/v1", "StatefulSet", ns, "throw")
	require.EqualValues(t, 2, field(set, "spec", "replicas"))
	for name := range managers(t, set) {
		require.NotContains(t, name, kube.FieldManager)
	}
	require.Equal(t, []string{"lone", "throw-0", "throw-1"}, podNames(dst.pods(ns)))
	for _, pod := range dst.pods(ns) {
		require.Equal(t, pod.Ref.Name, dst.shell(ns, pod.Ref.Name, "cat /wheel/spin"))
		require.NotContains(t, pod.Labels, kube.LabelTemporary)
		if pod.Ref.Name != "lone" {
			owner, ok := pod.Controller()
			require.True(t, ok)
			require.Equal(t, "throw", owner.Name)
			require.EqualValues(t, 0, field(contentOf(t, pod), "status", "containerStatuses", "0", "restartCount"))
		}
	}
	for _, v := range d.Volumes {
		require.Equal(t, v1alpha1.OutcomeRestored, v.Outcome)
		require.Equal(t, v.Ref.Name == "lone", len(v.Warnings) == 1, "%v", v)
	}
}

// A restore that was killed while it filled a claim is taken up again.
func TestRestoreFillsMarkedClaimAgain(t *testing.T) {
	t.Parallel()
	dst := restorePlace(t, "dst")
	ns := word(t, "resume")
	b := newBackup(t).addYAML(kiln, "$NS", ns)
	b.addVolume(v1alpha1.VolumeLine{Ref: v1alpha1.Ref{Version: "v1", Kind: "PersistentVolumeClaim", Namespace: ns, Name: "clay-kiln-0"},
		VolumeKind: "persistentVolumeClaim"}, map[string]string{"deep/pot.txt": "terracotta"})
	r := b.request(dst)
	r.StorageClasses = map[string]string{"basalt": "premium"}
	r.Timeout = time.Minute
	r.Filter = func(o *object.Object) (bool, error) { return o.Ref.Name != "glaze", nil }
	dst.apply(`
apiVersion: v1
kind: Namespace
metadata: {name: $NS, labels: {team: potters}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: clay-kiln-0, namespace: $NS, labels: {app: kiln, kubectl-backup.io/filling: x}, annotations: {team.example.org/owner: potters}}
spec: {storageClassName: premium, accessModes: [ReadWriteOnce], resources: {requests: {storage: 12Mi}}}
`, "$NS", ns)
	// Whoever does not know of it is told, and nothing is written.
	before := dst.states(ns)
	for _, mode := range []string{restore.DryRunClient, restore.DryRunNone} {
		r.DryRun = mode
		_, err := restore.Run(t.Context(), r)
		require.ErrorContains(t, err, "a restore of backup x was interrupted")
		require.ErrorContains(t, err, "--resume")
	}
	require.Equal(t, before, dst.states(ns))
	r.Resume = true
	complete(t, r)
	require.Equal(t, "terracotta", dst.shell(ns, "kiln-0", "cat /clay/deep/pot.txt"))
	require.Equal(t, map[string]any{"app": "kiln"}, field(dst.must("v1", "PersistentVolumeClaim", ns, "clay-kiln-0"), "metadata", "labels"))
}

func TestRestoreWithoutDataStartsNothing(t *testing.T) {
	t.Parallel()
	dst := restorePlace(t, "dst")
	ns := word(t, "crock")
	b := newBackup(t).addYAML(kiln, "$NS", ns)
	b.addVolume(v1alpha1.VolumeLine{Ref: v1alpha1.Ref{Version: "v1", Kind: "PersistentVolumeClaim", Namespace: ns, Name: "clay-kiln-0"},
		VolumeKind: "persistentVolumeClaim"}, map[string]string{"deep/pot.txt": "terracotta"})
	r := b.request(dst)
	r.StorageClasses = map[string]string{"basalt": "archive"}
	r.Filter = func(o *object.Object) (bool, error) { return o.Ref.Name != "glaze", nil }
	r.Image = "localhost/busybox:dev" // has no mover in it
	dst.removeNamespace(ns)
	d := run(t, r)
	require.Equal(t, 3, d.ExitCode)
	require.Equal(t, v1alpha1.OutcomeFailed, d.Volumes[0].Outcome)
	set := line(t, d, "StatefulSet", "kiln")
	require.Equal(t, v1alpha1.OutcomeFailed, set.Outcome)
	require.Contains(t, set.Reason, "clay-kiln-0")
	_, err := dst.get("apps/v1", "StatefulSet", ns, "kiln")
	require.True(t, apierrors.IsNotFound(err), "%v", err)
	require.Empty(t, dst.pods(ns))
	dst.eventually(func() (bool, string) {
		_, err := dst.get("v1", "PersistentVolumeClaim", ns, "clay-kiln-0")
		return apierrors.IsNotFound(err), fmt.Sprint(err)
	})
}

func TestRestoreUnderQuota(t *testing.T) {
	t.Parallel()
	src, dst := restorePlace(t, "src"), restorePlace(t, "dst")
	ns := word(t, "cap")
	src.apply(`
apiVersion: v1
kind: Namespace
metadata: {name: $NS}
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: cap, namespace: $NS}
spec: {hard: {pods: "2", count/replicasets.apps: "1", count/configmaps: "6"}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: press, namespace: $NS}
spec:
  replicas: 4
  selector: {matchLabels: {app: press}}
  template:
    metadata: {labels: {app: press}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: "localhost/busybox:dev", imagePullPolicy: IfNotPresent, command: [sleep, "3600"]}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: plate, namespace: $NS}
data: {k: v}
`, "$NS", ns)
	src.eventually(func() (bool, string) { n := len(src.pods(ns)); return n == 2, fmt.Sprint(n, " pods") })
	r := newBackup(t).addNamespace(src, ns).request(dst)
	dst.removeNamespace(ns)
	d := complete(t, r)
	left := 0
	for _, l := range d.Objects {
		if l.Ref.Kind == "Pod" || l.Ref.Kind == "ReplicaSet" {
			require.Equal(t, v1alpha1.OutcomeLeftToOwner, l.Outcome)
			left++
		}
	}
	require.GreaterOrEqual(t, left, 3, pretty(d))
	dst.must("v1", "ResourceQuota", ns, "cap")
	dst.must("v1", "ConfigMap", ns, "plate")
	dst.eventually(func() (bool, string) { n := len(dst.pods(ns)); return n == 2, fmt.Sprint(n, " pods") })
}

func TestRestoreTokenSecretAndAccounts(t *testing.T) {
	t.Parallel()
	dst := restorePlace(t, "dst")
	ns := word(t, "badge")
	r := newBackup(t).addYAML(`
apiVersion: v1
kind: Namespace
metadata: {name: $NS, uid: n1}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader, namespace: $NS, uid: a1}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: default, namespace: $NS, uid: a2, annotations: {role.example.org/arn: "17"}}
imagePullSecrets: [{name: registry}]
---
apiVersion: v1
kind: Secret
metadata:
  name: reader-key
  namespace: $NS
  uid: s1
  annotations:
    kubernetes.io/service-account.name: reader
    kubernetes.io/service-account.uid: 5d0c7a52-1c1e-4b0a-9e0f-0a1b2c3d4e5f
type: kubernetes.io/service-account-token
data: {token: b2xkLWNsdXN0ZXItdG9rZW4=, namespace: bGVkZ2Vy}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: parent, namespace: $NS, uid: c1}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: child
  namespace: $NS
  uid: c2
  ownerReferences:
  - {apiVersion: v1, kind: ConfigMap, name: parent, uid: c1}
  - {apiVersion: v1, kind: ConfigMap, name: stranger, uid: c9}
---
apiVersion: v1
kind: Pod
metadata:
  name: orphan-x
  namespace: $NS
  uid: p1
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: gone, uid: rs-gone, controller: true}]
spec:
  nodeName: node-gone-3
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: localhost/busybox:dev
    imagePullPolicy: IfNotPresent
    command: [sleep, "3600"]
    volumeMounts: [{name: kube-api-access-x7k2p, mountPath: /var/run/secrets/kubernetes.io/serviceaccount}]
  volumes: [{name: kube-api-access-x7k2p, projected: {sources: [{serviceAccountToken: {path: token}}]}}]
status: {phase: Running}
`, "$NS", ns).request(dst)
	r.Timeout = time.Minute
	dst.removeNamespace(ns)
	d := complete(t, r)
	require.Contains(t, strings.Join(line(t, d, "Secret", "reader-key").Warnings, ";"), "token reissued")
	account := dst.must("v1", "ServiceAccount", ns, "reader")
	dst.eventually(func() (bool, string) {
		secret := dst.must("v1", "Secret", ns, "reader-key")
		token, _ := field(secret, "data", "token").(string)
		text, _ := base64.StdEncoding.DecodeString(token)
		return strings.Count(string(text), ".") == 2 &&
			field(secret, "metadata", "annotations", "kubernetes.io/service-account.uid") == field(account, "metadata", "uid"), fmt.Sprint(secret)
	})
	own := dst.must("v1", "ServiceAccount", ns, "default")
	require.Equal(t, "17", field(own, "metadata", "annotations", "role.example.org/arn"))
	require.Equal(t, "registry", field(own, "imagePullSecrets", "0", "name"))
	child := dst.must("v1", "ConfigMap", ns, "child")
	require.Len(t, field(child, "metadata", "ownerReferences"), 1)
	require.Equal(t, field(dst.must("v1", "ConfigMap", ns, "parent"), "metadata", "uid"), field(child, "metadata", "ownerReferences", "0", "uid"))
	pod := dst.must("v1", "Pod", ns, "orphan-x")
	require.Nil(t, field(pod, "metadata", "ownerReferences"))
	require.Equal(t, v1alpha1.OutcomeRestored, line(t, d, "Pod", "orphan-x").Outcome)
}

func TestRestoreCancelledLeavesNoPods(t *testing.T) {
	t.Parallel()
	dst := restorePlace(t, "dst")
	ns := word(t, "halt")
	b := newBackup(t).addYAML(kiln, "$NS", ns)
	b.addVolume(v1alpha1.VolumeLine{Ref: v1alpha1.Ref{Version: "v1", Kind: "PersistentVolumeClaim", Namespace: ns, Name: "clay-kiln-0"},
		VolumeKind: "persistentVolumeClaim"}, map[string]string{"a": strings.Repeat("a", 4<<20)})
	r := b.request(dst)
	r.StorageClasses = map[string]string{"basalt": "archive"}
	dst.removeNamespace(ns)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	r.Progress = func(string, int64) (func(int64), func(error)) {
		cancel() // as the first volume begins to travel
		return func(int64) {}, func(error) {}
	}
	_, err := restore.Run(ctx, r)
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, dst.pods(ns))
	_, err = dst.get("apps/v1", "StatefulSet", ns, "kiln")
	require.True(t, apierrors.IsNotFound(err), "%v", err)
}
