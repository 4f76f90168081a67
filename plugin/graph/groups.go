package graph

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// By is what a policy's spec.grouping.by may say.
type By string

const (
	ByDependencies By = "Dependencies"
	ByNamespace    By = "Namespace"
	ByLabel        By = "Label"
	ByExpression   By = "Expression"
	ByNone         By = "None"
)

// Grouping says what shares a point in time.
type Grouping struct {
	By By // empty is ByDependencies
	// Label is the label whose value groups workloads, for ByLabel.
	Label string
	// Key is the name of a workload's group, for ByExpression. An empty one
	// means a group of its own. A controller that is not a workload by kind
	// is asked for too.
	Key func(v1alpha1.Ref) (string, error)
}

// Group is what shares one point in time, and comes back together.
type Group struct {
	// Name is the namespace/name of the first workload, what workloads were
	// grouped by, or namespace/objects for objects that belong to none.
	Name string
	// Workloads are the members that the others are there for, topmost
	// controllers only, sorted.
	Workloads []v1alpha1.Ref
	// Objects are the members that are counted under this group, its
	// workloads too: an object that several groups need is the first one's.
	Objects []v1alpha1.Ref
	// Edges are what joins workloads of the group.
	Edges []v1alpha1.EdgeLine
	// Waves order all that the group needs, shared objects too, without those
	// that are left to their owner.
	Waves  [][]v1alpha1.Ref
	Cycles [][]v1alpha1.Ref
}

// Groups splits the members of a closure. Groups are sorted by name, those
// without workloads last; each member is counted under exactly one. The error
// is the one of Grouping.Key.
func (g *Graph) Groups(c *Closure, by Grouping) ([]Group, error) {
	w := grouping{g: g, c: c, top: map[int32]int32{}, joins: map[int32][]unitJoin{}, parent: map[int32]int32{}}
	w.findUnits()
	w.findJoins()
	sets, err := w.split(by)
	if err != nil {
		return nil, err
	}
	groups := make([]Group, 0, len(sets))
	counted := make([]bool, len(c.ids))
	for _, s := range sets {
		groups = append(groups, w.group(s.name, s.units, s.units, counted))
	}
	return append(groups, w.rest(counted)...), nil
}

type grouping struct {
	g      *Graph
	c      *Closure
	units  []int32              // the workloads of groups: topmost controllers
	top    map[int32]int32      // from each workload, and what controls it, to its unit
	joins  map[int32][]unitJoin // by the unit that leads to another
	parent map[int32]int32      // union-find over units
}

type unitJoin struct {
	to    int32
	edges []edge
}

func (w *grouping) member(id int32) bool {
	_, ok := w.c.index[id]
	return ok
}

// findUnits climbs from each workload to the topmost controller in the closure.
func (w *grouping) findUnits() {
	for _, id := range w.c.ids {
		if !IsWorkload(w.g.nodes[id]) {
			continue
		}
		way := []int32{id}
		for {
			owner, ok := w.g.controller(way[len(way)-1])
			if !ok || !w.member(owner) || slices.Contains(way, owner) {
				break
			}
			way = append(way, owner)
		}
		unit := way[len(way)-1]
		for _, n := range way {
			w.top[n] = unit
		}
		w.parent[unit] = unit
	}
	w.units = sortedIDs(w.parent)
}

func (w *grouping) findJoins() {
	for _, id := range w.c.ids {
		a, ok := w.top[id]
		if !ok {
			continue
		}
		join := func(to int32, edges ...edge) {
			if b, ok := w.top[to]; ok && a != b {
				w.joins[a] = append(w.joins[a], unitJoin{b, edges})
			}
		}
		for _, e := range w.g.leaving(id) {
			if e.flags&flagStrong != 0 {
				join(e.to, e)
			}
		}
		for j := range w.g.joins(id) {
			join(j.to, append([]edge{j.why}, j.more...)...)
		}
	}
}

func (w *grouping) find(u int32) int32 {
	for w.parent[u] != u {
		w.parent[u] = w.parent[w.parent[u]]
		u = w.parent[u]
	}
	return u
}

func (w *grouping) union(a, b int32) {
	a, b = w.find(a), w.find(b)
	w.parent[max(a, b)] = min(a, b)
}

type unitSet struct {
	name  string
	units []int32
}

func (w *grouping) split(by Grouping) ([]unitSet, error) {
	key := func(int32) (string, error) { return "", nil }
	switch by.By {
	case ByNamespace:
		key = func(u int32) (string, error) { return cmp.Or(w.g.nodes[u].Namespace, "cluster"), nil }
	case ByLabel:
		values := w.labels(by.Label)
		key = func(u int32) (string, error) { return values[u], nil }
	case ByExpression:
		key = func(u int32) (string, error) { return by.Key(w.g.nodes[u]) }
	case ByNone:
	case ByDependencies, "":
		for _, u := range w.units {
			for _, j := range w.joins[u] {
				w.union(u, j.to)
			}
		}
	default:
		return nil, fmt.Errorf("group by %q: want Dependencies, Namespace, Label, Expression or None", by.By)
	}
	named := map[string]int32{}
	names := map[int32]string{}
	for _, u := range w.units {
		k, err := key(u)
		if err != nil {
			return nil, fmt.Errorf("group %s: %w", w.g.nodes[u], err)
		}
		if k == "" {
			continue
		}
		if first, ok := named[k]; ok {
			w.union(u, first)
		} else {
			named[k], names[u] = u, k
		}
	}
	sets := map[int32]*unitSet{}
	for _, u := range w.units {
		root := w.find(u)
		if sets[root] == nil {
			sets[root] = &unitSet{}
		}
		sets[root].units = append(sets[root].units, u)
		if n, ok := names[u]; ok {
			sets[root].name = n
		}
	}
	return w.named(sets), nil
}

