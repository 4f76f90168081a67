// Package plan works out what a run would do: it reads the cluster once,
// decides what a policy selects, follows dependencies, and returns the groups,
// the objects and a verdict for each volume as one value.
//
// It only gets, lists and watches. It does not move any bytes: plugin/capture
// executes a plan. The same cluster and policy give the same plan.
package plan

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/plugin/graph"
	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/selector"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Request is what a plan is made from.
type Request struct {
	Cluster *kube.Cluster
	Policy  *v1alpha1.BackupPolicy
	// Provenance says where the policy was read from; it may be nil.
	Provenance *v1alpha1.Provenance
	// Remote is shown in the plan.
	Remote      string
	ToolVersion string
	// Recipes are the user's own, which hooks may name besides the built-in
	// ones.
	Recipes []*v1alpha1.BackupRecipe
	// Image holds this program; without one nothing can be read but through
	// containers of the application's own.
	Image string
	// Keep receives each object that would be saved, once, while the cluster
	// is being read, from several goroutines. A run stores them; nil for a
	// plan alone. Objects that it has seen may turn out not to be part of the
	// plan, so what counts is Plan.Document.
	Keep func(context.Context, *object.Object) error
}

// Plan is the value that a run executes.
type Plan struct {
	Document v1alpha1.Document
	Graph    *graph.Graph
	// Lost are objects that would be saved and that Request.Keep, where there is
	// one, was not called with: they were gone when they were read again.
	Lost map[v1alpha1.Ref]bool // by Ref.Key
	// Hooks are what the lines of Document.Hooks run, one for each.
	Hooks []Hook
	// Cuts divide the volumes that would be saved, in the order of the groups.
	Cuts []Cut
}

// Compute reads the cluster and returns the plan. An error means that there is
// no plan; things that are only partly known are lines in the document.
func Compute(ctx context.Context, r Request) (*Plan, error) {
	sel, err := selector.Compile(r.Policy)
	if err != nil {
		return nil, err
	}
	recipes, err := Recipes(r.Policy, r.Recipes)
	if err != nil {
		return nil, err
	}
	identity, err := r.Cluster.Identity(ctx)
	if err != nil {
		return nil, fmt.Errorf("identify cluster: %w", err)
	}
	inv := newInventory(r, sel)
	inv.recipes = recipes
	if err := inv.read(ctx); err != nil {
		return nil, err
	}
	g, closure, err := inv.resolve(ctx)
	if err != nil {
		return nil, err
	}
	groups, err := inv.groups(g, closure)
	if err != nil {
		return nil, err
	}
	p := &Plan{Graph: g, Document: v1alpha1.Document{
		APIVersion: v1alpha1.APIVersion, Kind: "Plan", ToolVersion: r.ToolVersion,
		Policy: PolicyName(r.Policy), Source: r.Provenance, Cluster: &identity, Remote: r.Remote,
		Groups: []v1alpha1.GroupLine{}, Objects: []v1alpha1.ObjectLine{}, Volumes: []v1alpha1.VolumeLine{},
	}}
	if err := inv.readStorage(ctx, groups); err != nil {
		return nil, err
	}
	if err := inv.fill(ctx, p, closure, groups); err != nil {
		return nil, err
	}
	return p, nil
}

// fill writes all lines of the plan and what goes with them. The cluster is
// asked for nothing more but objects that volume rules look into.
func (inv *inventory) fill(ctx context.Context, p *Plan, c *graph.Closure, m *membership) error {
	inv.describe(p, c, m)
	if err := inv.volumes(ctx, &p.Document, m); err != nil {
		return err
	}
	inv.hooks(p, m)
	inv.abort(p)
	inv.later(&p.Document)
	sortLines(&p.Document)
	inv.cuts(p)
	finish(&p.Document, inv)
	return nil
}

// PolicyName is the name of a policy in reports and records: with its namespace,
// where it has one.
func PolicyName(p *v1alpha1.BackupPolicy) string {
	if p.Namespace != "" {
		return p.Namespace + "/" + p.Name
	}
	return p.Name
}

// sortLines puts what was found in parallel into an order that is always the
// same. Hooks and groups have an order of their own.
func sortLines(d *v1alpha1.Document) {
	slices.SortFunc(d.Objects, func(a, b v1alpha1.ObjectLine) int { return a.Ref.Compare(b.Ref) })
	slices.SortFunc(d.Volumes, func(a, b v1alpha1.VolumeLine) int {
		return cmp.Or(a.Ref.Compare(b.Ref), strings.Compare(a.Volume, b.Volume))
	})
	slices.SortFunc(d.Unread, func(a, b v1alpha1.UnreadKind) int {
		return cmp.Or(strings.Compare(a.Group, b.Group), strings.Compare(a.Version, b.Version), strings.Compare(a.Kind, b.Kind))
	})
}

// finish counts the lines of each group and gives the document its verdict.
func finish(d *v1alpha1.Document, inv *inventory) {
	d.Warnings = append(d.Warnings, inv.warnings...)
	slices.Sort(d.Warnings)
	d.Warnings = slices.Compact(d.Warnings)
	byGroup := map[string]*v1alpha1.GroupLine{}
	for i := range d.Groups {
		byGroup[d.Groups[i].Name] = &d.Groups[i]
	}
	for _, o := range d.Objects {
		if g := byGroup[o.Group]; g != nil && o.Outcome == v1alpha1.OutcomeInclude {
			g.Objects++
		}
	}
	for _, v := range d.Volumes {
		if g := byGroup[v.Group]; g != nil && v.Outcome == v1alpha1.OutcomeInclude {
			g.Volumes++
		}
	}
	Judge(d)
	if d.Result == v1alpha1.ResultComplete && inv.partial {
		d.Result, d.ExitCode = v1alpha1.ResultPartial, 3
	}
}

// Judge sets a document's result and exit code from its lines: anything that
// was not done, and not deliberately left out, makes it partial.
func Judge(d *v1alpha1.Document) {
	partial := false
	for _, o := range d.Objects {
		partial = partial || bad(o.Outcome)
	}
	for _, v := range d.Volumes {
		partial = partial || bad(v.Outcome)
	}
	for _, h := range d.Hooks {
		partial = partial || bad(h.Outcome)
	}
	for _, s := range d.Select {
		partial = partial || s.Matched == 0 && !s.Optional
	}
	d.Result, d.ExitCode = v1alpha1.ResultComplete, 0
	if partial {
		d.Result, d.ExitCode = v1alpha1.ResultPartial, 3
	}
}

func bad(o v1alpha1.Outcome) bool {
	switch o {
	case v1alpha1.OutcomeUndecided, v1alpha1.OutcomeUnread, v1alpha1.OutcomeIncomplete, v1alpha1.OutcomeFailed, v1alpha1.OutcomeConflict:
		return true
	}
	return false
}

// Edges are all edges among the members of the plan's groups.
func (p *Plan) Edges() []v1alpha1.EdgeLine {
	var refs []v1alpha1.Ref
	for _, o := range p.Document.Objects {
		if o.Outcome == v1alpha1.OutcomeInclude || o.Outcome == v1alpha1.OutcomeLeftToOwner {
			refs = append(refs, o.Ref)
		}
	}
	return p.Graph.EdgesAmong(refs)
}
