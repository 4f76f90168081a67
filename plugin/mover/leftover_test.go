package mover

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
)

// A pod of a run that goes on is another one's data: it may only be taken when
// its maker is known, or must be presumed, to be gone.
func TestLeftBehind(t *testing.T) {
	now := time.Now()
	mine := strings.Split(thisProcess(), "/")
	owner := func(change func(o []string)) string {
		o := append([]string(nil), mine...)
		change(o)
		return strings.Join(o, "/")
	}
	for name, x := range map[string]struct {
		owner string
		age   time.Duration
		phase corev1.PodPhase
		want  bool
	}{
		"this process":                        {thisProcess(), 3 * time.Hour, corev1.PodRunning, false},
		"this process, but the pod has ended": {thisProcess(), time.Minute, corev1.PodSucceeded, true},
		"its waiting program gave up":         {thisProcess(), time.Minute, corev1.PodFailed, true},
		"a process that lives":                {owner(func(o []string) { o[2], o[3] = "1", processStart(1) }), 3 * time.Hour, corev1.PodRunning, false},
		"a pid that is used again":            {owner(func(o []string) { o[2] = "1" }), time.Second, corev1.PodRunning, true},
		"a pid that is gone":                  {owner(func(o []string) { o[2] = strconv.Itoa(1 << 30) }), time.Second, corev1.PodPending, true},
		"another host, young":                 {owner(func(o []string) { o[0] = "elsewhere.example.org" }), 59 * time.Minute, corev1.PodRunning, false},
		"another host, old":                   {owner(func(o []string) { o[0] = "elsewhere.example.org" }), 61 * time.Minute, corev1.PodRunning, true},
		"before the last boot, young":         {owner(func(o []string) { o[1] = "another" }), time.Minute, corev1.PodRunning, false},
		"no boot id":                          {owner(func(o []string) { o[1] = "unknown" }), time.Minute, corev1.PodRunning, false},
		"nobody's, young":                     {"", time.Minute, corev1.PodRunning, false},
		"nobody's, old":                       {"", 2 * time.Hour, corev1.PodRunning, true},
		"not a pid":                           {owner(func(o []string) { o[2] = "x" }), time.Minute, corev1.PodRunning, false},
	} {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{AnnotationOwner: x.owner}, CreationTimestamp: metav1.NewTime(now.Add(-x.age))},
			Status:     corev1.PodStatus{Phase: x.phase},
		}
		if got := leftBehind(p, now); got != x.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestProcessStart(t *testing.T) {
	first, again := processStart(os.Getpid()), processStart(os.Getpid())
	if first == "" || first != again {
		t.Errorf("this process: %q, then %q", first, again)
	}
	if s := processStart(1 << 30); s != "" {
		t.Errorf("no process: %q", s)
	}
}

// What a helper pod must have: its claim, root, no rights in the cluster, the
// marks by which it is found again.
func TestPod(t *testing.T) {
	p := Pod("shelf", "image:1", "books", true)
	c := p.Spec.Containers[0]
	switch {
	case p.Labels[kube.LabelTemporary] != "true" || p.Annotations[AnnotationOwner] != thisProcess():
		t.Errorf("marks %v %v", p.Labels, p.Annotations)
	case *p.Spec.AutomountServiceAccountToken || *c.SecurityContext.RunAsUser != 0 || p.Spec.RestartPolicy != corev1.RestartPolicyNever:
		t.Errorf("rights %+v", p.Spec)
	case c.VolumeMounts[0].MountPath != Root || !c.VolumeMounts[0].ReadOnly || p.Spec.Volumes[0].PersistentVolumeClaim.ClaimName != "books":
		t.Errorf("volume %+v", p.Spec)
	}
	if Pod("shelf", "image:1", "books", false).Spec.Containers[0].VolumeMounts[0].ReadOnly {
		t.Error("a restore cannot write")
	}
	if one, two := Name(), Name(); one == two {
		t.Errorf("two names are the same: %s", one)
	}
}
