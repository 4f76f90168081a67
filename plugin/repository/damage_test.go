package repository_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kopia/kopia/repo/blob"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository/repositorytest"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// withVolume commits a backup of objects and one volume.
func withVolume(t *testing.T, r *repository.Repository, objects []*object.Object) repository.Record {
	t.Helper()
	s, err := r.NewSession(t.Context())
	require.NoError(t, err)
	for _, o := range objects {
		require.NoError(t, s.AddObject(t.Context(), o))
	}
	line := repositorytest.Claim("a", "data")
	v, err := s.WriteVolume(t.Context(), line, repositorytest.Stream(t, false))
	require.NoError(t, err)
	line.Snapshot = v.Snapshot
	id, err := s.Commit(t.Context(), repository.Record{Started: time.Now(), Document: repositorytest.Report(objects, line)})
	require.NoError(t, err)
	rec, err := r.Record(t.Context(), id)
	require.NoError(t, err)
	return rec
}

// TestDamagedBlobs loses, flips and cuts every blob of a repository in turn:
// each time the damage is found in the backup that it is in, and the other
// backup, which shares nothing with it, stays listed and whole.
func TestDamagedBlobs(t *testing.T) {
	m := initialized(t, &repositorytest.Memory{})
	before := map[blob.ID]bool{}
	open := func(m *repositorytest.Memory) *repository.Repository {
		return repositorytest.Open(t, at(m), repository.OpenOptions{})
	}
	first := withVolume(t, open(m), repositorytest.Small(t, 50, 1))
	for _, id := range m.Blobs() {
		before[id] = true
	}
	w := open(m)
	other := repositorytest.Parse(t, `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"alone","namespace":"b"}}`)
	otherID, _ := repositorytest.Backup(t, w, repository.Record{}, []*object.Object{other})

	checked := 0
	for id := range before {
		if strings.HasPrefix(string(id), "kopia.") {
			continue
		}
		for name, damage := range map[string]func(*repositorytest.Memory){
			"lost": func(m *repositorytest.Memory) { m.Remove(id) },
			"bit":  func(m *repositorytest.Memory) { m.Flip(id) },
			"cut":  func(m *repositorytest.Memory) { m.Truncate(id) },
		} {
			t.Run(string(id[:2])+" "+name, func(t *testing.T) {
				t.Parallel()
				c := m.Copy()
				damage(c)
				r := open(c)
				rec, err := r.Record(t.Context(), first.ID)
				if err == nil {
					_, err = repositorytest.Verify(t, r, rec)
				} else if name == "lost" && errors.Is(err, repository.ErrNoRecord) {
					err = repository.ErrDamaged // no record, no backup
				}
				require.ErrorIs(t, err, repository.ErrDamaged)
				if name != "bit" && rec.ID != "" {
					require.ErrorIs(t, r.Check(t.Context(), rec), repository.ErrDamaged, "a missing part has to be found before a restore")
				}
				rec, err = r.Record(t.Context(), otherID)
				require.NoError(t, err)
				require.NoError(t, r.Check(t.Context(), rec))
				failed, err := repositorytest.Verify(t, r, rec)
				require.NoError(t, err)
				require.Empty(t, failed)
				latest, err := r.Latest(t.Context(), nil)
				require.NoError(t, err)
				require.Equal(t, otherID, latest.ID)
				// And backups go on.
				repositorytest.Backup(t, r, repository.Record{}, repositorytest.Small(t, 5, 9))
			})
			checked++
		}
	}
	require.Greater(t, checked, 12)
}

