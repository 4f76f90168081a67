package remote_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kopia/kopia/repo/blob"
	"github.com/rclone/rclone/fs/config/obscure"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/plugin/remote"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository/repositorytest"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

func open(t testing.TB, spec v1alpha1.BackupRemoteSpec, conf string) blob.Storage {
	t.Helper()
	st, err := remote.Open(context.WithoutCancel(t.Context()), spec, []byte(conf))
	require.NoError(t, err)
	t.Cleanup(func() { st.Close(context.Background()) })
	return st
}

func encrypted(dir string) v1alpha1.BackupRemoteSpec {
	return v1alpha1.BackupRemoteSpec{Path: "vault:kubernetes/prod", Config: map[string]map[string]string{
		"disk":  {"type": "local"},
		"vault": {"type": "crypt", "remote": "disk:" + dir, "password": obscure.MustObscure("the password of the vault")},
	}}
}

// TestSuite runs the repository over rclone. Servers are tried in the
// integration tests.
func TestSuite(t *testing.T) {
	for name, spec := range map[string]func(dir string) v1alpha1.BackupRemoteSpec{
		"local": func(dir string) v1alpha1.BackupRemoteSpec {
			return v1alpha1.BackupRemoteSpec{Path: filepath.Join(dir, "not", "there yet")}
		},
		"crypt": encrypted,
		"alias": func(dir string) v1alpha1.BackupRemoteSpec {
			return v1alpha1.BackupRemoteSpec{Path: "short:", Config: map[string]map[string]string{"short": {"type": "alias", "remote": dir}}}
		},
		"union": func(dir string) v1alpha1.BackupRemoteSpec {
			return v1alpha1.BackupRemoteSpec{Path: "both:x", Config: map[string]map[string]string{
				"a": {"type": "alias", "remote": dir + "/a"}, "b": {"type": "local"},
				"both": {"type": "union", "upstreams": "a: b:" + dir + "/b"},
			}}
		},
		"connection string": func(dir string) v1alpha1.BackupRemoteSpec {
			return v1alpha1.BackupRemoteSpec{Path: ":local,no_check_updated=true:" + dir}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			repositorytest.Run(t, func(*testing.T) repositorytest.Place {
				return func(t testing.TB) blob.Storage { return open(t, spec(dir), "") }
			})
			if name != "crypt" {
				requirePlainNames(t, dir)
			}
		})
	}
}

// requirePlainNames checks that any file system can hold the names: none that
// differ by case only, no character that some refuse.
func requirePlainNames(t *testing.T, dir string) {
	seen := map[string]bool{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil || strings.HasPrefix(rel, "not") && !strings.Contains(rel, "yet/") || rel == "." {
			return err
		}
		rel = strings.TrimPrefix(rel, "not/there yet/")
		require.Empty(t, strings.Trim(rel, "abcdefghijklmnopqrstuvwxyz0123456789_.-/"), "%q", rel)
		require.NotContains(t, rel, ".tmp.")
		seen[rel] = true
		return nil
	})
	require.NoError(t, err)
	require.NotEmpty(t, seen)
}

// TestWrongConfiguration: one clear error that says what is wrong, names no
// secret, and is about usage.
func TestWrongConfiguration(t *testing.T) {
	const secret = "hunter2hunter2"
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for name, c := range map[string]struct {
		spec v1alpha1.BackupRemoteSpec
		conf string
		want string
	}{
		"no path":        {v1alpha1.BackupRemoteSpec{}, "", "no path"},
		"unknown remote": {v1alpha1.BackupRemoteSpec{Path: "nowhere:x", Config: map[string]map[string]string{"store": {"type": "local"}}}, "", `"nowhere" is not configured; configured: store`},
		"unknown type":   {v1alpha1.BackupRemoteSpec{Path: "store:x", Config: map[string]map[string]string{"store": {"type": "s33", "secret_access_key": secret}}}, "", `no backend "s33"`},
		"no type":        {v1alpha1.BackupRemoteSpec{Path: "store:x", Config: map[string]map[string]string{"store": {"pass": secret}}}, "", "has no type"},
		"unknown inline": {v1alpha1.BackupRemoteSpec{Path: ":s33,secret_access_key=" + secret + ":x"}, "", "s33"},
		"bad conf":       {v1alpha1.BackupRemoteSpec{Path: "store:x"}, "[store]\ntype = local\n" + secret + "\n", "line 3"},
		"sealed conf":    {v1alpha1.BackupRemoteSpec{Path: "store:x"}, "RCLONE_ENCRYPT_V0:\nabc", "encrypted"},
		"a file":         {v1alpha1.BackupRemoteSpec{Path: file}, "", "is a file"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := remote.Open(t.Context(), c.spec, []byte(c.conf))
			var usage *v1alpha1.UsageError
			require.ErrorAs(t, err, &usage)
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), secret)
		})
	}
}

