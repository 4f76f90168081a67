package mover

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

func request(d Direction) JobRequest {
	return JobRequest{
		Namespace: "shelf", Claim: "books", Run: "20270101-000000-abcdef", Image: "image:1",
		Task: Task{
			Direction: d, Password: "hush-hush", Environment: map[string]string{"AWS_SECRET_ACCESS_KEY": "quiet-please"},
			Remote: v1alpha1.BackupRemoteSpec{Path: "s:x", Config: map[string]map[string]string{"s": {"type": "s3", "secret_access_key": "say-nothing"}}},
			Files:  map[string][]byte{"file-0": []byte("whispered")},
		},
	}
}

// baseline are the capabilities of the Pod Security level of that name.
var baseline = []corev1.Capability{
	"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE",
	"SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}

// A Job shows nobody what its Secret holds, gets no rights in the cluster and
// few on its node, and does not stay when all of us are gone.
func TestJob(t *testing.T) {
	for _, d := range []Direction{Capture, Restore} {
		r := request(d)
		job := r.job("a-name", time.Hour)
		raw, err := json.Marshal(job)
		require.NoError(t, err)
		for _, secret := range []string{"hush-hush", "quiet-please", "say-nothing", "whispered"} {
			require.NotContains(t, string(raw), secret)
		}
		require.Equal(t, "true", job.Labels[kube.LabelTemporary])
		require.Equal(t, Owner(), job.Annotations[AnnotationOwner])
		require.EqualValues(t, 0, *job.Spec.BackoffLimit)
		require.EqualValues(t, 3600, *job.Spec.ActiveDeadlineSeconds)
		require.Positive(t, *job.Spec.TTLSecondsAfterFinished)
		pod := job.Spec.Template.Spec
		require.Equal(t, corev1.RestartPolicyNever, pod.RestartPolicy)
		require.False(t, *pod.AutomountServiceAccountToken)
		require.False(t, *pod.EnableServiceLinks)
		c := pod.Containers[0]
		require.Equal(t, []corev1.Capability{"ALL"}, c.SecurityContext.Capabilities.Drop)
		require.False(t, *c.SecurityContext.AllowPrivilegeEscalation)
		require.True(t, *c.SecurityContext.ReadOnlyRootFilesystem)
		for _, c := range c.SecurityContext.Capabilities.Add {
			require.Contains(t, baseline, c, "namespaces of the level baseline allow it")
		}
		for _, m := range c.VolumeMounts {
			require.Equal(t, m.MountPath == TaskFolder || m.MountPath == Root && d == Capture, m.ReadOnly, m.MountPath)
		}
		require.Empty(t, validation.ValidateLabels(job.Labels, nil))

		secret, err := r.secret("a-name", "uid-of-the-job")
		require.NoError(t, err)
		require.Equal(t, "uid-of-the-job", string(metav1.GetControllerOf(secret).UID))
		task, err := DecodeTask(secret.Data["task.json"])
		require.NoError(t, err)
		require.Equal(t, r.Task.Remote, task.Remote)
		require.Equal(t, "hush-hush", task.Password)
		require.Equal(t, "whispered", string(secret.Data["file-0"]))
	}
}

// What the policy says about movers holds for their Jobs.
func TestJobAsThePolicySays(t *testing.T) {
	r := request(Capture)
	user, retries := int64(77), 9
	r.Node, r.Task.Block = "n1", true
	r.Mover = v1alpha1.Mover{
		ServiceAccountName: "carrier", NodeSelector: map[string]string{"a": "b"}, Retries: &retries, Timeout: &metav1.Duration{Duration: time.Minute},
		Tolerations:     []corev1.Toleration{{Key: "k"}},
		Resources:       &corev1.ResourceRequirements{Limits: corev1.ResourceList{}},
		SecurityContext: &corev1.SecurityContext{RunAsUser: &user},
	}
	pod := r.job("a-name", time.Minute).Spec.Template.Spec
	c := pod.Containers[0]
	require.Equal(t, "carrier", pod.ServiceAccountName)
	require.Equal(t, r.Mover.NodeSelector, pod.NodeSelector)
	require.Contains(t, pod.Tolerations, corev1.Toleration{Key: "k"})
	require.Equal(t, *r.Mover.Resources, c.Resources)
	require.Equal(t, r.Mover.SecurityContext, c.SecurityContext)
	require.EqualValues(t, 0o444, *pod.Volumes[1].Secret.DefaultMode, "another user has to read it")
	require.Equal(t, []corev1.VolumeDevice{{Name: "volume", DevicePath: Device}}, c.VolumeDevices)
	require.Equal(t, "n1", pod.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values[0])
	require.Equal(t, 9, r.retries())
	require.Equal(t, time.Minute, r.timeout())
	require.Len(t, r.Mover.Tolerations, 1, "the policy's own list stays")

	r.Node = ""
	r.Like = &corev1.PodSpec{
		NodeSelector: map[string]string{"zone": "z", "a": "other"}, Tolerations: []corev1.Toleration{{Key: "l"}},
		Affinity: &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{}, PodAntiAffinity: &corev1.PodAntiAffinity{}},
	}
	pod = r.job("a-name", time.Minute).Spec.Template.Spec
	require.Equal(t, map[string]string{"zone": "z", "a": "b"}, pod.NodeSelector, "where the claim's user can run, as the policy says")
	require.Equal(t, []corev1.Toleration{{Key: "l"}, {Key: "k"}}, pod.Tolerations)
	require.NotNil(t, pod.Affinity.NodeAffinity)
	require.Nil(t, pod.Affinity.PodAntiAffinity, "it is not that pod")
}

