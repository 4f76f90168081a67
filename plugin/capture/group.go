package capture

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubectl-backup/kubectl-backup/plugin/mover"
	"github.com/kubectl-backup/kubectl-backup/plugin/plan"
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

// unit is what is cut at once: what shares a point in time or, where nothing
// shall, all volumes of a group.
type unit struct {
	name    string
	group   *v1alpha1.GroupLine
	volumes []*v1alpha1.VolumeLine
	hooks   []int // of the document, in freezing order
	// apart says that its volumes share no point in time.
	apart bool
	// reason says why it is not cut in a better way, as far as the plan knows.
	reason string
	// refused says why it is not captured, as far as the plan knows.
	refused string
	// last says that no other unit of the group follows.
	last bool

	cut *snapshot.Cut
}

// units lists what is cut, in the order of the plan.
func units(p *plan.Plan, d *v1alpha1.Document, mode string) []*unit {
	var all []*unit
	for g := range d.Groups {
		group := &d.Groups[g]
		refused := refusal(p, d, group.Name)
		var last *unit
		for _, c := range p.Cuts {
			if c.Group != group.Name {
				continue
			}
			if last == nil || mode != v1alpha1.ConsistencyNone {
				last = &unit{name: "group " + group.Name, group: group, hooks: c.Hooks, reason: c.Reason, refused: refused, apart: mode == v1alpha1.ConsistencyNone}
				if c.Workload != nil {
					last.name = c.Workload.String()
				}
				all = append(all, last)
			}
			for _, i := range c.Volumes {
				last.volumes = append(last.volumes, &d.Volumes[i])
			}
		}
		if last != nil {
			last.last = true
		}
	}
	return all
}

// refusal says which hook of a group cannot be run, as the plan found, although
// the group is not to be captured without.
func refusal(p *plan.Plan, d *v1alpha1.Document, group string) string {
	for i, line := range d.Hooks {
		bad := line.Outcome == v1alpha1.OutcomeFailed || line.Outcome == v1alpha1.OutcomeUndecided
		if bad && line.Group == group && p.Hooks[i].OnFailure != v1alpha1.OnFailureContinue {
			return fmt.Sprintf("hook %s in pod %s/%s: %s", line.Hook, line.Pod.Namespace, line.Pod.Name, line.Reason)
		}
	}
	return ""
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
			line.Outcome, line.Method, line.Cut, line.CutAt, line.Reason = v1alpha1.OutcomeFailed, "", "", "", reason
		}
	}
}

// run is one run at work.
type run struct {
	Request
	p       *plan.Plan
	session *repository.Session
	d       *v1alpha1.Document
	carrier *carrier
	jobs    jobs
	support *snapshot.Support
	units   []*unit
	// releases are removals that nobody waits for before the end. They go on
	// where the run was ended, in a context of their own, until leave is called.
	releases sync.WaitGroup
	removing context.Context
	leave    context.CancelCauseFunc
}

// capture cuts one group after the other, and moves all volumes when nothing
// is frozen any more. A volume that fails is a line in the report; an error
// ends the run.
func (r *run) capture(ctx context.Context) error {
	r.units = units(r.p, r.d, r.Plan.Policy.Spec.Consistency.Mode)
	r.removing, r.leave = context.WithCancelCause(context.WithoutCancel(ctx))
	defer r.tidy()
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
	passedOver(r.d)
	return r.moveAll(ctx)
}

