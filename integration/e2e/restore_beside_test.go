package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/restore"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// A copy gets no rights that its original did not have: where the target binds
// another role by the name of a binding, nobody is added to it. And an existing
// binding is changed only where the request lets something be changed.
func TestCopyIsBoundToNoOtherRole(t *testing.T) {
	dst := restorePlace(t, "dst")
	ns, own := word(t, "guild"), word(t, "guild")
	binding := `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: $OWN-$N}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: $ROLE}
subjects: [{kind: ServiceAccount, name: clerk, namespace: $NS}]
`
	b := newBackup(t).addYAML("apiVersion: v1\nkind: Namespace\nmetadata: {name: $NS, uid: n1}\n---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: clerk, namespace: $NS, uid: a1}", "$NS", ns)
	for n, role := range []string{"cluster-admin", "view"} {
		dst.apply(binding, "$OWN", own, "$NS", ns, "$N", fmt.Sprint(n), "$ROLE", role)
		b.addYAML(binding, "$OWN", own, "$NS", ns, "$N", fmt.Sprint(n), "$ROLE", "view")
	}
	subjects := func(n int) any {
		return field(dst.must("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "", fmt.Sprint(own, "-", n)), "subjects")
	}
	before := subjects(0)
	r := b.request(dst)
	r.Namespaces = map[string]string{ns: ns + "-copy"}
	dst.removeNamespace(ns + "-copy")
	for _, x := range []struct {
		on   restore.OnConflict
		want [2]v1alpha1.Outcome
	}{
		{restore.ConflictSkip, [2]v1alpha1.Outcome{v1alpha1.OutcomeSkipped, v1alpha1.OutcomeSkipped}},
		{restore.ConflictReport, [2]v1alpha1.Outcome{v1alpha1.OutcomeConflict, v1alpha1.OutcomeApply}},
		{restore.ConflictApply, [2]v1alpha1.Outcome{v1alpha1.OutcomeFailed, v1alpha1.OutcomeApply}},
	} {
		on := x.on
		r.OnConflict, r.DryRun = on, restore.DryRunServer
		plan := run(t, r)
		for n, outcome := range x.want {
			require.Equal(t, outcome, line(t, plan, "ClusterRoleBinding", fmt.Sprint(own, "-", n)).Outcome, "%s: %s", on, pretty(plan))
		}
		require.Contains(t, line(t, plan, "ClusterRoleBinding", own+"-0").Reason, "roleRef", "%s", on)
		if on == restore.ConflictReport {
			continue
		}
		r.DryRun = restore.DryRunNone
		d := run(t, r)
		require.Equal(t, before, subjects(0), "%s: %s", on, pretty(d))
	}
	require.Len(t, subjects(1), 2)
	r.OnConflict = restore.ConflictFail
	_, err := restore.Run(t.Context(), r)
	require.ErrorContains(t, err, own+"-0")
}

// A copy beside an original on a volume made by hand, whose data is not in the
// backup: the copy gets a volume of its own, or the run stops and asks for a
// class. Never does it wait for the original's.
func TestCopyBesideAVolumeWithoutData(t *testing.T) {
	dst := restorePlace(t, "dst")
	ns, disk := word(t, "ledger"), word(t, "disk")
	text := `
apiVersion: v1
kind: PersistentVolume
metadata: {name: $DISK$UID}
spec:
  capacity: {storage: 2Mi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: ""
  claimRef: {kind: PersistentVolumeClaim, apiVersion: v1, name: books, namespace: $NS}
  csi: {driver: disk.example.org, volumeHandle: $DISK}
---
` + claimOfDisk
	dst.apply(text, "$NS", ns, "$DISK", disk, "$UID", "")
	dst.awaitPhase(disk, "Bound")
	volume := dst.must("v1", "PersistentVolume", "", disk)
	r := newBackup(t).addYAML(text, "$NS", ns, "$DISK", disk, "$UID", ", uid: pv1").request(dst)
	r.Namespaces = map[string]string{ns: ns + "-copy"}
	_, err := restore.Run(t.Context(), r)
	require.ErrorContains(t, err, "PersistentVolumeClaim "+ns+"-copy/books")
	require.ErrorContains(t, err, "storageClassName")
	_, err = dst.get("v1", "Namespace", "", ns+"-copy")
	require.True(t, apierrors.IsNotFound(err), "it was begun: %v", err)

	r.Rewrite = rewriteSet(t, "apiVersion: kubectl-backup.io/v1alpha1\nkind: RewriteSet\nmetadata: {name: class}\nspec:\n  rules: [{name: class, match: {kinds: [PersistentVolumeClaim]}, set: [{path: spec.storageClassName, value: premium}]}]\n")
	dst.removeNamespace(ns + "-copy")
	r.DryRun = restore.DryRunServer
	plan := run(t, r)
	r.DryRun = restore.DryRunNone
	d := run(t, r)
	predicted(t, *plan, *d)
	require.Contains(t, strings.Join(line(t, d, "PersistentVolumeClaim", "books").Warnings, "\n"), "belongs to claim "+ns+"/books")
	require.Equal(t, v1alpha1.OutcomeSkipped, line(t, d, "PersistentVolume", disk).Outcome)
	require.NotEqual(t, disk, field(dst.must("v1", "PersistentVolumeClaim", ns+"-copy", "books"), "spec", "volumeName"))
	require.Equal(t, field(volume, "metadata", "resourceVersion"), field(dst.must("v1", "PersistentVolume", "", disk), "metadata", "resourceVersion"))
}

// What objects need by name and what will not be there is said beforehand,
// with the field that names it; what is there, comes along, or may lack is not.
func TestReferencesThatDangle(t *testing.T) {
	dst := restorePlace(t, "dst")
	ns := word(t, "quay")
	dst.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: $NS}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: there, namespace: $NS}", "$NS", ns)
	r := newBackup(t).addYAML(`
apiVersion: v1
kind: Secret
metadata: {name: along, namespace: $NS, uid: s1}
type: Opaque
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
      serviceAccountName: pressman
      priorityClassName: no-such-class
      containers:
      - name: c
        image: "localhost/busybox:dev"
        envFrom: [{configMapRef: {name: there}}, {configMapRef: {name: lacking}}, {configMapRef: {name: may-lack, optional: true}}]
        env: [{name: A, valueFrom: {secretKeyRef: {name: along, key: a}}}]
      volumes: [{name: v, persistentVolumeClaim: {claimName: lost}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reads, namespace: $NS, uid: b1}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: gone}
subjects: [{kind: ServiceAccount, name: default, namespace: $NS}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: views, namespace: $NS, uid: b2}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{kind: ServiceAccount, name: default, namespace: $NS}]
`, "$NS", ns).request(dst)
	for to, namespaces := range map[string]map[string]string{ns: nil, ns + "-new": {ns: ns + "-new"}} {
		r.Namespaces, r.DryRun = namespaces, restore.DryRunClient
		d := run(t, r)
		said := map[string]string{}
		for _, l := range d.Objects {
			said[l.Ref.Kind+" "+l.Ref.Name] = strings.Join(l.Warnings, "\n")
		}
		for what, words := range map[string][]string{
			"Deployment press": {"spec.template.spec.serviceAccountName names ServiceAccount " + to + "/pressman", "names PriorityClass.scheduling.k8s.io no-such-class",
				"names ConfigMap " + to + "/lacking", "claimName names PersistentVolumeClaim " + to + "/lost"},
			"RoleBinding reads": {"roleRef.name names Role.rbac.authorization.k8s.io " + to + "/gone"},
		} {
			for _, w := range words {
				require.Contains(t, said[what], w, what)
			}
		}
		for _, never := range []string{"may-lack", "/along", "ClusterRole", "default"} {
			for what, warnings := range said {
				require.NotContains(t, warnings, never, what)
			}
		}
		require.Equal(t, namespaces != nil, strings.Contains(said["Deployment press"], "/there"), "it is in the old namespace only")
	}
}

