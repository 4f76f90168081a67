package plugin

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kubectl-backup/kubectl-backup/plugin/argocd"
	"github.com/kubectl-backup/kubectl-backup/plugin/mover"
)

type argocdOptions struct {
	env    *env
	dryRun bool
	all    bool
}

func newArgoCD(e *env) *cobra.Command {
	c := &cobra.Command{
		Use:     "argocd",
		Short:   "Look after the Argo CD applications that restores pause",
		Example: e.examples("argocd resume --dry-run", "argocd resume"),
		Args:    exactArgs(),
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	o := &argocdOptions{env: e}
	resume := &cobra.Command{
		Use:   "resume",
		Short: "Resume what a restore paused and did not come to resume",
		Long: `Resume the Applications and ApplicationSets of Argo CD that a restore paused and
did not come to resume, because it was killed. Each gets back the policy that it
had. Those of restores that are known to run are left alone, and those of other
machines unless --all says otherwise.`,
		Example: e.examples("argocd resume --dry-run", "argocd resume", "argocd resume --all"),
		Args:    exactArgs(),
		RunE:    func(c *cobra.Command, _ []string) error { return o.Run(c.Context()) },
	}
	resume.Flags().BoolVar(&o.dryRun, "dry-run", false, "only show what would be resumed")
	resume.Flags().BoolVar(&o.all, "all", false, "also what processes of other machines paused, which may still run")
	c.AddCommand(resume)
	return c
}

// Run resumes what is left paused and names it.
func (o *argocdOptions) Run(ctx context.Context) error {
	cluster, err := o.env.cluster()
	if err != nil {
		return err
	}
	left, err := argocd.LeftPaused(ctx, cluster, func(owner string) bool {
		return mover.Gone(owner) || o.all && !mover.Alive(owner)
	})
	if err != nil {
		return err
	}
	refs := left.Refs()
	if o.dryRun {
		for _, r := range refs {
			fmt.Fprintln(o.env.Out, r)
		}
		return nil
	}
	failed := left.Resume(ctx)
	for _, r := range refs {
		if failed[r] == nil {
			fmt.Fprintln(o.env.Out, r)
		}
	}
	for r, err := range failed {
		return fmt.Errorf("%d of %d could not be resumed; one is %s: %w", len(failed), len(refs), r, err)
	}
	fmt.Fprintf(o.env.ErrOut, "resumed %d\n", len(refs))
	return nil
}
