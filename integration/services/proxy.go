package services

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// frontend is an address that is listened on, and the Service port it is for.
type frontend struct {
	address   netip.AddrPort
	protocol  corev1.Protocol
	namespace string
	service   string
	port      string
	sticky    bool
}

type proxy struct {
	directory *directory
	options   Options
	open      map[frontend]func()
}

// sync opens and closes listeners so that they are what the Services say, and
// tells whether all could be.
func (p *proxy) sync(ctx context.Context) bool {
	list, err := p.directory.services.List(labels.Everything())
	if err != nil {
		slog.Error("list services", "error", err)
		return false
	}
	wanted := map[frontend]bool{}
	for _, s := range list {
		address, err := netip.ParseAddr(s.Spec.ClusterIP)
		if err != nil || address == p.options.DNS {
			continue // headless or without an address, or ours
		}
		for _, port := range s.Spec.Ports {
			wanted[frontend{
				address: netip.AddrPortFrom(address, uint16(port.Port)), protocol: port.Protocol,
				namespace: s.Namespace, service: s.Name, port: port.Name,
				sticky: s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP,
			}] = true
		}
	}
	for f, closeIt := range p.open {
		if !wanted[f] {
			closeIt()
			delete(p.open, f)
		}
	}
	complete := true
	for f := range wanted {
		if p.open[f] != nil || f.protocol == corev1.ProtocolSCTP {
			continue
		}
		closeIt, err := p.listen(ctx, f)
		if err != nil {
			slog.Error("listen", "service", f.namespace+"/"+f.service, "address", f.address, "error", err)
			complete = false
			continue
		}
		p.open[f] = closeIt
	}
	return complete
}

func (p *proxy) closeAll() {
	for _, closeIt := range p.open {
		closeIt()
	}
}

func (p *proxy) listen(ctx context.Context, f frontend) (func(), error) {
	ctx, cancel := context.WithCancel(ctx)
	var config net.ListenConfig
	switch f.protocol {
	case corev1.ProtocolTCP:
		listener, err := config.Listen(ctx, "tcp4", f.address.String())
		if err != nil {
			cancel()
			return nil, err
		}
		go p.acceptTCP(ctx, f, listener)
		return func() { cancel(); listener.Close() }, nil
	case corev1.ProtocolUDP:
		conn, err := config.ListenPacket(ctx, "udp4", f.address.String())
		if err != nil {
			cancel()
			return nil, err
		}
		go p.serveUDP(ctx, f, conn.(*net.UDPConn))
		return func() { cancel(); conn.Close() }, nil
	}
	cancel()
	return nil, fmt.Errorf("protocol %s is not served", f.protocol)
}

// backends are the addresses behind a Service port, in the order in which to
// try them.
func (p *proxy) backends(f frontend, client netip.Addr) ([]string, error) {
	if f.namespace == metaDefault && f.service == "kubernetes" {
		return []string{p.options.Server}, nil
	}
	slices, err := p.directory.endpoints.EndpointSlices(f.namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: f.service}))
	if err != nil {
		return nil, err
	}
	var list []string
	for _, slice := range slices {
		for _, port := range slice.Ports {
			if port.Port == nil || (port.Name != nil && *port.Name != f.port) || (port.Protocol != nil && *port.Protocol != f.protocol) {
				continue
			}
			for _, e := range slice.Endpoints {
				if len(e.Addresses) > 0 && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
					list = append(list, netip.AddrPortFrom(mustAddr(e.Addresses[0]), uint16(*port.Port)).String())
				}
			}
		}
	}
	if len(list) == 0 {
		return nil, errors.New("no endpoint is ready")
	}
	first := rand.IntN(len(list))
	if f.sticky {
		h := fnv.New32a()
		h.Write(client.AsSlice())
		first = int(h.Sum32() % uint32(len(list)))
	}
	return append(list[first:], list[:first]...), nil
}

// metaDefault is the namespace of the Service "kubernetes".
const metaDefault = "default"

// mustAddr parses an address that the API server has validated; what is not
// one becomes an address that nothing answers at.
func mustAddr(s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.IPv4Unspecified()
	}
	return a
}

func (p *proxy) acceptTCP(ctx context.Context, f frontend, listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return // closed
		}
		go p.serveTCP(ctx, f, conn.(*net.TCPConn))
	}
}

func (p *proxy) serveTCP(ctx context.Context, f frontend, client *net.TCPConn) {
	defer client.Close()
	from := client.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	if !p.options.Network.Contains(from) && !from.IsLoopback() {
		client.SetLinger(0)
		return
	}
	server, err := p.dial(ctx, f, from)
	if err != nil {
		slog.Info("refused", "service", f.namespace+"/"+f.service, "client", from, "error", err)
		client.SetLinger(0) // a reset: the nearest to "connection refused"
		return
	}
	defer server.Close()
	stop := context.AfterFunc(ctx, func() { client.Close(); server.Close() })
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { pass(server, client) })
	wg.Go(func() { pass(client, server) })
	wg.Wait()
}

// pass copies one direction to its end, and passes the end on.
func pass(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		to.Close()
		from.Close()
		return
	}
	to.CloseWrite()
}

func (p *proxy) dial(ctx context.Context, f frontend, client netip.Addr) (*net.TCPConn, error) {
	backends, err := p.backends(f, client)
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{Timeout: 5 * time.Second}
	var errs []error
	for _, b := range backends {
		conn, err := dialer.DialContext(ctx, "tcp4", b)
		if err == nil {
			return conn.(*net.TCPConn), nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// udpIdle is how long a client of a datagram Service keeps its endpoint.
const udpIdle = time.Minute

func (p *proxy) serveUDP(ctx context.Context, f frontend, front *net.UDPConn) {
	var mu sync.Mutex
	flows := map[netip.AddrPort]*net.UDPConn{}
	buffer := make([]byte, 65536)
	for {
		n, client, err := front.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return // closed
		}
		if from := client.Addr().Unmap(); !p.options.Network.Contains(from) && !from.IsLoopback() {
			continue
		}
		mu.Lock()
		back := flows[client]
		mu.Unlock()
		if back == nil {
			backends, err := p.backends(f, client.Addr().Unmap())
			if err != nil {
				continue
			}
			conn, err := net.Dial("udp4", backends[0])
			if err != nil {
				continue
			}
			back = conn.(*net.UDPConn)
			mu.Lock()
			flows[client] = back
			mu.Unlock()
			stop := context.AfterFunc(ctx, func() { back.Close() })
			go func() {
				defer stop()
				answer(front, back, client)
				mu.Lock()
				delete(flows, client)
				mu.Unlock()
				back.Close()
			}()
		}
		if _, err := back.Write(buffer[:n]); err != nil {
			back.Close()
		}
	}
}

// answer passes an endpoint's datagrams back until none came for a while.
func answer(front, back *net.UDPConn, client netip.AddrPort) {
	buffer := make([]byte, 65536)
	for {
		if err := back.SetReadDeadline(time.Now().Add(udpIdle)); err != nil {
			return
		}
		n, err := back.Read(buffer)
		if err != nil {
			return
		}
		if _, err := front.WriteToUDPAddrPort(buffer[:n], client); err != nil {
			return
		}
	}
}
