package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/kubectl-backup/kubectl-backup/integration/cluster"
)

// tree is what a volume is filled with.
type tree struct {
	name          string
	files, folder int // files, and how many of them in one folder
	size          int // bytes per file
}

var trees = []tree{
	{"volume of 1 GiB", 16, 16, 64 << 20},
	{"volume of 100000 small files", 100_000, 1000, 1 << 10},
}

// volumes compares a run that streams a volume out of a pod, through kubelet
// and API server, with the stock kopia program that reads the same folder on
// this machine. Both write to a new repository in a local folder.
func (b *bench) volumes(ctx context.Context, c *cluster.Cluster) error {
	p := plugin{filepath.Join(b.root, "bin", "kubectl-backup"), c.Kubeconfig()}
	for i, t := range trees {
		namespace := fmt.Sprintf("volume-%d", i)
		folder, err := mountVolume(ctx, c, namespace)
		if err != nil {
			return err
		}
		say("filling a %s", t.name)
		if err := t.fill(folder, 1); err != nil {
			return err
		}
		spec := filepath.Join(b.scratch, namespace+".yaml")
		if err := os.WriteFile(spec, fmt.Appendf(nil, volumePolicy, namespace), 0o644); err != nil {
			return err
		}
		var pairs []pair
		for n := range b.runs {
			say("run %d of %d: %s", n+1, b.runs, t.name)
			theirs, err := b.kopia(ctx, folder)
			if err != nil {
				return err
			}
			remote := filepath.Join(b.scratch, "remote-volume")
			if err := p.init(ctx, "--remote", remote); err != nil {
				return err
			}
			u, d, err := p.call(ctx, "run", "-f", spec, "--remote", remote)
			if err != nil {
				return err
			}
			if len(d.Volumes) != 1 || d.Volumes[0].Files < int64(t.files) {
				return fmt.Errorf("the run saved %d volumes of 1, or not all files", len(d.Volumes))
			}
			if err := os.RemoveAll(remote); err != nil {
				return err
			}
			pairs = append(pairs, pair{u.seconds, theirs})
		}
		b.results.add(t.name, "kopia snapshot create", "bytes per second / bytes per second",
			atLeast(0.8), pairs, faster, "%.1f s, kopia %.1f s")
	}
	return nil
}

const volumePolicy = `
apiVersion: kubectl-backup.io/v1alpha1
kind: BackupPolicy
metadata: {name: bench}
spec:
  select:
  - {name: all, kinds: [StatefulSet], namespaces: [%s]}
`

const volumeWorkload = `
apiVersion: v1
kind: Namespace
metadata: {name: %[1]s}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: files, namespace: %[1]s}
spec:
  replicas: %[2]d
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: files}}
  template:
    metadata: {labels: {app: files}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: files
        image: localhost/busybox:dev
        imagePullPolicy: IfNotPresent
        command: [sleep, "1000000"]
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 2Gi}}}
`

// mountVolume starts a pod with a claim and returns the volume's folder on
// this machine.
func mountVolume(ctx context.Context, c *cluster.Cluster, namespace string) (string, error) {
	if _, err := c.KubectlInput(ctx, fmt.Sprintf(volumeWorkload, namespace, 1), "apply", "-f", "-"); err != nil {
		return "", err
	}
	if _, err := c.Kubectl(ctx, "-n", namespace, "rollout", "status", "statefulset/files", "--timeout=120s"); err != nil {
		return "", err
	}
	name, err := c.Kubectl(ctx, "-n", namespace, "get", "pvc", "data-files-0", "-o", "jsonpath={.spec.volumeName}")
	return filepath.Join(c.Volumes(), strings.TrimSpace(name)), err
}

// fill writes the files; their content is random, so nothing is the same
// twice, in trees of another seed either, and nothing can be compressed.
func (t tree) fill(folder string, seed byte) error {
	random := rand.NewChaCha8([32]byte{seed})
	content := make([]byte, t.size)
	for n := range t.files {
		dir := filepath.Join(folder, fmt.Sprintf("folder-%03d", n/t.folder))
		if n%t.folder == 0 {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		if _, err := random.Read(content); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-%06d", n)), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// kopia returns the seconds of the stock program's snapshot into a new
// repository, compressing as the plugin does.
func (b *bench) kopia(ctx context.Context, folder string) (_ float64, err error) {
	dir := filepath.Join(b.scratch, "kopia")
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	call := func(args ...string) (float64, error) {
		cmd := exec.CommandContext(ctx, filepath.Join(b.root, "bin", "kopia"),
			append(args, "--config-file", filepath.Join(dir, "config"), "--log-dir", filepath.Join(dir, "logs"))...)
		cmd.Env = append(os.Environ(), "KOPIA_PASSWORD="+password, "KOPIA_CHECK_FOR_UPDATES=false")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		started := time.Now()
		if err := cmd.Run(); err != nil {
			return 0, fmt.Errorf("kopia %s: %w: %s", args[0], err, bytes.TrimSpace(out.Bytes()))
		}
		return time.Since(started).Seconds(), nil
	}
	repository := filepath.Join(dir, "repository")
	if err := os.MkdirAll(repository, 0o755); err != nil {
		return 0, err
	}
	if _, err := call("repository", "create", "filesystem", "--path", repository, "--cache-directory", filepath.Join(dir, "cache")); err != nil {
		return 0, err
	}
	if _, err := call("policy", "set", "--global", "--compression", "zstd-fastest"); err != nil {
		return 0, err
	}
	return call("snapshot", "create", folder)
}
