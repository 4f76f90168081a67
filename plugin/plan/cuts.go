package plan

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// What the bytes of a volume are read from, as lines name it.
const (
	cutGroup    = "GroupSnapshot"
	cutSnapshot = "Snapshot"
	cutLive     = "Live"
)

// How several volumes are cut, as lines name it; besides cutGroup and cutLive.
const (
	cutTogether = "Snapshots"
	cutMixed    = "Mixed"
)

// Cut is a set of volumes that share a point in time.
type Cut struct {
	Group string
	// Workload is set where each workload has a cut of its own and this is
	// one's.
	Workload *v1alpha1.Ref
	// Method and Reason are as in v1alpha1.CutLine.
	Method, Reason string
	// Volumes are indexes into Document.Volumes, of those that would be saved;
	// their lines say by Cut and classes what becomes of each.
	Volumes []int
	// Hooks are indexes into Document.Hooks and Plan.Hooks, in freezing order:
	// what is held meanwhile. Those of scope Backup are not among them.
	Hooks []int
}

// volumeKey tells the lines of volumes apart.
type volumeKey struct {
	ref    v1alpha1.Ref
	volume string
}

// keyOf: a claim has one line, whatever the volume is called in its pods.
func keyOf(l *v1alpha1.VolumeLine) volumeKey {
	if l.Ref.Kind == "PersistentVolumeClaim" {
		return volumeKey{ref: l.Ref.Key()}
	}
	return volumeKey{l.Ref.Key(), l.Volume}
}

// cuts divides the volumes that would be saved, whose lines are in their final
// order, and says in the groups' lines how each is cut.
func (inv *inventory) cuts(p *Plan) {
	d := &p.Document
	for g := range d.Groups {
		group := &d.Groups[g]
		var cuts []*Cut
		for i := range d.Volumes {
			line := &d.Volumes[i]
			if line.Group != group.Name || line.Outcome != v1alpha1.OutcomeInclude {
				continue
			}
			cut := inv.cutOf(cuts, line)
			if cut == nil {
				cut = &Cut{Group: group.Name, Workload: inv.ownCut(line.Workload)}
				cuts = append(cuts, cut)
			}
			cut.Volumes = append(cut.Volumes, i)
		}
		for _, cut := range cuts {
			for i, h := range d.Hooks {
				if h.Outcome == v1alpha1.OutcomeInclude && cut.holds(h, p.Hooks[i]) {
					cut.Hooks = append(cut.Hooks, i)
				}
			}
			inv.decideCut(d, cut)
			p.Cuts = append(p.Cuts, *cut)
		}
		group.Cut = inv.cutLine(cuts)
	}
}

func (inv *inventory) mode() string {
	return cmp.Or(inv.r.Policy.Spec.Consistency.Mode, v1alpha1.ConsistencyGroup)
}

// cutOf finds the cut that a volume belongs to, among those of its group.
func (inv *inventory) cutOf(cuts []*Cut, line *v1alpha1.VolumeLine) *Cut {
	switch inv.mode() {
	case v1alpha1.ConsistencyGroup:
		if len(cuts) > 0 {
			return cuts[0]
		}
	case v1alpha1.ConsistencyWorkload:
		for _, c := range cuts {
			if line.Workload != nil && c.Workload != nil && *c.Workload == *line.Workload {
				return c
			}
		}
	}
	return nil
}

// holds says whether a hook is held while this is cut.
func (c *Cut) holds(line v1alpha1.HookLine, h Hook) bool {
	if line.Scope == v1alpha1.ScopeBackup || line.Group != c.Group {
		return false
	}
	if line.Scope == v1alpha1.ScopeGroup || c.Workload == nil {
		return true
	}
	return h.Workload != nil && h.Workload.Key() == c.Workload.Key()
}

// decideCut chooses how the volumes of one cut are cut.
func (inv *inventory) decideCut(d *v1alpha1.Document, c *Cut) {
	var snapshots, live []*v1alpha1.VolumeLine
	for _, i := range c.Volumes {
		if line := &d.Volumes[i]; line.Cut == cutSnapshot {
			snapshots = append(snapshots, line)
		} else {
			live = append(live, line)
		}
	}
	class, apart := inv.together(snapshots)
	if class != "" {
		for _, line := range snapshots {
			line.Cut, line.GroupSnapshotClass = cutGroup, class
		}
	}
	switch {
	case len(snapshots) == 0:
		c.Method = cutLive
		c.Reason = "no snapshot of " + inv.whyLive(live)
		if len(c.Hooks) > 0 {
			c.Reason += "; pods go on before anything is read"
		}
	case len(live) > 0:
		c.Method = cutMixed
		c.Reason = "no snapshot of " + inv.whyLive(live)
		if apart != "" {
			c.Reason += "; no group snapshot: " + apart
		}
	case class != "":
		c.Method = cutGroup
	default:
		c.Method, c.Reason = cutTogether, apart
	}
}

// together is the class of one group snapshot for all these volumes, or else
// the reason why there can be none; neither for fewer than two, since one
// volume is one point in time.
func (inv *inventory) together(snapshots []*v1alpha1.VolumeLine) (class, reason string) {
	if len(snapshots) < 2 {
		return "", ""
	}
	first := snapshots[0]
	for i, line := range snapshots {
		if line.Driver != first.Driver {
			return "", fmt.Sprintf("a group snapshot is of one driver, and these volumes are of %s and %s", first.Driver, line.Driver)
		}
		if line.Ref.Namespace != first.Ref.Namespace {
			return "", fmt.Sprintf("a group snapshot is of one namespace, and these volumes are in %s and %s", first.Ref.Namespace, line.Ref.Namespace)
		}
		wanted := inv.wantedGroupClass[keyOf(line)]
		its, err := inv.classes.GroupClass(line.Driver, wanted)
		if err != nil {
			if wanted != "" { // a slip of the pen, and not what the cluster lacks
				inv.warn("volume %s: %v", line.Ref, err)
			}
			return "", err.Error()
		}
		if i > 0 && its != class {
			return "", fmt.Sprintf("a group snapshot has one class, and the volume rules name %s and %s", class, its)
		}
		class = its
	}
	return class, ""
}

// whyLive names the first of the volumes that are not cut by a snapshot, and
// says why it is not.
func (inv *inventory) whyLive(live []*v1alpha1.VolumeLine) string {
	first := live[0]
	name := first.Ref.Name
	if first.Ref.Kind == "Pod" {
		name += " " + first.Volume
	}
	if len(live) > 1 {
		name += fmt.Sprintf(" and %d more", len(live)-1)
	}
	return name + ": " + cmp.Or(inv.noSnapshot[keyOf(first)], "only claims have snapshots")
}

// cutLine sums up the cuts of a group, or is nil where it has none.
func (inv *inventory) cutLine(cuts []*Cut) *v1alpha1.CutLine {
	if len(cuts) == 0 {
		return nil
	}
	line := &v1alpha1.CutLine{Method: cuts[0].Method, Reason: cuts[0].Reason}
	if len(cuts) == 1 {
		return line
	}
	if slices.ContainsFunc(cuts, func(c *Cut) bool { return c.Method != line.Method }) {
		line.Method = cutMixed
	}
	line.Reason = fmt.Sprintf("%d workloads have a cut of their own each, since consistency.mode is Workload", len(cuts))
	if inv.mode() == v1alpha1.ConsistencyNone {
		line.Reason = fmt.Sprintf("%d volumes have a cut of their own each, since consistency.mode is None", len(cuts))
	}
	return line
}
