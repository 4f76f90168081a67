package selector

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

func TestRefusedExpressions(t *testing.T) {
	for _, c := range []struct {
		name, spec string
		want       []string
	}{
		{"misspelt variable", "  select: [{name: gold, expression: 'namespacObject != null'}]\n", []string{
			`p.yaml:5:25: spec.select[0].expression: entry "gold": line 1, column 1: there is no "namespacObject"; did you mean "namespaceObject"?`,
			"    namespacObject != null\n    ^"}},
		{"unknown variable", "  select: [{expression: 'object.a == 1 && pod.b == 1'}]\n", []string{
			`line 1, column 18: there is no "pod"; the variables are annotations, labels, namespaceObject, object, variables`,
			"    object.a == 1 && pod.b == 1\n                     ^"}},
		{"syntax", "  select: [{expression: 'object.a =='}]\n", []string{"line 1, column 12: Syntax error", "object.a ==\n"}},
		{"second line", "  select:\n  - expression: |\n      object.spec.replicas > 0 &&\n      \tlabells.size() > 0\n", []string{
			`line 2, column 2: there is no "labells"; did you mean "labels"?`, "    \tlabells.size() > 0\n    \t^"}},
		{"wide characters", "  select: [{expression: '\"ä€😀\" == nope'}]\n", []string{"line 1, column 10:", "\n             ^"}},
		{"string", "  select: [{expression: 'object.metadata.name + \"x\"'}]\n", []string{"must be a bool, not a string"}},
		{"number", "  select: [{expression: '1 + 1'}]\n", []string{"must be a bool, not a int"}},
		{"not compared", "  select: [{expression: 'object.spec.suspend'}]\n", []string{"must be a bool, not a value of a type that is not known before it runs; compare it, as in ... == true"}},
		{"wrong operands", "  select: [{expression: 'labels.size() == \"a\"'}]\n", []string{"line 1, column 15: found no matching overload"}},
		{"bad regular expression", "  select: [{expression: 'object.a.matches(\"[\")'}]\n", []string{"invalid matches argument"}},
		{"bad duration", "  select: [{expression: 'duration(\"1 day\") > duration(\"1s\")'}]\n", []string{"invalid duration argument"}},
		{"exclude", "  select: [{}]\n  exclude: [{expression: 'x'}]\n", []string{"spec.exclude[0].expression"}},
		{"hook", "  select: [{}]\n  consistency: {hooks: [{recipe: exec, match: 'x'}]}\n", []string{"spec.consistency.hooks[0].match"}},
		{"volume rule", "  select: [{}]\n  volumes: [{match: 'volume.storageClas == \"fast\"', method: Skip}]\n", []string{"spec.volumes[0].match: line 1, column 7: undefined field 'storageClas'"}},
		{"volume of another type", "  select: [{}]\n  volumes: [{match: 'volume.capacity == \"1Gi\"', method: Skip}]\n", []string{"found no matching overload"}},
		{"grouping", "  select: [{}]\n  grouping: {by: Expression, expression: 'true'}\n", []string{"spec.grouping.expression: must be a string, not a bool"}},
		{"drill", "  select: [{}]\n  drill: {assert: ['objects.all(o, helthy(o))']}\n", []string{"spec.drill.assert[0]", "helthy"}},
		{"probe", "  select: [{}]\n  drill: {probes: [{name: a, match: 'label.app == \"db\"', command: [a]}]}\n", []string{"spec.drill.probes[0].match: line 1, column 1", `did you mean "labels"?`}},
		{"expectation", "  select: [{}]\n  drill: {probes: [{name: a, match: 'true', command: [a], expect: {expression: 'int(stdout)'}}]}\n", []string{"spec.drill.probes[0].expect.expression: must be a bool, not a int"}},
		{"every fault at once", "  select: [{expression: 'a'}, {expression: 'b'}]\n  volumes: [{match: 'c', method: Skip}]\n", []string{"select[0]", "select[1]", "volumes[0]"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := compiled(t, c.spec)
			for _, want := range c.want {
				require.ErrorContains(t, err, want)
			}
			require.ErrorAs(t, err, new(*v1alpha1.UsageError))
			require.True(t, strings.HasPrefix(err.Error(), "p.yaml:"), err.Error())
		})
	}
}

func TestAcceptedExpressionsOfLaterSteps(t *testing.T) {
	_, err := compiled(t, `  select: [{}]
  consistency: {hooks: [{recipe: exec, match: 'labels.?app.orValue("") == "db" && object.kind == "Pod"'}]}
  drill: {assert: ['objects.all(o, healthy(o))']}
`)
	require.NoError(t, err)
}