// TestDamagedSettings: kopia's settings have defaults, so nothing depends on
// them; of the format the error says what to do.
func TestDamagedSettings(t *testing.T) {
	m := initialized(t, &repositorytest.Memory{})
	first := withVolume(t, repositorytest.Open(t, at(m), repository.OpenOptions{}), repositorytest.Small(t, 5, 1))
	for name, damage := range map[string]func(*repositorytest.Memory, blob.ID){
		"lost": (*repositorytest.Memory).Remove,
		"bit":  (*repositorytest.Memory).Flip,
		"cut":  (*repositorytest.Memory).Truncate,
		"empty": func(m *repositorytest.Memory, id blob.ID) {
			require.NoError(t, m.PutBlob(t.Context(), id, &memoryBuffer{}, blob.PutOptions{}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := m.Copy()
			damage(c, "kopia.blobcfg")
			r := repositorytest.Open(t, at(c), repository.OpenOptions{})
			if name != "lost" {
				require.Contains(t, strings.Join(r.Warnings(), "\n"), "kopia.blobcfg")
			}
			rec, err := r.Record(t.Context(), first.ID)
			require.NoError(t, err)
			failed, err := repositorytest.Verify(t, r, rec)
			require.NoError(t, err)
			require.Empty(t, failed)
			repositorytest.Backup(t, r, repository.Record{}, repositorytest.Small(t, 5, 9))
		})
	}
	c := m.Copy()
	c.Truncate("kopia.repository")
	_, err := repository.Open(t.Context(), c, repositorytest.Password, repository.OpenOptions{})
	require.ErrorContains(t, err, "kopia.repository is damaged")
}

func TestGhostsAreShownAndPassedOver(t *testing.T) {
	m := initialized(t, &repositorytest.Memory{})
	w := repositorytest.Open(t, at(m), repository.OpenOptions{})
	id, _ := repositorytest.Backup(t, w, repository.Record{}, repositorytest.Small(t, 3, 1))
	m.Ghosts = []blob.ID{"kb-20990101-000000-abcdef", "kb-junk", "xn0_00000000000000000000000000000000-s0000000000000000000-c1"}
	r := repositorytest.Open(t, at(m), repository.OpenOptions{ReadOnly: true})
	require.NotEmpty(t, r.Warnings())
	damaged := map[string]string{}
	require.NoError(t, r.Records(t.Context(), func(rec repository.Record) error {
		damaged[rec.ID] = rec.Damaged
		return nil
	}))
	require.Len(t, damaged, 2)
	require.Empty(t, damaged[id])
	require.Contains(t, damaged["20990101-000000-abcdef"], "damaged")
	latest, err := r.Latest(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, id, latest.ID)
}

// A record's bytes under another name are no record of that name.
func TestRecordsCannotBeSwapped(t *testing.T) {
	m := initialized(t, &repositorytest.Memory{})
	w := repositorytest.Open(t, at(m), repository.OpenOptions{})
	id, _ := repositorytest.Backup(t, w, repository.Record{}, repositorytest.Small(t, 3, 1))
	var sealed memoryBuffer
	require.NoError(t, m.GetBlob(t.Context(), blob.ID("kb-"+id), 0, -1, &sealed))
	require.NoError(t, m.PutBlob(t.Context(), "kb-20300101-000000-abcdef", &sealed, blob.PutOptions{}))
	_, err := w.Record(t.Context(), "20300101-000000-abcdef")
	require.ErrorIs(t, err, repository.ErrDamaged)
}

// TestLateListings: another process reads a backup by its id at once, although
// the remote's listings do not show any of it.
func TestLateListings(t *testing.T) {
	m := initialized(t, &repositorytest.Memory{})
	m.ListDelay, m.MissAfterPut = time.Hour, 2
	objects := repositorytest.Small(t, 20, 1)
	w := repositorytest.Open(t, at(m), repository.OpenOptions{})
	rec := withVolume(t, w, objects)
	latest, err := w.Latest(t.Context(), nil)
	require.NoError(t, err, "the process itself sees it in listings")
	require.Equal(t, rec.ID, latest.ID)

	for range 2 { // each reader with its own misses
		r := repositorytest.Open(t, at(m), repository.OpenOptions{ReadOnly: true})
		rec, err := r.Record(t.Context(), rec.ID)
		require.NoError(t, err)
		require.NoError(t, r.Check(t.Context(), rec))
		repositorytest.RequireObjects(t, r, rec, objects)
		repositorytest.RequireStream(t, r, rec, rec.Volumes[0].Snapshot)
	}
	_, err = w.Delete(t.Context(), rec.ID)
	require.NoError(t, err)
	_, err = w.Latest(t.Context(), nil)
	require.ErrorIs(t, err, repository.ErrNoRecord)
}

// TestObjectLock: nothing may be overwritten or deleted, and three backups and
// a restore work all the same.
func TestObjectLock(t *testing.T) {
	m := initialized(t, &repositorytest.Memory{DenyOverwrite: true, DenyDelete: true})
	var id string
	for seed := range 3 {
		w := repositorytest.Open(t, at(m), repository.OpenOptions{})
		id = withVolume(t, w, repositorytest.Small(t, 20, seed)).ID
		require.Empty(t, w.Warnings())
	}
	requireNoRepeatedPut(t, m)
	r := repositorytest.Open(t, at(m), repository.OpenOptions{})
	rec, err := r.Record(t.Context(), id)
	require.NoError(t, err)
	repositorytest.RequireObjects(t, r, rec, repositorytest.Small(t, 20, 2))
	_, err = r.Delete(t.Context(), id)
	require.ErrorIs(t, err, repository.ErrKept)
	rec, err = r.Record(t.Context(), id)
	require.NoError(t, err)
	require.NoError(t, r.Check(t.Context(), rec))
}

// TestRightsAreFoundOut: what the remote allows is known, and a blob to try it
// by stays only where nothing can be deleted.
func TestRightsAreFoundOut(t *testing.T) {
	for _, overwrite := range []bool{true, false} {
		for _, remove := range []bool{true, false} {
			m := initialized(t, &repositorytest.Memory{DenyOverwrite: !overwrite, DenyDelete: !remove})
			before := len(m.Blobs())
			rights, err := repository.Probe(t.Context(), m)
			require.NoError(t, err)
			require.Equal(t, overwrite, rights.Overwrite == nil)
			require.Equal(t, remove, rights.Delete == nil)
			if remove {
				require.Len(t, m.Blobs(), before)
			}
			r := repositorytest.Open(t, at(m), repository.OpenOptions{ReadOnly: true})
			require.Empty(t, r.Warnings())
			require.NoError(t, r.Records(t.Context(), func(rec repository.Record) error { return errors.New("no backup was made") }))
		}
	}
}

// TestNoNewKeysOverBackups: where the blob with the keys is lost, or is not
// shown, a new repository would lock the backups for ever.
func TestNoNewKeysOverBackups(t *testing.T) {
	m := initialized(t, &repositorytest.Memory{})
	repositorytest.Backup(t, repositorytest.Open(t, at(m), repository.OpenOptions{}), repository.Record{}, repositorytest.Small(t, 2, 1))
	m.Remove("kopia.repository")
	m.Remove("kopia.blobcfg")
	before := m.Blobs()
	err := repository.Initialize(t.Context(), m, repositorytest.Password)
	require.ErrorContains(t, err, "backups are there")
	require.NotErrorIs(t, err, repository.ErrExists)
	require.Equal(t, before, m.Blobs())

	// A record that is only listed keeps nobody from beginning.
	initialized(t, &repositorytest.Memory{Ghosts: []blob.ID{"kb-20990101-000000-abcdef"}})
}

// TestRemoteFailsInMidRun: a full disk, a remote that turns read-only, and one
// that is gone. The run ends with that error, no record appears, and the next
// run succeeds.
func TestRemoteFailsInMidRun(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(*repositorytest.Memory)
		want error
		text string
	}{
		"full":      {func(m *repositorytest.Memory) { m.Capacity = m.Size() + 600<<10 }, syscall.ENOSPC, "no space left"},
		"read-only": {func(m *repositorytest.Memory) { m.ReadOnlyAfter = len(m.Puts()) + 2 }, syscall.EROFS, "read-only"},
		"gone":      {func(m *repositorytest.Memory) { m.FailAfter = len(m.Puts()) + 2 }, repository.ErrStorage, "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := initialized(t, &repositorytest.Memory{})
			before := m.Blobs()
			r := repositorytest.Open(t, at(m), repository.OpenOptions{})
			c.set(m)
			s, err := r.NewSession(t.Context())
			require.NoError(t, err)
			for _, o := range repositorytest.Small(t, 4000, 1) {
				if err = s.AddObject(t.Context(), o); err != nil {
					break
				}
			}
			started := time.Now()
			if err == nil {
				_, err = s.Commit(t.Context(), repository.Record{})
			} else {
				require.NoError(t, s.Abort(context.WithoutCancel(t.Context())))
			}
			require.ErrorIs(t, err, repository.ErrStorage)
			require.ErrorIs(t, err, c.want)
			require.ErrorContains(t, err, c.text)
			require.Less(t, time.Since(started), 20*time.Second)

			m.Capacity, m.ReadOnlyAfter, m.FailAfter = 0, 0, 0
			r = repositorytest.Open(t, at(m), repository.OpenOptions{})
			_, err = r.Latest(t.Context(), nil)
			require.ErrorIs(t, err, repository.ErrNoRecord)
			id, _ := repositorytest.Backup(t, r, repository.Record{}, repositorytest.Small(t, 4000, 1))
			rec, err := r.Record(t.Context(), id)
			require.NoError(t, err)
			require.NoError(t, r.Check(t.Context(), rec))
			require.Greater(t, len(m.Blobs()), len(before))
		})
	}
}

