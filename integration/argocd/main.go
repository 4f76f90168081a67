// Command argocd is three programs of Argo CD in one: the application
// controller, the controller of ApplicationSets and the repository server. It
// is the real thing, for tests of restores that meet it; nothing of the plugin
// is linked into it, and its module is its own, so that its dependencies stay
// apart from everyone else's.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	controller "github.com/argoproj/argo-cd/v3/cmd/argocd-application-controller/commands"
	sets "github.com/argoproj/argo-cd/v3/cmd/argocd-applicationset-controller/commands"
	repository "github.com/argoproj/argo-cd/v3/cmd/argocd-repo-server/commands"
	"github.com/spf13/cobra"
)

func main() {
	programs := map[string]func() *cobra.Command{
		"argocd-application-controller":    controller.NewCommand,
		"argocd-applicationset-controller": sets.NewCommand,
		"argocd-repo-server":               repository.NewCommand,
	}
	// Argo CD's programs tell by their name what they are, and so does this.
	name, args := filepath.Base(os.Args[0]), os.Args[1:]
	if programs[name] == nil && len(args) > 0 {
		name, args = args[0], args[1:]
	}
	program := programs[name]
	if program == nil {
		fmt.Fprintf(os.Stderr, "argocd: %q is none of its programs\n", name)
		os.Exit(2)
	}
	command := program()
	command.SetArgs(args)
	if err := command.Execute(); err != nil {
		os.Exit(1)
	}
}
