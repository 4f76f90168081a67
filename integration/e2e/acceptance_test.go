package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/restore"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// A whole application goes to an empty cluster in one run: nothing is retried
// by hand, all of it runs, what was predicted happens, and afterwards the two
// differ in what was asked for and in nothing else.
func TestApplicationMovesToAnotherCluster(t *testing.T) {
	s := newSeaport(t)
	file := s.spec()
	saved, r := document(t, "run", "-f", file)
	require.Equal(t, 0, r.code, "%s\n%s", r.stderr, outcomes(saved))
	was := s.data("src", "")

	to := []string{"latest", "-f", file, "--to-context", "dst", "--map-storage-class", "snap=snap-premium"}
	plan, r := document(t, append([]string{"restore", "--dry-run=server"}, to...)...)
	require.Equal(t, 0, r.code, "%s\n%s", r.stderr, outcomes(plan))
	restored, r := document(t, append([]string{"restore"}, to...)...)
	require.Equal(t, 0, r.code, "%s\n%s", r.stderr, outcomes(restored))
	predicted(t, plan, restored)

	count, kinds := 0, map[string]bool{}
	for _, l := range restored.Objects {
		if l.Outcome == v1alpha1.OutcomeRestored {
			count++
			kinds[l.Ref.Kind] = true
		}
	}
	require.GreaterOrEqual(t, count, 60)
	require.GreaterOrEqual(t, len(kinds), 30)
	require.Equal(t, v1alpha1.OutcomeSkipped, objectLine(t, restored, "Job", s.port, "christening").Outcome)

	s.runs("dst", "")
	require.Equal(t, was, s.data("dst", ""))
	// The server of the application answers for its kind here as there.
	require.Equal(t, "120", kubectl(t, "dst", "-n", s.port, "get", "berths.v1alpha1."+s.group, "north", "-o", "jsonpath={.spec.metres}"))
	_, err := tryKubectl(t, "dst", "apiVersion: "+s.group+"/v1\nkind: Berth\nmetadata: {name: none, namespace: "+s.port+"}\nspec: {ship: gull}\n", "create", "-f", "-")
	require.ErrorContains(t, err, "a berth has a length")
	// Owners are those of here, down the whole chain.
	owner := s.uid("dst", s.port, "berths."+s.group, "north")
	for _, o := range s.links() {
		kind, name := o["kind"].(string), field(o, "metadata", "name").(string)
		require.Equal(t, owner, kubectl(t, "dst", "-n", s.port, "get", kind, name, "-o", "jsonpath={.metadata.ownerReferences[0].uid}"), name)
		owner = s.uid("dst", s.port, kind, name)
	}
	require.NotEmpty(t, kubectl(t, "dst", "-n", s.port, "get", "secret", "pilot-key", "-o", "jsonpath={.data.token}"), "the token is issued anew")
	require.Equal(t, "yes\n", kubectl(t, "dst", "auth", "can-i", "list", "berths."+s.group, "-n", s.quay, "--as", "system:serviceaccount:"+s.port+":pilot"))

	same := backup(t, append([]string{"diff"}, to...)...)
	require.Equal(t, 0, same.code, same.stdout+same.stderr)
	require.Empty(t, same.stdout)
	// Without the map, the difference is the map.
	d, _ := document(t, "diff", "latest", "-f", file, "--to-context", "dst")
	for _, l := range d.Objects {
		if l.Outcome == v1alpha1.OutcomeConflict {
			require.Contains(t, []string{"PersistentVolumeClaim", "StatefulSet", "ResourceQuota"}, l.Ref.Kind, "%s: %s", l.Ref, l.Reason)
			require.Regexp(t, "(?i)storageclass|volumeclaimtemplates", l.Reason, "%s", l.Ref)
		}
	}
}

