package argocd

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// What Git has no longer is pruned by whoever prunes, and by nobody else.
func TestPrunes(t *testing.T) {
	const known = `"status":{"resources":[{"kind":"ConfigMap","namespace":"shop","name":"kept","version":"v1"}]}`
	for name, c := range map[string]struct {
		policy, status, tracking string
		prunes                   bool
	}{
		"gone from Git":            {`{"automated":{"prune":true}}`, known, "shop:/ConfigMap:shop/lost", true},
		"in its namespace":         {`{"automated":{"prune":true}}`, known, "argocd_shop:/ConfigMap:shop/lost", true},
		"not pruning":              {`{"automated":{"selfHeal":true}}`, known, "shop:/ConfigMap:shop/lost", false},
		"not automated":            {`{}`, known, "shop:/ConfigMap:shop/lost", false},
		"switched off":             {`{"automated":{"prune":true,"enabled":false}}`, known, "shop:/ConfigMap:shop/lost", false},
		"another's":                {`{"automated":{"prune":true}}`, known, "bank:/ConfigMap:shop/lost", false},
		"copied from another kind": {`{"automated":{"prune":true}}`, known, "shop:apps/Deployment:shop/lost", false},
		"not marked":               {`{"automated":{"prune":true}}`, known, "", false},
		"nothing known yet":        {`{"automated":{"prune":true}}`, `"status":{}`, "shop:/ConfigMap:shop/lost", false},
	} {
		t.Run(name, func(t *testing.T) {
			o, err := object.Parse([]byte(`{"apiVersion":"argoproj.io/v1alpha1","kind":"Application","metadata":{"name":"shop","namespace":"argocd"},"spec":{"syncPolicy":` + c.policy + `},` + c.status + `}`))
			require.NoError(t, err)
			a, err := read(kube.Kind{}, o, "")
			require.NoError(t, err)
			lost := v1alpha1.Ref{Version: "v1", Kind: "ConfigMap", Namespace: "shop", Name: "lost"}
			require.Equal(t, c.prunes, a.Prunes(Managed{Ref: lost, TrackingID: c.tracking}))
			kept := lost
			kept.Name = "kept"
			require.False(t, a.Prunes(Managed{Ref: kept, TrackingID: "shop:/ConfigMap:shop/kept"}), "it is in Git")
		})
	}
}
