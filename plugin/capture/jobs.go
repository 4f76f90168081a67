package capture

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-backup/kubectl-backup/plugin/mover"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// MethodJob is a mover that writes to the remote itself.
const MethodJob = "Job"

// jobs remembers for all volumes of a run why none of them may use a Job.
type jobs struct {
	mu     sync.Mutex
	reason string
}

func (j *jobs) forbid(reason string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.reason = cmp.Or(j.reason, reason)
}

// forbidden says why no Job may be used, or is empty.
func (r *run) forbidden() string {
	switch {
	case r.Transport.Task == nil:
		return cmp.Or(r.Transport.Reason, "how they reach the remote is not known")
	case r.Image == "":
		return "no image for movers is known"
	}
	r.jobs.mu.Lock()
	defer r.jobs.mu.Unlock()
	return r.jobs.reason
}

// byJob carries a volume by a Job that mounts the claim and writes to the
// remote itself. node is the only one where it can be mounted, or empty. Where
// it returns a reason instead of an error, the bytes have to come as a stream.
// from is the snapshot that the claim was made from, or empty.
func (r *run) byJob(ctx context.Context, line *v1alpha1.VolumeLine, claim, from, node string, like *corev1.PodSpec) (reason string, err error) {
	if reason = r.forbidden(); reason != "" {
		if r.Transport.Required {
			return "", fmt.Errorf("spec.mover.transport is Job, and no Job can be used: %s", reason)
		}
		return reason, nil
	}
	request := mover.JobRequest{
		Namespace: line.Ref.Namespace, Claim: claim, Run: r.session.ID(), Image: r.Image, Mover: r.Plan.Policy.Spec.Mover, Node: node, Like: like,
		Task: *r.Transport.Task,
	}
	request.Task.Direction, request.Task.Block, request.Task.Volume = mover.Capture, line.VolumeMode == "Block", *line
	if last := r.previous(ctx, line); last != nil {
		if request.Task.Previous, err = json.Marshal(last); err != nil {
			return "", err
		}
	}
	if from != "" && line.VolumeMode == "Block" {
		if request.Blocks, _, err = r.support.Blocks(ctx, r.Plan.Cluster, line.Driver); err != nil {
			return "", fmt.Errorf("find out what lists the blocks of snapshots: %w", err)
		}
		request.Snapshot = from
	}
	add, done := func(int64) {}, func(error) {}
	if r.Progress != nil {
		add, done = r.Progress(volumeName(line), line.Capacity)
	}
	result, err := mover.RunJob(ctx, r.Plan.Cluster, request)
	line.Warnings = append(line.Warnings, result.Warnings...)
	if err != nil {
		switch fault := mover.FaultOf(err); {
		case ctx.Err() != nil:
		case fault == mover.Storage:
			// It would take nothing of what else the run has to store either.
			err = fmt.Errorf("%w: %w", repository.ErrStorage, err)
		case r.Transport.Required:
		case fault == mover.Unreachable:
			reason = "a Job in the cluster cannot use the remote: " + oneLine(err)
			r.jobs.forbid(reason)
		case fault == mover.Refused:
			reason = "a Job could not be used: " + oneLine(err)
		}
		if reason != "" {
			done(nil)
			return reason, nil
		}
		done(err)
		return "", err
	}
	add(result.Bytes)
	var part repository.VolumePart
	if err = json.Unmarshal(result.Part, &part); err != nil {
		err = fmt.Errorf("read what the mover stored: %w", err)
	} else {
		err = r.session.AddVolume(ctx, *line, part)
	}
	done(err)
	if err != nil {
		return "", err
	}
	if result.Attempts > 1 {
		line.Attempts = result.Attempts
	}
	if result.Whole != "" {
		line.Reason += "; all of the device was read: " + oneLine(errors.New(result.Whole))
	}
	line.Node = cmp.Or(result.Node, line.Node)
	r.carrier.saved(line, MethodJob, &repository.VolumeResult{
		Snapshot: part.Snapshot, Files: result.Files, Bytes: result.Bytes, Read: result.Read, Stored: result.Stored,
		Unreadable: result.Lost, Issues: result.Issues,
	})
	return "", nil
}
