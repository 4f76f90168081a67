//go:build linux

package repository_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/snapshot"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository/repositorytest"
	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
	"github.com/kubectl-backup/kubectl-backup/plugin/volume/volumetest"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// folders stores folders.
type folders interface {
	CaptureFolder(context.Context, string, repository.CaptureOptions) (repository.VolumeResult, repository.VolumePart, error)
}

// captured stores a folder as a mover does.
func captured(t testing.TB, r folders, root string, o repository.CaptureOptions) (repository.VolumeResult, repository.VolumePart) {
	t.Helper()
	result, part, err := r.CaptureFolder(t.Context(), root, o)
	require.NoError(t, err)
	// Both go from one process to another in a message of 4096 bytes.
	b, err := json.Marshal(struct {
		repository.VolumeResult
		Part repository.VolumePart
	}{result, part})
	require.NoError(t, err)
	require.Less(t, len(b), 4096)
	var back struct{ Part repository.VolumePart }
	require.NoError(t, json.Unmarshal(b, &back))
	require.Equal(t, part, back.Part)
	return result, back.Part
}

// settled is a moment at which nothing was written to any more.
func settled() time.Time { return time.Now().Add(time.Minute) }

func TestFolderComesBackInEveryAttribute(t *testing.T) {
	m := initialized(t, &repositorytest.Memory{})
	r := repositorytest.Open(t, at(m), repository.OpenOptions{})
	mover := repositorytest.Mover(t, r, at(m), repository.OpenOptions{})
	for _, tree := range volumetest.Trees {
		t.Run(tree.Name, func(t *testing.T) {
			src, dst := t.TempDir(), t.TempDir()
			tree.Build(t, src)
			result, part := captured(t, mover, src, repository.CaptureOptions{CutAt: settled()})
			require.Empty(t, result.Issues)
			restored, err := mover.RestoreFolder(t.Context(), part, dst, repository.RestoreOptions{})
			require.NoError(t, err)
			require.Empty(t, restored.Issues)
			require.Equal(t, result.Files+1, restored.Files)
			require.Equal(t, result.Bytes, restored.Bytes)
			requireSameTree(t, src, dst)

			// It is what a stream of the same folder is, but for the known files.
			streamed := writeStream(t, r, src)
			require.Equal(t, streamed.Files, result.Files)
			require.Equal(t, streamed.Bytes, result.Bytes)

			// Nothing of what is known is read again, and it is the same tree.
			again, same := captured(t, mover, src, repository.CaptureOptions{Previous: &part, CutAt: settled()})
			require.Zero(t, again.Read)
			require.Equal(t, part, same)
			require.Less(t, again.Stored, int64(4096))
		})
	}
}

func writeStream(t testing.TB, r *repository.Repository, root string) repository.VolumeResult {
	t.Helper()
	s, err := r.NewSession(t.Context())
	require.NoError(t, err)
	defer s.Abort(t.Context())
	pr, pw, err := os.Pipe()
	require.NoError(t, err)
	defer pr.Close()
	go func() {
		defer pw.Close()
		_ = volume.ReadTree(t.Context(), root, volume.NewEncoder(pw))
	}()
	result, err := s.WriteVolume(t.Context(), repositorytest.Claim("shop", "data"), volume.NewDecoder(pr))
	require.NoError(t, err)
	return result
}

// TestOnlyWhatChangedIsRead changes files in every way that a file system has.
func TestOnlyWhatChangedIsRead(t *testing.T) {
	m := initialized(t, &repositorytest.Memory{})
	r := repositorytest.Open(t, at(m), repository.OpenOptions{})
	src := t.TempDir()
	for i := range 20 {
		volumetest.Write(t, fmt.Sprintf("%s/%d/f", src, i), strings.Repeat(fmt.Sprint(i), 1000))
	}
	volumetest.Write(t, src+"/large", strings.Repeat("large", 1<<18))
	_, part := captured(t, r, src, repository.CaptureOptions{CutAt: settled()})

	stamp := func(name string) time.Time {
		info, err := os.Stat(src + "/" + name)
		require.NoError(t, err)
		return info.ModTime()
	}
	// The same length and the same time of change: only the inode's own time
	// tells.
	old := stamp("1/f")
	require.NoError(t, os.WriteFile(src+"/1/f", []byte(strings.Repeat("x", 1000)), 0o644))
	require.NoError(t, os.Chtimes(src+"/1/f", old, old))
	// Another file in its place.
	volumetest.Write(t, src+"/2/g", strings.Repeat("y", 1000))
	require.NoError(t, os.Chtimes(src+"/2/g", stamp("2/f"), stamp("2/f")))
	require.NoError(t, os.Rename(src+"/2/g", src+"/2/f"))
	// Moved: a name that was not there is not known.
	require.NoError(t, os.Rename(src+"/3/f", src+"/3/h"))
	require.NoError(t, os.Chmod(src+"/4/f", 0o600))
	require.NoError(t, os.RemoveAll(src+"/5"))
	require.NoError(t, os.Truncate(src+"/6/f", 10))
	volumetest.Write(t, src+"/new", "new")
	result, next := captured(t, r, src, repository.CaptureOptions{Previous: &part, CutAt: settled()})
	require.Equal(t, int64(4*1000+10+3), result.Read)
	dst := t.TempDir()
	_, err := r.RestoreFolder(t.Context(), next, dst, repository.RestoreOptions{})
	require.NoError(t, err)
	requireSameTree(t, src, dst)

	// What was written to just before the cut is read once more: it may have
	// been written to twice in one tick of the clock.
	_, hasty := captured(t, r, src, repository.CaptureOptions{Previous: &next, CutAt: stamp("new").Add(time.Second)})
	result, _ = captured(t, r, src, repository.CaptureOptions{Previous: &hasty, CutAt: settled()})
	require.GreaterOrEqual(t, result.Read, int64(3))
}

