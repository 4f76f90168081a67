package plugin

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubectl-backup/kubectl-backup/plugin/drill"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/plugin/restore"
	"github.com/kubectl-backup/kubectl-backup/plugin/selector"
	"github.com/kubectl-backup/kubectl-backup/plugin/ui"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

type drillOptions struct {
	// target is how a restore finds the backup and the cluster.
	target      restoreOptions
	output      choice
	asserts     []string
	definitions bool
	noRecord    bool
}

func newDrill(e *env) *cobra.Command {
	o := &drillOptions{output: newChoice("table", "wide", "json", "yaml")}
	o.target.env = e
	c := &cobra.Command{
		Use:   "drill ID|latest",
		Short: "Restore a backup into scratch namespaces, check it, and remove it",
		Long: `Restore a backup into scratch namespaces, check it, and remove it.

The namespaces are closed by a NetworkPolicy: pods reach each other and the
cluster's DNS, as far as the cluster enforces such policies. Hosts, load
balancers, node ports, host networks and CronJobs are defused, and nothing that
is not in a namespace is touched. What is checked is that everything came back
healthy, the assertions, and the probes: those of the policy in the spec, else
those that the backup recorded, and --assert. Assertions are CEL over objects
(the live ones) and namespaces (from saved to scratch names), with the function
healthy(object).

The verdict is kept in the repository: list and describe show the last one.
Exit codes: 0 passed, 1 failed, 3 passed and not everything could be removed.`,
		Example: e.examples(
			"drill latest -f backup.yaml",
			`drill latest -f backup.yaml --to-context dr --assert 'objects.all(o, healthy(o))'`,
			`drill latest -f backup.yaml --at -1d --assert 'objects.exists(o, o.kind == "Secret" && o.metadata.name == "db")'`),
		Args:              exactArgs("ID|latest"),
		ValidArgsFunction: completeIDs(e, &o.target.spec),
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.Complete(); err != nil {
				return err
			}
			return o.Run(c.Context(), args[0])
		},
	}
	f := c.Flags()
	o.target.spec.AddFlags(f)
	o.target.which.AddFlags(f)
	f.StringVar(&o.target.toContext, "to-context", "", "context of the cluster to drill in (default: the current one)")
	f.StringVar(&o.target.fromCluster, "from-cluster", "", "UID of the cluster that latest is looked for, or any")
	f.StringSliceVar(&o.target.rewrite.classes, "map-storage-class", nil, "from=to: another storage class")
	f.StringArrayVar(&o.asserts, "assert", nil, "a further assertion in CEL; may be given several times")
	f.BoolVar(&o.definitions, "create-definitions", false, "create CustomResourceDefinitions that the cluster lacks, and remove them at the end")
	f.BoolVar(&o.noRecord, "no-record", false, "keep no verdict in the repository")
	f.DurationVar(&o.target.timeout, "timeout", 10*time.Minute, "how long to wait for what was restored to become healthy")
	f.VarP(&o.output, "output", "o", "output format")
	addMoverFlags(c, &o.target.image, &o.target.parallel)
	return c
}

// Complete compiles the assertions and turns the maps into values.
func (o *drillOptions) Complete() error {
	for _, a := range o.asserts {
		if _, err := selector.CompileDrill(&v1alpha1.Drill{Assert: []string{a}}, nil); err != nil {
			return usagef("--assert: %w", err)
		}
	}
	return o.target.Complete()
}

// Run makes the drill, keeps its verdict, and prints the report.
func (o *drillOptions) Run(ctx context.Context, id string) error {
	e := o.target.env
	repo, s, err := o.target.spec.open(ctx, e, o.noRecord)
	if err != nil {
		return err
	}
	defer repo.Close(context.WithoutCancel(ctx))
	record, err := o.target.record(ctx, repo, s, id)
	if err != nil {
		return err
	}
	checks, err := o.checks(s, &record)
	if err != nil {
		return err
	}
	target, err := e.clusterAt(o.target.toContext)
	if err != nil {
		return err
	}
	movers := s.moverOf(record.Policy)
	transport, err := s.transport(ctx, repo, movers)
	if err != nil {
		return err
	}
	progress := ui.NewProgress(e.ErrOut, isTerminal(e.ErrOut))
	defer progress.Close()
	report, err := drill.Run(ctx, drill.Request{
		Restore: restore.Request{
			Target: target, Repository: repo, Record: &record, Remote: s.remote.Name, ToolVersion: Version(),
			StorageClasses: o.target.storageClasses, Image: moverImage(o.target.image, movers), Transport: transport,
			Parallel: o.target.parallel, Timeout: o.target.timeout, Progress: progress.Task,
		},
		Spec: checks, Definitions: o.definitions,
	})
	progress.Close()
	if report == nil {
		return err
	}
	if err != nil {
		report.ExitCode = exitCode(ctx, err)
	} else if !o.noRecord {
		if err := repo.AddVerdict(ctx, drill.Verdict(report)); err != nil {
			report.Warnings = append(report.Warnings, fmt.Sprintf("the verdict is not kept: %s", err))
		}
	}
	if err := ui.Drill(e.Out, report, o.output.value); err != nil {
		return err
	}
	if report.ExitCode == ExitOK {
		return nil
	}
	message := report.Error
	if message == "" {
		message = "not everything of the drill could be removed"
	}
	return &resultError{code: report.ExitCode, message: message}
}

// checks are those of the policy in the spec, else those that the backup
// recorded, and the flag's.
func (o *drillOptions) checks(s *spec, record *repository.Record) (v1alpha1.Drill, error) {
	var checks v1alpha1.Drill
	if record.Drill != nil {
		checks = *record.Drill
	}
	if p, err := s.documents.Policy(record.Policy); err == nil && p.Spec.Drill != nil {
		if _, err := selector.Compile(p); err != nil {
			return checks, err
		}
		checks = *p.Spec.Drill
	}
	checks.Assert = append(checks.Assert[:len(checks.Assert):len(checks.Assert)], o.asserts...)
	return checks, nil
}
