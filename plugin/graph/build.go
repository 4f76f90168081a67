package graph

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
	"k8s.io/apimachinery/pkg/labels"
)

// Rows of the graph that are not (only) a field of the table. The first two
// are the table's own, taken from the header of each object.
const (
	rowNamespace = iota
	rowOwner
	// The rest stand behind all rows of the table; see Graph.row.
	rowDefaultAccount = 0xff00 + iota
	rowClaimTemplate
	rowDefinedBy
	rowServedBy
	rowCalls
	rowMentions
	rowAlias
	rowDeclared
	rowPartOf
	rowBindsUser
	rowGrantsAll
)

// impliedRows are edges that no single field makes.
var impliedRows = map[uint16]Row{
	rowDefaultAccount: {Type: TypeServiceAccount, Optional: true},
	rowClaimTemplate:  {Type: TypeClaims, Strong: true},
	rowDefinedBy:      {Type: TypeDefinedBy},
	rowServedBy:       {Type: TypeServedBy},
	rowCalls:          {Type: TypeCalls, Strong: true},
	rowMentions:       {Type: TypeMentions, Loose: true, Unordered: true},
	rowAlias:          {Type: TypeRoutesTo},
	rowDeclared:       {Type: TypeDeclared, Strong: true},
	rowPartOf:         {Type: TypePartOf, Strong: true, Unordered: true},
	rowBindsUser:      {Type: TypeBindsSubject, Reverse: true, Unordered: true, Optional: true},
	rowGrantsAll:      {Type: TypeGrants, Reverse: true, Unordered: true, Optional: true},
}

func rowAt(rows []Row, i uint16) *Row {
	if int(i) < len(rows) {
		return &rows[i]
	}
	row := impliedRows[i]
	return &row
}

type edgeFlags uint8

const (
	flagStrong edgeFlags = 1 << iota
	flagController
	flagOptional
)

func rowFlags(r *Row) edgeFlags {
	var f edgeFlags
	if r.Strong {
		f |= flagStrong
	}
	if r.Optional {
		f |= flagOptional
	}
	return f
}

type edge struct {
	from, to int32
	field    uint32
	row      uint16
	flags    edgeFlags
}

// Build resolves what was added so far; more may be added, and built again.
// An error names a mistake in the options: a row that cannot be, a declared
// edge onto itself or onto an object that does not exist. The graph is whole
// but for that edge.
func (b *Builder) Build() (*Graph, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return newGraph(&resolver{contents: b.contents.sorted(), rows: Table}), b.err
	}
	r := &resolver{contents: b.contents.sorted(), rows: b.lookup.rows, selected: map[int32][]int32{}}
	r.references()
	r.selections()
	r.definitions()
	r.parameters()
	r.claimTemplates()
	r.calls()
	r.partOf()
	errs := r.declaredEdges(b.declared)
	return newGraph(r), errors.Join(errs...)
}

// sorted is a copy whose nodes are numbered in the order of their refs, so
// that everything that follows is the same whatever order the objects came in.
func (c *contents) sorted() *contents {
	order := make([]int32, len(c.refs))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(x, y int32) int { return c.refs[x].Compare(c.refs[y]) })
	to := make([]int32, len(order))
	out := &contents{
		names: interner{ids: maps.Clone(c.names.ids), texts: slices.Clip(c.names.texts)},
		refs:  make([]v1alpha1.Ref, len(order)), uids: make([]string, len(order)),
		pending: slices.Clone(c.pending), selectors: slices.Clone(c.selectors), params: slices.Clone(c.params),
		hosts: slices.Clone(c.hosts), aliases: slices.Clone(c.aliases),
	}
	for i, old := range order {
		to[old], out.refs[i], out.uids[i] = int32(i), c.refs[old], c.uids[old]
	}
	for i := range out.pending {
		out.pending[i].from = to[out.pending[i].from]
	}
	for i := range out.selectors {
		out.selectors[i].from = to[out.selectors[i].from]
	}
	for i := range out.params {
		out.params[i].from = to[out.params[i].from]
	}
	for _, hosts := range [][]pendingHost{out.hosts, out.aliases} {
		for i := range hosts {
			hosts[i].from = to[hosts[i].from]
		}
	}
	out.workloads, out.roles, out.policies = renumber(c.workloads, to), renumber(c.roles, to), renumber(c.policies, to)
	out.index, out.crds, out.apis = revalue(c.index, to), revalue(c.crds, to), revalue(c.apis, to)
	return out
}

