package rewrite

import (
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/plugin/graph"
)

// Rules are what changes objects on their way: the two maps alone, or with
// everything that a RewriteSet says where Compile made them. They may be used
// from several goroutines once Learn is done.
type Rules struct {
	// Namespaces maps the namespace an object was in to the one it goes to.
	Namespaces map[string]string
	// StorageClasses maps class names wherever a claim is made or templated.
	StorageClasses map[string]string
	// LabelTracked are the values of the label app.kubernetes.io/instance by
	// which Argo CD knows, in the target, what is its own.
	LabelTracked map[string]bool

	set *compiled
}

// Change is one field that a rule changed.
type Change struct {
	// Field is the path; From and To are texts for people, and say nothing of
	// the content of Secrets.
	Field string
	From  string
	To    string
	// Rule is the rule as Rules.Names lists it.
	Rule string
}

func (c Change) String() string {
	return fmt.Sprintf("%s: %s -> %s", c.Field, c.From, c.To)
}

// Result is what the rules did to one object.
type Result struct {
	Changes []Change
	// Mentions are fields of free text that hold an old namespace's name and
	// were left alone: only a person knows whether they mean the namespace.
	// They name fields, never values, because the object may be a Secret.
	Mentions []string
	// Matched lists the rules, by name, that were about this object, also
	// where they found nothing to change.
	Matched []string
	// Warnings are for a person to look at.
	Warnings []string
}

func (r *Result) changed(c Change) {
	r.Changes = append(r.Changes, c)
	r.matched(c.Rule)
}

func (r *Result) matched(rule string) {
	for _, m := range r.Matched {
		if m == rule {
			return
		}
	}
	r.Matched = append(r.Matched, rule)
}

func (r *Result) warn(format string, args ...any) {
	r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...))
}

func namespaceRule(from, to string) string { return "namespace " + from + "=" + to }
func classRule(from, to string) string     { return "storage class " + from + "=" + to }

// Names lists the rules in a stable order, without those that may match
// nothing, so that a caller can tell which of them did.
func (r Rules) Names() []string {
	var out []string
	for from, to := range r.Namespaces {
		out = append(out, namespaceRule(from, to))
	}
	for from, to := range r.StorageClasses {
		out = append(out, classRule(from, to))
	}
	if r.set != nil {
		out = append(out, r.set.ruleNames()...)
	}
	sort.Strings(out)
	return out
}

// Namespace is where the rules send a namespace.
func (r Rules) Namespace(ns string) string {
	if to, ok := r.Namespaces[ns]; ok {
		return to
	}
	return ns
}

// Apply follows the rules through one draft. After an error the draft is half
// done, and must not be used.
//
// Unless the set says once, Apply makes sure that the rules leave their own
// result alone: what would change at a second time is an error.
func (r Rules) Apply(d *Draft) (Result, error) {
	out, err := r.apply(d)
	if err != nil {
		return Result{}, fmt.Errorf("%s: %w", d.Ref, err)
	}
	if r.set != nil && !r.set.spec.Once && len(out.Changes) > 0 {
		again := &Draft{Ref: d.NewRef(), Content: clone(d.Content).(map[string]any)}
		if _, err := r.apply(again); err != nil {
			return Result{}, fmt.Errorf("%s, applied to its own result: %w", d.Ref, err)
		}
		if fields := Differences(d.Content, again.Content, 3); len(fields) > 0 {
			return Result{}, fmt.Errorf("%s: applied to its own result, the set would change it again: %s (hint: narrow the rule, or write once: true)", d.Ref, strings.Join(fields, ", "))
		}
	}
	hideSecrets(d, out.Changes)
	return out, nil
}

func (r Rules) apply(d *Draft) (out Result, err error) {
	if r.set == nil {
		return r.applyMaps(d, out)
	}
	s := r.set
	came, err := s.came(d)
	if err != nil {
		return out, err
	}
	if err := s.profiles(d, &out); err != nil {
		return out, err
	}
	s.text(r, d, &out)
	if err := s.fieldPlaces(r, d, &out); err != nil {
		return out, err
	}
	if err := s.rename(d, &out); err != nil {
		return out, err
	}
	if err := s.references(d, &out); err != nil {
		return out, err
	}
	if out, err = r.applyMaps(d, out); err != nil {
		return out, err
	}
	s.mapImages(d, &out)
	s.mapHosts(d, &out)
	s.mapNodeLabels(d, &out)
	if err := s.mapServices(d, &out); err != nil {
		return out, err
	}
	return out, s.applyRules(d, came, &out)
}

// applyMaps follows namespaces and storage classes, and drops the marks of
// GitOps tools from what becomes another object.
func (r Rules) applyMaps(d *Draft, out Result) (Result, error) {
	if len(r.StorageClasses) > 0 {
		if err := r.storageClasses(d, out.changed); err != nil {
			return out, err
		}
	}
	if len(r.Namespaces) > 0 {
		if err := r.namespaces(d, out.changed); err != nil {
			return out, err
		}
		out.Mentions = r.mentions(d)
	}
	r.tracking(d, &out)
	return out, nil
}

// references maps the names of cluster-scoped objects wherever they are
// referred to.
func (s *compiled) references(d *Draft, out *Result) error {
	if len(s.clusterNames) == 0 {
		return nil
	}
	err := graph.References(d.Content, func(ref graph.Reference) error {
		for _, m := range s.clusterNames {
			to, ok := m.names[ref.To.Name]
			if ok && to != ref.To.Name && ref.To.Namespace == "" && m.kind.matches(ref.To.Group, ref.To.Kind) {
				ref.SetName(to)
				out.changed(Change{Field: ref.Path, From: ref.To.Name, To: to, Rule: referenceRule(m.kind.text, ref.To.Name, to)})
				return nil
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("references: %w", err)
	}
	return nil
}

// ReferenceTo is one map of the name of a cluster-scoped object.
type ReferenceTo struct {
	Kind, From, To string // Kind as the set writes it
}

// Is says whether the map is about objects of a kind.
func (m ReferenceTo) Is(group, kind string) bool { return parseKind(m.Kind).matches(group, kind) }

// References lists the maps of cluster-scoped names, sorted.
func (r Rules) References() []ReferenceTo {
	var out []ReferenceTo
	if r.set == nil {
		return nil
	}
	for _, m := range r.set.clusterNames {
		for _, from := range slices.Sorted(maps.Keys(m.names)) {
			out = append(out, ReferenceTo{Kind: m.kind.text, From: from, To: m.names[from]})
		}
	}
	return out
}

// Reference is what references to a cluster-scoped object are mapped to.
func (r Rules) Reference(group, kind, name string) (to string, ok bool) {
	for _, m := range r.References() {
		if m.From == name && m.Is(group, kind) {
			return m.To, true
		}
	}
	return "", false
}