// The same application is restored beside itself, under every kind of rewrite:
// the original is what it was, down to its resource versions, the copy works,
// and nothing of it refers to the original.
func TestApplicationIsCopiedBesideItself(t *testing.T) {
	s := newSeaport(t)
	file := s.spec()
	saved, r := document(t, "run", "-f", file)
	require.Equal(t, 0, r.code, "%s\n%s", r.stderr, outcomes(saved))
	second := strings.Replace(kubectl(t, "src", "get", "storageclass", "snap", "-o", "json"), `"name": "snap"`, `"name": "`+s.own+`"`, 1)
	second = strings.Replace(strings.Replace(second, `"uid"`, `"uid-was"`, 1), `"resourceVersion"`, `"version-was"`, 1)
	kubectlInput(t, "src", second, "create", "--validate=false", "-f", "-")
	t.Cleanup(func() { tryKubectl(t, "src", "", "delete", "storageclass", s.own, "--ignore-not-found") })
	rules := spec(t, s.places.Replace(`
apiVersion: kubectl-backup.io/v1alpha1
kind: RewriteSet
metadata: {name: copy}
spec:
  namespaces: {$A: $A-copy, $B: $B-copy, $C: $C-copy}
  storageClasses: {$CLASS: $OWN}
  names: {prefix: b-}
  images: [{from: docker.io, to: mirror.example.net/hub}]
  hosts: [{suffix: .example.org, to: .example.net}]
  nodeLabels: [{key: topology.kubernetes.io/zone, values: {eu-1a: us-2a}}]
  services: {types: {LoadBalancer: ClusterIP}}
  text: [Env, Args, ConfigMaps, Secrets]
  rules: [{name: mark, set: [{path: 'metadata.labels["example.org/stage"]', value: copy}]}]
`))
	was, data := s.versions(), s.data("src", "")
	args := []string{"latest", "-f", file, "--rewrite", rules}
	plan, r := document(t, append([]string{"restore", "--dry-run=server"}, args...)...)
	require.Equal(t, 0, r.code, "%s\n%s", r.stderr, outcomes(plan))
	copied, r := document(t, append([]string{"restore"}, args...)...)
	require.Equal(t, 0, r.code, "%s\n%s", r.stderr, outcomes(copied))
	predicted(t, plan, copied)
	require.Equal(t, was, s.versions(), "the original was touched")

	s.runs("src", "-copy", "b-")
	require.Equal(t, data, s.data("src", "-copy", "b-"))
	definition := objectLine(t, copied, "CustomResourceDefinition", "", "berths."+s.group)
	require.Equal(t, v1alpha1.OutcomeUnchanged, definition.Outcome)
	require.Contains(t, strings.Join(definition.Warnings, "\n"), "shared with the original", "who converts for the copy is not told")
	require.Equal(t, "http://b-log."+s.port+"-copy.svc:8080/in", kubectl(t, "src", "-n", s.port+"-copy", "get", "configmap", "b-chart", "-o", "jsonpath={.data.log}"))
	require.Equal(t, s.own+".example.net", kubectl(t, "src", "-n", s.port+"-copy", "get", "httproute", "b-gate", "-o", "jsonpath={.spec.hostnames[0]}"))
	require.Equal(t, "b-north-key", kubectl(t, "src", "-n", s.port+"-copy", "get", "serviceaccount", "b-north-crew", "-o", "jsonpath={.metadata.ownerReferences[0].name}"))
	require.Equal(t, "yes\n", kubectl(t, "src", "auth", "can-i", "list", "berths."+s.group, "-n", s.quay+"-copy", "--as", "system:serviceaccount:"+s.port+"-copy:b-pilot"))
	// Its own server admits for it.
	_, err := tryKubectl(t, "src", "apiVersion: "+s.group+"/v1\nkind: Berth\nmetadata: {name: none, namespace: "+s.port+"-copy}\nspec: {ship: gull}\n", "create", "-f", "-")
	require.ErrorContains(t, err, "a berth has a length")

	src, checked := restorePlace(t, "src"), 0
	originals := []string{s.port, s.quay, s.audit}
	check := func(o *object.Object) {
		if _, made := object.MadeByCluster(o); made {
			return
		}
		checked++
		raw := string(o.Raw)
		for _, ns := range originals {
			noReferenceTo(t, o, ns)
			raw = strings.ReplaceAll(raw, ns+"-copy", "")
		}
		for _, ns := range originals {
			require.NotContains(t, raw, ns, "%s mentions the original", o.Ref)
		}
	}
	for _, ns := range originals {
		each(src, ns+"-copy", check)
	}
	s.clusterScoped(src, "b-"+s.own, check)
	require.Greater(t, checked, 60)
}

