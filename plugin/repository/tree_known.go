package repository

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/object"

	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
)

// A volume that a mover reads has one more file in its root, the known files:
// what each file was when it was read, and the object that holds its content.
// The next backup reads only the files that are not as they are known. It is
// the magic, then a record for each file, in the order of a sorted stream:
//
//	length of what follows
//	path: bytes shared with the path before, and the rest
//	flags: 1 if it has extended attributes
//	mode, size, inode
//	last change of content, last change of anything: seconds, nanoseconds
//	object: the letters before its hash, and the hash
const (
	knownName  = reservedPrefix + "known"
	knownMagic = "KBKNOW\r\x01"
)

// settled is how long before the moment that a volume is read a file must
// have been left alone to be known. A file that is written to twice within
// one tick of the file system's clock looks the same after both.
const settled = 2 * time.Second

// known is one file as it was read.
type known struct {
	path   string
	id     volume.Identity
	xattrs bool
	object object.ID
}

// same says that a file was not written to since.
func (k *known) same(now volume.Identity) bool {
	return now.Type == volume.File && k.id.Mode == now.Mode && k.id.Size == now.Size && k.id.Inode == now.Inode &&
		k.id.Modified.Equal(now.Modified) && k.id.Changed.Equal(now.Changed)
}

type knownWriter struct {
	out      object.Writer
	w        *bufio.Writer
	size     int64
	previous string
	buf      []byte
}

func newKnownWriter(ctx context.Context, w repo.RepositoryWriter) *knownWriter {
	out := w.NewObjectWriter(ctx, object.WriterOptions{
		Description: "known files", Compressor: compressor, MetadataCompressor: compressor, Splitter: fineSplitter,
	})
	return &knownWriter{out: out, w: bufio.NewWriterSize(out, 64<<10)}
}

func (k *knownWriter) write(b []byte) error {
	n, err := k.w.Write(b)
	k.size += int64(n)
	return err
}

func (k *knownWriter) add(f *known) error {
	letters, hash, err := splitID(f.object)
	if err != nil {
		return err
	}
	if k.size == 0 {
		if err := k.write([]byte(knownMagic)); err != nil {
			return err
		}
	}
	shared := 0
	for shared < len(f.path) && shared < len(k.previous) && f.path[shared] == k.previous[shared] {
		shared++
	}
	b := binary.AppendUvarint(k.buf[:0], uint64(shared))
	b = appendBytes(b, f.path[shared:])
	var flags byte
	if f.xattrs {
		flags = 1
	}
	b = append(b, flags)
	for _, v := range []uint64{uint64(f.id.Mode), uint64(f.id.Size), f.id.Inode} {
		b = binary.AppendUvarint(b, v)
	}
	for _, t := range []time.Time{f.id.Modified, f.id.Changed} {
		b = binary.AppendVarint(b, t.Unix())
		b = binary.AppendUvarint(b, uint64(t.Nanosecond()))
	}
	b = appendBytes(b, letters)
	b = append(b, hash...)
	k.buf, k.previous = b, f.path
	if err := k.write(binary.AppendUvarint(nil, uint64(len(b)))); err != nil {
		return err
	}
	return k.write(b)
}

func appendBytes(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// finish returns the object and its length, or an empty id for none.
func (k *knownWriter) finish() (object.ID, int64, error) {
	defer k.out.Close()
	if k.size == 0 {
		return object.EmptyID, 0, nil
	}
	if err := k.w.Flush(); err != nil {
		return object.EmptyID, 0, err
	}
	id, err := k.out.Result()
	return id, k.size, err
}

// splitID takes an id apart. Kopia writes hashes as hexadecimal numbers, after
// letters that are none.
func splitID(id object.ID) (letters string, hash []byte, err error) {
	s := id.String()
	letters = s[:len(s)-len(strings.TrimLeft(s, "DIZghijklmnopqrstuvwxyz"))]
	hash, err = hex.DecodeString(s[len(letters):])
	return letters, hash, err
}

// knownReader yields the known files in order.
type knownReader struct {
	in   object.Reader
	r    *bufio.Reader
	buf  []byte
	next *known // nil at the end
	err  error
}

var errKnown = errors.New("the list of known files is damaged")

// openKnown reads the list of a volume; an empty id has none.
func openKnown(ctx context.Context, r repo.Repository, id object.ID) (*knownReader, error) {
	k := &knownReader{}
	if id == object.EmptyID {
		return k, nil
	}
	in, err := r.OpenObject(ctx, id)
	if err != nil {
		return nil, err
	}
	k.in, k.r = in, bufio.NewReaderSize(in, 64<<10)
	magic := make([]byte, len(knownMagic))
	if _, err := io.ReadFull(k.r, magic); err != nil || string(magic) != knownMagic {
		in.Close()
		return nil, errKnown
	}
	k.advance("")
	return k, k.err
}

// find returns what is known of a file. Calls are in order.
func (k *knownReader) find(path string) *known {
	for k.next != nil {
		switch d := volume.Compare(k.next.path, path); {
		case d == 0:
			return k.next
		case d > 0:
			return nil
		}
		k.advance(k.next.path)
	}
	return nil
}

// advance reads one record. After an error there are no more: files that are
// not known are read.
func (k *knownReader) advance(previous string) {
	k.next = nil
	n, err := binary.ReadUvarint(k.r)
	if err == io.EOF {
		return
	}
	if err == nil && n > attributesRecord {
		err = errKnown
	}
	if err != nil {
		k.err = err
		return
	}
	buf := bytes.NewBuffer(k.buf[:0])
	if _, err := io.CopyN(buf, k.r, int64(n)); err != nil {
		k.err = err
		return
	}
	k.buf = buf.Bytes()
	if k.next, k.err = parseKnown(k.buf, previous); k.err != nil {
		k.next = nil
	}
}

func parseKnown(b []byte, previous string) (*known, error) {
	good := true
	number := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			good, b = false, nil
			return 0
		}
		b = b[n:]
		return v
	}
	text := func() string {
		n := number()
		if n > uint64(len(b)) {
			good = false
			return ""
		}
		s := string(b[:n])
		b = b[n:]
		return s
	}
	moment := func() time.Time {
		sec, n := binary.Varint(b)
		if n <= 0 {
			good, b = false, nil
			return time.Time{}
		}
		b = b[n:]
		return time.Unix(sec, int64(number()))
	}
	k := &known{id: volume.Identity{Type: volume.File}}
	shared := number()
	if shared > uint64(len(previous)) {
		return nil, errKnown
	}
	k.path = previous[:shared] + text()
	k.xattrs = number() == 1
	k.id.Mode, k.id.Size, k.id.Inode = uint32(number()), int64(number()), number()
	k.id.Modified, k.id.Changed = moment(), moment()
	letters := text()
	if !good {
		return nil, errKnown
	}
	id, err := object.ParseID(letters + hex.EncodeToString(b))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errKnown, err)
	}
	k.object = id
	return k, nil
}

func (k *knownReader) close() {
	if k.in != nil {
		k.in.Close()
	}
}
