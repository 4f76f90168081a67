package repository

import (
	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/object"
)

const (
	// largeHole is the hole that is stored as a reference to zeros. Smaller
	// ones are stored as zeros between the data, which compress to nothing:
	// that keeps the number of parts of a file down.
	largeHole = 1 << 20
	// zeroBlock is the content of zeros that all holes refer to.
	zeroBlock = 8 << 20
)

// extents stores a large file as it arrives: stretches of data, each written
// in the usual way, and between them references to zeros.
type extents struct {
	t     *treeWriter
	parts []object.ID
	out   object.Writer
}

func (x *extents) data(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if x.out == nil {
		x.out = x.t.w.NewObjectWriter(x.t.ctx, object.WriterOptions{
			Description: "file", Compressor: compressor, MetadataCompressor: compressor, AsyncWrites: x.t.async,
		})
	}
	_, err := x.out.Write(b)
	return err
}

func (x *extents) hole(n int64) error {
	if n < largeHole {
		return x.t.zeros.each(n, x.data)
	}
	if err := x.endData(); err != nil {
		return err
	}
	ids, err := x.t.zeros.objects(x.t, n)
	x.parts = append(x.parts, ids...)
	return err
}

func (x *extents) endData() error {
	if x.out == nil {
		return nil
	}
	id, err := x.out.Result()
	x.parts = append(x.parts, id)
	x.out.Close()
	x.out = nil
	return err
}

func (x *extents) finish() (object.ID, error) {
	if err := x.endData(); err != nil {
		return object.EmptyID, err
	}
	return x.t.w.ConcatenateObjects(x.t.ctx, x.parts, repo.ConcatenateOptions{Compressor: compressor})
}

// zeros are objects of nothing but zeros, in lengths of the block times each
// power of two: a few of them make up any hole, and kopia joins them by their
// indexes without reading them.
type zeros struct {
	powers []object.ID
	rest   map[int64]object.ID
}

// each calls write with n zeros in pieces.
func (z *zeros) each(n int64, write func([]byte) error) error {
	for n > 0 {
		b := zeroBytes[:min(n, int64(len(zeroBytes)))]
		if err := write(b); err != nil {
			return err
		}
		n -= int64(len(b))
	}
	return nil
}

var zeroBytes [256 << 10]byte

// objects returns objects that together are n zeros.
func (z *zeros) objects(t *treeWriter, n int64) ([]object.ID, error) {
	var ids []object.ID
	blocks := n / zeroBlock
	for power := 0; blocks>>power > 0; power++ {
		if power == len(z.powers) {
			id, err := z.double(t)
			if err != nil {
				return nil, err
			}
			z.powers = append(z.powers, id)
		}
		if blocks>>power&1 == 1 {
			ids = append(ids, z.powers[power])
		}
	}
	if rest := n % zeroBlock; rest > 0 {
		id, ok := z.rest[rest]
		if !ok {
			var err error
			if id, err = z.block(t, rest); err != nil {
				return nil, err
			}
			if len(z.rest) < 1000 {
				if z.rest == nil {
					z.rest = map[int64]object.ID{}
				}
				z.rest[rest] = id
			}
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func (z *zeros) double(t *treeWriter) (object.ID, error) {
	if len(z.powers) == 0 {
		return z.block(t, zeroBlock)
	}
	half := z.powers[len(z.powers)-1]
	return t.w.ConcatenateObjects(t.ctx, []object.ID{half, half}, repo.ConcatenateOptions{Compressor: compressor})
}

// block stores n zeros as one content.
func (z *zeros) block(t *treeWriter, n int64) (object.ID, error) {
	out := t.w.NewObjectWriter(t.ctx, object.WriterOptions{
		Description: "zeros", Compressor: compressor, MetadataCompressor: compressor, Splitter: "FIXED-8M",
	})
	defer out.Close()
	if err := z.each(n, func(b []byte) error { _, err := out.Write(b); return err }); err != nil {
		return object.EmptyID, err
	}
	return out.Result()
}
