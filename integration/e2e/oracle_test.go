package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/integration/csi"
	"github.com/kubectl-backup/kubectl-backup/plugin/snapshot"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const (
	witnessImage  = "localhost/witness:dev"
	postgresImage = "localhost/postgres:dev"
)

// rounds is how often something is done: the second number where the
// environment asks for it with E2E_SOAK=1.
func rounds(few, many int) int {
	if os.Getenv("E2E_SOAK") != "" {
		return many
	}
	return few
}

// snapClaim is a claim whose driver makes snapshots.
func snapClaim(ns, name string) string { return claim(ns, name, "snap") }

// witnesses is the application of the package witness: a writer, a relay and a
// table in PostgreSQL, each with a claim, that say by their numbers when they
// were copied. quiet is a container in the first two from which they can be
// paused.
func witnesses(ns string) string {
	service := func(name string, port int) string {
		return fmt.Sprintf("---\napiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: %s}\nspec: {selector: {app: %s}, ports: [{port: %d}]}\n", name, ns, name, port)
	}
	witness := func(name, args string) string {
		return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, namespace: %[2]s, labels: {app: %[1]s, part: witness}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: witness
    image: %[3]s
    args: [%[4]s, --scratch, /scratch]
    volumeMounts: [{name: data, mountPath: /data}, {name: scratch, mountPath: /scratch}]
  - name: quiet
    image: %[5]s
    command: [sleep, "1000000"]
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  volumes:
  - {name: data, persistentVolumeClaim: {claimName: %[1]s}}
  - {name: scratch, emptyDir: {}}
`, name, ns, witnessImage, args, busyboxTar)
	}
	return snapClaim(ns, "writer") + snapClaim(ns, "relay") + snapClaim(ns, "db") +
		service("relay", 7000) + service("db", 5432) + database(ns, "db") +
		witness("writer", "write, --file, /data/numbers, --next, 'relay:7000'") +
		witness("relay", "relay, --file, /data/numbers, --postgres, 'db:5432'")
}

// database is a pod with PostgreSQL on the claim of its name. Its write-ahead
// log is kept small, so that a backup is.
func database(ns, name string) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, namespace: %[2]s, labels: {app: %[1]s}}
spec:
  terminationGracePeriodSeconds: 5
  containers:
  - name: postgres
    image: %[3]s
    args: [-c, shared_buffers=16MB, -c, max_wal_size=64MB]
    env: [{name: PGDATA, value: /var/lib/postgresql/data/pgdata}]
    volumeMounts: [{name: data, mountPath: /var/lib/postgresql/data}]
    readinessProbe: {periodSeconds: 1, exec: {command: [pg_isready, -q, -h, 127.0.0.1]}}
  volumes:
  - {name: data, persistentVolumeClaim: {claimName: %[1]s}}
`, name, ns, postgresImage)
}

// progress is what a witness says of itself.
type progress struct {
	Acknowledged   int64   `json:"acknowledged"`
	LongestSeconds float64 `json:"longestSeconds"`
}

func progressOf(t testing.TB, ns, pod string) progress {
	t.Helper()
	p, err := progressAt(kubectl(t, "src", "-n", ns, "get", "pod", pod, "-o", "jsonpath={.status.podIP}"))
	require.NoError(t, err)
	return p
}

// progressAt asks a witness by the address of its pod.
func progressAt(address string) (p progress, err error) {
	client := http.Client{Timeout: 5 * time.Second}
	response, err := client.Get("http://" + address + ":7001/status")
	if err != nil {
		return p, err
	}
	defer response.Body.Close()
	return p, json.NewDecoder(response.Body).Decode(&p)
}

// startWitnesses starts the application and waits until numbers are
// acknowledged at a good pace.
func startWitnesses(t testing.TB, ns string) {
	t.Helper()
	apply(t, "src", witnesses(ns))
	ready(t, "src", ns, "pod/db", "pod/relay", "pod/writer")
	await(t, "numbers are acknowledged", func() (bool, error) { return progressOf(t, ns, "writer").Acknowledged > 50, nil })
	// The image initializes its data without syncing them: a disk would not
	// have them after a power failure either.
	kubectl(t, "src", "-n", ns, "exec", "db", "--", "sync")
}

// testimony is what a check of restored volumes prints.
type testimony struct {
	First, Second, Rows int64
	Faults              []string
}

// judge restores the claims of a backup, has PostgreSQL start on its own, and
// compares what the three hold.
func judge(t testing.TB, f, id, ns, into string) testimony {
	t.Helper()
	dropNamespace(t, "dst", into)
	d, r := document(t, "restore", id, "-f", f, "--to-context", "dst", "--map-namespace", ns+"="+into, "--map-storage-class", "snap=snap-premium", "--kinds", "PersistentVolumeClaim")
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, d.Volumes)
	for _, c := range []string{"writer", "relay", "db"} {
		require.Equal(t, v1alpha1.OutcomeRestored, volumeOf(t, d, c).Outcome, "%+v", volumeOf(t, d, c))
	}
	apply(t, "dst", strings.Replace(database(into, "db"), "  containers:", `  restartPolicy: Never
  containers:
  - name: check
    image: `+witnessImage+`
    args: [check, --first, /first/numbers, --second, /second/numbers, --postgres, '127.0.0.1:5432']
    volumeMounts: [{name: first, mountPath: /first}, {name: second, mountPath: /second}]`, 1)+
		"  - {name: first, persistentVolumeClaim: {claimName: writer}}\n  - {name: second, persistentVolumeClaim: {claimName: relay}}\n")
	await(t, "the check of "+id, func() (bool, error) {
		ended := kubectl(t, "dst", "-n", into, "get", "pod", "db", "-o", `jsonpath={.status.containerStatuses[?(@.name=="check")].state.terminated.exitCode}`)
		if ended != "" && ended != "0" {
			return false, fmt.Errorf("check: %s\npostgres: %s", kubectl(t, "dst", "-n", into, "logs", "db", "-c", "check"), kubectl(t, "dst", "-n", into, "logs", "db", "-c", "postgres"))
		}
		return ended == "0", nil
	})
	var v testimony
	require.NoError(t, json.Unmarshal([]byte(kubectl(t, "dst", "-n", into, "logs", "db", "-c", "check")), &v))
	require.Positive(t, v.Rows, "nothing was compared")
	kubectl(t, "dst", "delete", "namespace", into, "--wait=false") // now: it holds volumes
	return v
}

