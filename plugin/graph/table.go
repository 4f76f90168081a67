package graph

// Edge types. A type names the relation as seen from the object that refers.
// All rows of one type agree on Row.Unordered.
const (
	TypeOwner          = "owner"
	TypeNamespace      = "namespace"
	TypeMounts         = "mounts"
	TypeEnvFrom        = "env-from"
	TypePullsWith      = "pulls-with"
	TypeServiceAccount = "service-account"
	TypePriority       = "priority"
	TypeRuntime        = "runtime"
	TypeDevice         = "device"
	TypeSelects        = "selects"
	TypeEndpointsOf    = "endpoints-of"
	TypeServiceName    = "service-name"
	TypeRoutesTo       = "routes-to"
	TypeAttachesTo     = "attaches-to"
	TypeUsesSecret     = "uses-secret"
	TypeListsSecret    = "lists-secret"
	TypeClass          = "class"
	TypeScales         = "scales"
	TypeProtects       = "protects"
	TypeBindsRole      = "binds-role"
	TypeBindsSubject   = "binds-subject"
	TypeAggregates     = "aggregates"
	TypeClaims         = "claims"
	TypeBoundTo        = "bound-to"
	TypeReservedFor    = "reserved-for"
	TypeDataSource     = "data-source"
	TypeDefinedBy      = "defined-by"
	TypeServedBy       = "served-by"
	TypeAnsweredBy     = "answered-by"
	TypeConvertedBy    = "converted-by"
	TypePolicy         = "policy"
	TypeParameters     = "parameters"
	TypeGrants         = "grants"
	TypePlacedOn       = "placed-on"
	TypeAllottedTo     = "allotted-to"
	TypeMentions       = "mentions"
	TypeCalls          = "calls"
	TypeDeclared       = "declared"
	TypePartOf         = "part-of"
)

// Match says how a row's field names its targets.
type Match int

const (
	// ByName: the field is a name.
	ByName Match = iota
	// ByLabels: the field is a map of labels that the targets carry.
	ByLabels
	// ByLabelSelector: the field is a LabelSelector (matchLabels and
	// matchExpressions). Absent selects nothing, empty selects all.
	ByLabelSelector
)

// Row is one field of one kind that refers to other objects.
type Row struct {
	// Group and Kind of the object that refers, at every version. Kind "*"
	// is every kind of every group.
	Group, Kind string
	// Path leads to the field: a.b, list[], list[field=value], map["key"].
	// The fields named below stand beside it, in the same map.
	Path  string
	Match Match
	// ToGroup and ToKind name the target. Where GroupField (a group, or an
	// apiVersion) and KindField are set and present, they win.
	ToGroup, ToKind       string
	GroupField, KindField string
	// Cluster says that the target has no namespace. Else its namespace is
	// what NamespaceField holds, or the referring object's own.
	Cluster        bool
	NamespaceField string
	Type           string
	// Strong edges join workloads; Loose ones bring nothing along. Where
	// ReadOnlyField is true in the object, a strong edge is a weak one.
	Strong, Loose bool
	ReadOnlyField string
	// Reverse says that the referring object comes along with its target.
	Reverse bool
	// Unordered says that the target need not exist first.
	Unordered bool
	// Optional references may dangle; OptionalField is a field that says so.
	Optional      bool
	OptionalField string
}

const (
	groupGateway    = "gateway.networking.k8s.io"
	groupRBAC       = "rbac.authorization.k8s.io"
	groupStorage    = "storage.k8s.io"
	groupAdmission  = "admissionregistration.k8s.io"
	groupSnapshot   = "snapshot.storage.k8s.io"
	groupGroupSnap  = "groupsnapshot.storage.k8s.io"
	groupNetworking = "networking.k8s.io"
	groupResource   = "resource.k8s.io"
	groupExtensions = "apiextensions.k8s.io"
	groupDiscovery  = "discovery.k8s.io"
	groupAPIService = "apiregistration.k8s.io"
	groupFlow       = "flowcontrol.apiserver.k8s.io"
	groupScheduling = "scheduling.k8s.io"
	metadataName    = `["kubernetes.io/metadata.name"]`
)

type groupKind struct{ group, kind string }

// podTemplates lists the kinds that hold a pod template and where it stands:
// the path of the part that has metadata and spec. A Pod is its own.
var podTemplates = map[groupKind]string{
	{"", "Pod"}:                   "",
	{"", "PodTemplate"}:           "template",
	{"", "ReplicationController"}: "spec.template",
	{"apps", "Deployment"}:        "spec.template",
	{"apps", "ReplicaSet"}:        "spec.template",
	{"apps", "StatefulSet"}:       "spec.template",
	{"apps", "DaemonSet"}:         "spec.template",
	{"batch", "Job"}:              "spec.template",
	{"batch", "CronJob"}:          "spec.jobTemplate.spec.template",
}

