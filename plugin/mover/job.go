package mover

import (
	"encoding/json"
	"fmt"
	"maps"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/snapshot"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const (
	// defaultRetries and defaultTimeout are spec.mover's.
	defaultRetries = 3
	defaultTimeout = 24 * time.Hour
	// keepEnded is how long the cluster keeps a Job of ours that ended, should
	// nobody of us be there to remove it.
	keepEnded = 10 * time.Minute
	// gracePeriod is what a mover has to make a checkpoint when it is ended.
	gracePeriod = 60 * time.Second
)

// JobRequest says what a Job shall carry.
type JobRequest struct {
	Namespace string
	// Claim is mounted, read-only for a capture.
	Claim string
	// Run is the id of the backup that it is for.
	Run   string
	Image string
	// Mover is the policy's.
	Mover v1alpha1.Mover
	// Node is the only one that the claim can be mounted at now, because a pod
	// there uses it; empty leaves the choice to the scheduler.
	Node string
	// Like is a pod that uses the claim afterwards, or what is known of one: a
	// volume that is only made when somebody uses it has to come to be where that
	// pod can run.
	Like *corev1.PodSpec
	Task Task
	// Blocks lists which blocks of Snapshot, the VolumeSnapshot that the claim was
	// made from, hold data; nil where nobody does.
	Blocks   *snapshot.BlockService
	Snapshot string
}

func (r *JobRequest) retries() int {
	if r.Mover.Retries != nil {
		return *r.Mover.Retries
	}
	return defaultRetries
}

func (r *JobRequest) timeout() time.Duration {
	if r.Mover.Timeout != nil {
		return r.Mover.Timeout.Duration
	}
	return defaultTimeout
}

// capabilities are the smallest sets that do: to read files of every owner, or
// to make them, with their owners, modes, devices and capabilities. All of them
// are allowed at the Pod Security level baseline. DAC_READ_SEARCH sounds like
// less than DAC_OVERRIDE and is not: what a capture could write to is mounted
// read-only, while with the former files of the node outside of the mount can
// be opened by their handles.
func (r *JobRequest) capabilities() []corev1.Capability {
	switch {
	case r.Task.Block:
		return nil
	case r.Task.Direction == Capture:
		return []corev1.Capability{"DAC_OVERRIDE"}
	}
	return []corev1.Capability{"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETFCAP"}
}

func (r *JobRequest) security() *corev1.SecurityContext {
	if r.Mover.SecurityContext != nil {
		return r.Mover.SecurityContext
	}
	root, no, yes := int64(0), false, true
	return &corev1.SecurityContext{
		RunAsUser: &root, RunAsGroup: &root, RunAsNonRoot: &no, Privileged: &no,
		AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
		Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: r.capabilities()},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
}

func (r *JobRequest) resources() corev1.ResourceRequirements {
	if r.Mover.Resources != nil {
		return *r.Mover.Resources
	}
	return corev1.ResourceRequirements{Requests: corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("50m"), corev1.ResourceMemory: resource.MustParse("128Mi"),
	}}
}

// job is the Job of one attempt. Nothing in it is secret.
func (r *JobRequest) job(name string, left time.Duration) *batchv1.Job {
	no, once, parallel := false, int32(0), int32(1)
	ttl, deadline, grace := int32(keepEnded/time.Second), max(int64(left/time.Second), 1), int64(gracePeriod/time.Second)
	replace := batchv1.Failed
	security := r.security()
	mode := int32(0o400)
	if security.RunAsUser != nil && *security.RunAsUser != 0 || security.RunAsNonRoot != nil && *security.RunAsNonRoot {
		mode = 0o444 // the files are root's, and nobody else is in the container
	}
	container := corev1.Container{
		Name: "mover", Image: r.Image, ImagePullPolicy: corev1.PullIfNotPresent,
		Command:         []string{Program, "mover", "task", "--file", TaskFile},
		Env:             []corev1.EnvVar{{Name: "HOME", Value: "/tmp"}},
		Resources:       r.resources(),
		SecurityContext: security,
		VolumeMounts: []corev1.VolumeMount{
			{Name: "task", MountPath: TaskFolder, ReadOnly: true},
			{Name: "scratch", MountPath: "/tmp"},
		},
		TerminationMessagePath: corev1.TerminationMessagePathDefault, TerminationMessagePolicy: corev1.TerminationMessageReadFile,
	}
	if r.Task.Block {
		container.VolumeDevices = []corev1.VolumeDevice{{Name: "volume", DevicePath: Device}}
	} else {
		container.VolumeMounts = append(container.VolumeMounts, corev1.VolumeMount{Name: "volume", MountPath: Root, ReadOnly: r.Task.Direction == Capture})
	}
	scratch := resource.MustParse("1Gi")
	pod := corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: &grace,
		AutomountServiceAccountToken: &no, EnableServiceLinks: &no,
		Containers: []corev1.Container{container},
		Volumes: []corev1.Volume{
			{Name: "volume", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: r.Claim}}},
			{Name: "task", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name, DefaultMode: &mode}}},
			{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &scratch}}},
		},
	}
	place(&pod, r.Mover, r.Node, r.Like)
	if r.Task.Direction == Restore {
		ownVolumes(&pod)
	}
	job := &batchv1.Job{
		TypeMeta:   metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"},
		ObjectMeta: r.metadata(name),
		Spec: batchv1.JobSpec{
			BackoffLimit: &once, Parallelism: &parallel, Completions: &parallel,
			ActiveDeadlineSeconds: &deadline, TTLSecondsAfterFinished: &ttl, PodReplacementPolicy: &replace,
			Template: corev1.PodTemplateSpec{Spec: pod},
		},
	}
	job.Spec.Template.Labels = maps.Clone(job.Labels)
	return job
}

func (r *JobRequest) metadata(name string) metav1.ObjectMeta {
	m := metav1.ObjectMeta{Namespace: r.Namespace, Name: name, Labels: map[string]string{}}
	if r.Run != "" {
		m.Labels[kube.LabelRun] = r.Run
	}
	Mark(&m)
	return m
}

// owned is the metadata of what goes with the Job of the same name.
func (r *JobRequest) owned(name, jobUID string) metav1.ObjectMeta {
	m, yes := r.metadata(name), true
	m.OwnerReferences = []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: name, UID: types.UID(jobUID), Controller: &yes}}
	return m
}

// secret holds the task. It belongs to the Job and goes with it.
func (r *JobRequest) secret(name, jobUID string) (*corev1.Secret, error) {
	task, err := json.Marshal(r.Task)
	if err != nil {
		return nil, fmt.Errorf("encode the task: %w", err)
	}
	yes := true
	s := &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: r.owned(name, jobUID),
		Immutable: &yes, Type: corev1.SecretTypeOpaque, Data: map[string][]byte{"task.json": task},
	}
	maps.Copy(s.Data, r.Task.Files)
	return s, nil
}
