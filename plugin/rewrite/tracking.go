package rewrite

import (
	"strings"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const trackingRule = "tracking marks"

// trackingMarks are the labels and annotations by which tools that apply
// manifests know an object for theirs, and delete it where it is not among
// their manifests. One that ends in / stands for all that begin so.
var trackingMarks = map[string][]string{
	"annotations": {
		"argocd.argoproj.io/tracking-id", "argocd.argoproj.io/installation-id",
		"meta.helm.sh/release-name", "meta.helm.sh/release-namespace",
		"config.k8s.io/owning-inventory", "objectset.rio.cattle.io/",
		"applyset.kubernetes.io/", "kapp.k14s.io/identity",
		"configsync.gke.io/", "configmanagement.gke.io/",
	},
	"labels": {
		"argocd.argoproj.io/instance", "applyset.kubernetes.io/part-of", "objectset.rio.cattle.io/",
		"kustomize.toolkit.fluxcd.io/name", "kustomize.toolkit.fluxcd.io/namespace",
		"helm.toolkit.fluxcd.io/name", "helm.toolkit.fluxcd.io/namespace",
		"kapp.k14s.io/app", "kapp.k14s.io/association",
		"configsync.gke.io/", "configmanagement.gke.io/",
	},
}

const (
	argoTrackingID = "argocd.argoproj.io/tracking-id"
	instanceLabel  = "app.kubernetes.io/instance"
)

// tracking takes the marks off an object that becomes another one: its tool
// would find a copy that is in none of its manifests, and delete it. Labels of
// selectors and templates are left alone, since they must stay equal; a label
// that selectors often ask for goes only where a tool is known to track by it.
func (r Rules) tracking(d *Draft, out *Result) {
	mode := v1alpha1.TrackingAuto
	if r.set != nil && r.set.spec.Tracking != "" {
		mode = r.set.spec.Tracking
	}
	moved := d.NewRef().Key() != d.Ref.Key()
	if mode == v1alpha1.TrackingKeep || mode == v1alpha1.TrackingAuto && !moved {
		return
	}
	meta := mapAt(d.Content, "metadata")
	id, _ := mapAt(meta, "annotations")[argoTrackingID].(string)
	for _, part := range [...]string{"annotations", "labels"} {
		held := mapAt(meta, part)
		for _, key := range sortedKeys(held) {
			if !isMark(part, key) {
				continue
			}
			value, _ := held[key].(string)
			drop(meta, part, key)
			out.changed(Change{Field: join("metadata."+part, key), From: value, To: absent, Rule: trackingRule})
		}
	}
	label, _ := mapAt(meta, "labels")[instanceLabel].(string)
	app, _, _ := strings.Cut(id, ":")
	switch {
	case label == "":
	case id == "" && r.LabelTracked[label]:
		drop(meta, "labels", instanceLabel)
		out.changed(Change{Field: join("metadata.labels", instanceLabel), From: label, To: absent, Rule: trackingRule})
	case label == app:
		out.warn("the label %s=%s stays, since selectors may ask for it; where Argo CD tracks by that label, it will take this copy for its own", instanceLabel, label)
	}
}

func isMark(part, key string) bool {
	for _, mark := range trackingMarks[part] {
		if key == mark || strings.HasSuffix(mark, "/") && strings.HasPrefix(key, mark) {
			return true
		}
	}
	return false
}
