package repository

import (
	"context"
	"encoding/json"
	"sync"

	"github.com/kopia/kopia/repo/object"
)

const (
	// largestPiece is the largest part of a file that is one content.
	largestPiece = 8 << 20
	// pieceSplitter leaves a piece whole.
	pieceSplitter = "FIXED-8M"
	// largeHole is the hole that is stored as a reference to zeros. Smaller
	// ones are stored as zeros between the data, which compress to nothing:
	// that keeps the number of parts of a file down.
	largeHole = 1 << 20
	// readPiece is how much is read at once.
	readPiece = 1 << 20
)

// store puts contents into the repository, from many goroutines.
type store struct {
	ctx     context.Context
	relay   *relay
	slots   chan struct{} // taken by each piece under way, which bounds the memory
	buffers sync.Pool
	zeros   zeros
}

func newStore(ctx context.Context, r *relay, parallel int) *store {
	return &store{
		ctx: ctx, relay: r, slots: make(chan struct{}, parallel),
		buffers: sync.Pool{New: func() any { b := make([]byte, 0, largestPiece); return &b }},
	}
}

// object stores bytes as one object.
func (s *store) object(description string, b []byte) (id object.ID, err error) {
	comp := compressor
	if !compressible(b) {
		comp = ""
	}
	err = s.relay.use(func(w writer) error {
		out := w.NewObjectWriter(s.ctx, object.WriterOptions{
			Description: description, Compressor: comp, MetadataCompressor: compressor, Splitter: pieceSplitter,
		})
		defer out.Close()
		if _, err := out.Write(b); err != nil {
			return err
		}
		id, err = out.Result()
		return err
	})
	return id, err
}

// index stores the list of the pieces of an object, as kopia does, and returns
// the id of the object.
func (s *store) index(entries []object.IndirectObjectEntry) (id object.ID, err error) {
	err = s.relay.use(func(w writer) error {
		out := w.NewObjectWriter(s.ctx, object.WriterOptions{
			Description: "pieces", Prefix: "x", Compressor: compressor, MetadataCompressor: compressor, Splitter: fineSplitter,
		})
		defer out.Close()
		err := json.NewEncoder(out).Encode(struct {
			Stream  string                       `json:"stream"`
			Entries []object.IndirectObjectEntry `json:"entries"`
		}{"kopia:indirect", entries})
		if err != nil {
			return err
		}
		list, err := out.Result()
		if err != nil {
			return err
		}
		id, err = object.ParseID("I" + list.String())
		return err
	})
	return id, err
}

// compressible looks at samples of b: where all bytes are about as frequent
// nothing is to be gained.
func compressible(b []byte) bool {
	const samples, length = 16, 512
	if len(b) < 4*samples*length {
		return true
	}
	var counts [256]int
	step := len(b) / samples
	for i := range samples {
		for _, c := range b[i*step : i*step+length] {
			counts[c]++
		}
	}
	const n = samples * length
	var squares int
	for _, c := range counts {
		squares += c * c
	}
	// Of random bytes it is n*n/256 + n, within about 3 percent.
	return squares > (n*n/256+n)*106/100
}

// pieces stores one large file as it arrives: data in pieces that are stored
// beside, and between them references to zeros. It is a volume.Sink.
type pieces struct {
	s   *store
	cut cutter
	buf []byte // the piece that is filled
	at  int64  // where it begins

	pending sync.WaitGroup
	mu      sync.Mutex
	entries []object.IndirectObjectEntry
	err     error
}

// cutter finds where pieces end. next returns the number of bytes up to the
// end of a piece, or -1 if it does not end in b; begin says that a piece begins
// at an offset although none ended there.
type cutter interface {
	next(b []byte) int
	begin(at int64)
}

func (s *store) pieces(c cutter) *pieces { return &pieces{s: s, cut: c} }

// Buffer returns where the next bytes go.
func (p *pieces) Buffer() []byte {
	if p.buf == nil {
		p.buf = (*p.s.buffers.Get().(*[]byte))[:0]
	}
	n := len(p.buf)
	return p.buf[n:min(n+readPiece, cap(p.buf))]
}

// Filled takes the first n bytes of the buffer.
func (p *pieces) Filled(n int) error {
	seen := len(p.buf)
	p.buf = p.buf[:seen+n]
	for {
		end := p.cut.next(p.buf[seen:])
		if end < 0 {
			return p.failure()
		}
		if err := p.emit(seen + end); err != nil {
			return err
		}
		seen = 0
	}
}

func (p *pieces) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// emit makes the first n bytes a piece of their own, to be stored beside.
func (p *pieces) emit(n int) error {
	b := p.buf
	p.buf = nil
	if rest := b[n:]; len(rest) > 0 {
		p.Buffer()
		p.buf = append(p.buf, rest...)
	}
	b = b[:n]
	select {
	case p.s.slots <- struct{}{}:
	case <-p.s.ctx.Done():
		return context.Cause(p.s.ctx)
	}
	p.mu.Lock()
	i := len(p.entries)
	p.entries = append(p.entries, object.IndirectObjectEntry{Start: p.at, Length: int64(n)})
	p.mu.Unlock()
	p.at += int64(n)
	p.pending.Go(func() {
		id, err := p.s.object("file", b)
		b = b[:0]
		p.s.buffers.Put(&b)
		<-p.s.slots
		p.mu.Lock()
		defer p.mu.Unlock()
		p.entries[i].Object = id
		if p.err == nil {
			p.err = err
		}
	})
	return p.failure()
}

