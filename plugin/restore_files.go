package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kubectl-backup/kubectl-backup/plugin/mover"
	"github.com/kubectl-backup/kubectl-backup/plugin/restore"
	"github.com/kubectl-backup/kubectl-backup/plugin/ui"
)

// restoreFiles are the flags of a restore of files without objects.
type restoreFiles struct {
	volume    string
	path      string
	folder    string
	overwrite bool
}

// aboutObjects are the flags of restore that say nothing about files alone.
var aboutObjects = []string{
	"dry-run", "filter", "selector", "kinds", "namespaces", "names", "rewrite", "map-storage-class", "map-image", "map-host",
	"name-prefix", "name-suffix", "keep-node-ports", "restore-status", "on-conflict", "allow-recreate", "overwrite-volumes", "resume",
}

func (o *restoreFiles) AddFlags(f *pflag.FlagSet) {
	f.StringVar(&o.volume, "volume", "", "restore files of this volume alone: namespace/claim or namespace/pod/volume")
	f.StringVar(&o.path, "path", "", "file or folder in --volume (default: all of it)")
	f.StringVar(&o.folder, "to-folder", "", "put the files of --volume into a folder here (default: a new folder in the claim)")
	f.BoolVar(&o.overwrite, "overwrite", false, "let files in --to-folder be replaced")
}

// Validate looks at the flags alone.
func (o *restoreFiles) Validate(c *cobra.Command) error {
	if o.volume == "" {
		switch {
		case o.path != "":
			return usagef("--path is a path in a volume: say which with --volume")
		case o.folder != "":
			return usagef("--to-folder is for the files of one volume: say which with --volume\nhint: export writes objects into a folder")
		case o.overwrite:
			return usagef("--overwrite is for files in --to-folder\nhint: --on-conflict is for objects, --overwrite-volumes for the data of claims")
		}
		return nil
	}
	if o.overwrite && o.folder == "" {
		return usagef("--overwrite is for files in --to-folder; in a claim nothing is replaced")
	}
	for _, name := range aboutObjects {
		if c.Flags().Changed(name) {
			return usagef("--%s is about objects, and --volume restores files alone", name)
		}
	}
	return nil
}

// runFiles restores files of one volume.
func (o *restoreOptions) runFiles(ctx context.Context, id string) error {
	repo, s, err := o.spec.open(ctx, o.env, true)
	if err != nil {
		return err
	}
	defer repo.Close(context.WithoutCancel(ctx))
	record, err := o.record(ctx, repo, s, id)
	if err != nil {
		return err
	}
	movers := s.moverOf(record.Policy)
	request := restore.Request{
		Repository: repo, Record: &record, Remote: s.remote.Name, ToolVersion: Version(), Namespaces: o.namespaces,
		Image: moverImage(o.image, movers), Transport: mover.Transport{Mover: movers},
	}
	files := restore.Files{Folder: o.files.folder}
	if files.Part, err = namedVolume(&record, o.files.volume); err != nil {
		return err
	}
	if files.Part.Block {
		return usagef("volume %s is a device and holds no files\nhint: %s cat %s %s > FILE writes its content", files.Part.Name(), o.env.name, record.ID, files.Part.Name())
	}
	if files.Path, err = repo.Resolve(ctx, files.Part, o.files.path, false); err != nil {
		return asUsage(err)
	}
	if files.Folder == "" {
		if request.Target, err = o.env.clusterAt(o.toContext); err != nil {
			return err
		}
	} else if empty, err := emptyFolder(files.Folder); err != nil {
		return fmt.Errorf("--to-folder: %w", err)
	} else if !empty && !o.files.overwrite {
		return usagef("folder %s is not empty\nhint: name one that is, or say --overwrite", files.Folder)
	}
	progress := ui.NewProgress(o.env.ErrOut, isTerminal(o.env.ErrOut))
	defer progress.Close()
	request.Progress = progress.Task
	document, err := restore.RunFiles(ctx, request, files)
	progress.Close()
	if err != nil {
		return err
	}
	return o.env.report(document, o.output.value)
}

// emptyFolder makes a folder where there is none, and says whether it is empty.
func emptyFolder(path string) (bool, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return false, err
	}
	dir, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer dir.Close()
	_, err = dir.ReadDir(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}
