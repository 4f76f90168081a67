package csi

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// poolSize is what the pool promises. Its file is sparse: what volumes do not
// hold takes no room.
const poolSize = 512 << 30

// Things in the pool are of these kinds, a directory each: a thing is a record
// <id>.json and, but for groups, an image <id>.img. The record is written last
// and removed last, so an image without a record is what a crash left of a
// call, and the same call overwrites it.
const (
	kindVolume   = "volumes"
	kindSnapshot = "snapshots"
	kindGroup    = "groups"
)

// volume is the record of a volume.
type volume struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Size  int64  `json:"size"`
	Block bool   `json:"block,omitempty"`
	// Snapshot or Source are what it was made from.
	Snapshot string `json:"snapshot,omitempty"`
	Source   string `json:"source,omitempty"`
}

// snapshot is the record of a snapshot.
type snapshot struct {
	ID         string    `json:"id"`
	Name       string    `json:"name,omitempty"`
	Volume     string    `json:"volume"`
	VolumeName string    `json:"volumeName"`
	Size       int64     `json:"size"`
	Block      bool      `json:"block,omitempty"`
	At         time.Time `json:"at"`
	Group      string    `json:"group,omitempty"`
}

// group is the record of a group snapshot.
type group struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	At        time.Time `json:"at"`
	Snapshots []string  `json:"snapshots"`
}

// pool is the filesystem with the images.
type pool struct{ dir string }

// openPool mounts the pool, made as needed, and thaws what an earlier process
// may have left frozen.
func openPool(dir string) (*pool, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	p := &pool{dir: filepath.Join(dir, "pool")}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return nil, err
	}
	mounts, err := readMounts()
	if err != nil {
		return nil, err
	}
	if _, mounted := mounts.at(p.dir); !mounted {
		if err := p.mount(filepath.Join(dir, "pool.img")); err != nil {
			return nil, fmt.Errorf("pool %s: %w", p.dir, err)
		}
	}
	for _, kind := range []string{kindVolume, kindSnapshot, kindGroup} {
		if err := os.MkdirAll(filepath.Join(p.dir, kind), 0o700); err != nil {
			return nil, err
		}
	}
	return p, ThawBelow(p.dir)
}

func (p *pool) mount(image string) error {
	if _, err := os.Stat(image); errors.Is(err, os.ErrNotExist) {
		// Under another name until it is complete.
		fresh := image + ".new"
		if err := makeSparse(fresh, poolSize); err != nil {
			return err
		}
		if err := run("mkfs.xfs", "-q", "-f", "-K", "-s", "size=4096", "-m", "reflink=1", fresh); err != nil {
			return err
		}
		if err := os.Rename(fresh, image); err != nil {
			return err
		}
	}
	// The outer device may use the page cache: it is synced where the inner
	// ones are.
	device, err := attach(image, unix.LO_FLAGS_AUTOCLEAR)
	if err != nil {
		return err
	}
	defer device.Close()
	// discard: what volumes give back, the disk gets back.
	if err := unix.Mount(device.Name(), p.dir, "xfs", unix.MS_NOATIME, "discard,nouuid"); err != nil {
		return fmt.Errorf("mount %s: %w", device.Name(), err)
	}
	return nil
}

func (p *pool) image(kind, id string) string  { return filepath.Join(p.dir, kind, id+".img") }
func (p *pool) record(kind, id string) string { return filepath.Join(p.dir, kind, id+".json") }

// identify makes an identifier from the name that a caller gave: the same name
// is the same thing, also when the call is repeated after a crash.
func identify(kind, name string) string {
	sum := sha256.Sum256([]byte(name))
	return strings.TrimSuffix(kind, "s") + "-" + hex.EncodeToString(sum[:10])
}

var identifier = regexp.MustCompile(`^(volume|snapshot|group)-[0-9a-f]{20}$`)

// read reads a record; an identifier that is none of ours is one of nothing.
func (p *pool) read(kind, id string, into any) (found bool, err error) {
	if !identifier.MatchString(id) {
		return false, nil
	}
	b, err := os.ReadFile(p.record(kind, id))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return false, fmt.Errorf("%s: %w", p.record(kind, id), err)
	}
	return true, nil
}

func (p *pool) write(kind, id string, record any) error {
	return writeRecord(p.record(kind, id), record)
}

// remove removes a thing, or what is left of one.
func (p *pool) remove(kind, id string) error {
	if !identifier.MatchString(id) {
		return nil
	}
	for _, path := range []string{p.image(kind, id), p.record(kind, id)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// writeRecord replaces a file as a whole: a reader, or the next process, sees
// the old or the new one.
func writeRecord(path string, record any) error {
	b, err := json.Marshal(record)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// reflink makes a file that shares the other's blocks until either changes.
// The kernel keeps writers out meanwhile, so it is one moment of the other.
func reflink(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := unix.IoctlFileClone(int(target.Fd()), int(source.Fd())); err != nil {
		return errors.Join(fmt.Errorf("reflink %s to %s: %w", from, to, err), target.Close())
	}
	return target.Close()
}

// makeSparse makes an empty file of a size, in place of one that is there.
func makeSparse(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// run runs a program to its end; what it says is in the error.
func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Stored lists the volumes, snapshots and groups that a driver with this
// directory keeps, also where a call did not come to its end.
func Stored(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "pool", "*", "*.*"))
	for i, file := range files {
		files[i] = filepath.Base(file)
	}
	return files, err
}
