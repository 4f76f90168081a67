package plugin

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
)

type deleteOptions struct {
	env  *env
	spec specFlags
	yes  bool
}

func newDelete(e *env) *cobra.Command {
	o := &deleteOptions{env: e}
	c := &cobra.Command{
		Use:   "delete ID...",
		Short: "Delete backups from the repository",
		Long: `Delete backups from the repository.

Only the named backups are deleted; data that others share stays. Nothing in a
cluster is touched. A backup that the remote refuses to delete is kept, whole,
and makes the exit code 3.`,
		Example: e.examples("delete 20260131-020000-4f2a --remote /mnt/backups --yes", "delete 20260131-020000-4f2a 20260201-020000-91c0 -f backup.yaml --yes"),
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("%s takes the ids of backups\nhint: %s list shows them", c.CommandPath(), e.name)
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if !o.yes {
				return usagef("delete removes %d backup(s) for good\nhint: say --yes", len(args))
			}
			return o.Run(c.Context(), args)
		},
	}
	o.spec.AddFlags(c.Flags())
	c.Flags().BoolVar(&o.yes, "yes", false, "really delete")
	return c
}

// Run checks every id before it deletes the first. One that the remote does not
// let go keeps nobody from deleting the others.
func (o *deleteOptions) Run(ctx context.Context, ids []string) error {
	repo, _, err := o.spec.open(ctx, o.env, false)
	if err != nil {
		return err
	}
	defer repo.Close(context.WithoutCancel(ctx))
	for i, id := range ids {
		if id == "latest" {
			return usagef("delete takes exact ids, not latest")
		}
		record, err := matchRecord(ctx, repo, id) // a damaged one can go too
		if err != nil {
			return err
		}
		ids[i] = record.ID
	}
	kept := 0
	for _, id := range ids {
		warnings, err := repo.Delete(ctx, id)
		if errors.Is(err, repository.ErrKept) {
			fmt.Fprintf(o.env.ErrOut, "warning: %v\n", err)
			kept++
			continue
		}
		if err != nil {
			return err
		}
		for _, w := range warnings {
			fmt.Fprintf(o.env.ErrOut, "warning: backup %s: %s\n", id, w)
		}
		fmt.Fprintf(o.env.Out, "deleted %s\n", id)
	}
	if kept > 0 {
		return &resultError{code: ExitPartial, message: fmt.Sprintf("%d of %d backup(s) were kept\nhint: a bucket with object lock lets them go when their retention ends", kept, len(ids))}
	}
	return nil
}
