package rewrite

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

var update = flag.Bool("update", false, "write the expected files anew")

// goldenCases are folders with input.yaml, rules.yaml, expected.yaml and
// explanation.yaml.
func goldenCases(t *testing.T) []string {
	t.Helper()
	folders, err := filepath.Glob("testdata/golden/*")
	if err != nil || len(folders) < 15 {
		t.Fatalf("%d folders, %v", len(folders), err)
	}
	return folders
}

func compileFile(t *testing.T, path string) Rules {
	t.Helper()
	documents, err := v1alpha1.Decode(path, read(t, path))
	if err != nil {
		t.Fatal(err)
	}
	rules, err := Compile(documents.Rewrites[0])
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// rewritten applies rules to a stream.
func rewritten(t *testing.T, rules Rules, data []byte) (out []byte, report *v1alpha1.RewriteReport) {
	t.Helper()
	m := &Manifests{}
	if err := m.Read("input", data); err != nil {
		t.Fatal(err)
	}
	report, err := m.Rewrite(rules)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := m.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), report
}

func TestGolden(t *testing.T) {
	for _, folder := range goldenCases(t) {
		t.Run(filepath.Base(folder), func(t *testing.T) {
			out, report := rewritten(t, compileFile(t, filepath.Join(folder, "rules.yaml")), read(t, filepath.Join(folder, "input.yaml")))
			explanation, err := yaml.Marshal(report)
			if err != nil {
				t.Fatal(err)
			}
			for name, got := range map[string][]byte{"expected.yaml": out, "explanation.yaml": explanation} {
				path := filepath.Join(folder, name)
				if *update {
					if err := os.WriteFile(path, got, 0o644); err != nil {
						t.Fatal(err)
					}
				}
				if want := read(t, path); !bytes.Equal(want, got) {
					t.Errorf("%s differs, got:\n%s\nwant:\n%s", name, got, want)
				}
			}
		})
	}
}

// A set that is applied to its own result, by another process that has learned
// nothing of the first, leaves it alone.
func TestTwiceIsOnce(t *testing.T) {
	for _, folder := range goldenCases(t) {
		t.Run(filepath.Base(folder), func(t *testing.T) {
			rules := filepath.Join(folder, "rules.yaml")
			once, report := rewritten(t, compileFile(t, rules), read(t, filepath.Join(folder, "input.yaml")))
			if report.Result != v1alpha1.ResultComplete {
				return // what failed stays as it was, and fails again
			}
			twice, again := rewritten(t, compileFile(t, rules), once)
			if !bytes.Equal(once, twice) {
				t.Errorf("changed again: %+v\n%s", again.Objects, twice)
			}
		})
	}
}

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }
