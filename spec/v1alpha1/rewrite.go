package v1alpha1

import (
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// RewriteSet says how objects change on their way into another place.
type RewriteSet struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              RewriteSetSpec `json:"spec"`

	positions positions
}

// RewriteSetSpec is the spec of a RewriteSet. What is not written changes
// nothing.
type RewriteSetSpec struct {
	// Namespaces maps the namespace that an object was in to the one it goes
	// to; references to it follow.
	Namespaces map[string]string `json:"namespaces,omitempty"`
	// StorageClasses maps class names wherever a claim is made or templated.
	StorageClasses map[string]string `json:"storageClasses,omitempty"`
	// References map the names of cluster-scoped objects that are called
	// otherwise in the other place, wherever they are referred to.
	References []ReferenceMap `json:"references,omitempty"`
	// Names gives objects a prefix or suffix; references to them follow.
	Names *NameChange `json:"names,omitempty"`
	// Images maps registries and repositories; the longest From wins.
	Images []ImageMap `json:"images,omitempty"`
	// Hosts maps host names; exact before suffix before regex.
	Hosts []HostMap `json:"hosts,omitempty"`
	// NodeLabels maps the labels that pods and volumes choose nodes by.
	NodeLabels []NodeLabelMap `json:"nodeLabels,omitempty"`
	Services   *ServiceChange `json:"services,omitempty"`
	// Text says in which free text the DNS names of Services in renamed
	// namespaces, of renamed Services, and mapped hosts are followed: Env,
	// Args, ConfigMaps, Secrets, Annotations.
	Text []string `json:"text,omitempty"`
	// Fields are further places, of custom resources above all, that hold what
	// the maps above are about.
	Fields []FieldPlace `json:"fields,omitempty"`
	// Profiles map the annotations and defaults of one platform to another's.
	Profiles []Profile `json:"profiles,omitempty"`
	// Tracking says what becomes of the marks by which GitOps tools know their
	// objects: Auto (default: dropped from objects that get another namespace
	// or name), Keep or Drop.
	Tracking string `json:"tracking,omitempty"`
	// Rules change single fields of objects that match, after all the above.
	Rules []RewriteRule `json:"rules,omitempty"`
	// Once says that the set is not meant to be applied to its own result:
	// maps may then swap and chain names.
	Once bool `json:"once,omitempty"`
}

// ReferenceMap maps the names of one cluster-scoped kind.
type ReferenceMap struct {
	// Kind is Kind or Kind.group, as in IngressClass.networking.k8s.io.
	Kind  string            `json:"kind"`
	Names map[string]string `json:"names"`
}

// NameChange renames the objects that it matches.
type NameChange struct {
	Prefix string       `json:"prefix,omitempty"`
	Suffix string       `json:"suffix,omitempty"`
	Match  RewriteMatch `json:"match,omitempty"`
}

// ImageMap maps a registry, or a path in one: docker.io,
// registry.example.org:5000/team. Tags and digests stay.
type ImageMap struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// HostMap maps one host, all hosts below a domain, or what a regular
// expression matches; exactly one of From, Suffix and Regex is set.
type HostMap struct {
	From   string `json:"from,omitempty"`
	Suffix string `json:"suffix,omitempty"`
	Regex  string `json:"regex,omitempty"`
	// To replaces it; with Regex it may use $1 or ${name}.
	To string `json:"to"`
}

// NodeLabelMap maps one label of nodes.
type NodeLabelMap struct {
	Key string `json:"key"`
	// ToKey is another key for it.
	ToKey string `json:"toKey,omitempty"`
	// Values maps its values; others stay.
	Values map[string]string `json:"values,omitempty"`
	// Drop takes away what asks for it.
	Drop bool `json:"drop,omitempty"`
}

// ServiceChange changes how Services are reached from outside.
type ServiceChange struct {
	// Types maps ClusterIP, NodePort and LoadBalancer; fields that the new
	// type does not have go.
	Types map[string]string `json:"types,omitempty"`
	// NodePorts is Keep or Clear; empty leaves it to the restore's flag, and
	// to Keep elsewhere.
	NodePorts string `json:"nodePorts,omitempty"`
}

