package graph

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A path is a row's way to a field, in a small syntax:
//
//	spec.template.spec      fields
//	volumes[]               every element of a list
//	subjects[kind=User]     every element of a list whose field has that value
//	annotations["a.b/c"]    a field whose name has dots or slashes in it
type pathToken struct {
	key                    string // a field, where each is false
	each                   bool
	filterKey, filterValue string
}

func parsePath(path string) ([]pathToken, error) {
	var out []pathToken
	rest := path
	for rest != "" {
		end := strings.IndexAny(rest, ".[")
		if end < 0 {
			end = len(rest)
		}
		if end == 0 {
			return nil, fmt.Errorf("path %q: a field name is missing at %q", path, rest)
		}
		out = append(out, pathToken{key: rest[:end]})
		rest = rest[end:]
		for strings.HasPrefix(rest, "[") {
			token, after, err := parseBracket(rest)
			if err != nil {
				return nil, fmt.Errorf("path %q: %w", path, err)
			}
			out, rest = append(out, token), after
		}
		if rest == "" {
			break
		}
		if rest[0] != '.' || len(rest) == 1 {
			return nil, fmt.Errorf("path %q: expected a field at %q", path, rest)
		}
		rest = rest[1:]
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("path is empty")
	}
	return out, nil
}

func parseBracket(s string) (pathToken, string, error) {
	if strings.HasPrefix(s, `["`) {
		end := strings.Index(s, `"]`)
		if end < 3 {
			return pathToken{}, "", fmt.Errorf("%q does not end in \"]", s)
		}
		return pathToken{key: s[2:end]}, s[end+2:], nil
	}
	end := strings.IndexByte(s, ']')
	if end < 0 {
		return pathToken{}, "", fmt.Errorf("%q does not end in ]", s)
	}
	inside := s[1:end]
	if inside == "" {
		return pathToken{each: true}, s[end+1:], nil
	}
	key, value, ok := strings.Cut(inside, "=")
	if !ok || key == "" {
		return pathToken{}, "", fmt.Errorf(`[%s] is neither [], [field=value] nor ["name"]`, inside)
	}
	return pathToken{each: true, filterKey: key, filterValue: value}, s[end+1:], nil
}

// pathNode is the paths of one kind as a tree, so that an object is walked
// once however many rows its kind has.
type pathNode struct {
	token pathToken
	kids  []*pathNode
	rows  []int // rows that end here
}

func (n *pathNode) insert(tokens []pathToken, row int) {
	for _, t := range tokens {
		i := slices.IndexFunc(n.kids, func(k *pathNode) bool { return k.token == t })
		if i < 0 {
			n.kids = append(n.kids, &pathNode{token: t})
			i = len(n.kids) - 1
		}
		n = n.kids[i]
	}
	n.rows = append(n.rows, row)
}

// segment is one step of the way from an object to a field of it.
type segment struct {
	key   string
	index int // within the list key, or -1
	name  string
}

// hit is a field that a row points at: a string, or a selector.
type hit struct {
	row    int
	value  any
	fields map[string]any // what holds the field, where that is a map
	list   []any          // or a list
	key    string
	index  int
}

type walker struct {
	trail []segment
	visit func(*walker, hit) error
}

func (w *walker) walk(v any, n *pathNode) error {
	for _, kid := range n.kids {
		if kid.token.each {
			list, _ := v.([]any)
			for i, el := range list {
				m, _ := el.(map[string]any)
				if kid.token.filterKey != "" {
					if s, _ := m[kid.token.filterKey].(string); s != kid.token.filterValue {
						continue
					}
				}
				name, _ := m["name"].(string)
				w.trail = append(w.trail, segment{index: i, name: name})
				for _, row := range kid.rows {
					if err := w.visit(w, hit{row: row, value: el, list: list, index: i}); err != nil {
						return err
					}
				}
				if err := w.walk(el, kid); err != nil {
					return err
				}
				w.trail = w.trail[:len(w.trail)-1]
			}
			continue
		}
		fields, _ := v.(map[string]any)
		x, ok := fields[kid.token.key]
		if !ok {
			continue
		}
		w.trail = append(w.trail, segment{key: kid.token.key, index: -1})
		for _, row := range kid.rows {
			if err := w.visit(w, hit{row: row, value: x, fields: fields, key: kid.token.key}); err != nil {
				return err
			}
		}
		if err := w.walk(x, kid); err != nil {
			return err
		}
		w.trail = w.trail[:len(w.trail)-1]
	}
	return nil
}

// path writes where the walker stands, for people: list elements by index,
// environment variables by name.
func (w *walker) path() string {
	var b strings.Builder
	last := ""
	for _, s := range w.trail {
		switch {
		case s.index >= 0 && last == "env" && s.name != "":
			b.WriteString("[" + s.name + "]")
		case s.index >= 0:
			b.WriteString("[" + strconv.Itoa(s.index) + "]")
		case strings.ContainsAny(s.key, "./"):
			b.WriteString(`["` + s.key + `"]`)
		default:
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			b.WriteString(s.key)
		}
		last = s.key
	}
	return b.String()
}
