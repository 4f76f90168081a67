package drill

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/rewrite"
	"github.com/kubectl-backup/kubectl-backup/plugin/selector"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// A copy must neither be reached from outside nor act on it.
func TestCopiesAreDefused(t *testing.T) {
	set := defused(map[kind]lack{{"sea.example.org", "Berth"}: {"berths.sea.example.org", "v1"}})
	set.Spec.Namespaces = map[string]string{"shop": "drill-1-shop"}
	rules, err := rewrite.Compile(set)
	require.NoError(t, err)
	objects := map[string]string{
		"service":   `{"apiVersion":"v1","kind":"Service","metadata":{"name":"db","namespace":"shop"},"spec":{"type":"LoadBalancer","externalIPs":["192.0.2.1"],"loadBalancerIP":"192.0.2.2","ports":[{"port":80,"nodePort":30080}],"selector":{"app":"db"}}}`,
		"nodeport":  `{"apiVersion":"v1","kind":"Service","metadata":{"name":"np","namespace":"shop"},"spec":{"type":"NodePort","ports":[{"port":80,"nodePort":30081}]}}`,
		"ingress":   `{"apiVersion":"networking.k8s.io/v1","kind":"Ingress","metadata":{"name":"i","namespace":"shop","annotations":{"kubernetes.io/ingress.class":"nginx"}},"spec":{"ingressClassName":"nginx","tls":[{"hosts":["a.example.org"]}],"rules":[{"host":"a.example.org"},{"host":"*.example.org"},{}]}}`,
		"cronjob":   `{"apiVersion":"batch/v1","kind":"CronJob","metadata":{"name":"c","namespace":"shop"},"spec":{"schedule":"* * * * *","jobTemplate":{"spec":{"template":{"spec":{"hostNetwork":true,"containers":[{"name":"c","image":"x"}]}}}}}}`,
		"daemonset": `{"apiVersion":"apps/v1","kind":"DaemonSet","metadata":{"name":"d","namespace":"shop"},"spec":{"template":{"spec":{"hostNetwork":true,"containers":[{"name":"c","image":"x","ports":[{"containerPort":80,"hostPort":80}],"env":[{"name":"DB","value":"postgres://db.shop.svc.cluster.local:5432/x"}]}]}}}}`,
		"route":     `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"name":"r","namespace":"shop"},"spec":{"parentRefs":[{"name":"public","namespace":"edge"}],"hostnames":["a.example.org"]}}`,
	}
	var parsed []*object.Object
	for _, raw := range objects {
		o, err := object.Parse([]byte(raw))
		require.NoError(t, err)
		parsed = append(parsed, o)
		require.NoError(t, rules.Learn(o))
	}
	after := map[string]string{}
	for _, o := range parsed {
		d, err := rewrite.Decode(o)
		require.NoError(t, err)
		_, err = rules.Apply(d)
		require.NoError(t, err)
		raw, err := json.Marshal(d.Content)
		require.NoError(t, err)
		after[d.Ref.Kind+"/"+o.Ref.Name] = string(raw)
		require.Contains(t, string(raw), `"namespace":"drill-1-shop"`)
	}
	for name, word := range map[string]string{
		"Service/db": `"type":"ClusterIP"`, "Service/np": `"type":"ClusterIP"`, "CronJob/c": `"suspend":true`,
		"Ingress/i": `"ingressClassName":"drill-invalid"`, "HTTPRoute/r": `"a.example.org.drill.invalid"`,
		"DaemonSet/d": `postgres://db.drill-1-shop.svc.cluster.local:5432/x`,
	} {
		require.Contains(t, after[name], word)
	}
	require.Contains(t, after["Ingress/i"], `"*.example.org.drill.invalid"`)
	for name, words := range map[string][]string{
		"Service/db": {"externalIPs", "nodePort", "loadBalancerIP"}, "Service/np": {"nodePort"}, "CronJob/c": {"hostNetwork"},
		"Ingress/i": {"nginx", `"a.example.org"`}, "DaemonSet/d": {"hostNetwork", "hostPort"}, "HTTPRoute/r": {"edge"},
	} {
		for _, w := range words {
			require.NotContains(t, after[name], w, name)
		}
	}
}

// A definition that a drill makes needs nobody who converts, keeps objects at
// the version that they were saved at, and is known for the drill's; and nothing
// waits for somebody who acts on its end.
func TestDefinitionsOfADrill(t *testing.T) {
	rules, err := rewrite.Compile(defused(map[kind]lack{
		{"sea.example.org", "Berth"}: {"berths.sea.example.org", "v1"}, {"sea.example.org", "Pier"}: {"piers.sea.example.org", "v1"},
	}))
	require.NoError(t, err)
	rewritten := func(raw string) string {
		o, err := object.Parse([]byte(raw))
		require.NoError(t, err)
		d, err := rewrite.Decode(o)
		require.NoError(t, err)
		_, err = rules.Apply(d)
		require.NoError(t, err)
		out, err := json.Marshal(d.Content)
		require.NoError(t, err)
		return string(out)
	}
	raw := rewritten(`{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"berths.sea.example.org"},"spec":{"group":"sea.example.org","conversion":{"strategy":"Webhook","webhook":{"clientConfig":{"service":{"name":"hooks","namespace":"port"}}}},"versions":[{"name":"v1alpha1","served":true,"storage":true},{"name":"v1","served":true,"storage":false}]}}`)
	require.Contains(t, raw, `"versions":[{"name":"v1alpha1","served":true,"storage":false},{"name":"v1","served":true,"storage":true}]`)
	require.NotContains(t, raw, "conversion")
	require.Contains(t, raw, `"kubectl-backup.io/temporary":"true"`)
	require.NotContains(t, rewritten(`{"apiVersion":"sea.example.org/v1","kind":"Berth","metadata":{"name":"b","namespace":"port","finalizers":["port.example.org/pilot"]}}`), "finalizers")
}

