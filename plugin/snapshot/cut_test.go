package snapshot

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// The moment of a cut is told in nanoseconds by contents, in seconds by
// snapshots, and not at all before it was.
func TestCreated(t *testing.T) {
	for text, want := range map[string]string{
		`"status":{"creationTime":1795580000123456789}`:    "2026-11-25T04:13:20.123456789Z",
		`"status":{"creationTime":"2026-11-25T04:13:20Z"}`: "2026-11-25T04:13:20Z",
		`"status":{"creationTime":0}`:                      "0001-01-01T00:00:00Z",
		`"status":{"readyToUse":false}`:                    "0001-01-01T00:00:00Z",
		`"spec":{}`:                                        "0001-01-01T00:00:00Z",
	} {
		o, err := object.Parse([]byte(`{"apiVersion":"snapshot.storage.k8s.io/v1","kind":"VolumeSnapshot","metadata":{"name":"x","namespace":"y"},` + text + `}`))
		if err != nil {
			t.Fatal(err)
		}
		l, err := readLive(o)
		if err != nil {
			t.Fatal(err)
		}
		if got := l.created().UTC().Format(time.RFC3339Nano); got != want {
			t.Errorf("%s: %s", text, got)
		}
	}
}

// Controllers report conflicts among themselves as errors, and go on: only an
// error that lasts is one.
func TestGraceful(t *testing.T) {
	look := func(g *graceful, cancel context.CancelCauseFunc, message string) {
		var l live
		if message != "" {
			l.Status.Error = &struct {
				Message string `json:"message"`
			}{message}
		}
		g.look(&l, cancel)
	}
	synctest.Test(t, func(t *testing.T) {
		var g graceful
		ctx, cancel := context.WithCancelCause(t.Context())
		look(&g, cancel, "the object has been modified")
		<-time.After(errorGrace - time.Second)
		look(&g, cancel, "")
		<-time.After(2 * errorGrace)
		if ctx.Err() != nil {
			t.Error("an error that passed was believed")
		}
		look(&g, cancel, "no room")
		<-time.After(errorGrace - time.Second)
		look(&g, cancel, "no room in the pool")
		<-time.After(2 * time.Second)
		if cause := context.Cause(ctx); cause == nil || cause.Error() != "no room in the pool" {
			t.Error(cause)
		}
		g.over()
	})
}

func claimOf(ns, name, class string, modes ...corev1.PersistentVolumeAccessMode) *corev1.PersistentVolumeClaim {
	block := corev1.PersistentVolumeBlock
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: map[string]string{"app": "theirs"}},
		Spec:       corev1.PersistentVolumeClaimSpec{StorageClassName: &class, AccessModes: modes, VolumeMode: &block},
		Status:     corev1.PersistentVolumeClaimStatus{Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("3Gi")}},
	}
}

// A claim from a snapshot is large enough, of the same mode, ours, and nothing
// that selects the application's claims finds it.
func TestRestoredClaim(t *testing.T) {
	c := &Cut{o: Options{Run: "20261125-041320-abcdef", Mark: func(m *metav1.ObjectMeta) { m.Labels = map[string]string{kube.LabelTemporary: "true"} }}}
	for name, x := range map[string]struct {
		modes []corev1.PersistentVolumeAccessMode
		least int64
		mode  corev1.PersistentVolumeAccessMode
		size  string
	}{
		"of one node":         {[]corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, 0, corev1.ReadWriteOnce, "3Gi"},
		"of one pod":          {[]corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}, 1 << 30, corev1.ReadWriteOnce, "3Gi"},
		"shared":              {[]corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany, corev1.ReadOnlyMany}, 3 << 30, corev1.ReadWriteOnce, "3Gi"},
		"only read":           {[]corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany}, 4 << 30, corev1.ReadOnlyMany, "4Gi"},
		"a snapshot in bytes": {[]corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, 3<<30 + 1, corev1.ReadWriteOnce, "3221225473"},
	} {
		p := &part{Volume: Volume{Claim: v1alpha1.Ref{Namespace: "pier", Name: "rope"}}, claim: claimOf("pier", "rope", "fine", x.modes...), snapshot: "snap-1"}
		made := c.restored(p, "copy-1", "fine", x.least)
		size := made.Spec.Resources.Requests[corev1.ResourceStorage]
		switch {
		case made.Spec.AccessModes[0] != x.mode || size.String() != x.size || *made.Spec.StorageClassName != "fine" || *made.Spec.VolumeMode != corev1.PersistentVolumeBlock:
			t.Errorf("%s: %+v", name, made.Spec)
		case made.Spec.DataSource.Name != "snap-1" || made.Spec.DataSource.Kind != "VolumeSnapshot" || *made.Spec.DataSource.APIGroup != "snapshot.storage.k8s.io":
			t.Errorf("%s: %+v", name, made.Spec.DataSource)
		case made.Labels[kube.LabelTemporary] != "true" || made.Labels[kube.LabelRun] != c.o.Run || made.Labels["app"] != "" || made.Namespace != "pier":
			t.Errorf("%s: %+v", name, made.ObjectMeta)
		}
	}
}

