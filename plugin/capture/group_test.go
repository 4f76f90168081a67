package capture

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kubectl-backup/kubectl-backup/plugin/plan"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// harbour is a plan of two groups: the first has three volumes of two
// workloads and two hooks, the second has one volume.
func harbour(mode string) (*plan.Plan, *v1alpha1.Document) {
	ref := func(kind, name string) v1alpha1.Ref {
		return v1alpha1.Ref{Version: "v1", Kind: kind, Namespace: "harbour", Name: name}
	}
	p := &plan.Plan{Document: v1alpha1.Document{
		Groups: []v1alpha1.GroupLine{{Name: "quay", Cut: &v1alpha1.CutLine{Method: "GroupSnapshot"}}, {Name: "tower", Cut: &v1alpha1.CutLine{Method: "Live", Reason: "no driver"}}},
		Hooks: []v1alpha1.HookLine{
			{Hook: "crane", Scope: v1alpha1.ScopePod, Group: "quay", Pod: ref("Pod", "crane-0"), Outcome: v1alpha1.OutcomeInclude},
			{Hook: "store", Scope: v1alpha1.ScopePod, Group: "quay", Pod: ref("Pod", "store-0"), Outcome: v1alpha1.OutcomeInclude},
		},
	}, Hooks: []plan.Hook{{HoldAtMost: 30 * time.Second}, {HoldAtMost: 6 * time.Second}}}
	for _, name := range []string{"crane", "store", "store-log", "lamp"} {
		line := v1alpha1.VolumeLine{Ref: ref("PersistentVolumeClaim", name), Outcome: v1alpha1.OutcomeInclude, Method: v1alpha1.MethodSnapshot, Cut: "GroupSnapshot", Group: "quay"}
		if name == "lamp" {
			line.Group, line.Method, line.Cut = "tower", v1alpha1.MethodStream, CutLive
		}
		p.Document.Volumes = append(p.Document.Volumes, line)
	}
	crane, store := ref("StatefulSet", "crane"), ref("StatefulSet", "store")
	switch mode {
	case v1alpha1.ConsistencyGroup:
		p.Cuts = []plan.Cut{{Group: "quay", Volumes: []int{0, 1, 2}, Hooks: []int{0, 1}}}
	case v1alpha1.ConsistencyWorkload:
		p.Cuts = []plan.Cut{{Group: "quay", Workload: &crane, Volumes: []int{0}, Hooks: []int{0}}, {Group: "quay", Workload: &store, Volumes: []int{1, 2}, Hooks: []int{1}}}
	case v1alpha1.ConsistencyNone:
		p.Cuts = []plan.Cut{{Group: "quay", Volumes: []int{0}}, {Group: "quay", Volumes: []int{1}}, {Group: "quay", Volumes: []int{2}}}
	}
	p.Cuts = append(p.Cuts, plan.Cut{Group: "tower", Volumes: []int{3}, Reason: "no driver"})
	return p, &p.Document
}

// What is cut together is what the plan says, and objects are read again once
// for each group, after the last of its cuts.
func TestUnits(t *testing.T) {
	for mode, want := range map[string]string{
		v1alpha1.ConsistencyGroup:    "group quay: crane store store-log, held crane store, last; group tower: lamp, held, last",
		v1alpha1.ConsistencyWorkload: "StatefulSet harbour/crane: crane, held crane; StatefulSet harbour/store: store store-log, held store, last; group tower: lamp, held, last",
		v1alpha1.ConsistencyNone:     "group quay: crane store store-log, held, last, apart; group tower: lamp, held, last, apart",
	} {
		p, d := harbour(mode)
		var got []string
		for _, u := range units(p, d, mode) {
			text := u.name + ":"
			for _, line := range u.volumes {
				text += " " + line.Ref.Name
			}
			text += ", held"
			for _, h := range u.hooks {
				text += " " + d.Hooks[h].Hook
			}
			if u.last {
				text += ", last"
			}
			if u.apart {
				text += ", apart"
			}
			got = append(got, text)
		}
		if s := strings.Join(got, "; "); s != want {
			t.Errorf("%s:\n%s\nwant\n%s", mode, s, want)
		}
	}
}

