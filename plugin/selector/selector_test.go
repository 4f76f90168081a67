package selector

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// compiled is the selector of a policy whose spec is the given YAML.
func compiled(t testing.TB, spec string) (*Selector, error) {
	t.Helper()
	return compiledIn(t, "", spec)
}

func compiledIn(t testing.TB, namespace, spec string) (*Selector, error) {
	t.Helper()
	d, err := v1alpha1.Decode("p.yaml", []byte(fmt.Sprintf(
		"apiVersion: kubectl-backup.io/v1alpha1\nkind: BackupPolicy\nmetadata: {name: p, namespace: %s}\nspec:\n%s", namespace, spec)))
	require.NoError(t, err)
	return Compile(d.Policies[0])
}

func parse(t testing.TB, format string, args ...any) *object.Object {
	t.Helper()
	o, err := object.Parse([]byte(fmt.Sprintf(format, args...)))
	require.NoError(t, err)
	return o
}

func simple(t testing.TB, apiVersion, kind, namespace, name, labels string) *object.Object {
	t.Helper()
	if labels == "" {
		labels = "null"
	}
	ns := ""
	if namespace != "" {
		ns = fmt.Sprintf(`"namespace":%q,`, namespace)
	}
	return parse(t, `{"apiVersion":%q,"kind":%q,"metadata":{%s"name":%q,"labels":%s}}`, apiVersion, kind, ns, name, labels)
}

var ctx = context.Background()

