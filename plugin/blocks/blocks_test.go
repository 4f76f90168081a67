package blocks

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
)

// server answers calls, one after the other, with what is given for each.
type server struct {
	mu     sync.Mutex
	asked  []request
	answer func(call int, r request) ([]response, error)
}

// raw passes messages as they are.
type raw struct{}

func (raw) Name() string                    { return "proto" }
func (raw) Marshal(v any) ([]byte, error)   { return v.([]byte), nil }
func (raw) Unmarshal(b []byte, v any) error { *v.(*[]byte) = append([]byte(nil), b...); return nil }
func varint(b []byte, n int, v int64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, protowire.Number(n), protowire.VarintType), uint64(v))
}
func message(b []byte, n int, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, protowire.Number(n), protowire.BytesType), v)
}

func (r *response) encode() []byte {
	b := varint(varint(nil, 1, int64(r.kind)), 2, r.capacity)
	for _, x := range r.ranges {
		b = message(b, 3, varint(varint(nil, 1, x.Offset), 2, x.Length))
	}
	return message(b, 77, []byte("of a later version"))
}

func (s *server) serve(_ any, stream grpc.ServerStream) error {
	var b []byte
	if err := stream.RecvMsg(&b); err != nil {
		return err
	}
	var r request
	for i, text := range []*string{&r.token, &r.namespace, &r.snapshot} {
		number, _, n := protowire.ConsumeTag(b)
		value, m := protowire.ConsumeString(b[n:])
		if int(number) != i+1 {
			return fmt.Errorf("field %d", number)
		}
		*text, b = value, b[n+m:]
	}
	_, _, n := protowire.ConsumeTag(b)
	from, _ := protowire.ConsumeVarint(b[n:])
	r.from = int64(from)
	s.mu.Lock()
	s.asked = append(s.asked, r)
	call := len(s.asked)
	s.mu.Unlock()
	messages, err := s.answer(call, r)
	for _, m := range messages {
		if err := stream.SendMsg(m.encode()); err != nil {
			return err
		}
	}
	return err
}

// start serves, with a certificate of its own, and returns what leads there.
func (s *server) start(t *testing.T) Source {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "array"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	g := grpc.NewServer(grpc.ForceServerCodec(raw{}), grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})))
	g.RegisterService(&grpc.ServiceDesc{ServiceName: "snapshotmetadata.SnapshotMetadata", Streams: []grpc.StreamDesc{{StreamName: "GetMetadataAllocated", Handler: s.serve, ServerStreams: true}}}, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go g.Serve(l)
	t.Cleanup(g.Stop)
	return Source{
		Address: l.Addr().String(), CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Token: "the token", Namespace: "shop", Snapshot: "snap",
	}
}

func init() { firstPause = time.Millisecond }

const mib = 1 << 20

func ranges(pairs ...int64) (all []volume.Extent) {
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, volume.Extent{Offset: pairs[i], Length: pairs[i+1]})
	}
	return all
}

func TestListIsAskedFor(t *testing.T) {
	s := &server{answer: func(int, request) ([]response, error) {
		return []response{
			{variable, 100*mib + 512, ranges(0, 512, 5*mib+1, mib)},
			{variable, 100*mib + 512, nil},
			{variable, 100*mib + 512, ranges(7*mib, 1, 20*mib, 4096, 100*mib, 512)},
		}, nil
	}}
	source := s.start(t)
	got, err := source.Allocated(t.Context())
	require.NoError(t, err)
	require.Equal(t, volume.Allocated{Size: 100*mib + 512, Extents: ranges(0, mib, 5*mib, 3*mib, 20*mib, mib, 100*mib, 512)}, got)
	require.Equal(t, []request{{token: "the token", namespace: "shop", snapshot: "snap"}}, s.asked)

	s.answer = func(int, request) ([]response, error) { return []response{{fixed, mib, nil}}, nil }
	got, err = source.Allocated(t.Context())
	require.NoError(t, err)
	require.Equal(t, volume.Allocated{Size: mib}, got, "nothing was ever written")
}

// TestCutStreamsGoOn: whatever cuts a list in pieces, and where, it becomes the
// same; and a piece may begin before the place from which it was asked for.
func TestCutStreamsGoOn(t *testing.T) {
	const size = 1 << 30
	var all []volume.Extent
	for at := int64(4096); at+3*mib < size; {
		n := 512 + mathrand.Int64N(2*mib)
		all = append(all, volume.Extent{Offset: at, Length: n})
		at += n + mathrand.Int64N(9*mib)
	}
	want := list{}
	want.resume()
	require.NoError(t, want.add(&response{variable, size, all}))
	s := &server{answer: func(_ int, r request) ([]response, error) {
		var out []response
		for i, x := range all {
			if x.Offset+x.Length <= r.from {
				continue
			}
			out = append(out, response{variable, size, all[i : i+1]})
			if mathrand.IntN(40) == 0 {
				if i%2 == 0 { // cut inside of a range
					out[len(out)-1].ranges = ranges(x.Offset, x.Length/2)
				}
				return out, status.Error(codes.Unavailable, "switched off")
			}
		}
		return out, nil
	}}
	source := s.start(t)
	got, err := source.Allocated(t.Context())
	require.NoError(t, err)
	require.Equal(t, want.extents, got.Extents)
	t.Logf("%d ranges in %d streams", len(all), len(s.asked))
}