// FieldPlace is a field that holds an image, a host, a namespace, the name of
// a storage class, or text in which DNS names are followed.
type FieldPlace struct {
	Kinds []string `json:"kinds"`
	Path  string   `json:"path"`
	// Holds is Image, Host, Namespace, StorageClass or Text.
	Holds string `json:"holds"`
}

// Profile is the way from one platform to another: AWS, Azure, Google,
// OpenShift or Generic.
type Profile struct {
	From string `json:"from"`
	// To empty means Generic: what only the first platform knows goes.
	To string `json:"to,omitempty"`
}

// RewriteMatch chooses objects by what they were before the set changed them.
// Fields are AND-ed; empty matches every object.
type RewriteMatch struct {
	// Kinds are Kind, Kind.group, *.group or *.
	Kinds         []string              `json:"kinds,omitempty"`
	Namespaces    []string              `json:"namespaces,omitempty"`
	Names         []string              `json:"names,omitempty"`
	LabelSelector *metav1.LabelSelector `json:"labelSelector,omitempty"`
	// Expression is CEL over object, labels and annotations; it must be
	// boolean.
	Expression string `json:"expression,omitempty"`
}

// RewriteRule changes fields of the objects that it matches. What it lists is
// done in the order of the fields below.
type RewriteRule struct {
	Name  string       `json:"name,omitempty"`
	Match RewriteMatch `json:"match,omitempty"`
	// Priority decides where two rules change one field: the higher has the
	// last word. With equal priorities such rules are refused. The maps above
	// have priority 0.
	Priority int `json:"priority,omitempty"`
	// Optional says that matching nothing is fine.
	Optional bool `json:"optional,omitempty"`
	// Remove lists the paths of fields that go; one that is not there is fine.
	Remove []string `json:"remove,omitempty"`
	// Set gives fields a value; maps on the way are made.
	Set []FieldValue `json:"set,omitempty"`
	// Replace changes what a regular expression matches inside texts.
	Replace []TextReplace `json:"replace,omitempty"`
	// JSONPatch is a list of operations, MergePatch a JSON merge patch, and
	// StrategicMergePatch one that merges lists as kubectl does.
	JSONPatch           json.RawMessage `json:"jsonPatch,omitempty"`
	MergePatch          json.RawMessage `json:"mergePatch,omitempty"`
	StrategicMergePatch json.RawMessage `json:"strategicMergePatch,omitempty"`
}

// FieldValue is a field and what it is set to: Value, or what Expression
// yields, CEL over object (as it is by then), labels and annotations.
type FieldValue struct {
	Path       string          `json:"path"`
	Value      json.RawMessage `json:"value,omitempty"`
	Expression string          `json:"expression,omitempty"`
}

// TextReplace replaces what Regex matches in the text at Path by With, which
// may use $1 or ${name}.
type TextReplace struct {
	Path  string `json:"path"`
	Regex string `json:"regex"`
	With  string `json:"with"`
}

// At is where a field of the set stands; the empty path is the document.
func (r *RewriteSet) At(path string) Position { return r.positions.at(path) }

// Label is what reports call a rule: its name, or where it stands.
func (r RewriteRule) Label(index int) string { return ruleLabel(r.Name, index) }

// The values that the enumerated fields of a RewriteSet take.
const (
	TrackingAuto = "Auto"
	TrackingKeep = "Keep"
	TrackingDrop = "Drop"

	NodePortsKeep  = "Keep"
	NodePortsClear = "Clear"

	TextEnv         = "Env"
	TextArgs        = "Args"
	TextConfigMaps  = "ConfigMaps"
	TextSecrets     = "Secrets"
	TextAnnotations = "Annotations"

	HoldsImage        = "Image"
	HoldsHost         = "Host"
	HoldsNamespace    = "Namespace"
	HoldsStorageClass = "StorageClass"
	HoldsText         = "Text"

	PlatformAWS       = "AWS"
	PlatformAzure     = "Azure"
	PlatformGoogle    = "Google"
	PlatformOpenShift = "OpenShift"
	PlatformGeneric   = "Generic"
)
