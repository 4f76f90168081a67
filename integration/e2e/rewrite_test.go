package e2e

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/plugin/graph"
	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/restore"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// rewriteSet decodes the one set of a text.
func rewriteSet(t *testing.T, text string, names ...string) *v1alpha1.RewriteSet {
	t.Helper()
	d, err := v1alpha1.Decode("set", []byte(strings.NewReplacer(names...).Replace(text)))
	require.NoError(t, err)
	require.Len(t, d.Rewrites, 1)
	return d.Rewrites[0]
}

// An archive of an old cluster comes back at the versions that this one
// serves; what has no successor is named before anything is written.
func TestRestoreConvertsOldVersions(t *testing.T) {
	src := restorePlace(t, "src")
	ns, own := word(t, "museum"), word(t, "old")
	b := newBackup(t).addYAML(`
apiVersion: v1
kind: Namespace
metadata: {name: $NS}
---
apiVersion: networking.k8s.io/v1beta1
kind: Ingress
metadata: {name: front, namespace: $NS}
spec: {rules: [{host: $NS.example.org, http: {paths: [{path: /, backend: {serviceName: press, servicePort: 80}}]}}]}
---
apiVersion: extensions/v1beta1
kind: Ingress
metadata: {name: older, namespace: $NS}
spec: {backend: {serviceName: press, servicePort: http}}
---
apiVersion: autoscaling/v2beta2
kind: HorizontalPodAutoscaler
metadata: {name: press, namespace: $NS}
spec:
  minReplicas: 1
  maxReplicas: 4
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: press}
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 70}}}]
---
apiVersion: autoscaling/v2beta1
kind: HorizontalPodAutoscaler
metadata: {name: older, namespace: $NS}
spec: {maxReplicas: 4, scaleTargetRef: {apiVersion: extensions/v1beta1, kind: Deployment, name: press}, metrics: [{type: Resource, resource: {name: cpu, targetAverageUtilization: 60}}]}
---
apiVersion: policy/v1beta1
kind: PodDisruptionBudget
metadata: {name: press, namespace: $NS}
spec: {minAvailable: 1, selector: {matchLabels: {app: press}}}
---
apiVersion: batch/v1beta1
kind: CronJob
metadata: {name: nightly, namespace: $NS}
spec: {schedule: "1 1 * * *", suspend: true, jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: "registry.example.org/x:1"}]}}}}}
---
apiVersion: extensions/v1beta1
kind: Deployment
metadata: {name: press, namespace: $NS}
spec: {replicas: 0, template: {metadata: {labels: {app: press}}, spec: {containers: [{name: c, image: "registry.example.org/x:1"}]}}}
---
apiVersion: extensions/v1beta1
kind: DaemonSet
metadata: {name: buoy, namespace: $NS}
spec: {templateGeneration: 3, template: {metadata: {labels: {app: buoy}}, spec: {nodeSelector: {nowhere: here}, containers: [{name: c, image: "registry.example.org/x:1"}]}}}
---
apiVersion: extensions/v1beta1
kind: ReplicaSet
metadata: {name: tug, namespace: $NS}
spec: {replicas: 0, template: {metadata: {labels: {app: tug}}, spec: {containers: [{name: c, image: "registry.example.org/x:1"}]}}}
---
apiVersion: extensions/v1beta1
kind: NetworkPolicy
metadata: {name: inside, namespace: $NS}
spec: {podSelector: {matchLabels: {app: press}}, ingress: [{from: [{podSelector: {}}]}]}
---
apiVersion: apps/v1beta1
kind: StatefulSet
metadata: {name: log, namespace: $NS}
spec: {serviceName: log, replicas: 0, template: {metadata: {labels: {app: log}}, spec: {containers: [{name: c, image: "registry.example.org/x:1"}]}}}
---
apiVersion: networking.k8s.io/v1beta1
kind: IngressClass
metadata: {name: $OWN}
spec: {controller: none.example.org/none}
---
apiVersion: storage.k8s.io/v1beta1
kind: CSIDriver
metadata: {name: $OWN}
spec: {attachRequired: false}
---
apiVersion: flowcontrol.apiserver.k8s.io/v1beta2
kind: PriorityLevelConfiguration
metadata: {name: $OWN}
spec: {type: Limited, limited: {assuredConcurrencyShares: 3, limitResponse: {type: Reject}}}
---
apiVersion: flowcontrol.apiserver.k8s.io/v1beta2
kind: FlowSchema
metadata: {name: $OWN}
spec: {priorityLevelConfiguration: {name: $OWN}, matchingPrecedence: 9000, rules: [{subjects: [{kind: ServiceAccount, serviceAccount: {name: nobody, namespace: $NS}}], nonResourceRules: [{verbs: [get], nonResourceURLs: [/museum]}]}]}
---
apiVersion: storage.k8s.io/v1beta1
kind: StorageClass
metadata: {name: $OWN}
provisioner: none.example.org
---
apiVersion: policy/v1beta1
kind: PodSecurityPolicy
metadata: {name: $OWN}
spec: {privileged: false}
`, "$NS", ns, "$OWN", own)
	r := b.request(src)
	r.DryRun = restore.DryRunServer
	d := run(t, r)
	converted := map[string]string{
		"Ingress front": "converted from networking.k8s.io/v1beta1 to networking.k8s.io/v1", "Ingress older": "converted from extensions/v1beta1 to networking.k8s.io/v1",
		"HorizontalPodAutoscaler press": "converted from autoscaling/v2beta2 to autoscaling/v2", "HorizontalPodAutoscaler older": "converted from autoscaling/v2beta1 to autoscaling/v2",
		"PodDisruptionBudget press": "converted from policy/v1beta1 to policy/v1", "CronJob nightly": "converted from batch/v1beta1 to batch/v1",
		"Deployment press": "converted from extensions/v1beta1 to apps/v1", "StorageClass " + own: "converted from storage.k8s.io/v1beta1 to storage.k8s.io/v1",
		"DaemonSet buoy": "converted from extensions/v1beta1 to apps/v1", "ReplicaSet tug": "converted from extensions/v1beta1 to apps/v1",
		"NetworkPolicy inside": "converted from extensions/v1beta1 to networking.k8s.io/v1", "StatefulSet log": "converted from apps/v1beta1 to apps/v1",
		"IngressClass " + own: "converted from networking.k8s.io/v1beta1 to networking.k8s.io/v1", "CSIDriver " + own: "converted from storage.k8s.io/v1beta1 to storage.k8s.io/v1",
		"PriorityLevelConfiguration " + own: "converted from flowcontrol.apiserver.k8s.io/v1beta2 to flowcontrol.apiserver.k8s.io/v1",
		"FlowSchema " + own:                 "converted from flowcontrol.apiserver.k8s.io/v1beta2 to flowcontrol.apiserver.k8s.io/v1",
	}
	for what, reason := range converted {
		kind, name, _ := strings.Cut(what, " ")
		l := line(t, d, kind, name)
		require.Equal(t, v1alpha1.OutcomeCreate, l.Outcome, "%s: %s", what, l.Reason)
		require.Contains(t, l.Reason, reason)
	}
	refused := line(t, d, "PodSecurityPolicy", own)
	require.Equal(t, v1alpha1.OutcomeFailed, refused.Outcome)
	require.Contains(t, refused.Reason, "version not served here")
	require.Contains(t, refused.Reason, "Pod Security admission")
	_, err := src.get("v1", "Namespace", "", ns)
	require.Error(t, err, "a plan wrote something")

	src.removeNamespace(ns)
	for _, k := range [][2]string{{"flowcontrol.apiserver.k8s.io/v1", "PriorityLevelConfiguration"}, {"flowcontrol.apiserver.k8s.io/v1", "FlowSchema"}, {"storage.k8s.io/v1", "StorageClass"},
		{"storage.k8s.io/v1", "CSIDriver"}, {"networking.k8s.io/v1", "IngressClass"}} {
		src.removeAfterwards(src.kind(k[0], k[1]), own)
	}
	r.DryRun = restore.DryRunNone
	d = run(t, r)
	require.Equal(t, v1alpha1.ResultPartial, d.Result, "the policy is lost, and that must not be called complete")
	require.Equal(t, 3, d.ExitCode)
	for what := range converted {
		kind, name, _ := strings.Cut(what, " ")
		l := line(t, d, kind, name)
		require.Equal(t, v1alpha1.OutcomeRestored, l.Outcome, "%s: %s", what, l.Reason)
	}
	front := src.must("networking.k8s.io/v1", "Ingress", ns, "front")
	require.Equal(t, "ImplementationSpecific", field(front, "spec", "rules", "0", "http", "paths", "0", "pathType"))
	require.EqualValues(t, 80, field(front, "spec", "rules", "0", "http", "paths", "0", "backend", "service", "port", "number"))
	older := src.must("autoscaling/v2", "HorizontalPodAutoscaler", ns, "older")
	require.EqualValues(t, 60, field(older, "spec", "metrics", "0", "resource", "target", "averageUtilization"))
	require.Equal(t, "apps/v1", field(older, "spec", "scaleTargetRef", "apiVersion"))
	require.Equal(t, "press", field(src.must("apps/v1", "Deployment", ns, "press"), "spec", "selector", "matchLabels", "app"))
	for kind, name := range map[string]string{"DaemonSet": "buoy", "ReplicaSet": "tug", "StatefulSet": "log"} {
		require.Equal(t, name, field(src.must("apps/v1", kind, ns, name), "spec", "selector", "matchLabels", "app"), "the selector that %s had by default", kind)
	}
	require.Equal(t, "OnDelete", field(src.must("apps/v1", "DaemonSet", ns, "buoy"), "spec", "updateStrategy", "type"), "it was updated by hand, and would now be at once")
	require.Equal(t, "press", field(src.must("policy/v1", "PodDisruptionBudget", ns, "press"), "spec", "selector", "matchLabels", "app"))
	require.Equal(t, "press", field(src.must("networking.k8s.io/v1", "NetworkPolicy", ns, "inside"), "spec", "podSelector", "matchLabels", "app"))
	require.EqualValues(t, 3, field(src.must("flowcontrol.apiserver.k8s.io/v1", "PriorityLevelConfiguration", "", own), "spec", "limited", "nominalConcurrencyShares"))
}

