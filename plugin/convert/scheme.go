package convert

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	// Each of these makes the scheme know a group, with its conversions.
	_ "k8s.io/kubernetes/pkg/apis/admissionregistration/install"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	_ "k8s.io/kubernetes/pkg/apis/autoscaling/install"
	_ "k8s.io/kubernetes/pkg/apis/batch/install"
	_ "k8s.io/kubernetes/pkg/apis/certificates/install"
	_ "k8s.io/kubernetes/pkg/apis/coordination/install"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	_ "k8s.io/kubernetes/pkg/apis/discovery/install"
	_ "k8s.io/kubernetes/pkg/apis/flowcontrol/install"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	_ "k8s.io/kubernetes/pkg/apis/node/install"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	_ "k8s.io/kubernetes/pkg/apis/rbac/install"
	_ "k8s.io/kubernetes/pkg/apis/resource/install"
	_ "k8s.io/kubernetes/pkg/apis/scheduling/install"
	_ "k8s.io/kubernetes/pkg/apis/storage/install"
)

// schemeTarget is the first version of a kind that is served and that the
// scheme can convert to, in the order in which Kubernetes prefers them.
func schemeTarget(from schema.GroupVersionKind, served Served) (schema.GroupVersionKind, bool) {
	if !legacyscheme.Scheme.Recognizes(from) {
		return schema.GroupVersionKind{}, false
	}
	for _, version := range legacyscheme.Scheme.PrioritizedVersionsForGroup(from.Group) {
		to := version.WithKind(from.Kind)
		if to != from && legacyscheme.Scheme.Recognizes(to) && served(to) {
			return to, true
		}
	}
	return schema.GroupVersionKind{}, false
}

// byScheme converts by way of Kubernetes' own types. Metadata and status are
// carried over as they are: the types know less of them than the server.
func (c *conversion) byScheme(from, to schema.GroupVersionKind) error {
	scheme := legacyscheme.Scheme
	old, err := scheme.New(from)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(c.content)
	if err != nil {
		return err
	}
	strict := json.NewDecoder(bytes.NewReader(raw))
	strict.DisallowUnknownFields()
	if err := strict.Decode(old); err != nil {
		if err := json.Unmarshal(raw, old); err != nil {
			return fmt.Errorf("it is not a %s: %w", from.Kind, err)
		}
		c.note("fields that %s does not know are lost: %s", from.GroupVersion(), strings.TrimPrefix(err.Error(), "json: "))
	}
	scheme.Default(old)
	// Versions convert to and from the internal one only.
	internal, err := scheme.UnsafeConvertToVersion(old, schema.GroupVersion{Group: from.Group, Version: runtime.APIVersionInternal})
	if err != nil {
		return err
	}
	converted, err := scheme.UnsafeConvertToVersion(internal, to.GroupVersion())
	if err != nil {
		return err
	}
	raw, err = json.Marshal(converted)
	if err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var out map[string]any
	if err := decoder.Decode(&out); err != nil {
		return err
	}
	for _, key := range [...]string{"metadata", "status"} {
		delete(out, key)
		if v, ok := c.content[key]; ok {
			out[key] = v
		}
	}
	out["apiVersion"], out["kind"] = to.GroupVersion().String(), to.Kind
	clear(c.content)
	maps.Copy(c.content, out)
	return nil
}
