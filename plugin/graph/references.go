package graph

import (
	"fmt"
	"strings"
	"sync"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Lookup is a table made ready for finding the references of one object after
// the other. It may be used from several goroutines.
type Lookup struct {
	rows  []Row
	kinds map[groupKind]*kindPaths
	any   *pathNode // rows of kind "*"
}

// kindPaths is what the rows say about one kind.
type kindPaths struct {
	all *pathNode // every row, those of kind "*" too
	// For the graph: rows that only need the object's header, and the rest.
	header  []headerRow
	content *pathNode
}

// headerRow is a row whose field the header of an object holds.
type headerRow struct {
	row               int
	annotation, label string
	name              bool
}

// NewLookup is Table and more rows, which are checked.
func NewLookup(extra ...Row) (*Lookup, error) {
	l := &Lookup{rows: make([]Row, 0, len(Table)+len(extra)), kinds: map[groupKind]*kindPaths{}, any: &pathNode{}}
	l.rows = append(append(l.rows, Table...), extra...)
	paths := make([][]pathToken, len(l.rows))
	for i, r := range l.rows {
		tokens, err := checkRow(r)
		if err != nil {
			return nil, fmt.Errorf("reference row %d: %w", i-len(Table), err)
		}
		paths[i] = tokens
		if r.Kind == "*" {
			l.any.insert(tokens, i)
		}
	}
	for i, r := range l.rows {
		if r.Kind == "*" {
			continue
		}
		gk := groupKind{r.Group, r.Kind}
		k := l.kinds[gk]
		if k == nil {
			k = &kindPaths{all: &pathNode{}, content: &pathNode{}}
			for j, r := range l.rows {
				if r.Kind == "*" {
					k.all.insert(paths[j], j)
				}
			}
			l.kinds[gk] = k
		}
		k.all.insert(paths[i], i)
		if h, ok := readsHeader(r, paths[i]); ok {
			h.row = i
			k.header = append(k.header, h)
		} else {
			k.content.insert(paths[i], i)
		}
	}
	return l, nil
}

func checkRow(r Row) ([]pathToken, error) {
	tokens, err := parsePath(r.Path)
	if err != nil {
		return nil, err
	}
	switch {
	case r.Kind == "":
		return nil, fmt.Errorf("path %q: the kind that refers is not named", r.Path)
	case r.Type == "":
		return nil, fmt.Errorf("%s %q: the edge type is not named", r.Kind, r.Path)
	case r.Match != ByName && r.ToKind == "":
		return nil, fmt.Errorf("%s %q: a selector needs the kind that it selects", r.Kind, r.Path)
	case r.Strong && r.Loose:
		return nil, fmt.Errorf("%s %q: an edge is strong or loose, not both", r.Kind, r.Path)
	}
	return tokens, nil
}

func readsHeader(r Row, tokens []pathToken) (headerRow, bool) {
	if r.Match != ByName || r.GroupField != "" || r.KindField != "" || r.NamespaceField != "" || r.OptionalField != "" || tokens[0].key != "metadata" {
		return headerRow{}, false
	}
	switch {
	case len(tokens) == 2 && tokens[1].key == "name":
		return headerRow{name: true}, true
	case len(tokens) == 3 && tokens[1].key == "annotations":
		return headerRow{annotation: tokens[2].key}, true
	case len(tokens) == 3 && tokens[1].key == "labels":
		return headerRow{label: tokens[2].key}, true
	}
	return headerRow{}, false
}

var tableLookup = sync.OnceValues(func() (*Lookup, error) { return NewLookup() })

// Reference is one place in an object that names another.
type Reference struct {
	// Row is the table's row, by value.
	Row Row
	// Path is where the name stands, with list indices.
	Path string
	// To is what is named, without version. Its namespace is the referring
	// object's where the field does not say, and empty for a target of a kind
	// that is known to have none. Group and Kind are empty where only another
	// object says them (the parameters of an admission policy's binding).
	To v1alpha1.Ref
	// InNamespaceField is the namespace as written in Row.NamespaceField, and
	// empty where the field is absent.
	InNamespaceField string

	hit hit
}

// SetName changes the name in place.
func (r Reference) SetName(name string) {
	if r.hit.list != nil {
		r.hit.list[r.hit.index] = name
		return
	}
	r.hit.fields[r.hit.key] = name
}

// SetNamespace changes the namespace that is written beside the name, in
// place. It changes nothing and says false where none is written: there the
// reference follows the referring object by itself.
func (r Reference) SetNamespace(namespace string) bool {
	if r.InNamespaceField == "" {
		return false
	}
	r.hit.fields[r.Row.NamespaceField] = namespace
	return true
}

// Holder is the map that holds the name and the fields beside it, or nil
// where the name is an element of a list.
func (r Reference) Holder() map[string]any { return r.hit.fields }

// References calls visit for each place in o (the decoded JSON of one object)
// that names another object, by the built-in table, in a stable order within
// lists. visit may change o through the Reference. Rows that select by labels
// are not visited: they hold no names. An error of visit ends the walk.
func References(o map[string]any, visit func(Reference) error) error {
	l, err := tableLookup()
	if err != nil {
		return err
	}
	return l.References(o, visit)
}

// References is the function of that name over this lookup's rows.
func (l *Lookup) References(o map[string]any, visit func(Reference) error) error {
	apiVersion, _ := o["apiVersion"].(string)
	kind, _ := o["kind"].(string)
	group, _ := object.SplitAPIVersion(apiVersion)
	tree := l.any
	if k := l.kinds[groupKind{group, kind}]; k != nil {
		tree = k.all
	}
	metadata, _ := o["metadata"].(map[string]any)
	namespace, _ := metadata["namespace"].(string)
	w := walker{visit: func(w *walker, h hit) error {
		row := &l.rows[h.row]
		to, ok := target(row, h, namespace)
		if !ok {
			return nil
		}
		r := Reference{Row: *row, Path: w.path(), To: to, hit: h}
		if row.NamespaceField != "" {
			r.InNamespaceField, _ = h.fields[row.NamespaceField].(string)
		}
		return visit(r)
	}}
	return w.walk(o, tree)
}

// target is what a hit of a row that matches by name refers to.
func target(row *Row, h hit, namespace string) (v1alpha1.Ref, bool) {
	name, ok := h.value.(string)
	// A template of a name, such as ${pvc.name}, is known only when used.
	if row.Match != ByName || !ok || name == "" || strings.Contains(name, "${") {
		return v1alpha1.Ref{}, false
	}
	to := v1alpha1.Ref{Group: row.ToGroup, Kind: row.ToKind, Namespace: namespace, Name: name}
	if row.KindField != "" {
		if kind, _ := h.fields[row.KindField].(string); kind != "" {
			to.Kind = kind
		}
	}
	if row.GroupField != "" {
		if group, ok := h.fields[row.GroupField].(string); ok {
			if row.GroupField == "apiVersion" {
				group, _ = object.SplitAPIVersion(group)
			}
			to.Group = group
		}
	}
	if row.NamespaceField != "" {
		if ns, _ := h.fields[row.NamespaceField].(string); ns != "" {
			if strings.Contains(ns, "${") {
				return v1alpha1.Ref{}, false
			}
			to.Namespace = ns
		}
	}
	if row.Cluster || clusterKinds[groupKind{to.Group, to.Kind}] {
		to.Namespace = ""
	}
	return to, true
}
