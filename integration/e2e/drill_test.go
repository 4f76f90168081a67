package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// outward is what of the application acts on the world: a drill must not.
const outward = `
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: NS}
data: {database: "db.NS.svc.cluster.local:5432"}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: NS}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: NS}
spec: {rules: [{host: shop.example.org, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: open, namespace: NS}
spec: {podSelector: {}, policyTypes: [Egress], egress: [{}]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly, namespace: NS}
spec:
  schedule: "0 3 1 1 *"
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: localhost/busybox:dev, command: ["true"]}]}}}}
`

const drillPolicy = `  select:
  - {name: all, kinds: [Deployment, StatefulSet, Service, Ingress, NetworkPolicy, CronJob, ConfigMap], namespaces: [NS]}
  volumes:
  - {match: 'volume.kind == "emptyDir"', method: Stream}
  - {method: Auto}
  drill:
    assert:
    - objects.all(o, healthy(o))
    - objects.exists(o, o.kind == "Secret" && o.metadata.name == "db" && o.metadata.namespace == namespaces["NS"])
    - 'objects.filter(o, o.kind == "CronJob").all(o, o.spec.suspend == true)'
    - 'objects.filter(o, o.kind == "Service").all(o, o.spec.type == "ClusterIP")'
    - 'objects.filter(o, o.kind == "Ingress").all(o, o.spec.rules.all(r, r.host == "shop.example.org.drill.invalid"))'
    - 'objects.filter(o, o.kind == "ConfigMap" && o.metadata.name == "settings").all(o, o.data.database == "db." + namespaces["NS"] + ".svc.cluster.local:5432")'
    - '!objects.exists(o, o.kind == "NetworkPolicy")'
    probes:
    - name: rows
      match: labels.?app.orValue("") == "db"
      command: [psql, -U, postgres, -d, books, -At, -c, select count(*) from entries]
      expect: {expression: int(stdout) >= 5000}
    - name: keys
      match: labels.?app.orValue("") == "web"
      container: web
      command: [sha256sum, /session/keys]
      expect: {regex: "^[0-9a-f]{64}  /session/keys$"}
`

// drilled runs a drill and decodes its report, whatever the verdict.
func drilled(t testing.TB, args ...string) (v1alpha1.DrillReport, result) {
	t.Helper()
	r := backup(t, append([]string{"drill"}, append(args, "-o", "json")...)...)
	var d v1alpha1.DrillReport
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &d), "stdout: %s\nstderr: %s", r.stdout, r.stderr)
	require.Equal(t, r.code, d.ExitCode, r.stderr)
	return d, r
}

func failedChecks(d v1alpha1.DrillReport) (names []string) {
	for _, c := range d.Checks {
		if !c.Passed {
			names = append(names, c.Name)
		}
	}
	return names
}

// clusterWide are the names of what is not in a namespace, or is one, and of
// what a drill makes beside that.
func clusterWide(t testing.TB) []string {
	t.Helper()
	return strings.Fields(kubectl(t, "src", "get", "namespaces,clusterroles,clusterrolebindings,customresourcedefinitions,storageclasses,ingressclasses,priorityclasses,persistentvolumes,volumesnapshotcontents,volumegroupsnapshotcontents,validatingwebhookconfigurations,mutatingwebhookconfigurations,apiservices", "-o", "name"))
}

// revisions are the resource versions of what the application is made of.
func revisions(t testing.TB, ns string) string {
	t.Helper()
	return kubectl(t, "src", "-n", ns, "get", "deployments,statefulsets,services,secrets,configmaps,persistentvolumeclaims,ingresses,networkpolicies,cronjobs,pods,serviceaccounts", "-o",
		`jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.resourceVersion}{"\n"}{end}`)
}

// noDrill checks that nothing of a drill is there.
func noDrill(t testing.TB, d v1alpha1.DrillReport) {
	t.Helper()
	require.Empty(t, d.Left)
	require.NotEmpty(t, d.Namespaces)
	for _, scratch := range d.Namespaces {
		_, err := tryKubectl(t, "src", "", "get", "namespace", scratch)
		require.ErrorContains(t, err, "NotFound")
		require.NotContains(t, kubectl(t, "src", "get", "persistentvolumes", "-o", "jsonpath={.items[*].spec.claimRef.namespace}"), scratch)
	}
}

