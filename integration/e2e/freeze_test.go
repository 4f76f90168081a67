package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/plugin/freeze"
	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
)

// store is a database in a pod of its own, with a container beside it that
// writes rising numbers as fast as it is let, and notes each that was
// acknowledged, with the time.
type store struct {
	recipe, image, mount string
	parameters           map[string]string
	env, args, shared    string // YAML
	writer               string // acknowledges by lines "number seconds"
	check                string // prints what the store's own tools say, and fails
	count                string // prints how many numbers there are and the highest
}

const storePassword = "a-password-of-stores"

var stores = map[string]store{
	"postgresql": {
		recipe: "postgresql", image: "postgres", mount: "/var/lib/postgresql",
		writer: `p="psql -h 127.0.0.1 -XqAt"
until $p -c 'CREATE TABLE IF NOT EXISTS seq (n bigint PRIMARY KEY)'; do sleep 0.2; done
i=$($p -c 'SELECT coalesce(max(n), 0) FROM seq')
while :; do i=$((i+1)); echo "INSERT INTO seq VALUES ($i) RETURNING n, extract(epoch FROM clock_timestamp());"; done | $p -F ' ' >>/ack/log`,
		check: `pg_amcheck --install-missing --heapallindexed postgres`,
		count: `psql -XqAt -F ' ' -c 'SELECT count(*), coalesce(max(n), 0) FROM seq'`,
	},
	"mariadb": {
		recipe: "mariadb", image: "mariadb", mount: "/var/lib/mysql",
		env:    `{name: MARIADB_ROOT_PASSWORD, value: "` + storePassword + `"}, {name: MARIADB_DATABASE, value: shop}`,
		args:   `--ignore-db-dirs=lost+found`,
		shared: "/run/mysqld",
		writer: `export MYSQL_PWD="$MARIADB_ROOT_PASSWORD"; m="mariadb -uroot -NBn"
until $m -e 'CREATE TABLE IF NOT EXISTS shop.seq (n BIGINT PRIMARY KEY)'; do sleep 0.2; done
i=$($m -e 'SELECT COALESCE(MAX(n), 0) FROM shop.seq')
while :; do i=$((i+1)); echo "INSERT INTO shop.seq VALUES ($i); SELECT $i, UNIX_TIMESTAMP(NOW(6));"; done | $m >>/ack/log`,
		check: `export MYSQL_PWD="$MARIADB_ROOT_PASSWORD"; mariadb-check -uroot --extended shop mysql && ! mariadb-check -uroot shop | grep -v OK`,
		count: `export MYSQL_PWD="$MARIADB_ROOT_PASSWORD"; mariadb -uroot -NB -e 'SELECT COUNT(*), COALESCE(MAX(n), 0) FROM shop.seq'`,
	},
	"redis": {
		recipe: "redis", image: "redis", mount: "/data",
		env:    `{name: REDIS_PASSWORD, value: "` + storePassword + `"}`,
		args:   `--appendonly, "yes"`,
		writer: redisWriter,
		check:  `redis-check-aof /data/appendonlydir/appendonly.aof.manifest`,
		count:  redisCount,
	},
	"redis without a log": {
		recipe: "redis", image: "redis", mount: "/data",
		env:    `{name: REDIS_PASSWORD, value: "` + storePassword + `"}`,
		writer: redisWriter,
		check:  `redis-check-rdb /data/dump.rdb`,
		count:  redisCount,
	},
}

const (
	redisWriter = `export REDISCLI_AUTH="$REDIS_PASSWORD"
until [ "$(redis-cli PING)" = PONG ]; do sleep 0.2; done
i=$(redis-cli LLEN seq)
while :; do i=$((i+1)); echo "RPUSH seq $i"; echo TIME; done | redis-cli | while read -r n && read -r s && read -r u; do printf '%s %s.%06d\n' "$n" "$s" "$u"; done >>/ack/log`
	redisCount = `export REDISCLI_AUTH="$REDIS_PASSWORD"; echo "$(redis-cli LLEN seq) $(redis-cli LINDEX seq -1)"`
)

