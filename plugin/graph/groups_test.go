package graph

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
	"github.com/stretchr/testify/require"
)

func workloadText(kind, ns, name, spec string, labels ...string) string {
	return fmt.Sprintf(`{"apiVersion":"apps/v1","kind":"%s","metadata":{"name":"%s","namespace":"%s","uid":"%s-%s","labels":{%s}},"spec":{"template":{"metadata":{"labels":{"app":"%s"}},"spec":{%s}}}}`,
		kind, name, ns, kind, name, strings.Join(labels, ","), name, spec)
}

func objectText(apiVersion, kind, ns, name string) string {
	return fmt.Sprintf(`{"apiVersion":"%s","kind":"%s","metadata":{"name":"%s","namespace":"%s"}}`, apiVersion, kind, name, ns)
}

func claim(name, more string) string {
	return `"volumes":[{"name":"v","persistentVolumeClaim":{"claimName":"` + name + `"` + more + `}}]`
}

// groupsOf builds, selects all Deployments named a.. and shows the groups as
// lists of workload names.
func groupsOf(t *testing.T, o Options, by Grouping, texts ...string) (groups []Group, shown string) {
	t.Helper()
	g := build(t, o, texts...)
	groups, err := g.Groups(g.Closure(g.Nodes(), Include), by)
	require.NoError(t, err)
	var parts []string
	for _, grp := range groups {
		var in []string
		for _, w := range grp.Workloads {
			in = append(in, w.Name)
		}
		parts = append(parts, grp.Name+":"+strings.Join(in, "+"))
	}
	return groups, strings.Join(parts, " ")
}

func TestWhatJoinsWorkloads(t *testing.T) {
	w := func(name, spec string, labels ...string) string {
		return workloadText("Deployment", "n", name, spec, labels...)
	}
	pvc := objectText("v1", "PersistentVolumeClaim", "n", "c")
	shared := `"volumes":[{"name":"v","configMap":{"name":"c"}}]`
	for name, c := range map[string]struct {
		texts  []string
		o      Options
		groups string
		edges  []string
	}{
		"nothing": {texts: []string{w("a", ""), w("b", "")}, groups: "n/a:a n/b:b"},
		"a shared ConfigMap does not": {texts: []string{w("a", shared), w("b", shared), objectText("v1", "ConfigMap", "n", "c")},
			groups: "n/a:a n/b:b"},
		"a shared writable claim": {texts: []string{w("a", claim("c", "")), w("b", claim("c", "")), pvc}, groups: "n/a:a+b",
			edges: []string{"Deployment.apps n/a =claims=> PersistentVolumeClaim n/c @spec.template.spec.volumes[0].persistentVolumeClaim.claimName",
				"Deployment.apps n/b =claims=> PersistentVolumeClaim n/c @spec.template.spec.volumes[0].persistentVolumeClaim.claimName"}},
		"a claim that one only reads": {texts: []string{w("a", claim("c", "")), w("b", claim("c", `,"readOnly":true`)), pvc}, groups: "n/a:a n/b:b"},
		"a claim of a StatefulSet": {texts: []string{w("a", claim("d-s-0", "")), objectText("v1", "PersistentVolumeClaim", "n", "d-s-0"),
			`{"apiVersion":"apps/v1","kind":"StatefulSet","metadata":{"name":"s","namespace":"n"},"spec":{"template":{},"volumeClaimTemplates":[{"metadata":{"name":"d"}}]}}`}, groups: "n/a:a+s"},
		"a claim that two StatefulSets look for": {texts: []string{objectText("v1", "PersistentVolumeClaim", "n", "a-b-c-0"),
			`{"apiVersion":"apps/v1","kind":"StatefulSet","metadata":{"name":"c","namespace":"n"},"spec":{"template":{},"volumeClaimTemplates":[{"metadata":{"name":"a-b"}}]}}`,
			`{"apiVersion":"apps/v1","kind":"StatefulSet","metadata":{"name":"b-c","namespace":"n"},"spec":{"template":{},"volumeClaimTemplates":[{"metadata":{"name":"a"}}]}}`}, groups: "n/b-c:b-c+c"},
		"part of one application": {texts: []string{w("a", "", `"app.kubernetes.io/part-of":"x"`), w("b", "", `"app.kubernetes.io/part-of":"y"`), w("c", "", `"app.kubernetes.io/part-of":"x"`)},
			groups: "n/a:a+c n/b:b", edges: []string{`Deployment.apps n/c =part-of=> Deployment.apps n/a @metadata.labels["app.kubernetes.io/part-of"]`}},
		"part of applications in two namespaces": {texts: []string{w("a", "", `"app.kubernetes.io/part-of":"x"`), workloadText("Deployment", "m", "b", "", `"app.kubernetes.io/part-of":"x"`)},
			groups: "m/b:b n/a:a"},
		"declared": {texts: []string{w("a", ""), w("b", "")}, groups: "n/a:a+b",
			o:     Options{DeclaredEdges: []v1alpha1.DeclaredEdge{{From: v1alpha1.EdgeEnd{Kind: "Deployment", Name: "b"}, To: v1alpha1.EdgeEnd{Kind: "Deployment", Name: "a", Namespace: "n"}}}},
			edges: []string{"Deployment.apps n/b =declared=> Deployment.apps n/a @grouping.edges[0]"}},
		"one name, two kinds": {texts: []string{w("a", ""), workloadText("StatefulSet", "n", "a", "")}, groups: "n/a:a n/a.statefulset:a"},
		"a controller of both": {texts: []string{
			`{"apiVersion":"x.example.com/v1","kind":"Herd","metadata":{"name":"h","namespace":"n","uid":"h"}}`,
			`{"apiVersion":"apps/v1","kind":"StatefulSet","metadata":{"name":"b","namespace":"n","ownerReferences":[{"apiVersion":"x.example.com/v1","kind":"Herd","name":"h","uid":"h","controller":true}]},"spec":{"template":{}}}`,
			`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","namespace":"n","ownerReferences":[{"apiVersion":"x.example.com/v1","kind":"Herd","name":"h","uid":"h","controller":true}]},"spec":{}}`}, groups: "n/h:h"},
		"objects of no workload": {texts: []string{w("a", shared), objectText("v1", "ConfigMap", "n", "c"), objectText("v1", "ConfigMap", "n", "d"), objectText("v1", "ConfigMap", "m", "d"), objectText("v1", "Namespace", "", "m"),
			objectText("storage.k8s.io/v1", "StorageClass", "", "s")}, groups: "n/a:a cluster/objects: m/objects: n/objects:"},
	} {
		t.Run(name, func(t *testing.T) {
			groups, shown := groupsOf(t, c.o, Grouping{}, c.texts...)
			require.Equal(t, c.groups, shown)
			if c.edges != nil {
				require.Equal(t, c.edges, shorts(groups[0].Edges))
			}
		})
	}
}

