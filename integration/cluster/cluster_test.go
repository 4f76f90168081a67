package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// One base directory of the test's own, beside whatever else runs here.
func TestClusters(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	t.Cleanup(func() {
		// Also after a failure; the test's own context is done by now.
		if err := Down(context.Background(), dir, testLog{t}); err != nil {
			t.Error(err)
		}
	})
	bystander := startBystander(t, dir)
	cs := mustUp(t, dir)

	for _, c := range []*Cluster{cs.Src, cs.Dst} {
		t.Run(c.Name, func(t *testing.T) { testNode(t, c) })
	}
	t.Run("one kubeconfig has a context for each", func(t *testing.T) {
		for _, name := range Names {
			out, err := output(ctx, filepath.Join(cs.Src.Bin(), "kubectl"), "--kubeconfig", cs.Kubeconfig(), "--context", name, "get", "storageclass", "-o", "name")
			if err != nil || !strings.Contains(string(out), storageClasses[name][0]) {
				t.Errorf("context %s: %v: %s", name, err, out)
			}
		}
	})
	t.Run("up again changes nothing", func(t *testing.T) {
		before := cs.Src.process("kube-apiserver").PID
		if after := mustUp(t, dir).Src.process("kube-apiserver").PID; after != before {
			t.Errorf("the API server was process %d and is %d", before, after)
		}
	})
	t.Run("the API server is gone and comes back", func(t *testing.T) { testServerOutage(t, cs.Src) })
	t.Run("the CSI driver misbehaves, is gone and comes back", func(t *testing.T) { testDriverOutage(t, cs.Src) })
	t.Run("up over crashed clusters", func(t *testing.T) {
		// Of one all servers are dead, their containers live on, and one
		// waits for a filesystem that is frozen; of the other only the
		// kubelet is dead.
		freezeVolume(t, cs.Src)
		for _, p := range cs.Src.state.Processes {
			if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		if err := cs.Dst.kill(ctx, "kubelet"); err != nil {
			t.Fatal(err)
		}
		old := cs.Src.state.Network
		cs = mustUp(t, dir)
		for _, c := range []*Cluster{cs.Src, cs.Dst} {
			if pods, err := c.Kubectl(ctx, "get", "pods", "-A", "-o", "name"); err != nil || pods != "" {
				t.Errorf("%s is not a fresh cluster: %v: %s", c.Name, err, pods)
			}
			runPod(t, c, "again", "localhost/busybox:dev", `"sleep", "10000"`)
		}
		if cs.Src.state.Network != old && cs.Dst.state.Network != old && strings.Contains(routes(t), fmt.Sprintf("10.%d.", old)) {
			t.Errorf("routes of the crashed cluster stayed:\n%s", routes(t))
		}
	})
	t.Run("down leaves nothing", func(t *testing.T) {
		sockets, err := filepath.Glob("/run/containerd/s/*")
		if err != nil {
			t.Fatal(err)
		}
		ours := shimSockets(t, cs)
		if len(ours) == 0 {
			t.Errorf("no shims were found among %d sockets", len(sockets))
		}
		networks := []int{cs.Src.state.Network, cs.Dst.state.Network}
		if err := Down(ctx, dir, testLog{t}); err != nil {
			t.Fatal(err)
		}
		nothingLeft(t, cs, networks, ours)
		if err := bystander.Process.Signal(syscall.Signal(0)); err != nil {
			t.Errorf("a process that was not ours has ended: %v", err)
		}
		if err := Down(ctx, dir, testLog{t}); err != nil {
			t.Errorf("down where nothing runs: %v", err)
		}
	})
}

func TestControlPlaneOnly(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	t.Cleanup(func() {
		if err := Down(context.Background(), dir, testLog{t}); err != nil {
			t.Error(err)
		}
	})
	cs, err := Up(ctx, dir, Options{Only: []string{"dst"}, NoNode: true, Log: testLog{t}})
	if err != nil {
		t.Fatal(err)
	}
	if cs.Src != nil || cs.Dst == nil {
		t.Fatalf("asked for dst alone, have src %v and dst %v", cs.Src != nil, cs.Dst != nil)
	}
	if nodes, err := cs.Dst.Kubectl(ctx, "get", "nodes", "-o", "name"); err != nil || nodes != "" {
		t.Errorf("there are nodes, or %v: %s", err, nodes)
	}
}

func TestUnusableOptions(t *testing.T) {
	for name, c := range map[string]struct {
		dir, want string
		options   Options
	}{
		"a cluster of another name":      {t.TempDir(), `no cluster is called "prod"`, Options{Only: []string{"prod"}}},
		"sockets could not be made here": {filepath.Join(t.TempDir(), strings.Repeat("d", 60)), "Unix sockets", Options{}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Up(t.Context(), c.dir, c.options); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

// testNode does with one cluster what the plugin's tests will do.
func testNode(t *testing.T, c *Cluster) {
	ctx := t.Context()
	runPod(t, c, "tools", "localhost/busybox:dev", `"sh", "-c", "echo started; sleep 10000"`)

	t.Run("exec", func(t *testing.T) {
		if out := mustKubectl(t, c, "exec", "tools", "--", "sh", "-c", "id -u; cat /etc/hostname"); out != "0\ntools\n" {
			t.Errorf("got %q", out)
		}
		if _, err := c.Kubectl(ctx, "exec", "tools", "--", "sh", "-c", "exit 7"); err == nil || !strings.Contains(err.Error(), "exit code 7") {
			t.Errorf("the exit code is lost: %v", err)
		}
	})
	t.Run("logs", func(t *testing.T) {
		if out := mustKubectl(t, c, "logs", "tools"); out != "started\n" {
			t.Errorf("got %q", out)
		}
	})
	t.Run("images without a shell, and ephemeral containers", func(t *testing.T) {
		mustApply(t, c, `{apiVersion: v1, kind: Pod, metadata: {name: bare}, spec: {
			containers: [{name: main, image: "localhost/static:dev", args: ["--dir=/data", "--bytes=20"], volumeMounts: [{name: data, mountPath: /data}]}],
			volumes: [{name: data, emptyDir: {}}]}}`)
		mustKubectl(t, c, "wait", "--for=condition=Ready", "pod/bare", "--timeout=60s")
		if _, err := c.Kubectl(ctx, "exec", "bare", "--", "sh", "-c", "true"); err == nil {
			t.Error("there is a shell")
		}
		mustKubectl(t, c, "debug", "bare", "--container=tool", "--target=main", "--image=localhost/busybox:dev", "--image-pull-policy=Never", "--", "sleep", "10000")
		waitKubectl(t, c, "the ephemeral container runs", "exec", "bare", "-c", "tool", "--", "true")
		if out := mustKubectl(t, c, "exec", "bare", "-c", "tool", "--", "cat", "/proc/1/root/data/file-2"); out != "file-2file-2file-2fi" {
			t.Errorf("the volume's file reads %q", out)
		}
	})
	t.Run("claims", func(t *testing.T) { testClaims(t, c) })
	t.Run("snapshots", func(t *testing.T) { testSnapshots(t, c) })
	t.Run("group snapshots", func(t *testing.T) { testGroupSnapshot(t, c) })
	t.Run("postgres, by exec and as a Service", func(t *testing.T) { testPostgres(t, c) })
	t.Run("requests are in the audit log", func(t *testing.T) {
		mustKubectl(t, c, "get", "configmaps", "--all-namespaces", "--chunk-size=17")
		err := WaitFor(ctx, 10*time.Second, "the list is in the audit log", func(context.Context) error {
			return findAudit(c.AuditLog(), "list", "/api/v1/configmaps?limit=17")
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func testClaims(t *testing.T, c *Cluster) {
	ctx := t.Context()
	for i, class := range storageClasses[c.Name] {
		mustApply(t, c, fmt.Sprintf(`{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: claim-%s},
			spec: {storageClassName: %s, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}`, class, class))
		if i == 1 {
			mustKubectl(t, c, "wait", "--for=jsonpath={.status.phase}=Bound", "pvc/claim-"+class, "--timeout=30s")
		} else if phase := mustKubectl(t, c, "get", "pvc", "claim-"+class, "-o", "jsonpath={.status.phase}"); phase != "Pending" {
			t.Errorf("class %s: the claim is %s before a pod uses it", class, phase)
		}
		mustApply(t, c, fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: writer-%s}, spec: {
			securityContext: {runAsUser: 1234, fsGroup: 2345},
			containers: [{name: main, image: "localhost/busybox:dev", command: [sh, -c, "echo kept > /data/file; sleep 10000"], volumeMounts: [{name: data, mountPath: /data}]}],
			volumes: [{name: data, persistentVolumeClaim: {claimName: claim-%s}}]}}`, class, class))
		mustKubectl(t, c, "wait", "--for=condition=Ready", "pod/writer-"+class, "--timeout=60s")
		volume := mustKubectl(t, c, "get", "pvc", "claim-"+class, "-o", "jsonpath={.spec.volumeName}")
		path := filepath.Join(c.Volumes(), volume)
		err := WaitFor(ctx, 10*time.Second, "the pod's file is in the volume", func(context.Context) error {
			content, err := os.ReadFile(filepath.Join(path, "file"))
			if err == nil && string(content) != "kept\n" {
				err = fmt.Errorf("it reads %q", content)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		mustKubectl(t, c, "delete", "--now", "pod/writer-"+class)
		mustKubectl(t, c, "delete", "pvc/claim-"+class)
		mustKubectl(t, c, "wait", "--for=delete", "pv/"+volume, "--timeout=30s")
		if exists(path) {
			t.Errorf("class %s: the volume was deleted, its directory was not", class)
		}
	}
	// A data source that is not honoured must never yield an empty volume.
	mustApply(t, c, fmt.Sprintf(`[{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: source},
		spec: {storageClassName: %[1]s, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}},
		{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: clone},
		spec: {storageClassName: %[1]s, dataSource: {kind: PersistentVolumeClaim, name: source}, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}]`, storageClasses[c.Name][1]))
	err := WaitFor(ctx, 30*time.Second, "the clone is refused", func(ctx context.Context) error {
		events, err := c.Kubectl(ctx, "get", "events", "--field-selector=involvedObject.name=clone,reason=ProvisioningFailed", "-o", "name")
		if err == nil && events == "" {
			err = fmt.Errorf("no event says so")
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	mustKubectl(t, c, "delete", "pvc", "source", "clone")
}

func testPostgres(t *testing.T, c *Cluster) {
	mustApply(t, c, `[{apiVersion: v1, kind: Service, metadata: {name: rows}, spec: {selector: {app: rows}, ports: [{port: 15432, targetPort: 5432}]}},
		{apiVersion: v1, kind: Pod, metadata: {name: rows, labels: {app: rows}}, spec: {containers: [{name: main, image: "localhost/postgres:dev",
			env: [{name: POSTGRES_PASSWORD, value: "it's secret"}, {name: POSTGRES_DB, value: orders}],
			readinessProbe: {exec: {command: [pg_isready, -h, 127.0.0.1]}, periodSeconds: 1}}]}}]`)
	mustKubectl(t, c, "wait", "--for=condition=Ready", "pod/rows", "--timeout=60s")
	if out := mustKubectl(t, c, "exec", "rows", "--", "psql", "-Atc", "select 1", "orders"); out != "1\n" {
		t.Errorf("got %q", out)
	}
	if out := mustKubectl(t, c, "exec", "rows", "--", "tar", "--version"); !strings.Contains(out, "GNU tar") {
		t.Errorf("tar is %q", out)
	}
	// By name, through the Service, with the password.
	waitKubectl(t, c, "the Service answers", "exec", "rows", "--", "env", "PGPASSWORD=it's secret", "psql", "-h", "rows.default.svc.cluster.local", "-p", "15432", "-Atc", "select 1", "orders")
	if out, err := c.Kubectl(t.Context(), "exec", "rows", "--", "env", "PGPASSWORD=wrong", "psql", "-h", "rows", "-p", "15432", "-Atc", "select 1", "orders"); err == nil {
		t.Errorf("a wrong password is taken: %s", out)
	}
	if out, err := c.Kubectl(t.Context(), "exec", "tools", "--", "nslookup", "-type=a", "nowhere.default.svc.cluster.local"); err == nil || !strings.Contains(out, "NXDOMAIN") {
		t.Errorf("a name that does not exist: %v: %s", err, out)
	}
}

func testServerOutage(t *testing.T, c *Cluster) {
	ctx := t.Context()
	mustKubectl(t, c, "create", "configmap", "outage")
	if err := c.StopAPIServer(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Kubectl(ctx, "get", "configmap", "outage"); err == nil {
		t.Error("it still answers")
	}
	if err := c.StartAPIServer(ctx); err != nil {
		t.Fatal(err)
	}
	mustKubectl(t, c, "get", "configmap", "outage")
	// The parts of the cluster find it again.
	waitKubectl(t, c, "exec works again", "exec", "tools", "--", "true")
	mustKubectl(t, c, "create", "namespace", "after")
	waitKubectl(t, c, "controllers work again", "get", "serviceaccount", "default", "-n", "after")
}

// nothingLeft looks for all that a cluster could leave on a machine.
func nothingLeft(t *testing.T, cs *Clusters, networks []int, sockets []string) {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		pid, err := strconv.Atoi(filepath.Base(p))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := startTime(pid); err != nil {
			continue // ended, and not collected yet by its parent
		}
		groups, _ := os.ReadFile(filepath.Join(p, "cgroup")) // it may end as we look
		line, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		if bytes.Contains(groups, []byte(cs.Src.paths.controlGroup)) || bytes.Contains(groups, []byte(cs.Dst.paths.controlGroup)) ||
			bytes.Contains(line, []byte(cs.Dir+"/src")) || bytes.Contains(line, []byte(cs.Dir+"/dst")) {
			t.Errorf("process %s stayed: %s", p, bytes.ReplaceAll(line, []byte{0}, []byte{' '}))
		}
	}
	mounts, err := readMounts()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		// Network namespaces are mounts below the base directory too.
		if strings.HasPrefix(m.point, cs.Dir) {
			t.Errorf("mount %s stayed", m.point)
		}
	}
	loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range loops {
		if b, err := os.ReadFile(l); err == nil && strings.HasPrefix(string(b), cs.Dir) {
			t.Errorf("%s stayed: %s", l, b)
		}
	}
	for _, n := range networks {
		if r := routes(t); strings.Contains(r, fmt.Sprintf("10.%d.", n)) {
			t.Errorf("routes of network %d stayed:\n%s", n, r)
		}
	}
	for _, pattern := range []string{
		filepath.Join("/sys/fs/cgroup", "*", cs.Src.paths.controlGroup), filepath.Join("/sys/fs/cgroup", "*", cs.Dst.paths.controlGroup),
		filepath.Join("/sys/fs/cgroup", cs.Src.paths.controlGroup),
		filepath.Join("/var/lib/cni/*", cs.Src.paths.network()+"*"), filepath.Join("/var/lib/cni/*", cs.Dst.paths.network()+"*"),
		filepath.Join(cs.Dir, "src"), filepath.Join(cs.Dir, "dst"), filepath.Join(cs.Dir, "kubeconfig"),
	} {
		if found, err := filepath.Glob(pattern); err != nil || len(found) > 0 {
			t.Errorf("files stayed: %v %v", found, err)
		}
	}
	for _, s := range sockets {
		if exists(s) {
			t.Errorf("socket %s stayed", s)
		}
	}
	links, err := filepath.Glob("/var/log/containers/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if target, err := os.Readlink(l); err == nil && strings.HasPrefix(target, cs.Dir) {
			t.Errorf("link %s stayed", l)
		}
	}
}

func shimSockets(t *testing.T, cs *Clusters) (sockets []string) {
	t.Helper()
	for _, c := range []*Cluster{cs.Src, cs.Dst} {
		files, err := filepath.Glob(filepath.Join(c.paths.containerd, "state", "io.containerd.runtime.v2.task", "*", "*", "address"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			sockets = append(sockets, strings.TrimPrefix(strings.TrimSpace(string(b)), "unix://"))
		}
	}
	return sockets
}

func findAudit(path, verb, uri string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for line := range bytes.Lines(b) {
		var event struct{ Level, Stage, Verb, RequestURI string }
		if err := json.Unmarshal(line, &event); err != nil {
			continue // being written
		}
		if event.Verb == verb && event.RequestURI == uri && event.Level == "Metadata" && event.Stage == "ResponseComplete" {
			return nil
		}
	}
	return fmt.Errorf("%s has no %s of %s", path, verb, uri)
}

func routes(t *testing.T) string {
	t.Helper()
	out, err := output(context.Background(), "ip", "-4", "route", "show", "table", "all")
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// startBystander is a process that has the base directory in its arguments
// and is none of the clusters'.
func startBystander(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "3600")
	cmd.Args[0] = dir
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		cmd.Wait()
	})
	return cmd
}

func mustUp(t *testing.T, dir string) *Clusters {
	t.Helper()
	cs, err := Up(t.Context(), dir, Options{Log: testLog{t}})
	if err != nil {
		t.Fatal(err)
	}
	return cs
}

func runPod(t *testing.T, c *Cluster, name, image, command string) {
	t.Helper()
	mustApply(t, c, fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: %s}, spec: {containers: [{name: main, image: %q, command: [%s]}]}}`, name, image, command))
	mustKubectl(t, c, "wait", "--for=condition=Ready", "pod/"+name, "--timeout=60s")
}

func mustApply(t *testing.T, c *Cluster, objects string) {
	t.Helper()
	if strings.HasPrefix(objects, "[") {
		objects = "{apiVersion: v1, kind: List, items: " + objects + "}"
	}
	// Tabs are no blanks in YAML.
	if _, err := c.KubectlInput(t.Context(), strings.ReplaceAll(objects, "\t", " "), "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}

func mustKubectl(t *testing.T, c *Cluster, args ...string) string {
	t.Helper()
	out, err := c.Kubectl(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func waitKubectl(t *testing.T, c *Cluster, what string, args ...string) {
	t.Helper()
	err := WaitFor(t.Context(), time.Minute, what, func(ctx context.Context) error {
		_, err := c.Kubectl(ctx, args...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// testLog sends the package's lines to the test's log.
type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Logf("%s", bytes.TrimSpace(b))
	return len(b), nil
}
