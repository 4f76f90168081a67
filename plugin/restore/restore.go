// Package restore brings a backup back into a cluster: the same one or
// another, under other namespaces and storage classes where told.
//
// It works out first what would happen to every object (Compute), and only
// then writes: namespaces, definitions, configuration, claims with their data,
// workloads, in the waves of the graph. What exists already is left alone
// unless the request says otherwise (conflict.go, recreate.go, overwrite.go); it
// is reported, and the result is then not Complete.
//
// It may be killed at any moment: what it has in hand bears a label that says
// so, and whoever resumes it begins that anew (resume.go).
//
// It does not decide which backup (the caller gives a record), and it deletes
// nothing that it was not told to delete.
package restore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/mover"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Values of Request.DryRun.
const (
	DryRunNone   = "none"
	DryRunClient = "client"
	DryRunServer = "server"
)

// Progress is told about one volume: total is in bytes, 0 where unknown. add
// is called with bytes as they leave, done once at the end. It is used from
// several goroutines.
type Progress func(name string, total int64) (add func(int64), done func(error))

// Request says what to restore, where to and how.
type Request struct {
	Target     *kube.Cluster
	Repository *repository.Repository
	Record     *repository.Record
	// Remote and ToolVersion are shown in the report.
	Remote      string
	ToolVersion string
	// Filter says which objects of the backup are wanted; nil means all.
	Filter func(*object.Object) (bool, error)
	// Rewrite says how objects change on their way; nil means not at all.
	Rewrite *v1alpha1.RewriteSet
	// OnConflict says what becomes of what is there and differs.
	OnConflict OnConflict
	// AllowRecreate names the resources out of Recreatable that ConflictRecreate
	// may delete.
	AllowRecreate []string
	// OverwriteVolumes lets the data of claims that exist be replaced.
	OverwriteVolumes bool
	// Resume finishes what an interrupted restore had begun.
	Resume bool
	// Namespaces and StorageClasses map names of the backup to names here,
	// beside those of Rewrite.
	Namespaces     map[string]string
	StorageClasses map[string]string
	// NewNamespaces are those that the caller has made for this restore: what
	// the cluster puts into them is in nobody's way.
	NewNamespaces map[string]bool
	// DryRun is none (or empty), client or server.
	DryRun string
	// KeepNodePorts keeps the node ports of Services.
	KeepNodePorts bool
	// RestoreStatus writes the status of custom resources through the subresource
	// of that name.
	RestoreStatus bool
	// Image holds this program, for the pods that put data into volumes.
	Image string
	// Transport is how movers in the cluster reach the remote; what they cannot
	// fetch themselves is streamed to them.
	Transport mover.Transport
	// Parallel is how many volumes are filled at once; 0 means 4.
	Parallel int
	// Workers is how many objects are written at once; 0 means 16.
	Workers int
	// Timeout bounds the wait for workloads to become healthy after all is
	// written; 0 means not to wait.
	Timeout  time.Duration
	Progress Progress

	// comparing says that nothing will be written: what only a writer needs is
	// not asked for.
	comparing bool
}

func (r *Request) task(name string, total int64) (func(int64), func(error)) {
	if r.Progress == nil {
		return func(int64) {}, func(error) {}
	}
	return r.Progress(name, total)
}

func (r *Request) dry() bool { return r.DryRun == DryRunClient || r.DryRun == DryRunServer }

func (r *Request) defaults() error {
	if r.Parallel <= 0 {
		r.Parallel = 4
	}
	if r.Workers <= 0 {
		r.Workers = 16
	}
	switch r.DryRun {
	case "", DryRunNone, DryRunClient, DryRunServer:
	default:
		return fmt.Errorf("dry run %q: use none, client or server", r.DryRun)
	}
	switch r.OnConflict {
	case ConflictReport, ConflictSkip, ConflictFail, ConflictApply, ConflictRecreate:
	default:
		return fmt.Errorf("on conflict %q: use Skip, Fail, Apply or Recreate", r.OnConflict)
	}
	if r.Record == nil || r.Target == nil || r.Repository == nil {
		return errors.New("a restore needs a backup, its repository and a target cluster")
	}
	return nil
}

// Run computes the plan of a restore and, unless it is a dry run, does what
// the plan says. The report is there also when something could not be brought
// back. An error means that nothing was written, or that the work was ended in
// the middle; then the report, where there is one, says how far it came.
func Run(ctx context.Context, r Request) (*v1alpha1.Document, error) {
	started := time.Now()
	p, err := Compute(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := p.left(); err != nil {
		return nil, err
	}
	if err := p.stop(); err != nil {
		d := p.Document()
		if !r.dry() {
			d.Kind = "RestoreReport"
		}
		d.Error, d.Result, d.ExitCode = err.Error(), v1alpha1.ResultFailed, 1
		return d, err
	}
	lacking, err := p.lackingRights(ctx)
	if err != nil {
		return nil, err
	}
	if r.dry() {
		for _, l := range lacking {
			p.warnings = append(p.warnings, "the restore would not begin: "+l.Error())
		}
		if r.DryRun == DryRunServer {
			if err := p.ask(ctx); err != nil {
				return nil, err
			}
		}
		return p.Document(), nil
	}
	if len(lacking) > 0 {
		var all error
		for _, l := range lacking {
			all = errors.Join(all, l)
		}
		return nil, fmt.Errorf("nothing was restored: %w", all)
	}
	err = p.paused(ctx, func() error { return p.execute(ctx) })
	if err != nil {
		p.abandon()
	}
	d := p.Document()
	d.Kind = "RestoreReport"
	notReached(d)
	d.Started, d.Seconds = started.UTC().Format(time.RFC3339Nano), time.Since(started).Seconds()
	if err != nil {
		d.Error, d.Result, d.ExitCode = err.Error(), v1alpha1.ResultFailed, 1
		return d, err
	}
	return d, nil
}

// abandon gives what a restore that was ended did not come to its true line.
func (p *Plan) abandon() {
	for _, i := range p.items {
		if i.line.Outcome == v1alpha1.OutcomeCreate || i.line.Outcome == v1alpha1.OutcomeApply {
			i.settle(v1alpha1.OutcomeFailed, "the restore was ended before it was finished with it")
		}
	}
	for _, v := range p.volumes {
		if v.line.Outcome == v1alpha1.OutcomeCreate || v.line.Outcome == v1alpha1.OutcomeApply {
			v.settle(v1alpha1.OutcomeFailed, "the restore was ended before its data was in place")
		}
	}
}

// notReached gives what was planned and never settled the outcome that it has:
// a report that says what would be done is no report.
func notReached(d *v1alpha1.Document) {
	settle := func(o *v1alpha1.Outcome, reason *string) {
		if *o == v1alpha1.OutcomeCreate || *o == v1alpha1.OutcomeApply {
			*o, *reason = v1alpha1.OutcomeFailed, "planned, and not done: the restore did not come to it"
		}
	}
	for i := range d.Objects {
		settle(&d.Objects[i].Outcome, &d.Objects[i].Reason)
	}
	for i := range d.Volumes {
		settle(&d.Volumes[i].Outcome, &d.Volumes[i].Reason)
	}
	judge(d)
}
