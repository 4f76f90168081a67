package services

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// domain ends all names that exist.
const domain = ".cluster.local."

// ttl is short, as pods come and go.
const ttl = 5

// serveDNS answers over UDP and TCP until the context ends.
func serveDNS(ctx context.Context, d *directory, address netip.AddrPort, network netip.Prefix) error {
	var config net.ListenConfig
	packets, err := config.ListenPacket(ctx, "udp4", address.String())
	if err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	listener, err := config.Listen(ctx, "tcp4", address.String())
	if err != nil {
		packets.Close()
		return fmt.Errorf("dns: %w", err)
	}
	context.AfterFunc(ctx, func() { packets.Close(); listener.Close() })
	ours := func(a net.Addr) bool {
		from, err := netip.ParseAddrPort(a.String())
		return err == nil && (network.Contains(from.Addr().Unmap()) || from.Addr().IsLoopback())
	}
	go func() {
		buffer := make([]byte, 65536)
		for {
			n, from, err := packets.ReadFrom(buffer)
			if err != nil {
				return // closed
			}
			if reply := d.answer(buffer[:n], 512); reply != nil && ours(from) {
				if _, err := packets.WriteTo(reply, from); err != nil {
					slog.Error("dns", "client", from, "error", err)
				}
			}
		}
	}()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			if !ours(conn.RemoteAddr()) {
				conn.Close()
				continue
			}
			go d.answerTCP(conn)
		}
	}()
	return nil
}

func (d *directory) answerTCP(conn net.Conn) {
	defer conn.Close()
	for {
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return
		}
		var length [2]byte
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(conn, query); err != nil {
			return
		}
		reply := d.answer(query, 65535)
		if reply == nil {
			return
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); err != nil {
			return
		}
	}
}

// answer returns the reply to one query, truncated to a size, or nil where
// there is nothing to reply to.
func (d *directory) answer(query []byte, limit int) []byte {
	var parser dnsmessage.Parser
	header, err := parser.Start(query)
	if err != nil || header.Response {
		return nil
	}
	question, err := parser.Question()
	if err != nil {
		return nil
	}
	reply := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: header.ID, Response: true, Authoritative: true, RecursionDesired: header.RecursionDesired, RecursionAvailable: true},
		Questions: []dnsmessage.Question{question},
	}
	answers, found := d.resolve(question)
	if !found {
		reply.RCode = dnsmessage.RCodeNameError
	}
	reply.Answers = answers
	packed, err := reply.Pack()
	if err != nil {
		slog.Error("dns", "name", question.Name, "error", err)
		return nil
	}
	if len(packed) > limit {
		reply.Answers, reply.Truncated = nil, true
		if packed, err = reply.Pack(); err != nil {
			return nil
		}
	}
	return packed
}

// resolve knows these names, and no others:
//
//	<service>.<namespace>.svc            the cluster address, or all endpoints
//	<host>.<service>.<namespace>.svc     one endpoint of a headless Service
//	_<port>._<protocol>.<service>...svc  the port, as an SRV record
func (d *directory) resolve(q dnsmessage.Question) (answers []dnsmessage.Resource, found bool) {
	name, ok := strings.CutSuffix(strings.ToLower(q.Name.String()), domain)
	if !ok {
		return nil, false
	}
	labels := strings.Split(name, ".")
	n := len(labels)
	if n < 3 || n > 5 || labels[n-1] != "svc" {
		return nil, false
	}
	service, err := d.services.Services(labels[n-2]).Get(labels[n-3])
	if err != nil {
		return nil, false
	}
	switch n {
	case 5:
		return d.ports(q, service, labels[0], labels[1])
	case 4:
		for _, e := range d.endpointsOf(service) {
			if e.host == labels[0] {
				answers = append(answers, addressRecord(q, e.address)...)
				found = true
			}
		}
		return answers, found
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		target, err := dnsmessage.NewName(strings.TrimSuffix(service.Spec.ExternalName, ".") + ".")
		if err != nil {
			return nil, false
		}
		return []dnsmessage.Resource{{Header: header(q, dnsmessage.TypeCNAME), Body: &dnsmessage.CNAMEResource{CNAME: target}}}, true
	}
	if address, err := netip.ParseAddr(service.Spec.ClusterIP); err == nil {
		return addressRecord(q, address), true
	}
	for _, e := range d.endpointsOf(service) {
		answers = append(answers, addressRecord(q, e.address)...)
		found = true
	}
	return answers, found
}

func (d *directory) ports(q dnsmessage.Question, service *corev1.Service, port, protocol string) (answers []dnsmessage.Resource, found bool) {
	for _, p := range service.Spec.Ports {
		if "_"+p.Name != port || "_"+strings.ToLower(string(p.Protocol)) != protocol {
			continue
		}
		found = true
		target, err := dnsmessage.NewName(service.Name + "." + service.Namespace + ".svc" + domain)
		if err == nil && q.Type == dnsmessage.TypeSRV {
			answers = append(answers, dnsmessage.Resource{
				Header: header(q, dnsmessage.TypeSRV), Body: &dnsmessage.SRVResource{Weight: 100, Port: uint16(p.Port), Target: target},
			})
		}
	}
	return answers, found
}

// endpoint is one address behind a headless Service.
type endpoint struct {
	host    string
	address netip.Addr
}

func (d *directory) endpointsOf(service *corev1.Service) []endpoint {
	slices, err := d.endpoints.EndpointSlices(service.Namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: service.Name}))
	if err != nil {
		return nil
	}
	var list []endpoint
	for _, slice := range slices {
		for _, e := range slice.Endpoints {
			ready := e.Conditions.Ready == nil || *e.Conditions.Ready
			for _, a := range e.Addresses {
				address, err := netip.ParseAddr(a)
				if err != nil || !(ready || service.Spec.PublishNotReadyAddresses) {
					continue
				}
				// Without a hostname, the address names the endpoint.
				host := strings.ReplaceAll(a, ".", "-")
				if e.Hostname != nil {
					host = *e.Hostname
				}
				list = append(list, endpoint{host: host, address: address})
			}
		}
	}
	return list
}

// addressRecord is empty where another kind of record is asked for: the name
// exists, but has none.
func addressRecord(q dnsmessage.Question, address netip.Addr) []dnsmessage.Resource {
	if q.Type != dnsmessage.TypeA && q.Type != dnsmessage.TypeALL || !address.Is4() {
		return nil
	}
	return []dnsmessage.Resource{{Header: header(q, dnsmessage.TypeA), Body: &dnsmessage.AResource{A: address.As4()}}}
}

func header(q dnsmessage.Question, kind dnsmessage.Type) dnsmessage.ResourceHeader {
	return dnsmessage.ResourceHeader{Name: q.Name, Type: kind, Class: dnsmessage.ClassINET, TTL: ttl}
}
