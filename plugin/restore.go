package plugin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/plugin/restore"
	"github.com/kubectl-backup/kubectl-backup/plugin/ui"
)

type restoreOptions struct {
	env            *env
	spec           specFlags
	which          whichFlags
	objects        objectFilter
	output         choice
	dryRun         choice
	toContext      string
	fromCluster    string
	rewrite        rewriteFlags
	files          restoreFiles
	image          string
	parallel       int
	timeout        time.Duration
	keepNodePorts  bool
	restoreStatus  bool
	onConflict     choice
	allowRecreate  []string
	overwrite      bool
	resume         bool
	namespaces     map[string]string
	storageClasses map[string]string
}

func newRestore(e *env) *cobra.Command {
	o := &restoreOptions{env: e, output: newChoice("table", "wide", "json", "yaml"), dryRun: newChoice("none", "client", "server"),
		onConflict: choice{allowed: []string{string(restore.ConflictSkip), string(restore.ConflictFail), string(restore.ConflictApply), string(restore.ConflictRecreate)}}}
	c := &cobra.Command{
		Use:   "restore ID|latest",
		Short: "Bring a backup back, here or elsewhere",
		Long: `Bring a backup back, here or elsewhere.

Objects come back in the order of their dependencies, in parallel where they do
not depend on each other; the data of a volume is in place before the workload
that uses it runs. What exists already and differs is left alone and reported, and
the exit code is 3, unless --on-conflict says otherwise: Skip leaves it alone and
is content, Fail stops before anything is written, Apply makes it say what the
backup says, Recreate deletes it and creates it again. Claims, PersistentVolumes
and CustomResourceDefinitions are deleted only where --allow-recreate names them,
namespaces never. The data of a claim that exists is replaced only with
--overwrite-volumes; what uses it has no replicas meanwhile.

A restore may be interrupted at any moment, and is then finished by the same
command with --resume.

Before anything is written, the target is asked whether you may write all of it:
what you may not is named, with verb and kind, and the restore does not begin.
What goes into a namespace that is being deleted, and that does not go in time,
fails; its finalizers are left alone.

latest is the newest backup of the cluster that the current context names, or of
the one given with --from-cluster, as far as --at and --where allow.

With --volume, files of one volume are restored and no objects: into a folder
on this machine, or into a new folder in the claim that they came from, with the
folders above them.`,
		Example: e.examples(
			"restore latest -f backup.yaml --dry-run=server",
			"restore latest -f backup.yaml --to-context dr --map-namespace shop=shop-copy --map-storage-class fast=premium",
			"restore latest -f backup.yaml --to-context dr --rewrite to-dr.yaml",
			"restore latest -f backup.yaml --on-conflict=Apply --dry-run=server",
			"restore latest -f backup.yaml --kinds PersistentVolumeClaim --namespaces shop --overwrite-volumes",
			"restore 20260131-020000-4f2a -f backup.yaml --resume",
			`restore 20260131-020000-4f2a --remote /mnt/backups --kinds Secret --namespaces shop`,
			"restore latest -f backup.yaml --at -2d --volume shop/data-db-0 --path pg/base --to-folder ./found"),
		Args:              exactArgs("ID|latest"),
		ValidArgsFunction: completeIDs(e, &o.spec),
		RunE: func(c *cobra.Command, args []string) error {
			if err := errors.Join(o.files.Validate(c), o.Complete()); err != nil {
				return err
			}
			if o.files.volume != "" {
				return o.runFiles(c.Context(), args[0])
			}
			return o.Run(c.Context(), args[0])
		},
	}
	o.AddFlags(c)
	return c
}

// AddFlags adds the command's flags.
func (o *restoreOptions) AddFlags(c *cobra.Command) {
	f := c.Flags()
	o.spec.AddFlags(f)
	o.objects.AddFlags(f)
	f.VarP(&o.output, "output", "o", "output format")
	f.Var(&o.dryRun, "dry-run", "show what would happen: client asks the target what it has, server also has it check each object")
	f.Lookup("dry-run").NoOptDefVal = "client"
	o.addTargetFlags(f)
	f.DurationVar(&o.timeout, "timeout", 10*time.Minute, "how long to wait for what was restored to become healthy, and at most 2m for a namespace that is being deleted to be gone")
	f.BoolVar(&o.keepNodePorts, "keep-node-ports", false, "keep the node ports of Services")
	f.BoolVar(&o.restoreStatus, "restore-status", false, "write back the status of custom resources that have a status subresource")
	o.files.AddFlags(f)
	f.Var(&o.onConflict, "on-conflict", "what becomes of an object that exists and differs (default: left alone, reported as a conflict, exit code 3)")
	f.StringSliceVar(&o.allowRecreate, "allow-recreate", nil, "resources that --on-conflict=Recreate may delete too: "+strings.Join(restore.Recreatable, ", "))
	f.BoolVar(&o.overwrite, "overwrite-volumes", false, "replace the data of claims that exist; workloads that use them are scaled to zero meanwhile")
	f.BoolVar(&o.resume, "resume", false, "finish a restore that was interrupted; the other flags must be the same")
	addMoverFlags(c, &o.image, &o.parallel)
}

// addTargetFlags adds the flags that say which backup meets which cluster, and
// under what names.
func (o *restoreOptions) addTargetFlags(f *pflag.FlagSet) {
	f.StringVar(&o.toContext, "to-context", "", "context of the target cluster (default: the current one)")
	f.StringVar(&o.fromCluster, "from-cluster", "", "UID of the cluster that latest is looked for, or any")
	o.which.AddFlags(f)
	o.rewrite.AddFlags(f)
}

