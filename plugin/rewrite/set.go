package rewrite

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kubectl-backup/kubectl-backup/plugin/selector"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// compiled is a RewriteSet made ready.
type compiled struct {
	spec         v1alpha1.RewriteSetSpec
	clusterNames []clusterNames
	imageMaps    []v1alpha1.ImageMap // longest first, normalized
	hostMaps     hostMaps
	places       []fieldPlace
	textIn       map[string]bool
	renaming     *matcher
	rules        []rule // lowest priority first
	needsCame    bool   // some expression of a match looks at objects

	learned *learned
}

type clusterNames struct {
	kind  kindPattern
	names map[string]string
}

type fieldPlace struct {
	match *matcher
	path  v1alpha1.FieldPath
	holds string
	rule  string
}

// rule is one entry of spec.rules.
type rule struct {
	label    string
	match    *matcher
	priority int
	optional bool
	remove   []v1alpha1.FieldPath
	set      []setter
	replace  []replacement
	spec     v1alpha1.RewriteRule
}

type setter struct {
	path       v1alpha1.FieldPath
	value      any
	expression *selector.Value
}

type replacement struct {
	path  v1alpha1.FieldPath
	regex *regexp.Regexp
	with  string
}

func ruleName(label string) string               { return "rule " + label }
func referenceRule(kind, from, to string) string { return kind + " " + from + "=" + to }

// Compile makes the rules of a set ready. Its error is a UsageError that lists
// every fault with its place: unknown kinds and fields, expressions that are
// refused, and what Validate finds.
func Compile(set *v1alpha1.RewriteSet) (Rules, error) {
	if err := set.Validate(); err != nil {
		return Rules{}, err
	}
	c := &compilation{set: set}
	spec := set.Spec
	s := &compiled{spec: spec, textIn: map[string]bool{}, learned: newLearned()}
	for i, r := range spec.References {
		c.knownKinds(fmt.Sprintf("spec.references[%d].kind", i), r.Kind)
		s.clusterNames = append(s.clusterNames, clusterNames{parseKind(r.Kind), r.Names})
	}
	s.imageMaps = compileImages(spec.Images)
	s.hostMaps = compileHosts(spec.Hosts)
	for _, t := range spec.Text {
		s.textIn[t] = true
	}
	for i, f := range spec.Fields {
		at := fmt.Sprintf("spec.fields[%d]", i)
		path := c.path(at+".path", f.Path, f.Kinds)
		s.places = append(s.places, fieldPlace{c.matcher(at, v1alpha1.RewriteMatch{Kinds: f.Kinds}), path, f.Holds, "field " + f.Path})
	}
	if spec.Names != nil {
		s.renaming = c.matcher("spec.names.match", spec.Names.Match)
	}
	for i, r := range spec.Rules {
		compiledRule := c.rule(fmt.Sprintf("spec.rules[%d]", i), r, i)
		s.rules = append(s.rules, compiledRule)
		s.needsCame = s.needsCame || compiledRule.match.expression != nil
	}
	slices.SortStableFunc(s.rules, func(a, b rule) int { return a.priority - b.priority })
	if err := v1alpha1.JoinFieldErrors(c.faults); err != nil {
		return Rules{}, err
	}
	return Rules{Namespaces: spec.Namespaces, StorageClasses: spec.StorageClasses, set: s}, nil
}

func (s *compiled) ruleNames() []string {
	var out []string
	for _, m := range s.clusterNames {
		for from, to := range m.names {
			out = append(out, referenceRule(m.kind.text, from, to))
		}
	}
	for _, m := range s.imageMaps {
		out = append(out, imageRule(m))
	}
	out = append(out, s.hostMaps.names()...)
	for _, l := range s.spec.NodeLabels {
		out = append(out, nodeLabelRule(l.Key))
	}
	if s.spec.Services != nil {
		for from, to := range s.spec.Services.Types {
			out = append(out, serviceRule(from, to))
		}
	}
	for _, p := range s.places {
		out = append(out, p.rule)
	}
	if s.spec.Names != nil {
		out = append(out, namesRule)
	}
	for _, r := range s.rules {
		if !r.optional {
			out = append(out, ruleName(r.label))
		}
	}
	return out
}