// With Include a strong edge brings the other workload, with Report it is
// only named, and a weak one never brings a workload.
func TestWhatBringsWorkloads(t *testing.T) {
	pvc := objectText("v1", "PersistentVolumeClaim", "n", "c")
	a, b := workloadText("Deployment", "n", "a", claim("c", "")), workloadText("Deployment", "n", "b", claim("c", ""))
	reader := workloadText("Deployment", "n", "r", claim("c", `,"readOnly":true`))
	scaler := `{"apiVersion":"autoscaling/v2","kind":"HorizontalPodAutoscaler","metadata":{"name":"h","namespace":"n"},"spec":{"scaleTargetRef":{"apiVersion":"apps/v1","kind":"Deployment","name":"a"}}}`
	g := build(t, Options{}, pvc, a, b, reader, scaler)
	closure := func(mode Mode, selected string) (in, out string) {
		c := g.Closure([]v1alpha1.Ref{ref(t, g, selected)}, mode)
		for _, m := range c.Members {
			in += " " + m.Ref.Name
		}
		for _, m := range c.Referred {
			out += " " + m.Ref.Name
			require.NotEmpty(t, m.Reason)
		}
		return in, out
	}
	for _, c := range []struct {
		mode          Mode
		selected      string
		in, referring string
	}{
		{Include, "Deployment.apps n/a", " c a b h", ""},
		{Report, "Deployment.apps n/a", " a", " c b"},
		{Ignore, "Deployment.apps n/a", " a", ""},
		{Include, "Deployment.apps n/r", " c r", ""},
		{Include, "HorizontalPodAutoscaler.autoscaling n/h", " h", " a"},
		{Include, "PersistentVolumeClaim n/c", " c", ""},
	} {
		in, out := closure(c.mode, c.selected)
		require.Equal(t, c.in, in, "%s %s", c.mode, c.selected)
		require.Equal(t, c.referring, out, "%s %s", c.mode, c.selected)
	}
}

