package plan

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Hook is what a line of Document.Hooks runs.
type Hook struct {
	v1alpha1.Hook
	// Recipe is what its name stands for, or nil where it has commands.
	Recipe *v1alpha1.BackupRecipe
	// Workload is the topmost controller of the line's pod, where there is one.
	Workload *v1alpha1.Ref
	// HoldAtMost and FreezeWithin are its ttl and timeout, or the recipe's.
	HoldAtMost, FreezeWithin time.Duration
}

// hookMatch is a hook of the policy that matches a pod, or of which nobody
// knows whether it does.
type hookMatch struct {
	hook int
	err  error
}

// matchHooks evaluates the hooks on a pod while it is at hand, so that no pod
// has to be read again or kept.
func (inv *inventory) matchHooks(ctx context.Context, o *object.Object) []hookMatch {
	var out []hookMatch
	for i := range inv.sel.Hooks() {
		if matched, err := inv.sel.Hook(ctx, i, o, inv.namespaceOf(o)); matched || err != nil {
			out = append(out, hookMatch{i, err})
		}
	}
	return out
}

// candidate is a pod that a hook may run in.
type candidate struct {
	pod   *pod
	group string
	err   error // of the expression
}

// planned is a line before it has its place.
type planned struct {
	line        v1alpha1.HookLine
	hook        Hook
	group, wave int // group is -1 for all groups, and beyond the last for none
	index       int
}

// hooks plans which hooks run in which pods, in the order of freezing: what
// needs others before what is needed.
func (inv *inventory) hooks(p *Plan, m *membership) {
	order := map[string]int{}
	for i, g := range m.groups {
		order[g.Name] = i
	}
	var all []planned
	for i, h := range inv.r.Policy.Spec.Consistency.Hooks {
		hook := inv.resolved(i, h)
		chosen := choose(h.Scope, inv.candidates(i, m))
		for _, c := range chosen {
			e := planned{hook: hook, group: order[c.group], index: i}
			e.hook.Workload = m.workload([]*pod{c.pod}, c.pod.ref.Key())
			at := c.pod.ref
			if e.hook.Workload != nil {
				at = *e.hook.Workload
			}
			where, _ := m.place(at)
			e.wave = where.wave
			e.line = inv.hookLine(&p.Document, hook, c)
			if h.Scope == v1alpha1.ScopeBackup {
				e.group = -1
			}
			all = append(all, e)
		}
		if len(chosen) == 0 {
			const reason = "it matches no pod of what is saved"
			inv.warn("hook %s: %s", h.Name, reason)
			all = append(all, planned{hook: hook, group: len(m.groups), index: i, line: v1alpha1.HookLine{
				Hook: h.Name, Recipe: h.Recipe, Scope: h.Scope, Outcome: v1alpha1.OutcomeMissing, Reason: reason}})
		}
	}
	slices.SortStableFunc(all, func(a, b planned) int {
		return cmp.Or(cmp.Compare(a.group, b.group), -cmp.Compare(a.wave, b.wave), cmp.Compare(a.index, b.index), a.line.Pod.Compare(b.line.Pod))
	})
	for _, e := range all {
		p.Document.Hooks = append(p.Document.Hooks, e.line)
		p.Hooks = append(p.Hooks, e.hook)
	}
}

// resolved is a hook with its recipe and times.
func (inv *inventory) resolved(i int, h v1alpha1.Hook) Hook {
	hook := Hook{Hook: h, Recipe: inv.recipes[i], HoldAtMost: v1alpha1.DefaultTTL, FreezeWithin: v1alpha1.DefaultFreezeTimeout}
	if r := hook.Recipe; r != nil {
		if r.Spec.TTL != nil {
			hook.HoldAtMost = r.Spec.TTL.Duration
		}
		if r.Spec.Timeout != nil {
			hook.FreezeWithin = r.Spec.Timeout.Duration
		}
	}
	if h.TTL != nil {
		hook.HoldAtMost = h.TTL.Duration
	}
	if h.Timeout != nil {
		hook.FreezeWithin = h.Timeout.Duration
	}
	return hook
}

// candidates are the pods of the groups that a hook matches: first those that
// surely do and run.
func (inv *inventory) candidates(hook int, m *membership) []candidate {
	var out []candidate
	for key, p := range inv.pods {
		where, member := m.place(key)
		if !member || p.finished {
			continue
		}
		for _, match := range p.hooks {
			if match.hook == hook {
				out = append(out, candidate{p, where.group, match.err})
			}
		}
	}
	slices.SortFunc(out, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(boolInt(a.err != nil), boolInt(b.err != nil)),
			-cmp.Compare(boolInt(a.pod.running), boolInt(b.pod.running)), a.pod.ref.Compare(b.pod.ref))
	})
	return out
}

