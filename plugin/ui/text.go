package ui

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// text gathers a page, so that it is written at once or not at all.
type text struct {
	bytes.Buffer
	wide bool
}

func (t *text) flush(w io.Writer) error {
	_, err := w.Write(t.Bytes())
	return err
}

func (t *text) line(format string, args ...any) {
	fmt.Fprintf(t, format+"\n", args...)
}

// section begins a part of the page.
func (t *text) section(title string) {
	if t.Len() > 0 {
		t.WriteByte('\n')
	}
	t.line("%s", title)
}

// table writes rows in columns below a section's title.
func (t *text) table(header []string, rows [][]string) { t.columns(header, rows, "  ") }

// columns leaves out columns in which no row has anything.
func (t *text) columns(header []string, rows [][]string, indent string) {
	used := make([]bool, len(header))
	for _, r := range rows {
		for i, cell := range r {
			used[i] = used[i] || cell != ""
		}
	}
	var lines bytes.Buffer
	w := tabwriter.NewWriter(&lines, 0, 0, 2, ' ', 0)
	for _, r := range append([][]string{header}, rows...) {
		var cells []string
		for i, cell := range r {
			if used[i] {
				cells = append(cells, cmp.Or(oneLine(cell), "-"))
			}
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	w.Flush() // into memory: cannot fail
	for l := range strings.Lines(lines.String()) {
		t.line("%s%s", indent, strings.TrimRight(l, " \n"))
	}
}

// labels writes labels sorted, as kubectl does.
func labels(m map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+"="+m[k])
	}
	return strings.Join(out, ",")
}

// oneLine keeps a cell in its line: errors may have several, and a name
// should not be able to move the cursor.
func oneLine(s string) string {
	s = strings.ReplaceAll(strings.TrimSpace(s), "\n", "; ")
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// size writes bytes for people, in powers of 1024.
func size(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n)/1024, 0
	for f >= 1024 && unit < 5 {
		f, unit = f/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGTPE"[unit])
}

// sizeOf is size, and nothing for what is not known.
func sizeOf(n int64) string {
	if n == 0 {
		return ""
	}
	return size(n)
}

func seconds(s float64) string {
	if s == 0 {
		return ""
	}
	d := time.Duration(s * float64(time.Second))
	switch {
	case d < 10*time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d < 10*time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// count writes a number and its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	switch {
	case strings.HasSuffix(noun, "ss"):
		noun += "es"
	case strings.HasSuffix(noun, "y"):
		noun = strings.TrimSuffix(noun, "y") + "ies"
	default:
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

// kinds counts lines by kind: "3 ConfigMap, 1 Deployment.apps".
func kinds(lines []v1alpha1.ObjectLine) string {
	n := map[string]int{}
	for _, l := range lines {
		kind := l.Ref.Kind
		if l.Ref.Group != "" {
			kind += "." + l.Ref.Group
		}
		n[kind]++
	}
	var out []string
	for _, k := range slices.Sorted(maps.Keys(n)) {
		out = append(out, fmt.Sprintf("%d %s", n[k], k))
	}
	return strings.Join(out, ", ")
}

// outcomes counts lines by outcome, good ones first.
func outcomes(n map[v1alpha1.Outcome]int) string {
	var out []string
	for _, o := range append(slices.Clone(good), bad...) {
		if n[o] > 0 {
			out = append(out, fmt.Sprintf("%d %s", n[o], words[o]))
		}
	}
	return strings.Join(out, ", ")
}

var (
	good = []v1alpha1.Outcome{v1alpha1.OutcomeInclude, v1alpha1.OutcomeCreate, v1alpha1.OutcomeApply, v1alpha1.OutcomeSaved, v1alpha1.OutcomeRestored,
		v1alpha1.OutcomeVerified, v1alpha1.OutcomeUnchanged, v1alpha1.OutcomeLeftToOwner, v1alpha1.OutcomeSkipped, v1alpha1.OutcomeReferred}
	// bad are the outcomes that a person has to look at.
	bad = []v1alpha1.Outcome{v1alpha1.OutcomeMissing, v1alpha1.OutcomeUndecided, v1alpha1.OutcomeUnread, v1alpha1.OutcomeConflict,
		v1alpha1.OutcomeIncomplete, v1alpha1.OutcomeFailed}
	words = map[v1alpha1.Outcome]string{
		v1alpha1.OutcomeInclude: "to save", v1alpha1.OutcomeCreate: "to create", v1alpha1.OutcomeApply: "to change",
		v1alpha1.OutcomeSaved: "saved", v1alpha1.OutcomeRestored: "restored", v1alpha1.OutcomeUnchanged: "unchanged",
		v1alpha1.OutcomeVerified: "verified", v1alpha1.OutcomeLeftToOwner: "left to their owner", v1alpha1.OutcomeSkipped: "skipped",
		v1alpha1.OutcomeReferred: "referred to and not selected", v1alpha1.OutcomeMissing: "missing", v1alpha1.OutcomeUndecided: "undecided",
		v1alpha1.OutcomeUnread: "unread", v1alpha1.OutcomeConflict: "in conflict", v1alpha1.OutcomeIncomplete: "incomplete", v1alpha1.OutcomeFailed: "failed",
	}
)

func isBad(o v1alpha1.Outcome) bool { return slices.Contains(bad, o) }

// tally counts the outcomes of objects and of volumes.
func tally(d *v1alpha1.Document) (objects, volumes map[v1alpha1.Outcome]int) {
	objects, volumes = map[v1alpha1.Outcome]int{}, map[v1alpha1.Outcome]int{}
	for _, l := range d.Objects {
		objects[l.Outcome]++
	}
	for _, l := range d.Volumes {
		volumes[l.Outcome]++
	}
	return objects, volumes
}
