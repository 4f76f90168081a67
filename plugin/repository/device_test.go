//go:build linux

package repository_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository/repositorytest"
	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// image makes a file of a size with noise at some places.
func image(t testing.TB, path string, size int64, places map[int64]int) string {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(size))
	for at, n := range places {
		noise(t, f, at, n)
	}
	require.NoError(t, f.Close())
	return path
}

func noise(t testing.TB, f *os.File, at int64, n int) {
	t.Helper()
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(at), byte(at >> 20), byte(n)}).Read(b)
	_, err := f.WriteAt(b, at)
	require.NoError(t, err)
}

// requireSameImage compares what is not a hole in both.
func requireSameImage(t testing.TB, a, b string, size int64) {
	t.Helper()
	x, err := os.Open(a)
	require.NoError(t, err)
	defer x.Close()
	y, err := os.Open(b)
	require.NoError(t, err)
	defer y.Close()
	p, q := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := int64(0); at < size; at += int64(len(p)) {
		n := min(int64(len(p)), size-at)
		_, err := x.ReadAt(p[:n], at)
		require.NoError(t, err)
		_, err = y.ReadAt(q[:n], at)
		require.NoError(t, err)
		if !bytes.Equal(p[:n], q[:n]) {
			t.Fatalf("differs in the MiB at %d", at)
		}
	}
}

func allocated(t testing.TB, path string) int64 {
	var st unix.Stat_t
	require.NoError(t, unix.Stat(path, &st))
	return st.Blocks * 512
}

var blockLine = func() v1alpha1.VolumeLine {
	line := repositorytest.Claim("shop", "disk")
	line.VolumeMode = "Block"
	return line
}()

// TestDeviceCostsWhatIsWrittenToIt takes a device of 4 GiB with 64 MiB in it
// there and back, by a mover and by a stream.
func TestDeviceCostsWhatIsWrittenToIt(t *testing.T) {
	const size = 4<<30 - 512 // the last block is a short one
	m := initialized(t, &repositorytest.Memory{})
	r := repositorytest.Open(t, at(m), repository.OpenOptions{})
	dir := t.TempDir()
	places := map[int64]int{0: 512, 12345: 40, 3<<30 + 7: 4096, size - 512: 512}
	for i := range int64(16) {
		places[i*200<<20+i*4096] = 4 << 20
	}
	src := image(t, filepath.Join(dir, "src"), size, places)

	result, part, err := r.CaptureDevice(t.Context(), src, repository.CaptureOptions{Line: blockLine})
	require.NoError(t, err)
	require.Equal(t, int64(size), result.Bytes)
	require.Less(t, result.Read, int64(100<<20), "holes are not read")
	require.Less(t, result.Stored, int64(90<<20))
	require.True(t, part.Block)

	// Into an image that is all noise: nothing of it may shine through.
	dst := image(t, filepath.Join(dir, "dst"), size+4096, map[int64]int{1 << 30: 64 << 20, size - 4096: 8192})
	restored, err := r.RestoreDevice(t.Context(), part, dst, repository.RestoreOptions{})
	require.NoError(t, err)
	require.Equal(t, int64(size), restored.Bytes)
	requireSameImage(t, src, dst, size)
	require.Less(t, allocated(t, dst), int64(100<<20), "holes are holes again")

	// A change of a MiB somewhere.
	f, err := os.OpenFile(src, os.O_RDWR, 0)
	require.NoError(t, err)
	noise(t, f, 777<<20+99, 1<<20)
	require.NoError(t, f.Close())
	result, changed, err := r.CaptureDevice(t.Context(), src, repository.CaptureOptions{Line: blockLine, Previous: &part})
	require.NoError(t, err)
	require.Less(t, result.Stored, int64(8<<20))
	result, same, err := r.CaptureDevice(t.Context(), src, repository.CaptureOptions{Line: blockLine})
	require.NoError(t, err)
	require.Less(t, result.Stored, int64(4<<10))
	require.Equal(t, changed, same)

	// The stream finds what the mover stored, and the other way round.
	pr, pw := io.Pipe()
	go func() {
		pw.CloseWithError(volume.ReadDevice(context.Background(), src, volume.NewEncoder(pw)))
	}()
	s, err := r.NewSession(t.Context())
	require.NoError(t, err)
	streamed, err := s.WriteVolume(t.Context(), blockLine, volume.NewDecoder(pr))
	require.NoError(t, err)
	require.Less(t, streamed.Stored, int64(1<<20))
	require.Equal(t, same.Snapshot, streamed.Snapshot)
	line := blockLine
	line.Snapshot, line.Outcome = streamed.Snapshot, v1alpha1.OutcomeSaved
	id, err := s.Commit(t.Context(), repository.Record{Cluster: v1alpha1.Cluster{UID: "c"}, Document: repositorytest.Report(nil, line)})
	require.NoError(t, err)
	rec, err := r.Record(t.Context(), id)
	require.NoError(t, err)
	failed, err := repositorytest.Verify(t, r, rec)
	require.NoError(t, err)
	require.Empty(t, failed)
	pr, pw = io.Pipe()
	go func() {
		pw.CloseWithError(r.ReadVolume(context.Background(), rec, rec.Volumes[0].Snapshot, "", volume.NewEncoder(pw)))
	}()
	by := image(t, filepath.Join(dir, "by-stream"), 0, nil)
	report, err := volume.WriteDevice(t.Context(), volume.NewDecoder(pr), by, false)
	require.NoError(t, err)
	require.Equal(t, int64(size), report.Bytes)
	requireSameImage(t, src, by, size)
}

