package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/plugin/volume/volumetest"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Images by what they have to read files with.
const (
	gnuTar     = "localhost/postgres:dev"
	busyboxTar = "localhost/busybox:dev"
	noTools    = "localhost/static:dev"
)

// everything selects all pods and claims of a namespace.
func everything(ns string) string {
	return policy(fmt.Sprintf("  select:\n  - {name: all, kinds: [Pod, PersistentVolumeClaim], namespaces: [%s]}\n", ns))
}

// claim is a claim of its own for a pod, or one that none uses.
func claim(ns, name, class string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: %s, namespace: %s}\n"+
		"spec: {accessModes: [ReadWriteOnce], storageClassName: %s, resources: {requests: {storage: 1Gi}}}\n", name, ns, class)
}

// podSpec is a pod that shows a claim at /data; mount adds to how, and command
// is a shell command, or empty for the image's own.
type podSpec struct {
	name, image, claim, command, mount, more string
}

func (p podSpec) yaml(ns string) string {
	command := ""
	if p.command != "" {
		command = fmt.Sprintf("command: [sh, -c, %q], ", p.command)
	}
	return fmt.Sprintf("---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: %s}\nspec:\n  restartPolicy: Never\n  terminationGracePeriodSeconds: 0\n"+
		"  containers:\n  - {name: main, image: %q, %svolumeMounts: [{name: data, mountPath: /data%s}]}\n"+
		"  volumes: [{name: data, persistentVolumeClaim: {claimName: %s}}]\n%s", p.name, ns, p.image, command, p.mount, p.claim, p.more)
}

const sleep = "exec sleep 100000"

// folder is where the node keeps the files of a bound claim.
func folder(t testing.TB, context, ns, claim string) string {
	t.Helper()
	name := kubectl(t, context, "-n", ns, "get", "pvc", claim, "-o", "jsonpath={.spec.volumeName}")
	require.NotEmpty(t, name, "claim %s is not bound", claim)
	cs := clusters(t)
	if context == "dst" {
		return filepath.Join(cs.Dst.Volumes(), name)
	}
	return filepath.Join(cs.Src.Volumes(), name)
}

// bound waits until claims have volumes.
func bound(t testing.TB, ns string, claims ...string) {
	t.Helper()
	for _, c := range claims {
		kubectl(t, "src", "-n", ns, "wait", "--for=jsonpath={.status.phase}=Bound", "--timeout=180s", "pvc/"+c)
	}
}

// without is backup where the environment names no image for pods of ours.
func without(t testing.TB, args ...string) result {
	t.Helper()
	cmd := command(t, append([]string{"--context", "src"}, args...)...)
	cmd.Env = append(cmd.Env, "KUBECTL_BACKUP_IMAGE=")
	return finish(t, cmd)
}

// restoredClaims restores the claims of a backup into dst, and no pods, so
// that nobody else writes to them.
func restoredClaims(t testing.TB, f, id, ns string) v1alpha1.Document {
	t.Helper()
	d, r := document(t, "restore", id, "-f", f, "--to-context", "dst", "--map-storage-class", "fast=premium", "--filter", `ref.kind == "PersistentVolumeClaim"`)
	require.Contains(t, []int{0, 3}, r.code, "%s\n%+v", r.stderr, d.Volumes)
	for _, v := range d.Volumes {
		require.Contains(t, []v1alpha1.Outcome{v1alpha1.OutcomeRestored, v1alpha1.OutcomeSkipped}, v.Outcome, "%+v", v)
	}
	return d
}

// temporaryPods lists what is left of ours in a namespace.
func temporaryPods(t testing.TB, ns string) string {
	t.Helper()
	return kubectl(t, "src", "-n", ns, "get", "pods", "-l", "kubectl-backup.io/temporary", "-o", "name")
}

