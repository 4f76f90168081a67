package graph

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"
)

// objects reads a stream of YAML documents.
func objects(t testing.TB, text string) []*object.Object {
	t.Helper()
	var out []*object.Object
	for doc := range strings.SplitSeq(text, "\n---\n") {
		if strings.TrimSpace(doc) == "" {
			continue
		}
		raw, err := yaml.YAMLToJSON([]byte(doc))
		require.NoError(t, err, doc)
		o, err := object.Parse(raw)
		require.NoError(t, err, doc)
		out = append(out, o)
	}
	return out
}

func build(t testing.TB, o Options, texts ...string) *Graph {
	t.Helper()
	b := NewBuilder(o)
	for _, x := range objects(t, strings.Join(texts, "\n---\n")) {
		require.NoError(t, b.Add(x))
	}
	g, err := b.Build()
	require.NoError(t, err)
	return g
}

// short writes an edge as "From -type-> To @field", strong ones with "=".
func short(e v1alpha1.EdgeLine) string {
	dash := "-"
	if e.Strong {
		dash = "="
	}
	return fmt.Sprintf("%s %s%s%s> %s @%s", e.From, dash, e.Type, dash, e.To, e.Field)
}

func shorts(lines []v1alpha1.EdgeLine) []string {
	out := []string{}
	for _, l := range lines {
		if l.Type != TypeNamespace {
			out = append(out, short(l))
		}
	}
	return out
}

func names(refs []v1alpha1.Ref) []string {
	out := []string{}
	for _, r := range refs {
		out = append(out, r.String())
	}
	return out
}

func ref(t testing.TB, g *Graph, s string) v1alpha1.Ref {
	t.Helper()
	for _, r := range g.Nodes() {
		if r.String() == s {
			return r
		}
	}
	require.Fail(t, "no such node", s)
	return v1alpha1.Ref{}
}

// A small shop: web calls the database by name, over a ConfigMap.
const shop = `
apiVersion: v1
kind: Namespace
metadata: {name: tulip}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: store, namespace: tulip, uid: s-1}
spec:
  serviceName: store
  selector: {matchLabels: {app: store}}
  template:
    metadata: {labels: {app: store}}
    spec:
      serviceAccountName: keeper
      containers:
      - name: c
        image: x
        env:
        - {name: PASSWORD, valueFrom: {secretKeyRef: {name: store-key, key: p}}}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {storageClassName: quick, accessModes: [ReadWriteOnce]}
---
apiVersion: v1
kind: Service
metadata: {name: store, namespace: tulip}
spec: {clusterIP: None, selector: {app: store}, ports: [{port: 5432}]}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data-store-0, namespace: tulip}
spec: {storageClassName: quick, volumeName: pv-7}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: pv-7}
spec:
  storageClassName: quick
  claimRef: {kind: PersistentVolumeClaim, apiVersion: v1, namespace: tulip, name: data-store-0}
  csi: {driver: d, volumeHandle: h, nodeStageSecretRef: {name: disk-key, namespace: vault}}
---
apiVersion: v1
kind: Secret
metadata: {name: disk-key, namespace: vault}
data: {k: eA==}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: quick}
provisioner: d
---
apiVersion: v1
kind: Secret
metadata: {name: store-key, namespace: tulip}
data: {p: c2VjcmV0LXdvcmQ=}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: keeper, namespace: tulip}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: keeps, namespace: tulip}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reads}
subjects: [{kind: ServiceAccount, name: keeper, namespace: tulip}, {kind: ServiceAccount, name: stranger, namespace: vault}, {kind: User, name: keeper}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reads, namespace: tulip}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: stranger, namespace: vault}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: tulip, uid: d-1}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: c, image: x, envFrom: [{configMapRef: {name: web-conf}}, {configMapRef: {name: maybe, optional: true}}, {secretRef: {name: gone}}]}
      volumes: [{name: tmp, emptyDir: {}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: web-conf, namespace: tulip}
data: {DSN: "postgres://me:pw@store.tulip.svc.cluster.local:5432/books"}
---
apiVersion: apps/v1
kind: ReplicaSet
metadata:
  name: web-abc
  namespace: tulip
  uid: r-1
  ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: web, uid: d-1, controller: true}]
spec: {selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: []}}}
---
apiVersion: v1
kind: Pod
metadata:
  name: web-abc-1
  namespace: tulip
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web-abc, uid: r-1, controller: true}]
spec: {containers: []}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: door, namespace: tulip}
spec:
  ingressClassName: edge
  rules: [{http: {paths: [{backend: {service: {name: web, port: {number: 80}}}}]}}]
---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: edge}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: tulip}
spec: {selector: {app: web}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web, namespace: tulip}
spec: {scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: rules}
webhooks: [{name: a.b.c, clientConfig: {service: {namespace: tulip, name: web}}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: bystander, namespace: tulip}
data: {k: v}
`

