package ui

import (
	"fmt"
	"io"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// RewriteReport writes which rule changed which field of which object. Formats
// are table, json and yaml.
func RewriteReport(w io.Writer, r *v1alpha1.RewriteReport, format string) error {
	switch format {
	case "json", "yaml":
		return Value(w, r, format)
	case "table":
	default:
		return fmt.Errorf("output format %q: want table, json or yaml", format)
	}
	t := &text{}
	unchanged := 0
	for _, o := range r.Objects {
		if len(o.Changes)+len(o.Mentions)+len(o.Warnings) == 0 && o.Error == "" {
			unchanged++
			continue
		}
		title := o.Ref.String()
		if o.NewRef.Key() != o.Ref.Key() {
			title += " -> " + o.NewRef.String()
		}
		t.section(title)
		if o.Error != "" {
			t.line("  failed: %s", oneLine(o.Error))
		}
		var rows [][]string
		for _, c := range o.Changes {
			rows = append(rows, []string{c.Field, c.From, c.To, c.Rule})
		}
		if len(rows) > 0 {
			t.table([]string{"FIELD", "FROM", "TO", "RULE"}, rows)
		}
		for _, m := range append(append([]string{}, o.Warnings...), o.Mentions...) {
			t.line("  look at: %s", oneLine(m))
		}
	}
	t.section(fmt.Sprintf("%d objects, %d unchanged", len(r.Objects), unchanged))
	for _, m := range r.Warnings {
		t.line("warning: %s", oneLine(m))
	}
	return t.flush(w)
}
