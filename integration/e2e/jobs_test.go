package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-backup/kubectl-backup/integration/objectstore"
	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/mover"
	"github.com/kubectl-backup/kubectl-backup/plugin/remote"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/plugin/volume/volumetest"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// inReach is an S3 server that pods reach, and a repository in it.
type inReach struct {
	*objectstore.Server
	t    testing.TB
	spec v1alpha1.BackupRemoteSpec
	repo *repository.Repository
	kube *kube.Cluster
}

func reachable(t testing.TB) *inReach {
	t.Helper()
	server, err := objectstore.Start(t.TempDir(), clusters(t).Src.HostAddress()+":0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	s := &inReach{Server: server, t: t, spec: server.Spec("prod")}
	ctx := context.WithoutCancel(t.Context())
	st, err := remote.Open(ctx, s.spec, nil)
	require.NoError(t, err)
	require.NoError(t, repository.Initialize(ctx, st, password))
	s.repo, err = repository.Open(ctx, st, password, repository.OpenOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { s.repo.Close(ctx) })
	s.kube = clusterOf(t, restConfig(t, "src"))
	return s
}

// document is the remote as a document named main.
func (s *inReach) document() string {
	raw, err := yaml.Marshal(map[string]any{"apiVersion": v1alpha1.APIVersion, "kind": "BackupRemote", "metadata": map[string]any{"name": "main"}, "spec": s.spec})
	require.NoError(s.t, err)
	return string(raw)
}

// keyOf is what the run gives to its movers instead of the password.
func keyOf(t testing.TB, r *repository.Repository) json.RawMessage {
	t.Helper()
	key, err := r.Key(t.Context())
	require.NoError(t, err)
	require.NotNil(t, key)
	return key
}

// request is a Job that captures a claim.
func (s *inReach) request(ns, claim string) mover.JobRequest {
	portable, err := remote.MakePortable(s.spec, nil, mover.TaskFolder)
	require.NoError(s.t, err)
	return mover.JobRequest{
		Namespace: ns, Claim: claim, Run: "test", Image: moverImage,
		Task: mover.Task{
			Direction: mover.Capture, Remote: portable.Spec, Environment: portable.Environment, Key: keyOf(s.t, s.repo),
			Volume: v1alpha1.VolumeLine{Ref: v1alpha1.Ref{Version: "v1", Kind: "PersistentVolumeClaim", Namespace: ns, Name: claim}},
		},
	}
}

// nothingLeft checks that nothing temporary is in a namespace.
func nothingLeft(t testing.TB, ns string) {
	t.Helper()
	require.Empty(t, temporary(t, ns), "left behind")
}

func temporary(t testing.TB, ns string) string {
	t.Helper()
	return kubectl(t, "src", "-n", ns, "get", "jobs,pods,secrets,pvc", "-l", kube.LabelTemporary, "-o", "name")
}

// aClaim is a claim that a running pod holds; it returns its folder on the node.
func aClaim(t testing.TB, ns, name string) (files string) {
	t.Helper()
	apply(t, "src", claim(ns, name, "fast")+podSpec{name: "holder", image: noTools, claim: name}.yaml(ns))
	ready(t, "src", ns, "pod/holder")
	return folder(t, "src", ns, name)
}

// TestJobsCarryTrees takes files of every kind from a claim, by a Job, into the
// repository and from there, by a Job, into another claim. The Jobs have no
// more rights than they say.
func TestJobsCarryTrees(t *testing.T) {
	s := reachable(t)
	ns := namespace(t, "jobs")
	from := aClaim(t, ns, "from")
	for i, tree := range volumetest.Trees {
		dir := filepath.Join(from, fmt.Sprintf("%02d", i))
		require.NoError(t, os.Mkdir(dir, 0o755))
		tree.Build(t, dir)
	}
	captured, err := mover.RunJob(t.Context(), s.kube, s.request(ns, "from"))
	require.NoError(t, err)
	require.Empty(t, captured.Issues)
	require.Empty(t, captured.Warnings)
	require.Equal(t, 1, captured.Attempts)
	require.NotEmpty(t, captured.Node)
	nothingLeft(t, ns)

	apply(t, "src", claim(ns, "to", "fast"))
	back := s.request(ns, "to")
	back.Task.Direction, back.Task.Part = mover.Restore, captured.Part
	back.Task.Key, back.Task.Password = nil, password // as where a repository has no key
	restored, err := mover.RunJob(t.Context(), s.kube, back)
	require.NoError(t, err)
	same(t, described(t, from), described(t, folder(t, "src", ns, "to")), strings.Join(restored.Issues, "\n"))
	t.Logf("issues of the restore: %q", restored.Issues)
	nothingLeft(t, ns)
}

// jobPod waits until a Job of ours in a namespace has a pod that runs, and
// returns its name and process.
func jobPod(t testing.TB, ns string) (name string, pid int) {
	t.Helper()
	await(t, "a mover's pod runs", func() (bool, error) {
		names := strings.Fields(kubectl(t, "src", "-n", ns, "get", "pods", "-l", "job-name", "--field-selector=status.phase=Running", "-o", "jsonpath={.items[*].metadata.name}"))
		name = strings.Join(names, "")
		return len(names) == 1, nil
	})
	return name, sending(t, ns, name, "mover", "task")
}

// held starts a Job whose requests to the store wait, and returns its pod, once
// it runs, and what lets it go on and waits for its good end.
func (s *inReach) held(r mover.JobRequest) (pod string, pid int, letGo func()) {
	s.t.Helper()
	looked := make(chan struct{})
	s.Break(func(*http.Request) *objectstore.Failure { <-looked; return nil })
	ended := make(chan error, 1)
	go func() {
		_, err := mover.RunJob(s.t.Context(), s.kube, r)
		ended <- err
	}()
	pod, pid = jobPod(s.t, r.Namespace)
	return pod, pid, func() {
		s.t.Helper()
		close(looked)
		require.NoError(s.t, <-ended)
	}
}

// seenOf is what anybody may see of a mover while it runs: objects of these
// resources, its log, and what there is of its process.
func seenOf(t testing.TB, ns, pod string, pid int, resources string) map[string]string {
	t.Helper()
	seen := map[string]string{
		"objects":   kubectl(t, "src", "get", resources, "-A", "-o", "yaml", "--show-managed-fields"),
		"pod's log": kubectl(t, "src", "-n", ns, "logs", pod),
	}
	for _, name := range []string{"cmdline", "environ", "mountinfo"} {
		raw, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), name))
		require.NoError(t, err)
		seen[name] = string(raw)
	}
	return seen
}

