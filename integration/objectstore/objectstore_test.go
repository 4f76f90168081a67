package objectstore

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kopia/kopia/repo/blob"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/plugin/remote"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository/repositorytest"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

func start(t testing.TB, dir string) *Server {
	t.Helper()
	s, err := Start(dir, "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func open(t testing.TB, spec v1alpha1.BackupRemoteSpec) blob.Storage {
	t.Helper()
	st, err := remote.Open(context.WithoutCancel(t.Context()), spec, nil)
	require.NoError(t, err)
	t.Cleanup(func() { st.Close(context.Background()) })
	return st
}

// at is the place that the repository's own tests open.
func at(s *Server) repositorytest.Place {
	return func(t testing.TB) blob.Storage { return open(t, s.Spec("prod")) }
}

// backup makes a small backup, other than those of other seeds.
func backup(t testing.TB, s *Server, seed int) (*repository.Repository, repository.Record) {
	t.Helper()
	r := repositorytest.Open(t, at(s), repository.OpenOptions{})
	objects := repositorytest.Small(t, 200, seed)
	id, _ := repositorytest.Backup(t, r, repository.Record{}, objects)
	rec, err := r.Record(t.Context(), id)
	require.NoError(t, err)
	repositorytest.RequireObjects(t, r, rec, objects)
	return r, rec
}

// TestRepository: a whole life of a repository, and all of it again from the
// files that a first server left.
func TestRepository(t *testing.T) {
	dir := t.TempDir()
	first := start(t, dir)
	repositorytest.Run(t, func(*testing.T) repositorytest.Place { return at(first) })
	counts := first.Counts()
	require.Positive(t, counts.Puts)
	require.Positive(t, counts.Gets)
	require.Positive(t, counts.Lists)
	require.Greater(t, counts.BytesIn, first.Size())
	require.Zero(t, counts.Refused)

	second := start(t, dir)
	require.Equal(t, first.Size(), second.Size())
	require.Empty(t, second.Stored())
}

func TestUnsignedRequestsAreRefused(t *testing.T) {
	s := start(t, t.TempDir())
	response, err := http.Get("http://" + s.Address() + "/" + Bucket)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusForbidden, response.StatusCode)

	wrong := s.Spec("prod")
	wrong.Config["store"]["secret_access_key"] = "another"
	err = repository.Initialize(t.Context(), open(t, wrong), repositorytest.Password)
	require.Error(t, err)
	require.NotContains(t, err.Error(), s.Secret())
}

// TestFaults: what a server does wrong is felt by a client, and does not
// outlast Break(nil).
func TestFaults(t *testing.T) {
	for name, x := range map[string]struct {
		fault  func(*Server) Fault
		passes bool // a client that tries again succeeds
	}{
		"busy":      {func(*Server) Fault { return Busy(300*time.Millisecond, time.Second) }, true},
		"cut":       {func(*Server) Fault { return CutUploads(2, 0) }, true},
		"forbidden": {func(*Server) Fault { return Forbidden() }, false},
		"full":      {func(s *Server) Fault { return s.Full(s.Size(), http.StatusInsufficientStorage, "StorageFull") }, false},
		"quota":     {func(s *Server) Fault { return s.Full(s.Size(), http.StatusForbidden, "QuotaExceeded") }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, t.TempDir())
			require.NoError(t, repository.Initialize(t.Context(), at(s)(t), repositorytest.Password))
			before := s.Size()
			s.Break(x.fault(s))
			if x.passes {
				backup(t, s, 1)
			} else {
				require.Error(t, open(t, s.Spec("prod")).PutBlob(t.Context(), "p0123456789", bytesOf("more"), blob.PutOptions{}))
				require.Equal(t, before, s.Size())
			}
			require.Positive(t, s.Counts().Refused)
			s.Break(nil)
			backup(t, s, 2)
		})
	}
}

// TestLocked: nothing is written twice or taken away, and what has no checksum
// is not taken.
func TestLocked(t *testing.T) {
	s := start(t, t.TempDir())
	s.Lock()
	require.NoError(t, repository.Initialize(t.Context(), at(s)(t), repositorytest.Password))
	for seed := range 3 {
		backup(t, s, seed)
	}
	for key, n := range s.Stored() {
		require.Equal(t, 1, n, key)
	}
	size := s.Size()
	st := open(t, s.Spec("other"))
	require.NoError(t, st.PutBlob(t.Context(), "p0123456789", bytesOf("one"), blob.PutOptions{}))
	require.Error(t, st.PutBlob(t.Context(), "p0123456789", bytesOf("two"), blob.PutOptions{}))
	require.Error(t, st.DeleteBlob(t.Context(), "p0123456789"))
	require.Greater(t, s.Size(), size)
}

// bytesOf is a blob's content.
type bytesOf string

func (b bytesOf) Length() int { return len(b) }
func (b bytesOf) Reader() io.ReadSeekCloser {
	return readCloser{strings.NewReader(string(b))}
}
func (b bytesOf) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, string(b))
	return int64(n), err
}

type readCloser struct{ io.ReadSeeker }

func (readCloser) Close() error { return nil }

// TestReads: a read is one request, and says what is not there.
func TestReads(t *testing.T) {
	s := start(t, t.TempDir())
	st := open(t, s.Spec("prod"))
	ctx := t.Context()
	id := blob.ID("p" + strings.Repeat("0123456789abcdef", 2))
	require.NoError(t, st.PutBlob(ctx, id, bytesOf("0123456789"), blob.PutOptions{}))
	var b buffer
	reads := func(offset, length int64) (string, error) {
		t.Helper()
		before := s.Counts().Requests
		err := st.GetBlob(ctx, id, offset, length, &b)
		require.LessOrEqual(t, s.Counts().Requests, before+1)
		return b.String(), err
	}
	for _, x := range []struct {
		offset, length int64
		want           string
	}{{0, -1, "0123456789"}, {3, 4, "3456"}, {6, 4, "6789"}, {0, 0, ""}} {
		got, err := reads(x.offset, x.length)
		require.NoError(t, err)
		require.Equal(t, x.want, got)
	}
	for _, x := range [][2]int64{{8, 4}, {10, 1}, {20, 4}, {-1, 4}} {
		_, err := reads(x[0], x[1])
		require.ErrorIs(t, err, blob.ErrInvalidRange, "%v", x)
	}
	m, err := st.GetMetadata(ctx, id)
	require.NoError(t, err)
	require.EqualValues(t, 10, m.Length)
	require.WithinDuration(t, time.Now(), m.Timestamp, time.Minute)

	require.NoError(t, st.DeleteBlob(ctx, id))
	require.NoError(t, st.DeleteBlob(ctx, id))
	for _, length := range []int64{-1, 0, 4} {
		_, err := reads(0, length)
		require.ErrorIs(t, err, blob.ErrBlobNotFound)
	}
	_, err = st.GetMetadata(ctx, id)
	require.ErrorIs(t, err, blob.ErrBlobNotFound)
}

// buffer is where a blob is read to.
type buffer struct{ bytes.Buffer }

func (b *buffer) Length() int { return b.Len() }
