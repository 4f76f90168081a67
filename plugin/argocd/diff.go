package argocd

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/argoproj/argo-cd/gitops-engine/v3/pkg/diff"
	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kjson "sigs.k8s.io/json"
)

// Difference is what lies between an object as it should be and as it is.
// Both are JSON in one notation, with the values of Secrets masked: the same
// mask stands for the same value.
type Difference struct {
	Differs    bool
	Want, Live []byte
}

// Compare compares two objects, given as JSON, by Argo CD's rules: quantities
// by their value, defaults filled in, lists by their keys where the kind has
// keys. Unlike Argo CD it also counts what only live has: both sides are whole
// objects, not a manifest and its result. live may be nil: there is none.
func Compare(ctx context.Context, want, live []byte) (Difference, error) {
	w, err := parse(want)
	if err != nil {
		return Difference{}, err
	}
	if live == nil {
		if isSecret(w) {
			if w, _, err = diff.HideSecretData(w, nil, nil); err != nil {
				return Difference{}, fmt.Errorf("mask %s: %w", name(w), err)
			}
		}
		if w, err = oneNotation(ctx, w); err != nil {
			return Difference{}, err
		}
		raw, err := w.MarshalJSON()
		return Difference{Differs: true, Want: raw}, err
	}
	l, err := parse(live)
	if err != nil {
		return Difference{}, err
	}
	numbers := slices.Equal(largeNumbers(w.Object), largeNumbers(l.Object))
	if isSecret(w) {
		if w, l, err = diff.HideSecretData(w, l, nil); err != nil {
			return Difference{}, fmt.Errorf("mask %s: %w", name(w), err)
		}
	}
	if w, err = oneNotation(ctx, w); err != nil {
		return Difference{}, err
	}
	if l, err = oneNotation(ctx, l); err != nil {
		return Difference{}, err
	}
	// What is there is taken for what was applied last: then all that it has
	// and should not have counts too.
	result, err := diff.ThreeWayDiff(l, w, l)
	if err != nil {
		return Difference{}, fmt.Errorf("compare %s: %w", name(w), err)
	}
	d := Difference{Differs: result.Modified, Want: result.PredictedLive, Live: result.NormalizedLive}
	if !d.Differs && !numbers {
		// The comparison takes numbers for floats, which makes large ones equal
		// that are not. Its picture is then wrong as well.
		d = Difference{Differs: true, Want: want, Live: live}
	}
	return d, nil
}

func isSecret(o *unstructured.Unstructured) bool {
	return o.GetKind() == "Secret" && o.GroupVersionKind().Group == ""
}

func parse(raw []byte) (*unstructured.Unstructured, error) {
	o := &unstructured.Unstructured{}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &o.Object); err != nil {
		return nil, fmt.Errorf("compare: %w", err)
	}
	return o, nil
}

// largeNumbers are the integers in a value that a float cannot hold, in the
// order of its keys. No Secret has any.
func largeNumbers(v any) []int64 {
	const exact = 1 << 53
	var out []int64
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			out = append(out, largeNumbers(v[k])...)
		}
	case []any:
		for _, e := range v {
			out = append(out, largeNumbers(e)...)
		}
	case int64:
		if v > exact || v < -exact {
			out = append(out, v)
		}
	}
	return out
}

// oneNotation writes an object as Argo CD does before it compares: that of an
// object that is yet to be made is its normalized form.
func oneNotation(ctx context.Context, o *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	result, err := diff.Diff(ctx, o, nil, diff.WithLogr(logr.Discard()))
	if err != nil {
		return nil, fmt.Errorf("normalize %s: %w", name(o), err)
	}
	out := &unstructured.Unstructured{}
	if err := json.Unmarshal(result.PredictedLive, &out.Object); err != nil {
		return nil, fmt.Errorf("normalize %s: %w", name(o), err)
	}
	return out, nil
}

func name(o *unstructured.Unstructured) string {
	return o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName()
}
