package source

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

var ctx = context.Background()

func policyText(name string) string {
	return "apiVersion: kubectl-backup.io/v1alpha1\nkind: BackupPolicy\nmetadata: {name: " + name + "}\nspec: {select: [{}]}\n"
}

func remoteText(name string) string {
	return "apiVersion: kubectl-backup.io/v1alpha1\nkind: BackupRemote\nmetadata: {name: " + name + "}\nspec: {path: /x}\n"
}

const foreignText = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n"

func write(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		name = filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, []byte(content), 0o644))
	}
}

func policyNames(l *Loaded) string {
	var names []string
	for _, p := range l.Documents.Policies {
		names = append(names, p.Name)
	}
	return strings.Join(names, " ")
}

func TestFolders(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{
		"b.yaml": policyText("b"), "a/z.yml": policyText("z"), "a-b/c.json": `{"apiVersion":"kubectl-backup.io/v1alpha1","kind":"BackupPolicy","metadata":{"name":"c"},"spec":{"select":[{}]}}`,
		"remote.yaml": remoteText("r") + "---\n" + foreignText, "kustomization.yaml": "resources: [b.yaml]\n", "README.md": "not: [yaml",
		".git/x.yaml": "not: [yaml", ".hidden.yaml": "not: [yaml", "values.yaml.tmpl": "not: [yaml", "empty.yaml": "# nothing\n",
	})
	require.NoError(t, os.Symlink("b.yaml", filepath.Join(root, "broken-link-target")))
	l, err := Load(ctx, Request{Files: []string{root}})
	require.NoError(t, err)
	require.Equal(t, "c z b", policyNames(l), "in the order of their paths")
	require.Len(t, l.Documents.Remotes, 1)
	require.Equal(t, 1, l.Documents.Foreign)
	require.Equal(t, v1alpha1.Provenance{Source: root}, l.Provenance)
}

// TestMountedConfigMap has the links and hidden folders that the kubelet makes.
func TestMountedConfigMap(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{"..2031_01/p.yaml": policyText("p")})
	require.NoError(t, os.Symlink("..2031_01", filepath.Join(root, "..data")))
	require.NoError(t, os.Symlink("..data/p.yaml", filepath.Join(root, "p.yaml")))
	l, err := Load(ctx, Request{Files: []string{root}})
	require.NoError(t, err)
	require.Equal(t, "p", policyNames(l))
}

func TestSeveralSources(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{"p.yaml": policyText("p"), "r.yaml": remoteText("r")})
	l, err := Load(ctx, Request{Files: []string{filepath.Join(root, "r.yaml"), "-", filepath.Join(root, "p.yaml")}, Stdin: strings.NewReader(policyText("q"))})
	require.NoError(t, err)
	require.Equal(t, "q p", policyNames(l))
	require.Equal(t, "-", l.ProvenanceOf(l.Documents.Policies[0]).Source)
	require.Equal(t, filepath.Join(root, "p.yaml"), l.ProvenanceOf(l.Documents.Policies[1]).Source)
}

func TestUnusableSources(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{
		"policy.yaml": policyText("p"), "foreign.yaml": foreignText, "empty/README": "", "bad/a.yaml": "a: 1\n", "bad/b.yaml": policyText("b") + "oops: 1\n",
		"twice/a.yaml": policyText("p"), "twice/b.yaml": policyText("p"),
	})
	at := func(name string) string { return filepath.Join(root, name) }
	for _, c := range []struct {
		name  string
		files []string
		want  []string
	}{
		{"absent", []string{at("polcy.yaml")}, []string{"polcy.yaml does not exist", `did you mean "policy.yaml"?`}},
		{"no documents", []string{at("empty")}, []string{"holds no .yaml, .yml or .json file"}},
		{"only foreign documents", []string{at("foreign.yaml")}, []string{at("foreign.yaml") + ": no BackupPolicy, BackupRemote or RewriteSet in it", "passed over: 1"}},
		{"faults of all files", []string{at("bad")}, []string{at("bad/a.yaml") + ":1:1: apiVersion: is missing", at("bad/b.yaml") + ":5:1: oops: unknown field"}},
		{"same policy twice", []string{at("twice")}, []string{"BackupPolicy p is defined twice, the first time at " + at("twice/a.yaml")}},
		{"same file twice", []string{at("policy.yaml"), at("policy.yaml")}, []string{"is named twice"}},
		{"stdin twice", []string{"-", "-"}, []string{`"-" can be read once only`}},
		{"nothing", nil, []string{"nothing to read; name a file"}},
		{"empty name", []string{""}, []string{"the name of a source is empty"}},
		{"scheme", []string{"s3://bucket/policy.yaml"}, []string{`"s3" is not a scheme`}},
		{"missing git prefix", []string{"ssh://git:hush@example.org/r"}, []string{"use http, https, or git:: in front", "ssh://git@example.org/r"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Load(ctx, Request{Files: c.files, Stdin: strings.NewReader(policyText("x"))})
			for _, want := range c.want {
				require.ErrorContains(t, err, want)
			}
			require.ErrorAs(t, err, new(*v1alpha1.UsageError))
			require.NotContains(t, err.Error(), "hush")
		})
	}
	_, err := Load(ctx, Request{Files: []string{"-"}})
	require.ErrorContains(t, err, "there is no standard input")
}

