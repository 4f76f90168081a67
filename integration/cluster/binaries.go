package cluster

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// The version is linked in: clients cannot parse what is there without it.
const kubeVersion = "-X k8s.io/component-base/version.gitVersion=v1.37.2" +
	" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37"

// buildBinaries makes bin/kube where it is missing (its sources are pinned
// modules, they do not change under it), likewise what drives the CSI driver,
// and bin/cluster always.
func buildBinaries(ctx context.Context, root string, noNode bool, log io.Writer) error {
	if kube := filepath.Join(root, "bin", "kube"); !exists(kube) {
		fmt.Fprintln(log, "building the Kubernetes program bin/kube (the first time about 15 minutes on two cores)")
		if err := goBuild(ctx, root, "bin/kube", "-s -w "+kubeVersion, "./cmd/kube"); err != nil {
			return err
		}
	}
	if err := linkKubectl(filepath.Join(root, "bin")); err != nil {
		return err
	}
	if !noNode {
		if err := buildSidecars(ctx, root, log); err != nil {
			return err
		}
	}
	return goBuild(ctx, root, "bin/cluster", "-s -w", "./cmd/cluster")
}

// goBuild builds a command of the module integration.
func goBuild(ctx context.Context, root, target, ldflags, pkg string) error {
	_, err := goCommand(ctx, filepath.Join(root, "integration"), "build", "-o", filepath.Join(root, target), "-ldflags", ldflags, pkg)
	return err
}

// goCommand runs the Go command in a module and returns what it says.
func goCommand(ctx context.Context, dir string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOTOOLCHAIN=go1.27.3")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w:\n%s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}
