package plugin

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kubectl-backup/kubectl-backup/plugin/mover"
)

type cleanupOptions struct {
	env    *env
	dryRun bool
}

func newCleanup(e *env) *cobra.Command {
	o := &cleanupOptions{env: e}
	c := &cobra.Command{
		Use:     "cleanup",
		Short:   "Remove what interrupted runs left in the cluster",
		Long:    "Remove what interrupted runs left in the cluster: temporary pods, Jobs, Secrets,\nclaims, snapshots and labels whose process is gone.\nEach run does this too before it starts.",
		Example: e.examples("cleanup --dry-run", "cleanup"),
		Args:    exactArgs(),
		RunE:    func(c *cobra.Command, _ []string) error { return o.Run(c.Context()) },
	}
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "only show what would be removed")
	return c
}

// Run lists what is left and removes it.
func (o *cleanupOptions) Run(ctx context.Context) error {
	cluster, err := o.env.cluster()
	if err != nil {
		return err
	}
	left, unread, err := mover.LeftBehind(ctx, cluster, mover.Search{Namespace: o.env.namespace()})
	if err != nil {
		return err
	}
	for _, l := range left {
		fmt.Fprintln(o.env.Out, l)
	}
	for _, u := range unread {
		fmt.Fprintf(o.env.ErrOut, "warning: not looked at: %s\n", u)
	}
	if o.dryRun {
		return nil
	}
	if err := mover.Remove(ctx, cluster, left); err != nil {
		return err
	}
	fmt.Fprintf(o.env.ErrOut, "removed %d temporary things\n", len(left))
	return nil
}