// TestDevicesByWhatIsAllocated: a device of which only what is allocated is read
// is stored as one that is read as a whole, to the same object; where what is
// said of it cannot be true, or nothing is said, it is read as a whole.
func TestDevicesByWhatIsAllocated(t *testing.T) {
	m := initialized(t, &repositorytest.Memory{})
	r := repositorytest.Open(t, at(m), repository.OpenOptions{})
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	for n := range 5 {
		size := 16<<20 + random.Int64N(32<<20)
		listed := volume.Allocated{Size: size}
		places := map[int64]int{}
		for at := random.Int64N(4 << 20); at < size; at += 1 + random.Int64N(6<<20) {
			length := min(1+random.Int64N(3<<20), size-at)
			places[at] = int(length)
			listed.Extents = append(listed.Extents, volume.Extent{Offset: at, Length: length})
			at += length
		}
		// A device tells no holes, and neither does this image.
		src := filepath.Join(t.TempDir(), "src")
		require.NoError(t, os.WriteFile(src, make([]byte, size), 0o600))
		f, err := os.OpenFile(src, os.O_RDWR, 0)
		require.NoError(t, err)
		for at, n := range places {
			noise(t, f, at, n)
		}
		require.NoError(t, f.Close())

		options := repository.CaptureOptions{Line: blockLine, Allocated: func(context.Context) (volume.Allocated, error) { return listed, nil }}
		bounded, part, err := r.CaptureDevice(t.Context(), src, options)
		require.NoError(t, err)
		require.Empty(t, bounded.Whole)
		whole, all, err := r.CaptureDevice(t.Context(), src, repository.CaptureOptions{Line: blockLine})
		require.NoError(t, err)
		require.Equal(t, all, part)
		require.Equal(t, size, whole.Read)
		require.Less(t, whole.Stored, int64(4<<10), "nothing is stored again")

		for why, said := range map[string]func() (volume.Allocated, error){
			"the array is off":     func() (volume.Allocated, error) { return listed, errors.New("the array is off") },
			"where none is listed": func() (volume.Allocated, error) { return volume.Allocated{Size: size}, nil },
			"and the device has": func() (volume.Allocated, error) {
				return volume.Allocated{Size: size + 1, Extents: []volume.Extent{{Offset: size, Length: 1}}}, nil
			},
			"is listed after byte ": func() (volume.Allocated, error) {
				return volume.Allocated{Size: size, Extents: []volume.Extent{{Offset: 9, Length: size}}}, nil
			},
		} {
			options.Allocated = func(context.Context) (volume.Allocated, error) { return said() }
			result, again, err := r.CaptureDevice(t.Context(), src, options)
			require.NoError(t, err)
			require.Contains(t, result.Whole, why, "%d", n)
			require.GreaterOrEqual(t, result.Read, size)
			require.Equal(t, all, again)
		}
	}
}

func TestDevicesOfOddSizes(t *testing.T) {
	m := initialized(t, &repositorytest.Memory{})
	r := repositorytest.Open(t, at(m), repository.OpenOptions{})
	for name, c := range map[string]struct {
		size   int64
		places map[int64]int
	}{
		"empty":         {0, nil},
		"all zeros":     {3 << 20, nil},
		"one byte":      {1, map[int64]int{0: 1}},
		"short":         {512, map[int64]int{0: 512}},
		"one block":     {1 << 20, map[int64]int{100: 1}},
		"full":          {20<<20 + 512, map[int64]int{0: 20<<20 + 512}},
		"hole in front": {64 << 20, map[int64]int{63 << 20: 1 << 20}},
		"hole behind":   {64<<20 + 1, map[int64]int{0: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			src := image(t, filepath.Join(dir, "src"), c.size, c.places)
			_, part, err := r.CaptureDevice(t.Context(), src, repository.CaptureOptions{})
			require.NoError(t, err)
			dst := image(t, filepath.Join(dir, "dst"), c.size, map[int64]int{0: int(min(c.size, 5<<20))})
			_, err = r.RestoreDevice(t.Context(), part, dst, repository.RestoreOptions{})
			require.NoError(t, err)
			requireSameImage(t, src, dst, c.size)
		})
	}
}