func revalue[K comparable](m map[K]int32, to []int32) map[K]int32 {
	out := make(map[K]int32, len(m))
	for k, i := range m {
		out[k] = to[i]
	}
	return out
}

func renumber[V any](m map[int32]V, to []int32) map[int32]V {
	out := make(map[int32]V, len(m))
	for i, v := range m {
		out[to[i]] = v
	}
	return out
}

type missingEdge struct {
	edge // to is unused
	key  nodeKey
}

type resolver struct {
	*contents
	rows     []Row
	edges    []edge
	missing  []missingEdge
	selected map[int32][]int32 // what a Service selects
}

func (r *resolver) add(from, to int32, row uint16, flags edgeFlags, field uint32) {
	if from != to {
		r.edges = append(r.edges, edge{from: from, to: to, row: row, flags: flags, field: field})
	}
}

func (r *resolver) row(i uint16) *Row {
	return rowAt(r.rows, i)
}

func (r *resolver) references() {
	none := r.names.id("")
	selects := map[int32]bool{}
	for _, s := range r.selectors {
		if r.row(s.row).Type == TypeSelects {
			selects[s.from] = true
		}
	}
	for _, p := range r.pending {
		to, ok := r.index[p.to]
		if !ok && p.either {
			to, ok = r.index[nodeKey{p.to.kind, none, p.to.name}]
		}
		if ok && p.uid != "" && r.uids[to] != "" && r.uids[to] != p.uid {
			continue // the owner is gone; another object has its name
		}
		if ok {
			if r.row(p.row).Type == TypeEndpointsOf && r.refs[p.from].Kind == "Endpoints" && selects[to] {
				p.flags |= flagController // kept by a controller that leaves no owner reference
			}
			r.add(p.from, to, p.row, p.flags, p.field)
			continue
		}
		if !r.row(p.row).Loose && r.names.texts[p.to.kind] != "" {
			r.missing = append(r.missing, missingEdge{edge{from: p.from, row: p.row, flags: p.flags, field: p.field}, p.to})
		}
	}
	namespaceField := r.names.id("metadata.namespace")
	for i, ref := range r.refs {
		if ref.Namespace == "" {
			continue
		}
		key := r.names.key("", "Namespace", "", ref.Namespace)
		if ns, ok := r.index[key]; ok {
			r.add(int32(i), ns, rowNamespace, 0, namespaceField)
		} else {
			r.missing = append(r.missing, missingEdge{edge{from: int32(i), row: rowNamespace, flags: flagOptional, field: namespaceField}, key})
		}
	}
}

// selections match label selectors against the labels of pods (those in pod
// templates) and of ClusterRoles.
func (r *resolver) selections() {
	type label struct{ namespace, key, value string }
	byLabel := map[label][]int32{}
	byNamespace := map[string][]int32{}
	for _, id := range sortedIDs(r.workloads) {
		w := r.workloads[id]
		if w.stamped {
			continue
		}
		ns := r.refs[id].Namespace
		byNamespace[ns] = append(byNamespace[ns], id)
		for k, v := range w.pods {
			byLabel[label{ns, k, v}] = append(byLabel[label{ns, k, v}], id)
		}
	}
	roles := sortedIDs(r.roles)
	for _, s := range r.selectors {
		row, ns := r.row(s.row), r.refs[s.from].Namespace
		if row.ToKind != "Pod" {
			for _, id := range roles {
				if row.ToKind == "ClusterRole" && s.matches(r.roles[id]) {
					r.add(s.from, id, s.row, rowFlags(row), s.field)
				}
			}
			continue
		}
		candidates := byNamespace[ns]
		for k, v := range s.labels {
			if c := byLabel[label{ns, k, v}]; len(c) < len(candidates) {
				candidates = c
			}
		}
		for _, id := range candidates {
			if !s.matches(r.workloads[id].pods) {
				continue
			}
			r.add(s.from, id, s.row, rowFlags(row), s.field)
			if row.Type == TypeSelects {
				r.selected[s.from] = append(r.selected[s.from], id)
			}
		}
	}
}

