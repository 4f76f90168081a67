package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// orchard is what Argo CD keeps as it is in git, in whatever namespace it is
// told.
const orchard = `
apiVersion: v1
kind: ConfigMap
metadata: {name: recipe}
data: {apples: russet}
---
apiVersion: v1
kind: Service
metadata: {name: barrel}
spec: {clusterIP: None, selector: {app: barrel}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: barrel}
spec:
  serviceName: barrel
  replicas: 1
  selector: {matchLabels: {app: barrel}}
  template:
    metadata: {labels: {app: barrel}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: c, image: "localhost/busybox:dev", imagePullPolicy: IfNotPresent, command: [sleep, "86400"], volumeMounts: [{name: cider, mountPath: /cider}]}
  volumeClaimTemplates:
  - metadata: {name: cider}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: press}
spec:
  replicas: 1
  selector: {matchLabels: {app: press}}
  template:
    metadata: {labels: {app: press}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: "localhost/busybox:dev", imagePullPolicy: IfNotPresent, command: [sleep, "86400"], envFrom: [{configMapRef: {name: recipe}}]}]
`

// automatic is how every Application here is kept.
const automatic = `{automated: {prune: true, selfHeal: true}, syncOptions: [ServerSideApply=true]}`

// argoCD is the real one, beside cluster src, with a repository in git and an
// orchard in a namespace.
type argoCD struct {
	t    *testing.T
	repo string
	ns   string
	// file is the policy that backs the namespace up.
	file string
}

func newArgoCD(t *testing.T) *argoCD {
	a := &argoCD{t: t, repo: filepath.Join(t.TempDir(), "ops"), ns: namespace(t, "orchard")}
	require.NoError(t, os.MkdirAll(a.repo, 0o755))
	git(t, a.repo, "init", "-q")
	a.commit("orchard/all.yaml", orchard)
	remote, _ := local(t)
	t.Cleanup(func() {
		tryKubectl(t, "src", "", "-n", "argocd", "delete", "applicationsets,applications", "--all", "--wait=false")
	})
	a.file = spec(t, policy("  select: [{namespaces: ["+a.ns+"], kinds: [ConfigMap, Service, StatefulSet, Deployment]}]\n"), remote)
	return a
}

