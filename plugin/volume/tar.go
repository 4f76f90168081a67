package volume

import (
	"archive/tar"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// FromTar sends the tree in a tar and closes the encoder. It reads GNU tar,
// PAX (with extended attributes as GNU tar and libarchive write them) and what
// busybox writes. Members are relative to the root: "./a", "a" and "/a" are
// the same.
//
// last, where it is not nil, is called when all of the tar was read and before
// the trailer is written: it may add issues, and its error leaves the stream
// without a trailer, as after a tar that said in its exit status that it failed.
//
// What a tar cannot carry is an issue on the root, once: it is a matter of the
// program that wrote it. A tar without its end mark is ErrTruncated, even
// where the cut falls between two members. GNU tar writes a sparse file as
// such only with --sparse.
func FromTar(ctx context.Context, r io.Reader, enc *Encoder, last func() error) error {
	counted := &counter{r: r}
	f := &fromTar{enc: enc, tr: tar.NewReader(counted), in: counted}
	var at int64 // where the last member ended
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		at = (counted.n + 511) / 512 * 512
		h, err := f.tr.Next()
		if err == io.EOF {
			break
		}
		if err == nil {
			err = f.member(h)
		}
		if err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				err = fmt.Errorf("%w: the tar stops at %s", ErrTruncated, Escape(f.last))
			}
			return fmt.Errorf("read tar: %w", err)
		}
	}
	// The library takes the end of the input for the end of the tar as well.
	if counted.n < at+1024 {
		return fmt.Errorf("%w: the tar has no end mark after %s", ErrTruncated, Escape(f.last))
	}
	// The writer may still be padding to its block size.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return fmt.Errorf("read tar: %w", err)
	}
	if err := f.parents("", true); err != nil {
		return err
	}
	for _, what := range f.lacks() {
		if err := enc.Issue(Issue{Path: ".", Kind: NotKept, What: what}); err != nil {
			return err
		}
	}
	if last != nil {
		if err := last(); err != nil {
			return err
		}
	}
	return enc.Close()
}

type fromTar struct {
	enc  *Encoder
	tr   *tar.Reader
	in   *counter // what tr reads
	dirs []string // the open directories, the root first
	last string
	// what this tar showed that it can carry
	nanoseconds, xattrs bool
	acls                int // members with ACLs in a form that is not read
	buf                 []byte
}

func (f *fromTar) lacks() []string {
	var out []string
	if !f.nanoseconds {
		out = append(out, "times have whole seconds only, since the tar in the image writes no PAX headers")
	}
	if !f.xattrs {
		out = append(out, "no extended attributes, ACLs or capabilities came with the tar")
	}
	if f.acls > 0 {
		out = append(out, fmt.Sprintf("the ACLs of %d members, which tar wrote as text", f.acls))
	}
	return append(out, "sockets are not carried by tar, nor which FIFOs and devices have further names")
}

func (f *fromTar) member(h *tar.Header) error {
	f.last = h.Name
	path, err := memberPath(h.Name)
	if err != nil {
		return err
	}
	e := &Entry{
		Path: path, Mode: uint32(h.Mode) & 0o7777, UID: uint32(h.Uid), GID: uint32(h.Gid),
		ModTime: h.ModTime, Size: h.Size, Xattrs: tarXattrs(h.PAXRecords),
	}
	f.nanoseconds = f.nanoseconds || h.ModTime.Nanosecond() != 0
	f.xattrs = f.xattrs || len(e.Xattrs) > 0
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, '\x00', tar.TypeCont:
		// Tar does not say which files have further names.
		e.Type, e.Linked = File, true
	case tar.TypeDir:
		e.Type, e.Size = Dir, 0
	case tar.TypeSymlink:
		e.Type, e.Link, e.Linked = Symlink, h.Linkname, true
	case tar.TypeLink:
		e.Type = HardLink
		if e.Link, err = memberPath(h.Linkname); err != nil {
			return err
		}
	case tar.TypeFifo:
		e.Type, e.Linked = FIFO, true
	case tar.TypeChar, tar.TypeBlock:
		e.Type, e.Linked = CharDevice, true
		if h.Typeflag == tar.TypeBlock {
			e.Type = BlockDevice
		}
		e.Device = mkdev(uint64(h.Devmajor), uint64(h.Devminor))
	default:
		if _, err := io.Copy(io.Discard, f.tr); err != nil {
			return err
		}
		return f.enc.Issue(Issue{Path: Escape(path), Kind: Unreadable, What: fmt.Sprintf("the tar has it as unknown type %q", h.Typeflag)})
	}
	if path == "" && e.Type != Dir {
		return fmt.Errorf("member %s is not a directory", Escape(h.Name))
	}
	if path == "" && len(f.dirs) > 0 || e.Type == Dir && slices.Contains(f.dirs, path) {
		return nil // the same directory again, as after tar -C
	}
	if path != "" {
		if err := f.parents(parentOf(path), false); err != nil {
			return err
		}
	}
	if e.Type == Dir {
		f.dirs = append(f.dirs, path)
	}
	if err := f.enc.Entry(e); err != nil {
		return err
	}
	if h.PAXRecords["SCHILY.acl.access"] != "" || h.PAXRecords["SCHILY.acl.default"] != "" {
		f.acls++
	}
	if e.Type != File {
		return nil
	}
	return f.content(h.Typeflag == tar.TypeGNUSparse || sparsePAX(h.PAXRecords))
}

