package selector

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Value is a compiled expression that yields any value that JSON has.
type Value struct{ run *program }

// ErrNoValue says that an expression yielded optional.none().
var ErrNoValue = errors.New("the expression yielded no value")

// CompileValue compiles an expression over the variables declared. Its error
// is a UsageError that lists every fault with line and column.
func CompileValue(expression string, declare map[string]*Type) (*Value, error) {
	s, err := newScope(declare)
	if err != nil {
		return nil, err
	}
	run, faults := s.compile(expression, nil)
	if len(faults) > 0 {
		errs := make([]error, len(faults))
		for i, f := range faults {
			errs[i] = errors.New(f)
		}
		return nil, v1alpha1.Usagef("the expression is refused: %w", errors.Join(errs...))
	}
	return &Value{run: run}, nil
}

// Eval evaluates the expression. What it yields is made of nil, bool, int64,
// float64, string, []any and map[string]any; bytes become base64, times and
// durations text. optional.none() is ErrNoValue.
func (v *Value) Eval(ctx context.Context, values map[string]any) (any, error) {
	result, _, err := v.run.run.ContextEval(ctx, values)
	if err != nil {
		return nil, fmt.Errorf("expression failed: %w (in %s)", evaluationHint(err), v.run.text)
	}
	return plainValue(result)
}

func plainValue(v ref.Val) (any, error) {
	switch t := v.(type) {
	case types.Null:
		return nil, nil
	case types.Bool:
		return bool(t), nil
	case types.Int:
		return int64(t), nil
	case types.Uint:
		if uint64(t) > math.MaxInt64 {
			return nil, fmt.Errorf("%d is too large for a field", uint64(t))
		}
		return int64(t), nil
	case types.Double:
		if f := float64(t); math.IsNaN(f) || math.IsInf(f, 0) {
			return nil, errors.New("the expression yielded no finite number")
		}
		return float64(t), nil
	case types.String:
		return string(t), nil
	case types.Bytes:
		return base64.StdEncoding.EncodeToString(t), nil
	case types.Timestamp:
		return t.Time.UTC().Format(time.RFC3339Nano), nil
	case types.Duration:
		return t.Duration.String(), nil
	case *types.Optional:
		if !t.HasValue() {
			return nil, ErrNoValue
		}
		return plainValue(t.GetValue())
	case traits.Mapper:
		return plainMap(t)
	case traits.Lister:
		out := []any{}
		for it := t.Iterator(); it.HasNext() == types.True; {
			e, err := plainValue(it.Next())
			if err != nil {
				return nil, err
			}
			out = append(out, e)
		}
		return out, nil
	}
	if types.IsError(v) {
		return nil, fmt.Errorf("expression failed: %v", v)
	}
	return nil, fmt.Errorf("the expression yielded a %s, which no field can hold", v.Type())
}

func plainMap(m traits.Mapper) (any, error) {
	out := map[string]any{}
	for it := m.Iterator(); it.HasNext() == types.True; {
		key := it.Next()
		name, ok := key.(types.String)
		if !ok {
			return nil, fmt.Errorf("the expression yielded a map with a %s for a key", key.Type())
		}
		e, err := plainValue(m.Get(key))
		if err != nil {
			return nil, err
		}
		out[string(name)] = e
	}
	return out, nil
}