func TestCancelledSession(t *testing.T) {
	m := initialized(t, &repositorytest.Memory{})
	r := repositorytest.Open(t, at(m), repository.OpenOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	s, err := r.NewSession(ctx)
	require.NoError(t, err)
	require.NoError(t, s.AddObject(ctx, repositorytest.Small(t, 1, 1)[0]))
	cancel()
	_, err = s.Commit(ctx, repository.Record{})
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, s.Abort(t.Context()), "after a commit that failed")
	_, err = r.Latest(t.Context(), nil)
	require.ErrorIs(t, err, repository.ErrNoRecord)
}

// TestFirstRunsAtTheSameMoment: exactly one makes the repository, and its
// password is the one that opens it.
func TestFirstRunsAtTheSameMoment(t *testing.T) {
	m := &repositorytest.Memory{}
	passwords := []string{"password of the first", "password of the second", "password of the third"}
	results := make([]error, len(passwords))
	var all sync.WaitGroup
	for i, p := range passwords {
		all.Go(func() { results[i] = repository.Initialize(t.Context(), m, p) })
	}
	all.Wait()
	winners := 0
	for i, p := range passwords {
		_, err := repository.Open(t.Context(), m, p, repository.OpenOptions{})
		if results[i] == nil {
			winners++
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, results[i], repository.ErrExists)
			require.ErrorIs(t, err, repository.ErrWrongKey)
		}
	}
	require.Equal(t, 1, winners)
	for _, id := range m.Blobs() {
		require.NotContains(t, string(id), "kbinit", "claims are removed")
	}
}

