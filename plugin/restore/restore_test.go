package restore

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/rewrite"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// What was not brought back never exits zero.
func TestJudge(t *testing.T) {
	objects := func(outcomes ...v1alpha1.Outcome) []v1alpha1.ObjectLine {
		var lines []v1alpha1.ObjectLine
		for _, o := range outcomes {
			lines = append(lines, v1alpha1.ObjectLine{Outcome: o})
		}
		return lines
	}
	for _, c := range []struct {
		objects []v1alpha1.Outcome
		volume  v1alpha1.Outcome
		code    int
	}{
		{[]v1alpha1.Outcome{v1alpha1.OutcomeRestored, v1alpha1.OutcomeUnchanged}, v1alpha1.OutcomeRestored, 0},
		{[]v1alpha1.Outcome{v1alpha1.OutcomeRestored, v1alpha1.OutcomeLeftToOwner, v1alpha1.OutcomeSkipped}, v1alpha1.OutcomeSkipped, 0},
		{[]v1alpha1.Outcome{v1alpha1.OutcomeRestored, v1alpha1.OutcomeConflict}, v1alpha1.OutcomeRestored, 3},
		{[]v1alpha1.Outcome{v1alpha1.OutcomeRestored, v1alpha1.OutcomeIncomplete}, v1alpha1.OutcomeRestored, 3},
		{[]v1alpha1.Outcome{v1alpha1.OutcomeRestored, v1alpha1.OutcomeFailed}, v1alpha1.OutcomeRestored, 3},
		{[]v1alpha1.Outcome{v1alpha1.OutcomeRestored}, v1alpha1.OutcomeFailed, 3},
		{[]v1alpha1.Outcome{v1alpha1.OutcomeUnchanged}, v1alpha1.OutcomeConflict, 3},
		{[]v1alpha1.Outcome{v1alpha1.OutcomeConflict}, v1alpha1.OutcomeConflict, 3},
		{[]v1alpha1.Outcome{v1alpha1.OutcomeFailed}, v1alpha1.OutcomeFailed, 1},
	} {
		d := &v1alpha1.Document{Objects: objects(c.objects...), Volumes: []v1alpha1.VolumeLine{{Outcome: c.volume}}}
		judge(d)
		if d.ExitCode != c.code {
			t.Errorf("%v and volume %s: exit code %d, want %d", c.objects, c.volume, d.ExitCode, c.code)
		}
	}
}

