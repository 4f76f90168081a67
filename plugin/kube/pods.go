package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
)

// maxUnschedulable is how long a pod may be called unschedulable before that is
// believed: claims are being bound and nodes being added meanwhile.
const maxUnschedulable = time.Minute

// hopeless are the reasons a container waits for that waiting does not mend.
var hopeless = map[string]bool{
	"ImagePullBackOff": true, "InvalidImageName": true, "ErrImageNeverPull": true, "ImageInspectError": true,
	"CreateContainerConfigError": true, "CreateContainerError": true, "RunContainerError": true, "CrashLoopBackOff": true,
}

// CreatePod makes a pod. A quota or an admission policy that forbids it is in
// the error, in the server's words.
func (c *Cluster) CreatePod(ctx context.Context, pod *corev1.Pod) (*corev1.Pod, error) {
	pod = pod.DeepCopy()
	pod.APIVersion, pod.Kind = "v1", "Pod"
	raw, err := json.Marshal(pod)
	if err != nil {
		return nil, fmt.Errorf("encode pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	made, err := c.Create(ctx, pods, pod.Namespace, raw, WriteOptions{})
	if err != nil {
		return nil, err
	}
	return podOf(made)
}

// WaitPodRunning waits until every container of a pod runs. It ends early, with
// the reason, when that will not come to be: an image that cannot be pulled, a
// container that cannot be made or that ended, a pod that fits on no node.
func (c *Cluster) WaitPodRunning(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	var running *corev1.Pod
	err := c.waitPod(ctx, namespace, name, containersProblem, func(pod *corev1.Pod) (bool, error) {
		if len(pod.Status.ContainerStatuses) < len(pod.Spec.Containers) {
			return false, nil
		}
		for _, s := range pod.Status.ContainerStatuses {
			if s.State.Running == nil {
				return false, nil
			}
		}
		running = pod
		return true, nil
	})
	return running, err
}

// WaitPodStarted waits until a pod that is not ours has started: its containers
// may end, or fail and be started again, without us. It ends early where the pod
// will not start.
func (c *Cluster) WaitPodStarted(ctx context.Context, namespace, name string) error {
	return c.waitPod(ctx, namespace, name, startProblem, func(pod *corev1.Pod) (bool, error) {
		return pod.Status.Phase == corev1.PodRunning, nil
	})
}

// How many ephemeral containers a pod may come to have. Ended ones can never be
// taken out, and where a pod has grown to what the API server takes, the kubelet
// cannot say any more how it is: 1.5 MiB, of which each of ours takes about 2 KiB.
const (
	mostEphemeral = 256
	manyEphemeral = mostEphemeral / 2
)

// RoomForEphemeral says whether a pod that has n ephemeral containers can get one
// more, and warns where there are many.
func RoomForEphemeral(pod string, n int) (warning string, err error) {
	switch {
	case n >= mostEphemeral:
		return "", fmt.Errorf("pod %s has %d ephemeral containers, nearly all of them ended, which nothing can take out of it; more would make the pod too large to be updated. Let it be replaced, or give its image GNU tar", pod, n)
	case n >= manyEphemeral:
		return fmt.Sprintf("pod %s has %d ephemeral containers, which stay for as long as it does; from %d on its volumes cannot be read in this way until it is replaced", pod, n, mostEphemeral), nil
	}
	return "", nil
}

// AddEphemeralContainer adds a container to a running pod and waits until it
// runs, whatever the others do. It cannot be taken out again: it stays, ended,
// for as long as the pod.
func (c *Cluster) AddEphemeralContainer(ctx context.Context, namespace, pod string, container corev1.EphemeralContainer) error {
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"ephemeralContainers": []corev1.EphemeralContainer{container}}})
	if err != nil {
		return fmt.Errorf("encode ephemeral container %s: %w", container.Name, err)
	}
	if _, err := c.PatchSubresource(ctx, pods, namespace, pod, "ephemeralcontainers", types.StrategicMergePatchType, patch, WriteOptions{}); err != nil {
		return err
	}
	return c.waitPod(ctx, namespace, pod, func(*corev1.Pod) error { return nil }, func(p *corev1.Pod) (bool, error) {
		for _, s := range p.Status.EphemeralContainerStatuses {
			if s.Name != container.Name {
				continue
			}
			if err := containerProblem(s); err != nil {
				return false, fmt.Errorf("pod %s/%s: %w", namespace, pod, err)
			}
			return s.State.Running != nil, nil
		}
		return false, nil
	})
}