func TestAnAssertionThatFailsIsNoPass(t *testing.T) {
	pod := func(phase string) map[string]any {
		return map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "p", "namespace": "drill-1-shop"}, "status": map[string]any{"phase": phase}}
	}
	spec := v1alpha1.Drill{Assert: []string{
		"objects.all(o, healthy(o))", "objects.exists(o, o.kind == 'Secret')", "objects[5].kind == 'Pod'", "healthy(objects[0].metadata.name)", `namespaces["shop"] == "drill-1-shop"`,
	}}
	checks, err := selector.CompileDrill(&spec, healthy)
	require.NoError(t, err)
	d := &drill{Request: Request{Spec: spec}, checks: checks, report: &v1alpha1.DrillReport{Backup: "b"}, namespaces: map[string]string{"shop": "drill-1-shop"}}
	d.live = []live{
		{ref: v1alpha1.Ref{Kind: "Pod", Namespace: "drill-1-shop", Name: "sick"}, content: pod("Failed")},
		{ref: v1alpha1.Ref{Kind: "ConfigMap", Namespace: "drill-1-shop", Name: "c"}, content: map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "c"}}},
	}
	d.assert(t.Context())
	d.judge()
	c := d.report.Checks
	require.Len(t, c, 5)
	require.Equal(t, "it is false", c[0].Reason)
	require.Len(t, c[0].Seen, 1)
	require.Contains(t, c[0].Seen[0], "Pod shop/sick: Degraded")
	require.Len(t, c[1].Seen, 2)
	require.Contains(t, c[2].Reason, "it failed: ")
	require.Contains(t, c[3].Reason, "healthy takes an object")
	require.True(t, c[4].Passed)
	require.False(t, d.report.Passed)
	require.Equal(t, 1, d.report.ExitCode)
	require.Equal(t, []string{"assertion assert[0]", "assertion assert[1]", "assertion assert[2]", "assertion assert[3]"}, Verdict(d.report).Failed)
}

// What is at work, or waits for what a drill keeps away, is not sick.
func TestHealthOfWhatIsAtWork(t *testing.T) {
	for raw, want := range map[string]bool{
		`{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"j"},"status":{"active":1}}`:                                                                                     true,
		`{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"j"},"status":{"conditions":[{"type":"Failed","status":"True"}]}}`:                                               false,
		`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"restartPolicy":"Never"},"status":{"phase":"Running"}}`:                                                   true,
		`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"restartPolicy":"Never"},"status":{"phase":"Pending"}}`:                                                   false,
		`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"restartPolicy":"Always"},"status":{"phase":"Running","conditions":[{"type":"Ready","status":"False"}]}}`: false,
		`{"apiVersion":"autoscaling/v2","kind":"HorizontalPodAutoscaler","metadata":{"name":"h"},"status":{"currentReplicas":1,"desiredReplicas":0}}`:                              true,
		`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d"},"spec":{"replicas":1},"status":{"observedGeneration":0,"updatedReplicas":0}}`:                         false,
		`{"apiVersion":"networking.k8s.io/v1","kind":"Ingress","metadata":{"name":"i"},"status":{"loadBalancer":{}}}`:                                                              true,
	} {
		o, err := object.Parse([]byte(raw))
		require.NoError(t, err)
		content, err := o.Content()
		require.NoError(t, err)
		good, err := healthy(content)
		require.NoError(t, err)
		require.Equal(t, want, good, raw)
	}
}

func TestExpectations(t *testing.T) {
	text := "3\n"
	spec := v1alpha1.Drill{Probes: []v1alpha1.DrillProbe{
		{Name: "text", Match: "true", Expect: &v1alpha1.DrillExpect{Text: &text}},
		{Name: "regex", Match: "true", Expect: &v1alpha1.DrillExpect{Regex: "^[0-9]+$"}},
		{Name: "cel", Match: "true", Expect: &v1alpha1.DrillExpect{Expression: "int(stdout) >= 3 && exitCode == 0"}},
	}}
	checks, err := selector.CompileDrill(&spec, healthy)
	require.NoError(t, err)
	d := &drill{Request: Request{Spec: spec}, checks: checks}
	for out, want := range map[string][3]bool{"3": {true, true, true}, "4": {false, true, true}, "2": {false, true, false}, "": {}, "three": {}} {
		for i, p := range spec.Probes {
			reason := d.compare(t.Context(), i, *p.Expect, out, 0)
			require.Equal(t, want[i], reason == "", "%s on %q: %s", p.Name, out, reason)
		}
	}
}

func TestScratchNames(t *testing.T) {
	long := strings.Repeat("a", 63)
	seen := map[string]bool{}
	for n, of := range []string{"shop", long, long[:62] + "b", "a"} {
		name := scratchName("123abc", n, of)
		require.LessOrEqual(t, len(name), 63)
		require.True(t, strings.HasPrefix(name, "drill-123abc-"))
		require.False(t, seen[name])
		seen[name] = true
	}
}
