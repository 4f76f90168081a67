package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"

	"github.com/kubectl-backup/kubectl-backup/integration/cluster"
	"github.com/kubectl-backup/kubectl-backup/integration/csi"
	"github.com/kubectl-backup/kubectl-backup/integration/objectstore"
	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/mover"
	"github.com/kubectl-backup/kubectl-backup/plugin/snapshot"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// scatter writes MiB of noise to a device in some places, from its first byte
// on, far from each other.
func scatter(t testing.TB, ns, pod string, size, places, each int) {
	t.Helper()
	kubectl(t, "src", "-n", ns, "exec", pod, "--", "sh", "-c", fmt.Sprintf(
		"for i in $(seq 0 %d); do dd if=/dev/urandom of=/dev/disk bs=1M seek=$((i*%d)) count=%d conv=fsync 2>/dev/null || exit 1; done", places-1, size/places, each))
}

// accountsGone waits until the accounts that movers asked with are gone: they go
// with their Jobs.
func accountsGone(t testing.TB, ns string) {
	t.Helper()
	await(t, "the end of the accounts of movers", func() (bool, error) {
		return kubectl(t, "src", "-n", ns, "get", "serviceaccounts,roles,rolebindings", "-l", kube.LabelTemporary, "-o", "name") == "", nil
	})
}

// TestDeviceReadByItsBlocks has a device of which little is written: what is
// read and stored of its snapshot is bounded by that, and what comes back is
// equal.
func TestDeviceReadByItsBlocks(t *testing.T) {
	s := reachable(t)
	ns := namespace(t, "blocks")
	size, places, each := rounds(1024, 4096), 16, 4 // in MiB
	deviceClaim(t, ns, "disk", size)
	scatter(t, ns, "disk", size, places, each)
	f := spec(t, everything(ns), s.document())
	plan, r := document(t, "plan", "-f", f)
	require.Equal(t, 0, r.code, r.stderr)
	require.Contains(t, volumeOf(t, plan, "disk").Reason, "a Job reads only the blocks that hold data")

	captured := func(change string) (v1alpha1.Document, v1alpha1.VolumeLine) {
		d, r := document(t, "run", "-f", f)
		require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, d.Volumes)
		line := volumeOf(t, d, "disk")
		require.Equal(t, []string{"Job", "Snapshot"}, []string{line.Method, line.Cut}, line.Reason)
		require.Equal(t, volumeOf(t, plan, "disk").Reason, line.Reason)
		require.EqualValues(t, size<<20, line.Bytes)
		t.Logf("%d MiB with %d written, %s: %.1f MiB read, %.1f stored, in %.1f s", size, places*each, change,
			float64(line.Read)/(1<<20), float64(line.Stored)/(1<<20), line.Seconds)
		require.GreaterOrEqual(t, line.Read, int64(places*each)<<20)
		require.Less(t, line.Read, int64(places*each+places+8)<<20, "what is not written is not read")
		return d, line
	}
	_, first := captured("for the first time")
	require.Less(t, first.Stored, int64(places*each+16)<<20)
	kubectl(t, "src", "-n", ns, "exec", "disk", "--", "dd", "if=/dev/urandom", "of=/dev/disk", "bs=1M", fmt.Sprintf("seek=%d", size/2-9), "count=1", "conv=fsync")
	d, second := captured("1 MiB changed")
	require.Less(t, second.Stored, int64(8<<20), "what is unchanged costs nothing")
	noTraces(t, ns)
	accountsGone(t, ns)

	_, to := copied(t, f, d.Backup, ns)
	deviceClaim(t, to, "disk", size)
	require.Equal(t, deviceSum(t, ns, "disk"), deviceSum(t, to, "disk"))
}