// A webhook that nobody answers for is waited for once, and not for each of the
// objects that it looks at.
func TestDeadWebhookIsWaitedForOnce(t *testing.T) {
	dst := restorePlace(t, "dst")
	ns, own := word(t, "quill"), word(t, "quill-rules")
	dst.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: $NS}", "$NS", ns)
	dst.apply(`
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: $OWN}
webhooks:
- name: rules.quill.example.org
  failurePolicy: Fail
  sideEffects: None
  timeoutSeconds: 1
  admissionReviewVersions: [v1]
  clientConfig: {service: {namespace: $NS, name: nobody, path: /check}}
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: $NS}}
  rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]
`, "$NS", ns, "$OWN", own)
	dst.eventually(func() (bool, string) {
		_, err := dst.Create(t.Context(), dst.kind("v1", "ConfigMap"), ns, []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}`), kube.WriteOptions{DryRun: true})
		return err != nil, "the webhook does not refuse yet"
	})
	b := newBackup(t).addYAML("apiVersion: v1\nkind: Secret\nmetadata: {name: beside, namespace: $NS, uid: s1}\ntype: Opaque", "$NS", ns)
	const many = 200
	for n := range many {
		b.addYAML(fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m-%d, namespace: %s, uid: c%d}", n, ns, n))
	}
	r := b.request(dst)
	for _, mode := range []string{restore.DryRunServer, restore.DryRunNone} {
		r.DryRun = mode
		began := time.Now()
		d := run(t, r)
		require.Less(t, time.Since(began), 50*time.Second, mode)
		failed := 0
		for _, l := range d.Objects {
			if l.Outcome == v1alpha1.OutcomeFailed {
				require.Contains(t, l.Reason, "rules.quill.example.org")
				failed++
			}
		}
		require.Equal(t, many, failed, mode)
		require.Equal(t, 3, d.ExitCode)
	}
	dst.must("v1", "Secret", ns, "beside")
}

// Where the claim of a volume made by hand was deleted, and its volume kept, a
// restore in place gives it the same volume again, with what is in it.
func TestReleasedVolumeIsGivenBack(t *testing.T) {
	dst := restorePlace(t, "dst")
	ns, disk := word(t, "ledger"), word(t, "disk")
	dst.apply(`
apiVersion: v1
kind: PersistentVolume
metadata: {name: $DISK}
spec:
  capacity: {storage: 2Mi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: ""
  csi: {driver: disk.example.org, volumeHandle: $DISK}
---
`+claimOfDisk, "$NS", ns, "$DISK", disk)
	dst.awaitPhase(disk, "Bound")
	volume, err := dst.get("v1", "PersistentVolume", "", disk)
	require.NoError(t, err)
	r := newBackup(t).addNamespace(dst, ns).add(volume).request(dst)
	require.NoError(t, dst.Delete(t.Context(), dst.kind("v1", "PersistentVolumeClaim"), ns, "books", kube.DeleteOptions{}))
	dst.awaitPhase(disk, "Released")
	r.DryRun = restore.DryRunServer
	plan := run(t, r)
	require.Contains(t, line(t, plan, "PersistentVolumeClaim", "books").Reason, "would be free for it again")
	r.DryRun = restore.DryRunNone
	d := complete(t, r)
	predicted(t, *plan, *d)
	dst.awaitPhase(disk, "Bound")
	is := dst.must("v1", "PersistentVolume", "", disk)
	require.Equal(t, volume.UID, field(is, "metadata", "uid"))
	require.Equal(t, field(dst.must("v1", "PersistentVolumeClaim", ns, "books"), "metadata", "uid"), field(is, "spec", "claimRef", "uid"))
	for name := range managers(t, is) {
		require.NotContains(t, name, kube.FieldManager)
	}
}

// In the cluster that was backed up, what is brought back beside the owner that
// it had is that owner's again, and what its owner makes by itself is left to it.
func TestOwnersThatAreStillThere(t *testing.T) {
	ns := namespace(t, "guild")
	apply(t, "src", strings.ReplaceAll(`
apiVersion: v1
kind: ConfigMap
metadata: {name: master, namespace: $NS}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: hall, namespace: $NS}
spec:
  replicas: 1
  selector: {matchLabels: {app: hall}}
  template:
    metadata: {labels: {app: hall}}
    spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: "localhost/busybox:dev", command: [sleep, "36000"]}]}
