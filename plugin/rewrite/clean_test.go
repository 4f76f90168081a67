package rewrite

import (
	"strings"
	"testing"
)

func TestClean(t *testing.T) {
	newVolume := CleanOptions{NewVolume: true}
	for _, c := range []struct {
		name, object string
		options      CleanOptions
		want         string
		warn         string
	}{
		{"server's metadata", `{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: x, uid: u, resourceVersion: "1", creationTimestamp: "2020-01-01T00:00:00Z", generation: 3, selfLink: /x, deletionTimestamp: "2020-01-01T00:00:00Z", deletionGracePeriodSeconds: 0, managedFields: [], generateName: a-, labels: {l: "1"}, annotations: {kubectl.kubernetes.io/last-applied-configuration: "{}"}}, data: {k: v}}`, CleanOptions{},
			"metadata|uid=<absent> metadata|resourceVersion=<absent> metadata|creationTimestamp=<absent> metadata|generation=<absent> metadata|selfLink=<absent> metadata|deletionTimestamp=<absent> metadata|deletionGracePeriodSeconds=<absent> metadata|managedFields=<absent> metadata|generateName=a- metadata|labels|l=1 metadata|annotations|kubectl.kubernetes.io/last-applied-configuration={} data|k=v", ""},
		{"finalizers", `{apiVersion: v1, kind: ConfigMap, metadata: {name: a, finalizers: [foregroundDeletion, mine.example.org/x]}}`, CleanOptions{}, "metadata|finalizers|0=mine.example.org/x metadata|finalizers|1=<absent>", ""},
		{"finalizers that controllers take off again", `{apiVersion: snapshot.storage.k8s.io/v1, kind: VolumeSnapshot, metadata: {name: a, finalizers: [snapshot.storage.kubernetes.io/volumesnapshot-bound-protection, groupsnapshot.storage.kubernetes.io/volumegroupsnapshot-bound-protection, provisioner.storage.kubernetes.io/cloning-protection, resource.kubernetes.io/delete-protection, kubernetes.io/vac-protection, networking.k8s.io/service-cidr-finalizer, external-attacher/x, snapshot.example.org/mine]}}`, CleanOptions{},
			"metadata|finalizers|0=snapshot.example.org/mine metadata|finalizers|1=<absent>", ""},
		{"only assigned finalizers", `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a, finalizers: [kubernetes.io/pvc-protection]}}`, CleanOptions{}, "metadata|finalizers=<absent>", ""},
		{"namespace", `{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {kubernetes.io/metadata.name: a, pod-security.kubernetes.io/enforce: baseline}, annotations: {x: "1"}}, spec: {finalizers: [kubernetes]}, status: {phase: Active}}`, CleanOptions{},
			"metadata|labels|kubernetes.io/metadata.name=<absent> metadata|labels|pod-security.kubernetes.io/enforce=baseline metadata|annotations|x=1 spec=<absent> status=<absent>", ""},

		{"service", `{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: ClusterIP, clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ipFamilies: [IPv4], ipFamilyPolicy: SingleStack, ports: [{port: 80}], selector: {a: b}}}`, CleanOptions{},
			"spec|clusterIP=<absent> spec|clusterIPs=<absent> spec|ipFamilies=<absent> spec|ipFamilyPolicy=<absent> spec|ports|0|port=80 spec|selector|a=b spec|type=ClusterIP", ""},
		{"cluster IP chosen by hand", `{apiVersion: v1, kind: Service, metadata: {name: a, managedFields: [{manager: m, fieldsV1: {"f:spec": {"f:clusterIP": {}}}}]}, spec: {clusterIP: 10.0.0.10, clusterIPs: [10.0.0.10]}}`, CleanOptions{KeepNodePorts: true}, "spec|clusterIP=<absent> spec|clusterIPs=<absent>", "10.0.0.10 was chosen by hand"},
		{"headless service applied by hand", `{apiVersion: v1, kind: Service, metadata: {name: a, managedFields: [{manager: m, fieldsV1: {"f:spec": {"f:clusterIP": {}}}}]}, spec: {clusterIP: None, clusterIPs: [None]}}`, CleanOptions{}, "spec|clusterIP=None", ""},
		{"headless service", `{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: None, clusterIPs: [None], ports: [{port: 80}]}}`, CleanOptions{}, "spec|clusterIP=None spec|clusterIPs|0=None", ""},
		{"chosen address families", `{apiVersion: v1, kind: Service, metadata: {name: a, managedFields: [{manager: m, fieldsV1: {"f:spec": {"f:ipFamilies": {}, "f:ipFamilyPolicy": {}}}}]}, spec: {clusterIP: 10.0.0.1, ipFamilies: [IPv6, IPv4], ipFamilyPolicy: PreferDualStack}}`, CleanOptions{},
			"spec|ipFamilies|0=IPv6 spec|ipFamilies|1=IPv4 spec|ipFamilyPolicy=PreferDualStack spec|clusterIP=<absent>", ""},
		{"chosen policy, assigned families", `{apiVersion: v1, kind: Service, metadata: {name: a, managedFields: [{manager: m, fieldsV1: {"f:spec": {"f:ipFamilyPolicy": {}}}}]}, spec: {ipFamilies: [IPv6, IPv4], ipFamilyPolicy: PreferDualStack}}`, CleanOptions{},
			"spec|ipFamilies=<absent> spec|ipFamilyPolicy=PreferDualStack", ""},
		{"load balancer", `{apiVersion: v1, kind: Service, metadata: {name: a, finalizers: [service.kubernetes.io/load-balancer-cleanup]}, spec: {type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 31000, allocateLoadBalancerNodePorts: true, ports: [{port: 80, nodePort: 30080, protocol: TCP}, {port: 81, nodePort: 30081, protocol: TCP}]}, status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}}`, CleanOptions{},
			"spec|healthCheckNodePort=<absent> spec|ports|0|nodePort=<absent> spec|ports|1|nodePort=<absent> spec|ports|1|port=81 spec|externalTrafficPolicy=Local spec|allocateLoadBalancerNodePorts=true status=<absent>", ""},
		{"load balancer, ports kept", `{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: LoadBalancer, clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], healthCheckNodePort: 31000, ports: [{port: 80, nodePort: 30080}]}}`, CleanOptions{KeepNodePorts: true},
			"spec|healthCheckNodePort=31000 spec|ports|0|nodePort=30080 spec|clusterIP=<absent>", ""},
		{"node port chosen by hand", `{apiVersion: v1, kind: Service, metadata: {name: a, managedFields: [{manager: m, fieldsV1: {"f:spec": {"f:ports": {'k:{"port":80,"protocol":"TCP"}': {"f:nodePort": {}}}}}}]}, spec: {type: NodePort, ports: [{port: 80, nodePort: 30080, protocol: TCP}]}}`, CleanOptions{},
			"spec|ports|0|nodePort=<absent>", "a node port was chosen by hand"},
		{"external name", `{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: ExternalName, externalName: x.example.org}}`, CleanOptions{}, "spec|externalName=x.example.org", ""},

		{"job", `{apiVersion: batch/v1, kind: Job, metadata: {name: a, labels: {controller-uid: u, batch.kubernetes.io/controller-uid: u, job-name: a, batch.kubernetes.io/job-name: a, tier: t}, annotations: {batch.kubernetes.io/job-tracking: "", batch.kubernetes.io/cronjob-scheduled-timestamp: x}}, spec: {selector: {matchLabels: {batch.kubernetes.io/controller-uid: u}}, template: {metadata: {labels: {controller-uid: u, batch.kubernetes.io/controller-uid: u, job-name: a, batch.kubernetes.io/job-name: a, tier: t}}}}}`, CleanOptions{},
			"spec|selector=<absent> spec|template|metadata|labels|controller-uid=<absent> spec|template|metadata|labels|batch.kubernetes.io/controller-uid=<absent> spec|template|metadata|labels|job-name=<absent> spec|template|metadata|labels|batch.kubernetes.io/job-name=<absent> spec|template|metadata|labels|tier=t metadata|labels|tier=t metadata|labels|controller-uid=<absent> metadata|annotations=<absent>", ""},
		{"job with labels of the server alone", `{apiVersion: batch/v1, kind: Job, metadata: {name: a}, spec: {template: {metadata: {labels: {controller-uid: u}}}}}`, CleanOptions{}, "spec|template|metadata|labels=<absent>", ""},
		{"job with a selector of its own", `{apiVersion: batch/v1, kind: Job, metadata: {name: a}, spec: {manualSelector: true, selector: {matchLabels: {pin: "17"}}, template: {metadata: {labels: {pin: "17", job-name: mine}}}}}`, CleanOptions{},
			"spec|selector|matchLabels|pin=17 spec|template|metadata|labels|pin=17 spec|template|metadata|labels|job-name=mine", ""},

		{"claim whose data comes from the backup", `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a, annotations: {pv.kubernetes.io/bind-completed: "yes", pv.kubernetes.io/bound-by-controller: "yes", volume.kubernetes.io/selected-node: node-7, volume.kubernetes.io/storage-provisioner: p, volume.beta.kubernetes.io/storage-provisioner: p, mine: x}}, spec: {volumeName: pv, selector: {matchLabels: {a: b}}, dataSource: {name: s}, dataSourceRef: {name: s}, volumeMode: Filesystem, storageClassName: x, resources: {requests: {storage: 1Gi}}}, status: {capacity: {storage: 3Gi}}}`, newVolume,
			"metadata|annotations|mine=x metadata|annotations|pv.kubernetes.io/bind-completed=<absent> metadata|annotations|pv.kubernetes.io/bound-by-controller=<absent> metadata|annotations|volume.kubernetes.io/selected-node=<absent> metadata|annotations|volume.kubernetes.io/storage-provisioner=<absent> metadata|annotations|volume.beta.kubernetes.io/storage-provisioner=<absent> spec|volumeName=<absent> spec|selector=<absent> spec|dataSource=<absent> spec|dataSourceRef=<absent> spec|resources|requests|storage=3Gi spec|volumeMode=Filesystem status=<absent>", ""},
		{"claim that asked for more than it shows", `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a}, spec: {resources: {requests: {storage: 2Gi}}}, status: {capacity: {storage: 1024Mi}}}`, newVolume, "spec|resources|requests|storage=2Gi", ""},
		{"claim that was never bound", `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a}, spec: {resources: {requests: {storage: 2Gi}}}}`, newVolume, "spec|resources|requests|storage=2Gi", ""},
		{"claim that moves with its volume", `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a, annotations: {pv.kubernetes.io/bind-completed: "yes"}}, spec: {volumeName: pv, selector: {matchLabels: {a: b}}}}`, CleanOptions{}, "spec|volumeName=pv spec|selector|matchLabels|a=b metadata|annotations=<absent>", ""},
		{"volume", `{apiVersion: v1, kind: PersistentVolume, metadata: {name: a, finalizers: [kubernetes.io/pv-protection, external-attacher/x], annotations: {pv.kubernetes.io/bound-by-controller: "yes", pv.kubernetes.io/provisioned-by: p}}, spec: {claimRef: {kind: PersistentVolumeClaim, name: c, namespace: n, uid: u, resourceVersion: "4"}}, status: {phase: Bound}}`, CleanOptions{},
			"spec|claimRef|uid=<absent> spec|claimRef|resourceVersion=<absent> spec|claimRef|name=c metadata|annotations|pv.kubernetes.io/provisioned-by=p metadata|annotations|pv.kubernetes.io/bound-by-controller=<absent> metadata|finalizers=<absent>", ""},

		{"hand-made token secret", `{apiVersion: v1, kind: Secret, type: kubernetes.io/service-account-token, metadata: {name: a, annotations: {kubernetes.io/service-account.name: r, kubernetes.io/service-account.uid: u}}, data: {token: b2xk, ca.crt: b2xk, namespace: b2xk, extra: a2VlcA==}}`, CleanOptions{},
			"metadata|annotations|kubernetes.io/service-account.name=r metadata|annotations|kubernetes.io/service-account.uid=<absent> data|token=<absent> data|ca.crt=<absent> data|namespace=<absent> data|extra=a2VlcA==", "token reissued"},
		{"pod of an older cluster", `{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {serviceAccountName: r, containers: [{name: c, volumeMounts: [{name: r-token-x7k2p, mountPath: /var/run/secrets/kubernetes.io/serviceaccount}]}], volumes: [{name: r-token-x7k2p, secret: {secretName: r-token-x7k2p}}]}}`, CleanOptions{},
			"spec|volumes=<absent> spec|containers|0|volumeMounts=<absent>", ""},
		{"pod with a token of its own", `{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {serviceAccountName: r, containers: [{name: c}], volumes: [{name: key, secret: {secretName: r-token-x7k2p}}]}}`, CleanOptions{},
			"spec|volumes|0|name=key", ""},
		{"another secret", `{apiVersion: v1, kind: Secret, type: Opaque, metadata: {name: a}, data: {token: b2xk}}`, CleanOptions{}, "data|token=b2xk", ""},

		{"pod", `{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {nodeName: n, nodeSelector: {a: b}, priority: 0, preemptionPolicy: PreemptLowerPriority, runtimeClassName: r, overhead: {cpu: 1}, ephemeralContainers: [{name: e}], initContainers: [{name: i, volumeMounts: [{name: kube-api-access-x7k2p, mountPath: /t}]}], containers: [{name: c, volumeMounts: [{name: kube-api-access-x7k2p, mountPath: /t}, {name: d, mountPath: /d}]}], volumes: [{name: kube-api-access-x7k2p, projected: {}}, {name: d, emptyDir: {}}]}, status: {phase: Running}}`, CleanOptions{},
			"spec|nodeName=<absent> spec|nodeSelector|a=b spec|priority=<absent> spec|preemptionPolicy=<absent> spec|overhead=<absent> spec|ephemeralContainers=<absent> spec|volumes|0|name=d spec|volumes|1=<absent> spec|containers|0|volumeMounts|0|name=d spec|containers|0|volumeMounts|1=<absent> spec|initContainers|0|volumeMounts=<absent> status=<absent>", ""},
		{"pod with a volume of a like name", `{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: c, volumeMounts: [{name: kube-api-access-mine, mountPath: /t}]}], volumes: [{name: kube-api-access-mine, emptyDir: {}}]}}`, CleanOptions{}, "spec|volumes|0|name=kube-api-access-mine spec|containers|0|volumeMounts|0|name=kube-api-access-mine", ""},

		{"pod with a token volume of its own making", `{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {automountServiceAccountToken: false, containers: [{name: c, volumeMounts: [{name: kube-api-access-vault, mountPath: /t}]}], volumes: [{name: kube-api-access-vault, projected: {sources: [{serviceAccountToken: {audience: vault, path: token}}]}}]}}`, CleanOptions{},
			"spec|volumes|0|name=kube-api-access-vault spec|containers|0|volumeMounts|0|name=kube-api-access-vault", ""},
		{"pod with a secret named as a person would", `{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {serviceAccountName: r, containers: [{name: c, volumeMounts: [{name: r-token-extra, mountPath: /t}]}], volumes: [{name: r-token-extra, secret: {secretName: r-token-extra}}]}}`, CleanOptions{},
			"spec|volumes|0|name=r-token-extra spec|containers|0|volumeMounts|0|name=r-token-extra", ""},

		{"deployment", `{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, annotations: {deployment.kubernetes.io/revision: "4"}}, spec: {replicas: 2}, status: {replicas: 2}}`, CleanOptions{}, "metadata|annotations=<absent> spec|replicas=2 status=<absent>", ""},
		{"daemon set", `{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: a, annotations: {deprecated.daemonset.template.generation: "4", mine: x}}}`, CleanOptions{}, "metadata|annotations|deprecated.daemonset.template.generation=<absent> metadata|annotations|mine=x", ""},
		{"webhook", `{apiVersion: admissionregistration.k8s.io/v1, kind: MutatingWebhookConfiguration, metadata: {name: a}, webhooks: [{clientConfig: {caBundle: Y2E=}}]}`, CleanOptions{}, "webhooks|0|clientConfig|caBundle=Y2E=", ""},
		{"definition", `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: a, finalizers: [customresourcecleanup.apiextensions.k8s.io]}, spec: {group: x}, status: {conditions: []}}`, CleanOptions{}, "status=<absent> metadata|finalizers=<absent> spec|group=x", ""},
		{"definition that kept unknown fields by default", `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: a}, spec: {preserveUnknownFields: true, versions: [{name: v1, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object}}}}}, {name: v2}]}}`, CleanOptions{},
			"spec|preserveUnknownFields=<absent> spec|versions|0|schema|openAPIV3Schema|x-kubernetes-preserve-unknown-fields=true spec|versions|0|schema|openAPIV3Schema|properties|spec|type=object spec|versions|1|schema|openAPIV3Schema|type=object spec|versions|1|schema|openAPIV3Schema|x-kubernetes-preserve-unknown-fields=true", ""},
		{"definition of an older version", `{apiVersion: apiextensions.k8s.io/v1beta1, kind: CustomResourceDefinition, metadata: {name: a}, spec: {preserveUnknownFields: true}}`, CleanOptions{}, "spec|preserveUnknownFields=true", ""},
		{"status that is ordinary data", `{apiVersion: x.example.org/v1, kind: Gauge, metadata: {name: a, generation: 4}, status: {lease: L}}`, CleanOptions{KeepStatus: true}, "status|lease=L metadata|generation=<absent>", ""},
		{"status of a subresource", `{apiVersion: x.example.org/v1, kind: Gauge, metadata: {name: a}, status: {lease: L}}`, CleanOptions{}, "status=<absent>", ""},
		{"a custom Job or Service is none of ours", `{apiVersion: x.example.org/v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 10.0.0.1, selector: {a: b}}}`, CleanOptions{}, "spec|clusterIP=10.0.0.1", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := draft(t, c.object)
			warnings := Clean(d, c.options)
			for _, w := range strings.Fields(c.want) {
				path, value, _ := strings.Cut(w, "=")
				if got := at(d, path); got != value {
					t.Errorf("%s is %s, want %s", path, got, value)
				}
			}
			if got := strings.Join(warnings, "; "); (c.warn == "") != (got == "") || !strings.Contains(got, c.warn) {
				t.Errorf("warnings %q, want %q", got, c.warn)
			}
		})
	}
}