// TestWayToEachVolume has each way to a volume's bytes, and each reason to
// take another one.
func TestWayToEachVolume(t *testing.T) {
	ns := namespace(t, "ways")
	fill := "echo one >/data/one; mkdir -p /data/part; echo two >/data/part/two; "
	yaml := claim(ns, "waiting", "no-such-class")
	for _, c := range []string{"gnu", "busy", "bare", "alone", "part", "shared", "nothing", "nested"} {
		yaml += claim(ns, c, "fast")
	}
	for _, p := range []podSpec{
		{name: "gnu", image: gnuTar, claim: "gnu", command: fill + sleep},
		{name: "busy", image: busyboxTar, claim: "busy", command: fill + sleep},
		{name: "bare", image: noTools, claim: "bare"},
		{name: "alone", image: busyboxTar, claim: "alone", command: fill + "exit 0"}, // completes
		{name: "part-first", image: busyboxTar, claim: "part", command: fill + "exit 0"},
		{name: "shared-busy", image: busyboxTar, claim: "shared", command: fill + sleep},
		{name: "shared-gnu", image: gnuTar, claim: "shared", command: sleep},
		{name: "nothing", image: gnuTar, claim: "nothing", command: sleep},
		{name: "nested", image: gnuTar, claim: "nested", command: fill + "echo other >/data/part/other; " + sleep,
			mount: "}, {name: inside, mountPath: /data/part", more: "  - {name: inside, emptyDir: {}}\n"},
	} {
		y := p.yaml(ns)
		if p.more != "" {
			y = strings.Replace(y, "}}]\n", "}}\n", 1) // the list of volumes goes on
			y = strings.Replace(y, "volumes: [{", "volumes:\n  - {", 1)
		}
		yaml += y
	}
	apply(t, "src", yaml)
	kubectl(t, "src", "-n", ns, "wait", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=180s", "pod/alone", "pod/part-first")
	apply(t, "src", podSpec{name: "part", image: gnuTar, claim: "part", command: sleep, mount: ", subPath: part"}.yaml(ns))
	ready(t, "src", ns, "pod/gnu", "pod/busy", "pod/bare", "pod/part", "pod/shared-busy", "pod/shared-gnu", "pod/nothing", "pod/nested")
	require.NoError(t, os.WriteFile(filepath.Join(folder(t, "src", ns, "bare"), "one"), []byte("one"), 0o644))

	remote, _ := local(t)
	f := spec(t, everything(ns), remote)
	for name, x := range map[string]struct {
		image  bool
		ways   map[string]string // by claim; a sentence instead of a method is why it failed
		counts map[string]int64
	}{
		"with a mover image": {true,
			map[string]string{
				"gnu": "Exec", "busy": "EphemeralContainer", "bare": "EphemeralContainer", "alone": "HelperPod",
				"part": "HelperPod", "nothing": "Exec", "nested": "EphemeralContainer",
			},
			map[string]int64{"gnu": 3, "busy": 3, "bare": 1, "alone": 3, "part": 3, "shared": 3, "nothing": 0, "nested": 2}},
		"without one": {false,
			map[string]string{
				"gnu": "Exec", "busy": "Exec", "bare": "has no shell", "alone": "no image for pods of ours is known", "part": "no image for pods of ours is known", "nothing": "Exec", "nested": "another volume",
			},
			map[string]int64{"gnu": 3, "busy": 3, "shared": 3, "nothing": 0}},
	} {
		var d v1alpha1.Document
		var code int
		if x.image {
			var r result
			d, r = document(t, "run", "-f", f)
			code = r.code
			require.Equal(t, 0, code, "%s: %s\n%+v", name, r.stderr, d.Volumes)
		} else {
			r := without(t, "run", "-f", f, "-o", "json")
			d = decode(t, r)
			require.Equal(t, 3, r.code, "%s: %s", name, r.stderr)
		}
		for c, way := range x.ways {
			line := volumeOf(t, d, c)
			if strings.Contains(way, " ") {
				require.Equal(t, v1alpha1.OutcomeFailed, line.Outcome, "%s: %s: %+v", name, c, line)
				require.Contains(t, line.Reason, way, "%s: %s", name, c)
				require.Empty(t, line.Snapshot, "%s: %s", name, c)
				continue
			}
			require.Equal(t, v1alpha1.OutcomeSaved, line.Outcome, "%s: %s: %+v", name, c, line)
			require.Equal(t, way, line.Method, "%s: %s: %+v", name, c, line)
		}
		for c, files := range x.counts {
			require.Equal(t, files, volumeOf(t, d, c).Files, "%s: files of %s", name, c)
		}
		require.Equal(t, v1alpha1.OutcomeSkipped, volumeOf(t, d, "waiting").Outcome, name)
		require.Contains(t, volumeOf(t, d, "waiting").Reason, "Pending", name)
		require.Contains(t, strings.Join(volumeOf(t, d, "nothing").Warnings, " "), "empty", name)
		if !x.image {
			losses := strings.Join(volumeOf(t, d, "busy").Issues, " ")
			require.Contains(t, losses, "extended attributes", "what busybox's tar loses is named")
			require.Contains(t, losses, "whole seconds")
		}
	}
	require.Empty(t, temporaryPods(t, ns))
}

var privileged = regexp.MustCompile(` trusted\.\S+=[0-9a-f]*`)

// described is a tree as volumetest tells it, without the attributes that only
// a privileged reader sees.
func described(t testing.TB, root string) map[string]string {
	t.Helper()
	m, err := volumetest.Describe(root)
	require.NoError(t, err)
	for path, line := range m {
		m[path] = privileged.ReplaceAllString(line, "")
	}
	return m
}

// TestTreesComeBack takes files of every kind from a claim in one cluster to a
// claim in another and compares them on the nodes, attribute by attribute.
func TestTreesComeBack(t *testing.T) {
	ns := namespace(t, "trees")
	apply(t, "src", claim(ns, "trees", "fast")+podSpec{name: "holder", image: noTools, claim: "trees"}.yaml(ns))
	ready(t, "src", ns, "pod/holder")
	from := folder(t, "src", ns, "trees")
	for i, tree := range volumetest.Trees {
		dir := filepath.Join(from, fmt.Sprintf("%02d", i))
		require.NoError(t, os.Mkdir(dir, 0o755))
		tree.Build(t, dir)
	}
	crowd := filepath.Join(from, "crowd")
	require.NoError(t, os.Mkdir(crowd, 0o755))
	for i := range 20000 {
		require.NoError(t, os.WriteFile(filepath.Join(crowd, fmt.Sprint(i)), []byte(fmt.Sprint(i)), 0o600))
	}

	remote, _ := local(t)
	f := spec(t, everything(ns), remote)
	run, r := document(t, "run", "-f", f)
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, run.Volumes)
	require.Equal(t, "EphemeralContainer", volumeOf(t, run, "trees").Method)
	restored := restoredClaims(t, f, run.Backup, ns)
	t.Logf("read in %.1f s, written in %.1f s", volumeOf(t, run, "trees").Seconds, volumeOf(t, restored, "trees").Seconds)
	same(t, described(t, from), described(t, folder(t, "dst", ns, "trees")), strings.Join(volumeOf(t, restored, "trees").Issues, "\n"))
}

