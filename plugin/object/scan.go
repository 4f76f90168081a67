package object

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// scanner walks JSON once and checks it as strictly as encoding/json does. It
// exists because an inventory reads every object of a cluster and needs only
// its metadata: decoding the rest costs several times more than the server's
// own work.
type scanner struct {
	data  []byte
	pos   int
	depth int
}

// maxDepth is where encoding/json stops as well.
const maxDepth = 10000

// errTruncated is what a cut object or list is known by, here and elsewhere.
var errTruncated = fmt.Errorf("the JSON is cut short: %w", io.ErrUnexpectedEOF)

func (s *scanner) syntax(want string) error {
	if s.pos >= len(s.data) {
		return errTruncated
	}
	return fmt.Errorf("invalid JSON at byte %d: %q where %s should be", s.pos, s.data[s.pos], want)
}

func (s *scanner) space() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\r', '\n':
			s.pos++
		default:
			return
		}
	}
}

// peek is the next byte after white space, or 0 at the end.
func (s *scanner) peek() byte {
	s.space()
	if s.pos >= len(s.data) {
		return 0
	}
	return s.data[s.pos]
}

func (s *scanner) expect(c byte, want string) error {
	if s.peek() != c {
		return s.syntax(want)
	}
	s.pos++
	return nil
}

// value steps over one value.
func (s *scanner) value() error {
	switch c := s.peek(); c {
	case '{':
		return s.members(func([]byte) error { return s.value() })
	case '[':
		return s.elements(s.value)
	case '"':
		_, _, err := s.quoted()
		return err
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	case 'n':
		return s.literal("null")
	default:
		if c == '-' || c >= '0' && c <= '9' {
			return s.number()
		}
		return s.syntax("a value")
	}
}

// members calls f for each member of an object, standing before the value,
// which f must step over. The key is unescaped and valid during the call.
func (s *scanner) members(f func(key []byte) error) error {
	if err := s.expect('{', "an object"); err != nil {
		return err
	}
	if s.depth++; s.depth > maxDepth {
		return errors.New("JSON is nested too deeply")
	}
	defer func() { s.depth-- }()
	if s.peek() == '}' {
		s.pos++
		return nil
	}
	for {
		if s.peek() != '"' {
			return s.syntax("a key")
		}
		key, plain, err := s.quoted()
		if err != nil {
			return err
		}
		if !plain {
			key = []byte(unquote(key))
		}
		if err := s.expect(':', "a colon"); err != nil {
			return err
		}
		s.space()
		if err := f(key); err != nil {
			return err
		}
		switch s.peek() {
		case ',':
			s.pos++
		case '}':
			s.pos++
			return nil
		default:
			return s.syntax("a comma or the end of an object")
		}
	}
}

// elements calls f for each element of an array, standing before it.
func (s *scanner) elements(f func() error) error {
	if err := s.expect('[', "an array"); err != nil {
		return err
	}
	if s.depth++; s.depth > maxDepth {
		return errors.New("JSON is nested too deeply")
	}
	defer func() { s.depth-- }()
	if s.peek() == ']' {
		s.pos++
		return nil
	}
	for {
		s.space()
		if err := f(); err != nil {
			return err
		}
		switch s.peek() {
		case ',':
			s.pos++
		case ']':
			s.pos++
			return nil
		default:
			return s.syntax("a comma or the end of an array")
		}
	}
}

// quoted steps over a string and returns what stands between the quotes. It
// is plain when those bytes are the string itself.
func (s *scanner) quoted() (inner []byte, plain bool, err error) {
	data, i := s.data, s.pos+1
	start := i
	plain = true
	for i < len(data) {
		switch c := data[i]; {
		case c == '"':
			s.pos = i + 1
			return data[start:i], plain, nil
		case c == '\\':
			plain = false
			i++
			if i >= len(data) {
				return nil, false, errTruncated
			}
			switch data[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
				i++
			case 'u':
				for n := 1; n <= 4; n++ {
					if i+n >= len(data) {
						return nil, false, errTruncated
					}
					if !isHex(data[i+n]) {
						s.pos = i + n
						return nil, false, s.syntax("a hexadecimal digit")
					}
				}
				i += 5
			default:
				s.pos = i
				return nil, false, s.syntax("an escape")
			}
		case c < 0x20:
			s.pos = i
			return nil, false, s.syntax("a printable character")
		default:
			if c >= utf8.RuneSelf {
				plain = false // decided by unquote: it may not be UTF-8
			}
			i++
		}
	}
	return nil, false, errTruncated
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

// unquote decodes what stands between the quotes of a string that was already
// checked.
func unquote(inner []byte) string {
	var out string
	quoted := make([]byte, 0, len(inner)+2)
	quoted = append(append(append(quoted, '"'), inner...), '"')
	if err := json.Unmarshal(quoted, &out); err != nil {
		return string(inner)
	}
	return out
}

// text reads a string; null reads as empty, as encoding/json has it.
func (s *scanner) text() (string, error) {
	switch s.peek() {
	case 'n':
		return "", s.literal("null")
	case '"':
		inner, plain, err := s.quoted()
		if err != nil {
			return "", err
		}
		if plain {
			return string(inner), nil
		}
		return unquote(inner), nil
	default:
		return "", s.syntax("a string")
	}
}

func (s *scanner) literal(word string) error {
	for n := 0; n < len(word); n++ {
		if s.pos >= len(s.data) || s.data[s.pos] != word[n] {
			return s.syntax(word)
		}
		s.pos++
	}
	return nil
}

func (s *scanner) number() error {
	if s.data[s.pos] == '-' {
		s.pos++
	}
	if s.pos < len(s.data) && s.data[s.pos] == '0' {
		s.pos++
	} else if !s.digits() {
		return s.syntax("a digit")
	}
	if s.pos < len(s.data) && s.data[s.pos] == '.' {
		s.pos++
		if !s.digits() {
			return s.syntax("a digit")
		}
	}
	if s.pos < len(s.data) && (s.data[s.pos] == 'e' || s.data[s.pos] == 'E') {
		s.pos++
		if s.pos < len(s.data) && (s.data[s.pos] == '+' || s.data[s.pos] == '-') {
			s.pos++
		}
		if !s.digits() {
			return s.syntax("a digit")
		}
	}
	return nil
}

func (s *scanner) digits() bool {
	start := s.pos
	for s.pos < len(s.data) && s.data[s.pos] >= '0' && s.data[s.pos] <= '9' {
		s.pos++
	}
	return s.pos > start
}

// null steps over a null if one is next.
func (s *scanner) null() (bool, error) {
	if s.peek() != 'n' {
		return false, nil
	}
	return true, s.literal("null")
}