// choose leaves the pods that a scope means.
func choose(scope string, all []candidate) []candidate {
	switch {
	case len(all) == 0 || scope == v1alpha1.ScopePod:
		return all
	case scope == v1alpha1.ScopeBackup:
		return all[:1]
	}
	seen := map[string]bool{}
	return slices.DeleteFunc(slices.Clone(all), func(c candidate) bool {
		again := seen[c.group]
		seen[c.group] = true
		return again
	})
}

// hookLine is the verdict over one hook in one pod.
func (inv *inventory) hookLine(d *v1alpha1.Document, h Hook, c candidate) v1alpha1.HookLine {
	line := v1alpha1.HookLine{
		Hook: h.Name, Recipe: h.Hook.Recipe, Scope: h.Scope, Group: c.group, Pod: c.pod.ref,
		Outcome: v1alpha1.OutcomeInclude, TTLSeconds: h.HoldAtMost.Seconds(),
	}
	if h.Scope == v1alpha1.ScopeBackup {
		line.Group = ""
	}
	not := func(outcome v1alpha1.Outcome, format string, args ...any) {
		line.Outcome, line.Reason = outcome, fmt.Sprintf(format, args...)
	}
	var container *podContainer
	line.Container, container = c.pod.hookContainer(h)
	saved := slices.ContainsFunc(d.Volumes, func(v v1alpha1.VolumeLine) bool {
		return v.Outcome == v1alpha1.OutcomeInclude && (h.Scope == v1alpha1.ScopeBackup || v.Group == c.group)
	})
	if c.err != nil {
		if inv.r.Policy.Spec.OnExpressionError != v1alpha1.OnErrorInclude {
			not(v1alpha1.OutcomeUndecided, "%s", c.err)
			return line
		}
		line.Reason = c.err.Error() + "; the pod is made quiet all the same"
	}
	switch {
	case inv.mode() == v1alpha1.ConsistencyNone:
		not(v1alpha1.OutcomeSkipped, "consistency.mode is None, so no pod is made quiet")
	case !saved:
		not(v1alpha1.OutcomeSkipped, "no volume that it would be held for is saved")
	case !c.pod.running && c.pod.phase == "Running":
		not(v1alpha1.OutcomeSkipped, "its pod is being deleted")
	case !c.pod.running:
		not(v1alpha1.OutcomeSkipped, "its pod is %s, so nothing in it writes", cmp.Or(c.pod.phase, "not scheduled"))
	case container == nil:
		var names []string
		for _, has := range c.pod.containers {
			names = append(names, has.name)
		}
		not(v1alpha1.OutcomeFailed, "its pod has no container %s; it has %s", line.Container, strings.Join(names, ", "))
	case !container.running:
		not(v1alpha1.OutcomeFailed, "container %s is not running, so nothing can be run in it", line.Container)
	}
	return line
}

// abort gives the volumes that a hook should be held for, and cannot, their
// verdict, unless the hook may be passed over.
func (inv *inventory) abort(p *Plan) {
	d := &p.Document
	for i, failed := range d.Hooks {
		if !bad(failed.Outcome) || p.Hooks[i].OnFailure == v1alpha1.OnFailureContinue {
			continue
		}
		meant := func(group string, workload *v1alpha1.Ref) bool {
			return failed.Scope == v1alpha1.ScopeBackup ||
				(&Cut{Group: group, Workload: inv.ownCut(workload)}).holds(failed, p.Hooks[i])
		}
		for n := range d.Volumes {
			if v := &d.Volumes[n]; v.Outcome == v1alpha1.OutcomeInclude && meant(v.Group, v.Workload) {
				v.Outcome, v.Method, v.Cut = v1alpha1.OutcomeFailed, "", ""
				v.Reason = fmt.Sprintf("hook %s says Abort and cannot be held in pod %s: %s", failed.Hook, failed.Pod.Name, failed.Reason)
			}
		}
		for n := range d.Hooks {
			if h := &d.Hooks[n]; h.Outcome == v1alpha1.OutcomeInclude && (h.Scope != v1alpha1.ScopeBackup || failed.Scope == v1alpha1.ScopeBackup) && meant(h.Group, p.Hooks[n].Workload) {
				h.Outcome, h.Reason = v1alpha1.OutcomeSkipped, "hook "+failed.Hook+" cannot be held, so there is nothing to hold this one for"
			}
		}
	}
}

// ownCut is the workload where each has a cut of its own.
func (inv *inventory) ownCut(workload *v1alpha1.Ref) *v1alpha1.Ref {
	if inv.mode() == v1alpha1.ConsistencyWorkload {
		return workload
	}
	return nil
}

// hookContainer is where a hook runs: what it says, else what its recipe says
// where there is such a container, else the pod's default.
func (p *pod) hookContainer(h Hook) (string, *podContainer) {
	if h.Container != "" {
		return h.Container, p.find(h.Container)
	}
	if h.Recipe != nil {
		if c := p.find(h.Recipe.Spec.Container); c != nil {
			return c.name, c
		}
	}
	return p.container, p.find(p.container)
}
