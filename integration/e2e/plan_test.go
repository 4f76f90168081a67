package e2e

import (
	"bufio"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// harbour is an application that needs no running pod: what matters to a plan
// is what its objects say.
const harbour = `
apiVersion: v1
kind: Secret
metadata: {name: radio, namespace: NS}
stringData: {key: only-for-this-test}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: chart, namespace: NS}
data: {depth: "12"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: unrelated, namespace: NS}
data: {a: b}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: keeper, namespace: NS}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: keeping, namespace: NS}
rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: keeping, namespace: NS}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: keeping}
subjects: [{kind: ServiceAccount, name: keeper, namespace: NS}]
---
apiVersion: v1
kind: Service
metadata: {name: sounder, namespace: NS}
spec: {selector: {app: sounder}, ports: [{port: 7000}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: sounder, namespace: NS, labels: {guard: "yes"}}
spec:
  serviceName: sounder
  replicas: 0
  selector: {matchLabels: {app: sounder}}
  template:
    metadata: {labels: {app: sounder}}
    spec: {containers: [{name: c, image: "localhost/busybox:dev"}]}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: logbook, namespace: NS}
spec: {accessModes: [ReadWriteOnce], storageClassName: slow, resources: {requests: {storage: 16Mi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: beacon, namespace: NS, labels: {guard: "yes"}}
spec:
  replicas: 0
  selector: {matchLabels: {app: beacon}}
  template:
    metadata: {labels: {app: beacon}}
    spec:
      serviceAccountName: keeper
      containers:
      - name: c
        image: localhost/busybox:dev
        env:
        - {name: DEPTH, value: "http://sounder:7000/now"}
        - {name: KEY, valueFrom: {secretKeyRef: {name: radio, key: key}}}
        volumeMounts: [{name: log, mountPath: /log}, {name: ca, mountPath: /ca}, {name: chart, mountPath: /chart}]
      volumes:
      - {name: log, persistentVolumeClaim: {claimName: logbook}}
      - {name: ca, configMap: {name: kube-root-ca.crt}}
      - {name: chart, configMap: {name: chart}}
`

const harbourSelect = "  select: [{name: guarded, kinds: [Deployment, StatefulSet], namespaces: [NS], labelSelector: {matchLabels: {guard: \"yes\"}}}]\n"

// inNamespace puts the name of a test's namespace where NS stands.
func inNamespace(ns, text string) string { return strings.ReplaceAll(text, "NS", ns) }

// newHarbour applies the application to a namespace of its own and waits for
// the claim to have its volume.
func newHarbour(t *testing.T) string {
	t.Helper()
	ns := namespace(t, "harbour")
	apply(t, "src", inNamespace(ns, harbour))
	kubectl(t, "src", "-n", ns, "wait", "--for=jsonpath={.status.phase}=Bound", "pvc/logbook", "--timeout=120s")
	return ns
}

// request is what the API server's audit log keeps of one request.
type request struct {
	Verb             string
	RequestURI       string
	ImpersonatedUser *struct{ Username string }
	ObjectRef        *struct{ Resource, Subresource, Namespace, Name, APIGroup string }
	ResponseStatus   struct{ Code int }
}

// witness reads what one user asked the API server of src, from now on.
type witness struct {
	t    *testing.T
	user string
	from int64
}

func watchUser(t *testing.T, user string) *witness {
	t.Helper()
	stat, err := os.Stat(clusters(t).Src.AuditLog())
	require.NoError(t, err)
	return &witness{t: t, user: user, from: stat.Size()}
}

// reader is a user of a name of its own who may do everything, and the flags
// that make the program that user: what it does not do is its own choice.
func reader(t *testing.T) (*witness, []string) {
	t.Helper()
	user := word(t, "reader")
	return watchUser(t, user), []string{"--as", user, "--as-group", "system:masters"}
}

// requests are those since the last call. A request of the same user is sent
// after them: once the log has it, it has the others.
func (w *witness) requests() []request {
	w.t.Helper()
	mark := word(w.t, "mark")
	tryKubectl(w.t, "src", "", "--as", w.user, "-n", "default", "get", "configmap", mark)
	var found []request
	await(w.t, "the audit log", func() (bool, error) {
		f, err := os.Open(clusters(w.t).Src.AuditLog())
		if err != nil {
			return false, err
		}
		defer f.Close()
		if _, err := f.Seek(w.from, io.SeekStart); err != nil {
			return false, err
		}
		found = found[:0]
		at := w.from
		lines := bufio.NewReader(f)
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				return false, nil // the line is still being written
			}
			at += int64(len(line))
			var r request
			if err := json.Unmarshal(line, &r); err != nil {
				return false, err
			}
			if r.ImpersonatedUser == nil || r.ImpersonatedUser.Username != w.user {
				continue
			}
			if r.ObjectRef != nil && r.ObjectRef.Name == mark {
				w.from = at
				return true, nil
			}
			found = append(found, r)
		}
	})
	return found
}

