package rewrite

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
)

// CleanOptions says what the caller knows and a kind alone does not tell.
type CleanOptions struct {
	// KeepNodePorts keeps the ports that a Service had on its nodes.
	KeepNodePorts bool
	// KeepStatus keeps status: the served version has no status subresource,
	// so status is ordinary data that nobody else will write.
	KeepStatus bool
	// NewVolume says that a claim gets a volume made for it here, so what
	// bound it to its old one goes.
	NewVolume bool
}

// Clean clears what a server or a controller had assigned, in families of
// fields that only make sense together, and returns what a person should know
// about it. Owner references are left to the caller.
func Clean(d *Draft, o CleanOptions) (warnings []string) {
	meta := mapAt(d.Content, "metadata")
	owners, _ := meta["managedFields"].([]any)
	claim := d.Ref.Group == "" && d.Ref.Kind == "PersistentVolumeClaim"
	if claim && o.NewVolume {
		growClaim(d)
	}
	for _, key := range serverMetadata {
		delete(meta, key)
	}
	cleanFinalizers(meta)
	if !o.KeepStatus {
		delete(d.Content, "status")
	}
	switch d.Ref.Group {
	case "":
		switch d.Ref.Kind {
		case "Namespace":
			drop(d.Content, "spec", "finalizers")
			drop(meta, "labels", nameLabel)
		case "Service":
			warnings = cleanService(d, o, owners)
		case "Pod":
			cleanPod(d)
		case "PersistentVolumeClaim":
			cleanClaim(d, o)
		case "PersistentVolume":
			drop(meta, "annotations", "pv.kubernetes.io/bound-by-controller")
			drop(mapAt(d.Content, "spec"), "claimRef", "uid", "resourceVersion")
		case "Secret":
			warnings = cleanTokenSecret(d)
		}
	case "apiextensions.k8s.io":
		if d.Ref.Kind == "CustomResourceDefinition" {
			keepUnknownFields(d)
		}
	case "batch":
		if d.Ref.Kind == "Job" {
			cleanJob(d)
		}
	case "apps":
		switch d.Ref.Kind {
		case "Deployment", "ReplicaSet":
			drop(meta, "annotations", "deployment.kubernetes.io/revision",
				"deployment.kubernetes.io/desired-replicas", "deployment.kubernetes.io/max-replicas")
		case "DaemonSet":
			drop(meta, "annotations", "deprecated.daemonset.template.generation")
		}
	}
	return warnings
}

// serverMetadata is what only a server may set. managedFields are read before
// cleaning, by Managers, and put back by the caller.
var serverMetadata = [...]string{
	"uid", "resourceVersion", "creationTimestamp", "generation", "selfLink",
	"deletionTimestamp", "deletionGracePeriodSeconds", "managedFields",
}

// assignedFinalizers are put on by the server on deletion, or by the
// controller that also takes them off: it will put its own on again. Any
// other finalizer is a wish of the object's owner and stays.
var assignedFinalizers = map[string]bool{
	"orphan":                                              true,
	"foregroundDeletion":                                  true,
	"kubernetes.io/pvc-protection":                        true,
	"kubernetes.io/pv-protection":                         true,
	"kubernetes.io/pv-controller":                         true,
	"kubernetes.io/vac-protection":                        true,
	"external-provisioner.volume.kubernetes.io/finalizer": true,
	"service.kubernetes.io/load-balancer-cleanup":         true,
	"networking.k8s.io/service-cidr-finalizer":            true,
	"resource.kubernetes.io/delete-protection":            true,
	"batch.kubernetes.io/job-tracking":                    true,
	"customresourcecleanup.apiextensions.k8s.io":          true,
}

// assignedFinalizerPrefixes begin those of storage controllers.
var assignedFinalizerPrefixes = []string{
	"external-attacher/", "provisioner.storage.kubernetes.io/",
	"snapshot.storage.kubernetes.io/", "groupsnapshot.storage.kubernetes.io/",
}

