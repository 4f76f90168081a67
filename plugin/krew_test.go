package plugin

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// krewPlugin is what krew reads, after its documentation. The manifest is
// decoded strictly into it: krew passes over what it does not know, and a
// misspelt field would be found by the first user.
type krewPlugin struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		Version          string         `json:"version"`
		Homepage         string         `json:"homepage"`
		ShortDescription string         `json:"shortDescription"`
		Description      string         `json:"description"`
		Caveats          string         `json:"caveats"`
		Platforms        []krewPlatform `json:"platforms"`
	} `json:"spec"`
}

type krewPlatform struct {
	URI      string `json:"uri"`
	Sha256   string `json:"sha256"`
	Selector struct {
		MatchLabels map[string]string `json:"matchLabels"`
	} `json:"selector"`
	Files []struct {
		From string `json:"from"`
		To   string `json:"to"`
	} `json:"files"`
	Bin string `json:"bin"`
}

func TestKrewManifest(t *testing.T) {
	text, err := os.ReadFile("../krew/backup.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var p krewPlugin
	if err := yaml.UnmarshalStrict(text, &p); err != nil {
		t.Fatal(err)
	}
	if p.APIVersion != "krew.googlecontainertools.github.com/v1alpha2" || p.Kind != "Plugin" {
		t.Errorf("apiVersion %q, kind %q", p.APIVersion, p.Kind)
	}
	// The command is called as the plugin is: kubectl backup.
	if p.Metadata.Name != "backup" {
		t.Errorf("name %q", p.Metadata.Name)
	}
	if !regexp.MustCompile(`^v\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$`).MatchString(p.Spec.Version) {
		t.Errorf("version %q is not v and a semantic version", p.Spec.Version)
	}
	if n := len(p.Spec.ShortDescription); n == 0 || n > 50 {
		t.Errorf("the short description has %d characters, krew's list shows 50", n)
	}
	if p.Spec.Description == "" || p.Spec.Homepage == "" {
		t.Error("description or homepage is missing")
	}
	platforms := map[string]bool{}
	for _, f := range p.Spec.Platforms {
		system, arch := f.Selector.MatchLabels["os"], f.Selector.MatchLabels["arch"]
		name := system + "_" + arch
		if system == "" || arch == "" || platforms[name] {
			t.Errorf("selector %v is incomplete or comes twice", f.Selector.MatchLabels)
		}
		platforms[name] = true
		if want := "/releases/download/" + p.Spec.Version + "/kubectl-backup_" + name + ".tar.gz"; !strings.HasSuffix(f.URI, want) {
			t.Errorf("%s: uri %s does not end in %s", name, f.URI, want)
		}
		if !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(f.Sha256) {
			t.Errorf("%s: sha256 %q", name, f.Sha256)
		}
		taken := false
		for _, file := range f.Files {
			taken = taken || file.From == f.Bin && file.To == "."
		}
		if f.Bin != "kubectl-backup" || !taken {
			t.Errorf("%s: bin %q is not among the files %v", name, f.Bin, f.Files)
		}
	}
	for _, want := range []string{"linux_amd64", "linux_arm64", "darwin_amd64", "darwin_arm64"} {
		if !platforms[want] {
			t.Errorf("no platform %s", want)
		}
	}
}
