// Package rewrite changes objects on their way into another place: it clears
// what a server had assigned, and follows name rules (namespaces, storage
// classes) through every field that refers to them.
//
// It is pure: no cluster, no clock, no I/O. It decides nothing about whether
// an object is restored, resolves nothing against a target, and leaves owner
// references to the caller, who alone knows the new UIDs.
package rewrite

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Draft is a decoded copy of one object that may be changed. Numbers keep the
// digits that the server sent: they are json.Number, never a float.
type Draft struct {
	// Ref is what the object was called where it was saved.
	Ref     v1alpha1.Ref
	Content map[string]any
}

// Decode makes a draft of an object; the object itself stays as it is.
func Decode(o *object.Object) (*Draft, error) {
	dec := json.NewDecoder(bytes.NewReader(o.Raw))
	dec.UseNumber()
	var content map[string]any
	if err := dec.Decode(&content); err != nil {
		return nil, fmt.Errorf("decode %s: %w", o.Ref, err)
	}
	return &Draft{Ref: o.Ref, Content: content}, nil
}

// Encode gives the draft as JSON.
func (d *Draft) Encode() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(d.Content); err != nil {
		return nil, fmt.Errorf("encode %s: %w", d.Ref, err)
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

// NewRef is what the object is called now, at the version that it has now.
func (d *Draft) NewRef() v1alpha1.Ref {
	r := d.Ref
	if apiVersion, ok := d.Content["apiVersion"].(string); ok && apiVersion != "" {
		r.Group, r.Version = object.SplitAPIVersion(apiVersion)
	}
	if kind, ok := d.Content["kind"].(string); ok && kind != "" {
		r.Kind = kind
	}
	meta := mapAt(d.Content, "metadata")
	r.Name, _ = meta["name"].(string)
	r.Namespace, _ = meta["namespace"].(string)
	return r
}

// Differences names the fields in which two drafts differ, at most max of
// them, in a stable order.
func Differences(want, have map[string]any, max int) []string {
	var out []string
	differences(want, have, "", max, &out)
	return out
}

func differences(want, have any, path string, max int, out *[]string) {
	if len(*out) >= max {
		return
	}
	w, wok := want.(map[string]any)
	h, hok := have.(map[string]any)
	if wok && hok {
		for _, k := range sortedKeys(w, h) {
			wv, inWant := w[k]
			hv, inHave := h[k]
			at := join(path, k)
			switch {
			case !inHave:
				*out = append(*out, at+" is missing")
			case !inWant:
				*out = append(*out, at+" is extra")
			default:
				differences(wv, hv, at, max, out)
			}
			if len(*out) >= max {
				return
			}
		}
		return
	}
	if !reflect.DeepEqual(want, have) {
		*out = append(*out, path+" differs")
	}
}

func join(path, key string) string {
	if strings.ContainsAny(key, "./") {
		key = "[" + strconv.Quote(key) + "]"
	} else if path != "" {
		key = "." + key
	}
	return path + key
}

// mapAt walks maps by key; nil where there is none, which reads as empty.
func mapAt(m map[string]any, keys ...string) map[string]any {
	for _, k := range keys {
		next, ok := m[k].(map[string]any)
		if !ok {
			return nil
		}
		m = next
	}
	return m
}

// listAt gives the maps of the list that ends a path.
func listAt(m map[string]any, keys ...string) []map[string]any {
	m = mapAt(m, keys[:len(keys)-1]...)
	list, _ := m[keys[len(keys)-1]].([]any)
	out := make([]map[string]any, 0, len(list))
	for _, e := range list {
		if em, ok := e.(map[string]any); ok {
			out = append(out, em)
		}
	}
	return out
}

// drop removes keys and, where that empties the map, the map from its parent:
// an empty map that a server never sent would be a change of its own.
func drop(parent map[string]any, key string, names ...string) {
	m, ok := parent[key].(map[string]any)
	if !ok {
		return
	}
	before := len(m)
	for _, n := range names {
		delete(m, n)
	}
	if len(m) == 0 && before > 0 {
		delete(parent, key)
	}
}

// Manifest is an object as a person would apply it: without anything that a
// server or a controller had assigned.
func Manifest(o *object.Object, c CleanOptions) ([]byte, error) {
	d, err := Decode(o)
	if err != nil {
		return nil, err
	}
	Clean(d, c)
	if meta := mapAt(d.Content, "metadata"); meta != nil {
		delete(meta, "managedFields")
		delete(meta, "ownerReferences")
	}
	return d.Encode()
}