// nowhere checks that none of some secrets is in what was seen, in events or in
// the cluster's logs.
func nowhere(t testing.TB, ns string, seen map[string]string, secrets ...string) {
	t.Helper()
	seen["events"] = kubectl(t, "src", "get", "events", "-A", "-o", "yaml")
	require.NoError(t, filepath.WalkDir(clusters(t).Src.Logs(), func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		seen[path] = string(raw)
		return err
	}))
	require.Contains(t, seen[clusters(t).Src.AuditLog()], ns, "the logs are those of this test")
	for where, text := range seen {
		for _, secret := range secrets {
			require.NotContains(t, text, secret, where)
			require.NotContains(t, text, base64.StdEncoding.EncodeToString([]byte(secret)), where)
		}
	}
}

// mayNot checks that an account is not allowed any of some things.
func mayNot(t testing.TB, as string, things ...[]string) {
	t.Helper()
	for _, may := range things {
		out, _ := tryKubectl(t, "src", "", append([]string{"auth", "can-i", as}, may...)...)
		require.Equal(t, "no", strings.TrimSpace(out), "%v", may)
	}
}

// lostByKill is what may have to be sent again after each kill. Ten of them cost
// a volume of 2 GiB less than half of itself.
const lostByKill = 100 << 20

// TestJobKilled kills movers at moments that nobody chose, in each way in which
// they are killed; the run completes, and what it sends in total is not much
// more than once.
func TestJobKilled(t *testing.T) {
	s := reachable(t)
	ns := namespace(t, "killed")
	from := aClaim(t, ns, "from")
	size, times := int64(rounds(512, 2048))<<20, rounds(4, 10)
	for i := range 8 {
		fillRandom(t, filepath.Join(from, fmt.Sprint(i)), size/8)
	}
	r := s.request(ns, "from")
	r.Mover.Retries = new(int)
	*r.Mover.Retries = times + 2
	type end struct {
		result mover.Result
		err    error
	}
	ended := make(chan end, 1)
	go func() {
		result, err := mover.RunJob(t.Context(), s.kube, r)
		ended <- end{result, err}
	}()
	ways := []func(pod string, pid int) error{
		func(pod string, _ int) error {
			_, err := tryKubectl(t, "src", "", "-n", ns, "delete", "pod", pod, "--wait=false")
			return err
		},
		func(_ string, pid int) error { p, err := os.FindProcess(pid); require.NoError(t, err); return p.Kill() },
		func(pod string, _ int) error {
			_, err := tryKubectl(t, "src", "", "-n", ns, "delete", "pod", pod, "--grace-period=0", "--force", "--wait=false")
			return err
		},
		func(pod string, _ int) error {
			eviction := fmt.Sprintf(`{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":%q,"namespace":%q}}`, pod, ns)
			_, err := tryKubectl(t, "src", eviction, "create", "--raw", fmt.Sprintf("/api/v1/namespaces/%s/pods/%s/eviction", ns, pod), "-f", "-")
			return err
		},
	}
	for n := range times {
		sent, some := s.Counts().BytesIn, mathrand.Int64N(size/int64(times)*4/5)
		pod, pid := jobPod(t, ns)
		await(t, "some of it is sent", func() (bool, error) {
			if len(ended) > 0 {
				return false, fmt.Errorf("it ended before kill %d", n)
			}
			return s.Counts().BytesIn >= sent+some, nil
		})
		require.NoError(t, ways[n%len(ways)](pod, pid), "kill %d", n)
		await(t, "the pod is gone", func() (bool, error) {
			_, err := tryKubectl(t, "src", "", "-n", ns, "get", "pod", pod)
			return err != nil, nil
		})
	}
	e := <-ended
	require.NoError(t, e.err)
	require.Equal(t, times+1, e.result.Attempts)
	require.EqualValues(t, size, e.result.Bytes)
	sent := s.Counts().BytesIn
	t.Logf("%d kills of the movers of %d MiB, %.2f times the volume was sent", times, size>>20, float64(sent)/float64(size))
	require.Less(t, sent, size+int64(times)*lostByKill)
	nothingLeft(t, ns)

	var part repository.VolumePart
	require.NoError(t, json.Unmarshal(e.result.Part, &part))
	session, err := s.repo.NewSession(t.Context())
	require.NoError(t, err)
	defer session.Abort(context.WithoutCancel(t.Context()))
	require.NoError(t, session.AddVolume(t.Context(), r.Task.Volume, part))
	to := t.TempDir()
	_, err = s.repo.RestoreFolder(t.Context(), part, to, repository.RestoreOptions{})
	require.NoError(t, err)
	same(t, described(t, from), described(t, to), "")
}