// onlyReads fails where anything but reading was asked for.
func (w *witness) onlyReads() {
	w.t.Helper()
	requests := w.requests()
	require.NotEmpty(w.t, requests)
	for _, r := range requests {
		require.Contains(w.t, []string{"get", "list", "watch"}, r.Verb, r.RequestURI)
	}
}

// TestPlanTwice makes each plan twice and wants the same bytes; the API server
// must have been asked for nothing but reading.
func TestPlanTwice(t *testing.T) {
	ns := newHarbour(t)
	remote, folder := local(t)
	before := listing(t, folder)
	everything := strings.Replace(policy("  select: [{}]\n"), "{name: p}", "{name: p, namespace: "+ns+"}", 1)
	for name, documents := range map[string][]string{
		"workloads":                 {policy(inNamespace(ns, harbourSelect)), remote},
		"everything in a namespace": {everything, remote},
		"report only":               {policy(inNamespace(ns, harbourSelect) + "  dependencies: Report\n"), remote},
	} {
		t.Run(name, func(t *testing.T) {
			w, as := reader(t)
			f := spec(t, documents...)
			first := backup(t, append([]string{"plan", "-f", f, "-o", "json"}, as...)...)
			require.Equal(t, 0, first.code, first.stderr)
			require.Contains(t, first.stdout, ns)
			for range 3 {
				again := backup(t, append([]string{"plan", "-f", f, "-o", "json"}, as...)...)
				require.Equal(t, first.stdout, again.stdout)
			}
			w.onlyReads()
		})
	}
	t.Run("the whole cluster", func(t *testing.T) {
		w, as := reader(t)
		f := spec(t, policy("  select: [{}]\n"), remote)
		// Other things may happen in the cluster meanwhile; a plan that has no
		// order of its own would never be the same twice.
		last := ""
		await(t, "two equal plans of the whole cluster", func() (bool, error) {
			r := backup(t, append([]string{"plan", "-f", f, "-o", "json"}, as...)...)
			require.Contains(t, []int{0, 3}, r.code, r.stderr)
			same := r.stdout == last
			last = r.stdout
			return same, nil
		})
		require.Contains(t, last, ns)
		w.onlyReads()
	})
	require.Equal(t, before, listing(t, folder), "a plan writes nothing to the remote")
}