// commit puts one file into the repository.
func (a *argoCD) commit(path, content string) {
	a.t.Helper()
	file := filepath.Join(a.repo, path)
	require.NoError(a.t, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(a.t, os.WriteFile(file, []byte(content), 0o600))
	git(a.t, a.repo, "add", ".")
	git(a.t, a.repo, "commit", "-q", "-m", path)
}

// source is a folder of the repository as an Application names it.
func (a *argoCD) source(folder string) string {
	return fmt.Sprintf("{repoURL: %q, path: %s, targetRevision: HEAD}", "file://"+a.repo, folder)
}

// applied makes an Application of a folder of the repository.
func (a *argoCD) applied(name, folder, ns string) {
	a.t.Helper()
	apply(a.t, "src", fmt.Sprintf(`
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: %s, namespace: argocd}
spec: {project: default, source: %s, destination: {server: "https://kubernetes.default.svc", namespace: %s}, syncPolicy: %s}
`, name, a.source(folder), ns, automatic))
}

// syncedApp is what is read of an Application or an ApplicationSet.
type syncedApp struct {
	Metadata struct {
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec      json.RawMessage `json:"spec"`
	Operation json.RawMessage `json:"operation"`
	Status    struct {
		ReconciledAt time.Time `json:"reconciledAt"`
		Sync         struct {
			Status string `json:"status"`
		} `json:"sync"`
		Health struct {
			Status string `json:"status"`
		} `json:"health"`
		OperationState struct {
			StartedAt string `json:"startedAt"`
		} `json:"operationState"`
		Resources []struct {
			Namespace string `json:"namespace"`
		} `json:"resources"`
		Conditions json.RawMessage `json:"conditions"`
	} `json:"status"`
}

func (a *argoCD) get(name string) (out syncedApp) {
	a.t.Helper()
	require.NoError(a.t, json.Unmarshal([]byte(kubectl(a.t, "src", "-n", "argocd", "get", name, "-o", "json")), &out))
	return out
}

// good waits until Argo CD says that all is as in git, and well.
func (a *argoCD) good(name string) {
	a.t.Helper()
	var last syncedApp
	defer func() {
		if a.t.Failed() {
			a.t.Logf("%s: %+v", name, last)
		}
	}()
	await(a.t, name+" is synced and healthy", func() (bool, error) {
		out, err := tryKubectl(a.t, "src", "", "-n", "argocd", "get", "application", name, "-o", "json")
		if err != nil {
			return false, nil // yet to be made
		}
		last = syncedApp{}
		err = json.Unmarshal([]byte(out), &last)
		return last.Status.Sync.Status == "Synced" && last.Status.Health.Status == "Healthy" && last.Operation == nil, err
	})
}

// looks has Argo CD compare everything anew, from git and from the cluster,
// and returns what it found.
func (a *argoCD) looks(name string) syncedApp {
	a.t.Helper()
	asked := time.Now().Truncate(time.Second)
	kubectl(a.t, "src", "-n", "argocd", "annotate", "--overwrite", "application", name, "argocd.argoproj.io/refresh=hard")
	var found syncedApp
	await(a.t, "a look at "+name, func() (bool, error) {
		found = a.get("application/" + name)
		return found.Metadata.Annotations["argocd.argoproj.io/refresh"] == "" && !found.Status.ReconciledAt.Before(asked), nil
	})
	return found
}

// specs are the specs and the annotations of some, by name: what a pause
// changes.
func (a *argoCD) specs(names ...string) map[string]string {
	a.t.Helper()
	out := map[string]string{}
	for _, name := range names {
		got := a.get(name)
		for _, passing := range []string{"argocd.argoproj.io/refresh", "argocd.argoproj.io/application-set-refresh", "kubectl.kubernetes.io/last-applied-configuration"} {
			delete(got.Metadata.Annotations, passing)
		}
		raw, err := json.Marshal(map[string]any{"spec": got.Spec, "annotations": got.Metadata.Annotations})
		require.NoError(a.t, err)
		out[name] = string(raw)
	}
	return out
}

// versions are the resourceVersions of what is in a namespace, by name.
func (a *argoCD) versions(ns, field string) map[string]string {
	a.t.Helper()
	out := map[string]string{}
	for _, line := range strings.Fields(kubectl(a.t, "src", "-n", ns, "get", "configmap,service,statefulset,deployment,pvc",
		"-o", `jsonpath={range .items[*]}{.kind}/{.metadata.name}={.metadata.`+field+`}{"\n"}{end}`)) {
		name, value, _ := strings.Cut(line, "=")
		out[name] = value
	}
	return out
}

// shell runs a command in the pod of the barrel.
func (a *argoCD) shell(ns, command string) string {
	a.t.Helper()
	return strings.TrimSpace(kubectl(a.t, "src", "-n", ns, "exec", "barrel-0", "--", "sh", "-c", command))
}

// save fills the barrel and makes a backup.
func (a *argoCD) save() {
	a.t.Helper()
	ready(a.t, "src", a.ns, "statefulset/barrel", "deployment/press")
	a.shell(a.ns, "echo 1998 >/cider/vintage; sync")
	r := backup(a.t, "run", "-f", a.file)
	require.Equal(a.t, 0, r.code, r.stdout+r.stderr)
}

// lose removes the namespace, and with it all that Argo CD manages in it: it
// cannot make that again without.
func (a *argoCD) lose() {
	a.t.Helper()
	kubectl(a.t, "src", "delete", "namespace", a.ns, "--timeout=120s")
}

// back checks that all is there again, with its data, as the restore made it
// and not Argo CD.
func (a *argoCD) back(made map[string]string, names ...string) {
	a.t.Helper()
	for _, name := range names {
		a.good(name)
		a.looks(name)
		a.good(name)
	}
	require.Equal(a.t, "1998", a.shell(a.ns, "cat /cider/vintage"))
	require.Equal(a.t, made, a.versions(a.ns, "uid"), "nothing was removed or made anew")
}

func lines(d v1alpha1.Document) (out []string) {
	for _, l := range d.Applications {
		out = append(out, l.Ref.Kind+" "+l.Ref.Name+" "+string(l.Outcome))
	}
	return out
}

// TestArgoCD meets the real Argo CD, which syncs, heals and prunes by itself.
func TestArgoCD(t *testing.T) {
	// Not parallel: the kinds are the cluster's.
	src := clusters(t).Src
	t.Cleanup(func() { require.NoError(t, src.StopArgoCD(context.Background())) })
	require.NoError(t, src.StartArgoCD(t.Context()))
	t.Run("above", testArgoCDAbove)
	for _, method := range []string{"annotation", "label"} {
		t.Run(method, func(t *testing.T) {
			kubectl(t, "src", "-n", "argocd", "patch", "configmap", "argocd-cm", "--type=merge", "-p", `{"data":{"application.resourceTrackingMethod":"`+method+`"}}`)
			testArgoCDTracking(t, method)
		})
	}
}

// testArgoCDTracking restores what an Application manages: in place while it is
// paused, and as a copy that it leaves alone.
func testArgoCDTracking(t *testing.T, method string) {
	a := newArgoCD(t)
	app := "by-" + method
	a.applied(app, "orchard", a.ns)
	a.good(app)
	mark := kubectl(t, "src", "-n", a.ns, "get", "configmap", "recipe", "-o", "jsonpath={.metadata.annotations.argocd\\.argoproj\\.io/tracking-id}{.metadata.labels.app\\.kubernetes\\.io/instance}")
	require.Equal(t, map[string]string{"annotation": app + ":/ConfigMap:" + a.ns + "/recipe", "label": app}[method], mark)
	a.save()
	before := a.specs("application/" + app)

	a.lose()
	d, _ := document(t, "restore", "latest", "-f", a.file, "--dry-run")
	require.Equal(t, []string{"Application " + app + " Paused"}, lines(d))
	require.Equal(t, before, a.specs("application/"+app), "a dry run pauses nothing")
	a.heldBySomebody(app)
	require.Equal(t, before, a.specs("application/"+app))
	d, r := document(t, "restore", "latest", "-f", a.file)
	require.Equal(t, 0, r.code, "%s%s", r.stdout, r.stderr)
	require.Equal(t, []string{"Application " + app + " Resumed"}, lines(d))
	require.Empty(t, d.Warnings)
	require.Equal(t, before, a.specs("application/"+app))
	a.back(a.versions(a.ns, "uid"), app)

	// Beside it, a copy: it is nobody's.
	copied := a.ns + "-copy"
	dropNamespace(t, "src", copied)
	untouched := a.versions(a.ns, "resourceVersion")
	d, r = document(t, "restore", "latest", "-f", a.file, "--map-namespace", a.ns+"="+copied)
	require.Equal(t, 0, r.code, "%s%s", r.stdout, r.stderr)
	require.Empty(t, d.Applications)
	made := a.versions(copied, "uid")
	require.Len(t, made, len(untouched))
	for range 2 {
		found := a.looks(app)
		require.Equal(t, "Synced", found.Status.Sync.Status, string(found.Status.Conditions))
		for _, o := range found.Status.Resources {
			require.NotEqual(t, copied, o.Namespace)
		}
	}
	require.Equal(t, made, a.versions(copied, "uid"))
	require.Equal(t, untouched, a.versions(a.ns, "resourceVersion"))
	require.Equal(t, "1998", a.shell(copied, "cat /cider/vintage"))
	require.Equal(t, before, a.specs("application/"+app))

	// The data alone: the workload that has them open has no replicas for a
	// while, which Argo CD would take back.
	a.shell(a.ns, "echo spoilt >/cider/vintage; sync")
	d, r = document(t, "restore", "latest", "-f", a.file, "--overwrite-volumes")
	require.Equal(t, 0, r.code, "%s%s", r.stdout, r.stderr)
	require.Equal(t, []string{"Application " + app + " Resumed"}, lines(d))
	require.Equal(t, before, a.specs("application/"+app))
	a.back(a.versions(a.ns, "uid"), app)
}

// heldBySomebody does not begin while another restore may work: its end would
// resume what this one still needs paused.
func (a *argoCD) heldBySomebody(app string) {
	t := a.t
	t.Helper()
	kubectl(t, "src", "-n", "argocd", "patch", "application", app, "--type=merge", "-p",
		`{"metadata":{"annotations":{"kubectl-backup.io/paused":"{\"owner\":\"elsewhere/1/2/3\",\"since\":\"2026-01-01T00:00:00Z\",\"was\":{\"prune\":true,\"selfHeal\":true}}"}},"spec":{"syncPolicy":{"automated":null}}}`)
	d, r := document(t, "restore", "latest", "-f", a.file)
	require.Equal(t, 1, r.code, r.stderr)
	require.Contains(t, d.Error, "resume --all")
	require.Equal(t, []string{"Application " + app + " Skipped"}, lines(d))
	_, err := tryKubectl(t, "src", "", "get", "namespace", a.ns)
	require.Error(t, err, "it has begun all the same")
	r = backup(t, "argocd", "resume")
	require.Equal(t, 0, r.code, r.stderr)
	require.Empty(t, r.stdout)
	r = backup(t, "argocd", "resume", "--all")
	require.Equal(t, 0, r.code, r.stderr)
	require.Contains(t, r.stdout, "argocd/"+app)
}

// testArgoCDAbove restores what an Application manages that is made by an
// ApplicationSet that another Application manages. Each would take back what
// is done to the one below it.
func testArgoCDAbove(t *testing.T) {
	a := newArgoCD(t)
	a.commit("root/set.yaml", `
apiVersion: argoproj.io/v1alpha1
kind: ApplicationSet
metadata: {name: orchards, namespace: argocd}
spec:
  generators: [{list: {elements: [{name: fruit, namespace: `+a.ns+`}]}}]
  syncPolicy: {preserveResourcesOnDeletion: true}
  template:
    metadata: {name: "{{name}}"}
    spec: {project: default, source: `+a.source("orchard")+`, destination: {server: "https://kubernetes.default.svc", namespace: "{{namespace}}"}, syncPolicy: `+automatic+`}
`)
	a.applied("root", "root", "argocd")
	a.good("root")
	a.good("fruit")
	a.save()
	all := []string{"application/root", "applicationset/orchards", "application/fruit"}
	paused := []string{"Application root Resumed", "ApplicationSet orchards Resumed", "Application fruit Resumed"}
	before := a.specs(all...)

	// Each is seen at work: what is done to one is taken back at once.
	kubectl(t, "src", "-n", "argocd", "patch", "application", "fruit", "--type=merge", "-p", `{"spec":{"syncPolicy":{"automated":null}}}`)
	await(t, "the set takes it back", func() (bool, error) { return maps.Equal(before, a.specs(all...)), nil })
	kubectl(t, "src", "-n", "argocd", "patch", "applicationset", "orchards", "--type=merge", "-p", `{"spec":{"syncPolicy":{"preserveResourcesOnDeletion":false}}}`)
	await(t, "the root takes it back", func() (bool, error) { return maps.Equal(before, a.specs(all...)), nil })
	a.good("root")
	a.good("fruit")

	// ended ends a restore in its middle.
	ended := func(signal syscall.Signal) {
		t.Helper()
		a.lose()
		cmd := command(t, "--context", "src", "restore", "latest", "-f", a.file)
		require.NoError(t, cmd.Start())
		await(t, "the restore has begun", func() (bool, error) {
			out, err := tryKubectl(t, "src", "", "-n", a.ns, "get", "configmap", "recipe", "--ignore-not-found", "-o", "name")
			return err == nil && out != "", nil
		})
		require.NoError(t, cmd.Process.Signal(signal))
		cmd.Wait()
	}
	// killed does so at once: all are paused and stay so, however hard Argo CD
	// looks.
	killed := func() map[string]string {
		t.Helper()
		ended(syscall.SIGKILL)
		there := a.versions(a.ns, "uid")
		a.looks("root")
		a.looks("fruit")
		after := a.specs(all...)
		for _, name := range all {
			require.NotEqual(t, before[name], after[name], "%s is not paused", name)
		}
		require.Equal(t, there, a.versions(a.ns, "uid"), "Argo CD went on with what the restore had begun")
		return there
	}

	// The next restore goes on, and resumes what it found paused.
	there := killed()
	d, r := document(t, "restore", "latest", "-f", a.file, "--resume")
	require.Equal(t, 0, r.code, "%s%s", r.stdout, r.stderr)
	require.Equal(t, paused, lines(d))
	require.Equal(t, before, a.specs(all...))
	made := a.versions(a.ns, "uid")
	for name, uid := range there {
		require.Equal(t, uid, made[name], name)
	}
	a.back(made, "root", "fruit")

	// One command brings back what was, but for what somebody has changed
	// meanwhile: theirs stays.
	killed()
	r = backup(t, "argocd", "resume", "--dry-run")
	require.Equal(t, 3, strings.Count(r.stdout, "\n"), r.stdout+r.stderr)
	kubectl(t, "src", "-n", "argocd", "patch", "application", "root", "--type=merge", "-p", `{"spec":{"syncPolicy":{"automated":{"prune":false}}}}`)
	r = backup(t, "argocd", "resume")
	require.Equal(t, 0, r.code, r.stderr)
	after := a.specs(all...)
	require.Contains(t, after["application/root"], `"automated":{"prune":false}`)
	require.NotContains(t, after["application/root"], "kubectl-backup.io")
	for _, name := range all[1:] {
		require.Equal(t, before[name], after[name])
	}
	kubectl(t, "src", "-n", "argocd", "patch", "application", "root", "--type=merge", "-p", `{"spec":{"syncPolicy":{"automated":{"prune":true,"selfHeal":true}}}}`)

	// A signal that can be heard resumes before the program ends.
	ended(syscall.SIGTERM)
	require.Equal(t, before, a.specs(all...))
}
