package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// Each cluster has a network 10.<n>.0.0/16 of its own: pods in its lower
// half, Services in its upper half. One local route for the upper half lets
// the process "services" listen on each Service's address (see package
// services), and marks the number as taken.

func podNetwork(n int) string     { return fmt.Sprintf("10.%d.0.0/16", n) }
func podRangeEnd(n int) string    { return fmt.Sprintf("10.%d.127.254", n) }
func serviceNetwork(n int) string { return fmt.Sprintf("10.%d.128.0/17", n) }
func serverAddress(n int) string  { return fmt.Sprintf("10.%d.128.1", n) }
func dnsAddress(n int) string     { return fmt.Sprintf("10.%d.128.10", n) }

// HostAddress is an address of this machine that pods reach and that test
// servers may listen on. No Service gets it: it lies in the part of the range
// that the API server keeps for those who ask for an address by name.
func (c *Cluster) HostAddress() string { return fmt.Sprintf("10.%d.128.200", c.state.Network) }

// reserveAddresses finds ports and a network that nobody uses.
func (c *Cluster) reserveAddresses(ctx context.Context) error {
	if err := c.reservePorts(); err != nil {
		return err
	}
	for n := 64; n < 128; n++ {
		routes, err := output(ctx, "ip", "-4", "route", "show", "table", "all")
		if err != nil {
			return err
		}
		taken := slices.ContainsFunc(strings.Fields(string(routes)), func(word string) bool {
			return strings.HasPrefix(word, fmt.Sprintf("10.%d.", n))
		})
		if taken {
			continue
		}
		// Written down first: a crash between the two must leave no
		// route that nobody knows of.
		c.state.Network = n
		if err := c.saveState(); err != nil {
			return err
		}
		_, err = output(ctx, "ip", "route", "add", "local", serviceNetwork(n), "dev", "lo")
		if err == nil {
			return nil
		}
		if !strings.Contains(err.Error(), "File exists") {
			return err
		}
		// The other cluster was quicker.
		c.state.Network = 0
	}
	return errors.New("no network 10.64.0.0/16 to 10.127.0.0/16 is free")
}

// reservePorts picks the ports of the cluster's own servers.
func (c *Cluster) reservePorts() error {
	wanted := []*int{
		&c.state.Ports.EtcdClient, &c.state.Ports.EtcdPeer, &c.state.Ports.APIServer,
		&c.state.Ports.ControllerManager, &c.state.Ports.Scheduler, &c.state.Ports.Kubelet,
		&c.state.Ports.Metadata, &c.state.Ports.MetadataHealth,
	}
	ports, err := c.freePorts(len(wanted))
	for n, port := range ports {
		*wanted[n] = port
	}
	return err
}

// freePorts finds ports below the range that the kernel gives to outgoing
// connections, so that a port is still free when a server is started again.
func (c *Cluster) freePorts(n int) (ports []int, err error) {
	// Each cluster begins its search elsewhere: two that start at the same
	// time do not meet.
	first := 20000
	for _, b := range []byte(c.paths.controlGroup) {
		first = 20000 + (first*31+int(b))%12000
	}
	for port := first + 1; len(ports) < n; port++ {
		if port >= first+600 {
			return nil, fmt.Errorf("no free ports between %d and %d", first, port)
		}
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		if err := listener.Close(); err != nil {
			return nil, err
		}
		ports = append(ports, port)
	}
	return ports, nil
}

// releaseNetwork removes the route and waits until the pods' interfaces are
// gone, which the kernel removes some time after their network namespaces.
func releaseNetwork(ctx context.Context, n int) error {
	if n == 0 {
		return nil
	}
	if _, err := output(ctx, "ip", "route", "del", "local", serviceNetwork(n), "dev", "lo"); err != nil &&
		!strings.Contains(err.Error(), "No such process") {
		return err
	}
	return WaitFor(ctx, 30*time.Second, "the pods' interfaces are gone", func(ctx context.Context) error {
		routes, err := output(ctx, "ip", "-4", "route", "show", "table", "all")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(routes)) {
			if strings.Contains(line, fmt.Sprintf("10.%d.", n)) && strings.Contains(line, " veth") {
				return errors.New(strings.TrimSpace(line))
			}
		}
		return nil
	})
}
