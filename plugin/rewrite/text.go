package rewrite

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/plugin/graph"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const textRule = "text"

// text follows the DNS names of Services, and mapped hosts, in the free text
// that the set names.
func (s *compiled) text(r Rules, d *Draft, out *Result) {
	if len(s.textIn) == 0 {
		return
	}
	edit := func(m map[string]any, key, at, setting string, bare bool) {
		if text, ok := m[key].(string); ok {
			s.editText(r, d, at, setting, text, bare, func(to string) { m[key] = to }, out)
		}
	}
	PodSpecs(d.Content, func(path string, _, spec map[string]any) {
		for _, list := range [...]string{"initContainers", "containers", "ephemeralContainers"} {
			for i, c := range listAt(spec, list) {
				at := fmt.Sprintf("%s.%s[%d]", path, list, i)
				if s.textIn[v1alpha1.TextEnv] {
					for j, e := range listAt(c, "env") {
						name, _ := e["name"].(string)
						edit(e, "value", fmt.Sprintf("%s.env[%d].value", at, j), name, true)
					}
				}
				if s.textIn[v1alpha1.TextArgs] {
					for _, key := range [...]string{"command", "args"} {
						words, _ := c[key].([]any)
						for j, w := range words {
							if text, ok := w.(string); ok {
								s.editText(r, d, fmt.Sprintf("%s.%s[%d]", at, key, j), "", text, false, func(to string) { words[j] = to }, out)
							}
						}
					}
				}
			}
		}
	})
	switch {
	case d.Ref.Group != "":
	case d.Ref.Kind == "ConfigMap" && s.textIn[v1alpha1.TextConfigMaps]:
		data := mapAt(d.Content, "data")
		for _, key := range sortedKeys(data) {
			edit(data, key, join("data", key), key, true)
		}
	case d.Ref.Kind == "Secret" && s.textIn[v1alpha1.TextSecrets]:
		s.secretText(r, d, out)
	case d.Ref.Kind == "Service":
		// An alias for another Service is a name in a field of its own.
		if spec := mapAt(d.Content, "spec"); spec["type"] == "ExternalName" {
			edit(spec, "externalName", "spec.externalName", "host", true)
		}
	}
	if s.textIn[v1alpha1.TextAnnotations] {
		notes := mapAt(d.Content, "metadata", "annotations")
		for _, key := range sortedKeys(notes) {
			if key != lastApplied {
				edit(notes, key, join("metadata.annotations", key), key, false)
			}
		}
	}
}

func (s *compiled) secretText(r Rules, d *Draft, out *Result) {
	data := mapAt(d.Content, "data")
	for _, key := range sortedKeys(data) {
		encoded, _ := data[key].(string)
		text, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			continue
		}
		s.editText(r, d, join("data", key), key, string(text), true, func(to string) {
			data[key] = base64.StdEncoding.EncodeToString([]byte(to))
		}, out)
	}
	plain := mapAt(d.Content, "stringData")
	for _, key := range sortedKeys(plain) {
		if text, ok := plain[key].(string); ok {
			s.editText(r, d, join("stringData", key), key, text, true, func(to string) { plain[key] = to }, out)
		}
	}
}

// editText follows every host of a text. Only the hosts are told of, since the
// rest of the text may be anything.
func (s *compiled) editText(r Rules, d *Draft, at, setting, text string, bare bool, put func(string), out *Result) {
	var from, to []string
	edited := graph.EditHosts(text, setting, bare, func(host string) (string, bool) {
		next, ok := s.serviceHost(r, host, d.Ref.Namespace)
		if !ok {
			next, _, ok = s.hostMaps.host(host)
		}
		if !ok || next == host {
			return "", false
		}
		from, to = append(from, host), append(to, next)
		return next, true
	})
	if edited != text {
		put(edited)
		out.changed(Change{Field: at, From: strings.Join(from, ", "), To: strings.Join(to, ", "), Rule: textRule})
	}
}

// serviceHost is the DNS name of a Service, or of a pod behind one, in the
// other place. A name with an svc label is one by itself; a shorter one is an
// ordinary word too, and counts where a Service of that name goes along.
func (s *compiled) serviceHost(r Rules, host, namespace string) (string, bool) {
	labels := strings.Split(host, ".")
	for i := 2; i < len(labels); i++ {
		if labels[i] == "svc" {
			return s.renameHost(r, labels, i-2, labels[i-1], i-1)
		}
	}
	known := func(ns, name string) bool { return s.learned.services[[2]string{ns, name}] }
	switch len(labels) {
	case 1:
		if known(namespace, labels[0]) {
			return s.renameHost(r, labels, 0, namespace, -1)
		}
	case 2:
		if known(labels[1], labels[0]) {
			return s.renameHost(r, labels, 0, labels[1], 1)
		}
		if known(namespace, labels[1]) {
			return s.renameHost(r, labels, 1, namespace, -1)
		}
	case 3:
		if known(labels[2], labels[1]) {
			return s.renameHost(r, labels, 1, labels[2], 2)
		}
	}
	return "", false
}

// renameHost changes the Service's label, the namespace's where it is written
// (at is not -1), and that of a pod before them.
func (s *compiled) renameHost(r Rules, labels []string, service int, namespace string, at int) (string, bool) {
	out := append([]string{}, labels...)
	if s.spec.Names != nil {
		s.learned.settle()
		if to, ok := s.learned.nameOf(v1alpha1.Ref{Kind: "Service", Namespace: namespace, Name: labels[service]}); ok {
			out[service] = to
		}
		if service == 1 {
			if to, ok := s.learned.podName(namespace, labels[0]); ok {
				out[0] = to
			}
		}
	}
	if at >= 0 {
		out[at] = r.Namespace(namespace)
	}
	return strings.Join(out, "."), true
}