// fault runs a Job that must fail, within a time, for a reason of a class.
func (s *inReach) fault(r mover.JobRequest, within time.Duration) (mover.Fault, string) {
	s.t.Helper()
	started := time.Now()
	_, err := mover.RunJob(s.t.Context(), s.kube, r)
	require.Error(s.t, err)
	require.Less(s.t, time.Since(started), within, "%s", err)
	require.NotContains(s.t, err.Error(), s.Secret())
	require.NotContains(s.t, err.Error(), password)
	nothingLeft(s.t, r.Namespace)
	return mover.FaultOf(err), err.Error()
}

// TestJobsThatCannotWork has each reason for which a Job cannot carry a volume:
// each ends in time, says which, and leaves nothing.
func TestJobsThatCannotWork(t *testing.T) {
	s := reachable(t)
	ns := namespace(t, "cannot")
	aClaim(t, ns, "from")
	other := keyOf(t, reachable(t).repo)
	for name, x := range map[string]struct {
		change func(r *mover.JobRequest)
		fault  mover.Fault
		says   string
	}{
		"no such remote here": {func(r *mover.JobRequest) {
			r.Task.Remote.Config["store"]["endpoint"] = "http://127.0.0.1:9"
		}, mover.Unreachable, ""},
		"credentials that are refused": {func(r *mover.JobRequest) {
			r.Task.Remote.Config["store"]["secret_access_key"] = "another-secret-key"
		}, mover.Unreachable, ""},
		"another password":         {func(r *mover.JobRequest) { r.Task.Key, r.Task.Password = nil, "not the password of it" }, mover.WrongKey, "password"},
		"another repository":       {func(r *mover.JobRequest) { r.Task.Key = other }, mover.Unreachable, "another repository"},
		"an image that is not":     {func(r *mover.JobRequest) { r.Image = "localhost/nothing-like-it:dev" }, mover.Refused, "localhost/nothing-like-it:dev"},
		"an image of another kind": {func(r *mover.JobRequest) { r.Image = noTools }, mover.Broken, ""},
		"no such account":          {func(r *mover.JobRequest) { r.Mover.ServiceAccountName = "nobody" }, mover.Refused, "nobody"},
		"no node fits": {func(r *mover.JobRequest) {
			r.Mover.NodeSelector = map[string]string{"disk": "of-glass"}
		}, mover.Refused, "didn't match"},
		"no such direction": {func(r *mover.JobRequest) { r.Task.Direction = "Sideways" }, mover.Broken, "same version"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sub := *s
			sub.t = t
			own := namespace(t, "cannot")
			apply(t, "src", claim(own, "from", "fast"))
			r := sub.request(own, "from")
			x.change(&r)
			fault, said := sub.fault(r, 4*time.Minute)
			t.Log(said)
			require.Equal(t, x.fault, fault, said)
			require.Contains(t, said, x.says)
		})
	}
}

