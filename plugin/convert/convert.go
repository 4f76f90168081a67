// Package convert turns objects of API versions that a cluster no longer
// serves into their successors, with the fields that those require.
//
// A hand-made table knows what changed between versions since Kubernetes 1.16:
// most kinds only moved, others got other fields. What the table does not know
// and Kubernetes' own scheme does is converted by that.
//
// It is pure: it asks no cluster, and the caller says what is served. It does
// not validate, does not add defaults that the server adds by itself, and does
// not convert custom resources, whose versions only their own webhook knows,
// but for a few that merely moved.
package convert

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
)

// Served says whether a cluster serves a kind at a version.
type Served func(schema.GroupVersionKind) bool

// Error says why an object cannot be converted to anything that is served.
type Error struct {
	From   schema.GroupVersionKind
	Reason string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s %s is not served here and cannot be converted: %s", e.From.GroupVersion(), e.From.Kind, e.Reason)
}

// Target is the version of a kind that an object of it would be converted to:
// the kind itself where that is served, else the newest served one that there
// is a way to. The content may still forbid it.
func Target(from schema.GroupVersionKind, served Served) (schema.GroupVersionKind, error) {
	if served(from) {
		return from, nil
	}
	if way := find(from, served); len(way) > 0 {
		return way[len(way)-1].to, nil
	}
	if to, ok := schemeTarget(from, served); ok {
		return to, nil
	}
	if reason, ok := gone[from.GroupKind()]; ok {
		return schema.GroupVersionKind{}, &Error{from, reason}
	}
	if known := successors(from); len(known) > 0 {
		return schema.GroupVersionKind{}, &Error{from, fmt.Sprintf("the target serves none of %s", strings.Join(known, ", "))}
	}
	return schema.GroupVersionKind{}, &Error{from, "no conversion is known"}
}

// Object converts content, one decoded object with numbers as json.Number, in
// place, to what Target says. The notes tell what a person should look at. After
// an error content is half done, and must not be used.
func Object(content map[string]any, served Served) (notes []string, err error) {
	from := kindOf(content)
	to, err := Target(from, served)
	if err != nil {
		return nil, err
	}
	if to == from {
		references(content, served)
		return nil, nil
	}
	c := &conversion{content: content}
	if way := find(from, served); len(way) > 0 {
		sameShape := true
		for _, s := range way {
			if s.change != nil {
				sameShape = sameShape && s.keeps
				if err := s.change(c); err != nil {
					return nil, &Error{from, err.Error()}
				}
			}
			content["apiVersion"] = s.to.GroupVersion().String()
		}
		owners(content, to, sameShape)
	} else {
		if err := c.byScheme(from, to); err != nil {
			return nil, &Error{from, err.Error()}
		}
		owners(content, to, false)
	}
	references(content, served)
	return c.notes, nil
}

func kindOf(content map[string]any) schema.GroupVersionKind {
	apiVersion, _ := content["apiVersion"].(string)
	kind, _ := content["kind"].(string)
	group, version := object.SplitAPIVersion(apiVersion)
	return schema.GroupVersionKind{Group: group, Version: version, Kind: kind}
}

// step is one conversion; change is nil where only the version's name changes.
// keeps says that fields keep their names all the same.
type step struct {
	from, to schema.GroupVersionKind
	change   func(*conversion) error
	keeps    bool
}

// conversion is the work on one object.
type conversion struct {
	content map[string]any
	notes   []string
}

func (c *conversion) note(format string, args ...any) {
	c.notes = append(c.notes, fmt.Sprintf(format, args...))
}

func (c *conversion) spec() map[string]any { return section(c.content, "spec") }

func section(m map[string]any, keys ...string) map[string]any {
	for _, k := range keys {
		m, _ = m[k].(map[string]any)
	}
	return m
}

// listOf gives the maps of a list.
func listOf(v any) []map[string]any {
	list, _ := v.([]any)
	var out []map[string]any
	for _, e := range list {
		if m, ok := e.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}

// move renames a field where it is set.
func move(m map[string]any, from, to string) {
	if v, ok := m[from]; ok {
		delete(m, from)
		m[to] = v
	}
}

// fill sets a field where it is not.
func fill(m map[string]any, key string, value any) {
	if v, ok := m[key]; !ok || v == nil {
		m[key] = value
	}
}

// find is the shortest way to a version that is served. Steps are tried newest
// first, so that of equally near ones the newest wins.
func find(from schema.GroupVersionKind, served Served) []step {
	type place struct {
		at  schema.GroupVersionKind
		way []step
	}
	queue := []place{{at: from}}
	seen := map[schema.GroupVersionKind]bool{from: true}
	for len(queue) > 0 {
		here := queue[0]
		queue = queue[1:]
		for _, s := range steps[here.at] {
			if seen[s.to] {
				continue
			}
			seen[s.to] = true
			way := append(slices.Clone(here.way), s)
			if served(s.to) {
				return way
			}
			queue = append(queue, place{s.to, way})
		}
	}
	return nil
}

// successors names the versions that there is a way to.
func successors(from schema.GroupVersionKind) []string {
	var out []string
	seen := map[schema.GroupVersionKind]bool{from: true}
	queue := []schema.GroupVersionKind{from}
	for len(queue) > 0 {
		for _, s := range steps[queue[0]] {
			if !seen[s.to] {
				seen[s.to] = true
				queue = append(queue, s.to)
				out = append(out, s.to.GroupVersion().String())
			}
		}
		queue = queue[1:]
	}
	return out
}

// owners makes the owners of fields fit the new version. Where fields got other
// names, who owned which cannot be said any more: the first manager then stands
// for all.
func owners(content map[string]any, to schema.GroupVersionKind, sameShape bool) {
	meta := section(content, "metadata")
	entries := listOf(meta["managedFields"])
	if len(entries) == 0 {
		return
	}
	version := to.GroupVersion().String()
	if sameShape {
		for _, e := range entries {
			e["apiVersion"] = version
		}
		return
	}
	for _, e := range entries {
		if sub, _ := e["subresource"].(string); sub == "" {
			meta["managedFields"] = []any{map[string]any{
				"manager": e["manager"], "operation": "Update", "apiVersion": version,
				"fieldsType": "FieldsV1", "fieldsV1": map[string]any{},
			}}
			return
		}
	}
	delete(meta, "managedFields")
}

// references gives the kinds that an object names with their versions the
// versions that are served: owners, and what an autoscaler scales.
func references(content map[string]any, served Served) {
	fix := func(ref map[string]any) {
		from := kindOf(ref)
		if from.Version == "" || from.Kind == "" || served(from) {
			return
		}
		if to, err := Target(from, served); err == nil {
			ref["apiVersion"] = to.GroupVersion().String()
		}
	}
	for _, ref := range listOf(section(content, "metadata")["ownerReferences"]) {
		fix(ref)
	}
	if kind, _ := content["kind"].(string); kind == "HorizontalPodAutoscaler" {
		spec := section(content, "spec")
		fix(section(spec, "scaleTargetRef"))
		for _, m := range listOf(spec["metrics"]) {
			fix(section(m, "object", "describedObject"))
			fix(section(m, "object", "target"))
		}
	}
}

// number is a value as a draft holds it.
func number(n string) json.Number { return json.Number(n) }
