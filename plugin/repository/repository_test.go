package repository_test

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/kopia/kopia/repo/blob"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository/repositorytest"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

func at(m *repositorytest.Memory) repositorytest.Place {
	return func(testing.TB) blob.Storage { return m }
}

// TestSuiteOnRemotesThatMisbehave runs everything on remotes with the habits
// of real ones.
func TestSuiteOnRemotesThatMisbehave(t *testing.T) {
	for name, m := range map[string]*repositorytest.Memory{
		"well":           {},
		"misses":         {MissAfterPut: 2},
		"index ghost":    {Ghosts: []blob.ID{"xn0_0123456789abcdef0123456789abcdef-s0123456789abcdef123-c1"}},
		"remote clock":   {Clock: func() time.Time { return time.Now().Add(4 * time.Minute) }},
		"no mod times":   {Clock: func() time.Time { return time.Time{} }},
		"no overwriting": {DenyOverwrite: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			repositorytest.Run(t, func(*testing.T) repositorytest.Place { return at(m) })
			requireNoRepeatedPut(t, m)
		})
	}
}

func requireNoRepeatedPut(t *testing.T, m *repositorytest.Memory) {
	seen := map[blob.ID]bool{}
	for _, id := range m.Puts() {
		require.False(t, seen[id], "%s was put twice", id)
		seen[id] = true
	}
}

func initialized(t *testing.T, m *repositorytest.Memory) *repositorytest.Memory {
	t.Helper()
	require.NoError(t, repository.Initialize(t.Context(), m, repositorytest.Password))
	return m
}

func TestPasswords(t *testing.T) {
	for _, bad := range []string{"", " ", "          ", "short", "1234567", "aaaaaaaaaaaa", "abababababab", "Password", "changeme", "KUBERNETES"} {
		require.Error(t, repository.CheckPassword(bad), "%q", bad)
		m := &repositorytest.Memory{}
		err := repository.Initialize(t.Context(), m, bad)
		var usage *v1alpha1.UsageError
		require.ErrorAs(t, err, &usage)
		require.Zero(t, m.Requests(), "nothing may be touched")
	}
	for _, good := range []string{repositorytest.Password, "kT9#vq2L", "åäö-åäö-1"} {
		require.NoError(t, repository.CheckPassword(good), "%q", good)
	}
}

// TestOpeningAsksOnce: for the format, kopia's settings, one listing, and each
// index blob. With a wrong password nothing is on its way any more afterwards.
func TestOpeningAsksOnce(t *testing.T) {
	m := initialized(t, &repositorytest.Memory{})
	r := repositorytest.Open(t, at(m), repository.OpenOptions{})
	for seed := range 3 {
		repositorytest.Backup(t, r, repository.Record{}, repositorytest.Small(t, 10, seed))
	}
	indexes := 0
	for _, id := range m.Blobs() {
		if strings.HasPrefix(string(id), "x") {
			indexes++
		}
	}
	require.GreaterOrEqual(t, indexes, 3)
	before := m.Requests()
	repositorytest.Open(t, at(m), repository.OpenOptions{})
	require.Equal(t, before+3+indexes, m.Requests())
	before = m.Requests()
	repositorytest.Mover(t, r, at(m), repository.OpenOptions{})
	require.Equal(t, before+2+indexes, m.Requests(), "a mover asks for no settings")

	_, err := repository.Open(t.Context(), m, "another password", repository.OpenOptions{})
	require.ErrorIs(t, err, repository.ErrWrongKey)
	after := m.Requests()
	require.Never(t, func() bool { return m.Requests() != after }, 200*time.Millisecond, 20*time.Millisecond)
}

// memoryBuffer is a blob.OutputBuffer and blob.Bytes.
type memoryBuffer struct{ bytes.Buffer }

func (b *memoryBuffer) Length() int { return b.Len() }
func (b *memoryBuffer) Reader() io.ReadSeekCloser {
	return struct {
		io.ReadSeeker
		io.Closer
	}{bytes.NewReader(b.Bytes()), io.NopCloser(nil)}
}