// versions are the resource versions of all of the application in src, but for
// what controllers keep writing.
func (s *seaport) versions() map[string]string {
	s.t.Helper()
	src, out := restorePlace(s.t, "src"), map[string]string{}
	note := func(o *object.Object) {
		switch o.Ref.Kind {
		case "Event", "HorizontalPodAutoscaler", "Lease":
		case "Pod": // the kubelet writes its status as it likes
			out[o.Ref.String()] = fmt.Sprint(o.UID, field(contentOf(s.t, o), "metadata", "generation"))
		default:
			out[o.Ref.String()] = o.Version
		}
	}
	for _, ns := range []string{s.port, s.quay, s.audit} {
		each(src, ns, note)
	}
	s.clusterScoped(src, s.own, note)
	for _, crd := range s.definitions() {
		o, err := src.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", crd)
		require.NoError(s.t, err)
		note(o)
	}
	return out
}

// clusterScoped visits what has no namespace and is called name.
func (s *seaport) clusterScoped(p *place, name string, visit func(*object.Object)) {
	s.t.Helper()
	kinds, _, err := p.Kinds(s.t.Context())
	require.NoError(s.t, err)
	seen := 0
	for _, k := range kinds {
		if k.Namespaced || !k.Can("list") || !k.Can("create") || k.GVK.Kind == "StorageClass" {
			continue
		}
		o, err := p.Get(s.t.Context(), k, "", name)
		if err == nil {
			visit(o)
			seen++
		}
	}
	require.GreaterOrEqual(s.t, seen, len(seaportKinds)+1)
}