func TestClosureOfOneWorkload(t *testing.T) {
	g := build(t, Options{}, shop)
	web := ref(t, g, "Deployment.apps tulip/web")
	c := g.Closure([]v1alpha1.Ref{web}, Include)
	got := map[string]string{}
	for _, m := range c.Members {
		got[m.Ref.String()] = m.Reason
	}
	const conf = "spec.template.spec.containers[0].envFrom[0].configMapRef.name"
	require.Equal(t, map[string]string{
		"Deployment.apps tulip/web":                                         "selected",
		"ReplicaSet.apps tulip/web-abc":                                     "owned by Deployment.apps tulip/web (metadata.ownerReferences)",
		"Pod tulip/web-abc-1":                                               "owned by ReplicaSet.apps tulip/web-abc (metadata.ownerReferences)",
		"Namespace tulip":                                                   "namespace of Deployment.apps tulip/web",
		"Namespace vault":                                                   "",
		"ConfigMap tulip/web-conf":                                          "read into the environment of Deployment.apps tulip/web (" + conf + ")",
		"Service tulip/store":                                               "called by Deployment.apps tulip/web (" + conf + " -> ConfigMap web-conf data[DSN])",
		"StatefulSet.apps tulip/store":                                      "called by Deployment.apps tulip/web (" + conf + " -> ConfigMap web-conf data[DSN])",
		"PersistentVolumeClaim tulip/data-store-0":                          "claimed by StatefulSet.apps tulip/store (spec.volumeClaimTemplates[0])",
		"PersistentVolume pv-7":                                             "bound to PersistentVolumeClaim tulip/data-store-0 (spec.volumeName)",
		"StorageClass.storage.k8s.io quick":                                 "class of StatefulSet.apps tulip/store (spec.volumeClaimTemplates[0].spec.storageClassName)",
		"Secret vault/disk-key":                                             "credentials of PersistentVolume pv-7 (spec.csi.nodeStageSecretRef.name)",
		"Secret tulip/store-key":                                            "read into the environment of StatefulSet.apps tulip/store (spec.template.spec.containers[0].env[PASSWORD].valueFrom.secretKeyRef.name)",
		"ServiceAccount tulip/keeper":                                       "service account of StatefulSet.apps tulip/store (spec.template.spec.serviceAccountName)",
		"RoleBinding.rbac.authorization.k8s.io tulip/keeps":                 "binds ServiceAccount tulip/keeper (subjects[0].name)",
		"Role.rbac.authorization.k8s.io tulip/reads":                        "role bound by RoleBinding.rbac.authorization.k8s.io tulip/keeps (roleRef.name)",
		"Ingress.networking.k8s.io tulip/door":                              "routes to Service tulip/web (spec.rules[0].http.paths[0].backend.service.name)",
		"IngressClass.networking.k8s.io edge":                               "class of Ingress.networking.k8s.io tulip/door (spec.ingressClassName)",
		"Service tulip/web":                                                 "selects Deployment.apps tulip/web (spec.selector)",
		"HorizontalPodAutoscaler.autoscaling tulip/web":                     "scales Deployment.apps tulip/web (spec.scaleTargetRef.name)",
		"ValidatingWebhookConfiguration.admissionregistration.k8s.io rules": "answered by Service tulip/web (webhooks[0].clientConfig.service.name)",
	}, withVault(got), "the stranger's account and the bystander stay out")
	require.Equal(t, []string{"Deployment.apps tulip/web -env-from-> Secret tulip/gone @spec.template.spec.containers[0].envFrom[2].secretRef.name"}, shorts(c.Missing))
	for _, m := range c.Members {
		left := m.Ref.Kind == "ReplicaSet" || m.Ref.Kind == "Pod"
		require.Equal(t, left, m.LeftToOwner, m.Ref.String())
	}
}

// withVault adds the namespace that the test's input leaves out.
func withVault(m map[string]string) map[string]string { m["Namespace vault"] = ""; return m }

func TestClosureModes(t *testing.T) {
	g := build(t, Options{}, shop)
	web := []v1alpha1.Ref{ref(t, g, "Deployment.apps tulip/web")}
	kept := []string{"Namespace tulip", "Pod tulip/web-abc-1", "Deployment.apps tulip/web", "ReplicaSet.apps tulip/web-abc"}
	for mode, referred := range map[Mode][]string{
		Report: {"ConfigMap tulip/web-conf", "Service tulip/store", "StatefulSet.apps tulip/store"},
		Ignore: {},
	} {
		c := g.Closure(web, mode)
		var in, out []v1alpha1.Ref
		for _, m := range c.Members {
			in = append(in, m.Ref)
		}
		for _, m := range c.Referred {
			out = append(out, m.Ref)
		}
		require.Equal(t, kept, names(in), mode)
		require.Equal(t, referred, names(out), mode)
	}
}

