package capture

import (
	"context"
	"fmt"
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// resolve looks at the pods of a unit again, just before it is cut: the plan
// may be minutes old. Claims are looked at by the cut itself. What drifted has a
// warning in its line.
func (r *run) resolve(ctx context.Context, u *unit) {
	pods := map[string]*corev1.Pod{}
	read := func(namespace, name string) (*corev1.Pod, error) {
		key := namespace + "/" + name
		if pod, known := pods[key]; known {
			return pod, nil
		}
		pod, err := r.Plan.Cluster.Typed().CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			pod, err = nil, nil
		}
		if err == nil {
			pods[key] = pod
		}
		return pod, err
	}
	u.hooks = slices.DeleteFunc(slices.Clone(u.hooks), func(i int) bool {
		line := &r.d.Hooks[i]
		pod, err := read(line.Pod.Namespace, line.Pod.Name)
		if err != nil || runs(pod) {
			return false // what cannot be known is found out by freezing it
		}
		return !r.successor(ctx, u, i)
	})
	for _, line := range u.volumes {
		if line.Pod == "" || line.Outcome != v1alpha1.OutcomeInclude {
			continue
		}
		pod, err := read(line.Ref.Namespace, line.Pod)
		if err != nil || runs(pod) && pod.Spec.NodeName == line.Node && (line.Container == "" || inContainer(pod, line.Container)) {
			continue // what cannot be known is found out by reading the volume
		}
		if line.Ref.Kind == "Pod" {
			if pod == nil {
				line.Outcome, line.Method, line.Reason = v1alpha1.OutcomeFailed, "", "its pod is gone since the run was planned, and the volume with it"
			}
			continue
		}
		r.another(ctx, line)
	}
}

// successor finds the pod that took the place of a hook's, by its workload, and
// says whether the hook is to be held in it. Where nothing runs in its place
// there is nothing to hold; where something is about to, the hook has failed.
func (r *run) successor(ctx context.Context, u *unit, hook int) bool {
	line, workload := &r.d.Hooks[hook], r.p.Hooks[hook].Workload
	was := line.Pod.Name
	list, err := r.Plan.Cluster.Typed().CoreV1().Pods(line.Pod.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return true
	}
	starting := ""
	for i := range list.Items {
		pod := &list.Items[i]
		ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
		same := workload != nil && r.isOf(ctx, pod, workload) || workload == nil && pod.Name == was
		taken := slices.ContainsFunc(u.hooks, func(other int) bool {
			h := r.d.Hooks[other]
			return other != hook && h.Hook == line.Hook && h.Pod.Namespace == pod.Namespace && h.Pod.Name == pod.Name
		})
		switch {
		case ended || !same || taken:
		case runs(pod):
			line.Pod.Name = pod.Name
			r.warn("hook %s: pod %s/%s was replaced by %s since the run was planned", line.Hook, line.Pod.Namespace, was, pod.Name)
			return true
		default:
			starting = pod.Name
		}
	}
	if starting == "" {
		line.Outcome, line.Reason = v1alpha1.OutcomeSkipped, "its pod is gone since the run was planned, and none runs in its place"
		return false
	}
	line.Outcome, line.Reason = v1alpha1.OutcomeFailed, fmt.Sprintf("its pod does not run any more, and %s, in its place, does not run yet", starting)
	if r.p.Hooks[hook].OnFailure != v1alpha1.OnFailureContinue {
		u.fail(fmt.Sprintf("the group was not captured: hook %s in pod %s/%s: %s", line.Hook, line.Pod.Namespace, was, line.Reason))
	}
	return false
}

// isOf says whether a workload is above a pod, directly or by one controller.
func (r *run) isOf(ctx context.Context, pod *corev1.Pod, workload *v1alpha1.Ref) bool {
	owner := metav1.GetControllerOf(pod)
	for range 2 {
		switch {
		case owner == nil:
			return false
		case owner.Kind == workload.Kind && owner.Name == workload.Name:
			return true
		}
		group, version := object.SplitAPIVersion(owner.APIVersion)
		k, err := r.Plan.Cluster.FindKind(ctx, group, version, owner.Kind)
		if err != nil {
			return false
		}
		o, err := r.Plan.Cluster.Get(ctx, k, pod.Namespace, owner.Name)
		if err != nil {
			return false
		}
		above, ok := o.Controller()
		if !ok {
			return false
		}
		owner = &metav1.OwnerReference{APIVersion: above.APIVersion, Kind: above.Kind, Name: above.Name}
	}
	return false
}

// another finds another pod that mounts a claim, since the one of the plan is
// gone or has moved.
func (r *run) another(ctx context.Context, line *v1alpha1.VolumeLine) {
	was := line.Pod
	line.Pod, line.Node, line.Container, line.MountPath = "", "", "", ""
	list, err := r.Plan.Cluster.Typed().CoreV1().Pods(line.Ref.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return
	}
	for i := range list.Items {
		pod := &list.Items[i]
		for _, v := range pod.Spec.Volumes {
			if v.PersistentVolumeClaim == nil || v.PersistentVolumeClaim.ClaimName != line.Ref.Name || !runs(pod) || line.Container != "" {
				continue
			}
			line.Pod, line.Node, line.Volume = pod.Name, pod.Spec.NodeName, v.Name
			line.Container, line.MountPath = shows(pod, v.Name)
		}
	}
	if line.Pod == "" {
		line.Warnings = append(line.Warnings, fmt.Sprintf("pod %s, which used it when the run was planned, does not run any more, and no other does", was))
	} else if line.Pod != was {
		line.Warnings = append(line.Warnings, fmt.Sprintf("pod %s, which used it when the run was planned, was replaced by %s", was, line.Pod))
	}
}

func runs(pod *corev1.Pod) bool {
	return pod != nil && pod.Status.Phase == corev1.PodRunning && pod.DeletionTimestamp == nil
}

func inContainer(pod *corev1.Pod, name string) bool {
	for _, s := range pod.Status.ContainerStatuses {
		if s.Name == name {
			return s.State.Running != nil
		}
	}
	return false
}

// shows finds a running container that shows the whole of a volume.
func shows(pod *corev1.Pod, volume string) (container, at string) {
	for _, c := range pod.Spec.Containers {
		for _, m := range c.VolumeMounts {
			if m.Name == volume && m.SubPath == "" && m.SubPathExpr == "" && inContainer(pod, c.Name) {
				return c.Name, path.Join("/", m.MountPath) // as the kubelet takes it
			}
		}
	}
	return "", ""
}
