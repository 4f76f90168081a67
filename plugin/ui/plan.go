package ui

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// How much of a list a table shows; wide shows all.
const (
	fewGroups = 8  // told in full; more are a line each
	fewLines  = 20 // of a list that should be short
)

// plan shows what a run would do.
func (t *text) plan(d *v1alpha1.Document) {
	t.line("Plan of policy %s: %s", cmp.Or(d.Policy, "(none)"), d.Result)
	t.facts(d)
	t.groups(d)
	t.hooks(d)
	t.volumes(d)
	if t.wide {
		t.objects("Objects", d.Objects, func(v1alpha1.Outcome) bool { return true })
	} else {
		t.objects("Referred to, and not saved", d.Objects, func(o v1alpha1.Outcome) bool { return o == v1alpha1.OutcomeReferred })
		t.objects("Look at these", d.Objects, isBad)
	}
	t.applications(d)
	t.selected(d)
	t.notes(d)
	t.section(Summary(d))
}

// Summary is a document in one line.
func Summary(d *v1alpha1.Document) string {
	objects, volumes := tally(d)
	if d.Kind == "Plan" && d.Target == nil { // that of a restore has a target
		var bytes int64
		for _, v := range d.Volumes {
			if v.Outcome == v1alpha1.OutcomeInclude {
				bytes += v.Capacity
			}
		}
		out := fmt.Sprintf("Would save %s and %s in %s", count(objects[v1alpha1.OutcomeInclude], "object"),
			count(volumes[v1alpha1.OutcomeInclude], "volume"), count(len(d.Groups), "group"))
		if bytes > 0 {
			out += fmt.Sprintf(", volumes of at most %s", size(bytes))
		}
		if n := held(d); n > 0 {
			out += ", with " + count(n, "hook")
		}
		if d.Remote != "" {
			out += ", to remote " + d.Remote
		}
		if n := badCount(objects, volumes) + badHooks(d); n > 0 {
			out += fmt.Sprintf("; %s to look at", count(n, "line"))
		}
		return out + "."
	}
	out := fmt.Sprintf("%s: objects: %s", d.Result, cmp.Or(outcomes(objects), "none"))
	if d.Kind == "Plan" {
		out = "Would be " + out
	}
	if len(d.Volumes) > 0 {
		out += "; volumes: " + outcomes(volumes)
	}
	if s := seconds(d.Seconds); s != "" {
		out += "; " + s
	}
	return out
}

// held counts the hooks that would be held.
func held(d *v1alpha1.Document) (n int) {
	for _, h := range d.Hooks {
		if h.Outcome == v1alpha1.OutcomeInclude {
			n++
		}
	}
	return n
}

func badHooks(d *v1alpha1.Document) (n int) {
	for _, h := range d.Hooks {
		if isBad(h.Outcome) {
			n++
		}
	}
	return n
}

func badCount(of ...map[v1alpha1.Outcome]int) (n int) {
	for _, m := range of {
		for o, c := range m {
			if isBad(o) {
				n += c
			}
		}
	}
	return n
}

// PlanLine writes a plan in one line, and its warnings: what a run says
// before it begins.
func PlanLine(w io.Writer, d *v1alpha1.Document) {
	t := &text{}
	t.line("%s", Summary(d))
	for _, warning := range d.Warnings {
		t.line("warning: %s", oneLine(warning))
	}
	w.Write(t.Bytes()) // status only: a run does not end for it
}

// facts are the lines about what and where.
func (t *text) facts(d *v1alpha1.Document) {
	fact := func(name, value string) {
		if value != "" {
			t.line("  %-9s %s", name, oneLine(value))
		}
	}
	fact("error", d.Error)
	fact("backup", d.Backup)
	fact("source", provenance(d.Source))
	fact("cluster", cluster(d.Cluster))
	fact("target", cluster(d.Target))
	fact("remote", d.Remote)
	fact("started", d.Started)
	if d.Kind != "Plan" {
		fact("tool", d.ToolVersion)
	}
}

func cluster(c *v1alpha1.Cluster) string {
	if c == nil {
		return ""
	}
	out := c.UID + " " + c.Version
	if c.Context != "" {
		out = c.Context + " (" + strings.TrimSpace(out) + ")"
	}
	return strings.TrimSpace(out)
}