const yard = `
apiVersion: v1
kind: Namespace
metadata: {name: $NS, labels: {team: yard}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: clerk, namespace: $NS}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: $NS, annotations: {argocd.argoproj.io/tracking-id: "yard:/ConfigMap:$NS/settings"}}
data: {url: "postgres://db.$NS.svc.cluster.local/ships", level: info}
---
apiVersion: v1
kind: Secret
metadata: {name: dsn, namespace: $NS}
stringData: {url: "postgres://me:secret@db.$NS.svc/ships"}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: $NS}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: gate, namespace: $NS}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: $NS}
spec:
  serviceName: db
  replicas: 0
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {serviceAccountName: clerk, containers: [{name: c, image: "busybox", envFrom: [{secretRef: {name: dsn}}]}]}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {storageClassName: $FROM, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: $NS, labels: {argocd.argoproj.io/instance: yard}}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      serviceAccountName: clerk
      nodeSelector: {topology.kubernetes.io/zone: eu-1a}
      affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, namespaces: [$NS], labelSelector: {matchLabels: {app: db}}}]}}
      containers:
      - name: c
        image: registry.example.org/yard/web:2
        env: [{name: DB_HOST, value: db.$NS.svc}, {name: LEVEL, valueFrom: {configMapKeyRef: {name: settings, key: level}}}]
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web, namespace: $NS}
spec: {maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web, namespace: $NS}
spec: {minAvailable: 1, selector: {matchLabels: {app: web}}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: front, namespace: $NS}
spec: {tls: [{hosts: [yard.example.org], secretName: dsn}], rules: [{host: yard.example.org, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: gate, port: {name: http}}}}]}}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: inside, namespace: $NS}
spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: $NS}}}]}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reads, namespace: $NS}
rules: [{apiGroups: [""], resources: [configmaps], resourceNames: [settings], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: clerks, namespace: $NS}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reads}
subjects: [{kind: ServiceAccount, name: clerk, namespace: $NS}]
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly, namespace: $NS}
spec: {schedule: "1 1 * * *", suspend: true, jobTemplate: {spec: {template: {spec: {restartPolicy: Never, serviceAccountName: clerk, containers: [{name: c, image: alpine, volumeMounts: [{name: v, mountPath: /v}]}], volumes: [{name: v, configMap: {name: settings}}]}}}}}
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: cap, namespace: $NS}
spec: {hard: {pods: "20", $FROM.storageclass.storage.k8s.io/requests.storage: 5Gi}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: $OWN}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{kind: ServiceAccount, name: clerk, namespace: $NS}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: $OWN}
webhooks: [{name: a.example.org, sideEffects: None, admissionReviewVersions: [v1], failurePolicy: Ignore, clientConfig: {service: {name: gate, namespace: $NS}}, namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: $NS}}, rules: [{apiGroups: [yard.example.org], apiVersions: [v1], operations: [CREATE], resources: [boats]}]}]
`

