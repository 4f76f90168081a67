package plugin

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
)

// addCompletion makes the shell offer what a flag or an argument may be: the
// words of a choice, the contexts of the kubeconfig, the ids of the backups.
// kubectl asks through a program named kubectl_complete-backup.
func addCompletion(e *env, root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "help":
			c.Example = e.examples("help restore")
		case "completion":
			c.Long = strings.TrimSpace(`
Generate the autocompletion script for the specified shell.

Where the program is used as a kubectl plugin, kubectl completes it by itself:
put a script named kubectl_complete-backup on your PATH that runs
kubectl-backup __complete "$@".`)
			c.Example = e.examples("completion bash > /etc/bash_completion.d/kubectl-backup", "completion zsh --help")
			for _, shell := range c.Commands() {
				shell.Example = e.examples("completion " + shell.Name())
			}
		default:
			completeFlags(e, c)
		}
	}
	completeContexts(e, root, "context")
}

// completeFlags registers the completion of a command's own flags.
func completeFlags(e *env, c *cobra.Command) {
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if words, ok := f.Value.(*choice); ok {
			offer(c, f.Name, func() []string { return words.allowed })
		}
	})
	if c.Flags().Lookup("to-context") != nil {
		completeContexts(e, c, "to-context")
	}
}

func completeContexts(e *env, c *cobra.Command, flag string) {
	offer(c, flag, func() []string {
		config, err := e.kube.ToRawKubeConfigLoader().RawConfig()
		if err != nil {
			return nil
		}
		var names []string
		for name := range config.Contexts {
			names = append(names, name)
		}
		return names
	})
}

func offer(c *cobra.Command, flag string, words func() []string) {
	// It fails only for a flag that does not exist or was registered before.
	_ = c.RegisterFlagCompletionFunc(flag, func(_ *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		return beginningWith(begun, words()), cobra.ShellCompDirectiveNoFileComp
	})
}

func beginningWith(begun string, words []string) []string {
	out := slices.DeleteFunc(slices.Clone(words), func(w string) bool { return !strings.HasPrefix(w, begun) })
	slices.Sort(out)
	return out
}

// completeIDs offers the ids of the backups that the flags given so far lead
// to, and latest.
func completeIDs(e *env, flags *specFlags) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		words := append(flags.ids(c.Context(), e), "latest")
		return beginningWith(begun, words), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeVolumes offers backups, then the volumes of the one that was named,
// then the paths in it, folder by folder.
func completeVolumes(e *env, flags *specFlags, which *whichFlags) cobra.CompletionFunc {
	ids := completeIDs(e, flags)
	return func(c *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		switch len(args) {
		case 0:
			return ids(c, args, begun)
		case 1, 2:
			return beginningWith(begun, flags.inside(c.Context(), e, which, args, begun)), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
}

// mostWords bounds what completion offers: a folder may hold millions.
const mostWords = 1000

// inside lists the volumes of a backup, or the paths in the folder that a path
// has come to.
func (o *specFlags) inside(ctx context.Context, e *env, which *whichFlags, args []string, begun string) (words []string) {
	repo, _, record, err := which.open(ctx, e, o.once(), args[0])
	if err != nil {
		return nil
	}
	defer repo.Close(context.WithoutCancel(ctx))
	if len(args) == 1 {
		for _, part := range record.Volumes {
			words = append(words, part.Name())
		}
		return words
	}
	part, err := namedVolume(&record, args[1])
	if err != nil {
		return nil
	}
	folder := begun[:strings.LastIndexByte(begun, '/')+1]
	enough := errors.New("enough")
	err = repo.Files(ctx, part, folder, false, func(f *volume.Entry) error {
		word := folder + f.Name()
		if f.Type == volume.Dir {
			word += "/"
		}
		if strings.HasPrefix(word, begun) {
			words = append(words, word)
		}
		if len(words) == mostWords {
			return enough
		}
		return nil
	})
	if err != nil && !errors.Is(err, enough) {
		return nil
	}
	return words
}

// once is the flags as they were given: cobra parses the words of a line that
// it completes twice.
func (o *specFlags) once() *specFlags {
	once := *o
	once.files = slices.Compact(slices.Sorted(slices.Values(o.files)))
	return &once
}

// ids are those of the backups in the repository, or none where it cannot be
// opened: a shell that waits for words has no place for an error.
func (o *specFlags) ids(ctx context.Context, e *env) (ids []string) {
	repo, _, err := o.once().open(ctx, e, true)
	if err != nil {
		return nil
	}
	defer repo.Close(context.WithoutCancel(ctx))
	if err := repo.Records(ctx, func(r repository.Record) error { ids = append(ids, r.ID); return nil }); err != nil {
		return nil
	}
	return ids
}