// TestListsThatAreNotTrusted are an error, never a shorter list.
func TestListsThatAreNotTrusted(t *testing.T) {
	one := func(k kind, capacity int64, pairs ...int64) []response {
		return []response{{k, capacity, ranges(pairs...)}}
	}
	for name, x := range map[string]struct {
		messages []response
		err      error
		says     string
		calls    int
	}{
		"no message":             {nil, nil, "without a word", 1},
		"refused":                {nil, status.Error(codes.PermissionDenied, "not you"), "PermissionDenied: not you", tries},
		"broken for good":        {one(variable, 9*mib, 0, mib), status.Error(codes.Internal, "the disk is on fire"), "the disk is on fire", tries + 1},
		"of no kind":             {one(0, mib, 0, 512), nil, "unknown kind 0", 1},
		"of a new kind":          {one(3, mib, 0, 512), nil, "unknown kind 3", 1},
		"of no size":             {one(variable, 0, 0, 512), nil, "a volume of 0 bytes", 1},
		"a range behind the end": {one(variable, mib, 0, 512, 4096, mib), nil, "not inside of a volume", 1},
		"a range before it":      {one(variable, mib, -1, 512), nil, "not inside of a volume", 1},
		"a range of no bytes":    {one(variable, mib, 4096, 0), nil, "not inside of a volume", 1},
		"more than can be added": {one(variable, mib, 4096, 1<<63-1), nil, "not inside of a volume", 1},
		"descending":             {one(variable, mib, 8192, 512, 4096, 512), nil, "come after byte 8704", 1},
		"overlapping":            {one(variable, mib, 4096, 4096, 8000, 512), nil, "come after byte 8192", 1},
		"overlapping in another": {append(one(variable, mib, 4096, 4096), one(variable, mib, 0, 512)...), nil, "come after byte 8192", 1},
		"of another size, later": {append(one(variable, mib, 0, 512), one(variable, 2*mib, 4096, 512)...), nil, "and then of kind 2", 1},
		"of another kind, later": {append(one(variable, mib, 0, 512), one(fixed, mib, 4096, 512)...), nil, "and then of kind 1", 1},
		"fixed and then larger":  {one(fixed, mib, 0, 512, 4096, 1024), nil, "fixed length 512", 1},
		"fixed and then smaller": {one(fixed, mib, 0, 512, 4096, 256), nil, "fixed length 512", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &server{answer: func(call int, _ request) ([]response, error) {
				if call > 1 && x.err != nil {
					return nil, x.err
				}
				return x.messages, x.err
			}}
			source := s.start(t)
			_, err := source.Allocated(t.Context())
			require.ErrorContains(t, err, x.says)
			require.NotContains(t, err.Error(), source.Token)
			require.Len(t, s.asked, x.calls)
		})
	}
	t.Run("goes back", func(t *testing.T) {
		t.Parallel()
		s := &server{answer: func(int, request) ([]response, error) {
			return one(variable, 9*mib, 0, mib), status.Error(codes.Aborted, "again")
		}}
		source := s.start(t)
		_, err := source.Allocated(t.Context())
		require.ErrorContains(t, err, "come after byte 1048576")
	})
	t.Run("the last block is short", func(t *testing.T) {
		t.Parallel()
		s := &server{answer: func(int, request) ([]response, error) {
			return one(fixed, 2*mib+512, 0, mib, 2*mib, 512), nil
		}}
		source := s.start(t)
		got, err := source.Allocated(t.Context())
		require.NoError(t, err)
		require.Equal(t, ranges(0, mib, 2*mib, 512), got.Extents)
	})
}

// TestServicesThatAreNotTrusted: nobody else gets the token.
func TestServicesThatAreNotTrusted(t *testing.T) {
	s := &server{answer: func(int, request) ([]response, error) { return []response{{variable, mib, nil}}, nil }}
	source, other := s.start(t), (&server{}).start(t)
	for says, change := range map[string]func(*Source){
		"certificate":        func(x *Source) { x.CA = other.CA },
		"no PEM":             func(x *Source) { x.CA = []byte("none") },
		"no host and port":   func(x *Source) { x.Address = "array" },
		"connection refused": func(x *Source) { x.Address = "127.0.0.1:9" },
	} {
		t.Run(says, func(t *testing.T) {
			t.Parallel()
			changed := source
			change(&changed)
			_, err := changed.Allocated(t.Context())
			require.ErrorContains(t, err, says)
			require.Empty(t, s.asked)
		})
	}
}