// clusterKinds are the built-in kinds without a namespace that fields with a
// free kind may name.
var clusterKinds = map[groupKind]bool{
	{"", "Namespace"}: true, {"", "Node"}: true, {"", "PersistentVolume"}: true,
	{groupRBAC, "ClusterRole"}: true, {groupRBAC, "ClusterRoleBinding"}: true,
	{groupStorage, "StorageClass"}: true, {groupStorage, "CSIDriver"}: true, {groupStorage, "VolumeAttributesClass"}: true,
	{groupScheduling, "PriorityClass"}: true, {"node.k8s.io", "RuntimeClass"}: true,
	{groupNetworking, "IngressClass"}: true, {groupGateway, "GatewayClass"}: true,
	{groupExtensions, "CustomResourceDefinition"}: true, {groupAPIService, "APIService"}: true,
	{groupResource, "DeviceClass"}: true, {groupResource, "ResourceSlice"}: true,
	{groupSnapshot, "VolumeSnapshotClass"}: true, {groupSnapshot, "VolumeSnapshotContent"}: true,
	{groupGroupSnap, "VolumeGroupSnapshotClass"}: true, {groupGroupSnap, "VolumeGroupSnapshotContent"}: true,
	{"certificates.k8s.io", "ClusterTrustBundle"}: true, {groupFlow, "PriorityLevelConfiguration"}: true, {"windows.k8s.io", "GMSACredentialSpec"}: true,
	{groupAdmission, "ValidatingWebhookConfiguration"}: true, {groupAdmission, "MutatingWebhookConfiguration"}: true,
	{groupAdmission, "ValidatingAdmissionPolicy"}: true, {groupAdmission, "MutatingAdmissionPolicy"}: true,
}

// Table is every reference field that is known by itself. It is read only;
// rows of custom resources go through Options.ExtraRows or NewLookup.
var Table = buildTable()

func buildTable() []Row {
	rows := anyKindRows()
	for _, gk := range sortedKinds(podTemplates) {
		rows = append(rows, podRows(gk, podTemplates[gk])...)
	}
	for _, more := range [][]Row{
		workloadRows(), rbacRows(), serviceRows(), gatewayRows(), storageRows(),
		extensionRows(), schedulingRows(), otherRows(),
	} {
		rows = append(rows, more...)
	}
	return rows
}

// anyKindRows are the fields of metadata that every object has. The graph
// takes them from an object's header.
func anyKindRows() []Row {
	return []Row{
		{Kind: "*", Path: "metadata.namespace", ToKind: "Namespace", Cluster: true, Type: TypeNamespace, Optional: true},
		{Kind: "*", Path: "metadata.ownerReferences[].name", GroupField: "apiVersion", KindField: "kind", Type: TypeOwner, Optional: true},
	}
}

