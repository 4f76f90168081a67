package v1alpha1

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// UsageError says that what was asked for cannot be done as it was written,
// whatever the cluster and the remote hold: exit code 2. Everything that
// Decode and Resolve refuse is one.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }
func (e *UsageError) Unwrap() error { return e.Err }

// Usagef is a UsageError made of a message.
func Usagef(format string, args ...any) error {
	return &UsageError{Err: fmt.Errorf(format, args...)}
}

// Position is a place in a document. Line and Column count from 1; a document
// that was not read from text has neither.
type Position struct {
	File   string
	Line   int
	Column int
}

// String is file:line:column, with only what is known.
func (p Position) String() string {
	switch {
	case p.Line == 0:
		return p.File
	case p.Column == 0:
		return fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// FieldError is one fault of one field.
type FieldError struct {
	Position Position
	// Path is the field as it would be written in Go or jq:
	// spec.select[0].labelSelector.
	Path string
	// Message says what is wrong.
	Message string
	// Hint says what would be right, or is empty.
	Hint string
}

func (e *FieldError) Error() string {
	var b strings.Builder
	if p := e.Position.String(); p != "" {
		b.WriteString(p)
		b.WriteString(": ")
	}
	if e.Path != "" {
		b.WriteString(e.Path)
		b.WriteString(": ")
	}
	b.WriteString(e.Message)
	if e.Hint != "" {
		b.WriteString("; ")
		b.WriteString(e.Hint)
	}
	return b.String()
}

// JoinFieldErrors is one UsageError that lists faults in the order in which
// they stand in the document, or nil where there are none.
func JoinFieldErrors(faults []*FieldError) error {
	if len(faults) == 0 {
		return nil
	}
	slices.SortStableFunc(faults, func(a, b *FieldError) int {
		return cmp.Or(strings.Compare(a.Position.File, b.Position.File),
			cmp.Compare(a.Position.Line, b.Position.Line),
			cmp.Compare(a.Position.Column, b.Position.Column),
			strings.Compare(a.Path, b.Path))
	})
	errs := make([]error, len(faults))
	for i, f := range faults {
		errs[i] = f
	}
	return &UsageError{Err: errors.Join(errs...)}
}

// positions maps field paths to where they stand. It is empty for a document
// that was made by a program.
type positions map[string]Position

// at is the position of path, or of the nearest field around it.
func (p positions) at(path string) Position {
	for {
		if pos, ok := p[path]; ok || path == "" {
			return pos
		}
		path = parent(path)
	}
}

func parent(path string) string {
	if i := strings.LastIndexAny(path, ".["); i >= 0 {
		return path[:i]
	}
	return ""
}

// At is where a field of the policy stands; the empty path is the document.
func (p *BackupPolicy) At(path string) Position { return p.positions.at(path) }

// At is where a field of the remote stands; the empty path is the document.
func (r *BackupRemote) At(path string) Position { return r.positions.at(path) }

// At is where a field of the recipe stands; the empty path is the document.
func (r *BackupRecipe) At(path string) Position { return r.positions.at(path) }

// Nearest is the candidate that was probably meant by a misspelt word, or
// empty. Of equally near ones the first wins.
func Nearest(word string, candidates []string) string {
	best, bestDistance := "", max(1, min(3, len(word)/3))+1
	for _, c := range candidates {
		if strings.EqualFold(c, word) {
			return c
		}
		if d := editDistance(strings.ToLower(word), strings.ToLower(c)); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// didYouMean is the hint for a misspelt word: the nearest candidate, else all
// of them.
func didYouMean(word string, candidates []string) string {
	if n := Nearest(word, candidates); n != "" {
		return fmt.Sprintf("did you mean %q?", n)
	}
	if len(candidates) == 0 {
		return ""
	}
	return "known are " + strings.Join(candidates, ", ")
}

// editDistance counts the insertions, deletions, replacements and swaps of
// neighbours between two words.
func editDistance(a, b string) int {
	before, previous, current := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range previous {
		previous[j] = j
	}
	for i := 1; i <= len(a); i++ {
		current[0] = i
		for j := 1; j <= len(b); j++ {
			replace := previous[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			current[j] = min(replace, previous[j]+1, current[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				current[j] = min(current[j], before[j-2]+1)
			}
		}
		before, previous, current = previous, current, before
	}
	return previous[len(b)]
}