func TestManagersOf(t *testing.T) {
	const entry = `{manager: %s, operation: %s, apiVersion: v1, time: "2020-01-01T00:00:00Z", fieldsType: FieldsV1, fieldsV1: {"f:data": {}}%s}`
	one := func(manager, operation, more string) string {
		return strings.NewReplacer("%s", manager).Replace(strings.Replace(strings.Replace(strings.Replace(entry, "%s", manager, 1), "%s", operation, 1), "%s", more, 1))
	}
	for _, c := range []struct {
		name, entries string
		keepStatus    bool
		creator       string
		count         int
	}{
		{"one plain writer", one("kubectl-create", "Update", ""), false, "kubectl-create", 1},
		{"one applier", one("gitops", "Apply", ""), false, "", 1},
		{"a writer and a controller's status", one("kubectl", "Update", "") + "," + one("kcm", "Update", ", subresource: status"), false, "kubectl", 1},
		{"a status that is kept", one("kubectl", "Update", "") + "," + one("kcm", "Update", ", subresource: status"), true, "", 2},
		{"two writers", one("kubectl", "Update", "") + "," + one("hpa", "Update", ", subresource: scale"), false, "", 2},
		{"nobody", "", false, "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := ManagersOf(draft(t, `{apiVersion: v1, kind: ConfigMap, metadata: {name: a, managedFields: [`+c.entries+`]}}`), c.keepStatus)
			if m.Creator != c.creator || len(m.Entries) != c.count {
				t.Fatalf("creator %q, entries %v", m.Creator, m.Entries)
			}
			for _, e := range m.Entries {
				if _, ok := e.(map[string]any)["time"]; ok {
					t.Fatal("a time is kept")
				}
			}
		})
	}
}

func TestDifferences(t *testing.T) {
	a := draft(t, `{apiVersion: v1, kind: ConfigMap, metadata: {name: a, labels: {x/y: "1", z: "1"}}, data: {k: v}}`)
	b := draft(t, `{apiVersion: v1, kind: ConfigMap, metadata: {name: a, labels: {z: "2"}}, data: {k: v}, extra: 1}`)
	got := strings.Join(Differences(a.Content, b.Content, 9), ", ")
	if want := `extra is extra, metadata.labels["x/y"] is missing, metadata.labels.z differs`; got != want {
		t.Fatalf("%s, want %s", got, want)
	}
	if d := Differences(a.Content, a.Content, 9); d != nil {
		t.Fatalf("%v", d)
	}
}