func TestTransient(t *testing.T) {
	gr := schema.GroupResource{Resource: "pods"}
	for _, c := range []struct {
		err  error
		want bool
	}{
		{apierrors.NewTooManyRequests("slow down", 1), true},
		{apierrors.NewServiceUnavailable("later"), true},
		{apierrors.NewInternalError(errors.New(`failed calling webhook "x.example.org": refused`)), true},
		{apierrors.NewConflict(gr, "a", errors.New("changed")), true},
		{apierrors.NewForbidden(gr, "a", errors.New("status unknown for quota: cap, resources: pods")), true},
		{apierrors.NewForbidden(gr, "a", errors.New("exceeded quota: cap")), false},
		{apierrors.NewForbidden(gr, "a", errors.New(`User "x" cannot create resource "pods" in API group "" in the namespace "y"`)), false},
		{apierrors.NewForbidden(gr, "a", errors.New("violates PodSecurity")), false},
		{apierrors.NewBadRequest("no"), false},
		{apierrors.NewInvalid(schema.GroupKind{Kind: "Pod"}, "a", nil), false},
		{apierrors.NewAlreadyExists(gr, "a"), false},
		{errors.New("connection reset by peer"), true},
	} {
		if got := transient(fmt.Errorf("create: %w", c.err)); got != c.want {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
}

// What did its work, or stands for a moment, is not made a second time.
func TestWhatIsNotMadeAgain(t *testing.T) {
	for _, c := range []struct {
		object string
		again  bool
	}{
		{`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"status":{"phase":"Running"}}`, true},
		{`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"status":{"phase":"Failed"}}`, false},
		{`{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"a"},"status":{"conditions":[{"type":"Suspended","status":"True"}]}}`, true},
		{`{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"a"},"status":{"conditions":[{"type":"Failed","status":"True"}]}}`, false},
		{`{"apiVersion":"batch.volcano.sh/v1alpha1","kind":"Job","metadata":{"name":"a"},"status":{"conditions":[{"type":"Failed","status":"True"}]}}`, true},
		{`{"apiVersion":"certificates.k8s.io/v1","kind":"CertificateSigningRequest","metadata":{"name":"a"},"spec":{}}`, true},
		{`{"apiVersion":"certificates.k8s.io/v1","kind":"CertificateSigningRequest","metadata":{"name":"a"},"status":{"conditions":[{"type":"Denied","status":"True"}]}}`, false},
		{`{"apiVersion":"snapshot.storage.k8s.io/v1","kind":"VolumeSnapshot","metadata":{"name":"a"},"spec":{"source":{"persistentVolumeClaimName":"c"}}}`, false},
		{`{"apiVersion":"snapshot.storage.k8s.io/v1","kind":"VolumeSnapshot","metadata":{"name":"a"},"spec":{"source":{"volumeSnapshotContentName":"c"}}}`, true},
		{`{"apiVersion":"snapshot.storage.k8s.io/v1","kind":"VolumeSnapshotContent","metadata":{"name":"a"},"spec":{"source":{"volumeHandle":"d"}}}`, false},
		{`{"apiVersion":"snapshot.storage.k8s.io/v1","kind":"VolumeSnapshotContent","metadata":{"name":"a"},"spec":{"source":{"snapshotHandle":"s"}}}`, true},
		{`{"apiVersion":"snapshot.storage.k8s.io/v1","kind":"VolumeSnapshotClass","metadata":{"name":"a"},"driver":"d"}`, true},
		{`{"apiVersion":"groupsnapshot.storage.k8s.io/v1","kind":"VolumeGroupSnapshot","metadata":{"name":"a"},"spec":{"source":{"selector":{}}}}`, false},
		{`{"apiVersion":"groupsnapshot.storage.k8s.io/v1","kind":"VolumeGroupSnapshotContent","metadata":{"name":"a"},"spec":{"source":{"volumeHandles":["d"]}}}`, false},
	} {
		o, err := object.Parse([]byte(c.object))
		if err != nil {
			t.Fatal(err)
		}
		content, err := o.Content()
		if err != nil {
			t.Fatal(err)
		}
		if why := ended(&item{saved: o.Ref}, content) + ofAMoment(o.Ref, content); c.again != (why == "") {
			t.Errorf("%s: %q", c.object, why)
		}
	}
}

func TestWhoseStatusIsWritten(t *testing.T) {
	for _, c := range []struct {
		group   string
		asked   bool
		written bool
	}{
		{"harbor.example.org", true, true},
		{"harbor.example.org", false, false},
		{"", true, false},
		{"apps", true, false},
		{"batch", true, false},
		{"apiextensions.k8s.io", true, false},
	} {
		p := &Plan{request: Request{RestoreStatus: c.asked}}
		i := &item{kind: &kube.Kind{GVK: schema.GroupVersionKind{Group: c.group}, Subresources: []string{"status"}}}
		if got := p.putsStatus(i, original{status: map[string]any{}}); got != c.written {
			t.Errorf("%q, asked for %v: %v", c.group, c.asked, got)
		}
	}
}

func TestManagersOfControllersStay(t *testing.T) {
	live, err := object.Parse([]byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","managedFields":[
		{"manager":"kubectl-backup","operation":"Update"},
		{"manager":"gitops","operation":"Apply","fieldsV1":{"f:data":{"f:newer":{}}}},
		{"manager":"controller","operation":"Update","subresource":"status","time":"2020-01-01T00:00:00Z"}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	saved := []any{map[string]any{"manager": "gitops", "operation": "Apply"}}
	got, err := withOthers(saved, live)
	if err != nil {
		t.Fatal(err)
	}
	want := []any{saved[0], map[string]any{"manager": "controller", "operation": "Update", "subresource": "status"}}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%v, want %v", got, want)
	}
}

// A container that a backup added to a pod is no sign of an interrupted restore.
func TestOwnsFields(t *testing.T) {
	for entry, want := range map[string]bool{
		`{"manager":"kubectl-backup","operation":"Update"}`:                                     true,
		`{"manager":"kubectl-backup","operation":"Apply","subresource":"status"}`:               true,
		`{"manager":"kubectl-backup","operation":"Update","subresource":"ephemeralcontainers"}`: false,
		`{"manager":"gitops","operation":"Apply"}`:                                              false,
		`{"manager":"kubelet","operation":"Update","subresource":"status"}`:                     false,
	} {
		o, err := object.Parse([]byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"n","managedFields":[` + entry + `]}}`))
		if err != nil {
			t.Fatal(err)
		}
		d, err := rewrite.Decode(o)
		if err != nil {
			t.Fatal(err)
		}
		if got := ownsFields(d); got != want {
			t.Errorf("%s: %v", entry, got)
		}
	}
}

// Two volumes lead to one disk where what names the disk is the same, whatever
// else they say of it.
func TestDiskOf(t *testing.T) {
	disk := func(spec string) string {
		t.Helper()
		var content map[string]any
		if err := json.Unmarshal([]byte(spec), &content); err != nil {
			t.Fatal(err)
		}
		return diskOf(content)
	}
	here := `"nodeAffinity":{"required":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"kubernetes.io/hostname","operator":"In","values":["here"]}]}]}}`
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{`{"csi":{"driver":"d","volumeHandle":"1","fsType":"ext4"}}`, `{"csi":{"driver":"d","volumeHandle":"1","readOnly":true},"capacity":{"storage":"1Gi"}}`, true},
		{`{"csi":{"driver":"d","volumeHandle":"1"}}`, `{"csi":{"driver":"d","volumeHandle":"2"}}`, false},
		{`{"csi":{"driver":"d","volumeHandle":"1"}}`, `{"csi":{"driver":"e","volumeHandle":"1"}}`, false},
		{`{"iscsi":{"targetPortal":"p","iqn":"q","lun":0}}`, `{"iscsi":{"targetPortal":"p","iqn":"q","lun":1}}`, false},
		{`{"local":{"path":"/a"},` + here + `}`, `{"local":{"path":"/a","fsType":"xfs"},` + here + `}`, true},
		{`{"local":{"path":"/a"},` + here + `}`, `{"local":{"path":"/a"}}`, false},
	} {
		if a, b := disk(c.a), disk(c.b); a == "" || b == "" || (a == b) != c.same {
			t.Errorf("%s and %s: %q, %q", c.a, c.b, a, b)
		}
	}
	for _, shared := range []string{`{"nfs":{"server":"s","path":"/a"}}`, `{"hostPath":{"path":"/a"}}`, `{}`} {
		if got := disk(shared); got != "" {
			t.Errorf("%s: %q", shared, got)
		}
	}
}

// Data that was not wholly saved does not come back without a word.
func TestWarnOfGaps(t *testing.T) {
	for _, c := range []struct {
		saved, now v1alpha1.Outcome
		warned     bool
	}{
		{v1alpha1.OutcomeIncomplete, v1alpha1.OutcomeCreate, true},
		{v1alpha1.OutcomeIncomplete, v1alpha1.OutcomeApply, true},
		{v1alpha1.OutcomeIncomplete, v1alpha1.OutcomeConflict, false},
		{v1alpha1.OutcomeSaved, v1alpha1.OutcomeCreate, false},
	} {
		v := &volumeItem{line: v1alpha1.VolumeLine{Outcome: c.now}}
		v.warnOfGaps(v1alpha1.VolumeLine{Outcome: c.saved, Reason: "1 path(s) could not be read; first: locked: unreadable"})
		if warned := strings.Contains(strings.Join(v.line.Warnings, ""), "first: locked"); warned != c.warned {
			t.Errorf("%+v: %q", c, v.line.Warnings)
		}
	}
}
