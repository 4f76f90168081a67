package rewrite

import (
	"fmt"
	"sort"
)

// Rules are the name maps of one restore.
type Rules struct {
	// Namespaces maps the namespace an object was in to the one it goes to.
	Namespaces map[string]string
	// StorageClasses maps class names wherever a claim is made or templated.
	StorageClasses map[string]string
}

// Change is one field that a rule changed.
type Change struct {
	Field string
	From  string
	To    string
	// Rule is the rule as Rules.Names lists it.
	Rule string
}

func (c Change) String() string {
	return fmt.Sprintf("%s: %s -> %s", c.Field, c.From, c.To)
}

func namespaceRule(from, to string) string { return "namespace " + from + "=" + to }
func classRule(from, to string) string     { return "storage class " + from + "=" + to }

// Names lists the rules in a stable order, so that a caller can tell which of
// them changed nothing at all.
func (r Rules) Names() []string {
	var out []string
	for from, to := range r.Namespaces {
		out = append(out, namespaceRule(from, to))
	}
	for from, to := range r.StorageClasses {
		out = append(out, classRule(from, to))
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

// Apply follows the rules through one draft. Mentions are fields of free text
// that hold an old namespace's name and were left alone: only a person knows
// whether they mean the namespace. They name fields, never values, because
// the object may be a Secret.
func (r Rules) Apply(d *Draft) (changes []Change, mentions []string, err error) {
	changed := func(c Change) { changes = append(changes, c) }
	if len(r.StorageClasses) > 0 {
		r.storageClasses(d, changed)
	}
	if len(r.Namespaces) > 0 {
		if err := r.namespaces(d, changed); err != nil {
			return nil, nil, err
		}
		mentions = r.mentions(d)
	}
	return changes, mentions, nil
}
