package graph

import (
	"cmp"
	"maps"
	"slices"
)

func sortedKinds[V any](m map[groupKind]V) []groupKind {
	return slices.SortedFunc(maps.Keys(m), func(a, b groupKind) int {
		return cmp.Or(cmp.Compare(a.group, b.group), cmp.Compare(a.kind, b.kind))
	})
}

func workloadRows() []Row {
	rows := on("apps", "StatefulSet", claimSpecRows("spec.volumeClaimTemplates[].")...)
	return append(rows, on("apps", "StatefulSet",
		Row{Path: "spec.serviceName", ToKind: "Service", Type: TypeServiceName})...)
}

func rbacRows() []Row {
	var rows []Row
	for _, kind := range []string{"RoleBinding", "ClusterRoleBinding"} {
		rows = append(rows, on(groupRBAC, kind,
			Row{Path: "roleRef.name", ToGroup: groupRBAC, ToKind: "ClusterRole", GroupField: "apiGroup", KindField: "kind", Type: TypeBindsRole},
			Row{Path: "subjects[kind=ServiceAccount].name", ToKind: "ServiceAccount", NamespaceField: "namespace",
				Type: TypeBindsSubject, Reverse: true, Unordered: true, Optional: true})...)
	}
	rows = append(rows, on(groupRBAC, "ClusterRole",
		Row{Path: "aggregationRule.clusterRoleSelectors[]", Match: ByLabelSelector, ToGroup: groupRBAC, ToKind: "ClusterRole", Cluster: true, Type: TypeAggregates, Unordered: true})...)
	return append(rows, on("", "ServiceAccount",
		Row{Path: "secrets[].name", ToKind: "Secret", NamespaceField: "namespace", Type: TypeListsSecret, Unordered: true, Optional: true},
		Row{Path: "imagePullSecrets[].name", ToKind: "Secret", Type: TypePullsWith, Optional: true})...)
}

func serviceRows() []Row {
	pods := func(path string, m Match, typ string) Row {
		return Row{Path: path, Match: m, ToKind: "Pod", Type: typ, Reverse: true, Unordered: true}
	}
	service := func(path, typ string) Row { return Row{Path: path, ToKind: "Service", Type: typ, Reverse: true} }
	rows := on("", "Service", pods("spec.selector", ByLabels, TypeSelects))
	rows = append(rows, on(groupDiscovery, "EndpointSlice", service(`metadata.labels["kubernetes.io/service-name"]`, TypeEndpointsOf))...)
	for _, addresses := range []string{"subsets[].addresses[]", "subsets[].notReadyAddresses[]"} {
		rows = append(rows, on("", "Endpoints", mentionsObject(addresses+".targetRef"))...)
	}
	rows = append(rows, on(groupDiscovery, "EndpointSlice", mentionsObject("endpoints[].targetRef"))...)
	rows = append(rows, on("", "Endpoints", Row{Path: "metadata.name", ToKind: "Service", Type: TypeEndpointsOf, Reverse: true, Optional: true})...)
	backend := func(path string) []Row {
		return []Row{
			service(path+".service.name", TypeRoutesTo),
			{Path: path + ".resource.name", GroupField: "apiGroup", KindField: "kind", Type: TypeRoutesTo},
		}
	}
	rows = append(rows, on(groupNetworking, "Ingress", slices.Concat(backend("spec.defaultBackend"), backend("spec.backend"), backend("spec.rules[].http.paths[].backend"), []Row{
		service("spec.backend.serviceName", TypeRoutesTo), // v1beta1
		service("spec.rules[].http.paths[].backend.serviceName", TypeRoutesTo),
		{Path: "spec.tls[].secretName", ToKind: "Secret", Type: TypeUsesSecret},
		{Path: "spec.ingressClassName", ToGroup: groupNetworking, ToKind: "IngressClass", Cluster: true, Type: TypeClass},
		{Path: `metadata.annotations["kubernetes.io/ingress.class"]`, ToGroup: groupNetworking, ToKind: "IngressClass", Cluster: true, Type: TypeClass, Optional: true},
	})...)...)
	rows = append(rows, on(groupNetworking, "IngressClass",
		Row{Path: "spec.parameters.name", GroupField: "apiGroup", KindField: "kind", NamespaceField: "namespace", Type: TypeParameters})...)
	rows = append(rows, on(groupNetworking, "NetworkPolicy", pods("spec.podSelector", ByLabelSelector, TypeProtects))...)
	for _, peer := range []string{"spec.ingress[].from[]", "spec.egress[].to[]"} {
		rows = append(rows, on(groupNetworking, "NetworkPolicy", namespaceSelectorRows(peer+".namespaceSelector")...)...)
	}
	rows = append(rows, on(groupNetworking, "IPAddress",
		Row{Path: "spec.parentRef.name", ToKind: "Service", NamespaceField: "namespace", Type: TypeAllottedTo, Loose: true, Optional: true, Unordered: true})...)
	return append(rows, on("policy", "PodDisruptionBudget", pods("spec.selector", ByLabelSelector, TypeProtects))...)
}

