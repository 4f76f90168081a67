package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// brewery is a modest application with everything that a restore has in hand
// for a while: a claim, pods' own volumes of a Deployment and of a set, a
// definition and its object, account and binding, and owners four deep.
const brewery = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: default, namespace: $NS, annotations: {role.example.org/id: "17"}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: recipe, namespace: $NS}
data: {hops: saaz}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: brewer, namespace: $NS}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: brewer, namespace: $NS}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: brewer}
subjects: [{kind: ServiceAccount, name: default, namespace: $NS}]
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: cellar, namespace: $NS}
spec: {storageClassName: fast, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Service
metadata: {name: tank, namespace: $NS}
spec: {clusterIP: None, selector: {app: tank}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: bar, namespace: $NS}
spec:
  replicas: 1
  selector: {matchLabels: {app: bar}}
  template:
    metadata: {labels: {app: bar}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: c
        image: localhost/busybox:dev
        imagePullPolicy: IfNotPresent
        command: [sh, -c, "exec sleep 36000"]
        volumeMounts: [{name: cellar, mountPath: /cellar}, {name: taps, mountPath: /taps}]
      volumes: [{name: cellar, persistentVolumeClaim: {claimName: cellar}}, {name: taps, emptyDir: {}}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: tank, namespace: $NS}
spec:
  serviceName: tank
  replicas: 1
  persistentVolumeClaimRetentionPolicy: {whenDeleted: Delete, whenScaled: Delete}
  selector: {matchLabels: {app: tank}}
  template:
    metadata: {labels: {app: tank}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: c
        image: localhost/busybox:dev
        imagePullPolicy: IfNotPresent
        command: [sh, -c, "exec sleep 36000"]
        volumeMounts: [{name: beer, mountPath: /beer}, {name: foam, mountPath: /foam}]
      volumes: [{name: foam, emptyDir: {}}]
  volumeClaimTemplates:
  - metadata: {name: beer}
    spec: {storageClassName: fast, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
`

const breweryDefinition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: casks.$GROUP}
spec:
  group: $GROUP
  scope: Namespaced
  names: {plural: casks, singular: cask, kind: Cask}
  versions:
  - {name: v1, served: true, storage: true, subresources: {status: {}}, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
`

// brew makes the application in src, with data, and a backup of it.
func brew(t *testing.T, ns, group string) (file string) {
	t.Helper()
	names := strings.NewReplacer("$NS", ns, "$GROUP", group)
	kubectl(t, "src", "label", "namespace", ns, "team=brewers")
	apply(t, "src", names.Replace(breweryDefinition))
	t.Cleanup(func() { tryKubectl(t, "src", "", "delete", "crd", "casks."+group, "--wait=false") })
	kubectl(t, "src", "wait", "--for=condition=Established", "--timeout=60s", "crd/casks."+group)
	apply(t, "src", names.Replace(brewery))
	chain(t, ns, group)
	ready(t, "src", ns, "deployment/bar", "statefulset/tank")
	fillRandom(t, filepath.Join(folder(t, "src", ns, "cellar"), "vintage"), 3<<20)
	fillRandom(t, filepath.Join(folder(t, "src", ns, "beer-tank-0"), "stout"), 2<<20)
	kubectl(t, "src", "-n", ns, "exec", "deploy/bar", "--", "sh", "-c", "mkdir /taps/a && echo pilsner > /taps/a/first && chmod 640 /taps/a/first")
	kubectl(t, "src", "-n", ns, "exec", "tank-0", "--", "sh", "-c", "echo head > /foam/top")
	remote, _ := local(t)
	file = spec(t, policy("  select: [{name: all, namespaces: ["+ns+"]}]\n  volumes:\n  - {match: 'volume.kind == \"emptyDir\"', method: Stream}\n  - {method: Auto}\n"), remote)
	d, r := document(t, "run", "-f", file)
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, d.Volumes)
	require.Len(t, slices.DeleteFunc(d.Volumes, func(v v1alpha1.VolumeLine) bool { return v.Outcome != v1alpha1.OutcomeSaved }), 4)
	return file
}

// chain is a Cask that owns a ConfigMap that owns a Secret that owns a ConfigMap.
func chain(t *testing.T, ns, group string) {
	t.Helper()
	owner := ""
	for n, o := range []struct{ apiVersion, kind, plural, more string }{
		{group + "/v1", "Cask", "casks." + group, "spec: {oak: true}"}, {"v1", "ConfigMap", "configmap", "data: {k: v}"},
		{"v1", "Secret", "secret", "stringData: {k: v}"}, {"v1", "ConfigMap", "configmap", "data: {k: v}"},
	} {
		name := fmt.Sprint("link-", n)
		apply(t, "src", fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: %s, namespace: %s%s}\n%s\n", o.apiVersion, o.kind, name, ns, owner, o.more))
		uid := kubectl(t, "src", "-n", ns, "get", o.plural, name, "-o", "jsonpath={.metadata.uid}")
		owner = fmt.Sprintf(", ownerReferences: [{apiVersion: %s, kind: %s, name: %s, uid: %s}]", o.apiVersion, o.kind, name, uid)
	}
	kubectl(t, "src", "-n", ns, "patch", "casks."+group, "link-0", "--subresource=status", "--type=merge", "-p", `{"status":{"seal":"red"}}`)
}

// endState is all that a user would look at: the objects of a namespace without
// what every cluster assigns anew, whom their fields belong to, and the bytes of
// the volumes.
func (p *place) endState(ns string) map[string]string {
	p.t.Helper()
	require.NoError(p.t, p.Refresh(p.t.Context()))
	kinds, _, err := p.Kinds(p.t.Context())
	require.NoError(p.t, err)
	names := map[string]string{} // kind and name by UID
	var all []*object.Object
	o, err := p.get("v1", "Namespace", "", ns)
	require.NoError(p.t, err)
	all = append(all, o)
	for _, k := range kinds {
		if !k.Namespaced || !k.Can("list") || !k.Can("create") || slices.Contains([]string{"Event", "EndpointSlice", "Endpoints", "ControllerRevision"}, k.GVK.Kind) {
			continue
		}
		_, err := p.List(p.t.Context(), k, kube.ListOptions{Namespace: ns}, func(o *object.Object) error {
			all = append(all, o)
			return nil
		})
		require.NoError(p.t, err)
	}
	for _, o := range all {
		names[o.UID] = o.Ref.Kind + " " + o.Ref.Name
	}
	out := map[string]string{}
	pods := map[string]int{}
	for _, o := range all {
		for label := range o.Labels {
			require.NotContains(p.t, label, "kubectl-backup.io", "%s", o.Ref)
		}
		for annotation := range o.Annotations {
			require.NotContains(p.t, annotation, "kubectl-backup.io", "%s", o.Ref)
		}
		content := contentOf(p.t, o)
		meta := content["metadata"].(map[string]any)
		owners, _ := meta["ownerReferences"].([]any)
		for _, w := range owners {
			ref := w.(map[string]any)
			name, known := names[ref["uid"].(string)]
			require.True(p.t, known, "%s: its owner %v is not there", o.Ref, ref)
			ref["uid"] = name
		}
		if o.Ref.Kind == "Pod" {
			pods["pods of "+o.Labels["app"]]++
			continue
		}
		name := strings.ReplaceAll(o.Ref.Kind+" "+o.Ref.Name, ns, "$NS")
		if o.Ref.Kind == "ReplicaSet" {
			name = "ReplicaSet of " + o.Labels["app"]
			for _, key := range []string{"name", "labels"} {
				delete(meta, key)
			}
			delete(content["spec"].(map[string]any), "selector")
			delete(field(content, "spec", "template", "metadata").(map[string]any), "labels")
		}
		out["owners of "+name] = ownersOf(p.t, content)
		for _, key := range []string{"uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"} {
			delete(meta, key)
		}
		if o.Ref.Kind != "Cask" {
			delete(content, "status")
		}
		for _, key := range []string{"volumeName", "clusterIP", "clusterIPs"} {
			if spec, ok := content["spec"].(map[string]any); ok {
				delete(spec, key)
			}
		}
		raw, err := json.MarshalIndent(content, "", " ")
		require.NoError(p.t, err)
		out[name] = strings.ReplaceAll(string(raw), ns, "$NS")
	}
	for k, n := range pods {
		out[k] = fmt.Sprint(n)
	}
	for _, c := range []string{"cellar", "beer-tank-0"} {
		out["data of "+c] = checksums(p.t, folder(p.t, p.Context(), ns, c))
	}
	out["data of bar"] = kubectl(p.t, p.Context(), "-n", ns, "exec", "deploy/bar", "--", "sh", "-c", "cd /taps && find . | sort && sha256sum a/first && stat -c %a a/first")
	out["data of tank"] = kubectl(p.t, p.Context(), "-n", ns, "exec", "tank-0", "--", "sh", "-c", "cd /foam && find . | sort && sha256sum top")
	return out
}

// ownersOf are the owners of an object's fields without the cluster's own.
func ownersOf(t *testing.T, content map[string]any) string {
	t.Helper()
	var out []string
	entries, _ := field(content, "metadata", "managedFields").([]any)
	for _, e := range entries {
		m := e.(map[string]any)
		name, _ := m["manager"].(string)
		if strings.HasPrefix(name, "kube-") || name == "csi-provisioner" {
			continue
		}
		require.NotEqual(t, kube.FieldManager, name)
		raw, err := json.Marshal(m["fieldsV1"])
		require.NoError(t, err)
		out = append(out, fmt.Sprint(name, m["operation"], m["subresource"], string(raw)))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// checksums says what files a folder holds, their modes and their content.
func checksums(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	require.NoError(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %s", rel, info.Mode())
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %x", sha256.Sum256(data))
		}
		b.WriteByte('\n')
		return nil
	}))
	return b.String()
}

// clear removes what a restore brought back, the definition too.
func (p *place) clear(ns, group string) {
	p.t.Helper()
	kubectl(p.t, p.Context(), "delete", "crd", "casks."+group, "--ignore-not-found", "--wait=true", "--timeout=120s")
	kubectl(p.t, p.Context(), "delete", "namespace", ns, "--ignore-not-found", "--wait=false")
}

// A restore that is killed at any moment, and resumed, ends as one that nothing
// disturbed: objects, owners of fields, data; and nothing of ours is left.
func TestRestoreKilledAtAnyMoment(t *testing.T) {
	dst := restorePlace(t, "dst")
	ns, group := namespace(t, "brewery"), word(t, "casks")+".example.org"
	file := brew(t, ns, group)
	round := func(n int) (to string, args []string) {
		to = fmt.Sprintf("%s-%d", ns, n)
		dropNamespace(t, "dst", to)
		return to, []string{"restore", "latest", "-f", file, "--to-context", "dst", "--map-namespace", ns + "=" + to,
			"--map-storage-class", "fast=premium", "--restore-status", "-o", "json"}
	}
	t.Cleanup(func() { tryKubectl(t, "dst", "", "delete", "crd", "casks."+group, "--wait=false") })

	to, args := round(0)
	began := time.Now()
	r := backup(t, args...)
	whole := time.Since(began)
	require.Equal(t, 0, r.code, r.stdout+r.stderr)
	dst.settled(to)
	want := dst.endState(to)
	require.Contains(t, want["Cask link-0"], "red", "the status is back")
	dst.clear(to, group)

	kills := rounds(5, 30)
	killed := 0
	for n := range kills {
		to, args := round(n + 1)
		p, began := start(t, args...), time.Now()
		moment := time.Duration((float64(n) + mathrand.Float64()) / float64(kills) * float64(whole))
		how := "killed"
		select {
		case <-p.ended:
			how, whole = "ended by itself", time.Since(began) // the machine has become faster
		case <-time.After(moment):
			p.Process.Kill()
			killed++
		}
		<-p.ended
		r := backup(t, append(args, "--resume")...)
		said := fmt.Sprintf("%s, %s of %s: %s\n%s", how, moment, whole, r.stderr, r.stdout)
		var d v1alpha1.Document
		require.NoError(t, json.Unmarshal([]byte(r.stdout), &d), said)
		for _, o := range d.Objects {
			require.NotContains(t, []v1alpha1.Outcome{v1alpha1.OutcomeFailed, v1alpha1.OutcomeConflict, v1alpha1.OutcomeIncomplete}, o.Outcome, "%s: %s", o.Ref, said)
		}
		dst.settled(to)
		got := dst.endState(to)
		for name, state := range want {
			assert.Equal(t, state, got[name], "%s: killed after %s", name, moment)
		}
		require.Len(t, got, len(want), said)
		require.False(t, t.Failed(), said)
		t.Logf("%s, %s of %s: exit code %d", how, moment.Round(time.Millisecond), whole.Round(time.Millisecond), r.code)
		dst.clear(to, group)
	}
	require.Greater(t, killed, kills/2, "most restores ended before they were killed")
}

// The same restore again writes nothing, with rewrites too; and whoever resumes
// what was not interrupted changes nothing either.
func TestRestoreTwice(t *testing.T) {
	dst := restorePlace(t, "dst")
	ns, group := namespace(t, "brewery"), word(t, "casks")+".example.org"
	file := brew(t, ns, group)
	to := ns + "-copy"
	dropNamespace(t, "dst", to)
	t.Cleanup(func() { tryKubectl(t, "dst", "", "delete", "crd", "casks."+group, "--wait=false") })
	rewrites := filepath.Join(t.TempDir(), "rewrites.yaml")
	require.NoError(t, os.WriteFile(rewrites, []byte("apiVersion: kubectl-backup.io/v1alpha1\nkind: RewriteSet\nmetadata: {name: copy}\nspec:\n"+
		"  rules:\n  - {name: stage, match: {kinds: [ConfigMap, Deployment, StatefulSet]}, set: [{path: metadata.labels.stage, value: copy}]}\n"), 0o600))
	args := []string{"restore", "latest", "-f", file, "--to-context", "dst", "--map-namespace", ns + "=" + to, "--map-storage-class", "fast=premium", "--rewrite", rewrites}
	_, r := document(t, args...)
	require.Equal(t, 0, r.code, r.stdout+r.stderr)
	versions := func() map[string]string {
		out := map[string]string{}
		kinds, _, err := dst.Kinds(t.Context())
		require.NoError(t, err)
		for _, k := range kinds {
			if k.Namespaced && k.Can("list") && k.GVK.Kind != "Event" {
				_, err := dst.List(t.Context(), k, kube.ListOptions{Namespace: to}, func(o *object.Object) error {
					out[o.Ref.String()] = o.UID + " " + o.Version
					return nil
				})
				require.NoError(t, err)
			}
		}
		return out
	}
	require.NoError(t, dst.Refresh(t.Context()))
	dst.settled(to)
	before := versions()
	for _, more := range [][]string{nil, {"--resume"}, {"--on-conflict=Apply"}, {"--on-conflict=Recreate"}} {
		d, r := document(t, append(slices.Clone(args), more...)...)
		require.Equal(t, 3, r.code, "the data that is in claims is left alone, and that is said: %s", r.stderr)
		for _, o := range d.Objects {
			require.Contains(t, []v1alpha1.Outcome{v1alpha1.OutcomeUnchanged, v1alpha1.OutcomeLeftToOwner, v1alpha1.OutcomeSkipped}, o.Outcome, "%v: %s: %s", more, o.Ref, o.Reason)
		}
		require.Equal(t, before, versions(), "%v", more)
	}
	_, r = document(t, append(slices.Clone(args), "--on-conflict=Skip")...)
	require.Equal(t, 0, r.code, r.stderr)
	require.Equal(t, before, versions())
}

// At no moment of a restore does an object carry the UID of an owner that is
// not there: not the saved one, not one that is to come.
func TestRestoreOwnersAreNeverStale(t *testing.T) {
	dst := restorePlace(t, "dst")
	ns, group := namespace(t, "brewery"), word(t, "casks")+".example.org"
	file := brew(t, ns, group)
	apply(t, "dst", fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s, labels: {team: brewers}}\n", ns))
	apply(t, "dst", strings.ReplaceAll(breweryDefinition, "$GROUP", group))
	t.Cleanup(func() { tryKubectl(t, "dst", "", "delete", "crd", "casks."+group, "--wait=false") })
	dst.kind(group+"/v1", "Cask")
	require.NoError(t, dst.Refresh(t.Context()))
	kinds, _, err := dst.Kinds(t.Context())
	require.NoError(t, err)
	kinds = slices.DeleteFunc(kinds, func(k kube.Kind) bool { return !k.Namespaced || !k.Can("watch") || k.GVK.Kind == "Event" })

	seen := watchOwners(t, ns, kinds)
	_, r := document(t, "restore", "latest", "-f", file, "--to-context", "dst", "--map-storage-class", "fast=premium", "--restore-status",
		"--on-conflict=Apply") // the account that the new namespace has already
	require.Equal(t, 0, r.code, r.stdout+r.stderr)
	dst.settled(ns)
	owned, existed := seen()
	require.NotEmpty(t, owned["ConfigMap link-3"], "%v", owned)
	require.NotEmpty(t, owned["Secret link-2"])
	for name, uids := range owned {
		for _, uid := range uids {
			require.True(t, existed[uid], "%s carried the UID %s of an owner that never was in the cluster", name, uid)
		}
	}
	saved := kubectl(t, "src", "-n", ns, "get", "secret", "link-2", "-o", "jsonpath={.metadata.uid}")
	require.NotContains(t, owned["ConfigMap link-3"], saved)
	_, err = dst.get("v1", "ConfigMap", ns, "link-3")
	require.False(t, apierrors.IsNotFound(err), "the garbage collector took it")
}
