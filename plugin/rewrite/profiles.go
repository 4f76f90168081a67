package rewrite

import (
	"fmt"
	"slices"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// platform is what one platform puts into objects.
type platform struct {
	// annotations, labels of pods, finalizers and node labels that nobody else
	// knows begin with these.
	annotations, podLabels, finalizers, nodeLabels []string
	// identity are annotations that give a service account rights in the cloud.
	identity []string
	// internal is how a Service asks for a load balancer that is not reached
	// from outside; the first is how it is written.
	internal []annotation
	// ingressClasses name the platform's own controller, for traffic from
	// outside and for internal traffic.
	ingressClass, internalIngressClass string
	// ingressInternal is how an Ingress asks to be internal, where its class
	// does not say so.
	ingressInternal annotation
	// loadBalancerClasses are its own implementations.
	loadBalancerClasses []string
}

type annotation struct{ key, value string }

var platforms = map[string]platform{
	v1alpha1.PlatformAWS: {
		annotations:         []string{"service.beta.kubernetes.io/aws-", "alb.ingress.kubernetes.io/", "eks.amazonaws.com/"},
		finalizers:          []string{"service.k8s.aws/", "elbv2.k8s.aws/", "ingress.k8s.aws/", "group.ingress.k8s.aws/"},
		nodeLabels:          []string{"eks.amazonaws.com/", "topology.ebs.csi.aws.com/", "alpha.eksctl.io/", "node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type"},
		identity:            []string{"eks.amazonaws.com/role-arn"},
		internal:            []annotation{{"service.beta.kubernetes.io/aws-load-balancer-scheme", "internal"}, {"service.beta.kubernetes.io/aws-load-balancer-internal", "true"}},
		ingressClass:        "alb",
		ingressInternal:     annotation{"alb.ingress.kubernetes.io/scheme", "internal"},
		loadBalancerClasses: []string{"service.k8s.aws/", "eks.amazonaws.com/"},
	},
	v1alpha1.PlatformAzure: {
		annotations:     []string{"service.beta.kubernetes.io/azure-", "appgw.ingress.kubernetes.io/", "azure.workload.identity/"},
		podLabels:       []string{"azure.workload.identity/"},
		nodeLabels:      []string{"kubernetes.azure.com/", "topology.disk.csi.azure.com/", "agentpool", "node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type"},
		identity:        []string{"azure.workload.identity/client-id"},
		internal:        []annotation{{"service.beta.kubernetes.io/azure-load-balancer-internal", "true"}},
		ingressClass:    "azure-application-gateway",
		ingressInternal: annotation{"appgw.ingress.kubernetes.io/use-private-ip", "true"},
	},
	v1alpha1.PlatformGoogle: {
		annotations: []string{"cloud.google.com/", "networking.gke.io/", "iam.gke.io/", "ingress.gcp.kubernetes.io/", "ingress.kubernetes.io/",
			"autopilot.gke.io/", "kubernetes.io/ingress.global-static-ip-name", "kubernetes.io/ingress.regional-static-ip-name"},
		finalizers:           []string{"networking.gke.io/", "gke.networking.io/"},
		nodeLabels:           []string{"cloud.google.com/", "topology.gke.io/", "node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type"},
		identity:             []string{"iam.gke.io/gcp-service-account"},
		internal:             []annotation{{"networking.gke.io/load-balancer-type", "Internal"}, {"cloud.google.com/load-balancer-type", "Internal"}},
		ingressClass:         "gce",
		internalIngressClass: "gce-internal",
	},
	v1alpha1.PlatformOpenShift: {
		annotations: []string{"openshift.io/", "haproxy.router.openshift.io/", "router.openshift.io/", "image.openshift.io/", "kubernetes.openshift.io/",
			"security.openshift.io/"},
		nodeLabels: []string{"node.openshift.io/", "machine.openshift.io/"},
	},
	v1alpha1.PlatformGeneric: {},
}

// claimMarks say where a claim was placed and by whom, which is known anew.
var claimMarks = []string{"volume.kubernetes.io/selected-node", "volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"}

// oldTopology are labels that every platform had and no new node carries.
var oldTopology = map[string]string{
	"failure-domain.beta.kubernetes.io/zone":   "topology.kubernetes.io/zone",
	"failure-domain.beta.kubernetes.io/region": "topology.kubernetes.io/region",
	"beta.kubernetes.io/os":                    "kubernetes.io/os",
	"beta.kubernetes.io/arch":                  "kubernetes.io/arch",
}

// profiling is the work of one profile on one object.
type profiling struct {
	from, to platform
	rule     string
	d        *Draft
	out      *Result
}

// profiles maps what one platform put into objects to another's.
func (s *compiled) profiles(d *Draft, out *Result) error {
	for _, p := range s.spec.Profiles {
		target := p.To
		if target == "" {
			target = v1alpha1.PlatformGeneric
		}
		w := &profiling{from: platforms[p.From], to: platforms[target], rule: "profile " + p.From + " to " + target, d: d, out: out}
		w.service()
		w.ingress()
		w.metadata()
		w.placement()
		w.claim()
		if p.From == v1alpha1.PlatformOpenShift {
			w.securityRanges()
			w.pullSecrets()
			if target != v1alpha1.PlatformOpenShift {
				if err := w.route(); err != nil {
					return fmt.Errorf("%s: %w", w.rule, err)
				}
			}
		}
	}
	return nil
}

func (w *profiling) changed(field, from, to string) {
	w.out.changed(Change{Field: field, From: from, To: to, Rule: w.rule})
}

func (w *profiling) annotations() map[string]any {
	return mapAt(w.d.Content, "metadata", "annotations")
}

// replaceAnnotation takes one annotation away and puts another in its place.
func (w *profiling) replaceAnnotation(old annotation, next *annotation) {
	notes := w.annotations()
	field := join("metadata.annotations", old.key)
	delete(notes, old.key)
	if next == nil {
		w.changed(field, old.value, absent)
		return
	}
	notes[next.key] = next.value
	w.changed(field, old.value, next.key+"="+next.value)
}

func (w *profiling) has(a annotation) bool {
	v, ok := w.annotations()[a.key].(string)
	return ok && a.key != "" && strings.EqualFold(v, a.value)
}

func (w *profiling) service() {
	if w.d.Ref.Group != "" || w.d.Ref.Kind != "Service" {
		return
	}
	internal := false
	for _, a := range w.from.internal {
		if !w.has(a) {
			continue
		}
		var next *annotation
		if len(w.to.internal) > 0 && !internal {
			next = &w.to.internal[0]
		}
		internal = true
		w.replaceAnnotation(a, next)
	}
	if internal && len(w.to.internal) == 0 {
		w.out.warn("the load balancer of this Service was internal, and how to ask for that is not known here: see to it before it is reached from outside")
	}
	spec := mapAt(w.d.Content, "spec")
	class, _ := spec["loadBalancerClass"].(string)
	if class != "" && begins(class, w.from.loadBalancerClasses) {
		delete(spec, "loadBalancerClass")
		w.changed("spec.loadBalancerClass", class, absent)
	}
	if ip, _ := spec["loadBalancerIP"].(string); ip != "" {
		delete(spec, "loadBalancerIP")
		w.changed("spec.loadBalancerIP", ip, absent)
	}
}

func (w *profiling) ingress() {
	if w.d.Ref.Group != "networking.k8s.io" || w.d.Ref.Kind != "Ingress" || w.from.ingressClass == "" {
		return
	}
	spec, notes := mapAt(w.d.Content, "spec"), w.annotations()
	internal := w.has(w.from.ingressInternal)
	class := func(m map[string]any, key, field string) {
		name, _ := m[key].(string)
		if name == "" || name != w.from.ingressClass && name != w.from.internalIngressClass {
			return
		}
		internal = internal || name == w.from.internalIngressClass
		to := w.to.ingressClass
		if internal && w.to.internalIngressClass != "" {
			to = w.to.internalIngressClass
		}
		if to == "" {
			w.out.warn("%s names the ingress class %s of another platform: map it with spec.references", field, name)
			return
		}
		m[key] = to
		w.changed(field, name, to)
	}
	class(spec, "ingressClassName", "spec.ingressClassName")
	class(notes, "kubernetes.io/ingress.class", join("metadata.annotations", "kubernetes.io/ingress.class"))
	if !internal {
		return
	}
	switch {
	case w.to.ingressInternal.key != "" && w.has(w.from.ingressInternal):
		w.replaceAnnotation(w.from.ingressInternal, &w.to.ingressInternal)
	case w.to.ingressInternal.key != "" && notes != nil:
		notes[w.to.ingressInternal.key] = w.to.ingressInternal.value
		w.changed(join("metadata.annotations", w.to.ingressInternal.key), absent, w.to.ingressInternal.value)
	case w.to.ingressInternal.key == "" && w.to.internalIngressClass == "":
		w.out.warn("this Ingress was internal, and how to ask for that is not known here: see to it before it is reached from outside")
	}
}

// metadata takes away what only the platform that is left knows.
func (w *profiling) metadata() {
	meta := mapAt(w.d.Content, "metadata")
	w.dropKeys(meta, "annotations", "metadata.annotations", w.from.annotations)
	PodSpecs(w.d.Content, func(path string, template, _ map[string]any) {
		if at, ok := strings.CutSuffix(path, ".spec"); ok {
			w.dropKeys(mapAt(template, "metadata"), "annotations", at+".metadata.annotations", w.from.annotations)
			w.dropKeys(mapAt(template, "metadata"), "labels", at+".metadata.labels", w.from.podLabels)
		}
	})
	if w.d.Ref.Kind == "Pod" {
		w.dropKeys(meta, "labels", "metadata.labels", w.from.podLabels)
	}
	finalizers, _ := meta["finalizers"].([]any)
	var kept []any
	for _, f := range finalizers {
		if name, _ := f.(string); begins(name, w.from.finalizers) {
			w.changed("metadata.finalizers", name, absent)
		} else {
			kept = append(kept, f)
		}
	}
	if len(kept) < len(finalizers) {
		setOrDelete(meta, "finalizers", kept)
	}
}

// dropKeys takes keys with a platform's prefixes out of a map, unless the other
// platform has them too.
func (w *profiling) dropKeys(parent map[string]any, key, at string, prefixes []string) {
	m := mapAt(parent, key)
	for _, k := range sortedKeys(m) {
		if !begins(k, prefixes) || begins(k, w.kept()) {
			continue
		}
		value, _ := m[k].(string)
		if slices.Contains(w.from.identity, k) {
			w.out.warn("%s gave this account rights in the cloud that is left; give it such rights here", k)
		}
		drop(parent, key, k)
		w.changed(join(at, k), value, absent)
	}
}

// kept are annotations that this profile itself writes.
func (w *profiling) kept() []string {
	var out []string
	for _, a := range append(slices.Clone(w.to.internal), w.to.ingressInternal) {
		if a.key != "" {
			out = append(out, a.key)
		}
	}
	return out
}

func begins(s string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return s == p || strings.HasPrefix(s, p) })
}

