package plan

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kubectl-backup/kubectl-backup/plugin/graph"
	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// resolve follows dependencies until nothing new turns up: what is referred to
// and was not listed is fetched by name, and may refer to more.
func (inv *inventory) resolve(ctx context.Context) (*graph.Graph, *graph.Closure, error) {
	selected := inv.selected()
	mode := graph.Mode(cmp.Or(inv.r.Policy.Spec.Dependencies, string(graph.Include)))
	for range rounds {
		g, declared := inv.builder.Build()
		closure := g.Closure(selected, mode)
		known := inv.builder.Len()
		var wanted []v1alpha1.Ref
		if mode != graph.Ignore {
			wanted = inv.wanted(closure)
		}
		if mode == graph.Include {
			endpoints, err := inv.endpointsByHand(ctx, closure)
			if err != nil {
				return nil, nil, err
			}
			wanted = append(wanted, endpoints...)
		}
		wanted = append(wanted, inv.wantedEnds(declared)...)
		if len(wanted) == 0 && inv.builder.Len() == known {
			if declared != nil {
				return nil, nil, inv.refuseEdges(declared)
			}
			if err := inv.keepRest(ctx, closure); err != nil {
				return nil, nil, err
			}
			return g, closure, nil
		}
		if err := inv.fetch(ctx, wanted, mode == graph.Include); err != nil {
			return nil, nil, err
		}
	}
	return nil, nil, fmt.Errorf("dependencies still led to new objects after %d rounds; set spec.dependencies to Report and select what you need", rounds)
}

