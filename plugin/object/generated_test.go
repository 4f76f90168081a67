package object

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMadeByCluster puts what a cluster makes next to what a person makes that
// looks like it. Losing the second is the worse mistake.
func TestMadeByCluster(t *testing.T) {
	const owned = `,"ownerReferences":[{"apiVersion":"x/v1","kind":"Owner","name":"o","uid":"u","controller":true}]`
	const ownedLoosely = `,"ownerReferences":[{"apiVersion":"x/v1","kind":"Owner","name":"o","uid":"u"}]`
	account := `"annotations":{"kubernetes.io/service-account.name":"robot","kubernetes.io/service-account.uid":"u"}`
	for _, c := range []struct {
		name, raw string
		made      bool
	}{
		{"event", `{"apiVersion":"v1","kind":"Event","metadata":{"name":"e","namespace":"n"}}`, true},
		{"new event", `{"apiVersion":"events.k8s.io/v1","kind":"Event","metadata":{"name":"e","namespace":"n"}}`, true},
		{"somebody's kind called Event", `{"apiVersion":"example.org/v1","kind":"Event","metadata":{"name":"e","namespace":"n"}}`, false},
		{"lease", `{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":"l","namespace":"n"}}`, true},
		{"node", `{"apiVersion":"v1","kind":"Node","metadata":{"name":"n"}}`, true},
		{"attachment", `{"apiVersion":"storage.k8s.io/v1","kind":"VolumeAttachment","metadata":{"name":"n"}}`, true},
		{"storage class", `{"apiVersion":"storage.k8s.io/v1","kind":"StorageClass","metadata":{"name":"n"}}`, false},

		{"slice of the controller", `{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"name":"press-x1","namespace":"n","labels":{"endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io"}}}`, true},
		{"mirrored slice", `{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"name":"host-x1","namespace":"n","labels":{"endpointslice.kubernetes.io/managed-by":"endpointslicemirroring-controller.k8s.io"}}}`, true},
		{"hand-made slice", `{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"name":"host-a","namespace":"n","labels":{"kubernetes.io/service-name":"host","endpointslice.kubernetes.io/managed-by":"ops.example.org"}}}`, false},
		{"slice without labels", `{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"name":"host-a","namespace":"n"}}`, false},
		{"the API server's slice", `{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"name":"kubernetes","namespace":"default","labels":{"kubernetes.io/service-name":"kubernetes"}}}`, true},
		{"endpoints of the controller", `{"apiVersion":"v1","kind":"Endpoints","metadata":{"name":"press","namespace":"n","labels":{"endpoints.kubernetes.io/managed-by":"endpoint-controller"}}}`, true},
		{"endpoints of an older controller", `{"apiVersion":"v1","kind":"Endpoints","metadata":{"name":"press","namespace":"n","annotations":{"endpoints.kubernetes.io/last-change-trigger-time":"2030-01-01T00:00:00Z"}}}`, true},
		{"endpoints as a lock", `{"apiVersion":"v1","kind":"Endpoints","metadata":{"name":"lock","namespace":"n","annotations":{"control-plane.alpha.kubernetes.io/leader":"{}"}}}`, true},
		{"hand-made endpoints", `{"apiVersion":"v1","kind":"Endpoints","metadata":{"name":"host","namespace":"n"},"subsets":[]}`, false},
		{"endpoints of another manager", `{"apiVersion":"v1","kind":"Endpoints","metadata":{"name":"host","namespace":"n","labels":{"endpoints.kubernetes.io/managed-by":"ops.example.org"}}}`, false},
		{"the API server's endpoints", `{"apiVersion":"v1","kind":"Endpoints","metadata":{"name":"kubernetes","namespace":"default"}}`, true},
		{"the API server's service", `{"apiVersion":"v1","kind":"Service","metadata":{"name":"kubernetes","namespace":"default"}}`, true},
		{"a service of that name elsewhere", `{"apiVersion":"v1","kind":"Service","metadata":{"name":"kubernetes","namespace":"n"}}`, false},

		{"root CA", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"kube-root-ca.crt","namespace":"n"}}`, true},
		{"config map", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"ca.crt","namespace":"n"}}`, false},
		{"lock", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"lock","namespace":"n","annotations":{"control-plane.alpha.kubernetes.io/leader":"{}"}}}`, true},

		{"pod of a controller", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","namespace":"n"` + owned + `}}`, true},
		{"pod owned but not controlled", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","namespace":"n"` + ownedLoosely + `}}`, false},
		{"bare pod", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","namespace":"n"}}`, false},
		{"static pod", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","namespace":"n","annotations":{"kubernetes.io/config.mirror":"h"}}}`, true},
		{"replica set of a controller", `{"apiVersion":"apps/v1","kind":"ReplicaSet","metadata":{"name":"p","namespace":"n"` + owned + `}}`, true},
		{"bare replica set", `{"apiVersion":"apps/v1","kind":"ReplicaSet","metadata":{"name":"p","namespace":"n"}}`, false},
		{"job of a cron job", `{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"p","namespace":"n"` + owned + `}}`, true},
		{"bare job", `{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"p","namespace":"n"}}`, false},
		{"revision", `{"apiVersion":"apps/v1","kind":"ControllerRevision","metadata":{"name":"p","namespace":"n"` + owned + `}}`, true},
		{"secret of an operator", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"p","namespace":"n"` + owned + `},"type":"Opaque"}`, false},
		{"claim of a stateful set", `{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"p","namespace":"n"` + owned + `}}`, false},

		{"default account", `{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default","namespace":"n"}}`, true},
		{"default account of an older cluster", `{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default","namespace":"n"},"secrets":[{"name":"default-token-x7k2p"}]}`, true},
		{"default account with a pull secret", `{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default","namespace":"n"},"imagePullSecrets":[{"name":"hub"}]}`, false},
		{"default account with a secret", `{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default","namespace":"n"},"secrets":[{"name":"mine"}]}`, false},
		{"default account without a token", `{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default","namespace":"n"},"automountServiceAccountToken":false}`, false},
		{"default account with an annotation", `{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default","namespace":"n","annotations":{"a":"b"}}}`, false},
		{"other account", `{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"robot","namespace":"n"}}`, false},

		{"token made by the controller", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"robot-token-x7k2p","namespace":"n",` + account + `},"type":"kubernetes.io/service-account-token"}`, true},
		{"token made by a person", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"robot-key","namespace":"n",` + account + `},"type":"kubernetes.io/service-account-token"}`, false},
		{"token that a person applied", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"robot-token-x7k2p","namespace":"n","annotations":{"kubernetes.io/service-account.name":"robot","kubectl.kubernetes.io/last-applied-configuration":"{}"}},"type":"kubernetes.io/service-account-token"}`, false},
		{"token with a label", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"robot-token-x7k2p","namespace":"n","labels":{"team":"a"},` + account + `},"type":"kubernetes.io/service-account-token"}`, false},
		{"secret named like a token", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"robot-token-x7k2p","namespace":"n",` + account + `},"type":"Opaque"}`, false},

		{"default role", `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":"view","labels":{"kubernetes.io/bootstrapping":"rbac-defaults"},"annotations":{"rbac.authorization.kubernetes.io/autoupdate":"true"}}}`, true},
		{"default role that a person took over", `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":"view","labels":{"kubernetes.io/bootstrapping":"rbac-defaults"},"annotations":{"rbac.authorization.kubernetes.io/autoupdate":"false"}}}`, false},
		{"default role of a namespace", `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"RoleBinding","metadata":{"name":"b","namespace":"kube-system","labels":{"kubernetes.io/bootstrapping":"rbac-defaults"}}}`, true},
		{"hand-made role", `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":"auditor"}}`, false},
		{"flow schema", `{"apiVersion":"flowcontrol.apiserver.k8s.io/v1","kind":"FlowSchema","metadata":{"name":"probes","annotations":{"apf.kubernetes.io/autoupdate-spec":"true"}}}`, true},
		{"flow schema that a person took over", `{"apiVersion":"flowcontrol.apiserver.k8s.io/v1","kind":"FlowSchema","metadata":{"name":"probes","annotations":{"apf.kubernetes.io/autoupdate-spec":"false"}}}`, false},
		{"hand-made flow schema", `{"apiVersion":"flowcontrol.apiserver.k8s.io/v1","kind":"FlowSchema","metadata":{"name":"mine"}}`, false},
		{"system priority", `{"apiVersion":"scheduling.k8s.io/v1","kind":"PriorityClass","metadata":{"name":"system-node-critical"}}`, true},
		{"priority", `{"apiVersion":"scheduling.k8s.io/v1","kind":"PriorityClass","metadata":{"name":"high"}}`, false},

		{"local API", `{"apiVersion":"apiregistration.k8s.io/v1","kind":"APIService","metadata":{"name":"v1.apps"},"spec":{"group":"apps"}}`, true},
		{"aggregated API", `{"apiVersion":"apiregistration.k8s.io/v1","kind":"APIService","metadata":{"name":"v1.tides.example.org"},"spec":{"service":{"name":"t","namespace":"n"}}}`, false},

		{"namespace of every cluster", `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"kube-system","labels":{"kubernetes.io/metadata.name":"kube-system"}}}`, true},
		{"default namespace with a label", `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"default","labels":{"kubernetes.io/metadata.name":"default","pod-security.kubernetes.io/enforce":"restricted"}}}`, false},
		{"namespace", `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"mill","labels":{"kubernetes.io/metadata.name":"mill"}}}`, false},
		{"service address", `{"apiVersion":"networking.k8s.io/v1","kind":"IPAddress","metadata":{"name":"10.0.0.1","labels":{"ipaddress.kubernetes.io/managed-by":"ipallocator"}}}`, true},
		{"service address of a newer cluster", `{"apiVersion":"networking.k8s.io/v1","kind":"IPAddress","metadata":{"name":"10.0.0.1","labels":{"ipaddress.kubernetes.io/managed-by":"ipallocator.k8s.io"}}}`, true},
		{"address of somebody else's", `{"apiVersion":"networking.k8s.io/v1","kind":"IPAddress","metadata":{"name":"10.0.0.1","labels":{"ipaddress.kubernetes.io/managed-by":"lab"}}}`, false},
		{"trust bundle of the cluster", `{"apiVersion":"certificates.k8s.io/v1","kind":"ClusterTrustBundle","metadata":{"name":"kubernetes.io:kube-apiserver-serving:cf95"},"spec":{"signerName":"kubernetes.io/kube-apiserver-serving"}}`, true},
		{"trust bundle of a signer", `{"apiVersion":"certificates.k8s.io/v1","kind":"ClusterTrustBundle","metadata":{"name":"example.net:mine:a"},"spec":{"signerName":"example.net/mine"}}`, false},
		{"trust bundle without a signer", `{"apiVersion":"certificates.k8s.io/v1","kind":"ClusterTrustBundle","metadata":{"name":"kubernetes.io"}}`, false},
		{"first service range", `{"apiVersion":"networking.k8s.io/v1","kind":"ServiceCIDR","metadata":{"name":"kubernetes"}}`, true},
		{"another service range", `{"apiVersion":"networking.k8s.io/v1","kind":"ServiceCIDR","metadata":{"name":"more"}}`, false},
		{"custom resource", `{"apiVersion":"example.org/v1","kind":"Press","metadata":{"name":"a","namespace":"n"` + owned + `}}`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, err := Parse([]byte(c.raw))
			require.NoError(t, err)
			reason, made := MadeByCluster(o)
			require.Equal(t, c.made, made)
			require.Equal(t, c.made, reason != "", "a reason goes with it")
		})
	}
}
