// Package selector compiles and evaluates the expressions of a policy, and
// decides which objects a policy selects.
//
// The language is CEL as the Kubernetes API server speaks it in admission
// policies, with its libraries and its cost limit. Everything is compiled
// once, before anything is read from a cluster, and an expression that fails
// on one object is never taken for "no": the failure is in the Decision.
//
// It does not talk to a cluster and does not follow references; what a
// selected object depends on is the business of plugin/graph.
package selector

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"k8s.io/apimachinery/pkg/util/version"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/util/compatibility"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Type is the type of a variable.
type Type = cel.Type

// Types for CompileFilter.
var (
	String    = cel.StringType
	Int       = cel.IntType
	Bool      = cel.BoolType
	Time      = cel.TimestampType
	Dyn       = cel.DynType
	Strings   = cel.ListType(cel.StringType)
	StringMap = cel.MapType(cel.StringType, cel.StringType)
)

// dialect is the base environment at the version that this program was built
// with: everything that the current API server's expressions may use.
var dialect = sync.OnceValue(func() *environment.EnvSet {
	return environment.MustBaseEnvSet(compatibility.DefaultBuildEffectiveVersion().BinaryVersion())
})

// scope is what an expression may refer to.
type scope struct {
	env       *cel.Env
	variables []string // for suggestions
}

func newScope(variables map[string]*Type, declared ...*apiservercel.DeclType) (*scope, error) {
	return extendScope(variables, nil, declared...)
}

func extendScope(variables map[string]*Type, functions []cel.EnvOption, declared ...*apiservercel.DeclType) (*scope, error) {
	names := slices.Sorted(maps.Keys(variables))
	options := functions
	for _, name := range names {
		options = append(options, cel.Variable(name, variables[name]))
	}
	set, err := dialect().Extend(environment.VersionedOptions{
		IntroducedVersion: version.MajorMinor(1, 0), // with every version
		EnvOptions:        options,
		DeclTypes:         declared,
	}, environment.StrictCostOpt)
	if err != nil {
		return nil, fmt.Errorf("build the expression environment: %w", err)
	}
	return &scope{env: set.NewExpressionsEnv(), variables: names}, nil
}

// program is a compiled expression.
type program struct {
	text string
	run  cel.Program
}

// compile checks text and that it yields want, or anything where want is nil; a
// string may also be of a type that only shows when it runs. Every fault says its line and column and shows
// the line.
func (s *scope) compile(text string, want *Type) (*program, []string) {
	ast, issues := s.env.Compile(text)
	if issues.Err() != nil {
		var faults []string
		for _, e := range issues.Errors() {
			faults = append(faults, s.describe(text, e.Message, e.Location.Line(), e.Location.Column()))
		}
		return nil, faults
	}
	late := want != nil && want.IsExactType(cel.StringType) && ast.OutputType().IsExactType(cel.DynType)
	if got := ast.OutputType(); want != nil && !got.IsExactType(want) && !late {
		hint := ""
		if got.IsExactType(cel.DynType) && want.IsExactType(cel.BoolType) {
			hint = "; compare it, as in ... == true"
		}
		return nil, []string{fmt.Sprintf("must be a %s, not a %s%s\n%s", want, typeName(got), hint, caret(text, 1, 0))}
	}
	run, err := s.env.Program(ast, cel.InterruptCheckFrequency(celconfig.CheckFrequency))
	if err != nil {
		return nil, []string{fmt.Sprintf("cannot be run: %v\n%s", err, caret(text, 1, 0))}
	}
	return &program{text: text, run: run}, nil
}

func typeName(t *Type) string {
	if t.IsExactType(cel.DynType) {
		return "value of a type that is not known before it runs"
	}
	return t.String()
}

var undeclared = regexp.MustCompile(`^undeclared reference to '([^']*)' \(in container ''\)`)

// describe is one fault: where, what, what was meant, and the line with a mark.
func (s *scope) describe(text, message string, line, column int) string {
	if m := undeclared.FindStringSubmatch(message); m != nil {
		message = fmt.Sprintf("there is no %q", m[1])
		if meant := v1alpha1.Nearest(m[1], s.variables); meant != "" {
			message += fmt.Sprintf("; did you mean %q?", meant)
		} else if !strings.Contains(m[1], ".") {
			message += "; the variables are " + strings.Join(s.variables, ", ")
		}
	}
	if line < 1 {
		return message
	}
	return fmt.Sprintf("line %d, column %d: %s\n%s", line, column+1, message, caret(text, line, column))
}

// caret shows a line of an expression and marks a column, which counts
// characters from 0.
func caret(text string, line, column int) string {
	lines := strings.Split(text, "\n")
	if line > len(lines) {
		return ""
	}
	shown := strings.TrimSuffix(lines[line-1], "\r")
	var pad strings.Builder
	for i, r := range []rune(shown) {
		if i >= column {
			break
		}
		if r != '\t' {
			r = ' '
		}
		pad.WriteRune(r)
	}
	return "    " + shown + "\n    " + pad.String() + "^"
}

// bool evaluates a program that was compiled to be boolean.
func (p *program) bool(ctx context.Context, vars any) (bool, error) {
	value, _, err := p.run.ContextEval(ctx, vars)
	if err != nil {
		return false, evaluationHint(err)
	}
	b, ok := value.(types.Bool)
	if !ok {
		return false, fmt.Errorf("yielded a %s, not a bool", value.Type())
	}
	return bool(b), nil
}

// string evaluates a program that was compiled to be a string.
func (p *program) string(ctx context.Context, vars any) (string, error) {
	value, _, err := p.run.ContextEval(ctx, vars)
	if err != nil {
		return "", evaluationHint(err)
	}
	s, ok := value.(types.String)
	if !ok {
		return "", fmt.Errorf("yielded a %s, not a string", value.Type())
	}
	return string(s), nil
}

func evaluationHint(err error) error {
	switch message := err.Error(); {
	case strings.Contains(message, "no such key"), strings.Contains(message, "no such attribute"):
		return fmt.Errorf("%w; where a field may be absent, write .?field and .orValue(...)", err)
	case strings.Contains(message, "cost limit exceeded"):
		return fmt.Errorf("%w; the expression does too much work on this object", err)
	}
	return err
}
