package remote

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

func clearEnvironment(t *testing.T) (home string) {
	for _, known := range environment {
		for _, name := range append(append([]string(nil), known.values...), known.files...) {
			t.Setenv(name, "")
		}
	}
	home = t.TempDir()
	t.Setenv("HOME", home)
	return home
}

// What a remote needs goes along: itself, what it wraps, the files and
// variables; and nothing of other remotes.
func TestPortable(t *testing.T) {
	home := clearEnvironment(t)
	key := filepath.Join(home, "id")
	require.NoError(t, os.WriteFile(key, []byte("PRIVATE"), 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(home, ".aws"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(home, ".aws", "credentials"), []byte("[default]"), 0o600))
	t.Setenv("AWS_SECRET_ACCESS_KEY", "from-environment")
	t.Setenv("RCLONE_S3_STORAGE_CLASS", "STANDARD_IA")
	t.Setenv("KEYS", home)
	conf := []byte("[other]\ntype = s3\nsecret_access_key = nobody-asked\n[box]\ntype = sftp\nhost = h.example.org\nkey_file = $KEYS/id\n")
	spec := v1alpha1.BackupRemoteSpec{Path: "vault:prod", Config: map[string]map[string]string{
		"vault": {"type": "crypt", "remote": "both:x", "password": "obscured"},
		"both":  {"type": "union", "upstreams": `store:a/b:ro "box:c d"`},
		"store": {"type": "s3", "provider": "Other", "endpoint": "http://127.0.0.1:9000", "env_auth": "true"},
	}, PasswordFrom: &v1alpha1.PasswordSource{Env: "X"}, ConfigSecretRef: &v1alpha1.SecretKeyRef{Name: "n"}, Limits: v1alpha1.RemoteLimits{Bandwidth: "1M"}}
	p, err := MakePortable(spec, conf, "/mounted")
	require.NoError(t, err)
	require.Len(t, p.Spec.Config, 4)
	require.NotContains(t, p.Spec.Config, "other")
	require.Nil(t, p.Spec.ConfigSecretRef)
	require.Nil(t, p.Spec.PasswordFrom)
	require.Equal(t, "1M", p.Spec.Limits.Bandwidth)
	require.Equal(t, "127.0.0.1", p.Loopback)
	for where, content := range map[string]string{
		p.Spec.Config["box"]["key_file"]:             "PRIVATE",
		p.Environment["AWS_SHARED_CREDENTIALS_FILE"]: "[default]",
	} {
		require.Equal(t, "/mounted", filepath.Dir(where))
		require.Equal(t, content, string(p.Files[filepath.Base(where)]))
	}
	require.Equal(t, "from-environment", p.Environment["AWS_SECRET_ACCESS_KEY"])
	require.Equal(t, "STANDARD_IA", p.Environment["RCLONE_S3_STORAGE_CLASS"])
	require.NotContains(t, p.Environment, "GOOGLE_APPLICATION_CREDENTIALS")
	require.Equal(t, "both:x", spec.Config["vault"]["remote"], "the caller's spec is its own")
	require.NotNil(t, spec.PasswordFrom)
}

// What only this machine has is refused, with what it is that it has.
func TestNotPortable(t *testing.T) {
	clearEnvironment(t)
	for name, x := range map[string]struct {
		path string
		conf string
		says string
	}{
		"a folder":                    {"/var/backups", "", "a folder of the machine"},
		"a relative folder":           {"backups/here", "", "a folder of the machine"},
		"a remote of type local":      {"disk:x", "[disk]\ntype = local\n", "a folder of the machine"},
		"a local remote in the path":  {":local:/x", "", "a folder of the machine"},
		"memory":                      {":memory:x", "", "in the memory"},
		"crypt over a folder":         {"v:x", "[v]\ntype = crypt\nremote = /mnt/x\npassword = p\n", "a folder of the machine"},
		"an alias of an alias":        {"a:", "[a]\ntype = alias\nremote = b:\n[b]\ntype = alias\nremote = /x\n", "a folder of the machine"},
		"a union with one folder":     {"u:", "[u]\ntype = union\nupstreams = s:x /mnt/y:nc\n[s]\ntype = s3\n", "machine"},
		"combine":                     {"u:", "[u]\ntype = combine\nupstreams = one=s:x two=/mnt/y\n[s]\ntype = s3\n", "a folder of the machine"},
		"an agent":                    {"s:", "[s]\ntype = sftp\nhost = h\nkey_use_agent = true\nkey_file = /x\n", "ssh agent"},
		"an agent by default":         {"s:", "[s]\ntype = sftp\nhost = h\n", "ssh agent"},
		"a program":                   {"s:", "[s]\ntype = sftp\nssh = ssh -v host\n", "by a program"},
		"a token program":             {"s:", "[s]\ntype = webdav\nurl = https://x\nbearer_token_command = get\n", "from a program"},
		"a file that is not there":    {"s:", "[s]\ntype = sftp\nhost = h\nkey_file = /nowhere/key\n", "/nowhere/key"},
		"a file in the path":          {":sftp,host=h,key_file=/etc/hostname:x", "", "in its path"},
		"a remote that is not there":  {"s:x", "", "not configured"},
		"a wrapped one that is not":   {"v:x", "[v]\ntype = crypt\nremote = gone:x\n", "not configured"},
		"the identity of the machine": {"z:x", "[z]\ntype = azureblob\nuse_msi = true\n", "identity from the machine"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := MakePortable(v1alpha1.BackupRemoteSpec{Path: x.path}, []byte(x.conf), "/mounted")
			require.ErrorContains(t, err, x.says)
		})
	}
}

// A wrapped remote that refers back to itself must not be followed for ever.
func TestPortableCircle(t *testing.T) {
	clearEnvironment(t)
	_, err := MakePortable(v1alpha1.BackupRemoteSpec{Path: "a:"}, []byte("[a]\ntype = alias\nremote = b:\n[b]\ntype = alias\nremote = a:\n"), "/mounted")
	require.NoError(t, err, "opening it says what is wrong")
}
