package cluster

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/discovery"
)

// auditPolicy writes one event for each finished request.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- level: Metadata
`

func (c *Cluster) kube(component string) []string {
	return []string{filepath.Join(c.root, "bin", "kube"), component}
}

// startControlPlane starts etcd and the three servers. Each retries until
// what it needs is there, so only the API server is waited for.
func (c *Cluster) startControlPlane(ctx context.Context) error {
	if err := c.start("etcd", append(c.kube("etcd"), c.etcdFlags()...)...); err != nil {
		return err
	}
	policy := filepath.Join(c.paths.config, "audit-policy.yaml")
	if err := writeFile(policy, []byte(auditPolicy), 0o644); err != nil {
		return err
	}
	if err := c.start("kube-apiserver", append(c.kube("kube-apiserver"), c.apiServerFlags(policy)...)...); err != nil {
		return err
	}
	if err := c.waitServer(ctx); err != nil {
		return err
	}
	if err := c.start("kube-controller-manager", append(c.kube("kube-controller-manager"), c.controllerManagerFlags()...)...); err != nil {
		return err
	}
	return c.start("kube-scheduler", append(c.kube("kube-scheduler"), c.schedulerFlags()...)...)
}

func (c *Cluster) etcdFlags() []string {
	client := fmt.Sprintf("https://127.0.0.1:%d", c.state.Ports.EtcdClient)
	peer := fmt.Sprintf("http://127.0.0.1:%d", c.state.Ports.EtcdPeer)
	return []string{
		"--name=" + c.Name,
		"--data-dir=" + c.paths.etcd,
		"--listen-client-urls=" + client,
		"--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer,
		"--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=" + c.Name + "=" + peer,
		"--cert-file=" + c.pki("etcd.crt"),
		"--key-file=" + c.pki("etcd.key"),
		"--trusted-ca-file=" + c.pki("etcd-ca.crt"),
		"--client-cert-auth",
		// The data need not outlive the machine.
		"--unsafe-no-fsync",
		"--quota-backend-bytes=4294967296",
		"--log-level=warn",
	}
}

func (c *Cluster) apiServerFlags(policy string) []string {
	return []string{
		"--bind-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", c.state.Ports.APIServer),
		fmt.Sprintf("--etcd-servers=https://127.0.0.1:%d", c.state.Ports.EtcdClient),
		"--etcd-cafile=" + c.pki("etcd-ca.crt"),
		"--etcd-certfile=" + c.pki("etcd-client.crt"),
		"--etcd-keyfile=" + c.pki("etcd-client.key"),
		"--cert-dir=" + c.paths.pki,
		"--tls-cert-file=" + c.pki("apiserver.crt"),
		"--tls-private-key-file=" + c.pki("apiserver.key"),
		"--client-ca-file=" + c.pki("ca.crt"),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--anonymous-auth=true",
		"--allow-privileged=true",
		"--service-cluster-ip-range=" + serviceNetwork(c.state.Network),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-signing-key-file=" + c.pki("service-account.key"),
		"--service-account-key-file=" + c.pki("service-account.key"),
		// Loopback is no valid endpoint; the process "services" leads
		// the Service "kubernetes" to this server.
		"--endpoint-reconciler-type=none",
		"--kubelet-preferred-address-types=Hostname",
		"--kubelet-certificate-authority=" + c.pki("ca.crt"),
		"--kubelet-client-certificate=" + c.pki("apiserver-kubelet-client.crt"),
		"--kubelet-client-key=" + c.pki("apiserver-kubelet-client.key"),
		"--requestheader-client-ca-file=" + c.pki("front-proxy-ca.crt"),
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-username-headers=X-Remote-User",
		"--proxy-client-cert-file=" + c.pki("front-proxy.crt"),
		"--proxy-client-key-file=" + c.pki("front-proxy.key"),
		"--audit-policy-file=" + policy,
		"--audit-log-path=" + c.paths.auditLog(),
		// Size 0: never rotated, a test finds every event in one file.
		"--audit-log-maxsize=0",
	}
}

func (c *Cluster) controllerManagerFlags() []string {
	return []string{
		"--bind-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", c.state.Ports.ControllerManager),
		"--cert-dir=" + c.paths.run,
		"--kubeconfig=" + c.kubeconfig("kube-controller-manager"),
		"--authentication-kubeconfig=" + c.kubeconfig("kube-controller-manager"),
		"--authorization-kubeconfig=" + c.kubeconfig("kube-controller-manager"),
		"--leader-elect=false",
		"--use-service-account-credentials=true",
		"--service-account-private-key-file=" + c.pki("service-account.key"),
		"--root-ca-file=" + c.pki("ca.crt"),
		"--cluster-signing-cert-file=" + c.pki("ca.crt"),
		"--cluster-signing-key-file=" + c.pki("ca.key"),
		"--allocate-node-cidrs=false",
		"--flex-volume-plugin-dir=" + filepath.Join(c.paths.run, "volume-plugins"),
		"--kube-api-qps=200",
		"--kube-api-burst=400",
	}
}

func (c *Cluster) schedulerFlags() []string {
	return []string{
		"--bind-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", c.state.Ports.Scheduler),
		"--cert-dir=" + c.paths.run,
		"--kubeconfig=" + c.kubeconfig("kube-scheduler"),
		"--authentication-kubeconfig=" + c.kubeconfig("kube-scheduler"),
		"--authorization-kubeconfig=" + c.kubeconfig("kube-scheduler"),
		"--leader-elect=false",
	}
}

// StopAPIServer ends the API server as a crash does: at once, connections
// broken. All else keeps running.
func (c *Cluster) StopAPIServer(ctx context.Context) error {
	if err := c.reloadState(); err != nil {
		return err
	}
	return c.kill(ctx, "kube-apiserver")
}

// StartAPIServer starts the API server again, at the same port with the same
// data, and waits until it is ready.
func (c *Cluster) StartAPIServer(ctx context.Context) error {
	if err := c.reloadState(); err != nil {
		return err
	}
	p := c.process("kube-apiserver")
	if p == nil {
		return errors.New("the API server was never started")
	}
	if !p.alive() {
		if err := c.start("kube-apiserver", p.Args...); err != nil {
			return err
		}
	}
	return c.waitServer(ctx)
}

func (c *Cluster) waitServer(ctx context.Context) error {
	return WaitFor(ctx, 2*time.Minute, "the API server is ready", func(ctx context.Context) error {
		for _, name := range []string{"etcd", "kube-apiserver"} {
			if p := c.process(name); !p.alive() {
				return fmt.Errorf("%s has ended; see %s", name, filepath.Join(c.paths.logs, name+".log"))
			}
		}
		return c.serverReady(ctx)
	})
}

func (c *Cluster) serverReady(ctx context.Context) error {
	config, err := c.RESTConfig()
	if err != nil {
		return err
	}
	config.Timeout = 5 * time.Second
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return err
	}
	body, err := client.RESTClient().Get().AbsPath("/readyz").Do(ctx).Raw()
	if apierrors.IsInternalError(err) {
		return fmt.Errorf("%w: %s", err, firstLine(body))
	}
	return err
}
