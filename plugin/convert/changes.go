package convert

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// ingress: backends have another shape, and each path says how it is compared.
func ingress(c *conversion) error {
	spec := c.spec()
	backend := func(b map[string]any) {
		if b == nil {
			return
		}
		name, hasName := b["serviceName"]
		port, hasPort := b["servicePort"]
		delete(b, "serviceName")
		delete(b, "servicePort")
		if !hasName {
			return // a resource, which has the same shape
		}
		service := map[string]any{"name": name}
		if hasPort {
			service["port"] = servicePort(port)
		}
		b["service"] = service
	}
	move(spec, "backend", "defaultBackend")
	backend(section(spec, "defaultBackend"))
	for _, rule := range listOf(spec["rules"]) {
		for _, path := range listOf(section(rule, "http")["paths"]) {
			// What was not written meant whatever the controller made of it.
			fill(path, "pathType", "ImplementationSpecific")
			backend(section(path, "backend"))
		}
	}
	return nil
}

func servicePort(port any) map[string]any {
	switch p := port.(type) {
	case json.Number:
		return map[string]any{"number": p}
	case string:
		if p != "" && strings.Trim(p, "0123456789") == "" {
			return map[string]any{"number": number(p)}
		}
		return map[string]any{"name": p}
	}
	return map[string]any{}
}

// disruptionBudget: an empty selector selected no pod and selects all now; one
// that is absent selects none in both.
func disruptionBudget(c *conversion) error {
	spec := c.spec()
	if selector, ok := spec["selector"].(map[string]any); ok && asksNothing(selector) {
		delete(spec, "selector")
		c.note("its empty selector selected no pod, and would select every pod of the namespace in policy/v1: it is left out")
	}
	return nil
}

// asksNothing says whether a selector has no requirement in it.
func asksNothing(selector map[string]any) bool {
	expressions, _ := selector["matchExpressions"].([]any)
	return len(section(selector, "matchLabels"))+len(expressions) == 0
}

// autoscaler: what metrics aim at got a map of its own.
func autoscaler(c *conversion) error {
	metrics, _ := c.spec()["metrics"].([]any)
	for i, e := range metrics {
		m, _ := e.(map[string]any)
		if err := oldMetric(m); err != nil {
			return fmt.Errorf("spec.metrics[%d]: %w", i, err)
		}
	}
	// Status is written by the controller, in its own words.
	delete(section(c.content, "status"), "currentMetrics")
	return nil
}

func oldMetric(m map[string]any) error {
	target := func(source map[string]any, fields ...[3]string) {
		for _, f := range fields {
			if v, ok := source[f[0]]; ok {
				delete(source, f[0])
				source["target"] = map[string]any{"type": f[1], f[2]: v}
			}
		}
	}
	named := func(source map[string]any, name, selector string) {
		metric := map[string]any{"name": source[name]}
		delete(source, name)
		if s, ok := source[selector]; ok {
			metric["selector"] = s
			delete(source, selector)
		}
		source["metric"] = metric
	}
	kind, _ := m["type"].(string)
	switch kind {
	case "Resource", "ContainerResource":
		target(section(m, strings.ToLower(kind[:1])+kind[1:]),
			[3]string{"targetAverageUtilization", "Utilization", "averageUtilization"},
			[3]string{"targetAverageValue", "AverageValue", "averageValue"})
	case "Pods":
		source := section(m, "pods")
		named(source, "metricName", "selector")
		target(source, [3]string{"targetAverageValue", "AverageValue", "averageValue"})
	case "Object":
		source := section(m, "object")
		named(source, "metricName", "selector")
		move(source, "target", "describedObject")
		target(source, [3]string{"targetValue", "Value", "value"}, [3]string{"averageValue", "AverageValue", "averageValue"})
	case "External":
		source := section(m, "external")
		named(source, "metricName", "metricSelector")
		target(source, [3]string{"targetValue", "Value", "value"}, [3]string{"targetAverageValue", "AverageValue", "averageValue"})
	default:
		return fmt.Errorf("the type %q is not known", kind)
	}
	return nil
}

