package repository

import (
	"context"
	"io"

	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
)

func (r *Repository) restoreFolder(ctx context.Context, part VolumePart, root string, o RestoreOptions) (volume.Report, error) {
	in, out := io.Pipe()
	go func() {
		out.CloseWithError(ReadTree(ctx, r.rep, part.Root, volume.NewEncoder(out), o.Path))
	}()
	defer in.Close()
	return volume.WriteTree(ctx, volume.NewDecoder(in), root, volume.WriteOptions{Extra: o.Extra})
}
