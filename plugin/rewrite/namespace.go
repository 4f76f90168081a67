package rewrite

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/plugin/graph"
)

// nameLabel is the label that every namespace carries with its own name. A
// selector that asks for it means one namespace; nothing else has the label.
const nameLabel = "kubernetes.io/metadata.name"

func (r Rules) namespaces(d *Draft, changed func(Change)) error {
	// A field that two tables know is followed once: with a map that swaps two
	// names, twice would be not at all.
	followed := map[string]bool{}
	follow := func(at, from string, set func(to string)) {
		to, ok := r.Namespaces[from]
		if !ok || to == from || followed[at] {
			return
		}
		followed[at] = true
		set(to)
		changed(Change{Field: at, From: from, To: to, Rule: namespaceRule(from, to)})
	}
	field := func(m map[string]any, key, at string) {
		if from, ok := m[key].(string); ok {
			follow(at, from, func(to string) { m[key] = to })
		}
	}
	err := graph.References(d.Content, func(ref graph.Reference) error {
		switch {
		case ref.To.Group == "" && ref.To.Kind == "Namespace":
			follow(ref.Path, ref.To.Name, ref.SetName)
		case ref.InNamespaceField != "":
			follow(join(above(ref.Path), ref.Row.NamespaceField), ref.InNamespaceField, func(to string) { ref.SetNamespace(to) })
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("references of %s: %w", d.Ref, err)
	}
	if d.Ref.Group == "" && d.Ref.Kind == "Namespace" {
		field(mapAt(d.Content, "metadata"), "name", "metadata.name")
	}
	for _, path := range namespaceFields(d.Ref.Group, d.Ref.Kind) {
		path, key := path, "namespace"
		if i := strings.LastIndexByte(path, ':'); i >= 0 {
			path, key = path[:i], path[i+1:]
		}
		each(d.Content, path, func(at string, m map[string]any) { field(m, key, join(at, key)) })
	}
	PodSpecs(d.Content, func(path string, _, spec map[string]any) {
		affinityTerms(spec, path, func(at string, term map[string]any) { list(term, "namespaces", at, follow) })
	})
	selectors(d.Content, "", field, follow)
	r.accounts(d, changed)
	return nil
}

// above is the path of what holds a field.
func above(path string) string {
	if bracket := strings.LastIndex(path, `["`); bracket >= 0 && strings.HasSuffix(path, `"]`) {
		return path[:bracket]
	}
	return path[:strings.LastIndexByte(path, '.')]
}

// accounts follows service accounts that are named as users and groups.
func (r Rules) accounts(d *Draft, changed func(Change)) {
	rename := func(name string) (string, Change, bool) {
		for _, prefix := range [...]string{graph.AccountUser, graph.AccountGroup} {
			rest, ok := strings.CutPrefix(name, prefix)
			if !ok {
				continue
			}
			ns, account, _ := strings.Cut(rest, ":")
			to, ok := r.Namespaces[ns]
			if !ok || to == ns {
				continue
			}
			renamed := prefix + to
			if account != "" {
				renamed += ":" + account
			}
			return renamed, Change{From: name, To: renamed, Rule: namespaceRule(ns, to)}, true
		}
		return "", Change{}, false
	}
	eachUser(d, func(at, name string, set func(string)) {
		if to, c, ok := rename(name); ok {
			set(to)
			c.Field = at
			changed(c)
		}
	})
}

// eachUser visits the names of users and groups, which may be service accounts.
func eachUser(d *Draft, visit func(at, name string, set func(string))) {
	for _, path := range subjectFields(d.Ref.Group) {
		each(d.Content, path, func(at string, m map[string]any) {
			if name, ok := m["name"].(string); ok {
				visit(join(at, "name"), name, func(to string) { m["name"] = to })
			}
		})
	}
	if d.Ref.Kind == "SecurityContextConstraints" {
		for _, key := range [...]string{"users", "groups"} {
			list(d.Content, key, "", visit)
		}
	}
}

// affinityTerms visits the terms of pod affinity, which list namespaces by
// name, in pod specs wherever they stand.
func affinityTerms(spec map[string]any, path string, visit func(at string, term map[string]any)) {
	for _, kind := range [...]string{"podAffinity", "podAntiAffinity"} {
		for _, at := range [...]string{
			"affinity." + kind + ".requiredDuringSchedulingIgnoredDuringExecution[]",
			"affinity." + kind + ".preferredDuringSchedulingIgnoredDuringExecution[].podAffinityTerm",
		} {
			each(spec, at, func(at string, term map[string]any) { visit(path+"."+at, term) })
		}
	}
}

func list(m map[string]any, key, at string, follow func(at, from string, set func(string))) {
	list, _ := m[key].([]any)
	for i, e := range list {
		if from, ok := e.(string); ok {
			follow(join(at, key)+"["+strconv.Itoa(i)+"]", from, func(to string) { list[i] = to })
		}
	}
}

// selectors follows label selectors on a namespace's name wherever they stand:
// network policies of any vendor, webhooks, affinity, Gateway listeners.
func selectors(v any, path string, field func(m map[string]any, key, at string), follow func(at, from string, set func(string))) {
	switch t := v.(type) {
	case map[string]any:
		if labels, ok := t["matchLabels"].(map[string]any); ok {
			field(labels, nameLabel, join(join(path, "matchLabels"), nameLabel))
		}
		for i, e := range listAt(t, "matchExpressions") {
			if e["key"] == nameLabel {
				list(e, "values", join(path, "matchExpressions")+"["+strconv.Itoa(i)+"]", follow)
			}
		}
		for _, k := range sortedKeys(t) {
			if nested(t[k]) {
				selectors(t[k], join(path, k), field, follow)
			}
		}
	case []any:
		for i, e := range t {
			if nested(e) {
				selectors(e, path+"["+strconv.Itoa(i)+"]", field, follow)
			}
		}
	}
}

// each visits the maps at the end of a path such as spec.rules[].backendRefs[].
func each(m map[string]any, path string, visit func(at string, m map[string]any)) {
	eachStep(m, strings.Split(path, "."), "", visit)
}

func eachStep(m map[string]any, steps []string, at string, visit func(string, map[string]any)) {
	if len(steps) == 0 {
		visit(at, m)
		return
	}
	key, isList := strings.CutSuffix(steps[0], "[]")
	next := join(at, key)
	if !isList {
		if child, ok := m[key].(map[string]any); ok {
			eachStep(child, steps[1:], next, visit)
		}
		return
	}
	list, _ := m[key].([]any)
	for i, e := range list {
		if child, ok := e.(map[string]any); ok {
			eachStep(child, steps[1:], next+"["+strconv.Itoa(i)+"]", visit)
		}
	}
}
