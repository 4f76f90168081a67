package ui

import (
	"fmt"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// cut says in a line how the volumes of a group become one point in time, and
// how well that went.
func cut(d *v1alpha1.Document, g v1alpha1.GroupLine) string {
	if g.Cut == nil {
		return ""
	}
	out := strings.Join(append(cutVolumes(d, g), measures(g.Cut)...), ", ")
	if g.Cut.Reason != "" {
		out += "; " + g.Cut.Reason
	}
	return out
}

// cutVolumes counts what is cut in which way.
func cutVolumes(d *v1alpha1.Document, g v1alpha1.GroupLine) []string {
	n := map[string]int{}
	for _, v := range d.Volumes {
		if v.Group == g.Name && v.Outcome != v1alpha1.OutcomeFailed && v.Outcome != v1alpha1.OutcomeSkipped {
			n[v.Cut]++
		}
	}
	var out []string
	for _, way := range []struct{ cut, words string }{{"GroupSnapshot", "group snapshot of %s"}, {"Snapshot", "snapshot of %s"}, {"Live", "%s read live"}} {
		if n[way.cut] > 0 {
			out = append(out, fmt.Sprintf(way.words, count(n[way.cut], "volume")))
		}
	}
	if len(out) == 0 {
		return []string{cutWords(g.Cut.Method)}
	}
	return out
}

func measures(c *v1alpha1.CutLine) []string {
	var out []string
	if c.SkewSeconds > 0 {
		out = append(out, "skew "+brief(c.SkewSeconds))
	}
	if c.FrozenSeconds > 0 {
		out = append(out, "frozen "+brief(c.FrozenSeconds))
	}
	return out
}

// cutWords are the methods of cuts, of groups and of volumes.
func cutWords(method string) string {
	switch method {
	case "GroupSnapshot":
		return "group snapshot"
	case "Snapshot", "Snapshots", "Live", "Mixed":
		return strings.ToLower(method)
	}
	return method
}

// brief writes times that may be far below a second.
func brief(s float64) string {
	switch {
	case s >= 1:
		return seconds(s)
	case s >= 0.01:
		return fmt.Sprintf("%.0f ms", s*1000)
	}
	return fmt.Sprintf("%.1f ms", s*1000)
}

// hooks has a line for each hook in each pod, in the order of freezing.
func (t *text) hooks(d *v1alpha1.Document) {
	if len(d.Hooks) == 0 {
		return
	}
	var rows [][]string
	for _, h := range d.Hooks {
		pod, held, most := "", "", ""
		if h.Pod.Name != "" {
			pod = h.Pod.Namespace + "/" + h.Pod.Name
		}
		if h.FrozenSeconds > 0 {
			held = brief(h.FrozenSeconds)
		}
		if d.Kind == "Plan" {
			most = seconds(h.TTLSeconds)
		}
		of := h.Group
		if h.Scope == v1alpha1.ScopeBackup && pod != "" {
			of = "all groups"
		}
		rows = append(rows, []string{h.Hook, h.Recipe, pod, h.Container, of, string(h.Outcome), most, held, h.Reason})
	}
	t.section("Hooks, in the order of freezing")
	more := len(rows) - fewLines
	if more > 0 && !t.wide {
		rows = rows[:fewLines]
	}
	t.table([]string{"HOOK", "RECIPE", "POD", "CONTAINER", "FOR", "VERDICT", "AT MOST", "HELD", "REASON"}, rows)
	if more > 0 && !t.wide {
		t.line("  ... and %d more (-o wide)", more)
	}
}