// pod is the store's pod named name, on a claim. Without a writer it is only
// looked at.
func (s store) pod(ns, name, claim string, writes bool) string {
	shared, sharedVolume := "", ""
	if s.shared != "" {
		shared, sharedVolume = fmt.Sprintf(", {name: shared, mountPath: %s}", s.shared), "\n  - {name: shared, emptyDir: {}}"
	}
	writer := ""
	if writes {
		writer = fmt.Sprintf(`
  - name: writer
    image: localhost/%s:dev
    command: [sh, -c, %q]
    env: [%s]
    volumeMounts: [{name: ack, mountPath: /ack}%s]`, s.image, s.writer, s.env, shared)
	}
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %[1]s, namespace: %[2]s}
spec:
  terminationGracePeriodSeconds: 5
  containers:
  - name: server
    image: localhost/%[3]s:dev
    args: [%[4]s]
    env: [%[5]s]
    volumeMounts: [{name: data, mountPath: %[6]s}%[7]s]%[8]s
  volumes:
  - {name: data, persistentVolumeClaim: {claimName: %[9]s}}
  - {name: ack, emptyDir: {}}%[10]s
`, name, ns, s.image, s.args, s.env, s.mount, shared, writer, claim, sharedVolume)
}

// written is a store under load.
type written struct {
	store
	t         testing.TB
	ns, claim string
	log       string // of acknowledgements, on this machine
}

func (s store) start(t testing.TB, ns, claim string) *written {
	t.Helper()
	apply(t, "src", fmt.Sprintf(`apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %s, namespace: %s}
spec: {storageClassName: snap, accessModes: [ReadWriteOnce], resources: {requests: {storage: 512Mi}}}
`, claim, ns))
	w := &written{store: s, t: t, ns: ns, claim: claim}
	w.run()
	return w
}

// run starts the pod, which has the name of the claim, and waits until it
// writes.
func (w *written) run() {
	w.t.Helper()
	apply(w.t, "src", w.pod(w.ns, w.claim, w.claim, true))
	ready(w.t, "src", w.ns, "pod/"+w.claim)
	uid := kubectl(w.t, "src", "-n", w.ns, "get", "pod", w.claim, "-o", "jsonpath={.metadata.uid}")
	w.log = filepath.Join(clusters(w.t).Dir, "src", "kubelet", "pods", uid, "volumes", "kubernetes.io~empty-dir", "ack", "log")
	w.advance(0)
}

// ack is one number that the store acknowledged, and its time there.
type ack struct {
	number int64
	at     float64
}

func (w *written) acks() []ack {
	w.t.Helper()
	raw, err := os.ReadFile(w.log)
	if os.IsNotExist(err) {
		return nil
	}
	require.NoError(w.t, err)
	var all []ack
	for line := range strings.Lines(string(raw[:bytes.LastIndexByte(raw, '\n')+1])) {
		fields := strings.Fields(line)
		require.Len(w.t, fields, 2, line)
		n, err := strconv.ParseInt(fields[0], 10, 64)
		require.NoError(w.t, err)
		at, err := strconv.ParseFloat(fields[1], 64)
		require.NoError(w.t, err)
		all = append(all, ack{n, at})
	}
	return all
}

// last is the highest number that was acknowledged.
func (w *written) last() int64 {
	w.t.Helper()
	all := w.acks()
	if len(all) == 0 {
		return 0
	}
	return all[len(all)-1].number
}

// advance waits until numbers beyond one are acknowledged, and returns how long
// that took.
func (w *written) advance(beyond int64) time.Duration {
	w.t.Helper()
	start := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for w.last() <= beyond {
		require.Less(w.t, time.Since(start), patience, "%s in %s does not take writes", w.claim, w.ns)
		<-tick.C
	}
	return time.Since(start)
}

// longestGap is the longest time between two acknowledgements from a number on.
func (w *written) longestGap(from int64) time.Duration {
	w.t.Helper()
	var gap float64
	all := w.acks()
	for i := 1; i < len(all); i++ {
		if all[i].number > from {
			gap = max(gap, all[i].at-all[i-1].at)
		}
	}
	return time.Duration(gap * float64(time.Second))
}

func (w *written) target(ttl time.Duration) freeze.Target {
	w.t.Helper()
	recipe, ok := freeze.Lookup(w.recipe, nil)
	require.True(w.t, ok)
	return freeze.Target{Hook: w.recipe, Namespace: w.ns, Pod: w.claim, Container: "server", Recipe: recipe, Parameters: w.parameters, TTL: ttl, Timeout: 20 * time.Second}
}

func sourceCluster(t testing.TB) *kube.Cluster {
	t.Helper()
	cfg, err := clusters(t).Src.RESTConfig()
	require.NoError(t, err)
	c, err := kube.New(cfg, "src")
	require.NoError(t, err)
	return c
}

func execIn(t testing.TB, ns, pod, container, script string) (string, error) {
	t.Helper()
	return tryKubectl(t, "src", "", "-n", ns, "exec", pod, "-c", container, "--", "sh", "-c", script)
}

// TestStoresAreHeldWhileTheyAreCut freezes each store under full load, takes a
// snapshot, and starts the store on what was cut: it holds every number that
// was acknowledged before, at most the one that was on its way, and its own
// tools find nothing wrong. Nobody waits for longer than the freeze and a
// second.
func TestStoresAreHeldWhileTheyAreCut(t *testing.T) {
	c := sourceCluster(t)
	for name, s := range stores {
		t.Run(name, func(t *testing.T) {
			ns := namespace(t, "held")
			w := s.start(t, ns, "db")
			for round := range 3 {
				w.advance(w.last() + 100)
				from := w.last()
				begun := time.Now()
				held, err := freeze.Hold(t.Context(), c, w.target(time.Minute))
				require.NoError(t, err)
				into := time.Since(begun)
				cut := fmt.Sprintf("cut-%d", round)
				apply(t, "src", fmt.Sprintf(`apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: %s, namespace: %s}