// nominalShares: 0 was taken for the default unless an annotation said
// otherwise, and means 0 now.
func nominalShares(c *conversion) error {
	const preserve = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares"
	limited := section(c.spec(), "limited")
	notes := section(c.content, "metadata", "annotations")
	_, kept := notes[preserve]
	if zero(limited["nominalConcurrencyShares"]) && !kept {
		delete(limited, "nominalConcurrencyShares")
	}
	delete(notes, preserve)
	if kept && len(notes) == 0 {
		delete(section(c.content, "metadata"), "annotations")
	}
	return nil
}

// assuredShares: the shares have another name; 0 meant the default.
func assuredShares(c *conversion) error {
	limited := section(c.spec(), "limited")
	if zero(limited["assuredConcurrencyShares"]) {
		delete(limited, "assuredConcurrencyShares")
	}
	move(limited, "assuredConcurrencyShares", "nominalConcurrencyShares")
	return nil
}

func zero(v any) bool {
	n, ok := v.(json.Number)
	return ok && n == "0"
}

// oldSubjects: a group stood in apiVersion, and everybody was a user.
func oldSubjects(c *conversion) error {
	for _, s := range listOf(c.content["subjects"]) {
		if v, ok := s["apiVersion"].(string); ok {
			delete(s, "apiVersion")
			group, _, hasGroup := strings.Cut(v, "/")
			if hasGroup {
				s["apiGroup"] = group
			}
		}
		switch {
		case s["kind"] == "User" && s["name"] == "*":
			s["kind"], s["name"], s["apiGroup"] = "Group", "system:authenticated", "rbac.authorization.k8s.io"
		case s["kind"] == "User" || s["kind"] == "Group":
			fill(s, "apiGroup", "rbac.authorization.k8s.io")
		}
	}
	fill(section(c.content, "roleRef"), "apiGroup", "rbac.authorization.k8s.io")
	return nil
}

func runtimeClass(c *conversion) error {
	spec := c.spec()
	handler, ok := spec["runtimeHandler"]
	if !ok {
		return errors.New("it names no runtimeHandler")
	}
	c.content["handler"] = handler
	for _, key := range [...]string{"overhead", "scheduling"} {
		if v, ok := spec[key]; ok {
			c.content[key] = v
		}
	}
	delete(c.content, "spec")
	return nil
}

// endpointSlice: two well-known keys of topology became fields.
func endpointSlice(c *conversion) error {
	for _, e := range listOf(c.content["endpoints"]) {
		topology, ok := e["topology"].(map[string]any)
		if !ok {
			continue
		}
		delete(e, "topology")
		for key, field := range map[string]string{"kubernetes.io/hostname": "nodeName", "topology.kubernetes.io/zone": "zone"} {
			if v, ok := topology[key]; ok {
				fill(e, field, v)
				delete(topology, key)
			}
		}
		if len(topology) > 0 {
			e["deprecatedTopology"] = topology
		}
	}
	return nil
}

func signingRequest(c *conversion) error {
	spec := c.spec()
	switch signer, _ := spec["signerName"].(string); signer {
	case "", "kubernetes.io/legacy-unknown":
		return errors.New("certificates.k8s.io/v1 needs the name of a signer, and it names none")
	}
	if usages, _ := spec["usages"].([]any); len(usages) == 0 {
		return errors.New("certificates.k8s.io/v1 needs usages, and it has none")
	}
	return nil
}

