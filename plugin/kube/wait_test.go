package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
)

// story is a server with one object, told as steps: each list or watch request
// takes the next one.
type story struct {
	mu    sync.Mutex
	steps []string // an answer; a number is a status to refuse with
	asked []string
}

func (s *story) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	step := ""
	if len(s.steps) > 0 {
		step, s.steps = s.steps[0], s.steps[1:]
	}
	s.asked = append(s.asked, r.URL.RawQuery)
	s.mu.Unlock()
	switch step {
	case "":
		<-r.Context().Done()
	case "410":
		refuse(w, 410, metav1.StatusReasonExpired, "too old", "")
	case "403":
		refuse(w, 403, metav1.StatusReasonForbidden, `User "eve" cannot watch resource "widgets" in API group "shop.example" in the namespace "den"`, "")
	default:
		io.WriteString(w, step)
	}
}

func widgetAt(version int, phase string) string { return named("a", version, phase) }

func named(name string, version int, phase string) string {
	return fmt.Sprintf(`{"apiVersion":"shop.example/v1","kind":"Widget","metadata":{"name":%q,"namespace":"den","resourceVersion":"%d"},"status":{"phase":%q,"conditions":[{"type":"Ready","status":"False","reason":"Cold"}]}}`, name, version, phase)
}

func listed(items ...string) string {
	return `{"metadata":{"resourceVersion":"40"},"items":[` + strings.Join(items, ",") + `]}`
}

func event(kind, o string) string { return `{"type":"` + kind + `","object":` + o + "}\n" }

const tooOld = `{"kind":"Status","status":"Failure","code":410,"reason":"Expired","message":"too old"}`

func TestWaitForSeesTheChangeHoweverTheWatchGoes(t *testing.T) {
	ready := func(o *object.Object) (bool, error) {
		return o != nil && strings.Contains(string(o.Raw), `"phase":"Ready"`), nil
	}
	for name, steps := range map[string][]string{
		"there at once":             {listed(widgetAt(1, "Ready"))},
		"by the watch":              {listed(widgetAt(1, "New")), event("MODIFIED", widgetAt(2, "Warm")) + event("MODIFIED", widgetAt(3, "Ready"))},
		"not there yet":             {listed(), event("ADDED", widgetAt(2, "Ready"))},
		"watch refused as too old":  {listed(), "410", listed(widgetAt(1, "Ready"))},
		"watch told it is too old":  {listed(), event("ERROR", tooOld), listed(widgetAt(1, "Ready"))},
		"watch ends":                {listed(), event("ADDED", widgetAt(2, "Warm")), listed(widgetAt(3, "Ready"))},
		"watch is cut in the event": {listed(), event("ADDED", widgetAt(2, "Ready"))[:40], listed(widgetAt(3, "Ready"))},
	} {
		t.Run(name, func(t *testing.T) {
			s := &story{steps: steps}
			if err := against(t, s).WaitFor(t.Context(), widgets, "den", "a", ready); err != nil {
				t.Fatal(err)
			}
			if len(s.steps) != 0 {
				t.Errorf("%d steps were not needed", len(s.steps))
			}
			for i, q := range s.asked {
				if !strings.Contains(q, "fieldSelector=metadata.name%3Da") || i > 0 && strings.Contains(q, "watch") && !strings.Contains(q, "resourceVersion=40") {
					t.Errorf("asked %s", q)
				}
			}
		})
	}
	gone := func(o *object.Object) (bool, error) { return o == nil, nil }
	s := &story{steps: []string{listed(widgetAt(1, "New")), event("DELETED", widgetAt(2, "New"))}}
	if err := against(t, s).WaitFor(t.Context(), widgets, "den", "a", gone); err != nil {
		t.Fatal(err)
	}
}

