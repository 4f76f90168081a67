package rewrite

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
)

// firstRangeID is where OpenShift begins the ranges of user ids that it allots
// to namespaces; another cluster allots others.
const firstRangeID = 1_000_000_000

// securityRanges takes out of a Pod what was filled in from its namespace's
// ranges. What a template says was written by a person.
func (w *profiling) securityRanges() {
	if w.d.Ref.Group != "" || w.d.Ref.Kind != "Pod" {
		return
	}
	clear := func(context map[string]any, at string) {
		for _, key := range [...]string{"runAsUser", "fsGroup"} {
			id, _ := context[key].(json.Number)
			if n, err := id.Int64(); err == nil && n >= firstRangeID {
				delete(context, key)
				w.changed(at+"."+key, id.String(), absent)
			}
		}
		if level, _ := mapAt(context, "seLinuxOptions")["level"].(string); level != "" {
			drop(context, "seLinuxOptions", "level")
			w.changed(at+".seLinuxOptions.level", level, absent)
		}
	}
	spec := mapAt(w.d.Content, "spec")
	clear(mapAt(spec, "securityContext"), "spec.securityContext")
	for _, list := range [...]string{"initContainers", "containers"} {
		for i, c := range listAt(spec, list) {
			clear(mapAt(c, "securityContext"), "spec."+list+"["+strconv.Itoa(i)+"].securityContext")
		}
	}
}

// pullSecrets takes the Secrets for OpenShift's own registry out of a service
// account: a controller makes them, with other names in each cluster.
func (w *profiling) pullSecrets() {
	if w.d.Ref.Group != "" || w.d.Ref.Kind != "ServiceAccount" {
		return
	}
	for _, key := range [...]string{"secrets", "imagePullSecrets"} {
		list, _ := w.d.Content[key].([]any)
		var kept []any
		for _, e := range list {
			m, _ := e.(map[string]any)
			name, _ := m["name"].(string)
			if strings.HasPrefix(name, w.d.Ref.Name+"-dockercfg-") {
				w.changed(key, name, absent)
			} else {
				kept = append(kept, e)
			}
		}
		if len(kept) < len(list) {
			setOrDelete(w.d.Content, key, kept)
		}
	}
}

// route makes an Ingress of a Route.
func (w *profiling) route() error {
	if w.d.Ref.Group != "route.openshift.io" || w.d.Ref.Kind != "Route" {
		return nil
	}
	spec := mapAt(w.d.Content, "spec")
	service, _ := mapAt(spec, "to")["name"].(string)
	if kind, _ := mapAt(spec, "to")["kind"].(string); kind != "" && kind != "Service" || service == "" {
		return errors.New("the Route leads to no Service")
	}
	port := map[string]any{}
	switch p := mapAt(spec, "port")["targetPort"].(type) {
	case string:
		port["name"] = p
	case json.Number:
		port["number"] = p
		w.out.warn("the Route named the port %s of pods; the Ingress names the port of the Service %s, which may be another", p, service)
	default:
		return errors.New("the Route names no port, which an Ingress must (hint: write spec.port.targetPort)")
	}
	path := map[string]any{"pathType": "Prefix", "path": "/", "backend": map[string]any{"service": map[string]any{"name": service, "port": port}}}
	if p, _ := spec["path"].(string); p != "" {
		path["path"] = p
	}
	rule := map[string]any{"http": map[string]any{"paths": []any{path}}}
	ingress := map[string]any{"rules": []any{rule}}
	host, _ := spec["host"].(string)
	if host != "" {
		rule["host"] = host
	}
	if tls := mapAt(spec, "tls"); tls != nil {
		switch termination, _ := tls["termination"].(string); termination {
		case "edge":
		default:
			w.out.warn("the Route's TLS was of the kind %s; an Ingress ends TLS by itself, and what its controller does beyond that is written in annotations", termination)
		}
		entry := map[string]any{}
		if host != "" {
			entry["hosts"] = []any{host}
		}
		ingress["tls"] = []any{entry}
		if tls["certificate"] != nil {
			w.out.warn("the Route held a certificate of its own, which an Ingress takes from a Secret: make one and name it in spec.tls[0].secretName")
		}
	}
	if others := listAt(spec, "alternateBackends"); len(others) > 0 {
		w.out.warn("the Route divided its traffic among %d Services; the Ingress leads to %s alone", len(others)+1, service)
	}
	old, _ := w.d.Content["apiVersion"].(string)
	w.d.Content["apiVersion"], w.d.Content["kind"] = "networking.k8s.io/v1", "Ingress"
	w.d.Content["spec"] = ingress
	delete(w.d.Content, "status")
	delete(mapAt(w.d.Content, "metadata"), "managedFields")
	w.changed("kind", old+" Route", "networking.k8s.io/v1 Ingress")
	w.d.Ref.Group, w.d.Ref.Version, w.d.Ref.Kind = "networking.k8s.io", "v1", "Ingress"
	return nil
}
