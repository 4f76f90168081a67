package rewrite

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"sigs.k8s.io/yaml"
)

// draft reads one object written as YAML.
func draft(t *testing.T, text string) *Draft {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	o, err := object.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	d, err := Decode(o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func encoded(t *testing.T, d *Draft) string {
	t.Helper()
	b, err := d.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// at reads a path such as spec.ports.0.port; missing is "<absent>".
func at(d *Draft, path string) string {
	var v any = d.Content
	for _, k := range strings.Split(path, "|") {
		switch t := v.(type) {
		case map[string]any:
			child, ok := t[k]
			if !ok {
				return "<absent>"
			}
			v = child
		case []any:
			var i int
			if _, err := fmt.Sscan(k, &i); err != nil || i >= len(t) {
				return "<absent>"
			}
			v = t[i]
		default:
			return "<absent>"
		}
	}
	b, _ := json.Marshal(v)
	return strings.Trim(string(b), `"`)
}

func TestUntouchedValuesKeepTheirDigits(t *testing.T) {
	const body = `"spec":{"big":9007199254740993,"huge":123456789012345678901234567890,"one":1.0,"exp":1e3,"small":0.1,"neg":-0.0,"nothing":null,"empty":{},"list":[],"text":"010","yes":"yes","html":"<a&b>","line":"\u2028"}`
	o, err := object.Parse([]byte(`{"apiVersion":"x.example.org/v1","kind":"Gauge","metadata":{"name":"g","namespace":"a","uid":"1"},` + body + `}`))
	if err != nil {
		t.Fatal(err)
	}
	d, err := Decode(o)
	if err != nil {
		t.Fatal(err)
	}
	Clean(d, CleanOptions{})
	if _, err := (Rules{Namespaces: map[string]string{"a": "b"}}).Apply(d); err != nil {
		t.Fatal(err)
	}
	got := encoded(t, d)
	for _, want := range []string{`9007199254740993`, `123456789012345678901234567890`, `"one":1.0`, `"exp":1e3`, `"small":0.1`, `"neg":-0.0`,
		`"nothing":null`, `"empty":{}`, `"list":[]`, `"text":"010"`, `"yes":"yes"`, `"html":"<a&b>"`, `"namespace":"b"`} {
		if !strings.Contains(got, want) {
			t.Errorf("%s is lost in %s", want, got)
		}
	}
}

func TestNamespaceMapReachesEveryReference(t *testing.T) {
	rules := Rules{Namespaces: map[string]string{"old": "new"}}
	for _, c := range []struct{ name, object, want string }{
		{"the object itself", `{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: old}}`, "metadata|namespace=new"},
		{"the namespace", `{apiVersion: v1, kind: Namespace, metadata: {name: old}}`, "metadata|name=new"},
		{"another namespace", `{apiVersion: v1, kind: Namespace, metadata: {name: older}}`, "metadata|name=older"},
		{"role binding, mapped subject", `{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: a, namespace: old}, roleRef: {kind: ClusterRole, name: old}, subjects: [{kind: ServiceAccount, name: x, namespace: old}, {kind: ServiceAccount, name: y, namespace: other}]}`,
			"subjects|0|namespace=new subjects|1|namespace=other roleRef|name=old"},
		{"role binding in a namespace that stays", `{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: a, namespace: stays}, subjects: [{kind: ServiceAccount, name: x, namespace: old}]}`,
			"metadata|namespace=stays subjects|0|namespace=new"},
		{"accounts as a user and a group", `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: a}, subjects: [{kind: User, name: "system:serviceaccount:old:x"}, {kind: Group, name: "system:serviceaccounts:old"}, {kind: Group, name: "system:serviceaccounts"}, {kind: User, name: old}]}`,
			"subjects|0|name=system:serviceaccount:new:x subjects|1|name=system:serviceaccounts:new subjects|2|name=system:serviceaccounts subjects|3|name=old"},
		{"security context constraints", `{apiVersion: security.openshift.io/v1, kind: SecurityContextConstraints, metadata: {name: a}, users: ["system:serviceaccount:old:x", old], groups: ["system:serviceaccounts:old"]}`,
			"users|0=system:serviceaccount:new:x users|1=old groups|0=system:serviceaccounts:new"},
		{"flow schema", `{apiVersion: flowcontrol.apiserver.k8s.io/v1, kind: FlowSchema, metadata: {name: a}, spec: {rules: [{subjects: [{kind: ServiceAccount, serviceAccount: {name: x, namespace: old}}, {kind: User, user: {name: "system:serviceaccount:old:x"}}]}]}}`,
			"spec|rules|0|subjects|0|serviceAccount|namespace=new spec|rules|0|subjects|1|user|name=system:serviceaccount:new:x"},
		{"network policy", `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a, namespace: old}, spec: {ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: old, team: old}}}]}], egress: [{to: [{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: [other, old]}, {key: team, operator: In, values: [old]}]}}]}]}}`,
			"spec|ingress|0|from|0|namespaceSelector|matchLabels|kubernetes.io/metadata.name=new spec|ingress|0|from|0|namespaceSelector|matchLabels|team=old spec|egress|0|to|0|namespaceSelector|matchExpressions|0|values|1=new spec|egress|0|to|0|namespaceSelector|matchExpressions|1|values|0=old"},
		{"webhooks", `{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: a}, webhooks: [{clientConfig: {caBundle: b2xk, service: {name: x, namespace: old}}, namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: [old]}]}}]}`,
			"webhooks|0|clientConfig|service|namespace=new webhooks|0|clientConfig|caBundle=b2xk webhooks|0|namespaceSelector|matchExpressions|0|values|0=new"},
		{"admission policy binding", `{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicyBinding, metadata: {name: a}, spec: {paramRef: {name: p, namespace: old}, matchResources: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: old}}}}}`,
			"spec|paramRef|namespace=new spec|matchResources|namespaceSelector|matchLabels|kubernetes.io/metadata.name=new"},
		{"conversion webhook", `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: a}, spec: {conversion: {webhook: {clientConfig: {service: {name: x, namespace: old}}}}}}`,
			"spec|conversion|webhook|clientConfig|service|namespace=new"},
		{"aggregated API", `{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: a}, spec: {service: {name: x, namespace: old}}}`, "spec|service|namespace=new"},
		{"volume", `{apiVersion: v1, kind: PersistentVolume, metadata: {name: a}, spec: {claimRef: {name: c, namespace: old}, csi: {nodeStageSecretRef: {name: s, namespace: old}}}}`,
			"spec|claimRef|namespace=new spec|csi|nodeStageSecretRef|namespace=new"},
		{"claim from another namespace", `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a, namespace: x}, spec: {dataSourceRef: {kind: VolumeSnapshot, name: s, namespace: old}}}`, "spec|dataSourceRef|namespace=new"},
		{"storage class secrets", `{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: a}, parameters: {csi.storage.k8s.io/node-stage-secret-name: s, csi.storage.k8s.io/node-stage-secret-namespace: old, folder: old}}`,
			"parameters|csi.storage.k8s.io/node-stage-secret-namespace=new parameters|folder=old"},
		{"ingress class", `{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: a}, spec: {parameters: {kind: P, name: p, scope: Namespace, namespace: old}}}`, "spec|parameters|namespace=new"},
		{"route", `{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a, namespace: x}, spec: {parentRefs: [{name: g, namespace: old}], rules: [{backendRefs: [{name: s, namespace: old}, {name: s}], filters: [{requestMirror: {backendRef: {name: m, namespace: old}}}]}]}}`,
			"spec|parentRefs|0|namespace=new spec|rules|0|backendRefs|0|namespace=new spec|rules|0|backendRefs|1|namespace=<absent> spec|rules|0|filters|0|requestMirror|backendRef|namespace=new"},
		{"reference grant", `{apiVersion: gateway.networking.k8s.io/v1beta1, kind: ReferenceGrant, metadata: {name: a, namespace: x}, spec: {from: [{kind: HTTPRoute, namespace: old}]}}`, "spec|from|0|namespace=new"},
		{"endpoints", `{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a, namespace: old}, endpoints: [{targetRef: {kind: Pod, name: p, namespace: old}}]}`, "endpoints|0|targetRef|namespace=new"},
		{"pod affinity in a template", `{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, namespace: x}, spec: {template: {spec: {containers: [{name: c}], affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{namespaces: [old, other]}]}, podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{podAffinityTerm: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: old}}}}]}}}}}}`,
			"spec|template|spec|affinity|podAffinity|requiredDuringSchedulingIgnoredDuringExecution|0|namespaces|0=new spec|template|spec|affinity|podAntiAffinity|preferredDuringSchedulingIgnoredDuringExecution|0|podAffinityTerm|namespaceSelector|matchLabels|kubernetes.io/metadata.name=new"},
		{"snapshot content", `{apiVersion: snapshot.storage.k8s.io/v1, kind: VolumeSnapshotContent, metadata: {name: a}, spec: {volumeSnapshotRef: {name: s, namespace: old}}}`, "spec|volumeSnapshotRef|namespace=new"},
		{"labels that merely say the same", `{apiVersion: v1, kind: Service, metadata: {name: old, namespace: old, labels: {app: old}}, spec: {selector: {app: old}}}`,
			"metadata|name=old metadata|labels|app=old spec|selector|app=old"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := draft(t, c.object)
			if _, err := rules.Apply(d); err != nil {
				t.Fatal(err)
			}
			for _, w := range strings.Fields(c.want) {
				path, value, _ := strings.Cut(w, "=")
				if got := at(d, path); got != value {
					t.Errorf("%s is %s, want %s", path, got, value)
				}
			}
		})
	}
}

func TestNamespacesThatSwapNames(t *testing.T) {
	rules := Rules{Namespaces: map[string]string{"a": "b", "b": "a"}}
	d := draft(t, `{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: x, namespace: a}, subjects: [{kind: ServiceAccount, name: x, namespace: b}]}`)
	result, err := rules.Apply(d)
	changes := result.Changes
	if err != nil {
		t.Fatal(err)
	}
	if at(d, "metadata|namespace") != "b" || at(d, "subjects|0|namespace") != "a" || len(changes) != 2 {
		t.Fatalf("%s, %v", encoded(t, d), changes)
	}
	if changes[0].Rule != "namespace a=b" || !reflect.DeepEqual(rules.Names(), []string{"namespace a=b", "namespace b=a"}) {
		t.Fatalf("rules %v, %v", changes, rules.Names())
	}
}

func TestFreeTextIsMentionedAndLeftAlone(t *testing.T) {
	rules := Rules{Namespaces: map[string]string{"old": "new"}}
	for _, c := range []struct {
		name, object string
		want         []string
	}{
		{"DNS name", `{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: x}, data: {url: "postgres://db.old.svc.cluster.local/books"}}`, []string{"data.url"}},
		{"short DNS name", `{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: x}, data: {host: db.old, url: "http://db.old:80/"}}`, []string{"data.host", "data.url"}},
		{"path", `{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: x, annotations: {cert-manager.io/inject-ca-from: old/cert}}}`, []string{`metadata.annotations["cert-manager.io/inject-ca-from"]`}},
		{"environment", `{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, namespace: x}, spec: {template: {spec: {containers: [{name: c, env: [{name: DB, value: db.old.svc}]}]}}}}`, []string{"spec.template.spec.containers[0].env[0].value"}},
		{"inside a secret", `{apiVersion: v1, kind: Secret, metadata: {name: a, namespace: x}, data: {dsn: ZGIub2xkLnN2Yw==}}`, []string{"data.dsn"}},
		{"a token that is made anew", `{apiVersion: v1, kind: Secret, type: kubernetes.io/service-account-token, metadata: {name: a, namespace: x}, data: {namespace: b2xk}}`, nil},
		{"a namespace in a secret", `{apiVersion: v1, kind: Secret, type: Opaque, metadata: {name: a, namespace: x}, data: {namespace: b2xk}}`, []string{"data.namespace"}},
		{"a custom resource's own field", `{apiVersion: x.example.org/v1, kind: Gauge, metadata: {name: a, namespace: x}, spec: {targetNamespace: old, title: old}}`, []string{"spec.targetNamespace"}},
		{"words that only contain it", `{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: x, annotations: {kubectl.kubernetes.io/last-applied-configuration: "db.old.svc"}}, data: {a: older, b: "bold/", c: "cold.svc", d: "db.old-one.svc", e: "/old/", f: "age-old/x"}}`, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := draft(t, c.object)
			before := encoded(t, d)
			result, err := rules.Apply(d)
			mentions := result.Mentions
			if err != nil {
				t.Fatal(err)
			}
			if encoded(t, d) != before {
				t.Errorf("changed to %s", encoded(t, d))
			}
			if len(mentions) != len(c.want) {
				t.Fatalf("mentions %q, want those of %q", mentions, c.want)
			}
			for i, w := range c.want {
				if mentions[i] != w+" mentions the namespace old" {
					t.Errorf("mention %q, want %q", mentions[i], w)
				}
			}
		})
	}
}

func TestStorageClassMap(t *testing.T) {
	rules := Rules{StorageClasses: map[string]string{"slow": "fast", "fast": "slow"}}
	for _, c := range []struct{ name, object, want string }{
		{"claim", `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a}, spec: {storageClassName: slow}}`, "spec|storageClassName=fast"},
		{"claim without a class", `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a}, spec: {}}`, "spec|storageClassName=<absent>"},
		{"claim with no class", `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a}, spec: {storageClassName: ""}}`, "spec|storageClassName="},
		{"claim without a spec", `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a}}`, "spec=<absent>"},
		{"claim with the old annotation", `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a, annotations: {volume.beta.kubernetes.io/storage-class: slow}}}`, "metadata|annotations|volume.beta.kubernetes.io/storage-class=fast"},
		{"volume", `{apiVersion: v1, kind: PersistentVolume, metadata: {name: a, annotations: {volume.beta.kubernetes.io/storage-class: slow}}, spec: {storageClassName: slow}}`, "spec|storageClassName=fast metadata|annotations|volume.beta.kubernetes.io/storage-class=fast"},
		{"templates of a set", `{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: a}, spec: {volumeClaimTemplates: [{metadata: {name: a}, spec: {storageClassName: slow}}, {metadata: {name: b}, spec: {}}, {metadata: {name: c}, spec: {storageClassName: ""}}, {metadata: {name: d, annotations: {volume.beta.kubernetes.io/storage-class: fast}}}]}}`,
			"spec|volumeClaimTemplates|0|spec|storageClassName=fast spec|volumeClaimTemplates|1|spec|storageClassName=<absent> spec|volumeClaimTemplates|2|spec|storageClassName= spec|volumeClaimTemplates|3|metadata|annotations|volume.beta.kubernetes.io/storage-class=slow"},
		{"set without templates", `{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: a}, spec: {volumeClaimTemplates: null}}`, "spec|volumeClaimTemplates=null"},
		{"ephemeral claim of a pod", `{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: c}], volumes: [{name: x}, {name: v, ephemeral: {volumeClaimTemplate: {spec: {storageClassName: slow}}}}]}}`, "spec|volumes|1|ephemeral|volumeClaimTemplate|spec|storageClassName=fast"},
		{"ephemeral claim of a cron job", `{apiVersion: batch/v1, kind: CronJob, metadata: {name: a}, spec: {jobTemplate: {spec: {template: {spec: {containers: [{name: c}], volumes: [{name: v, ephemeral: {volumeClaimTemplate: {spec: {storageClassName: slow}}}}]}}}}}}`, "spec|jobTemplate|spec|template|spec|volumes|0|ephemeral|volumeClaimTemplate|spec|storageClassName=fast"},
		{"ephemeral claim in a custom resource", `{apiVersion: x.example.org/v1, kind: Gauge, metadata: {name: a}, spec: {pods: [{spec: {containers: [{name: c}], volumes: [{name: v, ephemeral: {volumeClaimTemplate: {spec: {storageClassName: slow}}}}]}}]}}`, "spec|pods|0|spec|volumes|0|ephemeral|volumeClaimTemplate|spec|storageClassName=fast"},
		{"quota by class", `{apiVersion: v1, kind: ResourceQuota, metadata: {name: a}, spec: {hard: {slow.storageclass.storage.k8s.io/requests.storage: 1Gi, fast.storageclass.storage.k8s.io/requests.storage: 2Gi, pods: "2"}}}`,
			"spec|hard|fast.storageclass.storage.k8s.io/requests.storage=1Gi spec|hard|slow.storageclass.storage.k8s.io/requests.storage=2Gi spec|hard|pods=2"},
		{"the class itself", `{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: slow}}`, "metadata|name=slow"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := draft(t, c.object)
			if _, err := rules.Apply(d); err != nil {
				t.Fatal(err)
			}
			for _, w := range strings.Fields(c.want) {
				path, value, _ := strings.Cut(w, "=")
				if got := at(d, path); got != value {
					t.Errorf("%s is %s, want %s", path, got, value)
				}
			}
		})
	}
}

func TestClaimSpecs(t *testing.T) {
	d := draft(t, `{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: a}, spec: {template: {spec: {containers: [{name: c}], volumes: [{name: v, ephemeral: {volumeClaimTemplate: {spec: {storageClassName: x}}}}]}}, volumeClaimTemplates: [{spec: {}}, {spec: {storageClassName: ""}}]}}`)
	var got []string
	for _, c := range ClaimSpecs(d) {
		class := "<any>"
		if c.Class != nil {
			class = *c.Class
		}
		got = append(got, c.Path+"="+class)
	}
	want := []string{"spec.volumeClaimTemplates[0]=<any>", "spec.volumeClaimTemplates[1]=", "spec.template.spec.volumes[0].ephemeral.volumeClaimTemplate=x"}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%q, want %q", got, want)
	}
}