// TestClocks: machines whose clocks are off write records between those of
// machines whose clocks are right. Order and latest follow the remote.
func TestClocks(t *testing.T) {
	m := initialized(t, &repositorytest.Memory{})
	backup := func(off time.Duration) string {
		r := repositorytest.Open(t, at(m), repository.OpenOptions{Clock: func() time.Time { return time.Now().Add(off) }})
		id, _ := repositorytest.Backup(t, r, repository.Record{}, repositorytest.Small(t, 2, int(off)))
		if off.Abs() > 5*time.Minute {
			require.Contains(t, strings.Join(r.Warnings(), "\n"), off.Abs().String())
		}
		return id
	}
	want := []string{backup(0), backup(3 * time.Hour), backup(-45 * time.Minute), backup(0)}
	r := repositorytest.Open(t, at(m), repository.OpenOptions{})
	var got []string
	var warned []bool
	require.NoError(t, r.Records(t.Context(), func(rec repository.Record) error {
		got = append(got, rec.ID)
		warned = append(warned, len(rec.Warnings) > 0)
		require.False(t, rec.Time.After(time.Now().Add(time.Minute)))
		return nil
	}))
	require.Equal(t, want, got)
	require.Equal(t, []bool{false, true, true, false}, warned)
	latest, err := r.Latest(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, want[3], latest.ID)

	// A reader whose clock is behind, or a remote whose times lie: what lies in
	// the future is not chosen while there is something else.
	behind := repositorytest.Open(t, at(m), repository.OpenOptions{ReadOnly: true, Clock: func() time.Time { return time.Now().Add(-time.Hour) }})
	latest, err = behind.Latest(t.Context(), nil)
	require.NoError(t, err)
	require.Contains(t, strings.Join(latest.Warnings, "\n"), "future")
}

