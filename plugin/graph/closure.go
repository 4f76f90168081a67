package graph

import (
	"iter"
	"slices"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Mode says what becomes of the objects that selected ones need. The values
// are those of a policy's spec.dependencies.
type Mode string

const (
	// Include brings them along.
	Include Mode = "Include"
	// Report names those that a member refers to.
	Report Mode = "Report"
	// Ignore does neither.
	Ignore Mode = "Ignore"
)

// Member is one object of a closure, or one that a closure refers to.
type Member struct {
	Ref      v1alpha1.Ref
	Selected bool
	// Reason is the first edge that led to it, as a phrase: "mounted by
	// Deployment.apps shop/web (...)". For a workload that is called, it is the
	// call of its Service.
	Reason string
	// Owner is the controller that manages it and is a member too.
	Owner *v1alpha1.Ref
	// LeftToOwner says that Owner makes it again, so that it need not be
	// restored. Claims, ConfigMaps and Secrets hold what no controller knows:
	// they are not left, unless they live and die with a pod.
	LeftToOwner bool
}

// Closure is what is in, and what is known to be out.
type Closure struct {
	// Members are sorted by ref.
	Members []Member
	// Referred are objects that members refer to and that are not members,
	// sorted by ref.
	Referred []Member
	// Missing are references of members to what does not exist, see
	// Graph.Missing.
	Missing []v1alpha1.EdgeLine
	// Unseen are all references of members to what was not added, those that
	// may dangle too: what a caller that reads objects by name can still ask
	// for, add, and build again.
	Unseen []v1alpha1.EdgeLine

	ids   []int32 // of Members
	index map[int32]int
	via   []string // type of the edge backwards along which a member came
}

// Closure answers what comes along with the selected objects. Refs that are
// not in the graph are passed over.
//
// Whatever the mode, what a member controls is a member (the pods and
// ReplicaSets of a Deployment), and so is its Namespace. With Include, members
// bring along what weak and strong edges lead to, and what Reverse rows say
// belongs to them; workloads come only along strong edges: those that are
// called, share a writable claim, are declared, are part of the same
// application, or control a member.
func (g *Graph) Closure(selected []v1alpha1.Ref, mode Mode) *Closure {
	ids := g.ids(selected)
	c := &Closure{index: make(map[int32]int, len(ids)), ids: make([]int32, 0, len(ids)), Members: make([]Member, 0, len(ids)), via: make([]string, 0, len(ids))}
	w := closureWalk{g: g, c: c, mode: mode, referred: map[int32]Member{}}
	for _, id := range ids {
		w.bring(id, Member{Selected: true, Reason: "selected"}, "")
	}
	for i := 0; i < len(c.ids); i++ {
		w.expand(c.ids[i], c.via[i])
	}
	for i := range c.Members {
		m := &c.Members[i]
		if owner, ok := g.controller(c.ids[i]); ok {
			if _, in := c.index[owner]; in {
				ref := g.nodes[owner]
				m.Owner = &ref
				m.LeftToOwner = !holdsData(m.Ref) || ref.Group == "" && ref.Kind == "Pod"
			}
		}
	}
	for id, m := range w.referred {
		if _, in := c.index[id]; !in {
			m.Ref = g.nodes[id]
			c.Referred = append(c.Referred, m)
		}
	}
	byRef := func(a, b Member) int { return a.Ref.Compare(b.Ref) }
	slices.SortFunc(c.Referred, byRef)
	for _, m := range g.missing {
		if _, in := c.index[m.from]; in {
			c.Unseen = append(c.Unseen, g.missingLine(m))
			if !g.mayDangle(m) {
				c.Missing = append(c.Missing, g.missingLine(m))
			}
		}
	}
	c.sort()
	return c
}

// Find returns where in Members an object is, at whatever version.
func (c *Closure) Find(r v1alpha1.Ref) (int, bool) {
	return slices.BinarySearchFunc(c.Members, r.Key(), func(m Member, key v1alpha1.Ref) int { return m.Ref.Key().Compare(key) })
}

func (c *Closure) sort() {
	if slices.IsSorted(c.ids) {
		return
	}
	order := make([]int, len(c.ids))
	for i := range order {
		order[i] = i
	}
	// Nodes are numbered in the order of their refs.
	slices.SortFunc(order, func(a, b int) int { return int(c.ids[a]) - int(c.ids[b]) })
	members, ids, via := make([]Member, len(order)), make([]int32, len(order)), make([]string, len(order))
	for i, o := range order {
		members[i], ids[i], via[i] = c.Members[o], c.ids[o], c.via[o]
		c.index[ids[i]] = i
	}
	c.Members, c.ids, c.via = members, ids, via
}

// holdsData says whether an object holds what its controller could not make
// again the same.
func holdsData(r v1alpha1.Ref) bool {
	return r.Group == "" && (r.Kind == "PersistentVolumeClaim" || r.Kind == "ConfigMap" || r.Kind == "Secret")
}

type closureWalk struct {
	g        *Graph
	c        *Closure
	mode     Mode
	referred map[int32]Member
}

func (w *closureWalk) bring(id int32, m Member, via string) {
	if _, in := w.c.index[id]; in {
		return
	}
	m.Ref = w.g.nodes[id]
	w.c.index[id] = len(w.c.ids)
	w.c.ids = append(w.c.ids, id)
	w.c.via = append(w.c.via, via)
	w.c.Members = append(w.c.Members, m)
}

func (w *closureWalk) refer(id int32, reason string) {
	if _, known := w.referred[id]; !known {
		w.referred[id] = Member{Reason: reason}
	}
}

func (w *closureWalk) expand(id int32, via string) {
	g := w.g
	for e := range g.bringing(id) {
		if e.flags&flagController != 0 {
			w.bring(e.from, w.member(e, backwards), "")
		}
	}
	for _, e := range g.leaving(id) {
		row := g.row(e)
		if row.Type == TypeNamespace {
			w.bring(e.to, w.member(e, forwards), "")
			continue
		}
		if w.mode == Ignore || row.Loose || row.Type == TypePartOf {
			continue
		}
		switch strong := e.flags&flagStrong != 0; {
		case w.mode == Report:
			w.refer(e.to, reason(g.line(e), forwards))
		case row.Type == via:
			// It came because of what it selects; it does not bring the
			// others that it selects too.
		case IsWorkload(g.nodes[e.to]) && !strong:
			w.refer(e.to, reason(g.line(e), forwards))
		default:
			w.bring(e.to, w.member(e, forwards), "")
		}
	}
	if w.mode == Ignore {
		return
	}
	for j := range g.joins(id) {
		if w.mode == Report {
			w.refer(j.to, reason(g.line(j.why), j.direction))
		} else {
			w.bring(j.to, w.member(j.why, j.direction), "")
		}
	}
	if w.mode != Include {
		return
	}
	for e := range g.bringing(id) {
		row := g.row(e)
		if !row.Reverse {
			continue
		}
		if IsWorkload(g.nodes[e.from]) {
			w.refer(e.from, reason(g.line(e), backwards))
			continue
		}
		w.bring(e.from, w.member(e, backwards), row.Type)
	}
}

func (w *closureWalk) member(e edge, d direction) Member {
	return Member{Reason: reason(w.g.line(e), d)}
}

// join is a workload that another is joined to, beyond a plain strong edge.
type join struct {
	to        int32
	why       edge
	more      []edge // the further edges of the way, for a group's reasons
	direction direction
}

// joins are the workloads that n leads to over something in between: those
// behind a Service that it calls, those that use its writable claim, and those
// with the same part-of label.
func (g *Graph) joins(n int32) iter.Seq[join] {
	return func(yield func(join) bool) {
		for _, e := range g.leaving(n) {
			switch row := g.row(e); {
			case row.Type == TypeCalls:
				for _, to := range g.answering(e.to) {
					if to != n && !yield(join{to: to, why: e, more: g.between(e.to, to), direction: forwards}) {
						return
					}
				}
			case row.Type == TypeClaims && e.flags&flagStrong != 0:
				for other := range g.arriving(e.to) {
					if other.from == n || g.row(other).Type != TypeClaims || other.flags&flagStrong == 0 {
						continue
					}
					if !yield(join{to: other.from, why: other, more: []edge{e}, direction: backwards}) {
						return
					}
				}
			case row.Type == TypePartOf:
				if !yield(join{to: e.to, why: e, direction: forwards}) {
					return
				}
			}
		}
		for e := range g.arriving(n) {
			if g.row(e).Type == TypePartOf && !yield(join{to: e.from, why: e, direction: backwards}) {
				return
			}
		}
	}
}

// between are the edges that lead straight from one node to another.
func (g *Graph) between(from, to int32) []edge {
	var out []edge
	for _, e := range g.leaving(from) {
		if e.to == to {
			out = append(out, e)
		}
	}
	return out
}

type direction bool

const (
	forwards  direction = true  // the object is To
	backwards direction = false // the object is From
)

// phrases say an edge as seen from To, and from From.
var phrases = map[string][2]string{
	TypeOwner:          {"owner of", "owned by"},
	TypeNamespace:      {"namespace of", "in"},
	TypeMounts:         {"mounted by", "mounts"},
	TypeEnvFrom:        {"read into the environment of", "reads its environment from"},
	TypePullsWith:      {"pull secret of", "pulls images with"},
	TypeServiceAccount: {"service account of", "token of"},
	TypePriority:       {"priority of", "has the priority of"},
	TypeRuntime:        {"runtime of", "runs in"},
	TypeDevice:         {"device of", "uses the device of"},
	TypeSelects:        {"selected by", "selects"},
	TypeEndpointsOf:    {"has endpoints in", "endpoints of"},
	TypeServiceName:    {"names the pods of", "has its pods named by"},
	TypeRoutesTo:       {"routed to by", "routes to"},
	TypeAttachesTo:     {"carries the route of", "attached to"},
	TypeUsesSecret:     {"credentials of", "has its credentials in"},
	TypeClass:          {"class of", "of the class"},
	TypeScales:         {"scaled by", "scales"},
	TypeProtects:       {"protected by", "protects"},
	TypeBindsRole:      {"role bound by", "binds the role"},
	TypeBindsSubject:   {"bound by", "binds"},
	TypeAggregates:     {"aggregated by", "aggregates"},
	TypeClaims:         {"claimed by", "uses the claim of"},
	TypeBoundTo:        {"bound to", "bound to"},
	TypeDataSource:     {"data source of", "made from"},
	TypeDefinedBy:      {"defines", "defined by"},
	TypeServedBy:       {"serves", "served by"},
	TypeAnsweredBy:     {"answers for", "answered by"},
	TypeConvertedBy:    {"converts the objects of", "converted by"},
	TypeListsSecret:    {"listed by", "lists"},
	TypePolicy:         {"policy of", "policy for"},
	TypeParameters:     {"parameters of", "has its parameters in"},
	TypeGrants:         {"granted by", "grants the use of"},
	TypeCalls:          {"called by", "calls"},
	TypeDeclared:       {"declared to be needed by", "declared to need"},
	TypePartOf:         {"part of the same application as", "part of the same application as"},
}

func reason(e v1alpha1.EdgeLine, d direction) string {
	p, ok := phrases[e.Type]
	if !ok { // of an extra row
		p = [2]string{e.Type + " of", e.Type}
	}
	if e.Type == TypeNamespace {
		return "namespace of " + e.From.String()
	}
	if d == forwards {
		return p[0] + " " + e.From.String() + " (" + e.Field + ")"
	}
	return p[1] + " " + e.To.String() + " (" + e.Field + ")"
}
