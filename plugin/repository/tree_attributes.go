package repository

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/kopia/kopia/repo/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
)

// A volume is a kopia snapshot of its tree. What kopia does not keep is in one
// more file of the root, the attributes, which is there only if needed: being
// in the tree, it is kept, verified, copied and deleted with it by kopia's own
// means. The names below are ours; a file of the volume that has such a name,
// or one that is not text, is stored under a name made of its bytes.
const (
	reservedPrefix = ".kubectl-backup."
	attributesName = reservedPrefix + "attributes"
	bytesPrefix    = reservedPrefix + "bytes."
)

// storedName is the name that a file has in the kopia directory. JSON holds
// text only, so in other names each byte stands as the character of that
// number: Latin-1 names stay readable, and all names can be had back.
func storedName(name string) string {
	if utf8.ValidString(name) && !strings.HasPrefix(name, reservedPrefix) {
		return strings.Clone(name) // not a part of a long path, which it would keep in memory
	}
	var b strings.Builder
	b.WriteString(bytesPrefix)
	for i := range len(name) {
		b.WriteRune(rune(name[i]))
	}
	return b.String()
}

// trueName is the other way round.
func trueName(stored string) string {
	s, ok := strings.CutPrefix(stored, bytesPrefix)
	if !ok {
		return stored
	}
	var b []byte
	for _, c := range s {
		b = append(b, byte(c))
	}
	return string(b)
}

// The attributes are the magic, then records, then a footer in JSON, its
// position in eight bytes, and the magic again. A record is its length and
// then an entry as in a stream (see volume.AppendEntry) and the holes of its
// content. Records are in the order of a sorted stream. Where the volume came
// in another order, as tars do, there are several such runs, to be merged.
const attributesMagic = "KBATTR\r\x01"

type attributesFooter struct {
	Runs   []int64        `json:"runs"` // where each begins
	Issues []volume.Issue `json:"issues,omitempty"`
}

// attributes is what kopia does not keep about one file. Where there are any
// for a path, they are all that counts about it but the content.
type attributes struct {
	entry *volume.Entry
	holes []volume.Extent
}

const (
	// attributesBatch bounds the memory for records that wait to be sorted.
	attributesBatch = 4 << 20
	// attributesRecord is the longest record that a reader takes.
	attributesRecord = 64 << 20
)

type attributesWriter struct {
	out    object.Writer
	offset int64
	batch  []attributes
	size   int
	last   string
	footer attributesFooter
}

func newAttributesWriter(ctx context.Context, w writer) *attributesWriter {
	return &attributesWriter{out: w.NewObjectWriter(ctx, object.WriterOptions{
		Description: "volume attributes", Compressor: compressor, MetadataCompressor: compressor, Splitter: fineSplitter,
	})}
}

func (a *attributesWriter) write(b []byte) error {
	n, err := a.out.Write(b)
	a.offset += int64(n)
	return err
}

func (a *attributesWriter) add(r attributes) error {
	a.batch = append(a.batch, r)
	a.size += 200 + len(r.entry.Path) + len(r.entry.Link) + 16*len(r.holes)
	for _, x := range r.entry.Xattrs {
		a.size += 40 + len(x.Name) + len(x.Value)
	}
	if a.size < attributesBatch {
		return nil
	}
	return a.flush()
}

func (a *attributesWriter) flush() error {
	slices.SortFunc(a.batch, func(x, y attributes) int { return volume.Compare(x.entry.Path, y.entry.Path) })
	if a.offset == 0 {
		if err := a.write([]byte(attributesMagic)); err != nil {
			return err
		}
	}
	var b []byte
	for _, r := range a.batch {
		previous := a.last
		if len(a.footer.Runs) == 0 || volume.Compare(r.entry.Path, a.last) <= 0 {
			a.footer.Runs = append(a.footer.Runs, a.offset)
			previous = ""
		}
		a.last = r.entry.Path
		b = volume.AppendEntry(b[:0], r.entry, previous)
		b = binary.AppendUvarint(b, uint64(len(r.holes)))
		var end int64
		for _, h := range r.holes {
			b = binary.AppendUvarint(b, uint64(h.Offset-end))
			b = binary.AppendUvarint(b, uint64(h.Length))
			end = h.Offset + h.Length
		}
		if err := a.write(binary.AppendUvarint(nil, uint64(len(b)))); err != nil {
			return err
		}
		if err := a.write(b); err != nil {
			return err
		}
	}
	a.batch, a.size = a.batch[:0], 0
	return nil
}

// finish returns the object and its length, or an empty id where there is
// nothing that kopia does not keep.
func (a *attributesWriter) finish(issues []volume.Issue) (object.ID, int64, error) {
	defer a.out.Close()
	if a.offset == 0 && len(a.batch) == 0 && len(issues) == 0 {
		return object.EmptyID, 0, nil
	}
	if err := a.flush(); err != nil {
		return object.EmptyID, 0, err
	}
	a.footer.Issues = issues
	b, err := json.Marshal(a.footer)
	if err != nil {
		return object.EmptyID, 0, err
	}
	b = binary.LittleEndian.AppendUint64(b, uint64(a.offset))
	if err := a.write(append(b, attributesMagic...)); err != nil {
		return object.EmptyID, 0, err
	}
	id, err := a.out.Result()
	return id, a.offset, err
}