func TestWhatIsLeftToItsOwner(t *testing.T) {
	owned := func(apiVersion, kind, name, ownerAPI, owner, uid string) string {
		return `{"apiVersion":"` + apiVersion + `","kind":"` + kind + `","metadata":{"name":"` + name + `","namespace":"n","uid":"` + kind + `-` + name + `","ownerReferences":[{"apiVersion":"` + ownerAPI + `","kind":"` + owner +
			`","name":"x","uid":"` + uid + `","controller":true}]},"spec":{}}`
	}
	texts := []string{
		workloadText("StatefulSet", "n", "x", ""),
		owned("v1", "Pod", "x", "apps/v1", "StatefulSet", "StatefulSet-x"),
		owned("apps/v1", "ControllerRevision", "x", "apps/v1", "StatefulSet", "StatefulSet-x"),
		owned("v1", "PersistentVolumeClaim", "kept", "apps/v1", "StatefulSet", "StatefulSet-x"),
		owned("v1", "PersistentVolumeClaim", "brief", "v1", "Pod", "Pod-x"),
		owned("v1", "Secret", "kept", "apps/v1", "StatefulSet", "StatefulSet-x"),
		owned("v1", "Pod", "orphan", "apps/v1", "StatefulSet", "another-uid"),
		`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"static","namespace":"n","ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"x","uid":"q","controller":true}]},"spec":{}}`,
		objectText("v1", "Node", "", "x"),
	}
	g := build(t, Options{}, texts...)
	c := g.Closure([]v1alpha1.Ref{ref(t, g, "StatefulSet.apps n/x")}, Ignore)
	got := map[string]bool{}
	for _, m := range c.Members {
		got[m.Ref.String()] = m.LeftToOwner
	}
	require.Equal(t, map[string]bool{
		"StatefulSet.apps n/x": false, "Pod n/x": true, "ControllerRevision.apps n/x": true, "PersistentVolumeClaim n/kept": false,
		"PersistentVolumeClaim n/brief": true, "Secret n/kept": false,
	}, got, "objects of an owner of the same name that is gone stay out")
	// A selected pod whose controller is not selected brings it along.
	c = g.Closure([]v1alpha1.Ref{ref(t, g, "Pod n/x")}, Include)
	require.Len(t, c.Members, 6)
	c = g.Closure([]v1alpha1.Ref{ref(t, g, "Pod n/static")}, Include)
	require.Len(t, c.Members, 1)
	require.False(t, c.Members[0].LeftToOwner)
}

// Endpoints of a Service that selects pods are made again, those that a person
// wrote for a Service without a selector are not; slices say it by their owner.
func TestEndpointsByHandAndByController(t *testing.T) {
	service := func(name, spec string) string {
		return `{"apiVersion":"v1","kind":"Service","metadata":{"name":"` + name + `","namespace":"n","uid":"` + name + `"},"spec":{` + spec + `}}`
	}
	slice := func(name, service, owner string) string {
		return `{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"name":"` + name + `","namespace":"n","labels":{"kubernetes.io/service-name":"` + service + `"}` + owner + `}}`
	}
	g := build(t, Options{}, service("made", `"selector":{"app":"x"}`), service("hand", ""), objectText("v1", "Endpoints", "n", "made"), objectText("v1", "Endpoints", "n", "hand"),
		slice("made-1", "made", `,"ownerReferences":[{"apiVersion":"v1","kind":"Service","name":"made","uid":"made","controller":true}]`), slice("hand-1", "hand", ""))
	c := g.Closure([]v1alpha1.Ref{ref(t, g, "Service n/made"), ref(t, g, "Service n/hand")}, Include)
	got := map[string]bool{}
	for _, m := range c.Members {
		got[m.Ref.Kind+" "+m.Ref.Name] = m.LeftToOwner
	}
	require.Equal(t, map[string]bool{"Service made": false, "Service hand": false, "Endpoints made": true, "Endpoints hand": false,
		"EndpointSlice made-1": true, "EndpointSlice hand-1": false}, got)
}