// A termination message holds what decides, whatever else there is to say.
func TestResultFits(t *testing.T) {
	long := strings.Repeat("a path that is long/", 40)
	r := Result{Part: json.RawMessage(`{"snapshot":"k1"}`), Files: 3, Lost: 2}
	for range 100 {
		r.Issues = append(r.Issues, long)
	}
	got, err := DecodeResult(string(r.Encode()))
	require.NoError(t, err)
	require.LessOrEqual(t, len(r.Encode()), 4096)
	require.JSONEq(t, `{"snapshot":"k1"}`, string(got.Part))
	require.Equal(t, 2, got.Lost)
	require.NotEmpty(t, got.Issues)

	got, err = DecodeResult(string(Result{Fault: Storage, Error: strings.Repeat("ä", 9000)}.Encode()))
	require.NoError(t, err)
	require.Equal(t, Storage, got.Fault)
	require.NotEmpty(t, got.Error)

	got, err = DecodeResult(string(Result{Part: json.RawMessage(`"` + strings.Repeat("x", 5000) + `"`)}.Encode()))
	require.NoError(t, err)
	require.Equal(t, Broken, got.Fault, "a result that lost its part is none")

	_, err = DecodeResult("")
	require.Error(t, err)
}

// How a pod ended decides whether another one goes on.
func TestOutcome(t *testing.T) {
	terminated := func(code int32, reason, message string) corev1.PodStatus {
		return corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, Message: message}}}}}
	}
	evicted := terminated(137, "Error", "")
	evicted.Reason, evicted.Message = "Evicted", "The node was low on resource: memory."
	for name, x := range map[string]struct {
		status corev1.PodStatus
		fault  Fault
		says   string
	}{
		"done":                      {terminated(0, "Completed", `{"files":3}`), "", ""},
		"it says why":               {terminated(1, "Error", `{"fault":"WrongKey","error":"no"}`), WrongKey, "no"},
		"it was ended":              {terminated(1, "Error", `{"fault":"Interrupted","error":"ended"}`), Interrupted, "ended"},
		"out of memory":             {terminated(137, "OOMKilled", ""), Interrupted, "OOMKilled"},
		"killed":                    {terminated(137, "Error", ""), Interrupted, "137"},
		"evicted":                   {evicted, Interrupted, "low on resource"},
		"the node shut down":        {corev1.PodStatus{Reason: "Terminated", Message: "Pod was terminated in response to imminent node shutdown."}, Interrupted, "shutdown"},
		"the node lost it":          {terminated(255, "ContainerStatusUnknown", ""), Interrupted, ""},
		"another program":           {terminated(2, "Error", "usage: something else"), Broken, "something else"},
		"success that says nothing": {terminated(0, "Completed", ""), Broken, "no result"},
	} {
		t.Run(name, func(t *testing.T) {
			result, err := outcome(&corev1.Pod{Status: x.status})
			if x.fault == "" {
				require.NoError(t, err)
				require.EqualValues(t, 3, result.Files)
				return
			}
			require.Equal(t, x.fault, FaultOf(err))
			require.ErrorContains(t, err, x.says)
		})
	}
}
