package plugin

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kubectl-backup/kubectl-backup/plugin/restore"
	"github.com/kubectl-backup/kubectl-backup/plugin/ui"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Exit codes of diff, which are kubectl diff's: there 1 is no error.
const (
	exitDifferent = 1
	exitDiffError = 4
)

type diffOptions struct {
	env     *env
	restore restoreOptions
	output  choice
}

func newDiff(e *env) *cobra.Command {
	o := &diffOptions{env: e, output: newChoice("diff", "table", "wide", "json", "yaml")}
	o.restore.env = e
	c := &cobra.Command{
		Use:   "diff ID|latest",
		Short: "Compare a backup with a cluster",
		Long: `Compare the objects of a backup with a cluster, by Argo CD's rules, without
writing anything. What a server assigns does not count, and what the maps
change counts as changed. The values of Secrets are masked: the same mask stands
for the same value. The data of volumes is not compared.

Exit codes: 0 the same, 1 different, anything else: an error.`,
		Example: e.examples(
			"diff latest -f backup.yaml",
			"diff latest -f backup.yaml --namespaces shop --map-namespace shop=shop-copy -o table"),
		Args:              exactArgs("ID|latest"),
		ValidArgsFunction: completeIDs(e, &o.restore.spec),
		RunE: func(c *cobra.Command, args []string) error {
			err := o.restore.Complete()
			if err == nil {
				err = o.Run(c.Context(), args[0])
			}
			if err != nil && exitCode(c.Context(), err) == ExitError && !errors.As(err, new(*resultError)) {
				return &codedError{exitDiffError, err}
			}
			return err
		},
	}
	f := c.Flags()
	o.restore.spec.AddFlags(f)
	o.restore.objects.AddFlags(f)
	o.restore.addTargetFlags(f)
	f.VarP(&o.output, "output", "o", "output format")
	return c
}

// Run compares, and prints what differs.
func (o *diffOptions) Run(ctx context.Context, id string) error {
	repo, request, err := o.restore.request(ctx, id)
	if err != nil {
		return err
	}
	defer repo.Close(context.WithoutCancel(ctx))
	document, err := restore.Diff(ctx, request, func(d restore.Difference) error {
		if o.output.value != "diff" {
			return nil
		}
		return ui.Difference(o.env.Out, d.Ref.String(), d.Live, d.Want)
	})
	if err != nil {
		return err
	}
	document.Warnings = append(document.Warnings, o.restore.objects.unmatched()...)
	different := 0
	for _, l := range document.Objects {
		switch l.Outcome {
		case v1alpha1.OutcomeUnchanged, v1alpha1.OutcomeSkipped, v1alpha1.OutcomeLeftToOwner:
		default:
			different++
		}
	}
	document.ExitCode = ExitOK
	if different > 0 {
		document.ExitCode = exitDifferent
	}
	document.Result = v1alpha1.ResultComplete
	if o.output.value != "diff" {
		if err := ui.Document(o.env.Out, document, o.output.value); err != nil {
			return err
		}
	}
	if different > 0 {
		return &resultError{code: exitDifferent, message: fmt.Sprintf("%d of %d objects differ", different, len(document.Objects))}
	}
	return nil
}
