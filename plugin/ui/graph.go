package ui

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/plugin/graph"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Graph draws the groups of a plan and the edges between its objects. Formats
// are table, json, dot (Graphviz), mermaid and svg. Pictures leave out what a
// table keeps: namespaces, whose edges lead from everything, and objects that
// a controller makes again, which are counted at their owner.
func Graph(w io.Writer, d *v1alpha1.Document, edges []v1alpha1.EdgeLine, format string) error {
	t := &text{}
	switch format {
	case "table":
		t.graphTable(d, edges)
	case "json":
		return Value(w, graphDocument(d, edges), "json")
	case "dot":
		t.dot(newDrawing(d, edges))
	case "mermaid":
		t.mermaid(newDrawing(d, edges))
	case "svg":
		t.svg(newDrawing(d, edges))
	default:
		return fmt.Errorf("graph format %q: want table, json, dot, mermaid or svg", format)
	}
	return t.flush(w)
}

func (t *text) graphTable(d *v1alpha1.Document, edges []v1alpha1.EdgeLine) {
	group := map[v1alpha1.Ref]string{}
	for _, o := range d.Objects {
		group[o.Ref.Key()] = o.Group
	}
	for _, g := range d.Groups {
		t.section("Group " + g.Name)
		var rows [][]string
		for i, wave := range g.Waves {
			rows = append(rows, []string{fmt.Sprint(i), refs(wave)})
		}
		t.table([]string{"WAVE", "OBJECTS"}, rows)
		for _, c := range g.Cycles {
			t.line("  in a circle: %s", refs(c))
		}
	}
	var rows [][]string
	for _, e := range edges {
		if e.Type == graph.TypeNamespace {
			continue
		}
		kind := "weak"
		if e.Strong {
			kind = "strong"
		}
		rows = append(rows, []string{group[e.From.Key()], e.From.String(), e.Type, e.To.String(), kind, e.Field})
	}
	slices.SortStableFunc(rows, func(a, b []string) int { return strings.Compare(a[0], b[0]) })
	t.section(count(len(rows), "edge"))
	t.table([]string{"GROUP", "FROM", "TYPE", "TO", "KIND", "FIELD"}, rows)
}

// graphJSON is the graph for programs.
type graphJSON struct {
	APIVersion string               `json:"apiVersion"`
	Kind       string               `json:"kind"` // Graph
	Groups     []v1alpha1.GroupLine `json:"groups"`
	Nodes      []graphNode          `json:"nodes"`
	Edges      []v1alpha1.EdgeLine  `json:"edges"`
}

type graphNode struct {
	Ref     v1alpha1.Ref     `json:"ref"`
	Outcome v1alpha1.Outcome `json:"outcome"`
	Group   string           `json:"group,omitempty"`
	Wave    int              `json:"wave"`
}

func graphDocument(d *v1alpha1.Document, edges []v1alpha1.EdgeLine) graphJSON {
	out := graphJSON{APIVersion: v1alpha1.APIVersion, Kind: "Graph", Groups: whole(d).Groups, Nodes: []graphNode{}, Edges: orEmpty(edges)}
	for _, o := range d.Objects {
		out.Nodes = append(out.Nodes, graphNode{o.Ref, o.Outcome, o.Group, o.Wave})
	}
	return out
}

// drawing is what pictures show.
type drawing struct {
	groups []drawnGroup
	nodes  []drawnNode
	edges  []drawnEdge
}

type drawnGroup struct {
	name  string
	nodes []int
}

type drawnNode struct {
	ref      v1alpha1.Ref
	kind     string // first line
	name     string // second line
	wave     int
	workload bool
	outside  bool // not saved
}

type drawnEdge struct {
	from, to     int
	typ, field   string
	strong, weak bool // neither: it only mentions
}