// TestDrillFindsPlantedFaults drills a good backup, and then backups of an
// application with a fault in it.
func TestDrillFindsPlantedFaults(t *testing.T) {
	ns := namespace(t, "drilled")
	app := strings.ReplaceAll(application+outward, "storageClassName: fast", "storageClassName: snap")
	apply(t, "src", strings.ReplaceAll(app, "NS", ns))
	ready(t, "src", ns, "statefulset/db", "deployment/web")
	sql := func(q string) {
		t.Helper()
		kubectl(t, "src", "-n", ns, "exec", "db-0", "--", "psql", "-U", "postgres", "-d", "books", "-c", q)
	}
	sql("create table entries as select g, md5(g::text) from generate_series(1, 5000) g; checkpoint")
	kubectl(t, "src", "-n", ns, "exec", "deploy/web", "--", "sh", "-c", "head -c 300000 /dev/urandom > /session/keys")
	remote, _ := local(t)
	f := spec(t, policy(strings.ReplaceAll(drillPolicy, "NS", ns)), remote)
	save := func(f string) string {
		t.Helper()
		d, r := document(t, "run", "-f", f)
		require.Contains(t, []int{0, 3}, r.code, "%s\n%+v", r.stderr, d.Objects)
		require.NotEmpty(t, d.Backup)
		return d.Backup
	}

	good := save(f)
	before, wide := revisions(t, ns), clusterWide(t)
	// The policy is the one that the backup recorded: the spec has no policy.
	report, r := drilled(t, good, "-f", spec(t, remote))
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, report)
	require.True(t, report.Passed)
	require.Len(t, report.Checks, 1+7+2, "%+v", report.Checks)
	require.Len(t, report.LeftOut, 1, "the policy that opens the network")
	noDrill(t, report)
	require.Equal(t, before, revisions(t, ns), "nothing of the original changed")
	require.Subset(t, wide, clusterWide(t), "nothing outside of the namespaces was made")

	report, r = drilled(t, good, "-f", f, "--assert", "objects.size() == 0", "--assert", "objects[1000].kind == 'x'")
	require.Equal(t, 1, r.code)
	require.Equal(t, []string{"assert[7]", "assert[8]"}, failedChecks(report), "the flag's come after the policy's, and one that cannot be evaluated is no pass")
	noDrill(t, report)
	require.Contains(t, backup(t, "list", "-f", f).stdout, "failed")
	require.Contains(t, backup(t, "describe", good, "-f", f).stdout, "assertion assert[8]")

	sql("truncate entries; checkpoint")
	report, r = drilled(t, save(f), "-f", f)
	require.Equal(t, 1, r.code)
	require.Equal(t, []string{"rows"}, failedChecks(report))
	for _, c := range report.Checks {
		if c.Name == "rows" {
			require.Equal(t, ns+"/db-0", c.Pod)
			require.Equal(t, "0", c.Output)
		}
	}
	noDrill(t, report)

	kubectl(t, "src", "-n", ns, "delete", "secret", "db") // which running pods do not notice
	report, r = drilled(t, save(f), "-f", f, "--timeout", "20s")
	require.Equal(t, 1, r.code)
	require.Subset(t, failedChecks(report), []string{"restore", "assert[0]", "assert[1]", "rows"})
	require.NotContains(t, failedChecks(report), "keys", "the web server needs no Secret")
	noDrill(t, report)

	apply(t, "src", fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: db, namespace: %s}\nstringData: {password: only-for-this-test}\n", ns))
	sql("insert into entries select g, md5(g::text) from generate_series(1, 5000) g; checkpoint")
	kubectl(t, "src", "-n", ns, "patch", "deployment", "web", "--type=strategic", "-p",
		`{"spec":{"strategy":{"type":"RollingUpdate","rollingUpdate":{"maxUnavailable":0}},"template":{"spec":{"containers":[{"name":"web","image":"localhost/no-such:dev"}]}}}}`)
	report, r = drilled(t, save(f), "-f", f, "--timeout", "20s")
	require.Equal(t, 1, r.code)
	require.Subset(t, failedChecks(report), []string{"restore", "assert[0]"})
	require.NotContains(t, failedChecks(report), "rows", "the database is whole")
	for _, c := range report.Checks {
		if c.Name == "assert[0]" {
			require.Contains(t, strings.Join(c.Seen, "\n"), "Deployment.apps "+ns+"/web")
		}
	}
	noDrill(t, report)
	require.Subset(t, wide, clusterWide(t))
}

// TestDrillIsEnded ends drills in the middle: one that is asked to removes what
// it made, and what one leaves that is killed is removed by cleanup.
func TestDrillIsEnded(t *testing.T) {
	ns := namespace(t, "ended")
	apply(t, "src", scribe(ns, "scribe", "data"))
	ready(t, "src", ns, "pod/scribe")
	remote, _ := local(t)
	f := spec(t, everything(ns), remote)
	d, r := document(t, "run", "-f", f)
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, d)
	scratch := func() string {
		for _, name := range strings.Fields(kubectl(t, "src", "get", "namespaces", "-o", "jsonpath={.items[*].metadata.name}")) {
			if strings.HasPrefix(name, "drill-") && strings.HasSuffix(name, ns) {
				return name
			}
		}
		return ""
	}
	begin := func() (*running, string) {
		p := start(t, "drill", "latest", "-f", f)
		name := ""
		await(t, "a claim of the drill", func() (bool, error) {
			name = scratch()
			if name == "" {
				return false, nil
			}
			claims, err := tryKubectl(t, "src", "", "-n", name, "get", "pvc", "-o", "name")
			return err == nil && claims != "", nil
		})
		return p, name
	}
	gone := func(name string) {
		t.Helper()
		await(t, "the end of "+name, func() (bool, error) {
			volumes := kubectl(t, "src", "get", "persistentvolumes", "-o", "jsonpath={.items[*].spec.claimRef.namespace}")
			return scratch() == "" && !strings.Contains(volumes, name), nil
		})
	}

	p, name := begin()
	require.NoError(t, p.Process.Signal(os.Interrupt))
	r = p.wait(t)
	require.Equal(t, 130, r.code, r.stderr)
	gone(name)

	p, name = begin()
	require.NoError(t, p.Process.Kill())
	p.wait(t)
	require.Equal(t, name, scratch(), "nobody could remove it")
	shown := backup(t, "cleanup", "--dry-run")
	require.Contains(t, shown.stdout, "Namespace "+name)
	r = backup(t, "cleanup")
	require.Equal(t, 0, r.code, r.stderr)
	gone(name)

	// And the next drill does it as well.
	p, name = begin()
	require.NoError(t, p.Process.Kill())
	p.wait(t)
	began := time.Now()
	report, r := drilled(t, "latest", "-f", f)
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, report)
	t.Logf("the drill took %s", time.Since(began).Round(time.Second))
	gone(name)
	noDrill(t, report)
}