`, "$NS", ns))
	ready(t, "src", ns, "deployment/hall")
	uid := kubectl(t, "src", "-n", ns, "get", "configmap", "master", "-o", "jsonpath={.metadata.uid}")
	apply(t, "src", "apiVersion: v1\nkind: Secret\nmetadata: {name: apprentice, namespace: "+ns+", ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: master, uid: "+uid+"}]}\nstringData: {a: b}\n")
	remote, _ := local(t)
	f := spec(t, policy("  select: [{namespaces: ["+ns+"]}]\n"), remote)
	_, r := document(t, "run", "-f", f)
	require.Equal(t, 0, r.code, r.stderr)
	kubectl(t, "src", "-n", ns, "delete", "secret", "apprentice")
	kubectl(t, "src", "-n", ns, "delete", "pods", "-l", "app=hall", "--wait=true")
	ready(t, "src", ns, "deployment/hall")

	d, r := document(t, "restore", "latest", "-f", f, "--kinds", "Secret,Pod")
	require.Equal(t, 0, r.code, "%s\n%s", r.stderr, outcomes(d))
	require.Equal(t, v1alpha1.OutcomeRestored, objectLine(t, d, "Secret", ns, "apprentice").Outcome)
	require.Equal(t, uid, kubectl(t, "src", "-n", ns, "get", "secret", "apprentice", "-o", "jsonpath={.metadata.ownerReferences[0].uid}"))
	for _, l := range d.Objects {
		if l.Ref.Kind == "Pod" {
			require.Equal(t, v1alpha1.OutcomeLeftToOwner, l.Outcome, l.Reason)
		}
	}
	// Beside it nothing is the original's.
	dropNamespace(t, "src", ns+"-copy")
	_, r = document(t, "restore", "latest", "-f", f, "--kinds", "Secret", "--map-namespace", ns+"="+ns+"-copy")
	require.Equal(t, 0, r.code, r.stderr)
	require.Empty(t, kubectl(t, "src", "-n", ns+"-copy", "get", "secret", "apprentice", "-o", "jsonpath={.metadata.ownerReferences}"))
}
