package capture

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubectl-backup/kubectl-backup/plugin/mover"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/plugin/snapshot"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// What volumes are read from, as reports name it.
const (
	CutLive     = "Live"
	CutSnapshot = "Snapshot"
)

const (
	// cutPatience bounds one cut. Storage that takes longer is not frozen for.
	cutPatience = 2 * time.Minute
	// groupPatience bounds how long a group snapshot is waited for before
	// snapshots of its volumes are made instead.
	groupPatience = time.Minute
	// removal bounds how long the end of a run waits for what it made to go.
	removal = 2 * time.Minute
	// readers is how many objects of a group are read at once.
	readers = 16
)

// unit is what shares one point in time: a group or, where the policy says so,
// one workload of it.
type unit struct {
	name    string
	group   *v1alpha1.GroupLine
	volumes []*v1alpha1.VolumeLine
	hooks   []*v1alpha1.HookLine
	// last says that no other unit of the group follows.
	last bool

	cut *snapshot.Cut
}

// units lists what is cut, in the order of the plan's groups.
func units(d *v1alpha1.Document, mode string) []*unit {
	var all []*unit
	for g := range d.Groups {
		group := &d.Groups[g]
		byName := map[string]*unit{}
		var ofGroup []*unit
		at := func(name string) *unit {
			u := byName[name]
			if u == nil {
				u = &unit{name: name, group: group}
				byName[name] = u
				ofGroup = append(ofGroup, u)
			}
			return u
		}
		workloads := map[string]string{} // pod -> its workload
		for i := range d.Volumes {
			line := &d.Volumes[i]
			if line.Group != group.Name || line.Outcome != v1alpha1.OutcomeInclude {
				continue
			}
			name := "group " + group.Name
			if mode == v1alpha1.ConsistencyWorkload {
				name = line.Ref.String()
				if line.Workload != nil {
					name = line.Workload.String()
				}
				workloads[line.Ref.Namespace+"/"+line.Pod] = name
			}
			u := at(name)
			u.volumes = append(u.volumes, line)
		}
		for i := range d.Hooks {
			h := &d.Hooks[i]
			if h.Group != group.Name || h.Outcome != v1alpha1.OutcomeInclude {
				continue
			}
			name := "group " + group.Name
			if mode == v1alpha1.ConsistencyWorkload {
				var known bool
				if name, known = workloads[h.Pod.Namespace+"/"+h.Pod.Name]; !known {
					h.Outcome, h.Reason = v1alpha1.OutcomeSkipped, "each workload is cut on its own, and this pod has no volume that is saved"
					continue
				}
			}
			u := at(name)
			u.hooks = append(u.hooks, h)
		}
		if len(ofGroup) > 0 {
			ofGroup[len(ofGroup)-1].last = true
		}
		all = append(all, ofGroup...)
	}
	return all
}

// included are the volumes that are still to be captured.
func (u *unit) included(snapshots bool) []*v1alpha1.VolumeLine {
	return slices.DeleteFunc(slices.Clone(u.volumes), func(l *v1alpha1.VolumeLine) bool {
		return l.Outcome != v1alpha1.OutcomeInclude || (l.Method == v1alpha1.MethodSnapshot) != snapshots
	})
}

// fail gives up all volumes of a unit.
func (u *unit) fail(reason string) {
	for _, line := range u.volumes {
		if line.Outcome == v1alpha1.OutcomeInclude {
			line.Outcome, line.Method, line.Reason = v1alpha1.OutcomeFailed, "", reason
		}
	}
}

// run is one run at work.
type run struct {
	Request
	session *repository.Session
	objects *objectStore
	d       *v1alpha1.Document
	carrier *carrier
	support *snapshot.Support
	units   []*unit
}

// capture cuts one group after the other, and moves all volumes when nothing
// is frozen any more. A volume that fails is a line in the report; an error
// ends the run.
func (r *run) capture(ctx context.Context) error {
	r.units = units(r.d, r.Plan.Policy.Spec.Consistency.Mode)
	defer r.tidy(ctx)
	if slices.ContainsFunc(r.d.Volumes, func(l v1alpha1.VolumeLine) bool {
		return l.Outcome == v1alpha1.OutcomeInclude && l.Method == v1alpha1.MethodSnapshot
	}) {
		var err error
		if r.support, err = snapshot.Discover(ctx, r.Plan.Cluster); err != nil {
			return fmt.Errorf("find out what snapshots the cluster makes: %w", err)
		}
	}
	if err := r.cutAll(ctx); err != nil {
		return err
	}
	return r.moveAll(ctx)
}

// cutAll holds what is held for the whole backup, and cuts every unit.
func (r *run) cutAll(ctx context.Context) error {
	var whole []*v1alpha1.HookLine
	for i := range r.d.Hooks {
		if h := &r.d.Hooks[i]; h.Group == "" && h.Outcome == v1alpha1.OutcomeInclude {
			whole = append(whole, h)
		}
	}
	held := r.hold(ctx, whole)
	defer held.thaw(ctx)
	if held.failed != "" {
		for _, u := range r.units {
			u.fail("not captured: " + held.failed)
		}
		return ctx.Err()
	}
	for _, u := range r.units {
		if err := r.cutUnit(ctx, u); err != nil {
			return err
		}
	}
	held.thaw(ctx)
	if held.failed != "" { // it let go before the last cut
		for _, u := range r.units {
			u.fail("not captured: " + held.failed)
		}
	}
	return nil
}

