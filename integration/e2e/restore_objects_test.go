package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/restore"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

func TestRestoreServicesIntoCopy(t *testing.T) {
	t.Parallel()
	src := restorePlace(t, "src")
	ns := word(t, "toll")
	src.apply(`
apiVersion: v1
kind: Namespace
metadata: {name: $NS}
---
apiVersion: v1
kind: Service
metadata: {name: barrier, namespace: $NS}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {app: barrier}
  ports: [{name: web, port: 443, targetPort: 8443}, {name: plain, port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: ring, namespace: $NS}
spec: {clusterIP: None, selector: {app: ring}, ports: [{name: raft, port: 7000}]}
---
apiVersion: v1
kind: Service
metadata: {name: booth, namespace: $NS}
spec: {selector: {app: booth}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: alias, namespace: $NS}
spec: {type: ExternalName, externalName: toll.example.org}
`, "$NS", ns)
	b := newBackup(t).addNamespace(src, ns)
	r := b.request(src)
	r.Namespaces = map[string]string{ns: ns + "-copy"}
	src.removeNamespace(ns + "-copy")
	d := complete(t, r)
	for _, name := range []string{"barrier", "ring", "booth", "alias"} {
		require.Equal(t, v1alpha1.OutcomeRestored, line(t, d, "Service", name).Outcome)
	}
	ring := src.must("v1", "Service", ns+"-copy", "ring")
	require.Equal(t, "None", field(ring, "spec", "clusterIP"))
	require.Equal(t, []any{"None"}, field(ring, "spec", "clusterIPs"))
	booth := src.must("v1", "Service", ns+"-copy", "booth")
	require.Equal(t, field(booth, "spec", "clusterIP"), field(booth, "spec", "clusterIPs", "0"))
	require.NotEqual(t, field(src.must("v1", "Service", ns, "booth"), "spec", "clusterIP"), field(booth, "spec", "clusterIP"))
	was, is := src.must("v1", "Service", ns, "barrier"), src.must("v1", "Service", ns+"-copy", "barrier")
	for _, path := range [][]string{{"spec", "healthCheckNodePort"}, {"spec", "ports", "0", "nodePort"}, {"spec", "ports", "1", "nodePort"}} {
		require.NotNil(t, field(is, path...))
		require.NotEqual(t, field(was, path...), field(is, path...), "%v", path)
	}

	// With the ports kept, into a cluster where they are free.
	dst := restorePlace(t, "dst")
	r.Target, r.Namespaces, r.KeepNodePorts = dst.Cluster, nil, true
	dst.removeNamespace(ns)
	complete(t, r)
	is = dst.must("v1", "Service", ns, "barrier")
	for _, path := range [][]string{{"spec", "healthCheckNodePort"}, {"spec", "ports", "0", "nodePort"}, {"spec", "ports", "1", "nodePort"}} {
		require.Equal(t, field(was, path...), field(is, path...), "%v", path)
	}
}

func TestRestoreJobs(t *testing.T) {
	t.Parallel()
	src, dst := restorePlace(t, "src"), restorePlace(t, "dst")
	ns := word(t, "mill")
	src.apply(`
apiVersion: v1
kind: Namespace
metadata: {name: $NS}
---
apiVersion: batch/v1
kind: Job
metadata: {name: grind, namespace: $NS}
spec:
  suspend: true
  template:
    metadata: {labels: {tier: batch}}
    spec: {restartPolicy: Never, containers: [{name: run, image: localhost/busybox:dev}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: fixed, namespace: $NS}
spec:
  suspend: true
  manualSelector: true
  selector: {matchLabels: {pin: "9"}}
  template:
    metadata: {labels: {pin: "9"}}
    spec: {restartPolicy: Never, containers: [{name: run, image: localhost/busybox:dev}]}
`, "$NS", ns)
	r := newBackup(t).addNamespace(src, ns).request(dst)
	dst.removeNamespace(ns)
	d := complete(t, r)
	require.Equal(t, v1alpha1.OutcomeRestored, line(t, d, "Job", "grind").Outcome)
	require.Equal(t, v1alpha1.OutcomeRestored, line(t, d, "Job", "fixed").Outcome)
	grind := dst.must("batch/v1", "Job", ns, "grind")
	require.Equal(t, field(grind, "metadata", "uid"), field(grind, "spec", "selector", "matchLabels", "batch.kubernetes.io/controller-uid"))
	require.Equal(t, "batch", field(grind, "spec", "template", "metadata", "labels", "tier"))
	fixed := dst.must("batch/v1", "Job", ns, "fixed")
	require.Equal(t, map[string]any{"pin": "9"}, field(fixed, "spec", "selector", "matchLabels"))
}

