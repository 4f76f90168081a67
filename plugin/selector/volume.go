package selector

import (
	"context"
	"fmt"
	"maps"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	apiservercel "k8s.io/apiserver/pkg/cel"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// volumeFields are the fields of the variable volume and what they hold where
// nothing is known. They are declared so that a misspelt one does not compile.
var volumeFields = map[string]struct {
	declared *apiservercel.DeclType
	unknown  any
}{
	"name":         {apiservercel.StringType, ""},
	"kind":         {apiservercel.StringType, ""},
	"namespace":    {apiservercel.StringType, ""},
	"claim":        {apiservercel.StringType, ""},
	"storageClass": {apiservercel.StringType, ""},
	"mode":         {apiservercel.StringType, ""},
	"accessModes":  {apiservercel.NewListType(apiservercel.StringType, -1), []any{}},
	"capacity":     {apiservercel.IntType, int64(0)},
	"container":    {apiservercel.StringType, ""},
	"mountPath":    {apiservercel.StringType, ""},
	"source":       {apiservercel.DynType, map[string]any{}},
}

var volumeScope = sync.OnceValues(func() (*scope, error) {
	fields := make(map[string]*apiservercel.DeclField, len(volumeFields))
	for name, f := range volumeFields {
		fields[name] = apiservercel.NewDeclField(name, f.declared, true, nil, nil)
	}
	volume := apiservercel.NewObjectType("kubectl-backup.io.Volume", fields)
	return newScope(map[string]*Type{
		"volume": volume.CelType(),
		"pod":    cel.DynType,
		"object": cel.DynType,
	}, volume)
})

type volumeRule struct {
	match  *program // nil matches all
	method string
}

// Volume finds the first volume rule that matches, counted from 0, and its
// method; without one the rule is -1 and the method Auto. Fields that volume
// lacks are empty. pod and object are called when a rule looks at them, and may
// be nil, or return nil, for null.
//
// A rule that fails ends the search with an error, since nobody knows which
// rule was meant; the method is Auto then, for callers that rather save too
// much.
func (s *Selector) Volume(ctx context.Context, volume map[string]any, pod, object func() (map[string]any, error)) (rule int, method string, err error) {
	filled := make(map[string]any, len(volumeFields))
	for name, f := range volumeFields {
		filled[name] = f.unknown
	}
	maps.Copy(filled, volume)
	vars := map[string]any{"volume": filled, "pod": lazily(pod), "object": lazily(object)}
	for i, r := range s.rules {
		if r.match == nil {
			return i, r.method, nil
		}
		matched, err := r.match.bool(ctx, vars)
		if err != nil {
			return i, v1alpha1.MethodAuto, fmt.Errorf("spec.volumes[%d].match failed on volume %v: %w (in %s)", i, filled["name"], err, r.match.text)
		}
		if matched {
			return i, r.method, nil
		}
	}
	return -1, v1alpha1.MethodAuto, nil
}

// lazily is a variable that is fetched when an expression needs it.
func lazily(get func() (map[string]any, error)) func() any {
	return func() any {
		if get == nil {
			return types.NullValue
		}
		switch m, err := get(); {
		case err != nil:
			return types.WrapErr(err)
		case m == nil:
			return types.NullValue
		default:
			return m
		}
	}
}
