package plugin

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/kubectl-backup/kubectl-backup"

// importTable says which packages of ours a package may import. Data flows in
// one direction, and this is what keeps it so: a package that is not here, or
// imports what does not stand here, is a decision to take first.
var importTable = map[string][]string{
	"cmd/kubectl-backup":                    {"cmd/kubectl-backup/internal/collector", "cmd/kubectl-backup/internal/english", "plugin"},
	"cmd/kubectl-backup/internal/collector": {},
	"cmd/kubectl-backup/internal/english":   {},
	"plugin": {
		"plugin/argocd", "plugin/capture", "plugin/drill", "plugin/freeze", "plugin/graph", "plugin/kube", "plugin/mover", "plugin/object", "plugin/plan", "plugin/remote", "plugin/repository",
		"plugin/restore", "plugin/rewrite", "plugin/selector", "plugin/snapshot", "plugin/source", "plugin/ui", "plugin/volume", "spec/recipes", "spec/v1alpha1",
	},
	"plugin/argocd": {"plugin/kube", "plugin/object", "spec/v1alpha1"},
	"plugin/blocks": {"plugin/volume"},
	"plugin/capture": {
		"plugin/freeze", "plugin/graph", "plugin/kube", "plugin/mover", "plugin/object", "plugin/plan", "plugin/repository", "plugin/snapshot",
		"plugin/volume", "spec/v1alpha1",
	},
	"plugin/convert":                   {"plugin/object", "spec/v1alpha1"},
	"plugin/drill":                     {"plugin/argocd", "plugin/kube", "plugin/mover", "plugin/object", "plugin/restore", "plugin/selector", "spec/v1alpha1"},
	"plugin/freeze":                    {"plugin/kube", "spec/recipes", "spec/v1alpha1"},
	"plugin/graph":                     {"plugin/object", "spec/v1alpha1"},
	"plugin/kube":                      {"plugin/object", "spec/v1alpha1"},
	"plugin/mover":                     {"plugin/blocks", "plugin/kube", "plugin/object", "plugin/snapshot", "spec/v1alpha1"},
	"plugin/object":                    {"spec/v1alpha1"},
	"plugin/plan":                      {"plugin/graph", "plugin/kube", "plugin/object", "plugin/selector", "plugin/snapshot", "spec/recipes", "spec/v1alpha1"},
	"plugin/remote":                    {"spec/v1alpha1"},
	"plugin/repository":                {"plugin/object", "plugin/volume", "spec/v1alpha1"},
	"plugin/repository/repositorytest": {"plugin/object", "plugin/repository", "plugin/volume", "spec/v1alpha1"},
	"plugin/restore": {
		"plugin/argocd", "plugin/convert", "plugin/graph", "plugin/kube", "plugin/mover", "plugin/object", "plugin/plan", "plugin/repository",
		"plugin/rewrite", "plugin/volume", "spec/v1alpha1",
	},
	"plugin/rewrite":           {"plugin/graph", "plugin/object", "plugin/selector", "spec/v1alpha1"},
	"plugin/selector":          {"plugin/object", "spec/v1alpha1"},
	"plugin/snapshot":          {"plugin/kube", "plugin/object", "spec/v1alpha1"},
	"plugin/source":            {"spec/v1alpha1"},
	"plugin/ui":                {"plugin/graph", "spec/v1alpha1"},
	"plugin/volume":            {},
	"plugin/volume/volumetest": {"plugin/volume"},
	"spec/recipes":             {"spec/v1alpha1"},
	"spec/v1alpha1":            {},
}

// soleImporters are modules that one package of ours hides from all others.
var soleImporters = map[string]string{
	"github.com/rclone/rclone":                     "plugin/remote",
	"github.com/argoproj/argo-cd/gitops-engine/v3": "plugin/argocd",
	"github.com/go-git/go-git/v5":                  "plugin/source",
	"google.golang.org/grpc":                       "plugin/blocks",
	"github.com/vbauerster/mpb/v8":                 "plugin/ui",
	"k8s.io/apiserver":                             "plugin/selector",
}

// without says what a package must not reach, not even through others.
var without = map[string][]string{
	"plugin/graph":      {"k8s.io/client-go", "github.com/kopia/kopia"},
	"plugin/rewrite":    {"k8s.io/client-go", "github.com/kopia/kopia"},
	"plugin/selector":   {"github.com/kopia/kopia"},
	"plugin/volume":     {"k8s.io", "github.com/kopia/kopia"},
	"plugin/repository": {"k8s.io/client-go", "github.com/rclone/rclone"},
	"plugin/plan":       {"github.com/kopia/kopia"},
	"spec/v1alpha1":     {"k8s.io/client-go", "github.com/kopia/kopia"},
}

func TestImports(t *testing.T) {
	packages := listPackages(t)
	for path, p := range packages {
		name, ours := strings.CutPrefix(path, module+"/")
		if !ours {
			continue
		}
		allowed, known := importTable[name]
		if !known {
			t.Errorf("package %s is not in the import table", name)
		}
		for _, imported := range p.Imports {
			if of, ours := strings.CutPrefix(imported, module+"/"); ours && !slices.Contains(allowed, of) {
				t.Errorf("package %s imports %s, which the import table does not allow", name, of)
			}
			for foreign, sole := range soleImporters {
				if inside(imported, foreign) && name != sole {
					t.Errorf("package %s imports %s; only %s may import %s", name, imported, sole, foreign)
				}
			}
		}
		for _, foreign := range without[name] {
			if via := reaches(packages, path, foreign); via != "" {
				t.Errorf("package %s reaches %s, by %s", name, foreign, via)
			}
		}
	}
	for name := range importTable {
		if packages[module+"/"+name] == nil {
			t.Errorf("the import table has %s, which is not a package", name)
		}
	}
}

type listedPackage struct {
	ImportPath string
	Imports    []string
}

// listPackages returns our packages and everything that they depend on.
func listPackages(t *testing.T) map[string]*listedPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Imports", module+"/...")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v: %s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	packages := map[string]*listedPackage{}
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p listedPackage
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			return packages
		}
		if err != nil {
			t.Fatal(err)
		}
		packages[p.ImportPath] = &p
	}
}

// reaches returns the chain of imports that leads from a package into a
// module, or nothing.
func reaches(packages map[string]*listedPackage, from, into string) string {
	seen := map[string]bool{}
	var walk func(path string) string
	walk = func(path string) string {
		if inside(path, into) {
			return path
		}
		if seen[path] || packages[path] == nil {
			return ""
		}
		seen[path] = true
		for _, imported := range packages[path].Imports {
			if chain := walk(imported); chain != "" {
				return path + " -> " + chain
			}
		}
		return ""
	}
	return walk(from)
}

func inside(path, of string) bool { return path == of || strings.HasPrefix(path, of+"/") }
