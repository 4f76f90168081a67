package csi

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// sectorSize is the one of all volumes. Files that share blocks cannot be
// written in smaller pieces without the page cache, and a volume's sectors must
// not depend on where its content comes from.
const sectorSize = 4096

// attach makes a file a block device, /dev/loopN, which is the name of the
// opened file that is returned. With LO_FLAGS_AUTOCLEAR it lasts until nobody
// has it open or mounted.
func attach(file string, flags uint32) (device *os.File, err error) {
	backing, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer backing.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("loop devices: %w", err)
	}
	defer control.Close()
	// Another process may take the free one first.
	for range 100 {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("no free loop device: %w", err)
		}
		device, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		// Size is the sectors', whatever its name.
		config := &unix.LoopConfig{Fd: uint32(backing.Fd()), Size: sectorSize, Info: unix.LoopInfo64{Flags: flags}}
		copy(config.Info.File_name[:len(config.Info.File_name)-1], file)
		err = unix.IoctlLoopConfigure(int(device.Fd()), config)
		if err == nil {
			return device, nil
		}
		device.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("attach %s to %s: %w", file, device.Name(), err)
		}
	}
	return nil, fmt.Errorf("attach %s: every loop device was taken by others", file)
}

// detach gives a device's file back, at once or when its last user closes it.
func detach(device string) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	// ENXIO: it has none any more.
	if err := unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0); err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("detach %s: %w", device, err)
	}
	return nil
}

// loops are the files of the loop devices that have one, by device.
func loops() (map[string]string, error) {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // detached as we look
		}
		device := filepath.Join("/dev", filepath.Base(filepath.Dir(filepath.Dir(file))))
		found[device] = strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), " (deleted)")
	}
	return found, nil
}

// deviceOf is the device of a file, or "".
func deviceOf(file string) (string, error) {
	all, err := loops()
	if err != nil {
		return "", err
	}
	for device, backing := range all {
		if backing == file {
			return device, nil
		}
	}
	return "", nil
}

// DetachBelow detaches the loop devices whose files are below a directory, and
// those that the kubelet lays over them, and returns how many are there still:
// one that is mounted or open goes with its last user.
func DetachBelow(dir string) (left int, err error) {
	ours := func(all map[string]string) (devices []string) {
		for device, file := range all {
			for _, inner := all[file]; inner; _, inner = all[file] {
				file = all[file]
			}
			if strings.HasPrefix(file, dir+"/") {
				devices = append(devices, device)
			}
		}
		return devices
	}
	all, err := loops()
	if err != nil {
		return 0, err
	}
	for _, device := range ours(all) {
		if err := detach(device); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENXIO) {
			return 0, err
		}
	}
	if all, err = loops(); err != nil {
		return 0, err
	}
	return len(ours(all)), nil
}

// mountPoint is a line of /proc/self/mountinfo.
type mountPoint struct{ root, point, kind, source string }

type mountTable []mountPoint

func readMounts() (mountTable, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// The kernel writes blanks in names as octal escapes.
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var table mountTable
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		left, right, ok := strings.Cut(lines.Text(), " - ")
		before, after := strings.Fields(left), strings.Fields(right)
		if ok && len(before) >= 5 && len(after) >= 2 {
			table = append(table, mountPoint{root: unescape.Replace(before[3]), point: unescape.Replace(before[4]), kind: after[0], source: unescape.Replace(after[1])})
		}
	}
	return table, lines.Err()
}

// at returns what is mounted at a path, the topmost.
func (t mountTable) at(path string) (mountPoint, bool) {
	for i := len(t) - 1; i >= 0; i-- {
		if t[i].point == path {
			return t[i], true
		}
	}
	return mountPoint{}, false
}

// besides returns a place other than the given one where a device is shown, its
// filesystem or itself, or "".
func (t mountTable) besides(device, point string) string {
	for _, m := range t {
		itself := m.kind == "devtmpfs" && m.root == "/"+filepath.Base(device)
		if (m.source == device || itself) && m.point != point {
			return m.point
		}
	}
	return ""
}

// of returns a place where a device's filesystem is mounted as a whole, or "".
func (t mountTable) of(device string) string {
	for _, m := range t {
		if m.source == device && m.root == "/" {
			return m.point
		}
	}
	return ""
}
