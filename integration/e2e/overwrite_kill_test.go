package e2e

import (
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const archive = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: books, namespace: $NS, labels: {kept: "yes"}}
spec: {storageClassName: fast, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: reader, namespace: $NS}
spec:
  replicas: 2
  selector: {matchLabels: {app: reader}}
  template:
    metadata: {labels: {app: reader}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: "localhost/busybox:dev", imagePullPolicy: IfNotPresent, command: [sh, -c, "exec sleep 36000"], volumeMounts: [{name: v, mountPath: /v}]}]
      volumes: [{name: v, persistentVolumeClaim: {claimName: books}}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: keeper, namespace: $NS}
spec:
  serviceName: keeper
  replicas: 1
  selector: {matchLabels: {app: keeper}}
  template:
    metadata: {labels: {app: keeper}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: "localhost/busybox:dev", imagePullPolicy: IfNotPresent, command: [sh, -c, "exec sleep 36000"], volumeMounts: [{name: shelf, mountPath: /v}]}]
  volumeClaimTemplates:
  - metadata: {name: shelf}
    spec: {storageClassName: fast, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
`

// A restore over volumes in use that is killed at any moment, and resumed,
// ends as one that nothing disturbed: the data is the backup's, whole, who used
// it is back with all replicas, and nothing of ours is left.
func TestOverwriteKilledAtAnyMoment(t *testing.T) {
	src := restorePlace(t, "src")
	ns := namespace(t, "archive")
	apply(t, "src", strings.ReplaceAll(archive, "$NS", ns))
	ready(t, "src", ns, "deployment/reader", "statefulset/keeper")
	folders := map[string]string{}
	for _, name := range []string{"books", "shelf-keeper-0"} {
		folders[name] = folder(t, "src", ns, name)
		fillRandom(t, filepath.Join(folders[name], "first"), 6<<20)
		require.NoError(t, os.Mkdir(filepath.Join(folders[name], "deep"), 0o750))
		fillRandom(t, filepath.Join(folders[name], "deep", "second"), 1<<20)
	}
	remote, _ := local(t)
	f := spec(t, policy("  select: [{namespaces: ["+ns+"], kinds: [Deployment, StatefulSet, PersistentVolumeClaim]}]\n"), remote)
	_, r := document(t, "run", "-f", f)
	require.Equal(t, 0, r.code, r.stderr)
	want := map[string]string{}
	for name, dir := range folders {
		want[name] = checksums(t, dir)
	}
	kinds := map[string]string{"Deployment reader": "apps/v1", "StatefulSet keeper": "apps/v1", "PersistentVolumeClaim books": "v1", "PersistentVolumeClaim shelf-keeper-0": "v1"}
	owners := func() map[string]string {
		out := map[string]string{}
		for what, version := range kinds {
			kind, name, _ := strings.Cut(what, " ")
			out[what] = ownersOf(t, src.must(version, kind, ns, name))
		}
		return out
	}
	before := owners()
	spoil := func() {
		for _, dir := range folders {
			fillRandom(t, filepath.Join(dir, "first"), 3<<20)
			fillRandom(t, filepath.Join(dir, "extra"), 1<<20)
			require.NoError(t, os.RemoveAll(filepath.Join(dir, "deep")))
		}
	}
	whole := func(said string) {
		t.Helper()
		ready(t, "src", ns, "deployment/reader", "statefulset/keeper")
		for name, dir := range folders {
			require.Equal(t, want[name], checksums(t, dir), "%s: %s", name, said)
		}
		require.EqualValues(t, 2, field(src.must("apps/v1", "Deployment", ns, "reader"), "spec", "replicas"), said)
		require.EqualValues(t, 1, field(src.must("apps/v1", "StatefulSet", ns, "keeper"), "spec", "replicas"), said)
		require.Equal(t, before, owners(), said)
		for what, version := range kinds {
			kind, name, _ := strings.Cut(what, " ")
			require.NotContains(t, fmt.Sprint(field(src.must(version, kind, ns, name), "metadata", "labels")), "kubectl-backup.io", "%s: %s", what, said)
		}
		require.Empty(t, kubectl(t, "src", "-n", ns, "get", "pods,jobs,secrets", "-l", kube.LabelTemporary, "-o", "name"), said)
	}
	args := []string{"restore", "latest", "-f", f, "--overwrite-volumes", "-o", "json"}

	spoil()
	began := time.Now()
	_, r = document(t, args[:len(args)-2]...)
	lasted := time.Since(began)
	require.Equal(t, 0, r.code, r.stdout+r.stderr)
	whole("undisturbed")

	kills, killed := rounds(6, 30), 0
	for n := range kills {
		spoil()
		p := start(t, args...)
		moment := time.Duration((float64(n) + mathrand.Float64()) / float64(kills) * float64(lasted))
		select {
		case <-p.ended:
		case <-time.After(moment):
			require.NoError(t, p.Process.Kill())
			killed++
		}
		<-p.ended
		left := kubectl(t, "src", "-n", ns, "get", "pvc,deployments,statefulsets", "--show-labels", "--no-headers")
		r := backup(t, append(args, "--resume")...)
		said := fmt.Sprintf("killed after %s of %s, which left\n%s\n%s\n%s", moment, lasted, left, r.stderr, r.stdout)
		var d v1alpha1.Document
		require.NoError(t, json.Unmarshal([]byte(r.stdout), &d), said)
		require.Equal(t, 0, r.code, said)
		whole(said)
		t.Logf("killed after %s of %s", moment.Round(time.Millisecond), lasted.Round(time.Millisecond))
	}
	require.Greater(t, killed, kills/2, "most restores ended before they were killed")
}
