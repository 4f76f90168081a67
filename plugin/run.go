package plugin

import (
	"cmp"
	"context"
	"os"

	"github.com/spf13/cobra"

	"github.com/kubectl-backup/kubectl-backup/plugin/capture"
	"github.com/kubectl-backup/kubectl-backup/plugin/selector"
	"github.com/kubectl-backup/kubectl-backup/plugin/ui"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

type runOptions struct {
	env      *env
	spec     specFlags
	output   choice
	image    string
	parallel int
}

func newRun(e *env) *cobra.Command {
	o := &runOptions{env: e, output: newChoice("table", "wide", "json", "yaml")}
	c := &cobra.Command{
		Use:   "run -f SPEC",
		Short: "Make a backup: do what plan shows",
		Long: `Make a backup: do what plan shows.

Exit codes: 0 complete, 3 partial (the report names what is not in the backup,
or that a policy which selects nothing made none), anything else: no backup was
made.`,
		Example: e.examples("run -f backup.yaml", "run -f 'git::https://git.example.org/ops.git//backup?ref=main' --policy shop -o json"),
		Args:    exactArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := o.Validate(); err != nil {
				return err
			}
			return o.Run(c.Context())
		},
	}
	o.AddFlags(c)
	return c
}

// AddFlags adds the command's flags.
func (o *runOptions) AddFlags(c *cobra.Command) {
	o.spec.AddFlags(c.Flags())
	o.spec.addPolicyFlag(c.Flags())
	c.Flags().VarP(&o.output, "output", "o", "output format")
	addMoverFlags(c, &o.image, &o.parallel)
}

func addMoverFlags(c *cobra.Command, image *string, parallel *int) {
	addImageFlag(c, image)
	c.Flags().IntVar(parallel, "parallel", 0, "volumes that travel at once (default: the policy's, else 2)")
}

func addImageFlag(c *cobra.Command, image *string) {
	c.Flags().StringVar(image, "mover-image", "", "image with this program for movers, helper pods and ephemeral containers (env "+envImage+")")
}

// moverImage is the flag, the policy's, the environment's or the built-in one.
func moverImage(flag string, policy v1alpha1.Mover) string {
	return cmp.Or(flag, policy.Image, os.Getenv(envImage), defaultImage)
}

// Validate looks at the flags alone.
func (o *runOptions) Validate() error {
	if o.parallel < 0 {
		return usagef("--parallel must be positive, got %d", o.parallel)
	}
	return o.spec.validate()
}

// Run makes the backup and prints its report.
func (o *runOptions) Run(ctx context.Context) error {
	s, err := o.spec.load(ctx, o.env, true)
	if err != nil {
		return err
	}
	if _, err := selector.Compile(s.policy); err != nil {
		return err
	}
	request, err := planRequest(o.env, s, moverImage(o.image, s.policy.Spec.Mover))
	if err != nil {
		return err
	}
	repo, err := o.spec.openRepository(ctx, o.env, s, request.Cluster, false)
	if err != nil {
		return err
	}
	defer repo.Close(context.WithoutCancel(ctx))
	transport, err := s.transport(ctx, repo, s.policy.Spec.Mover)
	if err != nil {
		return err
	}
	progress := ui.NewProgress(o.env.ErrOut, isTerminal(o.env.ErrOut))
	document, err := capture.Run(ctx, capture.Request{
		Plan: request, Repository: repo, Image: request.Image, Parallel: o.parallel,
		Transport: transport, RemoteMovers: s.remote.Spec.Limits.Movers,
		Progress: progress.Task,
		Planned:  func(d *v1alpha1.Document) { ui.PlanLine(o.env.ErrOut, d) },
	})
	progress.Close()
	if err != nil {
		return err
	}
	if w := repo.ClockWarning(); w != "" {
		document.Warnings = append(document.Warnings, w)
	}
	return o.env.report(document, o.output.value)
}
