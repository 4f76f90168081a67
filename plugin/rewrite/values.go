package rewrite

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"reflect"
	"strconv"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// decode reads JSON with the digits of numbers kept.
func decode(raw []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	return v, nil
}

func clone(v any) any {
	switch t := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(t))
		for k, e := range t {
			out[k] = clone(e)
		}
		return out
	case []any:
		out := make([]any, len(t))
		for i, e := range t {
			out[i] = clone(e)
		}
		return out
	}
	return v
}

// plainNumbers is a copy in which numbers are int64 or float64, as
// expressions need them.
func plainNumbers(v any) (any, error) {
	switch t := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(t))
		for k, e := range t {
			plain, err := plainNumbers(e)
			if err != nil {
				return nil, err
			}
			out[k] = plain
		}
		return out, nil
	case []any:
		out := make([]any, len(t))
		for i, e := range t {
			plain, err := plainNumbers(e)
			if err != nil {
				return nil, err
			}
			out[i] = plain
		}
		return out, nil
	case json.Number:
		if n, err := t.Int64(); err == nil {
			return n, nil
		}
		return t.Float64()
	}
	return v, nil
}

// withNumbers turns what an expression yielded into what a draft holds.
func withNumbers(v any) any {
	switch t := v.(type) {
	case map[string]any:
		for k, e := range t {
			t[k] = withNumbers(e)
		}
	case []any:
		for i, e := range t {
			t[i] = withNumbers(e)
		}
	case int64:
		return json.Number(strconv.FormatInt(t, 10))
	case float64:
		raw, err := json.Marshal(t)
		if err == nil {
			return json.Number(raw)
		}
	}
	return v
}

func mapKeys[V any](m map[string]V) iter.Seq[string] { return maps.Keys(m) }

// eachField visits the fields at the end of a path that are there.
func eachField(content map[string]any, path v1alpha1.FieldPath, visit func(at string, value any, set func(any))) {
	walkField(content, path, "", nil, visit)
}

func walkField(v any, path v1alpha1.FieldPath, at string, set func(any), visit func(string, any, func(any))) {
	if len(path) == 0 {
		visit(at, v, set)
		return
	}
	step := path[0]
	if !step.List {
		m, _ := v.(map[string]any)
		if child, ok := m[step.Key]; ok {
			walkField(child, path[1:], join(at, step.Key), func(to any) { m[step.Key] = to }, visit)
		}
		return
	}
	list, _ := v.([]any)
	for i, e := range list {
		if takes(step, i, e) {
			walkField(e, path[1:], at+"["+strconv.Itoa(i)+"]", func(to any) { list[i] = to }, visit)
		}
	}
}

// setField puts a value at the end of a path; maps on the way are made, lists
// and their elements are not: a path through one that is not there sets
// nothing.
func setField(content map[string]any, path v1alpha1.FieldPath, value func() (any, error)) error {
	return setIn(content, path, "", value)
}

func setIn(v any, path v1alpha1.FieldPath, at string, value func() (any, error)) error {
	step, last := path[0], len(path) == 1
	if step.List {
		list, ok := v.([]any)
		if v != nil && !ok {
			return fmt.Errorf("%s is not a list", at)
		}
		for i, e := range list {
			if !takes(step, i, e) {
				continue
			}
			if last {
				to, err := value()
				if err != nil {
					return err
				}
				list[i] = clone(to)
			} else if err := setIn(e, path[1:], at+"["+strconv.Itoa(i)+"]", value); err != nil {
				return err
			}
		}
		return nil
	}
	m, ok := v.(map[string]any)
	if !ok {
		return fmt.Errorf("%s is not a map", at)
	}
	if last {
		to, err := value()
		if err != nil {
			return err
		}
		if to == nil {
			delete(m, step.Key)
			return nil
		}
		m[step.Key] = clone(to)
		return nil
	}
	child := m[step.Key]
	if child == nil && !path[1].List {
		// What is made here is not kept where nothing was set in it.
		made := map[string]any{}
		if err := setIn(made, path[1:], join(at, step.Key), value); err != nil || len(made) == 0 {
			return err
		}
		m[step.Key] = made
		return nil
	}
	return setIn(child, path[1:], join(at, step.Key), value)
}

