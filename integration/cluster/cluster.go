// Package cluster runs two real Kubernetes clusters on this machine, for
// tests and for the demo: "src" and "dst", each with etcd, kube-apiserver,
// kube-controller-manager, kube-scheduler, containerd, a kubelet that runs
// pods, Services with DNS, a dynamic provisioner that makes directories, and a
// CSI driver (see package csi) with the real programs that drive it, for
// volumes that can be snapshots, clones and block devices. Argo CD can be
// started beside one.
//
// Everything that a cluster consists of lies below one base directory
// (.cluster in the repository): certificates, data, logs, sockets, mounts and
// state.json, which says what was started. The processes are detached and
// outlive the caller; a control group per cluster holds all of them, the
// pods' processes too, so Down ends exactly what Up started. Up on clusters
// that already work changes nothing; Up on a crashed one removes what is left
// of it and starts a fresh, empty one.
//
// All servers listen on loopback. Outside of the base directory a cluster
// has: one control group, one local route (the Services' addresses), the
// pods' network interfaces, loop devices, and a few files that containerd, CNI
// and the kubelet keep in fixed places; Down removes them all. What stays are
// kernel settings that the kubelet, CNI and Up make (forwarding of packets, the
// number of watches of files).
//
// The package does not try to be a distribution: one node, no upgrade, no
// network policies, no way out of the cluster's own network, and data is gone
// after Down.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Names are the clusters that Up starts, which are also the contexts of the
// kubeconfig.
var Names = []string{"src", "dst"}

// Options say which clusters Up starts and how.
type Options struct {
	// Only are the clusters to start; none means all of Names.
	Only []string
	// NoNode starts control planes only: nothing runs, claims are not
	// provisioned, and the kinds of snapshots are not known.
	NoNode bool
	// PluginBinary is packed as the image localhost/kubectl-backup:dev.
	// Empty means bin/kubectl-backup, where that exists.
	PluginBinary string
	// Log receives a line per step; nil discards them.
	Log io.Writer
}

// Clusters are the clusters below one base directory.
type Clusters struct {
	// Dir is the base directory.
	Dir string
	// Src and Dst are nil where they do not run.
	Src, Dst *Cluster
}

// Cluster is one running cluster.
type Cluster struct {
	Name string

	paths paths
	root  string // the repository
	mu    sync.Mutex
	state *state
	log   io.Writer
}