func TestRestoreFieldOwners(t *testing.T) {
	t.Parallel()
	src, dst := restorePlace(t, "src"), restorePlace(t, "dst")
	ns := word(t, "loom")
	src.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: $NS}", "$NS", ns)
	configMaps := src.kind("v1", "ConfigMap")
	apply := func(p *place, k kube.Kind, ns, name, raw string) {
		t.Helper()
		_, err := p.Apply(t.Context(), k, ns, name, []byte(raw), kube.WriteOptions{FieldManager: "gitops"})
		require.NoError(t, err)
	}
	cm := func(data string) string {
		return `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"flags","namespace":"` + ns + `"},"data":` + data + `}`
	}
	apply(src, configMaps, ns, "flags", cm(`{"theme":"dark","beta":"on"}`))
	namespaces := src.kind("v1", "Namespace")
	nsDoc := func(labels string) string {
		return `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"` + ns + `","labels":` + labels + `}}`
	}
	apply(src, namespaces, "", ns, nsDoc(`{"team":"weavers","stage":"one"}`))
	// A second owner by plain writes, as kubectl edit makes it.
	_, err := src.Patch(t.Context(), configMaps, ns, "flags", types.MergePatchType, []byte(`{"data":{"extra":"1"}}`), kube.WriteOptions{FieldManager: "kubectl-edit"})
	require.NoError(t, err)
	// One that a single plain writer made.
	src.create([]byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"plain","namespace":"`+ns+`"},"data":{"k":"v"}}`), "kubectl-create")

	r := newBackup(t).addNamespace(src, ns).request(dst)
	dst.removeNamespace(ns)
	complete(t, r)
	for _, c := range []struct{ kind, namespace, name string }{{"Namespace", "", ns}, {"ConfigMap", ns, "flags"}, {"ConfigMap", ns, "plain"}} {
		want, got := owners(t, src, c.kind, c.namespace, c.name), owners(t, dst, c.kind, c.namespace, c.name)
		require.Equal(t, want, got, "%s %s", c.kind, c.name)
		for name := range got {
			require.NotContains(t, name, kube.FieldManager)
		}
	}
	// A field that its owner leaves out goes, without force.
	apply(dst, configMaps, ns, "flags", cm(`{"theme":"dark"}`))
	require.Equal(t, map[string]any{"theme": "dark", "extra": "1"}, field(dst.must("v1", "ConfigMap", ns, "flags"), "data"))
	apply(dst, namespaces, "", ns, nsDoc(`{"team":"weavers"}`))
	require.Nil(t, field(dst.must("v1", "Namespace", "", ns), "metadata", "labels", "stage"))
}

// owners is who owns which fields of an object: manager and operation to
// fields.
func owners(t *testing.T, p *place, kind, namespace, name string) map[string]string {
	t.Helper()
	out := map[string]string{}
	entries, _ := field(p.must("v1", kind, namespace, name), "metadata", "managedFields").([]any)
	for _, e := range entries {
		m := e.(map[string]any)
		raw, err := json.Marshal(m["fieldsV1"])
		require.NoError(t, err)
		out[fmt.Sprint(m["manager"], " ", m["operation"])] = string(raw)
	}
	return out
}

func TestRestoreLargeObjects(t *testing.T) {
	t.Parallel()
	src, dst := restorePlace(t, "src"), restorePlace(t, "dst")
	ns := word(t, "bulk")
	src.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: $NS}", "$NS", ns)
	letters := rand.New(rand.NewPCG(3, 4))
	blob := make([]byte, 300<<10)
	for i := range blob {
		blob[i] = "abcdefghijklmnopqrstuvwxyz0123456789"[letters.IntN(36)]
	}
	note := "log.example.org/all"
	for name, parts := range map[string][2]map[string]string{
		"tall": {nil, {"all.json": string(blob)}},
		"full": {{note: string(blob[:262000-len(note)])}, {"k": "v"}},
	} {
		raw, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "ConfigMap",
			"metadata": map[string]any{"name": name, "namespace": ns, "annotations": parts[0]}, "data": parts[1]})
		require.NoError(t, err)
		src.create(raw, "e2e")
	}
	r := newBackup(t).addNamespace(src, ns).request(dst)
	dst.removeNamespace(ns)
	complete(t, r)
	for _, name := range []string{"tall", "full"} {
		was, is := src.must("v1", "ConfigMap", ns, name), dst.must("v1", "ConfigMap", ns, name)
		require.Equal(t, sha256.Sum256([]byte(fmt.Sprint(was["data"]))), sha256.Sum256([]byte(fmt.Sprint(is["data"]))))
		require.Equal(t, field(was, "metadata", "annotations"), field(is, "metadata", "annotations"))
	}
}

const moorCRD = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: moors.$GROUP}
spec:
  group: $GROUP
  scope: Namespaced
  names: {plural: moors, singular: moor, kind: AMoor}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: $SUB
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`