// TestJobUnderPodSecurity: where a namespace allows no root, that is said, and
// the policy's security context is the way.
func TestJobUnderPodSecurity(t *testing.T) {
	s := reachable(t)
	ns := namespace(t, "restricted")
	from := aClaim(t, ns, "from")
	require.NoError(t, os.WriteFile(filepath.Join(from, "open"), []byte("for all"), 0o644))
	kubectl(t, "src", "label", "namespace", ns, "pod-security.kubernetes.io/enforce=baseline")
	_, err := mover.RunJob(t.Context(), s.kube, s.request(ns, "from"))
	require.NoError(t, err, "nothing that the level baseline refuses")
	kubectl(t, "src", "label", "--overwrite", "namespace", ns, "pod-security.kubernetes.io/enforce=restricted")
	fault, said := s.fault(s.request(ns, "from"), time.Minute)
	require.Equal(t, mover.Refused, fault, said)
	require.Contains(t, said, "PodSecurity")

	r := s.request(ns, "from")
	user, yes, no := int64(1234), true, false
	r.Mover.SecurityContext = &corev1.SecurityContext{
		RunAsUser: &user, RunAsNonRoot: &yes, AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	result, err := mover.RunJob(t.Context(), s.kube, r)
	require.NoError(t, err)
	require.EqualValues(t, 1, result.Files)
	nothingLeft(t, ns)
}

// TestJobSecrets looks, while a mover runs and after it, at every place where
// the remote's credentials could be seen, and at what the mover may do.
func TestJobSecrets(t *testing.T) {
	s := reachable(t)
	ns := namespace(t, "secrets")
	from := aClaim(t, ns, "from")
	fillRandom(t, filepath.Join(from, "file"), 1<<20)
	apply(t, "src", fmt.Sprintf("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: carrier, namespace: %s}\n", ns))
	r := s.request(ns, "from")
	r.Mover.ServiceAccountName = "carrier"

	pod, pid, letGo := s.held(r)
	seen := seenOf(t, ns, pod, pid, "jobs,pods,events,configmaps,serviceaccounts,persistentvolumeclaims,persistentvolumes,nodes")
	proc := filepath.Join("/proc", fmt.Sprint(pid))
	// The only place: a file that only root reads, in memory.
	task, err := os.ReadFile(filepath.Join(proc, "root", mover.TaskFile))
	require.NoError(t, err)
	require.Contains(t, string(task), s.Secret())
	require.NotContains(t, string(task), password, "the mover has the key of the repository")
	var key struct {
		Contents struct{ MasterKey, Secret string }
	}
	require.NoError(t, json.Unmarshal(r.Task.Key, &key))
	require.Contains(t, string(task), key.Contents.MasterKey)
	info, err := os.Stat(filepath.Join(proc, "root", mover.TaskFile))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o400), info.Mode().Perm())
	require.Regexp(t, mover.TaskFolder+` .* tmpfs `, seen["mountinfo"])
	_, err = os.Stat(filepath.Join(proc, "root", "var/run/secrets"))
	require.ErrorIs(t, err, os.ErrNotExist, "a token is mounted")

	status, err := os.ReadFile(filepath.Join(proc, "status"))
	require.NoError(t, err)
	for _, set := range []string{"CapEff", "CapPrm", "CapBnd"} {
		require.Contains(t, string(status), set+":\t0000000000000002\n", "it may read files of every owner, and nothing else")
	}
	require.Contains(t, string(status), "NoNewPrivs:\t1\n")
	require.Contains(t, string(status), "Seccomp:\t2\n")

	as := "--as=system:serviceaccount:" + ns + ":carrier"
	mayNot(t, as, []string{"list", "secrets", "-n", ns}, []string{"get", "secrets", "-n", ns}, []string{"list", "pods", "-n", "kube-system"},
		[]string{"list", "namespaces"}, []string{"list", "secrets", "-A"})

	letGo()
	nowhere(t, ns, seen, s.Secret(), password, key.Contents.MasterKey, key.Contents.Secret)
	nothingLeft(t, ns)
}