// Up starts the clusters that do not run yet and waits until they work: the
// API server is ready, the default service account exists, the node is Ready.
// dir is the base directory, created as needed; clusters below different base
// directories do not disturb each other.
func Up(ctx context.Context, dir string, o Options) (*Clusters, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("a cluster needs root: containers, mounts and routes are made (hint: run as root, for instance in a virtual machine or container of your own)")
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	only := o.Only
	if len(only) == 0 {
		only = Names
	}
	for _, name := range only {
		if name != Names[0] && name != Names[1] {
			return nil, fmt.Errorf("no cluster is called %q (hint: src or dst)", name)
		}
	}
	root, err := RepositoryRoot()
	if err != nil {
		return nil, err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if len(dir) > maxBaseDir {
		return nil, fmt.Errorf("base directory %s is %d bytes long, and Unix sockets below it allow %d", dir, len(dir), maxBaseDir)
	}
	unlock, err := lock(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()

	if err := installPackages(ctx, o.Log, nodePackages(o.NoNode)); err != nil {
		return nil, err
	}
	if err := buildBinaries(ctx, root, o.NoNode, o.Log); err != nil {
		return nil, err
	}
	var archives []string
	if !o.NoNode {
		if archives, err = buildImages(ctx, root, o.PluginBinary, o.Log); err != nil {
			return nil, err
		}
	}

	// Side by side: most of the time is waiting for one server or another.
	errs := make([]error, len(only))
	var wg sync.WaitGroup
	for i, name := range only {
		wg.Go(func() {
			if err := up(ctx, newPaths(dir, name), root, archives, o); err != nil {
				errs[i] = fmt.Errorf("cluster %s: %w", name, err)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if err := writeKubeconfig(dir); err != nil {
		return nil, err
	}
	return Open(dir)
}

// Open returns the clusters that run below a base directory, without
// starting anything.
func Open(dir string) (*Clusters, error) {
	root, err := RepositoryRoot()
	if err != nil {
		return nil, err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	cs := &Clusters{Dir: dir}
	for _, name := range Names {
		p := newPaths(dir, name)
		s, err := readState(p.state)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cluster %s: %w", name, err)
		}
		c := &Cluster{Name: name, paths: p, root: root, state: s, log: io.Discard}
		if name == "src" {
			cs.Src = c
		} else {
			cs.Dst = c
		}
	}
	return cs, nil
}

// Down ends all that runs below a base directory and removes it, but for the
// images' cache. It works on crashed clusters and where nothing runs.
func Down(ctx context.Context, dir string, log io.Writer) error {
	if log == nil {
		log = io.Discard
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	var errs []error
	for _, name := range Names {
		if err := teardown(ctx, newPaths(dir, name), log); err != nil {
			errs = append(errs, fmt.Errorf("cluster %s: %w", name, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, "kubeconfig")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// Kubeconfig is the path of a kubeconfig with a context per running cluster.
func (cs *Clusters) Kubeconfig() string { return filepath.Join(cs.Dir, "kubeconfig") }

// Kubeconfig is the path of a kubeconfig for this cluster alone, with the
// rights of system:masters.
func (c *Cluster) Kubeconfig() string { return c.paths.adminKubeconfig() }

// AuditLog is the path of the API server's audit log: one JSON event a line,
// at level Metadata, in stage ResponseComplete.
func (c *Cluster) AuditLog() string { return c.paths.auditLog() }

// Logs is the directory with a log per component.
func (c *Cluster) Logs() string { return c.paths.logs }

// Volumes is the directory below which the provisioner keeps a directory per
// persistent volume, called as the volume is.
func (c *Cluster) Volumes() string { return c.paths.volumes }

// RESTConfig returns the administrator's client configuration.
func (c *Cluster) RESTConfig() (*rest.Config, error) {
	return clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
}

// Client returns a client with the administrator's rights.
func (c *Cluster) Client() (kubernetes.Interface, error) {
	config, err := c.RESTConfig()
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = 100, 200
	return kubernetes.NewForConfig(config)
}

// RepositoryRoot finds the repository from the working directory upwards.
func RepositoryRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "integration", "go.mod")); err == nil {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("%s is not inside the repository (hint: change into it)", dir)
		}
	}
}

// up brings one cluster up.
func up(ctx context.Context, p paths, root string, archives []string, o Options) (err error) {
	c := &Cluster{Name: p.name, paths: p, root: root, log: o.Log}
	if s, err := readState(p.state); err == nil {
		c.state = s
		if reason := c.unhealthy(ctx, !o.NoNode); reason == nil {
			c.say("runs already")
			if o.NoNode {
				return nil
			}
			return c.importImages(ctx, archives)
		} else {
			c.say("does not work (%v); starting afresh", reason)
		}
	}
	if err := teardown(ctx, p, o.Log); err != nil {
		return err
	}
	started := time.Now()
	defer func() {
		if err != nil {
			err = errors.Join(err, fmt.Errorf("its processes are left as they are, logs in %s", p.logs))
		}
	}()
	if err := c.prepare(ctx, o.NoNode); err != nil {
		return err
	}
	if err := c.startControlPlane(ctx); err != nil {
		return err
	}
	if err := c.createStorageClasses(ctx); err != nil {
		return err
	}
	if !o.NoNode {
		if err := c.createSnapshotAPI(ctx); err != nil {
			return err
		}
		if err := c.startNode(ctx, archives); err != nil {
			return err
		}
	}
	if err := c.waitReady(ctx, !o.NoNode); err != nil {
		return err
	}
	c.say("ready after %.1f s", time.Since(started).Seconds())
	return nil
}

// prepare makes what the first process needs: directories, addresses, state,
// certificates.
func (c *Cluster) prepare(ctx context.Context, noNode bool) error {
	for _, dir := range []string{c.paths.logs, c.paths.pki, c.paths.config, c.paths.run, c.paths.volumes, c.paths.csi} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	c.state = &state{NoNode: noNode, Processes: map[string]*process{}}
	if err := c.reserveAddresses(ctx); err != nil {
		return err
	}
	if err := c.saveState(); err != nil {
		return err
	}
	if err := makeControlGroup(c.paths.controlGroup); err != nil {
		return err
	}
	return c.writeCertificates()
}

func (c *Cluster) say(format string, args ...any) {
	fmt.Fprintf(c.log, "cluster %s: %s\n", c.Name, fmt.Sprintf(format, args...))
}

// lock keeps two callers from working below one base directory at once. The
// kernel drops the lock with the process, so a crash leaves none behind.
func lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	return func() { f.Close() }, nil
}

// maxBaseDir leaves room for the longest socket path below a base directory.
const maxBaseDir = 60

// paths says where the parts of one cluster are.
type paths struct {
	name, base                                 string
	dir, state, logs, pki, config, run, etcd   string
	containerd, kubelet, podLogs, volumes, cni string
	csi                                        string
	// controlGroup is the name of the cluster's control group, below the
	// root of the hierarchy.
	controlGroup string
}

func newPaths(base, name string) paths {
	dir := filepath.Join(base, name)
	in := func(s string) string { return filepath.Join(dir, s) }
	return paths{
		name: name, base: base, dir: dir,
		state: in("state.json"), logs: in("logs"), pki: in("pki"), config: in("config"), run: in("run"),
		etcd: in("etcd"), containerd: in("containerd"), kubelet: in("kubelet"), podLogs: in("logs/pods"),
		volumes: in("volumes"), cni: in("cni"), csi: in("csi"),
		controlGroup: "kubectl-backup-" + digest(base) + "-" + name,
	}
}

func (p paths) adminKubeconfig() string  { return filepath.Join(p.config, "admin.kubeconfig") }
func (p paths) auditLog() string         { return filepath.Join(p.logs, "audit.log") }
func (p paths) containerdSocket() string { return filepath.Join(p.run, "containerd.sock") }
func (p paths) network() string          { return p.controlGroup }

// firstLine is for errors that quote a program's output.
func firstLine(b []byte) string {
	s, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	return s
}
