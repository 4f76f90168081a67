package plugin

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kubectl-backup/kubectl-backup/plugin/plan"
	"github.com/kubectl-backup/kubectl-backup/plugin/rewrite"
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
		Short:   "Check policies, remotes and rewrite sets without a cluster, for use in CI",
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

// Run decodes every document, compiles every expression and looks up every
// name.
func (o *validateOptions) Run(ctx context.Context) error {
	loaded, err := source.Load(ctx, source.Request{Files: o.spec.files, Kustomize: o.spec.kustomize, Stdin: o.env.In})
	if err != nil {
		return err
	}
	d := loaded.Documents
	var errs []error
	for _, p := range d.Policies {
		_, uncompiled := selector.Compile(p)
		_, unknown := plan.Recipes(p, d.Recipes)
		_, missing := d.RemoteOf(p)
		errs = append(errs, uncompiled, unknown, missing)
	}
	for _, set := range d.Rewrites {
		_, refused := rewrite.Compile(set)
		errs = append(errs, refused)
	}
	for _, r := range d.Remotes {
		errs = append(errs, checkRemote(r))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	fmt.Fprintf(o.env.Out, "%s are valid\n", strings.Join([]string{
		fmt.Sprintf("%d policies", len(d.Policies)), fmt.Sprintf("%d remotes", len(d.Remotes)), fmt.Sprintf("%d recipes", len(d.Recipes)),
		fmt.Sprintf("%d rewrite sets", len(d.Rewrites)),
	}, ", "))
	return nil
}
