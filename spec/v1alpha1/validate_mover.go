package v1alpha1

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

func (c *checks) volumeRule(path string, v VolumeRule) {
	c.required(path+".method", v.Method)
	c.oneOf(path+".method", v.Method, MethodAuto, MethodSnapshot, MethodStream, MethodSkip)
	for field, class := range map[string]string{"snapshotClass": v.SnapshotClass, "groupSnapshotClass": v.GroupSnapshotClass} {
		c.name(path+"."+field, class)
		if class != "" && (v.Method == MethodStream || v.Method == MethodSkip) {
			c.refuse(path+"."+field, "", "has no meaning where method is %s", v.Method)
		}
	}
}

func (c *checks) notNegative(path string, n int) {
	if n < 0 {
		c.refuse(path, "", "must not be negative")
	}
}

func (c *checks) mover(path string, m Mover) {
	c.notNegative(path+".parallel", m.Parallel)
	c.notNegative(path+".perNode", m.PerNode)
	c.oneOf(path+".transport", m.Transport, TransportAuto, TransportJob, TransportStream)
	if m.Retries != nil {
		c.notNegative(path+".retries", *m.Retries)
	}
	if m.Timeout != nil && m.Timeout.Duration < shortestHold {
		c.refuse(path+".timeout", "", "must be at least %s, got %s", short(shortestHold), m.Timeout.Duration)
	}
	if m.Image != strings.TrimSpace(m.Image) || strings.ContainsAny(m.Image, " \t\n") {
		c.refuse(path+".image", "", "must not have blanks in it")
	}
	c.name(path+".serviceAccountName", m.ServiceAccountName)
	c.resources(path+".resources", m.Resources)
	for _, key := range slices.Sorted(maps.Keys(m.NodeSelector)) {
		if problems := validation.IsQualifiedName(key); problems != nil {
			c.refuse(path+".nodeSelector", "", "%q is not a label: %s", key, problems[0])
		}
		if problems := validation.IsValidLabelValue(m.NodeSelector[key]); problems != nil {
			c.refuse(path+".nodeSelector", "", "%q is not the value of a label: %s", m.NodeSelector[key], problems[0])
		}
	}
	for i, t := range m.Tolerations {
		c.toleration(fmt.Sprintf("%s.tolerations[%d]", path, i), t)
	}
	c.securityContext(path+".securityContext", m.SecurityContext)
}

var resourceNames = []string{string(corev1.ResourceCPU), string(corev1.ResourceMemory), string(corev1.ResourceEphemeralStorage)}

func (c *checks) resources(path string, r *corev1.ResourceRequirements) {
	if r == nil {
		return
	}
	check := func(list string, quantities corev1.ResourceList) {
		for _, name := range slices.Sorted(maps.Keys(quantities)) {
			at := path + "." + list
			if plainKey(string(name)) {
				at += "." + string(name)
			}
			q := quantities[name]
			switch known := strings.ContainsRune(string(name), '/') || slices.Contains(resourceNames, string(name)); {
			case !known:
				c.refuse(at, didYouMean(string(name), resourceNames), "unknown resource %q", name)
			case q.Sign() < 0:
				c.refuse(at, "", "must not be negative")
			}
		}
	}
	check("requests", r.Requests)
	check("limits", r.Limits)
	for _, name := range slices.Sorted(maps.Keys(r.Requests)) {
		request := r.Requests[name]
		if limit, ok := r.Limits[name]; ok && request.Cmp(limit) > 0 {
			c.refuse(path+".requests", "", "asks for more %s than the limit allows: %s is above %s", name, request.String(), limit.String())
		}
	}
	if len(r.Claims) > 0 {
		c.refuse(path+".claims", "", "has no meaning: a mover has no resource claims")
	}
}

func (c *checks) toleration(path string, t corev1.Toleration) {
	c.oneOf(path+".operator", string(t.Operator), string(corev1.TolerationOpEqual), string(corev1.TolerationOpExists))
	c.oneOf(path+".effect", string(t.Effect), string(corev1.TaintEffectNoSchedule), string(corev1.TaintEffectPreferNoSchedule), string(corev1.TaintEffectNoExecute))
	switch exists := t.Operator == corev1.TolerationOpExists; {
	case exists && t.Value != "":
		c.refuse(path+".value", "", "has no meaning where operator is Exists")
	case !exists && t.Key == "":
		c.refuse(path+".key", "write operator: Exists to tolerate every taint", "is required where operator is Equal")
	}
	if problems := validation.IsQualifiedName(t.Key); t.Key != "" && problems != nil {
		c.refuse(path+".key", "", "%q is not the key of a taint: %s", t.Key, problems[0])
	}
	if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
		c.refuse(path+".tolerationSeconds", "", "has no meaning where effect is not NoExecute")
	}
}

func (c *checks) securityContext(path string, s *corev1.SecurityContext) {
	if s == nil {
		return
	}
	if s.RunAsUser != nil && *s.RunAsUser < 0 {
		c.refuse(path+".runAsUser", "", "must not be negative")
	}
	if s.RunAsGroup != nil && *s.RunAsGroup < 0 {
		c.refuse(path+".runAsGroup", "", "must not be negative")
	}
	if s.RunAsNonRoot != nil && *s.RunAsNonRoot && s.RunAsUser != nil && *s.RunAsUser == 0 {
		c.refuse(path+".runAsUser", "", "is 0, which runAsNonRoot forbids")
	}
	if p := s.SeccompProfile; p != nil {
		c.oneOf(path+".seccompProfile.type", string(p.Type), string(corev1.SeccompProfileTypeRuntimeDefault), string(corev1.SeccompProfileTypeLocalhost), string(corev1.SeccompProfileTypeUnconfined))
	}
}

var bandwidth = regexp.MustCompile(`^[0-9]+(\.[0-9]+)?([Bb]|[KMGTPEkmgtpe](iB?)?)$`)

func (c *checks) limits(path string, l RemoteLimits) {
	c.notNegative(path+".movers", l.Movers)
	if l.RequestsPerSecond < 0 {
		c.refuse(path+".requestsPerSecond", "", "must not be negative")
	}
	if l.Retries != nil {
		c.notNegative(path+".retries", *l.Retries)
	}
	if l.Bandwidth != "" && !bandwidth.MatchString(l.Bandwidth) {
		c.refuse(path+".bandwidth", "write a number and a unit, as in 10M for 10 MiB/s; leave it out for no limit", "%q is not a bandwidth", l.Bandwidth)
	} else if l.Bandwidth != "" && strings.TrimLeft(strings.TrimRight(l.Bandwidth, "BbKMGTPEkmgtpei"), "0.") == "" {
		c.refuse(path+".bandwidth", "leave it out for no limit", "lets nothing through")
	}
}
