package restore

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-backup/kubectl-backup/plugin/mover"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const methodJob = "Job"

// jobs remembers for all volumes of a restore why none of them may use a Job.
type jobs struct {
	mu     sync.Mutex
	reason string
}

func (j *jobs) forbid(reason string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.reason == "" {
		j.reason = reason
	}
}

// forbidden says why no Job may be used, or is empty.
func (p *Plan) forbidden() string {
	t := p.request.Transport
	if t.Task == nil {
		return cmp.Or(t.Reason, "how they reach the remote is not known")
	}
	p.jobs.mu.Lock()
	defer p.jobs.mu.Unlock()
	return p.jobs.reason
}

// fillByJob fills a claim by a Job that reads from the remote itself. Where it
// returns a reason instead of an error, the bytes have to come as a stream.
func (p *Plan) fillByJob(ctx context.Context, v *volumeItem) (reason string, err error) {
	if reason = p.forbidden(); reason != "" {
		if p.request.Transport.Required {
			return "", fmt.Errorf("spec.mover.transport is Job, and no Job can be used: %s", reason)
		}
		return reason, nil
	}
	r := mover.JobRequest{
		Namespace: v.owner.ref.Namespace, Claim: v.owner.ref.Name, Run: p.request.Record.ID,
		Image: p.request.Image, Mover: p.request.Transport.Mover, Task: *p.request.Transport.Task,
	}
	r.Task.Direction, r.Task.Block, r.Task.Volume = mover.Restore, v.line.VolumeMode == "Block", v.line
	if r.Task.Part, err = p.partOf(v); err != nil {
		return "", err
	}
	r.Like = p.userPod(ctx, v)
	started := time.Now()
	add, done := p.request.task(v.name(), v.line.Bytes)
	result, err := mover.RunJob(ctx, p.request.Target, r)
	for _, w := range result.Warnings {
		v.owner.warn("%s", w)
	}
	if err != nil {
		switch fault := mover.FaultOf(err); {
		case p.request.Transport.Required || ctx.Err() != nil:
		case fault == mover.Unreachable:
			reason = "a Job in the cluster cannot use the remote: " + err.Error()
			p.jobs.forbid(reason)
		case fault == mover.Refused:
			reason = "a Job could not be used: " + err.Error()
		}
		if reason != "" {
			done(nil)
			return reason, nil
		}
		done(err)
		return "", err
	}
	add(result.Bytes)
	done(nil)
	v.line.Method, v.line.Node = methodJob, result.Node
	v.line.Files, v.line.Bytes, v.line.Seconds = result.Files, result.Bytes, time.Since(started).Seconds()
	v.line.Issues = result.Issues
	if result.Attempts > 1 {
		v.line.Attempts = result.Attempts
	}
	if result.Lost > 0 {
		v.settle(v1alpha1.OutcomeIncomplete, "%d of its files are not, or not wholly, in place; see its issues", result.Lost)
		return "", nil
	}
	v.settle(v1alpha1.OutcomeRestored, "its data is in place")
	return "", nil
}

// partOf is the volume in the backup, for the mover.
func (p *Plan) partOf(v *volumeItem) (json.RawMessage, error) {
	for _, part := range p.request.Record.Volumes {
		if part.Snapshot == v.snapshot {
			return json.Marshal(part)
		}
	}
	return nil, fmt.Errorf("volume %s: not in backup %s", v.snapshot, p.request.Record.ID)
}

// userPod is the pod template of the workload that will use a claim, as far as
// it says where its pods run, or nil.
func (p *Plan) userPod(ctx context.Context, v *volumeItem) (found *corev1.PodSpec) {
	i := p.bySaved[v.user]
	if i == nil {
		return nil
	}
	err := p.request.Repository.ObjectsOf(ctx, *p.request.Record, func(r v1alpha1.Ref) bool { return r.Key() == v.user }, func(o *object.Object) error {
		d, _, err := p.draft(ctx, i, o)
		if err != nil {
			return err
		}
		if _, err := p.rules.Apply(d); err != nil {
			return err
		}
		raw, err := d.Encode()
		if err != nil {
			return err
		}
		var x struct {
			Spec struct {
				corev1.PodSpec
				Template struct{ Spec *corev1.PodSpec }
			}
		}
		// Of a kind whose spec is another one, nothing is known.
		if json.Unmarshal(raw, &x) == nil {
			found = &x.Spec.PodSpec
			if x.Spec.Template.Spec != nil {
				found = x.Spec.Template.Spec
			}
		}
		return nil
	})
	if err != nil {
		v.line.Warnings = append(v.line.Warnings, "where its user can run is not known: "+err.Error())
	}
	return found
}
