//go:build linux

package repository_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository/repositorytest"
	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
	"github.com/kubectl-backup/kubectl-backup/plugin/volume/volumetest"
)

// browsed is a volume with the names and files that people have trouble with.
func browsed(t *testing.T) (*repository.Repository, repository.VolumePart, map[string]string) {
	t.Helper()
	src := t.TempDir()
	files := map[string]string{
		"plain":                     "plain text",
		"with space":                "1",
		"new\nline":                 "2",
		"åäö 漢字":                    "3",
		"bytes \xff\xfe":            "4",
		"-dash":                     "5",
		".kubectl-backup.attribute": "6",
		"%2F%25":                    "7",
		"deep/er/and deeper/-x":     "8",
		"deep/er/other":             "9",
		"large":                     strings.Repeat("not quite the same over and over. ", 300_000),
		"empty":                     "",
	}
	for name, content := range files {
		volumetest.Write(t, filepath.Join(src, name), content)
	}
	sparse, err := os.Create(filepath.Join(src, "sparse"))
	require.NoError(t, err)
	require.NoError(t, sparse.Truncate(40<<20))
	_, err = sparse.WriteAt([]byte("in the middle"), 20<<20)
	require.NoError(t, err)
	require.NoError(t, sparse.Close())
	whole, err := os.ReadFile(filepath.Join(src, "sparse"))
	require.NoError(t, err)
	files["sparse"] = string(whole)
	require.NoError(t, os.Link(filepath.Join(src, "plain"), filepath.Join(src, "deep", "same")))
	files["deep/same"] = files["plain"]
	for name, target := range map[string]string{
		"inside": "deep/er", "deep/up": "../plain", "deep/er/chain": "../../inside/other", "out": "../../etc/passwd", "absolute": "/etc/passwd",
		"deep/sly": "er/../../../x", "loop": "loop", "dangling": "nowhere/at/all",
	} {
		require.NoError(t, os.Symlink(target, filepath.Join(src, name)))
	}
	require.NoError(t, unix.Mkfifo(filepath.Join(src, "deep", "pipe"), 0o600))
	r := repositorytest.Open(t, at(initialized(t, &repositorytest.Memory{})), repository.OpenOptions{})
	_, part := captured(t, r, src, repository.CaptureOptions{CutAt: settled()})
	return r, part, files
}

func TestEveryFileOfAVolumeCanBeReadAlone(t *testing.T) {
	r, part, files := browsed(t)
	for path, want := range files {
		for _, spelled := range []string{path, "/" + path, "./" + path, "deep/../" + path} {
			var out bytes.Buffer
			require.NoError(t, r.ReadFile(t.Context(), part, spelled, &out), "%q", spelled)
			require.True(t, want == out.String(), "%q", spelled)
		}
	}
	for path, same := range map[string]string{"inside/other": "deep/er/other", "deep/up": "plain", "deep/er/chain": "deep/er/other", "inside/../same": "plain"} {
		var out bytes.Buffer
		require.NoError(t, r.ReadFile(t.Context(), part, path, &out), path)
		require.Equal(t, files[same], out.String(), path)
	}
}

func TestAPathThatLeadsNowhereSaysWhereItEnds(t *testing.T) {
	r, part, _ := browsed(t)
	for path, words := range map[string][]string{
		"deep/er/othr/x":   {"othr is not in deep/er", "and deeper, chain", "other"},
		"nothing":          {"not in the backup", "/ holds", "and"},
		"plain/x":          {"plain is a file"},
		"deep/er":          {"is a folder"},
		"deep/pipe":        {"deep/pipe is a named pipe"},
		"../x":             {"leads out of the volume"},
		"out":              {"symbolic link out leads out of the volume", "../../etc/passwd"},
		"absolute":         {"absolute leads out", "/etc/passwd"},
		"deep/sly":         {"deep/sly leads out"},
		"loop":             {"too many symbolic links"},
		"dangling":         {"not in the backup"},
		".kubectl-backup.": {"not in the backup"},
	} {
		var out bytes.Buffer
		err := r.ReadFile(t.Context(), part, path, &out)
		require.ErrorAs(t, err, new(*repository.PathError), "%q", path)
		for _, w := range words {
			require.ErrorContains(t, err, w, "%q", path)
		}
		require.Zero(t, out.Len())
		require.NotContains(t, err.Error(), "known", "our own files are not shown")
	}
}

func TestFoldersAreListedOneLevelOrWhole(t *testing.T) {
	r, part, files := browsed(t)
	list := func(path string, recursive bool) map[string]volume.Entry {
		found := map[string]volume.Entry{}
		require.NoError(t, r.Files(t.Context(), part, path, recursive, func(e *volume.Entry) error {
			found[e.Path] = *e
			return nil
		}))
		return found
	}
	top := list("", false)
	require.Len(t, top, 10+1+1+5, "files, sparse, the folder, links")
	require.Equal(t, volume.Dir, top["deep"].Type)
	require.Equal(t, "../../etc/passwd", top["out"].Link)
	require.EqualValues(t, 40<<20, top["sparse"].Size)
	for path := range top {
		require.NotContains(t, path, "/")
	}
	all := list("/", true)
	for path, content := range files {
		e, ok := all[path]
		require.True(t, ok, "%q", path)
		require.EqualValues(t, len(content), e.Size, "%q", path)
	}
	require.Equal(t, volume.FIFO, all["deep/pipe"].Type)

	below := list("inside", false) // through a link
	require.Len(t, below, 3)
	require.Contains(t, below, "deep/er/and deeper")
	require.NotContains(t, below, "deep/er/and deeper/-x")
	require.Contains(t, list("deep", false), "deep/pipe")
	require.Contains(t, list("deep", false), "deep/same")
	require.EqualValues(t, len(files["plain"]), list("deep", false)["deep/same"].Size)
	require.Contains(t, list("deep/er", true), "deep/er/and deeper/-x")
	require.Len(t, list("new\nline", false), 1, "a file is its own list")
}