// placement drops what asks for nodes of the platform, and gives labels that
// every platform has their present names.
func (w *profiling) placement() {
	set := &compiled{}
	add := func(key string) {
		if slices.ContainsFunc(set.spec.NodeLabels, func(l v1alpha1.NodeLabelMap) bool { return l.Key == key }) {
			return
		}
		if to, old := oldTopology[key]; old {
			set.spec.NodeLabels = append(set.spec.NodeLabels, v1alpha1.NodeLabelMap{Key: key, ToKey: to})
		} else if begins(key, w.from.nodeLabels) {
			set.spec.NodeLabels = append(set.spec.NodeLabels, v1alpha1.NodeLabelMap{Key: key, Drop: true})
		}
	}
	nodeLabelKeys(w.d, add)
	var found Result
	set.mapNodeLabels(w.d, &found)
	for _, c := range found.Changes {
		c.Rule = w.rule
		w.out.changed(c)
	}
}

// nodeLabelKeys visits the keys of labels that an object chooses nodes by.
func nodeLabelKeys(d *Draft, visit func(string)) {
	var walk func(v any)
	walk = func(v any) {
		switch t := v.(type) {
		case map[string]any:
			for k, e := range t {
				if text, ok := e.(string); ok && (k == "key" || k == "topologyKey") {
					visit(text)
				}
				walk(e)
			}
		case []any:
			for _, e := range t {
				walk(e)
			}
		}
	}
	PodSpecs(d.Content, func(_ string, _, spec map[string]any) {
		for k := range mapAt(spec, "nodeSelector") {
			visit(k)
		}
		walk(spec["affinity"])
		walk(spec["topologySpreadConstraints"])
	})
	switch kindAndGroup(d.Ref) {
	case "PersistentVolume":
		walk(mapAt(d.Content, "spec", "nodeAffinity"))
		for k := range mapAt(d.Content, "metadata", "labels") {
			visit(k)
		}
	case "StorageClass.storage.k8s.io":
		walk(d.Content["allowedTopologies"])
	}
}

func (w *profiling) claim() {
	if w.d.Ref.Group == "" && w.d.Ref.Kind == "PersistentVolumeClaim" {
		w.dropKeys(mapAt(w.d.Content, "metadata"), "annotations", "metadata.annotations", claimMarks)
	}
}
