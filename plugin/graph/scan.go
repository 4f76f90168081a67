package graph

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
)

// scanner reads the data of a ConfigMap or a Secret out of the server's JSON
// without decoding the rest of it. The JSON is known to be valid: its header
// has been parsed. What it finds is kept no longer than the next entry.
type scanner struct {
	raw  []byte
	pos  int
	text []byte // scratch for a value with escapes in it
	bin  []byte // scratch for a decoded Secret value
}

// eachData calls visit with each key and value of the top-level field "data".
// encoded says that values are base64 (a Secret's); those that are not are
// passed over.
func (s *scanner) eachData(raw []byte, encoded bool, visit func(key, value []byte)) {
	s.raw, s.pos = raw, 0
	if !s.open('{') {
		return
	}
	for {
		name, ok := s.key()
		if !ok {
			return
		}
		if string(name) != "data" || !s.open('{') {
			s.skip()
			continue
		}
		for {
			key, ok := s.key()
			if !ok {
				return
			}
			if s.peek() != '"' {
				s.skip()
				continue
			}
			value := s.str()
			if encoded {
				if value, ok = s.decode(value); !ok {
					continue
				}
			}
			visit(key, value)
		}
	}
}

func (s *scanner) decode(value []byte) ([]byte, bool) {
	n := base64.StdEncoding.DecodedLen(len(value))
	if cap(s.bin) < n {
		s.bin = make([]byte, n)
	}
	n, err := base64.StdEncoding.Decode(s.bin[:n], value)
	// Keys, archives and other binary data hold no host names to be read.
	return s.bin[:n], err == nil && bytes.IndexByte(s.bin[:n], 0) < 0
}

func (s *scanner) peek() byte {
	for s.pos < len(s.raw) {
		switch c := s.raw[s.pos]; c {
		case ' ', '\t', '\n', '\r', ',', ':':
			s.pos++
		default:
			return c
		}
	}
	return 0
}

func (s *scanner) open(c byte) bool {
	if s.peek() != c {
		return false
	}
	s.pos++
	return true
}

// key is the next key of the map that the scanner stands in.
func (s *scanner) key() ([]byte, bool) {
	if s.peek() != '"' {
		return nil, false
	}
	start := s.pos
	s.skipString()
	raw := s.raw[start+1 : s.pos-1]
	if bytes.IndexByte(raw, '\\') >= 0 {
		var text string
		if json.Unmarshal(s.raw[start:s.pos], &text) == nil {
			raw = []byte(text)
		}
	}
	return raw, true
}

// str is the string that the scanner stands on, with its escapes resolved.
func (s *scanner) str() []byte {
	start := s.pos
	s.skipString()
	raw := s.raw[start+1 : s.pos-1]
	i := bytes.IndexByte(raw, '\\')
	if i < 0 {
		return raw
	}
	s.text = append(s.text[:0], raw[:i]...)
	for i < len(raw) {
		c := raw[i]
		if c != '\\' || i+1 >= len(raw) {
			s.text = append(s.text, c)
			i++
			continue
		}
		switch raw[i+1] {
		case 'n', 'r', 't', 'b', 'f':
			s.text = append(s.text, '\n')
		case 'u':
			// <, > and & are written so, and end a host name like any other
			// character that is not part of one.
			s.text = append(s.text, '<')
			i += 4
		default:
			s.text = append(s.text, raw[i+1])
		}
		i += 2
	}
	return s.text
}

func (s *scanner) skipString() {
	s.pos++
	for s.pos < len(s.raw) {
		i := bytes.IndexByte(s.raw[s.pos:], '"')
		if i < 0 {
			s.pos = len(s.raw) + 1
			return
		}
		end := s.pos + i
		escapes := 0
		for j := end - 1; j >= s.pos && s.raw[j] == '\\'; j-- {
			escapes++
		}
		s.pos = end + 1
		if escapes%2 == 0 {
			return
		}
	}
}

// skip passes over one value.
func (s *scanner) skip() {
	depth := 0
	for s.pos < len(s.raw) {
		switch s.peek() {
		case '"':
			s.skipString()
		case '{', '[':
			depth++
			s.pos++
			continue
		case '}', ']':
			depth--
			s.pos++
		default:
			for s.pos < len(s.raw) && !isJSONEnd(s.raw[s.pos]) {
				s.pos++
			}
		}
		if depth <= 0 {
			return
		}
	}
}

func isJSONEnd(c byte) bool {
	switch c {
	case ',', '}', ']', ' ', '\t', '\n', '\r':
		return true
	}
	return false
}
