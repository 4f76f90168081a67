package capture

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const (
	// moverRoot is where a mover's container mounts the volume.
	moverRoot = "/volume"
	program   = "/kubectl-backup"
)

func randomSuffix() string {
	var b [4]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// ephemeral reads a volume through a container added to the running pod: the
// only way to a pod's own volumes where its images have no tools.
func (m *mover) ephemeral(ctx context.Context, line *v1alpha1.VolumeLine, sink func(io.Reader, decodeFunc) error) error {
	root, no := int64(0), false
	container := corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
		Name: "kubectl-backup-" + randomSuffix(), Image: m.image, ImagePullPolicy: corev1.PullIfNotPresent,
		Command:         []string{program, "mover", "wait"},
		VolumeMounts:    []corev1.VolumeMount{{Name: line.Volume, MountPath: moverRoot, ReadOnly: true}},
		SecurityContext: &corev1.SecurityContext{RunAsUser: &root, RunAsNonRoot: &no},
	}}
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
		stop.Command = []string{program, "mover", "stop"}
		stop.Stdout, stop.Stderr = io.Discard, io.Discard
		if err := m.cluster.Exec(ctx, stop); err != nil && !errors.Is(err, kube.ErrStreamEnded) {
			line.Warnings = append(line.Warnings, fmt.Sprintf("ephemeral container %s was not stopped and ends by itself: %s", container.Name, oneLine(err)))
		}
	}()
	return m.send(ctx, where, sink)
}

// helper reads a claim through a pod of our own.
func (m *mover) helper(ctx context.Context, line *v1alpha1.VolumeLine, sink func(io.Reader, decodeFunc) error) error {
	pod := HelperPod(line.Ref.Namespace, m.image, line.Ref.Name, true)
	if line.Node != "" {
		// A claim that is in use can often be mounted on that node only.
		pod.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchFields: []corev1.NodeSelectorRequirement{{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{line.Node}}},
			}}},
		}}
	}
	return WithPod(ctx, m.cluster, pod, func(name string) error {
		return m.send(ctx, kube.ExecOptions{Namespace: pod.Namespace, Pod: name, Container: "mover"}, sink)
	})
}

// send runs our own sender in a container that mounts the volume.
func (m *mover) send(ctx context.Context, where kube.ExecOptions, sink func(io.Reader, decodeFunc) error) error {
	stderr := &tail{}
	where.Command = []string{program, "mover", "send", "--root", moverRoot}
	where.Stderr = stderr
	return m.run(ctx, where, func(in io.Reader) error { return sink(in, nil) })
}

// HelperPod is a pod that mounts a claim at /volume and waits to be used.
func HelperPod(namespace, image, claim string, readOnly bool) *corev1.Pod {
	root, no, grace := int64(0), false, int64(0)
	return &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: "kubectl-backup-" + randomSuffix(),
			Labels: map[string]string{LabelTemporary: "true"}, Annotations: map[string]string{AnnotationOwner: thisProcess()},
		},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: &grace,
			AutomountServiceAccountToken: &no, EnableServiceLinks: &no,
			Containers: []corev1.Container{{
				Name: "mover", Image: image, ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{program, "mover", "wait"},
				VolumeMounts:    []corev1.VolumeMount{{Name: "volume", MountPath: moverRoot, ReadOnly: readOnly}},
				SecurityContext: &corev1.SecurityContext{RunAsUser: &root},
			}},
			Volumes: []corev1.Volume{{Name: "volume", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim, ReadOnly: false},
			}}},
		},
	}
}

// WithPod creates a pod, waits until it runs, calls use, and removes the pod
// whatever happens.
func WithPod(ctx context.Context, c *kube.Cluster, pod *corev1.Pod, use func(name string) error) (err error) {
	if err := c.CreatePod(ctx, pod); err != nil {
		return fmt.Errorf("create helper pod in %s: %w", pod.Namespace, err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 60*time.Second)
		defer cancel()
		if deleteErr := c.DeletePod(ctx, pod.Namespace, pod.Name); deleteErr != nil {
			err = errors.Join(err, fmt.Errorf("remove helper pod %s/%s (cleanup does it later): %w", pod.Namespace, pod.Name, deleteErr))
		}
	}()
	waitCtx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if err := c.WaitPodRunning(waitCtx, pod.Namespace, pod.Name); err != nil {
		return fmt.Errorf("helper pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return use(pod.Name)
}