// TestWhatIsGoneIsReadAgain deletes contents that the earlier backup had.
func TestWhatIsGoneIsReadAgain(t *testing.T) {
	m := initialized(t, &repositorytest.Memory{})
	src := t.TempDir()
	large := make([]byte, 20<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(large)
	volumetest.Write(t, src+"/large", string(large))
	volumetest.Write(t, src+"/small", "gone")
	volumetest.Write(t, src+"/staying", "still there")
	// Of others there is so much that not all contents are listed.
	others := t.TempDir()
	for i := range 50 {
		volumetest.Write(t, fmt.Sprintf("%s/%d", others, i), fmt.Sprint(i))
	}
	r := repositorytest.Open(t, at(m), repository.OpenOptions{})
	_, _ = captured(t, r, others, repository.CaptureOptions{})
	_, part := captured(t, r, src, repository.CaptureOptions{CutAt: settled()})

	k := repository.Kopia(r)
	require.NoError(t, repo.DirectWriteSession(t.Context(), k, repo.WriteSessionOptions{}, func(ctx context.Context, w repo.DirectRepositoryWriter) error {
		in, err := k.OpenObject(ctx, part.Root.ObjectID)
		require.NoError(t, err)
		defer in.Close()
		var folder struct{ Entries []*snapshot.DirEntry }
		require.NoError(t, json.NewDecoder(in).Decode(&folder))
		for _, e := range folder.Entries {
			contents, err := k.VerifyObject(ctx, e.ObjectID)
			require.NoError(t, err)
			switch e.Name {
			case "large":
				require.Greater(t, len(contents), 3)
				require.NoError(t, w.ContentManager().DeleteContent(ctx, contents[1]))
			case "small":
				require.NoError(t, w.ContentManager().DeleteContent(ctx, contents[0]))
			}
		}
		return nil
	}))

	r = repositorytest.Open(t, at(m), repository.OpenOptions{})
	result, next := captured(t, r, src, repository.CaptureOptions{Previous: &part, CutAt: settled()})
	require.Equal(t, int64(len(large)+len("gone")), result.Read)
	dst := t.TempDir()
	restored, err := r.RestoreFolder(t.Context(), next, dst, repository.RestoreOptions{})
	require.NoError(t, err)
	require.Empty(t, restored.Issues)
	requireSameTree(t, src, dst)
}

// TestWhatAnotherProcessStored is a mover and the run that started it.
func TestWhatAnotherProcessStored(t *testing.T) {
	m := initialized(t, &repositorytest.Memory{ListDelay: 300 * time.Millisecond})
	src := t.TempDir()
	volumetest.Write(t, src+"/a/file", "of a volume")
	r := repositorytest.Open(t, at(m), repository.OpenOptions{})
	s, err := r.NewSession(t.Context())
	require.NoError(t, err)

	mover := repositorytest.Mover(t, r, at(m), repository.OpenOptions{})
	line := repositorytest.Claim("shop", "data")
	result, part := captured(t, mover, src, repository.CaptureOptions{Line: line})

	require.NoError(t, s.AddVolume(t.Context(), line, part))
	line.Snapshot, line.Outcome = result.Snapshot, v1alpha1.OutcomeSaved
	id, err := s.Commit(t.Context(), repository.Record{Cluster: v1alpha1.Cluster{UID: "c"}, Document: repositorytest.Report(nil, line)})
	require.NoError(t, err)

	reader := repositorytest.Open(t, at(m), repository.OpenOptions{ReadOnly: true})
	rec, err := reader.Record(t.Context(), id)
	require.NoError(t, err)
	require.Len(t, rec.Volumes, 1)
	failed, err := repositorytest.Verify(t, reader, rec)
	require.NoError(t, err)
	require.Empty(t, failed)
	require.NoError(t, reader.Check(t.Context(), rec))
	dst := t.TempDir()
	_, err = reader.RestoreFolder(t.Context(), rec.Volumes[0], dst, repository.RestoreOptions{})
	require.NoError(t, err)
	requireSameTree(t, src, dst)

	// What no mover stored is refused.
	s, err = r.NewSession(t.Context())
	require.NoError(t, err)
	defer s.Abort(t.Context())
	lost := part
	lost.Snapshot = "k0123456789abcdef0123456789abcdef"
	require.Error(t, s.AddVolume(t.Context(), line, lost))
}

func TestPartsAndExtraFilesOfARestore(t *testing.T) {
	m := initialized(t, &repositorytest.Memory{})
	r := repositorytest.Open(t, at(m), repository.OpenOptions{})
	src := t.TempDir()
	volumetest.Write(t, src+"/a/first", "several names")
	require.NoError(t, os.MkdirAll(src+"/b/deep", 0o700))
	require.NoError(t, os.Link(src+"/a/first", src+"/b/deep/again"))
	require.NoError(t, os.Link(src+"/a/first", src+"/b/more"))
	volumetest.Write(t, src+"/b/large", strings.Repeat("0123456789", 3<<20))
	volumetest.Write(t, src+"/bb/not", "in b")
	_, part := captured(t, r, src, repository.CaptureOptions{})

	some := t.TempDir()
	volumetest.Write(t, some+"/other/file", "stays: only a part was asked for")
	volumetest.Write(t, some+"/b/extra", "goes")
	result, err := r.RestoreFolder(t.Context(), part, some, repository.RestoreOptions{Path: "/b/", Extra: volume.Remove})
	require.NoError(t, err)
	require.Empty(t, result.Issues)
	require.FileExists(t, some+"/other/file")
	require.NoFileExists(t, some+"/b/extra")
	require.NoFileExists(t, some+"/bb/not")
	requireSameTree(t, src+"/b", some+"/b")
	first, err := os.Stat(some + "/b/deep/again")
	require.NoError(t, err)
	more, err := os.Stat(some + "/b/more")
	require.NoError(t, err)
	require.True(t, os.SameFile(first, more))

	_, err = r.RestoreFolder(t.Context(), part, some, repository.RestoreOptions{Path: "c"})
	require.ErrorContains(t, err, "c is not in the volume")

	all := t.TempDir()
	volumetest.Write(t, all+"/a/first/in", "a folder in the place of a file")
	volumetest.Write(t, all+"/extra", "goes")
	_, err = r.RestoreFolder(t.Context(), part, all, repository.RestoreOptions{Extra: volume.Remove})
	require.NoError(t, err)
	requireSameTree(t, src, all)

	kept := t.TempDir()
	volumetest.Write(t, kept+"/a/first/in", "not asked to be removed")
	result, err = r.RestoreFolder(t.Context(), part, kept, repository.RestoreOptions{})
	require.NoError(t, err)
	require.FileExists(t, kept+"/a/first/in")
	require.Equal(t, 3, result.Lost, "it and its further names could not be written: %v", result.Issues)
}

// TestDamageInAFolder loses packs: what they held is named, the rest comes.
func TestDamageInAFolder(t *testing.T) {
	m := initialized(t, &repositorytest.Memory{})
	r := repositorytest.Open(t, at(m), repository.OpenOptions{})
	src := t.TempDir()
	volumetest.Write(t, src+"/kept", "stored by the first")
	_, _ = captured(t, r, src, repository.CaptureOptions{})
	before := m.Blobs()
	volumetest.Write(t, src+"/lost", "stored by the second")
	volumetest.Write(t, src+"/lost-large", strings.Repeat("0123456789", 3<<20))
	_, part := captured(t, r, src, repository.CaptureOptions{})
	for _, id := range m.Blobs() {
		if strings.HasPrefix(string(id), "p") && !slices.Contains(before, id) {
			m.Remove(id)
		}
	}
	dst := t.TempDir()
	volumetest.Write(t, dst+"/lost", "better than nothing")
	reader := repositorytest.Open(t, at(m), repository.OpenOptions{ReadOnly: true})
	result, err := reader.RestoreFolder(t.Context(), part, dst, repository.RestoreOptions{})
	require.NoError(t, err)
	require.Equal(t, 2, result.Lost)
	require.Contains(t, strings.Join(result.Issues, "\n"), "lost: not written: damaged in the repository")
	b, err := os.ReadFile(dst + "/lost")
	require.NoError(t, err)
	require.Equal(t, "better than nothing", string(b))
	b, err = os.ReadFile(dst + "/kept")
	require.NoError(t, err)
	require.Equal(t, "stored by the first", string(b))
}
