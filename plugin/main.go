// Package plugin is the command line: one file per command, each an options
// struct with AddFlags, Complete, Validate and Run.
//
// Complete turns flags into values, Validate looks at them without any I/O,
// and Run does the work with the struct alone. Data goes to stdout, status to
// stderr. The work itself is in the packages below this one; nothing here
// talks to a cluster or a remote except through them.
package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Exit codes, the same in the process and in the JSON documents.
const (
	ExitOK           = 0
	ExitError        = 1
	ExitUsage        = 2
	ExitPartial      = 3
	ExitNoRepository = 10
	ExitWrongKey     = 12
	ExitCancelled    = 130
)

// resultError ends a command whose document has already been printed.
type resultError struct {
	code    int
	message string
}

func (e *resultError) Error() string { return e.message }

// codedError is an error of a command whose exit codes are its own.
type codedError struct {
	code int
	error
}

func (e *codedError) Unwrap() error { return e.error }

// env is what every command gets: streams, cluster flags, the name that we
// were called by.
type env struct {
	genericiooptions.IOStreams
	kube *genericclioptions.ConfigFlags
	name string
}

// Main runs the program and returns its exit code. args[0] is the name that
// help and errors show: kubectl-backup is shown as "kubectl backup".
func Main(ctx context.Context, args []string, streams genericiooptions.IOStreams) int {
	boundMemory()
	name := strings.TrimSuffix(filepath.Base(args[0]), ".exe")
	if name == "kubectl-backup" {
		name = "kubectl backup"
	}
	root := newRoot(&env{IOStreams: streams, kube: genericclioptions.NewConfigFlags(true), name: name})
	root.SetArgs(args[1:])
	command, err := root.ExecuteContextC(ctx)
	if err == nil {
		return ExitOK
	}
	if ctx.Err() != nil && !errors.As(err, new(*resultError)) {
		err = fmt.Errorf("cancelled: %w", err)
	}
	code := exitCode(ctx, err)
	printError(streams.ErrOut, streams.Out, name, command, asksForJSON(args), err, code)
	return code
}

func exitCode(ctx context.Context, err error) int {
	var result *resultError
	var usage *v1alpha1.UsageError
	var coded *codedError
	switch {
	case errors.As(err, &result):
		return result.code
	case errors.As(err, &coded):
		return coded.code
	case ctx.Err() != nil:
		return ExitCancelled
	case errors.As(err, &usage):
		return ExitUsage
	case errors.Is(err, repository.ErrNoRepository):
		return ExitNoRepository
	case errors.Is(err, repository.ErrWrongKey):
		return ExitWrongKey
	}
	return ExitError
}

// printError says what went wrong once: as text on stderr, and under -o json
// as a document of its own on stdout, unless the command printed one.
func printError(stderr, stdout io.Writer, name string, command *cobra.Command, asJSON bool, err error, code int) {
	if message := err.Error(); message != "" {
		fmt.Fprintf(stderr, "%s: %s\n", name, message)
	}
	if errors.As(err, new(*resultError)) {
		return
	}
	if asJSON {
		out := v1alpha1.Document{
			APIVersion: v1alpha1.APIVersion, Kind: documentKind(command.Name()), Result: v1alpha1.ResultFailed,
			ExitCode: code, Error: err.Error(), ToolVersion: Version(),
			Groups: []v1alpha1.GroupLine{}, Objects: []v1alpha1.ObjectLine{}, Volumes: []v1alpha1.VolumeLine{},
		}
		encoder := json.NewEncoder(stdout)
		encoder.SetIndent("", "  ")
		// The exit code already says that it failed; a broken stdout adds nothing.
		_ = encoder.Encode(out)
	}
}

// asksForJSON looks at the arguments themselves: they may not have been parsed
// as far as -o when parsing ended with an error.
func asksForJSON(args []string) bool {
	for i, a := range args {
		switch a {
		case "-ojson", "-o=json", "--output=json":
			return true
		case "-o", "--output":
			if i+1 < len(args) && args[i+1] == "json" {
				return true
			}
		}
	}
	return false
}

