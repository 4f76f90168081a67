package rewrite

import (
	"encoding/base64"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"sync"
)

// lastApplied holds a whole object of its own; it is kept as it was, and what
// it says is what the object said.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// mentions lists the fields whose text holds an old namespace as part of a
// DNS name (web.old, web.old.svc), as a path (old/web), or as a whole value.
func (r Rules) mentions(d *Draft) []string {
	names := make([]string, 0, len(r.Namespaces))
	for from := range r.Namespaces {
		names = append(names, from)
	}
	sort.Strings(names)
	secret := d.Ref.Group == "" && d.Ref.Kind == "Secret"
	token := secret && d.Content["type"] == tokenSecretType
	var out []string
	for _, name := range names {
		pattern := mentionPattern(name)
		texts(d.Content, "", func(path, text string) {
			if !strings.Contains(text, name) && !secret || token && path == "data.namespace" {
				return // a token says where its account is, and is made anew
			}
			if secret && strings.HasPrefix(path, "data") {
				if b, err := base64.StdEncoding.DecodeString(text); err == nil {
					text = string(b)
				}
			}
			if pattern.MatchString(text) || text == name && namesNamespace(path) {
				out = append(out, path+" mentions the namespace "+name)
			}
		})
	}
	return out
}

// mentionPatterns are by namespace: the same few are looked for in every object.
var mentionPatterns sync.Map

func mentionPattern(name string) *regexp.Regexp {
	if p, ok := mentionPatterns.Load(name); ok {
		return p.(*regexp.Regexp)
	}
	q := regexp.QuoteMeta(name)
	p := regexp.MustCompile(`[a-z0-9]\.` + q + `(\.svc\b|[:/"'\s,]|$)|(^|[^a-z0-9./-])` + q + `/`)
	mentionPatterns.Store(name, p)
	return p
}

// namesNamespace says whether a field's own name says that it holds a
// namespace: in custom resources that no table knows.
func namesNamespace(path string) bool {
	return strings.Contains(strings.ToLower(path[strings.LastIndexByte(path, '.')+1:]), "namespace")
}

// texts visits each string that a person wrote; identity and bookkeeping are
// left out, and so are labels and keys, which select and are no free text.
func texts(content map[string]any, path string, visit func(path, text string)) {
	for _, k := range sortedKeys(content) {
		switch k {
		case "apiVersion", "kind", "status":
		case "metadata":
			notes := mapAt(content, "metadata", "annotations")
			for _, a := range sortedKeys(notes) {
				if s, ok := notes[a].(string); ok && a != lastApplied {
					visit(join("metadata.annotations", a), s)
				}
			}
		default:
			textsIn(content[k], join(path, k), visit)
		}
	}
}

func textsIn(v any, path string, visit func(path, text string)) {
	switch t := v.(type) {
	case string:
		visit(path, t)
	case map[string]any:
		for _, k := range sortedKeys(t) {
			textsIn(t[k], join(path, k), visit)
		}
	case []any:
		for i, e := range t {
			textsIn(e, path+"["+strconv.Itoa(i)+"]", visit)
		}
	}
}