// What grants rights to an account by its name as a user, or to a whole
// namespace, comes along as what names the account does.
func TestWhatGrantsRights(t *testing.T) {
	binding := func(name, kind, subject string) string {
		return `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"RoleBinding","metadata":{"name":"` + name + `","namespace":"m"},"subjects":[{"kind":"` + kind + `","name":"` + subject + `"}]}`
	}
	grant := func(ns, name, to string) string {
		return `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"ReferenceGrant","metadata":{"name":"` + name + `","namespace":"` + ns + `"},"spec":{"to":[{"group":"","kind":"Service"` + to + `}]}}`
	}
	g := build(t, Options{}, `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"n"}}`, objectText("v1", "ServiceAccount", "n", "clerk"), objectText("v1", "Service", "n", "web"),
		binding("user", "User", "system:serviceaccount:n:clerk"), binding("all", "Group", "system:serviceaccounts:n"),
		binding("another", "User", "system:serviceaccount:m:clerk"), binding("person", "User", "clerk"), binding("everybody", "Group", "system:serviceaccounts"), binding("odd", "Group", "system:serviceaccount:n:clerk"),
		grant("n", "services", ""), grant("n", "web", `,"name":"web"`), grant("n", "api", `,"name":"api"`), grant("m", "services", ""))
	c := g.Closure([]v1alpha1.Ref{ref(t, g, "ServiceAccount n/clerk"), ref(t, g, "Service n/web")}, Include)
	var got []string
	for _, m := range c.Members {
		got = append(got, m.Ref.Kind+" "+m.Ref.Namespace+"/"+m.Ref.Name)
	}
	require.ElementsMatch(t, []string{"Namespace /n", "ServiceAccount n/clerk", "Service n/web", "RoleBinding m/user", "RoleBinding m/all", "ReferenceGrant n/services", "ReferenceGrant n/web"}, got)
	require.Empty(t, c.Missing)
}

func TestDeclaredEdgesThatCannotBe(t *testing.T) {
	end := func(s string) v1alpha1.EdgeEnd {
		p := strings.Split(s, "/")
		return v1alpha1.EdgeEnd{Kind: p[0], Namespace: p[1], Name: p[2], Group: p[3]}
	}
	texts := []string{workloadText("Deployment", "n", "a", ""), workloadText("Deployment", "n", "b", ""), workloadText("Deployment", "m", "a", ""),
		workloadText("Deployment", "m", "c", ""), objectText("storage.k8s.io/v1", "StorageClass", "", "s")}
	for _, c := range []struct{ from, to, err string }{
		{"Deployment/n/a/apps", "Deployment/n/b/apps", ""},
		{"Deployment//b/", "Deployment//a/", ""},
		{"Deployment/n/a/", "Deployment//a/", "itself"},
		{"Deployment/n/a/", "Deployment/n/a/apps", "grouping.edges[0]: Deployment.apps n/a: the edge leads from the object to itself"},
		{"Deployment/n/z/", "Deployment/n/a/", "grouping.edges[0]: Deployment n/z: no such object"},
		{"Deployment/n/a/", "StatefulSet/n/a/", "StatefulSet n/a: no such object"},
		{"Deployment/n/a/", "Deployment/n/b/batch", "Deployment.batch n/b: no such object"},
		{"Deployment//b/", "Deployment//c/", "Deployment c: no such object in the namespace of the other end"},
		{"Deployment/n/b/", "Deployment/m/c/", ""},
		{"Deployment//b/", "StorageClass//s/", ""},
	} {
		b := NewBuilder(Options{DeclaredEdges: []v1alpha1.DeclaredEdge{{From: end(c.from), To: end(c.to)}}})
		for _, o := range objects(t, strings.Join(texts, "\n---\n")) {
			require.NoError(t, b.Add(o))
		}
		g, err := b.Build()
		require.Len(t, g.Nodes(), 5)
		if c.err == "" {
			require.NoError(t, err, "%v", c)
			require.Len(t, shorts(g.Edges()), 1+len(texts)-5, "%v", c)
			continue
		}
		require.ErrorContains(t, err, c.err)
		var bad *DeclaredEdgeError
		require.ErrorAs(t, err, &bad)
	}
}

