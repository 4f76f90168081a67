package kube

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// podIn is a pod in a state, as the server would list it.
func podIn(change func(*corev1.Pod)) string {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "den", UID: "1"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodPending},
	}
	change(pod)
	raw, _ := json.Marshal(pod)
	return `{"apiVersion":"v1","kind":"Pod",` + string(raw[1:])
}

func container(state corev1.ContainerState) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", Image: "shop/tool:1", State: state}}
	}
}

func waiting(reason string) func(*corev1.Pod) {
	return container(corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: "because"}})
}

func TestAPodThatWillNotRunIsGivenUpAtOnce(t *testing.T) {
	for name, x := range map[string]struct {
		change func(*corev1.Pod)
		says   []string
	}{
		"image":      {waiting("ImagePullBackOff"), []string{"den/p", "container main", "shop/tool:1", "ImagePullBackOff", "because"}},
		"name":       {waiting("InvalidImageName"), []string{"InvalidImageName"}},
		"never pull": {waiting("ErrImageNeverPull"), []string{"ErrImageNeverPull"}},
		"create":     {waiting("CreateContainerError"), []string{"CreateContainerError", "because"}},
		"config":     {waiting("CreateContainerConfigError"), []string{"CreateContainerConfigError"}},
		"crash":      {waiting("CrashLoopBackOff"), []string{"CrashLoopBackOff"}},
		"ended":      {container(corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 3, Reason: "Error"}}), []string{"exit code 3"}},
		"init": {func(p *corev1.Pod) {
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "first", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff"}}}}
		}, []string{"container first"}},
		"evicted": {func(p *corev1.Pod) { p.Status.Phase, p.Status.Reason = corev1.PodFailed, "Evicted" }, []string{"Evicted"}},
		"deleted": {func(p *corev1.Pod) { now := metav1.Now(); p.DeletionTimestamp = &now }, []string{"being deleted"}},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, err := against(t, &story{steps: []string{listed(podIn(x.change))}}).WaitPodRunning(t.Context(), "den", "p")
			if err == nil || time.Since(start) > time.Second {
				t.Fatalf("error %v after %s", err, time.Since(start))
			}
			for _, s := range x.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("error %q does not say %q", err, s)
				}
			}
		})
	}
}

func TestAPodThatIsOnlySlowIsWaitedFor(t *testing.T) {
	unschedulable := func(p *corev1.Pod) {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "0/3 nodes"}}
	}
	initDone := func(p *corev1.Pod) {
		p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "first", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}}
	}
	running := container(corev1.ContainerState{Running: &corev1.ContainerStateRunning{}})
	steps := []string{listed(podIn(unschedulable)), event("MODIFIED", podIn(waiting("ContainerCreating"))) + event("MODIFIED", podIn(waiting("ErrImagePull"))) +
		event("MODIFIED", podIn(initDone)) + event("MODIFIED", podIn(running))}
	pod, err := against(t, &story{steps: steps}).WaitPodRunning(t.Context(), "den", "p")
	if err != nil || pod.Name != "p" {
		t.Fatalf("%v, %v", pod, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = against(t, &story{steps: []string{listed(podIn(unschedulable))}}).WaitPodRunning(ctx, "den", "p")
	if err == nil || !strings.Contains(err.Error(), "PodScheduled=False (Unschedulable)") {
		t.Fatalf("error %v", err)
	}
	_, err = against(t, &story{steps: []string{listed(podIn(initDone)), event("DELETED", podIn(initDone))}}).WaitPodRunning(t.Context(), "den", "p")
	if err == nil || !strings.Contains(err.Error(), "was deleted") {
		t.Fatalf("error %v", err)
	}
}

// What other containers of an application's pod do is not ours to judge: they
// have ended as they should, or fail and are started again.
func TestContainersOfOthersMayEnd(t *testing.T) {
	states := map[string]corev1.ContainerState{
		"first": {Terminated: &corev1.ContainerStateTerminated{Reason: "Completed"}},
		"main":  {Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
		"side":  {Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error"}},
		"ours":  {Running: &corev1.ContainerStateRunning{}},
	}
	of := func(names ...string) (list []corev1.ContainerStatus) {
		for _, name := range names {
			list = append(list, corev1.ContainerStatus{Name: name, State: states[name]})
		}
		return list
	}
	pod := func(phase corev1.PodPhase, ours ...string) string {
		return podIn(func(p *corev1.Pod) {
			p.Status.Phase, p.Status.InitContainerStatuses, p.Status.ContainerStatuses = phase, of("first", "side"), of("main", "side")
			p.Status.EphemeralContainerStatuses = of(ours...)
		})
	}
	steps := []string{listed(pod(corev1.PodPending)), event("MODIFIED", pod(corev1.PodRunning))}
	if err := against(t, &story{steps: steps}).WaitPodStarted(t.Context(), "den", "p"); err != nil {
		t.Error(err)
	}
	steps = []string{pod(corev1.PodRunning), listed(pod(corev1.PodRunning)), event("MODIFIED", pod(corev1.PodRunning, "ours"))}
	ours := corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "ours"}}
	if err := against(t, &story{steps: steps}).AddEphemeralContainer(t.Context(), "den", "p", ours); err != nil {
		t.Error(err)
	}
	// One of ours has done its work as well.
	done := podIn(func(p *corev1.Pod) {
		p.Status.Phase, p.Status.InitContainerStatuses = corev1.PodRunning, of("first")
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", State: states["ours"]}}
	})
	if _, err := against(t, &story{steps: []string{listed(done)}}).WaitPodRunning(t.Context(), "den", "p"); err != nil {
		t.Error(err)
	}
	err := against(t, &story{steps: []string{listed(podIn(waiting("ErrImageNeverPull")))}}).WaitPodStarted(t.Context(), "den", "p")
	if err == nil || !strings.Contains(err.Error(), "ErrImageNeverPull") {
		t.Errorf("error %v", err)
	}
}

func TestAQuotaIsToldInTheServersWords(t *testing.T) {
	c := against(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		refuse(w, 403, metav1.StatusReasonForbidden, `pods "p" is forbidden: exceeded quota: small`, "")
	}))
	_, err := c.CreatePod(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "den"}})
	if _, _, denied := Denied(err); err == nil || denied || !strings.Contains(err.Error(), "exceeded quota: small") {
		t.Fatalf("error %v", err)
	}
}
