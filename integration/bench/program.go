package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const password = "only for measurements"

// plugin calls the built program for one cluster.
type plugin struct {
	binary, kubeconfig string
}

// usage is what one call took.
type usage struct {
	seconds float64
	cpu     float64 // seconds of all processors
	peakMiB float64 // the kernel's high-water mark of resident memory
}

// call runs a command that prints a document, and refuses any result but a
// complete one: half a job is quickly done.
func (p plugin) call(ctx context.Context, args ...string) (usage, *v1alpha1.Document, error) {
	cmd := exec.CommandContext(ctx, p.binary, append(args, "-o", "json")...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+p.kubeconfig, "KUBECTL_BACKUP_PASSWORD="+password,
		"KUBECTL_BACKUP_IMAGE=localhost/kubectl-backup:dev")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	u, err := measure(cmd)
	if err != nil {
		return u, nil, fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	d := &v1alpha1.Document{}
	if err := json.Unmarshal(stdout.Bytes(), d); err != nil {
		return u, nil, fmt.Errorf("%s: %w", args[0], err)
	}
	if d.Result != v1alpha1.ResultComplete {
		return u, nil, fmt.Errorf("%s: result %s", args[0], d.Result)
	}
	return u, d, nil
}

// init makes a new repository at the remote that the flags name.
func (p plugin) init(ctx context.Context, flags ...string) error {
	cmd := exec.CommandContext(ctx, p.binary, append([]string{"init"}, flags...)...)
	cmd.Env = append(os.Environ(), "KUBECTL_BACKUP_PASSWORD="+password)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("init: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// remoteDocument is a BackupRemote with a name.
func remoteDocument(name string, spec v1alpha1.BackupRemoteSpec) ([]byte, error) {
	return json.Marshal(map[string]any{"apiVersion": v1alpha1.APIVersion, "kind": "BackupRemote", "metadata": map[string]string{"name": name}, "spec": spec})
}

// measure runs a command to its end. The mark is read from /proc while it
// runs: what wait4 returns includes the parent's memory before the exec.
func measure(cmd *exec.Cmd) (usage, error) {
	started := time.Now()
	if err := cmd.Start(); err != nil {
		return usage{}, err
	}
	done, peak := make(chan struct{}), make(chan float64)
	go func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		high := 0.0
		for {
			if now, err := highWater(cmd.Process.Pid); err == nil {
				high = now
			}
			select {
			case <-done:
				peak <- high
				return
			case <-tick.C:
			}
		}
	}()
	err := cmd.Wait()
	seconds := time.Since(started).Seconds()
	close(done)
	u := usage{seconds: seconds, peakMiB: <-peak}
	if state := cmd.ProcessState; state != nil {
		u.cpu = (state.UserTime() + state.SystemTime()).Seconds()
	}
	return u, err
}

// highWater reads VmHWM in MiB.
func highWater(pid int) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, found := strings.Cut(string(status), "VmHWM:")
	if !found {
		return 0, errors.New("no VmHWM") // a process that has ended
	}
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	return float64(kib) / 1024, err
}

// folderSize sums the sizes of the files below a folder.
func folderSize(dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		sum += info.Size()
		return nil
	})
	return sum, err
}