func TestVolumeRules(t *testing.T) {
	s, err := compiled(t, `  select: [{}]
  volumes:
  - {match: 'volume.storageClass == "fast" && "ReadWriteOnce" in volume.accessModes', method: Snapshot}
  - {match: 'volume.kind == "emptyDir" && pod.metadata.labels["keep"] == "yes"', method: Stream}
  - {match: 'volume.kind == "hostPath" && volume.source.path.startsWith("/var")', method: Skip}
  - {match: 'object != null && object.metadata.name == "big" && volume.capacity > 1000', method: Skip}
  - {match: 'volume.namespace == "mill" && volume.mode == "Filesystem"', method: Stream}
`)
	require.NoError(t, err)
	keep := map[string]any{"metadata": map[string]any{"labels": map[string]any{"keep": "yes"}}}
	bare := map[string]any{"metadata": map[string]any{}}
	big := map[string]any{"metadata": map[string]any{"name": "big"}}
	for _, c := range []struct {
		name                string
		volume, pod, object map[string]any
		rule                int
		method, failure     string
	}{
		{"first", map[string]any{"storageClass": "fast", "accessModes": []any{"ReadWriteOnce"}, "namespace": "mill", "mode": "Filesystem"}, nil, nil, 0, "Snapshot", ""},
		{"second", map[string]any{"kind": "emptyDir"}, keep, nil, 1, "Stream", ""},
		{"source", map[string]any{"kind": "hostPath", "source": map[string]any{"path": "/var/x"}}, bare, nil, 2, "Skip", ""},
		{"object", map[string]any{"capacity": int64(2000)}, nil, big, 3, "Skip", ""},
		{"last", map[string]any{"namespace": "mill", "mode": "Filesystem"}, nil, big, 4, "Stream", ""},
		{"none", map[string]any{}, nil, nil, -1, "Auto", ""},
		{"failing", map[string]any{"name": "cache", "kind": "emptyDir"}, bare, nil, 1, "Auto", "spec.volumes[1].match failed on volume cache"},
		{"failing without a pod", map[string]any{"name": "cache", "kind": "emptyDir"}, nil, nil, 1, "Auto", "spec.volumes[1].match failed on volume cache"},
	} {
		t.Run(c.name, func(t *testing.T) {
			rule, method, err := s.Volume(ctx, c.volume, given(c.pod), given(c.object))
			require.Equal(t, c.rule, rule)
			require.Equal(t, c.method, method)
			if c.failure != "" {
				require.ErrorContains(t, err, c.failure)
			} else {
				require.NoError(t, err)
			}
		})
	}

	all, err := compiled(t, "  select: [{}]\n  volumes: [{match: 'volume.kind == \"x\"', method: Skip}, {method: Stream}]\n")
	require.NoError(t, err)
	rule, method, err := all.Volume(ctx, nil, nil, nil)
	require.NoError(t, err)
	require.Equal(t, 1, rule)
	require.Equal(t, "Stream", method)
}

func TestFilter(t *testing.T) {
	vars := map[string]*Type{"time": Time, "cluster": String, "node": Strings, "labels": StringMap, "commit": String, "complete": Bool, "files": Int, "object": Dyn}
	at := time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC)
	calls := 0
	values := map[string]any{
		"time": at, "cluster": "c1", "node": []string{"n1", "n2"}, "labels": map[string]string{"a": "b"}, "commit": "abc", "complete": true, "files": int64(7),
		"object": func() any { calls++; return map[string]any{"kind": "Pod"} },
	}
	for expression, want := range map[string]bool{
		`time > timestamp("2031-01-01T00:00:00Z")`: true, `time.getFullYear() == 2030`: false, `"n2" in node`: true,
		`labels.?a.orValue("") == "b"`: true, `commit.startsWith("ab") && complete && files > 6`: true, `cluster == "c2"`: false,
		`object.kind == "Pod"`: true,
	} {
		f, err := CompileFilter(expression, vars)
		require.NoError(t, err, expression)
		got, err := f.Match(ctx, values)
		require.NoError(t, err, expression)
		require.Equal(t, want, got, expression)
	}
	require.Equal(t, 1, calls, "a value is made only where it is needed")

	for expression, want := range map[string]string{
		`clustr == "a"`: `line 1, column 1: there is no "clustr"; did you mean "cluster"?`,
		`time > "2031"`: "found no matching overload",
		`files`:         "must be a bool, not a int",
		``:              "Syntax error",
	} {
		_, err := CompileFilter(expression, vars)
		require.ErrorContains(t, err, want)
		require.ErrorAs(t, err, new(*v1alpha1.UsageError))
	}
	f, err := CompileFilter(`object.spec.x == 1`, vars)
	require.NoError(t, err)
	_, err = f.Match(ctx, values)
	require.ErrorContains(t, err, "no such key: spec")
}

func given(m map[string]any) func() (map[string]any, error) {
	return func() (map[string]any, error) { return m, nil }
}