// attributesReader yields the records in order.
type attributesReader struct {
	footer attributesFooter
	runs   []*attributesRun
}

// attributesRun reads one run, a record ahead.
type attributesRun struct {
	in       object.Reader
	r        *bufio.Reader
	buf      []byte
	previous string
	next     *attributes // nil at the end
}

var errAttributes = errors.New("the attributes of the volume are damaged")

// openAttributes reads the footer, and positions a reader on each run.
func openAttributes(ctx context.Context, r objects, id object.ID) (*attributesReader, error) {
	a := &attributesReader{}
	if id == object.EmptyID {
		return a, nil
	}
	in, err := r.OpenObject(ctx, id)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	tail := make([]byte, 8+len(attributesMagic))
	length := in.Length()
	if length < int64(2*len(attributesMagic)+8) {
		return nil, errAttributes
	}
	if err := readAt(in, length-int64(len(tail)), tail); err != nil {
		return nil, err
	}
	end := int64(binary.LittleEndian.Uint64(tail))
	if string(tail[8:]) != attributesMagic || end < 0 || end > length-int64(len(tail)) || length-end > attributesRecord {
		return nil, errAttributes
	}
	footer := make([]byte, length-int64(len(tail))-end)
	if err := readAt(in, end, footer); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(footer, &a.footer); err != nil {
		return nil, fmt.Errorf("%w: %w", errAttributes, err)
	}
	for i, begin := range a.footer.Runs {
		stop := end
		if i+1 < len(a.footer.Runs) {
			stop = a.footer.Runs[i+1]
		}
		run, err := openRun(ctx, r, id, begin, stop)
		if err != nil {
			a.close()
			return nil, err
		}
		a.runs = append(a.runs, run)
	}
	return a, nil
}

func openRun(ctx context.Context, r objects, id object.ID, begin, end int64) (*attributesRun, error) {
	in, err := r.OpenObject(ctx, id)
	if err != nil {
		return nil, err
	}
	if _, err := in.Seek(begin, io.SeekStart); err != nil {
		in.Close()
		return nil, err
	}
	run := &attributesRun{in: in, r: bufio.NewReader(io.LimitReader(in, end-begin))}
	if err := run.advance(); err != nil {
		in.Close()
		return nil, err
	}
	return run, nil
}

func readAt(in object.Reader, at int64, b []byte) error {
	if _, err := in.Seek(at, io.SeekStart); err != nil {
		return err
	}
	_, err := io.ReadFull(in, b)
	return err
}

func (r *attributesRun) advance() error {
	r.next = nil
	n, err := binary.ReadUvarint(r.r)
	if err == io.EOF {
		return nil
	}
	if err != nil || n > attributesRecord {
		return fmt.Errorf("%w: %v", errAttributes, err)
	}
	// Bounded by what is there, not by what a damaged length says.
	buf := bytes.NewBuffer(r.buf[:0])
	if m, err := io.CopyN(buf, r.r, int64(n)); err != nil {
		return fmt.Errorf("%w: a record of %d bytes after %d: %w", errAttributes, n, m, err)
	}
	r.buf = buf.Bytes()
	e, rest, err := volume.ParseEntry(r.buf, r.previous)
	if err != nil {
		return fmt.Errorf("%w: %w", errAttributes, err)
	}
	next := &attributes{entry: e}
	count, used := binary.Uvarint(rest)
	var at int64
	for ; count > 0 && used > 0; count-- {
		rest = rest[used:]
		gap, n1 := binary.Uvarint(rest)
		length, n2 := binary.Uvarint(rest[max(n1, 0):])
		if used = n1 + n2; n1 <= 0 || n2 <= 0 || at+int64(gap) < at || at+int64(gap)+int64(length) < at {
			used = -1
			break
		}
		next.holes = append(next.holes, volume.Extent{Offset: at + int64(gap), Length: int64(length)})
		at += int64(gap) + int64(length)
	}
	if used <= 0 || used != len(rest) {
		return fmt.Errorf("%w: the holes of %s", errAttributes, volume.Escape(e.Path))
	}
	r.next, r.previous = next, e.Path
	return nil
}

// first is the run whose next record comes first of all.
func (a *attributesReader) first() *attributesRun {
	var first *attributesRun
	for _, r := range a.runs {
		if r.next != nil && (first == nil || volume.Compare(r.next.entry.Path, first.next.entry.Path) < 0) {
			first = r
		}
	}
	return first
}

// peek returns the next record, or nil at the end.
func (a *attributesReader) peek() *attributes {
	if r := a.first(); r != nil {
		return r.next
	}
	return nil
}

func (a *attributesReader) next() (*attributes, error) {
	r := a.first()
	if r == nil {
		return nil, nil
	}
	v := r.next
	return v, r.advance()
}

func (a *attributesReader) close() {
	for _, r := range a.runs {
		r.in.Close()
	}
}
