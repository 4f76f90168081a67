package kube

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
)

// ErrPodGone says that a pod was taken away before it ended.
var ErrPodGone = errors.New("the pod is gone")

// lostNode is how long after its grace period a pod may still be there before
// its node is taken for lost: nobody will say how it ended.
const lostNode = time.Minute

// WaitPodEnded waits until a pod has ended, well or badly, and returns it as it
// was seen last. It gives up with the reason when the pod does not run within
// start, or has no node within placed, or sooner where that is known: an image
// that cannot be pulled, a container that cannot be made. A pod that somebody
// deleted is ErrPodGone, unless it could still end in order.
func (c *Cluster) WaitPodEnded(ctx context.Context, namespace, name string, placed, start time.Duration) (*corev1.Pod, error) {
	waiting, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var last *corev1.Pod
	id := "pod " + namespace + "/" + name
	nowhere := time.AfterFunc(placed, func() { cancel(errLate) })
	defer nowhere.Stop()
	late := time.AfterFunc(start, func() { cancel(errLate) })
	defer late.Stop()
	began := time.Now()
	var lost *time.Timer
	defer func() {
		if lost != nil {
			lost.Stop()
		}
	}()
	err := c.WaitFor(waiting, pods, namespace, name, func(o *object.Object) (bool, error) {
		if o == nil {
			return false, fmt.Errorf("%s: %w", id, ErrPodGone)
		}
		pod, err := podOf(o)
		if err != nil {
			return false, err
		}
		last = pod
		if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			return true, nil
		}
		if pod.DeletionTimestamp != nil && lost == nil {
			lost = time.AfterFunc(time.Until(pod.DeletionTimestamp.Time)+lostNode, func() {
				cancel(fmt.Errorf("%s: %w: it is being deleted, and its node does not say that it ended", id, ErrPodGone))
			})
		}
		started := false
		for _, s := range pod.Status.ContainerStatuses {
			started = started || s.State.Running != nil
			if w := s.State.Waiting; w != nil && hopeless[w.Reason] {
				return false, fmt.Errorf("container %s (image %s) cannot start: %s: %s", s.Name, s.Image, w.Reason, w.Message)
			}
		}
		if started {
			late.Stop()
		}
		if pod.Spec.NodeName != "" {
			nowhere.Stop()
		}
		return false, nil
	})
	switch cause := context.Cause(waiting); {
	case err == nil || ctx.Err() != nil:
		return last, err
	case errors.Is(cause, errLate):
		return last, fmt.Errorf("%s does not run after %s: %s", id, time.Since(began).Round(time.Second), c.whyNot(ctx, last))
	case errors.Is(cause, ErrPodGone):
		return last, cause
	}
	return last, err
}

var errLate = errors.New("it does not run in time")

// whyNot is what is known of why a pod does not run.
func (c *Cluster) whyNot(ctx context.Context, pod *corev1.Pod) string {
	if pod == nil {
		return "it was never seen"
	}
	for _, cond := range pod.Status.Conditions {
		if cond.Type == corev1.PodScheduled && cond.Status == corev1.ConditionFalse {
			return cond.Reason + ": " + cond.Message
		}
	}
	if said := c.LastWarning(ctx, pod.Namespace, string(pod.UID)); said != "" {
		return said
	}
	for _, s := range pod.Status.ContainerStatuses {
		if w := s.State.Waiting; w != nil {
			return w.Reason + " " + w.Message
		}
	}
	return "phase " + string(pod.Status.Phase)
}

// EndPod deletes a pod and waits until it is gone. One that runs gets its grace
// period, all others go at once.
func (c *Cluster) EndPod(ctx context.Context, pod *corev1.Pod) error {
	if pod.Status.Phase != corev1.PodRunning {
		return c.DeletePod(ctx, pod.Namespace, pod.Name, string(pod.UID))
	}
	err := c.Delete(ctx, pods, pod.Namespace, pod.Name, DeleteOptions{UID: string(pod.UID)})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return c.WaitFor(ctx, pods, pod.Namespace, pod.Name, func(o *object.Object) (bool, error) {
		return o == nil || o.UID != string(pod.UID), nil
	})
}
