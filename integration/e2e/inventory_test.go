package e2e

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// policyIn is a policy of a namespace: it selects there and nowhere else.
func policyIn(ns, body string) string {
	return strings.Replace(policy(body), "{name: p}", "{name: p, namespace: "+ns+"}", 1)
}

// TestTenant: a service account with rights in one namespace backs that up and
// never looks into another.
func TestTenant(t *testing.T) {
	ns := newHarbour(t)
	remote, folder := local(t)
	apply(t, "src", inNamespace(ns, `
apiVersion: v1
kind: ServiceAccount
metadata: {name: tenant, namespace: NS}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: tenant, namespace: NS}
rules: [{apiGroups: ["*"], resources: ["*"], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: tenant, namespace: NS}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: tenant}
subjects: [{kind: ServiceAccount, name: tenant, namespace: NS}]
`))
	user := "system:serviceaccount:" + ns + ":tenant"
	await(t, "the tenant's rights", func() (bool, error) {
		out, _ := tryKubectl(t, "src", "", "--as", user, "-n", ns, "auth", "can-i", "list", "configmaps")
		return strings.TrimSpace(out) == "yes", nil
	})
	w := watchUser(t, user)
	f := spec(t, policyIn(ns, "  select: [{}]\n  volumes: [{method: Skip}]\n"), remote)
	plan, r := document(t, "plan", "-f", f, "--as", user)
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, plan.Unread)
	run, r := document(t, "run", "-f", f, "--as", user)
	require.Equal(t, 0, r.code, r.stderr)
	for _, o := range run.Objects {
		require.Contains(t, []string{ns, ""}, o.Ref.Namespace, "%+v", o)
	}
	for kind, name := range map[string]string{"Deployment": "beacon", "Secret": "radio", "PersistentVolumeClaim": "logbook", "ConfigMap": "unrelated", "Namespace": ns} {
		space := ns
		if kind == "Namespace" {
			space = ""
		}
		require.Equal(t, v1alpha1.OutcomeSaved, objectLine(t, run, kind, space, name).Outcome)
	}
	// The class is the cluster's; the tenant's rights do not reach it, and
	// its policy does not promise it.
	require.Equal(t, v1alpha1.OutcomeReferred, objectLine(t, run, "StorageClass", "", "slow").Outcome)
	for _, q := range w.requests() {
		require.Contains(t, []string{"get", "list", "watch"}, q.Verb, q.RequestURI)
		if q.ObjectRef == nil {
			continue // discovery
		}
		if q.Verb != "get" {
			require.Equal(t, ns, q.ObjectRef.Namespace, q.RequestURI)
			continue
		}
		identity := q.ObjectRef.Resource == "namespaces" && q.ObjectRef.Name == "kube-system"
		require.True(t, identity || q.ObjectRef.Namespace == ns || q.ObjectRef.Namespace == "", q.RequestURI)
	}

	t.Run("the same by -n", func(t *testing.T) {
		d, r := document(t, "plan", "-f", spec(t, policy("  select: [{}]\n  volumes: [{method: Skip}]\n"), remote), "--as", user, "-n", ns)
		require.Equal(t, 0, r.code, r.stderr)
		require.Equal(t, plan.Objects, d.Objects)
	})
	t.Run("another namespace", func(t *testing.T) {
		d, r := document(t, "plan", "-f", spec(t, policyIn("default", "  select: [{kinds: [Secret]}]\n"), remote), "--as", user)
		require.Equal(t, 1, r.code, "%+v", d)
		require.Contains(t, d.Error, "no right to list secrets in namespace default")
	})
	t.Run("a namespace that is not there", func(t *testing.T) {
		d, r := document(t, "plan", "-f", spec(t, policyIn("no-such-namespace-here", "  select: [{}]\n"), remote))
		require.Equal(t, 1, r.code)
		require.Contains(t, d.Error, "no-such-namespace-here does not exist")
	})
	t.Run("latest of an unknown cluster", func(t *testing.T) {
		before := listing(t, folder)
		d, r := document(t, "restore", "latest", "-f", f, "--as", user, "--dry-run=client")
		require.Equal(t, 2, r.code, "%+v", d)
		oneError(t, r, "kube-system", "--from-cluster")
		require.Equal(t, before, listing(t, folder))
	})
}

