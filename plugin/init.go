package plugin

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

type initOptions struct {
	env  *env
	spec specFlags
}

func newInit(e *env) *cobra.Command {
	o := &initOptions{env: e}
	c := &cobra.Command{
		Use:   "init",
		Short: "Create the encrypted repository at a remote",
		Long: `Create the encrypted repository at a remote.

Everything is encrypted with the password before it leaves this process. There
is no default password and no way back without it: keep it somewhere else than
the cluster and the remote.`,
		Example: e.examples("init -f backup.yaml", "init --remote /mnt/backups --password-file key.txt", "init --remote store:bucket/prod"),
		Args:    exactArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := o.spec.validate(); err != nil {
				return err
			}
			return o.Run(c.Context())
		},
	}
	o.spec.AddFlags(c.Flags())
	return c
}

// Run creates the repository; one that is there already is an error.
func (o *initOptions) Run(ctx context.Context) error {
	s, err := o.spec.load(ctx, o.env, false)
	if err != nil {
		return err
	}
	cluster, err := o.spec.secretCluster(o.env, s)
	if err != nil {
		return err
	}
	password, err := o.spec.password(ctx, o.env, s, cluster, true)
	if err != nil {
		return err
	}
	if err := repository.CheckPassword(password); err != nil {
		return usagef("%w", err)
	}
	storage, err := o.spec.openStorage(ctx, s, cluster)
	if err != nil {
		return err
	}
	if err := repository.Initialize(ctx, storage, password); err != nil {
		return fmt.Errorf("remote %s: %w", s.remote.Name, err)
	}
	fmt.Fprintf(o.env.ErrOut, "created a repository at %s (%s)\n", s.remote.Name, v1alpha1.RedactPath(s.remote.Spec.Path))
	rights, err := repository.Probe(ctx, storage)
	if err != nil {
		return fmt.Errorf("remote %s: %w", s.remote.Name, err)
	}
	o.tell(rights)
	return nil
}

// tell says what the remote allows, and what that means.
func (o *initOptions) tell(r repository.Rights) {
	word := func(err error) string {
		if err != nil {
			return "refused"
		}
		return "allowed"
	}
	fmt.Fprintf(o.env.ErrOut, "put: allowed, overwrite: %s, delete: %s\n", word(r.Overwrite), word(r.Delete))
	if r.Delete != nil {
		fmt.Fprintf(o.env.ErrOut, "backups and restores need neither; delete keeps what the remote does not let go: %v\n", r.Delete)
	}
}