// A hook that cannot be run keeps its group from being captured, and no other,
// unless the policy says to go on.
func TestRefused(t *testing.T) {
	for _, outcome := range []v1alpha1.Outcome{v1alpha1.OutcomeFailed, v1alpha1.OutcomeUndecided, v1alpha1.OutcomeSkipped, v1alpha1.OutcomeInclude} {
		for _, onFailure := range []string{"", v1alpha1.OnFailureAbort, v1alpha1.OnFailureContinue} {
			p, d := harbour(v1alpha1.ConsistencyGroup)
			d.Hooks[1].Outcome, d.Hooks[1].Reason, p.Hooks[1].OnFailure = outcome, "no such container", onFailure
			got := units(p, d, v1alpha1.ConsistencyGroup)
			bad := (outcome == v1alpha1.OutcomeFailed || outcome == v1alpha1.OutcomeUndecided) && onFailure != v1alpha1.OnFailureContinue
			if bad != strings.Contains(got[0].refused, "no such container") || got[1].refused != "" {
				t.Errorf("%s, %q: %q, %q", outcome, onFailure, got[0].refused, got[1].refused)
			}
		}
	}
}

// Half of the shortest hold is left for the second way to make a cut.
func TestGroupPatience(t *testing.T) {
	p, d := harbour(v1alpha1.ConsistencyGroup)
	r := &run{p: p, d: d}
	all := units(p, d, v1alpha1.ConsistencyGroup)
	if got := r.groupPatience(all[0]); got != 3*time.Second {
		t.Error(got)
	}
	if got := r.groupPatience(all[1]); got != groupPatience {
		t.Error(got)
	}
	if got := r.groupPatience(&unit{}); got != groupPatience {
		t.Error(got)
	}
}

// A line of a hook that is held more than once keeps the worst, and a hook that
// may fail is a warning.
func TestNote(t *testing.T) {
	p, d := harbour(v1alpha1.ConsistencyWorkload)
	p.Hooks[0].OnFailure = v1alpha1.OnFailureContinue
	r := &run{p: p, d: d}
	h := &hold{run: r, lines: []int{0, 1}}
	said := func(i int, outcome v1alpha1.Outcome, seconds float64, reason string) v1alpha1.HookLine {
		line := d.Hooks[i]
		line.Outcome, line.FrozenSeconds, line.Reason = outcome, seconds, reason
		return line
	}
	h.note([]v1alpha1.HookLine{said(0, v1alpha1.OutcomeHeld, 2, ""), said(1, v1alpha1.OutcomeFailed, 1, "it let go early")})
	h.note([]v1alpha1.HookLine{said(0, v1alpha1.OutcomeFailed, 0, "no sh"), said(1, v1alpha1.OutcomeHeld, 3, "")})
	for i, want := range []string{"Failed 2 no sh", "Failed 3 it let go early"} {
		if got := fmt.Sprintf("%s %v %s", d.Hooks[i].Outcome, d.Hooks[i].FrozenSeconds, d.Hooks[i].Reason); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
	if h.seconds != 3 {
		t.Error(h.seconds)
	}
	h.note([]v1alpha1.HookLine{said(0, v1alpha1.OutcomeFailed, 1, "it may be frozen still")})
	if len(d.Warnings) != 2 {
		t.Fatal(d.Warnings)
	}
	for i, says := range [][]string{{"crane-0", "was not quiet", "no sh"}, {"crane-0", "was not quiet to the end of the cut, or was not let go after it", "it may be frozen still"}} {
		for _, word := range says {
			if !strings.Contains(d.Warnings[i], word) {
				t.Errorf("%q does not say %q", d.Warnings[i], word)
			}
		}
	}
}

// A report of a run says of each hook what became of it.
func TestPassedOver(t *testing.T) {
	d := &v1alpha1.Document{Hooks: []v1alpha1.HookLine{
		{Hook: "a", Outcome: v1alpha1.OutcomeHeld}, {Hook: "b", Outcome: v1alpha1.OutcomeFailed, Reason: "no sh"}, {Hook: "c", Outcome: v1alpha1.OutcomeInclude},
	}}
	passedOver(d)
	for i, want := range []string{"Held ", "Failed no sh", "Skipped not frozen, since no volume was left that it would be held for"} {
		if got := fmt.Sprintf("%s %s", d.Hooks[i].Outcome, d.Hooks[i].Reason); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}
