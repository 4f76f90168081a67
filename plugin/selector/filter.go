package selector

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/cel-go/cel"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Filter is a compiled boolean expression over variables of the caller's.
type Filter struct{ match *program }

// CompileFilter compiles an expression over the variables declared. Its error
// is a UsageError that lists every fault with line and column.
func CompileFilter(expression string, declare map[string]*Type) (*Filter, error) {
	s, err := newScope(declare)
	if err != nil {
		return nil, err
	}
	match, faults := s.compile(expression, cel.BoolType)
	if len(faults) > 0 {
		errs := make([]error, len(faults))
		for i, f := range faults {
			errs[i] = errors.New(f)
		}
		return nil, v1alpha1.Usagef("the expression is refused: %w", errors.Join(errs...))
	}
	return &Filter{match: match}, nil
}

// Match evaluates the filter. values must hold every variable declared; a
// value may be a func() any, which is called when the expression needs it.
func (f *Filter) Match(ctx context.Context, values map[string]any) (bool, error) {
	matched, err := f.match.bool(ctx, values)
	if err != nil {
		return false, fmt.Errorf("expression failed: %w (in %s)", err, f.match.text)
	}
	return matched, nil
}
