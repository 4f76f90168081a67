package rewrite

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/plugin/graph"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const namesRule = "names"

// nameSaysMore are the kinds whose names mean something by themselves: another
// name would be another thing, or none at all.
var nameSaysMore = map[string]bool{
	"Namespace": true, "Node": true, "Event.events.k8s.io": true, "Event": true, "ComponentStatus": true,
	"CustomResourceDefinition.apiextensions.k8s.io": true, "APIService.apiregistration.k8s.io": true,
	"StorageClass.storage.k8s.io": true, "CSIDriver.storage.k8s.io": true, "CSINode.storage.k8s.io": true,
	"Lease.coordination.k8s.io": true, "LeaseCandidate.coordination.k8s.io": true,
	"IPAddress.networking.k8s.io": true, "ServiceCIDR.networking.k8s.io": true,
	"ClusterTrustBundle.certificates.k8s.io": true,
}

// podNameLabel is carried by the pods of a StatefulSet, with their own names.
const podNameLabel = "statefulset.kubernetes.io/pod-name"

// setOfClaims is a StatefulSet, whose claims are named after it.
type setOfClaims struct {
	ref       v1alpha1.Ref
	templates []string
}

// Learn takes notice of an object that goes along with the others: which names
// change, and which Services there are. Where a set renames objects, or follows
// names in text, every object is learned before the first is changed.
func (r Rules) Learn(o *object.Object) error {
	if !r.NeedsLearning() {
		return nil
	}
	d, err := Decode(o)
	if err != nil {
		return err
	}
	s, l := r.set, r.set.learned
	ref := d.Ref.Key()
	rename := false
	if s.renaming != nil && mayBeRenamed(o) {
		came, err := s.came(d)
		if err != nil {
			return err
		}
		if s.renaming.expression != nil {
			came.values = func() (map[string]any, error) { return variablesOf(d.Content) }
		}
		if rename, err = s.renaming.matches(d, came.labels, came.values); err != nil {
			return fmt.Errorf("%s: %w", d.Ref, err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if rename {
		if to := s.newName(ref.Name); to != ref.Name {
			l.renamed[ref] = to
		}
	}
	switch {
	case ref.Group == "" && ref.Kind == "Service":
		l.services[[2]string{ref.Namespace, ref.Name}] = true
	case ref.Group == "" && ref.Kind == "PersistentVolumeClaim":
		l.claims = append(l.claims, ref)
	case ref.Group == "" && ref.Kind == "Endpoints":
		l.endpoints = append(l.endpoints, ref)
	case ref.Group == "apps" && ref.Kind == "StatefulSet":
		set := setOfClaims{ref: ref}
		for _, t := range listAt(d.Content, "spec", "volumeClaimTemplates") {
			name, _ := mapAt(t, "metadata")["name"].(string)
			set.templates = append(set.templates, name)
		}
		l.sets = append(l.sets, set)
	}
	l.settled = false
	return nil
}

// NeedsLearning says whether Learn has to see every object first.
func (r Rules) NeedsLearning() bool {
	return r.set != nil && (r.set.spec.Names != nil || len(r.set.spec.Text) > 0 || len(r.set.places) > 0)
}

func mayBeRenamed(o *object.Object) bool {
	if nameSaysMore[kindAndGroup(o.Ref)] {
		return false
	}
	if _, made := object.MadeByCluster(o); made {
		return false
	}
	switch {
	case strings.HasPrefix(o.Ref.Name, "system:"):
		return false
	case o.Ref.Group == "" && o.Ref.Kind == "ServiceAccount":
		return o.Ref.Name != "default"
	case o.Ref.Group == "" && o.Ref.Kind == "Secret":
		// Helm finds its releases by these names.
		return !strings.HasPrefix(o.Ref.Name, "sh.helm.release.v1.")
	}
	return true
}

func kindAndGroup(r v1alpha1.Ref) string {
	if r.Group == "" {
		return r.Kind
	}
	return r.Kind + "." + r.Group
}

// newName gives a name its prefix and suffix, once.
func (s *compiled) newName(name string) string {
	n := s.spec.Names
	if strings.HasPrefix(name, n.Prefix) && strings.HasSuffix(name, n.Suffix) && len(name) > len(n.Prefix)+len(n.Suffix) {
		return name
	}
	return n.Prefix + name + n.Suffix
}

// settle gives the claims of StatefulSets the names that the renamed sets will
// look for, and Endpoints those of their Services.
func (l *learned) settle() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.settled {
		return
	}
	l.settled = true
	for _, e := range l.endpoints {
		if to, renamed := l.renamed[v1alpha1.Ref{Kind: "Service", Namespace: e.Namespace, Name: e.Name}]; renamed {
			l.renamed[e] = to
		} else if l.services[[2]string{e.Namespace, e.Name}] {
			delete(l.renamed, e)
		}
	}
	for _, claim := range l.claims {
		for _, set := range l.sets {
			if set.ref.Namespace != claim.Namespace {
				continue
			}
			for _, template := range set.templates {
				ordinal, ok := strings.CutPrefix(claim.Name, template+"-"+set.ref.Name+"-")
				if _, err := strconv.Atoi(ordinal); !ok || err != nil {
					continue
				}
				if to, renamed := l.renamed[set.ref]; renamed {
					l.renamed[claim] = template + "-" + to + "-" + ordinal
				} else {
					delete(l.renamed, claim)
				}
			}
		}
	}
}

// nameOf is what an object is called afterwards.
func (l *learned) nameOf(ref v1alpha1.Ref) (string, bool) {
	to, ok := l.renamed[ref.Key()]
	return to, ok
}

// rename changes an object's own name and every reference to a renamed one.
func (s *compiled) rename(d *Draft, out *Result) error {
	if s.spec.Names == nil {
		return nil
	}
	l := s.learned
	l.settle()
	if len(l.renamed) == 0 {
		return nil
	}
	followed := map[string]bool{}
	set := func(at, from, to string, put func(string)) {
		if from == to || followed[at] {
			return
		}
		followed[at] = true
		put(to)
		out.changed(Change{Field: at, From: from, To: to, Rule: namesRule})
	}
	if to, ok := l.nameOf(d.Ref); ok {
		meta := mapAt(d.Content, "metadata")
		set("metadata.name", d.Ref.Name, to, func(to string) { meta["name"] = to })
	}
	followed["metadata.name"] = true
	err := graph.References(d.Content, func(ref graph.Reference) error {
		to, ok := l.nameOf(ref.To)
		if !ok {
			// A kind of which the table does not know that it has no namespace.
			to, ok = l.nameOf(v1alpha1.Ref{Group: ref.To.Group, Kind: ref.To.Kind, Name: ref.To.Name})
		}
		if ok {
			set(ref.Path, ref.To.Name, to, ref.SetName)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("references: %w", err)
	}
	s.resourceNames(d, set)
	eachUser(d, func(at, user string, put func(string)) {
		rest, _ := strings.CutPrefix(user, graph.AccountUser)
		ns, account, _ := strings.Cut(rest, ":")
		if to, ok := l.nameOf(v1alpha1.Ref{Kind: "ServiceAccount", Namespace: ns, Name: account}); ok {
			set(at, user, graph.AccountUser+ns+":"+to, put)
		}
	})
	if selected := mapAt(d.Content, "spec", "selector"); d.Ref.Group == "" && d.Ref.Kind == "Service" && selected != nil {
		if pod, ok := selected[podNameLabel].(string); ok {
			if to, ok := l.podName(d.Ref.Namespace, pod); ok {
				set(join("spec.selector", podNameLabel), pod, to, func(to string) { selected[podNameLabel] = to })
			}
		}
	}
	if to, ok := l.nameOf(d.Ref); ok && d.Ref.Group == "" && d.Ref.Kind == "Service" && len(to) > 63 {
		return fmt.Errorf("the name %s is longer than the 63 characters that a Service's may have", to)
	}
	return nil
}

// podName is what a pod of a renamed StatefulSet is called.
func (l *learned) podName(namespace, pod string) (string, bool) {
	i := strings.LastIndexByte(pod, '-')
	if i < 0 {
		return "", false
	}
	to, ok := l.nameOf(v1alpha1.Ref{Group: "apps", Kind: "StatefulSet", Namespace: namespace, Name: pod[:i]})
	return to + pod[i:], ok
}

// resourceNames follows the names in the rules of a role: they go with plurals,
// by which the kinds of the renamed objects are recognized.
func (s *compiled) resourceNames(d *Draft, set func(at, from, to string, put func(string))) {
	if d.Ref.Group != "rbac.authorization.k8s.io" || d.Ref.Kind != "Role" && d.Ref.Kind != "ClusterRole" {
		return
	}
	for i, rule := range listAt(d.Content, "rules") {
		names, _ := rule["resourceNames"].([]any)
		for j, n := range names {
			name, _ := n.(string)
			if to, ok := s.learned.resourceName(d.Ref.Namespace, rule, name); ok {
				set(fmt.Sprintf("rules[%d].resourceNames[%d]", i, j), name, to, func(to string) { names[j] = to })
			}
		}
	}
}

func (l *learned) resourceName(namespace string, rule map[string]any, name string) (string, bool) {
	for ref, to := range l.renamed {
		if ref.Name == name && (namespace == "" || ref.Namespace == namespace || ref.Namespace == "") &&
			holds(rule["apiGroups"], ref.Group) && holds(rule["resources"], plural(ref.Kind)) {
			return to, true
		}
	}
	return "", false
}

func holds(v any, text string) bool {
	list, _ := v.([]any)
	for _, e := range list {
		s, _ := e.(string)
		s, _, _ = strings.Cut(s, "/")
		if s == text {
			return true
		}
	}
	return false
}

// plural is the resource of a kind, as Kubernetes builds it.
func plural(kind string) string {
	s := strings.ToLower(kind)
	switch {
	case s == "endpoints":
		return s
	case strings.HasSuffix(s, "s"), strings.HasSuffix(s, "x"), strings.HasSuffix(s, "ch"):
		return s + "es"
	case strings.HasSuffix(s, "y") && !strings.HasSuffix(s, "ay"):
		return s[:len(s)-1] + "ies"
	}
	return s + "s"
}