// oracle captures the application under full load, several times, by the specs
// in turn, and judges each backup. It returns what was found wrong.
func oracle(t *testing.T, ns string, specs []string, n int, prepare func(round int), each func(v1alpha1.Document)) (faults []string) {
	var ids []string
	for i := range n {
		prepare(i)
		f := specs[i%len(specs)]
		before := progressOf(t, ns, "writer")
		began := time.Now()
		d, r := document(t, "run", "-f", f)
		require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, d.Volumes)
		each(d)
		after := progressOf(t, ns, "writer")
		took := time.Since(began)
		require.Greater(t, after.Acknowledged, before.Acknowledged, "the load stopped")
		t.Logf("%s: %.1f s, %.0f numbers/s meanwhile, the longest pause %.3f s", d.Backup, took.Seconds(),
			float64(after.Acknowledged-before.Acknowledged)/took.Seconds(), after.LongestSeconds)
		ids = append(ids, d.Backup)
	}
	found := make([][]string, n)
	t.Run("restored", func(t *testing.T) {
		for i, id := range ids {
			t.Run(id, func(t *testing.T) {
				t.Parallel()
				v := judge(t, specs[0], id, ns, fmt.Sprintf("%s-r%d", ns, i))
				t.Logf("first %d, second %d, rows %d %s", v.First, v.Second, v.Rows, strings.Join(v.Faults, "; "))
				found[i] = v.Faults
			})
		}
	})
	return slices.Concat(found...)
}

func median(list []float64) float64 {
	list = slices.Sorted(slices.Values(list))
	return list[len(list)/2]
}

// TestOracle: what is captured as one point in time is one, under full load;
// and what is not is found out by the same means.
func TestOracle(t *testing.T) {
	ns := namespace(t, "oracle")
	startWitnesses(t, ns)
	remote := reachable(t).document()
	selected := fmt.Sprintf("  select:\n  - {name: all, kinds: [Pod, PersistentVolumeClaim, Service], namespaces: [%s]}\n", ns)

	t.Run("as a group", func(t *testing.T) {
		var skews, frozen []float64
		group := policy(selected + "  consistency: {mode: Group}\n")
		held := policy(selected + quietWitnesses)
		faults := oracle(t, ns, []string{spec(t, group, remote), spec(t, held, remote)}, rounds(3, 50), func(int) {}, func(d v1alpha1.Document) {
			cut := cutOf(t, d)
			require.Equal(t, snapshot.MethodGroup, cut.Method, cut.Reason)
			for _, c := range []string{"writer", "relay", "db"} {
				require.Equal(t, snapshot.MethodGroup, volumeOf(t, d, c).Cut, c)
			}
			skews = append(skews, cut.SkewSeconds)
			if len(d.Hooks) > 0 {
				frozen = append(frozen, cut.FrozenSeconds)
			}
		})
		require.False(t, t.Failed(), "not each backup was judged")
		require.Empty(t, faults)
		t.Logf("%d captures, no fault; skew: median %.4f s, worst %.4f s; freeze of %d: median %.3f s, worst %.3f s",
			len(skews), median(skews), slices.Max(skews), len(frozen), median(frozen), slices.Max(frozen))
		require.Less(t, median(skews), 0.5)
		require.Less(t, median(frozen), 10.0)
	})
	t.Run("each by itself", func(t *testing.T) {
		relay := kubectl(t, "src", "-n", ns, "get", "pvc", "relay", "-o", "jsonpath={.spec.volumeName}")
		alone := spec(t, policy(selected+"  consistency: {mode: None}\n"), remote)
		// Every other time one of the volumes is cut later than the others, as
		// storage that is not asked to cut them together may.
		late := func(round int) {
			turn(t, csi.Knobs{})
			if round%2 == 1 {
				turn(t, csi.Knobs{Volume: relay, SnapshotDelay: 500 * time.Millisecond})
			}
		}
		faults := oracle(t, ns, []string{alone}, rounds(2, 50), late, func(d v1alpha1.Document) {
			for _, c := range []string{"writer", "relay", "db"} {
				require.Equal(t, "Snapshot", volumeOf(t, d, c).Cut, c)
			}
		})
		require.False(t, t.Failed(), "not each backup was judged")
		t.Logf("%d faults: %s", len(faults), strings.Join(faults, "; "))
		require.NotEmpty(t, faults, "the means do not find what is wrong")
	})
}

// quietWitnesses holds the database by its recipe, and then pauses the writer
// by commands.
const quietWitnesses = `  consistency:
    hooks:
    - {recipe: postgresql, match: 'object.metadata.name == "db"', ttl: 30s}
    - name: pause
      match: object.metadata.name == "writer"
      container: quiet
      before: [wget, -qO-, 'http://127.0.0.1:7001/pause']
      after: [wget, -qO-, 'http://127.0.0.1:7001/resume']
      ttl: 30s
`