// parents makes dir the innermost open directory. A tar of single files may
// lack directories; those get plain attributes and an issue.
func (f *fromTar) parents(dir string, final bool) error {
	for len(f.dirs) > 0 {
		top := f.dirs[len(f.dirs)-1]
		if top == "" || top == dir || strings.HasPrefix(dir, top+"/") {
			break
		}
		f.dirs = f.dirs[:len(f.dirs)-1]
	}
	if len(f.dirs) == 0 {
		if err := f.implied(""); err != nil {
			return err
		}
	}
	if final {
		return nil
	}
	for top := f.dirs[len(f.dirs)-1]; top != dir; {
		rest := dir
		if top != "" {
			rest = dir[len(top)+1:]
		}
		name, _, _ := strings.Cut(rest, "/")
		top = strings.TrimPrefix(top+"/"+name, "/")
		if err := f.implied(top); err != nil {
			return err
		}
	}
	return nil
}

func (f *fromTar) implied(dir string) error {
	f.dirs = append(f.dirs, dir)
	if err := f.enc.Entry(&Entry{Path: dir, Type: Dir, Mode: 0o755}); err != nil {
		return err
	}
	return f.enc.Issue(Issue{Path: Escape(dir), Kind: NotKept, What: "the tar has what is in this directory, and not the directory itself"})
}

// block is what holes are looked for in.
const block = 4096

// content sends the content of a member. In a file that the tar marks as
// sparse, blocks of zeros are the holes: the reader fills them in. Where it took
// nothing of the tar for that, they need no look, and a hole goes out as one
// however long it is: a disk image may be terabytes with little in it.
func (f *fromTar) content(sparse bool) error {
	if f.buf == nil {
		f.buf = make([]byte, maxData)
	}
	var hole int64 // not sent yet
	for {
		before := f.in.n
		n, err := io.ReadFull(f.tr, f.buf)
		for b := f.buf[:n]; len(b) > 0; {
			data, zeros := len(b), 0
			switch {
			case sparse && f.in.n == before:
				data, zeros = 0, len(b)
			case sparse:
				data, zeros = split(b)
			}
			if data > 0 {
				if err := f.enc.Hole(hole); err != nil {
					return err
				}
				if err := f.enc.Data(b[:data]); err != nil {
					return err
				}
				hole = 0
			}
			hole += int64(zeros)
			b = b[data+zeros:]
		}
		// ReadFull says ErrUnexpectedEOF for a last part as well as for a tar
		// that is cut; the reader tells the two apart when asked again.
		if err == io.ErrUnexpectedEOF {
			_, err = f.tr.Read(f.buf[:1])
		}
		if err == io.EOF {
			if err := f.enc.Hole(hole); err != nil {
				return err
			}
			return f.enc.End(OK, "")
		}
		if err != nil {
			return err
		}
	}
}

// split returns how many bytes of data b begins with, and how many zeros in
// whole blocks follow.
func split(b []byte) (data, hole int) {
	zero := func(at int) bool {
		return !slices.ContainsFunc(b[at:min(at+block, len(b))], func(c byte) bool { return c != 0 })
	}
	for data < len(b) && !zero(data) {
		data = min(data+block, len(b))
	}
	end := data
	for end < len(b) && zero(end) {
		end = min(end+block, len(b))
	}
	return data, end - data
}

func sparsePAX(records map[string]string) bool {
	for k := range records {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// gnuKeyword undoes what GNU tar writes in the key of a record, which ends at
// the first =.
var gnuKeyword = strings.NewReplacer("%3D", "=", "%25", "%")

// tarXattrs reads the two ways in which PAX carries extended attributes. What
// is in both is the same.
func tarXattrs(records map[string]string) []Xattr {
	found := map[string]string{}
	for k, v := range records {
		if name, ok := strings.CutPrefix(k, "LIBARCHIVE.xattr."); ok {
			plain, err := url.PathUnescape(name)
			value, err2 := base64.RawStdEncoding.DecodeString(strings.TrimRight(v, "="))
			if err == nil && err2 == nil {
				found[plain] = string(value)
			}
		}
	}
	for k, v := range records {
		if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			found[gnuKeyword.Replace(name)] = v
		}
	}
	var out []Xattr
	for _, name := range slices.Sorted(maps.Keys(found)) {
		if !skipXattr(name) {
			out = append(out, Xattr{name, []byte(found[name])})
		}
	}
	return out
}

// memberPath makes the name of a member relative, and refuses one that leads
// out of the tree.
func memberPath(name string) (string, error) {
	parts := strings.Split(name, "/")
	parts = slices.DeleteFunc(parts, func(p string) bool { return p == "" || p == "." })
	if slices.Contains(parts, "..") {
		return "", fmt.Errorf("member %s leads out of the tree", Escape(name))
	}
	path := strings.Join(parts, "/")
	return path, checkPath(path)
}

// mkdev is how Linux packs a device number.
func mkdev(major, minor uint64) uint64 {
	return (major&0xfffff000)<<32 | (major&0xfff)<<8 | (minor&0xffffff00)<<12 | minor&0xff
}

// counter counts what was read through it.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
