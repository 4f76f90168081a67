// Package e2e runs the built program against two real clusters: src and dst.
//
// `make cluster` starts them; a test never starts or ends them itself. Each
// test works in namespaces of its own, so that tests do not meet.
package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/integration/cluster"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const (
	password   = "a password for tests alone"
	moverImage = "localhost/kubectl-backup:dev"
	// patience bounds every wait; nothing is expected to come near it.
	patience = 3 * time.Minute
)

// result is what one run of the program left.
type result struct {
	code           int
	stdout, stderr string
}

func root(t testing.TB) string {
	t.Helper()
	dir, err := cluster.RepositoryRoot()
	require.NoError(t, err)
	return dir
}

// clusterDir and program are where make puts them, unless the environment says
// otherwise.
func clusterDir(root string) string {
	return cmp.Or(os.Getenv("E2E_CLUSTER"), filepath.Join(root, ".cluster"))
}

func program(root string) string {
	return cmp.Or(os.Getenv("E2E_PROGRAM"), filepath.Join(root, "bin", "kubectl-backup"))
}

func clusters(t testing.TB) *cluster.Clusters {
	t.Helper()
	cs, err := cluster.Open(clusterDir(root(t)))
	require.NoError(t, err, "start the clusters with make cluster")
	return cs
}

// command is the built program with the environment of a test.
func command(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	t.Cleanup(cancel)
	bin := filepath.Join(root(t), "bin")
	cmd := exec.CommandContext(ctx, program(root(t)), args...)
	cmd.Env = append(os.Environ(),
		"KUBECONFIG="+clusters(t).Kubeconfig(), "KUBECTL_BACKUP_PASSWORD="+password, "KUBECTL_BACKUP_IMAGE="+moverImage,
		"PATH="+bin+":"+os.Getenv("PATH"), "HOME="+t.TempDir())
	return cmd
}

// backup runs the program to its end on cluster src.
func backup(t testing.TB, args ...string) result {
	t.Helper()
	return finish(t, command(t, append([]string{"--context", "src"}, args...)...))
}

func finish(t testing.TB, cmd *exec.Cmd) result {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	r := result{code: cmd.ProcessState.ExitCode(), stdout: out.String(), stderr: errOut.String()}
	require.NotContains(t, r.stdout+r.stderr, password, "the password was printed")
	return r
}

// document runs the program with -o json and decodes what it printed. The
// exit code in the document must be the process's.
func document(t testing.TB, args ...string) (v1alpha1.Document, result) {
	t.Helper()
	r := backup(t, append(args, "-o", "json")...)
	return documentOf(t, r), r
}

func documentOf(t testing.TB, r result) (d v1alpha1.Document) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &d), "stdout: %s\nstderr: %s", r.stdout, r.stderr)
	require.Equal(t, r.code, d.ExitCode, "exit code and document differ; stderr: %s", r.stderr)
	return d
}

// kubectl runs kubectl against one of the clusters and must succeed.
func kubectl(t testing.TB, context string, args ...string) string {
	t.Helper()
	return kubectlInput(t, context, "", args...)
}

func kubectlInput(t testing.TB, context, stdin string, args ...string) string {
	t.Helper()
	out, err := tryKubectl(t, context, stdin, args...)
	require.NoError(t, err, "kubectl %s", strings.Join(args, " "))
	return out
}

func tryKubectl(t testing.TB, context, stdin string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(filepath.Join(root(t), "bin", "kubectl"), append([]string{"--kubeconfig", clusters(t).Kubeconfig(), "--context", context}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%w: %s", err, errOut.String())
	}
	return out.String(), nil
}

// apply applies YAML to a cluster.
func apply(t testing.TB, context, yaml string) {
	t.Helper()
	kubectlInput(t, context, yaml, "apply", "--server-side", "-f", "-")
}

// namespace makes a namespace of its own for a test, in src, and removes it,
// and its namesake in dst, at the end. The name is valid as part of others.
func namespace(t testing.TB, suffix string) string {
	t.Helper()
	name := fmt.Sprintf("t%x-%s", time.Now().UnixNano()&0xffffffff, suffix)
	apply(t, "src", fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s}\n", name))
	dropNamespace(t, "src", name)
	dropNamespace(t, "dst", name)
	await(t, "service account of "+name, func() (bool, error) {
		_, err := tryKubectl(t, "src", "", "-n", name, "get", "serviceaccount", "default")
		return err == nil, nil
	})
	return name
}

// dropNamespace removes a namespace when the test ends, without waiting.
func dropNamespace(t testing.TB, context, name string) {
	t.Cleanup(func() { tryKubectl(t, context, "", "delete", "namespace", name, "--ignore-not-found", "--wait=false") })
}

// await waits until a condition holds; an error of it ends the test.
func await(t testing.TB, what string, condition func() (bool, error)) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := condition()
		require.NoError(t, err, what)
		if ok {
			return
		}
		require.True(t, time.Now().Before(deadline), "gave up waiting for %s", what)
		<-tick.C
	}
}

// ready waits for the rollout of deployments, statefulsets or pods.
func ready(t testing.TB, context, ns string, names ...string) {
	t.Helper()
	for _, n := range names {
		if strings.HasPrefix(n, "pod/") {
			kubectl(t, context, "-n", ns, "wait", "--for=condition=Ready", "--timeout=180s", n)
			continue
		}
		kubectl(t, context, "-n", ns, "rollout", "status", "--timeout=180s", n)
	}
}

// local is a repository in a folder of the test's own, initialized; it returns
// the spec of the remote named main.
func local(t testing.TB) (remoteYAML, folder string) {
	t.Helper()
	folder = filepath.Join(t.TempDir(), "repository")
	remoteYAML = fmt.Sprintf("apiVersion: kubectl-backup.io/v1alpha1\nkind: BackupRemote\nmetadata: {name: main}\nspec: {path: %q}\n", folder)
	r := backup(t, "init", "--remote", folder)
	require.Equal(t, 0, r.code, r.stderr)
	return remoteYAML, folder
}

// spec writes documents to a file of the test's own and returns its path.
func spec(t testing.TB, documents ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "spec.yaml")
	require.NoError(t, os.WriteFile(path, []byte(strings.Join(documents, "\n---\n")), 0o600))
	return path
}

// policy is a policy named p whose spec is the given YAML, indented by two.
func policy(body string) string {
	return "apiVersion: kubectl-backup.io/v1alpha1\nkind: BackupPolicy\nmetadata: {name: p}\nspec:\n  remote: {name: main}\n" + body
}

// objectLine finds the line of an object in a document.
func objectLine(t testing.TB, d v1alpha1.Document, kind, ns, name string) v1alpha1.ObjectLine {
	t.Helper()
	for _, o := range d.Objects {
		if o.Ref.Kind == kind && o.Ref.Namespace == ns && o.Ref.Name == name {
			return o
		}
	}
	require.Fail(t, "no line", "%s %s/%s is not in the document", kind, ns, name)
	return v1alpha1.ObjectLine{}
}

// volumeOf finds the line of a claim, or of a pod's own volume, by name.
func volumeOf(t testing.TB, d v1alpha1.Document, name string) v1alpha1.VolumeLine {
	t.Helper()
	for _, v := range d.Volumes {
		if v.Ref.Kind == "PersistentVolumeClaim" && v.Ref.Name == name || v.Volume == name {
			return v
		}
	}
	require.Fail(t, "no line", "volume %s is not in the document", name)
	return v1alpha1.VolumeLine{}
}