// TestAggregatedAPIDown: a group whose server is down makes a backup of
// everything partial, a backup without that group complete, and a backup of
// that very group fail.
func TestAggregatedAPIDown(t *testing.T) {
	ns := namespace(t, "lagoon")
	remote, _ := local(t)
	group := word(t, "lagoon") + ".example.net"
	apply(t, "src", fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: datum, namespace: %[1]s}\ndata: {level: \"0.4\"}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: nobody-there, namespace: %[1]s}\nspec: {ports: [{port: 443}]}\n", ns))
	t.Cleanup(func() { kubectl(t, "src", "delete", "apiservice", "v1."+group) })
	apply(t, "src", fmt.Sprintf("apiVersion: apiregistration.k8s.io/v1\nkind: APIService\nmetadata: {name: v1.%[2]s}\nspec: {group: %[2]s, version: v1, groupPriorityMinimum: 1000, versionPriority: 15, insecureSkipTLSVerify: true, service: {namespace: %[1]s, name: nobody-there, port: 443}}\n", ns, group))
	everything := "  select: [{namespaces: [" + ns + "]}]\n"
	unread := func(d v1alpha1.Document) string {
		for _, u := range d.Unread {
			if u.Group == group && u.Version == "v1" {
				return u.Reason
			}
		}
		return ""
	}
	all := spec(t, policy(everything), remote)
	await(t, "discovery to notice", func() (bool, error) {
		d, _ := document(t, "plan", "-f", all)
		return unread(d) != "", nil
	})
	t.Run("everything", func(t *testing.T) {
		d, r := document(t, "run", "-f", all)
		require.Equal(t, 3, r.code)
		require.Equal(t, v1alpha1.ResultPartial, d.Result)
		require.Equal(t, v1alpha1.OutcomeSaved, objectLine(t, d, "ConfigMap", ns, "datum").Outcome)
		require.NotEmpty(t, unread(d))
		stored, _ := document2(t, 3, "describe", d.Backup, "-f", all)
		require.Equal(t, unread(d), unread(stored), "the record says so too")
		require.Contains(t, backup(t, "describe", d.Backup, "-f", all).stdout, group)
	})
	t.Run("without the group", func(t *testing.T) {
		d, r := document(t, "run", "-f", spec(t, policy(everything+"  exclude: [{kinds: [\"*."+group+"\"]}]\n"), remote))
		require.Empty(t, unread(d))
		if len(d.Unread) == 0 { // another group may be down that is not this test's
			require.Equal(t, 0, r.code, r.stderr)
		}
		require.Equal(t, v1alpha1.OutcomeSaved, objectLine(t, d, "ConfigMap", ns, "datum").Outcome)
	})
	t.Run("a kind that is read", func(t *testing.T) {
		_, r := document(t, "run", "-f", spec(t, policy("  select: [{kinds: [ConfigMap], namespaces: ["+ns+"]}]\n"), remote))
		require.Equal(t, 0, r.code, r.stderr)
	})
	for _, kind := range []string{"Tide." + group, "'*." + group + "'"} {
		t.Run("the group by name "+kind, func(t *testing.T) {
			d, r := document(t, "run", "-f", spec(t, policy("  select: [{namespaces: ["+ns+"]}, {kinds: ["+kind+"]}]\n"), remote))
			require.Equal(t, 1, r.code)
			require.Equal(t, v1alpha1.ResultFailed, d.Result)
			require.Empty(t, d.Backup)
			oneError(t, r, group+"/v1", "cannot be read")
		})
	}
}

// document2 is document for commands that show a stored report: their own exit
// code is 0, the report's stands in it.
func document2(t *testing.T, reported int, args ...string) (v1alpha1.Document, result) {
	t.Helper()
	r := backup(t, append(args, "-o", "json")...)
	require.Equal(t, 0, r.code, r.stderr)
	var d v1alpha1.Document
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &d), r.stdout)
	require.Equal(t, reported, d.ExitCode)
	return d, r
}

// gateway is a reverse proxy before the API server of src and a kubeconfig that
// leads through it.
type gateway struct {
	kubeconfig string
	mu         sync.Mutex
	starts     map[string]int // lists begun, by path and label selector
}

func newGateway(t *testing.T, answer func(http.ResponseWriter, *http.Request) bool) *gateway {
	t.Helper()
	cfg := restConfig(t, "src")
	target, _, err := rest.DefaultServerUrlFor(cfg)
	require.NoError(t, err)
	transport, err := rest.TransportFor(cfg)
	require.NoError(t, err)
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, Transport: transport}
	g := &gateway{starts: map[string]int{}, kubeconfig: filepath.Join(t.TempDir(), "kubeconfig")}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if q := r.URL.Query(); q.Get("limit") != "" && q.Get("continue") == "" {
			g.mu.Lock()
			g.starts[r.URL.Path+" "+q.Get("labelSelector")]++
			g.mu.Unlock()
		}
		if !answer(w, r) {
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	require.NoError(t, os.WriteFile(g.kubeconfig, fmt.Appendf(nil, "apiVersion: v1\nkind: Config\nclusters: [{name: gate, cluster: {server: %q}}]\ncontexts: [{name: src, context: {cluster: gate, user: nobody}}]\nusers: [{name: nobody, user: {}}]\ncurrent-context: src\n", server.URL), 0o600))
	return g
}

// TestListWhoseTokenExpiresInARun: a backup through a server that forgets its
// continue tokens has each object once, or fails and says which kind.
func TestListWhoseTokenExpiresInARun(t *testing.T) {
	direct := clusterOf(t, restConfig(t, "src"))
	ns := scratch(t, direct)
	const many = 1200
	fill(t, direct, ns, many)
	path := "/api/v1/namespaces/" + ns + "/configmaps"
	body := "  select: [{kinds: [ConfigMap, Secret], labelSelector: {matchLabels: {app: fill}}}]\n  dependencies: Ignore\n"
	for name, fresh := range map[string]bool{"fresh token": true, "no token": false} {
		t.Run(name, func(t *testing.T) {
			remote, _ := local(t)
			var spoiled atomic.Bool
			g := newGateway(t, func(w http.ResponseWriter, r *http.Request) bool {
				token := r.URL.Query().Get("continue")
				if token == "" || r.URL.Path != path || !spoiled.CompareAndSwap(false, true) {
					return false
				}
				if !fresh {
					token = ""
				}
				expire(w, token)
				return true
			})
			f := spec(t, policyIn(ns, body), remote)
			d, r := document(t, "run", "-f", f, "--kubeconfig", g.kubeconfig)
			require.Equal(t, 0, r.code, r.stderr)
			require.True(t, spoiled.Load())
			saved := map[string]int{}
			for _, o := range d.Objects {
				if o.Ref.Kind == "ConfigMap" && o.Outcome == v1alpha1.OutcomeSaved {
					saved[o.Ref.Name]++
				}
			}
			require.Len(t, saved, many)
			require.Contains(t, strings.Join(d.Warnings, "\n"), "ConfigMap was not a snapshot")
			uids := uidsOf(t, f, d.Backup)
			require.Len(t, uids, len(d.Objects))
			for start, n := range g.starts {
				if !strings.HasPrefix(start, path+" ") {
					require.Equal(t, 1, n, start)
				}
			}
			require.Contains(t, []int{1, 2}, g.starts[path+" app=fill"], "%v", g.starts)
		})
	}
	t.Run("always", func(t *testing.T) {
		remote, _ := local(t)
		g := newGateway(t, func(w http.ResponseWriter, r *http.Request) bool {
			token := r.URL.Query().Get("continue")
			if token == "" || r.URL.Path != path {
				return false
			}
			expire(w, token)
			return true
		})
		f := spec(t, policyIn(ns, body), remote)
		d, r := document(t, "run", "-f", f, "--kubeconfig", g.kubeconfig)
		require.Equal(t, 3, r.code, "a list that does not end is no success")
		require.Len(t, d.Unread, 1)
		require.Equal(t, "ConfigMap", d.Unread[0].Kind)
		require.Contains(t, d.Unread[0].Reason, "too old")
		require.LessOrEqual(t, g.starts[path+" app=fill"], 10)
		require.NotEmpty(t, g.starts[path+" app=fill"])
	})
}

