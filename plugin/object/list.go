package object

import (
	"errors"
	"fmt"
	"strconv"
)

// ListMeta is what a list says about itself.
type ListMeta struct {
	// Continue is the token for the next page; empty on the last one.
	Continue string
	Version  string // metadata.resourceVersion of the list
	// Remaining is the server's estimate of what follows, or 0.
	Remaining int64
}

// ParseList calls each for every item of one list response, in its order. The
// items are copies, so that data can be used again. Items of built-in kinds
// carry no apiVersion and kind: those given here are put in front of theirs.
//
// Nothing should be taken from a list that ends in an error: it may be cut.
func ParseList(data []byte, apiVersion, kind string, each func(*Object) error) (ListMeta, error) {
	var meta ListMeta
	items := false
	s := scanner{data: data}
	err := s.members(func(key []byte) error {
		switch string(key) {
		case "metadata":
			return s.listMeta(&meta)
		case "items":
			items = true
			if null, err := s.null(); null || err != nil {
				return err
			}
			return s.elements(func() error {
				o, n, err := parseFront(s.data[s.pos:], apiVersion, kind)
				if err != nil {
					return err
				}
				s.pos += n
				return each(o)
			})
		default:
			return s.value()
		}
	})
	if err == nil && s.peek() != 0 {
		err = s.syntax("the end")
	}
	if err == nil && !items {
		err = errors.New("it has no items")
	}
	if err != nil {
		return ListMeta{}, fmt.Errorf("read list of %s: %w", kind, err)
	}
	return meta, nil
}

func (s *scanner) listMeta(meta *ListMeta) error {
	return s.members(func(key []byte) (err error) {
		switch string(key) {
		case "continue":
			meta.Continue, err = s.text()
		case "resourceVersion":
			meta.Version, err = s.text()
		case "remainingItemCount":
			start := s.pos
			if err = s.value(); err == nil {
				// A null or an odd number is no estimate.
				meta.Remaining, _ = strconv.ParseInt(string(s.data[start:s.pos]), 10, 64)
			}
		default:
			err = s.value()
		}
		return err
	})
}