// cutUnit makes one point in time: it freezes, cuts and thaws, and then reads
// the objects again, as they are at the cut.
func (r *run) cutUnit(ctx context.Context, u *unit) error {
	r.resolve(ctx, u)
	volumes := u.included(true)
	if len(volumes) == 0 && len(u.hooks) == 0 {
		r.describe(u, nil)
		return ctx.Err()
	}
	if len(volumes) > 0 {
		list := make([]snapshot.Volume, 0, len(volumes))
		for _, line := range volumes {
			list = append(list, snapshot.Volume{Claim: line.Ref, Driver: line.Driver, Class: line.SnapshotClass, GroupClass: line.GroupSnapshotClass})
		}
		var err error
		u.cut, err = snapshot.Prepare(ctx, r.Plan.Cluster, r.support, list, snapshot.Options{
			Run: r.session.ID(), Mark: mover.Mark, CutMark: mover.CutMark,
			Patience: cutPatience, GroupPatience: patienceWith(u.hooks), Ready: r.Plan.Policy.Spec.Mover.Timeout.Duration,
		})
		if err != nil {
			return err
		}
	}
	held := r.hold(ctx, u.hooks)
	defer held.thaw(ctx) // whatever happens from here on
	var err error
	if held.failed == "" && u.cut != nil {
		err = u.cut.Take(ctx)
	}
	held.thaw(ctx)
	if u.cut != nil {
		if err := u.cut.Settle(context.WithoutCancel(ctx)); err != nil {
			r.warn("%s: what only the cut needed is still there, and the next run or cleanup removes it: %s", u.name, oneLine(err))
		}
	}
	if err != nil {
		return err
	}
	if held.failed != "" {
		u.fail("the group was not captured: " + held.failed)
	}
	for _, line := range u.included(true) {
		if err := u.cut.Err(line.Ref); err != nil {
			line.Outcome, line.Method, line.Reason = v1alpha1.OutcomeFailed, "", oneLine(err)
			continue
		}
		line.Cut, line.CutAt = CutSnapshot, u.cut.Time(line.Ref).UTC().Format(time.RFC3339Nano)
		if u.cut.Method == snapshot.MethodGroup {
			line.Cut = snapshot.MethodGroup
		}
	}
	r.describe(u, held)
	if u.last {
		return r.reread(ctx, u.group.Name)
	}
	return ctx.Err()
}

// patienceWith leaves half of the shortest freeze for snapshots one by one,
// should a group snapshot not come to be.
func patienceWith(hooks []*v1alpha1.HookLine) time.Duration {
	patience := groupPatience
	for _, h := range hooks {
		if ttl := time.Duration(h.TTLSeconds * float64(time.Second)); ttl > 0 {
			patience = min(patience, max(ttl/2, 2*time.Second))
		}
	}
	return patience
}

// describe writes how a unit was cut. A group of several units has the line of
// its worst.
func (r *run) describe(u *unit, held *hold) {
	line := &v1alpha1.CutLine{Method: CutLive}
	if u.group.Cut != nil {
		line.Reason = u.group.Cut.Reason
	}
	snapshots, live := len(u.included(true)), len(u.included(false))
	if snapshots > 0 {
		line.Method, line.Reason = u.cut.Method, u.cut.Reason
		if live > 0 {
			line.Method = "Mixed"
		}
		if !u.cut.At.IsZero() {
			line.At, line.SkewSeconds = u.cut.At.UTC().Format(time.RFC3339Nano), u.cut.Skew.Seconds()
		}
		for _, l := range u.included(false) {
			l.Reason += "; read after the cut while its workload runs, so it is not part of the group's point in time"
		}
	}
	if held != nil {
		line.FrozenSeconds = held.seconds
	}
	if before := u.group.Cut; before != nil && before.At != "" {
		// Another workload of the group was cut before.
		if before.Method != line.Method {
			line.Method = "Mixed"
		}
		line.At = before.At
		line.SkewSeconds, line.FrozenSeconds = max(line.SkewSeconds, before.SkewSeconds), max(line.FrozenSeconds, before.FrozenSeconds)
		if line.Reason == "" {
			line.Reason = before.Reason
		}
	}
	if snapshots+live > 0 {
		u.group.Cut = line
	}
}

func (r *run) warn(format string, args ...any) {
	r.d.Warnings = append(r.d.Warnings, fmt.Sprintf(format, args...))
}

// reread stores the objects of a group as they are at its cut. What went since
// the plan stays as the plan saw it, and its line says so.
func (r *run) reread(ctx context.Context, group string) error {
	read, ctx := errgroup.WithContext(ctx)
	read.SetLimit(readers)
	for i := range r.d.Objects {
		line := &r.d.Objects[i]
		if line.Group != group || line.Outcome != v1alpha1.OutcomeSaved {
			continue
		}
		read.Go(func() error {
			k, err := r.Plan.Cluster.FindKind(ctx, line.Ref.Group, line.Ref.Version, line.Ref.Kind)
			if err != nil {
				return err
			}
			o, err := r.Plan.Cluster.Get(ctx, k, line.Ref.Namespace, line.Ref.Name)
			switch {
			case apierrors.IsNotFound(err):
				line.Warnings = append(line.Warnings, "it was deleted between the plan and the cut; saved as it was when the run was planned")
				return nil
			case err != nil && ctx.Err() == nil:
				line.Warnings = append(line.Warnings, "saved as it was when the run was planned; at the cut it could not be read: "+oneLine(err))
				return nil
			case err != nil:
				return err
			}
			return r.objects.keep(ctx, o)
		})
	}
	return read.Wait()
}

// tidy removes what is left of all cuts, also when the run was interrupted.
func (r *run) tidy(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removal)
	defer cancel()
	errs := make([]error, len(r.units))
	var group errgroup.Group
	group.SetLimit(readers)
	for i, u := range r.units {
		if u.cut != nil {
			group.Go(func() error {
				errs[i] = u.cut.Remove(ctx)
				return nil
			})
		}
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		r.warn("left in the cluster, for the next run or cleanup to remove: %s", oneLine(err))
	}
}