// TestErrorsHoldNoSecrets: whatever a backend says, in whatever form it has
// the secret.
func TestErrorsHoldNoSecrets(t *testing.T) {
	const secret = "a-secret-that-must-not-show"
	for name, spec := range map[string]v1alpha1.BackupRemoteSpec{
		"webdav": {Path: "store:x", Config: map[string]map[string]string{"store": {"type": "webdav", "url": "http://user:" + secret + "@127.0.0.1:1/", "pass": obscure.MustObscure(secret), "bearer_token": secret}}},
		"inline": {Path: `:webdav,url="http://127.0.0.1:1/",bearer_token="` + secret + `":x`},
		"crypt":  {Path: "vault:x", Config: map[string]map[string]string{"vault": {"type": "crypt", "remote": "disk:" + t.TempDir(), "password": secret}, "disk": {"type": "local"}}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			st, err := remote.Open(ctx, spec, nil)
			if err == nil {
				require.NotContains(t, st.DisplayName(), secret)
				_, err = st.GetMetadata(ctx, "anything")
			}
			require.Error(t, err)
			for e := err; e != nil; e = errors.Unwrap(e) {
				require.NotContains(t, e.Error(), secret)
			}
			require.NotContains(t, err.Error(), "open1-")
		})
	}
}

// Two remotes of one name do not see each other, and neither leaves anything
// behind.
func TestRemotesOfOneName(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(os.Getenv("HOME"), "config"))
	put := func(st blob.Storage, text string) {
		require.NoError(t, st.PutBlob(t.Context(), "name", bytesOf(text), blob.PutOptions{}))
	}
	get := func(st blob.Storage) string {
		var b memory
		require.NoError(t, st.GetBlob(t.Context(), "name", 0, -1, &b))
		return b.String()
	}
	a := open(t, encrypted(t.TempDir()), "")
	b := open(t, v1alpha1.BackupRemoteSpec{Path: "vault:kubernetes/prod"}, "[vault]\ntype = alias\nremote = "+t.TempDir()+"\n")
	put(a, "first")
	put(b, "second")
	require.Equal(t, "first", get(a))
	require.Equal(t, "second", get(b))
	require.NoError(t, a.Close(t.Context()))
	require.NoError(t, a.Close(t.Context()))
	require.Equal(t, "second", get(b))
	left, err := os.ReadDir(os.Getenv("HOME"))
	require.NoError(t, err)
	require.Empty(t, left)
}

// TestLookingWritesNothing: an empty remote stays empty until the first blob,
// and then says how it is laid out.
func TestLookingWritesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	st := open(t, v1alpha1.BackupRemoteSpec{Path: dir}, "")
	ctx := t.Context()
	var b memory
	require.ErrorIs(t, st.GetBlob(ctx, "kopia.repository", 0, -1, &b), blob.ErrBlobNotFound)
	_, err := st.GetMetadata(ctx, "kopia.repository")
	require.ErrorIs(t, err, blob.ErrBlobNotFound)
	require.NoError(t, st.ListBlobs(ctx, "", func(blob.Metadata) error { return nil }))
	require.NoDirExists(t, dir)
	require.NoError(t, st.PutBlob(ctx, "first", bytesOf("a"), blob.PutOptions{}))
	layout, err := os.ReadFile(filepath.Join(dir, ".shards"))
	require.NoError(t, err)
	require.Contains(t, string(layout), "maxNonShardedLength")
	require.NoError(t, st.PutBlob(ctx, "second", bytesOf("a"), blob.PutOptions{}))
}

// TestDamagedLayout: the description of the layout says what is so anyway, so
// nothing depends on it.
func TestDamagedLayout(t *testing.T) {
	const old, added = blob.ID("p0123456789012345678901234567"), blob.ID("p9876543210987654321098765432")
	for name, damage := range map[string]string{"empty": "", "cut": `{"default":[1,`, "garbage": "\x00\xff\x12"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			spec := v1alpha1.BackupRemoteSpec{Path: dir}
			require.NoError(t, open(t, spec, "").PutBlob(t.Context(), old, bytesOf("kept"), blob.PutOptions{}))
			layout := filepath.Join(dir, ".shards")
			require.NoError(t, os.WriteFile(layout, []byte(damage), 0o600))
			st := open(t, spec, "")
			var b memory
			require.NoError(t, st.GetBlob(t.Context(), old, 0, -1, &b))
			require.Equal(t, "kept", b.String())
			require.NoError(t, st.PutBlob(t.Context(), added, bytesOf("new"), blob.PutOptions{}))
			left, err := os.ReadFile(layout)
			require.NoError(t, err)
			require.Equal(t, damage, string(left), "no file is written over")
		})
	}
}

