// Package csi is a storage system for tests, with a CSI driver in front of it
// that does at once what clouds take minutes for: snapshots, claims from
// snapshots, clones, group snapshots, filesystem and raw block volumes.
//
// A volume is a sparse file in a pool, an XFS filesystem that is itself a file
// in a loop device. A filesystem volume is an ext4 in such a file, a block
// volume its loop device. A snapshot is a reflink of the file: it takes
// milliseconds however large the volume is, and has what a disk would have
// after a power failure, no more: what a program wrote and did not sync may be
// missing. Loop devices write past the page cache, so that a snapshot has
// nothing to write out first.
//
// A group snapshot freezes the filesystems of all its volumes, makes all
// reflinks and thaws, so that no volume has what another one lacks. A second
// process thaws when the first one dies in between.
//
// Of a block volume's snapshot, it lists where there is data: the holes of a
// file are known.
//
// Everything that the driver knows is in files of the pool, written as a
// whole: it may be ended and started again at any moment. The file of its
// knobs (see Knobs) is read at each call, so that tests can make it slow,
// unwilling or wrong.
//
// What it does not do: other machines (a volume can be used in any access
// mode, by pods of its one node), expansion of existing claims, capacity
// (volumes may promise more than the disk has), encryption, statistics, the
// difference of two snapshots. Of block volumes in a group, nothing holds back
// the writers: their reflinks are made one after another, milliseconds apart,
// while the filesystems of the group are frozen.
package csi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// Name is the driver's name, in classes and in CSINode objects.
const Name = "snap.csi.kubectl-backup.io"

// Options say where a driver keeps its things.
type Options struct {
	// Dir is made as needed. Below it the pool is mounted, and stays
	// mounted after Run: pods use it.
	Dir string
	// Socket is where CSI is spoken.
	Socket string
	// Registration is a socket in the directory that the kubelet watches
	// for plugins. Empty means that no kubelet is to know.
	Registration string
	// Node is the name of the one node.
	Node string
}

// driver serves CSI. Its methods may be called at the same time; two that act
// on the same thing do not, the second is told to come again.
type driver struct {
	spec.UnimplementedIdentityServer
	spec.UnimplementedControllerServer
	spec.UnimplementedGroupControllerServer
	spec.UnimplementedNodeServer
	spec.UnimplementedSnapshotMetadataServer

	pool  *pool
	knobs string
	node  string

	mu   sync.Mutex
	busy map[string]bool
}

// Run serves until the context ends.
func Run(ctx context.Context, o Options) error {
	p, err := openPool(o.Dir)
	if err != nil {
		return err
	}
	d := &driver{pool: p, knobs: KnobsFile(o.Dir), node: o.Node, busy: map[string]bool{}}
	server := grpc.NewServer(grpc.UnaryInterceptor(logCalls))
	spec.RegisterIdentityServer(server, d)
	spec.RegisterControllerServer(server, d)
	spec.RegisterGroupControllerServer(server, d)
	spec.RegisterNodeServer(server, d)
	spec.RegisterSnapshotMetadataServer(server, d)
	listener, err := listen(o.Socket)
	if err != nil {
		return err
	}
	servers, listeners := []*grpc.Server{server}, []net.Listener{listener}
	if o.Registration != "" {
		// Its own server: the kubelet asks there, and calls the other.
		s := grpc.NewServer(grpc.UnaryInterceptor(logCalls))
		registration.RegisterRegistrationServer(s, registrar{socket: o.Socket})
		l, err := listen(o.Registration)
		if err != nil {
			return errors.Join(err, listener.Close())
		}
		servers, listeners = append(servers, s), append(listeners, l)
	}
	slog.Info("serving", "socket", o.Socket, "pool", p.dir)
	ended := make(chan error, len(servers))
	for i, s := range servers {
		go func() { ended <- s.Serve(listeners[i]) }()
	}
	select {
	case <-ctx.Done():
	case err = <-ended:
	}
	for _, s := range servers {
		s.Stop()
	}
	return err
}

// listen takes the place of a socket that an earlier process left.
func listen(socket string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return nil, err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return net.Listen("unix", socket)
}

func logCalls(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	started := time.Now()
	response, err := handler(ctx, request)
	what := fmt.Sprint(request)
	what = what[:min(len(what), 1000)]
	if err != nil {
		slog.Error(info.FullMethod, "request", what, "error", err)
	} else {
		slog.Info(info.FullMethod, "request", what, "took", time.Since(started))
	}
	return response, err
}

// take keeps others from acting on the same thing.
func (d *driver) take(id string) (release func(), err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy[id] {
		return nil, status.Errorf(codes.Aborted, "%s is being worked on; try again", id)
	}
	d.busy[id] = true
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.busy, id)
	}, nil
}

// registrar answers the kubelet's questions about a plugin.
type registrar struct {
	registration.UnimplementedRegistrationServer
	socket string
}

func (r registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{Type: registration.CSIPlugin, Name: Name, Endpoint: r.socket, SupportedVersions: []string{"1.0.0"}}, nil
}

func (r registrar) NotifyRegistrationStatus(_ context.Context, s *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if !s.PluginRegistered {
		slog.Error("the kubelet refuses the driver", "error", s.Error)
	}
	return &registration.RegistrationStatusResponse{}, nil
}

func (d *driver) GetPluginInfo(context.Context, *spec.GetPluginInfoRequest) (*spec.GetPluginInfoResponse, error) {
	return &spec.GetPluginInfoResponse{Name: Name, VendorVersion: "1"}, nil
}

func (d *driver) Probe(context.Context, *spec.ProbeRequest) (*spec.ProbeResponse, error) {
	return &spec.ProbeResponse{}, nil
}

func (d *driver) GetPluginCapabilities(context.Context, *spec.GetPluginCapabilitiesRequest) (*spec.GetPluginCapabilitiesResponse, error) {
	r := &spec.GetPluginCapabilitiesResponse{}
	for _, t := range []spec.PluginCapability_Service_Type{
		spec.PluginCapability_Service_CONTROLLER_SERVICE,
		spec.PluginCapability_Service_GROUP_CONTROLLER_SERVICE,
		spec.PluginCapability_Service_SNAPSHOT_METADATA_SERVICE,
	} {
		r.Capabilities = append(r.Capabilities, &spec.PluginCapability{Type: &spec.PluginCapability_Service_{Service: &spec.PluginCapability_Service{Type: t}}})
	}
	return r, nil
}

// failed is the answer where something that should work did not.
func failed(what string, err error) error {
	if _, ours := status.FromError(err); ours {
		return err
	}
	return status.Error(codes.Internal, fmt.Sprintf("%s: %v", what, err))
}