func TestWaitForSaysWhatItLastSaw(t *testing.T) {
	never := func(*object.Object) (bool, error) { return false, nil }
	for _, x := range []struct{ answer, says string }{
		{listed(widgetAt(1, "Stuck")), "last seen: phase Stuck, Ready=False (Cold)"},
		{listed(), "last seen: it does not exist"},
		{listed(`{"metadata":{"name":"a","deletionTimestamp":"2024-01-01T00:00:00Z","finalizers":["guard.example/x"]}}`), "held by finalizers guard.example/x"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		err := against(t, &story{steps: []string{x.answer}}).WaitFor(ctx, widgets, "den", "a", never)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), x.says) || !strings.Contains(err.Error(), "widgets.shop.example a") {
			t.Errorf("error %v, want %q", err, x.says)
		}
	}
	own := errors.New("no use")
	if err := against(t, &story{steps: []string{listed()}}).WaitFor(t.Context(), widgets, "den", "a", func(*object.Object) (bool, error) { return false, own }); err != own {
		t.Errorf("error %v, want the condition's own", err)
	}
	err := against(t, &story{steps: []string{listed(), "403"}}).WaitFor(t.Context(), widgets, "den", "a", never)
	if verb, resource, ok := Denied(err); !ok || verb != "watch" || resource != "widgets" {
		t.Errorf("error %v", err)
	}
}

func TestWaitForEachSeesEveryObjectOnce(t *testing.T) {
	for name, x := range map[string]struct {
		steps []string
		want  string // what the condition was asked, in order
	}{
		"there at once":             {[]string{listed(named("a", 1, "Ready"), named("b", 1, "Ready"), named("c", 1, "New"))}, "a=Ready b=Ready"},
		"one at once, one later":    {[]string{listed(named("b", 1, "Ready")), event("MODIFIED", named("b", 2, "Cold")) + event("ADDED", named("a", 3, "Ready"))}, "b=Ready a= a=Ready"},
		"others do not matter":      {[]string{listed(named("a", 1, "Ready"), named("b", 1, "New")), event("ADDED", named("c", 2, "Ready")) + event("MODIFIED", named("b", 3, "Ready"))}, "a=Ready b=New b=Ready"},
		"the watch ends":            {[]string{listed(named("a", 1, "Ready"), named("b", 1, "New")), event("MODIFIED", named("b", 2, "Warm")), listed(named("a", 1, "Cold"), named("b", 3, "Ready"))}, "a=Ready b=New b=Warm b=Ready"},
		"one goes":                  {[]string{listed(named("a", 1, "Ready"), named("b", 1, "New")), event("DELETED", named("b", 2, "New")) + event("ADDED", named("b", 3, "Ready"))}, "a=Ready b=New b= b=Ready"},
		"a list of several times":   {[]string{`{"metadata":{"resourceVersion":"40","continue":"more"},"items":[` + named("a", 1, "Ready") + `]}`, "410", listed(named("a", 1, "Cold"), named("b", 1, "New")), listed(named("b", 2, "Ready"))}, "a=Ready b=New b=Ready"},
		"the watch cannot be begun": {[]string{listed(named("a", 1, "Ready"), named("b", 1, "New")), "410", listed(named("b", 2, "Ready"))}, "a=Ready b=New b=Ready"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &story{steps: x.steps}
			var asked []string
			err := against(t, s).WaitForEach(t.Context(), widgets, "den", []string{"a", "b"}, func(name string, o *object.Object) (bool, error) {
				phase := ""
				if o != nil {
					phase, _ = conditionsOf(o.Raw)
				}
				asked = append(asked, name+"="+phase)
				return phase == "Ready", nil
			})
			if err != nil || strings.Join(asked, " ") != x.want || len(s.steps) != 0 {
				t.Errorf("%v, asked %q, want %q, %d steps were not needed", err, asked, x.want, len(s.steps))
			}
			for _, q := range s.asked {
				if strings.Contains(q, "fieldSelector") {
					t.Errorf("asked %s", q)
				}
			}
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := against(t, &story{steps: []string{listed(named("b", 1, "Stuck"))}}).WaitForEach(ctx, widgets, "den", []string{"b", "a", "c"}, func(string, *object.Object) (bool, error) { return false, nil })
	if err == nil || !strings.Contains(err.Error(), "widgets.shop.example a and 2 more") {
		t.Errorf("error %v", err)
	}
}
