package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Bin is the directory of the programs, made for a test's PATH: kube, its
// other name kubectl, and whatever else was built there.
func (c *Cluster) Bin() string { return filepath.Join(c.root, "bin") }

// Kubectl runs kubectl against this cluster with the administrator's rights
// and returns what it wrote to stdout; stderr is part of the error.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return c.KubectlInput(ctx, "", args...)
}

// KubectlInput is Kubectl with something on its stdin, such as manifests for
// "apply -f -".
func (c *Cluster) KubectlInput(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(c.Bin(), "kube"), append([]string{"kubectl"}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig())
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

// linkKubectl gives the multi-call program its name kubectl.
func linkKubectl(bin string) error {
	err := os.Symlink("kube", filepath.Join(bin, "kubectl"))
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}
