package e2e

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// A person who asks what changed since a backup gets exactly that: what was
// edited, what is gone, and nothing that is the same in other words.
func TestDiff(t *testing.T) {
	t.Parallel()
	ns := namespace(t, "quarry")
	remote, _ := local(t)
	apply(t, "src", strings.ReplaceAll(`
apiVersion: v1
kind: ConfigMap
metadata: {name: blasts, namespace: $NS}
data: {at: "noon", by: "hand"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: carts, namespace: $NS}
data: {count: "7"}
---
apiVersion: v1
kind: Secret
metadata: {name: key, namespace: $NS}
stringData: {vault: opensesame, spare: underthemat}
---
apiVersion: v1
kind: Service
metadata: {name: gate, namespace: $NS}
spec: {selector: {app: gate}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: crusher, namespace: $NS}
spec:
  replicas: 0
  selector: {matchLabels: {app: crusher}}
  template:
    metadata: {labels: {app: crusher}}
    spec: {containers: [{name: c, image: "localhost/busybox:dev", resources: {requests: {cpu: "0.5"}}, env: [{name: A, value: "1"}]}]}
`, "$NS", ns))
	file := spec(t, policy("  select: [{namespaces: ["+ns+"], kinds: [ConfigMap, Secret, Service, Deployment]}]\n"), remote)
	r := backup(t, "run", "-f", file)
	require.Equal(t, 0, r.code, r.stderr)

	same := backup(t, "diff", "latest", "-f", file)
	require.Equal(t, 0, same.code, same.stdout+same.stderr)
	require.Empty(t, same.stdout)

	kubectl(t, "src", "-n", ns, "patch", "configmap", "blasts", "--type=merge", "-p", `{"data":{"at":"dusk","more":"yes"}}`)
	kubectl(t, "src", "-n", ns, "delete", "configmap", "carts")
	kubectl(t, "src", "-n", ns, "patch", "secret", "key", "--type=merge", "-p", `{"stringData":{"vault":"changedit"}}`)
	kubectl(t, "src", "-n", ns, "patch", "deployment", "crusher", "-p",
		`{"spec":{"template":{"spec":{"containers":[{"name":"c","env":[{"name":"B","value":"2"}]}]}}}}`)

	different := backup(t, "diff", "latest", "-f", file)
	require.Equal(t, 1, different.code, different.stdout+different.stderr)
	for _, want := range []string{"-  at: dusk", "+  at: noon", "-  more: \"yes\"", "+  count: \"7\"", "name: B", "ConfigMap " + ns + "/carts", "vault: +"} {
		require.Contains(t, different.stdout, want)
	}
	for _, never := range []string{"opensesame", "changedit", "underthemat", "b3BlbnNlc2FtZQ", "Y2hhbmdlZGl0", "dW5kZXJ0aGVtYXQ", "Service " + ns, "resourceVersion", "uid"} {
		require.NotContains(t, different.stdout, never)
	}

	d, _ := document(t, "diff", "latest", "-f", file)
	require.Equal(t, "DiffReport", d.Kind)
	require.Equal(t, v1alpha1.OutcomeConflict, objectLine(t, d, "ConfigMap", ns, "blasts").Outcome)
	require.Contains(t, objectLine(t, d, "ConfigMap", ns, "blasts").Reason, "data.at")
	require.Equal(t, v1alpha1.OutcomeCreate, objectLine(t, d, "ConfigMap", ns, "carts").Outcome)
	require.Equal(t, v1alpha1.OutcomeUnchanged, objectLine(t, d, "Service", ns, "gate").Outcome)

	// Into a namespace that is not there everything would be new, and the
	// namespace's name is no difference.
	copied := backup(t, "diff", "latest", "-f", file, "--map-namespace", ns+"="+ns+"-copy", "--kinds", "Service")
	require.Equal(t, 1, copied.code, copied.stderr)
	require.Contains(t, copied.stdout, "+  namespace: "+ns+"-copy")

	// A claim that is gone, and whose class is not where one compares with, is a
	// difference like any other: nothing is needed to put its data in place.
	apply(t, "src", claim(ns, "carts", "slow"))
	bound(t, ns, "carts")
	file = spec(t, policy("  select: [{namespaces: ["+ns+"], kinds: [PersistentVolumeClaim]}]\n"), remote)
	r = backup(t, "run", "-f", file)
	require.Equal(t, 0, r.code, r.stderr)
	kubectl(t, "src", "-n", ns, "delete", "pvc", "carts")
	for _, context := range []string{"src", "dst"} {
		gone := without(t, "diff", "latest", "-f", file, "--to-context", context)
		require.Equal(t, 1, gone.code, "%s: %s", context, gone.stderr)
		require.Contains(t, gone.stdout, "PersistentVolumeClaim "+ns+"/carts")
	}

	unknown := backup(t, "diff", "20200101-000000-0000", "-f", file)
	require.Greater(t, unknown.code, 1, "an error must not look like a difference")
}
