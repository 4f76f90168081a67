package rewrite

import (
	"bytes"
	"strings"
	"testing"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const setHead = "apiVersion: kubectl-backup.io/v1alpha1\nkind: RewriteSet\nmetadata: {name: x}\nspec:\n"

func compileText(text string) error {
	documents, err := v1alpha1.Decode("set.yaml", []byte(setHead+text))
	if err != nil {
		return err
	}
	_, err = Compile(documents.Rewrites[0])
	return err
}

// A set that cannot be meant is refused when it is read, at its place, and
// where two parts of it do not go together, at both.
func TestSetsThatAreRefused(t *testing.T) {
	for _, c := range []struct {
		name, spec string
		want       []string
	}{
		{"a rule on apiVersion", `  rules: [{set: [{path: apiVersion, value: v2}]}]`, []string{"set.yaml:5:", "apiVersion must not be changed"}},
		{"a rule on kind", `  rules: [{remove: [kind]}]`, []string{"kind must not be changed"}},
		{"a rule on the uid", `  rules: [{jsonPatch: [{op: replace, path: /metadata/uid, value: x}]}]`, []string{"metadata.uid must not be changed"}},
		{"a patch of the uid", `  rules: [{mergePatch: {metadata: {uid: x}}}]`, []string{"metadata.uid must not be changed"}},
		{"a patch of all of metadata", `  rules: [{jsonPatch: [{op: replace, path: /metadata, value: {}}]}]`, []string{"identity"}},
		{"a move out of kind", `  rules: [{jsonPatch: [{op: move, from: /kind, path: /spec/a}]}]`, []string{"kind must not be changed"}},
		{"a name by a rule", `  rules: [{set: [{path: metadata.name, value: x}]}]`, []string{"write spec.names"}},
		{"an unknown kind", `  rules: [{match: {kinds: [Deploiment]}, remove: [spec.paused]}]`, []string{"unknown kind", `did you mean "Deployment"?`}},
		{"an unknown kind of a group", `  rules: [{match: {kinds: [Cron.batch]}, remove: [spec.x]}]`, []string{`unknown kind "Cron.batch"`}},
		{"an unknown field", `  rules: [{match: {kinds: [Deployment]}, set: [{path: spec.replika, value: 1}]}]`, []string{"set.yaml:5:", "spec.replika", `did you mean "replicas"?`}},
		{"an unknown field in a patch", `  rules: [{match: {kinds: [Service]}, strategicMergePatch: {spec: {port: 1}}}]`, []string{"spec.port"}},
		{"an unknown field of metadata", `  rules: [{remove: [metadata.label.x]}]`, []string{"metadata.label", `did you mean "labels"?`}},
		{"a list without brackets", `  rules: [{match: {kinds: [Pod]}, set: [{path: spec.containers.image, value: x}]}]`, []string{"spec.containers is a list", "spec.containers[]"}},
		{"an expression with a typing error", `  rules: [{match: {expression: objekt.spec.x == 1}, remove: [spec]}]`, []string{"line 1, column 1", `did you mean "object"?`}},
		{"a value that is not compiled", `  rules: [{set: [{path: data.x, expression: "1 +"}]}]`, []string{"spec.rules[0].set[0].expression"}},
		{"an unknown section", `  namespace: {a: b}`, []string{"unknown field", `did you mean "namespaces"?`}},
		{"two namespaces onto one", "  namespaces:\n    a: c\n    b: c", []string{"set.yaml:7:8", "set.yaml:6:8", `both mapped to "c"`}},
		{"two images onto one", "  images:\n  - {from: docker.io, to: m.example.org/x}\n  - {from: quay.io, to: m.example.org/x}", []string{"set.yaml:7:", "set.yaml:6:", "both mapped"}},
		{"two hosts onto one", "  hosts:\n  - {from: a.org, to: c.org}\n  - {from: b.org, to: c.org}", []string{"set.yaml:7:", "set.yaml:6:"}},
		{"one image twice", "  images:\n  - {from: docker.io, to: m.example.org/x}\n  - {from: docker.io, to: m.example.org/y}", []string{"set.yaml:7:", "set.yaml:6:"}},
		{"a chain", "  namespaces:\n    a: b\n    b: c", []string{"set.yaml:6:8", "set.yaml:7:8", "once: true"}},
		{"a swap", "  storageClasses:\n    a: b\n    b: a", []string{"once: true"}},
		{"two rules on one field", "  rules:\n  - {name: one, set: [{path: metadata.labels.a, value: x}]}\n  - {name: two, remove: [metadata.labels.a]}", []string{"set.yaml:7:", "set.yaml:6:", "one", "two", "metadata.labels.a"}},
		{"a rule inside another's field", "  rules:\n  - {name: one, match: {kinds: [Pod]}, set: [{path: 'spec.containers[name=a]', value: {}}]}\n  - {name: two, match: {kinds: [Pod]}, mergePatch: {spec: {containers: []}}}", []string{"one", "two"}},
		{"a rule on what a map changes", "  images: [{from: docker.io, to: m.example.org}]\n  rules: [{name: one, match: {kinds: [Deployment]}, set: [{path: 'spec.template.spec.containers[name=a].image', value: x}]}]", []string{"set.yaml:6:", "set.yaml:5:", "spec.images"}},
		{"an image with a tag", `  images: [{from: "docker.io/a:1", to: b.org}]`, []string{"tag or digest"}},
		{"an image without a registry", `  images: [{from: team, to: b.org}]`, []string{"does not begin with a registry"}},
		{"a regular expression", `  hosts: [{regex: "(", to: x}]`, []string{"not a regular expression"}},
		{"a rule that does nothing", `  rules: [{name: one}]`, []string{"changes nothing"}},
		{"a platform", `  profiles: [{from: AWZ}]`, []string{`did you mean "AWS"?`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := compileText(c.spec + "\n")
			if err == nil {
				t.Fatal("it was taken")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q lacks %q", err, w)
				}
			}
		})
	}
}

