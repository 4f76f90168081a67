package plugin

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/kubectl-backup/kubectl-backup/plugin/ui"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

type describeOptions struct {
	env    *env
	spec   specFlags
	which  whichFlags
	output choice
}

func newDescribe(e *env) *cobra.Command {
	o := &describeOptions{env: e, output: newChoice("text", "wide", "json", "yaml")}
	c := &cobra.Command{
		Use:               "describe ID|latest",
		Short:             "Show on one screen what is in a backup, what is not, and why",
		Example:           e.examples("describe latest -f backup.yaml", "describe 20260131 --remote /mnt/backups -o wide"),
		Args:              exactArgs("ID|latest"),
		ValidArgsFunction: completeIDs(e, &o.spec),
		RunE:              func(c *cobra.Command, args []string) error { return o.Run(c.Context(), args[0]) },
	}
	o.spec.AddFlags(c.Flags())
	o.which.AddFlags(c.Flags())
	c.Flags().VarP(&o.output, "output", "o", "output format")
	return c
}

// Run reads the record and the report that was stored with it.
func (o *describeOptions) Run(ctx context.Context, id string) error {
	repo, _, record, err := o.which.open(ctx, o.env, &o.spec, id)
	if err != nil {
		return err
	}
	defer repo.Close(context.WithoutCancel(ctx))
	document, err := repo.Document(ctx, record)
	if err != nil {
		return err
	}
	document.Backup = record.ID
	if o.output.value == "json" || o.output.value == "yaml" {
		return ui.Document(o.env.Out, document, o.output.value)
	}
	verdicts, err := repo.Verdicts(ctx, record.ID)
	if err != nil {
		return err
	}
	var last *v1alpha1.DrillVerdict
	if v, drilled := verdicts[record.ID]; drilled {
		last = &v
	}
	return ui.Describe(o.env.Out, document, last, o.output.value == "wide")
}