// same compares two trees. What differs must be named in the report.
func same(t testing.TB, was, is map[string]string, report string) {
	t.Helper()
	for path, line := range was {
		if is[path] != line {
			require.Contains(t, report, path, "%q differs and the report does not say so:\n  was %s\n  is  %s", path, line, is[path])
		}
	}
	for path := range is {
		if _, ok := was[path]; !ok {
			require.Fail(t, "is new", "%q", path)
		}
	}
}

// TestTarKeepsWhatItCan is the same through GNU tar in the application's image.
func TestTarKeepsWhatItCan(t *testing.T) {
	ns := namespace(t, "tar")
	apply(t, "src", claim(ns, "trees", "fast")+podSpec{name: "holder", image: gnuTar, claim: "trees", command: sleep}.yaml(ns))
	ready(t, "src", ns, "pod/holder")
	from := folder(t, "src", ns, "trees")
	for _, tree := range volumetest.Trees {
		dir := filepath.Join(from, strings.ReplaceAll(tree.Name, " ", "-"))
		require.NoError(t, os.Mkdir(dir, 0o755))
		tree.Build(t, dir)
	}
	remote, _ := local(t)
	f := spec(t, everything(ns), remote)
	run, r := document(t, "run", "-f", f)
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, run.Volumes)
	line := volumeOf(t, run, "trees")
	require.Equal(t, "Exec", line.Method)
	restoredClaims(t, f, run.Backup, ns)
	issues := strings.Join(line.Issues, "\n")
	require.Contains(t, issues, "sockets are not carried", "tar's limits are named")
	was, is := described(t, from), described(t, folder(t, "dst", ns, "trees"))
	for path, l := range was {
		if strings.Contains(path, "socket") || strings.Contains(path, "links/pipe") || strings.HasPrefix(path, "holes/") && is[path] != "" || strings.Contains(l, "system.posix_acl") {
			continue // what was said
		}
		require.Equal(t, l, is[path], "%q", path)
	}
}

