package object

import (
	"regexp"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

type groupKind struct{ group, kind string }

// kindsMadeByCluster are the kinds of which every object is made by a running
// cluster and says nothing in another one.
var kindsMadeByCluster = map[groupKind]string{
	{"", "Event"}:                                    "events tell what happened here",
	{"events.k8s.io", "Event"}:                       "events tell what happened here",
	{"", "Node"}:                                     "kubelets register nodes",
	{"", "ComponentStatus"}:                          "component statuses are computed",
	{"coordination.k8s.io", "Lease"}:                 "running programs hold leases",
	{"coordination.k8s.io", "LeaseCandidate"}:        "running programs hold leases",
	{"storage.k8s.io", "CSINode"}:                    "kubelets register storage drivers",
	{"storage.k8s.io", "CSIStorageCapacity"}:         "storage drivers publish capacities",
	{"storage.k8s.io", "VolumeAttachment"}:           "the attach controller makes attachments",
	{"resource.k8s.io", "ResourceSlice"}:             "device drivers publish slices",
	{"certificates.k8s.io", "PodCertificateRequest"}: "kubelets make these requests",
	{"metrics.k8s.io", "NodeMetrics"}:                "metrics are computed",
	{"metrics.k8s.io", "PodMetrics"}:                 "metrics are computed",
	{"internal.apiserver.k8s.io", "StorageVersion"}:  "API servers publish storage versions",
}

// KindMadeByCluster says whether every object of a kind is made by a running
// cluster, so that the kind need not be listed, and why.
func KindMadeByCluster(group, kind string) (reason string, yes bool) {
	reason, yes = kindsMadeByCluster[groupKind{group, kind}]
	return reason, yes
}

// controlled are the kinds that a controller makes again from its owner. An
// owned object of another kind, as a Secret of an operator, may hold data that
// nobody can make again.
var controlled = map[groupKind]bool{
	{"", "Pod"}: true, {"", "ReplicationController"}: true, {"apps", "ReplicaSet"}: true,
	{"apps", "ControllerRevision"}: true, {"batch", "Job"}: true, {"resource.k8s.io", "ResourceClaim"}: true,
}

// alwaysThere are single objects that every cluster, or every namespace where
// the namespace is "*", has from its start.
var alwaysThere = map[v1alpha1.Ref]string{
	{Kind: "Service", Namespace: "default", Name: "kubernetes"}:                                                 "the API server makes its own Service",
	{Kind: "Endpoints", Namespace: "default", Name: "kubernetes"}:                                               "the API server publishes its own addresses",
	{Group: "discovery.k8s.io", Kind: "EndpointSlice", Namespace: "default", Name: "kubernetes"}:                "the API server publishes its own addresses",
	{Group: "networking.k8s.io", Kind: "ServiceCIDR", Name: "kubernetes"}:                                       "the API server makes it from its flags",
	{Kind: "ConfigMap", Namespace: "*", Name: "kube-root-ca.crt"}:                                               "the root CA publisher writes it into every namespace",
	{Kind: "ConfigMap", Namespace: "kube-system", Name: "extension-apiserver-authentication"}:                   "the API server publishes its own CA",
	{Kind: "ConfigMap", Namespace: "kube-system", Name: "kube-apiserver-legacy-service-account-token-tracking"}: "the API server keeps count in it",
	{Group: "scheduling.k8s.io", Kind: "PriorityClass", Name: "system-cluster-critical"}:                        "the API server makes it",
	{Group: "scheduling.k8s.io", Kind: "PriorityClass", Name: "system-node-critical"}:                           "the API server makes it",
	{Group: "flowcontrol.apiserver.k8s.io", Kind: "FlowSchema", Name: "exempt"}:                                 "the API server makes it",
	{Group: "flowcontrol.apiserver.k8s.io", Kind: "FlowSchema", Name: "catch-all"}:                              "the API server makes it",
	{Group: "flowcontrol.apiserver.k8s.io", Kind: "PriorityLevelConfiguration", Name: "exempt"}:                 "the API server makes it",
	{Group: "flowcontrol.apiserver.k8s.io", Kind: "PriorityLevelConfiguration", Name: "catch-all"}:              "the API server makes it",
}

// MadeByCluster says whether an object was made by a cluster's own parts and
// not by a person, so that another cluster has or makes its own, and why. It
// judges single objects: a hand-written EndpointSlice, token Secret or
// ClusterRole is not made by the cluster, whatever its kind.
func MadeByCluster(o *Object) (reason string, yes bool) {
	kind := groupKind{o.Ref.Group, o.Ref.Kind}
	if reason, yes := kindsMadeByCluster[kind]; yes {
		return reason, true
	}
	key := o.Ref.Key()
	if reason, yes := alwaysThere[key]; yes {
		return reason, true
	}
	if key.Namespace != "" {
		key.Namespace = "*"
		if reason, yes := alwaysThere[key]; yes {
			return reason, true
		}
	}
	if controlled[kind] {
		if owner, ok := o.Controller(); ok {
			return "its controller makes it again from " + owner.Kind + " " + owner.Name, true
		}
	}
	switch kind {
	case groupKind{"", "Pod"}:
		if _, mirror := o.Annotations["kubernetes.io/config.mirror"]; mirror {
			return "it mirrors a static pod of a node", true
		}
	case groupKind{"", "Namespace"}:
		return untouchedNamespace(o)
	case groupKind{"", "ServiceAccount"}:
		return untouchedServiceAccount(o)
	case groupKind{"", "Secret"}:
		return legacyToken(o)
	case groupKind{"", "Endpoints"}:
		return generatedEndpoints(o)
	case groupKind{"", "ConfigMap"}:
		return leaderLock(o)
	case groupKind{"discovery.k8s.io", "EndpointSlice"}:
		switch by := o.Labels["endpointslice.kubernetes.io/managed-by"]; by {
		case "endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io":
			return by + " makes it", true
		}
	case groupKind{"networking.k8s.io", "IPAddress"}:
		if strings.HasPrefix(o.Labels["ipaddress.kubernetes.io/managed-by"], "ipallocator") { // since 1.31 with .k8s.io
			return "the API server allocates service addresses", true
		}
	case groupKind{"certificates.k8s.io", "ClusterTrustBundle"}:
		// The name begins with the signer, and the server sees to that.
		if strings.HasPrefix(o.Ref.Name, "kubernetes.io:") {
			return "the controller manager publishes the cluster's own CA", true
		}
	case groupKind{"apiregistration.k8s.io", "APIService"}:
		return localAPIService(o)
	case groupKind{"flowcontrol.apiserver.k8s.io", "FlowSchema"}, groupKind{"flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration"}:
		// "false" is how a person takes one over.
		if o.Annotations["apf.kubernetes.io/autoupdate-spec"] == "true" {
			return "the API server keeps it at its default", true
		}
	}
	// Roles and their bindings; again "false" is how a person takes one over.
	if o.Ref.Group == "rbac.authorization.k8s.io" && o.Labels["kubernetes.io/bootstrapping"] == "rbac-defaults" &&
		o.Annotations["rbac.authorization.kubernetes.io/autoupdate"] != "false" {
		return "the API server makes the default roles", true
	}
	return "", false
}

func untouchedNamespace(o *Object) (string, bool) {
	switch o.Ref.Name {
	case "default", "kube-system", "kube-public", "kube-node-lease":
		if len(o.Annotations) == 0 && onlyKeys(o.Labels, "kubernetes.io/metadata.name") {
			return "every cluster has it", true
		}
	}
	return "", false
}

// untouchedServiceAccount is a default account that nobody gave pull secrets,
// labels or annotations, nor forbade to mount its token.
func untouchedServiceAccount(o *Object) (string, bool) {
	if o.Ref.Name != "default" || len(o.Labels) > 0 || len(o.Annotations) > 0 {
		return "", false
	}
	content, err := o.Content()
	if err != nil {
		return "", false
	}
	if _, set := content["automountServiceAccountToken"]; set {
		return "", false
	}
	if pull, _ := content["imagePullSecrets"].([]any); len(pull) > 0 {
		return "", false
	}
	secrets, _ := content["secrets"].([]any)
	for _, s := range secrets {
		ref, _ := s.(map[string]any)
		if name, _ := ref["name"].(string); !isLegacyTokenName(name, "default") {
			return "", false
		}
	}
	return "every namespace has a default account", true
}

// legacyToken is a token Secret that older clusters made for each account. A
// token Secret that a person made has a name of its own choice, or labels or
// annotations besides the account's.
func legacyToken(o *Object) (string, bool) {
	const account = "kubernetes.io/service-account.name"
	name := o.Annotations[account]
	if name == "" || !isLegacyTokenName(o.Ref.Name, name) ||
		!onlyKeys(o.Annotations, account, "kubernetes.io/service-account.uid") ||
		!onlyKeys(o.Labels, "kubernetes.io/legacy-token-last-used", "kubernetes.io/legacy-token-invalid-since") {
		return "", false
	}
	content, err := o.Content()
	if err != nil || content["type"] != "kubernetes.io/service-account-token" {
		return "", false
	}
	return "the token controller made it for the account " + name, true
}

// randomSuffix is made of the letters that Kubernetes' generated names use.
var randomSuffix = regexp.MustCompile(`^[bcdfghjklmnpqrstvwxz2456789]{5}$`)

// GeneratedName says whether a name is one that Kubernetes makes of a prefix:
// what a person calls so has other letters in it, or more of them.
func GeneratedName(name, prefix string) bool {
	suffix, ok := strings.CutPrefix(name, prefix)
	return ok && randomSuffix.MatchString(suffix)
}

func isLegacyTokenName(name, account string) bool { return GeneratedName(name, account+"-token-") }

func generatedEndpoints(o *Object) (string, bool) {
	if o.Labels["endpoints.kubernetes.io/managed-by"] == "endpoint-controller" {
		return "the endpoints controller makes it", true
	}
	if _, ok := o.Annotations["endpoints.kubernetes.io/last-change-trigger-time"]; ok {
		return "the endpoints controller makes it", true
	}
	return leaderLock(o)
}

func leaderLock(o *Object) (string, bool) {
	if _, ok := o.Annotations["control-plane.alpha.kubernetes.io/leader"]; ok {
		return "running programs elect a leader with it", true
	}
	return "", false
}

// localAPIService is one that the API server answers itself.
func localAPIService(o *Object) (string, bool) {
	content, err := o.Content()
	if err != nil {
		return "", false
	}
	spec, _ := content["spec"].(map[string]any)
	if spec["service"] != nil {
		return "", false
	}
	return "the API server makes it for the groups that it serves", true
}

func onlyKeys(m map[string]string, allowed ...string) bool {
next:
	for k := range m {
		for _, a := range allowed {
			if k == a {
				continue next
			}
		}
		return false
	}
	return true
}
