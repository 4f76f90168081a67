package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// definitions are Argo CD's kinds as far as a pause touches them. No controller
// of Argo CD runs here: only what is written, and when, is looked at.
const definitions = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: applications.argoproj.io}
spec:
  group: argoproj.io
  scope: Namespaced
  names: {kind: Application, plural: applications, singular: application, listKind: ApplicationList}
  versions: [{name: v1alpha1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: applicationsets.argoproj.io}
spec:
  group: argoproj.io
  scope: Namespaced
  names: {kind: ApplicationSet, plural: applicationsets, singular: applicationset, listKind: ApplicationSetList}
  versions: [{name: v1alpha1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
`

// gitops is an Application that manages a namespace, made by an ApplicationSet
// that another Application manages.
type gitops struct {
	t  *testing.T
	ns string
}

func newGitops(t *testing.T, ns string) *gitops {
	g := &gitops{t, ns}
	apply(t, "src", definitions)
	t.Cleanup(func() {
		tryKubectl(t, "src", "", "delete", "crd", "applications.argoproj.io", "applicationsets.argoproj.io", "--wait=false")
	})
	for _, name := range []string{"applications", "applicationsets"} {
		kubectl(t, "src", "wait", "--for=condition=Established", "--timeout=60s", "crd/"+name+".argoproj.io")
	}
	apply(t, "src", strings.ReplaceAll(`
apiVersion: argoproj.io/v1alpha1
kind: ApplicationSet
metadata: {name: shops, namespace: $NS}
spec: {generators: [], template: {}}
---
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: root, namespace: $NS}
spec: {destination: {server: "https://kubernetes.default.svc"}, syncPolicy: {automated: {selfHeal: true}}}
status: {resources: [{group: argoproj.io, version: v1alpha1, kind: ApplicationSet, namespace: $NS, name: shops}]}
---
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: unrelated, namespace: $NS}
spec: {syncPolicy: {automated: {prune: true}}}
`, "$NS", ns))
	uid := kubectl(t, "src", "-n", ns, "get", "applicationset", "shops", "-o", "jsonpath={.metadata.uid}")
	apply(t, "src", strings.NewReplacer("$NS", ns, "$UID", uid).Replace(`
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata:
  name: shop
  namespace: $NS
  ownerReferences: [{apiVersion: argoproj.io/v1alpha1, kind: ApplicationSet, name: shops, uid: $UID, controller: true}]
spec: {destination: {name: in-cluster}, syncPolicy: {automated: {prune: true, selfHeal: true}, syncOptions: [CreateNamespace=true]}}
`))
	return g
}

// specs are the specs of all of them, as JSON by name.
func (g *gitops) specs() map[string]string {
	out := map[string]string{}
	for _, name := range []string{"application/shop", "application/root", "application/unrelated", "applicationset/shops"} {
		out[name] = kubectl(g.t, "src", "-n", g.ns, "get", name, "-o", "jsonpath={.spec}{.metadata.annotations.kubectl-backup\\.io/paused}")
	}
	return out
}

// watch notes every state that an object goes through, and answers a request
// to look at it as the controller would.
func (g *gitops) watch(name string) (states func() string) {
	var mu sync.Mutex
	var seen bytes.Buffer
	cmd := exec.Command(filepath.Join(root(g.t), "bin", "kubectl"), "--kubeconfig", clusters(g.t).Kubeconfig(), "--context", "src", "-n", g.ns,
		"get", name, "--watch", "-o", "json", "--output-watch-events")
	out, err := cmd.StdoutPipe()
	require.NoError(g.t, err)
	require.NoError(g.t, cmd.Start())
	done := make(chan struct{})
	go func() {
		defer close(done)
		decoder := json.NewDecoder(out)
		for {
			var event struct {
				Object struct {
					Metadata struct {
						Annotations map[string]string `json:"annotations"`
					} `json:"metadata"`
					Spec json.RawMessage `json:"spec"`
				} `json:"object"`
			}
			if decoder.Decode(&event) != nil {
				return
			}
			if event.Object.Metadata.Annotations["argocd.argoproj.io/refresh"] != "" {
				tryKubectl(g.t, "src", "", "-n", g.ns, "annotate", name, "argocd.argoproj.io/refresh-")
			}
			mu.Lock()
			fmt.Fprintf(&seen, "%s\n", event.Object.Spec)
			mu.Unlock()
		}
	}()
	g.t.Cleanup(func() {
		cmd.Process.Kill()
		<-done
		cmd.Wait()
	})
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return seen.String()
	}
}

func TestApplicationsArePausedAndResumed(t *testing.T) {
	// Not parallel: the kinds are the cluster's.
	ns := namespace(t, "market")
	remote, _ := local(t)
	const workload = `
apiVersion: v1
kind: ConfigMap
metadata: {name: stall, namespace: $NS, annotations: {argocd.argoproj.io/tracking-id: "$NS_shop:/ConfigMap:$NS/stall"}}
data: {sells: pears}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: seller, namespace: $NS}
spec:
  selector: {matchLabels: {app: seller}}
  template:
    metadata: {labels: {app: seller}}
    spec: {containers: [{name: c, image: "localhost/none:never", imagePullPolicy: Never}]}
