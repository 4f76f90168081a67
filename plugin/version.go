package plugin

import (
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

// version is set when a release is linked.
var version = "v0.1.0-dev"

// defaultImage is the image with this program that movers run; it is set when
// a release is linked and empty otherwise.
var defaultImage = ""

// Version is the version of this program, as backups record it.
func Version() string { return version }

type versionOptions struct {
	env    *env
	output choice
}

func newVersion(e *env) *cobra.Command {
	o := &versionOptions{env: e, output: newChoice("text", "json")}
	c := &cobra.Command{
		Use:     "version",
		Short:   "Print the version of this program",
		Example: e.examples("version", "version -o json"),
		Args:    exactArgs(),
		RunE:    func(*cobra.Command, []string) error { return o.Run() },
	}
	c.Flags().VarP(&o.output, "output", "o", "output format")
	return c
}

// Run prints the version and asks nobody.
func (o *versionOptions) Run() error {
	if o.output.value == "json" {
		return json.NewEncoder(o.env.Out).Encode(map[string]string{"version": version, "go": runtime.Version(), "image": defaultImage})
	}
	_, err := fmt.Fprintf(o.env.Out, "kubectl-backup %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
