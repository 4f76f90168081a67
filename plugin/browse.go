package plugin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/plugin/ui"
	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// namedVolume is the volume of a backup that a person names: as list and
// report call it, or by the last parts of that where no other has the same.
func namedVolume(record *repository.Record, name string) (repository.VolumePart, error) {
	var found []repository.VolumePart
	var names []string
	for _, part := range record.Volumes {
		if part.Root == nil {
			continue
		}
		its := part.Name()
		names = append(names, its)
		if its == name {
			return part, nil
		}
		if strings.HasSuffix(its, "/"+name) {
			found = append(found, part)
		}
	}
	slices.Sort(names)
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		names = names[:0]
		for _, part := range found {
			names = append(names, part.Name())
		}
		return repository.VolumePart{}, usagef("%d volumes of backup %s are called %q: %s\nhint: give the whole name", len(found), record.ID, name, strings.Join(names, ", "))
	case len(names) == 0:
		return repository.VolumePart{}, usagef("backup %s holds no volumes\nhint: describe says why", record.ID)
	}
	hint := "write namespace/claim, or namespace/pod/volume"
	if near := v1alpha1.Nearest(name, names); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	return repository.VolumePart{}, usagef("backup %s has no volume %q; it has %s\nhint: %s", record.ID, name, firstOf(names, 20), hint)
}

// firstOf joins the first few of a list.
func firstOf(names []string, most int) string {
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

type lsOptions struct {
	env       *env
	spec      specFlags
	which     whichFlags
	output    choice
	recursive bool
}

func newLs(e *env) *cobra.Command {
	o := &lsOptions{env: e, output: newChoice("table", "json")}
	c := &cobra.Command{
		Use:   "ls ID|latest [VOLUME [PATH]]",
		Short: "List the volumes of a backup, or the files of one of them",
		Long: `List the volumes of a backup, or the files of one of them.

A volume is namespace/claim, or namespace/pod/volume where it lives and dies
with its pod; the last parts are enough where no other volume has the same. A
path is relative to the volume, whatever it was mounted at, and its symbolic
links are the volume's own. Names that are not plain text are shown in quotes.`,
		Example: e.examples("ls latest -f backup.yaml", "ls latest shop/data-db-0 -f backup.yaml", "ls latest shop/data-db-0 pg/base --recursive --at -2d -f backup.yaml"),
		Args:    betweenArgs(1, "ID|latest", "VOLUME", "PATH"),
		RunE: func(c *cobra.Command, args []string) error {
			return o.Run(c.Context(), args[0], args[1:])
		},
	}
	c.ValidArgsFunction = completeVolumes(e, &o.spec, &o.which)
	o.spec.AddFlags(c.Flags())
	o.which.AddFlags(c.Flags())
	c.Flags().BoolVarP(&o.recursive, "recursive", "R", false, "go on in the folders below")
	c.Flags().VarP(&o.output, "output", "o", "output format")
	return c
}

// betweenArgs takes the first least arguments and, where given, the others.
func betweenArgs(least int, what ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) < least || len(args) > len(what) {
			return usagef("%s takes %d to %d arguments: %s; got %d\nhint: %s --help shows examples", c.CommandPath(), least, len(what), strings.Join(what, " "), len(args), c.CommandPath())
		}
		return nil
	}
}

// Run lists volumes, or files as they come: a volume may have millions.
func (o *lsOptions) Run(ctx context.Context, id string, rest []string) error {
	repo, _, record, err := o.which.open(ctx, o.env, &o.spec, id)
	if err != nil {
		return err
	}
	defer repo.Close(context.WithoutCancel(ctx))
	if len(rest) == 0 {
		return ui.StoredVolumes(o.env.Out, record.ID, volumeLines(&record), o.output.value)
	}
	part, err := namedVolume(&record, rest[0])
	if err != nil {
		return err
	}
	path := ""
	if len(rest) > 1 {
		path = rest[1]
	}
	found, err := repo.Resolve(ctx, part, path, true)
	if err != nil {
		return asUsage(err)
	}
	list, err := ui.Files(o.env.Out, record.ID, part.Name(), found, o.output.value)
	if err != nil {
		return err
	}
	listed := repo.Files(ctx, part, found, o.recursive, func(e *volume.Entry) error { return list.Add(fileLine(e)) })
	if err := list.Close(listed); err != nil {
		return err
	}
	if listed != nil {
		return &resultError{code: exitCode(ctx, listed), message: listed.Error()}
	}
	return nil
}