func assignedFinalizer(name string) bool {
	return assignedFinalizers[name] || slices.ContainsFunc(assignedFinalizerPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

func cleanFinalizers(meta map[string]any) {
	list, ok := meta["finalizers"].([]any)
	if !ok {
		return
	}
	var kept []any
	for _, f := range list {
		name, _ := f.(string)
		if !assignedFinalizer(name) {
			kept = append(kept, f)
		}
	}
	if len(kept) == 0 {
		delete(meta, "finalizers")
		return
	}
	meta["finalizers"] = kept
}

func cleanService(d *Draft, o CleanOptions, owners []any) (warnings []string) {
	spec := mapAt(d.Content, "spec")
	owned := func(path ...string) bool { return ownedBy(owners, path) }
	if ip, _ := spec["clusterIP"].(string); ip != "None" {
		// Both or neither: the server refuses a list that disagrees.
		delete(spec, "clusterIP")
		delete(spec, "clusterIPs")
		if ip != "" && (owned("f:spec", "f:clusterIP") || owned("f:spec", "f:clusterIPs")) {
			warnings = append(warnings, "its cluster IP "+ip+" was chosen by hand and is assigned anew: who knows it by that address has to be given the new one")
		}
	}
	if !owned("f:spec", "f:ipFamilies") {
		delete(spec, "ipFamilies")
		if !owned("f:spec", "f:ipFamilyPolicy") {
			delete(spec, "ipFamilyPolicy")
		}
	}
	if o.KeepNodePorts {
		return warnings
	}
	if _, ok := spec["healthCheckNodePort"]; ok {
		delete(spec, "healthCheckNodePort")
		if owned("f:spec", "f:healthCheckNodePort") {
			warnings = append(warnings, "the health check node port was chosen by hand and is assigned anew; keep node ports to keep it")
		}
	}
	chosen := false
	for _, p := range listAt(d.Content, "spec", "ports") {
		if _, ok := p["nodePort"]; ok {
			delete(p, "nodePort")
			chosen = chosen || owned("f:spec", "f:ports", portKey(p), "f:nodePort")
		}
	}
	if chosen {
		warnings = append(warnings, "a node port was chosen by hand and is assigned anew; keep node ports to keep it")
	}
	return warnings
}

// keepUnknownFields writes where v1 has it that fields which a schema does not
// name are kept. A definition that was made when that was the default says it
// in a field with which v1 lets none be created.
func keepUnknownFields(d *Draft) {
	spec := mapAt(d.Content, "spec")
	if d.Content["apiVersion"] != "apiextensions.k8s.io/v1" || spec["preserveUnknownFields"] != true {
		return
	}
	delete(spec, "preserveUnknownFields")
	for _, v := range listAt(spec, "versions") {
		if mapAt(v, "schema", "openAPIV3Schema") == nil {
			v["schema"] = map[string]any{"openAPIV3Schema": map[string]any{"type": "object"}}
		}
		mapAt(v, "schema", "openAPIV3Schema")["x-kubernetes-preserve-unknown-fields"] = true
	}
}

func cleanJob(d *Draft) {
	spec := mapAt(d.Content, "spec")
	meta := mapAt(d.Content, "metadata")
	drop(meta, "annotations", "batch.kubernetes.io/job-tracking", "batch.kubernetes.io/cronjob-scheduled-timestamp")
	if manual, _ := spec["manualSelector"].(bool); manual {
		return
	}
	delete(spec, "selector")
	drop(mapAt(spec, "template", "metadata"), "labels", jobLabels...)
	drop(meta, "labels", jobLabels...)
}

// jobLabels are generated under an old and a new name; which of them is there
// depends on the version of the server that made the Job.
var jobLabels = []string{
	"controller-uid", "batch.kubernetes.io/controller-uid",
	"job-name", "batch.kubernetes.io/job-name",
}

func cleanPod(d *Draft) {
	meta := mapAt(d.Content, "metadata")
	spec := mapAt(d.Content, "spec")
	delete(spec, "nodeName")
	delete(spec, "ephemeralContainers")
	// Admission works these out from the class and refuses another answer.
	delete(spec, "priority")
	delete(spec, "preemptionPolicy")
	if _, ok := spec["runtimeClassName"]; ok {
		delete(spec, "overhead")
	}
	if labels := mapAt(meta, "labels"); labels != nil {
		// A pod of a Job that is restored without its Job must not look like
		// one of another Job's.
		drop(meta, "labels", "controller-uid", "batch.kubernetes.io/controller-uid")
	}
	dropTokenVolumes(spec)
}

// dropTokenVolumes removes the volume that admission adds for the service
// account's token, and its mounts; admission adds it again.
func dropTokenVolumes(spec map[string]any) {
	removed := map[string]bool{}
	volumes, _ := spec["volumes"].([]any)
	var kept []any
	for _, v := range volumes {
		vm, _ := v.(map[string]any)
		name, _ := vm["name"].(string)
		if injectedToken(vm, name, spec["serviceAccountName"]) {
			removed[name] = true
			continue
		}
		kept = append(kept, v)
	}
	if len(removed) == 0 {
		return
	}
	setOrDelete(spec, "volumes", kept)
	for _, list := range [...]string{"containers", "initContainers"} {
		for _, c := range listAt(spec, list) {
			mounts, _ := c["volumeMounts"].([]any)
			var kept []any
			for _, m := range mounts {
				mm, _ := m.(map[string]any)
				if name, _ := mm["name"].(string); !removed[name] {
					kept = append(kept, m)
				}
			}
			if len(kept) < len(mounts) {
				setOrDelete(c, "volumeMounts", kept)
			}
		}
	}
}

// injectedToken says whether a volume is one that admission puts into each pod:
// in older clusters that was the Secret of the account's token, by its name.
func injectedToken(volume map[string]any, name string, account any) bool {
	if object.GeneratedName(name, "kube-api-access-") && mapAt(volume, "projected") != nil {
		return true
	}
	of, _ := account.(string)
	if of == "" {
		of = "default"
	}
	return object.GeneratedName(name, of+"-token-") && mapAt(volume, "secret")["secretName"] == name
}

func setOrDelete(m map[string]any, key string, list []any) {
	if len(list) == 0 {
		delete(m, key)
		return
	}
	m[key] = list
}

// bindAnnotations are written while a claim is bound to a volume, some of them
// under a beta name too.
var bindAnnotations = []string{
	"pv.kubernetes.io/bind-completed",
	"pv.kubernetes.io/bound-by-controller",
	"volume.kubernetes.io/selected-node",
	"volume.kubernetes.io/storage-provisioner",
	"volume.beta.kubernetes.io/storage-provisioner",
	"volume.kubernetes.io/storage-resizer",
}

func cleanClaim(d *Draft, o CleanOptions) {
	meta := mapAt(d.Content, "metadata")
	spec := mapAt(d.Content, "spec")
	drop(meta, "annotations", bindAnnotations...)
	if !o.NewVolume {
		return
	}
	for _, key := range [...]string{"volumeName", "selector", "dataSource", "dataSourceRef"} {
		delete(spec, key)
	}
}

// growClaim raises the size that a claim asks for to the size that it had,
// so that what was in it fits.
func growClaim(d *Draft) {
	requests := mapAt(d.Content, "spec", "resources", "requests")
	asked, _ := requests["storage"].(string)
	had, _ := mapAt(d.Content, "status", "capacity")["storage"].(string)
	if requests == nil || had == "" {
		return
	}
	a, errA := resource.ParseQuantity(asked)
	h, errH := resource.ParseQuantity(had)
	if errA == nil && errH == nil && h.Cmp(a) > 0 {
		requests["storage"] = had
	}
}

const (
	accountUIDAnnotation = "kubernetes.io/service-account.uid"
	tokenSecretType      = "kubernetes.io/service-account-token"
)

// cleanTokenSecret makes a service account's token Secret one that the token
// controller of this cluster will fill: with the old account's UID on it the
// controller would delete it.
func cleanTokenSecret(d *Draft) []string {
	if d.Content["type"] != tokenSecretType {
		return nil
	}
	drop(mapAt(d.Content, "metadata"), "annotations", accountUIDAnnotation)
	drop(mapAt(d.Content, "metadata"), "labels", "kubernetes.io/legacy-token-last-used", "kubernetes.io/legacy-token-invalid-since")
	drop(d.Content, "data", "token", "ca.crt", "namespace")
	return []string{"token reissued: whoever holds the old token has to be given the new one"}
}
