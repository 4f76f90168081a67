package repository_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository/repositorytest"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Verdicts are records of their own: the last one counts, nobody but the
// repository can have written it, and it goes with its backup.
func TestVerdictsOfDrills(t *testing.T) {
	m := initialized(t, &repositorytest.Memory{DenyOverwrite: true})
	now := time.Now()
	r := repositorytest.Open(t, at(m), repository.OpenOptions{Clock: func() time.Time { return now }})
	id, _ := repositorytest.Backup(t, r, repository.Record{Cluster: v1alpha1.Cluster{UID: "a"}}, nil)
	other, _ := repositorytest.Backup(t, r, repository.Record{Cluster: v1alpha1.Cluster{UID: "a"}}, nil)
	add := func(backup string, passed bool) {
		now = now.Add(time.Second)
		require.NoError(t, r.AddVerdict(t.Context(), v1alpha1.DrillVerdict{Backup: backup, Passed: passed, At: now.Format(time.RFC3339)}))
	}
	add(id, false)
	add(other, true)
	add(id, true)
	last, err := r.Verdicts(t.Context(), "")
	require.NoError(t, err)
	require.Len(t, last, 2)
	require.True(t, last[id].Passed)
	add(id, false)
	last, err = r.Verdicts(t.Context(), id)
	require.NoError(t, err)
	require.Len(t, last, 1)
	require.False(t, last[id].Passed)

	require.Error(t, r.AddVerdict(t.Context(), v1alpha1.DrillVerdict{Backup: "../x"}))
	readOnly := repositorytest.Open(t, at(m), repository.OpenOptions{ReadOnly: true})
	require.Error(t, readOnly.AddVerdict(t.Context(), v1alpha1.DrillVerdict{Backup: id}))

	warnings, err := r.Delete(t.Context(), id)
	require.NoError(t, err)
	require.Empty(t, warnings)
	last, err = r.Verdicts(t.Context(), "")
	require.NoError(t, err)
	require.Len(t, last, 1)
	require.Contains(t, last, other)
}