// TestAFailingExpressionIsNeverASilentNo runs one expression over objects that
// have, lack or half have the fields it looks at.
func TestAFailingExpressionIsNeverASilentNo(t *testing.T) {
	plain := parse(t, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"plain","namespace":"mill"},"data":{"a":"b"}}`)
	labelled := parse(t, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"labelled","namespace":"mill","labels":{"grade":"first"}},"data":{"a":"b"}}`)
	other := parse(t, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"other","namespace":"mill","labels":{"other":"x"}}}`)
	broad := parse(t, `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"broad","namespace":"mill"},"spec":{"replicas":3}}`)
	emptyTime := parse(t, `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"et","namespace":"mill","creationTimestamp":null},"spec":{"replicas":1,"template":{"metadata":{"creationTimestamp":null}}}}`)
	const risky = `object.metadata.labels['grade'] == 'first' || object.spec.replicas > 2`
	const careful = `object.?metadata.?labels['grade'].orValue('') == 'first'`
	for _, c := range []struct {
		name, expression string
		o                *object.Object
		selected, fails  bool
	}{
		{"the first half answers", risky, labelled, true, false},
		{"the second half answers", risky, broad, true, false},
		{"neither can answer", risky, plain, false, true},
		{"the label is not among others", risky, other, false, true},
		{"one says no and one cannot answer", risky, emptyTime, false, true},
		{"optional fields, there", careful, labelled, true, false},
		{"optional fields, absent", careful, plain, false, false},
		{"optional fields, others", careful, other, false, false},
		{"optional fields, another kind", careful, broad, false, false},
		{"has does not protect what is above", `has(object.spec.template.metadata)`, plain, false, true},
		{"labels are never null", `!("grade" in labels)`, plain, true, false},
		{"annotations are never null", `annotations.?a.orValue("none") == "none"`, plain, true, false},
		{"a null is there", `has(object.spec.template.metadata.creationTimestamp) || true`, emptyTime, true, false},
		{"a null is not a string", `object.metadata.creationTimestamp.startsWith("2")`, emptyTime, false, true},
		{"a number is not a string", `object.spec.replicas.startsWith("3")`, broad, false, true},
		{"too much work", `[1,2,3,4,5,6,7,8,9].all(a, [1,2,3,4,5,6,7,8,9].all(b, [1,2,3,4,5,6,7,8,9].all(c, [1,2,3,4,5,6,7,8,9].all(d, [1,2,3,4,5,6,7,8,9].all(e, [1,2,3,4,5,6,7,8,9].all(f, a+b+c+d+e+f > 0))))))`, plain, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, onError := range []string{v1alpha1.OnErrorReport, v1alpha1.OnErrorInclude} {
				s, err := compiled(t, fmt.Sprintf("  onExpressionError: %s\n  select:\n  - name: grade\n    expression: %q\n", onError, c.expression))
				require.NoError(t, err)
				d := s.Select(ctx, c.o, nil)
				require.Equal(t, c.selected || c.fails && onError == v1alpha1.OnErrorInclude, d.Selected)
				require.Equal(t, c.fails, d.Err != nil, "%v", d.Err)
				if !c.fails {
					continue
				}
				var failure *EvaluationError
				require.ErrorAs(t, d.Err, &failure)
				require.Equal(t, c.o.Ref, failure.Ref)
				require.ErrorContains(t, d.Err, `the expression of select entry "grade" failed on `+c.o.Ref.String())
				require.ErrorContains(t, d.Err, c.expression)
				if d.Selected {
					require.Equal(t, "grade", d.Entry)
				}
			}
		})
	}
}

func TestEntriesAreJoined(t *testing.T) {
	const yes, no, broken = `true`, `false`, `object.none`
	for _, c := range []struct {
		name             string
		selects, exclude []string
		selected         bool
		entries          string
		excluded         string
		errs             int
	}{
		{"any entry is enough", []string{no, yes}, nil, true, "s1", "", 0},
		{"all that match are named", []string{yes, no, yes}, nil, true, "s0 s2", "", 0},
		{"a failing entry beside one that matches is a note", []string{broken, yes}, nil, true, "s1", "", 1},
		{"a failing entry beside one that does not is undecided", []string{no, broken}, nil, false, "", "", 1},
		{"two failures are both named", []string{broken, broken}, nil, false, "", "", 2},
		{"exclude wins", []string{yes}, []string{no, yes}, false, "s0", "e1", 0},
		{"exclude settles what is undecided", []string{broken}, []string{yes}, false, "", "e0", 0},
		{"a failing exclude excludes nothing", []string{yes}, []string{broken}, true, "s0", "", 1},
		{"a failing exclude does not stop the next", []string{yes}, []string{broken, yes}, false, "s0", "e1", 0},
		{"exclude is not asked about what nobody selects", []string{no}, []string{broken}, false, "", "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b strings.Builder
			b.WriteString("  select:\n")
			for i, e := range c.selects {
				fmt.Fprintf(&b, "  - {name: s%d, expression: \"%s == true\"}\n", i, e)
			}
			b.WriteString("  exclude:\n")
			for i, e := range c.exclude {
				fmt.Fprintf(&b, "  - {name: e%d, expression: \"%s == true\"}\n", i, e)
			}
			s, err := compiled(t, b.String())
			require.NoError(t, err)
			d := s.Select(ctx, simple(t, "v1", "ConfigMap", "mill", "a", ""), nil)
			require.Equal(t, c.selected, d.Selected)
			require.Equal(t, c.entries, strings.Join(d.Entries, " "))
			require.Equal(t, c.excluded, d.Excluded)
			count := 0
			if d.Err != nil {
				count = len(strings.Split(d.Err.Error(), "\n"))
			}
			require.Equal(t, c.errs, count, "%v", d.Err)
		})
	}
}

func TestFieldsOfAnEntryAreJoined(t *testing.T) {
	deployment := simple(t, "apps/v1", "Deployment", "mill", "a", `{"tier":"gold"}`)
	service := simple(t, "v1", "Service", "mill", "a", "")
	knative := simple(t, "serving.example.org/v1", "Service", "mill", "a", "")
	namespace := simple(t, "v1", "Namespace", "", "mill", "")
	class := simple(t, "storage.k8s.io/v1", "StorageClass", "", "fast", "")
	for _, c := range []struct {
		entry string
		o     *object.Object
		want  bool
	}{
		{"{}", deployment, true},
		{"{kinds: [Deployment]}", deployment, true},
		{"{kinds: [Deployment.apps]}", deployment, true},
		{"{kinds: [Deployment.core]}", deployment, false},
		{"{kinds: [Deployment.extensions]}", deployment, false},
		{"{kinds: ['*.apps']}", deployment, true},
		{"{kinds: ['*.batch']}", deployment, false},
		{"{kinds: ['*']}", deployment, true},
		{"{kinds: [StatefulSet, Deployment]}", deployment, true},
		{"{kinds: [deployment.apps]}", nil, false},
		{"{kinds: [Service]}", service, true},
		{"{kinds: [Service]}", knative, true},
		{"{kinds: [Service.core]}", service, true},
		{"{kinds: [Service.core]}", knative, false},
		{"{kinds: ['*.core']}", service, true},
		{"{kinds: ['*.core']}", knative, false},
		{"{namespaces: [mill]}", deployment, true},
		{"{namespaces: [other, mill]}", deployment, true},
		{"{namespaces: [other]}", deployment, false},
		{"{namespaces: [mill]}", namespace, true},
		{"{namespaces: [other]}", namespace, false},
		{"{namespaces: [mill]}", class, false},
		{"{labelSelector: {matchLabels: {tier: gold}}}", deployment, true},
		{"{labelSelector: {matchLabels: {tier: iron}}}", deployment, false},
		{"{labelSelector: {matchLabels: {tier: gold}}}", service, false},
		{"{labelSelector: {matchExpressions: [{key: tier, operator: DoesNotExist}]}}", service, true},
		{"{labelSelector: {matchExpressions: [{key: tier, operator: NotIn, values: [gold]}]}}", service, true},
		{"{labelSelector: {}}", service, true},
		{"{kinds: [Deployment], labelSelector: {matchLabels: {tier: gold}}, expression: 'object.metadata.name == \"a\"'}", deployment, true},
		{"{kinds: [Service], labelSelector: {matchLabels: {tier: gold}}}", deployment, false},
		// What is cheap to check protects the expression from other objects.
		{"{kinds: [Deployment], expression: 'object.spec.replicas > 1'}", service, false},
		{"{labelSelector: {matchLabels: {tier: gold}}, expression: 'object.spec.replicas > 1'}", service, false},
	} {
		if c.o == nil {
			_, err := v1alpha1.Decode("p.yaml", []byte("apiVersion: kubectl-backup.io/v1alpha1\nkind: BackupPolicy\nmetadata: {name: p}\nspec: {select: ["+c.entry+"]}"))
			require.Error(t, err)
			continue
		}
		s, err := compiled(t, "  select: ["+c.entry+"]\n")
		require.NoError(t, err)
		d := s.Select(ctx, c.o, nil)
		require.NoError(t, d.Err)
		require.Equal(t, c.want, d.Selected, "%s on %s", c.entry, c.o.Ref)
	}
}

func TestAPolicyOfANamespaceSelectsThereOnly(t *testing.T) {
	s, err := compiledIn(t, "mill", "  select: [{}]\n")
	require.NoError(t, err)
	require.True(t, s.Select(ctx, simple(t, "v1", "ConfigMap", "mill", "a", ""), nil).Selected)
	require.False(t, s.Select(ctx, simple(t, "v1", "ConfigMap", "other", "a", ""), nil).Selected)
	require.False(t, s.Select(ctx, simple(t, "storage.k8s.io/v1", "StorageClass", "", "a", ""), nil).Selected)
}

func TestWhatTheClusterMadeIsSelectedOnlyWhenItsKindIsNamed(t *testing.T) {
	pod := parse(t, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"mill","ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"a","uid":"u","controller":true}]}}`)
	event := simple(t, "events.k8s.io/v1", "Event", "mill", "a", "")
	for entry, want := range map[string]bool{
		"{}": false, "{namespaces: [mill]}": false, "{kinds: ['*']}": false, "{kinds: ['*.core', '*.events.k8s.io']}": false,
		"{kinds: [Pod, Event]}": true, "{kinds: [Pod.core, Event.events.k8s.io]}": true,
	} {
		s, err := compiled(t, "  select: ["+entry+"]\n")
		require.NoError(t, err)
		require.Equal(t, want, s.Select(ctx, pod, nil).Selected, entry)
		require.Equal(t, want, s.Select(ctx, event, nil).Selected, entry)
		wanted, _ := s.Query("events.k8s.io", "Event")
		require.Equal(t, want, wanted, "listing %s", entry)
	}
}

