package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/kubectl-backup/kubectl-backup/integration/cluster"
)

// TestMain says at once what is missing instead of failing in each test.
func TestMain(m *testing.M) {
	if err := prepared(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func prepared() error {
	root, err := cluster.RepositoryRoot()
	if err != nil {
		return err
	}
	for _, program := range []string{"kubectl-backup", "kubectl", "rclone", "kopia"} {
		if _, err := os.Stat(filepath.Join(root, "bin", program)); err != nil {
			return fmt.Errorf("bin/%s is not built; make build tools builds it: %w", program, err)
		}
	}
	if _, err := cluster.Open(clusterDir(root)); err != nil {
		return fmt.Errorf("the clusters do not run; make cluster starts them: %w", err)
	}
	return nil
}
