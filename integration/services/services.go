// Package services makes the Services of a cluster on one machine reachable,
// by address and by name, from pods and from the machine itself: it listens
// on each Service's cluster address and passes connections on to the ready
// endpoints, and it answers DNS for cluster.local. The caller must have made
// the addresses local (one route does).
//
// It stands in for kube-proxy and a DNS server where the machine's packet
// filter must not be touched. It does not serve node ports, external
// addresses or SCTP, keep the client's address, or resolve names outside of
// the cluster.
package services

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
)

// Options describe the cluster.
type Options struct {
	// Network holds the pods' and the Services' addresses; others are not
	// served.
	Network netip.Prefix
	// DNS is the cluster address that names are asked at.
	DNS netip.Addr
	// Server is the address and port of the API server, to which the
	// Service "kubernetes" leads.
	Server string
}

// directory is what is known of the cluster.
type directory struct {
	services  corelisters.ServiceLister
	endpoints discoverylisters.EndpointSliceLister
}

// Run serves until the context ends.
func Run(ctx context.Context, client kubernetes.Interface, o Options) error {
	factory := informers.NewSharedInformerFactory(client, 0)
	services, endpoints := factory.Core().V1().Services(), factory.Discovery().V1().EndpointSlices()
	d := &directory{services: services.Lister(), endpoints: endpoints.Lister()}
	// Endpoints are looked up when a connection comes; listeners are made
	// when a Service changes.
	changed := make(chan struct{}, 1)
	notify := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	endpoints.Informer()
	if _, err := services.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { notify() }, UpdateFunc: func(any, any) { notify() }, DeleteFunc: func(any) { notify() },
	}); err != nil {
		return err
	}
	factory.StartWithContext(ctx)
	defer factory.Shutdown()
	for kind, synced := range factory.WaitForCacheSync(ctx.Done()) {
		if !synced {
			return fmt.Errorf("the list of %s could not be read: %w", kind, context.Cause(ctx))
		}
	}
	if err := serveDNS(ctx, d, netip.AddrPortFrom(o.DNS, 53), o.Network); err != nil {
		return err
	}
	p := &proxy{directory: d, options: o, open: map[frontend]func(){}}
	defer p.closeAll()
	notify()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			if !p.sync(ctx) {
				time.AfterFunc(time.Second, notify)
			}
		}
	}
}
