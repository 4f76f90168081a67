package graph

import (
	"cmp"
	"slices"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Phases are the places that kinds have in the order of a restore, whatever
// their edges. An edge can only move an object later.
const (
	phaseNamespace = iota
	phaseDefinition
	phaseConfig // also classes, roles, service accounts, volumes
	phaseClaim
	phaseService
	phaseWorkload
	phaseAround // what stands around running workloads
	phaseAdmission
)

var phases = map[groupKind]int{
	{"", "Namespace"}: phaseNamespace,
	{groupExtensions, "CustomResourceDefinition"}: phaseDefinition,
	{"", "PersistentVolumeClaim"}:                 phaseClaim,
	// What bounds the pods of workloads comes before those, and does not bound
	// the pods that fill claims.
	{"", "ResourceQuota"}:                      phaseService,
	{"", "LimitRange"}:                         phaseService,
	{"", "Service"}:                            phaseService,
	{"", "Endpoints"}:                          phaseService,
	{groupDiscovery, "EndpointSlice"}:          phaseService,
	{"autoscaling", "HorizontalPodAutoscaler"}: phaseAround,
	{"policy", "PodDisruptionBudget"}:          phaseAround,
	{groupNetworking, "Ingress"}:               phaseAround,
	{groupAPIService, "APIService"}:            phaseAround,
	// Whatever can refuse objects comes when all others are there.
	{groupAdmission, "ValidatingWebhookConfiguration"}:   phaseAdmission,
	{groupAdmission, "MutatingWebhookConfiguration"}:     phaseAdmission,
	{groupAdmission, "ValidatingAdmissionPolicy"}:        phaseAdmission,
	{groupAdmission, "ValidatingAdmissionPolicyBinding"}: phaseAdmission,
	{groupAdmission, "MutatingAdmissionPolicy"}:          phaseAdmission,
	{groupAdmission, "MutatingAdmissionPolicyBinding"}:   phaseAdmission,
}

// builtinGroups are the API groups whose objects no definition or aggregated
// server stands behind.
var builtinGroups = words("apps batch autoscaling policy extensions events.k8s.io coordination.k8s.io certificates.k8s.io node.k8s.io " +
	"internal.apiserver.k8s.io authentication.k8s.io authorization.k8s.io storagemigration.k8s.io lifecycle.k8s.io " +
	groupRBAC + " " + groupStorage + " " + groupAdmission + " " + groupNetworking + " " + groupResource + " " + groupExtensions + " " +
	groupDiscovery + " " + groupAPIService + " " + groupFlow + " " + groupScheduling)

// Builtin says whether a group is one of Kubernetes' own.
func Builtin(group string) bool { return group == "" || builtinGroups[group] }

func phaseOf(r v1alpha1.Ref) int {
	if p, ok := phases[groupKind{r.Group, r.Kind}]; ok {
		return p
	}
	switch {
	case IsWorkload(r):
		return phaseWorkload
	case r.Group == groupGateway && r.Kind != "GatewayClass":
		return phaseAround
	case r.Group == groupGateway, Builtin(r.Group):
		return phaseConfig
	}
	// A custom resource: what acts on it may start like any workload.
	return phaseWorkload
}

// Waves orders refs so that each comes after what it needs: namespaces and
// definitions first, then configuration, claims, Services, workloads with the
// called before the caller, what stands around them, and last whatever can
// refuse objects. Objects that need each other in a circle are in one wave,
// and each circle is in cycles. Edges with an end outside of refs order
// nothing, except that a call reaches the workloads behind its Service, and an
// object of a definition those that convert it. Refs in a wave are sorted.
func (g *Graph) Waves(refs []v1alpha1.Ref) (waves, cycles [][]v1alpha1.Ref) {
	ids := g.ids(refs)
	local := make(map[int32]int, len(ids))
	nodes := make([]v1alpha1.Ref, len(ids))
	for i, id := range ids {
		local[id], nodes[i] = i, g.nodes[id]
	}
	needs := make([][]int, len(ids))
	for i, id := range ids {
		for _, e := range g.leaving(id) {
			if g.row(e).Unordered {
				continue
			}
			if to, ok := local[e.to]; ok {
				needs[i] = append(needs[i], to)
			}
			behind := g.converting(e)
			if e.row == rowCalls {
				behind = g.answering(e.to)
			}
			for _, n := range behind {
				if to, ok := local[n]; ok && to != i {
					needs[i] = append(needs[i], to)
				}
			}
		}
	}
	return order(nodes, needs)
}

// Waves is Graph.Waves over edges that come from elsewhere, such as a stored
// document: refs in order, given which edges there are. Types that the graph
// does not order by (see Row.Unordered) order nothing here either.
func Waves(refs []v1alpha1.Ref, edges []v1alpha1.EdgeLine) (waves, cycles [][]v1alpha1.Ref) {
	nodes := slices.Clone(refs)
	slices.SortFunc(nodes, v1alpha1.Ref.Compare)
	nodes = slices.CompactFunc(nodes, func(a, b v1alpha1.Ref) bool { return a.Key() == b.Key() })
	local := make(map[v1alpha1.Ref]int, len(nodes))
	for i, r := range nodes {
		local[r.Key()] = i
	}
	behind, converting := map[v1alpha1.Ref][]v1alpha1.Ref{}, map[v1alpha1.Ref][]v1alpha1.Ref{}
	for _, e := range edges {
		switch e.Type {
		case TypeSelects:
			behind[e.From.Key()] = append(behind[e.From.Key()], e.To.Key())
		case TypeConvertedBy:
			converting[e.From.Key()] = append(converting[e.From.Key()], e.To.Key())
		}
	}
	needs := make([][]int, len(nodes))
	for _, e := range edges {
		from, ok := local[e.From.Key()]
		if !ok || unorderedTypes[e.Type] {
			continue
		}
		targets := []v1alpha1.Ref{e.To.Key()}
		switch e.Type {
		case TypeCalls:
			targets = append(targets, behind[e.To.Key()]...)
		case TypeDefinedBy:
			for _, service := range converting[e.To.Key()] {
				targets = append(append(targets, service), behind[service]...)
			}
		}
		for _, t := range targets {
			if to, ok := local[t]; ok && to != from {
				needs[from] = append(needs[from], to)
			}
		}
	}
	return order(nodes, needs)
}

// unorderedTypes are the edge types of rows that do not order.
var unorderedTypes = func() map[string]bool {
	m := map[string]bool{}
	for _, r := range Table {
		if r.Unordered {
			m[r.Type] = true
		}
	}
	for _, r := range impliedRows {
		if r.Unordered {
			m[r.Type] = true
		}
	}
	return m
}()

// order computes waves. Nodes are sorted; needs[i] are what node i needs.
func order(nodes []v1alpha1.Ref, needs [][]int) (waves, cycles [][]v1alpha1.Ref) {
	component, count := components(needs)
	members := make([][]int, count)
	for i, c := range component {
		members[c] = append(members[c], i)
	}
	// Components are numbered dependencies first. Each one's place is its
	// phase, and within that the longest way to it.
	type place struct{ phase, level int }
	places := make([]place, count)
	for c, in := range members {
		p := place{}
		for _, i := range in {
			p.phase = max(p.phase, phaseOf(nodes[i]))
			for _, n := range needs[i] {
				if component[n] != c {
					p.phase = max(p.phase, places[component[n]].phase)
				}
			}
		}
		for _, i := range in {
			for _, n := range needs[i] {
				if d := places[component[n]]; component[n] != c && d.phase == p.phase {
					p.level = max(p.level, d.level+1)
				}
			}
		}
		places[c] = p
		if len(in) > 1 {
			cycle := make([]v1alpha1.Ref, len(in))
			for j, i := range in {
				cycle[j] = nodes[i]
			}
			cycles = append(cycles, cycle)
		}
	}
	slices.SortFunc(cycles, func(a, b []v1alpha1.Ref) int { return a[0].Compare(b[0]) })
	sorted := make([]int, len(nodes))
	for i := range sorted {
		sorted[i] = i
	}
	at := func(i int) place { return places[component[i]] }
	slices.SortFunc(sorted, func(a, b int) int {
		return cmp.Or(cmp.Compare(at(a).phase, at(b).phase), cmp.Compare(at(a).level, at(b).level), cmp.Compare(a, b))
	})
	for i, n := range sorted {
		if i == 0 || at(n) != at(sorted[i-1]) {
			waves = append(waves, nil)
		}
		waves[len(waves)-1] = append(waves[len(waves)-1], nodes[n])
	}
	return waves, cycles
}

// components numbers the strongly connected components so that a component
// comes after all that it needs (Tarjan, without recursion: chains can be
// long).
func components(needs [][]int) (component []int, count int) {
	n := len(needs)
	component = make([]int, n)
	seen, low := make([]int, n), make([]int, n)
	var stack []int
	type frame struct{ node, next int }
	var work []frame
	clock := 0
	for root := range needs {
		if seen[root] != 0 {
			continue
		}
		work = append(work[:0], frame{node: root})
		for len(work) > 0 {
			f := &work[len(work)-1]
			v := f.node
			if f.next == 0 {
				clock++
				seen[v], low[v] = clock, clock
				stack = append(stack, v)
				component[v] = -1
			}
			if f.next < len(needs[v]) {
				to := needs[v][f.next]
				f.next++
				if seen[to] == 0 {
					work = append(work, frame{node: to})
				} else if component[to] == -1 {
					low[v] = min(low[v], seen[to])
				}
				continue
			}
			if low[v] == seen[v] {
				for {
					top := stack[len(stack)-1]
					stack = stack[:len(stack)-1]
					component[top] = count
					if top == v {
						break
					}
				}
				count++
			}
			work = work[:len(work)-1]
			if len(work) > 0 {
				parent := work[len(work)-1].node
				low[parent] = min(low[parent], low[v])
			}
		}
	}
	return component, count
}
