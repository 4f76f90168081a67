package v1alpha1

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// maxNodes bounds a document, aliases written out, so that a few lines of
// nested aliases cannot fill the memory.
const maxNodes = 200_000

// walk fills a Go value from YAML nodes by the json tags of its type, and
// notes every fault and the position of every field. It does what a strict
// JSON decoder would do, but does not stop at the first fault and knows where
// it is.
type walk struct {
	file      string
	positions positions
	faults    []*FieldError
	known     map[string]bool // paths that faults already speak about
	nodes     int
}

func (w *walk) refuse(n *yaml.Node, path, hint, format string, args ...any) {
	w.known[path] = true
	w.faults = append(w.faults, &FieldError{
		Position: Position{w.file, n.Line, n.Column}, Path: path, Message: fmt.Sprintf(format, args...), Hint: hint})
}

// explained says whether a fault at path follows from one that was found
// while reading: at the same field, inside it or around it.
func (w *walk) explained(path string) bool {
	for p := path; p != ""; p = parent(p) {
		if w.known[p] {
			return true
		}
	}
	for p := range w.known {
		if strings.HasPrefix(p, path+".") || strings.HasPrefix(p, path+"[") {
			return true
		}
	}
	return false
}

func (w *walk) value(n *yaml.Node, v reflect.Value, path string) {
	if _, ok := w.positions[path]; !ok {
		w.positions[path] = Position{w.file, n.Line, n.Column}
	}
	w.nodes++
	if w.nodes > maxNodes {
		if w.nodes == maxNodes+1 {
			w.refuse(n, path, "", "the document has more than %d values", maxNodes)
		}
		return
	}
	n = resolveAlias(n)
	if isNull(n) {
		return // as in Kubernetes, null is the same as not written
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		w.value(n, v.Elem(), path)
		return
	}
	if u, ok := v.Addr().Interface().(json.Unmarshaler); ok {
		w.custom(n, v, u, path)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		w.structure(n, v, path)
	case reflect.Map:
		w.mapping(n, v, path)
	case reflect.Slice:
		w.sequence(n, v, path)
	case reflect.String:
		if n.Kind != yaml.ScalarNode || n.ShortTag() != yaml.NodeTagString {
			hint := ""
			if n.Kind == yaml.ScalarNode {
				hint = "put it in quotes"
			}
			w.refuse(n, path, hint, "expected a string, got %s", nodeType(n))
			return
		}
		v.SetString(n.Value)
	case reflect.Bool:
		b, err := strconv.ParseBool(n.Value)
		if n.Kind != yaml.ScalarNode || n.ShortTag() != yaml.NodeTagBool || err != nil {
			w.refuse(n, path, "write true or false without quotes", "expected true or false, got %s", nodeType(n))
			return
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int32, reflect.Int64:
		var i int64
		if n.Kind != yaml.ScalarNode || n.ShortTag() != yaml.NodeTagInt || n.Decode(&i) != nil || v.OverflowInt(i) {
			w.refuse(n, path, "", "expected a whole number, got %s", nodeType(n))
			return
		}
		v.SetInt(i)
	case reflect.Float64:
		var f float64
		number := n.ShortTag() == yaml.NodeTagInt || n.ShortTag() == yaml.NodeTagFloat
		if n.Kind != yaml.ScalarNode || !number || n.Decode(&f) != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			w.refuse(n, path, "", "expected a number, got %s", nodeType(n))
			return
		}
		v.SetFloat(f)
	default:
		w.refuse(n, path, "", "cannot be written in a document")
	}
}

// custom reads a type that has a text form of its own.
func (w *walk) custom(n *yaml.Node, v reflect.Value, u json.Unmarshaler, path string) {
	var content any
	err := n.Decode(&content)
	var raw []byte
	if err == nil {
		raw, err = json.Marshal(content)
	}
	if err == nil {
		err = u.UnmarshalJSON(raw)
	}
	if err == nil {
		return
	}
	switch v.Type() {
	case reflect.TypeFor[metav1.Duration]():
		w.refuse(n, path, "", `expected a duration such as "90s" or "1h30m", got %s`, nodeType(n))
	case reflect.TypeFor[resource.Quantity]():
		w.refuse(n, path, "write a number and a unit without a blank between them, and Ki, Mi, Gi for powers of 1024",
			`expected a quantity such as "500m", "2" or "512Mi", got %s`, nodeType(n))
	default:
		w.refuse(n, path, "", "not a %s: %v", v.Type().Name(), err)
	}
}

func (w *walk) sequence(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.SequenceNode {
		w.refuse(n, path, "", "expected a list, got %s", nodeType(n))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, item := range n.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		if isNull(resolveAlias(item)) {
			w.refuse(item, at, "", "an entry of a list must not be empty")
			continue
		}
		w.value(item, v.Index(i), at)
	}
}