// copied restores the claims of a backup into another namespace of src.
func copied(t testing.TB, f, id, ns string, more ...string) (v1alpha1.Document, string) {
	t.Helper()
	to := ns + "-copy"
	dropNamespace(t, "src", to)
	d, r := document(t, append([]string{"restore", id, "-f", f, "--map-namespace", ns + "=" + to, "--filter", `ref.kind == "PersistentVolumeClaim"`}, more...)...)
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, d.Volumes)
	require.NotContains(t, r.stdout+r.stderr, "secret_access_key")
	nothingLeft(t, to)
	return d, to
}

// TestRestoreByJobs fills new claims by Jobs, also when one of them is killed.
func TestRestoreByJobs(t *testing.T) {
	s := reachable(t)
	ns := namespace(t, "back")
	from := aClaim(t, ns, "from")
	for i := range 8 {
		fillRandom(t, filepath.Join(from, fmt.Sprint(i)), 32<<20)
	}
	f := spec(t, everything(ns), s.document())
	run, r := document(t, "run", "-f", f)
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, run.Volumes)
	require.Equal(t, "Job", volumeOf(t, run, "from").Method)

	killed := make(chan int, 1)
	go func() {
		defer close(killed)
		_, pid := jobPod(t, ns+"-copy")
		if p, err := os.FindProcess(pid); err == nil && p.Kill() == nil {
			killed <- pid
		}
	}()
	d, to := copied(t, f, run.Backup, ns)
	line := volumeOf(t, d, "from")
	require.Equal(t, "Job", line.Method)
	require.Equal(t, v1alpha1.OutcomeRestored, line.Outcome, line.Reason)
	if _, one := <-killed; one {
		require.Equal(t, 2, line.Attempts)
	}
	same(t, described(t, from), described(t, folder(t, "src", to, "from")), "")
}

// TestRestoreStreamsWhereJobsCannot: the remote is at this machine's own
// address, where nothing in the cluster is. The bytes come as a stream.
func TestRestoreStreamsWhereJobsCannot(t *testing.T) {
	s := reachable(t)
	server, err := objectstore.Start(t.TempDir(), "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	s.spec = server.Spec("prod")
	ns := namespace(t, "streamed")
	from := aClaim(t, ns, "from")
	fillRandom(t, filepath.Join(from, "file"), 1<<20)
	f := spec(t, everything(ns), s.document())
	require.Equal(t, 0, backup(t, "init", "-f", f).code)
	run, r := document(t, "run", "-f", f)
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, run.Volumes)
	d, to := copied(t, f, run.Backup, ns)
	line := volumeOf(t, d, "from")
	require.Equal(t, "HelperPod", line.Method)
	require.Contains(t, line.Reason, "as a stream")
	require.Contains(t, line.Reason, "cannot use the remote")
	same(t, described(t, from), described(t, folder(t, "src", to, "from")), "")
}

