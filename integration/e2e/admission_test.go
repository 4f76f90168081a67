package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/restore"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// admissionPolicy is a policy that refuses ConfigMaps, and that it is in force.
func (p *place) admissionPolicy(name, namespaceSelector, expression, message string) {
	p.t.Helper()
	p.apply(`
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: $NAME}
spec:
  failurePolicy: Fail
  matchConstraints:
    namespaceSelector: $SELECTOR
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]
  validations: [{expression: "$EXPRESSION", message: $MESSAGE}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: $NAME}
spec: {policyName: $NAME, validationActions: [Deny]}
`, "$NAME", name, "$SELECTOR", namespaceSelector, "$EXPRESSION", expression, "$MESSAGE", message)
}

// inForce waits until the server refuses an object with these words.
func (p *place) inForce(namespace, raw, words string) {
	p.t.Helper()
	p.eventually(func() (bool, string) {
		_, err := p.Create(p.t.Context(), p.kind("v1", "ConfigMap"), namespace, []byte(raw), kube.WriteOptions{DryRun: true})
		return err != nil && strings.Contains(err.Error(), words), fmt.Sprint(err)
	})
}

// What the server will say to objects whose namespaces are not there yet is
// asked of it in namespaces that the same policies look at; where there is none
// like that, the plan says that nobody knows. What waits for something that is
// refused is seen to fail with it.
func TestAdmissionIsPredictedForNewNamespaces(t *testing.T) {
	dst := restorePlace(t, "dst")
	own, twin := word(t, "harbor"), word(t, "twin")
	plain, strict, named, local, unmade, guarded := own+"-plain", own+"-strict", own+"-named", own+"-local", own+"-unmade", own+"-guarded"
	names := []string{"$OWN", own, "$PLAIN", plain, "$STRICT", strict, "$NAMED", named, "$LOCAL", local, "$UNMADE", unmade, "$GUARDED", guarded, "$TWIN", twin}
	for _, ns := range []string{plain, strict, named, local, unmade, guarded} {
		dst.removeNamespace(ns)
	}
	dst.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: $TWIN, labels: {strict: $OWN}}", names...)
	dst.apply(`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: piers.$OWN.example.org}
spec:
  group: $OWN.example.org
  scope: Namespaced
  names: {plural: piers, singular: pier, kind: Pier}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {length: {type: integer}}}}}}}]
`, names...)
	dst.kind(own+".example.org/v1", "Pier")
	dst.admissionPolicy(own+"-all", "{}", "!('debt' in object.data) || object.data.debt != '"+own+"'", "no debts")
	dst.admissionPolicy(own+"-strict", "{matchLabels: {strict: "+own+"}}", "!('gold' in object.data)", "no gold where it is strict")
	dst.admissionPolicy(own+"-named", "{matchLabels: {kubernetes.io/metadata.name: "+named+"}}", "!('salt' in object.data)", "no salt here")
	dst.admissionPolicy(own+"-local", "{matchLabels: {local: "+own+"}}", "namespaceObject.metadata.name != '"+local+"' || !('tar' in object.data)", "no tar here")
	dst.apply(`
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: $OWN-namespaces}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [namespaces], resourceNames: [$UNMADE, $GUARDED]}]
  validations: [{expression: "has(object.metadata.labels) && 'centre' in object.metadata.labels", message: name a centre}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: $OWN-namespaces}
spec: {policyName: $OWN-namespaces, validationActions: [Deny]}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: $OWN-claims}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [persistentvolumeclaims]}]
  validations: [{expression: "!has(object.metadata.labels) || !('$OWN' in object.metadata.labels)", message: no such claims}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: $OWN-claims}
spec: {policyName: $OWN-claims, validationActions: [Deny]}
`, names...)
	cm := func(data string) string {
		return `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":{` + data + `}}`
	}
	dst.inForce(twin, cm(`"debt":"`+own+`"`), "no debts")
	dst.inForce(twin, cm(`"gold":"1"`), "no gold")
	dst.eventually(func() (bool, string) {
		for kind, raw := range map[string]string{
			"Namespace":             `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"` + unmade + `"}}`,
			"PersistentVolumeClaim": `{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"x","labels":{"` + own + `":""}},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Mi"}}}}`,
		} {
			ns := twin
			if kind == "Namespace" {
				ns = ""
			}
			if _, err := dst.Create(t.Context(), dst.kind("v1", kind), ns, []byte(raw), kube.WriteOptions{DryRun: true}); !apierrors.IsInvalid(err) {
				return false, fmt.Sprint(kind, ": ", err)
			}
		}
		return true, ""
	})

	b := newBackup(t)
	for ns, more := range map[string]string{plain: "", strict: "strict: " + own, named: "", local: "local: " + own, guarded: "pod-security.kubernetes.io/enforce: restricted"} {
		b.addYAML("apiVersion: v1\nkind: Namespace\nmetadata: {name: $N, uid: $N, labels: {$MORE}}", "$N", ns, "$MORE", more)
	}
	n := 0
	want := map[string]v1alpha1.Outcome{}
	add := func(ns, name, data string, outcome v1alpha1.Outcome) {
		n++
		b.addYAML(fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: %s, uid: c%d}\ndata: {%s}", name, ns, n, data))
		want["ConfigMap "+name] = outcome
	}
	add(plain, "in-order", "a: b", v1alpha1.OutcomeCreate)
	add(plain, "in-debt", "debt: "+own, v1alpha1.OutcomeFailed)
	add(plain, "golden", "gold: x", v1alpha1.OutcomeCreate)
	add(strict, "golden-in-strict", "gold: x", v1alpha1.OutcomeFailed)
	add(strict, "plain-in-strict", "a: b", v1alpha1.OutcomeCreate)
	add(named, "salted", "salt: x", v1alpha1.OutcomeUndecided)
	add(local, "tarred", "tar: x", v1alpha1.OutcomeUndecided)
	add(unmade, "nowhere", "a: b", v1alpha1.OutcomeFailed)
	add(guarded, "behind", "a: b", v1alpha1.OutcomeFailed)
	want["Namespace "+guarded] = v1alpha1.OutcomeFailed
	b.addYAML(`
apiVersion: v1
kind: Service
metadata: {name: invalid, namespace: $PLAIN, uid: s1}
spec: {ports: [{port: 99999}]}
---
apiVersion: $OWN.example.org/v1
kind: Pier
metadata: {name: long, namespace: $PLAIN, uid: p1}
spec: {length: very}
---
apiVersion: $OWN.example.org/v1
kind: Pier
metadata: {name: short, namespace: $PLAIN, uid: p2}
spec: {length: 3}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: refused, namespace: $PLAIN, uid: v1, labels: {$OWN: ""}}
spec: {storageClassName: premium, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: waits, namespace: $PLAIN, uid: d1}
spec:
  replicas: 1
  selector: {matchLabels: {app: waits}}
  template:
    metadata: {labels: {app: waits}}
    spec:
      containers: [{name: c, image: "localhost/busybox:dev", command: [sleep, "36000"], volumeMounts: [{name: v, mountPath: /v}]}]
      volumes: [{name: v, persistentVolumeClaim: {claimName: refused}}]
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: pilot, namespace: $PLAIN, uid: a1}
---
apiVersion: v1
kind: Pod
metadata: {name: aboard, namespace: $PLAIN, uid: o1}
spec: {serviceAccountName: pilot, containers: [{name: c, image: "localhost/busybox:dev", command: [sleep, "36000"]}]}
`, names...)
	b.addVolume(v1alpha1.VolumeLine{Ref: v1alpha1.Ref{Version: "v1", Kind: "PersistentVolumeClaim", Namespace: plain, Name: "refused"},
		VolumeKind: "persistentVolumeClaim"}, map[string]string{"a": "b"})
	for what, outcome := range map[string]v1alpha1.Outcome{
		"Service invalid": v1alpha1.OutcomeFailed, "Pier long": v1alpha1.OutcomeFailed, "Pier short": v1alpha1.OutcomeCreate, "PersistentVolumeClaim refused": v1alpha1.OutcomeFailed,
		"Deployment waits": v1alpha1.OutcomeFailed, "ServiceAccount pilot": v1alpha1.OutcomeCreate, "Pod aboard": v1alpha1.OutcomeCreate,
	} {
		want[what] = outcome
	}
	r := b.request(dst)
	r.DryRun = restore.DryRunServer
	plan := run(t, r)
	for what, outcome := range want {
		kind, name, _ := strings.Cut(what, " ")
		l := line(t, plan, kind, name)
		require.Equal(t, outcome, l.Outcome, "%s: %s", what, l.Reason)
		if outcome == v1alpha1.OutcomeUndecided {
			require.Contains(t, l.Reason, "unknown until its namespace exists", what)
		}
	}
	require.Contains(t, line(t, plan, "ConfigMap", "in-debt").Reason, "no debts")
	require.Contains(t, line(t, plan, "ConfigMap", "golden-in-strict").Reason, "asked in namespace "+twin)
	require.Contains(t, line(t, plan, "ConfigMap", "salted").Reason, "policy "+own+"-named")
	require.Contains(t, line(t, plan, "ConfigMap", "nowhere").Reason, "name a centre")
	require.Contains(t, line(t, plan, "Pier", "long").Reason, "spec.length")
	require.Equal(t, v1alpha1.OutcomeFailed, plan.Volumes[0].Outcome, plan.Volumes[0].Reason)
	require.Equal(t, 3, plan.ExitCode)
	_, err := dst.get("v1", "Namespace", "", plain)
	require.True(t, apierrors.IsNotFound(err), "a plan wrote something: %v", err)

	r.DryRun = restore.DryRunNone
	d := run(t, r)
	for n, l := range plan.Objects {
		if l.Outcome == v1alpha1.OutcomeUndecided {
			require.Equal(t, l.Ref.Key(), d.Objects[n].Ref.Key())
			require.Equal(t, v1alpha1.OutcomeFailed, d.Objects[n].Outcome, "%s: %s", l.Ref, d.Objects[n].Reason)
			plan.Objects[n].Outcome = v1alpha1.OutcomeFailed
		}
	}
	predicted(t, *plan, *d)
}
