package rewrite

// namespaceTable lists the maps whose namespace field names a namespace
// without referring to an object that the graph follows: secrets of volume
// drivers, targets of endpoints, grants. It adds to graph.References. A path
// ends in ":field" where the field has another name; kind "*" is every kind
// of the group.
var namespaceTable = []struct {
	group, kind string
	paths       []string
}{
	{"", "PersistentVolume", []string{
		"spec.claimRef",
		"spec.csi.controllerPublishSecretRef", "spec.csi.nodeStageSecretRef", "spec.csi.nodePublishSecretRef",
		"spec.csi.controllerExpandSecretRef", "spec.csi.nodeExpandSecretRef",
		"spec.azureFile:secretNamespace", "spec.flexVolume.secretRef", "spec.cephfs.secretRef",
		"spec.rbd.secretRef", "spec.iscsi.secretRef", "spec.scaleIO.secretRef", "spec.storageos.secretRef",
		"spec.glusterfs:endpointsNamespace",
	}},
	{"", "ServiceAccount", []string{"secrets[]"}},
	{"", "Endpoints", []string{"subsets[].addresses[].targetRef", "subsets[].notReadyAddresses[].targetRef"}},
	{"", "Event", []string{"involvedObject", "related"}},
	{"events.k8s.io", "Event", []string{"regarding", "related"}},
	{"discovery.k8s.io", "EndpointSlice", []string{"endpoints[].targetRef"}},
	{"apiregistration.k8s.io", "APIService", []string{"spec.service"}},
	{"admissionregistration.k8s.io", "*", []string{"webhooks[].clientConfig.service", "spec.paramRef"}},
	{"networking.k8s.io", "IngressClass", []string{"spec.parameters"}},
	{"storage.k8s.io", "VolumeAttachment", []string{"spec.source.inlineVolumeSpec.claimRef"}},
	{"gateway.networking.k8s.io", "*", []string{
		"spec.parentRefs[]", "spec.targetRefs[]", "spec.parametersRef", "spec.from[]",
		"spec.rules[].backendRefs[]",
		"spec.rules[].filters[].requestMirror.backendRef",
		"spec.rules[].backendRefs[].filters[].requestMirror.backendRef",
		"spec.listeners[].tls.certificateRefs[]",
		"spec.listeners[].tls.frontendValidation.caCertificateRefs[]",
	}},
}

func namespaceFields(group, kind string) []string {
	var out []string
	for _, row := range namespaceTable {
		if row.group == group && (row.kind == "*" || row.kind == kind) {
			out = append(out, row.paths...)
		}
	}
	return out
}

// subjectFields lists the maps whose name is that of a user or a group.
func subjectFields(group string) []string {
	switch group {
	case "rbac.authorization.k8s.io":
		return []string{"subjects[]"}
	case "flowcontrol.apiserver.k8s.io":
		return []string{"spec.rules[].subjects[].user", "spec.rules[].subjects[].group"}
	}
	return nil
}
