package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/integration/cluster"
)

type options struct {
	context                  string
	keep                     bool
	postgres, busybox, mover string
}

func (o options) describe() string {
	if o.context != "" {
		return "two namespaces of the cluster " + o.context
	}
	return "two Kubernetes clusters on this machine, src and dst"
}

// place is where the demo happens, and how commands are called there.
type place struct {
	options
	root           string // the repository, which commands are called from
	source, target string // contexts
	classMap       []string
	remote         string // the folder that backups go to
	env            []string
	// manifest is the application as it is applied; empty means as it is in
	// the repository.
	manifest string
	// down removes what the demo made in clusters, or the clusters that it
	// started; nil before there is any.
	down func(context.Context) error
}

func preparePlace(ctx context.Context, o options) (*place, error) {
	root, err := cluster.RepositoryRoot()
	if err != nil {
		return nil, err
	}
	remote, err := os.MkdirTemp("", "kubectl-backup-demo-")
	if err != nil {
		return nil, err
	}
	p := &place{options: o, root: root, remote: remote}
	p.env = append(os.Environ(),
		"PATH="+filepath.Join(root, "bin")+string(os.PathListSeparator)+os.Getenv("PATH"),
		"KUBECTL_BACKUP_PASSWORD="+rand.Text())
	if o.context != "" {
		err = p.borrow(ctx)
	} else {
		err = p.start(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, p.leave(context.WithoutCancel(ctx)))
	}
	return p, nil
}

// start brings two clusters up, or uses those that run.
func (p *place) start(ctx context.Context) error {
	dir := filepath.Join(p.root, ".cluster")
	running, err := cluster.Open(dir)
	if err != nil {
		return err
	}
	p.down = p.removeNamespaces
	if running.Src == nil && running.Dst == nil {
		p.down = func(ctx context.Context) error { return cluster.Down(ctx, dir, os.Stdout) }
	}
	clusters, err := cluster.Up(ctx, dir, cluster.Options{Log: os.Stdout})
	if err != nil {
		return err
	}
	p.source, p.target = "src", "dst"
	p.classMap = []string{"--map-storage-class", "fast=premium"}
	p.env = append(p.env, "KUBECONFIG="+clusters.Kubeconfig(), "KUBECTL_BACKUP_IMAGE=localhost/kubectl-backup:dev")
	return p.removeNamespaces(ctx) // of a demo that was kept
}

// borrow uses an existing cluster, which nothing but two new namespaces of
// is touched.
func (p *place) borrow(ctx context.Context) error {
	missing := []string{}
	for _, image := range []struct{ name, value string }{
		{"IMAGE_POSTGRES", p.postgres}, {"IMAGE_BUSYBOX", p.busybox}, {"IMAGE_MOVER", p.mover},
	} {
		if image.value == "" {
			missing = append(missing, image.name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%s must name images that cluster %s can pull (hint: make demo CONTEXT=%s IMAGE_POSTGRES=postgres:17 IMAGE_BUSYBOX=busybox:1 IMAGE_MOVER=an image with bin/kubectl-backup as /kubectl-backup)",
			strings.Join(missing, ", "), p.context, p.context)
	}
	if _, err := exec.LookPath("kubectl"); err != nil {
		return fmt.Errorf("kubectl is needed for an existing cluster: %w", err)
	}
	p.source, p.target = p.context, p.context
	p.env = append(p.env, "KUBECTL_BACKUP_IMAGE="+p.mover)
	for _, ns := range []string{namespace, restored} {
		found, err := p.output(ctx, "", "kubectl", "--context", p.context, "get", "namespace", ns, "--ignore-not-found", "-o", "name")
		if err != nil {
			return err
		}
		if found != "" {
			return fmt.Errorf("cluster %s has a namespace %q already, which the demo would delete (hint: remove or rename it)", p.context, ns)
		}
	}
	text, err := p.output(ctx, "", "kubectl", "kustomize", manifests)
	if err != nil {
		return err
	}
	p.manifest = strings.NewReplacer(
		"localhost/postgres:dev", p.postgres, "localhost/busybox:dev", p.busybox,
		// The cluster's default class will do.
		"      storageClassName: fast\n", "",
	).Replace(text)
	p.down = p.removeNamespaces
	return nil
}

func (p *place) removeNamespaces(ctx context.Context) error {
	for _, at := range []struct{ context, namespace string }{{p.source, namespace}, {p.target, restored}} {
		if _, err := p.output(ctx, "", "kubectl", "--context", at.context, "delete", "namespace", at.namespace, "--ignore-not-found", "--timeout=180s"); err != nil {
			return err
		}
	}
	return nil
}

// leave removes what the demo made, unless it is to be kept.
func (p *place) leave(ctx context.Context) error {
	if p.keep {
		fmt.Printf("\nEverything was kept. To look at it:\n")
		for _, v := range p.env[len(os.Environ()):] {
			fmt.Printf("  export %s\n", v)
		}
		return nil
	}
	if p.down == nil {
		return os.RemoveAll(p.remote)
	}
	say("Cleaning up")
	return errors.Join(p.down(ctx), os.RemoveAll(p.remote))
}

func (p *place) restoreTitle() string {
	if p.source == p.target {
		return "into another namespace"
	}
	return "into another namespace of another cluster, with another storage class"
}

// apply creates the application's objects.
func (p *place) apply(ctx context.Context) error {
	if p.manifest == "" {
		return p.kubectl(ctx, p.source, "apply", "-k", manifests)
	}
	fmt.Printf("$ kubectl kustomize %s | (images of your own) | kubectl --context %s apply -f -\n", manifests, p.source)
	text, err := p.output(ctx, p.manifest, "kubectl", "--context", p.source, "apply", "-f", "-")
	fmt.Print(text)
	return err
}

func (p *place) kubectl(ctx context.Context, where string, args ...string) error {
	return p.show(ctx, append([]string{"kubectl", "--context", where}, args...)...)
}

// backup calls the plugin through kubectl.
func (p *place) backup(ctx context.Context, args ...string) error {
	return p.show(ctx, append(append([]string{"kubectl", "backup"}, args...), "--remote", p.remote)...)
}

// show calls a command as a person would, its output going to ours.
func (p *place) show(ctx context.Context, args ...string) error {
	fmt.Printf("$ %s\n", strings.Join(args, " "))
	cmd := p.command(ctx, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// output calls a command and returns what it wrote to stdout.
func (p *place) output(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := p.command(ctx, args...)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = strings.NewReader(stdin), &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

func (p *place) command(ctx context.Context, args ...string) *exec.Cmd {
	name := args[0]
	// Looked up on the PATH that the command will have.
	if own := filepath.Join(p.root, "bin", name); isFile(own) {
		name = own
	}
	cmd := exec.CommandContext(ctx, name, args[1:]...)
	cmd.Args[0] = args[0]
	cmd.Dir, cmd.Env = p.root, p.env
	return cmd
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}
