// Package blocks asks a storage system which blocks of a snapshot hold data. It
// speaks to the SnapshotMetadata service that the sidecar csi-snapshot-metadata
// of Kubernetes' CSI offers beside a driver.
//
// A list that is not as the service promises, or not whole, is an error: who
// skipped what is missing in one would lose it. A stream that was cut goes on
// behind what came of it.
//
// It only asks what is allocated, not what two snapshots differ in: that a
// block is unchanged is found by its content, which needs no older snapshot to
// be kept in the storage.
package blocks

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
)

const (
	// silence is how long the service may say nothing.
	silence = time.Minute
	// tries is how often it is asked from the same place on.
	tries = 4
	// atOnce is how many ranges it shall put into one message, and largest how
	// many bytes such a message may have, should it put in more.
	atOnce  = 4096
	largest = 64 << 20
)

// firstPause is the wait before the service is asked again; it doubles. Tests
// shorten it.
var firstPause = time.Second

// Source is where the blocks of a snapshot are listed, and the right to ask.
type Source struct {
	// Address is host and port, and CA the authorities for its certificate, as
	// PEM.
	Address string `json:"address"`
	CA      []byte `json:"ca"`
	// Token is of a service account that may get the snapshots of the namespace,
	// for the audience of the service.
	Token     string `json:"token"`
	Namespace string `json:"namespace"`
	Snapshot  string `json:"snapshot"`
}

// Allocated lists what the snapshot holds. It goes on where a stream is cut,
// and gives up when it does not get on.
func (s *Source) Allocated(ctx context.Context) (volume.Allocated, error) {
	host, _, err := net.SplitHostPort(s.Address)
	if err != nil {
		return volume.Allocated{}, fmt.Errorf("the address %q of the service has no host and port: %w", s.Address, err)
	}
	authorities := x509.NewCertPool()
	if !authorities.AppendCertsFromPEM(s.CA) {
		return volume.Allocated{}, errors.New("the certificate authorities of the service are no PEM")
	}
	conn, err := grpc.NewClient("dns:///"+s.Address,
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: authorities, ServerName: host, MinVersion: tls.VersionTLS12})),
		grpc.WithNoProxy(), // those of the environment are for the remote
		grpc.WithDefaultCallOptions(grpc.ForceCodec(wire{}), grpc.MaxCallRecvMsgSize(largest)))
	if err != nil {
		return volume.Allocated{}, fmt.Errorf("service at %s: %w", s.Address, err)
	}
	defer conn.Close()
	var l list
	pause := firstPause
	for n := 1; ; n++ {
		before := l.end
		err := s.ask(ctx, conn, &l)
		if err == nil {
			return l.allocated()
		}
		if l.end > before {
			n, pause = 0, firstPause
		}
		if n == tries || ctx.Err() != nil || errors.Is(err, errMalformed) {
			return volume.Allocated{}, fmt.Errorf("service at %s: %w", s.Address, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
			pause *= 2
		}
	}
}

// ask reads one stream to its end, from where the last one was cut.
func (s *Source) ask(ctx context.Context, conn *grpc.ClientConn, l *list) error {
	errSilent := fmt.Errorf("it said nothing for %s", silence)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer timer.Stop()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method)
	if err == nil {
		err = stream.SendMsg(&request{token: s.Token, namespace: s.Namespace, snapshot: s.Snapshot, from: l.resume(), most: atOnce})
	}
	if err == nil || err == io.EOF { // the reason comes with the answer
		err = stream.CloseSend()
	}
	for err == nil {
		var r response
		if err = stream.RecvMsg(&r); err == nil {
			timer.Reset(silence)
			err = l.add(&r)
		}
	}
	switch cause := context.Cause(ctx); {
	case err == io.EOF: // it ended with the status OK
		return nil
	case errors.Is(err, errMalformed):
		return err
	case cause != nil:
		return cause
	}
	answer := status.Convert(err)
	return fmt.Errorf("%s: %s", answer.Code(), answer.Message())
}