// TestFilesThatMayNotBeRead has a container without rights to some files: it
// is either another way that reads them, or the report says which.
func TestFilesThatMayNotBeRead(t *testing.T) {
	ns := namespace(t, "rights")
	apply(t, "src", claim(ns, "books", "fast")+podSpec{name: "clerk", image: gnuTar, claim: "books", command: sleep,
		more: "  securityContext: {runAsUser: 1001, runAsGroup: 1001, runAsNonRoot: true}\n"}.yaml(ns))
	ready(t, "src", ns, "pod/clerk")
	at := folder(t, "src", ns, "books")
	require.NoError(t, os.WriteFile(filepath.Join(at, "open"), []byte("for all"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(at, "closed: café\n"), []byte("for root alone"), 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(at, "vault"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(at, "vault", "gold"), []byte("also"), 0o600))
	remote, _ := local(t)
	f := spec(t, everything(ns), remote)

	r := without(t, "run", "-f", f, "-o", "json")
	require.Equal(t, 3, r.code, r.stderr)
	partial := decode(t, r)
	line := volumeOf(t, partial, "books")
	require.Equal(t, v1alpha1.OutcomeIncomplete, line.Outcome, "%+v", line)
	issues := strings.Join(line.Issues, "\n")
	require.Contains(t, issues, `"closed: café\n"`)
	require.Contains(t, issues, "vault")
	require.Contains(t, issues, "Permission denied")
	planned, _ := document(t, "restore", partial.Backup, "-f", f, "--to-context", "dst", "--map-storage-class", "fast=premium", "--dry-run=server")
	require.Contains(t, strings.Join(volumeOf(t, planned, "books").Warnings, "\n"), "the backup does not hold all of it: 2 path(s) could not be read")

	d, r := document(t, "run", "-f", f)
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, d.Volumes)
	require.Equal(t, "EphemeralContainer", volumeOf(t, d, "books").Method)
	restoredClaims(t, f, d.Backup, ns)
	same(t, described(t, at), described(t, folder(t, "dst", ns, "books")), "")
}

// TestFilesThatChange reads files that are written to, cut short and removed
// meanwhile, in both ways.
func TestFilesThatChange(t *testing.T) {
	ns := namespace(t, "moving")
	restless := `head -c 30000000 /dev/urandom >/data/grows; cp /data/grows /data/shrinks
(while :; do echo more >>/data/grows; done) &
(n=30; while :; do truncate -s ${n}000000 /data/shrinks; n=$((n-1)); [ $n -gt 0 ] || n=30; done) &
(i=0; while :; do i=$((i+1)); echo $i >/data/short-$i; rm -f /data/short-$((i-50)); done) &
touch /tmp/started; ` + sleep
	apply(t, "src", claim(ns, "gnu", "fast")+podSpec{name: "gnu", image: gnuTar, claim: "gnu", command: restless}.yaml(ns)+
		claim(ns, "busy", "fast")+podSpec{name: "busy", image: busyboxTar, claim: "busy", command: restless}.yaml(ns))
	ready(t, "src", ns, "pod/gnu", "pod/busy")
	for _, p := range []string{"gnu", "busy"} {
		await(t, "files of "+p, func() (bool, error) {
			_, err := tryKubectl(t, "src", "", "-n", ns, "exec", p, "--", "test", "-e", "/tmp/started")
			return err == nil, nil
		})
	}
	remote, _ := local(t)
	f := spec(t, everything(ns), remote)
	d, r := document(t, "run", "-f", f)
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, d.Volumes)
	for _, c := range []string{"gnu", "busy"} {
		line := volumeOf(t, d, c)
		require.Equal(t, v1alpha1.OutcomeSaved, line.Outcome, "%+v", line)
		require.Regexp(t, `(?m)^grows: changed while read`, strings.Join(line.Issues, "\n"), "%s by %s", c, line.Method)
	}
	verified, r := document(t, "verify", d.Backup, "-f", f)
	require.Equal(t, 0, r.code, r.stderr)
	require.Equal(t, v1alpha1.ResultComplete, verified.Result)
}