func gatewayRows() []Row {
	named := func(path, toGroup, toKind, typ string) Row {
		return Row{Path: path, ToGroup: toGroup, ToKind: toKind, GroupField: "group", KindField: "kind", NamespaceField: "namespace", Type: typ}
	}
	extension := func(path string) Row { return named(path, "", "", TypeParameters) }
	backend := func(path string) Row {
		r := named(path, "", "Service", TypeRoutesTo)
		r.Reverse = true
		return r
	}
	var rows []Row
	for _, kind := range []string{"HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute"} {
		rows = append(rows, on(groupGateway, kind,
			named("spec.parentRefs[].name", groupGateway, "Gateway", TypeAttachesTo),
			backend("spec.rules[].backendRefs[].name"),
			backend("spec.rules[].filters[].requestMirror.backendRef.name"),
			backend("spec.rules[].backendRefs[].filters[].requestMirror.backendRef.name"),
			extension("spec.rules[].filters[].extensionRef.name"),
			extension("spec.rules[].backendRefs[].filters[].extensionRef.name"))...)
	}
	for _, kind := range []string{"Gateway", "ListenerSet", "XListenerSet"} {
		rows = append(rows, on(groupGateway, kind, append(namespaceSelectorRows("spec.listeners[].allowedRoutes.namespaces.selector"),
			named("spec.listeners[].tls.certificateRefs[].name", "", "Secret", TypeUsesSecret),
			named("spec.listeners[].tls.frontendValidation.caCertificateRefs[].name", "", "ConfigMap", TypeUsesSecret))...)...)
	}
	rows = append(rows, on(groupGateway, "Gateway",
		Row{Path: "spec.gatewayClassName", ToGroup: groupGateway, ToKind: "GatewayClass", Cluster: true, Type: TypeClass},
		named("spec.infrastructure.parametersRef.name", "", "", TypeParameters),
		named("spec.tls.backend.clientCertificateRef.name", "", "Secret", TypeUsesSecret))...)
	for _, kind := range []string{"ListenerSet", "XListenerSet"} {
		rows = append(rows, on(groupGateway, kind, named("spec.parentRef.name", groupGateway, "Gateway", TypeAttachesTo))...)
	}
	rows = append(rows, on(groupGateway, "GatewayClass", named("spec.parametersRef.name", "", "", TypeParameters))...)
	target := named("spec.targetRefs[].name", "", "Service", TypePolicy)
	target.Reverse = true
	rows = append(rows, on(groupGateway, "BackendTLSPolicy", target,
		named("spec.validation.caCertificateRefs[].name", "", "ConfigMap", TypeUsesSecret))...)
	grant := named("spec.to[].name", "", "Service", TypeGrants)
	grant.NamespaceField, grant.Reverse, grant.Optional, grant.Unordered = "", true, true, true
	from := mentionsNamespace()
	from.Path = "spec.from[].namespace"
	return append(rows, on(groupGateway, "ReferenceGrant", grant, from)...)
}

