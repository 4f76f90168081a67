package plugin

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kubectl-backup/kubectl-backup/plugin/selector"
	"github.com/kubectl-backup/kubectl-backup/plugin/source"
)

type validateOptions struct {
	env  *env
	spec specFlags
}

func newValidate(e *env) *cobra.Command {
	o := &validateOptions{env: e}
	c := &cobra.Command{
		Use:     "validate -f SPEC",
		Short:   "Check policies and remotes without a cluster, for use in CI",
		Example: e.examples("validate -f policies/", "validate -k overlays/prod", "kustomize build . | "+e.name+" validate -f -"),
		Args:    exactArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			if len(o.spec.files) == 0 && o.spec.kustomize == "" {
				return usagef("nothing to validate\nhint: name a file, folder or Git repository with -f")
			}
			return o.Run(c.Context())
		},
	}
	c.Flags().StringArrayVarP(&o.spec.files, "filename", "f", nil, "file, folder, URL, git::URL//path?ref=REF or -")
	c.Flags().StringVarP(&o.spec.kustomize, "kustomize", "k", "", "folder with a kustomization")
	return c
}

// Run decodes every document and compiles every expression.
func (o *validateOptions) Run(ctx context.Context) error {
	loaded, err := source.Load(ctx, source.Request{Files: o.spec.files, Kustomize: o.spec.kustomize, Stdin: o.env.In})
	if err != nil {
		return err
	}
	d := loaded.Documents
	var errs []error
	for _, p := range d.Policies {
		if _, err := selector.Compile(p); err != nil {
			errs = append(errs, err)
		}
		if p.Spec.Remote.Name != "" {
			if _, _, err := d.Resolve(p.Name); err != nil {
				errs = append(errs, err)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	fmt.Fprintf(o.env.Out, "%d policies and %d remotes are valid\n", len(d.Policies), len(d.Remotes))
	return nil
}
