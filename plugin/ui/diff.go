package ui

import (
	"fmt"
	"io"

	"github.com/pmezard/go-difflib/difflib"
	"sigs.k8s.io/yaml"
)

// Difference writes how an object of the target differs from the backup's, as
// a unified diff of YAML: minus is what the target has, plus what the backup
// has. Either may be empty: there is none.
func Difference(w io.Writer, name string, live, saved []byte) error {
	d := difflib.UnifiedDiff{FromFile: "target " + name, ToFile: "backup " + name, Context: 3}
	for lines, raw := range map[*[]string][]byte{&d.A: live, &d.B: saved} {
		if len(raw) == 0 {
			continue
		}
		text, err := yaml.JSONToYAML(raw)
		if err != nil {
			return fmt.Errorf("show %s: %w", name, err)
		}
		*lines = difflib.SplitLines(string(text))
	}
	if err := difflib.WriteUnifiedDiff(w, d); err != nil {
		return fmt.Errorf("show %s: %w", name, err)
	}
	return nil
}
