package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// build runs kustomize in this process. Lines in errors about the documents
// count in what it built.
func build(ctx context.Context, folder string) (text, error) {
	if strings.HasPrefix(folder, gitPrefix) || strings.Contains(folder, "://") {
		return text{}, v1alpha1.Usagef("-k takes a local folder, not %s", redactURL(folder))
	}
	info, err := os.Stat(folder)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return text{}, v1alpha1.Usagef("%s does not exist%s", folder, near(folder))
	case err != nil:
		return text{}, fmt.Errorf("read %s: %w", folder, err)
	case !info.IsDir():
		return text{}, v1alpha1.Usagef("-k takes the folder of a kustomization, and %s is a file; read it with -f", folder)
	}
	if err := refuseRemote(folder, map[string]bool{}); err != nil {
		return text{}, err
	}
	recorded := &recorder{FileSystem: filesys.MakeFsOnDisk()}
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(recorded, folder)
	if err != nil {
		return text{}, v1alpha1.Usagef("build kustomization %s: %w", folder, err)
	}
	data, err := built.AsYaml()
	if err != nil {
		return text{}, fmt.Errorf("build kustomization %s: %w", folder, err)
	}
	result := text{name: "kustomize " + folder, data: data, from: v1alpha1.Provenance{Source: folder}}
	if w := trace(ctx, folder, recorded.read); w != nil {
		result.from = w.at(result.from, w.root)
	}
	return result, nil
}

// recorder notes which files a build read, since they are what the result
// depends on, inside the folder and outside.
type recorder struct {
	filesys.FileSystem
	read []text
}

func (r *recorder) ReadFile(name string) ([]byte, error) {
	data, err := r.FileSystem.ReadFile(name)
	if err == nil {
		r.read = append(r.read, text{name: name, data: data})
	}
	return data, err
}

// kustomizationNames are the file names that kustomize looks for.
var kustomizationNames = []string{"kustomization.yaml", "kustomization.yml", "Kustomization"}

// refuseRemote refuses a kustomization that would be fetched from a network,
// which kustomize does by itself, partly by running git: a plan must not
// depend on what some server holds today.
func refuseRemote(folder string, seen map[string]bool) error {
	folder = filepath.Clean(folder)
	if seen[folder] {
		return nil
	}
	seen[folder] = true
	for _, base := range kustomizationNames {
		name := filepath.Join(folder, base)
		data, err := os.ReadFile(name)
		if err != nil {
			continue // kustomize says what is missing
		}
		node, err := yaml.Parse(string(data))
		if err != nil {
			continue // kustomize says what is wrong
		}
		for _, file := range namedFiles(node) {
			target := filepath.Join(folder, file)
			info, err := os.Stat(target)
			switch {
			case err == nil && info.IsDir():
				if err := refuseRemote(target, seen); err != nil {
					return err
				}
			case err != nil && looksRemote(file):
				return v1alpha1.Usagef("%s: %s would be fetched from a network; copy it next to the kustomization and name the copy", name, redactURL(file))
			}
		}
	}
	return nil
}

// looksRemote is meant for names of files that do not exist.
func looksRemote(name string) bool {
	return strings.Contains(name, "://") || strings.Contains(name, "?") || strings.Contains(name, "@") ||
		strings.Contains(name, "::") || strings.Contains(strings.SplitN(name, "/", 2)[0], ".") && !strings.HasPrefix(name, ".")
}

// namedFiles lists everything in a kustomization that kustomize loads by name.
func namedFiles(node *yaml.RNode) []string {
	var files []string
	each := func(field string, visit func(*yaml.RNode)) {
		list, err := node.Pipe(yaml.Lookup(field))
		if err != nil || list == nil || list.YNode().Kind != yaml.SequenceNode {
			return
		}
		for _, item := range list.Content() {
			visit(yaml.NewRNode(item))
		}
	}
	add := func(item *yaml.RNode) {
		if item.YNode().Kind == yaml.ScalarNode && !strings.Contains(item.YNode().Value, "\n") {
			files = append(files, item.YNode().Value)
		}
	}
	for _, field := range []string{"resources", "bases", "components", "generators", "transformers", "validators", "crds", "configurations", "patchesStrategicMerge"} {
		each(field, add)
	}
	path := func(item *yaml.RNode) {
		if value, err := item.Pipe(yaml.Lookup("path")); err == nil && value != nil {
			add(value)
		}
	}
	for _, field := range []string{"patches", "patchesJson6902", "replacements"} {
		each(field, path)
	}
	if openapi, err := node.Pipe(yaml.Lookup("openapi")); err == nil && openapi != nil {
		path(openapi)
	}
	for _, field := range []string{"configMapGenerator", "secretGenerator"} {
		each(field, func(item *yaml.RNode) {
			for _, key := range []string{"files", "envs", "env"} {
				value, err := item.Pipe(yaml.Lookup(key))
				if err != nil || value == nil {
					continue
				}
				entries := []*yaml.Node{value.YNode()}
				if value.YNode().Kind == yaml.SequenceNode {
					entries = value.Content()
				}
				for _, e := range entries {
					_, name, keyed := strings.Cut(e.Value, "=")
					if !keyed {
						name = e.Value
					}
					files = append(files, name)
				}
			}
		})
	}
	return slices.DeleteFunc(files, func(f string) bool { return f == "" })
}
