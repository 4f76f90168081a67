package selector

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/interpreter"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// objectScope is the scope of select, exclude, grouping and hook expressions.
var objectScope = sync.OnceValues(func() (*scope, error) {
	return newScope(map[string]*Type{
		"object":          cel.DynType,
		"namespaceObject": cel.DynType,
		"labels":          StringMap,
		"annotations":     StringMap,
		"variables":       cel.MapType(cel.StringType, cel.DynType),
	})
})

// Selector is a compiled policy. It may be used from several goroutines.
type Selector struct {
	namespace      string // a policy in a namespace selects there only
	includeFailing bool
	selects        []*entry
	excludes       []*entry
	rules          []volumeRule
	hooks          []*program // nil matches all
	group          *program

	decoding sync.Mutex // namespaces are shared between goroutines
}

// entry is one compiled entry of select or exclude.
type entry struct {
	name       string
	kinds      []kindPattern
	namespaces []string
	selector   labels.Selector
	expression *program // nil where there is none
}

// kindPattern is Kind, Kind.group, *.group or *.
type kindPattern struct {
	kind, group       string
	anyKind, anyGroup bool
}

func parseKind(s string) kindPattern {
	kind, group, hasGroup := strings.Cut(s, ".")
	if group == v1alpha1.CoreGroup {
		group = ""
	}
	return kindPattern{kind: kind, group: group, anyKind: kind == "*", anyGroup: !hasGroup}
}

func (p kindPattern) matches(group, kind string) bool {
	return (p.anyGroup || p.group == group) && (p.anyKind || p.kind == kind)
}

// Compile compiles every expression of a policy, those of later steps too. Its
// error is a UsageError that lists every fault with its place.
func Compile(policy *v1alpha1.BackupPolicy) (*Selector, error) {
	c := &compilation{policy: policy}
	objects, err := objectScope()
	if err != nil {
		return nil, err
	}
	volumes, err := volumeScope()
	if err != nil {
		return nil, err
	}
	spec := policy.Spec
	s := &Selector{namespace: policy.Namespace, includeFailing: spec.OnExpressionError == v1alpha1.OnErrorInclude}
	s.selects = c.entries(objects, "select", spec.Select)
	s.excludes = c.entries(objects, "exclude", spec.Exclude)
	if spec.Grouping.Expression != "" {
		s.group = c.compile(objects, "spec.grouping.expression", "", spec.Grouping.Expression, cel.StringType)
	}
	for i, h := range spec.Consistency.Hooks {
		var match *program
		if h.Match != "" {
			match = c.compile(objects, fmt.Sprintf("spec.consistency.hooks[%d].match", i), "", h.Match, cel.BoolType)
		}
		s.hooks = append(s.hooks, match)
	}
	for i, v := range spec.Volumes {
		rule := volumeRule{method: v.Method}
		if v.Match != "" {
			rule.match = c.compile(volumes, fmt.Sprintf("spec.volumes[%d].match", i), "", v.Match, cel.BoolType)
		}
		s.rules = append(s.rules, rule)
	}
	if spec.Drill != nil {
		if _, err := c.drill(spec.Drill, nil); err != nil {
			return nil, err
		}
	}
	if err := v1alpha1.JoinFieldErrors(c.faults); err != nil {
		return nil, err
	}
	return s, nil
}

type compilation struct {
	policy *v1alpha1.BackupPolicy
	faults []*v1alpha1.FieldError
}

func (c *compilation) refuse(path, entry, message string) {
	if entry != "" && !strings.HasPrefix(path, "spec."+entry) {
		message = fmt.Sprintf("entry %q: %s", entry, message)
	}
	c.faults = append(c.faults, &v1alpha1.FieldError{Position: c.policy.At(path), Path: path, Message: message})
}

func (c *compilation) compile(s *scope, path, entry, text string, want *Type) *program {
	p, faults := s.compile(text, want)
	for _, f := range faults {
		c.refuse(path, entry, f)
	}
	return p
}

