package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A cluster has one control group, by its name in each hierarchy:
//
//	<name>/daemons   etcd, servers, containerd, kubelet, shims
//	<name>/pods      the kubelet's cgroupRoot
//
// In the unified hierarchy the kernel can end a whole group at once, and no
// process leaves it by forking or by daemonizing. Where version 1 controllers
// are mounted beside it, containers lie in their hierarchies too, and stay in
// <name>/daemons of the unified one.
const (
	daemonGroup = "daemons"
	podGroup    = "pods"
)

// unifiedHierarchy is where control groups version 2 are mounted.
var unifiedHierarchy, legacyHierarchies = findHierarchies()

// findHierarchies reads the mounts: the unified hierarchy ("" where there is
// none), and those of version 1.
func findHierarchies() (unified string, legacy []string) {
	mounts, err := readMounts()
	if err != nil {
		return "", nil
	}
	for _, m := range mounts {
		switch {
		case !strings.HasPrefix(m.point, "/sys/fs/cgroup"):
		case m.kind == "cgroup2":
			unified = m.point
		case m.kind == "cgroup":
			legacy = append(legacy, m.point)
		}
	}
	return unified, legacy
}

func makeControlGroup(name string) error {
	if unifiedHierarchy == "" {
		return errors.New("no control groups version 2 are mounted below /sys/fs/cgroup")
	}
	for _, h := range append([]string{unifiedHierarchy}, legacyHierarchies...) {
		for _, part := range []string{daemonGroup, podGroup} {
			if err := os.MkdirAll(filepath.Join(h, name, part), 0o755); err != nil {
				return fmt.Errorf("control group %s: %w", name, err)
			}
		}
	}
	if len(legacyHierarchies) > 0 {
		return nil
	}
	// Version 2 alone: controllers must be passed down by hand.
	for _, dir := range []string{"", name} {
		available, err := os.ReadFile(filepath.Join(unifiedHierarchy, dir, "cgroup.controllers"))
		if err != nil {
			return err
		}
		for _, controller := range strings.Fields(string(available)) {
			control := filepath.Join(unifiedHierarchy, dir, "cgroup.subtree_control")
			if err := os.WriteFile(control, []byte("+"+controller), 0o644); err != nil {
				return fmt.Errorf("control group controller %s: %w", controller, err)
			}
		}
	}
	return nil
}

// endControlGroup kills every process of the group and removes it.
func endControlGroup(ctx context.Context, name string) error {
	top := filepath.Join(unifiedHierarchy, name)
	if unifiedHierarchy != "" && exists(top) {
		if err := os.WriteFile(filepath.Join(top, "cgroup.kill"), []byte("1"), 0o644); err != nil {
			return fmt.Errorf("end the processes of control group %s: %w", name, err)
		}
		err := WaitFor(ctx, 60*time.Second, "all processes have ended", func(context.Context) error {
			events, err := os.ReadFile(filepath.Join(top, "cgroup.events"))
			if err != nil {
				return err
			}
			if !strings.Contains(string(events), "populated 0") {
				return fmt.Errorf("control group %s still has processes", name)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for _, h := range append([]string{unifiedHierarchy}, legacyHierarchies...) {
		if h == "" {
			continue
		}
		dir := filepath.Join(h, name)
		// A group lasts for a moment after its last process.
		err := WaitFor(ctx, 30*time.Second, dir+" is gone", func(context.Context) error { return removeGroups(dir) })
		if err != nil {
			return err
		}
	}
	return nil
}

// removeGroups removes a group and those below it. Its files are the
// kernel's, only the directories can be removed.
func removeGroups(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeGroups(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
