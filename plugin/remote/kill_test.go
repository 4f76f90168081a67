package remote_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/kopia/kopia/repo/blob"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/plugin/remote"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository/repositorytest"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const writeInto = "REMOTE_TEST_WRITE_INTO"

// TestMain lets the test binary be the process that is killed: it then writes
// one backup after the other until somebody stops it.
func TestMain(m *testing.M) {
	dir := os.Getenv(writeInto)
	if dir == "" {
		os.Exit(m.Run())
	}
	if err := writeForEver(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func writeForEver(dir string) error {
	ctx := context.Background()
	st, err := remote.Open(ctx, v1alpha1.BackupRemoteSpec{Path: dir}, nil)
	if err != nil {
		return err
	}
	r, err := repository.Open(ctx, st, repositorytest.Password, repository.OpenOptions{})
	if err != nil {
		return err
	}
	fmt.Println("open")
	t := &testing.T{}
	for seed := os.Getpid(); ; seed++ {
		s, err := r.NewSession(ctx)
		if err != nil {
			return err
		}
		for _, o := range repositorytest.Small(t, 2000, seed) {
			if err := s.AddObject(ctx, o); err != nil {
				return err
			}
		}
		line := repositorytest.Claim("a", "data")
		v, err := s.WriteVolume(ctx, line, repositorytest.Stream(t, false))
		if err != nil {
			return err
		}
		line.Snapshot = v.Snapshot
		if _, err := s.Commit(ctx, repository.Record{Started: time.Now(), Document: repositorytest.Report(nil, line)}); err != nil {
			return err
		}
	}
}

// TestKilled kills a process that writes backups at random moments. Whatever
// is listed afterwards is whole, and nothing stops the next run.
func TestKilled(t *testing.T) {
	const kills = 20
	dir := filepath.Join(t.TempDir(), "repository")
	place := func(t testing.TB) blob.Storage { return open(t, v1alpha1.BackupRemoteSpec{Path: dir}, "") }
	require.NoError(t, repository.Initialize(t.Context(), place(t), repositorytest.Password))
	random := rand.New(rand.NewSource(time.Now().UnixNano()))
	verified := map[string]bool{}
	for range kills {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), writeInto+"="+dir)
		var stderr bytes.Buffer
		child.Stderr = &stderr
		stdout, err := child.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, child.Start())
		_, err = io.ReadFull(stdout, make([]byte, len("open\n")))
		require.NoError(t, err, stderr.String())
		timer := time.NewTimer(time.Duration(random.Int63n(int64(700 * time.Millisecond))))
		<-timer.C
		require.NoError(t, child.Process.Kill())
		require.Error(t, child.Wait())
		require.Empty(t, stderr.String())
	}
	r := repositorytest.Open(t, place, repository.OpenOptions{})
	require.Empty(t, r.Warnings())
	require.NoError(t, r.Records(t.Context(), func(rec repository.Record) error {
		require.Empty(t, rec.Damaged)
		require.NoError(t, r.Check(t.Context(), rec))
		failed, err := repositorytest.Verify(t, r, rec)
		require.NoError(t, err)
		require.Empty(t, failed)
		require.Equal(t, 2000, rec.Objects)
		verified[rec.ID] = true
		return nil
	}))
	t.Logf("%d backups were committed before a kill", len(verified))
	objects := repositorytest.Small(t, 100, 1)
	id, _ := repositorytest.Backup(t, r, repository.Record{}, objects)
	rec, err := r.Record(t.Context(), id)
	require.NoError(t, err)
	repositorytest.RequireObjects(t, r, rec, objects)
}

// BenchmarkObjects writes and reads 10,000 objects of a KiB over rclone.
func BenchmarkObjects(b *testing.B) {
	dir := b.TempDir()
	place := func(t testing.TB) blob.Storage { return open(t, v1alpha1.BackupRemoteSpec{Path: dir}, "") }
	require.NoError(b, repository.Initialize(b.Context(), place(b), repositorytest.Password))
	r := repositorytest.Open(b, place, repository.OpenOptions{})
	objects := repositorytest.Small(b, 10000, 1)
	var id string
	for _, run := range []string{"first", "unchanged"} {
		b.Run(run, func(b *testing.B) {
			var stored int64
			for b.Loop() {
				if run == "first" {
					b.StopTimer()
					objects = repositorytest.Small(b, 10000, rand.Int())
					b.StartTimer()
				}
				id, stored = repositorytest.Backup(b, r, repository.Record{}, objects)
			}
			b.ReportMetric(float64(stored), "B-stored")
		})
	}
	for _, read := range []string{"read", "verify", "check"} {
		b.Run(read, func(b *testing.B) {
			for b.Loop() {
				rec, err := r.Record(b.Context(), id)
				require.NoError(b, err)
				switch read {
				case "read":
					repositorytest.RequireObjects(b, r, rec, objects)
				case "verify":
					_, err = repositorytest.Verify(b, r, rec)
					require.NoError(b, err)
				case "check":
					require.NoError(b, r.Check(b.Context(), rec))
				}
			}
		})
	}
}

type memory struct{ bytes.Buffer }

func (b *memory) Length() int { return b.Len() }
func (b *memory) Reader() io.ReadSeekCloser {
	return struct {
		io.ReadSeeker
		io.Closer
	}{bytes.NewReader(b.Bytes()), io.NopCloser(nil)}
}

func bytesOf(text string) blob.Bytes {
	b := &memory{}
	b.WriteString(text)
	return b
}
