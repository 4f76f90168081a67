package rewrite

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Manifests is a stream of objects as people keep them: YAML documents, JSON,
// a List, or the ResourceList of a KRM function. What is not changed is
// written as it was read, byte for byte; what is changed keeps its comments
// and the order of its fields.
type Manifests struct {
	documents []*document
	// resources is the document that is a ResourceList, or nil.
	resources *document
}

// document is one part between separators.
type document struct {
	name string
	part
	node    *yaml.Node // nil where there is nothing in it
	json    bool
	objects []*manifest
	changed bool
}

// manifest is one object of a document.
type manifest struct {
	node  *yaml.Node
	draft *Draft
	from  map[string]any // as it was read
	path  string         // of a ResourceList: the file that it is from
}

// Read adds the documents of one file. name stands in errors.
func (m *Manifests) Read(name string, data []byte) error {
	for i, part := range splitDocuments(data) {
		d := &document{name: name, part: part, json: bytes.HasPrefix(bytes.TrimSpace(part.text), []byte("{"))}
		if i == 0 && len(m.documents) > 0 && len(d.before) == 0 {
			d.before = []byte("---\n") // where a new file begins
		}
		m.documents = append(m.documents, d)
		var root yaml.Node
		decoder := yaml.NewDecoder(bytes.NewReader(part.text))
		err := decoder.Decode(&root)
		if errors.Is(err, io.EOF) {
			continue
		}
		if err != nil {
			return v1alpha1.Usagef("%s: not YAML or JSON: %w", name, err)
		}
		if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
			return v1alpha1.Usagef("%s: two documents without a line that is --- between them", name)
		}
		if len(root.Content) != 1 || root.Content[0].Kind != yaml.MappingNode {
			continue
		}
		d.node = &root
		if err := m.objectsOf(d); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

var separator = regexp.MustCompile(`^---[ \t]*(#.*)?\r?\n?$`)

// part is a document and the separator before it, if there is one.
type part struct{ before, text []byte }

// splitDocuments cuts at lines that separate documents. The parts, one after
// the other, are the data again.
func splitDocuments(data []byte) []part {
	var out []part
	var now part
	start := 0
	for at := 0; at < len(data); {
		next := len(data)
		if end := bytes.IndexByte(data[at:], '\n'); end >= 0 {
			next = at + end + 1
		}
		if separator.Match(data[at:next]) {
			now.text = data[start:at]
			if len(now.before)+len(now.text) > 0 {
				out = append(out, now)
			}
			now, start = part{before: data[at:next]}, next
		}
		at = next
	}
	now.text = data[start:]
	return append(out, now)
}

func (m *Manifests) objectsOf(d *document) error {
	node := d.node.Content[0]
	v, err := valueOf(node)
	if err != nil {
		return err
	}
	content, _ := v.(map[string]any)
	kind, _ := content["kind"].(string)
	apiVersion, _ := content["apiVersion"].(string)
	if kind == "ResourceList" && strings.HasPrefix(apiVersion, "config.kubernetes.io/") {
		if m.resources != nil {
			return v1alpha1.Usagef("a second ResourceList")
		}
		m.resources = d
	}
	d.take(node, content)
	return nil
}

// take takes in an object, or those of a list, also of lists in it. A list has
// no name: what has one is an object, whatever its kind is called.
func (d *document) take(node *yaml.Node, content map[string]any) {
	kind, _ := content["kind"].(string)
	items, isList := content["items"].([]any)
	_, named := mapAt(content, "metadata")["name"]
	if !isList || named && kind != "ResourceList" || !strings.HasSuffix(kind, "List") {
		d.add(node, content)
		return
	}
	for _, pair := range pairs(node) {
		if pair.key.Value != "items" {
			continue
		}
		for i, n := range pair.value.Content {
			if item, ok := items[i].(map[string]any); ok {
				d.take(n, item)
			}
		}
	}
}

// add takes in what has the shape of an object; other documents go through.
func (d *document) add(n *yaml.Node, content map[string]any) {
	apiVersion, _ := content["apiVersion"].(string)
	kind, _ := content["kind"].(string)
	meta := mapAt(content, "metadata")
	if apiVersion == "" || kind == "" || meta == nil {
		return
	}
	ref := v1alpha1.Ref{Kind: kind}
	ref.Group, ref.Version = object.SplitAPIVersion(apiVersion)
	ref.Name, _ = meta["name"].(string)
	ref.Namespace, _ = meta["namespace"].(string)
	path, _ := mapAt(meta, "annotations")["config.kubernetes.io/path"].(string)
	d.objects = append(d.objects, &manifest{node: n, from: content, path: path,
		draft: &Draft{Ref: ref, Content: clone(content).(map[string]any)}})
}

// FunctionConfig is the configuration that a ResourceList carries, as YAML, or
// nil.
func (m *Manifests) FunctionConfig() ([]byte, error) {
	if m.resources == nil {
		return nil, nil
	}
	for _, pair := range pairs(m.resources.node.Content[0]) {
		if pair.key.Value == "functionConfig" {
			return encodeNode(pair.value, "")
		}
	}
	return nil, nil
}

// IsResourceList says whether a ResourceList was read, so that results belong
// into it.
func (m *Manifests) IsResourceList() bool { return m.resources != nil }

// Rewrite applies rules to every object. An object on which a rule fails has
// its error in the report and stays as it was.
func (m *Manifests) Rewrite(r Rules) (*v1alpha1.RewriteReport, error) {
	report := &v1alpha1.RewriteReport{APIVersion: v1alpha1.APIVersion, Kind: "RewriteReport", Result: v1alpha1.ResultComplete, Objects: []v1alpha1.RewrittenObject{}}
	if r.NeedsLearning() {
		for _, d := range m.documents {
			for _, o := range d.objects {
				if err := learnDraft(r, o.draft); err != nil {
					return nil, err
				}
			}
		}
	}
	matched := map[string]bool{}
	for _, d := range m.documents {
		for _, o := range d.objects {
			line := v1alpha1.RewrittenObject{Ref: o.draft.Ref, Changes: []v1alpha1.FieldChange{}}
			result, err := r.Apply(o.draft)
			for _, rule := range result.Matched {
				matched[rule] = true
			}
			if err != nil {
				line.NewRef, line.Error = line.Ref, err.Error()
				o.draft.Content = clone(o.from).(map[string]any)
				report.Result, report.ExitCode = v1alpha1.ResultPartial, 3
			} else {
				line.NewRef, line.Mentions, line.Warnings = o.draft.NewRef(), result.Mentions, result.Warnings
				for _, c := range result.Changes {
					line.Changes = append(line.Changes, v1alpha1.FieldChange(c))
				}
				if err := d.update(o); err != nil {
					return nil, fmt.Errorf("%s: %w", o.draft.Ref, err)
				}
			}
			report.Objects = append(report.Objects, line)
		}
	}
	for _, rule := range r.Names() {
		if !matched[rule] {
			report.Warnings = append(report.Warnings, rule+" matches nothing")
		}
	}
	if images := r.UnmatchedImages(); len(images) > 0 {
		report.Warnings = append(report.Warnings, "images that no map is about: "+strings.Join(images, ", "))
	}
	return report, nil
}

func learnDraft(r Rules, d *Draft) error {
	if d.Ref.Name == "" {
		return nil // its name is made by the server
	}
	raw, err := d.Encode()
	if err != nil {
		return err
	}
	o, err := object.Parse(raw)
	if err != nil {
		return err
	}
	return r.Learn(o)
}

func (d *document) update(m *manifest) error {
	if !reflect.DeepEqual(m.from, m.draft.Content) {
		writeOut(d.node)
	}
	changed, err := syncNode(m.node, m.from, m.draft.Content)
	d.changed = d.changed || changed
	return err
}

// Write writes the stream.
func (m *Manifests) Write(w io.Writer) error {
	ended := true // the last line that was written
	for _, d := range m.documents {
		text := d.text
		if d.changed {
			var err error
			if text, err = d.encode(); err != nil {
				return fmt.Errorf("write %s: %w", d.name, err)
			}
		}
		all := slices.Concat(d.before, text)
		if !ended && len(d.before) > 0 {
			all = slices.Concat([]byte("\n"), all)
		}
		if len(all) > 0 {
			ended = all[len(all)-1] == '\n'
		}
		if _, err := w.Write(all); err != nil {
			return err
		}
	}
	return nil
}

func (d *document) encode() ([]byte, error) {
	if !d.json {
		return encodeNode(d.node, string(d.text))
	}
	v, err := valueOf(d.node.Content[0])
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err = enc.Encode(v)
	return b.Bytes(), err
}

// encodeNode writes YAML with lists indented as in like.
func encodeNode(n *yaml.Node, like string) ([]byte, error) {
	var b bytes.Buffer
	enc := yaml.NewEncoderWithOptions(&b, &yaml.EncoderOptions{SeqIndent: yaml.SequenceIndentStyle(yaml.DeriveSeqIndentStyle(like))})
	if err := enc.Encode(n); err != nil {
		return nil, err
	}
	if err := enc.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