// compilation gathers the faults of one set.
type compilation struct {
	set    *v1alpha1.RewriteSet
	faults []*v1alpha1.FieldError
}

func (c *compilation) refuse(path, hint, message string) {
	c.faults = append(c.faults, &v1alpha1.FieldError{Position: c.set.At(path), Path: path, Message: message, Hint: hint})
}

// objectVariables are those that expressions of rules may use.
var objectVariables = map[string]*selector.Type{
	"object": selector.Dyn, "labels": selector.StringMap, "annotations": selector.StringMap,
}

func (c *compilation) rule(at string, r v1alpha1.RewriteRule, index int) rule {
	out := rule{label: r.Label(index), priority: r.Priority, optional: r.Optional, spec: r, match: c.matcher(at+".match", r.Match)}
	for i, p := range r.Remove {
		out.remove = append(out.remove, c.path(fmt.Sprintf("%s.remove[%d]", at, i), p, r.Match.Kinds))
	}
	for i, s := range r.Set {
		where := fmt.Sprintf("%s.set[%d]", at, i)
		set := setter{path: c.path(where+".path", s.Path, r.Match.Kinds)}
		if s.Expression != "" {
			set.expression = c.value(where+".expression", s.Expression)
		} else if value, err := decode(s.Value); err != nil {
			c.refuse(where+".value", "", err.Error())
		} else {
			set.value = value
		}
		out.set = append(out.set, set)
	}
	for i, s := range r.Replace {
		where := fmt.Sprintf("%s.replace[%d]", at, i)
		regex, err := regexp.Compile(s.Regex)
		if err != nil {
			c.refuse(where+".regex", "", err.Error())
			continue
		}
		out.replace = append(out.replace, replacement{c.path(where+".path", s.Path, r.Match.Kinds), regex, s.With})
	}
	c.patchFields(at, r)
	return out
}

// patchFields looks up the fields that patches of maps name.
func (c *compilation) patchFields(at string, r v1alpha1.RewriteRule) {
	for name, raw := range map[string][]byte{"mergePatch": r.MergePatch, "strategicMergePatch": r.StrategicMergePatch} {
		if len(raw) == 0 {
			continue
		}
		patch, err := decode(raw)
		if err != nil {
			c.refuse(at+"."+name, "", err.Error())
			continue
		}
		fields(patch, nil, func(p v1alpha1.FieldPath) { c.knownField(at+"."+name, p, r.Match.Kinds) })
	}
}

// fields visits the paths of a patch's values.
func fields(patch any, at v1alpha1.FieldPath, visit func(v1alpha1.FieldPath)) {
	switch t := patch.(type) {
	case map[string]any:
		for _, key := range sortedKeys(t) {
			if !strings.HasPrefix(key, "$") {
				fields(t[key], append(slices.Clone(at), v1alpha1.PathStep{Key: key}), visit)
			}
		}
	case []any:
		for _, e := range t {
			fields(e, append(slices.Clone(at), v1alpha1.PathStep{List: true, Index: -1}), visit)
		}
	default:
		visit(at)
	}
}

func (c *compilation) path(at, path string, kinds []string) v1alpha1.FieldPath {
	p, err := v1alpha1.ParseFieldPath(path)
	if err != nil {
		c.refuse(at, "", err.Error())
		return nil
	}
	c.knownField(at, p, kinds)
	return p
}

func (c *compilation) value(at, expression string) *selector.Value {
	v, err := selector.CompileValue(expression, objectVariables)
	if err != nil {
		c.refuse(at, "", err.Error())
	}
	return v
}

// matcher decides whether an object is meant.
type matcher struct {
	kinds      []kindPattern
	namespaces []string
	names      []string
	selector   labels.Selector
	expression *selector.Filter
}