// An expression that fails on what the cluster made is nobody's concern, unless
// the entry asks for that kind.
func TestAnExpressionThatFailsOnWhatTheClusterMade(t *testing.T) {
	ca := simple(t, "v1", "ConfigMap", "mill", "kube-root-ca.crt", "")
	for entry, fails := range map[string]bool{
		"{expression: 'object.data.mode == \"a\"'}": false, "{kinds: ['*.core'], expression: 'object.data.mode == \"a\"'}": false,
		"{kinds: [ConfigMap], expression: 'object.data.mode == \"a\"'}": true,
	} {
		for _, report := range []string{"Report", "Include"} {
			s, err := compiled(t, "  onExpressionError: "+report+"\n  select: ["+entry+"]\n")
			require.NoError(t, err)
			d := s.Select(ctx, ca, nil)
			require.Equal(t, fails, d.Err != nil, entry)
			require.Equal(t, fails && report == "Include", d.Selected, entry)
		}
	}
}

func TestNamespaceObject(t *testing.T) {
	s, err := compiled(t, "  select: [{expression: 'namespaceObject.metadata.labels.?env.orValue(\"\") == \"prod\"'}]\n  exclude: [{expression: 'namespaceObject == null'}]\n")
	require.NoError(t, err)
	prod := simple(t, "v1", "Namespace", "", "mill", `{"env":"prod"}`)
	o := simple(t, "v1", "ConfigMap", "mill", "a", "")
	require.True(t, s.Select(ctx, o, prod).Selected)
	d := s.Select(ctx, simple(t, "storage.k8s.io/v1", "StorageClass", "", "a", ""), nil)
	require.Equal(t, "exclude[0]", d.Excluded, "%v", d.Err)

	// Many goroutines share one namespace, which is decoded by the first.
	shared := simple(t, "v1", "Namespace", "", "mill", `{"env":"prod"}`)
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for j := range 50 {
				o, err := object.Parse(fmt.Appendf(nil, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a%d-%d","namespace":"mill"}}`, i, j))
				if err != nil || !s.Select(ctx, o, shared).Selected {
					t.Errorf("not selected: %v", err)
				}
			}
		})
	}
	group.Wait()
}

