package v1alpha1

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func decodeAll(t *testing.T, texts ...string) *Documents {
	t.Helper()
	d, err := Decode("f.yaml", []byte(strings.Join(texts, "\n---\n")))
	require.NoError(t, err)
	return d
}

func policy(name, namespace, remote string) string {
	return fmt.Sprintf("apiVersion: kubectl-backup.io/v1alpha1\nkind: BackupPolicy\nmetadata: {name: %s, namespace: %s}\nspec:\n  select: [{}]\n  remote:%s", name, namespace, remote)
}

func remote(name, namespace string) string {
	return fmt.Sprintf("apiVersion: kubectl-backup.io/v1alpha1\nkind: BackupRemote\nmetadata: {name: %s, namespace: %s}\nspec: {path: /x/%s}", name, namespace, name)
}

func TestResolve(t *testing.T) {
	named := func(n string) string { return " {name: " + n + "}" }
	for _, c := range []struct {
		name, ask   string
		texts       []string
		wantPolicy  string
		wantRemote  string
		wantFailure string
	}{
		{"the only one", "", []string{policy("a", "", named("m")), remote("m", ""), remote("n", "")}, "a", "m", ""},
		{"no remote named", "", []string{policy("a", "", ""), remote("m", "")}, "a", "", ""},
		{"by name", "b", []string{policy("a", "", ""), policy("b", "", "")}, "b", "", ""},
		{"by namespace and name", "y/a", []string{policy("a", "x", ""), policy("a", "y", "")}, "a", "", ""},
		{"remote of the same namespace first", "", []string{policy("a", "x", named("m")), remote("m", ""), remote("m", "x")}, "a", "m", ""},
		{"none", "", []string{remote("m", "")}, "", "", "no BackupPolicy among the documents"},
		{"several", "", []string{policy("a", "", ""), policy("b", "", "")}, "", "", "several policies to choose from: a (f.yaml:1:1), b (f.yaml:8:1); name one with --policy"},
		{"same name in two namespaces", "a", []string{policy("a", "x", ""), policy("a", "y", "")}, "", "", "several policies to choose from: x/a"},
		{"misspelt policy", "orchrad", []string{policy("orchard", "", ""), policy("b", "", "")}, "", "", `no BackupPolicy named "orchrad" among the documents; did you mean "orchard"?`},
		{"misspelt remote", "", []string{policy("a", "", named("mian")), remote("main", "")}, "", "", `f.yaml:6:12: spec.remote.name: no BackupRemote named "mian" among the documents; did you mean "main"?`},
		{"no remotes at all", "", []string{policy("a", "", named("m"))}, "", "", `f.yaml:6:12: spec.remote.name: no BackupRemote among the documents, so "m" names nothing`},
		{"remote of another namespace", "", []string{policy("a", "x", named("m")), remote("m", "y")}, "", "", `the BackupRemote "m" is in another namespace than "x"`},
		{"missing copy", "", []string{policy("a", "", "\n  copies: [{remote: {name: off}}]")}, "", "", `spec.copies[0].remote.name: no BackupRemote among`},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, r, err := decodeAll(t, c.texts...).Resolve(c.ask)
			if c.wantFailure != "" {
				require.ErrorContains(t, err, c.wantFailure)
				require.ErrorAs(t, err, new(*UsageError))
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.wantPolicy, p.Name)
			if c.wantRemote == "" {
				require.Nil(t, r)
				return
			}
			require.Equal(t, c.wantRemote, r.Name)
			require.Equal(t, p.Namespace, r.Namespace)
		})
	}
}

func TestRemoteByName(t *testing.T) {
	d := decodeAll(t, remote("m", "x"), remote("m", "y"), remote("n", ""))
	r, err := d.Remote("y/m")
	require.NoError(t, err)
	require.Equal(t, "y", r.Namespace)
	_, err = d.Remote("m")
	require.ErrorContains(t, err, "several remotes are named")
	_, err = d.Remote("")
	require.ErrorContains(t, err, "several remotes to choose from: x/m")
	r, err = decodeAll(t, remote("n", "")).Remote("")
	require.NoError(t, err)
	require.Equal(t, "n", r.Name)
}

func TestMergeRefusesTheSameNameTwice(t *testing.T) {
	a, err := Decode("a.yaml", []byte(policy("p", "", "")))
	require.NoError(t, err)
	b, err := Decode("b.yaml", []byte(policy("p", "", "")))
	require.NoError(t, err)
	_, err = Merge(a, b)
	require.EqualError(t, err, "b.yaml:3:12: metadata.name: BackupPolicy p is defined twice, the first time at a.yaml:3:12")
}

func TestARemoteIsNeverPrintedWithItsSecrets(t *testing.T) {
	d, err := Decode("full.yaml", full(t))
	require.NoError(t, err)
	r := d.Remotes[0]
	r.Spec.Path = ":s3,secret_access_key='hush:hush',region=x:bucket/dir"
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		for _, value := range []any{r.Spec, &r.Spec, *r, r, d.Remotes[0].Spec.Redacted()} {
			require.NotContains(t, fmt.Sprintf(verb, value), "hush", verb)
		}
	}
	require.Equal(t, ":s3,***:bucket/dir [store type=s3]", r.Spec.String())
	require.Equal(t, "hush-hush", r.Spec.Config["store"]["secret_access_key"], "the spec itself keeps what it needs")
}

func TestRedactPath(t *testing.T) {
	for path, want := range map[string]string{
		"/srv/backups":                                 "/srv/backups",
		"store:bucket/a,b=c:d":                         "store:bucket/a,b=c:d",
		"store,pass=x:bucket":                          "store,***:bucket",
		":sftp,host=h,user=u,pass=x:dir":               ":sftp,***:dir",
		":webdav,url='https://u:p@h/a,b:c',pass=x:dir": ":webdav,***:dir",
		":webdav,url=https://u:p@h/dir":                ":webdav,***",
		`:ftp,pass="a""b:c":dir`:                       ":ftp,***:dir",
		"./a,b":                                        "./a,b",
		"a,b":                                          "a,b",
		"":                                             "",
		"store:":                                       "store:",
	} {
		require.Equal(t, want, RedactPath(path), path)
	}
}

func TestNearest(t *testing.T) {
	names := []string{"labelSelector", "namespaces", "kinds", "name"}
	for word, want := range map[string]string{
		"labelSelctor": "labelSelector", "labelselector": "labelSelector", "lableSelector": "labelSelector",
		"namespace": "namespaces", "nmae": "name", "kind": "kinds", "selector": "", "x": "", "": "",
	} {
		require.Equal(t, want, Nearest(word, names), word)
	}
}
