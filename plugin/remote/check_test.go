package remote

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

func TestCheckOpensNothing(t *testing.T) {
	config := map[string]map[string]string{
		"store":  {"type": "s3", "secret_access_key": "hush-hush"},
		"sealed": {"type": "crypt", "remote": "store:x", "password": "hush-hush"},
		"broken": {"type": "crypt", "remote": "stroe:x", "password": "hush-hush"},
		"circle": {"type": "crypt", "remote": "circle:x"},
	}
	for path, want := range map[string]string{
		"store:bucket": "", "store,region=x:bucket": "", "sealed:": "", "circle:": "", "/srv/backups": "", ":s3,secret_access_key=hush-hush:b": "", "store": "",
		"stroe:bucket":                     `spec.path: remote "stroe" is not configured; configured: broken, circle, sealed, store; add it under spec.config`,
		"broken:":                          `spec.config.broken: remote "stroe" is not configured`,
		":s4,secret_access_key=hush-hush:": `spec.path: rclone has no backend "s4"`,
		":crypt,remote='gone:x':":          `spec.path: remote "gone" is not configured`,
	} {
		err := Check(v1alpha1.BackupRemoteSpec{Path: path, Config: config})
		if want == "" {
			require.NoError(t, err, path)
			continue
		}
		require.ErrorContains(t, err, want, path)
		require.ErrorAs(t, err, new(*v1alpha1.UsageError))
		require.NotContains(t, err.Error(), "hush")
	}
	err := Check(v1alpha1.BackupRemoteSpec{Path: "x:", Config: map[string]map[string]string{"x": {"type": "s4"}}})
	require.ErrorContains(t, err, `spec.config.x.type: rclone has no backend "s4"`)
	err = Check(v1alpha1.BackupRemoteSpec{Path: "elsewhere:x", ConfigSecretRef: &v1alpha1.SecretKeyRef{Name: "a", Key: "b"}})
	require.NoError(t, err, "it may be in the Secret")
}