func TestNumbersAreExact(t *testing.T) {
	o := parse(t, `{"apiVersion":"example.org/v1","kind":"Gauge","metadata":{"name":"g","namespace":"mill"},"spec":{"big":9007199254740993,"half":0.5,"zero":0,"text":"007"}}`)
	s, err := compiled(t, "  select: [{expression: 'object.spec.big == 9007199254740993 && object.spec.half < 1 && object.spec.zero == 0 && object.spec.text == \"007\"'}]\n")
	require.NoError(t, err)
	d := s.Select(ctx, o, nil)
	require.NoError(t, d.Err)
	require.True(t, d.Selected)
}

func TestTheDialectIsTheAPIServers(t *testing.T) {
	o := parse(t, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"mill"},"data":{"q":"1Gi","ip":"10.0.0.1","v":"1.2.3","u":"https://example.org/x"}}`)
	for _, expression := range []string{
		`quantity(object.data.q).isGreaterThan(quantity("500Mi"))`,
		`cidr("10.0.0.0/8").containsIP(ip(object.data.ip))`,
		`semver(object.data.v).major() == 1`,
		`url(object.data.u).getHost() == "example.org"`,
		`object.data.q.find("[0-9]+") == "1"`,
		`[1, 2, 3].sum() == 6`,
		`object.data.map(k, k).exists(k, k == "q")`,
		`object.data.exists(k, v, v == "1Gi")`,
		`sets.contains(["a", "b"], ["a"])`,
		`object.metadata.name.lowerAscii() == "a"`,
		`object.metadata.namespace == "mill"`,
		`format.dns1123Label().validate(object.metadata.name) == optional.none()`,
		`size(variables) == 0`,
	} {
		s, err := compiled(t, fmt.Sprintf("  select: [{expression: %q}]\n", expression))
		require.NoError(t, err, expression)
		d := s.Select(ctx, o, nil)
		require.NoError(t, d.Err, expression)
		require.True(t, d.Selected, expression)
	}
}

func TestQueryPushesTheLabelSelector(t *testing.T) {
	s, err := compiled(t, `  select:
  - {kinds: [Deployment], labelSelector: {matchLabels: {tier: gold}}}
  - {kinds: [Deployment, Service], labelSelector: {matchLabels: {tier: gold}}}
  - {kinds: [Service, Secret], labelSelector: {matchLabels: {tier: iron}}}
  - {kinds: [Secret]}
  - {kinds: ["*.example.org"], labelSelector: {matchExpressions: [{key: a, operator: In, values: [y, x]}, {key: b, operator: DoesNotExist}]}}