func provenance(p *v1alpha1.Provenance) string {
	if p == nil {
		return ""
	}
	out := cmp.Or(p.URL, p.Source)
	if p.Path != "" && !strings.HasSuffix(out, p.Path) {
		out += " " + p.Path
	}
	if p.Ref != "" {
		out += " @ " + p.Ref
	}
	if p.Commit != "" {
		out += " (commit " + p.Commit + ")"
	}
	if p.Dirty {
		out += ", with changes that are not committed"
	}
	return out
}

// groups tells what shares a point in time, and why.
func (t *text) groups(d *v1alpha1.Document) {
	if len(d.Groups) == 0 {
		return
	}
	byGroup := map[string][]v1alpha1.ObjectLine{}
	for _, o := range d.Objects {
		if o.Outcome != v1alpha1.OutcomeReferred {
			byGroup[o.Group] = append(byGroup[o.Group], o)
		}
	}
	if len(d.Groups) > fewGroups && !t.wide {
		t.section(fmt.Sprintf("%d groups (-o wide tells each in full)", len(d.Groups)))
		var rows [][]string
		for _, g := range d.Groups {
			how := ""
			if g.Cut != nil {
				how = strings.Join(append([]string{cutWords(g.Cut.Method)}, measures(g.Cut)...), ", ")
			}
			rows = append(rows, []string{g.Name, fmt.Sprint(len(g.Workloads)), fmt.Sprint(len(byGroup[g.Name])), fmt.Sprint(g.Volumes), how, cycles(g)})
		}
		t.table([]string{"GROUP", "WORKLOADS", "OBJECTS", "VOLUMES", "CUT", "CYCLES"}, rows)
		return
	}
	for _, g := range d.Groups {
		t.section("Group " + g.Name + ": " + count(len(g.Workloads), "workload") + ", " + count(len(byGroup[g.Name]), "object") + ", " +
			count(g.Volumes, "volume") + ", " + count(len(g.Waves), "wave"))
		for _, w := range g.Workloads {
			t.line("  %s", w)
		}
		if len(g.Edges) > 0 {
			t.line("  joined because")
			for _, e := range g.Edges {
				t.line("    %s", Because(e))
			}
		}
		for _, c := range g.Cycles {
			t.line("  in a circle: %s", refs(c))
		}
		if k := kinds(byGroup[g.Name]); k != "" {
			t.line("  objects: %s", k)
		}
		if c := cut(d, g); c != "" {
			t.line("  cut: %s", oneLine(c))
		}
	}
}

func cycles(g v1alpha1.GroupLine) string {
	if len(g.Cycles) == 0 {
		return ""
	}
	return fmt.Sprint(len(g.Cycles))
}

func refs(rs []v1alpha1.Ref) string {
	var out []string
	for _, r := range rs {
		out = append(out, r.String())
	}
	return strings.Join(out, ", ")
}

// volumes has a line for each volume: the verdict, and why.
func (t *text) volumes(d *v1alpha1.Document) {
	var rows [][]string
	projected := 0
	for _, v := range d.Volumes {
		// What the kubelet fills from objects is no volume to a person.
		if !t.wide && v.Outcome == v1alpha1.OutcomeSkipped && filledFromObjects(v.VolumeKind) {
			projected++
			continue
		}
		name := v.Ref.String()
		if v.Volume != "" && v.Ref.Kind == "Pod" {
			name += " " + v.Volume
		}
		method, snapshotClass, read := v.Method, "", ""
		if t.wide {
			snapshotClass, read = cmp.Or(v.GroupSnapshotClass, v.SnapshotClass), sizeOf(v.Read)
		}
		if d.Kind == "Plan" && v.Cut != "" {
			method = "" // what it is read from says it better
		}
		row := []string{name, v.VolumeKind, v.StorageClass, string(v.Outcome), cutWords(v.Cut), snapshotClass, method}
		if d.Kind == "Plan" {
			row = append(row, sizeOf(v.Capacity), "", "", "", "")
		} else {
			row = append(row, sizeOf(v.Bytes), number(v.Files), read, sizeOf(v.Stored), seconds(v.Seconds))
		}
		rows = append(rows, append(row, strings.Join(append([]string{v.Reason}, v.Warnings...), "; ")))
	}
	if len(rows) == 0 {
		return
	}
	t.section("Volumes")
	t.table([]string{"VOLUME", "KIND", "CLASS", "VERDICT", "CUT", "SNAPSHOT CLASS", "METHOD", "SIZE", "FILES", "READ", "ADDED", "TIME", "REASON"}, rows)
	if projected > 0 {
		t.line("  and %s that the kubelet fills from objects", count(projected, "volume"))
	}
	t.issues(d)
}