func newDrawing(d *v1alpha1.Document, edges []v1alpha1.EdgeLine) *drawing {
	g := &drawing{}
	at := map[v1alpha1.Ref]int{}
	workloads := map[v1alpha1.Ref]bool{}
	groups := map[string]int{}
	for i, grp := range d.Groups {
		g.groups = append(g.groups, drawnGroup{name: grp.Name})
		groups[grp.Name] = i
		for _, w := range grp.Workloads {
			workloads[w.Key()] = true
		}
	}
	// What is made again is counted at the topmost owner that is drawn.
	owner := map[v1alpha1.Ref]v1alpha1.Ref{}
	for _, e := range edges {
		if e.Type == graph.TypeOwner {
			owner[e.From.Key()] = e.To.Key()
		}
	}
	made := map[v1alpha1.Ref]int{}
	for _, o := range d.Objects {
		if o.Outcome == v1alpha1.OutcomeLeftToOwner {
			top, ok := owner[o.Ref.Key()]
			for range 16 {
				next, more := owner[top]
				if !ok || !more {
					break
				}
				top = next
			}
			made[top]++
		}
	}
	for _, o := range d.Objects {
		if o.Outcome == v1alpha1.OutcomeLeftToOwner || o.Ref.Kind == "Namespace" && o.Ref.Group == "" {
			continue
		}
		n := drawnNode{ref: o.Ref, kind: o.Ref.Kind, name: strings.TrimPrefix(o.Ref.Namespace+"/"+o.Ref.Name, "/"), wave: o.Wave,
			workload: workloads[o.Ref.Key()], outside: o.Outcome == v1alpha1.OutcomeReferred || isBad(o.Outcome)}
		if m := made[o.Ref.Key()]; m > 0 {
			n.kind += fmt.Sprintf(" (makes %d)", m)
		}
		if n.outside {
			n.kind += ", " + cmp.Or(words[o.Outcome], string(o.Outcome))
			if o.Outcome == v1alpha1.OutcomeReferred {
				n.kind = o.Ref.Kind + ", not saved"
			}
		}
		i, ok := groups[o.Group]
		if !ok {
			i = len(g.groups)
			groups[o.Group] = i
			g.groups = append(g.groups, drawnGroup{name: cmp.Or(o.Group, "not in a group")})
		}
		at[o.Ref.Key()] = len(g.nodes)
		g.groups[i].nodes = append(g.groups[i].nodes, len(g.nodes))
		g.nodes = append(g.nodes, n)
	}
	for _, e := range edges {
		from, ok := at[e.From.Key()]
		to, ok2 := at[e.To.Key()]
		if ok && ok2 && e.Type != graph.TypeNamespace {
			g.edges = append(g.edges, drawnEdge{from: from, to: to, typ: e.Type, field: e.Field, strong: e.Strong, weak: !loose[e.Type]})
		}
	}
	g.groups = slices.DeleteFunc(g.groups, func(grp drawnGroup) bool { return len(grp.nodes) == 0 })
	return g
}

// loose are the edge types that bring nothing along.
var loose = map[string]bool{graph.TypeMentions: true, graph.TypeReservedFor: true, graph.TypePlacedOn: true, graph.TypeAllottedTo: true}

func (t *text) dot(g *drawing) {
	inner := func(s string) string { return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(oneLine(s)) }
	q := func(s string) string { return `"` + inner(s) + `"` }
	t.line("digraph backup {")
	t.line("  rankdir=RL; node [shape=box, style=rounded, fontname=\"sans-serif\"]; edge [fontname=\"sans-serif\", fontsize=10];")
	for i, grp := range g.groups {
		t.line("  subgraph cluster_%d {", i)
		t.line("    label=%s;", q(grp.name))
		for _, n := range grp.nodes {
			node := g.nodes[n]
			style := ""
			switch {
			case node.outside:
				style = ", style=\"rounded,dashed\""
			case node.workload:
				style = ", style=\"rounded,bold\""
			}
			t.line("    n%d [label=\"%s\\n%s\"%s];", n, inner(node.kind), inner(node.name), style)
		}
		t.line("  }")
	}
	for _, e := range g.edges {
		style := ""
		switch {
		case e.strong:
			style = ", style=bold"
		case !e.weak:
			style = ", style=dashed"
		}
		t.line("  n%d -> n%d [label=%s, tooltip=%s%s];", e.from, e.to, q(e.typ), q(e.field), style)
	}
	t.line("}")
}

func (t *text) mermaid(g *drawing) {
	q := func(s string) string {
		return strings.NewReplacer(`"`, "#quot;", "<", "#lt;", ">", "#gt;", "&", "#amp;").Replace(oneLine(s))
	}
	t.line("flowchart RL")
	for i, grp := range g.groups {
		t.line(`  subgraph g%d["%s"]`, i, q(grp.name))
		for _, n := range grp.nodes {
			t.line(`    n%d["%s<br/>%s"]`, n, q(g.nodes[n].kind), q(g.nodes[n].name))
		}
		t.line("  end")
	}
	for _, e := range g.edges {
		arrow := "-->"
		switch {
		case e.strong:
			arrow = "==>"
		case !e.weak:
			arrow = "-.->"
		}
		t.line(`  n%d %s|"%s"| n%d`, e.from, arrow, q(e.typ), e.to)
	}
	for i, n := range g.nodes {
		switch {
		case n.outside:
			t.line("  style n%d stroke-dasharray: 4 3", i)
		case n.workload:
			t.line("  style n%d stroke-width: 3px", i)
		}
	}
}
