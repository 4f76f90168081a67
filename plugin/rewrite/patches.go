package rewrite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"github.com/kubectl-backup/kubectl-backup/plugin/selector"
)

// applyRules runs the rules of a set, lowest priority first. Two of them that
// change one field with equal priority are an error, as it is when they are
// read, where that can be seen.
func (s *compiled) applyRules(d *Draft, came original, out *Result) error {
	type owner struct {
		rule     string
		priority int
	}
	changedBy := map[string]owner{}
	for _, c := range out.Changes {
		changedBy[c.Field] = owner{rule: c.Rule}
	}
	for _, r := range s.rules {
		name := ruleName(r.label)
		ok, err := r.match.matches(d, came.labels, came.values)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if !ok {
			continue
		}
		out.matched(name)
		before := clone(d.Content)
		identity := [...]any{d.Content["apiVersion"], d.Content["kind"], mapAt(d.Content, "metadata")["uid"]}
		if err := r.apply(d); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if identity != [...]any{d.Content["apiVersion"], d.Content["kind"], mapAt(d.Content, "metadata")["uid"]} {
			return fmt.Errorf("%s: it changes apiVersion, kind or uid, which say what the object is", name)
		}
		var changes []Change
		changesBetween(before, d.Content, "", name, &changes)
		for _, c := range changes {
			if by, twice := changedBy[c.Field]; twice && by.rule != name && by.priority == r.priority {
				return fmt.Errorf("%s and %s both change %s (hint: give one of them a higher priority)", by.rule, name, c.Field)
			}
			changedBy[c.Field] = owner{name, r.priority}
			out.changed(c)
		}
	}
	return nil
}

func (r *rule) apply(d *Draft) error {
	for _, path := range r.remove {
		removeField(d.Content, path)
	}
	for _, s := range r.set {
		if err := s.apply(d); err != nil {
			return fmt.Errorf("set %s: %w", s.path, err)
		}
	}
	for _, replace := range r.replace {
		eachField(d.Content, replace.path, func(_ string, v any, set func(any)) {
			if text, ok := v.(string); ok {
				if to := replace.regex.ReplaceAllString(text, replace.with); to != text {
					set(to)
				}
			}
		})
	}
	return r.patch(d)
}

func (s setter) apply(d *Draft) error {
	// A null where a map is to be, as in labels: null, is the same as none.
	dropNull(d.Content, s.path[0].Key)
	err := setField(d.Content, s.path, func() (any, error) {
		if s.expression == nil {
			return s.value, nil
		}
		values, err := variablesOf(d.Content)
		if err != nil {
			return nil, err
		}
		v, err := s.expression.Eval(context.Background(), values)
		return withNumbers(v), err
	})
	if errors.Is(err, selector.ErrNoValue) {
		return nil // the expression leaves the field as it is
	}
	return err
}

// dropNull takes away nulls directly below a field.
func dropNull(content map[string]any, key string) {
	m := mapAt(content, key)
	for k, v := range m {
		if v == nil {
			delete(m, k)
		}
	}
}

func (r *rule) patch(d *Draft) error {
	if len(r.spec.JSONPatch) > 0 {
		if err := jsonPatch(d, r.spec.JSONPatch); err != nil {
			return fmt.Errorf("jsonPatch: %w", err)
		}
	}
	if len(r.spec.MergePatch) > 0 {
		patch, err := decode(r.spec.MergePatch)
		if err != nil {
			return fmt.Errorf("mergePatch: %w", err)
		}
		d.Content, _ = mergePatch(d.Content, patch).(map[string]any)
	}
	if len(r.spec.StrategicMergePatch) > 0 {
		if err := strategicPatch(d, r.spec.StrategicMergePatch); err != nil {
			return fmt.Errorf("strategicMergePatch: %w", err)
		}
	}
	return nil
}

// jsonPatch applies operations; removing what is not there is fine, and maps
// on the way to what is added are made.
func jsonPatch(d *Draft, raw json.RawMessage) error {
	patch, err := jsonpatch.DecodePatch(raw)
	if err != nil {
		return err
	}
	content, err := d.Encode()
	if err != nil {
		return err
	}
	options := jsonpatch.NewApplyOptions()
	options.AllowMissingPathOnRemove = true
	options.EnsurePathExistsOnAdd = true
	options.EscapeHTML = false
	patched, err := patch.ApplyWithOptions(content, options)
	if err != nil {
		return err
	}
	return d.replace(patched)
}

func (d *Draft) replace(raw []byte) error {
	v, err := decode(raw)
	if err != nil {
		return err
	}
	content, ok := v.(map[string]any)
	if !ok {
		return errors.New("what is left is no object")
	}
	d.Content = content
	return nil
}

// mergePatch is RFC 7386.
func mergePatch(target, patch any) any {
	p, ok := patch.(map[string]any)
	if !ok {
		return clone(patch)
	}
	t, ok := target.(map[string]any)
	if !ok {
		t = map[string]any{}
	}
	for k, v := range p {
		if v == nil {
			delete(t, k)
		} else {
			t[k] = mergePatch(t[k], v)
		}
	}
	return t
}

// strategicPatch merges lists by the keys that the kind's Go type names.
func strategicPatch(d *Draft, raw json.RawMessage) error {
	kind, ok := typeOf(d.Ref.Group, d.Ref.Version, d.Ref.Kind)
	if !ok {
		return fmt.Errorf("how lists of %s merge is not known (hint: write mergePatch)", d.Ref.Kind)
	}
	patch, err := decode(raw)
	if err != nil {
		return err
	}
	changes, ok := patch.(map[string]any)
	if !ok {
		return errors.New("the patch is not a map")
	}
	merged, err := strategicpatch.StrategicMergeMapPatch(d.Content, clone(changes).(map[string]any), reflect.New(kind).Interface())
	if err != nil {
		return err
	}
	d.Content = merged
	return nil
}
