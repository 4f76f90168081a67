package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Argo CD runs beside a cluster only where a test starts it: Redis, its
// repository server and its two controllers, as processes of the cluster's.

// ArgoCDNamespace holds Argo CD's settings, and the Applications that it looks
// after.
const ArgoCDNamespace = "argocd"

const argoCDModule = "integration/argocd"

// redisTools holds Redis itself under another of its names. The package with
// the right one would start a server on this machine.
var redisTools = debianPackage{"redis-tools", "/usr/bin/redis-check-rdb"}

// argoCDProcesses are in the order of their start.
var argoCDProcesses = []string{"argocd-redis", "argocd-repo-server", "argocd-application-controller", "argocd-applicationset-controller"}

const argoCDObjects = `
apiVersion: v1
kind: Namespace
metadata: {name: argocd}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: argocd-cm, namespace: argocd, labels: {app.kubernetes.io/part-of: argocd}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: argocd-cmd-params-cm, namespace: argocd, labels: {app.kubernetes.io/part-of: argocd}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: argocd-rbac-cm, namespace: argocd, labels: {app.kubernetes.io/part-of: argocd}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: argocd-gpg-keys-cm, namespace: argocd, labels: {app.kubernetes.io/part-of: argocd}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: argocd-ssh-known-hosts-cm, namespace: argocd, labels: {app.kubernetes.io/part-of: argocd}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: argocd-tls-certs-cm, namespace: argocd, labels: {app.kubernetes.io/part-of: argocd}}
---
apiVersion: v1
kind: Secret
metadata: {name: argocd-secret, namespace: argocd, labels: {app.kubernetes.io/part-of: argocd}}
stringData: {server.secretkey: for tests alone}
---
apiVersion: argoproj.io/v1alpha1
kind: AppProject
metadata: {name: default, namespace: argocd}
spec:
  sourceRepos: ["*"]
  destinations: [{namespace: "*", server: "*"}]
  clusterResourceWhitelist: [{group: "*", kind: "*"}]
`

// StartArgoCD makes Argo CD's kinds known and starts it, with the cluster's
// administrator's rights. It is the program bin/argocd.
func (c *Cluster) StartArgoCD(ctx context.Context) error {
	if err := c.reloadState(); err != nil {
		return err
	}
	program := filepath.Join(c.Bin(), "argocd")
	if !exists(program) {
		return fmt.Errorf("%s is not built (hint: make tools)", program)
	}
	out, err := goCommand(ctx, filepath.Join(c.root, argoCDModule), "mod", "download", "-json", "github.com/argoproj/argo-cd/v3")
	if err != nil {
		return err
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		return err
	}
	if _, err := c.Kubectl(ctx, "apply", "--server-side", "-k", filepath.Join(module.Dir, "manifests", "crds")); err != nil {
		return err
	}
	// What has no conditions yet is an error to kubectl.
	err = WaitFor(ctx, 3*time.Minute, "Argo CD's kinds are served", func(ctx context.Context) error {
		_, err := c.Kubectl(ctx, append([]string{"wait", "--for=condition=Established", "--timeout=60s"}, argoCDDefinitions...)...)
		return err
	})
	if err != nil {
		return err
	}
	if _, err := c.KubectlInput(ctx, argoCDObjects, "apply", "--server-side", "-f", "-"); err != nil {
		return err
	}
	return c.startArgoCD(ctx, program)
}

var argoCDDefinitions = []string{"crd/applications.argoproj.io", "crd/applicationsets.argoproj.io", "crd/appprojects.argoproj.io"}