func documentKind(command string) string {
	switch command {
	case "plan":
		return "Plan"
	case "run":
		return "RunReport"
	case "restore":
		return "RestoreReport"
	case "verify":
		return "VerifyReport"
	case "diff":
		return "DiffReport"
	case "drill":
		return "DrillReport"
	}
	return "Error"
}

// usagef makes an error that exits with 2.
func usagef(format string, args ...any) error {
	return &v1alpha1.UsageError{Err: fmt.Errorf(format, args...)}
}

func newRoot(e *env) *cobra.Command {
	root := &cobra.Command{
		Use:   e.name,
		Short: "Back up and restore workloads with everything that they depend on",
		Long: strings.TrimSpace(`
Back up and restore workloads with everything that they depend on.

A policy selects workloads by kind, label and CEL expression. The plugin works
out what each depends on and what has to share a point in time, shows that as a
plan, captures it into an encrypted repository on any remote that rclone
supports, and brings it back: here, in another namespace, or in another cluster.`),
		Example:       e.examples("init -f backup.yaml", "plan -f backup.yaml", "run -f backup.yaml", "list -f backup.yaml", "restore latest -f backup.yaml --to-context other --map-namespace shop=shop-copy"),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return c.Help()
			}
			return noCommand(c, args[0])
		},
	}
	root.SuggestionsMinimumDistance = 2
	root.SetIn(e.In)
	root.SetOut(e.Out)
	root.SetErr(e.ErrOut)
	if strings.Contains(e.name, " ") {
		// cobra takes the first word of Use as the name; this keeps both.
		root.Use = "backup"
		root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: e.name}
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		if word := c.Flags().Arg(0); word != "" && !c.HasParent() {
			return noCommand(c, word) // its flags are not at fault
		}
		return usagef("%w%s\nhint: %s --help lists the flags", err, suggestFlag(c, err), c.CommandPath())
	})
	e.kube.AddFlags(root.PersistentFlags())
	root.AddCommand(
		newPlan(e), newRun(e), newList(e), newDescribe(e), newGraph(e), newDiff(e), newRestore(e), newDrill(e), newRewrite(e), newVerify(e),
		newLs(e), newCat(e), newExport(e), newDelete(e), newCleanup(e), newArgoCD(e), newValidate(e), newInit(e), newMover(e), newVersion(e),
	)
	addCompletion(e, root)
	return root
}

func noCommand(root *cobra.Command, word string) error {
	hint := ""
	if s := root.SuggestionsFor(word); len(s) > 0 {
		hint = fmt.Sprintf("; did you mean %q?", s[0])
	}
	return usagef("there is no command %q%s\nhint: %s --help lists them", word, hint, root.CommandPath())
}

// suggestFlag is the flag that was probably meant by one that does not exist.
func suggestFlag(c *cobra.Command, err error) string {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || unknown.GetSpecifiedShortnames() != "" {
		return ""
	}
	var names []string
	c.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if near := v1alpha1.Nearest(unknown.GetSpecifiedName(), names); near != "" {
		return fmt.Sprintf("; did you mean --%s?", near)
	}
	return ""
}

// examples prefixes each line with the name that the program was called by.
func (e *env) examples(lines ...string) string {
	var b strings.Builder
	for i, line := range lines {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "  %s %s", e.name, line)
	}
	return b.String()
}

// exactArgs is cobra.ExactArgs with an error that exits with 2.
func exactArgs(what ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(what) == 0 && len(args) > 0:
			return usagef("%s takes no arguments, got %q\nhint: %s --help shows examples", c.CommandPath(), args[0], c.CommandPath())
		case len(args) != len(what):
			return usagef("%s takes %d argument(s): %s; got %d\nhint: %s --help shows examples", c.CommandPath(), len(what), strings.Join(what, " "), len(args), c.CommandPath())
		}
		return nil
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && fileIsTerminal(f)
}
