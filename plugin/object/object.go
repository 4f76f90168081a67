// Package object is one Kubernetes object as the raw JSON that a server sent:
// its identity is read at once, its content is decoded only when somebody
// asks. It does not talk to a cluster and never changes the bytes.
package object

import (
	"fmt"
	"strconv"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
	kjson "sigs.k8s.io/json"
)

// Owner is one entry of metadata.ownerReferences.
type Owner struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	UID        string `json:"uid"`
	Controller bool   `json:"controller"`
}

// Object is one object. Raw is the server's JSON, byte for byte, and must not
// be changed.
type Object struct {
	Ref         v1alpha1.Ref
	UID         string
	Version     string // metadata.resourceVersion
	Labels      map[string]string
	Annotations map[string]string
	Owners      []Owner
	Deleting    bool // metadata.deletionTimestamp is set
	Raw         []byte

	content map[string]any
}

// Parse reads the identity of one object. raw must carry apiVersion and kind,
// and is kept. It is checked to be JSON, but what lies below metadata is not
// looked at.
func Parse(raw []byte) (*Object, error) {
	h, err := scanHeader(&scanner{data: raw}, true)
	if err != nil {
		return nil, fmt.Errorf("read object: %w", err)
	}
	h.Raw = raw
	return h.object("", "")
}

// header is an object whose apiVersion and kind are not yet taken apart.
type header struct {
	apiVersion, kind string
	Object
}

// object sets the identity, filling what the header lacks.
func (h *header) object(apiVersion, kind string) (*Object, error) {
	o := &h.Object
	if h.apiVersion != "" {
		apiVersion = h.apiVersion
	}
	if h.kind != "" {
		kind = h.kind
	}
	if apiVersion == "" || kind == "" || o.Ref.Name == "" {
		return nil, fmt.Errorf("read object: apiVersion, kind and metadata.name must be set, got %q, %q, %q", apiVersion, kind, o.Ref.Name)
	}
	o.Ref.Group, o.Ref.Version = SplitAPIVersion(apiVersion)
	o.Ref.Kind = kind
	return o, nil
}

// parseFront reads the object at the front of data and says how long it is.
// Its Raw is a copy, with apiVersion and kind put in front where they lack.
func parseFront(data []byte, apiVersion, kind string) (*Object, int, error) {
	s := scanner{data: data}
	h, err := scanHeader(&s, false)
	if err != nil {
		return nil, 0, err
	}
	var front []byte
	if h.apiVersion == "" {
		front = strconv.AppendQuote(append(front, `"apiVersion":`...), apiVersion)
		front = append(front, ',')
	}
	if h.kind == "" {
		front = strconv.AppendQuote(append(front, `"kind":`...), kind)
		front = append(front, ',')
	}
	if h.apiVersion == "" || h.kind == "" {
		h.Raw = make([]byte, 0, s.pos+len(front))
		h.Raw = append(append(append(h.Raw, '{'), front...), data[1:s.pos]...)
	} else {
		h.Raw = append(make([]byte, 0, s.pos), data[:s.pos]...)
	}
	o, err := h.object(apiVersion, kind)
	return o, s.pos, err
}

// scanHeader reads an object's identity. Of a key that stands twice the last
// one counts. whole says that nothing may follow the object.
func scanHeader(s *scanner, whole bool) (*header, error) {
	h := &header{}
	err := s.members(func(key []byte) (err error) {
		switch string(key) {
		case "apiVersion":
			h.apiVersion, err = s.text()
		case "kind":
			h.kind, err = s.text()
		case "metadata":
			err = s.metadata(&h.Object)
		default:
			err = s.value()
		}
		return err
	})
	if err == nil && whole && s.peek() != 0 {
		err = s.syntax("the end")
	}
	return h, err
}

func (s *scanner) metadata(o *Object) error {
	if null, err := s.null(); null || err != nil {
		return err
	}
	return s.members(func(key []byte) (err error) {
		switch string(key) {
		case "name":
			o.Ref.Name, err = s.text()
		case "namespace":
			o.Ref.Namespace, err = s.text()
		case "uid":
			o.UID, err = s.text()
		case "resourceVersion":
			o.Version, err = s.text()
		case "deletionTimestamp":
			var at string
			at, err = s.text()
			o.Deleting = at != ""
		case "labels":
			o.Labels, err = s.texts()
		case "annotations":
			o.Annotations, err = s.texts()
		case "ownerReferences":
			o.Owners, err = s.owners()
		default:
			err = s.value()
		}
		if err != nil && err != errTruncated {
			return fmt.Errorf("metadata.%s: %w", key, err)
		}
		return err
	})
}

// texts reads a map of strings.
func (s *scanner) texts() (map[string]string, error) {
	if null, err := s.null(); null || err != nil {
		return nil, err
	}
	m := map[string]string{}
	err := s.members(func(key []byte) error {
		k := string(key)
		v, err := s.text()
		m[k] = v
		return err
	})
	return m, err
}

func (s *scanner) owners() ([]Owner, error) {
	if null, err := s.null(); null || err != nil {
		return nil, err
	}
	owners := []Owner{}
	err := s.elements(func() error {
		var w Owner
		null, err := s.null()
		if !null && err == nil {
			err = s.members(func(key []byte) (err error) {
				switch string(key) {
				case "apiVersion":
					w.APIVersion, err = s.text()
				case "kind":
					w.Kind, err = s.text()
				case "name":
					w.Name, err = s.text()
				case "uid":
					w.UID, err = s.text()
				case "controller":
					w.Controller = s.peek() == 't'
					err = s.value()
				default:
					err = s.value()
				}
				return err
			})
		}
		owners = append(owners, w)
		return err
	})
	return owners, err
}

// SplitAPIVersion splits group/version; the core group is empty.
func SplitAPIVersion(s string) (group, version string) {
	for i := 0; i < len(s); i++ {
		if s[i] == '/' {
			return s[:i], s[i+1:]
		}
	}
	return "", s
}

// Content is the decoded object, decoded once. Whole numbers are int64, others
// float64. Callers must not change it: rewriting works on a copy.
func (o *Object) Content() (map[string]any, error) {
	if o.content == nil {
		var m map[string]any
		if err := kjson.UnmarshalCaseSensitivePreserveInts(o.Raw, &m); err != nil {
			return nil, fmt.Errorf("decode %s: %w", o.Ref, err)
		}
		o.content = m
	}
	return o.content, nil
}

// Release forgets the decoded content, so that a caller that keeps the object
// keeps only its bytes.
func (o *Object) Release() { o.content = nil }

// Controller is the owner that manages this object, if there is one.
func (o *Object) Controller() (Owner, bool) {
	for _, w := range o.Owners {
		if w.Controller {
			return w, true
		}
	}
	return Owner{}, false
}