// TestRealDevices needs what the tests of volumes need as well: root, and loop
// devices.
func TestRealDevices(t *testing.T) {
	const size = 64 << 20
	dir := t.TempDir()
	loop := func(name string, size int64, places map[int64]int) string {
		out, err := exec.Command("losetup", "--find", "--show", image(t, filepath.Join(dir, name), size, places)).CombinedOutput()
		require.NoError(t, err, string(out))
		device := strings.TrimSpace(string(out))
		t.Cleanup(func() {
			out, err := exec.Command("losetup", "--detach", device).CombinedOutput()
			require.NoError(t, err, string(out))
		})
		return device
	}
	m := initialized(t, &repositorytest.Memory{})
	r := repositorytest.Mover(t, repositorytest.Open(t, at(m), repository.OpenOptions{}), at(m), repository.OpenOptions{})
	src := loop("src", size, map[int64]int{5 << 20: 3 << 20, 40<<20 + 512: 512})
	result, part, err := r.CaptureDevice(t.Context(), src, repository.CaptureOptions{})
	require.NoError(t, err)
	require.Less(t, result.Stored, int64(6<<20))

	// The space of a volume that was somebody else's before.
	dst := loop("dst", size+1<<20, map[int64]int{0: size})
	_, err = r.RestoreDevice(t.Context(), part, dst, repository.RestoreOptions{})
	require.NoError(t, err)
	requireSameImage(t, src, dst, size)

	small := loop("small", size-4096, map[int64]int{0: 4096})
	before, err := os.ReadFile(small)
	require.NoError(t, err)
	_, err = r.RestoreDevice(t.Context(), part, small, repository.RestoreOptions{})
	require.ErrorContains(t, err, fmt.Sprint(size))
	require.ErrorContains(t, err, "nothing was written")
	after, err := os.ReadFile(small)
	require.NoError(t, err)
	require.True(t, bytes.Equal(before, after))

	_, err = r.RestoreDevice(t.Context(), part, t.TempDir(), repository.RestoreOptions{})
	require.Error(t, err)
}

func TestPreviousBackupOfAVolume(t *testing.T) {
	m := initialized(t, &repositorytest.Memory{})
	r := repositorytest.Open(t, at(m), repository.OpenOptions{})
	backup := func(cluster string, line v1alpha1.VolumeLine, content string) string {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(dir+"/f", []byte(content), 0o600))
		result, part := captured(t, r, dir, repository.CaptureOptions{Line: line, CutAt: settled()})
		s, err := r.NewSession(t.Context())
		require.NoError(t, err)
		require.NoError(t, s.AddVolume(t.Context(), line, part))
		line.Snapshot = result.Snapshot
		_, err = s.Commit(t.Context(), repository.Record{Cluster: v1alpha1.Cluster{UID: cluster}, Document: repositorytest.Report(nil, line)})
		require.NoError(t, err)
		return result.Snapshot
	}
	a, b := repositorytest.Claim("shop", "a"), repositorytest.Claim("shop", "b")
	pod := v1alpha1.VolumeLine{Ref: v1alpha1.Ref{Version: "v1", Kind: "Pod", Namespace: "shop", Name: "a"}, Volume: "cache"}
	part, err := r.Previous(t.Context(), a, "one")
	require.NoError(t, err)
	require.Nil(t, part)
	backup("one", a, "first")
	want := map[string]string{"a": backup("one", a, "second"), "pod": backup("one", pod, "of a pod")}
	backup("two", a, "of another cluster")
	for range 3 {
		for name, line := range map[string]v1alpha1.VolumeLine{"a": a, "pod": pod} {
			part, err := r.Previous(t.Context(), line, "one")
			require.NoError(t, err)
			require.NotNil(t, part)
			require.Equal(t, want[name], part.Snapshot, name)
		}
		part, err := r.Previous(t.Context(), b, "one")
		require.NoError(t, err)
		require.Nil(t, part)
	}
	before := m.Requests()
	_, err = r.Previous(t.Context(), a, "one")
	require.NoError(t, err)
	require.LessOrEqual(t, m.Requests()-before, 1, "records are read once")
}
