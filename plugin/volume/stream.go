package volume

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"strings"
)

// The stream is the magic, a version byte, and frames. A frame is its kind
// (one byte), the length of its payload (four bytes, little endian), the
// payload, and a CRC-32C over all of these. The payloads:
//
//	entry    an Entry, see AppendEntry
//	data     bytes of the content of the file that the last entry named
//	hole     uvarint length
//	end      end of that file: varint length, kind of issue (one byte), text
//	issue    path, kind (one byte), text
//	trailer  uvarint entries, files, bytes, issues, and a SHA-256 over the head and
//	         the CRC of each frame before it, in order
//
// A file's content is data and holes in order, and an end. Only files have
// content. Nothing follows the trailer.
const (
	magic   = "\x89KBVOL\r\n"
	version = 1

	frameEntry   = 'E'
	frameData    = 'D'
	frameHole    = 'H'
	frameEnd     = 'F'
	frameIssue   = 'I'
	frameTrailer = 'T'

	bufferSize = 256 << 10
)

// ErrTruncated says that the stream ended before its trailer: the sender, or
// something between it and us, stopped early.
var ErrTruncated = errors.New("the volume stream ended early")

// ErrCorrupt says that the stream is not what the sender wrote.
var ErrCorrupt = errors.New("the volume stream is damaged")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Flush sends what was written so far.
func (e *Encoder) Flush() error {
	if e.err == nil {
		e.err = e.w.Flush()
	}
	return e.err
}

// Totals counts what went through a stream.
type Totals struct {
	Entries int64
	// Files are the entries that are not directories.
	Files int64
	// Bytes is the length of all files, holes included.
	Bytes  int64
	Issues int64
}

func (t *Totals) count(e *Entry) {
	t.Entries++
	if e.Type != Dir {
		t.Files++
	}
}

// Encoder writes a stream. Calls are: Entry, and for a File any number of
// Data and Hole and then one End; Issue between them; Close at the end. It is
// used from one goroutine.
type Encoder struct {
	w      *bufio.Writer
	sum    hash.Hash
	err    error
	open   bool // a file's content is under way
	length int64
	path   string
	buf    []byte
	totals Totals
}

// NewEncoder returns an encoder that writes to w.
func NewEncoder(w io.Writer) *Encoder {
	e := &Encoder{w: bufio.NewWriterSize(w, bufferSize), sum: sha256.New()}
	_, e.err = e.w.WriteString(magic + string(rune(version)))
	return e
}

func (e *Encoder) frame(kind byte, payload []byte) error {
	if e.err != nil {
		return e.err
	}
	var head [5]byte
	head[0] = kind
	binary.LittleEndian.PutUint32(head[1:], uint32(len(payload)))
	crc := crc32.Update(crc32.Update(0, castagnoli, head[:]), castagnoli, payload)
	var tail [4]byte
	binary.LittleEndian.PutUint32(tail[:], crc)
	e.sum.Write(head[:])
	e.sum.Write(tail[:])
	for _, part := range [...][]byte{head[:], payload, tail[:]} {
		if _, e.err = e.w.Write(part); e.err != nil {
			return e.err
		}
	}
	return nil
}

// Entry writes an entry. The first one is the root.
func (e *Encoder) Entry(v *Entry) error {
	if e.open {
		return fmt.Errorf("%s begins inside the content of %s", Escape(v.Path), Escape(e.path))
	}
	e.buf = AppendEntry(e.buf[:0], v, e.path)
	if len(e.buf) > maxFrame || len(v.Path) > maxPath || len(v.Xattrs) > maxXattrs {
		return fmt.Errorf("%s: its attributes are too large for the stream", Escape(v.Path))
	}
	e.path, e.length, e.open = v.Path, 0, v.Type == File
	e.totals.count(v)
	return e.frame(frameEntry, e.buf)
}

