package rewrite

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// hostMaps are tried in this order: exact, longest suffix, first regex.
type hostMaps struct {
	exact    map[string]string
	suffixes []v1alpha1.HostMap
	regexes  []hostRegex
}

type hostRegex struct {
	text string
	is   *regexp.Regexp
	to   string
}

func compileHosts(list []v1alpha1.HostMap) hostMaps {
	h := hostMaps{exact: map[string]string{}}
	for _, m := range list {
		switch {
		case m.From != "":
			h.exact[strings.ToLower(m.From)] = m.To
		case m.Suffix != "":
			h.suffixes = append(h.suffixes, m)
		case m.Regex != "":
			// Validate has compiled it; a host is matched as a whole.
			if is, err := regexp.Compile("^(?:" + m.Regex + ")$"); err == nil {
				h.regexes = append(h.regexes, hostRegex{m.Regex, is, m.To})
			}
		}
	}
	slices.SortStableFunc(h.suffixes, func(a, b v1alpha1.HostMap) int { return len(b.Suffix) - len(a.Suffix) })
	return h
}

func hostRule(from, to string) string { return "host " + from + "=" + to }

func (h hostMaps) names() []string {
	var out []string
	for from, to := range h.exact {
		out = append(out, hostRule(from, to))
	}
	for _, s := range h.suffixes {
		out = append(out, hostRule(s.Suffix, s.To))
	}
	for _, r := range h.regexes {
		out = append(out, hostRule(r.text, r.to))
	}
	return out
}

// host is a host's name in the other place. A host that already ends in what a
// suffix is replaced by has been there before, and stays.
func (h hostMaps) host(name string) (to, rule string, ok bool) {
	lower := strings.ToLower(name)
	if to, ok := h.exact[lower]; ok {
		return to, hostRule(lower, to), true
	}
	for _, s := range h.suffixes {
		if front, ok := strings.CutSuffix(lower, s.Suffix); ok && front != "" {
			rule := hostRule(s.Suffix, s.To)
			if strings.HasSuffix(s.To, s.Suffix) && strings.HasSuffix(lower, s.To) {
				return name, rule, true
			}
			return front + s.To, rule, true
		}
	}
	for _, r := range h.regexes {
		if m := r.is.FindStringSubmatchIndex(lower); m != nil {
			return string(r.is.ExpandString(nil, r.to, lower, m)), hostRule(r.text, r.to), true
		}
	}
	return "", "", false
}

// hostFields lists where the kinds for traffic from outside hold hosts.
var hostFields = map[string][]string{
	"Ingress.networking.k8s.io":             {"spec.rules[].host", "spec.tls[].hosts[]"},
	"Gateway.gateway.networking.k8s.io":     {"spec.listeners[].hostname"},
	"ListenerSet.gateway.networking.k8s.io": {"spec.listeners[].hostname"},
	"HTTPRoute.gateway.networking.k8s.io":   {"spec.hostnames[]"},
	"GRPCRoute.gateway.networking.k8s.io":   {"spec.hostnames[]"},
	"TLSRoute.gateway.networking.k8s.io":    {"spec.hostnames[]"},
	"Route.route.openshift.io":              {"spec.host"},
}

func (s *compiled) mapHosts(d *Draft, out *Result) {
	if len(s.spec.Hosts) == 0 {
		return
	}
	for _, path := range hostFields[kindAndGroup(d.Ref)] {
		p, err := v1alpha1.ParseFieldPath(path)
		if err != nil {
			continue
		}
		eachField(d.Content, p, func(at string, v any, set func(any)) {
			from, _ := v.(string)
			s.hostField(from, at, func(to string) { set(to) }, out)
		})
	}
}

// hostField maps one host, or several with commas between them.
func (s *compiled) hostField(from, at string, put func(string), out *Result) {
	parts := strings.Split(from, ",")
	changed, rule := false, ""
	for i, part := range parts {
		host := strings.TrimSpace(part)
		to, by, ok := s.hostMaps.host(host)
		if !ok {
			continue
		}
		rule = by
		if to != host {
			parts[i] = strings.Replace(part, host, to, 1)
			changed = true
		} else {
			out.matched(by)
		}
	}
	if changed {
		to := strings.Join(parts, ",")
		put(to)
		out.changed(Change{Field: at, From: from, To: to, Rule: rule})
	}
}

// fieldPlaces follows the maps into the fields that spec.fields names.
func (s *compiled) fieldPlaces(r Rules, d *Draft, out *Result) error {
	for _, p := range s.places {
		ok, err := p.match.matches(d, nil, nil)
		if err != nil {
			return fmt.Errorf("%s: %w", p.rule, err)
		}
		if !ok {
			continue
		}
		out.matched(p.rule)
		eachField(d.Content, p.path, func(at string, v any, set func(any)) {
			from, isText := v.(string)
			if !isText {
				return
			}
			put := func(to string) { set(to) }
			named := func(m map[string]string, rule func(from, to string) string) {
				if to, ok := m[from]; ok && to != from {
					put(to)
					out.changed(Change{Field: at, From: from, To: to, Rule: rule(from, to)})
				}
			}
			switch p.holds {
			case v1alpha1.HoldsImage:
				s.image(from, at, put, out)
			case v1alpha1.HoldsHost:
				s.hostField(from, at, put, out)
			case v1alpha1.HoldsNamespace:
				named(r.Namespaces, namespaceRule)
			case v1alpha1.HoldsStorageClass:
				named(r.StorageClasses, classRule)
			case v1alpha1.HoldsText:
				s.editText(r, d, at, "", from, true, put, out)
			}
		})
	}
	return nil
}