// TestDeviceReadWhole: where nothing lists its blocks, plan and report say so;
// where the list fails, the report does.
func TestDeviceReadWhole(t *testing.T) {
	s := reachable(t)
	ns := namespace(t, "wholly")
	const size = 64
	deviceClaim(t, ns, "disk", size)
	scatter(t, ns, "disk", size, 2, 1)
	f := spec(t, everything(ns), s.document())
	read := func(says string) {
		t.Helper()
		d, r := document(t, "run", "-f", f)
		require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, d.Volumes)
		line := volumeOf(t, d, "disk")
		require.Equal(t, []string{"Job", "Snapshot"}, []string{line.Method, line.Cut}, line.Reason)
		require.Contains(t, line.Reason, says)
		require.GreaterOrEqual(t, line.Read, int64(size)<<20)
		noTraces(t, ns)
		accountsGone(t, ns)
	}
	turn(t, csi.Knobs{MetadataError: "the array keeps no lists"})
	read("a Job reads only the blocks that hold data, as the driver lists them; all of the device was read: service at ")
	takeAway(t, "snapshotmetadataservice", csi.Name)
	const none = "all of the device is read: driver " + csi.Name + " has no SnapshotMetadataService"
	plan, r := document(t, "plan", "-f", f)
	require.Equal(t, 0, r.code, r.stderr)
	require.Contains(t, volumeOf(t, plan, "disk").Reason, none)
	read(none)
}

// aSnapshot makes a claim from a snapshot of a device, as a cut does, and a
// request for a Job that reads it.
func (s *inReach) aSnapshot(ns string, size int) mover.JobRequest {
	s.t.Helper()
	deviceClaim(s.t, ns, "disk", size)
	scatter(s.t, ns, "disk", size, 8, 2)
	apply(s.t, "src", inNamespace(ns, fmt.Sprintf(`
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: cut, namespace: NS}
spec: {volumeSnapshotClassName: snap, source: {persistentVolumeClaimName: disk}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: from, namespace: NS}
spec:
  accessModes: [ReadWriteOnce]
  volumeMode: Block
  storageClassName: snap
  resources: {requests: {storage: %dMi}}
  dataSource: {apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: cut}
`, size)))
	kubectl(s.t, "src", "-n", ns, "wait", "--for=jsonpath={.status.readyToUse}=true", "--timeout=120s", "volumesnapshot/cut")
	r := s.request(ns, "from")
	r.Task.Block, r.Task.Volume.VolumeMode, r.Snapshot = true, "Block", "cut"
	support, err := snapshot.Discover(s.t.Context(), s.kube)
	require.NoError(s.t, err)
	var reason string
	r.Blocks, reason, err = support.Blocks(s.t.Context(), s.kube, csi.Name)
	require.NoError(s.t, err)
	require.Empty(s.t, reason)
	return r
}