func podRows(gk groupKind, template string) []Row {
	spec := "spec"
	if template != "" {
		spec = template + ".spec"
	}
	var rows []Row
	add := func(path string, r Row) {
		r.Group, r.Kind, r.Path = gk.group, gk.kind, spec+"."+path
		rows = append(rows, r)
	}
	secret := func(path, typ, optional string) {
		add(path, Row{ToKind: "Secret", Type: typ, OptionalField: optional})
	}
	configMap := func(path, typ string) {
		add(path, Row{ToKind: "ConfigMap", Type: typ, OptionalField: "optional"})
	}
	secret("volumes[].secret.secretName", TypeMounts, "optional")
	secret("volumes[].projected.sources[].secret.name", TypeMounts, "optional")
	configMap("volumes[].configMap.name", TypeMounts)
	configMap("volumes[].projected.sources[].configMap.name", TypeMounts)
	add("volumes[].projected.sources[].clusterTrustBundle.name",
		Row{ToGroup: "certificates.k8s.io", ToKind: "ClusterTrustBundle", Cluster: true, Type: TypeMounts, OptionalField: "optional"})
	add("volumes[].persistentVolumeClaim.claimName",
		Row{ToKind: "PersistentVolumeClaim", Type: TypeClaims, Strong: true, ReadOnlyField: "readOnly"})
	for _, source := range []string{"csi.nodePublishSecretRef", "cephfs.secretRef", "rbd.secretRef", "iscsi.secretRef",
		"flexVolume.secretRef", "scaleIO.secretRef", "storageos.secretRef", "cinder.secretRef"} {
		secret("volumes[]."+source+".name", TypeUsesSecret, "")
	}
	secret("volumes[].azureFile.secretName", TypeUsesSecret, "")
	add("volumes[].csi.volumeAttributes.secretProviderClass",
		Row{ToGroup: "secrets-store.csi.x-k8s.io", ToKind: "SecretProviderClass", Type: TypeMounts})
	add("volumes[].glusterfs.endpoints", Row{ToKind: "Endpoints", Type: TypeMounts})
	for _, r := range claimSpecRows("volumes[].ephemeral.volumeClaimTemplate.") {
		add(r.Path, r)
	}
	gmsa := Row{ToGroup: "windows.k8s.io", ToKind: "GMSACredentialSpec", Cluster: true, Type: TypeUsesSecret}
	for _, containers := range []string{"initContainers[]", "containers[]", "ephemeralContainers[]"} {
		configMap(containers+".envFrom[].configMapRef.name", TypeEnvFrom)
		secret(containers+".envFrom[].secretRef.name", TypeEnvFrom, "optional")
		configMap(containers+".env[].valueFrom.configMapKeyRef.name", TypeEnvFrom)
		secret(containers+".env[].valueFrom.secretKeyRef.name", TypeEnvFrom, "optional")
		add(containers+".securityContext.windowsOptions.gmsaCredentialSpecName", gmsa)
	}
	add("securityContext.windowsOptions.gmsaCredentialSpecName", gmsa)
	// A missing pull secret does not stop a pod whose image can be pulled
	// without it.
	add("imagePullSecrets[].name", Row{ToKind: "Secret", Type: TypePullsWith, Optional: true})
	add("serviceAccountName", Row{ToKind: "ServiceAccount", Type: TypeServiceAccount})
	add("serviceAccount", Row{ToKind: "ServiceAccount", Type: TypeServiceAccount})
	add("priorityClassName", Row{ToGroup: groupScheduling, ToKind: "PriorityClass", Cluster: true, Type: TypePriority})
	add("runtimeClassName", Row{ToGroup: "node.k8s.io", ToKind: "RuntimeClass", Cluster: true, Type: TypeRuntime})
	add("resourceClaims[].resourceClaimName", Row{ToGroup: groupResource, ToKind: "ResourceClaim", Type: TypeDevice})
	add("resourceClaims[].resourceClaimTemplateName", Row{ToGroup: groupResource, ToKind: "ResourceClaimTemplate", Type: TypeDevice})
	add("schedulingGroup.podGroupName", Row{ToGroup: groupScheduling, ToKind: "PodGroup", Type: TypeDevice, Optional: true})
	add("nodeName", Row{ToKind: "Node", Cluster: true, Type: TypePlacedOn, Loose: true, Optional: true, Unordered: true})
	for _, side := range []string{"affinity.podAffinity.", "affinity.podAntiAffinity."} {
		for _, term := range []string{"requiredDuringSchedulingIgnoredDuringExecution[].", "preferredDuringSchedulingIgnoredDuringExecution[].podAffinityTerm."} {
			add(side+term+"namespaces[]", mentionsNamespace())
			for _, r := range namespaceSelectorRows(side + term + "namespaceSelector") {
				add(r.Path, r)
			}
		}
	}
	return rows
}

// mentionsNamespace is a field that holds a namespace's name and needs
// nothing from it.
func mentionsNamespace() Row {
	return Row{ToKind: "Namespace", Cluster: true, Type: TypeMentions, Loose: true, Optional: true, Unordered: true}
}

// namespaceSelectorRows are the two ways in which a label selector over
// namespaces can name one.
func namespaceSelectorRows(path string) []Row {
	a, b := mentionsNamespace(), mentionsNamespace()
	a.Path = path + ".matchLabels" + metadataName
	b.Path = path + ".matchExpressions[key=kubernetes.io/metadata.name].values[]"
	return []Row{a, b}
}

// claimSpecRows are the fields of a claim or of a template for one.
func claimSpecRows(prefix string) []Row {
	class := Row{ToGroup: groupStorage, ToKind: "StorageClass", Cluster: true, Type: TypeClass}
	old := class
	class.Path = prefix + "spec.storageClassName"
	old.Path = prefix + `metadata.annotations["volume.beta.kubernetes.io/storage-class"]`
	return []Row{
		class, old,
		{Path: prefix + "spec.volumeAttributesClassName", ToGroup: groupStorage, ToKind: "VolumeAttributesClass", Cluster: true, Type: TypeClass},
		{Path: prefix + "spec.volumeName", ToKind: "PersistentVolume", Cluster: true, Type: TypeBoundTo},
		{Path: prefix + "spec.dataSource.name", GroupField: "apiGroup", KindField: "kind", Type: TypeDataSource, Optional: true},
		{Path: prefix + "spec.dataSourceRef.name", GroupField: "apiGroup", KindField: "kind", NamespaceField: "namespace", Type: TypeDataSource, Optional: true},
	}
}

// on gives rows their referring kind.
func on(group, kind string, rows ...Row) []Row {
	for i := range rows {
		rows[i].Group, rows[i].Kind = group, kind
	}
	return rows
}
