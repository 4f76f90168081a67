package drill

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-backup/kubectl-backup/plugin/mover"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const (
	definition = "CustomResourceDefinition"
	// nobody is a class that no controller answers to, and the end of hosts
	// that nobody can resolve.
	nobody  = "drill-invalid"
	nowhere = "$1.drill.invalid"
)

// closing are the groups of which nothing is restored, with the reason.
var closing = map[string]string{
	"networking.k8s.io/NetworkPolicy":     "it could open what the drill closes",
	"cilium.io/*":                         "it could open what the drill closes",
	"crd.projectcalico.org/*":             "it could open what the drill closes",
	"projectcalico.org/*":                 "it could open what the drill closes",
	"snapshot.storage.k8s.io/*":           "it stands for a snapshot of the original's volumes",
	"groupsnapshot.storage.k8s.io/*":      "it stands for a snapshot of the original's volumes",
	"externaldns.k8s.io/*":                "it makes entries in the DNS of others",
	"multicluster.x-k8s.io/ServiceExport": "it makes the Service known to other clusters",
}

// wanted says whether an object takes part in the drill.
func (d *drill) wanted(o *object.Object) (bool, error) {
	r := o.Ref
	if r.Kind == definition && r.Namespace == "" {
		for _, l := range d.lacking {
			if l.definition == r.Name && d.Definitions {
				return true, nil
			}
		}
		return false, nil
	}
	if r.Namespace == "" {
		return false, nil
	}
	for _, key := range []string{r.Group + "/" + r.Kind, r.Group + "/*"} {
		if reason, out := closing[key]; out {
			d.leaveOut(r, reason)
			return false, nil
		}
	}
	if l, lacks := d.lacking[kind{r.Group, r.Kind}]; lacks && !d.Definitions {
		d.leaveOut(r, "the target lacks CustomResourceDefinition "+l.definition)
		return false, nil
	}
	return true, nil
}

// mostLeftOut bounds the list in the report.
const mostLeftOut = 1000

func (d *drill) leaveOut(r v1alpha1.Ref, reason string) {
	line := fmt.Sprintf("%s: %s", r, reason)
	// Objects are looked at more than once.
	if len(d.report.LeftOut) < mostLeftOut && !slices.Contains(d.report.LeftOut, line) {
		d.report.LeftOut = append(d.report.LeftOut, line)
	}
}

// defused are the rules that keep a copy from acting on the world: it must be
// reached by nobody and start nothing by itself. made are the kinds whose
// definitions are made for the drill.
func defused(made map[kind]lack) *v1alpha1.RewriteSet {
	set := &v1alpha1.RewriteSet{}
	set.APIVersion, set.Kind, set.Name = v1alpha1.APIVersion, "RewriteSet", "drill"
	set.Spec = v1alpha1.RewriteSetSpec{
		Text:     []string{v1alpha1.TextEnv, v1alpha1.TextArgs, v1alpha1.TextConfigMaps, v1alpha1.TextSecrets, v1alpha1.TextAnnotations},
		Services: &v1alpha1.ServiceChange{Types: map[string]string{"LoadBalancer": "ClusterIP", "NodePort": "ClusterIP"}, NodePorts: v1alpha1.NodePortsClear},
		Tracking: v1alpha1.TrackingDrop,
		Once:     true,
	}
	rule := func(name string, kinds []string, r v1alpha1.RewriteRule) {
		r.Name, r.Match.Kinds, r.Optional = name, kinds, true
		set.Spec.Rules = append(set.Spec.Rules, r)
	}
	value := func(path string, v any) v1alpha1.FieldValue {
		raw, _ := json.Marshal(v) // text and bools: never fails
		return v1alpha1.FieldValue{Path: path, Value: raw}
	}
	hosts := func(paths ...string) (out []v1alpha1.TextReplace) {
		for _, p := range paths {
			out = append(out, v1alpha1.TextReplace{Path: p, Regex: "^(.+)$", With: nowhere})
		}
		return out
	}
	rule("CronJobs are suspended", []string{"CronJob.batch"}, v1alpha1.RewriteRule{Set: []v1alpha1.FieldValue{value("spec.suspend", true)}})
	rule("Services have no addresses outside", []string{"Service.core"}, v1alpha1.RewriteRule{Remove: []string{"spec.externalIPs"}})
	rule("Ingresses are answered by nobody", []string{"Ingress.networking.k8s.io"}, v1alpha1.RewriteRule{
		Remove:  []string{`metadata.annotations["kubernetes.io/ingress.class"]`},
		Set:     []v1alpha1.FieldValue{value("spec.ingressClassName", nobody)},
		Replace: hosts("spec.rules[].host", "spec.tls[].hosts[]"),
	})
	rule("Gateways are answered by nobody", []string{"Gateway.gateway.networking.k8s.io"}, v1alpha1.RewriteRule{
		Set: []v1alpha1.FieldValue{value("spec.gatewayClassName", nobody)}, Replace: hosts("spec.listeners[].hostname"),
	})
	// Who would act on them may not be here, and nothing could be removed.
	rule("nothing waits for anybody when it is removed", nil, v1alpha1.RewriteRule{Remove: []string{"metadata.finalizers"}})
	var mark metav1.ObjectMeta
	mover.Mark(&mark)
	temporary := v1alpha1.RewriteRule{}
	for _, kind := range []struct {
		name string
		of   map[string]string
	}{{"labels", mark.Labels}, {"annotations", mark.Annotations}} {
		for key, v := range kind.of {
			temporary.Set = append(temporary.Set, value(fmt.Sprintf("metadata.%s[%q]", kind.name, key), v))
		}
	}
	definitions := []string{definition + ".apiextensions.k8s.io"}
	rule("definitions are the drill's own", definitions, temporary)
	// The server that converted is not reached, or its certificate is for where
	// it was; and nothing could be read or removed any more once it is gone.
	// Objects are kept as they were saved instead.
	rule("nobody converts", definitions, v1alpha1.RewriteRule{Priority: 1, Remove: []string{"spec.conversion"}, Set: []v1alpha1.FieldValue{value("spec.versions[].storage", false)}})
	for n, k := range slices.SortedFunc(maps.Values(made), func(a, b lack) int { return strings.Compare(a.definition, b.definition) }) {
		rule("objects are kept as they were saved: "+k.definition, definitions, v1alpha1.RewriteRule{
			Match: v1alpha1.RewriteMatch{Names: []string{k.definition}}, Priority: n + 2, Set: []v1alpha1.FieldValue{value("spec.versions[name="+k.version+"].storage", true)},
		})
	}
	var routes []string
	for _, k := range []string{"HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute"} {
		routes = append(routes, k+".gateway.networking.k8s.io")
	}
	rule("routes hang on no gateway", routes, v1alpha1.RewriteRule{Remove: []string{"spec.parentRefs"}, Replace: hosts("spec.hostnames[]")})
	rule("Routes lead from nowhere", []string{"Route.route.openshift.io"}, v1alpha1.RewriteRule{Replace: hosts("spec.host")})
	host := func(path string, kinds ...string) {
		rule("pods are not on the node's network: "+path, kinds, v1alpha1.RewriteRule{Remove: []string{
			path + ".hostNetwork", path + ".containers[].ports[].hostPort", path + ".initContainers[].ports[].hostPort",
		}})
	}
	host("spec", "Pod.core")
	host("spec.template.spec", "Deployment.apps", "StatefulSet.apps", "DaemonSet.apps", "ReplicaSet.apps", "ReplicationController.core", "Job.batch")
	host("spec.jobTemplate.spec.template.spec", "CronJob.batch")
	return set
}
