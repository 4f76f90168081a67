package e2e

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/restore"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// What belongs to something that is made after it is given that owner in the
// end: a claim, which is filled first, and a Secret of the Deployment that
// mounts it. Who owns which field stays what it was.
const ownedBeforehand = `apiVersion: v1
kind: Namespace
metadata: {name: $NS}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: press, namespace: $NS, uid: d1}
spec:
  replicas: 0
  selector: {matchLabels: {app: press}}
  template:
    metadata: {labels: {app: press}}
    spec:
      containers: [{name: c, image: localhost/busybox:dev}]
      volumes:
      - {name: ink, secret: {secretName: ink}}
      - {name: filled, persistentVolumeClaim: {claimName: filled}}
      - {name: empty, persistentVolumeClaim: {claimName: empty}}
---
apiVersion: v1
kind: Secret
metadata:
  name: ink
  namespace: $NS
  uid: s1
  ownerReferences: [{apiVersion: apps/v1beta2, kind: Deployment, name: press, uid: d1, blockOwnerDeletion: true}, {apiVersion: v1, kind: ConfigMap, name: gone, uid: c9}]
  managedFields:
  - {manager: printer, operation: Update, apiVersion: v1, fieldsType: FieldsV1, fieldsV1: {"f:data": {"f:colour": {}}, "f:metadata": {"f:ownerReferences": {".": {}, 'k:{"uid":"d1"}': {}}}}}
data: {colour: cmVk}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: filled, namespace: $NS, uid: p1, ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: press, uid: d1, controller: true}]}
spec: {storageClassName: archive, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: empty, namespace: $NS, uid: p2, ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: press, uid: d1}]}
spec: {storageClassName: archive, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
`

func TestOwnersThatComeLater(t *testing.T) {
	t.Parallel()
	dst := restorePlace(t, "dst")
	ns := word(t, "owned")
	b := newBackup(t).addYAML(ownedBeforehand, "$NS", ns)
	b.addVolume(v1alpha1.VolumeLine{Ref: v1alpha1.Ref{Version: "v1", Kind: "PersistentVolumeClaim", Namespace: ns, Name: "filled"}, VolumeKind: "persistentVolumeClaim"},
		map[string]string{"page": "one"})
	r := b.request(dst)
	dst.removeNamespace(ns)

	r.DryRun = restore.DryRunServer
	warned := func(d *v1alpha1.Document, kind, name string) string {
		return strings.Join(line(t, d, kind, name).Warnings, "; ")
	}
	d := run(t, r)
	require.NotContains(t, warned(d, "Secret", "ink")+warned(d, "PersistentVolumeClaim", "filled"), "Deployment press is not restored")

	r.DryRun = restore.DryRunNone
	d = complete(t, r)
	uid := field(dst.must("apps/v1", "Deployment", ns, "press"), "metadata", "uid")
	for name, kind := range map[string]string{"ink": "Secret", "filled": "PersistentVolumeClaim", "empty": "PersistentVolumeClaim"} {
		o := dst.must("v1", kind, ns, name)
		require.Len(t, field(o, "metadata", "ownerReferences"), 1, name)
		require.Equal(t, uid, field(o, "metadata", "ownerReferences", "0", "uid"), name)
		require.Equal(t, "apps/v1", field(o, "metadata", "ownerReferences", "0", "apiVersion"), "a version that is served")
		require.NotContains(t, warned(d, kind, name), "press")
		for who := range owners(t, dst, kind, ns, name) {
			require.NotContains(t, who, "kubectl-backup", name)
		}
	}
	require.Contains(t, warned(d, "Secret", "ink"), "its owner ConfigMap gone is not restored")
	require.Equal(t, 1, strings.Count(warned(d, "Secret", "ink"), "gone"), "said once")
	require.Equal(t, true, field(dst.must("v1", "PersistentVolumeClaim", ns, "filled"), "metadata", "ownerReferences", "0", "controller"))

	// A second restore finds all as it should be, also one that is to finish.
	for _, resume := range []bool{false, true} {
		r.Resume = resume
		r.OnConflict = restore.ConflictSkip
		d = run(t, r)
		require.Equal(t, v1alpha1.OutcomeUnchanged, line(t, d, "Secret", "ink").Outcome)
	}
	// What an ended restore had not come to is done by whoever resumes it.
	kubectl(t, "dst", "-n", ns, "patch", "secret", "ink", "--type=merge", "-p", `{"metadata":{"ownerReferences":null}}`)
	r.Resume = true
	run(t, r)
	require.Equal(t, uid, field(dst.must("v1", "Secret", ns, "ink"), "metadata", "ownerReferences", "0", "uid"))
}