// TestPlanFollowsDependencies checks why each object of an application is in
// the plan, and what becomes of them where the policy only reports them.
func TestPlanFollowsDependencies(t *testing.T) {
	ns := newHarbour(t)
	remote, _ := local(t)
	needed := []struct{ kind, ns, name string }{
		{"Deployment", ns, "beacon"}, {"StatefulSet", ns, "sounder"}, {"Service", ns, "sounder"}, {"Secret", ns, "radio"}, {"ConfigMap", ns, "chart"},
		{"ServiceAccount", ns, "keeper"}, {"Role", ns, "keeping"}, {"RoleBinding", ns, "keeping"}, {"PersistentVolumeClaim", ns, "logbook"},
		{"Namespace", "", ns}, {"StorageClass", "", "slow"},
	}
	body := inNamespace(ns, harbourSelect)
	t.Run("included", func(t *testing.T) {
		d, r := document(t, "plan", "-f", spec(t, policy(body), remote))
		require.Equal(t, 0, r.code, r.stderr)
		for _, n := range needed {
			o := objectLine(t, d, n.kind, n.ns, n.name)
			require.Equal(t, v1alpha1.OutcomeInclude, o.Outcome, "%+v", o)
			require.NotEmpty(t, o.Reason)
		}
		require.Len(t, d.Groups, 1, "the call joins the two workloads")
		require.Len(t, d.Groups[0].Workloads, 2)
		require.NotEqual(t, v1alpha1.OutcomeInclude, objectLine(t, d, "ConfigMap", ns, "kube-root-ca.crt").Outcome, "every cluster has its own")
		for _, o := range d.Objects {
			require.NotEqual(t, "unrelated", o.Ref.Name)
		}
		v := volumeOf(t, d, "logbook")
		require.Equal(t, v1alpha1.OutcomeInclude, v.Outcome)
		require.EqualValues(t, 16<<20, v.Capacity)
		require.Contains(t, v.Reason, "helper pod", "no pod runs")
		wave := map[string]int{}
		for _, o := range d.Objects {
			wave[o.Ref.Kind+o.Ref.Name] = o.Wave
		}
		require.Less(t, wave["Namespace"+ns], wave["Secretradio"])
		require.Less(t, wave["Secretradio"], wave["Deploymentbeacon"])
		require.Less(t, wave["StatefulSetsounder"], wave["Deploymentbeacon"], "what is called comes first")
	})
	t.Run("reported", func(t *testing.T) {
		d, r := document(t, "plan", "-f", spec(t, policy(body+"  dependencies: Report\n"), remote))
		require.Equal(t, 0, r.code, r.stderr)
		for _, n := range needed {
			want := v1alpha1.OutcomeReferred
			if n.kind == "Deployment" || n.kind == "StatefulSet" {
				want = v1alpha1.OutcomeInclude
			}
			switch n.kind {
			case "Namespace": // what is saved has to be put somewhere
				want = v1alpha1.OutcomeInclude
			case "Role", "RoleBinding", "StorageClass": // they belong to the account and the claim, which are not selected
				continue
			}
			o := objectLine(t, d, n.kind, n.ns, n.name)
			require.Equal(t, want, o.Outcome, "%+v", o)
		}
	})
	t.Run("ignored", func(t *testing.T) {
		d, r := document(t, "plan", "-f", spec(t, policy(body+"  dependencies: Ignore\n"), remote))
		require.Equal(t, 0, r.code, r.stderr)
		for _, o := range d.Objects {
			require.Contains(t, []string{"Deployment", "StatefulSet", "Namespace"}, o.Ref.Kind, "%+v", o)
			require.Equal(t, v1alpha1.OutcomeInclude, o.Outcome, "%+v", o)
		}
		require.Len(t, d.Objects, 3)
	})
	t.Run("table", func(t *testing.T) {
		f := spec(t, policy(body+"  volumes: [{method: Stream}]\n"), remote)
		for output, wants := range map[string][]string{
			"table": {"Deployment.apps " + ns + "/beacon", "StatefulSet.apps " + ns + "/sounder", "DEPTH", "calls", "logbook", "16.0 MiB", "volume rule 1", "helper pod", "remote main"},
			"wide":  {"Secret", "radio", "selected by entry \"guarded\""},
			"yaml":  {"kind: Plan", "result: Complete", "exitCode: 0", "name: beacon"},
		} {
			r := backup(t, "plan", "-f", f, "-o", output)
			require.Equal(t, 0, r.code, r.stderr)
			for _, want := range wants {
				require.Contains(t, r.stdout, want, output)
			}
		}
		reported := backup(t, "plan", "-f", spec(t, policy(body+"  dependencies: Report\n"), remote))
		require.Contains(t, reported.stdout, "Referred to, and not saved")
		require.Contains(t, reported.stdout, "radio")
	})
	t.Run("calls inside a Secret stay secret", func(t *testing.T) {
		r := backup(t, "plan", "-f", spec(t, policy(body), remote), "-o", "wide")
		require.NotContains(t, r.stdout+r.stderr, "only-for-this-test")
	})
}

// TestDeclaredEdges joins what nothing in the objects joins: the ends may be
// of any kind, also of one that no policy selects.
func TestDeclaredEdges(t *testing.T) {
	ns := newHarbour(t)
	remote, _ := local(t)
	group, definition := buoys(t)
	apply(t, "src", fmt.Sprintf("apiVersion: %s/v1\nkind: Buoy\nmetadata: {name: north, namespace: %s}\nspec: {light: 3}\n", group, ns))
	only := inNamespace(ns, "  select: [{kinds: [Deployment], namespaces: [NS], expression: 'object.metadata.name == \"beacon\"'}]\n")
	edge := func(to string) string {
		from := "{kind: Deployment, name: beacon, namespace: " + ns + "}"
		if strings.Contains(to, "namespace:") {
			from = "{kind: Deployment, name: beacon}"
		}
		return only + "  grouping: {edges: [{from: " + from + ", to: " + to + "}]}\n"
	}
	for to, want := range map[string]struct{ kind, name string }{
		"{kind: ConfigMap, name: unrelated}":                        {"ConfigMap", "unrelated"},
		"{kind: Buoy, name: north}":                                 {"Buoy", "north"},
		"{kind: Buoy, group: " + group + ", name: north}":           {"Buoy", "north"},
		"{kind: StatefulSet, name: sounder, namespace: " + ns + "}": {"StatefulSet", "sounder"},
	} {
		t.Run(to, func(t *testing.T) {
			d, r := document(t, "plan", "-f", spec(t, policy(edge(to)), remote))
			require.Equal(t, 0, r.code, r.stderr)
			o := objectLine(t, d, want.kind, ns, want.name)
			require.Equal(t, v1alpha1.OutcomeInclude, o.Outcome, "%+v", o)
			require.Contains(t, o.Reason, "declared")
			require.Less(t, o.Wave, objectLine(t, d, "Deployment", ns, "beacon").Wave)
			if want.kind == "Buoy" {
				require.Equal(t, v1alpha1.OutcomeInclude, objectLine(t, d, "CustomResourceDefinition", "", definition).Outcome, "what defines it comes along")
			}
		})
	}
	t.Run("an end that is not there", func(t *testing.T) {
		d, r := document(t, "plan", "-f", spec(t, policy(edge("{kind: Buoy, name: south}")), remote))
		require.Equal(t, 2, r.code)
		require.Contains(t, d.Error, "spec.yaml:7:")
		require.Contains(t, d.Error, "spec.grouping.edges[0]: Buoy south: no such object")
		require.Empty(t, d.Objects)
	})
}

