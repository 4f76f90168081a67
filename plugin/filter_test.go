package plugin

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
)

// What a flag names and the backup does not hold is told of: the rest would
// look like all that was asked for.
func TestFlagsThatMatchNothing(t *testing.T) {
	f := objectFilter{kinds: []string{"secret", "Service.core", "ConfgMap", "Job.batch"}, names: []string{"a", "b"}, namespaces: []string{"shop", "shpo"}}
	require.NoError(t, f.Complete())
	var matched []string
	for _, text := range []string{
		`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a","namespace":"shop"}}`,
		`{"apiVersion":"v1","kind":"Service","metadata":{"name":"a","namespace":"shop"}}`,
		`{"apiVersion":"serving.example.org/v1","kind":"Service","metadata":{"name":"a","namespace":"shop"}}`,
		`{"apiVersion":"batch.example.org/v1","kind":"Job","metadata":{"name":"a","namespace":"shop"}}`,
		`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"c","namespace":"shop"}}`,
		`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"shop"}}`,
	} {
		o, err := object.Parse([]byte(text))
		require.NoError(t, err)
		ok, err := f.Match(t.Context(), o)
		require.NoError(t, err)
		if ok {
			matched = append(matched, o.Ref.String())
		}
	}
	require.Equal(t, []string{"Secret shop/a", "Service shop/a"}, matched)
	require.Equal(t, []string{"--kinds ConfgMap matches nothing in the backup", "--kinds Job.batch matches nothing in the backup",
		"--names b matches nothing in the backup", "--namespaces shpo matches nothing in the backup"}, f.unmatched())
}
