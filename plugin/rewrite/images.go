package rewrite

import (
	"fmt"
	"slices"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/plugin/graph"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// image is a reference to a container image, taken apart.
type image struct {
	// path is the registry and the repository, with what is implied written
	// out: busybox is docker.io/library/busybox.
	path string
	// rest is the tag and the digest, as written.
	rest string
}

const dockerHub = "docker.io"

func parseImage(reference string) (image, bool) {
	name, digest, hasDigest := strings.Cut(reference, "@")
	rest := ""
	if colon := strings.LastIndexByte(name, ':'); colon > strings.LastIndexByte(name, '/') {
		name, rest = name[:colon], name[colon:]
	}
	if hasDigest {
		rest += "@" + digest
	}
	if name == "" || strings.ContainsAny(reference, " \t\n$") {
		return image{}, false
	}
	return image{canonical(name), rest}, true
}

// canonical writes out what a name leaves to be understood.
func canonical(name string) string {
	registry, repository, hasRegistry := strings.Cut(name, "/")
	if !hasRegistry || !strings.ContainsAny(registry, ".:") && registry != "localhost" && registry == strings.ToLower(registry) {
		registry, repository = dockerHub, name
	}
	registry = strings.ToLower(registry)
	if registry == "index.docker.io" {
		registry = dockerHub
	}
	if registry == dockerHub && !strings.Contains(repository, "/") {
		repository = "library/" + repository
	}
	return registry + "/" + repository
}

// prefixOf is a map's side in the same form; a registry alone stays alone.
func prefixOf(s string) string {
	registry, path, hasPath := strings.Cut(s, "/")
	registry = strings.ToLower(registry)
	if registry == "index.docker.io" {
		registry = dockerHub
	}
	if !hasPath {
		return registry
	}
	return registry + "/" + path
}

func compileImages(list []v1alpha1.ImageMap) []v1alpha1.ImageMap {
	out := make([]v1alpha1.ImageMap, len(list))
	for i, m := range list {
		out[i] = v1alpha1.ImageMap{From: prefixOf(m.From), To: m.To}
	}
	slices.SortStableFunc(out, func(a, b v1alpha1.ImageMap) int { return len(b.From) - len(a.From) })
	return out
}

func imageRule(m v1alpha1.ImageMap) string { return "image " + m.From + "=" + m.To }

// mapImage is an image's name in the other place. A prefix ends where a part
// of the path ends.
func (s *compiled) mapImage(reference string) (to string, rule string, ok bool) {
	i, parsed := parseImage(reference)
	if !parsed {
		return "", "", false
	}
	for _, m := range s.imageMaps {
		rest, found := strings.CutPrefix(i.path, m.From)
		if found && (rest == "" || rest[0] == '/') {
			return m.To + rest + i.rest, imageRule(m), true
		}
	}
	return "", "", false
}

// arrived says whether an image is already where a map sends images.
func (s *compiled) arrived(reference string) bool {
	i, _ := parseImage(reference)
	return slices.ContainsFunc(s.imageMaps, func(m v1alpha1.ImageMap) bool {
		rest, found := strings.CutPrefix(i.path, prefixOf(m.To))
		return found && (rest == "" || rest[0] == '/')
	})
}

// mapImages changes the images of containers and of image volumes in the kinds
// that run pods. Other kinds hold images only where spec.fields says so: a
// string of the same shape may mean anything there.
func (s *compiled) mapImages(d *Draft, out *Result) {
	if len(s.imageMaps) == 0 || !graph.IsWorkload(d.Ref) && (d.Ref.Group != "" || d.Ref.Kind != "PodTemplate") {
		return
	}
	PodSpecs(d.Content, func(path string, _, spec map[string]any) {
		for _, list := range [...]string{"initContainers", "containers", "ephemeralContainers"} {
			for i, c := range listAt(spec, list) {
				s.imageField(c, "image", fmt.Sprintf("%s.%s[%d].image", path, list, i), out)
			}
		}
		for i, v := range listAt(spec, "volumes") {
			s.imageField(mapAt(v, "image"), "reference", fmt.Sprintf("%s.volumes[%d].image.reference", path, i), out)
		}
	})
}

func (s *compiled) imageField(m map[string]any, key, at string, out *Result) {
	from, _ := m[key].(string)
	s.image(from, at, func(to string) { m[key] = to }, out)
}

func (s *compiled) image(from, at string, put func(string), out *Result) {
	if from == "" {
		return
	}
	to, rule, ok := s.mapImage(from)
	switch {
	case ok && to != from:
		put(to)
		out.changed(Change{Field: at, From: from, To: to, Rule: rule})
	case ok:
		out.matched(rule)
	case !s.arrived(from):
		s.learned.mu.Lock()
		s.learned.unmatched[from] = true
		s.learned.mu.Unlock()
	}
}
