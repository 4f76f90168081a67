package v1alpha1

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"
)

const (
	policyKind  = "BackupPolicy"
	remoteKind  = "BackupRemote"
	recipeKind  = "BackupRecipe"
	rewriteKind = "RewriteSet"
)

var kinds = []string{policyKind, remoteKind, recipeKind, rewriteKind}

// Decode reads every document in data, YAML or JSON, separated by "---" or
// wrapped in a List. name stands in the errors. Nothing unknown is passed
// over but documents of other API groups, and every fault of every document
// is reported at once, as a UsageError.
func Decode(name string, data []byte) (*Documents, error) {
	d := decoding{file: name, docs: &Documents{}}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		err := decoder.Decode(&doc)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			d.faults = append(d.faults, syntaxFault(name, data, err))
			break
		}
		if len(doc.Content) == 1 {
			d.document(doc.Content[0])
		}
	}
	if len(d.faults) == 0 {
		d.faults = d.docs.duplicates()
	}
	if err := JoinFieldErrors(d.faults); err != nil {
		return nil, err
	}
	return d.docs, nil
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

func syntaxFault(file string, data []byte, err error) *FieldError {
	at := Position{File: file}
	message := err.Error()
	if m := yamlLine.FindStringSubmatch(message); m != nil {
		at.Line, _ = strconv.Atoi(m[1])
		message = message[len(m[0]):]
	}
	if at.Line == 0 {
		at.Line = lineOfError(data, err.Error())
	}
	return &FieldError{Position: at, Message: "not valid YAML or JSON: " + message}
}

// lineOfError finds the line of a fault that the parser gives without one: the
// first line that, with all before it, fails in the same way.
func lineOfError(data []byte, message string) int {
	lines := bytes.SplitAfter(data, []byte("\n"))
	n := sort.Search(len(lines), func(i int) bool {
		decoder := yaml.NewDecoder(bytes.NewReader(bytes.Join(lines[:i+1], nil)))
		for {
			var doc yaml.Node
			if err := decoder.Decode(&doc); err != nil {
				return err.Error() == message
			}
		}
	})
	return min(n+1, len(lines))
}

// decoding is the work on one file.
type decoding struct {
	file   string
	docs   *Documents
	faults []*FieldError
}

func (d *decoding) document(n *yaml.Node) {
	if isNull(n) {
		return // nothing between two separators
	}
	at := Position{d.file, n.Line, n.Column}
	refuse := func(path, message, hint string) {
		d.faults = append(d.faults, &FieldError{Position: at, Path: path, Message: message, Hint: hint})
	}
	if n.Kind != yaml.MappingNode {
		refuse("", "expected a document with apiVersion and kind, got "+nodeType(n), "")
		return
	}
	apiVersion, apiVersionAt := scalarField(n, "apiVersion")
	kind, kindAt := scalarField(n, "kind")
	group, _, _ := strings.Cut(apiVersion, "/")
	ourGroup, _, _ := strings.Cut(APIVersion, "/")
	if apiVersionAt != nil {
		at = Position{d.file, apiVersionAt.Line, apiVersionAt.Column}
	}
	switch {
	case apiVersion == "" && hasField(n, "apiVersion"):
		refuse("apiVersion", "expected a string", fmt.Sprintf("write apiVersion: %s", APIVersion))
	case apiVersion == "":
		refuse("apiVersion", "is missing", fmt.Sprintf("write apiVersion: %s", APIVersion))
	case apiVersion == "v1" && kind == "List", apiVersion == APIVersion && strings.HasSuffix(kind, "List"):
		d.list(n)
	case apiVersion == APIVersion:
		if kindAt != nil {
			at = Position{d.file, kindAt.Line, kindAt.Column}
		}
		d.ours(n, kind, refuse)
	case group == ourGroup:
		refuse("apiVersion", fmt.Sprintf("version %q is not known", apiVersion), "this program reads "+APIVersion)
	case Nearest(group, []string{ourGroup}) != "":
		refuse("apiVersion", fmt.Sprintf("group %q is not known", group), fmt.Sprintf("did you mean %q?", APIVersion))
	default:
		d.docs.Foreign++
	}
}

func (d *decoding) list(n *yaml.Node) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		items := resolveAlias(n.Content[i+1])
		if n.Content[i].Value != "items" || items.Kind != yaml.SequenceNode {
			continue
		}
		for _, item := range items.Content {
			if item.Kind == yaml.AliasNode {
				d.faults = append(d.faults, &FieldError{Position: Position{d.file, item.Line, item.Column}, Path: "items",
					Message: "a document must be written out, not be an alias"})
				continue
			}
			d.document(item)
		}
	}
}

func (d *decoding) ours(n *yaml.Node, kind string, refuse func(path, message, hint string)) {
	w := &walk{file: d.file, positions: positions{}, known: map[string]bool{}}
	var semantic []*FieldError
	switch kind {
	case policyKind:
		p := &BackupPolicy{positions: w.positions}
		w.value(n, reflect.ValueOf(p).Elem(), "")
		semantic = p.faults()
		p.Defaults()
		d.docs.Policies = append(d.docs.Policies, p)
	case remoteKind:
		r := &BackupRemote{positions: w.positions}
		w.value(n, reflect.ValueOf(r).Elem(), "")
		semantic = r.faults()
		d.docs.Remotes = append(d.docs.Remotes, r)
	case recipeKind:
		r := &BackupRecipe{positions: w.positions}
		w.value(n, reflect.ValueOf(r).Elem(), "")
		semantic = r.faults()
		r.Defaults()
		d.docs.Recipes = append(d.docs.Recipes, r)
	case rewriteKind:
		r := &RewriteSet{positions: w.positions}
		w.value(n, reflect.ValueOf(r).Elem(), "")
		semantic = r.faults()
		d.docs.Rewrites = append(d.docs.Rewrites, r)
	case "":
		message := "is missing"
		if hasField(n, "kind") {
			message = "expected a string"
		}
		refuse("kind", message, "write kind: "+strings.Join(kinds, " or kind: "))
		return
	default:
		refuse("kind", fmt.Sprintf("unknown kind %q", kind), didYouMean(kind, kinds))
		return
	}
	d.faults = append(d.faults, w.faults...)
	for _, f := range semantic {
		// What could not be read must not be called empty as well.
		if !w.explained(f.Path) {
			d.faults = append(d.faults, f)
		}
	}
}

func scalarField(n *yaml.Node, name string) (string, *yaml.Node) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name && n.Content[i+1].Kind == yaml.ScalarNode {
			return n.Content[i+1].Value, n.Content[i+1]
		}
	}
	return "", nil
}

func hasField(n *yaml.Node, name string) bool {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return true
		}
	}
	return false
}
