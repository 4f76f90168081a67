package rewrite

import (
	"fmt"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

func nodeLabelRule(key string) string { return "node label " + key }

// mapNodeLabels changes the labels by which pods, volumes and storage classes
// choose nodes.
func (s *compiled) mapNodeLabels(d *Draft, out *Result) {
	if len(s.spec.NodeLabels) == 0 {
		return
	}
	PodSpecs(d.Content, func(path string, _, spec map[string]any) {
		s.labelMap(spec, "nodeSelector", path+".nodeSelector", out)
		s.nodeTerms(mapAt(spec, "affinity", "nodeAffinity"), "requiredDuringSchedulingIgnoredDuringExecution", path+".affinity.nodeAffinity", out)
		s.preferences(mapAt(spec, "affinity", "nodeAffinity"), path+".affinity.nodeAffinity", out)
		for i, c := range listAt(spec, "topologySpreadConstraints") {
			s.labelKey(c, "topologyKey", fmt.Sprintf("%s.topologySpreadConstraints[%d]", path, i), out)
		}
		affinityTerms(spec, path, func(at string, term map[string]any) { s.labelKey(term, "topologyKey", at, out) })
	})
	switch kindAndGroup(d.Ref) {
	case "PersistentVolume":
		affinity := mapAt(d.Content, "spec", "nodeAffinity")
		s.nodeTerms(affinity, "required", "spec.nodeAffinity", out)
		if affinity != nil && len(affinity) == 0 {
			delete(mapAt(d.Content, "spec"), "nodeAffinity")
		}
		s.labelMap(mapAt(d.Content, "metadata"), "labels", "metadata.labels", out)
	case "StorageClass.storage.k8s.io":
		free := false
		for i, t := range listAt(d.Content, "allowedTopologies") {
			free = s.requirements(t, "matchLabelExpressions", fmt.Sprintf("allowedTopologies[%d]", i), out) || free
		}
		if free {
			delete(d.Content, "allowedTopologies")
		}
	}
}

// nodeTerms changes terms of which one must hold. Where one asks for nothing
// any more, all of them do not: to the server an empty term matches no node.
func (s *compiled) nodeTerms(m map[string]any, key, at string, out *Result) {
	free := false
	for i, t := range listAt(m, key, "nodeSelectorTerms") {
		emptied := s.requirements(t, "matchExpressions", fmt.Sprintf("%s.%s.nodeSelectorTerms[%d]", at, key, i), out)
		free = free || emptied && t["matchFields"] == nil
	}
	if free {
		delete(m, key)
	}
}

// preferences drops those that ask for nothing any more.
func (s *compiled) preferences(affinity map[string]any, at string, out *Result) {
	const key = "preferredDuringSchedulingIgnoredDuringExecution"
	list, _ := affinity[key].([]any)
	var kept []any
	for i, e := range list {
		m, _ := e.(map[string]any)
		term := mapAt(m, "preference")
		emptied := s.requirements(term, "matchExpressions", fmt.Sprintf("%s.%s[%d].preference", at, key, i), out)
		if !emptied || term["matchFields"] != nil {
			kept = append(kept, e)
		}
	}
	if len(kept) < len(list) {
		setOrDelete(affinity, key, kept)
	}
}

// labelMap changes a map of labels.
func (s *compiled) labelMap(parent map[string]any, key, at string, out *Result) {
	labels, ok := parent[key].(map[string]any)
	if !ok {
		return
	}
	mapped := make(map[string]any, len(labels))
	changed := false
	for _, k := range sortedKeys(labels) {
		value, _ := labels[k].(string)
		l, known := s.nodeLabel(k)
		if !known {
			mapped[k] = labels[k]
			continue
		}
		rule := nodeLabelRule(l.Key)
		out.matched(rule)
		if l.Drop {
			out.changed(Change{Field: join(at, k), From: value, To: absent, Rule: rule})
			changed = true
			continue
		}
		toKey, toValue := k, value
		if l.ToKey != "" {
			toKey = l.ToKey
		}
		if to, ok := l.Values[value]; ok {
			toValue = to
		}
		mapped[toKey] = toValue
		if toKey != k || toValue != value {
			out.changed(Change{Field: join(at, k), From: k + "=" + value, To: toKey + "=" + toValue, Rule: rule})
			changed = true
		}
	}
	switch {
	case changed && len(mapped) == 0:
		delete(parent, key)
	case changed:
		parent[key] = mapped
	}
}

// requirements changes a list of expressions over labels. One that is dropped
// leaves the others, which are AND-ed; emptied says that none is left.
func (s *compiled) requirements(parent map[string]any, key, at string, out *Result) (emptied bool) {
	list, ok := parent[key].([]any)
	if !ok {
		return false
	}
	kept := make([]any, 0, len(list))
	for i, e := range list {
		m, _ := e.(map[string]any)
		name, _ := m["key"].(string)
		l, known := s.nodeLabel(name)
		where := fmt.Sprintf("%s.%s[%d]", at, key, i)
		if !known {
			kept = append(kept, e)
			continue
		}
		rule := nodeLabelRule(l.Key)
		out.matched(rule)
		if l.Drop {
			out.changed(Change{Field: where, From: shown(e), To: absent, Rule: rule})
			continue
		}
		kept = append(kept, e)
		if l.ToKey != "" && l.ToKey != name {
			m["key"] = l.ToKey
			out.changed(Change{Field: where + ".key", From: name, To: l.ToKey, Rule: rule})
		}
		s.labelValues(m, l, where, rule, out)
	}
	if len(kept) == 0 && len(list) > 0 {
		delete(parent, key)
		return true
	}
	parent[key] = kept
	return false
}

func (s *compiled) labelValues(m map[string]any, l v1alpha1.NodeLabelMap, at, rule string, out *Result) {
	values, _ := m["values"].([]any)
	var mapped []any
	seen := map[string]bool{}
	changed := false
	for _, v := range values {
		from, _ := v.(string)
		to, ok := l.Values[from]
		if !ok {
			to = from
		}
		changed = changed || to != from
		if !seen[to] {
			mapped = append(mapped, to)
		}
		seen[to] = true
	}
	if changed {
		m["values"] = mapped
		out.changed(Change{Field: at + ".values", From: shown(values), To: shown(mapped), Rule: rule})
	}
}

// labelKey changes a field that holds the key of a label.
func (s *compiled) labelKey(m map[string]any, key, at string, out *Result) {
	from, _ := m[key].(string)
	if l, ok := s.nodeLabel(from); ok && l.ToKey != "" && l.ToKey != from {
		m[key] = l.ToKey
		out.changed(Change{Field: join(at, key), From: from, To: l.ToKey, Rule: nodeLabelRule(l.Key)})
	}
}

func (s *compiled) nodeLabel(key string) (v1alpha1.NodeLabelMap, bool) {
	for _, l := range s.spec.NodeLabels {
		if l.Key == key {
			return l, true
		}
	}
	return v1alpha1.NodeLabelMap{}, false
}