// cutAll holds what is held for the whole backup, and cuts every unit.
func (r *run) cutAll(ctx context.Context) error {
	var whole []int
	for i, h := range r.d.Hooks {
		if h.Scope == v1alpha1.ScopeBackup && h.Outcome == v1alpha1.OutcomeInclude {
			whole = append(whole, i)
		}
	}
	refused := refusal(r.p, r.d, "")
	var held *hold
	if refused == "" {
		held = r.hold(ctx, whole)
		defer held.thaw(ctx)
		refused = held.failed
	}
	for _, u := range r.units {
		if refused != "" {
			u.fail("not captured: " + refused)
		}
		if err := r.cutUnit(ctx, u); err != nil {
			return err
		}
		if len(whole) == 0 {
			if err := r.reread(ctx, u); err != nil {
				return err
			}
		}
	}
	if len(whole) == 0 {
		return ctx.Err()
	}
	if held.thaw(ctx); held != nil && refused == "" && held.failed != "" { // it let go before the last cut
		for _, u := range r.units {
			u.fail("not captured: " + held.failed)
		}
	}
	for _, u := range r.units {
		if err := r.reread(ctx, u); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// cutUnit makes one point in time: it freezes, cuts and thaws.
func (r *run) cutUnit(ctx context.Context, u *unit) error {
	if u.refused != "" {
		u.fail("the group was not captured: " + u.refused)
	}
	r.resolve(ctx, u)
	volumes := u.included(true)
	if len(volumes) == 0 && (len(u.hooks) == 0 || len(u.included(false)) == 0) {
		return ctx.Err()
	}
	if err := r.prepare(ctx, u, volumes); err != nil {
		return err
	}
	held := r.hold(ctx, u.hooks)
	defer held.thaw(ctx) // whatever happens from here on
	var err error
	began := time.Now()
	if held.failed == "" && u.cut != nil {
		err = u.cut.Take(ctx)
	}
	took := time.Since(began)
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
		reason := "the group was not captured: " + held.failed
		if enough := (2 * took).Round(time.Second) + time.Second; held.expired && r.shortestHold(u) < enough {
			reason += fmt.Sprintf("; the cut took %s (hint: a ttl of %s would do)", took.Round(10*time.Millisecond), enough)
		}
		u.fail(reason)
	}
	for _, line := range u.included(true) {
		if err := u.cut.Err(line.Ref); err != nil {
			line.Outcome, line.Method, line.Cut, line.Reason = v1alpha1.OutcomeFailed, "", "", oneLine(err)
			continue
		}
		line.Cut, line.CutAt = CutSnapshot, u.cut.Time(line.Ref).UTC().Format(time.RFC3339Nano)
		if u.cut.Method == snapshot.MethodGroup {
			line.Cut = snapshot.MethodGroup
		}
	}
	r.describe(u, held)
	return ctx.Err()
}

// prepare gets a cut ready, where there is anything to cut.
func (r *run) prepare(ctx context.Context, u *unit, lines []*v1alpha1.VolumeLine) (err error) {
	if len(lines) == 0 {
		return nil
	}
	var list []snapshot.Volume
	for _, line := range lines {
		v := snapshot.Volume{Claim: line.Ref, Driver: line.Driver, Class: line.SnapshotClass, GroupClass: line.GroupSnapshotClass}
		if line.Cut != snapshot.MethodGroup || u.apart {
			v.GroupClass = ""
		}
		list = append(list, v)
	}
	u.cut, err = snapshot.Prepare(ctx, r.Plan.Cluster, r.support, list, snapshot.Options{
		Run: r.session.ID(), Mark: mover.Mark, CutMark: mover.CutMark,
		Patience: cutPatience, GroupPatience: r.groupPatience(u),
	})
	return err
}

// groupPatience leaves half of the shortest freeze for snapshots one by one,
// should a group snapshot not come to be.
func (r *run) groupPatience(u *unit) time.Duration {
	if len(u.hooks) == 0 {
		return groupPatience
	}
	return min(groupPatience, max(r.shortestHold(u)/2, 2*time.Second))
}

// shortestHold is the least time to live of what a unit freezes.
func (r *run) shortestHold(u *unit) time.Duration {
	shortest := time.Duration(math.MaxInt64)
	for _, i := range u.hooks {
		shortest = min(shortest, r.p.Hooks[i].HoldAtMost)
	}
	return shortest
}

// describe writes how a unit was cut. Of several units of a group, the line
// has the first moment and the worst figures.
func (r *run) describe(u *unit, held *hold) {
	line := u.group.Cut
	if line == nil {
		line = &v1alpha1.CutLine{}
		u.group.Cut = line
	}
	line.FrozenSeconds = max(line.FrozenSeconds, held.seconds)
	snapshots, live := u.included(true), u.included(false)
	if len(snapshots)+len(live) == 0 && len(u.volumes) > 0 {
		line.Reason = u.volumes[0].Reason
	}
	if u.cut == nil || len(snapshots) == 0 {
		return
	}
	if u.cut.Reason != "" { // not as it was planned
		line.Reason = u.cut.Reason
		if line.Method == snapshot.MethodGroup {
			line.Method = u.cut.Method
		}
	}
	if !u.apart {
		if at := u.cut.At.UTC().Format(time.RFC3339Nano); line.At == "" || at < line.At {
			line.At = at
		}
		line.SkewSeconds = max(line.SkewSeconds, u.cut.Skew.Seconds())
		for _, l := range live {
			l.Reason += "; read after the cut while its workload runs, so it is not part of the group's point in time"
		}
	}
}

func (r *run) warn(format string, args ...any) {
	r.d.Warnings = append(r.d.Warnings, fmt.Sprintf(format, args...))
}

// reread stores the objects of a group as they are at its last cut, where it
// has one. What went since the plan stays as the plan saw it, and its line says
// so.
func (r *run) reread(ctx context.Context, u *unit) error {
	if !u.last || u.group.Cut == nil || u.group.Cut.At == "" {
		return ctx.Err()
	}
	read, ctx := errgroup.WithContext(ctx)
	read.SetLimit(readers)
	for i := range r.d.Objects {
		line := &r.d.Objects[i]
		if line.Group != u.group.Name || line.Outcome != v1alpha1.OutcomeSaved {
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
			return store(ctx, r.session, o)
		})
	}
	return read.Wait()
}

// tidy removes what is left of all cuts, also when the run was interrupted.
func (r *run) tidy() {
	defer r.leave(nil)
	defer time.AfterFunc(removal, func() { r.leave(fmt.Errorf("it did not go within %s", removal)) }).Stop()
	r.releases.Wait()
	errs := make([]error, len(r.units))
	var group errgroup.Group
	group.SetLimit(readers)
	for i, u := range r.units {
		if u.cut != nil {
			group.Go(func() error {
				errs[i] = u.cut.Remove(r.removing)
				return nil
			})
		}
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		r.warn("left in the cluster, for the next run or cleanup to remove: %s", oneLine(err))
	}
}
