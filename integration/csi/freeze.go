package csi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// freezeLimit is how long filesystems are frozen at the most, and how long is
// tried to freeze them.
const freezeLimit = 10 * time.Second

const (
	ioctlFreeze = 0xc0045877 // FIFREEZE
	ioctlThaw   = 0xc0045878 // FITHAW
)

// freezeAll freezes filesystems by their mount points; when it returns without
// an error, nothing has been written to any of their devices since the last
// one was frozen, and will not be until thaw, whose error says that it was
// nevertheless. Whatever happens, to us too, the limit passes and they are
// thawed.
func freezeAll(ctx context.Context, points []string) (thaw func() error, err error) {
	// Most of what has to be written out is written while all still run.
	var wg sync.WaitGroup
	for _, point := range points {
		wg.Go(func() { syncFilesystem(point) })
	}
	wg.Wait()
	released, err := guard(points)
	if err != nil {
		return nil, err
	}
	// A freeze waits for what is being written, and a wait in the kernel
	// cannot be broken off; one that comes too late is taken back.
	ctx, cancel := context.WithTimeout(ctx, freezeLimit)
	defer cancel()
	type result struct {
		point string
		mine  bool
		err   error
	}
	results := make(chan result, len(points))
	for _, point := range points {
		go func() {
			err := onDirectory(point, ioctlFreeze)
			if errors.Is(err, unix.EBUSY) {
				// Somebody else froze it, and will thaw it.
				results <- result{point: point}
				return
			}
			if err == nil && ctx.Err() != nil {
				err = onDirectory(point, ioctlThaw)
			}
			results <- result{point, err == nil, err}
		}()
	}
	var mine []string
	thaw = func() error {
		var errs []error
		for _, point := range mine {
			// EINVAL: it was thawed before, by the guard or by a person,
			// and what was cut meanwhile is no one moment.
			if err := onDirectory(point, ioctlThaw); err != nil {
				errs = append(errs, fmt.Errorf("thaw %s: %w", point, err))
			}
		}
		released()
		return errors.Join(errs...)
	}
	for range points {
		select {
		case r := <-results:
			if r.mine {
				mine = append(mine, r.point)
			}
			if r.err != nil {
				err = errors.Join(err, fmt.Errorf("freeze %s: %w", r.point, r.err))
			}
		case <-ctx.Done():
			// Whichever are frozen by now: thawing another is no harm.
			mine = points
			return nil, errors.Join(fmt.Errorf("filesystems could not be frozen in time: %w", ctx.Err()), thaw())
		}
	}
	if err != nil {
		return nil, errors.Join(err, thaw())
	}
	return thaw, nil
}

// guard starts a process that thaws when ours ends or the limit passes, until
// it is released.
func guard(points []string) (released func(), err error) {
	script := `timeout ` + strconv.Itoa(int(freezeLimit.Seconds())) + ` cat >/dev/null; for point; do fsfreeze --unfreeze "$point" 2>/dev/null; done; exit 0`
	cmd := exec.Command("sh", append([]string{"-c", script, "thaw"}, points...)...)
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the process that thaws: %w", err)
	}
	return func() {
		// Ended before its input does: what others freeze later is none
		// of its business.
		cmd.Process.Kill()
		io.Closer(pipe).Close()
		go cmd.Wait()
	}, nil
}

// ThawBelow thaws the filesystems whose devices' files, or whose mount points,
// are below a directory. Processes that wait for a thaw cannot even be killed.
func ThawBelow(dir string) error {
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	files, err := loops()
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if m.kind != "ext4" || m.root != "/" || !strings.HasPrefix(files[m.source], dir+"/") && !strings.HasPrefix(m.point, dir+"/") {
			continue
		}
		// EINVAL: it is not frozen.
		if err := onDirectory(m.point, ioctlThaw); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("thaw %s: %w", m.point, err)
		}
	}
	return nil
}

func onDirectory(path string, request uint) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.IoctlSetInt(int(f.Fd()), request, 0)
}

func syncFilesystem(path string) {
	f, err := os.Open(path)
	if err != nil {
		return // freezing it says what is wrong
	}
	defer f.Close()
	unix.Syncfs(int(f.Fd()))
}
