package graph

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
	"github.com/stretchr/testify/require"
)

func smallConfigMap(i int) []byte {
	return fmt.Appendf(nil, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"settings-%d","namespace":"space-%d","uid":"7f3d2c1b-0000-4000-8000-%012d","resourceVersion":"%d",`+
		`"creationTimestamp":"2024-01-01T00:00:00Z","labels":{"app":"a%d"},"managedFields":[{"manager":"kubectl","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:data":{".":{},"f:a":{}}}}]},`+
		`"data":{"settings":"log: info\nworkers: %d\nurl: http://store.space-%d.svc:8080/\npath: /var/lib/x.y.z\n","level":"3"}}`, i, i%50, i, i, i%7, i, i%50)
}

func BenchmarkAddConfigMap(b *testing.B) {
	all := make([]*object.Object, 10000)
	for i := range all {
		o, err := object.Parse(smallConfigMap(i))
		require.NoError(b, err)
		all[i] = o
	}
	b.ReportAllocs()
	for b.Loop() {
		builder := NewBuilder(Options{})
		for _, o := range all {
			if err := builder.Add(o); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(len(all))*float64(b.N)/b.Elapsed().Seconds(), "objects/s")
}

func deployment(i, spaces int) []byte {
	return fmt.Appendf(nil, `{"kind":"Deployment","apiVersion":"apps/v1","metadata":{"name":"d-%d","namespace":"space-%d","uid":"u%d","labels":{"app":"d-%d"}},"spec":{"selector":{"matchLabels":{"app":"d-%d"}},`+
		`"template":{"metadata":{"labels":{"app":"d-%d"}},"spec":{"serviceAccountName":"runner","containers":[{"name":"c","image":"x","env":[{"name":"UP","value":"http://d-%d:80"}],`+
		`"envFrom":[{"configMapRef":{"name":"settings-%d"}}]}],"volumes":[{"name":"v","persistentVolumeClaim":{"claimName":"c-%d"}}]}}}}`, i, i%spaces, i, i, i, i, (i+spaces)%10000, i, i)
}

// Deterministic sizes rather than times: what is kept of 100,000 objects.
func TestMemoryOfManyObjects(t *testing.T) {
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	b := NewBuilder(Options{})
	add := func(raw []byte) {
		o, err := object.Parse(raw)
		require.NoError(t, err)
		require.NoError(t, b.Add(o))
	}
	const n = 100000
	for i := range n / 2 {
		add(smallConfigMap(i))
	}
	for i := range n / 10 {
		add(deployment(i, 50))
		add(fmt.Appendf(nil, `{"kind":"Service","apiVersion":"v1","metadata":{"name":"d-%d","namespace":"space-%d"},"spec":{"selector":{"app":"d-%d"}}}`, i, i%50, i))
		add(fmt.Appendf(nil, `{"kind":"Thing","apiVersion":"x.example.com/v1","metadata":{"name":"t-%d","namespace":"space-%d"}}`, i, i%50))
		add(fmt.Appendf(nil, `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p-%d","namespace":"space-%d","ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"r-%d","uid":"r%d","controller":true}]},"spec":{}}`, i, i%50, i, i))
		add(fmt.Appendf(nil, `{"kind":"ReplicaSet","apiVersion":"apps/v1","metadata":{"name":"r-%d","namespace":"space-%d","uid":"r%d","ownerReferences":[{"apiVersion":"apps/v1","kind":"Deployment","name":"d-%d","uid":"u%d","controller":true}]},"spec":{}}`, i, i%50, i, i, i))
	}
	g, err := b.Build()
	require.NoError(t, err)
	require.Len(t, g.Nodes(), n)
	used := heap() - before
	t.Logf("%d objects, %d edges: %d MiB", n, len(g.edges), used>>20)
	require.Less(t, used, uint64(200<<20), "builder and graph of 100,000 objects")
	runtime.KeepAlive(b)
}

// A large cluster is planned in seconds: nothing here is quadratic in the
// number of workloads of one namespace.
func TestManyWorkloadsInOneNamespace(t *testing.T) {
	b := NewBuilder(Options{})
	add := func(raw []byte) {
		o, err := object.Parse(raw)
		require.NoError(t, err)
		require.NoError(t, b.Add(o))
	}
	for i := range 10000 {
		add(deployment(i, 1))
		add(fmt.Appendf(nil, `{"kind":"Service","apiVersion":"v1","metadata":{"name":"d-%d","namespace":"space-0"},"spec":{"selector":{"app":"d-%d"}}}`, i, i))
	}
	add([]byte(`{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"space-0"}}`))
	add([]byte(`{"kind":"ServiceAccount","apiVersion":"v1","metadata":{"name":"runner","namespace":"space-0"}}`))
	start := time.Now()
	g, err := b.Build()
	require.NoError(t, err)
	c := g.Closure(g.Nodes(), Include)
	for _, by := range []By{ByDependencies, ByNone} {
		groups, err := g.Groups(c, Grouping{By: by})
		require.NoError(t, err)
		if by == ByNone {
			require.Len(t, groups, 10000)
			require.True(t, strings.HasPrefix(groups[0].Name, "space-0/d-"))
		} else {
			require.Len(t, groups, 1, "each calls the next, all around")
			require.Len(t, groups[0].Cycles[0], 10000)
		}
	}
	t.Logf("build, closure and groups: %v", time.Since(start))
	_, cycles := g.Waves([]v1alpha1.Ref{})
	require.Empty(t, cycles)
}
