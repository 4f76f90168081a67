package ui

import (
	"fmt"
	"io"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// drilled is a verdict in a line.
func drilled(v *v1alpha1.DrillVerdict) string {
	switch {
	case v == nil:
		return ""
	case v.Passed:
		return "passed " + v.At[:min(len(v.At), len("2006-01-02"))]
	}
	return "failed " + v.At[:min(len(v.At), len("2006-01-02"))] + ": " + strings.Join(v.Failed, ", ")
}

// Drill writes the report of a drill. Formats are table, wide, json and yaml;
// wide has the restore as well.
func Drill(w io.Writer, r *v1alpha1.DrillReport, format string) error {
	if format == "json" || format == "yaml" {
		return Value(w, r, format)
	}
	t := &text{wide: format == "wide"}
	verdict := "failed"
	switch {
	case r.Passed:
		verdict = "passed"
	case len(r.Checks) == 0:
		verdict = "no verdict"
	}
	t.line("Drill of %s: %s", r.Backup, verdict)
	var rows [][]string
	for _, c := range r.Checks {
		result := "passed"
		if !c.Passed {
			result = "FAILED"
		}
		where := c.Pod
		if c.Check == v1alpha1.CheckAssertion {
			where = c.Expression
		}
		rows = append(rows, []string{result, strings.ToLower(c.Check), c.Name, where, c.Reason})
	}
	t.section("Checks")
	t.table([]string{"RESULT", "CHECK", "NAME", "OF", "REASON"}, rows)
	list := func(title string, lines []string) {
		if len(lines) == 0 {
			return
		}
		t.section(title)
		for _, l := range lines {
			t.line("  %s", oneLine(l))
		}
	}
	for _, c := range r.Checks {
		if !c.Passed {
			list("Seen by "+strings.ToLower(c.Check)+" "+c.Name, c.Seen)
		}
	}
	if t.wide {
		if r.Restore != nil {
			t.section("")
			t.report(r.Restore)
		}
		list("Left out", r.LeftOut)
	} else if len(r.LeftOut) > 0 {
		t.line("\n%s left out; -o wide names them", count(len(r.LeftOut), "object"))
	}
	list("Not removed", r.Left)
	list("Warnings", r.Warnings)
	t.section(fmt.Sprintf("took %s", seconds(r.Seconds)))
	return t.flush(w)
}