func (c *compilation) entries(s *scope, list string, specs []v1alpha1.SelectEntry) []*entry {
	entries := make([]*entry, len(specs))
	for i, spec := range specs {
		path := fmt.Sprintf("spec.%s[%d]", list, i)
		e := &entry{name: spec.Name, namespaces: spec.Namespaces, selector: labels.Everything()}
		if e.name == "" {
			e.name = strings.TrimPrefix(path, "spec.")
		}
		for _, k := range spec.Kinds {
			e.kinds = append(e.kinds, parseKind(k))
		}
		if spec.LabelSelector != nil {
			selector, err := metav1.LabelSelectorAsSelector(spec.LabelSelector)
			if err != nil {
				c.refuse(path+".labelSelector", e.name, err.Error())
			} else {
				e.selector = selector
			}
		}
		if spec.Expression != "" {
			e.expression = c.compile(s, path+".expression", e.name, spec.Expression, cel.BoolType)
		}
		entries[i] = e
	}
	return entries
}

// Query says whether any entry of select may match an object of a kind, and
// the label selector that a list of that kind may be limited to. It is empty
// where the entries differ or one has none.
func (s *Selector) Query(group, kind string) (wanted bool, labelSelector string) {
	for _, e := range s.selects {
		if !e.matchesKind(group, kind) {
			continue
		}
		if _, made := object.KindMadeByCluster(group, kind); made && !e.names(group, kind) {
			continue
		}
		switch text := e.selector.String(); {
		case !wanted:
			labelSelector = text
		case text != labelSelector:
			labelSelector = ""
		}
		wanted = true
	}
	return wanted, labelSelector
}

// Names says whether an entry of select asks for a kind by its name, and not
// only for whatever there is.
func (s *Selector) Names(group, kind string) bool {
	return slices.ContainsFunc(s.selects, func(e *entry) bool { return e.names(group, kind) })
}

// Decision says what becomes of one object.
type Decision struct {
	Selected bool
	// Entry is the first entry of select that matched, or that failed and is
	// taken for a match.
	Entry string
	// Entries are all entries of select that matched.
	Entries []string
	// Excluded is the entry of exclude that matched; then nothing is selected.
	Excluded string
	// Err is why an expression failed, as *EvaluationError, several joined.
	// With Selected it is a warning; without, nobody knows whether the object
	// was meant, and it must be reported.
	Err error
}

// EvaluationError says that an expression failed on one object.
type EvaluationError struct {
	List       string // select or exclude
	Entry      string
	Expression string
	Ref        v1alpha1.Ref
	Err        error
}

func (e *EvaluationError) Error() string {
	return fmt.Sprintf("the expression of %s entry %q failed on %s: %v (in %s)",
		e.List, e.Entry, e.Ref, e.Err, strings.Join(strings.Fields(e.Expression), " "))
}

func (e *EvaluationError) Unwrap() error { return e.Err }

// Select decides about one object; ns is its Namespace, or nil where it has
// none or it is not known. A match of exclude wins over everything. An entry
// that fails counts only where no other entry matches, and a failing entry of
// exclude excludes nothing. The only other error is the context's.
//
// The object is decoded when the first expression looks into it, and stays so.
func (s *Selector) Select(ctx context.Context, o, ns *object.Object) Decision {
	if s.namespace != "" && o.Ref.Namespace != s.namespace {
		return Decision{}
	}
	var d Decision
	var failed []error
	firstFailed := ""
	vars := &objectVars{o: o, ns: ns, decoding: &s.decoding}
	for _, e := range s.selects {
		matched, err := e.matches(ctx, o, vars)
		switch {
		case ctx.Err() != nil:
			return Decision{Err: ctx.Err()}
		case (matched || err != nil) && e.generated(o):
		case err != nil:
			failed = append(failed, &EvaluationError{"select", e.name, e.expression.text, o.Ref, err})
			if firstFailed == "" {
				firstFailed = e.name
			}
		case matched:
			d.Entries = append(d.Entries, e.name)
		}
	}
	if len(d.Entries) == 0 && len(failed) == 0 {
		return d
	}
	for _, e := range s.excludes {
		matched, err := e.matches(ctx, o, vars)
		switch {
		case ctx.Err() != nil:
			return Decision{Err: ctx.Err()}
		case err != nil:
			failed = append(failed, &EvaluationError{"exclude", e.name, e.expression.text, o.Ref, err})
		case matched:
			return Decision{Entries: d.Entries, Excluded: e.name}
		}
	}
	d.Err = errors.Join(failed...)
	switch {
	case len(d.Entries) > 0:
		d.Selected, d.Entry = true, d.Entries[0]
	case s.includeFailing:
		d.Selected, d.Entry = true, firstFailed
	}
	return d
}