// TestStorage is what kopia asks of a storage.
func TestStorage(t *testing.T) {
	dir := t.TempDir()
	st := open(t, v1alpha1.BackupRemoteSpec{Path: dir}, "")
	ctx := t.Context()
	var b memory
	require.ErrorIs(t, st.GetBlob(ctx, "p0123456789", 0, -1, &b), blob.ErrBlobNotFound)
	_, err := st.GetMetadata(ctx, "p0123456789")
	require.ErrorIs(t, err, blob.ErrBlobNotFound)
	require.NoError(t, st.DeleteBlob(ctx, "p0123456789"))

	long := blob.ID("p" + strings.Repeat("0123456789abcdef", 2))
	for _, id := range []blob.ID{"short", long} {
		var at time.Time
		require.NoError(t, st.PutBlob(ctx, id, bytesOf("0123456789"), blob.PutOptions{GetModTime: &at}))
		require.WithinDuration(t, time.Now(), at, time.Minute)
		require.NoError(t, st.GetBlob(ctx, id, 3, 4, &b))
		require.Equal(t, "3456", b.String())
		require.NoError(t, st.GetBlob(ctx, id, 0, 0, &b))
		require.Empty(t, b.String())
		require.ErrorIs(t, st.GetBlob(ctx, id, 8, 4, &b), blob.ErrInvalidRange)
		require.ErrorIs(t, st.GetBlob(ctx, id, -1, 4, &b), blob.ErrInvalidRange)
		require.NoError(t, st.PutBlob(ctx, id, bytesOf("again"), blob.PutOptions{}))
		require.NoError(t, st.GetBlob(ctx, id, 0, -1, &b))
		require.Equal(t, "again", b.String())
		m, err := st.GetMetadata(ctx, id)
		require.NoError(t, err)
		require.EqualValues(t, 5, m.Length)
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "torn.f.tmp.0011"), []byte("half"), 0o600))
	all, err := blob.ListAllBlobs(ctx, st, "")
	require.NoError(t, err)
	require.Len(t, all, 2)
	all, err = blob.ListAllBlobs(ctx, st, "p01")
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.Equal(t, long, all[0].BlobID)
	require.ErrorIs(t, st.PutBlob(ctx, "x", bytesOf(""), blob.PutOptions{DoNotRecreate: true}), blob.ErrUnsupportedPutBlobOption)
	require.NoError(t, st.DeleteBlob(ctx, long))
	require.ErrorIs(t, st.GetBlob(ctx, long, 0, -1, &b), blob.ErrBlobNotFound)

	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	require.ErrorIs(t, st.PutBlob(cancelled, "late", bytesOf("x"), blob.PutOptions{}), context.Canceled)
}

// TestClockThatIsOff: a server that refuses requests for their time is asked
// again; if it goes on, the error says by how much the clock is off.
func TestClockThatIsOff(t *testing.T) {
	for name, c := range map[string]struct {
		refusals int
		off      time.Duration
		want     string
	}{
		"once":   {1, 45 * time.Minute, ""},
		"ahead":  {1000, -45 * time.Minute, `clock of this machine is 4[45]m\d+s ahead of that of the remote`},
		"behind": {1000, 20 * time.Minute, `clock of this machine is (19|20)m\d+s behind that of the remote`},
		"right":  {1000, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var left atomic.Int64
			left.Store(int64(c.refusals))
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Date", time.Now().Add(c.off).UTC().Format(http.TimeFormat))
				if left.Add(-1) >= 0 {
					w.WriteHeader(http.StatusForbidden)
					io.WriteString(w, `<Error><Code>RequestTimeTooSkewed</Code><Message>too different</Message></Error>`)
					return
				}
				w.WriteHeader(http.StatusNotFound)
			}))
			defer server.Close()
			st := open(t, v1alpha1.BackupRemoteSpec{Path: "store:bucket/x", Config: map[string]map[string]string{"store": {
				"type": "s3", "provider": "Other", "endpoint": server.URL, "access_key_id": "id", "secret_access_key": "secret-of-the-store",
			}}}, "")
			var b memory
			err := st.GetBlob(t.Context(), "kopia.repository", 0, -1, &b)
			if c.refusals == 1 {
				require.ErrorIs(t, err, blob.ErrBlobNotFound)
				return
			}
			require.Error(t, err)
			require.NotErrorIs(t, err, blob.ErrBlobNotFound)
			if c.want == "" {
				require.NotContains(t, err.Error(), "clock")
			} else {
				require.Regexp(t, c.want, err.Error())
			}
		})
	}
}
