package capture

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
func shows(pod *corev1.Pod, volume string) (container, path string) {
	for _, c := range pod.Spec.Containers {
		for _, m := range c.VolumeMounts {
			if m.Name == volume && m.SubPath == "" && m.SubPathExpr == "" && inContainer(pod, c.Name) {
				return c.Name, m.MountPath
			}
		}
	}
	return "", ""
}
