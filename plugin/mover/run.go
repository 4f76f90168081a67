package mover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
)

const (
	// placeTime is how long a mover may wait for a node: one may have to be
	// added, or a mover before it may have to end.
	placeTime = 2 * time.Minute
	// startTime is how long it may take to run: a volume has to be attached, an
	// image pulled.
	startTime = 5 * time.Minute
	// podTime is how long the cluster may take to make the Job's pod; a quota
	// may be used up for the moment.
	podTime = 2 * time.Minute
	// firstPause is the wait before a second attempt; it doubles.
	firstPause   = time.Second
	longestPause = 30 * time.Second
)

// RunJob carries a volume by a Job that reads from or writes to the remote
// itself, waits until it has ended, and removes it. A mover that is ended from
// outside, or whose remote fails, is started again, as often as the policy
// says; it goes on where the last one stopped. The error is a *JobError unless
// the context ended.
func RunJob(ctx context.Context, c *kube.Cluster, r JobRequest) (Result, error) {
	end := time.Now().Add(r.timeout())
	limited, cancel := context.WithDeadlineCause(ctx, end, errTimeout)
	defer cancel()
	var stored int64
	var warnings []string
	pause := firstPause
	for n := 1; ; n++ {
		result, err := r.attempt(limited, c, time.Until(end))
		warnings = append(warnings, result.Warnings...)
		stored += result.Stored
		result.Attempts, result.Stored, result.Warnings = n, stored, warnings
		if err == nil {
			return result, nil
		}
		if ctx.Err() != nil {
			return result, context.Cause(ctx)
		}
		if limited.Err() != nil {
			return result, &JobError{Fault: Interrupted, Reason: fmt.Sprintf("it took longer than spec.mover.timeout (%s), in %d attempt(s)", r.timeout(), n)}
		}
		fault := FaultOf(err)
		passing := fault == Interrupted || fault == Storage
		if n > 1 { // once a mover has run, what keeps the next one from it is passing too
			passing = passing || fault == Refused || fault == Unreachable
		}
		if !passing || n > r.retries() {
			if n > 1 {
				err = &JobError{Fault: fault, Reason: fmt.Sprintf("after %d attempts: %s", n, err)}
			}
			return result, err
		}
		select {
		case <-limited.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, longestPause)
	}
}

var errTimeout = errors.New("out of time")

func refused(format string, args ...any) error {
	return &JobError{Fault: Refused, Reason: fmt.Sprintf(format, args...)}
}

// attempt runs one Job to its end. The Job is made first and the Secret as its
// property: whatever ends this process, one goes with the other.
func (r *JobRequest) attempt(ctx context.Context, c *kube.Cluster, left time.Duration) (result Result, err error) {
	jobs, err := c.FindKind(ctx, "batch", "v1", "Job")
	if err != nil {
		return result, refused("Jobs: %s", err)
	}
	secrets, err := c.FindKind(ctx, "", "v1", "Secret")
	if err != nil {
		return result, refused("Secrets: %s", err)
	}
	name := Name()
	job := r.job(name, left)
	raw, err := json.Marshal(job)
	if err != nil {
		return result, err
	}
	defer func() {
		// By its name, which no other Job has, since also a request that was
		// given up may have made it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 90*time.Second)
		defer cancel()
		if left := remove(ctx, c, jobs, secrets, r.Namespace, name); left != nil {
			result.Warnings = append(result.Warnings, fmt.Sprintf("the mover's Job %s/%s was not removed (the next run or cleanup does it): %s", r.Namespace, name, left))
		}
	}()
	made, err := c.Create(ctx, jobs, r.Namespace, raw, kube.WriteOptions{})
	if err != nil {
		return result, refused("create a Job for the mover in %s: %s", r.Namespace, err)
	}
	var note string // about how it was asked which blocks hold data
	if r.Blocks != nil {
		var unasked error
		if r.Task.Blocks, note, unasked = r.source(ctx, c, name, made.UID); unasked != nil {
			note = unasked.Error()
		}
		if ctx.Err() != nil {
			return result, context.Cause(ctx)
		}
	}
	secret, err := r.secret(name, made.UID)
	if err != nil {
		return result, err
	}
	if raw, err = json.Marshal(secret); err != nil {
		return result, err
	}
	if _, err := c.Create(ctx, secrets, r.Namespace, raw, kube.WriteOptions{}); err != nil {
		return result, refused("create the Secret of the mover in %s: %s", r.Namespace, err)
	}
	pod, err := awaitPod(ctx, c, jobs, made)
	if err != nil {
		return result, err
	}
	ended, err := c.WaitPodEnded(ctx, r.Namespace, pod, placeTime, startTime)
	switch {
	case ctx.Err() != nil:
		return result, context.Cause(ctx)
	case errors.Is(err, kube.ErrPodGone):
		return result, &JobError{Fault: Interrupted, Reason: err.Error()}
	case err != nil:
		return result, refused("the mover does not start: %s", err)
	}
	result, err = outcome(ended)
	switch {
	case r.Blocks != nil && r.Task.Blocks == nil:
		result.Whole = note
	case result.Whole != "" && note != "":
		result.Whole += " (" + note + ")"
	}
	return result, err
}