func TestTooLarge(t *testing.T) {
	_, err := Load(ctx, Request{Files: []string{"-"}, Stdin: strings.NewReader(strings.Repeat("#", maxSize+1))})
	require.ErrorContains(t, err, "more than 16 MiB")
}

func TestWebServer(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		switch {
		case r.URL.Path == "/moved":
			http.Redirect(w, r, "http://127.0.0.1:1/gone?token=hush-token", http.StatusFound)
		case user != "reader" || password != "hu/sh@:word" || r.URL.Query().Get("token") != "hush-token":
			w.WriteHeader(http.StatusUnauthorized)
		default:
			_, _ = w.Write([]byte(policyText("web")))
		}
	}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	l, err := Load(ctx, Request{Files: []string{"http://reader:hu%2Fsh%40%3Aword@" + host + "/p.yaml?token=hush-token&ref=x"}})
	require.NoError(t, err)
	require.Equal(t, "web", policyNames(l))
	require.Equal(t, "http://"+host+"/p.yaml?ref=x&token=***", l.Provenance.URL)
	require.NotContains(t, l.Documents.Policies[0].At("").String(), "hush")

	for _, name := range []string{
		"http://reader:hush-wrong@" + host + "/p.yaml", "http://hush-token@" + host + "/moved", "http://reader:hush@127.0.0.1:1/p.yaml?token=hush-token",
		"http://reader:hush/unescaped@" + host + "/p.yaml", "http://reader:hush%zz@" + host + "/p.yaml", "http://:hush@/p.yaml",
	} {
		_, err := Load(ctx, Request{Files: []string{name}})
		require.Error(t, err, name)
		require.NotContains(t, err.Error(), "hush", name)
	}
}

func TestKustomize(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{
		"base/kustomization.yaml":    "resources: [p.yaml, c.yaml]\n",
		"base/p.yaml":                policyText("p"),
		"base/c.yaml":                foreignText,
		"overlay/kustomization.yaml": "namePrefix: prod-\nresources: [../base]\ncommonAnnotations: {see: 'https://example.org'}\nconfigMapGenerator: [{name: g, literals: ['url=https://example.org']}]\n",
	})
	l, err := Load(ctx, Request{Kustomize: filepath.Join(root, "overlay")})
	require.NoError(t, err)
	require.Equal(t, "prod-p", policyNames(l))
	require.Equal(t, filepath.Join(root, "overlay"), l.Provenance.Source)
}

// TestKustomizeFetchesNothing has a server that must not be asked.
func TestKustomizeFetchesNothing(t *testing.T) {
	asked := false
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	for name, kustomization := range map[string]string{
		"resource":             "resources: ['" + server.URL + "/x.yaml']",
		"with a password":      "resources: ['http://u:hush@" + host + "/x.yaml']",
		"git base":             "resources: ['" + server.URL + "/org/repo//dir?ref=v1']",
		"git over ssh":         "resources: ['git@" + host + ":org/repo']",
		"host without URL":     "resources: ['github.com/org/repo?ref=v1']",
		"bare host":            "resources: ['github.com/org/repo']",
		"go-getter":            "bases: ['git::" + server.URL + "/org/repo']",
		"component":            "components: ['" + server.URL + "/x']",
		"patch":                "patches: [{path: '" + server.URL + "/x.yaml'}]",
		"old patch":            "patchesStrategicMerge: ['" + server.URL + "/x.yaml']",
		"generator":            "generators: ['" + server.URL + "/x.yaml']",
		"transformer":          "transformers: ['" + server.URL + "/x.yaml']",
		"crds":                 "crds: ['" + server.URL + "/x.json']",
		"openapi":              "openapi: {path: '" + server.URL + "/x.json'}",
		"replacement":          "replacements: [{path: '" + server.URL + "/x.yaml'}]",
		"config map":           "configMapGenerator: [{name: g, files: ['k=" + server.URL + "/x']}]",
		"secret":               "secretGenerator: [{name: g, envs: ['" + server.URL + "/x']}]",
		"through a local base": "resources: [base]",
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			write(t, root, map[string]string{"kustomization.yaml": kustomization + "\n", "base/kustomization.yaml": "resources: ['" + server.URL + "/x.yaml']\n"})
			_, err := Load(ctx, Request{Kustomize: root})
			require.ErrorContains(t, err, "would be fetched from a network")
			require.ErrorAs(t, err, new(*v1alpha1.UsageError))
			require.NotContains(t, err.Error(), "hush")
			require.False(t, asked)
		})
	}
	for name, want := range map[string]string{
		"git::https://u:hush@example.org/r": "-k takes a local folder",
		filepath.Join(t.TempDir(), "none"):  "does not exist",
		t.TempDir():                         "unable to find one of 'kustomization.yaml'",
	} {
		_, err := Load(ctx, Request{Kustomize: name})
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "hush")
	}
}
