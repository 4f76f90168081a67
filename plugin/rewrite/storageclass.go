package rewrite

import (
	"fmt"
	"strings"
)

// betaClassAnnotation is where claims and volumes named their class before
// the field existed; the server still reads it, before the field.
const betaClassAnnotation = "volume.beta.kubernetes.io/storage-class"

// classQuotaSuffix ends the quota keys that count one class:
// <class>.storageclass.storage.k8s.io/requests.storage.
const classQuotaSuffix = ".storageclass.storage.k8s.io/"

// ClaimSpec is one claim, or template of a claim, inside an object.
type ClaimSpec struct {
	Path string
	// Class is nil where the claim leaves the choice to the cluster; an empty
	// string asks for no class, which is another thing.
	Class *string
}

// ClaimSpecs lists the claims that an object is, holds or will make.
func ClaimSpecs(d *Draft) []ClaimSpec {
	var out []ClaimSpec
	claims(d, func(path string, claim map[string]any) {
		out = append(out, ClaimSpec{Path: path, Class: classOf(claim)})
	})
	return out
}

func classOf(claim map[string]any) *string {
	if s, ok := mapAt(claim, "metadata", "annotations")[betaClassAnnotation].(string); ok {
		return &s
	}
	if s, ok := mapAt(claim, "spec")["storageClassName"].(string); ok {
		return &s
	}
	return nil
}

// claims visits each thing with metadata and spec that names a storage class.
func claims(d *Draft, visit func(path string, claim map[string]any)) {
	switch {
	case d.Ref.Group == "" && (d.Ref.Kind == "PersistentVolumeClaim" || d.Ref.Kind == "PersistentVolume"):
		visit("", d.Content)
	case d.Ref.Group == "apps" && d.Ref.Kind == "StatefulSet":
		for i, t := range listAt(d.Content, "spec", "volumeClaimTemplates") {
			visit(fmt.Sprintf("spec.volumeClaimTemplates[%d]", i), t)
		}
	}
	PodSpecs(d.Content, func(path string, _, spec map[string]any) {
		for i, v := range listAt(spec, "volumes") {
			if t := mapAt(v, "ephemeral", "volumeClaimTemplate"); t != nil {
				visit(fmt.Sprintf("%s.volumes[%d].ephemeral.volumeClaimTemplate", path, i), t)
			}
		}
	})
}

func (r Rules) storageClasses(d *Draft, changed func(Change)) error {
	claims(d, func(path string, claim map[string]any) {
		set := func(m map[string]any, key, at string) {
			from, ok := m[key].(string)
			to, mapped := r.StorageClasses[from]
			if ok && mapped && from != "" && from != to {
				m[key] = to
				changed(Change{Field: strings.TrimPrefix(path+"."+at, "."), From: from, To: to, Rule: classRule(from, to)})
			}
		}
		set(mapAt(claim, "spec"), "storageClassName", "spec.storageClassName")
		set(mapAt(claim, "metadata", "annotations"), betaClassAnnotation, `metadata.annotations["`+betaClassAnnotation+`"]`)
	})
	if d.Ref.Group == "" && d.Ref.Kind == "ResourceQuota" {
		hard := mapAt(d.Content, "spec", "hard")
		mapped := make(map[string]any, len(hard))
		for _, key := range sortedKeys(hard) {
			from, rest, ok := strings.Cut(key, classQuotaSuffix)
			to, known := r.StorageClasses[from]
			if !ok || !known || from == to {
				if _, taken := mapped[key]; taken {
					return fmt.Errorf("two quotas would both be spec.hard[%q], since two storage classes become one", key)
				}
				mapped[key] = hard[key]
				continue
			}
			if _, taken := mapped[to+classQuotaSuffix+rest]; taken {
				return fmt.Errorf("two quotas would both be spec.hard[%q], since two storage classes are mapped to %s", to+classQuotaSuffix+rest, to)
			}
			mapped[to+classQuotaSuffix+rest] = hard[key]
			changed(Change{Field: "spec.hard", From: key, To: to + classQuotaSuffix + rest, Rule: classRule(from, to)})
		}
		if hard != nil {
			mapAt(d.Content, "spec")["hard"] = mapped
		}
	}
	return nil
}