spec: {volumeSnapshotClassName: snap, source: {persistentVolumeClaimName: db}}
`, cut, ns))
				kubectl(t, "src", "-n", ns, "wait", "volumesnapshot/"+cut, "--for=jsonpath={.status.readyToUse}=true", "--timeout=60s")
				acknowledged := w.last()
				r := held.Thaw(t.Context())
				require.NoError(t, r.Err)
				require.False(t, r.Expired)
				w.advance(acknowledged + 1)
				gap := w.longestGap(from)
				t.Logf("ready and frozen after %.2f s, held for %.2f s, the writer waited for %.2f s", into.Seconds(), r.Held.Seconds(), gap.Seconds())
				// Less by as much as the writer takes between two writes, on a busy machine.
				require.GreaterOrEqual(t, gap, r.Held/2, "nothing was held")
				require.LessOrEqual(t, gap, r.Held+time.Second)

				apply(t, "src", fmt.Sprintf(`apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %[1]s, namespace: %[2]s}
spec:
  storageClassName: snap
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 512Mi}}
  dataSource: {apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: %[1]s}
---
`, cut, ns)+s.pod(ns, cut, cut, false))
				ready(t, "src", ns, "pod/"+cut)
				var count int64
				await(t, "the store to start on what was cut", func() (bool, error) {
					out, err := execIn(t, ns, cut, "server", s.count)
					fields := strings.Fields(out)
					if err != nil || len(fields) != 2 {
						return false, nil
					}
					require.Equal(t, fields[0], fields[1], "numbers are missing among those that there are")
					count, err = strconv.ParseInt(fields[0], 10, 64)
					return true, err
				})
				require.GreaterOrEqual(t, count, acknowledged, "numbers that were acknowledged are lost")
				require.LessOrEqual(t, count, acknowledged+1, "numbers were written while it was held")
				out, err := execIn(t, ns, cut, "server", s.check)
				require.NoError(t, err, out)
				kubectl(t, "src", "-n", ns, "delete", "pod", cut, "--wait=false")
			}
		})
	}
}

// holder is this program in another process, holding a pod.
type holder struct {
	t       testing.TB
	process *exec.Cmd
	output  bytes.Buffer
}

const holdVariable = "E2E_HOLD"

// TestHolder is no test: it is what startHolder runs.
func TestHolder(t *testing.T) {
	arguments := os.Getenv(holdVariable)
	if arguments == "" {
		return
	}
	ns, rest, _ := strings.Cut(arguments, " ")
	pod, rest, _ := strings.Cut(rest, " ")
	seconds, name, _ := strings.Cut(rest, " ")
	target := freeze.Target{Namespace: ns, Pod: pod, Container: "server"}
	if s, ok := stores[name]; ok {
		w := &written{store: s, t: t, ns: ns, claim: pod}
		target = w.target(0)
	} else {
		target.Before, target.After = markBefore, markAfter
	}
	ttl, err := strconv.Atoi(seconds)
	require.NoError(t, err)
	target.TTL = time.Duration(ttl) * time.Second
	_, err = freeze.Hold(t.Context(), sourceCluster(t), target)
	require.NoError(t, err)
	fmt.Println("held")
	_, err = io.Copy(io.Discard, os.Stdin) // until we are killed
	require.NoError(t, err)
}

// startHolder returns when the pod is held by another process.
func startHolder(t testing.TB, ns, pod string, ttl time.Duration, name string) *holder {
	t.Helper()
	h := &holder{t: t, process: exec.Command(os.Args[0], "-test.run=^TestHolder$", "-test.v")}
	h.process.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %d %s", holdVariable, ns, pod, int(ttl.Seconds()), name))
	_, err := h.process.StdinPipe()
	require.NoError(t, err)
	out, err := h.process.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, h.process.Start())
	t.Cleanup(func() { h.kill() })
	buffer := make([]byte, 4096)
	for !strings.Contains(h.output.String(), "held\n") {
		n, err := out.Read(buffer)
		h.output.Write(buffer[:n])
		require.NoError(t, err, "the other process ended: %s", h.output.String())
	}
	return h
}

// kill ends the process without warning.
func (h *holder) kill() {
	if h.process.ProcessState == nil {
		h.process.Process.Kill()
		h.process.Wait()
	}
}

// TestTheHolderIsKilled kills what holds a store, without warning: the store
// takes writes again long before its time to live.
func TestTheHolderIsKilled(t *testing.T) {
	for _, name := range []string{"postgresql", "mariadb", "redis"} {
		t.Run(name, func(t *testing.T) {
			ns := namespace(t, "killed")
			w := stores[name].start(t, ns, "db")
			var waits []time.Duration
			for range 5 {
				w.advance(w.last() + 20)
				h := startHolder(t, ns, "db", time.Minute, name)
				before := w.last()
				h.kill()
				waits = append(waits, w.advance(before+1))
			}
			slices.Sort(waits)
			t.Logf("%s takes writes again after %s (median), %s (worst) of a time to live of 60 s", name, waits[len(waits)/2].Round(time.Millisecond), waits[len(waits)-1].Round(time.Millisecond))
			require.Less(t, waits[len(waits)-1], 30*time.Second)
		})
	}
}

// TestTheServerStopsWhileStoresAreHeld stops the API server for 20 s: stores
// take writes again within their time to live, although nobody can reach them.
func TestTheServerStopsWhileStoresAreHeld(t *testing.T) {
	c, src := sourceCluster(t), clusters(t).Src
	ns := namespace(t, "server")
	const ttl = 15 * time.Second
	var all []*written
	var targets []freeze.Target
	for _, name := range []string{"postgresql", "mariadb", "redis"} {
		w := stores[name].start(t, ns, name)
		all, targets = append(all, w), append(targets, w.target(ttl))
	}
	held, lines, err := freeze.All(t.Context(), c, targets)
	require.NoError(t, err)
	require.Empty(t, lines)
	before := map[*written]int64{}
	for _, w := range all {
		before[w] = w.last()
	}
	stopped := time.Now()
	require.NoError(t, src.StopAPIServer(t.Context()))
	t.Cleanup(func() { require.NoError(t, src.StartAPIServer(context.Background())) })
	for _, w := range all {
		w.advance(before[w] + 1)
		t.Logf("%s takes writes again after %.2f s", w.recipe, time.Since(stopped).Seconds())
		require.Less(t, time.Since(stopped), ttl+5*time.Second)
	}
	for _, line := range held.Thaw(t.Context()) {
		require.NotEmpty(t, line.Reason, "it let go by itself")
	}
	require.Error(t, held.Err(), "what was cut meanwhile is not consistent")
	<-time.After(time.Until(stopped.Add(20 * time.Second)))
	require.NoError(t, src.StartAPIServer(t.Context()))
	again, _, err := freeze.All(t.Context(), sourceCluster(t), targets)
	require.NoError(t, err)
	again.Thaw(t.Context())
	require.NoError(t, again.Err())
}

// TestAHeldPodIsDeleted deletes each store's pod while it is held: the holder
// is told, and the next pod takes writes.
func TestAHeldPodIsDeleted(t *testing.T) {
	c := sourceCluster(t)
	for _, name := range []string{"postgresql", "mariadb", "redis"} {
		t.Run(name, func(t *testing.T) {
			ns := namespace(t, "deleted")
			w := stores[name].start(t, ns, "db")
			held, err := freeze.Hold(t.Context(), c, w.target(time.Minute))
			require.NoError(t, err)
			kubectl(t, "src", "-n", ns, "delete", "pod", "db", "--grace-period=1")
			r := held.Thaw(t.Context())
			require.True(t, r.Expired)
			require.Error(t, r.Err)
			w.run()
		})
	}
}

var (
	markBefore = []string{"sh", "-c", "echo before >>/v/log; touch /v/FROZEN"}
	markAfter  = []string{"sh", "-c", "rm -f /v/FROZEN; echo after >>/v/log"}
)

// marked is a pod that is held by a file.
type marked struct {
	t      testing.TB
	ns     string
	folder string // on this machine
}

func startMarked(t testing.TB) *marked {
	t.Helper()
	m := &marked{t: t, ns: namespace(t, "mark")}
	apply(t, "src", fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: store, namespace: %s}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: server
    image: localhost/busybox:dev
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 1; done"]
    volumeMounts: [{name: v, mountPath: /v}]
  - name: static
    image: localhost/static:dev
  volumes: [{name: v, emptyDir: {}}]
`, m.ns))
	await(t, "the container", func() (bool, error) {
		_, err := execIn(t, m.ns, "store", "server", "true")
		return err == nil, nil
	})
	uid := kubectl(t, "src", "-n", m.ns, "get", "pod", "store", "-o", "jsonpath={.metadata.uid}")
	m.folder = filepath.Join(clusters(t).Dir, "src", "kubelet", "pods", uid, "volumes", "kubernetes.io~empty-dir", "v")
	return m
}

