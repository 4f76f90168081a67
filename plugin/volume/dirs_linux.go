package volume

import (
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// openDirs is how many directories above the current one stay open. Deeper
// trees open the ones above again on the way back, so that the depth of a
// tree is not limited by the number of files that a process may open.
const openDirs = 64

// directory is an open directory that several goroutines may use. Everything
// in it is reached through its descriptor, never through a path from the
// root: a path may be longer than the system takes, and its parts may be
// swapped for symbolic links meanwhile.
type directory struct {
	fd   int
	refs atomic.Int32
	id   fileID
}

// fileID is what makes a file the same file on one machine.
type fileID struct{ dev, ino uint64 }

func newDirectory(fd int, id fileID) *directory {
	d := &directory{fd: fd, id: id}
	d.refs.Store(1)
	return d
}

func (d *directory) hold() *directory { d.refs.Add(1); return d }

func (d *directory) release() {
	if d.refs.Add(-1) == 0 {
		unix.Close(d.fd)
	}
}

// procPath is a path for the system calls on extended attributes that have no
// form with a descriptor and a name.
func (d *directory) procPath(name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", d.fd, name)
}

// dirChain is the directories from the root to the current one. Only the
// current one is sure to be open.
type dirChain struct {
	open []*directory // nil where closed to spare descriptors
	ids  []fileID
}

func (c *dirChain) push(d *directory) {
	c.open, c.ids = append(c.open, d), append(c.ids, d.id)
	if i := len(c.open) - 1 - openDirs; i >= 0 && c.open[i] != nil {
		c.open[i].release()
		c.open[i] = nil
	}
}

func (c *dirChain) top() *directory { return c.open[len(c.open)-1] }

// pop leaves the current directory. Where the one above was closed it is
// opened again, and it must be the one that it was.
func (c *dirChain) pop() error {
	last := len(c.open) - 1
	child := c.open[last]
	c.open, c.ids = c.open[:last], c.ids[:last]
	defer child.release()
	if last == 0 || c.open[last-1] != nil {
		return nil
	}
	fd, err := unix.Openat(child.fd, "..", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	st, err := statFD(fd)
	if err == nil && st.id() != c.ids[last-1] {
		err = fmt.Errorf("a directory was moved meanwhile")
	}
	if err != nil {
		unix.Close(fd)
		return err
	}
	c.open[last-1] = newDirectory(fd, st.id())
	return nil
}

func (c *dirChain) close() {
	for _, d := range c.open {
		if d != nil {
			d.release()
		}
	}
	c.open, c.ids = nil, nil
}
