package recipes

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

func TestEveryRecipeIsRead(t *testing.T) {
	for _, file := range files() {
		_, err := decode(file)
		require.NoError(t, err)
	}
	require.Equal(t, []string{"etcd", "fsfreeze", "mariadb", "mongodb", "mysql", "postgresql", "redis"}, Names())
	_, found := Get("postgres")
	require.False(t, found)
}

// What a recipe promises must be known to who uses it, and its scripts must be
// ones that every sh reads.
func TestEveryRecipeSaysWhatItGuarantees(t *testing.T) {
	for _, r := range All() {
		t.Run(r.Name, func(t *testing.T) {
			found, ok := Get(r.Name)
			require.True(t, ok)
			require.Same(t, r, found)
			require.NotEmpty(t, r.Spec.Description)
			require.NotEmpty(t, r.Spec.Requires)
			text, err := documents.ReadFile(r.Name + ".yaml")
			require.NoError(t, err)
			for _, said := range []string{"# " + r.Name + ": ", "# Guarantees: ", "# Needs "} {
				require.Contains(t, string(text), said)
			}
			for _, script := range []string{r.Spec.Prepare, r.Spec.Session, r.Spec.Freeze, r.Spec.Thaw} {
				for _, shell := range [][]string{{"dash"}, {"bash", "--posix"}, {"busybox", "sh"}} {
					cmd := exec.Command(shell[0], append(shell[1:], "-n")...)
					cmd.Stdin = strings.NewReader(script)
					out, err := cmd.CombinedOutput()
					require.NoError(t, err, "%s: %s", shell[0], out)
				}
			}
			// The same recipe, not a copy that somebody changed.
			again, err := v1alpha1.Decode("again", bytes.Clone(text))
			require.NoError(t, err)
			require.Equal(t, again.Recipes[0].Spec, r.Spec)
		})
	}
}