// A copy beside its original, with every kind of rewrite on, refers to nothing
// of the original, and the original is what it was.
func TestCopyRefersToNothingOfTheOriginal(t *testing.T) {
	src := restorePlace(t, "src")
	ns, own, from, to := word(t, "yard"), word(t, "yard-rights"), word(t, "basalt"), word(t, "granite")
	names := []string{"$NS", ns, "$OWN", own, "$FROM", from, "$TO", to}
	for _, class := range []string{from, to} {
		src.apply("\napiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: $CLASS}\nprovisioner: none.example.org\n", "$CLASS", class)
	}
	src.apply(yard, names...)
	b := newBackup(t).addNamespace(src, ns)
	for _, k := range [][2]string{{"rbac.authorization.k8s.io/v1", "ClusterRoleBinding"}, {"admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"}} {
		o, err := src.get(k[0], k[1], "", own)
		require.NoError(t, err)
		b.add(o)
		src.removeAfterwards(src.kind(k[0], k[1]), "b-"+own)
	}
	r := b.request(src)
	r.Rewrite = rewriteSet(t, `
apiVersion: kubectl-backup.io/v1alpha1
kind: RewriteSet
metadata: {name: copy}
spec:
  namespaces: {$NS: $NS-copy}
  storageClasses: {$FROM: $TO}
  names: {prefix: b-}
  images: [{from: docker.io, to: mirror.example.net/hub}]
  hosts: [{suffix: .example.org, to: .example.net}]
  nodeLabels: [{key: topology.kubernetes.io/zone, values: {eu-1a: us-2a}}]
  services: {types: {LoadBalancer: ClusterIP}}
  text: [Env, Args, ConfigMaps, Secrets]
  rules:
  - {name: mark, set: [{path: 'metadata.labels["example.org/stage"]', value: copy}]}
  - {name: level, match: {kinds: [ConfigMap], names: [settings]}, mergePatch: {data: {level: debug}}}
`, names...)
	copied := ns + "-copy"
	src.removeNamespace(copied)
	original := versions(src, ns, own)
	d := complete(t, r)

	require.Equal(t, original, versions(src, ns, own), "the original was touched")
	checked := 0
	each(src, copied, func(o *object.Object) {
		if _, made := object.MadeByCluster(o); made {
			return
		}
		checked++
		raw := string(o.Raw)
		if o.Ref.Kind != "ServiceAccount" && o.Ref.Kind != "ControllerRevision" {
			require.True(t, strings.HasPrefix(o.Ref.Name, "b-"), "%s has its old name", o.Ref)
		}
		noReferenceTo(t, o, ns)
		require.NotContains(t, raw, "tracking-id", "%s", o.Ref)
	})
	require.Greater(t, checked, 14)
	for _, k := range [][2]string{{"rbac.authorization.k8s.io/v1", "ClusterRoleBinding"}, {"admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"}} {
		o, err := src.get(k[0], k[1], "", "b-"+own)
		require.NoError(t, err)
		noReferenceTo(t, o, ns)
	}
	settings := src.must("v1", "ConfigMap", copied, "b-settings")
	require.Equal(t, "postgres://b-db."+copied+".svc.cluster.local/ships", field(settings, "data", "url"))
	require.Equal(t, "debug", field(settings, "data", "level"))
	require.Equal(t, "copy", field(settings, "metadata", "labels", "example.org/stage"))
	web := src.must("apps/v1", "Deployment", copied, "b-web")
	require.Equal(t, "registry.example.org/yard/web:2", field(web, "spec", "template", "spec", "containers", "0", "image"))
	require.Equal(t, "us-2a", field(web, "spec", "template", "spec", "nodeSelector", "topology.kubernetes.io/zone"))
	set := src.must("apps/v1", "StatefulSet", copied, "b-db")
	require.Equal(t, "mirror.example.net/hub/library/busybox", field(set, "spec", "template", "spec", "containers", "0", "image"))
	require.Equal(t, to, field(set, "spec", "volumeClaimTemplates", "0", "spec", "storageClassName"))
	require.Equal(t, "ClusterIP", field(src.must("v1", "Service", copied, "b-gate"), "spec", "type"))
	require.Equal(t, "yard.example.net", field(src.must("networking.k8s.io/v1", "Ingress", copied, "b-front"), "spec", "rules", "0", "host"))
	require.Contains(t, strings.Join(d.Warnings, "\n"), "registry.example.org/yard/web:2", "an image that no map is about is not told of")

	again := run(t, r)
	for _, l := range again.Objects {
		require.NotContains(t, []v1alpha1.Outcome{v1alpha1.OutcomeRestored, v1alpha1.OutcomeFailed}, l.Outcome, "%s: %s", l.Ref, l.Reason)
	}
}

