// Package objectstore is an S3 server in the caller's process, for tests and
// measurements: requests are signed, objects are files in a folder, and what
// goes in and out is counted. It can be told to fail as servers do: to be
// busy, to refuse, to be full, to cut an upload half-way, and to lock what it
// holds against overwriting and deleting.
//
// It is one bucket without versions, and it does not sync files to the disk.
// What a network does (latency, resets) is for a proxy in front of it.
package objectstore

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/rclone/gofakes3"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Bucket is the one bucket; it is there from the start.
const Bucket = "backups"

// Server is a running server.
type Server struct {
	listener    net.Listener
	http        http.Server
	store       *store
	key, secret string
	ended       chan error

	mu     sync.Mutex
	fault  Fault
	locked bool
	counts Counts
}

// Counts are since the start of the server.
type Counts struct {
	// Requests are all, Refused those that a fault or a lock answered.
	Requests, Refused int
	// Puts, Gets and Deletes are requests for objects; Lists are listings.
	Puts, Gets, Deletes, Lists int
	// BytesIn and BytesOut are of the bodies of requests and answers, what
	// was cut off included.
	BytesIn, BytesOut int64
}

// Start serves a folder, which is made where it is missing, at an address:
// "127.0.0.1:0" takes any port, and what pods shall reach listens at the
// cluster's HostAddress. Objects that the folder holds already are served too.
func Start(dir, address string) (*Server, error) {
	objects, err := openStore(dir)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("object store: %w", err)
	}
	s := &Server{listener: listener, store: objects, key: "key-" + random(6), secret: "secret-" + random(18), ended: make(chan error, 1)}
	s3 := gofakes3.New(objects, gofakes3.WithoutVersioning(), gofakes3.WithV4Auth(map[string]string{s.key: s.secret}), gofakes3.WithIntegrityCheck(true))
	s.http = http.Server{Handler: s.guard(s3.Server()), ReadHeaderTimeout: time.Minute}
	go func() { s.ended <- s.http.Serve(listener) }()
	return s, nil
}

func random(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// Address is where it listens, with the port.
func (s *Server) Address() string { return s.listener.Addr().String() }

// Secret is what must never be seen anywhere but in the remote's configuration.
func (s *Server) Secret() string { return s.secret }

// Close ends all connections and stops listening. The objects stay.
func (s *Server) Close() error {
	err := s.http.Close()
	if serving := <-s.ended; !errors.Is(serving, http.ErrServerClosed) {
		err = errors.Join(err, serving)
	}
	return err
}

// Spec is a remote below a prefix in the bucket, with its credentials.
func (s *Server) Spec(prefix string) v1alpha1.BackupRemoteSpec {
	return s.SpecThrough(s.Address(), prefix)
}

// SpecThrough is the same remote behind a proxy at another address.
func (s *Server) SpecThrough(address, prefix string) v1alpha1.BackupRemoteSpec {
	return v1alpha1.BackupRemoteSpec{Path: "store:" + Bucket + "/" + prefix, Config: map[string]map[string]string{"store": {
		"type": "s3", "provider": "Rclone", "endpoint": "http://" + address, "region": "us-east-1",
		"access_key_id": s.key, "secret_access_key": s.secret,
	}}}
}

// Counts tells what was asked of it so far.
func (s *Server) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts
}

// Stored tells how often each key was written, whole.
func (s *Server) Stored() map[string]int { return s.store.writes() }

// Break makes a fault decide about each request from now on; it replaces an
// earlier one. Nil mends the server.
func (s *Server) Break(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// Lock protects all objects from now on: overwriting and deleting are refused,
// and an upload must carry a checksum.
func (s *Server) Lock() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.locked = true
}

// KeepConnections says whether a connection serves more than one request.
func (s *Server) KeepConnections(yes bool) { s.http.SetKeepAlivesEnabled(yes) }

// Size is how many bytes the objects hold together.
func (s *Server) Size() int64 { return s.store.size() }

// Remove takes an object away, as nobody may through a locked server.
func (s *Server) Remove(ctx context.Context, key string) error {
	_, err := s.store.DeleteObject(ctx, Bucket, key)
	return err
}
