package capture

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/mover"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// ephemeral reads a volume through a container added to the running pod: the
// only way to a pod's own volumes where its images have no tools.
func (m *carrier) ephemeral(ctx context.Context, line *v1alpha1.VolumeLine, sink func(io.Reader, decodeFunc) error) error {
	root, no := int64(0), false
	container := corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
		Name: mover.Name(), Image: m.image, ImagePullPolicy: corev1.PullIfNotPresent,
		Command:         []string{mover.Program, "mover", "wait"},
		VolumeMounts:    []corev1.VolumeMount{{Name: line.Volume, MountPath: mover.Root, ReadOnly: true}},
		SecurityContext: cmp.Or(m.mover.SecurityContext, &corev1.SecurityContext{RunAsUser: &root, RunAsNonRoot: &no}),
	}}
	pod, err := m.cluster.Typed().CoreV1().Pods(line.Ref.Namespace).Get(ctx, line.Pod, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("look at pod %s: %w", line.Pod, err)
	}
	warning, err := kube.RoomForEphemeral(line.Pod, len(pod.Spec.EphemeralContainers))
	if err != nil {
		return err
	}
	if warning != "" && !slices.Contains(line.Warnings, warning) {
		line.Warnings = append(line.Warnings, warning)
	}
	if err := m.cluster.AddEphemeralContainer(ctx, line.Ref.Namespace, line.Pod, container); err != nil {
		return fmt.Errorf("add an ephemeral container to pod %s: %w", line.Pod, err)
	}
	where := kube.ExecOptions{Namespace: line.Ref.Namespace, Pod: line.Pod, Container: container.Name}
	defer func() {
		// The container cannot be taken out of the pod again, but it can end.
		// It also ends by itself when nobody has used it for a while.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		stop := where
		stop.Command = []string{mover.Program, "mover", "stop"}
		stop.Stdout, stop.Stderr = io.Discard, io.Discard
		if err := m.cluster.Exec(ctx, stop); err != nil && !errors.Is(err, kube.ErrStreamEnded) {
			line.Warnings = append(line.Warnings, fmt.Sprintf("ephemeral container %s was not stopped and ends by itself: %s", container.Name, oneLine(err)))
		}
	}()
	return m.send(ctx, where, sink, "--root", mover.Root)
}

// helper reads a claim through a pod of our own. A claim that is in use can
// often be mounted on one node only.
func (m *carrier) helper(claim, node string, like *corev1.PodSpec) func(context.Context, *v1alpha1.VolumeLine, func(io.Reader, decodeFunc) error) error {
	return func(ctx context.Context, line *v1alpha1.VolumeLine, sink func(io.Reader, decodeFunc) error) error {
		h := mover.Helper{
			Namespace: line.Ref.Namespace, Image: m.image, Claim: claim, ReadOnly: true, Block: line.VolumeMode == "Block", Mover: m.mover, Node: node, Like: like,
		}
		pod := h.Pod()
		err := mover.With(ctx, m.cluster, pod, func(name string) error {
			return m.send(ctx, kube.ExecOptions{Namespace: pod.Namespace, Pod: name, Container: "mover"}, sink, h.At()...)
		})
		if errors.Is(err, mover.ErrNotRemoved) {
			line.Warnings = append(line.Warnings, oneLine(err))
			return nil
		}
		return err
	}
}

// send runs our own sender in a container that has the volume; from are its
// flags that say where.
func (m *carrier) send(ctx context.Context, where kube.ExecOptions, sink func(io.Reader, decodeFunc) error, from ...string) error {
	where.Command = append([]string{mover.Program, "mover", "send", "--attended"}, from...)
	return m.run(ctx, where, func(in io.Reader) error { return sink(in, nil) })
}
