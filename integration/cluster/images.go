package cluster

import (
	"context"
	"io"
	"path/filepath"

	"github.com/kubectl-backup/kubectl-backup/integration/images"
)

// buildImages makes all images and returns their archives. The plugin's is
// left out where the plugin was not built yet and none was asked for.
func buildImages(ctx context.Context, root, plugin string, log io.Writer) ([]string, error) {
	b := builder(root, log)
	unlock, err := lock(b.Cache)
	if err != nil {
		return nil, err
	}
	defer unlock()
	steps := []func(context.Context) (string, error){b.Pause, b.Busybox, b.Static, b.Witness, b.Harbour, b.Postgres, b.MariaDB, b.Redis}
	if plugin == "" {
		if built := filepath.Join(root, "bin", "kubectl-backup"); exists(built) {
			plugin = built
		}
	}
	if plugin != "" {
		steps = append(steps, func(context.Context) (string, error) { return b.Plugin(plugin) })
	}
	var archives []string
	for _, step := range steps {
		archive, err := step(ctx)
		if err != nil {
			return nil, err
		}
		archives = append(archives, archive)
	}
	return archives, nil
}

// ImportPlugin makes a freshly built plugin the cluster's image
// localhost/kubectl-backup:dev.
func (c *Cluster) ImportPlugin(ctx context.Context, binary string) error {
	archive, err := builder(c.root, c.log).Plugin(binary)
	if err != nil {
		return err
	}
	return c.importImages(ctx, []string{archive})
}

// builder keeps images where clusters below any base directory find them.
func builder(root string, log io.Writer) *images.Builder {
	return &images.Builder{Root: root, Cache: filepath.Join(root, ".cluster", "images"), Log: log}
}