func TestWavesOfTheShop(t *testing.T) {
	g := build(t, Options{}, shop)
	c := g.Closure([]v1alpha1.Ref{ref(t, g, "Deployment.apps tulip/web")}, Include)
	groups, err := g.Groups(c, Grouping{})
	require.NoError(t, err)
	require.Len(t, groups, 1)
	require.Equal(t, "tulip/store", groups[0].Name)
	require.Equal(t, []string{"Deployment.apps tulip/web", "StatefulSet.apps tulip/store"}, names(groups[0].Workloads))
	require.Equal(t, []string{
		"Service tulip/store -selects-> StatefulSet.apps tulip/store @spec.selector",
		"Deployment.apps tulip/web =calls=> Service tulip/store @spec.template.spec.containers[0].envFrom[0].configMapRef.name -> ConfigMap web-conf data[DSN]",
	}, shorts(groups[0].Edges))
	at := map[string]int{}
	for i, w := range groups[0].Waves {
		for _, r := range w {
			at[r.Kind+" "+r.Name] = i
		}
	}
	require.Empty(t, groups[0].Cycles)
	for _, pair := range [][2]string{
		{"Namespace tulip", "ConfigMap web-conf"}, {"Namespace tulip", "ServiceAccount keeper"},
		{"Secret disk-key", "PersistentVolume pv-7"}, {"StorageClass quick", "PersistentVolume pv-7"},
		{"PersistentVolume pv-7", "PersistentVolumeClaim data-store-0"}, {"PersistentVolumeClaim data-store-0", "Service store"},
		{"Role reads", "RoleBinding keeps"}, {"RoleBinding keeps", "StatefulSet store"},
		{"Service store", "StatefulSet store"}, {"StatefulSet store", "Deployment web"}, {"ConfigMap web-conf", "Deployment web"},
		{"Deployment web", "HorizontalPodAutoscaler web"}, {"Deployment web", "Ingress door"},
		{"Ingress door", "ValidatingWebhookConfiguration rules"}, {"HorizontalPodAutoscaler web", "ValidatingWebhookConfiguration rules"},
	} {
		require.Contains(t, at, pair[0])
		require.Contains(t, at, pair[1])
		require.Less(t, at[pair[0]], at[pair[1]], "%s before %s", pair[0], pair[1])
	}
	require.NotContains(t, at, "Pod web-abc-1", "what its owner makes again is not restored")

	// The same order comes from lines alone.
	var flat []v1alpha1.Ref
	for _, w := range groups[0].Waves {
		flat = append(flat, w...)
	}
	again, cycles := Waves(flat, g.EdgesAmong(flat))
	require.Equal(t, groups[0].Waves, again)
	require.Empty(t, cycles)
}

// A quota bounds the pods of workloads, and not those that fill their claims.
func TestWavesOfWhatBoundsPods(t *testing.T) {
	g := build(t, Options{}, objectText("v1", "ResourceQuota", "n", "cap"), objectText("v1", "LimitRange", "n", "sizes"), objectText("v1", "PersistentVolumeClaim", "n", "c"),
		workloadText("Deployment", "n", "a", claim("c", "")), workloadText("ReplicaSet", "n", "b", ""))
	waves, _ := g.Waves(g.Nodes())
	var shown [][]string
	for _, w := range waves {
		shown = append(shown, names(w))
	}
	require.Equal(t, [][]string{{"PersistentVolumeClaim n/c"}, {"LimitRange n/sizes", "ResourceQuota n/cap"}, {"Deployment.apps n/a", "ReplicaSet.apps n/b"}}, shown)
}

