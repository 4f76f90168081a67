package repository

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/kopia/kopia/repo/content"
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

func newKnownWriter(ctx context.Context, w writer) *knownWriter {
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
	if c, compressed, ok := id.ContentID(); ok && !compressed && !c.HasPrefix() {
		return "", c.Hash(), nil // nearly all of them
	}
	s := id.String()
	letters = s[:len(s)-len(strings.TrimLeft(s, "DIZghijklmnopqrstuvwxyz"))]
	hash, err = hex.DecodeString(s[len(letters):])
	return letters, hash, err
}

// joinID is the other way round.
func joinID(letters string, hash []byte) (object.ID, error) {
	if letters != "" {
		return object.ParseID(letters + hex.EncodeToString(hash))
	}
	c, err := content.IDFromHash("", hash)
	return object.DirectObjectID(c), err
}

// knownReader yields the known files in order.
type knownReader struct {
	in   object.Reader // nil at the end
	r    *bufio.Reader
	buf  []byte
	next known
	err  error
}

var errKnown = errors.New("the list of known files is damaged")

// openKnown reads the list of a volume; an empty id has none.
func openKnown(ctx context.Context, r objects, id object.ID) (*knownReader, error) {
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
	k.advance()
	return k, k.err
}

// find returns what is known of a file, until the next call. Calls are in
// order.
func (k *knownReader) find(path string) *known {
	for k.in != nil {
		switch d := volume.Compare(k.next.path, path); {
		case d == 0:
			return &k.next
		case d > 0:
			return nil
		}
		k.advance()
	}
	return nil
}

// advance reads one record. After an error there are no more: files that are
// not known are read.
func (k *knownReader) advance() {
	n, err := binary.ReadUvarint(k.r)
	if err == io.EOF {
		k.close()
		return
	}
	if err == nil && n > attributesRecord {
		err = errKnown
	}
	if err == nil {
		k.buf = slices.Grow(k.buf[:0], int(n))[:n]
		_, err = io.ReadFull(k.r, k.buf)
	}
	if err == nil {
		err = parseKnown(&k.next, k.buf)
	}
	if err != nil {
		k.err = err
		k.close()
	}
}

// parseKnown reads a record into k, which holds the one before it.
func parseKnown(k *known, b []byte) error {
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
	text := func() []byte {
		n := number()
		if n > uint64(len(b)) {
			good = false
			return nil
		}
		s := b[:n]
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
	shared := number()
	if shared > uint64(len(k.path)) {
		return errKnown
	}
	k.path = k.path[:shared] + string(text())
	k.xattrs = number() == 1
	k.id = volume.Identity{Type: volume.File, Mode: uint32(number()), Size: int64(number()), Inode: number()}
	k.id.Modified, k.id.Changed = moment(), moment()
	letters := string(text())
	if !good {
		return errKnown
	}
	var err error
	if k.object, err = joinID(letters, b); err != nil {
		return fmt.Errorf("%w: %w", errKnown, err)
	}
	return nil
}

// close ends the reading.
func (k *knownReader) close() {
	if k.in != nil {
		k.in.Close()
		k.in = nil
	}
}

// someThere returns contents that are there: all of a repository that has few,
// and some of any; most is how many are looked at. To list them is much faster
// than to look each up.
func someThere(ctx context.Context, r engine, most int) map[content.ID]bool {
	there := map[content.ID]bool{}
	enough := errors.New("enough")
	// What is not listed, after an error for one, is looked up. Deleted contents
	// are left out here: kopia would turn the ids of all into text for it.
	_ = r.ContentReader().IterateContents(ctx, content.IterateOptions{IncludeDeleted: true}, func(i content.Info) error {
		if most--; most < 0 {
			return enough
		}
		if !i.Deleted {
			there[i.ContentID] = true
		}
		return nil
	})
	return there
}