// What stands in the way of a restore, in every way that there is, is seen
// beforehand and named for what it is.
func TestConflictsArePredicted(t *testing.T) {
	dst := restorePlace(t, "dst")
	ns, full, own := word(t, "wharf"), word(t, "wharf-full"), word(t, "wharf")
	names := []string{"$NS", ns, "$FULL", full, "$OWN", own}
	dst.removeNamespace(ns)
	dst.removeNamespace(full)
	dst.apply(`
apiVersion: v1
kind: Namespace
metadata: {name: $NS, labels: {keeper: other}}
---
apiVersion: v1
kind: Namespace
metadata: {name: $FULL}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: differs, namespace: $NS}
data: {k: theirs}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: equal, namespace: $NS}
data: {k: v}
---
apiVersion: v1
kind: Secret
metadata: {name: immutable, namespace: $NS}
immutable: true
stringData: {k: theirs}
---
apiVersion: v1
kind: Service
metadata: {name: selects, namespace: $NS}
spec: {selector: {app: theirs}, ports: [{port: 80}]}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: smaller, namespace: $NS}
spec: {accessModes: [ReadWriteOnce], storageClassName: none, resources: {requests: {storage: 1Mi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: selector, namespace: $NS}
spec: {replicas: 0, selector: {matchLabels: {app: theirs}}, template: {metadata: {labels: {app: theirs}}, spec: {containers: [{name: c, image: "localhost/busybox:dev"}]}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: rights, namespace: $NS}
rules: [{apiGroups: [""], resources: [pods], verbs: [list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: $OWN}
rules: [{apiGroups: [""], resources: [nodes], verbs: [list]}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: going, namespace: $NS, finalizers: [hold.example.org/wait]}
data: {k: v}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: taken, namespace: $NS}
spec: {serviceName: none, selector: {matchLabels: {app: taken}}, template: {metadata: {labels: {app: taken}}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: "localhost/busybox:dev", command: [sleep, "100000"]}]}}}
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: none, namespace: $FULL}
spec: {hard: {secrets: "0"}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: $OWN}
spec:
  failurePolicy: Fail
  matchConstraints:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: $FULL}}
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]
  validations: [{expression: "!('debt' in object.data)", message: no debts here}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: $OWN}
spec: {policyName: $OWN, validationActions: [Deny]}
`, names...)
	configMaps := dst.kind("v1", "ConfigMap")
	require.NoError(t, dst.Delete(t.Context(), configMaps, ns, "going", kube.DeleteOptions{}))
	t.Cleanup(func() {
		tryKubectl(t, "dst", "", "-n", ns, "patch", "configmap", "going", "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	})
	refused := func(k kube.Kind, text string) func() (bool, string) {
		return func() (bool, string) {
			_, err := dst.Create(t.Context(), k, full, []byte(strings.NewReplacer(names...).Replace(text)), kube.WriteOptions{DryRun: true})
			return err != nil && (strings.Contains(err.Error(), "exceeded quota") || strings.Contains(err.Error(), "no debts here")), fmt.Sprint(err)
		}
	}
	dst.eventually(refused(configMaps, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","namespace":"$FULL"},"data":{"debt":"1"}}`))
	dst.eventually(refused(dst.kind("v1", "Secret"), `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x","namespace":"$FULL"}}`))
	dst.eventually(func() (bool, string) {
		_, err := dst.get("v1", "Pod", ns, "taken-0")
		return err == nil, fmt.Sprint(err)
	})

	r := newBackup(t).addYAML(`
apiVersion: v1
kind: Namespace
metadata: {name: $NS, uid: a0, labels: {keeper: ours}}
---
apiVersion: v1
kind: Namespace
metadata: {name: $FULL, uid: a1}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: differs, namespace: $NS, uid: a2}
data: {k: ours}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: equal, namespace: $NS, uid: a3}
data: {k: v}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: new, namespace: $NS, uid: a4}
data: {k: v}
---
apiVersion: v1
kind: Secret
metadata: {name: immutable, namespace: $NS, uid: a5}
immutable: true
type: Opaque
data: {k: b3Vycw==}
---
apiVersion: v1
kind: Service
metadata: {name: selects, namespace: $NS, uid: a6}
spec: {selector: {app: ours}, clusterIP: 10.96.7.7, ports: [{port: 80}]}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: smaller, namespace: $NS, uid: a7}
spec: {accessModes: [ReadWriteOnce], storageClassName: none, resources: {requests: {storage: 5Mi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: selector, namespace: $NS, uid: a8}
spec: {replicas: 0, selector: {matchLabels: {app: ours}}, template: {metadata: {labels: {app: ours}}, spec: {containers: [{name: c, image: "localhost/busybox:dev"}]}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: rights, namespace: $NS, uid: a9}
rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: $OWN, uid: b0}
rules: [{apiGroups: [""], resources: [nodes], verbs: [get]}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: going, namespace: $NS, uid: b1}
data: {k: v}
---
apiVersion: v1
kind: Pod
metadata: {name: taken-0, namespace: $NS, uid: b2}
spec: {containers: [{name: own, image: "localhost/busybox:dev"}]}
---
apiVersion: v1
kind: Secret
metadata: {name: too-many, namespace: $FULL, uid: b3}
type: Opaque
---
apiVersion: v1
kind: ConfigMap
metadata: {name: debtor, namespace: $FULL, uid: b4}
data: {debt: "1"}
---
apiVersion: gone.example.org/v1
kind: Relic
metadata: {name: urn, namespace: $NS, uid: b5}
---
apiVersion: v1
kind: Service
metadata: {name: invalid, namespace: $NS, uid: b6}
spec: {ports: [{port: 99999}]}
`, names...).request(dst)
	r.DryRun = restore.DryRunServer
	plan := run(t, r)
	want := map[string][2]string{ // outcome, and a word of its reason
		"Namespace " + ns: {"Conflict", "keeper"}, "ConfigMap differs": {"Conflict", "data.k"}, "Secret immutable": {"Conflict", "data"},
		"Service selects": {"Conflict", "spec.selector"}, "PersistentVolumeClaim smaller": {"Conflict", "storage"}, "Deployment selector": {"Conflict", "spec.selector"},
		"Role rights": {"Conflict", "rules"}, "ClusterRole " + own: {"Conflict", "rules"}, "ConfigMap going": {"Conflict", "hold.example.org/wait"},
		"Pod taken-0": {"Conflict", "metadata"}, "Secret too-many": {"Failed", "exceeded quota"}, "ConfigMap debtor": {"Failed", "no debts here"},
		"Relic urn": {"Failed", "not served here"}, "Service invalid": {"Failed", "99999"},
		"ConfigMap equal": {"Unchanged", ""}, "ConfigMap new": {"Create", ""},
	}
	for what, w := range want {
		kind, name, _ := strings.Cut(what, " ")
		l := line(t, plan, kind, name)
		require.Equal(t, w[0], string(l.Outcome), "%s: %s", what, l.Reason)
		require.Contains(t, l.Reason, w[1], what)
	}
	before := map[string]string{}
	each(dst, ns, func(o *object.Object) { before[o.Ref.String()] = o.Version })
	r.DryRun = restore.DryRunNone
	report := run(t, r)
	predicted(t, *plan, *report)
	require.Equal(t, 3, report.ExitCode)
	each(dst, ns, func(o *object.Object) {
		if was, ok := before[o.Ref.String()]; ok && o.Ref.Kind != "Event" && o.Ref.Kind != "Pod" && o.Ref.Kind != "StatefulSet" {
			require.Equal(t, was, o.Version, "%s was touched", o.Ref)
		}
	})
}