func (m *marked) frozen() bool {
	_, err := os.Stat(filepath.Join(m.folder, "FROZEN"))
	return err == nil
}

// letGo waits until the pod is not frozen, checks that each command before had
// one after, and returns how long that took.
func (m *marked) letGo() time.Duration {
	m.t.Helper()
	start := time.Now()
	await(m.t, "the end of the freeze", func() (bool, error) { return !m.frozen(), nil })
	took := time.Since(start)
	var log string
	await(m.t, "the command after", func() (bool, error) {
		raw, err := os.ReadFile(filepath.Join(m.folder, "log"))
		log = string(raw)
		return strings.HasSuffix(log, "after\n"), err
	})
	require.Equal(m.t, strings.Repeat("before\nafter\n", strings.Count(log, "before")), log)
	return took
}

func (m *marked) target(ttl time.Duration) freeze.Target {
	return freeze.Target{Hook: "mark", Namespace: m.ns, Pod: "store", Container: "server", Before: markBefore, After: markAfter, TTL: ttl, Timeout: 10 * time.Second}
}

// TestNothingStaysFrozen is the whole kind: whatever goes wrong between freeze
// and thaw, the command after runs, once.
func TestNothingStaysFrozen(t *testing.T) {
	c, src := sourceCluster(t), clusters(t).Src
	m := startMarked(t)
	hold := func(t *testing.T, ctx context.Context, target freeze.Target) *freeze.Session {
		held, err := freeze.Hold(ctx, c, target)
		require.NoError(t, err)
		require.True(t, m.frozen())
		return held
	}
	for _, x := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"thawed", func(t *testing.T) {
			r := hold(t, t.Context(), m.target(time.Minute)).Thaw(t.Context())
			require.NoError(t, r.Err)
			require.False(t, r.Expired)
		}},
		{"before fails", func(t *testing.T) {
			target := m.target(time.Minute)
			target.Before = []string{"sh", "-c", "echo before >>/v/log; touch /v/FROZEN; exit 3"}
			_, err := freeze.Hold(t.Context(), c, target)
			require.ErrorContains(t, err, "exit code 3")
			require.False(t, m.frozen())
		}},
		{"before takes too long", func(t *testing.T) {
			target := m.target(time.Minute)
			target.Before, target.Timeout = []string{"sh", "-c", "echo before >>/v/log; touch /v/FROZEN; sleep 300"}, 2*time.Second
			_, err := freeze.Hold(t.Context(), c, target)
			require.ErrorContains(t, err, "not frozen within 2s")
			require.False(t, m.frozen())
		}},
		{"cancelled", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			held := hold(t, ctx, m.target(time.Minute))
			cancel()
			require.NoError(t, held.Thaw(ctx).Err)
		}},
		{"the time to live ends", func(t *testing.T) {
			held := hold(t, t.Context(), m.target(2*time.Second))
			m.letGo()
			r := held.Thaw(t.Context())
			require.True(t, r.Expired)
			require.ErrorContains(t, r.Err, "time to live of 2s")
		}},
		{"the holder is killed", func(t *testing.T) {
			startHolder(t, m.ns, "store", time.Minute, "mark").kill()
			took := m.letGo()
			t.Logf("let go %s after the holder was killed", took.Round(time.Millisecond))
			require.Less(t, took, 30*time.Second)
		}},
		{"the script is terminated", func(t *testing.T) {
			held := hold(t, t.Context(), m.target(time.Minute))
			_, err := execIn(t, m.ns, "store", "server", `for p in /proc/[0-9]*; do case $(tr '\0' ' ' <$p/cmdline) in *" kubectl-back"up-*) kill ${p#/proc/};; esac; done`)
			require.NoError(t, err)
			require.Less(t, m.letGo(), 30*time.Second)
			require.True(t, held.Thaw(t.Context()).Expired)
		}},
		{"the API server stops", func(t *testing.T) {
			held := hold(t, t.Context(), m.target(time.Minute))
			require.NoError(t, src.StopAPIServer(t.Context()))
			defer func() { require.NoError(t, src.StartAPIServer(context.Background())) }()
			took := m.letGo()
			t.Logf("let go %s after the API server stopped", took.Round(time.Millisecond))
			require.Less(t, took, 30*time.Second)
			require.True(t, held.Thaw(t.Context()).Expired)
		}},
	} {
		t.Run(x.name, func(t *testing.T) {
			x.run(t)
			m.letGo()
		})
	}

	t.Run("the image has no shell", func(t *testing.T) {
		target := m.target(time.Minute)
		target.Container = "static"
		_, err := freeze.Hold(t.Context(), c, target)
		require.ErrorContains(t, err, "container static: its image has no sh")
	})
	t.Run("the image lacks the recipe's program", func(t *testing.T) {
		target := m.target(time.Minute)
		target.Recipe, _ = freeze.Lookup("postgresql", nil)
		_, err := freeze.Hold(t.Context(), c, target)
		require.ErrorContains(t, err, "its image lacks what recipe postgresql needs: psql")
	})
	t.Run("the pod is gone", func(t *testing.T) {
		target := m.target(time.Minute)
		target.Pod = "nobody"
		_, err := freeze.Hold(t.Context(), c, target)
		require.ErrorContains(t, err, "nobody")
	})
}