// Complete turns the maps and filters into values.
func (o *restoreOptions) Complete() (err error) {
	if err := o.spec.validate(); err != nil {
		return err
	}
	if o.parallel < 0 {
		return usagef("--parallel must be positive, got %d", o.parallel)
	}
	if o.namespaces, err = pairs("--map-namespace", o.rewrite.namespaces); err != nil {
		return err
	}
	for _, to := range o.namespaces {
		if faults := validation.IsDNS1123Label(to); len(faults) > 0 {
			return usagef("--map-namespace: %q is no name of a namespace: %s", to, faults[0])
		}
	}
	if o.storageClasses, err = pairs("--map-storage-class", o.rewrite.classes); err != nil {
		return err
	}
	if len(o.allowRecreate) > 0 && o.onConflict.value != string(restore.ConflictRecreate) {
		return usagef("--allow-recreate needs --on-conflict=Recreate")
	}
	for _, resource := range o.allowRecreate {
		if !slices.Contains(restore.Recreatable, resource) {
			return usagef("--allow-recreate %q: it may name %s", resource, strings.Join(restore.Recreatable, ", "))
		}
	}
	return o.objects.Complete()
}

// pairs parses from=to.
func pairs(flag string, list []string) (map[string]string, error) {
	out := map[string]string{}
	for _, p := range list {
		from, to, ok := strings.Cut(p, "=")
		if !ok || from == "" || to == "" {
			return nil, usagef("%s %q: write from=to", flag, p)
		}
		if before, twice := out[from]; twice && before != to {
			return nil, usagef("%s: %s is mapped to both %s and %s", flag, from, before, to)
		}
		out[from] = to
	}
	return out, nil
}

// request opens the repository, which the caller closes, and says what goes
// where.
func (o *restoreOptions) request(ctx context.Context, id string) (_ *repository.Repository, _ restore.Request, err error) {
	repo, s, err := o.spec.open(ctx, o.env, true)
	if err != nil {
		return nil, restore.Request{}, err
	}
	defer func() {
		if err != nil {
			repo.Close(context.WithoutCancel(ctx))
		}
	}()
	target, err := o.env.clusterAt(o.toContext)
	if err != nil {
		return nil, restore.Request{}, err
	}
	set, err := o.rewrite.beside(ctx)
	if err != nil {
		return nil, restore.Request{}, err
	}
	record, err := o.record(ctx, repo, s, id)
	if err != nil {
		return nil, restore.Request{}, err
	}
	for _, w := range record.Warnings {
		fmt.Fprintf(o.env.ErrOut, "warning: %s\n", w)
	}
	movers := s.moverOf(record.Policy)
	transport, err := s.transport(ctx, repo, movers)
	if err != nil {
		return nil, restore.Request{}, err
	}
	request := restore.Request{
		Target: target, Repository: repo, Record: &record, Remote: s.remote.Name, ToolVersion: Version(),
		Rewrite: set, Namespaces: o.namespaces, StorageClasses: o.storageClasses,
		OnConflict: restore.OnConflict(o.onConflict.value), AllowRecreate: o.allowRecreate, OverwriteVolumes: o.overwrite, Resume: o.resume,
		KeepNodePorts: o.keepNodePorts, RestoreStatus: o.restoreStatus,
		Image: moverImage(o.image, movers), Transport: transport, Parallel: o.parallel, Timeout: o.timeout,
	}
	if o.objects.active() {
		request.Filter = func(ob *object.Object) (bool, error) { return o.objects.Match(ctx, ob) }
	}
	return repo, request, nil
}

// record finds the backup; latest is that of one cluster.
func (o *restoreOptions) record(ctx context.Context, repo *repository.Repository, s *spec, id string) (repository.Record, error) {
	from := o.fromCluster
	if id == "latest" && from == "" {
		source, err := o.env.cluster()
		if err != nil {
			return repository.Record{}, err
		}
		identity, err := source.Identity(ctx)
		if err != nil {
			return repository.Record{}, fmt.Errorf("find out which cluster latest is of: %w\nhint: name a backup by its id, or a cluster with --from-cluster", err)
		}
		if from = identity.UID; from == "" {
			// Without it latest would be that of any cluster.
			return repository.Record{}, usagef("latest is that of one cluster, and you may not read the namespace kube-system, which identifies it\nhint: name a backup by its id, or a cluster with --from-cluster UID or --from-cluster any")
		}
	} else if from == "any" {
		from = ""
	}
	return o.which.find(ctx, repo, s, id, from)
}

// Run plans the restore and, unless it is a dry run, does what the plan says.
func (o *restoreOptions) Run(ctx context.Context, id string) error {
	repo, request, err := o.request(ctx, id)
	if err != nil {
		return err
	}
	defer repo.Close(context.WithoutCancel(ctx))
	progress := ui.NewProgress(o.env.ErrOut, isTerminal(o.env.ErrOut))
	defer progress.Close()
	request.DryRun, request.Progress = o.dryRun.value, progress.Task
	document, err := restore.Run(ctx, request)
	progress.Close()
	if document == nil {
		return err
	}
	document.Warnings = append(document.Warnings, o.objects.unmatched()...)
	if err == nil {
		return o.env.report(document, o.output.value)
	}
	// It was ended in the middle: the report says how far it came.
	document.ExitCode = exitCode(ctx, err)
	if err := ui.Document(o.env.Out, document, o.output.value); err != nil {
		return err
	}
	return &resultError{code: document.ExitCode, message: err.Error()}
}