func TestRestoreDefinitionsAndTheirObjects(t *testing.T) {
	t.Parallel()
	src, dst := restorePlace(t, "src"), restorePlace(t, "dst")
	for _, c := range []struct {
		name, sub string
		restore   bool
		want      any
		warning   bool
	}{
		{"status is ordinary data", "null", false, "L-17", false},
		{"status of a subresource, not asked for", "{status: {}}", false, nil, true},
		{"status of a subresource, asked for", "{status: {}}", true, "L-17", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			src, dst := &place{t, src.Cluster}, &place{t, dst.Cluster}
			ns, group := word(t, "fen"), word(t, "fen")+".example.org"
			src.apply(moorCRD, "$GROUP", group, "$SUB", c.sub)
			src.apply(`
apiVersion: v1
kind: Namespace
metadata: {name: $NS}
---
apiVersion: $GROUP/v1
kind: AMoor
metadata: {name: wet, namespace: $NS}
spec: {depth: 9007199254740993, ratio: 0.1, empty: {}, nothing: null, text: "010", list: []}
status: {lease: L-17}
---
apiVersion: $GROUP/v1
kind: AMoor
metadata: {name: aft, namespace: $NS}
spec: {depth: 3}
`, "$NS", ns, "$GROUP", group)
			if c.sub != "null" {
				_, err := src.PatchSubresource(t.Context(), src.kind(group+"/v1", "AMoor"), ns, "wet", "status", types.MergePatchType,
					[]byte(`{"status":{"lease":"L-17"}}`), kube.WriteOptions{FieldManager: "keeper"})
				require.NoError(t, err)
			}
			crd, err := src.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", "moors."+group)
			require.NoError(t, err)
			b := newBackup(t).addNamespace(src, ns).add(crd)
			r := b.request(dst)
			r.RestoreStatus = c.restore
			dst.removeAfterwards(dst.kind("apiextensions.k8s.io/v1", "CustomResourceDefinition"), "moors."+group)
			dst.removeNamespace(ns)
			d := complete(t, r)
			was, is := src.must(group+"/v1", "AMoor", ns, "wet"), dst.must(group+"/v1", "AMoor", ns, "wet")
			require.Equal(t, was["spec"], is["spec"])
			require.Equal(t, c.want, field(is, "status", "lease"))
			dst.must(group+"/v1", "AMoor", ns, "aft")
			require.Equal(t, c.warning, strings.Contains(strings.Join(d.Warnings, "\n"), "status of 1 AMoor."+group), "%v", d.Warnings)
			if c.restore {
				for name := range managers(t, is) {
					require.NotContains(t, name, kube.FieldManager)
				}
			}

			// Again: all of it is there and equal.
			again := complete(t, r)
			require.Equal(t, v1alpha1.OutcomeUnchanged, line(t, again, "AMoor", "wet").Outcome)
		})
	}
}

func managers(t *testing.T, o map[string]any) map[string]bool {
	out := map[string]bool{}
	entries, _ := field(o, "metadata", "managedFields").([]any)
	for _, e := range entries {
		out[fmt.Sprint(e.(map[string]any)["manager"])] = true
	}
	return out
}

func TestRestoreVersionsNotServed(t *testing.T) {
	t.Parallel()
	dst := restorePlace(t, "dst")
	ns := word(t, "past")
	b := newBackup(t).addYAML(`
apiVersion: v1
kind: Namespace
metadata: {name: $NS, uid: n1}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: beside, namespace: $NS, uid: c1}
data: {k: v}
---
apiVersion: apps/v7
kind: Deployment
metadata: {name: front, namespace: $NS, uid: i1}
---
apiVersion: gone.example.org/v1
kind: Relic
metadata: {name: urn, namespace: $NS, uid: r1}
`, "$NS", ns)
	r := b.request(dst)
	dst.removeNamespace(ns)
	for _, mode := range []string{restore.DryRunClient, restore.DryRunServer, restore.DryRunNone} {
		r.DryRun = mode
		d := run(t, r)
		require.Equal(t, 3, d.ExitCode)
		require.Equal(t, v1alpha1.ResultPartial, d.Result)
		for kind, name := range map[string]string{"Deployment": "front", "Relic": "urn"} {
			l := line(t, d, kind, name)
			require.Equal(t, v1alpha1.OutcomeFailed, l.Outcome)
			require.Contains(t, l.Reason, "version not served here")
		}
		_, err := dst.get("v1", "ConfigMap", ns, "beside")
		require.Equal(t, mode != restore.DryRunNone, apierrors.IsNotFound(err), "%s: %v", mode, err)
	}
}

