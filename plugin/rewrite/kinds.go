package rewrite

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// known holds the Go types of the built-in kinds: by them rules are checked
// when they are read, and strategic patches know how lists merge.
var known = sync.OnceValue(func() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, batchv1.AddToScheme, autoscalingv1.AddToScheme, autoscalingv2.AddToScheme,
		networkingv1.AddToScheme, policyv1.AddToScheme, rbacv1.AddToScheme, storagev1.AddToScheme, admissionv1.AddToScheme,
		certificatesv1.AddToScheme, coordinationv1.AddToScheme, discoveryv1.AddToScheme, eventsv1.AddToScheme,
		flowcontrolv1.AddToScheme, nodev1.AddToScheme, schedulingv1.AddToScheme, resourcev1.AddToScheme,
	} {
		utilruntime.Must(add(s))
	}
	return s
})

// otherKinds are built-in ones of which rules may name any field: their types
// are not linked, or they have several.
var otherKinds = []string{
	"CustomResourceDefinition.apiextensions.k8s.io", "APIService.apiregistration.k8s.io",
	"MutatingAdmissionPolicy.admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding.admissionregistration.k8s.io",
	"ClusterTrustBundle.certificates.k8s.io", "LeaseCandidate.coordination.k8s.io", "PodGroup.scheduling.k8s.io",
	"CompositePodGroup.scheduling.k8s.io", "Workload.scheduling.k8s.io", "VolumeSnapshot.snapshot.storage.k8s.io",
	"VolumeSnapshotClass.snapshot.storage.k8s.io", "VolumeSnapshotContent.snapshot.storage.k8s.io",
}

// typesOf are the types of the built-in kinds that a pattern names.
func typesOf(p kindPattern) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for gvk, t := range known().AllKnownTypes() {
		if p.matches(gvk.Group, gvk.Kind) && isObject(t) {
			out[gvk.GroupVersion().String()+" "+gvk.Kind] = t
		}
	}
	return out
}

func typeOf(group, version, kind string) (reflect.Type, bool) {
	t, ok := known().AllKnownTypes()[schema.GroupVersionKind{Group: group, Version: version, Kind: kind}]
	return t, ok && isObject(t)
}

// isObject tells kinds of objects from lists and options.
func isObject(t reflect.Type) bool {
	f, ok := t.FieldByName("ObjectMeta")
	return ok && f.Anonymous
}

// builtinGroup says whether a group is one of Kubernetes' own, of which no
// CustomResourceDefinition may add kinds without a review.
func builtinGroup(group string) bool {
	return group == "" || group == "apps" || group == "batch" || group == "autoscaling" || group == "policy"
}

type kindPattern struct {
	text, kind, group string
	anyKind, anyGroup bool
}

func parseKind(s string) kindPattern {
	kind, group, hasGroup := strings.Cut(s, ".")
	if group == v1alpha1.CoreGroup {
		group = ""
	}
	return kindPattern{text: s, kind: kind, group: group, anyKind: kind == "*", anyGroup: !hasGroup}
}

func (p kindPattern) matches(group, kind string) bool {
	return (p.anyGroup || p.group == group) && (p.anyKind || p.kind == kind)
}

// knownKinds refuses a kind that nobody can mean: one without a group that is
// not built in, or one that a built-in group does not have.
func (c *compilation) knownKinds(at, pattern string) {
	p := parseKind(pattern)
	if p.anyKind || !p.anyGroup && !builtinGroup(p.group) || len(typesOf(p)) > 0 {
		return
	}
	var names []string
	for _, full := range otherKinds {
		kind, group, _ := strings.Cut(full, ".")
		if p.matches(group, kind) {
			return
		}
		names = append(names, kind)
	}
	for gvk, t := range known().AllKnownTypes() {
		if isObject(t) && (p.anyGroup || gvk.Group == p.group) {
			names = append(names, gvk.Kind)
		}
	}
	slices.Sort(names)
	hint := "a kind of a custom resource is written with its group, as in Certificate.cert-manager.io"
	if near := v1alpha1.Nearest(p.kind, names); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	c.refuse(at, hint, fmt.Sprintf("unknown kind %q", pattern))
}

// knownField refuses a field that a built-in kind does not have. metadata is
// the same for all kinds.
func (c *compilation) knownField(at string, path v1alpha1.FieldPath, kinds []string) {
	if len(path) == 0 {
		return
	}
	if len(kinds) == 0 || path[0].Key == "metadata" {
		if path[0].Key == "metadata" {
			if why, hint := lacks(reflect.TypeFor[corev1.ConfigMap](), path); why != "" {
				c.refuse(at, hint, why)
			}
		}
		return
	}
	for _, pattern := range kinds {
		p := parseKind(pattern)
		if p.anyKind {
			continue
		}
		types := typesOf(p)
		var refused []string
		var firstHint string
		for _, name := range slices.Sorted(mapKeys(types)) {
			if why, hint := lacks(types[name], path); why != "" {
				refused = append(refused, name+": "+why)
				firstHint = hint
			}
		}
		// A kind of two versions has what one of them has.
		if len(refused) > 0 && len(refused) == len(types) {
			c.refuse(at, firstHint, refused[0])
		}
	}
}

// lacks says which part of a path a type does not have.
func lacks(t reflect.Type, path v1alpha1.FieldPath) (why, hint string) {
	for i, step := range path {
		for t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		where := path[:i].String()
		switch {
		case opaque(t):
			return "", ""
		case step.List && t.Kind() != reflect.Slice:
			return fmt.Sprintf("%s is not a list", where), ""
		case step.List:
			t = t.Elem()
		case t.Kind() == reflect.Map:
			t = t.Elem()
		case t.Kind() == reflect.Slice:
			return fmt.Sprintf("%s is a list", where), fmt.Sprintf("write %s[] for every element, or %s[name=...] for one", where, where)
		case t.Kind() == reflect.Struct:
			next, names := fieldOf(t, step.Key)
			if next == nil {
				if near := v1alpha1.Nearest(step.Key, names); near != "" {
					hint = fmt.Sprintf("did you mean %q?", near)
				}
				return fmt.Sprintf("unknown field %q", path[:i+1].String()), hint
			}
			t = next
		default:
			return fmt.Sprintf("%s has no fields", where), ""
		}
	}
	return "", ""
}

// opaque types have a JSON form that their Go fields do not show.
func opaque(t reflect.Type) bool {
	if t.Kind() == reflect.Interface {
		return true
	}
	if t.Kind() != reflect.Struct {
		return false
	}
	_, own := reflect.PointerTo(t).MethodByName("UnmarshalJSON")
	return own
}

func fieldOf(t reflect.Type, name string) (reflect.Type, []string) {
	var names []string
	for i := range t.NumField() {
		f := t.Field(i)
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && tag == "":
			found, inner := fieldOf(f.Type, name)
			if found != nil {
				return found, nil
			}
			names = append(names, inner...)
		case tag == name && tag != "-" && tag != "":
			return f.Type, nil
		case tag != "" && tag != "-":
			names = append(names, tag)
		}
	}
	return nil, names
}