// labels are the values of a label by unit: the unit's own, or else that of
// the first workload that it controls.
func (w *grouping) labels(label string) map[int32]string {
	values := map[int32]string{}
	for _, id := range w.c.ids {
		k := w.g.kept[id]
		if k == nil || k.labels[label] == "" {
			continue
		}
		if unit := w.top[id]; unit == id || values[unit] == "" {
			values[unit] = k.labels[label]
		}
	}
	return values
}

// named gives each set a name of its own and sorts by it.
func (w *grouping) named(sets map[int32]*unitSet) []unitSet {
	out := make([]unitSet, 0, len(sets))
	taken := map[string]bool{}
	for _, root := range sortedIDs(sets) {
		if s := sets[root]; s.name != "" {
			taken[s.name] = true
		}
	}
	for _, root := range sortedIDs(sets) {
		s := sets[root]
		if s.name == "" {
			// The first by namespace and name, not by kind.
			first := slices.MinFunc(s.units, func(a, b int32) int {
				x, y := w.g.nodes[a], w.g.nodes[b]
				return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name), x.Compare(y))
			})
			r := w.g.nodes[first]
			s.name = strings.TrimPrefix(r.Namespace+"/"+r.Name, "/")
			if taken[s.name] {
				s.name += "." + strings.ToLower(r.Kind)
			}
			for n := 2; taken[s.name]; n++ { // the same kind in two API groups
				s.name = fmt.Sprintf("%s-%d", s.name, n)
			}
			taken[s.name] = true
		}
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b unitSet) int { return strings.Compare(a.name, b.name) })
	return out
}

// group collects what the seeds need, and counts what no group had before.
func (w *grouping) group(name string, seeds, units []int32, counted []bool) Group {
	out := Group{Name: name}
	mine := map[int32]bool{}
	for _, u := range units {
		out.Workloads = append(out.Workloads, w.g.nodes[u])
		mine[u] = true
	}
	needed := w.reach(seeds, mine)
	var order []v1alpha1.Ref
	for _, id := range needed {
		m := w.c.index[id]
		if !counted[m] {
			counted[m] = true
			out.Objects = append(out.Objects, w.g.nodes[id])
		}
		if !w.c.Members[m].LeftToOwner {
			order = append(order, w.g.nodes[id])
		}
	}
	out.Waves, out.Cycles = w.g.Waves(order)
	seen := map[edge]bool{}
	var edges []edge
	for _, u := range units {
		for _, j := range w.joins[u] {
			for _, e := range j.edges {
				if mine[j.to] && !seen[e] {
					seen[e] = true
					edges = append(edges, e)
				}
			}
		}
	}
	slices.SortFunc(edges, func(a, b edge) int {
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to), strings.Compare(w.g.row(a).Type, w.g.row(b).Type))
	})
	for _, e := range edges {
		out.Edges = append(out.Edges, w.g.line(e))
	}
	return out
}

// reach is what is needed from the seeds on, sorted, without the workloads of
// other groups: the same ways that Closure goes.
func (w *grouping) reach(seeds []int32, mine map[int32]bool) []int32 {
	seen := map[int32]bool{}
	var ids []int32
	var via []string
	bring := func(id int32, typ string) {
		if unit, ok := w.top[id]; ok && !mine[unit] || seen[id] || !w.member(id) {
			return
		}
		seen[id] = true
		ids, via = append(ids, id), append(via, typ)
	}
	for _, s := range seeds {
		bring(s, "")
	}
	for i := 0; i < len(ids); i++ {
		for e := range w.g.bringing(ids[i]) {
			if e.flags&flagController != 0 {
				bring(e.from, "")
			} else {
				bring(e.from, w.g.row(e).Type)
			}
		}
		for _, e := range w.g.leaving(ids[i]) {
			if row := w.g.row(e); !row.Loose && (row.Type != via[i]) {
				bring(e.to, "")
			}
		}
	}
	slices.Sort(ids)
	return ids
}

// rest groups the members that belong to no workload by namespace.
func (w *grouping) rest(counted []bool) []Group {
	seeds := map[string][]int32{}
	add := func(i int) {
		name := cmp.Or(w.c.Members[i].Ref.Namespace, "cluster") + "/objects"
		seeds[name] = append(seeds[name], w.c.ids[i])
	}
	// What selected objects brought along is counted with them.
	var selected []int32
	for i, m := range w.c.Members {
		if m.Selected && !counted[i] {
			selected = append(selected, w.c.ids[i])
			add(i)
		}
	}
	reached := w.reach(selected, nil)
	for i, id := range w.c.ids {
		if _, found := slices.BinarySearch(reached, id); !found && !counted[i] {
			add(i)
		}
	}
	var out []Group
	for _, name := range slices.Sorted(maps.Keys(seeds)) {
		out = append(out, w.group(name, seeds[name], nil, counted))
	}
	return out
}
