package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

func put(t testing.TB, path, content string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
}

func contentAt(t testing.TB, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(content)
}

// TestFilesOfABackup looks into volumes of two backups and brings single files
// back: to this machine, and beside the originals, of which none changes.
func TestFilesOfABackup(t *testing.T) {
	ns := namespace(t, "files")
	files := aClaim(t, ns, "data")
	odd := map[string]string{
		"with space and\nline": "odd",
		"-dash":                "dash",
		"ünï":                  "not ASCII",
		"deep/er/one":          "first",
	}
	for name, content := range odd {
		put(t, filepath.Join(files, name), content)
	}
	large := filepath.Join(files, "deep/large")
	fillRandom(t, large, 20<<20)
	require.NoError(t, os.Symlink("/etc/hostname", filepath.Join(files, "outside")))
	apply(t, "src", fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: idle, namespace: %s}\nspec:\n  terminationGracePeriodSeconds: 0\n"+
		"  containers: [{name: main, image: %q, volumeMounts: [{name: scratch, mountPath: /scratch}]}]\n  volumes: [{name: scratch, emptyDir: {}}]\n", ns, noTools))
	ready(t, "src", ns, "pod/idle")
	put(t, filepath.Join(mounted(t, "src", ns, "idle", "scratch"), "note"), "of a pod")

	remote, _ := local(t)
	f := spec(t, everything(ns)+"  volumes: [{match: 'volume.kind == \"emptyDir\"', method: Stream}, {method: Auto}]\n", remote)
	first, r := document(t, "run", "-f", f)
	require.Equal(t, 0, r.code, r.stderr)
	between := time.Now().UTC()
	put(t, filepath.Join(files, "deep/er/one"), "second")
	await(t, "a later second", func() (bool, error) { return time.Since(between) > time.Second, nil })
	_, r = document(t, "run", "-f", f)
	require.Equal(t, 0, r.code, r.stderr)

	t.Run("ls", func(t *testing.T) {
		r := backup(t, "ls", "latest", "-f", f)
		require.Equal(t, 0, r.code, r.stderr)
		require.Contains(t, r.stdout, ns+"/data")
		require.Contains(t, r.stdout, ns+"/idle/scratch")
		var found struct{ Items []v1alpha1.StoredFile }
		r = backup(t, "ls", "latest", "data", "-R", "-o", "json", "-f", f)
		require.NoError(t, json.Unmarshal([]byte(r.stdout), &found), r.stdout)
		listed := map[string]v1alpha1.StoredFile{}
		for _, e := range found.Items {
			listed[e.Path] = e
		}
		for name := range odd {
			require.Contains(t, listed, name)
		}
		require.EqualValues(t, 20<<20, listed["deep/large"].Size)
		require.Equal(t, "/etc/hostname", listed["outside"].Link)
	})
	t.Run("cat", func(t *testing.T) {
		for name, content := range odd {
			if name == "deep/er/one" {
				content = "second"
			}
			r := backup(t, "cat", "-f", f, "--", "latest", ns+"/data", name)
			require.Equal(t, 0, r.code, r.stderr)
			require.Equal(t, content, r.stdout)
		}
		require.Equal(t, "of a pod", backup(t, "cat", "latest", "idle/scratch", "note", "-f", f).stdout)
		require.True(t, contentAt(t, large) == backup(t, "cat", "latest", "data", "deep/large", "-f", f).stdout, "a large file differs")
		r := backup(t, "cat", "latest", "data", "outside", "-f", f)
		require.NotEqual(t, 0, r.code, "a link led out of the volume: %s", r.stdout)
		r = backup(t, "cat", "latest", "data", "deep/none", "-f", f)
		require.Equal(t, 2, r.code, r.stderr)
		require.Contains(t, r.stderr, "large", "what is there instead")
	})
	t.Run("at", func(t *testing.T) {
		at := between.Format(time.RFC3339Nano)
		require.Equal(t, "first", backup(t, "cat", "latest", "data", "deep/er/one", "--at", at, "-f", f).stdout)
		require.Contains(t, backup(t, "describe", "latest", "--at", at, "-f", f).stdout, first.Backup)
		require.Equal(t, 1, backup(t, "cat", "latest", "data", "deep/er/one", "--at", "2001-01-01", "-f", f).code)
	})
	t.Run("to a folder", func(t *testing.T) {
		to := t.TempDir()
		d, r := document(t, "restore", first.Backup, "--volume", "data", "--path", "deep", "--to-folder", to, "-f", f)
		require.Equal(t, 0, r.code, r.stderr)
		require.Equal(t, v1alpha1.OutcomeRestored, volumeOf(t, d, "data").Outcome)
		require.Equal(t, "first", contentAt(t, filepath.Join(to, "deep/er/one")))
		require.True(t, contentAt(t, large) == contentAt(t, filepath.Join(to, "deep/large")), "a large file differs")
		require.NoFileExists(t, filepath.Join(to, "-dash"))
		r = backup(t, "restore", first.Backup, "--volume", "data", "--to-folder", to, "-f", f)
		require.Equal(t, 2, r.code, "a folder with something in it was written to")
	})
	t.Run("beside the originals", func(t *testing.T) {
		before := described(t, files)
		d, r := document(t, "restore", first.Backup, "--volume", "data", "--path", "deep/er", "-f", f)
		require.Equal(t, 0, r.code, r.stderr)
		require.Equal(t, v1alpha1.OutcomeRestored, volumeOf(t, d, "data").Outcome)
		into := filepath.Join(files, "restored-"+first.Backup)
		require.Equal(t, "first", contentAt(t, filepath.Join(into, "deep/er/one")))
		require.NoFileExists(t, filepath.Join(into, "deep/large"))
		nothingLeft(t, ns)
		after := described(t, files)
		for name, was := range before {
			if name != "" && name != "." {
				require.Equal(t, was, after[name], "%s was touched", name)
			}
		}
		_, r = document(t, "restore", first.Backup, "--volume", "data", "--path", "deep/er", "-f", f)
		require.NotEqual(t, 0, r.code, "a folder that was there is written into")
	})
	t.Run("names that lead nowhere", func(t *testing.T) {
		r := backup(t, "ls", "latest", "dada", "-f", f)
		require.Equal(t, 2, r.code)
		require.Contains(t, r.stderr, "data")
		r = backup(t, "restore", "latest", "--volume", "idle/scratch", "-f", f)
		require.Equal(t, 2, r.code)
		require.Contains(t, r.stderr, "--to-folder")
	})
}
