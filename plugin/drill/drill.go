// Package drill proves that a backup can be restored: it restores it into
// namespaces made for that, where it reaches nothing and nothing reaches it,
// waits for health, checks assertions and probes, and removes everything.
//
// What is restored is defused on its way: hosts, load balancers, node ports,
// host networks and CronJobs. Nothing that is not in a namespace is touched. The
// namespaces carry the mark of temporary things, so that what a killed drill
// leaves is removed by cleanup and by the next run.
//
// It does not choose the backup, does not store the verdict, and does not judge
// anything by itself but that what was to be restored was: what else is right is
// said by the assertions and probes.
package drill

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kubectl-backup/kubectl-backup/plugin/mover"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/restore"
	"github.com/kubectl-backup/kubectl-backup/plugin/selector"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// standard is asserted where nothing else is checked.
const standard = "objects.all(o, healthy(o))"

// Request says what to drill, and where.
type Request struct {
	// Restore has the backup, the target, the maps of storage classes and how
	// volumes are filled. Its namespaces, rules and filter are the drill's own.
	Restore restore.Request
	// Spec is what is checked.
	Spec v1alpha1.Drill
	// Definitions lets definitions that the target lacks be created, for as long
	// as the drill lasts.
	Definitions bool
}

// drill is one drill at work.
type drill struct {
	Request
	checks *selector.Drill
	report *v1alpha1.DrillReport
	id     string // tells drills apart
	// namespaces maps from where objects were to where they are.
	namespaces map[string]string
	// made are the UIDs of those that were made.
	made map[string]string
	// lacking are the kinds that the target does not serve.
	lacking map[kind]lack
	live    []live
}

type kind struct{ group, kind string }

// lack is a definition in the backup, by name, and the version at which objects
// of it were saved.
type lack struct{ definition, version string }

// Run makes a drill. The report is there whenever anything was written; an
// error means that there is no verdict. Nothing of the drill is left, or it is
// in the report.
func Run(ctx context.Context, r Request) (*v1alpha1.DrillReport, error) {
	started := time.Now()
	if len(r.Spec.Assert) == 0 && len(r.Spec.Probes) == 0 {
		r.Spec.Assert = []string{standard}
	}
	d := &drill{Request: r, namespaces: map[string]string{}, made: map[string]string{}, lacking: map[kind]lack{}}
	d.report = &v1alpha1.DrillReport{
		APIVersion: v1alpha1.APIVersion, Kind: "DrillReport", Backup: r.Restore.Record.ID, ToolVersion: r.Restore.ToolVersion,
		Policy: r.Restore.Record.Policy, Cluster: &r.Restore.Record.Cluster, Remote: r.Restore.Remote,
		Checks: []v1alpha1.DrillCheck{}, Started: started.UTC().Format(time.RFC3339Nano),
	}
	var err error
	if d.checks, err = selector.CompileDrill(&r.Spec, healthy); err != nil {
		return nil, err
	}
	if err := d.survey(ctx); err != nil {
		return nil, err
	}
	if err := mover.Sweep(ctx, r.Restore.Target, mover.Search{}); err != nil {
		d.warn("what an earlier run left behind could not be removed: %s", err)
	}
	err = d.run(ctx)
	d.remove(context.WithoutCancel(ctx))
	d.report.Seconds = time.Since(started).Seconds()
	if err != nil {
		d.report.Result, d.report.ExitCode, d.report.Error = v1alpha1.ResultFailed, 1, err.Error()
		return d.report, err
	}
	d.judge()
	return d.report, nil
}

func (d *drill) warn(format string, args ...any) {
	d.report.Warnings = append(d.report.Warnings, fmt.Sprintf(format, args...))
}