func (c *compilation) matcher(at string, m v1alpha1.RewriteMatch) *matcher {
	out := &matcher{namespaces: m.Namespaces, names: m.Names}
	for i, k := range m.Kinds {
		c.knownKinds(fmt.Sprintf("%s.kinds[%d]", at, i), k)
		out.kinds = append(out.kinds, parseKind(k))
	}
	if m.LabelSelector != nil {
		s, err := metav1.LabelSelectorAsSelector(m.LabelSelector)
		if err != nil {
			c.refuse(at+".labelSelector", "", err.Error())
		}
		out.selector = s
	}
	if m.Expression != "" {
		f, err := selector.CompileFilter(m.Expression, objectVariables)
		if err != nil {
			c.refuse(at+".expression", "", err.Error())
		}
		out.expression = f
	}
	return out
}

// matches decides by what the object was called and carried when it came.
func (m *matcher) matches(d *Draft, labelsOf map[string]string, variables func() (map[string]any, error)) (bool, error) {
	switch {
	case len(m.kinds) > 0 && !slices.ContainsFunc(m.kinds, func(k kindPattern) bool { return k.matches(d.Ref.Group, d.Ref.Kind) }),
		len(m.namespaces) > 0 && !slices.Contains(m.namespaces, d.Ref.Namespace),
		len(m.names) > 0 && !slices.Contains(m.names, d.Ref.Name),
		m.selector != nil && !m.selector.Matches(labels.Set(labelsOf)):
		return false, nil
	case m.expression == nil:
		return true, nil
	}
	values, err := variables()
	if err != nil {
		return false, err
	}
	return m.expression.Match(context.Background(), values)
}

// original is what rules match by: the object as it came.
type original struct {
	labels map[string]string
	values func() (map[string]any, error)
}

func (s *compiled) came(d *Draft) (original, error) {
	meta := mapAt(d.Content, "metadata")
	o := original{labels: stringMap(meta["labels"])}
	if !s.needsCame {
		o.values = func() (map[string]any, error) { return nil, errors.New("no expression was compiled") }
		return o, nil
	}
	values, err := variablesOf(d.Content)
	if err != nil {
		return original{}, err
	}
	o.values = func() (map[string]any, error) { return values, nil }
	return o, nil
}

// variablesOf are the variables of expressions, made of a copy.
func variablesOf(content map[string]any) (map[string]any, error) {
	plain, err := plainNumbers(content)
	if err != nil {
		return nil, err
	}
	meta := mapAt(content, "metadata")
	return map[string]any{"object": plain, "labels": stringMap(meta["labels"]), "annotations": stringMap(meta["annotations"])}, nil
}

// stringMap is a map of texts, never nil.
func stringMap(v any) map[string]string {
	out := map[string]string{}
	m, _ := v.(map[string]any)
	for k, e := range m {
		if s, ok := e.(string); ok {
			out[k] = s
		}
	}
	return out
}

// learned is what is known of all the objects that go together.
type learned struct {
	mu sync.Mutex
	// renamed are the objects that get another name, by what they are called.
	renamed map[v1alpha1.Ref]string
	// services are known by namespace and name.
	services map[[2]string]bool
	// claims and sets wait for each other: a set's claims bear its name, as
	// Endpoints bear that of their Service.
	claims, endpoints []v1alpha1.Ref
	sets              []setOfClaims
	// unmatched are the images that no rule is about.
	unmatched map[string]bool
	settled   bool
}

func newLearned() *learned {
	return &learned{renamed: map[v1alpha1.Ref]string{}, services: map[[2]string]bool{}, unmatched: map[string]bool{}}
}

// UnmatchedImages lists the images that were seen and that no image map was
// about, sorted. It is empty where there is no image map.
func (r Rules) UnmatchedImages() []string {
	if r.set == nil {
		return nil
	}
	r.set.learned.mu.Lock()
	defer r.set.learned.mu.Unlock()
	return slices.Sorted(maps.Keys(r.set.learned.unmatched))
}
