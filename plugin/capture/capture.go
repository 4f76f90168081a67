// Package capture executes a plan: it writes the objects of every group and
// the bytes of every volume into a repository session, and last of all the
// record that makes them a backup.
//
// Groups are cut one after the other: frozen, cut, let go at once. Nothing is
// moved before the last of them goes on. Volumes without snapshots are read
// while their workload runs, and files that change meanwhile are named in the
// report.
//
// It takes no decisions about what to save; plugin/plan did.
package capture

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kubectl-backup/kubectl-backup/plugin/mover"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/plan"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Progress is told about one volume: total is in bytes, 0 where unknown. add
// is called with bytes as they arrive, done once at the end.
type Progress func(name string, total int64) (add func(int64), done func(error))

// Request says what to capture and where to.
type Request struct {
	Plan       plan.Request
	Repository *repository.Repository
	// Image holds this program, for movers; empty leaves only the tools that
	// the application's own images have.
	Image string
	// Transport is how movers in the cluster reach the remote.
	Transport mover.Transport
	// Parallel is how many volumes travel at once, 0 what the policy says;
	// RemoteMovers is how many the remote bears, 0 any number.
	Parallel, RemoteMovers int
	Progress               Progress
	// Planned is called with the plan once it is known, before volumes move.
	Planned func(*v1alpha1.Document)
}

// Run plans and captures in one pass and returns the report. The report is
// there also when the result is partial. An error means that no backup exists.
func Run(ctx context.Context, r Request) (*v1alpha1.Document, error) {
	started := time.Now()
	session, err := r.Repository.NewSession(ctx)
	if err != nil {
		return nil, err
	}
	committed := false
	defer func() {
		if !committed {
			// The session's own error was reported already; what it leaves is
			// unreferenced data that the repository's maintenance removes.
			_ = session.Abort(context.WithoutCancel(ctx))
		}
	}()
	namespace := r.Plan.Policy.Namespace
	swept := mover.Sweep(ctx, r.Plan.Cluster, mover.Search{Namespace: namespace, NoSnapshots: namespace != "" && !r.Plan.Policy.Spec.MaySnapshot()})
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	request := r.Plan
	request.Keep = func(ctx context.Context, o *object.Object) error { return store(ctx, session, o) }
	p, err := plan.Compute(ctx, request)
	if err != nil {
		return nil, err
	}
	p.Graph = nil // large, and not needed any more
	d := p.Document
	d.Kind, d.Started = "RunReport", started.UTC().Format(time.RFC3339Nano)
	if swept != nil {
		d.Warnings = append(d.Warnings, "what an earlier run left behind could not be removed: "+oneLine(swept))
	}
	if r.Planned != nil {
		r.Planned(&p.Document)
	}
	members := saved(p, &d)
	work := &run{
		Request: r, p: p, session: session, d: &d,
		carrier: &carrier{cluster: r.Plan.Cluster, session: session, image: r.Image, mover: r.Plan.Policy.Spec.Mover, progress: r.Progress},
	}
	if err := work.capture(ctx); err != nil {
		return nil, err
	}
	partial := d.ExitCode == 3
	plan.Judge(&d)
	if partial && d.Result == v1alpha1.ResultComplete {
		d.Result, d.ExitCode = v1alpha1.ResultPartial, 3
	}
	if nothing(&d) {
		const made = "no backup was made"
		switch {
		case len(d.Objects)+len(d.Volumes) > 0:
			d.Result, d.ExitCode = v1alpha1.ResultFailed, 1
			d.Error = "nothing of what the policy selects could be saved, so " + made
		case d.Result == v1alpha1.ResultPartial:
			d.Error = "the policy selects nothing, so " + made
		default:
			d.Warnings = append(d.Warnings, "all entries are optional and match nothing, so "+made)
		}
		return &d, nil
	}
	d.Seconds = time.Since(started).Seconds()
	d.Backup = session.ID()
	rec := record(&d, members, started, r.Plan.Policy.Labels)
	rec.Drill = r.Plan.Policy.Spec.Drill
	id, err := session.Commit(ctx, rec)
	if err != nil {
		return nil, fmt.Errorf("commit backup: %w", err)
	}
	committed = true
	d.Backup = id
	return &d, nil
}

// record gathers the constants of a backup.
func record(d *v1alpha1.Document, members map[v1alpha1.Ref]bool, started time.Time, labels map[string]string) repository.Record {
	namespaces, nodes, pods, containers := map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}
	for r := range members {
		namespaces[r.Namespace] = true
	}
	for _, v := range d.Volumes {
		if v.Snapshot != "" {
			namespaces[v.Ref.Namespace], nodes[v.Node], pods[v.Pod], containers[v.Container] = true, true, true, true
		}
	}
	return repository.Record{
		Started: started, Cluster: *d.Cluster, Policy: d.Policy, Source: d.Source, ToolVersion: d.ToolVersion,
		Labels: labels, Document: d, Members: members,
		Namespaces: names(namespaces), Nodes: names(nodes), Pods: names(pods), Containers: names(containers),
	}
}

func names(set map[string]bool) []string {
	delete(set, "")
	return slices.Sorted(maps.Keys(set))
}

func nothing(d *v1alpha1.Document) bool {
	for _, o := range d.Objects {
		if o.Outcome == v1alpha1.OutcomeSaved {
			return false
		}
	}
	for _, v := range d.Volumes {
		if v.Outcome == v1alpha1.OutcomeSaved || v.Outcome == v1alpha1.OutcomeIncomplete {
			return false
		}
	}
	return true
}

func store(ctx context.Context, s *repository.Session, o *object.Object) error {
	if err := s.AddObject(ctx, o); err != nil {
		return fmt.Errorf("store %s: %w", o.Ref, err)
	}
	return nil
}

// saved turns the plan's lines into the run's and returns the objects that
// belong to the backup.
func saved(p *plan.Plan, d *v1alpha1.Document) map[v1alpha1.Ref]bool {
	members := make(map[v1alpha1.Ref]bool, len(d.Objects))
	for i := range d.Objects {
		line := &d.Objects[i]
		if line.Outcome != v1alpha1.OutcomeInclude {
			continue
		}
		if p.Lost[line.Ref.Key()] {
			line.Outcome, line.Reason = v1alpha1.OutcomeFailed, "it was planned but could not be read again; "+line.Reason
		} else {
			line.Outcome = v1alpha1.OutcomeSaved
			members[line.Ref.Key()] = true
		}
	}
	return members
}

func volumeName(l *v1alpha1.VolumeLine) string {
	if l.Ref.Kind == "PersistentVolumeClaim" {
		return l.Ref.Namespace + "/" + l.Ref.Name
	}
	return l.Ref.Namespace + "/" + l.Ref.Name + ":" + l.Volume
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
