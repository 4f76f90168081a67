package csi

import (
	"io"
	"os"
	"slices"
	"testing"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
)

// listed reads a whole listing.
func (d *testDriver) listed(r *spec.GetMetadataAllocatedRequest) (all []extent, kind spec.BlockMetadataType, err error) {
	d.t.Helper()
	stream, err := d.GetMetadataAllocated(d.t.Context(), r)
	for err == nil {
		var m *spec.GetMetadataAllocatedResponse
		if m, err = stream.Recv(); err != nil {
			break
		}
		if m.VolumeCapacityBytes != testSize || r.MaxResults > 0 && len(m.BlockMetadata) > int(r.MaxResults) {
			d.t.Errorf("a message of %d bytes with %d ranges", m.VolumeCapacityBytes, len(m.BlockMetadata))
		}
		kind = m.BlockMetadataType
		for _, b := range m.BlockMetadata {
			all = append(all, extent{b.ByteOffset, b.SizeBytes})
		}
	}
	if err == io.EOF {
		err = nil
	}
	return all, kind, err
}

func TestAllocatedBlocks(t *testing.T) {
	d := startDriver(t)
	id := d.create("disk", testSize, device(), nil)
	path := d.use(id, device())
	f, err := os.OpenFile(path, os.O_RDWR|os.O_SYNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := []extent{{0, 4096}, {1 << 20, 8192}, {testSize - 4096, 4096}}
	for _, x := range want {
		b := make([]byte, x.size)
		b[0] = 1
		if _, err := f.WriteAt(b, x.at); err != nil {
			t.Fatal(err)
		}
	}
	before := d.snapshot("before", id).SnapshotId
	if _, err := f.WriteAt([]byte("later"), 8<<20); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	d.leave(id)
	check := func(what string, r *spec.GetMetadataAllocatedRequest, kind spec.BlockMetadataType, want ...extent) {
		t.Helper()
		r.SnapshotId = before
		got, of, err := d.listed(r)
		if err != nil || of != kind || !slices.Equal(got, want) {
			t.Errorf("%s: %v of kind %v, %v; want %v", what, got, of, err, want)
		}
	}
	const variable, fixed = spec.BlockMetadataType_VARIABLE_LENGTH, spec.BlockMetadataType_FIXED_LENGTH
	check("all", &spec.GetMetadataAllocatedRequest{}, variable, want...)
	check("one by one", &spec.GetMetadataAllocatedRequest{MaxResults: 1}, variable, want...)
	check("from inside of a range", &spec.GetMetadataAllocatedRequest{StartingOffset: 1<<20 + 4096}, variable, extent{1<<20 + 4096, 4096}, want[2])
	check("from the end", &spec.GetMetadataAllocatedRequest{StartingOffset: testSize}, variable)

	knobs := func(k Knobs) {
		t.Helper()
		if err := SetKnobs(d.dir, k); err != nil {
			t.Fatal(err)
		}
	}
	knobs(Knobs{MetadataBlock: 1 << 20})
	check("in blocks", &spec.GetMetadataAllocatedRequest{}, fixed, extent{0, 1 << 20}, extent{1 << 20, 1 << 20}, extent{testSize - 1<<20, 1 << 20})
	for name, k := range map[string]Knobs{"after two": {MetadataRanges: 2}, "at a byte": {MetadataEnd: 2 << 20}} {
		knobs(k)
		got, _, err := d.listed(&spec.GetMetadataAllocatedRequest{SnapshotId: before})
		wantCode(t, "broken off "+name, err, codes.Unavailable)
		if !slices.Equal(got, want[:2]) {
			t.Errorf("broken off %s: %v", name, got)
		}
	}
	knobs(Knobs{})
	for what, r := range map[codes.Code]*spec.GetMetadataAllocatedRequest{
		codes.InvalidArgument: {},
		codes.NotFound:        {SnapshotId: "snapshot-" + "00000000000000000000"},
		codes.OutOfRange:      {SnapshotId: before, StartingOffset: testSize + 1},
	} {
		_, _, err := d.listed(r)
		wantCode(t, what.String(), err, what)
	}
}
