// Package kube talks to one Kubernetes cluster: it finds out what kinds are
// served, streams lists of them as the raw JSON that the server sent, writes
// raw JSON, waits, and runs commands in containers.
//
// Bytes are never decoded on the way and written back, so that large integers,
// unknown fields and field order survive. It keeps no cache of objects, holds
// no opinion on what should be saved or restored, and loads no kubeconfig: the
// caller brings a *rest.Config.
package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Cluster is one cluster as one user sees it. It is safe for use by several
// goroutines.
type Cluster struct {
	config  *rest.Config
	context string
	base    *url.URL
	http    *http.Client

	discovery *discovery.DiscoveryClient
	typed     *kubernetes.Clientset
	dynamic   *dynamic.DynamicClient

	mu     sync.Mutex
	served *served // nil until first asked for

	// stall is how long the server may say nothing in mid-request; backoff is
	// the first wait between tries. Tests make them short.
	stall   time.Duration
	backoff time.Duration
}

// New makes a cluster from a client configuration. contextName is the name that
// people know it by and may be empty. The configuration is copied. Nothing is
// sent yet.
func New(cfg *rest.Config, contextName string) (*Cluster, error) {
	cfg = rest.CopyConfig(cfg)
	// The server's own priority and fairness governs; a limit on this side
	// would only hide how busy it is.
	cfg.QPS, cfg.Burst, cfg.RateLimiter = -1, 0, nil
	if near(cfg.Host) {
		// Where the network is not what is slow, compression is, and so are
		// HTTP/2's frames: a list costs both sides a third less without.
		cfg.DisableCompression = true
		if len(cfg.NextProtos) == 0 {
			cfg.NextProtos = []string{"http/1.1"}
		}
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = "kubectl-backup (" + runtime.GOOS + "/" + runtime.GOARCH + ")"
	}
	// Servers warn in headers. Those of our writes reach the caller through
	// WriteOptions; those of reads (deprecated versions) are not for people.
	cfg.WarningHandler = rest.NoWarnings{}
	cfg.WarningHandlerWithContext = rest.NoWarnings{}

	c := &Cluster{config: cfg, context: contextName, stall: time.Minute, backoff: 250 * time.Millisecond}
	var err error
	if c.base, _, err = rest.DefaultServerUrlFor(cfg); err != nil {
		return nil, fmt.Errorf("address of the API server: %w", err)
	}
	if c.http, err = rest.HTTPClientFor(cfg); err != nil {
		return nil, fmt.Errorf("credentials for %s: %w", c.server(), err)
	}
	if c.discovery, err = discovery.NewDiscoveryClientForConfigAndClient(cfg, c.http); err != nil {
		return nil, fmt.Errorf("discovery client for %s: %w", c.server(), err)
	}
	if c.typed, err = kubernetes.NewForConfigAndClient(cfg, c.http); err != nil {
		return nil, fmt.Errorf("client for %s: %w", c.server(), err)
	}
	if c.dynamic, err = dynamic.NewForConfigAndClient(cfg, c.http); err != nil {
		return nil, fmt.Errorf("client for %s: %w", c.server(), err)
	}
	return c, nil
}

// near says whether the API server is on this machine or, seen from a pod, is
// the one of the pod's own cluster.
func near(host string) bool {
	u, err := url.Parse(host)
	if err != nil || u.Host == "" {
		u = &url.URL{Host: host}
	}
	name := u.Hostname()
	if name == "localhost" || name != "" && name == os.Getenv("KUBERNETES_SERVICE_HOST") {
		return true
	}
	ip := net.ParseIP(name)
	return ip != nil && ip.IsLoopback()
}

// Typed is the client-go client for built-in kinds.
func (c *Cluster) Typed() kubernetes.Interface { return c.typed }

// Dynamic is the client-go client for any kind.
func (c *Cluster) Dynamic() dynamic.Interface { return c.dynamic }

// Context is the name that people know the cluster by; it may be empty.
func (c *Cluster) Context() string { return c.context }

// server is the address without credentials.
func (c *Cluster) server() string {
	u := *c.base
	u.User = nil
	return u.String()
}

// Identity says which cluster this is. The UID is that of the namespace
// kube-system, and is empty where the caller may not read that namespace.
func (c *Cluster) Identity(ctx context.Context) (v1alpha1.Cluster, error) {
	id := v1alpha1.Cluster{Context: c.context, Server: c.server()}
	var version struct {
		GitVersion string `json:"gitVersion"`
	}
	body, err := c.read(ctx, request{verb: "get", method: http.MethodGet, path: []string{"version"}})
	if err != nil {
		return id, err
	}
	if err := json.Unmarshal(body, &version); err != nil {
		return id, fmt.Errorf("version of %s: %w (is this a Kubernetes API server?)", c.server(), err)
	}
	id.Version = version.GitVersion
	ns, err := c.Get(ctx, namespaces, "", "kube-system")
	if _, _, denied := Denied(err); denied {
		return id, nil
	}
	if err != nil {
		return id, err
	}
	id.UID = ns.UID
	return id, nil
}

// Reachable is no error where the API server answers, whatever it says. It is
// as patient as every request.
func (c *Cluster) Reachable(ctx context.Context) error {
	err := c.try(ctx, request{verb: "get", method: http.MethodGet, path: []string{"version"}}, func(*http.Response) error { return nil })
	var said apierrors.APIStatus
	if errors.As(err, &said) {
		return nil
	}
	return err
}
