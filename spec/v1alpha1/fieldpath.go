package v1alpha1

import (
	"fmt"
	"strconv"
	"strings"
)

// FieldPath is a way to fields of an object:
//
//	spec.template.spec      fields
//	volumes[]               every element of a list
//	containers[name=web]    the elements of a list whose field has that value
//	containers[0]           one element of a list
//	annotations["a.b/c"]    a field whose name has dots or slashes in it
type FieldPath []PathStep

// PathStep is one step: a field where List is false, else elements of a list.
type PathStep struct {
	Key string
	// List says that the step goes into a list: to the element Index, to those
	// whose FilterKey is FilterValue, or, with Index -1 and no FilterKey, to
	// every one.
	List                   bool
	Index                  int
	FilterKey, FilterValue string
}

// ParseFieldPath reads a path.
func ParseFieldPath(path string) (FieldPath, error) {
	var out FieldPath
	rest := path
	for rest != "" {
		end := strings.IndexAny(rest, ".[")
		if end < 0 {
			end = len(rest)
		}
		if end == 0 && (len(out) > 0 || rest[0] != '[') {
			return nil, fmt.Errorf("a field name is missing at %q", rest)
		}
		if end > 0 {
			if strings.ContainsAny(rest[:end], `/"] `) {
				return nil, fmt.Errorf(`%q is not a field name; write names with slashes or dots as ["name"]`, rest[:end])
			}
			out = append(out, PathStep{Key: rest[:end]})
			rest = rest[end:]
		}
		for strings.HasPrefix(rest, "[") {
			step, after, err := parseStep(rest)
			if err != nil {
				return nil, err
			}
			out, rest = append(out, step), after
		}
		if rest == "" {
			break
		}
		if rest[0] != '.' || len(rest) == 1 {
			return nil, fmt.Errorf("expected a field at %q", rest)
		}
		rest = rest[1:]
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the path is empty")
	}
	return out, nil
}

func parseStep(s string) (PathStep, string, error) {
	if strings.HasPrefix(s, `["`) {
		end := strings.Index(s, `"]`)
		if end < 3 {
			return PathStep{}, "", fmt.Errorf(`%q does not end in "]`, s)
		}
		return PathStep{Key: s[2:end]}, s[end+2:], nil
	}
	end := strings.IndexByte(s, ']')
	if end < 0 {
		return PathStep{}, "", fmt.Errorf("%q does not end in ]", s)
	}
	inside, rest := s[1:end], s[end+1:]
	if inside == "" {
		return PathStep{List: true, Index: -1}, rest, nil
	}
	if n, err := strconv.Atoi(inside); err == nil && n >= 0 {
		return PathStep{List: true, Index: n}, rest, nil
	}
	key, value, ok := strings.Cut(inside, "=")
	if !ok || key == "" {
		return PathStep{}, "", fmt.Errorf(`[%s] is neither [], [0], [field=value] nor ["name"]`, inside)
	}
	return PathStep{List: true, Index: -1, FilterKey: key, FilterValue: value}, rest, nil
}

// String writes the path as ParseFieldPath reads it.
func (p FieldPath) String() string {
	var b strings.Builder
	for _, s := range p {
		switch {
		case !s.List && (s.Key == "" || strings.ContainsAny(s.Key, `./[]" `)):
			fmt.Fprintf(&b, `["%s"]`, s.Key)
		case !s.List && b.Len() > 0:
			b.WriteString("." + s.Key)
		case !s.List:
			b.WriteString(s.Key)
		case s.FilterKey != "":
			fmt.Fprintf(&b, "[%s=%s]", s.FilterKey, s.FilterValue)
		case s.Index >= 0:
			fmt.Fprintf(&b, "[%d]", s.Index)
		default:
			b.WriteString("[]")
		}
	}
	return b.String()
}

// Overlaps says whether two paths may lead to one field, or one of them to a
// field inside what the other leads to.
func (p FieldPath) Overlaps(other FieldPath) bool {
	for i := range min(len(p), len(other)) {
		a, b := p[i], other[i]
		switch {
		case a.List != b.List:
			return false
		case !a.List && a.Key != b.Key:
			return false
		case a.List && a.Index >= 0 && b.Index >= 0 && a.Index != b.Index:
			return false
		case a.List && a.FilterKey != "" && a.FilterKey == b.FilterKey && a.FilterValue != b.FilterValue:
			return false
		}
	}
	return true
}
