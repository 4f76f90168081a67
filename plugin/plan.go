package plugin

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/kubectl-backup/kubectl-backup/plugin/plan"
	"github.com/kubectl-backup/kubectl-backup/plugin/ui"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

type planOptions struct {
	env    *env
	spec   specFlags
	output choice
	image  string
}

func newPlan(e *env) *cobra.Command {
	o := &planOptions{env: e, output: newChoice("table", "wide", "json", "yaml")}
	c := &cobra.Command{
		Use:   "plan -f SPEC",
		Short: "Show what a run would save, and why, without writing anything",
		Long: `Show what a run would save, and why, without writing anything.

The plan names the groups that share a point in time with the edges that joined
them, the reason that each object is in, a verdict for each volume, and what is
referred to but not selected. It only gets and lists.`,
		Example: e.examples("plan -f backup.yaml", "plan -f 'git::https://git.example.org/ops.git//backup?ref=v1.4' -o wide", "plan -k overlays/prod -o json"),
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
func (o *planOptions) AddFlags(c *cobra.Command) {
	o.spec.AddFlags(c.Flags())
	o.spec.addPolicyFlag(c.Flags())
	c.Flags().VarP(&o.output, "output", "o", "output format")
	addImageFlag(c, &o.image)
}

// Validate looks at the flags alone.
func (o *planOptions) Validate() error { return o.spec.validate() }

// Run computes the plan and prints it.
func (o *planOptions) Run(ctx context.Context) error {
	p, err := computePlan(ctx, o.env, &o.spec, o.image)
	if err != nil {
		return err
	}
	return o.env.report(&p.Document, o.output.value)
}

// computePlan is what plan and graph share. image is the flag.
func computePlan(ctx context.Context, e *env, flags *specFlags, image string) (*plan.Plan, error) {
	s, err := flags.load(ctx, e, true)
	if err != nil {
		return nil, err
	}
	if err := checkRemote(s.remote); err != nil {
		return nil, err
	}
	request, err := planRequest(e, s, moverImage(image, s.policy.Spec.Mover))
	if err != nil {
		return nil, err
	}
	return plan.Compute(ctx, request)
}

// planRequest connects to the cluster and gathers what a plan is made from.
func planRequest(e *env, s *spec, image string) (plan.Request, error) {
	cluster, err := e.cluster()
	if err != nil {
		return plan.Request{}, err
	}
	policy := *s.policy
	if ns := e.namespace(); ns != "" && policy.Namespace == "" {
		policy.Namespace = ns
	}
	return plan.Request{
		Cluster: cluster, Policy: &policy, Provenance: s.provenance, ToolVersion: Version(),
		Remote:  s.remote.Name + " (" + v1alpha1.RedactPath(s.remote.Spec.Path) + ")",
		Recipes: s.documents.Recipes, Image: image,
	}, nil
}

// report prints a document, and makes the exit code that stands in it ours.
func (e *env) report(d *v1alpha1.Document, format string) error {
	if err := ui.Document(e.Out, d, format); err != nil || d.ExitCode == ExitOK {
		return err
	}
	message := d.Error
	if message == "" && d.ExitCode == ExitPartial {
		message = "the result is partial: see the lines that are not done"
	}
	return &resultError{code: d.ExitCode, message: message}
}
