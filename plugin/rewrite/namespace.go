package rewrite

import (
	"strconv"
	"strings"
)

// nameLabel is the label that every namespace carries with its own name. A
// selector that asks for it means one namespace; nothing else has the label.
const nameLabel = "kubernetes.io/metadata.name"

func (r Rules) namespaces(d *Draft, changed func(Change)) {
	set := func(m map[string]any, key, at string) {
		from, ok := m[key].(string)
		if !ok {
			return
		}
		if to, ok := r.Namespaces[from]; ok {
			m[key] = to
			changed(Change{Field: at, From: from, To: to, Rule: namespaceRule(from, to)})
		}
	}
	meta := mapAt(d.Content, "metadata")
	set(meta, "namespace", "metadata.namespace")
	if d.Ref.Group == "" && d.Ref.Kind == "Namespace" {
		set(meta, "name", "metadata.name")
	}
	for _, ref := range namespaceFields(d.Ref.Group, d.Ref.Kind) {
		field := "namespace"
		path := ref
		if i := strings.LastIndexByte(ref, ':'); i >= 0 {
			path, field = ref[:i], ref[i+1:]
		}
		each(d.Content, path, func(at string, m map[string]any) { set(m, field, join(at, field)) })
	}
	r.accounts(d, changed)
	r.classParameters(d, changed)
	PodSpecs(d.Content, func(path string, _, spec map[string]any) {
		r.affinity(spec, path, changed)
	})
	r.selectors(d.Content, "", changed)
}

// accounts follows service accounts that are named as users and groups.
func (r Rules) accounts(d *Draft, changed func(Change)) {
	rename := func(name string) (string, Change, bool) {
		for _, prefix := range [...]string{"system:serviceaccount:", "system:serviceaccounts:"} {
			rest, ok := strings.CutPrefix(name, prefix)
			if !ok {
				continue
			}
			ns, account, _ := strings.Cut(rest, ":")
			to, ok := r.Namespaces[ns]
			if !ok {
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
	for _, path := range subjectFields(d.Ref.Group) {
		each(d.Content, path, func(at string, m map[string]any) {
			name, _ := m["name"].(string)
			if to, c, ok := rename(name); ok {
				m["name"] = to
				c.Field = join(at, "name")
				changed(c)
			}
		})
	}
	if d.Ref.Kind == "SecurityContextConstraints" {
		for _, key := range [...]string{"users", "groups"} {
			list, _ := d.Content[key].([]any)
			for i, e := range list {
				name, _ := e.(string)
				if to, c, ok := rename(name); ok {
					list[i] = to
					c.Field = key + "[" + strconv.Itoa(i) + "]"
					changed(c)
				}
			}
		}
	}
}

// classParameters follows the secrets that a storage or snapshot class hands
// to its driver: csi.storage.k8s.io/<use>-secret-namespace.
func (r Rules) classParameters(d *Draft, changed func(Change)) {
	switch d.Ref.Kind {
	case "StorageClass", "VolumeSnapshotClass", "VolumeGroupSnapshotClass":
	default:
		return
	}
	params := mapAt(d.Content, "parameters")
	for _, key := range sortedKeys(params) {
		if !strings.HasSuffix(key, "secret-namespace") {
			continue
		}
		from, _ := params[key].(string)
		if to, ok := r.Namespaces[from]; ok {
			params[key] = to
			changed(Change{Field: join("parameters", key), From: from, To: to, Rule: namespaceRule(from, to)})
		}
	}
}

// affinity follows the namespaces that pod affinity terms list by name.
func (r Rules) affinity(spec map[string]any, path string, changed func(Change)) {
	for _, kind := range [...]string{"podAffinity", "podAntiAffinity"} {
		for _, at := range [...]string{
			"affinity." + kind + ".requiredDuringSchedulingIgnoredDuringExecution[]",
			"affinity." + kind + ".preferredDuringSchedulingIgnoredDuringExecution[].podAffinityTerm",
		} {
			each(spec, at, func(at string, term map[string]any) {
				r.list(term, "namespaces", path+"."+at, changed)
			})
		}
	}
}

func (r Rules) list(m map[string]any, key, at string, changed func(Change)) {
	list, _ := m[key].([]any)
	for i, e := range list {
		from, _ := e.(string)
		if to, ok := r.Namespaces[from]; ok {
			list[i] = to
			changed(Change{Field: join(at, key) + "[" + strconv.Itoa(i) + "]", From: from, To: to, Rule: namespaceRule(from, to)})
		}
	}
}

// selectors follows label selectors on a namespace's name wherever they stand:
// network policies of any vendor, webhooks, affinity, Gateway listeners.
func (r Rules) selectors(v any, path string, changed func(Change)) {
	switch t := v.(type) {
	case map[string]any:
		if labels, ok := t["matchLabels"].(map[string]any); ok {
			from, _ := labels[nameLabel].(string)
			if to, ok := r.Namespaces[from]; ok {
				labels[nameLabel] = to
				changed(Change{Field: join(join(path, "matchLabels"), nameLabel), From: from, To: to, Rule: namespaceRule(from, to)})
			}
		}
		for i, e := range listAt(t, "matchExpressions") {
			if e["key"] == nameLabel {
				r.list(e, "values", join(path, "matchExpressions")+"["+strconv.Itoa(i)+"]", changed)
			}
		}
		for _, k := range sortedKeys(t) {
			r.selectors(t[k], join(path, k), changed)
		}
	case []any:
		for i, e := range t {
			r.selectors(e, path+"["+strconv.Itoa(i)+"]", changed)
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
