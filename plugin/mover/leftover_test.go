package mover

import (
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// A pod of a run that goes on is another one's data: it may only be taken when
// its maker is known, or must be presumed, to be gone.
func TestLeftBehind(t *testing.T) {
	now := time.Now()
	mine := strings.Split(Owner(), "/")
	owner := func(change func(o []string)) string {
		o := append([]string(nil), mine...)
		change(o)
		return strings.Join(o, "/")
	}
	running := `{"phase":"Running"}`
	ended := `{"conditions":[{"type":"Failed","status":"True"}]}`
	there := func(o []string) { o[0] = "elsewhere.example.org" }
	for name, x := range map[string]struct {
		kind, owner  string
		age          time.Duration
		spec, status string
		want         bool
	}{
		"this process":                        {"Pod", Owner(), 30 * time.Hour, "", running, false},
		"this process, but the pod has ended": {"Pod", Owner(), time.Minute, "", `{"phase":"Succeeded"}`, true},
		"its waiting program gave up":         {"Pod", Owner(), time.Minute, "", `{"phase":"Failed"}`, true},
		"a process that lives":                {"Pod", owner(func(o []string) { o[2], o[3] = "1", processStart(1) }), 30 * time.Hour, "", running, false},
		"a pid that is used again":            {"Pod", owner(func(o []string) { o[2] = "1" }), time.Second, "", running, true},
		"a pid that is gone":                  {"Pod", owner(func(o []string) { o[2] = strconv.Itoa(1 << 30) }), time.Second, "", `{"phase":"Pending"}`, true},
		"another host, in use":                {"Pod", owner(there), 24 * time.Hour, "", running, false},
		"another host, for too long":          {"Pod", owner(there), 26 * time.Hour, "", running, true},
		"another host, still pending":         {"Pod", owner(there), 59 * time.Minute, "", `{"phase":"Pending"}`, false},
		"another host, pending for too long":  {"Pod", owner(there), 61 * time.Minute, "", `{"phase":"Pending"}`, true},
		"before the last boot, young":         {"Pod", owner(func(o []string) { o[1] = "another" }), time.Minute, "", running, false},
		"no boot id":                          {"Pod", owner(func(o []string) { o[1] = "unknown" }), time.Minute, "", running, false},
		"nobody's, young":                     {"Pod", "", time.Minute, "", running, false},
		"nobody's, old":                       {"Pod", "", 26 * time.Hour, "", running, true},
		"not a pid":                           {"Pod", owner(func(o []string) { o[2] = "x" }), time.Minute, "", running, false},

		"a Job that ended, whose result is to be read": {"Job", Owner(), time.Hour, "", ended, false},
		"a Job of a dead process":                      {"Job", owner(func(o []string) { o[2] = "1" }), time.Second, "", "{}", true},
		"another host's Job, within its time":          {"Job", owner(there), 29 * time.Hour, `{"activeDeadlineSeconds":104400}`, "{}", false},
		"another host's Job, beyond its time":          {"Job", owner(there), 31 * time.Hour, `{"activeDeadlineSeconds":104400}`, "{}", true},
		"another host's Job, ended":                    {"Job", owner(there), 2 * time.Hour, `{"activeDeadlineSeconds":104400}`, ended, true},
		"another host's Secret that no Job took":       {"Secret", owner(there), 2 * time.Hour, "", "{}", true},
		"a namespace of a drill that goes on":          {"Namespace", Owner(), time.Hour, "", `{"phase":"Active"}`, false},
		"a namespace of a drill that was killed":       {"Namespace", owner(func(o []string) { o[2] = "1" }), time.Second, "", `{"phase":"Active"}`, true},
		"a namespace of another host's drill":          {"Namespace", owner(there), 24 * time.Hour, "", `{"phase":"Active"}`, false},
		"another host's snapshot":                      {"VolumeSnapshot", owner(there), 24 * time.Hour, "", "{}", false},
		"another host's old snapshot":                  {"VolumeSnapshot", owner(there), 26 * time.Hour, "", "{}", true},
		"a claim of a dead process":                    {"PersistentVolumeClaim", owner(func(o []string) { o[2] = "1" }), time.Second, "", "{}", true},
	} {
		o := thing{Metadata: metav1.ObjectMeta{Annotations: map[string]string{AnnotationOwner: x.owner}, CreationTimestamp: metav1.NewTime(now.Add(-x.age))}}
		require.NoError(t, json.Unmarshal([]byte(x.status), &o.Status))
		if x.spec != "" {
			require.NoError(t, json.Unmarshal([]byte(x.spec), &o.Spec))
		}
		k := temporaryKind{kind: x.kind}
		if got := k.leftBehind(&o, Search{}, now); got != x.want {
			t.Errorf("%s: %v", name, got)
		}
		controller := true
		o.Metadata.OwnerReferences = []metav1.OwnerReference{{Controller: &controller}}
		require.False(t, k.leftBehind(&o, Search{}, now), "%s, with a controller that takes it along", name)
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
	h := Helper{Namespace: "shelf", Image: "image:1", Claim: "books", ReadOnly: true}
	p := h.Pod()
	c := p.Spec.Containers[0]
	switch {
	case p.Labels[kube.LabelTemporary] != "true" || p.Annotations[AnnotationOwner] != Owner():
		t.Errorf("marks %v %v", p.Labels, p.Annotations)
	case *p.Spec.AutomountServiceAccountToken || *c.SecurityContext.RunAsUser != 0 || p.Spec.RestartPolicy != corev1.RestartPolicyNever:
		t.Errorf("rights %+v", p.Spec)
	case c.VolumeMounts[0].MountPath != Root || !c.VolumeMounts[0].ReadOnly || p.Spec.Volumes[0].PersistentVolumeClaim.ClaimName != "books":
		t.Errorf("volume %+v", p.Spec)
	}
	h.ReadOnly = false
	if h.Pod().Spec.Containers[0].VolumeMounts[0].ReadOnly {
		t.Error("a restore cannot write")
	}
	// What the policy says of movers holds for this one as well.
	user, requests := int64(1234), corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")}
	h.Block, h.Node = true, "n1"
	h.Mover = v1alpha1.Mover{
		SecurityContext: &corev1.SecurityContext{RunAsUser: &user}, Resources: &corev1.ResourceRequirements{Requests: requests},
		ServiceAccountName: "carrier", NodeSelector: map[string]string{"disk": "fast"}, Tolerations: []corev1.Toleration{{Key: "only"}},
	}
	p = h.Pod()
	c = p.Spec.Containers[0]
	require.Empty(t, c.VolumeMounts)
	require.Equal(t, Device, c.VolumeDevices[0].DevicePath)
	require.Equal(t, user, *c.SecurityContext.RunAsUser)
	require.Equal(t, requests, c.Resources.Requests)
	require.Equal(t, user, *p.Spec.SecurityContext.FSGroup, "it writes to what is root's")
	require.Equal(t, "carrier", p.Spec.ServiceAccountName)
	require.Equal(t, h.Mover.NodeSelector, p.Spec.NodeSelector)
	require.Len(t, p.Spec.Tolerations, 2, "its own, and that of what is on the node already")
	require.Equal(t, onNode("n1"), p.Spec.Affinity)
	if one, two := Name(), Name(); one == two {
		t.Errorf("two names are the same: %s", one)
	}
}

// A label of ours on an application's claim is as old as itself, not as the
// claim; whoever controls the claim does not take it along.
func TestLeftBehindLabel(t *testing.T) {
	k := temporaryKinds[len(temporaryKinds)-1]
	require.True(t, k.labelOnly)
	_, marks := CutMark("group")
	dead := strings.Replace(Owner(), "/"+strconv.Itoa(os.Getpid())+"/", "/1/", 1)
	now := time.Now()
	for name, x := range map[string]struct {
		mark string
		want bool
	}{
		"mine":                  {marks[kube.AnnotationCutOwner], false},
		"a dead process'":       {dead + " " + now.Format(time.RFC3339), true},
		"another host's, new":   {"elsewhere/b/1/2 " + now.Add(-time.Minute).Format(time.RFC3339), false},
		"another host's, old":   {"elsewhere/b/1/2 " + now.Add(-2*time.Hour).Format(time.RFC3339), true},
		"nobody's, with no age": {"", true},
	} {
		o := thing{Metadata: metav1.ObjectMeta{Annotations: map[string]string{kube.AnnotationCutOwner: x.mark}, CreationTimestamp: metav1.NewTime(now.Add(-1000 * time.Hour))}}
		require.Equal(t, x.want, k.leftBehind(&o, Search{}, now), name)
	}
}