// removeField takes away the fields at the end of a path. Labels and
// annotations that this empties go too; any other map may mean something when
// it is empty, and stays.
func removeField(content map[string]any, path v1alpha1.FieldPath) {
	meta := mapAt(content, "metadata")
	held := len(path) > 2 && path[0].Key == "metadata" && len(mapAt(meta, path[1].Key)) > 0
	removeIn(content, path)
	if held && len(mapAt(meta, path[1].Key)) == 0 {
		delete(meta, path[1].Key)
	}
}

// removeIn gives what is left of v.
func removeIn(v any, path v1alpha1.FieldPath) any {
	step, last := path[0], len(path) == 1
	switch t := v.(type) {
	case []any:
		if !step.List {
			return v
		}
		kept := make([]any, 0, len(t))
		for i, e := range t {
			switch {
			case !takes(step, i, e):
				kept = append(kept, e)
			case !last:
				kept = append(kept, removeIn(e, path[1:]))
			}
		}
		return kept
	case map[string]any:
		child, there := t[step.Key]
		switch {
		case step.List || !there:
		case last:
			delete(t, step.Key)
		default:
			t[step.Key] = removeIn(child, path[1:])
		}
	}
	return v
}

// changesBetween lists the fields in which a draft differs after a rule. A map
// that came or went is told of by what was in it: two rules that change
// different labels do not meet in that there are labels.
func changesBetween(before, after any, path, rule string, out *[]Change) {
	b, bok := before.(map[string]any)
	a, aok := after.(map[string]any)
	if bok && aok {
		for _, k := range sortedKeys(b, a) {
			bv, inBefore := b[k]
			av, inAfter := a[k]
			at := join(path, k)
			switch {
			case !inBefore && filled(av):
				changesBetween(map[string]any{}, av, at, rule, out)
			case !inAfter && filled(bv):
				changesBetween(bv, map[string]any{}, at, rule, out)
			case !inBefore:
				*out = append(*out, Change{Field: at, From: absent, To: shown(av), Rule: rule})
			case !inAfter:
				*out = append(*out, Change{Field: at, From: shown(bv), To: absent, Rule: rule})
			default:
				changesBetween(bv, av, at, rule, out)
			}
		}
		return
	}
	bl, bok := before.([]any)
	al, aok := after.([]any)
	if bok && aok && len(bl) == len(al) {
		for i := range bl {
			changesBetween(bl[i], al[i], path+"["+strconv.Itoa(i)+"]", rule, out)
		}
		return
	}
	if !reflect.DeepEqual(before, after) {
		*out = append(*out, Change{Field: path, From: shown(before), To: shown(after), Rule: rule})
	}
}

func filled(v any) bool {
	m, ok := v.(map[string]any)
	return ok && len(m) > 0
}

const absent = "(absent)"

// shown is a value as people read it, cut where it is long.
func shown(v any) string {
	s, ok := v.(string)
	if !ok {
		raw, err := json.Marshal(v)
		if err != nil {
			return "(a value)"
		}
		s = string(raw)
	}
	if r := []rune(s); len(r) > 120 {
		return string(r[:117]) + "..."
	}
	return s
}

// hideSecrets takes the content of a Secret out of what is told of changes.
func hideSecrets(d *Draft, changes []Change) {
	if d.Ref.Group != "" || d.Ref.Kind != "Secret" {
		return
	}
	for i, c := range changes {
		metadata := strings.HasPrefix(c.Field, "metadata") && !strings.Contains(c.Field, lastApplied)
		if !metadata && c.Field != "type" && c.Field != "immutable" {
			changes[i].From, changes[i].To = "(hidden)", "(hidden)"
		}
	}
}

// takes says whether a step into a list takes its element i.
func takes(step v1alpha1.PathStep, i int, e any) bool {
	if step.FilterKey == "" {
		return step.Index < 0 || step.Index == i
	}
	m, _ := e.(map[string]any)
	switch v := m[step.FilterKey].(type) {
	case string:
		return v == step.FilterValue
	case json.Number:
		return v.String() == step.FilterValue
	}
	return false
}