// That a status is not restored is said of every custom resource, whether or not
// its definition comes along; that of Kubernetes' own kinds never is restored.
func TestStatusWithoutItsDefinition(t *testing.T) {
	t.Parallel()
	dst := restorePlace(t, "dst")
	ns, group := word(t, "bog"), word(t, "bog")+".example.org"
	dst.apply(moorCRD, "$GROUP", group, "$SUB", "{status: {}}")
	b := newBackup(t).addYAML(`apiVersion: v1
kind: Namespace
metadata: {name: $NS}
---
apiVersion: $GROUP/v1
kind: AMoor
metadata: {name: wet, namespace: $NS}
spec: {depth: 3}
status: {lease: L-17}
---
apiVersion: v1
kind: Service
metadata: {name: gate, namespace: $NS}
spec: {type: LoadBalancer, selector: {app: gate}, ports: [{port: 80}]}
status: {loadBalancer: {ingress: [{ip: 192.0.2.7}]}}
`, "$NS", ns, "$GROUP", group)
	r := b.request(dst)
	dst.removeNamespace(ns)
	dst.kind(group+"/v1", "AMoor")
	for _, asked := range []bool{false, true} {
		r.RestoreStatus = asked
		d := run(t, r)
		require.Equal(t, !asked, strings.Contains(strings.Join(d.Warnings, "\n"), "the status of 1 AMoor."+group+" is not restored"), "%v", d.Warnings)
		require.NotContains(t, strings.Join(d.Warnings, "\n"), "Service")
		require.NotEqual(t, "192.0.2.7", field(dst.must("v1", "Service", ns, "gate"), "status", "loadBalancer", "ingress", "0", "ip"))
		if asked {
			require.Equal(t, "L-17", field(dst.must(group+"/v1", "AMoor", ns, "wet"), "status", "lease"))
			break
		}
		k := dst.kind("v1", "Namespace")
		require.NoError(t, dst.Delete(t.Context(), k, "", ns, kube.DeleteOptions{}))
		dst.eventually(func() (bool, string) {
			_, err := dst.get("v1", "Namespace", "", ns)
			return apierrors.IsNotFound(err), ""
		})
	}
}

// The token of an account that is not there would be created, and deleted by the
// cluster a moment later.
func TestTokenWithoutItsAccount(t *testing.T) {
	t.Parallel()
	dst := restorePlace(t, "dst")
	ns := word(t, "token")
	b := newBackup(t).addYAML(`apiVersion: v1
kind: Namespace
metadata: {name: $NS}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader, namespace: $NS}
---
apiVersion: v1
kind: Secret
metadata: {name: reader-key, namespace: $NS, annotations: {kubernetes.io/service-account.name: reader}}
type: kubernetes.io/service-account-token
---
apiVersion: v1
kind: Secret
metadata: {name: plain, namespace: $NS, annotations: {kubernetes.io/service-account.name: reader}}
type: Opaque
`, "$NS", ns)
	r := b.request(dst)
	dst.removeNamespace(ns)
	r.Filter = func(o *object.Object) (bool, error) { return o.Ref.Kind != "ServiceAccount", nil }
	for _, mode := range []string{restore.DryRunClient, restore.DryRunNone} {
		r.DryRun = mode
		d := run(t, r)
		require.Equal(t, 3, d.ExitCode)
		require.Equal(t, v1alpha1.OutcomeFailed, line(t, d, "Secret", "reader-key").Outcome)
		require.Contains(t, line(t, d, "Secret", "reader-key").Reason, "ServiceAccount "+ns+"/reader is not in the target")
		require.NotEqual(t, v1alpha1.OutcomeFailed, line(t, d, "Secret", "plain").Outcome)
	}
	dst.must("v1", "Secret", ns, "plain")
	// With the account it is there, and stays.
	r.Filter = nil
	complete(t, r)
	dst.eventually(func() (bool, string) {
		token, _ := field(dst.must("v1", "Secret", ns, "reader-key"), "data", "token").(string)
		return token != "", "no token yet"
	})
}
