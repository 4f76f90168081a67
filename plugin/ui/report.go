package ui

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// titles name the documents.
var titles = map[string]string{"RunReport": "Backup", "RestoreReport": "Restore", "VerifyReport": "Verification"}

// report shows what a run, a restore or a verification did.
func (t *text) report(d *v1alpha1.Document) {
	title := cmp.Or(titles[d.Kind], d.Kind)
	if d.Backup != "" {
		title += " of " + d.Backup
		if d.Kind == "RunReport" {
			title = "Backup " + d.Backup
		}
	}
	if d.Policy != "" {
		title += ", policy " + d.Policy
	}
	t.line("%s: %s", title, d.Result)
	head := *d
	head.Backup = ""
	t.facts(&head)
	if d.Kind == "RunReport" {
		t.groups(d)
		t.hooks(d)
	}
	t.volumes(d)
	switch {
	case t.wide:
		t.objects("Objects", d.Objects, func(v1alpha1.Outcome) bool { return true })
	case d.Kind == "RestoreReport":
		t.objects("Skipped", d.Objects, func(o v1alpha1.Outcome) bool { return o == v1alpha1.OutcomeSkipped })
		t.warned(d)
		t.objects("Look at these", d.Objects, isBad)
	default:
		t.warned(d)
		t.objects("Look at these", d.Objects, isBad)
	}
	t.applications(d)
	t.selected(d)
	t.notes(d)
	t.section(Summary(d))
}

// warned are the objects that went well and yet have something to say.
func (t *text) warned(d *v1alpha1.Document) {
	var lines []v1alpha1.ObjectLine
	for _, o := range d.Objects {
		if len(o.Warnings) > 0 && !isBad(o.Outcome) {
			o.Reason, o.Warnings = strings.Join(o.Warnings, "; "), nil
			lines = append(lines, o)
		}
	}
	t.objects("Worth knowing", lines, func(v1alpha1.Outcome) bool { return true })
}

// Describe writes one stored backup on a screen: what is in it, what is not
// and why, sizes and durations. wide has a line for each object.
func Describe(w io.Writer, d *v1alpha1.Document, drill *v1alpha1.DrillVerdict, wide bool) error {
	t := &text{wide: wide}
	t.line("Backup %s: %s", d.Backup, d.Result)
	head := *d
	head.Backup = ""
	t.facts(&head)
	if s := seconds(d.Seconds); s != "" {
		t.line("  %-9s %s", "took", s)
	}
	if d.Policy != "" {
		t.line("  %-9s %s", "policy", d.Policy)
	}
	if drill != nil {
		t.line("  %-9s %s", "drill", drilled(drill))
	}
	var saved []v1alpha1.ObjectLine
	for _, o := range d.Objects {
		if o.Outcome == v1alpha1.OutcomeSaved {
			saved = append(saved, o)
		}
	}
	var bytes, stored, files int64
	volumes := 0
	for _, v := range d.Volumes {
		if v.Outcome == v1alpha1.OutcomeSaved || v.Outcome == v1alpha1.OutcomeIncomplete {
			volumes++
			bytes, stored, files = bytes+v.Bytes, stored+v.Stored, files+v.Files
		}
	}
	t.section("In it")
	t.line("  %s: %s", count(len(saved), "object"), cmp.Or(kinds(saved), "none"))
	t.line("  %s: %s, %s, %s added to the remote", count(volumes, "volume"), size(bytes), count(int(files), "file"), size(stored))
	t.groups(d)
	t.hooks(d)
	t.volumes(d)
	objects, _ := tally(d)
	var out []string
	for _, o := range append([]v1alpha1.Outcome{v1alpha1.OutcomeLeftToOwner, v1alpha1.OutcomeSkipped, v1alpha1.OutcomeReferred}, bad...) {
		if objects[o] > 0 {
			out = append(out, fmt.Sprintf("%d %s", objects[o], words[o]))
		}
	}
	title := "Not in it: " + cmp.Or(strings.Join(out, ", "), "nothing that was asked for")
	why := func(o v1alpha1.Outcome) bool {
		return isBad(o) || o == v1alpha1.OutcomeReferred || o == v1alpha1.OutcomeSkipped
	}
	if slices.ContainsFunc(d.Objects, func(o v1alpha1.ObjectLine) bool { return why(o.Outcome) }) {
		t.objects(title, d.Objects, why)
	} else {
		t.section(title)
	}
	if wide {
		t.objects("Objects", d.Objects, func(v1alpha1.Outcome) bool { return true })
	}
	t.selected(d)
	t.notes(d)
	return t.flush(w)
}

// Backup is a line of the list of backups.
type Backup struct {
	ID      string  `json:"id"`
	Time    string  `json:"time"` // RFC 3339, UTC
	Result  string  `json:"result"`
	Policy  string  `json:"policy,omitempty"`
	Cluster string  `json:"cluster"` // UID
	Version string  `json:"version,omitempty"`
	Commit  string  `json:"commit,omitempty"`
	Objects int     `json:"objects"`
	Volumes int     `json:"volumes"`
	Bytes   int64   `json:"bytes"`  // read
	Stored  int64   `json:"stored"` // added to the remote
	Seconds float64 `json:"seconds"`
	// Damaged says what cannot be read of the record itself.
	Damaged  string   `json:"damaged,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	// Empty are the claims, namespace/name, whose volumes held nothing.
	Empty []string `json:"empty,omitempty"`
	// Drill is the last verdict about it.
	Drill  *v1alpha1.DrillVerdict `json:"drill,omitempty"`
	Labels map[string]string      `json:"labels,omitempty"`
}

// few names the first n, and says how many more there are.
func few(names []string, n int) string {
	if len(names) <= n {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:n], ", "), len(names)-n)
}

// Backups writes the list. Formats are table, wide, json and yaml.
func Backups(w io.Writer, rows []Backup, format string) error {
	if format == "json" || format == "yaml" {
		return Value(w, map[string]any{"apiVersion": v1alpha1.APIVersion, "kind": "BackupList", "items": orEmpty(rows)}, format)
	}
	t := &text{wide: format == "wide"}
	if len(rows) == 0 {
		t.line("no backups")
		return t.flush(w)
	}
	header := []string{"ID", "TIME", "RESULT", "POLICY", "OBJECTS", "VOLUMES", "SIZE", "ADDED", "TOOK", "CLUSTER", "VERSION", "COMMIT", "LABELS", "DRILL", "NOTE"}
	var cells [][]string
	for _, b := range rows {
		notes := b.Warnings
		if len(b.Empty) > 0 {
			notes = append(slices.Clone(notes), "empty: "+few(b.Empty, 3))
		}
		result := b.Result
		if b.Damaged != "" {
			result, notes = "Damaged", append([]string{b.Damaged}, notes...)
		}
		row := []string{b.ID, b.Time, result, b.Policy, fmt.Sprint(b.Objects), fmt.Sprint(b.Volumes), size(b.Bytes), size(b.Stored), seconds(b.Seconds), "", "", "", "", drilled(b.Drill), strings.Join(notes, "; ")}
		if t.wide {
			row[9], row[10], row[11], row[12] = b.Cluster, b.Version, b.Commit, labels(b.Labels)
		}
		cells = append(cells, row)
	}
	t.columns(header, cells, "")
	return t.flush(w)
}