// uidsOf exports a backup as it was stored and returns the UIDs in it; none
// may come twice.
func uidsOf(t *testing.T, f, id string) map[string]string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "raw")
	r := backup(t, "export", id, "-f", f, "--raw", "--to", folder)
	require.Equal(t, 0, r.code, r.stderr)
	uids := map[string]string{}
	for name, text := range filesBelow(t, folder) {
		var o struct{ Metadata struct{ UID string } }
		require.NoError(t, yaml.Unmarshal([]byte(text), &o), name)
		require.NotEmpty(t, o.Metadata.UID, name)
		require.Empty(t, uids[o.Metadata.UID], "%s is there twice", name)
		uids[o.Metadata.UID] = name
	}
	return uids
}

func filesBelow(t *testing.T, folder string) map[string]string {
	t.Helper()
	files := map[string]string{}
	require.NoError(t, filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		name, _ := filepath.Rel(folder, path)
		files[filepath.ToSlash(name)] = string(text)
		return err
	}))
	return files
}

// TestOneObjectOfTwoGroups: what the server shows under two groups or versions
// is stored once.
func TestOneObjectOfTwoGroups(t *testing.T) {
	ns := namespace(t, "twice")
	remote, _ := local(t)
	apply(t, "src", inNamespace(ns, `
apiVersion: v1
kind: Event
metadata: {name: told, namespace: NS}
involvedObject: {apiVersion: v1, kind: Namespace, name: NS, namespace: NS}
reason: Told
message: something happened
type: Normal
---
apiVersion: autoscaling/v1
kind: HorizontalPodAutoscaler
metadata: {name: loom, namespace: NS}
spec: {maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: loom}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: loom, namespace: NS}
spec: {defaultBackend: {service: {name: loom, port: {number: 80}}}}
`))
	f := spec(t, policyIn(ns, "  select: [{}, {name: events, kinds: [Event]}]\n"), remote)
	d, r := document(t, "run", "-f", f)
	require.Equal(t, 0, r.code, r.stderr)
	seen := map[string]int{}
	for _, o := range d.Objects {
		seen[o.Ref.Kind+" "+o.Ref.Name]++
	}
	for _, name := range []string{"Event told", "HorizontalPodAutoscaler loom", "Ingress loom"} {
		require.Equal(t, 1, seen[name], name)
	}
	require.NotEmpty(t, uidsOf(t, f, d.Backup))
	for _, o := range d.Objects {
		if o.Ref.Kind == "HorizontalPodAutoscaler" {
			require.Equal(t, "v2", o.Ref.Version, "the version that the server prefers")
		}
	}
}

