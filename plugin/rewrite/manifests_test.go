package rewrite

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// rewrittenText is a stream of manifests after the rules of a set.
func rewrittenText(t *testing.T, set, manifests string) string {
	t.Helper()
	d, err := v1alpha1.Decode("set", []byte("apiVersion: kubectl-backup.io/v1alpha1\nkind: RewriteSet\nmetadata: {name: s}\nspec:\n"+set))
	require.NoError(t, err)
	rules, err := Compile(d.Rewrites[0])
	require.NoError(t, err)
	m := &Manifests{}
	require.NoError(t, m.Read("manifests", []byte(manifests)))
	report, err := m.Rewrite(rules)
	require.NoError(t, err)
	for _, o := range report.Objects {
		require.Empty(t, o.Error, "%s", o.Ref)
	}
	var out bytes.Buffer
	require.NoError(t, m.Write(&out))
	return out.String()
}

// Two rules that change different labels meet in no object, whatever labels it
// has: the last one may go, there may be none, or null.
func TestRulesOnDifferentLabels(t *testing.T) {
	const set = `  rules:
  - {name: drop, remove: ['metadata.labels["argocd.argoproj.io/instance"]']}
  - {name: add, set: [{path: metadata.labels.stage, value: copy}]}
`
	for have, want := range map[string]string{
		"{name: a}":               "{name: a, labels: {stage: copy}}",
		"{name: a, labels: {}}":   "{name: a, labels: {stage: copy}}",
		"{name: a, labels: null}": "{name: a, labels: {stage: copy}}",
		"{name: a, labels: {argocd.argoproj.io/instance: press}}":            "{name: a, labels: {stage: copy}}",
		"{name: a, labels: {argocd.argoproj.io/instance: press, team: ink}}": "{name: a, labels: {team: ink, stage: copy}}",
		"{name: a, labels: {stage: one}}":                                    "{name: a, labels: {stage: copy}}",
	} {
		const head = "apiVersion: v1\nkind: ConfigMap\nmetadata: "
		require.Equal(t, head+want+"\n", rewrittenText(t, set, head+have+"\n"), have)
	}
}

// What is changed at one place of a text does not change at others that only
// refer to it.
func TestAliasesDoNotFollow(t *testing.T) {
	const set = "  rules: [{name: add, set: [{path: metadata.labels.stage, value: copy}]}]\n"
	out := rewrittenText(t, set, `apiVersion: v1
kind: ConfigMap
metadata:
  name: a
  labels: &l {team: ink}
  annotations: *l
data: {k: &v one}
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: ConfigMap
  metadata: &m {name: b, labels: {x: "1"}}
- apiVersion: v1
  kind: Secret
  metadata: *m
`)
	require.Contains(t, out, "labels: {team: ink, stage: copy}")
	require.Contains(t, out, "annotations: {team: ink}")
	require.Equal(t, 2, strings.Count(out, `metadata: {name: b, labels: {x: "1", stage: copy}}`), out)
	require.NotContains(t, out, "*")
	require.NoError(t, (&Manifests{}).Read("again", []byte(out)))
	unchanged := "a: &x 1\nb: *x\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n"
	require.Equal(t, unchanged, rewrittenText(t, "  namespaces: {p: q}\n", unchanged), "what no rule changes stays as it was written")
}
