package plugin

import (
	"testing"
	"time"

	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/snapshot"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository/repositorytest"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

func TestMomentsAsPeopleWriteThem(t *testing.T) {
	now := time.Date(2026, 2, 3, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"2026-01-31T02:00:00Z":      time.Date(2026, 1, 31, 2, 0, 0, 0, time.UTC),
		"2026-01-31T02:00:00+02:00": time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC),
		"2026-01-31":                time.Date(2026, 1, 31, 23, 59, 59, 999999999, time.UTC),
		"-2h":                       now.Add(-2 * time.Hour),
		"2h ago":                    now.Add(-2 * time.Hour),
		"1h30m ago":                 now.Add(-90 * time.Minute),
		"-3d":                       now.AddDate(0, 0, -3),
		"1w ago":                    now.AddDate(0, 0, -7),
		"1d12h ago":                 now.Add(-36 * time.Hour),
	} {
		got, err := parseMoment(text, now)
		require.NoError(t, err, text)
		require.True(t, want.Equal(got), "%s: %s", text, got)
	}
	for _, text := range []string{"", "yesterday", "2h", "+2h", "--2h", "2026-13-01", "31.01.2026", "-", "ago", "-2x", "-1d-2h", "2026-01-31 02:00"} {
		_, err := parseMoment(text, now)
		require.Error(t, err, "%q", text)
	}
}

func TestVolumesByTheirNames(t *testing.T) {
	part := func(kind, ns, name, volume string) repository.VolumePart {
		p := repository.VolumePart{Ref: v1alpha1.Ref{Kind: kind, Namespace: ns, Name: name}, Volume: volume}
		p.Root = &snapshot.DirEntry{}
		return p
	}
	record := &repository.Record{ID: "20260131-020000-4f2ac1", Volumes: []repository.VolumePart{
		part("PersistentVolumeClaim", "shop", "data", "d"), part("PersistentVolumeClaim", "shop-copy", "data", "d"),
		part("PersistentVolumeClaim", "shop", "logs", ""), part("Pod", "shop", "web-1", "session"), part("Pod", "shop", "web-2", "session"),
	}}
	for name, want := range map[string]string{
		"shop/data": "shop/data", "shop-copy/data": "shop-copy/data", "logs": "shop/logs", "shop/web-1/session": "shop/web-1/session", "web-2/session": "shop/web-2/session",
	} {
		got, err := namedVolume(record, name)
		require.NoError(t, err, name)
		require.Equal(t, want, got.Name())
	}
	for name, words := range map[string][]string{
		"data":      {"2 volumes", "shop/data", "shop-copy/data"},
		"session":   {"shop/web-1/session", "shop/web-2/session"},
		"shop/dta":  {"no volume", `did you mean "shop/data"?`},
		"elsewhere": {"it has shop-copy/data, shop/data"},
		"":          {"no volume"},
	} {
		_, err := namedVolume(record, name)
		require.ErrorAs(t, err, new(*v1alpha1.UsageError), name)
		for _, w := range words {
			require.ErrorContains(t, err, w, name)
		}
	}
}

func TestNoRunTookLessThanNothing(t *testing.T) {
	began := time.Date(2026, 2, 3, 12, 0, 0, 0, time.UTC)
	require.Equal(t, time.Minute, took(&repository.Record{Started: began, Finished: began.Add(time.Minute)}))
	require.Zero(t, took(&repository.Record{Started: began, Finished: began.Add(-3 * time.Hour)}))
}

// TestBackupByItsID: a whole id needs no listing, which may be late; the
// beginning of one does. A damaged record is found by both.
func TestBackupByItsID(t *testing.T) {
	m := &repositorytest.Memory{}
	require.NoError(t, repository.Initialize(t.Context(), m, repositorytest.Password))
	w := repositorytest.Open(t, func(testing.TB) blob.Storage { return m }, repository.OpenOptions{})
	id, _ := repositorytest.Backup(t, w, repository.Record{}, repositorytest.Small(t, 2, 1))
	find := func(id string) (repository.Record, error) {
		r := repositorytest.Open(t, func(testing.TB) blob.Storage { return m }, repository.OpenOptions{ReadOnly: true})
		return matchRecord(t.Context(), r, id)
	}
	for _, known := range []string{id, id[:len(id)-1]} {
		rec, err := find(known)
		require.NoError(t, err)
		require.Equal(t, id, rec.ID)
	}
	m.Flip(blob.ID("kb-" + id))
	for _, known := range []string{id, id[:len(id)-1]} {
		rec, err := find(known)
		require.NoError(t, err)
		require.Equal(t, id, rec.ID)
		require.NotEmpty(t, rec.Damaged)
	}
	m.Flip(blob.ID("kb-" + id))
	m.ListDelay = time.Hour
	rec, err := find(id)
	require.NoError(t, err)
	require.Equal(t, id, rec.ID)
	_, err = find(id[:len(id)-1])
	require.ErrorAs(t, err, new(*v1alpha1.UsageError), "what is not listed and not named cannot be known")
}

// TestLatestOfATenant: with the policy of a namespace, latest is never what
// another namespace's policy of the same name has saved at the same remote.
func TestLatestOfATenant(t *testing.T) {
	m := &repositorytest.Memory{}
	require.NoError(t, repository.Initialize(t.Context(), m, repositorytest.Password))
	r := repositorytest.Open(t, func(testing.TB) blob.Storage { return m }, repository.OpenOptions{})
	made := map[string]string{}
	for i, policy := range []string{"a/p", "p", "a-b/p"} {
		made[policy], _ = repositorytest.Backup(t, r, repository.Record{Policy: policy}, repositorytest.Small(t, 1, i))
	}
	latest := func(policies ...*v1alpha1.BackupPolicy) (repository.Record, error) {
		return (&whichFlags{}).find(t.Context(), r, &spec{documents: &v1alpha1.Documents{Policies: policies}}, "latest", "")
	}
	of := func(ns string) *v1alpha1.BackupPolicy {
		return &v1alpha1.BackupPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "p"}}
	}
	for _, c := range []struct {
		policies []*v1alpha1.BackupPolicy
		want     string
	}{
		{nil, "a-b/p"}, {[]*v1alpha1.BackupPolicy{of("")}, "a-b/p"}, {[]*v1alpha1.BackupPolicy{of("a"), of("")}, "a-b/p"},
		{[]*v1alpha1.BackupPolicy{of("a")}, "a/p"}, {[]*v1alpha1.BackupPolicy{of("a-b")}, "a-b/p"}, {[]*v1alpha1.BackupPolicy{of("a"), of("b")}, "a/p"},
	} {
		rec, err := latest(c.policies...)
		require.NoError(t, err)
		require.Equal(t, made[c.want], rec.ID, "%v", c.policies)
	}
	_, err := latest(of("b"))
	require.ErrorIs(t, err, repository.ErrNoRecord)
	require.ErrorContains(t, err, "by policy b/p")
}