// Group is what the grouping expression makes of an object: objects with one
// result belong together. Without an expression it is empty.
func (s *Selector) Group(ctx context.Context, o, ns *object.Object) (string, error) {
	if s.group == nil {
		return "", nil
	}
	name, err := s.group.string(ctx, &objectVars{o: o, ns: ns, decoding: &s.decoding})
	if err != nil {
		return "", fmt.Errorf("spec.grouping.expression failed on %s: %w (in %s)", o.Ref, err, s.group.text)
	}
	return name, nil
}

// Hooks is how many hooks the policy has.
func (s *Selector) Hooks() int { return len(s.hooks) }

// Hook says whether hook i of the policy, counted from 0, matches a pod; ns is
// its Namespace, or nil where it is not known. An error means that nobody
// knows.
func (s *Selector) Hook(ctx context.Context, i int, pod, ns *object.Object) (bool, error) {
	if s.hooks[i] == nil {
		return true, nil
	}
	matched, err := s.hooks[i].bool(ctx, &objectVars{o: pod, ns: ns, decoding: &s.decoding})
	if err != nil {
		return false, fmt.Errorf("spec.consistency.hooks[%d].match failed on %s: %w (in %s)", i, pod.Ref, err, s.hooks[i].text)
	}
	return matched, nil
}

func (e *entry) matchesKind(group, kind string) bool {
	return len(e.kinds) == 0 || slices.ContainsFunc(e.kinds, func(p kindPattern) bool { return p.matches(group, kind) })
}

// names says whether the entry asks for a kind by its name.
func (e *entry) names(group, kind string) bool {
	return slices.ContainsFunc(e.kinds, func(p kindPattern) bool { return !p.anyKind && p.matches(group, kind) })
}

// inNamespaces also matches the Namespace objects themselves, which have no
// namespace but belong to what a person means by one.
func (e *entry) inNamespaces(ref v1alpha1.Ref) bool {
	if len(e.namespaces) == 0 {
		return true
	}
	if ref.Group == "" && ref.Kind == "Namespace" {
		return slices.Contains(e.namespaces, ref.Name)
	}
	return ref.Namespace != "" && slices.Contains(e.namespaces, ref.Namespace)
}

// matches checks what is cheap first: an object that an expression is not
// meant for is neither decoded nor able to make it fail.
func (e *entry) matches(ctx context.Context, o *object.Object, vars *objectVars) (bool, error) {
	if !e.matchesKind(o.Ref.Group, o.Ref.Kind) || !e.inNamespaces(o.Ref) || !e.selector.Matches(labels.Set(o.Labels)) {
		return false, nil
	}
	if e.expression == nil {
		return true, nil
	}
	return e.expression.bool(ctx, vars)
}

// generated says whether an object was made by the cluster, for an entry that
// does not ask for its kind.
func (e *entry) generated(o *object.Object) bool {
	if e.names(o.Ref.Group, o.Ref.Kind) {
		return false
	}
	_, made := object.MadeByCluster(o)
	return made
}

// objectVars are the variables of one object.
type objectVars struct {
	o, ns    *object.Object
	decoding *sync.Mutex
}

var _ interpreter.Activation = (*objectVars)(nil)

func (v *objectVars) Parent() interpreter.Activation { return nil }

func (v *objectVars) ResolveName(name string) (any, bool) {
	switch name {
	case "object":
		return content(v.o.Content())
	case "namespaceObject":
		if v.ns == nil {
			return types.NullValue, true
		}
		v.decoding.Lock()
		defer v.decoding.Unlock()
		return content(v.ns.Content())
	case "labels":
		return neverNil(v.o.Labels), true
	case "annotations":
		return neverNil(v.o.Annotations), true
	case "variables":
		return map[string]any{}, true
	}
	return nil, false
}

func content(m map[string]any, err error) (any, bool) {
	if err != nil {
		return types.WrapErr(err), true
	}
	return m, true
}

func neverNil(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}
