package restore

import (
	"errors"
	"fmt"
	"reflect"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
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
