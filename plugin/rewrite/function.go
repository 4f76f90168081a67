package rewrite

import (
	"fmt"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// AddResults puts what was changed into the results of the ResourceList, in the
// form that KRM functions have for it.
func (m *Manifests) AddResults(report *v1alpha1.RewriteReport) error {
	if m.resources == nil {
		return nil
	}
	var results []any
	add := func(severity, message string, more map[string]any) {
		result := map[string]any{"message": message, "severity": severity}
		for k, v := range more {
			result[k] = v
		}
		results = append(results, result)
	}
	files := map[v1alpha1.Ref]string{}
	for _, o := range m.resources.objects {
		files[o.draft.Ref] = o.path
	}
	for _, line := range report.Objects {
		about := func(more map[string]any) map[string]any {
			out := map[string]any{"resourceRef": resourceRef(line.NewRef)}
			if path := files[line.Ref]; path != "" {
				out["file"] = map[string]any{"path": path}
			}
			for k, v := range more {
				out[k] = v
			}
			return out
		}
		if line.Error != "" {
			add("error", line.Error, about(nil))
		}
		for _, c := range line.Changes {
			add("info", fmt.Sprintf("%s changed %s", c.Rule, c.Field), about(map[string]any{
				"field": map[string]any{"path": c.Field, "currentValue": c.From, "proposedValue": c.To},
			}))
		}
		for _, w := range append(append([]string{}, line.Warnings...), line.Mentions...) {
			add("warning", w, about(nil))
		}
	}
	for _, w := range report.Warnings {
		add("warning", w, nil)
	}
	if len(results) == 0 {
		return nil
	}
	root := m.resources.node.Content[0]
	v, err := valueOf(root)
	if err != nil {
		return err
	}
	before, ok := v.(map[string]any)
	if !ok {
		return fmt.Errorf("the ResourceList is not a map")
	}
	after := make(map[string]any, len(before)+1)
	for k, e := range before {
		after[k] = e
	}
	earlier, _ := before["results"].([]any)
	after["results"] = append(append([]any{}, earlier...), results...)
	m.resources.changed = true
	_, err = syncNode(root, before, after)
	return err
}

func resourceRef(r v1alpha1.Ref) map[string]any {
	apiVersion := strings.TrimPrefix(r.Group+"/"+r.Version, "/")
	out := map[string]any{"apiVersion": apiVersion, "kind": r.Kind, "name": r.Name}
	if r.Namespace != "" {
		out["namespace"] = r.Namespace
	}
	return out
}
