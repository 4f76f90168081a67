package rewrite

import (
	"errors"
	"fmt"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

func serviceRule(from, to string) string { return "service type " + from + "=" + to }

const nodePortsRule = "node ports"

// typeFields are what only some types of Services have.
var typeFields = []struct {
	field string
	types []string
}{
	{"allocateLoadBalancerNodePorts", []string{"LoadBalancer"}},
	{"loadBalancerClass", []string{"LoadBalancer"}},
	{"loadBalancerIP", []string{"LoadBalancer"}},
	{"loadBalancerSourceRanges", []string{"LoadBalancer"}},
	{"healthCheckNodePort", []string{"LoadBalancer"}},
	{"externalTrafficPolicy", []string{"LoadBalancer", "NodePort"}},
}

func (s *compiled) mapServices(d *Draft, out *Result) error {
	change := s.spec.Services
	if change == nil || d.Ref.Group != "" || d.Ref.Kind != "Service" {
		return nil
	}
	spec := mapAt(d.Content, "spec")
	if spec == nil {
		return errors.New("a Service without a spec")
	}
	from, _ := spec["type"].(string)
	if from == "" {
		from = "ClusterIP"
	}
	if to, ok := change.Types[from]; ok && to != from {
		if spec["clusterIP"] == "None" {
			return fmt.Errorf("a headless Service cannot become a %s", to)
		}
		rule := serviceRule(from, to)
		spec["type"] = to
		out.changed(Change{Field: "spec.type", From: from, To: to, Rule: rule})
		for _, f := range typeFields {
			if v, there := spec[f.field]; there && !contains(f.types, to) {
				delete(spec, f.field)
				out.changed(Change{Field: "spec." + f.field, From: shown(v), To: absent, Rule: rule})
			}
		}
		if to == "ClusterIP" {
			clearNodePorts(d, rule, out)
		}
	} else if ok {
		out.matched(serviceRule(from, to))
	}
	if change.NodePorts == v1alpha1.NodePortsClear {
		if v, there := spec["healthCheckNodePort"]; there {
			delete(spec, "healthCheckNodePort")
			out.changed(Change{Field: "spec.healthCheckNodePort", From: shown(v), To: absent, Rule: nodePortsRule})
		}
		clearNodePorts(d, nodePortsRule, out)
	}
	return nil
}

func clearNodePorts(d *Draft, rule string, out *Result) {
	for i, p := range listAt(d.Content, "spec", "ports") {
		if v, there := p["nodePort"]; there {
			delete(p, "nodePort")
			out.changed(Change{Field: fmt.Sprintf("spec.ports[%d].nodePort", i), From: shown(v), To: absent, Rule: rule})
		}
	}
}

func contains(list []string, s string) bool {
	for _, e := range list {
		if e == s {
			return true
		}
	}
	return false
}

// KeepsNodePorts is what the set says about node ports: nil where it leaves it
// to the caller.
func (r Rules) KeepsNodePorts() *bool {
	if r.set == nil || r.set.spec.Services == nil || r.set.spec.Services.NodePorts == "" {
		return nil
	}
	keep := r.set.spec.Services.NodePorts == v1alpha1.NodePortsKeep
	return &keep
}