// data takes bytes that are not in the buffer yet.
func (p *pieces) data(b []byte) error {
	for len(b) > 0 {
		n := copy(p.Buffer(), b)
		if err := p.Filled(n); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// Hole takes n zeros.
func (p *pieces) Hole(n int64) error {
	if n < largeHole {
		for n > 0 {
			b := p.Buffer()
			b = b[:min(int64(len(b)), n)]
			clear(b)
			if err := p.Filled(len(b)); err != nil {
				return err
			}
			n -= int64(len(b))
		}
		return nil
	}
	if len(p.buf) > 0 {
		if err := p.emit(len(p.buf)); err != nil {
			return err
		}
	}
	defer func() { p.cut.begin(p.at) }()
	return p.s.zeros.each(p.s, n, func(id object.ID, length int64) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.entries = append(p.entries, object.IndirectObjectEntry{Start: p.at, Length: length, Object: id})
		p.at += length
	})
}

// finish stores what is left and returns the object.
func (p *pieces) finish() (object.ID, error) {
	if len(p.entries) == 0 {
		id, err := p.s.object("file", p.buf)
		p.release()
		return id, err
	}
	var err error
	if len(p.buf) > 0 {
		err = p.emit(len(p.buf))
	}
	p.release()
	p.pending.Wait()
	if err == nil {
		err = p.err
	}
	switch {
	case err != nil:
		return object.EmptyID, err
	case len(p.entries) == 1:
		return p.entries[0].Object, nil
	}
	return p.s.index(p.entries)
}

func (p *pieces) release() {
	if b := p.buf; b != nil {
		p.buf = nil
		p.s.buffers.Put(&b)
	}
}

// zeros are objects of nothing but zeros, of which holes are made.
type zeros struct {
	mu  sync.Mutex
	ids map[int64]object.ID
}

// each calls add with objects that together are n zeros.
func (z *zeros) each(s *store, n int64, add func(object.ID, int64)) error {
	for n > 0 {
		length := min(n, largestPiece)
		id, err := z.object(s, length)
		if err != nil {
			return err
		}
		add(id, length)
		n -= length
	}
	return nil
}

func (z *zeros) object(s *store, length int64) (object.ID, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if id, ok := z.ids[length]; ok {
		return id, nil
	}
	id, err := s.object("zeros", make([]byte, length))
	if err == nil && len(z.ids) < 1000 {
		if z.ids == nil {
			z.ids = map[int64]object.ID{}
		}
		z.ids[length] = id
	}
	return id, err
}

// Pieces of files are cut where their content says so, so that what is
// inserted into a file moves the data that follows without changing its
// pieces: after two MiB, where a hash of the last 64 bytes has 21 zero bits,
// which is 4 MiB on average, and at the latest after eight.
const (
	shortestPiece = 2 << 20
	gearBits      = 21
	gearMask      = (1<<gearBits - 1) << (64 - gearBits)
)

// gear is a hash that forgets: each byte shifts the ones before it out.
type gear struct {
	hash  uint64
	count int
}

var gearTable = func() (table [256]uint64) {
	// Any fixed numbers do, as long as they never change: splitmix64 from 0.
	var state uint64
	for i := range table {
		state += 0x9e3779b97f4a7c15
		x := state
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		table[i] = x ^ x>>31
	}
	return table
}()

func (g *gear) next(b []byte) int {
	at := 0
	if skip := shortestPiece - 64 - g.count; skip > 0 {
		at = min(skip, len(b))
		g.count += at
	}
	hash := g.hash
	end := min(len(b), at+largestPiece-g.count)
	for i, c := range b[at:end] {
		hash = hash<<1 + gearTable[c]
		if hash&gearMask == 0 && g.count+i+1 >= shortestPiece {
			*g = gear{}
			return at + i + 1
		}
	}
	g.count += end - at
	if g.count == largestPiece {
		*g = gear{}
		return end
	}
	g.hash = hash
	return -1
}

func (g *gear) begin(int64) { *g = gear{} }

// blockLength is the length of the blocks that a device of that size is stored
// in: so that a change costs little, and the list of blocks fits into memory.
func blockLength(size int64) int {
	switch {
	case size <= 256<<30:
		return 1 << 20
	case size <= 2<<40:
		return 4 << 20
	}
	return largestPiece
}

// blocks cuts at multiples of a fixed length.
type blocks struct{ length, count int }

func (f *blocks) begin(at int64) { f.count = int(at % int64(f.length)) }

func (f *blocks) next(b []byte) int {
	if left := f.length - f.count; len(b) >= left {
		f.count = 0
		return left
	}
	f.count += len(b)
	return -1
}
