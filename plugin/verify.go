package plugin

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubectl-backup/kubectl-backup/plugin/plan"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

type verifyOptions struct {
	env    *env
	spec   specFlags
	which  whichFlags
	output choice
}

func newVerify(e *env) *cobra.Command {
	o := &verifyOptions{env: e, output: newChoice("table", "wide", "json", "yaml")}
	c := &cobra.Command{
		Use:               "verify ID|latest",
		Short:             "Read a backup back from the remote and check every byte",
		Example:           e.examples("verify latest -f backup.yaml", "verify latest -f backup.yaml --at 2026-01-31", "verify 20260131-020000-4f2a --remote store:bucket/prod -o json"),
		Args:              exactArgs("ID|latest"),
		ValidArgsFunction: completeIDs(e, &o.spec),
		RunE:              func(c *cobra.Command, args []string) error { return o.Run(c.Context(), args[0]) },
	}
	o.spec.AddFlags(c.Flags())
	o.which.AddFlags(c.Flags())
	c.Flags().VarP(&o.output, "output", "o", "output format")
	return c
}

// Run reads every content and prints a line for each object and volume.
func (o *verifyOptions) Run(ctx context.Context, id string) error {
	started := time.Now()
	repo, s, record, err := o.which.open(ctx, o.env, &o.spec, id)
	if err != nil {
		return err
	}
	defer repo.Close(context.WithoutCancel(ctx))
	d := v1alpha1.Document{
		APIVersion: v1alpha1.APIVersion, Kind: "VerifyReport", Backup: record.ID, ToolVersion: Version(),
		Policy: record.Policy, Source: record.Source, Cluster: &record.Cluster, Remote: s.remote.Name,
		Started: started.UTC().Format(time.RFC3339Nano),
		Groups:  []v1alpha1.GroupLine{}, Objects: []v1alpha1.ObjectLine{}, Volumes: []v1alpha1.VolumeLine{},
	}
	err = repo.Verify(ctx, record,
		func(l v1alpha1.ObjectLine) { d.Objects = append(d.Objects, l) },
		func(l v1alpha1.VolumeLine) { d.Volumes = append(d.Volumes, l) })
	if err != nil && !errors.Is(err, repository.ErrDamaged) {
		return err
	}
	plan.Judge(&d)
	if err != nil {
		// A damaged backup is not a partial success of verifying it.
		d.Result, d.ExitCode, d.Error = v1alpha1.ResultFailed, ExitError, err.Error()
	}
	d.Seconds = time.Since(started).Seconds()
	return o.env.report(&d, o.output.value)
}