// wanted are the references to objects that nobody has looked for yet.
func (inv *inventory) wanted(c *graph.Closure) []v1alpha1.Ref {
	set := map[v1alpha1.Ref]bool{}
	for _, e := range c.Unseen {
		inv.want(set, e.To.Key())
	}
	for _, m := range c.Members {
		// What defines a custom resource is found by the name of its resource,
		// which stands in discovery and nowhere in the object. A group with a
		// dot may be the server's own; then there is no definition.
		gk := schema.GroupKind{Group: m.Ref.Group, Kind: m.Ref.Kind}
		if k, served := inv.kinds[gk]; served && strings.Contains(gk.Group, ".") {
			inv.want(set, v1alpha1.Ref{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition", Name: k.Resource + "." + gk.Group})
		}
	}
	return slices.SortedFunc(maps.Keys(set), v1alpha1.Ref.Compare)
}

// endpointsByHand are the Endpoints that a person may have written for members
// that are Services without a selector. Slices have names of their own: those
// are taken in at once. Nothing in a Service names either of them, and of all
// the others, which controllers make, there are very many.
func (inv *inventory) endpointsByHand(ctx context.Context, c *graph.Closure) ([]v1alpha1.Ref, error) {
	var services []v1alpha1.Ref
	endpoints := map[v1alpha1.Ref]bool{}
	for _, m := range c.Members {
		key := m.Ref.Key()
		if !inv.byHand[key] || inv.made[key] != "" {
			continue
		}
		delete(inv.byHand, key)
		services = append(services, key)
		inv.want(endpoints, v1alpha1.Ref{Kind: "Endpoints", Namespace: key.Namespace, Name: key.Name})
	}
	k, served := inv.kinds[schema.GroupKind{Group: "discovery.k8s.io", Kind: "EndpointSlice"}]
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(getters)
	for _, service := range services {
		if !served || inv.complete(k, service) {
			continue
		}
		group.Go(func() error {
			options := kube.ListOptions{Namespace: service.Namespace, LabelSelector: "kubernetes.io/service-name=" + service.Name}
			return inv.each(ctx, k, options, true, func(o *object.Object) error {
				inv.noteMade(o)
				return inv.remember(ctx, o)
			})
		})
	}
	return slices.SortedFunc(maps.Keys(endpoints), v1alpha1.Ref.Compare), group.Wait()
}

// want adds a reference to set, unless it is known already what became of it.
func (inv *inventory) want(set map[v1alpha1.Ref]bool, key v1alpha1.Ref) {
	gk := schema.GroupKind{Group: key.Group, Kind: key.Kind}
	kind, served := inv.kinds[gk]
	_, seen := inv.builder.Number(key)
	switch {
	case seen || inv.absent[key] != "" || set[key]:
	case !served:
		inv.absent[key] = "this cluster serves no kind " + gk.String()
	case inv.complete(kind, key):
		inv.absent[key] = doesNotExist
	default:
		set[key] = true
	}
}

// wantedEnds are the ends of declared edges that may exist although they were
// not listed.
func (inv *inventory) wantedEnds(err error) []v1alpha1.Ref {
	set := map[v1alpha1.Ref]bool{}
	for _, e := range joined(err) {
		var edge *graph.DeclaredEdgeError
		if !errors.As(e, &edge) {
			continue
		}
		for gk, k := range inv.kinds {
			if gk.Kind != edge.End.Kind || edge.End.Group != "" && gk.Group != edge.End.Group {
				continue
			}
			for _, ns := range inv.namespacesOf(edge, k.Namespaced) {
				inv.want(set, v1alpha1.Ref{Group: gk.Group, Kind: gk.Kind, Namespace: ns, Name: edge.End.Name})
			}
		}
	}
	return slices.SortedFunc(maps.Keys(set), v1alpha1.Ref.Compare)
}

// namespacesOf are the namespaces that an end of a declared edge may be in:
// its own, else that of the other end or of the policy, else those where an
// object that the other end names was found.
func (inv *inventory) namespacesOf(edge *graph.DeclaredEdgeError, namespaced bool) []string {
	if !namespaced {
		return []string{""}
	}
	declared := inv.r.Policy.Spec.Grouping.Edges[edge.Index]
	other := declared.From
	if edge.End == declared.From {
		other = declared.To
	}
	if ns := cmp.Or(edge.End.Namespace, other.Namespace, inv.r.Policy.Namespace); ns != "" {
		return []string{ns}
	}
	found := map[string]bool{}
	for n := range inv.builder.Len() {
		key := inv.builder.Ref(n)
		if key.Kind == other.Kind && key.Name == other.Name && key.Namespace != "" {
			found[key.Namespace] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// refuseEdges is the error of declared edges that cannot be, each with the
// place where it stands.
func (inv *inventory) refuseEdges(err error) error {
	var faults []*v1alpha1.FieldError
	for _, e := range joined(err) {
		var edge *graph.DeclaredEdgeError
		if !errors.As(e, &edge) {
			return err
		}
		path := fmt.Sprintf("spec.grouping.edges[%d]", edge.Index)
		end := v1alpha1.Ref{Group: edge.End.Group, Kind: edge.End.Kind, Namespace: edge.End.Namespace, Name: edge.End.Name}
		faults = append(faults, &v1alpha1.FieldError{Position: inv.r.Policy.At(path), Path: path, Message: fmt.Sprintf("%s: %s", end, edge.Reason)})
	}
	return v1alpha1.JoinFieldErrors(faults)
}

// joined takes apart what errors.Join put together.
func joined(err error) []error {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		return many.Unwrap()
	}
	return []error{err}
}

const doesNotExist = "it does not exist"

// complete says whether the lists already read would have had the object.
func (inv *inventory) complete(k kube.Kind, key v1alpha1.Ref) bool {
	return inv.listed[k.GVK.GroupKind()] && (inv.scope(k) == "" || inv.scope(k) == key.Namespace)
}

// fetch gets objects by name, several at once.
func (inv *inventory) fetch(ctx context.Context, refs []v1alpha1.Ref, keep bool) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(getters)
	for _, ref := range refs {
		group.Go(func() error {
			o, err := inv.get(ctx, ref)
			if o == nil || err != nil {
				return err
			}
			if err := inv.remember(ctx, o); err != nil {
				return err
			}
			if keep && !inv.noteMade(o) {
				return inv.keep(ctx, o)
			}
			return nil
		})
	}
	return group.Wait()
}

// get reads one object; one that is not there, or not ours to read, is noted
// and nil.
func (inv *inventory) get(ctx context.Context, ref v1alpha1.Ref) (*object.Object, error) {
	k := inv.kinds[schema.GroupKind{Group: ref.Group, Kind: ref.Kind}]
	namespace := ref.Namespace
	if !k.Namespaced {
		namespace = ""
	}
	o, err := inv.r.Cluster.Get(ctx, k, namespace, ref.Name)
	if err == nil {
		return o, nil
	}
	inv.mu.Lock()
	defer inv.mu.Unlock()
	switch {
	case apierrors.IsNotFound(err):
		inv.absent[ref.Key()] = doesNotExist
	case apierrors.IsForbidden(err):
		inv.absent[ref.Key()] = unreadable + err.Error()
	default:
		return nil, fmt.Errorf("get %s: %w", ref, err)
	}
	return nil, nil
}

// unreadable begins the reason of an object that exists but may not be read.
const unreadable = "no right to read it: "

func (inv *inventory) keep(ctx context.Context, o *object.Object) error {
	inv.mu.Lock()
	m := inv.mark(o.Ref)
	done := m.kept
	m.kept = true
	inv.mu.Unlock()
	if done || inv.r.Keep == nil {
		return nil
	}
	return inv.r.Keep(ctx, o)
}

// keepRest hands over the members that were listed but not selected: a second
// read, of these alone, since the first did not know that they belong.
func (inv *inventory) keepRest(ctx context.Context, c *graph.Closure) error {
	if inv.r.Keep == nil {
		return nil
	}
	var rest []graph.Member
	for _, m := range c.Members {
		if key := m.Ref.Key(); !inv.mark(key).kept && inv.made[key] == "" && (m.Selected || !m.LeftToOwner) {
			rest = append(rest, m)
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(getters)
	for _, m := range rest {
		group.Go(func() error {
			if ns := inv.namespaces[m.Ref.Name]; ns != nil && m.Ref.Kind == "Namespace" && m.Ref.Group == "" {
				return inv.keep(ctx, ns)
			}
			o, err := inv.get(ctx, m.Ref)
			if o == nil || err != nil {
				return err
			}
			return inv.keep(ctx, o)
		})
	}
	return group.Wait()
}

// membership says which group each member is counted under.
type membership struct {
	groups  []graph.Group
	closure *graph.Closure
	places  []place // of the closure's members
}

// place is where a member is counted, and its wave there.
type place struct {
	group string
	wave  int
	waved bool
}

// place of an object; false where it is no member.
func (m *membership) place(r v1alpha1.Ref) (place, bool) {
	i, ok := m.closure.Find(r)
	if !ok {
		return place{}, false
	}
	return m.places[i], true
}

func (inv *inventory) groups(g *graph.Graph, c *graph.Closure) (*membership, error) {
	spec := inv.r.Policy.Spec.Grouping
	by := graph.Grouping{By: graph.By(spec.By), Label: spec.Label}
	if spec.Expression != "" {
		by.Key = inv.groupKey
	}
	groups, err := g.Groups(c, by)
	if err != nil {
		return nil, err
	}
	m := &membership{groups: groups, closure: c, places: make([]place, len(c.Members))}
	for _, grp := range groups {
		for _, r := range grp.Objects {
			if i, ok := c.Find(r); ok {
				m.places[i].group = grp.Name
			}
		}
		for wave, refs := range grp.Waves {
			for _, r := range refs {
				if i, ok := c.Find(r); ok && (!m.places[i].waved || m.places[i].group == grp.Name) {
					m.places[i].wave, m.places[i].waved = wave, true
				}
			}
		}
	}
	return m, nil
}

// groupKey evaluates the grouping expression on one workload.
func (inv *inventory) groupKey(ref v1alpha1.Ref) (string, error) {
	o, err := inv.get(context.Background(), ref)
	if err != nil || o == nil {
		return "", err
	}
	return inv.sel.Group(context.Background(), o, inv.namespaceOf(o))
}

// workload is the topmost controller above the first of the pods, or above
// the object itself where no pod uses it.
func (m *membership) workload(pods []*pod, self v1alpha1.Ref) *v1alpha1.Ref {
	at := self
	if len(pods) > 0 {
		at = pods[0].ref.Key()
	}
	start := at
	for range 16 { // owner references may run in a circle
		i, ok := m.closure.Find(at)
		if !ok || m.closure.Members[i].Owner == nil {
			break
		}
		at = *m.closure.Members[i].Owner
	}
	if at.Key() == start.Key() && !graph.IsWorkload(at) {
		return nil
	}
	return &at
}

// describe writes the groups and a line for each object.
func (inv *inventory) describe(p *Plan, c *graph.Closure, m *membership) {
	d := &p.Document
	p.Lost = map[v1alpha1.Ref]bool{}
	for _, grp := range m.groups {
		d.Groups = append(d.Groups, v1alpha1.GroupLine{Name: grp.Name, Workloads: orEmpty(grp.Workloads), Edges: orEmpty(grp.Edges), Waves: grp.Waves, Cycles: grp.Cycles})
	}
	selectedBy := map[string]string{} // one text for all lines that say the same
	for _, mark := range inv.marks {
		if mark.selected && selectedBy[mark.entry] == "" {
			selectedBy[mark.entry] = fmt.Sprintf("selected by entry %q", mark.entry)
		}
	}
	d.Objects = make([]v1alpha1.ObjectLine, 0, len(c.Members))
	for i, member := range c.Members {
		key := member.Ref.Key()
		line := v1alpha1.ObjectLine{
			Ref: inv.versioned(member.Ref), Outcome: v1alpha1.OutcomeInclude, Reason: member.Reason,
			Group: m.places[i].group, Wave: m.places[i].wave, Warnings: inv.warned[key],
		}
		mark := inv.mark(key)
		if mark.selected {
			line.Reason = selectedBy[mark.entry]
		} else if reason, made := inv.made[key]; made {
			line.Outcome, line.Reason = v1alpha1.OutcomeSkipped, "every cluster has its own: "+reason
		} else if member.LeftToOwner {
			line.Outcome = v1alpha1.OutcomeLeftToOwner
			line.Reason = "made again by " + member.Owner.String()
		} else if reason, absent := inv.absent[key]; absent {
			line.Outcome, line.Reason = v1alpha1.OutcomeUnread, reason
		}
		if line.Outcome == v1alpha1.OutcomeInclude && !mark.kept && inv.r.Keep != nil {
			p.Lost[key] = true
		}
		d.Objects = append(d.Objects, line)
	}
	for _, r := range c.Referred {
		d.Objects = append(d.Objects, v1alpha1.ObjectLine{Ref: inv.versioned(r.Ref), Outcome: v1alpha1.OutcomeReferred, Reason: r.Reason + "; not selected, so it is not saved"})
	}
	if inv.r.Policy.Spec.Dependencies != v1alpha1.DependenciesIgnore { // else nobody looked for them
		inv.describeMissing(d, c)
	}
	d.Objects = append(d.Objects, inv.undecided...)
	d.Unread = inv.unread
	for i, e := range inv.r.Policy.Spec.Select {
		name := entryName(e, i)
		d.Select = append(d.Select, v1alpha1.SelectLine{Name: name, Matched: inv.matched[name], Optional: e.Optional})
	}
}

// describeMissing names what members refer to and what is not there. A
// reference that may not be read makes the plan partial, one that leads
// nowhere already led nowhere in the cluster and is only shown.
func (inv *inventory) describeMissing(d *v1alpha1.Document, c *graph.Closure) {
	from := map[v1alpha1.Ref][]string{}
	for _, e := range c.Missing {
		from[e.To.Key()] = append(from[e.To.Key()], fmt.Sprintf("%s (%s)", e.From, e.Field))
	}
	for key, by := range from {
		reason := cmp.Or(inv.absent[key], doesNotExist)
		outcome := v1alpha1.OutcomeMissing
		if strings.HasPrefix(reason, unreadable) {
			outcome = v1alpha1.OutcomeUnread
			if inv.r.Policy.Namespace != "" && key.Namespace != inv.r.Policy.Namespace {
				// A policy of one namespace does not promise what is outside it.
				outcome = v1alpha1.OutcomeReferred
			}
		}
		d.Objects = append(d.Objects, v1alpha1.ObjectLine{Ref: inv.versioned(key), Outcome: outcome, Reason: reason + "; referred to by " + by[0]})
	}
}

func (inv *inventory) versioned(r v1alpha1.Ref) v1alpha1.Ref {
	if n, ok := inv.builder.Number(r); ok {
		return inv.builder.Ref(n)
	}
	if k, ok := inv.kinds[schema.GroupKind{Group: r.Group, Kind: r.Kind}]; ok && r.Version == "" {
		r.Version = k.GVK.Version
	}
	return r
}

func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// later warns about fields of the policy that this version reads and does not
// act on: what a person relies on must not be silently absent.
func (inv *inventory) later(d *v1alpha1.Document) {
	spec := inv.r.Policy.Spec
	for field, set := range map[string]bool{
		"retention": spec.Retention != nil, "copies": len(spec.Copies) > 0, "drill.schedule": spec.Drill != nil && spec.Drill.Schedule != "", "triggers": len(spec.Triggers) > 0,
	} {
		if set {
			d.Warnings = append(d.Warnings, "spec."+field+" is checked but not acted on by this version")
		}
	}
}
