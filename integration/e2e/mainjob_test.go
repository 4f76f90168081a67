package e2e

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// The application of this test: a database with a claim, and a web server that
// calls it and keeps something in an emptyDir.
const application = `
apiVersion: v1
kind: Secret
metadata: {name: db, namespace: NS}
stringData: {password: only-for-this-test}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: NS}
spec: {selector: {app: db}, ports: [{port: 5432}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: NS, labels: {tier: gold}}
spec:
  serviceName: db
  replicas: 1
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      containers:
      - name: postgres
        image: localhost/postgres:dev
        env:
        - {name: POSTGRES_DB, value: books}
        - {name: POSTGRES_PASSWORD, valueFrom: {secretKeyRef: {name: db, key: password}}}
        - {name: PGDATA, value: /data/pg}
        readinessProbe: {exec: {command: [psql, -U, postgres, -d, books, -c, select 1]}, periodSeconds: 1, timeoutSeconds: 5}
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], storageClassName: fast, resources: {requests: {storage: 1Gi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: NS, labels: {tier: gold}}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: web
        image: localhost/busybox:dev
        command: [sh, -c, "exec sleep 100000"]
        env: [{name: DATABASE, value: "postgres://db:5432/books"}]
        volumeMounts: [{name: session, mountPath: /session}]
      volumes: [{name: session, emptyDir: {}}]
`

const goldPolicy = `  select:
  - {name: gold, kinds: [Deployment, StatefulSet], namespaces: [NS], expression: 'labels.?tier.orValue("") == "gold"'}
  volumes:
  - {match: 'volume.kind == "emptyDir"', method: Stream}
  - {method: Auto}
`

// TestMainJob takes an application from one cluster to another, into another
// namespace and another storage class, and compares what a user would lose.
func TestMainJob(t *testing.T) {
	ns := namespace(t, "shop")
	copyNS := ns + "-copy"
	dropNamespace(t, "dst", copyNS)
	apply(t, "src", strings.ReplaceAll(application, "NS", ns))
	ready(t, "src", ns, "statefulset/db", "deployment/web")
	kubectl(t, "src", "-n", ns, "exec", "db-0", "--", "psql", "-U", "postgres", "-d", "books", "-c",
		"create table entries as select g, md5(g::text) from generate_series(1, 5000) g; checkpoint")
	kubectl(t, "src", "-n", ns, "exec", "deploy/web", "--", "sh", "-c", "head -c 3000000 /dev/urandom > /session/keys; ln /session/keys /session/more; chmod 640 /session/keys")
	rows, file := fingerprint(t, "src", ns)

	remote, _ := local(t)
	f := spec(t, policy(strings.ReplaceAll(goldPolicy, "NS", ns)), remote)
	plan, _ := document(t, "plan", "-f", f)
	require.Equal(t, v1alpha1.ResultComplete, plan.Result)
	require.Len(t, plan.Groups, 1, "the call joins the two workloads")
	require.Len(t, plan.Groups[0].Workloads, 2)
	joined := false
	for _, e := range plan.Groups[0].Edges {
		joined = joined || e.Type == "calls" && e.From.Name == "web" && strings.Contains(e.Field, "DATABASE")
	}
	require.True(t, joined, "the edge names the field that made it: %+v", plan.Groups[0].Edges)

	run, r := document(t, "run", "-f", f)
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, run.Volumes)
	require.NotEmpty(t, run.Backup)
	require.Equal(t, v1alpha1.OutcomeSaved, volumeOf(t, run, "data-db-0").Outcome)
	require.Equal(t, v1alpha1.OutcomeSaved, volumeOf(t, run, "session").Outcome)
	kubectl(t, "src", "delete", "namespace", ns, "--wait=true")

	restored, r := document(t, "restore", "latest", "-f", f, "--to-context", "dst", "--map-namespace", ns+"="+copyNS, "--map-storage-class", "fast=premium")
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, restored)
	ready(t, "dst", copyNS, "statefulset/db", "deployment/web")
	gotRows, gotFile := fingerprint(t, "dst", copyNS)
	require.Equal(t, rows, gotRows, "the rows of the table")
	require.Equal(t, file, gotFile, "the file in the emptyDir, its mode and its links")
	require.Equal(t, "premium", kubectl(t, "dst", "-n", copyNS, "get", "pvc", "data-db-0", "-o", "jsonpath={.spec.storageClassName}"))
	require.Equal(t, "1", kubectl(t, "dst", "-n", copyNS, "get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"))

	again, r := document(t, "restore", "latest", "-f", f, "--to-context", "dst", "--from-cluster", "any", "--map-namespace", ns+"="+copyNS, "--map-storage-class", "fast=premium")
	require.Equal(t, 3, r.code, "data of a claim that is there is not overwritten, and that is said")
	require.Equal(t, v1alpha1.OutcomeConflict, volumeOf(t, again, "data-db-0").Outcome)

	verified, _ := document(t, "verify", run.Backup, "-f", f)
	require.Equal(t, v1alpha1.ResultComplete, verified.Result)
}

func fingerprint(t *testing.T, context, ns string) (rows, file string) {
	t.Helper()
	dump := kubectl(t, context, "-n", ns, "exec", "db-0", "--", "psql", "-U", "postgres", "-d", "books", "-At", "-c", "select * from entries order by g")
	file = kubectl(t, context, "-n", ns, "exec", "deploy/web", "--", "sh", "-c", "cd /session && sha256sum keys more && stat -c '%n %a %h %s' keys more")
	return fmt.Sprintf("%x", sha256.Sum256([]byte(dump))), file
}
