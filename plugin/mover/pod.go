// Package mover is the containers of ours that carry a volume's bytes: the
// helper pod that mounts a claim and waits to be used, and what dead runs left
// of such pods. Capture reads through them and restore writes through them.
//
// It does not know what flows: the bytes are a stream of plugin/volume.
package mover

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
)

const (
	// Root is where a mover's container mounts the volume.
	Root = "/volume"
	// Program is this program inside the mover image.
	Program = "/kubectl-backup"
)

// Name is a new name for a mover's pod or container.
func Name() string {
	var b [4]byte
	rand.Read(b[:]) // never fails
	return "kubectl-backup-" + hex.EncodeToString(b[:])
}

// DevicePod is a pod that has a block volume as its device, and waits to be
// used.
func DevicePod(namespace, image, claim string) *corev1.Pod {
	pod := Pod(namespace, image, claim, false)
	c := &pod.Spec.Containers[0]
	c.VolumeMounts, c.VolumeDevices = nil, []corev1.VolumeDevice{{Name: "volume", DevicePath: Device}}
	return pod
}

// Pod is a pod that mounts a claim at /volume and waits to be used.
func Pod(namespace, image, claim string, readOnly bool) *corev1.Pod {
	root, no, grace := int64(0), false, int64(0)
	pod := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: Name()},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: &grace,
			AutomountServiceAccountToken: &no, EnableServiceLinks: &no,
			Containers: []corev1.Container{{
				Name: "mover", Image: image, ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{Program, "mover", "wait"},
				VolumeMounts:    []corev1.VolumeMount{{Name: "volume", MountPath: Root, ReadOnly: readOnly}},
				SecurityContext: &corev1.SecurityContext{RunAsUser: &root},
			}},
			Volumes: []corev1.Volume{{Name: "volume", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim, ReadOnly: false},
			}}},
		},
	}
	Mark(&pod.ObjectMeta)
	return pod
}

// ErrNotRemoved says that a helper pod did its work and is still there.
var ErrNotRemoved = errors.New("the helper pod was not removed (the next run or cleanup does it)")

// With creates a pod, waits until it runs, calls use, and removes the pod
// whatever happens. ErrNotRemoved means that all else went well.
func With(ctx context.Context, c *kube.Cluster, pod *corev1.Pod, use func(name string) error) (err error) {
	defer func() {
		// By its name, which no other pod has, since also a request that was
		// given up may have made it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 60*time.Second)
		defer cancel()
		if deleteErr := c.DeletePod(ctx, pod.Namespace, pod.Name, ""); deleteErr != nil && err == nil {
			err = fmt.Errorf("pod %s/%s: %w: %w", pod.Namespace, pod.Name, ErrNotRemoved, deleteErr)
		}
	}()
	made, err := c.CreatePod(ctx, pod)
	if err != nil {
		return fmt.Errorf("create helper pod in %s: %w", pod.Namespace, err)
	}
	waitCtx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if _, err := c.WaitPodRunning(waitCtx, pod.Namespace, pod.Name); err != nil {
		if said := c.LastWarning(ctx, pod.Namespace, string(made.UID)); said != "" { // a volume that cannot be mounted is only told there
			err = fmt.Errorf("%w; %s", err, said)
		}
		return fmt.Errorf("helper pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return use(pod.Name)
}
