package rewrite

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"

	"sigs.k8s.io/kustomize/kyaml/yaml"
)

type pair struct{ key, value *yaml.Node }

// pairs are the entries of a map.
func pairs(n *yaml.Node) []pair {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	var out []pair
	if n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			out = append(out, pair{n.Content[i], n.Content[i+1]})
		}
	}
	return out
}

var jsonNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$`)

// valueOf is what a node holds, as a Draft has it: the digits of numbers are
// kept where JSON could write them so.
func valueOf(n *yaml.Node) (any, error) {
	switch n.Kind {
	case yaml.AliasNode:
		return valueOf(n.Alias)
	case yaml.MappingNode:
		out := make(map[string]any, len(n.Content)/2)
		for _, p := range pairs(n) {
			if p.key.ShortTag() == yaml.MergeTag {
				return merged(n)
			}
			if p.key.Kind != yaml.ScalarNode {
				return nil, fmt.Errorf("line %d: a key must be a word", p.key.Line)
			}
			v, err := valueOf(p.value)
			if err != nil {
				return nil, err
			}
			out[p.key.Value] = v
		}
		return out, nil
	case yaml.SequenceNode:
		out := make([]any, len(n.Content))
		for i, e := range n.Content {
			v, err := valueOf(e)
			if err != nil {
				return nil, err
			}
			out[i] = v
		}
		return out, nil
	}
	switch tag := n.ShortTag(); {
	case tag == yaml.NodeTagString, tag == "!!timestamp", tag == "!!binary":
		return n.Value, nil
	case (tag == yaml.NodeTagInt || tag == yaml.NodeTagFloat) && jsonNumber.MatchString(n.Value):
		return json.Number(n.Value), nil
	}
	var v any
	if err := n.Decode(&v); err != nil {
		return nil, fmt.Errorf("line %d: %w", n.Line, err)
	}
	return asJSON(v)
}

// merged is a map with merge keys, which only the parser writes out.
func merged(n *yaml.Node) (any, error) {
	var v map[string]any
	if err := n.Decode(&v); err != nil {
		return nil, fmt.Errorf("line %d: %w", n.Line, err)
	}
	return asJSON(v)
}

func asJSON(v any) (any, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return decode(raw)
}

// syncNode makes a node hold after, where it held before. Only what differs is
// touched, so that comments, order and notation stay.
func syncNode(n *yaml.Node, before, after any) (changed bool, err error) {
	if reflect.DeepEqual(before, after) {
		return false, nil
	}
	if n.Kind == yaml.MappingNode && !hasMerge(n) {
		b, bok := before.(map[string]any)
		a, aok := after.(map[string]any)
		if bok && aok {
			return true, syncMap(n, b, a)
		}
	}
	if n.Kind == yaml.SequenceNode {
		b, bok := before.([]any)
		a, aok := after.([]any)
		if bok && aok {
			return true, syncList(n, b, a)
		}
	}
	return true, put(n, after)
}

// writeOut puts what aliases stand for in their places: what is changed in one
// of them does not change in the others.
func writeOut(n *yaml.Node) {
	if n.Kind == yaml.AliasNode {
		to := yaml.CopyYNode(n.Alias)
		to.HeadComment, to.LineComment, to.FootComment = n.HeadComment, n.LineComment, n.FootComment
		*n = *to
	}
	for _, child := range n.Content {
		writeOut(child)
	}
	n.Anchor = ""
}

func hasMerge(n *yaml.Node) bool {
	for _, p := range pairs(n) {
		if p.key.ShortTag() == yaml.MergeTag {
			return true
		}
	}
	return false
}

func syncMap(n *yaml.Node, before, after map[string]any) error {
	var kept []*yaml.Node
	held := map[string]bool{}
	for _, p := range pairs(n) {
		key := p.key.Value
		to, there := after[key]
		if !there {
			continue
		}
		held[key] = true
		kept = append(kept, p.key, p.value)
		if _, err := syncNode(p.value, before[key], to); err != nil {
			return err
		}
	}
	for _, key := range sortedKeys(after) {
		if held[key] {
			continue
		}
		k, v := &yaml.Node{}, &yaml.Node{}
		if err := put(k, key); err != nil {
			return err
		}
		if err := put(v, after[key]); err != nil {
			return err
		}
		kept = append(kept, k, v)
	}
	n.Content = kept
	if len(kept) == 0 {
		n.Style = yaml.FlowStyle
	}
	return nil
}

func syncList(n *yaml.Node, before, after []any) error {
	var kept []*yaml.Node
	for i, to := range after {
		if i < len(before) {
			if _, err := syncNode(n.Content[i], before[i], to); err != nil {
				return err
			}
			kept = append(kept, n.Content[i])
			continue
		}
		e := &yaml.Node{}
		if err := put(e, to); err != nil {
			return err
		}
		kept = append(kept, e)
	}
	n.Content = kept
	if len(kept) == 0 {
		n.Style = yaml.FlowStyle
	}
	return nil
}

// put makes a node hold a value, and keeps its comments.
func put(n *yaml.Node, v any) error {
	var fresh yaml.Node
	if err := fresh.Encode(withoutNumbers(v)); err != nil {
		return err
	}
	fresh.HeadComment, fresh.LineComment, fresh.FootComment = n.HeadComment, n.LineComment, n.FootComment
	if n.Kind == yaml.ScalarNode && fresh.Kind == yaml.ScalarNode && fresh.Tag == yaml.NodeTagString {
		fresh.Style |= n.Style & (yaml.DoubleQuotedStyle | yaml.SingleQuotedStyle)
	}
	numbers(&fresh, v)
	*n = fresh
	return nil
}

// withoutNumbers puts 0 for each number: a json.Number would be written as
// text. numbers puts their digits back.
func withoutNumbers(v any) any {
	switch t := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(t))
		for k, e := range t {
			out[k] = withoutNumbers(e)
		}
		return out
	case []any:
		out := make([]any, len(t))
		for i, e := range t {
			out[i] = withoutNumbers(e)
		}
		return out
	case json.Number:
		return 0
	}
	return v
}

func numbers(n *yaml.Node, v any) {
	switch t := v.(type) {
	case map[string]any:
		for _, p := range pairs(n) {
			numbers(p.value, t[p.key.Value])
		}
	case []any:
		for i, e := range t {
			numbers(n.Content[i], e)
		}
	case json.Number:
		n.Value, n.Style = t.String(), 0
		n.Tag = yaml.NodeTagInt
		if _, err := t.Int64(); err != nil {
			n.Tag = yaml.NodeTagFloat
		}
	}
}
