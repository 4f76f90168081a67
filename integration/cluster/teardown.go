package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-backup/kubectl-backup/integration/csi"
)

// teardown ends a cluster in whatever condition it is, and removes all that
// it left. Each step also works where an earlier teardown broke off.
func teardown(ctx context.Context, p paths, log io.Writer) error {
	// Processes that wait for a frozen filesystem cannot be ended.
	if err := csi.ThawBelow(p.dir); err != nil {
		return err
	}
	if err := endControlGroup(ctx, p.controlGroup); err != nil {
		return err
	}
	if !exists(p.dir) {
		return nil
	}
	fmt.Fprintf(log, "cluster %s: removing what is there\n", p.name)
	if err := removeOutside(p); err != nil {
		return err
	}
	if err := releaseVolumes(ctx, p.dir); err != nil {
		return err
	}
	s, err := readState(p.state)
	switch {
	case err == nil:
		if err := releaseNetwork(ctx, s.Network); err != nil {
			return err
		}
	case !errors.Is(err, os.ErrNotExist):
		// The machine broke down while it was written, and with it went
		// the route.
		fmt.Fprintf(log, "cluster %s: %v\n", p.name, err)
	}
	// state.json goes last: as long as it is there, so is the number of the
	// network that has to be released.
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if path := filepath.Join(p.dir, e.Name()); path != p.state {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(p.dir)
}

// releaseVolumes unmounts everything below a directory and detaches the loop
// devices whose files are there. Each can hold the other for a moment: mounts
// in the namespaces of containers that have ended, devices below filesystems
// below devices.
func releaseVolumes(ctx context.Context, dir string) error {
	return WaitFor(ctx, time.Minute, "nothing is mounted below "+dir, func(context.Context) error {
		if _, err := csi.DetachBelow(dir); err != nil {
			return err
		}
		if err := unmountBelow(dir); err != nil {
			return err
		}
		left, err := csi.DetachBelow(dir)
		if err == nil && left > 0 {
			err = fmt.Errorf("%d loop devices are attached to files below %s", left, dir)
		}
		return err
	})
}

// unmountBelow unmounts everything below a directory, the innermost first,
// and returns an error where a mount stays: a bind mount that is still there
// would make the removal of the directory one of somebody's data.
func unmountBelow(dir string) error {
	// Mounts can lie on top of each other, so the list is read again until
	// it has nothing of ours.
	for range 100 {
		mounts, err := readMounts()
		if err != nil {
			return err
		}
		found := false
		for i := len(mounts) - 1; i >= 0; i-- {
			point := mounts[i].point
			if !strings.HasPrefix(point, dir+"/") {
				continue
			}
			found = true
			if err := unix.Unmount(point, unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("unmount %s: %w", point, err)
			}
		}
		if !found {
			return nil
		}
	}
	return fmt.Errorf("mounts below %s come back when they are unmounted", dir)
}

// removeOutside removes the few files that lie in places that cannot be
// chosen.
func removeOutside(p paths) error {
	// Sockets of the shims, whose names are in their bundles.
	addresses, err := filepath.Glob(filepath.Join(p.containerd, "state", "io.containerd.runtime.v2.task", "*", "*", "address"))
	if err != nil {
		return err
	}
	for _, file := range addresses {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		socket, ours := strings.CutPrefix(strings.TrimSpace(string(b)), "unix:///run/containerd/s/")
		if !ours || strings.Contains(socket, "/") {
			continue
		}
		if err := removeFile(filepath.Join("/run/containerd/s", socket)); err != nil {
			return err
		}
	}
	// The kubelet's socket for device plugins. Kubelets share it; one that
	// still listens keeps it.
	if err := removeDeadSocket("/var/lib/kubelet/device-plugins/kubelet.sock"); err != nil {
		return err
	}
	// What CNI remembers of each pod.
	results, err := filepath.Glob(filepath.Join("/var/lib/cni/results", p.network()+"-*"))
	if err != nil {
		return err
	}
	for _, file := range results {
		if err := removeFile(file); err != nil {
			return err
		}
	}
	// The kubelet's links to logs.
	links, err := filepath.Glob("/var/log/containers/*.log")
	if err != nil {
		return err
	}
	for _, link := range links {
		target, err := os.Readlink(link)
		if err == nil && strings.HasPrefix(target, p.podLogs+"/") {
			if err := removeFile(link); err != nil {
				return err
			}
		}
	}
	return nil
}

func removeDeadSocket(path string) error {
	conn, err := net.Dial("unix", path)
	if err == nil {
		return conn.Close()
	}
	if errors.Is(err, unix.ECONNREFUSED) {
		return removeFile(path)
	}
	return nil
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
