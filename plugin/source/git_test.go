package source

import (
	"bytes"
	"errors"
	"fmt"
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

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// runGit runs the git program, which the tests use to make repositories; the
// package itself never does.
func runGit(t *testing.T, folder string, args ...string) string {
	t.Helper()
	command := exec.Command("git", args...)
	command.Dir = folder
	command.Env = append(os.Environ(),
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.org",
		"GIT_AUTHOR_DATE=2031-01-01T00:00:00Z", "GIT_COMMITTER_DATE=2031-01-01T00:00:00Z")
	var stderr bytes.Buffer
	command.Stderr = &stderr
	out, err := command.Output()
	require.NoError(t, err, "git %v: %s", args, stderr.String())
	return strings.TrimSpace(string(out))
}

// history is a repository in which each point holds a policy of its own name:
// one, then the tags v1 (annotated) and light, then two, then three on the
// branch side/work, then main, which is checked out.
type history struct {
	folder  string
	commits map[string]string // by policy name
}

func newHistory(t *testing.T) history {
	t.Helper()
	h := history{folder: t.TempDir(), commits: map[string]string{}}
	runGit(t, h.folder, "init", "-q", "-b", "main")
	commit := func(name string) {
		write(t, h.folder, map[string]string{"policies/p.yaml": policyText(name), "policies/r.yaml": remoteText("r"), "notes/x.txt": name, "bad/a.yaml": "a: 1\n"})
		runGit(t, h.folder, "add", ".")
		runGit(t, h.folder, "commit", "-q", "-m", name)
		h.commits[name] = runGit(t, h.folder, "rev-parse", "HEAD")
	}
	commit("one")
	runGit(t, h.folder, "tag", "-a", "-m", "first", "v1")
	runGit(t, h.folder, "tag", "-a", "-m", "a tag of a tag", "v1-again", "v1")
	runGit(t, h.folder, "tag", "light")
	runGit(t, h.folder, "tag", "v1.2+build.7")
	commit("two")
	runGit(t, h.folder, "checkout", "-q", "-b", "side/work")
	commit("three")
	runGit(t, h.folder, "checkout", "-q", "main")
	commit("main")
	runGit(t, h.folder, "branch", "both")
	runGit(t, h.folder, "tag", "both", "v1")
	require.NoError(t, os.Symlink("p.yaml", filepath.Join(h.folder, "policies", "linked.txt")))
	return h
}

// refs are the spellings of points in a history, and the policy there.
func (h history) refs() map[string]string {
	return map[string]string{
		"": "main", "main": "main", "refs/heads/main": "main", "HEAD": "main", "side/work": "three", "side%2Fwork": "three",
		"v1": "one", "v1-again": "one", "light": "one", "refs/tags/light": "one", "v1.2+build.7": "one", "refs/heads/both": "main", "refs/tags/both": "one",
		h.commits["one"]: "one", h.commits["two"]: "two", h.commits["three"]: "three", strings.ToUpper(h.commits["two"]): "two",
		h.commits["two"][:9]: "two", h.commits["three"][:12]: "three", h.commits["one"][:7]: "one",
	}
}

// serveHTTP is git's own smart HTTP server, behind a password.
func serveHTTP(t *testing.T, root, user, password string) *url.URL {
	t.Helper()
	backend := filepath.Join(runGit(t, root, "--exec-path"), "git-http-backend")
	handler := &cgi.Handler{Path: backend, Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=" + user}, Stderr: io.Discard}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	u, err := url.Parse(server.URL)
	require.NoError(t, err)
	return u
}

func bareCopy(t *testing.T, h history) string {
	t.Helper()
	root := t.TempDir()
	runGit(t, root, "clone", "-q", "--bare", "--no-local", h.folder, filepath.Join(root, "r.git"))
	return root
}

// TestEveryRefOverEveryTransport reads each point of a history, in each of its
// spellings, from the work tree, a bare repository, over smart HTTP and over
// SSH, and wants the same documents and commit from all.
func TestEveryRefOverEveryTransport(t *testing.T) {
	h := newHistory(t)
	root := bareCopy(t, h)
	const password = "hu/sh@:p"
	web := serveHTTP(t, root, "robot", password)
	ssh := serveSSH(t, root)
	bases := map[string]struct{ address, shown string }{
		"work tree":    {h.folder, "file://" + h.folder},
		"bare":         {root + "/r.git", "file://" + root + "/r.git"},
		"file URL":     {"file://" + root + "/r.git", "file://" + root + "/r.git"},
		"smart HTTP":   {"http://robot:" + url.QueryEscape(password) + "@" + web.Host + "/r.git", "http://" + web.Host + "/r.git"},
		"SSH":          {"ssh://git@" + ssh + "/r.git", "ssh://git@" + ssh + "/r.git"},
		"SSH password": {"ssh://git:hush-ssh@" + ssh + "/r.git", "ssh://git@" + ssh + "/r.git"},
	}
	for name, base := range bases {
		t.Run(name, func(t *testing.T) {
			for ref, want := range h.refs() {
				query := "?ref=" + ref
				if ref == "" {
					query = ""
				}
				l, err := Load(ctx, Request{Files: []string{"git::" + base.address + "//policies/p.yaml" + query}})
				require.NoError(t, err, ref)
				require.Equal(t, want, policyNames(l), ref)
				p := l.Provenance
				require.Equal(t, h.commits[want], p.Commit, ref)
				require.Equal(t, base.shown, p.URL)
				require.Equal(t, "policies/p.yaml", p.Path)
				require.False(t, p.Dirty)
				shownRef, err := url.PathUnescape(ref)
				require.NoError(t, err)
				if ref == "" {
					shownRef = "main"
				}
				require.Equal(t, shownRef, p.Ref)
				require.NotContains(t, fmt.Sprint(p, l.Documents.Policies[0].At("")), "hu/sh")
				require.NotContains(t, fmt.Sprint(p, l.Documents.Policies[0].At("")), "hush")
			}
		})
		t.Run(name+" folder", func(t *testing.T) {
			l, err := Load(ctx, Request{Files: []string{"git::" + base.address + "//policies?ref=v1"}})
			require.NoError(t, err)
			require.Equal(t, "one", policyNames(l))
			require.Len(t, l.Documents.Remotes, 1)
			require.Equal(t, "policies/p.yaml", l.Provenance.Path)
		})
		for ref, wants := range map[string][]string{
			"v11":                   {`there is no branch, tag or commit "v11" in ` + base.shown, `did you mean "v1"?`},
			"side/wrok":             {`did you mean "side/work"?`},
			"nowhere":               {"; there are both, "},
			"0000000":               {`there is no branch, tag or commit "0000000"`},
			strings.Repeat("0", 40): {"there is no branch, tag or commit"},
			"both":                  {`"both" is both a branch and a tag`, "write ?ref=refs/heads/both or ?ref=refs/tags/both"},
			"refs/heads/none":       {`there is no branch, tag or commit "refs/heads/none"`},
			"main~1":                {`there is no branch, tag or commit "main~1"`},
		} {
			t.Run(name+" "+ref, func(t *testing.T) {
				_, err := Load(ctx, Request{Files: []string{"git::" + base.address + "//policies?ref=" + ref}})
				require.ErrorAs(t, err, new(*v1alpha1.UsageError))
				for _, want := range wants {
					require.ErrorContains(t, err, want)
				}
				require.NotContains(t, err.Error(), "\n", "one error")
				require.NotContains(t, err.Error(), "hu")
			})
		}
		for at, want := range map[string]string{
			"//policies/q.yaml?ref=v1": `there is no policies/q.yaml at commit ` + h.commits["one"][:12] + `; did you mean "p.yaml"?`,
			"//polcies?ref=v1":         `there is no polcies at commit ` + h.commits["one"][:12] + `; did you mean "policies"?`,
			"//notes?ref=v1":           "holds no .yaml, .yml or .json file",
			"//bad?ref=v1":             "//bad/a.yaml?ref=v1:1:1: apiVersion: is missing",
			"//../etc?ref=v1":          "the path leads out of the repository",
			"//policies?rev=v1":        "a Git source takes ?ref=, not ?rev=",
		} {
			t.Run(name+" "+at, func(t *testing.T) {
				_, err := Load(ctx, Request{Files: []string{"git::" + base.address + at}})
				require.ErrorContains(t, err, want)
				require.ErrorAs(t, err, new(*v1alpha1.UsageError))
				require.NotContains(t, err.Error(), "hu/sh")
				require.NotContains(t, err.Error(), "hush")
				require.NotContains(t, err.Error(), url.QueryEscape(password))
			})
		}
	}
}

func TestUnreachableRepositories(t *testing.T) {
	root := bareCopy(t, newHistory(t))
	web := serveHTTP(t, root, "robot", "right")
	empty := t.TempDir()
	runGit(t, empty, "init", "-q", "--bare", "r.git")
	for _, c := range []struct {
		name, source, want string
		usage              bool
	}{
		{"wrong password", "git::http://robot:hush-hush@" + web.Host + "/r.git", "put a user and password or a token into the URL", false},
		{"no password", "git::http://" + web.Host + "/r.git", "put a user and password or a token into the URL", false},
		{"token", "git::http://hush-token@" + web.Host + "/r.git", "authentication required", false},
		{"no such repository", "git::http://robot:right@" + web.Host + "/hush.git", "read Git repository http://" + web.Host, false},
		{"nobody listens", "git::http://robot:hush-hush@127.0.0.1:1/r.git", "connection refused", false},
		{"not a repository", "git::" + t.TempDir(), "is not a Git repository", true},
		{"folder inside a repository", "git::" + root, "is not a Git repository", true},
		{"empty local repository", "git::" + empty + "/r.git", "has no default branch", true},
		{"no address", "git::", "names no repository", true},
		{"other scheme", "git::ftp://u:hush-hush@example.org/r", `not over "ftp"`, true},
		{"unescaped password", "git::https://u:hush/hush@example.org/r", "is not a URL; characters like @ : / in a password", true},
		{"bad escape", "git::https://u:hush%zz@example.org/r", "is not a URL", true},
		{"token in the query", "git::https://example.org/r?access_token=hush-hush", "a Git source takes ?ref=, not ?access_token=", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Load(ctx, Request{Files: []string{c.source}})
			require.ErrorContains(t, err, c.want)
			if c.name != "no such repository" {
				require.NotContains(t, err.Error(), "hush")
			}
			require.Equal(t, c.usage, errors.As(err, new(*v1alpha1.UsageError)))
		})
	}
}

func TestParseGit(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	for raw, want := range map[string]gitSource{
		"git::https://u:p@h/o/r.git//a/b.yaml?ref=v1": {url: "https://h/o/r.git", path: "a/b.yaml", ref: "v1"},
		"git::https://h/o/r.git?ref=a%2Fb":            {url: "https://h/o/r.git", path: ".", ref: "a/b"},
		"git::https://h:8443/r//":                     {url: "https://h:8443/r", path: "."},
		"git::ssh://git@h:2222/r//x/":                 {url: "ssh://git@h:2222/r", path: "x"},
		"git::git@h:o/r.git//x?ref=1":                 {url: "git@h:o/r.git", path: "x", ref: "1"},
		"git::h.example.org:o/r":                      {url: "h.example.org:o/r", path: "."},
		"git::file:///srv/a%20b//x":                   {url: "file:///srv/a%20b", local: "/srv/a b", path: "x"},
		"git::/srv/r//x/../y":                         {url: "file:///srv/r", local: "/srv/r", path: "y"},
	} {
		s, err := parseGit(raw)
		require.NoError(t, err, raw)
		got := gitSource{url: s.url, local: s.local, path: s.path, ref: s.ref}
		require.Equal(t, want, got, raw)
	}
	relative, err := parseGit("git::.//x")
	require.NoError(t, err)
	require.Equal(t, ".", relative.local)
	folder, err := os.Getwd()
	require.NoError(t, err)
	require.Equal(t, "file://"+folder, relative.url)
}

func TestLinksInTheTree(t *testing.T) {
	h := newHistory(t)
	link := func(target, name string) { require.NoError(t, os.Symlink(target, filepath.Join(h.folder, name))) }
	link("p.yaml", "policies/linked.yaml")
	link("../policies/p.yaml", "notes/up.yaml")
	link("../../../../etc/passwd", "notes/out.yaml")
	link("/policies/p.yaml", "notes/root.yaml")
	link("round.yaml", "notes/round.yaml")
	runGit(t, h.folder, "add", ".")
	runGit(t, h.folder, "commit", "-q", "-m", "links")
	l, err := Load(ctx, Request{Files: []string{"git::" + h.folder + "//notes/up.yaml"}})
	require.NoError(t, err)
	require.Equal(t, "main", policyNames(l))
	_, err = Load(ctx, Request{Files: []string{"git::" + h.folder + "//notes/out.yaml"}})
	require.ErrorContains(t, err, "leads out of the repository")
	_, err = Load(ctx, Request{Files: []string{"git::" + h.folder + "//notes/root.yaml"}})
	require.ErrorContains(t, err, "leads out of the repository")
	_, err = Load(ctx, Request{Files: []string{"git::" + h.folder + "//notes/round.yaml"}})
	require.ErrorContains(t, err, "a symbolic link in a circle")
}

func TestALinkedWorktreeIsARepository(t *testing.T) {
	h := newHistory(t)
	linked := filepath.Join(t.TempDir(), "w")
	runGit(t, h.folder, "worktree", "add", "-q", linked, "side/work")
	l, err := Load(ctx, Request{Files: []string{"git::" + linked + "//policies/p.yaml"}})
	require.NoError(t, err)
	require.Equal(t, "three", policyNames(l))
	l, err = Load(ctx, Request{Files: []string{linked + "/policies/p.yaml"}})
	require.NoError(t, err)
	require.Equal(t, h.commits["three"], l.Provenance.Commit)
	require.Equal(t, "side/work", l.Provenance.Ref)
}

func TestPackedRepository(t *testing.T) {
	h := newHistory(t)
	runGit(t, h.folder, "gc", "-q", "--aggressive", "--prune=now")
	for ref, want := range h.refs() {
		l, err := Load(ctx, Request{Files: []string{"git::" + h.folder + "//policies/p.yaml?ref=" + ref}})
		require.NoError(t, err, ref)
		require.Equal(t, want, policyNames(l), ref)
	}
}

// TestFilesKnowTheirCommit checks what is recorded of plain files that happen
// to lie in a work tree.
func TestFilesKnowTheirCommit(t *testing.T) {
	h := newHistory(t)
	runGit(t, h.folder, "remote", "add", "origin", "https://robot:hush@example.org/o/r.git?token=hush")
	file, folder := filepath.Join(h.folder, "policies/p.yaml"), filepath.Join(h.folder, "policies")
	provenance := func(source string) v1alpha1.Provenance {
		l, err := Load(ctx, Request{Files: []string{source}})
		require.NoError(t, err)
		return l.Provenance
	}
	clean := v1alpha1.Provenance{Source: file, URL: "https://example.org/o/r.git?token=***", Ref: "main", Commit: h.commits["main"], Path: "policies/p.yaml"}
	require.Equal(t, clean, provenance(file))
	require.False(t, provenance(folder).Dirty)

	write(t, h.folder, map[string]string{"policies/r.yaml": remoteText("changed")})
	require.False(t, provenance(file).Dirty, "another file changed")
	require.True(t, provenance(folder).Dirty)
	runGit(t, h.folder, "checkout", "-q", ".")

	write(t, h.folder, map[string]string{"policies/new.yaml": policyText("new")})
	require.True(t, provenance(filepath.Join(h.folder, "policies/new.yaml")).Dirty)
	require.True(t, provenance(folder).Dirty)
	require.NoError(t, os.Remove(filepath.Join(h.folder, "policies/new.yaml")))

	require.NoError(t, os.Remove(filepath.Join(h.folder, "policies/r.yaml")))
	require.True(t, provenance(folder).Dirty, "a file was removed")
	runGit(t, h.folder, "checkout", "-q", ".")

	write(t, h.folder, map[string]string{"policies/p.yaml": strings.ReplaceAll(policyText("main"), "\n", "\r\n")})
	require.False(t, provenance(file).Dirty, "only the line ends differ")
	write(t, h.folder, map[string]string{"policies/p.yaml": policyText("edited")})
	require.True(t, provenance(file).Dirty)
	runGit(t, h.folder, "checkout", "-q", ".")

	runGit(t, h.folder, "checkout", "-q", h.commits["one"])
	require.Equal(t, h.commits["one"], provenance(file).Commit)
	require.Empty(t, provenance(file).Ref)

	linked := filepath.Join(t.TempDir(), "link.yaml")
	require.NoError(t, os.Symlink(file, linked))
	require.Equal(t, h.commits["one"], provenance(file).Commit)

	require.NoError(t, os.WriteFile(filepath.Join(h.folder, ".git/HEAD"), []byte("ref: refs/heads/gone\n"), 0o644))
	require.Equal(t, v1alpha1.Provenance{Source: file}, provenance(file), "a broken repository keeps nobody from reading")
	require.NoError(t, os.WriteFile(filepath.Join(h.folder, ".git/config"), []byte("[[["), 0o644))
	require.Equal(t, v1alpha1.Provenance{Source: file}, provenance(file))
}

func TestKustomizationsKnowTheirCommit(t *testing.T) {
	h := newHistory(t)
	write(t, h.folder, map[string]string{"overlay/kustomization.yaml": "resources: [../base]\n", "base/kustomization.yaml": "resources: [p.yaml]\n", "base/p.yaml": policyText("built")})
	runGit(t, h.folder, "add", ".")
	runGit(t, h.folder, "commit", "-q", "-m", "kustomize")
	load := func() v1alpha1.Provenance {
		l, err := Load(ctx, Request{Kustomize: filepath.Join(h.folder, "overlay")})
		require.NoError(t, err)
		require.Equal(t, "built", policyNames(l))
		return l.Provenance
	}
	got := load()
	require.Equal(t, runGit(t, h.folder, "rev-parse", "HEAD"), got.Commit)
	require.Equal(t, "overlay", got.Path)
	require.False(t, got.Dirty)
	write(t, h.folder, map[string]string{"base/p.yaml": policyText("built") + "# changed\n"})
	require.True(t, load().Dirty, "the base is outside of the folder that was named")
}
