package argocd

import (
	"testing"

	kjson "sigs.k8s.io/json"
)

func TestHealth(t *testing.T) {
	for _, c := range []struct{ name, object, state string }{
		{"a deployment that has its replicas", `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"mill","generation":2},
			"spec":{"replicas":2},"status":{"observedGeneration":2,"replicas":2,"updatedReplicas":2,"availableReplicas":2}}`, Healthy},
		{"a deployment that waits for a replica", `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"mill","generation":2},
			"spec":{"replicas":2},"status":{"observedGeneration":2,"replicas":2,"updatedReplicas":2,"availableReplicas":1}}`, Progressing},
		{"a deployment that the controller has not seen", `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"mill","generation":2},
			"spec":{"replicas":2},"status":{"observedGeneration":1,"replicas":2,"updatedReplicas":2,"availableReplicas":2}}`, Progressing},
		{"a set scaled to nothing", `{"apiVersion":"apps/v1","kind":"StatefulSet","metadata":{"name":"mill","generation":1},
			"spec":{"replicas":0},"status":{"observedGeneration":1,"replicas":0,"currentRevision":"a","updateRevision":"a"}}`, Healthy},
		{"a job that failed", `{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"mill"},"spec":{},
			"status":{"conditions":[{"type":"Failed","status":"True","message":"no"}]}}`, Degraded},
		{"a suspended job", `{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"mill"},"spec":{"suspend":true},
			"status":{"conditions":[{"type":"Suspended","status":"True"}]}}`, Suspended},
		{"a claim that is bound", `{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"mill"},"status":{"phase":"Bound"}}`, Healthy},
		{"a kind without a rule", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"mill"}}`, ""},
		{"a custom resource without a rule", `{"apiVersion":"mill.example.org/v1","kind":"Wheel","metadata":{"name":"mill"}}`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var content map[string]any
			if err := kjson.UnmarshalCaseSensitivePreserveInts([]byte(c.object), &content); err != nil {
				t.Fatal(err)
			}
			state, message, err := Health(content)
			if err != nil || state != c.state {
				t.Fatalf("state %q (%s), error %v, want %q", state, message, err, c.state)
			}
		})
	}
}
