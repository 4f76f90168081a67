package e2e

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// A whole application goes to an empty cluster in one run: nothing is retried
// by hand, all of it runs, what was predicted happens, and afterwards the two
// differ in what was asked for and in nothing else.
func TestApplicationMovesToAnotherCluster(t *testing.T) {
	s := newSeaport(t)
	file := s.spec()
	saved, r := document(t, "run", "-f", file)
	require.Equal(t, 0, r.code, "%s\n%s", r.stderr, outcomes(saved))
	was := s.data("src", "")

	to := []string{"latest", "-f", file, "--to-context", "dst", "--map-storage-class", "snap=snap-premium"}
	plan, r := document(t, append([]string{"restore", "--dry-run=server"}, to...)...)
	require.Equal(t, 0, r.code, "%s\n%s", r.stderr, outcomes(plan))
	restored, r := document(t, append([]string{"restore"}, to...)...)
	require.Equal(t, 0, r.code, "%s\n%s", r.stderr, outcomes(restored))
	predicted(t, plan, restored)

	count, kinds := 0, map[string]bool{}
	for _, l := range restored.Objects {
		if l.Outcome == v1alpha1.OutcomeRestored {
			count++
			kinds[l.Ref.Kind] = true
		}
	}
	require.GreaterOrEqual(t, count, 60)
	require.GreaterOrEqual(t, len(kinds), 30)
	require.Equal(t, v1alpha1.OutcomeSkipped, objectLine(t, restored, "Job", s.port, "christening").Outcome)

	s.runs("dst", "")
	require.Equal(t, was, s.data("dst", ""))
	// The server of the application answers for its kind here as there.
	require.Equal(t, "120", kubectl(t, "dst", "-n", s.port, "get", "berths.v1alpha1."+s.group, "north", "-o", "jsonpath={.spec.metres}"))
	_, err := tryKubectl(t, "dst", "apiVersion: "+s.group+"/v1\nkind: Berth\nmetadata: {name: none, namespace: "+s.port+"}\nspec: {ship: gull}\n", "create", "-f", "-")
	require.ErrorContains(t, err, "a berth has a length")
	// Owners are those of here, down the whole chain.
	owner := s.uid("dst", s.port, "berths."+s.group, "north")
	for _, o := range s.links() {
		kind, name := o["kind"].(string), field(o, "metadata", "name").(string)
		require.Equal(t, owner, kubectl(t, "dst", "-n", s.port, "get", kind, name, "-o", "jsonpath={.metadata.ownerReferences[0].uid}"), name)
		owner = s.uid("dst", s.port, kind, name)
	}
	require.NotEmpty(t, kubectl(t, "dst", "-n", s.port, "get", "secret", "pilot-key", "-o", "jsonpath={.data.token}"), "the token is issued anew")
	require.Equal(t, "yes\n", kubectl(t, "dst", "auth", "can-i", "list", "berths."+s.group, "-n", s.quay, "--as", "system:serviceaccount:"+s.port+":pilot"))

	same := backup(t, append([]string{"diff"}, to...)...)
	require.Equal(t, 0, same.code, same.stdout+same.stderr)
	require.Empty(t, same.stdout)
	// Without the map, the difference is the map.
	d, _ := document(t, "diff", "latest", "-f", file, "--to-context", "dst")
	for _, l := range d.Objects {
		if l.Outcome == v1alpha1.OutcomeConflict {
			require.Contains(t, []string{"PersistentVolumeClaim", "StatefulSet", "ResourceQuota"}, l.Ref.Kind, "%s: %s", l.Ref, l.Reason)
			require.Regexp(t, "(?i)storageclass|volumeclaimtemplates", l.Reason, "%s", l.Ref)
		}
	}
}