// TestBlocksThatAreNotTrusted: a service that does not answer, breaks, or says
// what cannot be, costs a read of the whole, with a reason, and nothing else: what
// is stored is the same in every case.
func TestBlocksThatAreNotTrusted(t *testing.T) {
	s := reachable(t)
	ns := namespace(t, "listed")
	const size = 128
	r := s.aSnapshot(ns, size)
	alone := r
	alone.Blocks = nil
	whole, err := mover.RunJob(t.Context(), s.kube, alone)
	require.NoError(t, err)
	require.EqualValues(t, size<<20, whole.Read)
	for name, x := range map[string]struct {
		knobs csi.Knobs
		says  string // empty where only a part is read
	}{
		"as it should be":          {csi.Knobs{}, ""},
		"blocks of a fixed length": {csi.Knobs{MetadataBlock: 256 << 10}, ""},
		"cut again and again":      {csi.Knobs{MetadataRanges: 3}, ""},
		"cut, of a fixed length":   {csi.Knobs{MetadataBlock: 1 << 20, MetadataRanges: 5}, ""},
		"refused":                  {csi.Knobs{MetadataError: "the array keeps no lists"}, "the array keeps no lists"},
		"broken half way":          {csi.Knobs{MetadataEnd: size / 2 << 20}, "the array was switched off"},
		"out of order":             {csi.Knobs{MetadataWrong: csi.WrongOrder}, "list of blocks is wrong"},
		"behind the end":           {csi.Knobs{MetadataWrong: csi.WrongBeyond}, "list of blocks is wrong"},
		"of no bytes":              {csi.Knobs{MetadataWrong: csi.WrongEmpty}, "list of blocks is wrong"},
		"of no kind":               {csi.Knobs{MetadataWrong: csi.WrongType}, "list of blocks is wrong"},
		"nothing":                  {csi.Knobs{MetadataWrong: csi.WrongNone}, "where none is listed"},
	} {
		t.Run(name, func(t *testing.T) {
			turn(t, x.knobs)
			s.same(t, r, s.kube, whole, x.says)
		})
	}
	t.Run("not there", func(t *testing.T) {
		src := clusters(t).Src
		require.NoError(t, src.StopMetadataService(t.Context()))
		t.Cleanup(func() { require.NoError(t, src.StartSnapshots()) })
		s.same(t, r, s.kube, whole, "Unavailable")
	})
	t.Run("another's certificate", func(t *testing.T) {
		changed, service := r, *r.Blocks
		changed.Blocks = &service
		dst, err := os.ReadFile(filepath.Join(filepath.Dir(clusters(t).Dst.Logs()), "pki", "ca.crt"))
		require.NoError(t, err)
		service.CA = dst
		s.same(t, changed, s.kube, whole, "certificate")
	})
	t.Run("another audience", func(t *testing.T) {
		changed, service := r, *r.Blocks
		service.Audience = "somebody-else.example.org"
		changed.Blocks = &service
		s.same(t, changed, s.kube, whole, "Unauthenticated")
	})
	nothingLeft(t, ns)
	accountsGone(t, ns)
}

// same runs a Job that has to store what another one did. It reads a part only,
// or all, and says why.
func (s *inReach) same(t testing.TB, r mover.JobRequest, c *kube.Cluster, as mover.Result, says string) {
	t.Helper()
	result, err := mover.RunJob(t.Context(), c, r)
	require.NoError(t, err)
	require.JSONEq(t, string(as.Part), string(result.Part))
	require.Less(t, result.Stored, int64(64<<10), "it is stored already")
	if says == "" {
		require.Empty(t, result.Whole)
		require.Less(t, result.Read, as.Bytes/2)
		return
	}
	require.Contains(t, result.Whole, says)
	require.GreaterOrEqual(t, result.Read, as.Bytes)
	t.Log(result.Whole)
}

// TestBlocksWithFewRights: who may run Jobs and nothing that the list would
// take reads all, as ever, and is told what is missing; with a mover's account
// that may ask, the list is used.
func TestBlocksWithFewRights(t *testing.T) {
	s := reachable(t)
	ns := namespace(t, "fewrights")
	r := s.aSnapshot(ns, 64)
	alone := r
	alone.Blocks = nil
	whole, err := mover.RunJob(t.Context(), s.kube, alone)
	require.NoError(t, err)
	apply(t, "src", inNamespace(ns, `
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: tenant, namespace: NS}
rules:
- {apiGroups: ["", batch, snapshot.storage.k8s.io], resources: [jobs, pods, secrets, events, volumesnapshots], verbs: ["*"]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: tenant, namespace: NS}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: tenant}
subjects: [{kind: User, name: tenant}]
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: carrier, namespace: NS}
`))
	config := rest.CopyConfig(restConfig(t, "src"))
	config.Impersonate.UserName = "tenant"
	tenant := clusterOf(t, config)
	s.same(t, r, tenant, whole, `cannot create resource "serviceaccounts/token"`)

	kubectl(t, "src", "-n", ns, "create", "role", "tokens", "--verb=create", "--resource=serviceaccounts/token")
	kubectl(t, "src", "-n", ns, "create", "rolebinding", "tokens", "--role=tokens", "--user=tenant")
	r.Mover.ServiceAccountName = "carrier"
	await(t, "the right to make tokens", func() (bool, error) {
		out, _ := tryKubectl(t, "src", "", "--as", "tenant", "-n", ns, "auth", "can-i", "create", "serviceaccounts", "--subresource=token")
		return strings.TrimSpace(out) == "yes", nil
	})
	s.same(t, r, tenant, whole, "asked as account carrier, which would have to be allowed to get volumesnapshots")

	kubectl(t, "src", "-n", ns, "create", "role", "asker", "--verb=get", "--resource=volumesnapshots.snapshot.storage.k8s.io")
	kubectl(t, "src", "-n", ns, "create", "rolebinding", "asker", "--role=asker", "--serviceaccount="+ns+":carrier")
	s.same(t, r, tenant, whole, "")
	nothingLeft(t, ns)
	accountsGone(t, ns)
}