func (w *walk) mapping(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		w.refuse(n, path, "", "expected a map, got %s", nodeType(n))
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for _, f := range w.fields(n, path) {
		at := fmt.Sprintf("%s[%q]", path, f.key.Value)
		if plainKey(f.key.Value) {
			at = path + "." + f.key.Value
		}
		item := reflect.New(v.Type().Elem()).Elem()
		w.value(f.value, item, at)
		v.SetMapIndex(reflect.ValueOf(f.key.Value).Convert(v.Type().Key()), item)
	}
}

func (w *walk) structure(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		w.refuse(n, path, "", "expected a map, got %s", nodeType(n))
		return
	}
	known := jsonFields(v.Type(), nil)
	names := make([]string, len(known))
	for i, k := range known {
		names[i] = k.name
	}
	written := map[string]bool{}
	for _, f := range w.fields(n, path) {
		at := join(path, f.key.Value)
		i := indexOf(names, f.key.Value)
		if i < 0 {
			meant, hint := Nearest(f.key.Value, names), didYouMean(f.key.Value, names)
			if old := renamed[v.Type()][f.key.Value]; old.now != "" {
				meant, hint = old.now, old.hint
			}
			w.refuse(f.key, at, hint, "unknown field")
			if meant != "" {
				written[meant] = true
				w.known[join(path, meant)] = true
			}
			continue
		}
		written[f.key.Value] = true
		w.positions[at] = Position{w.file, f.key.Line, f.key.Column}
		w.value(f.value, v.FieldByIndex(known[i].index), at)
	}
	for _, k := range known {
		if k.required && !written[k.name] {
			w.refuse(n, join(path, k.name), "", "is required")
		}
	}
}

// renamed are fields that people know under another name.
var renamed = map[reflect.Type]map[string]struct{ now, hint string }{
	reflect.TypeFor[Trigger](): {
		"on":   {"event", "write event: PodReady or event: PodTerminating; many YAML parsers read the key on as true"},
		"true": {"event", "write event: PodReady or event: PodTerminating; a YAML parser has read the key on as true"},
	},
}

type keyValue struct{ key, value *yaml.Node }

// fields are the entries of a map, merge keys written out, duplicates refused.
func (w *walk) fields(n *yaml.Node, path string) []keyValue {
	var own, merged []keyValue
	first := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.ShortTag() == yaml.MergeTag {
			merged = append(merged, w.merge(value, path)...)
			continue
		}
		key = resolveAlias(key)
		if key.Kind != yaml.ScalarNode {
			w.refuse(n.Content[i], path, "", "a key must be a word, got %s", nodeType(key))
			continue
		}
		if before := first[key.Value]; before != nil {
			w.refuse(n.Content[i], join(path, key.Value), "", "is written twice, the first time on line %d", before.Line)
			continue
		}
		first[key.Value] = n.Content[i]
		own = append(own, keyValue{key, value})
	}
	for _, f := range merged {
		if first[f.key.Value] == nil {
			first[f.key.Value] = f.key
			own = append(own, f)
		}
	}
	return own
}

func (w *walk) merge(n *yaml.Node, path string) []keyValue {
	w.nodes++
	target := resolveAlias(n)
	switch {
	case w.nodes > maxNodes:
		return nil
	case target.Kind == yaml.MappingNode:
		return w.fields(target, path)
	case target.Kind == yaml.SequenceNode:
		var all []keyValue
		for _, item := range target.Content {
			all = append(all, w.merge(item, path)...)
		}
		return all
	}
	w.refuse(n, path, "", "<< must be followed by maps, got %s", nodeType(target))
	return nil
}

type jsonField struct {
	name     string
	index    []int
	required bool
}

// jsonFields lists what a struct's json tags allow, inlined structs included,
// in the order of the type.
func jsonFields(t reflect.Type, index []int) []jsonField {
	var fields []jsonField
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("json")
		if !f.IsExported() || tag == "" || tag == "-" {
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		at := append(append([]int{}, index...), i)
		if name == "" {
			fields = append(fields, jsonFields(f.Type, at)...)
			continue
		}
		fields = append(fields, jsonField{name: name, index: at, required: !strings.Contains(options, "omit")})
	}
	return fields
}

func resolveAlias(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias // an anchor never stands on an alias
	}
	return n
}

func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.ShortTag() == yaml.NodeTagNull
}

// nodeType names what stands there and never says its value, which may be a
// password.
func nodeType(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a map"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return nodeType(n.Alias)
	}
	switch n.ShortTag() {
	case yaml.NodeTagString:
		return "a string"
	case yaml.NodeTagBool:
		return "true or false"
	case yaml.NodeTagInt, yaml.NodeTagFloat:
		return "a number"
	case yaml.NodeTagNull:
		return "nothing"
	case "!!timestamp":
		return "a date"
	}
	return "a value tagged " + n.ShortTag()
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// plainKey says whether a map key can stand in a path without quotes.
func plainKey(s string) bool {
	return s != "" && !strings.ContainsAny(s, ".[]\" /")
}

func indexOf(names []string, name string) int {
	for i, n := range names {
		if n == name {
			return i
		}
	}
	return -1
}