// run does everything between the first write and the removal.
func (d *drill) run(ctx context.Context) error {
	if err := d.isolate(ctx); err != nil {
		return err
	}
	if err := d.restore(ctx); err != nil {
		return err
	}
	d.awaitPods(ctx)
	if err := d.look(ctx); err != nil {
		return fmt.Errorf("look at what was restored: %w", err)
	}
	d.assert(ctx)
	d.probe(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// survey finds out what is in the backup, before anything is written: only its
// definitions and one object of each kind are read, of others the names.
func (d *drill) survey(ctx context.Context) error {
	spaces, kinds := map[string]bool{}, map[kind]bool{}
	definitions, versions := map[kind]string{}, map[kind]string{}
	err := d.Restore.Repository.ObjectsOf(ctx, *d.Restore.Record, func(r v1alpha1.Ref) bool {
		k := kind{r.Group, r.Kind}
		seen := kinds[k]
		if r.Namespace != "" {
			spaces[r.Namespace], kinds[k] = true, true
		}
		// One object of each kind says at which version they were saved.
		return r.Namespace == "" && r.Kind == definition || r.Namespace != "" && !seen && strings.Contains(r.Group, ".")
	}, func(o *object.Object) error {
		if o.Ref.Kind != definition {
			versions[kind{o.Ref.Group, o.Ref.Kind}] = o.Ref.Version
			return nil
		}
		content, err := o.Content()
		if err != nil {
			return err
		}
		defer o.Release()
		spec, _ := content["spec"].(map[string]any)
		names, _ := spec["names"].(map[string]any)
		group, _ := spec["group"].(string)
		name, _ := names["kind"].(string)
		definitions[kind{group, name}] = o.Ref.Name
		return nil
	})
	if err != nil {
		return err
	}
	if len(spaces) == 0 {
		return v1alpha1.Usagef("backup %s has nothing in a namespace, and a drill touches nothing else", d.Restore.Record.ID)
	}
	for k := range kinds {
		served, err := d.serves(ctx, k)
		if err != nil {
			return err
		}
		if name := definitions[k]; !served && name != "" {
			d.lacking[k] = lack{name, versions[k]}
		}
	}
	var b [3]byte
	if _, err := rand.Read(b[:]); err != nil {
		return err
	}
	d.id = hex.EncodeToString(b[:])
	for n, name := range slices.Sorted(maps.Keys(spaces)) {
		d.namespaces[name] = scratchName(d.id, n, name)
	}
	d.report.Namespaces = d.namespaces
	return nil
}

// scratchName is a name that nobody has, and that says what it is for.
func scratchName(id string, n int, of string) string {
	const longest = 63
	name := "drill-" + id + "-" + of
	if len(name) > longest {
		number := fmt.Sprintf("-%d", n)
		name = strings.TrimRight(name[:longest-len(number)], "-") + number
	}
	return name
}

// restore brings the objects back and adds the check of that.
func (d *drill) restore(ctx context.Context) error {
	r := d.Restore
	r.Namespaces, r.NewNamespaces = d.namespaces, map[string]bool{}
	for _, to := range d.namespaces {
		r.NewNamespaces[to] = true
	}
	r.Rewrite, r.Filter = defused(d.lacking), d.wanted
	r.KeepNodePorts, r.DryRun = false, restore.DryRunNone
	document, err := restore.Run(ctx, r)
	d.report.Restore = document
	if document != nil {
		d.report.Target = document.Target
	}
	if err != nil {
		return err
	}
	check := v1alpha1.DrillCheck{Check: v1alpha1.CheckRestore, Name: "restore", Passed: document.Result == v1alpha1.ResultComplete}
	for _, o := range document.Objects {
		if bad(o.Outcome) {
			check.Seen = append(check.Seen, fmt.Sprintf("%s: %s: %s", d.original(o.Ref), o.Outcome, o.Reason))
		}
	}
	for _, v := range document.Volumes {
		if bad(v.Outcome) {
			check.Seen = append(check.Seen, fmt.Sprintf("volume %s %s: %s: %s", d.original(v.Ref), v.Volume, v.Outcome, v.Reason))
		}
	}
	if !check.Passed {
		check.Reason = "not everything was restored, or is healthy"
	}
	for k, l := range d.lacking {
		if !d.Definitions {
			check.Passed, check.Reason = false, "the target does not serve all kinds"
			check.Seen = append(check.Seen, fmt.Sprintf("%s is not served here: CustomResourceDefinition %s is not there, and a drill makes it only with --create-definitions", k.kind, l.definition))
		}
	}
	check.Seen = firstFew(check.Seen)
	d.report.Checks = append(d.report.Checks, check)
	return nil
}

func bad(o v1alpha1.Outcome) bool {
	return o == v1alpha1.OutcomeFailed || o == v1alpha1.OutcomeIncomplete || o == v1alpha1.OutcomeConflict
}

// original is what a live object is called in the backup.
func (d *drill) original(r v1alpha1.Ref) v1alpha1.Ref {
	for from, to := range d.namespaces {
		if to == r.Namespace {
			r.Namespace = from
			break
		}
	}
	return r
}

// fewSeen bounds the values that one check shows.
const fewSeen = 20

func firstFew(seen []string) []string {
	slices.Sort(seen)
	if len(seen) > fewSeen {
		return append(seen[:fewSeen:fewSeen], fmt.Sprintf("and %d more", len(seen)-fewSeen))
	}
	return seen
}

// judge gives the verdict.
func (d *drill) judge() {
	r := d.report
	r.Passed = !slices.ContainsFunc(r.Checks, func(c v1alpha1.DrillCheck) bool { return !c.Passed })
	switch {
	case !r.Passed:
		r.Result, r.ExitCode = v1alpha1.ResultFailed, 1
		r.Error = "the drill failed: " + strings.Join(Failed(r), ", ")
	case len(r.Left) > 0:
		r.Result, r.ExitCode = v1alpha1.ResultPartial, 3
	default:
		r.Result = v1alpha1.ResultComplete
	}
}

// Failed names the checks that did not pass, each once.
func Failed(r *v1alpha1.DrillReport) []string {
	var names []string
	for _, c := range r.Checks {
		name := strings.ToLower(c.Check) + " " + c.Name
		if c.Check == v1alpha1.CheckRestore {
			name = c.Name
		}
		if !c.Passed && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// Verdict is what is kept of a drill.
func Verdict(r *v1alpha1.DrillReport) v1alpha1.DrillVerdict {
	v := v1alpha1.DrillVerdict{Backup: r.Backup, At: r.Started, Passed: r.Passed, Failed: Failed(r), Seconds: r.Seconds, ToolVersion: r.ToolVersion}
	if r.Target != nil {
		v.Cluster = r.Target.UID
	}
	return v
}
