package cluster

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// debianPackage is a Debian package and a file by which its presence is seen
// also where it came another way.
type debianPackage struct{ name, file string }

func nodePackages(noNode bool) []debianPackage {
	list := []debianPackage{{"iproute2", "/sbin/ip"}}
	if noNode {
		return list
	}
	return append(list,
		debianPackage{"containerd", "/usr/bin/containerd"},
		debianPackage{"runc", "/usr/sbin/runc"},
		debianPackage{"containernetworking-plugins", cniPlugins + "/ptp"},
		debianPackage{"busybox-static", "/bin/busybox"},
		debianPackage{"e2fsprogs", "/sbin/mkfs.ext4"},
		debianPackage{"xfsprogs", "/sbin/mkfs.xfs"},
		redisTools,
	)
}

// installPackages installs the packages that are missing.
func installPackages(ctx context.Context, log io.Writer, wanted []debianPackage) error {
	var missing []string
	for _, p := range wanted {
		if _, err := os.Stat(p.file); err != nil {
			missing = append(missing, p.name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("missing on this machine, which has no apt-get: %s (hint: install them in your system's way)", strings.Join(missing, ", "))
	}
	fmt.Fprintf(log, "installing Debian packages: %s\n", strings.Join(missing, " "))
	if err := aptGet(ctx, "update", "-q"); err != nil {
		return err
	}
	return aptGet(ctx, append([]string{"install", "-q", "-y", "--no-install-recommends"}, missing...)...)
}

func aptGet(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("apt-get %s: %w:\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}