// awaitPod waits until the cluster has made the Job's pod, and returns its name.
func awaitPod(ctx context.Context, c *kube.Cluster, jobs kube.Kind, job *object.Object) (string, error) {
	started := time.Now()
	for {
		look, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := c.WaitFor(look, jobs, job.Ref.Namespace, job.Ref.Name, func(o *object.Object) (bool, error) {
			if o == nil {
				return false, refused("Job %s/%s was deleted before it ran", job.Ref.Namespace, job.Ref.Name)
			}
			var x struct {
				Status struct{ Active, Failed, Succeeded int }
			}
			err := json.Unmarshal(o.Raw, &x)
			return x.Status.Active+x.Status.Failed+x.Status.Succeeded > 0, err
		})
		late := look.Err() != nil
		cancel()
		switch {
		case ctx.Err() != nil:
			return "", context.Cause(ctx)
		case err == nil:
			pods, err := podsOf(ctx, c, job.Ref.Namespace, job.Ref.Name)
			if err != nil {
				return "", refused("look for the mover's pod: %s", err)
			}
			if len(pods) > 0 {
				return pods[0].Name, nil
			}
			return "", &JobError{Fault: Interrupted, Reason: "the mover's pod was deleted before it ran"}
		case !late:
			return "", refused("wait for Job %s/%s: %s", job.Ref.Namespace, job.Ref.Name, err)
		}
		said := c.LastWarning(ctx, job.Ref.Namespace, job.UID)
		final := strings.Contains(said, "forbidden") && !strings.Contains(said, "exceeded quota")
		if final || time.Since(started) > podTime {
			return "", refused("the cluster makes no pod for the mover: %s", orUnknown(said))
		}
	}
}

func orUnknown(said string) string {
	if said == "" {
		return "no event of the Job says why"
	}
	return said
}

func podsOf(ctx context.Context, c *kube.Cluster, namespace, job string) ([]corev1.Pod, error) {
	k, err := c.FindKind(ctx, "", "v1", "Pod")
	if err != nil {
		return nil, err
	}
	var pods []corev1.Pod
	_, err = c.List(ctx, k, kube.ListOptions{Namespace: namespace, LabelSelector: "job-name=" + job}, func(o *object.Object) error {
		var pod corev1.Pod
		err := json.Unmarshal(o.Raw, &pod)
		pods = append(pods, pod)
		return err
	})
	return pods, err
}

// outcome reads how a mover ended.
func outcome(pod *corev1.Pod) (Result, error) {
	var state *corev1.ContainerStateTerminated
	for _, s := range pod.Status.ContainerStatuses {
		state = s.State.Terminated
	}
	how := strings.TrimSpace(pod.Status.Reason + " " + pod.Status.Message)
	if state == nil {
		return Result{}, &JobError{Fault: Interrupted, Reason: "the mover's pod was ended: " + how}
	}
	result, err := DecodeResult(state.Message)
	result.Node = pod.Spec.NodeName
	switch {
	case err == nil && result.Fault != "":
		return result, &JobError{Fault: result.Fault, Reason: result.Error}
	case err == nil && state.ExitCode == 0:
		return result, nil
	case how != "" || state.ExitCode == 137 || state.ExitCode == 143 || state.Reason == "OOMKilled" || state.Reason == "ContainerStatusUnknown":
		return result, &JobError{Fault: Interrupted, Reason: strings.TrimSpace(fmt.Sprintf("the mover was killed (%s, exit code %d) %s", state.Reason, state.ExitCode, how))}
	}
	return result, &JobError{Fault: Broken, Reason: fmt.Sprintf("the mover ended with exit code %d (%s) and gave no result; it said: %q", state.ExitCode, state.Reason, state.Message)}
}

// remove takes away a Job with its pods and its Secret. A pod that has ended
// goes at once; one that runs may use its grace period, and is not waited for
// longer than that.
func remove(ctx context.Context, c *kube.Cluster, jobs, secrets kube.Kind, namespace, name string) error {
	var errs []error
	note := func(err error) {
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	note(c.Delete(ctx, jobs, namespace, name, kube.DeleteOptions{Propagation: "Background"}))
	note(c.Delete(ctx, secrets, namespace, name, kube.DeleteOptions{}))
	pods, err := podsOf(ctx, c, namespace, name)
	note(err)
	for _, p := range pods {
		note(c.EndPod(ctx, &p))
	}
	return errors.Join(errs...)
}