func TestRestoreGeneratedObjectsAndLookAlikes(t *testing.T) {
	t.Parallel()
	src, dst := restorePlace(t, "src"), restorePlace(t, "dst")
	ns := word(t, "wire")
	src.apply(`
apiVersion: v1
kind: Namespace
metadata: {name: $NS}
---
apiVersion: v1
kind: Service
metadata: {name: host, namespace: $NS}
spec: {ports: [{name: tn, port: 992}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: host-a
  namespace: $NS
  labels: {kubernetes.io/service-name: host, endpointslice.kubernetes.io/managed-by: ops.example.org}
addressType: IPv4
endpoints: [{addresses: [192.0.2.44]}]
ports: [{name: tn, port: 992}]
---
apiVersion: v1
kind: Endpoints
metadata: {name: host, namespace: $NS}
subsets: [{addresses: [{ip: 192.0.2.44}], ports: [{name: tn, port: 992}]}]
---
apiVersion: v1
kind: Service
metadata: {name: press, namespace: $NS}
spec: {selector: {app: press}, ports: [{port: 80}]}
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: held, namespace: $NS}
spec: {holderIdentity: x}
`, "$NS", ns)
	src.eventually(func() (bool, string) {
		_, err := src.get("v1", "ConfigMap", ns, "kube-root-ca.crt")
		return err == nil, fmt.Sprint(err)
	})
	r := newBackup(t).addNamespace(src, ns).request(dst)
	dst.removeNamespace(ns)
	d := complete(t, r)
	require.Empty(t, d.Warnings)
	for _, l := range d.Objects {
		require.Empty(t, l.Warnings, "%s", l.Ref)
	}
	require.Equal(t, "192.0.2.44", field(dst.must("discovery.k8s.io/v1", "EndpointSlice", ns, "host-a"), "endpoints", "0", "addresses", "0"))
	require.Equal(t, "192.0.2.44", field(dst.must("v1", "Endpoints", ns, "host"), "subsets", "0", "addresses", "0", "ip"))
	require.Equal(t, v1alpha1.OutcomeSkipped, line(t, d, "Lease", "held").Outcome)
	require.Equal(t, v1alpha1.OutcomeSkipped, line(t, d, "ConfigMap", "kube-root-ca.crt").Outcome)
	dst.eventually(func() (bool, string) {
		own, err := dst.get("v1", "ConfigMap", "default", "kube-root-ca.crt")
		require.NoError(t, err)
		here, err := dst.get("v1", "ConfigMap", ns, "kube-root-ca.crt")
		return err == nil && fmt.Sprint(contentOf(t, own)["data"]) == fmt.Sprint(contentOf(t, here)["data"]), fmt.Sprint(err)
	})
}