// TestExpressionOnWhatIsNotThere: an expression that fails is never a silent
// no, and one that says what it means about absent fields does not fail.
func TestExpressionOnWhatIsNotThere(t *testing.T) {
	ns := namespace(t, "absent")
	remote, _ := local(t)
	apply(t, "src", inNamespace(ns, `
apiVersion: v1
kind: ConfigMap
metadata: {name: plain, namespace: NS}
data: {a: b}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: shiny, namespace: NS, labels: {rank: high}}
data: {a: b}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: broad, namespace: NS}
spec:
  replicas: 0
  paused: true
  revisionHistoryLimit: 9
  selector: {matchLabels: {app: broad}}
  template:
    metadata: {labels: {app: broad}}
    spec: {containers: [{name: c, image: "localhost/busybox:dev"}]}
`))
	const fails = "object.metadata.labels['rank'] == 'high' || object.spec.revisionHistoryLimit > 2"
	select1 := func(expression string) string {
		return "  select: [{name: ranked, expression: \"" + expression + "\"}]\n  dependencies: Ignore\n"
	}
	outcomes := func(d v1alpha1.Document) map[string]v1alpha1.Outcome {
		out := map[string]v1alpha1.Outcome{}
		for _, o := range d.Objects {
			if slices.Contains([]string{"ConfigMap", "Deployment"}, o.Ref.Kind) {
				out[o.Ref.Name] = o.Outcome
			}
		}
		return out
	}
	t.Run("reported", func(t *testing.T) {
		d, r := document(t, "run", "-f", spec(t, policyIn(ns, select1(fails)), remote))
		require.Equal(t, 3, r.code, r.stderr)
		require.NotEmpty(t, d.Backup)
		require.Equal(t, map[string]v1alpha1.Outcome{"plain": v1alpha1.OutcomeUndecided, "shiny": v1alpha1.OutcomeSaved, "broad": v1alpha1.OutcomeSaved}, outcomes(d))
		o := objectLine(t, d, "ConfigMap", ns, "plain")
		for _, want := range []string{`"ranked"`, "plain", "no such key", "object.metadata.labels['rank']"} {
			require.Contains(t, o.Reason, want)
		}
	})
	t.Run("included", func(t *testing.T) {
		d, r := document(t, "run", "-f", spec(t, policyIn(ns, select1(fails)+"  onExpressionError: Include\n"), remote))
		require.Equal(t, 0, r.code, r.stderr)
		require.Equal(t, map[string]v1alpha1.Outcome{"plain": v1alpha1.OutcomeSaved, "shiny": v1alpha1.OutcomeSaved, "broad": v1alpha1.OutcomeSaved}, outcomes(d))
		require.Contains(t, strings.Join(objectLine(t, d, "ConfigMap", ns, "plain").Warnings, "\n"), "no such key")
		require.Empty(t, objectLine(t, d, "ConfigMap", ns, "shiny").Warnings)
	})
	for name, expression := range map[string]string{
		"optional": "object.?metadata.?labels['rank'].orValue('') == 'high'", "labels": "labels.?rank.orValue('') == 'high'", "in": "'rank' in labels && labels.rank == 'high'",
	} {
		t.Run(name, func(t *testing.T) {
			d, r := document(t, "run", "-f", spec(t, policyIn(ns, select1(expression)), remote))
			require.Equal(t, 0, r.code, r.stderr)
			require.Equal(t, map[string]v1alpha1.Outcome{"shiny": v1alpha1.OutcomeSaved}, outcomes(d))
			require.Empty(t, d.Warnings)
		})
	}
}

// TestNamespaceComesAlong: a backup of one object has its Namespace, with
// everything that a person wrote into it.
func TestNamespaceComesAlong(t *testing.T) {
	ns := namespace(t, "home")
	remote, _ := local(t)
	kubectl(t, "src", "label", "namespace", ns, "pod-security.kubernetes.io/enforce=baseline", "cost.example.net/centre=771")
	kubectl(t, "src", "annotate", "namespace", ns, "range.example.net/uids=1000680000/10000", "pool.example.net/colour=blue")
	apply(t, "src", inNamespace(ns, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: alone, namespace: NS, labels: {pick: me}}\ndata: {k: v}\n"))
	f := spec(t, policy("  select: [{namespaces: ["+ns+"], labelSelector: {matchLabels: {pick: me}}}]\n"), remote)
	d, r := document(t, "run", "-f", f)
	require.Equal(t, 0, r.code, r.stderr)
	require.Equal(t, v1alpha1.OutcomeSaved, objectLine(t, d, "Namespace", "", ns).Outcome)
	require.Len(t, d.Objects, 2, "%+v", d.Objects)
	folder := filepath.Join(t.TempDir(), "out")
	require.Equal(t, 0, backup(t, "export", d.Backup, "-f", f, "--to", folder).code)
	var exported struct {
		Metadata struct{ Labels, Annotations map[string]string }
	}
	require.NoError(t, yaml.Unmarshal([]byte(filesBelow(t, folder)["cluster/namespace/"+ns+".yaml"]), &exported))
	require.Equal(t, "baseline", exported.Metadata.Labels["pod-security.kubernetes.io/enforce"])
	require.Equal(t, "771", exported.Metadata.Labels["cost.example.net/centre"])
	require.Equal(t, "1000680000/10000", exported.Metadata.Annotations["range.example.net/uids"])
	require.Equal(t, "blue", exported.Metadata.Annotations["pool.example.net/colour"])
}

// farAndNear makes two Services, of which one leads to an address that a person
// wrote, and waits for what controllers make for the other.
func farAndNear(t *testing.T, ns string) {
	t.Helper()
	apply(t, "src", inNamespace(ns, `
apiVersion: v1
kind: Service
metadata: {name: far, namespace: NS}
spec: {ports: [{name: tn, port: 992}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: far, namespace: NS}
subsets: [{addresses: [{ip: 192.0.2.44}], ports: [{name: tn, port: 992}]}]
---
apiVersion: v1
kind: Service
metadata: {name: near, namespace: NS}
spec: {selector: {app: near}, ports: [{port: 80}]}
`))
	await(t, "generated endpoints", func() (bool, error) {
		out := kubectl(t, "src", "-n", ns, "get", "endpointslices", "-o", "name")
		_, err := tryKubectl(t, "src", "", "-n", ns, "get", "endpoints", "near")
		return strings.Contains(out, "/near-") && err == nil, nil
	})
}

// inBackup are the kinds and names of what a plan includes or a run saved,
// sorted.
func inBackup(d v1alpha1.Document) (in []string) {
	for _, o := range d.Objects {
		if o.Outcome == v1alpha1.OutcomeInclude || o.Outcome == v1alpha1.OutcomeSaved {
			in = append(in, o.Ref.Kind+" "+o.Ref.Name)
		}
	}
	slices.Sort(in)
	return in
}

// TestWhatBelongsToAServiceThatIsNeeded: what a person wrote for a Service comes
// along where the Service only does because somebody calls it.
func TestWhatBelongsToAServiceThatIsNeeded(t *testing.T) {
	ns := namespace(t, "needed")
	remote, _ := local(t)
	apply(t, "src", inNamespace(ns, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: caller, namespace: NS, labels: {tier: gold}}
spec:
  replicas: 0
  selector: {matchLabels: {app: caller}}
  template:
    metadata: {labels: {app: caller}}
    spec: {serviceAccountName: caller, containers: [{name: c, image: localhost/busybox:dev, env: [{name: FAR_HOST, value: far}, {name: NEAR_HOST, value: near}]}]}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: caller, namespace: NS}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: as-user, namespace: NS}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: "system:serviceaccount:NS:caller"}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: far-a, namespace: NS, labels: {kubernetes.io/service-name: far}}
