package rewrite

import (
	"maps"
	"slices"
	"strconv"
)

// PodSpecs visits each pod spec inside an object, wherever it stands: the
// built-in kinds and any custom resource that embeds one are found by shape, a
// list of containers that have a name. The template is nil where the spec
// does not stand beside a metadata, as in a Pod it does.
func PodSpecs(content map[string]any, visit func(path string, template, spec map[string]any)) {
	podSpecs(content, "", visit)
}

func podSpecs(v any, path string, visit func(string, map[string]any, map[string]any)) {
	switch t := v.(type) {
	case map[string]any:
		for _, k := range sortedKeys(t) {
			if spec, ok := t[k].(map[string]any); ok && k == "spec" && isPodSpec(spec) {
				visit(join(path, k), t, spec)
				continue
			}
			if nested(t[k]) {
				podSpecs(t[k], join(path, k), visit)
			}
		}
	case []any:
		for i, e := range t {
			if nested(e) {
				podSpecs(e, path+"["+strconv.Itoa(i)+"]", visit)
			}
		}
	}
}

// nested says whether a value has others in it.
func nested(v any) bool {
	switch v.(type) {
	case map[string]any, []any:
		return true
	}
	return false
}

func isPodSpec(m map[string]any) bool {
	list, ok := m["containers"].([]any)
	if !ok || len(list) == 0 {
		return false
	}
	for _, c := range list {
		cm, ok := c.(map[string]any)
		if !ok {
			return false
		}
		if name, ok := cm["name"].(string); !ok || name == "" {
			return false
		}
	}
	return true
}

func sortedKeys(all ...map[string]any) []string {
	var keys []string
	for _, m := range all {
		keys = slices.AppendSeq(keys, maps.Keys(m))
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}
