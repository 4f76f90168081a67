package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/restore"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const library = `
apiVersion: v1
kind: Namespace
metadata: {name: $NS}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: books, namespace: $NS, labels: {kept: "yes"}}
spec: {storageClassName: premium, accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: lent, namespace: $NS}
spec: {storageClassName: premium, accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: reader, namespace: $NS}
spec:
  replicas: 1
  selector: {matchLabels: {app: reader}}
  template:
    metadata: {labels: {app: reader}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: c, image: "localhost/busybox:dev", imagePullPolicy: IfNotPresent, command: [sh, -c, "sleep 36000"], volumeMounts: [{name: v, mountPath: /v}]}
      volumes: [{name: v, persistentVolumeClaim: {claimName: books}}]
---
apiVersion: v1
kind: Pod
metadata: {name: borrower, namespace: $NS}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: "localhost/busybox:dev", imagePullPolicy: IfNotPresent, command: [sh, -c, "sleep 36000"], volumeMounts: [{name: v, mountPath: /v}]}
  volumes: [{name: v, persistentVolumeClaim: {claimName: lent}}]
---
apiVersion: v1
kind: Pod
metadata: {name: printer, namespace: $NS}
spec:
  restartPolicy: Never
  containers:
  - {name: c, image: "localhost/busybox:dev", imagePullPolicy: IfNotPresent, command: ["true"], volumeMounts: [{name: v, mountPath: /v}]}
  volumes: [{name: v, persistentVolumeClaim: {claimName: books}}]
`

// What is in a claim that exists is replaced only where somebody said so, while
// nothing uses it, and wholly; a restore that is ended meanwhile leaves nobody
// on half of it.
func TestRestoreOverwritesVolumes(t *testing.T) {
	t.Parallel()
	dst := restorePlace(t, "dst")
	ns := word(t, "library")
	dst.apply(library, "$NS", ns)
	b := newBackup(t).addYAML(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: books, namespace: $NS, labels: {kept: "yes"}}
spec: {storageClassName: premium, volumeMode: Filesystem, accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: lent, namespace: $NS}
spec: {storageClassName: premium, volumeMode: Filesystem, accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
`, "$NS", ns)
	for _, name := range []string{"books", "lent"} {
		b.addVolume(v1alpha1.VolumeLine{Ref: v1alpha1.Ref{Version: "v1", Kind: "PersistentVolumeClaim", Namespace: ns, Name: name},
			VolumeKind: "persistentVolumeClaim"}, map[string]string{"2029.txt": "one", "deep/2030.txt": "two"})
	}
	reader := func() string {
		t.Helper()
		name := ""
		dst.eventually(func() (bool, string) {
			for _, p := range dst.pods(ns) {
				if p.Labels["app"] == "reader" && field(contentOf(t, p), "status", "phase") == "Running" {
					name = p.Ref.Name
				}
			}
			return name != "", "the reader does not run"
		})
		return name
	}
	files := func(pod string) string { return dst.shell(ns, pod, "cd /v && find . -type f | sort | xargs cat") }
	dst.shell(ns, reader(), "echo -n old > /v/2029.txt; echo -n extra > /v/extra")
	dst.eventually(func() (bool, string) {
		return field(dst.must("v1", "Pod", ns, "borrower"), "status", "phase") == "Running", "the borrower does not run"
	})
	dst.shell(ns, "borrower", "echo -n lent > /v/2029.txt")
	dst.eventually(func() (bool, string) {
		return field(dst.must("v1", "Pod", ns, "printer"), "status", "phase") == "Succeeded", "the printer has not ended"
	}) // it names the claim, and uses it no more
	owners := ownersOf(t, dst.must("apps/v1", "Deployment", ns, "reader"))

	r := b.request(dst)
	d := run(t, r)
	require.Equal(t, 3, d.ExitCode)
	require.Contains(t, volumeOf(t, *d, "books").Reason, "in use by pod reader-")
	require.Equal(t, "oldextra", files(reader()))

	r.OverwriteVolumes = true
	for _, mode := range []string{restore.DryRunClient, restore.DryRunServer} {
		r.DryRun = mode
		d = run(t, r)
		require.Equal(t, v1alpha1.OutcomeApply, volumeOf(t, *d, "books").Outcome, pretty(d))
		require.Contains(t, volumeOf(t, *d, "books").Reason, "Deployment reader would have no replicas")
		require.Equal(t, v1alpha1.OutcomeConflict, volumeOf(t, *d, "lent").Outcome)
	}
	require.Equal(t, "oldextra", files(reader()))

	// Ended as the bytes begin to travel.
	r.DryRun = restore.DryRunNone
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	r.Progress = func(string, int64) (func(int64), func(error)) {
		cancel()
		return func(int64) {}, func(error) {}
	}
	_, err := restore.Run(ctx, r)
	require.ErrorIs(t, err, context.Canceled)
	require.EqualValues(t, 0, field(dst.must("apps/v1", "Deployment", ns, "reader"), "spec", "replicas"), "it is on half of its data")
	r.Progress = nil
	r.OverwriteVolumes = false
	_, err = restore.Run(t.Context(), r)
	require.ErrorContains(t, err, "--resume")
	r.Resume = true
	d = run(t, r)
	require.Equal(t, v1alpha1.OutcomeRestored, volumeOf(t, *d, "books").Outcome, pretty(d))
	require.Equal(t, "onetwo", files(reader()))
	require.EqualValues(t, 1, field(dst.must("apps/v1", "Deployment", ns, "reader"), "spec", "replicas"))

	// Undisturbed.
	dst.shell(ns, reader(), "echo -n new > /v/2029.txt; echo -n extra > /v/extra")
	r.OverwriteVolumes, r.Resume = true, false
	d = run(t, r)
	require.Equal(t, v1alpha1.OutcomeRestored, volumeOf(t, *d, "books").Outcome, pretty(d))
	require.Equal(t, v1alpha1.OutcomeUnchanged, line(t, d, "PersistentVolumeClaim", "books").Outcome)
	require.Contains(t, volumeOf(t, *d, "lent").Reason, "borrower")
	require.Equal(t, "onetwo", files(reader()))
	require.Equal(t, "lent", dst.shell(ns, "borrower", "cat /v/2029.txt"))
	deployment := dst.must("apps/v1", "Deployment", ns, "reader")
	require.EqualValues(t, 1, field(deployment, "spec", "replicas"))
	require.Equal(t, owners, ownersOf(t, deployment), "who owns its replicas")
	require.Nil(t, field(deployment, "metadata", "labels"))
	require.Equal(t, map[string]any{"kept": "yes"}, field(dst.must("v1", "PersistentVolumeClaim", ns, "books"), "metadata", "labels"))
	for name := range managers(t, dst.must("v1", "PersistentVolumeClaim", ns, "books")) {
		require.NotContains(t, name, kube.FieldManager)
	}
}