func (s *pendingSelector) matches(have map[string]string) bool {
	if s.match != nil {
		return s.match.Matches(labels.Set(have))
	}
	for k, v := range s.labels {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

func sortedIDs[V any](m map[int32]V) []int32 {
	ids := make([]int32, 0, len(m))
	for id := range m {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// definitions lead from custom resources to their definition, and from the
// objects of an aggregated API to what serves it.
func (r *resolver) definitions() {
	field := r.names.id("apiVersion")
	for i, ref := range r.refs {
		if ref.Group == "" {
			continue
		}
		if crd, ok := r.crds[groupKind{ref.Group, ref.Kind}]; ok {
			r.add(int32(i), crd, rowDefinedBy, 0, field)
		} else if api, ok := r.apis[ref.Group+"/"+ref.Version]; ok {
			r.add(int32(i), api, rowServedBy, 0, field)
		}
	}
}

// parameters of admission policies have the kind that the policy says.
func (r *resolver) parameters() {
	for _, p := range r.params {
		policy, ok := r.find(groupAdmission, strings.TrimSuffix(r.refs[p.from].Kind, "Binding"), "", p.policy)
		if !ok {
			continue
		}
		gk := r.policies[policy]
		to, ok := r.find(gk.group, gk.kind, p.namespace, p.name)
		if ok {
			r.add(p.from, to, p.row, flagOptional, p.field)
		}
	}
}

// claimTemplates lead from a StatefulSet to the claims that were made for its
// pods: template-name-ordinal. Nothing in the claims says so.
func (r *resolver) claimTemplates() {
	type prefix struct{ namespace, name string }
	sets := map[prefix][]edge{} // a-b of c and a of b-c look for the same claims
	for _, id := range sortedIDs(r.workloads) {
		for i, t := range r.workloads[id].templates {
			field := r.names.id(fmt.Sprintf("spec.volumeClaimTemplates[%d]", i))
			at := prefix{r.refs[id].Namespace, t + "-" + r.refs[id].Name}
			sets[at] = append(sets[at], edge{from: id, field: field})
		}
	}
	if len(sets) == 0 {
		return
	}
	for i, ref := range r.refs {
		if ref.Kind != "PersistentVolumeClaim" || ref.Group != "" || !endsInOrdinal(ref.Name) {
			continue
		}
		for _, e := range sets[prefix{ref.Namespace, ref.Name[:strings.LastIndexByte(ref.Name, '-')]}] {
			r.add(e.from, int32(i), rowClaimTemplate, flagStrong, e.field)
		}
	}
}

// service finds the Service that a host stands for.
func (r *resolver) service(host, namespace string) (int32, bool) {
	for _, s := range serviceOf(host, namespace) {
		if id, ok := r.find("", "Service", s[0], s[1]); ok {
			return id, true
		}
	}
	return 0, false
}

func (r *resolver) calls() {
	for _, a := range r.aliases {
		if to, ok := r.service(strings.TrimSuffix(r.names.texts[a.host], "."), r.refs[a.from].Namespace); ok {
			r.add(a.from, to, rowAlias, 0, a.field)
			r.selected[a.from] = append(r.selected[a.from], r.selected[to]...)
		}
	}
	type mention struct {
		service int32
		field   uint32
	}
	mentions := map[int32][]mention{} // by ConfigMap or Secret
	for _, h := range r.hosts {
		to, ok := r.service(r.names.texts[h.host], r.refs[h.from].Namespace)
		if !ok {
			continue
		}
		if r.workloads[h.from] != nil {
			r.call(h.from, to, h.field)
			continue
		}
		r.add(h.from, to, rowMentions, 0, h.field)
		mentions[h.from] = append(mentions[h.from], mention{to, h.field})
	}
	if len(mentions) == 0 {
		return
	}
	for _, e := range slices.Clone(r.edges) {
		typ := r.row(e.row).Type
		if r.workloads[e.from] == nil || typ != TypeMounts && typ != TypeEnvFrom {
			continue
		}
		for _, m := range mentions[e.to] {
			through := fmt.Sprintf("%s -> %s %s %s", r.names.texts[e.field], r.refs[e.to].Kind, r.refs[e.to].Name, r.names.texts[m.field])
			r.call(e.from, m.service, r.names.id(through))
		}
	}
}

// call adds an edge unless a workload only speaks to itself.
func (r *resolver) call(from, service int32, field uint32) {
	if s := r.selected[service]; len(s) == 1 && s[0] == from {
		return
	}
	r.add(from, service, rowCalls, flagStrong, field)
}

// partOf joins the workloads of a namespace that say that they are part of
// the same application, each to the first.
func (r *resolver) partOf() {
	type app struct{ namespace, value string }
	first := map[app]int32{}
	field := r.names.id(`metadata.labels["` + PartOfLabel + `"]`)
	for _, id := range sortedIDs(r.workloads) {
		w := r.workloads[id]
		value := w.labels[PartOfLabel]
		if value == "" || w.stamped || !IsWorkload(r.refs[id]) {
			continue
		}
		a := app{r.refs[id].Namespace, value}
		if to, ok := first[a]; ok {
			r.add(id, to, rowPartOf, flagStrong, field)
		} else {
			first[a] = id
		}
	}
}

func (r *resolver) declaredEdges(declared []v1alpha1.DeclaredEdge) []error {
	var errs []error
	byName := map[[2]string][]int32{}
	if len(declared) > 0 {
		for i, ref := range r.refs {
			k := [2]string{ref.Kind, ref.Name}
			byName[k] = append(byName[k], int32(i))
		}
	}
	for i, d := range declared {
		field := fmt.Sprintf("grouping.edges[%d]", i)
		from, to := r.ends(byName, d.From), r.ends(byName, d.To)
		switch {
		case len(from) == 0:
			errs = append(errs, &DeclaredEdgeError{i, d.From, "no such object"})
			continue
		case len(to) == 0:
			errs = append(errs, &DeclaredEdgeError{i, d.To, "no such object"})
			continue
		}
		self, made := false, 0
		for _, f := range from {
			for _, t := range to {
				if d.From.Namespace == "" || d.To.Namespace == "" {
					// An end without a namespace is in that of the other.
					if a, b := r.refs[f].Namespace, r.refs[t].Namespace; a != b && a != "" && b != "" {
						continue
					}
				}
				if f == t {
					self = true
					continue
				}
				r.add(f, t, rowDeclared, flagStrong, r.names.id(field))
				made++
			}
		}
		switch {
		case self:
			errs = append(errs, &DeclaredEdgeError{i, d.To, "the edge leads from the object to itself"})
		case made == 0:
			errs = append(errs, &DeclaredEdgeError{i, d.To, "no such object in the namespace of the other end; give both ends a namespace"})
		}
	}
	return errs
}

func (r *resolver) ends(byName map[[2]string][]int32, e v1alpha1.EdgeEnd) []int32 {
	var out []int32
	for _, id := range byName[[2]string{e.Kind, e.Name}] {
		ref := r.refs[id]
		if (e.Group == "" || e.Group == ref.Group) && (e.Namespace == "" || e.Namespace == ref.Namespace) {
			out = append(out, id)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i] < out[j] })
	return out
}

// DeclaredEdgeError is a declared edge that cannot be.
type DeclaredEdgeError struct {
	Index  int // in grouping.edges
	End    v1alpha1.EdgeEnd
	Reason string
}

func (e *DeclaredEdgeError) Error() string {
	r := v1alpha1.Ref{Group: e.End.Group, Kind: e.End.Kind, Namespace: e.End.Namespace, Name: e.End.Name}
	return fmt.Sprintf("grouping.edges[%d]: %s: %s", e.Index, r, e.Reason)
}