func storageRows() []Row {
	rows := on("", "PersistentVolumeClaim", claimSpecRows("")...)
	secret := func(path string) Row {
		return Row{Path: path, ToKind: "Secret", NamespaceField: "namespace", Type: TypeUsesSecret}
	}
	rows = append(rows, on("", "PersistentVolume",
		Row{Path: "spec.storageClassName", ToGroup: groupStorage, ToKind: "StorageClass", Cluster: true, Type: TypeClass, Optional: true},
		Row{Path: `metadata.annotations["volume.beta.kubernetes.io/storage-class"]`, ToGroup: groupStorage, ToKind: "StorageClass", Cluster: true, Type: TypeClass, Optional: true},
		Row{Path: "spec.volumeAttributesClassName", ToGroup: groupStorage, ToKind: "VolumeAttributesClass", Cluster: true, Type: TypeClass},
		// The claim names its volume; this is the same bond seen from behind.
		Row{Path: "spec.claimRef.name", ToKind: "PersistentVolumeClaim", NamespaceField: "namespace", Type: TypeReservedFor, Loose: true, Optional: true, Unordered: true},
		secret("spec.csi.controllerPublishSecretRef.name"), secret("spec.csi.nodeStageSecretRef.name"),
		secret("spec.csi.nodePublishSecretRef.name"), secret("spec.csi.controllerExpandSecretRef.name"),
		secret("spec.csi.nodeExpandSecretRef.name"), secret("spec.cephfs.secretRef.name"), secret("spec.rbd.secretRef.name"),
		secret("spec.iscsi.secretRef.name"), secret("spec.flexVolume.secretRef.name"), secret("spec.scaleIO.secretRef.name"),
		secret("spec.storageos.secretRef.name"), secret("spec.cinder.secretRef.name"),
		Row{Path: "spec.azureFile.secretName", ToKind: "Secret", NamespaceField: "secretNamespace", Type: TypeUsesSecret},
		Row{Path: "spec.glusterfs.endpoints", ToKind: "Endpoints", NamespaceField: "endpointsNamespace", Type: TypeUsesSecret})...)
	// Drivers take their credentials from parameters with these names.
	parameter := func(base string) Row {
		return Row{Path: `parameters["csi.storage.k8s.io/` + base + `-secret-name"]`, ToKind: "Secret",
			NamespaceField: "csi.storage.k8s.io/" + base + "-secret-namespace", Type: TypeUsesSecret}
	}
	rows = append(rows, on(groupStorage, "StorageClass", parameter("provisioner"), parameter("controller-publish"),
		parameter("node-stage"), parameter("node-publish"), parameter("controller-expand"), parameter("node-expand"))...)
	rows = append(rows, on(groupStorage, "VolumeAttachment",
		Row{Path: "spec.source.persistentVolumeName", ToKind: "PersistentVolume", Cluster: true, Type: TypeBoundTo},
		Row{Path: "spec.nodeName", ToKind: "Node", Cluster: true, Type: TypePlacedOn, Loose: true, Optional: true, Unordered: true})...)
	rows = append(rows, on(groupStorage, "CSIStorageCapacity",
		Row{Path: "storageClassName", ToGroup: groupStorage, ToKind: "StorageClass", Cluster: true, Type: TypeClass})...)
	snapshot := func(group, kind, claims string) {
		class := Row{Path: "spec." + lowerFirst(kind) + "ClassName", ToGroup: group, ToKind: kind + "Class", Cluster: true, Type: TypeClass}
		rows = append(rows, on(group, kind, class,
			Row{Path: "spec.source." + lowerFirst(kind) + "ContentName", ToGroup: group, ToKind: kind + "Content", Cluster: true, Type: TypeBoundTo},
			Row{Path: "status.bound" + kind + "ContentName", ToGroup: group, ToKind: kind + "Content", Cluster: true, Type: TypeBoundTo, Optional: true})...)
		rows = append(rows, on(group, kind+"Content", class,
			Row{Path: "spec." + lowerFirst(kind) + "Ref.name", ToGroup: group, ToKind: kind, NamespaceField: "namespace", Type: TypeReservedFor, Loose: true, Optional: true, Unordered: true})...)
		rows = append(rows, on(group, kind+"Class", parameter("snapshotter"), parameter("snapshotter-list"), parameter("group-snapshotter"))...)
		if claims != "" {
			rows = append(rows, on(group, kind, Row{Path: claims, ToKind: "PersistentVolumeClaim", Type: TypeDataSource, Optional: true})...)
		}
	}
	snapshot(groupSnapshot, "VolumeSnapshot", "spec.source.persistentVolumeClaimName")
	snapshot(groupGroupSnap, "VolumeGroupSnapshot", "")
	return rows
}

func lowerFirst(s string) string { return string(s[0]|0x20) + s[1:] }

func extensionRows() []Row {
	var rows []Row
	service := func(path, typ string) Row {
		return Row{Path: path, ToKind: "Service", NamespaceField: "namespace", Type: typ, Reverse: true}
	}
	for _, kind := range []string{"ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"} {
		rows = append(rows, on(groupAdmission, kind, append(namespaceSelectorRows("webhooks[].namespaceSelector"),
			service("webhooks[].clientConfig.service.name", TypeAnsweredBy))...)...)
	}
	// A definition is of use before its conversion webhook answers, and its
	// objects cannot be written without it: it does not wait for the Service.
	conversion := service("spec.conversion.webhook.clientConfig.service.name", TypeConvertedBy)
	conversion.Unordered = true
	rows = append(rows, on(groupExtensions, "CustomResourceDefinition", conversion)...)
	rows = append(rows, on(groupAPIService, "APIService", service("spec.service.name", TypeAnsweredBy))...)
	for _, kind := range []string{"ValidatingAdmissionPolicy", "MutatingAdmissionPolicy"} {
		rows = append(rows, on(groupAdmission, kind, namespaceSelectorRows("spec.matchConstraints.namespaceSelector")...)...)
		rows = append(rows, on(groupAdmission, kind+"Binding", append(namespaceSelectorRows("spec.matchResources.namespaceSelector"),
			Row{Path: "spec.policyName", ToGroup: groupAdmission, ToKind: kind, Cluster: true, Type: TypePolicy},
			// The kind of the parameters stands in the policy.
			Row{Path: "spec.paramRef.name", NamespaceField: "namespace", Type: TypeParameters, Optional: true})...)...)
	}
	return rows
}

