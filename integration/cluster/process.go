package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a program that was started, and how to start it again.
type process struct {
	Args []string `json:"args"`
	PID  int      `json:"pid"`
	// StartTime is the kernel's, in clock ticks since boot: with it, a
	// process identifier that was given to another program is told apart.
	StartTime uint64 `json:"startTime"`
}

// start runs a program detached: in a session of its own, in the cluster's
// control group, with its output appended to logs/<name>.log.
func (c *Cluster) start(name string, args ...string) error {
	logFile, err := os.OpenFile(filepath.Join(c.paths.logs, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer logFile.Close()
	group, err := os.Open(filepath.Join(unifiedHierarchy, c.paths.controlGroup, daemonGroup))
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	defer group.Close()

	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = c.paths.dir
	cmd.Stdout, cmd.Stderr = logFile, logFile
	// Nothing of the caller's environment (proxies, credentials) reaches
	// the cluster.
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + c.paths.run}
	// The kernel puts the child into the group as it is made: none of its
	// own children can be outside.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(group.Fd())}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	// A child that ends while we live is collected, so that it is not taken
	// for alive.
	go cmd.Wait()
	started, err := startTime(cmd.Process.Pid)
	if err != nil {
		return fmt.Errorf("start %s: it ended at once; see %s: %w", name, logFile.Name(), err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state.Processes[name] = &process{Args: args, PID: cmd.Process.Pid, StartTime: started}
	return c.saveState()
}

// kill ends one process at once and waits until it is gone.
func (c *Cluster) kill(ctx context.Context, name string) error {
	p := c.process(name)
	if p == nil {
		return fmt.Errorf("cluster %s: %s was never started", c.Name, name)
	}
	if p.alive() {
		if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("cluster %s: end %s: %w", c.Name, name, err)
		}
	}
	return WaitFor(ctx, 30*time.Second, name+" has ended", func(context.Context) error {
		if p.alive() {
			return fmt.Errorf("process %d is alive", p.PID)
		}
		return nil
	})
}

func (c *Cluster) process(name string) *process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.Processes[name]
}

// alive tells whether the process that was started still runs.
func (p *process) alive() bool {
	started, err := startTime(p.PID)
	return err == nil && started == p.StartTime
}

// startTime reads field 22 of /proc/<pid>/stat; an error means that there is
// no such process, or only its remains.
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name stands in parentheses and may hold anything.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return 0, fmt.Errorf("process %d has ended", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// output runs a program to its end and returns what it wrote to stdout; its
// stderr goes into the error.
func output(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		message := strings.TrimSpace(stderr.String())
		if message == "" {
			message = firstLine(out)
		}
		return out, fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err, message)
	}
	return out, nil
}