addressType: IPv4
endpoints: [{addresses: [192.0.2.44]}]
ports: [{name: tn, port: 992}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: other-a, namespace: NS, labels: {kubernetes.io/service-name: other}}
addressType: IPv4
endpoints: [{addresses: [192.0.2.45]}]
`))
	farAndNear(t, ns)
	f := spec(t, policy("  select: [{kinds: [Deployment], labelSelector: {matchLabels: {tier: gold}}, namespaces: ["+ns+"]}]\n"), remote)
	for _, command := range []string{"plan", "run"} {
		d, r := document(t, command, "-f", f)
		require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, d.Unread)
		require.Equal(t, []string{"Deployment caller", "EndpointSlice far-a", "Endpoints far", "Namespace " + ns, "RoleBinding as-user", "Service far", "Service near", "ServiceAccount caller"}, inBackup(d))
	}
}

// TestGeneratedObjectsAndLookAlikesInARun: hand-written endpoints are saved,
// those that a controller makes are not, and nothing is said about them.
func TestGeneratedObjectsAndLookAlikesInARun(t *testing.T) {
	ns := namespace(t, "alike")
	remote, _ := local(t)
	apply(t, "src", inNamespace(ns, `
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: far-a, namespace: NS, labels: {kubernetes.io/service-name: far, endpointslice.kubernetes.io/managed-by: people.example.net}}
addressType: IPv4
endpoints: [{addresses: [192.0.2.44]}]
ports: [{name: tn, port: 992}]
`))
	farAndNear(t, ns)
	f := spec(t, policyIn(ns, "  select: [{}]\n"), remote)
	d, r := document(t, "run", "-f", f)
	require.Equal(t, 0, r.code, r.stderr)
	require.Empty(t, d.Warnings)
	for _, o := range d.Objects {
		require.Empty(t, o.Warnings, "%+v", o)
		require.NotEqual(t, v1alpha1.OutcomeMissing, o.Outcome, "%+v", o)
	}
	saved := inBackup(d)
	require.Equal(t, []string{"EndpointSlice far-a", "Endpoints far", "Namespace " + ns, "Service far", "Service near"}, saved)
	whole, _ := document(t, "plan", "-f", spec(t, policy("  select: [{}]\n"), remote))
	for _, o := range whole.Objects {
		if o.Outcome == v1alpha1.OutcomeInclude {
			require.NotContains(t, []string{"Lease", "Event", "Node", "IPAddress", "ClusterTrustBundle", "FlowSchema", "ControllerRevision"}, o.Ref.Kind, "%+v", o)
			require.False(t, o.Ref.Namespace == "default" && o.Ref.Name == "kubernetes", "%+v", o)
			require.NotEqual(t, "kube-root-ca.crt", o.Ref.Name)
			require.False(t, strings.HasPrefix(o.Ref.Name, "system:") && o.Ref.Group == "rbac.authorization.k8s.io", "%+v", o)
		}
	}
}

// TestTwoClustersOneRemote: each cluster's latest is its own.
func TestTwoClustersOneRemote(t *testing.T) {
	ns := namespace(t, "both")
	apply(t, "dst", fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s}\n", ns))
	remote, _ := local(t)
	for context, cluster := range map[string]string{"src": "A", "dst": "B"} {
		apply(t, context, inNamespace(ns, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: who, namespace: NS}\ndata: {cluster: "+cluster+"}\n"))
	}
	f := spec(t, policy("  select: [{kinds: [ConfigMap], namespaces: ["+ns+"], expression: 'object.metadata.name == \"who\"'}]\n"), remote)
	at := func(context string, args ...string) (v1alpha1.Document, result) {
		t.Helper()
		r := finish(t, command(t, append([]string{"--context", context}, append(args, "-f", f, "-o", "json")...)...))
		var d v1alpha1.Document
		require.NoError(t, json.Unmarshal([]byte(r.stdout), &d), "%s\n%s", r.stdout, r.stderr)
		return d, r
	}
	inSrc, r := at("src", "run")
	require.Equal(t, 0, r.code, r.stderr)
	none, r := at("dst", "restore", "latest", "--dry-run=client")
	require.Equal(t, 1, r.code, "%+v", none)
	oneError(t, r, "--from-cluster")
	inDst, r := at("dst", "run")
	require.Equal(t, 0, r.code, r.stderr)
	require.NotEqual(t, inSrc.Cluster.UID, inDst.Cluster.UID)
	again, r := at("src", "run")
	require.Equal(t, 0, r.code, r.stderr)

	for _, c := range []struct {
		context string
		flags   []string
		want    string
	}{
		{"dst", nil, inDst.Backup}, {"src", nil, again.Backup},
		{"dst", []string{"--from-cluster", inSrc.Cluster.UID}, again.Backup}, {"dst", []string{"--from-cluster", "any"}, again.Backup},
		{"src", []string{"--from-cluster", inDst.Cluster.UID}, inDst.Backup}, {"src", []string{"--to-context", "dst"}, again.Backup},
	} {
		d, r := at(c.context, append([]string{"restore", "latest", "--dry-run=client"}, c.flags...)...)
		require.Contains(t, []int{0, 3}, r.code, r.stderr)
		require.Equal(t, c.want, d.Backup, "%+v", c)
	}
	for id, cluster := range map[string]string{inSrc.Backup: "A", inDst.Backup: "B", again.Backup: "A"} {
		folder := filepath.Join(t.TempDir(), "out")
		require.Equal(t, 0, backup(t, "export", id, "-f", f, "--to", folder).code)
		require.Contains(t, filesBelow(t, folder)["namespaces/"+ns+"/configmap/who.yaml"], "cluster: "+cluster)
	}
	list := backup(t, "list", "-f", f, "--filter", `cluster == "`+inDst.Cluster.UID+`"`, "-o", "json")
	require.Contains(t, list.stdout, inDst.Backup)
	require.NotContains(t, list.stdout, inSrc.Backup)
}

// lookAlikes holds values that lose their type or digits in careless hands.
const lookAlikes = `{"zero":"0","octal":"0123","yes":"yes","no":"no","on":"on","null":"null","tilde":"~","empty":"","float":"1e3","date":"2001-01-01","hex":"0x1F","time":"12:30:45","space":" a ","lines":"a\nb\n","quote":"\"'","colon":"a: b","hash":"#a","star":"*a"}`

const numbers = `{"big":9007199254740993,"max":9223372036854775807,"min":-9223372036854775808,"float":0.1,"half":1.5,"text":"9007199254740993","nothing":null,"none":{},"list":[],"true":true,"yes":"yes","deep":[{"a":[1,"1",null]}]}`

// TestExport writes a backup as files that kubectl applies to another cluster,
// and compares what a user would lose on the way.
func TestExport(t *testing.T) {
	ns := namespace(t, "export")
	remote, _ := local(t)
	group, _ := buoys(t, "dst")
	mark := word(t, "quay")
	upper := "system:" + strings.ToUpper(mark[:1]) + mark[1:] + ":Reader"
	lower := "system:" + mark + ":reader"
	long := mark + "-" + strings.Repeat("settlement-statements-kept-for-the-auditor-", 5) + "one"
	require.Greater(t, len(long), 200)
	for _, context := range []string{"src", "dst"} {
		t.Cleanup(func() { tryKubectl(t, context, "", "delete", "clusterrole", upper, lower, "--ignore-not-found") })
	}
	var objects []string
	for name, rule := range map[string]string{upper: "get", lower: "list"} {
		objects = append(objects, fmt.Sprintf("apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: %q, labels: {quay: %s}}\nrules: [{apiGroups: [\"\"], resources: [pods], verbs: [%s]}]\n", name, mark, rule))
	}
	for _, name := range []string{long, long[:len(long)-3] + "two", "dots.in.a.name"} {
		objects = append(objects, fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: %s, labels: {quay: %s}, annotations: {of: %q}}\ndata: %s\n", name, ns, mark, name, lookAlikes))
	}
	objects = append(objects, fmt.Sprintf(`{"apiVersion":"%s/v1","kind":"Buoy","metadata":{"name":"numbers","namespace":"%s","labels":{"quay":"%s"}},"spec":%s}`, group, ns, mark, numbers))
	apply(t, "src", strings.Join(objects, "\n---\n"))
	f := spec(t, policy("  select: [{labelSelector: {matchLabels: {quay: "+mark+"}}}]\n"), remote)
	d, r := document(t, "run", "-f", f)
	require.Equal(t, 0, r.code, r.stderr)

	folder := filepath.Join(t.TempDir(), "out")
	r = backup(t, "export", "latest", "-f", f, "--to", folder)
	require.Equal(t, 0, r.code, r.stderr)
	require.Empty(t, r.stdout)
	files := filesBelow(t, folder)
	saved := 0
	for _, o := range d.Objects {
		if o.Outcome == v1alpha1.OutcomeSaved {
			saved++
		}
	}
	require.Len(t, files, saved)
	folded := map[string]string{}
	plain := regexp.MustCompile(`^[a-z0-9._/-]+$`)
	for name := range files {
		require.Empty(t, folded[strings.ToLower(name)], "%s meets %s where case is ignored", name, folded[strings.ToLower(name)])
		folded[strings.ToLower(name)] = name
		require.Regexp(t, plain, name)
		require.LessOrEqual(t, len(filepath.Base(name)), 255)
	}

	tarred := backup(t, "export", d.Backup, "-f", f)
	require.Equal(t, 0, tarred.code, tarred.stderr)
	require.Equal(t, files, untar(t, tarred.stdout), "the archive has the files of the folder")
	require.Equal(t, tarred.stdout, backup(t, "export", d.Backup, "-f", f).stdout, "exported twice")

	t.Run("into a folder that is not empty", func(t *testing.T) {
		r := backup(t, "export", "latest", "-f", f, "--to", folder)
		require.Equal(t, 2, r.code)
		oneError(t, r, "is not empty", "hint:")
		require.Equal(t, files, filesBelow(t, folder))
	})
	t.Run("a part", func(t *testing.T) {
		for name, c := range map[string]struct {
			args []string
			want int
		}{
			"kinds":     {[]string{"--kinds", "ClusterRole"}, 2},
			"filter":    {[]string{"--filter", `ref.kind == "ConfigMap" && object.metadata.name.endsWith("two")`}, 1},
			"names":     {[]string{"--names", "numbers,dots.in.a.name"}, 2},
			"selector":  {[]string{"-l", "quay=" + mark}, 6},
			"namespace": {[]string{"--namespaces", ns, "--kinds", "ConfigMap,Buoy." + group}, 4},
		} {
			part := filepath.Join(t.TempDir(), "part")
			r := backup(t, append([]string{"export", "latest", "-f", f, "--to", part}, c.args...)...)
			require.Equal(t, 0, r.code, r.stderr)
			require.Len(t, filesBelow(t, part), c.want, name)
		}
		r := backup(t, "export", "latest", "-f", f, "--names", "nobody", "--to", filepath.Join(t.TempDir(), "none"))
		require.Equal(t, 2, r.code)
		oneError(t, r, "no object")
	})

	// Namespaces first, and the rest in any order: that is how people do it.
	kubectl(t, "dst", "apply", "--server-side", "-f", filepath.Join(folder, "cluster", "namespace"))
	kubectl(t, "dst", "apply", "--server-side", "--force-conflicts", "-R", "-f", folder)
	verbs := func(context, name string) string {
		return kubectl(t, context, "get", "clusterrole", name, "-o", "jsonpath={.rules[0].verbs[0]}")
	}
	require.Equal(t, "get", verbs("dst", upper))
	require.Equal(t, "list", verbs("dst", lower))
	for _, what := range [][]string{{"configmap", long}, {"configmap", long[:len(long)-3] + "two"}, {"configmap", "dots.in.a.name"}} {
		get := func(context string) string {
			return kubectl(t, context, "-n", ns, "get", what[0], what[1], "-o", "jsonpath={.data}{.metadata.annotations.of}{.metadata.labels}")
		}
		require.Equal(t, get("src"), get("dst"))
		require.Contains(t, get("dst"), `"octal":"0123"`)
	}
	numbersIn := func(context string) string {
		return kubectl(t, context, "get", "--raw", "/apis/"+group+"/v1/namespaces/"+ns+"/buoys/numbers")
	}
	specOf := func(raw string) string {
		var o struct{ Spec json.RawMessage }
		require.NoError(t, json.Unmarshal([]byte(raw), &o))
		return string(o.Spec)
	}
	require.Equal(t, specOf(numbersIn("src")), specOf(numbersIn("dst")))
	for _, want := range []string{"9007199254740993", "9223372036854775807", "-9223372036854775808", "0.1", `"nothing":null`} {
		require.Contains(t, specOf(numbersIn("src")), want)
	}
}

func untar(t *testing.T, archive string) map[string]string {
	t.Helper()
	files := map[string]string{}
	in := tar.NewReader(strings.NewReader(archive))
	for {
		header, err := in.Next()
		if err == io.EOF {
			return files
		}
		require.NoError(t, err)
		text, err := io.ReadAll(in)
		require.NoError(t, err)
		files[header.Name] = string(text)
	}
}

// TestListByConstants finds a backup by each of its constants. The policies
// have long names that differ at their end alone.
func TestListByConstants(t *testing.T) {
	ns := newHarbour(t)
	remote, _ := local(t)
	apply(t, "src", inNamespace(ns, "apiVersion: v1\nkind: Pod\nmetadata: {name: teller, namespace: NS}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers: [{name: counter, image: \"localhost/busybox:dev\", command: [sh, -c, \"echo a > /v/a; exec sleep 100000\"], volumeMounts: [{name: till, mountPath: /v}]}]\n  volumes: [{name: till, emptyDir: {}}]\n"))
	ready(t, "src", ns, "pod/teller")
	long := strings.Repeat("nightly-settlement-and-reconciliation.", 5) + "eu"
	named := func(name, body string) string {
		return strings.Replace(policy(body), "{name: p}", "{name: "+name+", labels: {team: "+name[len(name)-2:]+"}}", 1)
	}
	body := inNamespace(ns, "  select: [{kinds: [Pod], namespaces: [NS]}]\n  volumes: [{method: Stream}]\n")
	var ids []string
	for _, name := range []string{long + ".one-aa", long + ".two-bb"} {
		d, r := document(t, "run", "-f", spec(t, named(name, body), remote))
		require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, d.Volumes)
		require.Equal(t, v1alpha1.OutcomeSaved, volumeOf(t, d, "till").Outcome)
		ids = append(ids, d.Backup)
	}
	f := spec(t, policy("  select: [{}]\n"), remote)
	described, _ := document2(t, 0, "describe", ids[0], "-f", f)
	uid := kubectl(t, "src", "get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}")
	require.Equal(t, uid, described.Cluster.UID)
	tomorrow := time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339)
	yesterday := time.Now().Add(-24 * time.Hour).UTC().Format(time.RFC3339)
	for filter, found := range map[string][2]bool{
		`policy == "` + long + `.one-aa"`:                          {true, false},
		`policy.startsWith("` + long + `")`:                        {true, true},
		`id == "` + ids[1] + `"`:                                   {false, true},
		`labels.team == "aa"`:                                      {true, false},
		`labels.?nothing.orValue("") == "aa"`:                      {false, false},
		`cluster == "` + uid + `" && context == "src"`:             {true, true},
		`cluster != "` + uid + `"`:                                 {false, false},
		`version == "` + described.Cluster.Version + `"`:           {true, true},
		`time > timestamp("` + yesterday + `")`:                    {true, true},
		`time > timestamp("` + tomorrow + `")`:                     {false, false},
		`result == "Complete"`:                                     {true, true},
		`tool == "` + described.ToolVersion + `"`:                  {true, true},
		`"` + ns + `" in namespaces`:                               {true, true},
		`"default" in namespaces`:                                  {false, false},
		`pods.exists(p, p == "teller") && "counter" in containers`: {true, true},
		`pods.exists(p, p.startsWith("db-"))`:                      {false, false},
		`"localhost" in nodes`:                                     {true, true},
		`url == "" && ref == "" && commit == ""`:                   {true, true},
		`policy.endsWith("one-aa") || policy.endsWith("two-bb")`:   {true, true},
	} {
		r := backup(t, "list", "-f", f, "--filter", filter, "-o", "json")
		require.Equal(t, 0, r.code, r.stderr)
		for i, id := range ids {
			require.Equal(t, found[i], strings.Contains(r.stdout, id), "%s: %s", filter, r.stdout)
		}
	}
	r := backup(t, "list", "-f", f, "--filter", `labels.nothing == "aa"`)
	require.Equal(t, 1, r.code, "an expression that fails is no silent no")
	oneError(t, r, "--filter", "nothing")
	table := backup(t, "list", "-f", f)
	require.Less(t, strings.Index(table.stdout, ids[0]), strings.Index(table.stdout, ids[1]), "oldest first")

	t.Run("completed ids", func(t *testing.T) {
		for _, command := range []string{"describe", "restore", "verify", "export"} {
			offered := completion(t, command, "-f", f, "")
			require.Contains(t, offered, ids[0], command)
			require.Contains(t, offered, "latest", command)
		}
		offered := completion(t, "describe", "-f", f, ids[1])
		require.Contains(t, offered, ids[1])
		require.NotContains(t, offered, ids[0])
	})
}

// completion asks kubectl what comes next, as a shell does.
func completion(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(root(t), "bin", "kubectl"), append([]string{"__complete", "backup"}, args...)...)
	cmd.Env = append(os.Environ(), "PATH="+filepath.Join(root(t), "bin")+":"+os.Getenv("PATH"), "KUBECONFIG="+clusters(t).Kubeconfig(), "KUBECTL_BACKUP_PASSWORD="+password)
	out, err := cmd.Output()
	require.NoError(t, err)
	return string(out)
}

// TestThroughKubectl: kubectl finds the plugin and completes its commands,
// flags and values.
func TestThroughKubectl(t *testing.T) {
	for line, wants := range map[string][]string{
		"pl":                    {"plan\t"},
		"":                      {"plan\t", "run\t", "restore\t", "list\t"},
		"plan -o ":              {"json", "table", "wide", "yaml"},
		"plan -o j":             {"json"},
		"graph -o ":             {"mermaid", "svg", "dot"},
		"restore --dry-run=":    {"client", "server", "none"},
		"restore --to-context ": {"src", "dst"},
		"plan --context d":      {"dst"},
		"restore --map-name":    {"--map-namespace"},
		"describe ":             {"latest"},
	} {
		offered := completion(t, strings.Split(line, " ")...)
		for _, want := range wants {
			require.Contains(t, offered, want, line)
		}
	}
	cmd := exec.Command(filepath.Join(root(t), "bin", "kubectl"), "backup", "plan", "--nothing-like-it")
	cmd.Env = append(os.Environ(), "PATH="+filepath.Join(root(t), "bin")+":"+os.Getenv("PATH"))
	r := finish(t, cmd)
	require.Equal(t, 2, r.code)
	oneError(t, r, "--nothing-like-it", "kubectl backup plan --help")
}

// TestHelp: every command has help that ends in an example to paste.
func TestHelp(t *testing.T) {
	listed := regexp.MustCompile(`(?m)^  ([a-z]+)  +\S`)
	var walk func(path []string)
	visited := 0
	walk = func(path []string) {
		r := finish(t, command(t, append(slices.Clone(path), "--help")...))
		require.Equal(t, 0, r.code)
		require.Empty(t, r.stderr)
		name := strings.Join(append([]string{"kubectl backup"}, path...), " ")
		require.Contains(t, r.stdout, "Usage:\n  "+name, name)
		_, examples, ok := strings.Cut(r.stdout, "Examples:\n")
		require.True(t, ok, "%s has no examples", name)
		require.Contains(t, strings.SplitN(examples, "\n\n", 2)[0], "kubectl backup "+strings.Join(path, " "), name)
		visited++
		_, commands, ok := strings.Cut(r.stdout, "Available Commands:\n")
		if !ok {
			return
		}
		for _, m := range listed.FindAllStringSubmatch(strings.SplitN(commands, "\n\n", 2)[0], -1) {
			walk(append(slices.Clone(path), m[1]))
		}
	}
	walk(nil)
	require.Greater(t, visited, 16)
}

// TestVersionIsQuick: nothing that links into the program may do work before
// it is asked to.
func TestVersionIsQuick(t *testing.T) {
	best := time.Hour
	for range 5 {
		cmd := command(t, "version")
		r := finish(t, cmd)
		require.Equal(t, 0, r.code)
		require.Regexp(t, `^kubectl-backup v\S+ go\S+ linux/\S+\n$`, r.stdout)
		usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
		best = min(best, time.Duration(usage.Utime.Nano()+usage.Stime.Nano()))
	}
	require.Less(t, best, 300*time.Millisecond, "CPU time")

	// What is to be done first is.
	cmd := command(t, "version")
	cmd.Env = append(cmd.Environ(), "GODEBUG=inittrace=1")
	trace := finish(t, cmd).stderr
	at := func(name string) int {
		i := strings.Index(trace, "init "+name+" @")
		require.GreaterOrEqual(t, i, 0, name)
		return i
	}
	require.Less(t, at("github.com/kubectl-backup/kubectl-backup/cmd/kubectl-backup/internal/collector"), at("github.com/rclone/rclone/fs"))
	require.Less(t, at("github.com/kubectl-backup/kubectl-backup/cmd/kubectl-backup/internal/english"), at("k8s.io/kubectl/pkg/cmd/apiresources"))
}
