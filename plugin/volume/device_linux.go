package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Device is an open block device, or a file that is the image of one.
type Device struct {
	f     *os.File
	path  string
	size  int64
	block bool
	// limited says that only these extents hold data.
	limited bool
	extents []Extent
}

// OpenDevice opens a device or an image. Opening one for writing fails where
// something else uses it.
func OpenDevice(path string, write bool) (*Device, error) {
	flags := unix.O_RDONLY
	if write {
		flags = unix.O_WRONLY
	}
	f, err := os.OpenFile(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open device: %w", err)
	}
	d := &Device{f: f, path: path}
	st, err := statFD(int(f.Fd()))
	if err == nil {
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
		case unix.S_IFBLK:
			d.block = true
		default:
			err = fmt.Errorf("it is a %s, not a block device", st.kind())
		}
	}
	if err == nil {
		d.size, err = f.Seek(0, io.SeekEnd)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("device %s: %w", path, err), f.Close())
	}
	return d, nil
}

// Size is in bytes.
func (d *Device) Size() int64 { return d.size }

// Close closes it.
func (d *Device) Close() error { return d.f.Close() }

// ReadAt is that of io.ReaderAt, and WriteAt that of io.WriterAt.
func (d *Device) ReadAt(b []byte, at int64) (int, error)  { return d.f.ReadAt(b, at) }
func (d *Device) WriteAt(b []byte, at int64) (int, error) { return d.f.WriteAt(b, at) }

// Fit makes sure that there is room for size bytes. An image grows, a device
// cannot.
func (d *Device) Fit(size int64) error {
	switch {
	case d.size >= size:
		return nil
	case d.block:
		return fmt.Errorf("device %s has %d bytes and the backup is of one with %d: nothing was written; hint: ask for a larger volume", d.path, d.size, size)
	}
	if err := d.f.Truncate(size); err != nil {
		return fmt.Errorf("image %s: %w", d.path, err)
	}
	d.size = size
	return nil
}

// Sync waits until what was written is on the device.
func (d *Device) Sync() error {
	if err := d.f.Sync(); err != nil {
		return fmt.Errorf("device %s: %w", d.path, err)
	}
	return nil
}

