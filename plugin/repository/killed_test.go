//go:build linux

package repository_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/blob/filesystem"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository/repositorytest"
	"github.com/kubectl-backup/kubectl-backup/plugin/volume/volumetest"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// killedEnv makes this test program a mover that stores a folder in a
// repository, and says how far it is.
const killedEnv = "KILLED_TEST_MOVER"

func inFolder(t testing.TB, dir string) blob.Storage {
	st, err := filesystem.New(context.Background(), &filesystem.Options{Path: dir}, true)
	require.NoError(t, err)
	return st
}

// TestKilledMoverHasNotWorkedInVain kills movers and lets another finish: what
// reached the remote in total is not much more than what one sends.
func TestKilledMoverHasNotWorkedInVain(t *testing.T) {
	if src := os.Getenv(killedEnv); src != "" {
		r, err := repository.OpenVolumes(t.Context(), inFolder(t, os.Getenv("KILLED_TEST_REMOTE")), json.RawMessage(os.Getenv("KILLED_TEST_KEY")), repository.OpenOptions{})
		require.NoError(t, err)
		_, _, err = r.CaptureFolder(t.Context(), src, repository.CaptureOptions{Progress: func(n int64) { fmt.Fprintln(os.Stderr, n) }})
		require.NoError(t, err)
		require.NoError(t, r.Close(t.Context()))
		return
	}
	const size = 256 << 20
	src, remote := volumetest.Tmpfs(t), volumetest.Tmpfs(t)
	random := rand.NewChaCha8([32]byte{7})
	write := func(name string, n int) {
		b := make([]byte, n)
		random.Read(b)
		require.NoError(t, os.WriteFile(filepath.Join(src, name), b, 0o600))
	}
	write("large", 96<<20)
	for i := range 32 {
		write(fmt.Sprintf("middle-%d", i), 4<<20)
	}
	for i := range 1000 {
		write(fmt.Sprintf("small-%d", i), 32<<10)
	}
	moments := rand.New(rand.NewPCG(3, 5))
	for round := range 3 {
		dir := filepath.Join(remote, fmt.Sprint(round))
		require.NoError(t, os.Mkdir(dir, 0o700))
		require.NoError(t, repository.Initialize(t.Context(), inFolder(t, dir), repositorytest.Password))
		open := func() *repository.Repository {
			return repositorytest.Open(t, func(t testing.TB) blob.Storage { return inFolder(t, dir) }, repository.OpenOptions{})
		}
		key, err := open().Key(t.Context())
		require.NoError(t, err)
		moment := moments.Int64N(size)
		runUntil(t, src, dir, string(key), moment)
		sent := sizeOf(t, dir)

		r := open()
		require.NoError(t, r.Records(t.Context(), func(rec repository.Record) error { return fmt.Errorf("a backup that was never made: %s", rec.ID) }))
		s, err := r.NewSession(t.Context())
		require.NoError(t, err)
		line := repositorytest.Claim("shop", "data")
		result, part := captured(t, r, src, repository.CaptureOptions{Line: line})
		total := sizeOf(t, dir)
		t.Logf("killed at %d MiB with %d MiB sent; %d MiB in total", moment>>20, sent>>20, total>>20)
		require.Less(t, total, int64(size*3/2))
		require.NoError(t, s.AddVolume(t.Context(), line, part))
		line.Snapshot = result.Snapshot
		id, err := s.Commit(t.Context(), repository.Record{Document: repositorytest.Report(nil, line), Cluster: v1alpha1.Cluster{UID: "c"}})
		require.NoError(t, err)
		rec, err := r.Record(t.Context(), id)
		require.NoError(t, err)
		failed, err := repositorytest.Verify(t, r, rec)
		require.NoError(t, err)
		require.Empty(t, failed)
	}
}

// runUntil starts a mover and kills it once it has read so many bytes.
func runUntil(t *testing.T, src, remote, key string, moment int64) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestKilledMoverHasNotWorkedInVain$")
	cmd.Env = append(os.Environ(), killedEnv+"="+src, "KILLED_TEST_REMOTE="+remote, "KILLED_TEST_KEY="+key)
	progress, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var read int64
	for s := bufio.NewScanner(progress); s.Scan() && read < moment; {
		var n int64
		if _, err := fmt.Sscan(s.Text(), &n); err == nil {
			read += n
		}
	}
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait(), "it had ended by itself")
}

// sizeOf counts half written files as well.
func sizeOf(t *testing.T, dir string) int64 {
	t.Helper()
	var sum int64
	require.NoError(t, filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		sum += info.Size()
		return err
	}))
	return sum
}