// buoys defines a kind of a group of its own, with numbers of every sort, in
// both clusters where asked, and returns the group and the definition's name.
func buoys(t *testing.T, contexts ...string) (group, definition string) {
	t.Helper()
	group = word(t, "buoys") + ".example.net"
	definition = "buoys." + group
	for _, context := range append([]string{"src"}, contexts...) {
		apply(t, context, fmt.Sprintf(`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %s}
spec:
  group: %s
  scope: Namespaced
  names: {kind: Buoy, plural: buoys, singular: buoy}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`, definition, group))
		dropDefinition(t, context, definition)
		kubectl(t, context, "wait", "--for=condition=Established", "crd/"+definition, "--timeout=60s")
	}
	return group, definition
}

func dropDefinition(t *testing.T, context, definition string) {
	t.Cleanup(func() { tryKubectl(t, context, "", "delete", "crd", definition, "--ignore-not-found", "--wait=false") })
}

// TestGraphInEveryFormat draws one graph in each format and wants each to be
// well-formed and to have the edge that joins the workloads.
func TestGraphInEveryFormat(t *testing.T) {
	ns := newHarbour(t)
	remote, folder := local(t)
	before := listing(t, folder)
	f := spec(t, policy(inNamespace(ns, harbourSelect)), remote)
	w, as := reader(t)
	drawn := map[string]string{}
	for _, output := range []string{"table", "json", "dot", "mermaid", "svg"} {
		r := backup(t, append([]string{"graph", "-f", f, "-o", output}, as...)...)
		require.Equal(t, 0, r.code, r.stderr)
		for _, want := range []string{"beacon", "sounder", "radio", "logbook"} {
			require.Contains(t, r.stdout, want, output)
		}
		require.NotContains(t, r.stdout, "only-for-this-test")
		require.Equal(t, r.stdout, backup(t, append([]string{"graph", "-f", f, "-o", output}, as...)...).stdout, "drawn twice, %s", output)
		drawn[output] = r.stdout
	}
	w.onlyReads()
	require.Equal(t, before, listing(t, folder))
	require.True(t, json.Valid([]byte(drawn["json"])))
	require.Contains(t, drawn["json"], "calls")
	require.Regexp(t, `^(strict )?digraph `, drawn["dot"])
	require.Equal(t, strings.Count(drawn["dot"], "{"), strings.Count(drawn["dot"], "}"))
	require.Regexp(t, `^(flowchart|graph) `, drawn["mermaid"])
	decoder := xml.NewDecoder(strings.NewReader(drawn["svg"]))
	elements := map[string]int{}
	for {
		token, err := decoder.Token()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		if e, ok := token.(xml.StartElement); ok {
			elements[e.Name.Local]++
		}
	}
	require.Equal(t, 1, elements["svg"])
	require.Positive(t, elements["text"])
}

// TestVolumeRuleThatFails: an expression over volumes that fails on one is
// never a silent no.
func TestVolumeRuleThatFails(t *testing.T) {
	ns := newHarbour(t)
	remote, _ := local(t)
	body := inNamespace(ns, harbourSelect) + "  volumes: [{match: 'object.metadata.labels[\"tier\"] == \"hot\"', method: Skip}]\n"
	d, r := document(t, "plan", "-f", spec(t, policy(body), remote))
	require.Equal(t, 3, r.code)
	v := volumeOf(t, d, "logbook")
	require.Equal(t, v1alpha1.OutcomeUndecided, v.Outcome)
	require.Contains(t, v.Reason, "spec.volumes[0].match")
	require.Contains(t, v.Reason, "tier")

	d, r = document(t, "plan", "-f", spec(t, policy(body+"  onExpressionError: Include\n"), remote))
	require.Equal(t, 0, r.code, r.stderr)
	require.Equal(t, v1alpha1.OutcomeInclude, volumeOf(t, d, "logbook").Outcome)
	require.Contains(t, strings.Join(append(d.Warnings, volumeOf(t, d, "logbook").Warnings...), "\n"), "spec.volumes[0].match")
}
