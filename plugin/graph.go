package plugin

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/kubectl-backup/kubectl-backup/plugin/ui"
)

type graphOptions struct {
	env    *env
	spec   specFlags
	output choice
}

func newGraph(e *env) *cobra.Command {
	o := &graphOptions{env: e, output: newChoice("table", "json", "dot", "mermaid", "svg")}
	c := &cobra.Command{
		Use:     "graph -f SPEC",
		Short:   "Draw the groups and the edges that a policy leads to",
		Example: e.examples("graph -f backup.yaml", "graph -f backup.yaml -o svg > graph.svg", "graph -f backup.yaml -o mermaid"),
		Args:    exactArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := o.spec.validate(); err != nil {
				return err
			}
			return o.Run(c.Context())
		},
	}
	o.spec.AddFlags(c.Flags())
	o.spec.addPolicyFlag(c.Flags())
	c.Flags().VarP(&o.output, "output", "o", "output format")
	return c
}

// Run computes the plan and draws its graph.
func (o *graphOptions) Run(ctx context.Context) error {
	p, err := computePlan(ctx, o.env, &o.spec, "")
	if err != nil {
		return err
	}
	return ui.Graph(o.env.Out, &p.Document, p.Edges(), o.output.value)
}