// DeletePod deletes a pod at once, without grace, and waits until it is gone.
// A pod that is already gone is no error. With a uid, a pod of the same name
// that is another one is left alone.
func (c *Cluster) DeletePod(ctx context.Context, namespace, name, uid string) error {
	now := int64(0)
	err := c.Delete(ctx, pods, namespace, name, DeleteOptions{UID: uid, Grace: &now, Propagation: "Background"})
	if apierrors.IsNotFound(err) || uid != "" && apierrors.IsConflict(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return c.WaitFor(ctx, pods, namespace, name, func(o *object.Object) (bool, error) {
		return o == nil || uid != "" && o.UID != uid, nil
	})
}

// errUnschedulable ends a look at a pod, not yet the wait.
var errUnschedulable = errors.New("unschedulable")

// waitPod waits for a pod that exists, and ends early when it has a problem:
// one of its own, or one that problem finds in its containers.
func (c *Cluster) waitPod(ctx context.Context, namespace, name string, problem func(*corev1.Pod) error, cond func(*corev1.Pod) (bool, error)) error {
	waiting, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var nowhere *time.Timer
	seen := false
	err := c.WaitFor(waiting, pods, namespace, name, func(o *object.Object) (bool, error) {
		if o == nil {
			if seen {
				return false, fmt.Errorf("pod %s/%s was deleted while it was waited for", namespace, name)
			}
			return false, nil
		}
		seen = true
		pod, err := podOf(o)
		if err != nil {
			return false, err
		}
		err = problem(pod)
		if err != nil {
			err = fmt.Errorf("pod %s/%s: %w", namespace, name, err)
		} else {
			err = podProblem(pod)
		}
		if errors.Is(err, errUnschedulable) {
			if nowhere == nil {
				nowhere = time.AfterFunc(maxUnschedulable, func() { cancel(err) })
			}
			return false, nil
		}
		if nowhere != nil {
			nowhere.Stop()
			nowhere = nil
		}
		if err != nil {
			return false, err
		}
		return cond(pod)
	})
	if nowhere != nil {
		nowhere.Stop()
	}
	return err
}

// containersProblem is what keeps a container of a pod from running, or kept it
// from going on.
func containersProblem(pod *corev1.Pod) error {
	for _, s := range pod.Status.InitContainerStatuses {
		if t := s.State.Terminated; t != nil && t.ExitCode == 0 {
			continue // it did its work
		}
		if err := containerProblem(s); err != nil {
			return err
		}
	}
	for _, s := range pod.Status.ContainerStatuses {
		if err := containerProblem(s); err != nil {
			return err
		}
	}
	return nil
}

// startProblem is what keeps the containers of a pod from being started. What
// ended may well be started again.
func startProblem(pod *corev1.Pod) error {
	for _, s := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
		if w := s.State.Waiting; w != nil && w.Reason != "CrashLoopBackOff" && hopeless[w.Reason] {
			return containerProblem(s)
		}
	}
	return nil
}

// podProblem is what keeps a pod as a whole from running, if it is known.
func podProblem(pod *corev1.Pod) error {
	id := "pod " + pod.Namespace + "/" + pod.Name
	switch {
	case pod.DeletionTimestamp != nil:
		return fmt.Errorf("%s is being deleted", id)
	case pod.Status.Phase == corev1.PodFailed, pod.Status.Phase == corev1.PodSucceeded:
		return fmt.Errorf("%s ended before it was used: %s %s %s", id, pod.Status.Phase, pod.Status.Reason, pod.Status.Message)
	}
	for _, cond := range pod.Status.Conditions {
		if cond.Type == corev1.PodScheduled && cond.Status == corev1.ConditionFalse && cond.Reason == corev1.PodReasonUnschedulable {
			return fmt.Errorf("%s is %w: %s", id, errUnschedulable, cond.Message)
		}
	}
	return nil
}

func containerProblem(s corev1.ContainerStatus) error {
	if w := s.State.Waiting; w != nil && hopeless[w.Reason] {
		return fmt.Errorf("container %s (image %s) cannot start: %s: %s", s.Name, s.Image, w.Reason, w.Message)
	}
	if t := s.State.Terminated; t != nil {
		return fmt.Errorf("container %s (image %s) ended with exit code %d: %s %s", s.Name, s.Image, t.ExitCode, t.Reason, t.Message)
	}
	return nil
}

func podOf(o *object.Object) (*corev1.Pod, error) {
	var pod corev1.Pod
	if err := json.Unmarshal(o.Raw, &pod); err != nil {
		return nil, fmt.Errorf("decode %s: %w", o.Ref, err)
	}
	return &pod, nil
}