// TestClocksThatDifferAtOnce: machines whose clocks are hours and days apart
// write at the same time. None takes what another has just written for old.
func TestClocksThatDifferAtOnce(t *testing.T) {
	m := initialized(t, &repositorytest.Memory{})
	apart := []time.Duration{0, 45 * time.Minute, -3 * time.Hour, 30 * 24 * time.Hour}
	by := func(off time.Duration) repository.OpenOptions {
		return repository.OpenOptions{Clock: func() time.Time { return time.Now().Add(off) }}
	}
	const rounds = 2
	for round := range rounds {
		sessions := make([]*repository.Session, len(apart))
		for i, off := range apart {
			s, err := repositorytest.Open(t, at(m), by(off)).NewSession(t.Context())
			require.NoError(t, err)
			for _, o := range repositorytest.Small(t, 20, 10*round+i) {
				require.NoError(t, s.AddObject(t.Context(), o))
			}
			sessions[i] = s
		}
		results := make([]error, len(apart))
		var all sync.WaitGroup
		for i, s := range sessions {
			all.Go(func() { _, results[i] = s.Commit(t.Context(), repository.Record{}) })
		}
		all.Wait()
		require.NoError(t, errors.Join(results...))
	}
	for _, off := range apart {
		r := repositorytest.Open(t, at(m), by(off))
		found := 0
		require.NoError(t, r.Records(t.Context(), func(rec repository.Record) error {
			found++
			return r.Check(t.Context(), rec)
		}))
		require.Equal(t, rounds*len(apart), found)
	}
}

func TestReadOnlyWritesNothing(t *testing.T) {
	m := initialized(t, &repositorytest.Memory{})
	id, _ := repositorytest.Backup(t, repositorytest.Open(t, at(m), repository.OpenOptions{}), repository.Record{}, repositorytest.Small(t, 1, 1))
	before := m.Blobs()
	puts := len(m.Puts())
	r := repositorytest.Open(t, at(m), repository.OpenOptions{ReadOnly: true})
	_, err := r.NewSession(t.Context())
	require.ErrorContains(t, err, "reading only")
	_, err = r.Delete(t.Context(), id)
	require.ErrorContains(t, err, "reading only")
	rec, err := r.Latest(t.Context(), nil)
	require.NoError(t, err)
	_, err = repositorytest.Verify(t, r, rec)
	require.NoError(t, err)
	require.Equal(t, before, m.Blobs())
	require.Len(t, m.Puts(), puts)
}

func TestMembersAndRepeatedObjects(t *testing.T) {
	m := initialized(t, &repositorytest.Memory{})
	r := repositorytest.Open(t, at(m), repository.OpenOptions{})
	objects := repositorytest.Small(t, 10, 1)
	s, err := r.NewSession(t.Context())
	require.NoError(t, err)
	for _, o := range append(repositorytest.Small(t, 10, 2), objects...) {
		require.NoError(t, s.AddObject(t.Context(), o))
	}
	members := map[v1alpha1.Ref]bool{}
	for _, o := range objects[:4] {
		members[o.Ref.Key()] = true
	}
	id, err := s.Commit(t.Context(), repository.Record{Members: members})
	require.NoError(t, err)
	rec, err := r.Record(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, 4, rec.Objects)
	repositorytest.RequireObjects(t, r, rec, objects[:4])
}
