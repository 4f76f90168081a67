package repository_test

import (
	"strings"
	"testing"
	"time"

	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/format"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository/repositorytest"
	"github.com/kubectl-backup/kubectl-backup/plugin/volume/volumetest"
)

// TestKeyOpensItsRepositoryAlone: what is not the repository that a key is of
// is not touched, and the error says nothing of the key.
func TestKeyOpensItsRepositoryAlone(t *testing.T) {
	m := initialized(t, &repositorytest.Memory{})
	key, err := repositorytest.Open(t, at(m), repository.OpenOptions{}).Key(t.Context())
	require.NoError(t, err)

	other := initialized(t, &repositorytest.Memory{})
	puts := len(other.Puts())
	_, err = repository.OpenVolumes(t.Context(), other, key, repository.OpenOptions{})
	require.ErrorIs(t, err, repository.ErrOther)
	require.Len(t, other.Puts(), puts)
	_, err = repository.OpenVolumes(t.Context(), &repositorytest.Memory{}, key, repository.OpenOptions{})
	require.ErrorIs(t, err, repository.ErrNoRepository)

	for _, broken := range []string{"", "{}", "[]", string(key[:len(key)-9]), strings.Replace(string(key), `"masterKey":"`, `"masterKey":"!`, 1)} {
		_, err = repository.OpenVolumes(t.Context(), m, []byte(broken), repository.OpenOptions{})
		require.ErrorContains(t, err, "key of the repository")
		require.NotContains(t, err.Error(), "masterKey")
	}

	// The key of a repository whose password was changed is still its key.
	r := repositorytest.Open(t, at(m), repository.OpenOptions{})
	require.NoError(t, repository.Kopia(r).FormatManager().ChangePassword(t.Context(), "another battery staple"))
	v, err := repository.OpenVolumes(t.Context(), m, key, repository.OpenOptions{})
	require.NoError(t, err)
	require.NoError(t, v.Close(t.Context()))
}

// TestNoKeyWhereKopiaHasToOpen: the retention of an object lock is kopia's to
// put on what is written.
func TestNoKeyWhereKopiaHasToOpen(t *testing.T) {
	m := initialized(t, &repositorytest.Memory{})
	manager := repository.Kopia(repositorytest.Open(t, at(m), repository.OpenOptions{})).FormatManager()
	parameters, err := manager.GetMutableParameters(t.Context())
	require.NoError(t, err)
	require.NoError(t, manager.SetParameters(t.Context(), parameters,
		format.BlobStorageConfiguration{RetentionMode: blob.Governance, RetentionPeriod: 24 * time.Hour}, nil))
	key, err := repositorytest.Open(t, at(m), repository.OpenOptions{}).Key(t.Context())
	require.NoError(t, err)
	require.Nil(t, key)
}

// TestMoverThatOnlyReads writes nothing.
func TestMoverThatOnlyReads(t *testing.T) {
	m := initialized(t, &repositorytest.Memory{})
	r := repositorytest.Open(t, at(m), repository.OpenOptions{})
	src := t.TempDir()
	volumetest.Write(t, src+"/file", "content")
	_, part := captured(t, r, src, repository.CaptureOptions{})
	puts := len(m.Puts())
	v := repositorytest.Mover(t, r, at(m), repository.OpenOptions{ReadOnly: true})
	_, _, err := v.CaptureFolder(t.Context(), src, repository.CaptureOptions{})
	require.ErrorContains(t, err, "reading only")
	dst := t.TempDir()
	_, err = v.RestoreFolder(t.Context(), part, dst, repository.RestoreOptions{})
	require.NoError(t, err)
	requireSameTree(t, src, dst)
	require.Len(t, m.Puts(), puts)
}

// TestMoverPassesOverIndexesThatCannotBeRead: a ghost in the listing, and an
// index blob of garbage.
func TestMoverPassesOverIndexesThatCannotBeRead(t *testing.T) {
	m := initialized(t, &repositorytest.Memory{})
	r := repositorytest.Open(t, at(m), repository.OpenOptions{})
	src := t.TempDir()
	volumetest.Write(t, src+"/file", "content")
	var garbage memoryBuffer
	garbage.WriteString("not an index")
	require.NoError(t, m.PutBlob(t.Context(), "xn0_11111111111111111111111111111111-s1111111111111111111-c1", &garbage, blob.PutOptions{}))
	m.Ghosts = []blob.ID{"xn0_00000000000000000000000000000000-s0000000000000000000-c1"}
	v := repositorytest.Mover(t, r, at(m), repository.OpenOptions{})
	require.Contains(t, strings.Join(v.Warnings(), "\n"), "2 index blob(s) are listed but cannot be read")
	_, part := captured(t, v, src, repository.CaptureOptions{})
	dst := t.TempDir()
	_, err := v.RestoreFolder(t.Context(), part, dst, repository.RestoreOptions{})
	require.NoError(t, err)
	requireSameTree(t, src, dst)
}