// mentionsObject is an object reference that is only a note.
func mentionsObject(path string) Row {
	return Row{Path: path + ".name", GroupField: "apiVersion", KindField: "kind", NamespaceField: "namespace",
		Type: TypeMentions, Loose: true, Optional: true, Unordered: true}
}

// schedulingRows are those of gangs of pods.
func schedulingRows() []Row {
	devices := func(prefix string) []Row {
		return []Row{
			{Path: prefix + "resourceClaims[].resourceClaimName", ToGroup: groupResource, ToKind: "ResourceClaim", Type: TypeDevice},
			{Path: prefix + "resourceClaims[].resourceClaimTemplateName", ToGroup: groupResource, ToKind: "ResourceClaimTemplate", Type: TypeDevice},
		}
	}
	priority := func(prefix string) Row {
		return Row{Path: prefix + "priorityClassName", ToGroup: groupScheduling, ToKind: "PriorityClass", Cluster: true, Type: TypePriority}
	}
	workload := func(path, to string) Row {
		return Row{Path: path, ToGroup: groupScheduling, ToKind: to, Type: TypeAttachesTo}
	}
	rows := on("batch", "Job", devices("spec.scheduling.")...)
	rows = append(rows, on("batch", "CronJob", devices("spec.jobTemplate.spec.scheduling.")...)...)
	rows = append(rows, on(groupScheduling, "PodGroup", append(devices("spec."), priority("spec."),
		workload("spec.parentCompositePodGroupName", "CompositePodGroup"), workload("spec.workloadRef.workloadName", "Workload"))...)...)
	rows = append(rows, on(groupScheduling, "CompositePodGroup", append(devices("spec."), priority("spec."),
		workload("spec.parentCompositePodGroupName", "CompositePodGroup"), workload("spec.workloadRef.workloadName", "Workload"))...)...)
	controls := Row{Path: "spec.controllerRef.name", GroupField: "apiGroup", KindField: "kind", Type: TypeScales, Reverse: true}
	rows = append(rows, on(groupScheduling, "Workload", controls)...)
	for _, templates := range []string{"spec.podGroupTemplates[].", "spec.compositePodGroupTemplates[].", "spec.compositePodGroupTemplates[].podGroupTemplates[]."} {
		rows = append(rows, on(groupScheduling, "Workload", append(devices(templates), priority(templates))...)...)
	}
	return rows
}

func otherRows() []Row {
	target := func(path string) Row {
		return Row{Path: path, GroupField: "apiVersion", KindField: "kind", Type: TypeScales}
	}
	scales := target("spec.scaleTargetRef.name")
	scales.Reverse = true
	rows := on("autoscaling", "HorizontalPodAutoscaler", scales,
		target("spec.metrics[].object.describedObject.name"), target("spec.metrics[].object.target.name"))
	rows = append(rows, on("", "Secret",
		Row{Path: `metadata.annotations["kubernetes.io/service-account.name"]`, ToKind: "ServiceAccount", Type: TypeServiceAccount, Reverse: true})...)
	class := func(path string) Row {
		return Row{Path: path, ToGroup: groupResource, ToKind: "DeviceClass", Cluster: true, Type: TypeClass}
	}
	rows = append(rows, on(groupResource, "ResourceClaim", class("spec.devices.requests[].exactly.deviceClassName"),
		class("spec.devices.requests[].firstAvailable[].deviceClassName"), class("spec.devices.requests[].deviceClassName"))...)
	rows = append(rows, on(groupResource, "ResourceClaimTemplate", class("spec.spec.devices.requests[].exactly.deviceClassName"),
		class("spec.spec.devices.requests[].firstAvailable[].deviceClassName"), class("spec.spec.devices.requests[].deviceClassName"))...)
	rows = append(rows, on("", "Event", mentionsObject("involvedObject"), mentionsObject("related"))...)
	rows = append(rows, on("events.k8s.io", "Event", mentionsObject("regarding"), mentionsObject("related"))...)
	return append(rows, on(groupFlow, "FlowSchema",
		Row{Path: "spec.priorityLevelConfiguration.name", ToGroup: groupFlow, ToKind: "PriorityLevelConfiguration", Cluster: true, Type: TypeClass},
		Row{Path: "spec.rules[].subjects[].serviceAccount.name", ToKind: "ServiceAccount", NamespaceField: "namespace", Type: TypeBindsSubject, Loose: true, Optional: true, Unordered: true})...)
}