// A volume that was made by hand has no class, or one that is gone: the copy
// needs one of the driver's all the same.
func TestStorageClassOfCopy(t *testing.T) {
	class := func(name, driver, isDefault string) storagev1.StorageClass {
		return storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": isDefault}}, Provisioner: driver}
	}
	all := []storagev1.StorageClass{class("alone", "one", ""), class("plain", "two", ""), class("main", "two", "true"), class("x", "three", ""), class("y", "three", "false")}
	for _, x := range []struct {
		driver, own, want string
		ok                bool
	}{
		{"two", "plain", "plain", true}, {"two", "", "main", true}, {"two", "gone", "main", true}, {"two", "alone", "main", true},
		{"one", "", "alone", true}, {"three", "y", "y", true}, {"three", "", "", false}, {"four", "", "", false},
	} {
		if got, ok := chooseStorageClass(all, x.driver, x.own); got != x.want || ok != x.ok {
			t.Errorf("%s, %q: %q %v", x.driver, x.own, got, ok)
		}
	}
}

// One group snapshot is made only where it holds all, else it says why.
func TestPlanOfGroup(t *testing.T) {
	volume := func(ns, name, driver, class string) *part {
		return &part{Volume: Volume{Claim: v1alpha1.Ref{Kind: "PersistentVolumeClaim", Namespace: ns, Name: name}, Driver: driver, GroupClass: class}}
	}
	bad := volume("a", "broken", "d", "g")
	bad.err = errors.New("the claim is Lost")
	for name, x := range map[string]struct {
		parts  []*part
		class  string
		reason string
	}{
		"two":                    {[]*part{volume("a", "1", "d", "g"), volume("a", "2", "d", "g")}, "g", ""},
		"two and a broken one":   {[]*part{volume("a", "1", "d", "g"), bad, volume("a", "2", "d", "g")}, "g", ""},
		"one":                    {[]*part{volume("a", "1", "d", "g")}, "", ""},
		"one and a broken one":   {[]*part{volume("a", "1", "d", "g"), bad}, "", ""},
		"not asked for":          {[]*part{volume("a", "1", "d", ""), volume("a", "2", "d", "")}, "", ""},
		"of two drivers":         {[]*part{volume("a", "1", "d", "g"), volume("a", "2", "e", "g")}, "", "d and e"},
		"of two namespaces":      {[]*part{volume("a", "1", "d", "g"), volume("b", "2", "d", "g")}, "", "a and b"},
		"of two classes":         {[]*part{volume("a", "1", "d", "g"), volume("a", "2", "d", "h")}, "", "g and h"},
		"asked for by one alone": {[]*part{volume("a", "1", "d", "g"), volume("a", "2", "d", "")}, "", ""},
	} {
		c := &Cut{support: &Support{GroupClasses: []Class{{Name: "g", Driver: "d", DeletionPolicy: "Retain"}}}, parts: x.parts}
		reason := c.plan()
		if c.groupClass != x.class || (x.reason == "") != (reason == "") || !strings.Contains(reason, x.reason) {
			t.Errorf("%s: class %q, %q", name, c.groupClass, reason)
		}
		if c.groupClass != "" && (c.namespace != "a" || c.selector == "" || !c.retain) {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

// The skew is between the first and the last that were cut.
func TestMeasure(t *testing.T) {
	at := time.Date(2026, 11, 25, 4, 0, 0, 0, time.UTC)
	c := &Cut{parts: []*part{{at: at.Add(30 * time.Millisecond)}, {at: at}, {err: errors.New("no"), at: at.Add(-time.Hour)}, {at: at.Add(12 * time.Millisecond)}}}
	c.measure()
	if !c.At.Equal(at) || c.Skew != 30*time.Millisecond {
		t.Errorf("%s %s", c.At, c.Skew)
	}
}
