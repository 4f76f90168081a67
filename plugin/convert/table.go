package convert

import (
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// family is a set of kinds whose shape did not change between versions; the
// newest stands first. A version is group/version, or v1 of the core group.
type family struct {
	kinds    []string
	versions []string
}

var families = []family{
	{[]string{"CronJob"}, []string{"batch/v1", "batch/v1beta1", "batch/v2alpha1"}},
	{[]string{"IngressClass"}, []string{"networking.k8s.io/v1", "networking.k8s.io/v1beta1"}},
	{[]string{"IPAddress", "ServiceCIDR"}, []string{"networking.k8s.io/v1", "networking.k8s.io/v1beta1", "networking.k8s.io/v1alpha1"}},
	{[]string{"HorizontalPodAutoscaler"}, []string{"autoscaling/v2", "autoscaling/v2beta2"}},
	{[]string{"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"}, []string{"rbac.authorization.k8s.io/v1", "rbac.authorization.k8s.io/v1beta1"}},
	{[]string{"Role", "ClusterRole"}, []string{"rbac.authorization.k8s.io/v1", "rbac.authorization.k8s.io/v1alpha1"}},
	{[]string{"PriorityClass"}, []string{"scheduling.k8s.io/v1", "scheduling.k8s.io/v1beta1", "scheduling.k8s.io/v1alpha1"}},
	{[]string{"Lease"}, []string{"coordination.k8s.io/v1", "coordination.k8s.io/v1beta1"}},
	{[]string{"StorageClass", "CSIDriver", "CSINode", "VolumeAttachment"}, []string{"storage.k8s.io/v1", "storage.k8s.io/v1beta1"}},
	{[]string{"CSIStorageCapacity", "VolumeAttributesClass"}, []string{"storage.k8s.io/v1", "storage.k8s.io/v1beta1", "storage.k8s.io/v1alpha1"}},
	{[]string{"VolumeAttachment"}, []string{"storage.k8s.io/v1", "storage.k8s.io/v1alpha1"}},
	{[]string{"RuntimeClass"}, []string{"node.k8s.io/v1", "node.k8s.io/v1beta1"}},
	{[]string{"APIService"}, []string{"apiregistration.k8s.io/v1", "apiregistration.k8s.io/v1beta1"}},
	{[]string{"FlowSchema"}, []string{"flowcontrol.apiserver.k8s.io/v1", "flowcontrol.apiserver.k8s.io/v1beta3", "flowcontrol.apiserver.k8s.io/v1beta2", "flowcontrol.apiserver.k8s.io/v1beta1", "flowcontrol.apiserver.k8s.io/v1alpha1"}},
	{[]string{"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"},
		[]string{"admissionregistration.k8s.io/v1", "admissionregistration.k8s.io/v1beta1", "admissionregistration.k8s.io/v1alpha1"}},
	{[]string{"ClusterTrustBundle"}, []string{"certificates.k8s.io/v1", "certificates.k8s.io/v1beta1", "certificates.k8s.io/v1alpha1"}},
	{[]string{"Event"}, []string{"events.k8s.io/v1", "events.k8s.io/v1beta1"}},
	{[]string{"NetworkPolicy"}, []string{"networking.k8s.io/v1", "extensions/v1beta1"}},
	{[]string{"ControllerRevision"}, []string{"apps/v1", "apps/v1beta2", "apps/v1beta1"}},
	{[]string{"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"}, []string{"apps/v1", "apps/v1beta2"}},

	// Kinds of others that only moved.
	{[]string{"VolumeSnapshot", "VolumeSnapshotClass", "VolumeSnapshotContent"}, []string{"snapshot.storage.k8s.io/v1", "snapshot.storage.k8s.io/v1beta1"}},
	{[]string{"VolumeGroupSnapshot", "VolumeGroupSnapshotClass"},
		[]string{"groupsnapshot.storage.k8s.io/v1", "groupsnapshot.storage.k8s.io/v1beta2", "groupsnapshot.storage.k8s.io/v1beta1"}},
	{[]string{"Gateway", "GatewayClass", "HTTPRoute"},
		[]string{"gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"}},
	{[]string{"GRPCRoute", "TLSRoute"}, []string{"gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1alpha2"}},
	{[]string{"ReferenceGrant"}, []string{"gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1", "gateway.networking.k8s.io/v1alpha2"}},
	{[]string{"IngressRoute", "IngressRouteTCP", "IngressRouteUDP", "Middleware", "MiddlewareTCP", "ServersTransport", "TLSOption", "TLSStore", "TraefikService"},
		[]string{"traefik.io/v1alpha1", "traefik.containo.us/v1alpha1"}},
}

// changes are the conversions that do more than rename. They lead to newer
// versions only.
var changes = []struct {
	kinds    []string
	from, to string
	change   func(*conversion) error
}{
	{[]string{"Ingress"}, "networking.k8s.io/v1beta1", "networking.k8s.io/v1", ingress},
	{[]string{"Ingress"}, "extensions/v1beta1", "networking.k8s.io/v1", ingress},
	{[]string{"PodDisruptionBudget"}, "policy/v1beta1", "policy/v1", disruptionBudget},
	{[]string{"HorizontalPodAutoscaler"}, "autoscaling/v2beta1", "autoscaling/v2", autoscaler},
	{[]string{"PriorityLevelConfiguration"}, "flowcontrol.apiserver.k8s.io/v1beta3", "flowcontrol.apiserver.k8s.io/v1", nominalShares},
	{[]string{"PriorityLevelConfiguration"}, "flowcontrol.apiserver.k8s.io/v1beta2", "flowcontrol.apiserver.k8s.io/v1", assuredShares},
	{[]string{"PriorityLevelConfiguration"}, "flowcontrol.apiserver.k8s.io/v1beta1", "flowcontrol.apiserver.k8s.io/v1", assuredShares},
	{[]string{"PriorityLevelConfiguration"}, "flowcontrol.apiserver.k8s.io/v1alpha1", "flowcontrol.apiserver.k8s.io/v1", assuredShares},
	{[]string{"RoleBinding", "ClusterRoleBinding"}, "rbac.authorization.k8s.io/v1alpha1", "rbac.authorization.k8s.io/v1", oldSubjects},
	{[]string{"RuntimeClass"}, "node.k8s.io/v1alpha1", "node.k8s.io/v1", runtimeClass},
	{[]string{"EndpointSlice"}, "discovery.k8s.io/v1beta1", "discovery.k8s.io/v1", endpointSlice},
	{[]string{"CertificateSigningRequest"}, "certificates.k8s.io/v1beta1", "certificates.k8s.io/v1", signingRequest},
	{[]string{"CustomResourceDefinition"}, "apiextensions.k8s.io/v1beta1", "apiextensions.k8s.io/v1", definition},
	{[]string{"ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"}, "admissionregistration.k8s.io/v1beta1", "admissionregistration.k8s.io/v1", webhooks},
	{[]string{"Deployment", "ReplicaSet"}, "extensions/v1beta1", "apps/v1", oldWorkload},
	{[]string{"DaemonSet"}, "extensions/v1beta1", "apps/v1", oldDaemonSet},
	{[]string{"Deployment"}, "apps/v1beta1", "apps/v1", oldWorkload},
	{[]string{"StatefulSet"}, "apps/v1beta1", "apps/v1", oldStatefulSet},
}

// keepsFields are the kinds of changes of which no field got another name, so
// that who owns which can still be said.
var keepsFields = map[string]bool{"PodDisruptionBudget": true, "CertificateSigningRequest": true}

// gone are kinds that no version has any more, with what does their work.
var gone = map[schema.GroupKind]string{
	{Group: "policy", Kind: "PodSecurityPolicy"}:           "the kind was removed in 1.25; Pod Security admission, by labels of namespaces, does its work",
	{Group: "extensions", Kind: "PodSecurityPolicy"}:       "the kind was removed in 1.25; Pod Security admission, by labels of namespaces, does its work",
	{Group: "settings.k8s.io", Kind: "PodPreset"}:          "the kind was removed in 1.20; an admission policy or webhook does its work",
	{Group: "auditregistration.k8s.io", Kind: "AuditSink"}: "the kind was removed in 1.19; the API server's flags say where audit events go",
	{Group: "extensions", Kind: "ThirdPartyResource"}:      "the kind was removed in 1.8; a CustomResourceDefinition does its work",
	{Group: "networking.k8s.io", Kind: "ClusterCIDR"}:      "the kind was removed in 1.29; the network plugin's own settings do its work",
	{Group: "policy", Kind: "Eviction"}:                    "it is a request, and nothing that is stored",
}

var steps = buildSteps()

func buildSteps() map[schema.GroupVersionKind][]step {
	out := map[schema.GroupVersionKind][]step{}
	for _, f := range families {
		for _, kind := range f.kinds {
			for i, from := range f.versions {
				for j, to := range f.versions {
					if i != j {
						a, b := gvk(from, kind), gvk(to, kind)
						out[a] = append(out[a], step{from: a, to: b})
					}
				}
			}
		}
	}
	for _, c := range changes {
		for _, kind := range c.kinds {
			a := gvk(c.from, kind)
			out[a] = append(out[a], step{a, gvk(c.to, kind), c.change, keepsFields[kind]})
		}
	}
	return out
}

func gvk(apiVersion, kind string) schema.GroupVersionKind {
	return schema.FromAPIVersionAndKind(apiVersion, kind)
}