func filledFromObjects(kind string) bool {
	switch kind {
	case "configMap", "secret", "projected", "downwardAPI", "image":
		return true
	}
	return false
}

func number(n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

// issues are the paths that were not read or set as they should.
func (t *text) issues(d *v1alpha1.Document) {
	for _, v := range d.Volumes {
		if len(v.Issues) == 0 {
			continue
		}
		t.section("In " + v.Ref.String() + " " + v.Volume)
		t.some(v.Issues)
	}
}

// some writes the first lines of a list that may be long.
func (t *text) some(lines []string) {
	for i, l := range lines {
		if i == fewLines && !t.wide {
			t.line("  ... and %d more (-o wide)", len(lines)-i)
			return
		}
		t.line("  %s", oneLine(l))
	}
}

// objects has a line for each object whose outcome is asked for.
func (t *text) objects(title string, lines []v1alpha1.ObjectLine, want func(v1alpha1.Outcome) bool) {
	var rows [][]string
	for _, o := range lines {
		if want(o.Outcome) {
			wave := ""
			if o.Group != "" && t.wide {
				wave = fmt.Sprint(o.Wave)
			}
			rows = append(rows, []string{o.Ref.String(), string(o.Outcome), o.Group, wave, strings.Join(append([]string{o.Reason}, o.Warnings...), "; ")})
		}
	}
	if len(rows) == 0 {
		return
	}
	t.section(title)
	more := len(rows) - fewLines
	if more > 0 && !t.wide {
		rows = rows[:fewLines]
	}
	t.table([]string{"OBJECT", "VERDICT", "GROUP", "WAVE", "REASON"}, rows)
	if more > 0 && !t.wide {
		t.line("  ... and %d more (-o wide)", more)
	}
}

// applications are those of Argo CD that are paused while a restore works.
func (t *text) applications(d *v1alpha1.Document) {
	if len(d.Applications) == 0 {
		return
	}
	var rows [][]string
	for _, a := range d.Applications {
		rows = append(rows, []string{a.Ref.String(), string(a.Outcome), a.Reason})
	}
	t.section("Argo CD")
	t.table([]string{"APPLICATION", "VERDICT", "REASON"}, rows)
}

// selected says what the entries of the policy matched, where that is news.
func (t *text) selected(d *v1alpha1.Document) {
	var rows [][]string
	for _, s := range d.Select {
		if s.Matched > 0 && !t.wide {
			continue
		}
		note := ""
		switch {
		case s.Matched == 0 && s.Optional:
			note = "optional"
		case s.Matched == 0:
			note = "it matches nothing: mend it, or mark it optional"
		}
		rows = append(rows, []string{s.Name, fmt.Sprint(s.Matched), note})
	}
	if len(rows) > 0 {
		t.section("Select entries")
		t.table([]string{"ENTRY", "MATCHED", "NOTE"}, rows)
	}
}

// notes are what remains: kinds, names in texts, warnings.
func (t *text) notes(d *v1alpha1.Document) {
	if len(d.Unread) > 0 {
		t.section("Kinds that could not be read")
		var rows [][]string
		for _, u := range d.Unread {
			rows = append(rows, []string{cmp.Or(u.Kind, "*"), strings.TrimPrefix(u.Group+"/"+u.Version, "/"), u.Reason})
		}
		t.table([]string{"KIND", "API", "REASON"}, rows)
	}
	if len(d.Mentions) > 0 {
		t.section("These mention a name that was rewritten, and were left as they are")
		t.some(d.Mentions)
	}
	if len(d.Warnings) > 0 {
		t.section("Warnings")
		t.some(d.Warnings)
	}
}

// Because says why an edge exists, as a sentence without a full stop.
func Because(e v1alpha1.EdgeLine) string {
	out := e.From.String() + " " + verb(e.Type) + " " + e.To.String()
	if e.Field != "" {
		out += " (" + e.Field + ")"
	}
	return out
}

func verb(typ string) string {
	switch typ {
	case "calls", "selects", "mounts", "claims", "scales", "protects", "routes-to", "mentions", "aggregates":
		return strings.ReplaceAll(typ, "-", " ")
	case "declared":
		return "is declared to need"
	case "part-of":
		return "is part of the same application as"
	case "owner":
		return "is owned by"
	}
	return "needs (" + typ + ")"
}