func TestRestoreNamespaceReferences(t *testing.T) {
	t.Parallel()
	src := restorePlace(t, "src")
	ns := word(t, "guild")
	copied := ns + "-test"
	src.apply(`
apiVersion: v1
kind: Namespace
metadata: {name: $NS}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: keepers, namespace: $NS}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{kind: ServiceAccount, name: clerk, namespace: $NS}, {kind: ServiceAccount, name: auditor, namespace: audit}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: $NS-nodes}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{kind: ServiceAccount, name: clerk, namespace: $NS}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: inside, namespace: $NS}
spec:
  podSelector: {}
  ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: $NS}}}]}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: dsn, namespace: $NS}
data: {url: "postgres://db.$NS.svc.cluster.local/books"}
`, "$NS", ns)
	binding, err := src.get("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "", ns+"-nodes")
	require.NoError(t, err)
	before := managers(t, contentOf(t, binding))
	r := newBackup(t).addNamespace(src, ns).add(binding).request(src)
	r.Namespaces = map[string]string{ns: copied, "nowhere": "elsewhere"}
	src.removeNamespace(copied)
	d := complete(t, r)

	rb := src.must("rbac.authorization.k8s.io/v1", "RoleBinding", copied, "keepers")
	require.Equal(t, copied, field(rb, "subjects", "0", "namespace"))
	require.Equal(t, "audit", field(rb, "subjects", "1", "namespace"))
	crb := src.must("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "", ns+"-nodes")
	require.Equal(t, ns, field(crb, "subjects", "0", "namespace"))
	require.Equal(t, copied, field(crb, "subjects", "1", "namespace"))
	require.Equal(t, before, managers(t, crb))
	require.Contains(t, line(t, d, "ClusterRoleBinding", ns+"-nodes").Reason, "clerk@"+copied)
	np := src.must("networking.k8s.io/v1", "NetworkPolicy", copied, "inside")
	require.Equal(t, copied, field(np, "spec", "ingress", "0", "from", "0", "namespaceSelector", "matchLabels", "kubernetes.io/metadata.name"))
	require.Equal(t, "postgres://db."+ns+".svc.cluster.local/books", field(src.must("v1", "ConfigMap", copied, "dsn"), "data", "url"))
	require.Len(t, d.Mentions, 1)
	require.Contains(t, d.Mentions[0], "dsn: data.url mentions the namespace "+ns)
	require.Contains(t, d.Warnings, "namespace nowhere=elsewhere matches nothing in the backup")
	require.Equal(t, copied, field(src.must("v1", "Namespace", "", copied), "metadata", "labels", "kubernetes.io/metadata.name"))
}

func TestRestoreNamespaceItself(t *testing.T) {
	t.Parallel()
	src, dst := restorePlace(t, "src"), restorePlace(t, "dst")
	ns := word(t, "quay")
	src.apply(`
apiVersion: v1
kind: Namespace
metadata:
  name: $NS
  labels: {pod-security.kubernetes.io/enforce: baseline, cost.example.org/centre: "771"}
  annotations: {openshift.io/sa.scc.uid-range: "1000680000/10000", scheduler.example.org/pool: blue}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: crane, namespace: $NS}
data: {k: v}
`, "$NS", ns)
	// Whoever makes a namespace without the label is refused: it has to be in
	// the first request.
	policy := word(t, "labelled")
	dst.apply(`
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: $P}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [namespaces], resourceNames: [$NS]}]
  validations: [{expression: "has(object.metadata.labels) && 'cost.example.org/centre' in object.metadata.labels", message: name a centre}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: $P}
spec: {policyName: $P, validationActions: [Deny]}
`, "$P", policy, "$NS", ns)
	namespaces := dst.kind("v1", "Namespace")
	dst.eventually(func() (bool, string) {
		_, err := dst.Create(t.Context(), namespaces, "", []byte(`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"`+ns+`"}}`), kube.WriteOptions{DryRun: true})
		return apierrors.IsInvalid(err) || apierrors.IsForbidden(err), fmt.Sprint(err)
	})
	dst.removeNamespace(ns)
	r := newBackup(t).addNamespace(src, ns).request(dst)
	// Nobody asks for the namespace; what goes into it needs it as it was.
	r.Filter = func(o *object.Object) (bool, error) { return o.Ref.Kind == "ConfigMap" && o.Ref.Name == "crane", nil }
	complete(t, r)
	r.Filter = nil
	was, is := src.must("v1", "Namespace", "", ns), dst.must("v1", "Namespace", "", ns)
	require.Equal(t, field(was, "metadata", "labels"), field(is, "metadata", "labels"))
	require.Equal(t, field(was, "metadata", "annotations"), field(is, "metadata", "annotations"))

	_, err := dst.Patch(t.Context(), namespaces, "", ns, types.MergePatchType,
		[]byte(`{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"restricted","extra":"1"},"annotations":{"openshift.io/sa.scc.uid-range":"5/5"}}}`), kube.WriteOptions{})
	require.NoError(t, err)
	d := run(t, r)
	l := line(t, d, "Namespace", ns)
	require.Equal(t, v1alpha1.OutcomeConflict, l.Outcome)
	require.Len(t, l.Warnings, 3)
	require.Contains(t, strings.Join(l.Warnings, "\n"), `label pod-security.kubernetes.io/enforce: "baseline" in the backup, "restricted" in the target; it decides`)
	require.Contains(t, strings.Join(l.Warnings, "\n"), `annotation openshift.io/sa.scc.uid-range: "1000680000/10000" in the backup, "5/5" in the target; it decides`)
	require.Equal(t, "restricted", field(dst.must("v1", "Namespace", "", ns), "metadata", "labels", "pod-security.kubernetes.io/enforce"))
	require.Equal(t, v1alpha1.OutcomeUnchanged, line(t, d, "ConfigMap", "crane").Outcome)
}