// noReferenceTo walks the one reference table over a live object.
func noReferenceTo(t *testing.T, o *object.Object, ns string) {
	t.Helper()
	err := graph.References(contentOf(t, o), func(ref graph.Reference) error {
		require.NotEqual(t, ns, ref.To.Namespace, "%s: %s refers into the original", o.Ref, ref.Path)
		if ref.To.Kind == "Namespace" {
			require.NotEqual(t, ns, ref.To.Name, "%s: %s names the original", o.Ref, ref.Path)
		}
		return nil
	})
	require.NoError(t, err)
}

// each visits the objects of a namespace.
func each(p *place, ns string, visit func(*object.Object)) {
	p.t.Helper()
	ctx := p.t.Context()
	kinds, _, err := p.Kinds(ctx)
	require.NoError(p.t, err)
	for _, k := range kinds {
		if !k.Namespaced || !k.Can("list") || !k.Can("create") {
			continue
		}
		_, err := p.List(ctx, k, kube.ListOptions{Namespace: ns}, func(o *object.Object) error {
			visit(o)
			return nil
		})
		require.NoError(p.t, err)
	}
}

// versions are the resource versions of a namespace's objects, and of the
// cluster-scoped ones of that name, without what controllers keep writing.
func versions(p *place, ns, own string) map[string]string {
	out := map[string]string{}
	note := func(o *object.Object) {
		if o.Ref.Kind != "Event" && o.Ref.Kind != "HorizontalPodAutoscaler" {
			out[o.Ref.String()] = o.Version
		}
	}
	each(p, ns, note)
	for _, k := range [][2]string{{"rbac.authorization.k8s.io/v1", "ClusterRoleBinding"}, {"admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"}} {
		o, err := p.get(k[0], k[1], "", own)
		require.NoError(p.t, err)
		note(o)
	}
	return out
}