// asUsage makes a path that leads nowhere what it is: a mistake in the
// arguments.
func asUsage(err error) error {
	if errors.As(err, new(*repository.PathError)) {
		return &v1alpha1.UsageError{Err: err}
	}
	return err
}

func volumeLines(record *repository.Record) []v1alpha1.StoredVolume {
	var lines []v1alpha1.StoredVolume
	for _, part := range record.Volumes {
		lines = append(lines, v1alpha1.StoredVolume{Name: part.Name(), Ref: part.Ref, Volume: part.Volume, Device: part.Block, Files: part.Files, Bytes: part.Bytes, Snapshot: part.Snapshot})
	}
	slices.SortFunc(lines, func(a, b v1alpha1.StoredVolume) int { return strings.Compare(a.Name, b.Name) })
	return lines
}

func fileLine(e *volume.Entry) v1alpha1.StoredFile {
	l := v1alpha1.StoredFile{Type: e.Type.String(), Mode: fmt.Sprintf("%04o", e.Mode), UID: e.UID, GID: e.GID}
	if e.Type == volume.File {
		l.Size = e.Size
	}
	l.Path, l.PathBytes = textOf(e.Path)
	if e.Link != "" {
		l.Link, l.LinkBytes = textOf(e.Link)
	}
	if !e.ModTime.IsZero() {
		l.Modified = e.ModTime.UTC().Format(time.RFC3339Nano)
	}
	return l
}

// textOf is a name as text, and its bytes where it is none.
func textOf(name string) (string, []byte) {
	if utf8.ValidString(name) {
		return name, nil
	}
	return volume.Escape(name), []byte(name)
}

type catOptions struct {
	env   *env
	spec  specFlags
	which whichFlags
}

func newCat(e *env) *cobra.Command {
	o := &catOptions{env: e}
	c := &cobra.Command{
		Use:   "cat ID|latest VOLUME [PATH]",
		Short: "Write one file of a backup's volume to stdout",
		Long: `Write one file of a backup's volume to stdout. Of a volume that is a device, its
content without a path. Holes come as zeros.

Volumes and paths are named as for ls.`,
		Example: e.examples("cat latest shop/data-db-0 pg/PG_VERSION -f backup.yaml", "cat latest shop/disk -f backup.yaml > disk.img", "cat latest shop/data-db-0 -f backup.yaml -- -odd-name"),
		Args:    betweenArgs(2, "ID|latest", "VOLUME", "PATH"),
		RunE: func(c *cobra.Command, args []string) error {
			path := ""
			if len(args) > 2 {
				path = args[2]
			}
			return o.Run(c.Context(), args[0], args[1], path)
		},
	}
	c.ValidArgsFunction = completeVolumes(e, &o.spec, &o.which)
	o.spec.AddFlags(c.Flags())
	o.which.AddFlags(c.Flags())
	return c
}

// Run streams the file.
func (o *catOptions) Run(ctx context.Context, id, name, path string) error {
	repo, _, record, err := o.which.open(ctx, o.env, &o.spec, id)
	if err != nil {
		return err
	}
	defer repo.Close(context.WithoutCancel(ctx))
	part, err := namedVolume(&record, name)
	if err != nil {
		return err
	}
	if path == "" && !part.Block {
		return usagef("volume %s holds files: say which\nhint: %s ls %s %s shows them", part.Name(), o.env.name, record.ID, part.Name())
	}
	return asUsage(repo.ReadFile(ctx, part, path, o.env.Out))
}
