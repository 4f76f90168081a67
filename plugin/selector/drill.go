package selector

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Drill is what a drill checks, compiled.
type Drill struct {
	asserts []*program
	probes  []probe
}

type probe struct{ match, expect *program }

// assertScope is what an assertion may refer to. healthy judges one object; nil
// is for expressions that are compiled only.
func assertScope(healthy func(map[string]any) (bool, error)) (*scope, error) {
	overload := []cel.OverloadOpt{}
	if healthy != nil {
		overload = append(overload, cel.UnaryBinding(func(v ref.Val) ref.Val {
			plain, err := plainValue(v)
			content, isMap := plain.(map[string]any)
			if err != nil || !isMap {
				return types.NewErr("healthy takes an object, not a %s", v.Type())
			}
			ok, err := healthy(content)
			if err != nil {
				return types.WrapErr(err)
			}
			return types.Bool(ok)
		}))
	}
	return extendScope(map[string]*Type{"objects": cel.ListType(cel.DynType), "namespaces": StringMap}, []cel.EnvOption{
		cel.Function("healthy", cel.Overload("healthy_dyn", []*Type{cel.DynType}, cel.BoolType, overload...)),
	})
}

var probeScopes = sync.OnceValues(func() ([2]*scope, error) {
	match, err := newScope(map[string]*Type{"labels": StringMap, "object": Dyn})
	if err != nil {
		return [2]*scope{}, err
	}
	expect, err := newScope(map[string]*Type{"stdout": String, "exitCode": Int})
	return [2]*scope{match, expect}, err
})

// CompileDrill compiles what a drill checks. Its error is a UsageError that
// lists every fault.
func CompileDrill(d *v1alpha1.Drill, healthy func(map[string]any) (bool, error)) (*Drill, error) {
	c := &compilation{policy: &v1alpha1.BackupPolicy{}}
	out, err := c.drill(d, healthy)
	if err != nil {
		return nil, err
	}
	if err := v1alpha1.JoinFieldErrors(c.faults); err != nil {
		return nil, err
	}
	return out, nil
}

func (c *compilation) drill(d *v1alpha1.Drill, healthy func(map[string]any) (bool, error)) (*Drill, error) {
	asserts, err := assertScope(healthy)
	if err != nil {
		return nil, err
	}
	scopes, err := probeScopes()
	if err != nil {
		return nil, err
	}
	out := &Drill{}
	for i, a := range d.Assert {
		out.asserts = append(out.asserts, c.compile(asserts, fmt.Sprintf("spec.drill.assert[%d]", i), "", a, cel.BoolType))
	}
	for i, p := range d.Probes {
		at := fmt.Sprintf("spec.drill.probes[%d]", i)
		one := probe{match: c.compile(scopes[0], at+".match", "", p.Match, cel.BoolType)}
		if p.Expect != nil && p.Expect.Expression != "" {
			one.expect = c.compile(scopes[1], at+".expect.expression", "", p.Expect.Expression, cel.BoolType)
		}
		out.probes = append(out.probes, one)
	}
	return out, nil
}

// Assert evaluates assertion i. An error is no pass.
func (d *Drill) Assert(ctx context.Context, i int, objects []any, namespaces map[string]string) (bool, error) {
	return d.asserts[i].bool(ctx, map[string]any{"objects": objects, "namespaces": namespaces})
}

// Matches says whether probe i runs in a pod.
func (d *Drill) Matches(ctx context.Context, i int, pod map[string]any, labels map[string]string) (bool, error) {
	return d.probes[i].match.bool(ctx, map[string]any{"object": pod, "labels": neverNil(labels)})
}

// Expected evaluates the expression of probe i.
func (d *Drill) Expected(ctx context.Context, i int, stdout string, exitCode int) (bool, error) {
	if d.probes[i].expect == nil {
		return false, errors.New("the probe has no expression")
	}
	return d.probes[i].expect.bool(ctx, map[string]any{"stdout": stdout, "exitCode": int64(exitCode)})
}
