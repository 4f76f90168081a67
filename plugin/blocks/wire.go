package blocks

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
)

// The two messages of the one call that is used, as external-snapshot-metadata's
// schema.proto defines them. They are written out here since its module brings
// the whole of a sidecar with it.
const method = "/snapshotmetadata.SnapshotMetadata/GetMetadataAllocated"

// kind is how the ranges of a list are cut.
type kind int32

const (
	fixed    kind = 1 // blocks of one length
	variable kind = 2
)

// request is GetMetadataAllocatedRequest.
type request struct {
	token, namespace, snapshot string // fields 1 to 3
	from                       int64  // 4: starting_offset
	most                       int32  // 5: max_results
}

func (r *request) encode() []byte {
	var b []byte
	for i, s := range []string{r.token, r.namespace, r.snapshot} {
		b = protowire.AppendTag(b, protowire.Number(i+1), protowire.BytesType)
		b = protowire.AppendString(b, s)
	}
	for i, n := range []int64{r.from, int64(r.most)} {
		b = protowire.AppendTag(b, protowire.Number(i+4), protowire.VarintType)
		b = protowire.AppendVarint(b, uint64(n))
	}
	return b
}

// response is GetMetadataAllocatedResponse.
type response struct {
	kind     kind            // 1: block_metadata_type
	capacity int64           // 2: volume_capacity_bytes
	ranges   []volume.Extent // 3: block_metadata
}

func (r *response) decode(b []byte) error {
	return fields(b, func(number protowire.Number, n uint64, inner []byte) error {
		switch number {
		case 1:
			r.kind = kind(n)
		case 2:
			r.capacity = int64(n)
		case 3:
			var x volume.Extent
			err := fields(inner, func(number protowire.Number, n uint64, _ []byte) error {
				switch number {
				case 1:
					x.Offset = int64(n)
				case 2:
					x.Length = int64(n)
				}
				return nil
			})
			if err != nil {
				return err
			}
			r.ranges = append(r.ranges, x)
		}
		return nil
	})
}

// wireTypes are those of the fields that are known, by their numbers: of a
// message, and of a range in it.
var wireTypes = [...]protowire.Type{1: protowire.VarintType, 2: protowire.VarintType, 3: protowire.BytesType}

// fields calls each for the fields of a message that are of a known number.
// Others are of later versions.
func fields(b []byte, each func(number protowire.Number, n uint64, inner []byte) error) error {
	for len(b) > 0 {
		number, of, size := protowire.ConsumeTag(b)
		if size < 0 {
			return protowire.ParseError(size)
		}
		b = b[size:]
		if int(number) >= len(wireTypes) {
			if size = protowire.ConsumeFieldValue(number, of, b); size < 0 {
				return protowire.ParseError(size)
			}
			b = b[size:]
			continue
		}
		if of != wireTypes[number] {
			return fmt.Errorf("field %d is of the type %d", number, of)
		}
		var n uint64
		var inner []byte
		if of == protowire.VarintType {
			n, size = protowire.ConsumeVarint(b)
		} else {
			inner, size = protowire.ConsumeBytes(b)
		}
		if size < 0 {
			return protowire.ParseError(size)
		}
		if err := each(number, n, inner); err != nil {
			return err
		}
		b = b[size:]
	}
	return nil
}

// wire encodes the messages for gRPC.
type wire struct{}

func (wire) Name() string { return "proto" }

func (wire) Marshal(v any) ([]byte, error) {
	r, ok := v.(*request)
	if !ok {
		return nil, fmt.Errorf("%T is no request", v)
	}
	return r.encode(), nil
}

func (wire) Unmarshal(b []byte, v any) error {
	r, ok := v.(*response)
	if !ok {
		return fmt.Errorf("%T is no response", v)
	}
	return r.decode(b)
}