func TestOtherGroupings(t *testing.T) {
	texts := []string{
		workloadText("Deployment", "n", "a", "", `"team":"red"`), workloadText("Deployment", "n", "b", ""), workloadText("Deployment", "m", "c", "", `"team":"red"`),
		objectText("v1", "Namespace", "", "n"), objectText("v1", "Namespace", "", "m"),
	}
	for _, c := range []struct {
		by   Grouping
		want string
	}{
		{Grouping{By: ByNamespace}, "m:c n:a+b"},
		{Grouping{By: ByLabel, Label: "team"}, "n/b:b red:c+a"},
		{Grouping{By: ByNone}, "m/c:c n/a:a n/b:b"},
		{Grouping{By: ByExpression, Key: func(r v1alpha1.Ref) (string, error) { return map[string]string{"a": "k", "b": "k"}[r.Name], nil }}, "k:a+b m/c:c"},
	} {
		_, shown := groupsOf(t, Options{}, c.by, texts...)
		require.Equal(t, c.want, shown)
	}
	g := build(t, Options{}, texts...)
	_, err := g.Groups(g.Closure(g.Nodes(), Include), Grouping{By: ByExpression, Key: func(v1alpha1.Ref) (string, error) { return "", errors.New("no such field") }})
	require.ErrorContains(t, err, "group Deployment.apps m/c: no such field")
	_, err = g.Groups(g.Closure(g.Nodes(), Include), Grouping{By: "Colour"})
	require.ErrorContains(t, err, `"Colour"`)
}

func TestCyclesAreOneWave(t *testing.T) {
	call := func(name, to string) string {
		return workloadText("Deployment", "n", name, `"containers":[{"env":[{"name":"URL","value":"http://`+to+`:80"}]}]`) + "\n---\n" +
			`{"apiVersion":"v1","kind":"Service","metadata":{"name":"` + name + `","namespace":"n"},"spec":{"selector":{"app":"` + name + `"}}}`
	}
	groups, shown := groupsOf(t, Options{}, Grouping{}, call("a", "b"), call("b", "c"), call("c", "b"), call("d", "a"))
	require.Equal(t, "n/a:a+b+c+d", shown)
	require.Equal(t, [][]string{{"Deployment.apps n/b", "Deployment.apps n/c"}}, [][]string{names(groups[0].Cycles[0])})
	var waves []string
	for _, w := range groups[0].Waves {
		waves = append(waves, strings.Join(names(w), ", "))
	}
	require.Equal(t, []string{"Service n/a, Service n/b, Service n/c, Service n/d", "Deployment.apps n/b, Deployment.apps n/c", "Deployment.apps n/a", "Deployment.apps n/d"}, waves)
}

// Whatever the edges: each node is in one wave, no wave is empty, a need is in
// an earlier wave unless both are in a cycle, and then both are in the same.
func TestWavesOfRandomGraphs(t *testing.T) {
	kinds := []string{"Namespace", "ConfigMap", "PersistentVolumeClaim", "Service", "Pod", "Endpoints", "Thing"}
	r := rand.New(rand.NewPCG(7, 9))
	for range 300 {
		n := 1 + r.IntN(30)
		nodes := make([]v1alpha1.Ref, n)
		for i := range nodes {
			nodes[i] = v1alpha1.Ref{Kind: kinds[r.IntN(len(kinds))], Name: fmt.Sprintf("%02d", i)}
		}
		var edges []v1alpha1.EdgeLine
		for range r.IntN(3 * n) {
			a, b := r.IntN(n), r.IntN(n)
			if a != b {
				edges = append(edges, v1alpha1.EdgeLine{From: nodes[a], To: nodes[b], Type: "mounts"})
			}
		}
		waves, cycles := Waves(nodes, edges)
		at, cycle := map[v1alpha1.Ref]int{}, map[v1alpha1.Ref]int{}
		for i, w := range waves {
			require.NotEmpty(t, w)
			for _, x := range w {
				require.NotContains(t, at, x)
				at[x] = i
			}
		}
		require.Len(t, at, n)
		for i, c := range cycles {
			require.Greater(t, len(c), 1)
			for _, x := range c {
				cycle[x] = i + 1
				require.Equal(t, at[c[0]], at[x])
			}
		}
		for _, e := range edges {
			if cycle[e.From] == 0 || cycle[e.From] != cycle[e.To] {
				require.Less(t, at[e.To], at[e.From])
			}
		}
	}
}
