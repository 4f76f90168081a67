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
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
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

// Helper is a pod that a volume's bytes are read from, or sent to, through the
// API server.
type Helper struct {
	Namespace, Image string
	// Claim is mounted at Root, read-only where it says so, or is the device at
	// Device where it is Block.
	Claim           string
	ReadOnly, Block bool
	// Mover is the policy's; Node and Like are as for a Job.
	Mover v1alpha1.Mover
	Node  string
	Like  *corev1.PodSpec
}

// At are the flags by which the program in the pod finds the volume.
func (h Helper) At() []string {
	if h.Block {
		return []string{"--device", Device}
	}
	return []string{"--root", Root}
}

// Pod is one that waits to be used.
func (h Helper) Pod() *corev1.Pod {
	root, no, grace := int64(0), false, int64(0)
	container := corev1.Container{
		Name: "mover", Image: h.Image, ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{Program, "mover", "wait"},
		SecurityContext: &corev1.SecurityContext{RunAsUser: &root},
	}
	if h.Block {
		container.VolumeDevices = []corev1.VolumeDevice{{Name: "volume", DevicePath: Device}}
	} else {
		container.VolumeMounts = []corev1.VolumeMount{{Name: "volume", MountPath: Root, ReadOnly: h.ReadOnly}}
	}
	if h.Mover.SecurityContext != nil {
		container.SecurityContext = h.Mover.SecurityContext
	}
	if h.Mover.Resources != nil {
		container.Resources = *h.Mover.Resources
	}
	pod := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: h.Namespace, Name: Name()},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: &grace,
			AutomountServiceAccountToken: &no, EnableServiceLinks: &no,
			Containers: []corev1.Container{container},
			Volumes: []corev1.Volume{{Name: "volume", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: h.Claim, ReadOnly: false},
			}}},
		},
	}
	place(&pod.Spec, h.Mover, h.Node, h.Like)
	if !h.ReadOnly {
		ownVolumes(&pod.Spec)
	}
	Mark(&pod.ObjectMeta)
	return pod
}

// ownVolumes lets a container that is not root's write to a new volume, whose
// root folder is root's as a rule. A volume that is only read stays as it is.
func ownVolumes(pod *corev1.PodSpec) {
	s := pod.Containers[0].SecurityContext
	if s == nil || s.RunAsUser == nil || *s.RunAsUser == 0 {
		return
	}
	group := s.RunAsGroup
	if group == nil {
		group = s.RunAsUser
	}
	pod.SecurityContext = &corev1.PodSecurityContext{FSGroup: group}
}

// place says where a pod of ours may run: where the policy says, where the pod
// can that uses the volume afterwards, and, where a node is named, only there.
func place(pod *corev1.PodSpec, m v1alpha1.Mover, node string, like *corev1.PodSpec) {
	pod.ServiceAccountName, pod.NodeSelector, pod.Tolerations = m.ServiceAccountName, m.NodeSelector, m.Tolerations
	if like != nil {
		pod.NodeSelector = maps.Clone(like.NodeSelector)
		if pod.NodeSelector == nil {
			pod.NodeSelector = map[string]string{}
		}
		maps.Copy(pod.NodeSelector, m.NodeSelector)
		pod.Tolerations = slices.Concat(like.Tolerations, m.Tolerations)
		if like.Affinity != nil {
			pod.Affinity = &corev1.Affinity{NodeAffinity: like.Affinity.NodeAffinity}
		}
	}
	if node != "" {
		pod.Affinity = onNode(node)
		// The volume is there whatever else may not be scheduled there.
		pod.Tolerations = append(slices.Clone(pod.Tolerations), corev1.Toleration{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule})
	}
}

// onNode pins a pod to a node by its name, as the scheduler itself does for
// DaemonSets: labels can be changed.
func onNode(name string) *corev1.Affinity {
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{
			{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{name}},
		}}},
	}}}
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
