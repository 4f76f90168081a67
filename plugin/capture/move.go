package capture

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// moveAll moves every volume, several at once. What is read while its workload
// runs comes first: it gets older than the cut with every minute.
func (r *run) moveAll(ctx context.Context) error {
	var live, cut []task
	for _, u := range r.units {
		if u.cut != nil && len(u.included(true)) == 0 {
			r.releases.Go(func() { _ = u.cut.Remove(r.removing) })
		}
		for _, line := range u.included(false) {
			live = append(live, r.task(u, line))
		}
		for _, line := range u.included(true) {
			cut = append(cut, r.task(u, line))
		}
	}
	spec := r.Plan.Policy.Spec.Mover
	at := limits{total: r.Parallel, perNode: spec.PerNode}
	if at.total == 0 {
		at.total = max(spec.Parallel, v1alpha1.DefaultParallel)
	}
	if r.RemoteMovers > 0 {
		at.total = min(at.total, r.RemoteMovers)
	}
	return at.run(ctx, append(live, cut...))
}

// task moves one volume. Its node is the one of the pod that uses it, which is
// where its data is.
func (r *run) task(u *unit, line *v1alpha1.VolumeLine) task {
	return task{node: line.Node, do: func(ctx context.Context) error {
		started := time.Now()
		err := r.move(ctx, u, line)
		if err == nil {
			r.emptied(ctx, line)
		}
		line.Seconds = time.Since(started).Seconds()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, repository.ErrStorage) || errors.Is(err, errNoServer) {
			return fmt.Errorf("volume %s: %w", volumeName(line), err)
		}
		line.Outcome, line.Method, line.Reason = v1alpha1.OutcomeFailed, "", oneLine(err)
		return nil
	}}
}

// previous is the newest earlier backup of a volume, or nil. Without it all is
// read again, which is no failure.
func (r *run) previous(ctx context.Context, line *v1alpha1.VolumeLine) *repository.VolumePart {
	part, err := r.Repository.Previous(ctx, *line, r.d.Cluster.UID)
	if err != nil && ctx.Err() == nil {
		line.Warnings = append(line.Warnings, oneLine(err))
	}
	return part
}

// emptied warns of a volume that holds nothing, or whose files hold nothing any
// more, and says what the last backup held: that is how a person learns that a
// mount is missing or that data went.
func (r *run) emptied(ctx context.Context, line *v1alpha1.VolumeLine) {
	if line.Outcome != v1alpha1.OutcomeSaved || line.VolumeMode == "Block" || line.Bytes > 0 {
		return
	}
	last := r.previous(ctx, line)
	held := last != nil && last.Bytes > 0
	var warning string
	switch {
	case line.Files == 0:
		warning = "the volume is empty"
	case line.Files == 1: // a new file system has one folder in it
		warning = "the volume is empty but for one path, which has no content"
	case held:
		warning = fmt.Sprintf("the volume has %d paths, and none has any content", line.Files)
	default:
		return
	}
	if held || last != nil && last.Files > line.Files {
		warning += fmt.Sprintf("; the last backup had %d files with %d bytes", last.Files, last.Bytes)
	}
	line.Warnings = append(line.Warnings, warning)
}

// move carries one volume, from its snapshot or as it is now.
func (r *run) move(ctx context.Context, u *unit, line *v1alpha1.VolumeLine) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, r.Plan.Policy.Spec.Mover.Timeout.Duration, fmt.Errorf("the volume took longer than spec.mover.timeout, %s", r.Plan.Policy.Spec.Mover.Timeout.Duration))
	defer cancel()
	if line.Method != v1alpha1.MethodSnapshot {
		line.Cut, line.CutAt = CutLive, time.Now().UTC().Format(time.RFC3339Nano)
		if line.Ref.Kind != "PersistentVolumeClaim" {
			return r.carrier.move(ctx, line, r.carrier.ways(line)) // only its pod has it
		}
		return r.carry(ctx, line, line.Ref.Name, "", line.Node, nil, r.carrier.ways(line))
	}
	// Each as soon as it can go, since snapshots cost space while they are there;
	// what does not go now is tried again, and told, at the end of the run.
	defer r.releases.Go(func() { _ = u.cut.Release(r.removing, line.Ref) })
	claim, err := u.cut.Claim(ctx, line.Ref)
	if err != nil {
		return err
	}
	like := r.tolerant(ctx, line)
	return r.carry(ctx, line, claim, u.cut.Snapshot(line.Ref), "", like, r.carrier.waysFrom(claim, like))
}

// tolerant bears what the pod bears that uses a volume: storage may be only
// where nobody else runs.
func (r *run) tolerant(ctx context.Context, line *v1alpha1.VolumeLine) *corev1.PodSpec {
	if line.Pod == "" {
		return nil
	}
	pod, err := r.Plan.Cluster.Typed().CoreV1().Pods(line.Ref.Namespace).Get(ctx, line.Pod, metav1.GetOptions{})
	if err != nil {
		return nil // it went; whether a mover finds a place shows when it is made
	}
	return &corev1.PodSpec{Tolerations: pod.Spec.Tolerations}
}

// carry moves the bytes of a claim by a Job or, where that cannot be, as a
// stream. from is the snapshot that it was made from, or empty, node the only one
// where it can be mounted, or empty; like is a pod that can run where it is.
func (r *run) carry(ctx context.Context, line *v1alpha1.VolumeLine, claim, from, node string, like *corev1.PodSpec, ways []way) error {
	reason, err := r.byJob(ctx, line, claim, from, node, like)
	if reason == "" || err != nil {
		return err
	}
	if r.Plan.Policy.Spec.Mover.Transport != v1alpha1.TransportStream {
		line.Reason += "; not by a Job: " + reason
	}
	return r.carrier.move(ctx, line, ways)
}
