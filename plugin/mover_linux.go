package plugin

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// moverStop ends the wait. The process that waits is process 1 of its
// container, and some other number where a pod shares its processes.
func moverStop() error {
	waiting, err := beside()
	if err != nil {
		return err
	}
	if len(waiting) == 0 {
		return errors.New("no mover waits in this container")
	}
	var errs []error
	for _, pid := range waiting {
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, fmt.Errorf("end process %d: %w", pid, err))
		}
	}
	return errors.Join(errs...)
}

// beside lists the other processes of this program in the same container:
// those that see the same mounts.
func beside() ([]int, error) {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	mounts, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return nil, err
	}
	folders, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var out []int
	for _, f := range folders {
		pid, err := strconv.Atoi(filepath.Base(f))
		if err != nil || pid == os.Getpid() {
			continue
		}
		// A process that ended meanwhile, or that is another user's, is not
		// one of ours.
		if ns, err := os.Readlink(f + "/ns/mnt"); err != nil || ns != mounts {
			continue
		}
		if exe, err := os.Readlink(f + "/exe"); err == nil && exe == self {
			out = append(out, pid)
		}
	}
	return out, nil
}