`)
	require.NoError(t, err)
	for _, c := range []struct {
		group, kind string
		wanted      bool
		labels      string
		named       bool
	}{
		{"apps", "Deployment", true, "tier=gold", true},
		{"", "Service", true, "", true},
		{"", "Secret", true, "", true},
		{"example.org", "Any", true, "a in (x,y),!b", false},
		{"", "ConfigMap", false, "", false},
	} {
		wanted, labels := s.Query(c.group, c.kind)
		require.Equal(t, c.wanted, wanted, c.kind)
		require.Equal(t, c.labels, labels, c.kind)
		require.Equal(t, c.named, s.Names(c.group, c.kind), c.kind)
	}
}

func TestCancelledIsNotUndecided(t *testing.T) {
	s, err := compiled(t, "  select: [{expression: 'object.data.all(k, k != \"\")'}]\n")
	require.NoError(t, err)
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	d := s.Select(cancelled, parse(t, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"mill"},"data":{"a":"b"}}`), nil)
	require.ErrorIs(t, d.Err, context.Canceled)
	require.False(t, d.Selected)
}

func TestAnObjectThatCannotBeDecodedIsReported(t *testing.T) {
	s, err := compiled(t, "  select: [{expression: 'object.metadata.name == \"a\"'}]\n")
	require.NoError(t, err)
	o := simple(t, "v1", "ConfigMap", "mill", "a", "")
	o.Raw = []byte("{")
	require.ErrorContains(t, s.Select(ctx, o, nil).Err, "decode ConfigMap mill/a")
}

func TestGroup(t *testing.T) {
	s, err := compiled(t, "  select: [{}]\n  grouping: {by: Expression, expression: 'labels.?unit.orValue(object.metadata.name)'}\n")
	require.NoError(t, err)
	name, err := s.Group(ctx, simple(t, "v1", "ConfigMap", "mill", "a", `{"unit":"press"}`), nil)
	require.NoError(t, err)
	require.Equal(t, "press", name)
	name, err = s.Group(ctx, simple(t, "v1", "ConfigMap", "mill", "a", ""), nil)
	require.NoError(t, err)
	require.Equal(t, "a", name)
}

func BenchmarkSelect(b *testing.B) {
	s, err := compiled(b, `  select:
  - {name: gold, kinds: [Deployment, StatefulSet], labelSelector: {matchLabels: {tier: gold}}, expression: 'object.spec.replicas > 0'}
  - {name: prod, expression: 'namespaceObject.metadata.labels.?env.orValue("") == "prod" && object.metadata.name != ""'}
  exclude:
  - {expression: '"scratch" in labels'}
`)
	require.NoError(b, err)
	ns := simple(b, "v1", "Namespace", "", "mill", `{"env":"prod"}`)
	raws := make([][]byte, 10_000)
	for i := range raws {
		raws[i] = fmt.Appendf(nil, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"cm-%d","namespace":"mill","labels":{"app":"x"}},"data":{"payload":%q}}`, i, strings.Repeat("x", 1000))
	}
	for b.Loop() {
		for _, raw := range raws {
			o, err := object.Parse(raw)
			if err != nil || !s.Select(ctx, o, ns).Selected {
				b.Fatal("not selected", err)
			}
		}
	}
	b.ReportMetric(float64(len(raws)*b.N)/b.Elapsed().Seconds(), "objects/s")
}

func TestHooksMatchPods(t *testing.T) {
	s, err := compiled(t, `  select: [{}]
  consistency:
    hooks:
    - {recipe: redis}
    - {recipe: redis, match: 'labels.?app.orValue("") == "mill" && namespaceObject.metadata.name == "mill"'}
    - {recipe: redis, match: 'object.metadata.labels.grade == "first"'}
`)
	require.NoError(t, err)
	require.Equal(t, 3, s.Hooks())
	mill := simple(t, "v1", "Pod", "mill", "mill-0", `{"app":"mill"}`)
	bare := simple(t, "v1", "Pod", "mill", "bare", "")
	ns := simple(t, "v1", "Namespace", "", "mill", "")
	for _, c := range []struct {
		hook    int
		pod, ns *object.Object
		want    bool
		fails   string
	}{
		{0, bare, nil, true, ""},
		{1, mill, ns, true, ""},
		{1, bare, ns, false, ""},
		{1, mill, nil, false, "spec.consistency.hooks[1].match failed on Pod mill/mill-0"},
		{2, bare, ns, false, "spec.consistency.hooks[2].match failed on Pod mill/bare: no such key"},
	} {
		matched, err := s.Hook(ctx, c.hook, c.pod, c.ns)
		if c.fails != "" {
			require.ErrorContains(t, err, c.fails)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, c.want, matched)
	}
}
