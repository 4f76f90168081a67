// Package object is one Kubernetes object as the raw JSON that a server sent:
// its identity is read at once, its content is decoded only when somebody
// asks. It does not talk to a cluster and never changes the bytes.
package object

import (
	"encoding/json"
	"fmt"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
	kjson "sigs.k8s.io/json"
)

// Owner is one entry of metadata.ownerReferences.
type Owner struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	UID        string `json:"uid"`
	Controller bool   `json:"controller"`
}

// Object is one object. Raw is the server's JSON, byte for byte, and must not
// be changed.
type Object struct {
	Ref         v1alpha1.Ref
	UID         string
	Version     string // metadata.resourceVersion
	Labels      map[string]string
	Annotations map[string]string
	Owners      []Owner
	Deleting    bool // metadata.deletionTimestamp is set
	Raw         []byte

	content map[string]any
}

type header struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name              string            `json:"name"`
		Namespace         string            `json:"namespace"`
		UID               string            `json:"uid"`
		ResourceVersion   string            `json:"resourceVersion"`
		DeletionTimestamp *string           `json:"deletionTimestamp"`
		Labels            map[string]string `json:"labels"`
		Annotations       map[string]string `json:"annotations"`
		OwnerReferences   []Owner           `json:"ownerReferences"`
	} `json:"metadata"`
}

// Parse reads the identity of one object. raw must carry apiVersion and kind;
// items of a list do not always, so the lister adds them first.
func Parse(raw []byte) (*Object, error) {
	var h header
	if err := json.Unmarshal(raw, &h); err != nil {
		return nil, fmt.Errorf("read object: %w", err)
	}
	if h.APIVersion == "" || h.Kind == "" || h.Metadata.Name == "" {
		return nil, fmt.Errorf("read object: apiVersion, kind and metadata.name must be set, got %q, %q, %q", h.APIVersion, h.Kind, h.Metadata.Name)
	}
	group, version := SplitAPIVersion(h.APIVersion)
	return &Object{
		Ref:         v1alpha1.Ref{Group: group, Version: version, Kind: h.Kind, Namespace: h.Metadata.Namespace, Name: h.Metadata.Name},
		UID:         h.Metadata.UID,
		Version:     h.Metadata.ResourceVersion,
		Labels:      h.Metadata.Labels,
		Annotations: h.Metadata.Annotations,
		Owners:      h.Metadata.OwnerReferences,
		Deleting:    h.Metadata.DeletionTimestamp != nil,
		Raw:         raw,
	}, nil
}

// SplitAPIVersion splits group/version; the core group is empty.
func SplitAPIVersion(s string) (group, version string) {
	for i := 0; i < len(s); i++ {
		if s[i] == '/' {
			return s[:i], s[i+1:]
		}
	}
	return "", s
}

// Content is the decoded object, decoded once. Whole numbers are int64, others
// float64. Callers must not change it: rewriting works on a copy.
func (o *Object) Content() (map[string]any, error) {
	if o.content == nil {
		var m map[string]any
		if err := kjson.UnmarshalCaseSensitivePreserveInts(o.Raw, &m); err != nil {
			return nil, fmt.Errorf("decode %s: %w", o.Ref, err)
		}
		o.content = m
	}
	return o.content, nil
}

// Release forgets the decoded content, so that a caller that keeps the object
// keeps only its bytes.
func (o *Object) Release() { o.content = nil }

// Controller is the owner that manages this object, if there is one.
func (o *Object) Controller() (Owner, bool) {
	for _, w := range o.Owners {
		if w.Controller {
			return w, true
		}
	}
	return Owner{}, false
}