// killer ends tar whenever it is seen at work, and counts.
const killer = `head -c 50000000 /dev/urandom >/data/file; touch /tmp/started
while :; do for p in /proc/[0-9]*; do
  read -r comm <$p/comm && [ "$comm" = tar ] && grep -qa totals $p/cmdline && [ $(wc -l </tmp/started) -lt LIMIT ] &&
  kill -9 ${p#/proc/} && echo killed >>/tmp/started
done 2>/dev/null; done`

// TestSenderKilled has the sender die in mid-stream.
func TestSenderKilled(t *testing.T) {
	ns := namespace(t, "sender")
	yaml := ""
	for _, p := range []podSpec{
		{name: "once", image: gnuTar, claim: "once", command: strings.ReplaceAll(killer, "LIMIT", "1")},
		{name: "always", image: gnuTar, claim: "always", command: strings.ReplaceAll(killer, "LIMIT", "1000")},
	} {
		yaml += claim(ns, p.claim, "fast") + p.yaml(ns)
	}
	apply(t, "src", yaml)
	ready(t, "src", ns, "pod/once", "pod/always")
	for _, p := range []string{"once", "always"} {
		await(t, "files of "+p, func() (bool, error) {
			_, err := tryKubectl(t, "src", "", "-n", ns, "exec", p, "--", "test", "-e", "/tmp/started")
			return err == nil, nil
		})
	}
	remote, _ := local(t)
	f := spec(t, everything(ns), remote)
	r := without(t, "run", "-f", f, "-o", "json")
	require.Equal(t, 3, r.code, r.stderr)
	d := decode(t, r)
	always := volumeOf(t, d, "always")
	require.Equal(t, v1alpha1.OutcomeFailed, always.Outcome, "%+v", always)
	require.Empty(t, always.Snapshot)
	require.Contains(t, always.Reason, "after 3 attempts")
	once := volumeOf(t, d, "once")
	require.Equal(t, v1alpha1.OutcomeSaved, once.Outcome, "%+v", once)
	require.EqualValues(t, 50_000_000, once.Bytes)
	require.NotEqual(t, "0\n", kubectl(t, "src", "-n", ns, "exec", "once", "--", "sh", "-c", "wc -l </tmp/started"), "nothing was killed")
	verified, r := document(t, "verify", d.Backup, "-f", f)
	require.Contains(t, []int{0, 3}, r.code, r.stderr)
	require.NotEqual(t, v1alpha1.ResultFailed, verified.Result)
}

// TestPodDeletedWhileRead takes the pod away in mid-stream: its claim is still
// there, and is read by another way.
func TestPodDeletedWhileRead(t *testing.T) {
	ns := namespace(t, "gone")
	apply(t, "src", claim(ns, "logs", "fast")+podSpec{name: "short-lived", image: gnuTar, claim: "logs", command: sleep}.yaml(ns))
	ready(t, "src", ns, "pod/short-lived")
	fillRandom(t, filepath.Join(folder(t, "src", ns, "logs"), "file"), 64<<20)
	remote, _ := local(t)
	f := spec(t, everything(ns), remote)
	p := start(t, "run", "-f", f, "-o", "json")
	// It must not be done before the pod is gone.
	require.NoError(t, syscall.Kill(sending(t, ns, "short-lived", "tar", "--totals"), syscall.SIGSTOP))
	kubectl(t, "src", "-n", ns, "delete", "pod", "short-lived", "--grace-period=0", "--force", "--wait=false")
	r := p.wait(t)
	d := decode(t, r)
	line := volumeOf(t, d, "logs")
	require.Equal(t, v1alpha1.OutcomeSaved, line.Outcome, "%+v", line)
	require.EqualValues(t, 64<<20, line.Bytes)
	require.Equal(t, "HelperPod", line.Method)
	require.Empty(t, temporaryPods(t, ns))
}