// deviceClaim is a claim for a raw block volume, and a pod that has it as
// /dev/disk.
func deviceClaim(t testing.TB, ns, name string, mib int) {
	t.Helper()
	apply(t, "src", fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %[2]s, namespace: %[1]s}
spec: {accessModes: [ReadWriteOnce], volumeMode: Block, storageClassName: snap, resources: {requests: {storage: %[5]dMi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: %[2]s, namespace: %[1]s}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: %[3]s, command: [sh, -c, %[4]q], volumeDevices: [{name: disk, devicePath: /dev/disk}]}
  volumes: [{name: disk, persistentVolumeClaim: {claimName: %[2]s}}]
`, ns, name, busyboxTar, sleep, mib))
	ready(t, "src", ns, "pod/"+name)
}

func deviceSum(t testing.TB, ns, pod string) string {
	t.Helper()
	return kubectl(t, "src", "-n", ns, "exec", pod, "--", "sh", "-c", "sha256sum < /dev/disk")
}

// TestJobsCarryDevices takes a raw block volume, of which a little is written,
// by a Job into the repository and back onto a volume that held other data, with
// no right on the node but its device. A Job that finds little changed sends
// little.
func TestJobsCarryDevices(t *testing.T) {
	s := reachable(t)
	ns := namespace(t, "devices")
	size, each := rounds(256, 4096), rounds(6, 32) // in MiB, at two places
	deviceClaim(t, ns, "from", size)
	write := func(pod, from string, at, mib int) {
		kubectl(t, "src", "-n", ns, "exec", pod, "--", "dd", "if="+from, "of=/dev/disk", "bs=1M", fmt.Sprintf("seek=%d", at), fmt.Sprintf("count=%d", mib), "conv=fsync")
	}
	write("from", "/dev/urandom", 3, each)
	write("from", "/dev/urandom", size-each-7, each)
	r := s.request(ns, "from")
	r.Task.Block, r.Task.Volume.VolumeMode = true, "Block"
	began := time.Now()
	first, err := mover.RunJob(t.Context(), s.kube, r)
	require.NoError(t, err)
	require.EqualValues(t, size<<20, first.Bytes)
	sent := s.Counts().BytesIn
	t.Logf("%d MiB with %d written: %.1f MiB sent in %.1f s", size, 2*each, float64(sent)/(1<<20), time.Since(began).Seconds())
	require.Less(t, sent, int64(2*each+12)<<20, "holes cost nothing")

	write("from", "/dev/urandom", size/2, 1)
	r.Task.Previous = first.Part
	began = time.Now()
	second, err := mover.RunJob(t.Context(), s.kube, r)
	require.NoError(t, err)
	added := s.Counts().BytesIn - sent
	t.Logf("1 MiB changed: %.1f MiB sent in %.1f s", float64(added)/(1<<20), time.Since(began).Seconds())
	require.Less(t, added, int64(8<<20), "what is unchanged costs nothing")

	deviceClaim(t, ns, "to", size)
	write("to", "/dev/urandom", 0, 16)
	back := s.request(ns, "to")
	back.Task.Block, back.Task.Direction, back.Task.Part = true, mover.Restore, second.Part
	_, err = mover.RunJob(t.Context(), s.kube, back)
	require.NoError(t, err)
	kubectl(t, "src", "-n", ns, "delete", "pod", "to")
	deviceClaim(t, ns, "to", size)
	require.Equal(t, deviceSum(t, ns, "from"), deviceSum(t, ns, "to"))
	nothingLeft(t, ns)
}

// TestJobLeftBehind: of a restore that is killed, the Job and its Secret are
// found and removed; those of one that runs are nobody's business.
func TestJobLeftBehind(t *testing.T) {
	s := reachable(t)
	ns := namespace(t, "behind")
	from := aClaim(t, ns, "from")
	fillRandom(t, filepath.Join(from, "file"), 64<<20)
	f := spec(t, everything(ns), s.document())
	run, r := document(t, "run", "-f", f)
	require.Equal(t, 0, r.code, r.stderr)

	to := ns + "-copy"
	dropNamespace(t, "src", to)
	release := make(chan struct{})
	s.Break(func(r *http.Request) *objectstore.Failure {
		if host, _, _ := net.SplitHostPort(r.RemoteAddr); host != clusters(t).Src.HostAddress() {
			<-release // it is a pod that asks
		}
		return nil
	})
	p := start(t, "restore", run.Backup, "-f", f, "--map-namespace", ns+"="+to, "--filter", `ref.kind == "PersistentVolumeClaim"`)
	jobPod(t, to)
	require.NotContains(t, backup(t, "cleanup").stdout, to, "it is at work")
	require.NoError(t, p.Process.Kill())
	<-p.ended
	require.Contains(t, backup(t, "cleanup", "--dry-run").stdout, "Job.batch "+to+"/")
	require.Contains(t, backup(t, "cleanup").stdout, "Job.batch "+to+"/")
	await(t, "nothing is left", func() (bool, error) {
		return temporary(t, to) == "", nil
	})
	s.Break(nil)
	close(release)
	d, _ := copied(t, f, run.Backup, ns, "--resume")
	require.Equal(t, "Job", volumeOf(t, d, "from").Method)
	same(t, described(t, from), described(t, folder(t, "src", to, "from")), "")
}
