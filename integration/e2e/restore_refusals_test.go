package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/restore"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// A namespace that does not go is waited for once, and not for each object;
// what goes elsewhere is restored, and nobody's finalizer is touched.
func TestRestoreIntoANamespaceThatDoesNotGo(t *testing.T) {
	dst := restorePlace(t, "dst")
	stuck, free := word(t, "stuck"), word(t, "free")
	dst.removeNamespace(stuck)
	dst.removeNamespace(free)
	dst.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: $NS}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: anchor, namespace: $NS, finalizers: [hold.example.org/wait]}\ndata: {k: v}\n", "$NS", stuck)
	release := func() {
		tryKubectl(t, "dst", "", "-n", stuck, "patch", "configmap", "anchor", "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	}
	t.Cleanup(release)
	kubectl(t, "dst", "delete", "namespace", stuck, "--wait=false")
	dst.eventually(func() (bool, string) {
		ns := dst.must("v1", "Namespace", "", stuck)
		return strings.Contains(fmt.Sprint(field(ns, "status", "conditions")), "hold.example.org/wait"), fmt.Sprint(ns["status"])
	})
	b := newBackup(t).addYAML("apiVersion: v1\nkind: Namespace\nmetadata: {name: $NS, uid: n1}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: $FREE, uid: n2}", "$NS", stuck, "$FREE", free)
	for n := range 43 {
		ns := stuck
		if n >= 40 {
			ns = free
		}
		b.addYAML(fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m-%d, namespace: %s, uid: c%d}\ndata: {k: v}", n, ns, n))
	}
	r := b.request(dst)
	r.Timeout = 5 * time.Second
	r.DryRun = restore.DryRunServer
	plan := run(t, r)
	r.DryRun = restore.DryRunNone
	started := time.Now()
	d := run(t, r)
	require.Less(t, time.Since(started), 40*time.Second, "the wait is for each object")
	require.Equal(t, 3, d.ExitCode)
	predicted(t, *plan, *d)
	failed := 0
	for _, l := range d.Objects {
		if l.Ref.Namespace == stuck {
			require.Equal(t, v1alpha1.OutcomeFailed, l.Outcome, "%s", l.Ref)
			require.Contains(t, l.Reason, "namespace "+stuck+" is terminating")
			require.Contains(t, l.Reason, "hold.example.org/wait", "what holds it is not named")
			failed++
			continue
		}
		require.Equal(t, l.Ref.Name != stuck, l.Outcome == v1alpha1.OutcomeRestored, "%s: %s", l.Ref, l.Reason)
	}
	require.Equal(t, 40, failed)
	require.Equal(t, []any{"hold.example.org/wait"}, field(dst.must("v1", "ConfigMap", stuck, "anchor"), "metadata", "finalizers"))

	// One that goes while it is waited for is made anew.
	r.Timeout = time.Minute
	released := make(chan struct{})
	go func() {
		defer close(released)
		<-time.After(2 * time.Second)
		release()
	}()
	d = run(t, r)
	<-released
	require.Zero(t, d.ExitCode, pretty(d))
	dst.must("v1", "ConfigMap", stuck, "m-0")
}

// as is the place as somebody else sees it.
func (p *place) as(user string) *place {
	p.t.Helper()
	config := restConfig(p.t, p.Context())
	config.Impersonate.UserName = user
	c, err := kube.New(config, p.Context())
	require.NoError(p.t, err)
	return &place{p.t, c}
}

// Whoever may not write everything learns which verbs on which kinds are
// lacking, all of them, and finds that nothing was written.
func TestRestoreWithoutRights(t *testing.T) {
	dst := restorePlace(t, "dst")
	ns, user := word(t, "lock"), word(t, "guest")
	dst.apply(`
apiVersion: v1
kind: Namespace
metadata: {name: $NS}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: $USER}
rules: [{apiGroups: ["*"], resources: ["*"], verbs: [get, list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: $USER}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: $USER}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: $USER}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: writes, namespace: $NS}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [create, patch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: writes, namespace: $NS}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: writes}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: $USER}]
`, "$NS", ns, "$USER", user)
	dst.removeNamespace(ns)
	await(t, "the rights of "+user, func() (bool, error) {
		out, _ := tryKubectl(t, "dst", "", "--as", user, "-n", ns, "auth", "can-i", "create", "configmaps")
		return strings.TrimSpace(out) == "yes", nil
	})
	b := newBackup(t).addYAML(`
apiVersion: v1
kind: ConfigMap
metadata: {name: may, namespace: $NS, uid: c1}
data: {k: v}
---
apiVersion: v1
kind: Secret
metadata: {name: must-not, namespace: $NS, uid: s1}
type: Opaque
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: must-not, namespace: $NS, uid: d1}
spec: {replicas: 0, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: "localhost/busybox:dev"}]}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: $USER-more, uid: r1}
`, "$NS", ns, "$USER", user)
	r := b.request(dst.as(user))
	lacking := []string{"no right to create secrets in namespace " + ns, "no right to create deployments.apps in namespace " + ns,
		"no right to create clusterroles.rbac.authorization.k8s.io in the whole cluster", "kubectl create role NAME -n " + ns + " --verb=create --resource=secrets"}
	r.DryRun = restore.DryRunClient
	plan := run(t, r)
	for _, l := range lacking {
		require.Contains(t, strings.Join(plan.Warnings, "\n"), l)
	}
	r.DryRun = restore.DryRunNone
	_, err := restore.Run(t.Context(), r)
	for _, l := range lacking {
		require.ErrorContains(t, err, l)
	}
	require.NotContains(t, err.Error(), "configmaps")
	_, err = dst.get("v1", "ConfigMap", ns, "may")
	require.True(t, apierrors.IsNotFound(err), "it was written although the rest cannot be: %v", err)

	// What one has the rights for can be restored alone.
	r.Filter = func(o *object.Object) (bool, error) { return o.Ref.Kind == "ConfigMap", nil }
	complete(t, r)
	dst.must("v1", "ConfigMap", ns, "may")
}

// Into an empty place webhooks come after what they would refuse; where one is
// there already and nobody answers for it, what it refuses is named with it,
// the rest is restored, and it stays what it is.
func TestRestoreAroundWebhooks(t *testing.T) {
	dst := restorePlace(t, "dst")
	ns, own := word(t, "quill"), word(t, "quill-rules")
	archive := `
apiVersion: v1
kind: Namespace
metadata: {name: $NS, uid: n1}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: $OWN, uid: w1}
webhooks:
- name: rules.quill.example.org
  failurePolicy: Fail
  sideEffects: None
  timeoutSeconds: 2
  admissionReviewVersions: [v1]
  clientConfig: {service: {namespace: $NS, name: rules, path: /check}}
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: $NS}}
  rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [configmaps]}]
---
apiVersion: v1
kind: Service
metadata: {name: rules, namespace: $NS, uid: s1}
spec: {selector: {app: rules}, ports: [{port: 443, targetPort: 9443}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: $NS, uid: c1}
data: {level: "3"}
---
apiVersion: v1
kind: Secret
metadata: {name: beside, namespace: $NS, uid: c2}
type: Opaque
`
	b := newBackup(t).addYAML(archive, "$NS", ns, "$OWN", own)
	configurations := dst.kind("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration")
	dst.removeAfterwards(configurations, own)
	dst.removeNamespace(ns)
	r := b.request(dst)
	complete(t, r)
	for _, o := range [][2]string{{"Service", "rules"}, {"ConfigMap", "settings"}, {"Secret", "beside"}} {
		dst.must("v1", o[0], ns, o[1])
	}
	was := dst.must("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "", own)

	for _, k := range []string{"ConfigMap", "Secret"} {
		name := map[string]string{"ConfigMap": "settings", "Secret": "beside"}[k]
		require.NoError(t, dst.Delete(t.Context(), dst.kind("v1", k), ns, name, kube.DeleteOptions{}))
	}
	dst.eventually(func() (bool, string) {
		_, err := dst.Create(t.Context(), dst.kind("v1", "ConfigMap"), ns, []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","namespace":"`+ns+`"}}`), kube.WriteOptions{DryRun: true})
		return err != nil, "the webhook does not refuse yet"
	})
	r.DryRun = restore.DryRunServer
	plan := run(t, r)
	r.DryRun = restore.DryRunNone
	started := time.Now()
	d := run(t, r)
	require.Less(t, time.Since(started), 90*time.Second)
	predicted(t, *plan, *d)
	refused := line(t, d, "ConfigMap", "settings")
	require.Equal(t, v1alpha1.OutcomeFailed, refused.Outcome)
	require.Contains(t, refused.Reason, "rules.quill.example.org")
	require.Equal(t, v1alpha1.OutcomeRestored, line(t, d, "Secret", "beside").Outcome)
	require.Equal(t, 3, d.ExitCode)
	is := dst.must("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "", own)
	require.Equal(t, field(was, "metadata", "resourceVersion"), field(is, "metadata", "resourceVersion"))
}

// A pod that carries what admission puts into every pod is refused by the
// server, in its words, unless a rule takes it out; what its claim held comes
// back in either case.
func TestRestorePodsThatAdmissionChanged(t *testing.T) {
	dst := restorePlace(t, "dst")
	ns, own := word(t, "scribe"), word(t, "mesh")
	dst.apply(`
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: $OWN}
spec:
  failurePolicy: Fail
  reinvocationPolicy: Never
  matchConstraints:
    namespaceSelector: {matchLabels: {mesh: $OWN}}
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]
  matchConditions: [{name: ours, expression: "'app' in object.metadata.labels"}]
  mutations: [{patchType: JSONPatch, jsonPatch: {expression: "[JSONPatch{op: 'add', path: '/spec/containers/-', value: Object.spec.containers{name: 'mesh', image: 'localhost/busybox:dev', command: ['sleep', '100000']}}]"}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: $OWN}
spec: {policyName: $OWN}
`, "$OWN", own)
	b := newBackup(t).addYAML(`
apiVersion: v1
kind: Namespace
metadata: {name: $NS, uid: n1, labels: {mesh: $OWN}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: books, namespace: $NS, uid: v1}
spec: {storageClassName: premium, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: scribe, namespace: $NS, uid: p1, labels: {app: scribe}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: app, image: "localhost/busybox:dev", command: [sleep, "100000"], volumeMounts: [{name: books, mountPath: /books}]}
  - {name: mesh, image: "localhost/busybox:dev", command: [sleep, "100000"]}
  volumes: [{name: books, persistentVolumeClaim: {claimName: books}}]
`, "$NS", ns, "$OWN", own)
	b.addVolume(v1alpha1.VolumeLine{Ref: v1alpha1.Ref{Version: "v1", Kind: "PersistentVolumeClaim", Namespace: ns, Name: "books"},
		VolumeKind: "persistentVolumeClaim"}, map[string]string{"2029.txt": "kept"})
	pod := `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x","namespace":"` + ns + `","labels":{"app":"x"}},"spec":{"containers":[{"name":"mesh","image":"x"}]}}`
	dst.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: $NS, labels: {mesh: $OWN}}", "$NS", ns, "$OWN", own)
	dst.removeNamespace(ns)
	dst.eventually(func() (bool, string) {
		_, err := dst.Create(t.Context(), dst.kind("v1", "Pod"), ns, []byte(pod), kube.WriteOptions{DryRun: true})
		return apierrors.IsInvalid(err), fmt.Sprint(err)
	})
	r := b.request(dst)
	d := run(t, r)
	refused := line(t, d, "Pod", "scribe")
	require.Equal(t, v1alpha1.OutcomeFailed, refused.Outcome)
	require.Contains(t, refused.Reason, "Duplicate value", "the server's words are lost")
	require.Equal(t, v1alpha1.OutcomeRestored, d.Volumes[0].Outcome, "data hangs on a pod: %s", d.Volumes[0].Reason)

	r.Rewrite = rewriteSet(t, "apiVersion: kubectl-backup.io/v1alpha1\nkind: RewriteSet\nmetadata: {name: strip}\nspec:\n  rules: [{name: strip, match: {kinds: [Pod]}, remove: ['spec.containers[name=mesh]']}]\n")
	r.Filter = func(o *object.Object) (bool, error) { return o.Ref.Kind == "Pod", nil }
	complete(t, r)
	dst.eventually(func() (bool, string) {
		p := dst.must("v1", "Pod", ns, "scribe")
		return field(p, "status", "phase") == "Running", fmt.Sprint(p["status"])
	})
	require.Len(t, field(dst.must("v1", "Pod", ns, "scribe"), "spec", "containers"), 2)
	require.Equal(t, "kept", kubectl(t, "dst", "-n", ns, "exec", "scribe", "-c", "app", "--", "cat", "/books/2029.txt"))
}

// Names that one place allows and another does not: roles that differ in case
// alone, and claims whose long names begin alike.
func TestRestoreNamesOfEveryShape(t *testing.T) {
	dst := restorePlace(t, "dst")
	ns, own := word(t, "names"), word(t, "names")
	long := strings.Repeat("settlement-", 8) + "volume-000"
	b := newBackup(t).addYAML(`
apiVersion: v1
kind: Namespace
metadata: {name: $NS, uid: n1}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: "$OWN:Quill:Reader", uid: r1}
rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: "$OWN:quill:reader", uid: r2}
rules: [{apiGroups: [""], resources: [nodes], verbs: [list]}]
`, "$NS", ns, "$OWN", own)
	for n := range 2 {
		claim := fmt.Sprint(long, n)
		b.addYAML(fmt.Sprintf("apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: %s, namespace: %s, uid: v%d}\nspec: {storageClassName: premium, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}", claim, ns, n))
		b.addVolume(v1alpha1.VolumeLine{Ref: v1alpha1.Ref{Version: "v1", Kind: "PersistentVolumeClaim", Namespace: ns, Name: claim},
			VolumeKind: "persistentVolumeClaim"}, map[string]string{"which": fmt.Sprint(n)})
	}
	roles := dst.kind("rbac.authorization.k8s.io/v1", "ClusterRole")
	for _, name := range []string{":Quill:Reader", ":quill:reader"} {
		dst.removeAfterwards(roles, own+name)
	}
	dst.removeNamespace(ns)
	d := complete(t, b.request(dst))
	for _, v := range d.Volumes {
		require.Equal(t, v1alpha1.OutcomeRestored, v.Outcome, v.Reason)
	}
	for name, resource := range map[string]string{":Quill:Reader": "pods", ":quill:reader": "nodes"} {
		role := dst.must("rbac.authorization.k8s.io/v1", "ClusterRole", "", own+name)
		require.Equal(t, resource, field(role, "rules", "0", "resources", "0"), name)
	}
	dst.apply(`
apiVersion: v1
kind: Pod
metadata: {name: look, namespace: $NS}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "localhost/busybox:dev", command: [sleep, "100000"], volumeMounts: [{name: a, mountPath: /a}, {name: b, mountPath: /b}]}]
  volumes: [{name: a, persistentVolumeClaim: {claimName: $LONG0}}, {name: b, persistentVolumeClaim: {claimName: $LONG1}}]
`, "$NS", ns, "$LONG", long)
	ready(t, "dst", ns, "pod/look")
	require.Equal(t, "01", dst.shell(ns, "look", "cat /a/which /b/which"))
}

// A copy beside an original whose volume was made by hand gets a volume of its
// own, or the run stops and asks for a class; no second object leads to the
// original's disk. Where the volume moves along, its claim is that of the copy.
func TestRestoreVolumesMadeByHand(t *testing.T) {
	dst := restorePlace(t, "dst")
	ns, disk := word(t, "ledger"), word(t, "books-disk")
	text := `
apiVersion: v1
kind: PersistentVolume
metadata: {name: $DISK, uid: pv1}
spec:
  capacity: {storage: 2Mi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: ""
  claimRef: {kind: PersistentVolumeClaim, apiVersion: v1, name: books, namespace: $NS, uid: v1, resourceVersion: "5"}
  csi: {driver: disk.example.org, volumeHandle: $DISK}
---
apiVersion: v1
kind: Namespace
metadata: {name: $NS, uid: n1}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: books, namespace: $NS, uid: v1, annotations: {pv.kubernetes.io/bind-completed: "yes"}}
spec: {storageClassName: "", volumeName: $DISK, accessModes: [ReadWriteOnce], resources: {requests: {storage: 2Mi}}}
`
	volumes := dst.kind("v1", "PersistentVolume")
	dst.removeAfterwards(volumes, disk)
	handles := func() (n int) {
		_, err := dst.List(t.Context(), volumes, kube.ListOptions{}, func(o *object.Object) error {
			if field(contentOf(t, o), "spec", "csi", "volumeHandle") == disk {
				n++
			}
			return nil
		})
		require.NoError(t, err)
		return n
	}
	// Moved along into another namespace of another cluster.
	b := newBackup(t).addYAML(text, "$NS", ns, "$DISK", disk)
	r := b.request(dst)
	r.Namespaces = map[string]string{ns: ns + "-b"}
	dst.removeNamespace(ns + "-b")
	complete(t, r)
	volume := dst.must("v1", "PersistentVolume", "", disk)
	require.Equal(t, ns+"-b", field(volume, "spec", "claimRef", "namespace"))
	require.NotEqual(t, "v1", field(volume, "spec", "claimRef", "uid"))
	require.Equal(t, disk, field(dst.must("v1", "PersistentVolumeClaim", ns+"-b", "books"), "spec", "volumeName"))
	require.Equal(t, 1, handles())
	dst.eventually(func() (bool, string) {
		volume = dst.must("v1", "PersistentVolume", "", disk)
		return field(volume, "status", "phase") == "Bound", fmt.Sprint(volume["status"])
	})

	// Beside it, with the data in the backup.
	b = newBackup(t).addYAML(text, "$NS", ns+"-b", "$DISK", disk)
	b.addVolume(v1alpha1.VolumeLine{Ref: v1alpha1.Ref{Version: "v1", Kind: "PersistentVolumeClaim", Namespace: ns + "-b", Name: "books"},
		VolumeKind: "persistentVolumeClaim"}, map[string]string{"2029.txt": "kept"})
	r = b.request(dst)
	r.Namespaces = map[string]string{ns + "-b": ns + "-c"}
	r.Rewrite = rewriteSet(t, "apiVersion: kubectl-backup.io/v1alpha1\nkind: RewriteSet\nmetadata: {name: class}\nspec:\n  rules: [{name: class, match: {kinds: [PersistentVolumeClaim]}, set: [{path: spec.storageClassName, value: premium}]}]\n")
	dst.removeNamespace(ns + "-c")
	d := complete(t, r)
	require.Equal(t, v1alpha1.OutcomeRestored, d.Volumes[0].Outcome)
	require.NotEqual(t, disk, field(dst.must("v1", "PersistentVolumeClaim", ns+"-c", "books"), "spec", "volumeName"))
	require.Equal(t, 1, handles(), "two volumes lead to one disk")
	require.Equal(t, field(volume, "metadata", "resourceVersion"), field(dst.must("v1", "PersistentVolume", "", disk), "metadata", "resourceVersion"))

	// Claims alone bring their data too.
	r.Filter = func(o *object.Object) (bool, error) { return o.Ref.Kind == "PersistentVolumeClaim", nil }
	r.Namespaces = map[string]string{ns + "-b": ns + "-d"}
	dst.removeNamespace(ns + "-d")
	d = complete(t, r)
	require.Equal(t, v1alpha1.OutcomeRestored, d.Volumes[0].Outcome)

	// Where the disk is known by another name.
	alias := text[:strings.Index(text, "---\napiVersion: v1\nkind: Namespace")]
	alias = strings.NewReplacer("name: $DISK, uid: pv1", "name: renamed-$DISK, uid: pv1", "namespace: $NS, ", "namespace: $NS-e, ").Replace(alias)
	b = newBackup(t).addYAML(strings.ReplaceAll(text, "volumeHandle: $DISK", "volumeHandle: other-$DISK"), "$NS", ns+"-f", "$DISK", "second-"+disk)
	kubectlInput(t, "dst", strings.NewReplacer("$NS", ns, "volumeHandle: $DISK", "volumeHandle: other-second-"+disk, "$DISK", disk).Replace(alias), "create", "-f", "-")
	dst.removeAfterwards(volumes, "renamed-"+disk)
	dst.removeNamespace(ns + "-f")
	class := r.Rewrite
	r = b.request(dst)
	_, err := restore.Compute(t.Context(), r)
	require.ErrorContains(t, err, "its volume does not come with it")
	r.Rewrite = class
	d = complete(t, r)
	left := line(t, d, "PersistentVolume", "second-"+disk)
	require.Equal(t, v1alpha1.OutcomeSkipped, left.Outcome)
	require.Contains(t, left.Reason, "as PersistentVolume renamed-"+disk+", which belongs to claim "+ns+"-e/books")
	require.Nil(t, field(dst.must("v1", "PersistentVolumeClaim", ns+"-f", "books"), "spec", "volumeName"))
	_, err = dst.Get(t.Context(), volumes, "", "second-"+disk)
	require.True(t, apierrors.IsNotFound(err), err)
}