func TestSetsThatAreTaken(t *testing.T) {
	for name, spec := range map[string]string{
		"a swap, once":                     "  once: true\n  namespaces: {a: b, b: a}",
		"two classes onto one":             "  storageClasses: {a: c, b: c}",
		"one field of two kinds":           "  rules:\n  - {match: {kinds: [Pod]}, set: [{path: metadata.labels.a, value: x}]}\n  - {match: {kinds: [Service]}, set: [{path: metadata.labels.a, value: y}]}",
		"one field with two priorities":    "  rules:\n  - {set: [{path: metadata.labels.a, value: x}]}\n  - {priority: 1, match: {kinds: [Pod]}, set: [{path: metadata.labels.a, value: y}]}",
		"elements of different names":      "  rules:\n  - {name: a, match: {kinds: [Pod]}, set: [{path: 'spec.containers[name=a].image', value: x}]}\n  - {name: b, match: {kinds: [Pod]}, set: [{path: 'spec.containers[name=b].image', value: y}]}",
		"labels that cannot both be there": "  rules:\n  - {match: {labelSelector: {matchLabels: {t: a}}}, remove: [spec.x]}\n  - {match: {labelSelector: {matchLabels: {t: b}}}, remove: [spec.x]}",
		"a custom kind's own field":        "  rules: [{match: {kinds: [Gauge.measures.example.org]}, set: [{path: spec.anything.goes, value: 1}]}]",
		"a field of a newer built-in kind": "  rules: [{match: {kinds: [Job]}, set: [{path: spec.podFailurePolicy, value: {rules: []}}]}]",
		"a field of either version":        "  rules: [{match: {kinds: [HorizontalPodAutoscaler]}, remove: [spec.behavior]}]",
		"a key with slashes":               `  rules: [{remove: ['metadata.labels["a.b/c"]']}]`,
	} {
		if err := compileText(spec + "\n"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// As a KRM function the result is a ResourceList with what was done in results.
func TestFunction(t *testing.T) {
	input := []byte(`apiVersion: config.kubernetes.io/v1
kind: ResourceList
functionConfig:
  apiVersion: kubectl-backup.io/v1alpha1
  kind: RewriteSet
  metadata: {name: f, annotations: {config.kubernetes.io/function: "exec: {path: kubectl-backup}"}}
  spec: {namespaces: {harbour: dock}}
items:
- apiVersion: v1
  kind: ConfigMap
  metadata: # kept
    name: a
    namespace: harbour
    annotations: {config.kubernetes.io/index: '0', config.kubernetes.io/path: 'a.yaml'}
`)
	m := &Manifests{}
	if err := m.Read("input", input); err != nil {
		t.Fatal(err)
	}
	config, err := m.FunctionConfig()
	if err != nil {
		t.Fatal(err)
	}
	documents, err := v1alpha1.Decode("functionConfig", config)
	if err != nil {
		t.Fatal(err)
	}
	rules, err := Compile(documents.Rewrites[0])
	if err != nil {
		t.Fatal(err)
	}
	report, err := m.Rewrite(rules)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.AddResults(report); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := m.Write(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"kind: ResourceList", "namespace: dock", "metadata: # kept", "config.kubernetes.io/index: '0'", "results:",
		"severity: info", "path: metadata.namespace", "currentValue: harbour", "proposedValue: dock", "path: a.yaml", "functionConfig:"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, &out)
		}
	}
}
