package restore

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Document is the plan as a document, with the outcomes that there are so far.
func (p *Plan) Document() *v1alpha1.Document {
	d := &v1alpha1.Document{
		APIVersion: v1alpha1.APIVersion, Kind: "Plan", Backup: p.request.Record.ID,
		ToolVersion: p.request.ToolVersion, Policy: p.request.Record.Policy, Source: p.request.Record.Source,
		Cluster: &p.request.Record.Cluster, Target: &p.target, Remote: p.request.Remote,
		Groups: []v1alpha1.GroupLine{}, Objects: make([]v1alpha1.ObjectLine, 0, len(p.items)), Volumes: []v1alpha1.VolumeLine{},
		Warnings: slices.Clone(p.warnings), Mentions: slices.Clone(p.mentions),
	}
	objects, volumes := map[string]int{}, map[string]int{}
	for _, i := range p.items {
		objects[i.line.Group]++
		d.Objects = append(d.Objects, i.line)
	}
	// What the run left to its owners is not in the backup and comes back by
	// itself all the same.
	if p.request.Filter == nil {
		for _, line := range p.leftToOwners {
			line.Ref.Namespace = p.rules.Namespace(line.Ref.Namespace)
			objects[line.Group]++
			d.Objects = append(d.Objects, line)
		}
	}
	slices.SortFunc(d.Objects, func(a, b v1alpha1.ObjectLine) int { return a.Ref.Compare(b.Ref) })
	for _, v := range p.volumes {
		volumes[v.line.Group]++
		d.Volumes = append(d.Volumes, v.line)
	}
	slices.SortFunc(d.Volumes, func(a, b v1alpha1.VolumeLine) int {
		return cmp.Or(a.Ref.Compare(b.Ref), strings.Compare(a.Volume, b.Volume))
	})
	for _, g := range p.saved.Groups {
		if objects[g.Name]+volumes[g.Name] == 0 {
			continue
		}
		d.Groups = append(d.Groups, v1alpha1.GroupLine{
			Name: g.Name, Workloads: p.mapRefs(g.Workloads), Edges: p.mapEdges(g.Edges),
			Objects: objects[g.Name], Volumes: volumes[g.Name],
		})
	}
	for _, a := range p.applications {
		d.Applications = append(d.Applications, a.line)
	}
	for kind, n := range p.droppedStatus {
		d.Warnings = append(d.Warnings, fmt.Sprintf("the status of %d %s is not restored: its controller writes it, or --restore-status does", n, kind))
	}
	slices.Sort(d.Warnings)
	slices.Sort(d.Mentions)
	judge(d)
	return d
}

// savedLine is what the run's report says about an object, until takeLines; its
// lines are in order.
func (p *Plan) savedLine(key v1alpha1.Ref) (line v1alpha1.ObjectLine, ok bool) {
	n, ok := slices.BinarySearchFunc(p.saved.Objects, key, func(l v1alpha1.ObjectLine, key v1alpha1.Ref) int { return l.Ref.Key().Compare(key) })
	if ok {
		line = p.saved.Objects[n]
	}
	return line, ok
}

// takeLines takes out of the run's report what its lines and waves say about
// the objects, and lets go of them: they take as much memory as the items.
func (p *Plan) takeLines() {
	names := map[string]string{}
	for i := range p.saved.Groups {
		names[p.saved.Groups[i].Name], p.saved.Groups[i].Waves = p.saved.Groups[i].Name, nil
	}
	for _, i := range p.items {
		if line, ok := p.savedLine(i.saved.Key()); ok {
			i.line.Group = names[line.Group]
		}
	}
	for _, line := range p.saved.Objects {
		if line.Outcome == v1alpha1.OutcomeLeftToOwner && p.bySaved[line.Ref.Key()] == nil {
			p.leftToOwners = append(p.leftToOwners, line)
		}
	}
	p.saved.Objects = nil
}

func (p *Plan) mapRefs(refs []v1alpha1.Ref) []v1alpha1.Ref {
	out := make([]v1alpha1.Ref, len(refs))
	for n, r := range refs {
		r.Namespace = p.rules.Namespace(r.Namespace)
		out[n] = r
	}
	return out
}

func (p *Plan) mapEdges(edges []v1alpha1.EdgeLine) []v1alpha1.EdgeLine {
	out := make([]v1alpha1.EdgeLine, len(edges))
	for n, e := range edges {
		e.From.Namespace, e.To.Namespace = p.rules.Namespace(e.From.Namespace), p.rules.Namespace(e.To.Namespace)
		out[n] = e
	}
	return out
}

// judge gives a document its verdict: Complete only where every line is good.
func judge(d *v1alpha1.Document) {
	good, failed, lacking := 0, 0, 0
	count := func(o v1alpha1.Outcome) {
		switch o {
		case v1alpha1.OutcomeFailed:
			failed++
		case v1alpha1.OutcomeConflict, v1alpha1.OutcomeIncomplete, v1alpha1.OutcomeUndecided:
			lacking++
		case v1alpha1.OutcomeSkipped, v1alpha1.OutcomeLeftToOwner:
		default:
			good++
		}
	}
	for _, o := range d.Objects {
		count(o.Outcome)
	}
	for _, v := range d.Volumes {
		count(v.Outcome)
	}
	switch {
	case failed == 0 && lacking == 0:
		d.Result, d.ExitCode = v1alpha1.ResultComplete, 0
	case good == 0 && lacking == 0:
		d.Result, d.ExitCode = v1alpha1.ResultFailed, 1
	default:
		d.Result, d.ExitCode = v1alpha1.ResultPartial, 3
	}
}