// startArgoCD starts the processes. All of them listen on loopback, but for
// the controller's metrics, which are on every address, at any port.
func (c *Cluster) startArgoCD(ctx context.Context, program string) error {
	dir := filepath.Join(c.paths.dir, "argocd")
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, sub := range []string{"bin", "ssh", "tls", "tmp"} {
		if err := os.MkdirAll(in(sub), 0o755); err != nil {
			return err
		}
	}
	for name, target := range map[string]string{"redis-server": redisTools.file, "argocd": program} {
		if err := os.Symlink(target, in("bin/"+name)); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	// The repository server asks for it at its start, and never runs it: no
	// signature is checked.
	if err := writeFile(in("bin/git-verify-wrapper.sh"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		return err
	}
	ports, err := c.freePorts(6)
	if err != nil {
		return err
	}
	at := func(n int) string { return fmt.Sprintf("127.0.0.1:%d", ports[n]) }
	redis, repository := "--redis="+at(0), at(1)
	// Its name for the cluster that it runs in is this one, although it does
	// not run in a pod.
	environment := []string{
		"/usr/bin/env", "PATH=" + in("bin") + ":/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR=" + in("tmp"), "KUBECONFIG=" + c.Kubeconfig(), "ARGOCD_FAKE_IN_CLUSTER=true",
		"ARGOCD_SSH_DATA_PATH=" + in("ssh"), "ARGOCD_TLS_DATA_PATH=" + in("tls"), "ARGOCD_GPG_ENABLED=false",
	}
	common := []string{"--kubeconfig=" + c.Kubeconfig(), "--namespace=" + ArgoCDNamespace}
	arguments := map[string][]string{
		"argocd-redis": {"redis-server", "--bind", "127.0.0.1", "--port", fmt.Sprint(ports[0]), "--save", "", "--appendonly", "no", "--dir", dir},
		"argocd-repo-server": {"argocd", "argocd-repo-server", redis, "--disable-tls", "--client-ca-path=", "--address=127.0.0.1", fmt.Sprintf("--port=%d", ports[1]),
			"--metrics-address=127.0.0.1", fmt.Sprintf("--metrics-port=%d", ports[2])},
		"argocd-application-controller": append([]string{"argocd", "argocd-application-controller", redis, "--repo-server-plaintext", "--repo-server=" + repository, "--metrics-port=0"}, common...),
		"argocd-applicationset-controller": append([]string{"argocd", "argocd-applicationset-controller", "--repo-server-plaintext", "--argocd-repo-server=" + repository,
			"--metrics-addr=" + at(3), "--probe-addr=" + at(4), "--webhook-addr=" + at(5)}, common...),
	}
	for _, name := range argoCDProcesses {
		if c.process(name) != nil { // left by a test that was ended
			if err := c.kill(ctx, name); err != nil {
				return err
			}
		}
		if err := c.start(name, slices.Concat(environment, arguments[name])...); err != nil {
			return err
		}
	}
	return WaitFor(ctx, 3*time.Minute, "Argo CD answers", func(ctx context.Context) error {
		for _, name := range argoCDProcesses {
			if !c.process(name).alive() {
				return fmt.Errorf("%s has ended; see %s", name, filepath.Join(c.paths.logs, name+".log"))
			}
		}
		var dialer net.Dialer
		for _, n := range []int{0, 1, 4} {
			conn, err := dialer.DialContext(ctx, "tcp", at(n))
			if err != nil {
				return err
			}
			conn.Close()
		}
		return nil
	})
}

// StopArgoCD ends what StartArgoCD started, and removes its kinds with all
// that is of them. What its Applications manage stays.
func (c *Cluster) StopArgoCD(ctx context.Context) error {
	if err := c.reloadState(); err != nil {
		return err
	}
	var errs []error
	for _, name := range slices.Backward(argoCDProcesses) {
		if c.process(name) != nil {
			errs = append(errs, c.kill(ctx, name))
		}
	}
	if _, err := c.Kubectl(ctx, append([]string{"delete", "--ignore-not-found", "--timeout=120s", "namespace/" + ArgoCDNamespace}, argoCDDefinitions...)...); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(append(errs, os.RemoveAll(filepath.Join(c.paths.dir, "argocd")))...)
}