// What a server of the application converts can be written when it runs, and
// what it admits is refused until then.
func TestWavesOfAServerAndItsObjects(t *testing.T) {
	g := build(t, Options{},
		`{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"berths.sea.example.org"},"spec":{"group":"sea.example.org","names":{"kind":"Berth","plural":"berths"},
		  "conversion":{"strategy":"Webhook","webhook":{"clientConfig":{"service":{"name":"hooks","namespace":"sea"}}}}}}`,
		`{"apiVersion":"v1","kind":"Service","metadata":{"name":"hooks","namespace":"sea"},"spec":{"selector":{"app":"zhooks"}}}`,
		workloadText("Deployment", "sea", "zhooks", ""),
		`{"apiVersion":"sea.example.org/v1","kind":"Berth","metadata":{"name":"a","namespace":"quay"}}`,
		`{"apiVersion":"admissionregistration.k8s.io/v1","kind":"ValidatingWebhookConfiguration","metadata":{"name":"rules"},"webhooks":[{"clientConfig":{"service":{"name":"hooks","namespace":"sea"}}}]}`)
	server := ref(t, g, "Deployment.apps sea/zhooks")
	berth, rules := ref(t, g, "Berth.sea.example.org quay/a"), ref(t, g, "ValidatingWebhookConfiguration.admissionregistration.k8s.io rules")
	for what, waves := range map[string]func() ([][]v1alpha1.Ref, [][]v1alpha1.Ref){
		"the graph": func() ([][]v1alpha1.Ref, [][]v1alpha1.Ref) { return g.Waves(g.Nodes()) },
		"its lines": func() ([][]v1alpha1.Ref, [][]v1alpha1.Ref) { return Waves(g.Nodes(), g.Edges()) },
	} {
		order, cycles := waves()
		require.Empty(t, cycles)
		at := map[v1alpha1.Ref]int{}
		for i, w := range order {
			for _, r := range w {
				at[r] = i
			}
		}
		require.Less(t, at[server], at[berth], what)
		require.Less(t, at[berth], at[rules], what)
	}
	require.Equal(t, []v1alpha1.Ref{server}, g.Answering(berth))
	require.Equal(t, []v1alpha1.Ref{server}, g.Answering(rules))
	require.Empty(t, g.Answering(server))
}

func TestTheSameWhateverTheOrderOfObjects(t *testing.T) {
	all := objects(t, shop)
	print := func() string {
		b := NewBuilder(Options{})
		for _, o := range all {
			require.NoError(t, b.Add(o))
			require.NoError(t, b.Add(o), "an object listed twice counts once")
		}
		g, err := b.Build()
		require.NoError(t, err)
		c := g.Closure(g.Nodes(), Include)
		groups, err := g.Groups(c, Grouping{})
		require.NoError(t, err)
		out, err := json.Marshal([]any{g.Nodes(), g.Edges(), g.Missing(), c.Members, c.Referred, groups})
		require.NoError(t, err)
		require.NotContains(t, string(out), "secret-word")
		return string(out)
	}
	want := print()
	r := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		require.Equal(t, want, print())
	}
}

// Lists of several kinds are read at once, and what is found missing is added
// to a builder that was built before.
func TestAddFromSeveralGoroutinesAndBuildAgain(t *testing.T) {
	all := objects(t, shop)
	b := NewBuilder(Options{})
	for round := range 2 {
		var wait sync.WaitGroup
		for i := round; i < len(all); i += 2 {
			wait.Go(func() { assert.NoError(t, b.Add(all[i])) })
		}
		wait.Wait()
		g, err := b.Build()
		require.NoError(t, err)
		if round == 1 {
			require.Equal(t, build(t, Options{}, shop).Edges(), g.Edges())
		}
	}
}

func TestObjectsThatCannotBeRead(t *testing.T) {
	b := NewBuilder(Options{})
	for _, raw := range []string{
		`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a","namespace":"n"},"spec":7}`,
		`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"b","namespace":"n"},"spec":{"template":{"spec":{"containers":[7,{"env":{}}],"volumes":"x"}}}}`,
		`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c","namespace":"n"},"data":null}`,
		`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"d","namespace":"n"},"data":{"k":7,"l":["store:80"],"m":"="}}`,
		`{"apiVersion":"v1","kind":"Service","metadata":{"name":"e","namespace":"n"},"spec":{"selector":{"a":1}}}`,
	} {
		o, err := object.Parse([]byte(raw))
		require.NoError(t, err)
		require.NoError(t, b.Add(o), "an odd shape refers to nothing: %s", raw)
	}
	o, err := object.Parse([]byte(`{"apiVersion":"policy/v1","kind":"PodDisruptionBudget","metadata":{"name":"f","namespace":"n"},"spec":{"selector":{"matchExpressions":[{"key":"a","operator":"Near"}]}}}`))
	require.NoError(t, err)
	require.ErrorContains(t, b.Add(o), `PodDisruptionBudget.policy n/f: spec.selector: read selector`)
	g, err := b.Build()
	require.NoError(t, err)
	require.Len(t, g.Nodes(), 6)
}

func TestEveryMemberIsCountedOnce(t *testing.T) {
	g := build(t, Options{}, shop)
	for _, by := range []By{ByDependencies, ByNamespace, ByNone} {
		c := g.Closure(g.Nodes(), Include)
		groups, err := g.Groups(c, Grouping{By: by})
		require.NoError(t, err)
		var counted []string
		for _, grp := range groups {
			counted = append(counted, names(grp.Objects)...)
		}
		slices.Sort(counted)
		want := names(g.Nodes())
		slices.Sort(want)
		require.Equal(t, want, counted, by)
	}
}
