package rewrite

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A label that selectors ask for is no mark, but for an Argo CD that is known
// to track by it: that would delete the copy.
func TestInstanceLabelGoesOnlyWhereItTracks(t *testing.T) {
	const label = "app.kubernetes.io/instance"
	for _, c := range []struct {
		name, marks, to string
		stays, warns    bool
	}{
		{"tracked by it, a copy", "labels: {" + label + ": press}", "copy", false, false},
		{"tracked by it, in place", "labels: {" + label + ": press}", "quill", true, false},
		{"no application is called so", "labels: {" + label + ": ink}", "copy", true, false},
		{"marked by an annotation as well", "labels: {" + label + `: press}, annotations: {argocd.argoproj.io/tracking-id: "press:apps/Deployment:quill/press"}`, "copy", true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := draft(t, `{apiVersion: apps/v1, kind: Deployment, metadata: {name: press, namespace: quill, `+c.marks+`},
				spec: {selector: {matchLabels: {`+label+`: press}}, template: {metadata: {labels: {`+label+`: press}}}}}`)
			result, err := Rules{Namespaces: map[string]string{"quill": c.to}, LabelTracked: map[string]bool{"press": true}}.Apply(d)
			require.NoError(t, err)
			_, stays := mapAt(mapAt(d.Content, "metadata"), "labels")[label]
			require.Equal(t, c.stays, stays)
			require.Equal(t, c.warns, len(result.Warnings) > 0, "%v", result.Warnings)
			spec := mapAt(d.Content, "spec")
			require.Equal(t, "press", mapAt(mapAt(spec, "selector"), "matchLabels")[label])
			require.Equal(t, "press", mapAt(mapAt(mapAt(spec, "template"), "metadata"), "labels")[label])
		})
	}
}
