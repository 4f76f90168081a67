package graph

import (
	"cmp"
	"iter"
	"slices"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Graph is what Build makes. It does not change and may be read from several
// goroutines.
type Graph struct {
	rows    []Row
	nodes   []v1alpha1.Ref // sorted
	edges   []edge         // sorted by from, to, type
	out     []int32        // edges[out[i]:out[i+1]] leave node i
	in      reversed       // all edges by to
	back    reversed       // those that bring From along with To
	missing []missingEdge
	names   interner
	index   map[nodeKey]int32
	kept    map[int32]*workload
}

func newGraph(r *resolver) *Graph {
	g := &Graph{rows: r.rows, nodes: r.refs, missing: r.missing, names: r.names, index: r.index, kept: r.workloads}
	edges := r.edges
	for i := range edges {
		// What is controlled shares a point in time with its controller.
		if e := &edges[i]; e.flags&flagController != 0 && IsWorkload(g.nodes[e.from]) {
			e.flags |= flagStrong
		}
	}
	slices.SortFunc(edges, func(a, b edge) int {
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to), strings.Compare(g.row(a).Type, g.row(b).Type),
			cmp.Compare(b.flags&flagStrong, a.flags&flagStrong), strings.Compare(g.names.texts[a.field], g.names.texts[b.field]))
	})
	// Two fields that say the same are one edge, named by the first.
	edges = slices.CompactFunc(edges, func(a, b edge) bool {
		return a.from == b.from && a.to == b.to && g.row(a).Type == g.row(b).Type
	})
	g.edges = slices.Clip(edges)
	g.out = make([]int32, len(g.nodes)+1)
	for _, e := range g.edges {
		g.out[e.from+1]++
	}
	for i := range g.nodes {
		g.out[i+1] += g.out[i]
	}
	g.in = g.reverse(func(edge) bool { return true })
	g.back = g.reverse(func(e edge) bool { return e.flags&flagController != 0 || g.row(e).Reverse })
	slices.SortFunc(g.missing, func(a, b missingEdge) int {
		return cmp.Or(cmp.Compare(a.from, b.from), g.missingRef(a).Compare(g.missingRef(b)),
			strings.Compare(g.names.texts[a.field], g.names.texts[b.field]))
	})
	return g
}

func (g *Graph) row(e edge) *Row {
	return rowAt(g.rows, e.row)
}

func (g *Graph) id(r v1alpha1.Ref) (int32, bool) { return g.names.find(g.index, r) }

// reversed lists edges by the node that they arrive at:
// edges[start[i]:start[i+1]] are the numbers of those that arrive at i. Much
// used objects, such as a namespace, have very many.
type reversed struct{ start, edges []int32 }

func (g *Graph) reverse(with func(edge) bool) reversed {
	r := reversed{start: make([]int32, len(g.nodes)+1)}
	for _, e := range g.edges {
		if with(e) {
			r.start[e.to+1]++
		}
	}
	for i := range g.nodes {
		r.start[i+1] += r.start[i]
	}
	r.edges = make([]int32, r.start[len(g.nodes)])
	next := slices.Clone(r.start)
	for i, e := range g.edges {
		if with(e) {
			r.edges[next[e.to]] = int32(i)
			next[e.to]++
		}
	}
	return r
}

// leaving are the edges that leave a node; arriving those that arrive at it;
// bringing those of the latter along which From comes with To. All in order.
func (g *Graph) leaving(n int32) []edge { return g.edges[g.out[n]:g.out[n+1]] }

func (g *Graph) arriving(n int32) iter.Seq[edge] { return g.each(g.in, n) }

func (g *Graph) bringing(n int32) iter.Seq[edge] { return g.each(g.back, n) }

func (g *Graph) each(r reversed, n int32) iter.Seq[edge] {
	return func(yield func(edge) bool) {
		for _, i := range r.edges[r.start[n]:r.start[n+1]] {
			if !yield(g.edges[i]) {
				return
			}
		}
	}
}

func (g *Graph) line(e edge) v1alpha1.EdgeLine {
	return v1alpha1.EdgeLine{From: g.nodes[e.from], To: g.nodes[e.to], Type: g.row(e).Type,
		Field: g.names.texts[e.field], Strong: e.flags&flagStrong != 0}
}

func (g *Graph) missingRef(m missingEdge) v1alpha1.Ref {
	kind, group, _ := strings.Cut(g.names.texts[m.key.kind], ".")
	return v1alpha1.Ref{Group: group, Kind: kind, Namespace: g.names.texts[m.key.namespace], Name: g.names.texts[m.key.name]}
}

// Nodes are all objects, sorted. The slice must not be changed.
func (g *Graph) Nodes() []v1alpha1.Ref { return g.nodes }

// Has says whether the object is in the graph, at whatever version.
func (g *Graph) Has(r v1alpha1.Ref) bool {
	_, ok := g.id(r)
	return ok
}