// definition: what all versions had in common, each has for itself now, and a
// schema is required.
func definition(c *conversion) error {
	spec := c.spec()
	versions := listOf(spec["versions"])
	if len(versions) == 0 {
		name, _ := spec["version"].(string)
		if name == "" {
			return errors.New("it has no versions")
		}
		versions = []map[string]any{{"name": name, "served": true, "storage": true}}
		spec["versions"] = []any{versions[0]}
	}
	delete(spec, "version")
	common := map[string]any{}
	for from, to := range map[string]string{"validation": "schema", "subresources": "subresources", "additionalPrinterColumns": "additionalPrinterColumns"} {
		if v, ok := spec[from]; ok {
			common[to] = v
			delete(spec, from)
		}
	}
	// Unknown fields were kept unless it said otherwise.
	keep := spec["preserveUnknownFields"] != false
	delete(spec, "preserveUnknownFields")
	for _, v := range versions {
		for key, value := range common {
			fill(v, key, copyOf(value))
		}
		for _, column := range listOf(v["additionalPrinterColumns"]) {
			move(column, "JSONPath", "jsonPath")
		}
		fill(v, "schema", map[string]any{})
		schema := section(v, "schema")
		fill(schema, "openAPIV3Schema", map[string]any{"type": "object"})
		open := section(schema, "openAPIV3Schema")
		fill(open, "type", "object")
		if keep {
			open["x-kubernetes-preserve-unknown-fields"] = true
		}
	}
	if keep {
		c.note("fields that its schema does not name were kept and still are; a schema that is not structural is refused by the server")
	}
	conversionOf(spec)
	return nil
}

func conversionOf(spec map[string]any) {
	conversion := section(spec, "conversion")
	if conversion == nil {
		return
	}
	client, hasClient := conversion["webhookClientConfig"]
	reviews, hasReviews := conversion["conversionReviewVersions"]
	delete(conversion, "webhookClientConfig")
	delete(conversion, "conversionReviewVersions")
	if conversion["strategy"] != "Webhook" || !hasClient {
		return
	}
	if !hasReviews {
		reviews = []any{"v1beta1"}
	}
	conversion["webhook"] = map[string]any{"clientConfig": client, "conversionReviewVersions": reviews}
}

// copyOf keeps two versions from sharing one map.
func copyOf(v any) any {
	switch t := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(t))
		for k, e := range t {
			out[k] = copyOf(e)
		}
		return out
	case []any:
		out := make([]any, len(t))
		for i, e := range t {
			out[i] = copyOf(e)
		}
		return out
	}
	return v
}

// webhooks: defaults changed, so that what was understood is written out.
func webhooks(c *conversion) error {
	for _, w := range listOf(c.content["webhooks"]) {
		name, _ := w["name"].(string)
		switch effects, _ := w["sideEffects"].(string); effects {
		case "None", "NoneOnDryRun":
		case "":
			return fmt.Errorf("webhook %s does not say whether it has side effects, and admissionregistration.k8s.io/v1 allows only None and NoneOnDryRun", name)
		default:
			return fmt.Errorf("webhook %s has side effects %s, and admissionregistration.k8s.io/v1 allows only None and NoneOnDryRun", name, effects)
		}
		fill(w, "failurePolicy", "Ignore")
		fill(w, "matchPolicy", "Exact")
		fill(w, "timeoutSeconds", number("30"))
		fill(w, "admissionReviewVersions", []any{"v1beta1"})
	}
	return nil
}

// selectorFromTemplate: a selector was made of the template's labels where
// there was none.
func (c *conversion) selectorFromTemplate() error {
	spec := c.spec()
	if selector := section(spec, "selector"); !asksNothing(selector) {
		return nil
	}
	labels := section(spec, "template", "metadata", "labels")
	if len(labels) == 0 {
		return errors.New("it has neither a selector nor labels in its template")
	}
	spec["selector"] = map[string]any{"matchLabels": copyOf(labels)}
	c.note("its selector is made of the labels of its template, as it was understood before")
	return nil
}

func oldWorkload(c *conversion) error {
	spec := c.spec()
	if _, ok := spec["rollbackTo"]; ok {
		delete(spec, "rollbackTo")
		c.note("spec.rollbackTo was a request to roll back, and is left out")
	}
	return c.selectorFromTemplate()
}

func oldDaemonSet(c *conversion) error {
	spec := c.spec()
	delete(spec, "templateGeneration")
	// Pods of the old version were replaced only by hand.
	fill(spec, "updateStrategy", map[string]any{"type": "OnDelete"})
	return c.selectorFromTemplate()
}

func oldStatefulSet(c *conversion) error {
	fill(c.spec(), "updateStrategy", map[string]any{"type": "OnDelete"})
	return c.selectorFromTemplate()
}
