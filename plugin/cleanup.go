package plugin

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubectl-backup/kubectl-backup/plugin/mover"
)

type cleanupOptions struct {
	env     *env
	dryRun  bool
	timeout time.Duration
	// olderThan is 0 for what is safe.
	olderThan time.Duration
}

func newCleanup(e *env) *cobra.Command {
	o := &cleanupOptions{env: e}
	c := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove what interrupted runs left in the cluster",
		Long: `Remove what interrupted runs left in the cluster: temporary pods, Jobs, Secrets,
claims, snapshots and labels whose process is gone, and what controllers made for
snapshots that are gone. Each run does this too before it starts.

Exit codes: 0 nothing is left, 3 something is still there (it is named, with what
is known of why).`,
		Example: e.examples("cleanup --dry-run", "cleanup", "cleanup -n shop --timeout 10m"),
		Args:    exactArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			for name, d := range map[string]time.Duration{"timeout": o.timeout, "older-than": o.olderThan} {
				if d < 0 {
					return usagef("--%s must not be negative, got %s", name, d)
				}
			}
			return o.Run(c.Context())
		},
	}
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "only show what would be removed")
	c.Flags().DurationVar(&o.timeout, "timeout", 2*time.Minute, "how long to wait until what was removed is gone")
	c.Flags().DurationVar(&o.olderThan, "older-than", 0, "age from which on what runs of other hosts made is taken for left behind, although it\ncannot be seen that they ended (default: an hour, and 25 hours for what may be in use)")
	return c
}

// Run lists what is left and removes it.
func (o *cleanupOptions) Run(ctx context.Context) error {
	cluster, err := o.env.cluster()
	if err != nil {
		return err
	}
	search := mover.Search{Namespace: o.env.namespace(), Foreign: o.olderThan}
	found, err := mover.LeftBehind(ctx, cluster, search)
	if err != nil {
		return err
	}
	for _, u := range found.Unread {
		fmt.Fprintf(o.env.ErrOut, "warning: not looked at: %s\n", u)
	}
	for _, k := range found.Kept {
		fmt.Fprintf(o.env.ErrOut, "kept: %s: it is from another host (%s) and may be in use (hint: --older-than)\n", k, cmp.Or(k.Host, "unknown"))
	}
	removed := 0
	show := func(l mover.Left) {
		fmt.Fprintln(o.env.Out, l)
		removed++
	}
	if o.dryRun {
		for _, l := range found.Left {
			show(l)
		}
		return nil
	}
	remain, err := mover.RemoveAll(ctx, cluster, search, found.Left, o.timeout, show)
	if ctx.Err() != nil {
		return err
	}
	for _, l := range remain {
		fmt.Fprintf(o.env.ErrOut, "still there: %s\n", l)
	}
	switch {
	case err != nil:
		return err
	case len(remain) > 0:
		return &resultError{code: ExitPartial, message: fmt.Sprintf("%d temporary thing(s) are still there after %s (hint: --timeout)", len(remain), o.timeout)}
	}
	fmt.Fprintf(o.env.ErrOut, "removed %d temporary things\n", removed)
	return nil
}
