package e2e

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/plugin/remote"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const gitPassword = "hush/hush@4:all"

// git runs the real git in a folder.
func git(t *testing.T, folder string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.net", "-c", "init.defaultBranch=main", "-c", "commit.gpgsign=false"}, args...)...)
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "git %s: %s", strings.Join(args, " "), out)
	return strings.TrimSpace(string(out))
}

// gitServer is git's own smart HTTP server over loopback, behind a password.
func gitServer(t *testing.T, root string) string {
	t.Helper()
	handler := &cgi.Handler{
		Path: filepath.Join(git(t, root, "--exec-path"), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1"}, Stderr: io.Discard,
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "robot" || password != gitPassword {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// TestPolicyInGit plans and runs from a tag of a repository, over file:// and
// smart HTTP: the plan is that of the file, and the record says which commit.
func TestPolicyInGit(t *testing.T) {
	ns := newHarbour(t)
	remoteYAML, folder := local(t)
	// Objects alone: what is tested is where the policy came from.
	tagged := policy(inNamespace(ns, harbourSelect) + "  volumes: [{method: Skip}]\n")
	f := spec(t, tagged, remoteYAML)
	content, err := os.ReadFile(f)
	require.NoError(t, err)

	root := t.TempDir()
	work := filepath.Join(root, "ops")
	require.NoError(t, os.MkdirAll(filepath.Join(work, "backup"), 0o755))
	git(t, work, "init", "-q")
	require.NoError(t, os.WriteFile(filepath.Join(work, "backup", "harbour.yaml"), content, 0o600))
	git(t, work, "add", ".")
	git(t, work, "commit", "-q", "-m", "one")
	git(t, work, "tag", "-a", "v1.4", "-m", "a release")
	commit := git(t, work, "rev-parse", "v1.4^{commit}")
	// The branch has moved on to something that is no policy at all.
	require.NoError(t, os.WriteFile(filepath.Join(work, "backup", "harbour.yaml"), []byte("broken: [\n"), 0o600))
	git(t, work, "commit", "-q", "-am", "two")
	git(t, root, "clone", "-q", "--bare", work, filepath.Join(root, "ops.git"))
	host := gitServer(t, root)

	want, r := document(t, "plan", "-f", f)
	require.Equal(t, 0, r.code, r.stderr)
	secret := url.QueryEscape(gitPassword)
	quiet := func(t *testing.T, texts ...string) {
		for _, text := range texts {
			for _, s := range []string{gitPassword, secret, url.PathEscape(gitPassword), "hush"} {
				require.NotContains(t, text, s)
			}
		}
	}
	for name, c := range map[string]struct{ source, url string }{
		"file":       {"git::file://" + root + "/ops.git//backup/harbour.yaml?ref=v1.4", "file://" + root + "/ops.git"},
		"smart HTTP": {"git::http://robot:" + secret + "@" + host + "/ops.git//backup/harbour.yaml?ref=v1.4", "http://" + host + "/ops.git"},
		"folder":     {"git::http://robot:" + secret + "@" + host + "/ops.git//backup?ref=v1.4", "http://" + host + "/ops.git"},
	} {
		t.Run(name, func(t *testing.T) {
			got, r := document(t, "plan", "-f", c.source)
			require.Equal(t, 0, r.code, r.stderr)
			require.Equal(t, &v1alpha1.Provenance{Source: got.Source.Source, URL: c.url, Ref: "v1.4", Commit: commit, Path: "backup/harbour.yaml"}, got.Source)
			quiet(t, r.stdout, r.stderr)
			expected, actual := want, got
			expected.Source, actual.Source = nil, nil
			require.Equal(t, expected, actual, "the plan of the file")
			for _, output := range []string{"table", "wide", "yaml"} {
				r := backup(t, "plan", "-f", c.source, "-o", output)
				require.Contains(t, r.stdout, commit)
				quiet(t, r.stdout, r.stderr)
			}

			run, r := document(t, "run", "-f", c.source)
			require.Equal(t, 0, r.code, r.stderr)
			require.Equal(t, commit, run.Source.Commit)
			quiet(t, r.stdout, r.stderr)
			described, r := document(t, "describe", run.Backup, "-f", f)
			require.Equal(t, c.url, described.Source.URL)
			require.Equal(t, commit, described.Source.Commit)
			require.Equal(t, "v1.4", described.Source.Ref)
			quiet(t, r.stdout, r.stderr)
			for _, output := range []string{"text", "wide", "yaml"} {
				r := backup(t, "describe", run.Backup, "-f", f, "-o", output)
				require.Contains(t, r.stdout, commit)
				quiet(t, r.stdout, r.stderr)
			}
			for filter, found := range map[string]bool{
				`commit == "` + commit + `"`:                           true,
				`commit.startsWith("` + commit[:8] + `")`:              true,
				`url == "` + c.url + `" && ref == "v1.4"`:              true,
				`commit == "` + strings.Repeat("0", 40) + `"`:          false,
				`url.contains("robot") || url.contains("` + "@" + `")`: false,
			} {
				r := backup(t, "list", "-f", f, "--filter", filter, "-o", "json")
				require.Equal(t, 0, r.code, r.stderr)
				require.Equal(t, found, strings.Contains(r.stdout, run.Backup), "%s: %s", filter, r.stdout)
				quiet(t, r.stdout)
			}
		})
	}

	t.Run("the record", func(t *testing.T) {
		ctx := context.Background()
		storage, err := remote.Open(ctx, v1alpha1.BackupRemoteSpec{Path: folder}, nil)
		require.NoError(t, err)
		repo, err := repository.Open(ctx, storage, password, repository.OpenOptions{ReadOnly: true})
		require.NoError(t, err)
		defer repo.Close(ctx)
		n := 0
		require.NoError(t, repo.Records(ctx, func(r repository.Record) error {
			n++
			raw, err := json.Marshal(r)
			require.NoError(t, err)
			quiet(t, string(raw))
			document, err := repo.Document(ctx, r)
			require.NoError(t, err)
			raw, err = json.Marshal(document)
			require.NoError(t, err)
			quiet(t, string(raw))
			return nil
		}))
		require.Equal(t, 3, n)
	})

	t.Run("what is wrong", func(t *testing.T) {
		before := listing(t, folder)
		for source, c := range map[string]struct {
			code  int
			wants []string
		}{
			"git::http://robot:" + secret + "@" + host + "/ops.git//backup?ref=v1.5":                {2, []string{`"v1.5"`, `did you mean "v1.4"?`}},
			"git::file://" + root + "/ops.git//backup?ref=v1.5":                                     {2, []string{`"v1.5"`, `did you mean "v1.4"?`}},
			"git::http://robot:" + secret + "@" + host + "/ops.git//bakcup?ref=v1.4":                {2, []string{"bakcup", `did you mean "backup"?`}},
			"git::http://robot:" + secret + "@" + host + "/ops.git//backup/harbour.yaml":            {2, []string{"backup/harbour.yaml"}},
			"git::http://robot:" + url.QueryEscape("hush, wrong") + "@" + host + "/ops.git//backup": {1, []string{"http://" + host + "/ops.git", "password"}},
			"git::http://robot:" + secret + "@" + host + "/nothing.git//backup":                     {1, []string{"http://" + host + "/nothing.git"}},
		} {
			for _, command := range []string{"plan", "run"} {
				d, r := document(t, command, "-f", source)
				require.Equal(t, c.code, r.code, r.stderr)
				oneError(t, r, c.wants...)
				quiet(t, r.stdout, r.stderr, d.Error)
			}
		}
		require.Equal(t, before, listing(t, folder))
	})
}