// Edges are all edges, sorted by both ends and type. Two fields of one object
// that say the same are one edge, named by the first of them.
func (g *Graph) Edges() []v1alpha1.EdgeLine {
	out := make([]v1alpha1.EdgeLine, len(g.edges))
	for i, e := range g.edges {
		out[i] = g.line(e)
	}
	return out
}

// EdgesAmong are the edges with both ends in refs, sorted.
func (g *Graph) EdgesAmong(refs []v1alpha1.Ref) []v1alpha1.EdgeLine {
	ids := g.ids(refs)
	in := make(map[int32]bool, len(ids))
	for _, id := range ids {
		in[id] = true
	}
	out := []v1alpha1.EdgeLine{}
	for _, id := range ids {
		for _, e := range g.leaving(id) {
			if in[e.to] {
				out = append(out, g.line(e))
			}
		}
	}
	return out
}

// EdgesFrom are the edges that leave one object: what it needs.
func (g *Graph) EdgesFrom(r v1alpha1.Ref) []v1alpha1.EdgeLine {
	id, ok := g.id(r)
	if !ok {
		return nil
	}
	var out []v1alpha1.EdgeLine
	for _, e := range g.leaving(id) {
		out = append(out, g.line(e))
	}
	return out
}

// EdgesTo are the edges that arrive at one object: what needs it.
func (g *Graph) EdgesTo(r v1alpha1.Ref) []v1alpha1.EdgeLine {
	id, ok := g.id(r)
	if !ok {
		return nil
	}
	var out []v1alpha1.EdgeLine
	for e := range g.arriving(id) {
		out = append(out, g.line(e))
	}
	return out
}

// Missing are the references to objects that were not added, sorted, without
// those that may dangle (what the object itself calls optional, owners that
// are gone). To has no version. An object of a kind that was never read is
// missing too: the caller knows which were.
func (g *Graph) Missing() []v1alpha1.EdgeLine {
	out := []v1alpha1.EdgeLine{}
	for _, m := range g.missing {
		if !g.mayDangle(m) {
			out = append(out, g.missingLine(m))
		}
	}
	return out
}

func (g *Graph) mayDangle(m missingEdge) bool {
	return m.flags&flagOptional != 0 || g.row(m.edge).Optional
}

func (g *Graph) missingLine(m missingEdge) v1alpha1.EdgeLine {
	return v1alpha1.EdgeLine{From: g.nodes[m.from], To: g.missingRef(m), Type: g.row(m.edge).Type,
		Field: g.names.texts[m.field], Strong: m.flags&flagStrong != 0}
}

// ids are the nodes of refs that are in the graph, sorted, each once.
func (g *Graph) ids(refs []v1alpha1.Ref) []int32 {
	ids := make([]int32, 0, len(refs))
	for _, r := range refs {
		if id, ok := g.id(r); ok {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// IsWorkload says whether objects of that kind run pods: they have a pod
// template, or are pods. A PodTemplate only describes them.
func IsWorkload(r v1alpha1.Ref) bool {
	_, ok := podTemplates[groupKind{r.Group, r.Kind}]
	return ok && r.Kind != "PodTemplate"
}

// controller is the node that controls n, if it is in the graph.
func (g *Graph) controller(n int32) (int32, bool) {
	for _, e := range g.leaving(n) {
		if e.flags&flagController != 0 {
			return e.to, true
		}
	}
	return 0, false
}

// answering are the workloads behind a Service, also behind the one that it
// is an alias for.
func (g *Graph) answering(service int32) []int32 {
	var out []int32
	for _, e := range g.leaving(service) {
		switch {
		case g.row(e).Type == TypeSelects:
			out = append(out, e.to)
		case e.row == rowAlias:
			for _, f := range g.leaving(e.to) {
				if g.row(f).Type == TypeSelects {
					out = append(out, f.to)
				}
			}
		}
	}
	return out
}

// converting are the Services and workloads that convert the objects of the
// definition to which an edge leads.
func (g *Graph) converting(e edge) []int32 {
	if g.row(e).Type != TypeDefinedBy {
		return nil
	}
	var out []int32
	for _, c := range g.leaving(e.to) {
		if g.row(c).Type == TypeConvertedBy {
			out = append(append(out, c.to), g.answering(c.to)...)
		}
	}
	return out
}

// Answering are the workloads without which an object is of no use, or cannot
// be written: those that answer for a webhook configuration or an aggregated
// API, or convert what a definition defines.
func (g *Graph) Answering(r v1alpha1.Ref) []v1alpha1.Ref {
	id, ok := g.id(r)
	if !ok {
		return nil
	}
	var out []v1alpha1.Ref
	for _, e := range g.leaving(id) {
		behind := g.converting(e)
		if g.row(e).Type == TypeAnsweredBy {
			behind = g.answering(e.to)
		}
		for _, n := range behind {
			if IsWorkload(g.nodes[n]) {
				out = append(out, g.nodes[n])
			}
		}
	}
	return out
}
