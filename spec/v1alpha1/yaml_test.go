package v1alpha1

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// eachKey visits every key of every document with its path; root is the
// document that it stands in. visit may change the nodes if it puts them back.
func eachKey(t *testing.T, data []byte, visit func(path string, root, key, value *yaml.Node)) {
	t.Helper()
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var root yaml.Node
		err := decoder.Decode(&root)
		if errors.Is(err, io.EOF) {
			return
		}
		require.NoError(t, err)
		var walk func(n *yaml.Node, path string)
		walk = func(n *yaml.Node, path string) {
			switch n.Kind {
			case yaml.MappingNode:
				for i := 0; i+1 < len(n.Content); i += 2 {
					at := join(path, n.Content[i].Value)
					visit(at, &root, n.Content[i], n.Content[i+1])
					if i+1 < len(n.Content) {
						walk(n.Content[i+1], at)
					}
				}
			case yaml.SequenceNode:
				for i, item := range n.Content {
					walk(item, fmt.Sprintf("%s[%d]", path, i))
				}
			}
		}
		walk(root.Content[0], "")
	}
}

// drop takes a key and its value away.
func drop(n, key *yaml.Node) {
	for i, c := range n.Content {
		if c == key {
			n.Content = append(n.Content[:i:i], n.Content[i+2:]...)
			return
		}
		drop(c, key)
	}
}

func render(t *testing.T, root *yaml.Node) []byte {
	t.Helper()
	data, err := yaml.Marshal(root)
	require.NoError(t, err)
	return data
}

func toMap(t *testing.T, document any) map[string]any {
	t.Helper()
	data, err := json.Marshal(document)
	require.NoError(t, err)
	var m map[string]any
	require.NoError(t, json.Unmarshal(data, &m))
	return m
}

// requiredPaths are the paths, without indexes, that a type calls required.
func requiredPaths(t reflect.Type, path string, into map[string]bool) {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		requiredPaths(t.Elem(), path, into)
	case reflect.Struct:
		if strings.HasPrefix(t.PkgPath(), "k8s.io/") && t.Name() != "LabelSelector" && t.Name() != "LabelSelectorRequirement" && t.Name() != "TypeMeta" {
			return
		}
		for _, f := range jsonFields(t, nil) {
			at := join(path, f.name)
			if f.required {
				into[at] = true
			}
			requiredPaths(t.FieldByIndex(f.index).Type, at, into)
		}
	}
}

var index = regexp.MustCompile(`\[\d+\]`)

func generic(path string) string { return index.ReplaceAllString(path, "") }