`
	apply(t, "src", strings.ReplaceAll(workload, "$NS", ns))
	file := spec(t, policy("  select: [{namespaces: ["+ns+"], kinds: [ConfigMap, Deployment]}]\n"), remote)
	r := backup(t, "run", "-f", file)
	require.Equal(t, 0, r.code, r.stderr)
	g := newGitops(t, ns)
	before := g.specs()
	shop, root := g.watch("application/shop"), g.watch("application/root")
	await(t, "the watches", func() (bool, error) { return shop() != "" && root() != "", nil })

	// In place: paused from above to below, and all as before at the end.
	kubectl(t, "src", "-n", ns, "delete", "configmap", "stall")
	d, _ := document(t, "restore", "latest", "-f", file, "--kinds", "ConfigMap", "--dry-run")
	require.Len(t, d.Applications, 3, "%+v", d.Applications)
	require.Equal(t, before, g.specs(), "a dry run pauses nothing")
	d, r = document(t, "restore", "latest", "-f", file, "--kinds", "ConfigMap")
	require.Equal(t, 0, r.code, r.stdout+r.stderr)
	var order []string
	for _, a := range d.Applications {
		require.Equal(t, v1alpha1.OutcomeResumed, a.Outcome, a.Reason)
		order = append(order, a.Ref.Kind+" "+a.Ref.Name)
	}
	require.Equal(t, []string{"Application root", "ApplicationSet shops", "Application shop"}, order)
	require.Empty(t, d.Warnings)
	require.Equal(t, before, g.specs())
	require.Contains(t, shop(), `"syncPolicy":{"syncOptions":["CreateNamespace=true"]}`, "it was never without automatic sync")

	// A copy is nobody's, and so nothing has to be paused.
	dropNamespace(t, "src", ns+"-copy")
	d, _ = document(t, "restore", "latest", "-f", file, "--kinds", "ConfigMap", "--map-namespace", ns+"="+ns+"-copy")
	require.Empty(t, d.Applications)

	// Killed while all are paused: nothing is lost, and one command brings
	// back what was.
	killed := func() {
		kubectl(t, "src", "-n", ns, "delete", "configmap,deployment", "stall", "seller", "--ignore-not-found")
		// The deployment never becomes healthy, so the restore waits.
		cmd := command(t, "--context", "src", "restore", "latest", "-f", file, "--timeout", "5m")
		require.NoError(t, cmd.Start())
		await(t, "the deployment", func() (bool, error) {
			_, err := tryKubectl(t, "src", "", "-n", ns, "get", "deployment", "seller")
			return err == nil, nil
		})
		require.NoError(t, cmd.Process.Signal(syscall.SIGKILL))
		cmd.Wait()
		for name, was := range before {
			if name != "application/unrelated" {
				require.NotEqual(t, was, g.specs()[name], "%s is not paused", name)
			}
		}
	}
	killed()
	r = backup(t, "argocd", "resume", "--dry-run")
	require.Equal(t, 3, strings.Count(r.stdout, "\n"), r.stdout+r.stderr)
	r = backup(t, "argocd", "resume")
	require.Equal(t, 0, r.code, r.stderr)
	require.Equal(t, before, g.specs())

	// The next restore does it as well, even one that has to pause nothing.
	killed()
	backup(t, "restore", "latest", "-f", file, "--kinds", "Deployment", "--timeout", "1s")
	require.Equal(t, before, g.specs())

	// What somebody changed while it was paused stays as they made it.
	killed()
	kubectl(t, "src", "-n", ns, "patch", "application", "shop", "--type=merge", "-p", `{"spec":{"syncPolicy":{"automated":{"prune":false}}}}`)
	r = backup(t, "argocd", "resume")
	require.Equal(t, 0, r.code, r.stderr)
	require.Contains(t, g.specs()["application/shop"], `"automated":{"prune":false}`)
	require.NotContains(t, g.specs()["application/shop"], "owner")
	require.Equal(t, before["application/root"], g.specs()["application/root"])

	// SIGTERM resumes before it ends.
	kubectl(t, "src", "-n", ns, "patch", "application", "shop", "--type=merge", "-p", `{"spec":{"syncPolicy":{"automated":{"prune":true,"selfHeal":true}}}}`)
	kubectl(t, "src", "-n", ns, "delete", "configmap,deployment", "stall", "seller", "--ignore-not-found")
	cmd := command(t, "--context", "src", "restore", "latest", "-f", file, "--timeout", "5m")
	require.NoError(t, cmd.Start())
	await(t, "the deployment", func() (bool, error) {
		_, err := tryKubectl(t, "src", "", "-n", ns, "get", "deployment", "seller")
		return err == nil, nil
	})
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	ended := time.Now()
	cmd.Wait()
	require.Equal(t, 130, cmd.ProcessState.ExitCode())
	require.Less(t, time.Since(ended), patience)
	require.Equal(t, before, g.specs())
}