// Data writes bytes of the content of the last entry.
func (e *Encoder) Data(p []byte) error {
	for len(p) > 0 {
		n := min(len(p), maxData)
		if err := e.content(frameData, p[:n], int64(n)); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// Hole writes a hole of n bytes into the content of the last entry.
func (e *Encoder) Hole(n int64) error {
	if n <= 0 {
		return nil
	}
	return e.content(frameHole, binary.AppendUvarint(e.buf[:0], uint64(n)), n)
}

func (e *Encoder) content(kind byte, payload []byte, n int64) error {
	if !e.open {
		return fmt.Errorf("%s has no content here", Escape(e.path))
	}
	e.length += n
	return e.frame(kind, payload)
}

// End ends the content of a file and says how the reading of it went.
func (e *Encoder) End(kind Kind, what string) error {
	e.buf = append(binary.AppendVarint(e.buf[:0], e.length), byte(kind))
	if err := e.content(frameEnd, appendString(e.buf, clip(what)), 0); err != nil {
		return err
	}
	e.open = false
	e.totals.Bytes += e.length
	if kind != OK {
		e.totals.Issues++
	}
	return nil
}

// Issue writes an issue.
func (e *Encoder) Issue(i Issue) error {
	e.totals.Issues++
	b := appendString(e.buf[:0], i.Path)
	return e.frame(frameIssue, appendString(append(b, byte(i.Kind)), clip(i.What)))
}

// Totals counts what was written so far.
func (e *Encoder) Totals() Totals { return e.totals }

// Close writes the trailer. A stream that is not closed reads as truncated.
func (e *Encoder) Close() error {
	if e.open {
		return fmt.Errorf("the content of %s has no end", Escape(e.path))
	}
	b := binary.AppendUvarint(e.buf[:0], uint64(e.totals.Entries))
	b = binary.AppendUvarint(b, uint64(e.totals.Files))
	b = binary.AppendUvarint(b, uint64(e.totals.Bytes))
	b = binary.AppendUvarint(b, uint64(e.totals.Issues))
	if err := e.frame(frameTrailer, e.sum.Sum(b)); err != nil {
		return err
	}
	return e.w.Flush()
}

// clip keeps an error text short enough for one line of a report.
func clip(s string) string {
	if len(s) > 1000 {
		return s[:1000] + "..."
	}
	return s
}

// Decoder reads a stream. Calls are: Next, and after a File any number of
// Run until io.EOF. What is not read is passed over, and is checked all the
// same. It is used from one goroutine.
type Decoder struct {
	r       *bufio.Reader
	sum     hash.Hash
	err     error // final
	began   bool
	open    bool
	dirs    []string // the directories above the next entry
	path    string
	length  int64
	payload []byte
	end     Issue
	totals  Totals
	issues  Issues
}

// NewDecoder returns a decoder that reads from r. It may read ahead.
func NewDecoder(r io.Reader) *Decoder {
	return &Decoder{r: bufio.NewReaderSize(r, bufferSize), sum: sha256.New()}
}

// Next returns the next entry. The error is io.EOF only after a trailer that
// fits all that was read; ErrTruncated and ErrCorrupt are the others that the
// stream itself can cause.
func (d *Decoder) Next() (*Entry, error) {
	for d.open {
		if _, err := d.Run(); err != nil && err != io.EOF {
			return nil, err
		}
	}
	for {
		kind, payload, err := d.frame()
		if err != nil {
			return nil, err
		}
		switch kind {
		case frameEntry:
			e, rest, err := ParseEntry(payload, d.path)
			if err == nil && len(rest) > 0 {
				err = errors.New("an entry has more than its fields")
			}
			if err == nil {
				err = d.place(e)
			}
			if err != nil {
				return nil, d.corrupt(err)
			}
			d.path, d.length, d.open = e.Path, 0, e.Type == File
			d.totals.count(e)
			return e, nil
		case frameIssue:
			f := fields{b: payload}
			i := Issue{Path: string(f.bytes(maxFrame)), Kind: Kind(f.byte()), What: string(f.bytes(maxFrame))}
			if f.err != nil {
				return nil, d.corrupt(f.err)
			}
			d.totals.Issues++
			d.issues.Add(i)
		case frameTrailer:
			if err := d.trailer(payload); err != nil {
				return nil, d.corrupt(err)
			}
			d.err = io.EOF
			return nil, io.EOF
		default:
			return nil, d.corrupt(fmt.Errorf("a frame of kind %q after %s", kind, Escape(d.path)))
		}
	}
}

// place checks that the directory of e is open, which is what every receiver
// relies on.
func (d *Decoder) place(e *Entry) error {
	if e.Path == "" {
		if d.totals.Entries > 0 {
			return errors.New("a second root")
		}
		d.dirs = []string{""}
		return nil
	}
	for len(d.dirs) > 1 && !strings.HasPrefix(e.Path, d.dirs[len(d.dirs)-1]+"/") {
		d.dirs = d.dirs[:len(d.dirs)-1]
	}
	if len(d.dirs) == 0 || d.dirs[len(d.dirs)-1] != parentOf(e.Path) {
		return fmt.Errorf("%s comes without its directory", Escape(e.Path))
	}
	if e.Type == Dir {
		d.dirs = append(d.dirs, e.Path)
	}
	return nil
}

// Run returns the next piece of the content of the last entry, and io.EOF at
// its end, after which End is known.
func (d *Decoder) Run() (Run, error) {
	if !d.open {
		if d.err != nil {
			return Run{}, d.err
		}
		return Run{}, io.EOF
	}
	kind, payload, err := d.frame()
	if err != nil {
		return Run{}, err
	}
	f := fields{b: payload}
	switch kind {
	case frameData:
		d.length += int64(len(payload))
		return Run{Data: payload}, nil
	case frameHole:
		n := int64(f.max(1<<63 - 1))
		if n == 0 || d.length+n < d.length {
			f.fail(fmt.Errorf("a hole of %d bytes", n))
		}
		if f.err != nil {
			return Run{}, d.corrupt(f.err)
		}
		d.length += n
		return Run{Hole: n}, nil
	case frameEnd:
		length := f.varint()
		d.end = Issue{Path: Escape(d.path), Kind: Kind(f.byte()), What: string(f.bytes(maxFrame))}
		if f.err == nil && length != d.length {
			f.fail(fmt.Errorf("%s has %d bytes where the sender counted %d", Escape(d.path), d.length, length))
		}
		if f.err != nil {
			return Run{}, d.corrupt(f.err)
		}
		d.open = false
		d.totals.Bytes += length
		if d.end.Kind != OK {
			d.totals.Issues++
			d.issues.Add(d.end)
		}
		return Run{}, io.EOF
	}
	return Run{}, d.corrupt(fmt.Errorf("a frame of kind %q in the content of %s", kind, Escape(d.path)))
}

// End says how the reading of the last file went, once Run returned io.EOF.
func (d *Decoder) End() Issue { return d.end }

// Issues lists what the sender said about paths so far.
func (d *Decoder) Issues() []Issue { return d.issues.List() }

// Totals counts what was read so far.
func (d *Decoder) Totals() Totals { return d.totals }

func (d *Decoder) frame() (byte, []byte, error) {
	if d.err != nil {
		return 0, nil, d.err
	}
	if !d.began {
		if err := d.start(); err != nil {
			return 0, nil, err
		}
	}
	var head [5]byte
	if _, err := io.ReadFull(d.r, head[:]); err != nil {
		return 0, nil, d.short(err)
	}
	n := int(binary.LittleEndian.Uint32(head[1:]))
	if limit := maxFrame; n > limit || head[0] == frameData && n > maxData {
		return 0, nil, d.corrupt(fmt.Errorf("a frame of %d bytes", n))
	}
	// A damaged length must not make us allocate more than what arrives.
	d.payload = d.payload[:0]
	for len(d.payload) < n {
		old, step := len(d.payload), min(n-len(d.payload), maxData)
		if cap(d.payload) < old+step {
			d.payload = append(make([]byte, 0, max(old+step, 2*old)), d.payload...)
		}
		d.payload = d.payload[:old+step]
		if _, err := io.ReadFull(d.r, d.payload[old:]); err != nil {
			return 0, nil, d.short(err)
		}
	}
	var tail [4]byte
	if _, err := io.ReadFull(d.r, tail[:]); err != nil {
		return 0, nil, d.short(err)
	}
	crc := crc32.Update(crc32.Update(0, castagnoli, head[:]), castagnoli, d.payload)
	if crc != binary.LittleEndian.Uint32(tail[:]) {
		return 0, nil, d.corrupt(errors.New("a checksum does not match"))
	}
	if head[0] != frameTrailer {
		d.sum.Write(head[:])
		d.sum.Write(tail[:])
	}
	return head[0], d.payload, nil
}

func (d *Decoder) start() error {
	d.began = true
	var head [len(magic) + 1]byte
	if _, err := io.ReadFull(d.r, head[:]); err != nil {
		return d.short(err)
	}
	if string(head[:len(magic)]) != magic {
		return d.corrupt(errors.New("it does not begin as one"))
	}
	if head[len(magic)] != version {
		d.err = fmt.Errorf("the volume stream has format %d, this program reads %d; hint: use the same version at both ends", head[len(magic)], version)
		return d.err
	}
	return nil
}

func (d *Decoder) trailer(payload []byte) error {
	f := fields{b: payload}
	var t Totals
	for _, n := range [...]*int64{&t.Entries, &t.Files, &t.Bytes, &t.Issues} {
		*n = int64(f.max(1<<63 - 1))
	}
	if f.err != nil {
		return f.err
	}
	if t.Entries == 0 {
		return errors.New("it has no root")
	}
	if t != d.totals {
		return fmt.Errorf("the sender counted %+v, the receiver %+v", t, d.totals)
	}
	if string(f.b) != string(d.sum.Sum(nil)) {
		return errors.New("the checksum over all frames does not match")
	}
	return nil
}

func (d *Decoder) short(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		d.err = fmt.Errorf("%w: after %d entries and %d bytes, at %s", ErrTruncated, d.totals.Entries, d.totals.Bytes, Escape(d.path))
	} else {
		d.err = fmt.Errorf("read the volume stream: %w", err)
	}
	return d.err
}

func (d *Decoder) corrupt(err error) error {
	d.err = fmt.Errorf("%w: %w", ErrCorrupt, err)
	return d.err
}