// Data calls each for the stretches that may hold data, in order, without the
// holes that the file system of an image knows. A block device does not tell
// its holes: it is one stretch, unless Limit said where it holds data.
func (d *Device) Data(each func(Extent) error) error {
	if d.limited {
		for _, x := range d.extents {
			if err := each(x); err != nil {
				return err
			}
		}
		return nil
	}
	for at := int64(0); at < d.size; {
		data, err := unix.Seek(int(d.f.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return nil
		}
		if err != nil {
			return each(Extent{at, d.size - at})
		}
		hole, err := unix.Seek(int(d.f.Fd()), data, unix.SEEK_HOLE)
		if err != nil || hole <= data {
			hole = d.size
		}
		hole = min(hole, d.size)
		if hole > data {
			if err := each(Extent{data, hole - data}); err != nil {
				return err
			}
		}
		at = max(hole, data)
	}
	return nil
}

const (
	// samples is how many stretches of a device are read of what is said to
	// hold nothing, and sampleSize how long each is.
	samples    = 64
	sampleSize = 64 << 10
)

// Limit makes Data tell only what a storage system says to be allocated, and
// returns how many bytes were read to check that. An error says why that cannot
// be true of this device, which stays as it was: it is out of order, or not all
// zeros where nothing is said to be. Not all is looked at; what a listing leaves
// out at large is found.
func (d *Device) Limit(a Allocated) (read int64, err error) {
	extents, err := a.of(d.size)
	if err != nil {
		return 0, err
	}
	b := make([]byte, sampleSize)
	for _, at := range sample(gaps(extents, d.size)) {
		n, err := d.f.ReadAt(b[:min(at.Length, sampleSize)], at.Offset)
		read += int64(n)
		if err != nil {
			return read, fmt.Errorf("read device %s at byte %d: %w", d.path, at.Offset, err)
		}
		if !IsZero(b[:n]) {
			return read, fmt.Errorf("there is data at byte %d, where none is listed", at.Offset)
		}
	}
	d.limited, d.extents = true, extents
	return read, nil
}

// sample picks stretches of the gaps: the first and the last bytes, where file
// systems keep what describes them, the first of each gap as long as there are
// few, and others at random.
func sample(gaps []Extent) []Extent {
	if len(gaps) == 0 {
		return nil
	}
	last := gaps[len(gaps)-1]
	picked := []Extent{{last.Offset + max(0, last.Length-sampleSize), min(last.Length, sampleSize)}}
	picked = append(picked, gaps[:min(len(gaps), samples/2)]...)
	var total int64
	for _, g := range gaps {
		total += g.Length
	}
	for len(picked) < samples {
		at := rand.Int64N(total)
		for _, g := range gaps {
			if at < g.Length {
				picked = append(picked, Extent{g.Offset + at, g.Length - at})
				break
			}
			at -= g.Length
		}
	}
	return picked
}

// Zero makes a stretch read as zeros: by giving the space back or by whatever
// the device does fastest, and by writing zeros where it does neither.
func (d *Device) Zero(at, n int64) error {
	if d.block {
		span := [2]uint64{uint64(at), uint64(n)}
		// Discarding alone does not promise zeros; this does, and a device that
		// can discards by it.
		_, _, e := unix.Syscall(unix.SYS_IOCTL, d.f.Fd(), unix.BLKZEROOUT, uintptr(unsafe.Pointer(&span)))
		if e == 0 {
			return nil
		}
	} else if unix.Fallocate(int(d.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, n) == nil {
		return nil
	}
	for n > 0 {
		m, err := d.f.WriteAt(zeroBlock[:min(n, int64(len(zeroBlock)))], at)
		if err != nil {
			return fmt.Errorf("device %s: %w", d.path, err)
		}
		at, n = at+int64(m), n-int64(m)
	}
	return nil
}

var zeroBlock [64 << 10]byte

// IsZero says that there are only zeros in b.
func IsZero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeroBlock))
		if !bytes.Equal(b[:n], zeroBlock[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}

// DeviceName is the name of the one file in the stream, or the tree, of a
// device: its content.
const DeviceName = "device"

// deviceBlock is the granularity of holes.
const deviceBlock = maxData

// ReadDevice sends a device, or an image of one, as a tree with one file, and
// closes the encoder. Blocks of nothing but zeros are holes, and long stretches of
// them are sent in parts: who waits for us takes silence for a fault.
func ReadDevice(ctx context.Context, path string, enc *Encoder) error {
	d, err := OpenDevice(path, false)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := enc.Entry(&Entry{Type: Dir, Mode: 0o700}); err != nil {
		return err
	}
	if err := enc.Entry(&Entry{Path: DeviceName, Type: File, Mode: 0o600, Size: d.size}); err != nil {
		return err
	}
	var at int64
	said := time.Now()
	err = d.blocks(ctx, func(start int64, b []byte) error {
		if b == nil && time.Since(said) < quiet {
			return nil
		}
		if err := enc.Hole(start - at); err != nil {
			return err
		}
		at, said = start+int64(len(b)), time.Now()
		if b == nil {
			return enc.Flush()
		}
		return enc.Data(b)
	})
	if err != nil {
		return err
	}
	if err := enc.Hole(d.size - at); err != nil {
		return err
	}
	if err := enc.End(OK, ""); err != nil {
		return err
	}
	return enc.Close()
}

// quiet is how long a device that is all zeros keeps its sender from writing.
var quiet = 30 * time.Second

// blocks calls each for all blocks that may hold data, in order, and with nothing
// for one that is all zeros. Several are read at once, ahead of their turn.
func (d *Device) blocks(ctx context.Context, each func(at int64, b []byte) error) error {
	type block struct {
		at   int64
		b    []byte
		err  error
		zero bool
		done chan struct{}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	readers := max(2, min(runtime.GOMAXPROCS(0), 8))
	ordered, work, free := make(chan *block, 2*readers), make(chan *block), make(chan []byte, 4*readers)
	for range cap(free) {
		free <- make([]byte, deviceBlock)
	}
	var running sync.WaitGroup
	for range readers {
		running.Go(func() {
			for k := range work {
				_, k.err = d.f.ReadAt(k.b, k.at)
				k.zero = k.err == nil && IsZero(k.b)
				close(k.done)
			}
		})
	}
	running.Go(func() {
		defer close(ordered)
		defer close(work)
		var next int64 // the first block that was not handed out
		_ = d.Data(func(x Extent) error {
			for at := max(next, x.Offset-x.Offset%deviceBlock); at < x.Offset+x.Length; at += deviceBlock {
				next = at + deviceBlock
				var b []byte
				select {
				case b = <-free:
				case <-ctx.Done():
					return ctx.Err()
				}
				k := &block{at: at, b: b[:min(deviceBlock, d.size-at)], done: make(chan struct{})}
				work <- k
				select {
				case ordered <- k:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		})
	})
	var err error
	for k := range ordered {
		<-k.done
		if err == nil {
			if err = k.err; err != nil {
				err = fmt.Errorf("read device %s at byte %d: %w", d.path, k.at, err)
			} else if k.zero {
				err = each(k.at, nil)
			} else {
				err = each(k.at, k.b)
			}
			if err != nil {
				cancel()
			}
		}
		free <- k.b[:cap(k.b)]
	}
	running.Wait()
	if err == nil {
		err = ctx.Err()
	}
	return err
}

// WriteDevice writes the device of a stream to one that is at least as large,
// or into an image. Only data is written; holes are made to read as zeros,
// unless zeroed says that all of the device does.
func WriteDevice(ctx context.Context, dec *Decoder, path string, zeroed bool) (Report, error) {
	var report Report
	e, err := dec.Next()
	if err == nil {
		e, err = dec.Next()
	}
	switch {
	case err == io.EOF || err == nil && (e.Type != File || e.Path != DeviceName):
		return report, errors.New("the backup is not one of a device")
	case err != nil:
		return report, err
	}
	d, err := OpenDevice(path, true)
	if err != nil {
		return report, err
	}
	defer d.Close()
	if err := d.Fit(e.Size); err != nil {
		return report, err
	}
	if err := d.write(ctx, dec, zeroed, &report); err != nil {
		return report, err
	}
	if _, err = dec.Next(); err != io.EOF {
		if err == nil {
			err = errors.New("the backup of the device has more than the device")
		}
		return report, err
	}
	report.Files, report.Issues = 1, dec.Issues()
	return report, d.Sync()
}

func (d *Device) write(ctx context.Context, dec *Decoder, zeroed bool, report *Report) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		run, err := dec.Run()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		at, n := report.Bytes, run.Hole+int64(len(run.Data))
		switch {
		case at+n > d.size:
			return fmt.Errorf("device %s ends at byte %d, before the data does", d.path, d.size)
		case run.Hole > 0 && !zeroed:
			err = d.Zero(at, run.Hole)
		case run.Hole == 0:
			if _, err = d.f.WriteAt(run.Data, at); err != nil {
				err = fmt.Errorf("write device: %w", err)
			}
		}
		if err != nil {
			return err
		}
		report.Bytes += n
	}
}