// TestBlocksLeftBehind: of a run that is killed, the account goes with the Job,
// which cleanup finds.
func TestBlocksLeftBehind(t *testing.T) {
	s := reachable(t)
	ns := namespace(t, "asked")
	deviceClaim(t, ns, "disk", 64)
	scatter(t, ns, "disk", 64, 2, 1)
	release := make(chan struct{})
	defer close(release)
	s.Break(func(r *http.Request) *objectstore.Failure {
		if host, _, _ := net.SplitHostPort(r.RemoteAddr); host != clusters(t).Src.HostAddress() {
			<-release // it is a pod that asks
		}
		return nil
	})
	p := start(t, "run", "-f", spec(t, everything(ns), s.document()))
	jobPod(t, ns)
	require.Len(t, strings.Fields(kubectl(t, "src", "-n", ns, "get", "serviceaccounts,roles,rolebindings", "-l", kube.LabelTemporary, "-o", "name")), 3)
	require.NoError(t, p.Process.Kill())
	<-p.ended
	r := backup(t, "cleanup", "-n", ns)
	require.Equal(t, 0, r.code, r.stderr)
	noTraces(t, ns)
	accountsGone(t, ns)
}

// TestBlocksToken looks at what a mover gets for asking: a token that is in its
// Secret only, is good for nothing but to ask, and ends with the Job.
func TestBlocksToken(t *testing.T) {
	s := reachable(t)
	ns := namespace(t, "asking")
	r := s.aSnapshot(ns, 64)
	pod, pid, letGo := s.held(r)
	raw, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), "root", mover.TaskFile))
	require.NoError(t, err)
	var task mover.Task
	require.NoError(t, json.Unmarshal(raw, &task))
	token := task.Blocks.Token
	require.NotEmpty(t, token)

	account := kubectl(t, "src", "-n", ns, "get", "serviceaccounts", "-l", kube.LabelTemporary, "-o", "jsonpath={.items[*].metadata.name}")
	as := "--as=system:serviceaccount:" + ns + ":" + account
	require.Equal(t, "yes", strings.TrimSpace(kubectl(t, "src", "auth", "can-i", as, "-n", ns, "get", "volumesnapshots")))
	mayNot(t, as, []string{"list", "volumesnapshots", "-n", ns}, []string{"get", "volumesnapshots", "-n", "default"},
		[]string{"get", "secrets", "-n", ns}, []string{"create", "pods", "-n", ns})
	config := rest.AnonymousClientConfig(restConfig(t, "src"))
	config.BearerToken = token
	client, err := rest.HTTPClientFor(config)
	require.NoError(t, err)
	answer, err := client.Get(config.Host + "/api")
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	require.Equal(t, http.StatusUnauthorized, answer.StatusCode, "the API server takes it")
	review := func() string {
		return kubectlInput(t, "src", fmt.Sprintf(`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":%q,"audiences":[%q]}}`, token, cluster.MetadataAudience),
			"create", "-f", "-", "-o", "jsonpath={.status.authenticated}")
	}
	require.Equal(t, "true", review())

	seen := seenOf(t, ns, pod, pid, "jobs,pods,events,configmaps,serviceaccounts,roles,rolebindings,persistentvolumeclaims")
	letGo()
	nothingLeft(t, ns)
	accountsGone(t, ns)
	await(t, "the end of the token with its account", func() (bool, error) { return review() == "", nil }) // the server remembers an answer for seconds
	nowhere(t, ns, seen, token)
}
