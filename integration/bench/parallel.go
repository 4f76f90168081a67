package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/integration/cluster"
	"github.com/kubectl-backup/kubectl-backup/integration/objectstore"
)

const (
	// manyVolumes are captured side by side and one after the other.
	manyVolumes = 20
	// sideBySide is how many of them travel at once.
	sideBySide = 8
)

// each is what one of many volumes is filled with.
var each = tree{"32 MiB", 64, 64, 512 << 10}

const parallelPolicy = `
apiVersion: kubectl-backup.io/v1alpha1
kind: BackupPolicy
metadata: {name: bench}
spec:
  select:
  - {name: all, kinds: [PersistentVolumeClaim], namespaces: [parallel]}
  mover: {transport: Job, parallel: %d}
  remote: {name: main}
---
`

// parallel compares a run that captures many volumes by Jobs side by side with
// one that captures them one after the other, both to an S3 server on this
// machine, each into a repository of its own. The starts of pods are part of
// both.
func (b *bench) parallel(ctx context.Context, c *cluster.Cluster) (err error) {
	if err := manyClaims(ctx, c); err != nil {
		return err
	}
	server, err := objectstore.Start(filepath.Join(b.scratch, "s3-parallel"), c.HostAddress()+":0")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	p := plugin{filepath.Join(b.root, "bin", "kubectl-backup"), c.Kubeconfig()}
	capture := func(name string, atOnce int) (float64, error) {
		remote, err := remoteDocument("main", server.Spec(name))
		if err != nil {
			return 0, err
		}
		spec := filepath.Join(b.scratch, "parallel.yaml")
		if err := os.WriteFile(spec, append(fmt.Appendf(nil, parallelPolicy, atOnce), remote...), 0o600); err != nil {
			return 0, err
		}
		if err := p.init(ctx, "-f", spec); err != nil {
			return 0, err
		}
		u, d, err := p.call(ctx, "run", "-f", spec)
		if err != nil {
			return 0, err
		}
		if len(d.Volumes) != manyVolumes {
			return 0, fmt.Errorf("the run saved %d volumes of %d", len(d.Volumes), manyVolumes)
		}
		for _, v := range d.Volumes {
			if v.Files < int64(each.files) {
				return 0, fmt.Errorf("the run saved %d files of %d of %s", v.Files, each.files, v.Ref.Name)
			}
		}
		return u.seconds, nil
	}
	var pairs []pair
	for n := range b.runs {
		say("run %d of %d: %d volumes side by side and one after the other", n+1, b.runs, manyVolumes)
		ours, err := capture(fmt.Sprintf("beside-%d", n), sideBySide)
		if err != nil {
			return err
		}
		theirs, err := capture(fmt.Sprintf("after-%d", n), 1)
		if err != nil {
			return err
		}
		pairs = append(pairs, pair{ours, theirs})
	}
	b.results.add(fmt.Sprintf("%d volumes of %s, Jobs, %d at once", manyVolumes, each.name, sideBySide), "one after the other", "seconds / seconds",
		atLeast(1.6), pairs, faster, "%.1f s, one after the other %.1f s")
	return nil
}

// manyClaims makes claims that no pod mounts, with files in them.
func manyClaims(ctx context.Context, c *cluster.Cluster) error {
	const namespace = "parallel"
	if _, err := c.KubectlInput(ctx, fmt.Sprintf(volumeWorkload, namespace, manyVolumes), "apply", "-f", "-"); err != nil {
		return err
	}
	// Their class provisions when a pod is there.
	if _, err := c.Kubectl(ctx, "-n", namespace, "rollout", "status", "statefulset/files", "--timeout=300s"); err != nil {
		return err
	}
	names, err := c.Kubectl(ctx, "-n", namespace, "get", "pvc", "-o", "jsonpath={.items[*].spec.volumeName}")
	if err != nil {
		return err
	}
	say("filling %d volumes of %s", manyVolumes, each.name)
	for n, name := range strings.Fields(names) {
		if err := each.fill(filepath.Join(c.Volumes(), name), byte(n)); err != nil {
			return err
		}
	}
	if _, err := c.Kubectl(ctx, "-n", namespace, "delete", "statefulset/files", "--wait"); err != nil {
		return err
	}
	_, err = c.Kubectl(ctx, "-n", namespace, "wait", "--for=delete", "pod", "-l", "app=files", "--timeout=120s")
	return err
}
