package remote

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	gohash "hash"
	"io"
	"net/http"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/blob/sharded"
	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/fserrors"
	"github.com/rclone/rclone/fs/hash"
	"github.com/rclone/rclone/fs/object"
	"github.com/rclone/rclone/lib/file"
)

var (
	errNoSpace  error = syscall.ENOSPC
	errReadOnly error = syscall.EROFS
)

// bridge implements sharded.Impl on an rclone fs.Fs. Its methods may be called
// from many goroutines.
type bridge struct {
	fs      fs.Fs                 // says what the remote is and can do
	live    atomic.Pointer[fs.Fs] // what requests go through; see renew
	anew    func(context.Context) (fs.Fs, error)
	conf    context.Context // holds rclone's options for this remote, nothing else
	secrets *scrubber
	// patience is about all requests together.
	patience *patience
	staged   bool // the remote shows files while they are written
	unasked  bool // objects may not be there, and have no size before they are open

	layoutMutex sync.Mutex
	layout      []byte // of a remote that is empty so far; see PutBlobInPath
}

// isA says whether a remote is one of rclone's backend of this name, or a wrapper
// around one.
func isA(f fs.Fs, backend string) bool {
	for {
		if info, _, _, _, err := fs.ParseRemote(fs.ConfigStringFull(f)); err == nil && info.Name == backend {
			return true
		}
		if f.Features().UnWrap == nil {
			return false
		}
		f = f.Features().UnWrap()
	}
}

// showsPartialFiles says whether a reader could see part of a file that is
// being put. rclone's own answer leaves out WebDAV, where it depends on the
// server.
func showsPartialFiles(f fs.Fs) bool {
	if f.Features().Move == nil {
		return false
	}
	return f.Features().PartialUploads || isA(f, "webdav")
}

// unasked says whether a remote gives objects without asking whether they are
// there: rclone's backend for S3 makes one request of a read then, not two.
func unasked(target string) bool {
	info, _, _, options, err := fs.ConfigFs(target)
	if err != nil || info.Name != "s3" {
		return false
	}
	value, _ := options.Get(unaskedOption)
	yes, err := strconv.ParseBool(value)
	return err == nil && yes
}

const unaskedOption = "no_head_object"

// look asks the remote for a file.
func (b *bridge) look(ctx context.Context, f fs.Fs, file string) (fs.Object, error) {
	o, err := f.NewObject(ctx, name(file))
	if err == nil && b.unasked {
		_, err = fs.GetMetadata(ctx, o)
	}
	return o, err
}

// GetBlobFromPath reads length bytes from offset, or all where length < 0.
func (b *bridge) GetBlobFromPath(ctx context.Context, _, file string, offset, length int64, output blob.OutputBuffer) error {
	if name(file) == sharded.ParametersFile {
		return b.readLayout(ctx, output)
	}
	return b.read(ctx, file, offset, length, output)
}

// readLayout reads the description of the layout. One that is damaged is as
// good as none: every repository of this program has the same layout.
func (b *bridge) readLayout(ctx context.Context, output blob.OutputBuffer) error {
	var data layoutBuffer
	if err := b.read(ctx, sharded.ParametersFile, 0, -1, &data); err != nil {
		return err
	}
	if !json.Valid(data.Bytes()) {
		return blob.ErrBlobNotFound
	}
	output.Reset()
	_, err := output.Write(data.Bytes())
	return err
}

// layoutBuffer is a blob.OutputBuffer.
type layoutBuffer struct{ bytes.Buffer }

func (b *layoutBuffer) Length() int { return b.Len() }

func (b *bridge) read(ctx context.Context, file string, offset, length int64, output blob.OutputBuffer) error {
	return b.retry(ctx, "read", file, func(ctx context.Context, f fs.Fs) error {
		output.Reset()
		o, in, err := b.open(ctx, f, file, offset, length)
		if err != nil || in == nil {
			return err
		}
		defer in.Close()
		want := length
		if length < 0 {
			want = o.Size()
		}
		n, err := io.Copy(output, in)
		if err != nil {
			return err
		}
		if want >= 0 && n != want {
			return fserrors.RetryErrorf("the remote sent %d bytes of %d", n, want)
		}
		return nil
	})
}

// open opens a part of a file, or all of it where length < 0. There is nothing
// to read where length is 0.
func (b *bridge) open(ctx context.Context, f fs.Fs, file string, offset, length int64) (fs.Object, io.ReadCloser, error) {
	if b.unasked && length != 0 {
		return b.openUnasked(ctx, f, file, offset, length)
	}
	o, err := b.look(ctx, f, file)
	if err != nil || length == 0 {
		return o, nil, err
	}
	var options []fs.OpenOption
	if length > 0 {
		if err := within(o.Size(), offset, length); err != nil {
			return nil, nil, err
		}
		options = append(options, &fs.RangeOption{Start: offset, End: offset + length - 1})
	}
	in, err := o.Open(ctx, options...)
	return o, in, err
}

// openUnasked is open where an object has no size until it is open. rclone
// would take it for empty, so the range is a header to it.
func (b *bridge) openUnasked(ctx context.Context, f fs.Fs, file string, offset, length int64) (fs.Object, io.ReadCloser, error) {
	o, err := f.NewObject(ctx, name(file))
	if err != nil {
		return nil, nil, err
	}
	if length < 0 {
		in, err := o.Open(ctx)
		return o, in, err
	}
	if err := within(-1, offset, length); err != nil {
		return nil, nil, err
	}
	in, err := o.Open(ctx, &fs.HTTPOption{Key: "Range", Value: fmt.Sprintf("bytes=%d-%d", offset, offset+length-1)})
	if status(err) == http.StatusRequestedRangeNotSatisfiable {
		return nil, nil, outside(offset, length)
	}
	if err != nil {
		return nil, nil, err
	}
	if err := within(o.Size(), offset, length); err != nil {
		return nil, nil, errors.Join(err, in.Close())
	}
	return o, in, nil
}

// within makes sure that a part is one of a file of a size, which is below 0
// where it is not known.
func within(size, offset, length int64) error {
	if offset < 0 || size >= 0 && offset+length > size {
		return outside(offset, length)
	}
	return nil
}

func outside(offset, length int64) error {
	return fserrors.NoRetryError(fmt.Errorf("bytes %d to %d: %w", offset, offset+length, blob.ErrInvalidRange))
}

// GetMetadataFromPath asks the remote for this one file; it never lists.
func (b *bridge) GetMetadataFromPath(ctx context.Context, _, file string) (blob.Metadata, error) {
	var m blob.Metadata
	err := b.retry(ctx, "look up", file, func(ctx context.Context, f fs.Fs) error {
		o, err := b.look(ctx, f, file)
		if err != nil {
			return err
		}
		m = blob.Metadata{Length: o.Size(), Timestamp: o.ModTime(ctx)}
		return nil
	})
	return m, err
}

// PutBlobInPath stores the whole blob or nothing. It has succeeded when the
// object that the remote gave back has the size, and where it costs nothing
// the checksum, of what was sent.
//
// The sharded layout describes itself in a file as soon as anybody looks for a
// blob. Looking must not write, so that file waits for the first blob.
func (b *bridge) PutBlobInPath(ctx context.Context, _, file string, data blob.Bytes, opts blob.PutOptions) error {
	switch {
	case opts.HasRetentionOptions():
		return fmt.Errorf("retention: %w", blob.ErrUnsupportedPutBlobOption)
	case opts.DoNotRecreate:
		return fmt.Errorf("exclusive create: %w", blob.ErrUnsupportedPutBlobOption)
	case !opts.SetModTime.IsZero():
		return blob.ErrSetTimeUnsupported
	}
	if name(file) == sharded.ParametersFile {
		b.layoutMutex.Lock()
		defer b.layoutMutex.Unlock()
		b.layout, _ = io.ReadAll(data.Reader()) // from memory
		return nil
	}
	if err := b.writeLayout(ctx); err != nil {
		return err
	}
	return b.put(ctx, file, data, opts)
}

// writeLayout writes the description of the layout, where it still waits and
// there is none: it may have been shown late, or be damaged, and no file is
// written over.
func (b *bridge) writeLayout(ctx context.Context) error {
	b.layoutMutex.Lock()
	defer b.layoutMutex.Unlock()
	if b.layout == nil {
		return nil
	}
	switch _, err := b.GetMetadataFromPath(ctx, "", sharded.ParametersFile); {
	case err == nil:
		b.layout = nil
		return nil
	case !errors.Is(err, blob.ErrBlobNotFound):
		return err
	}
	if err := b.put(ctx, sharded.ParametersFile, inMemory(b.layout), blob.PutOptions{}); err != nil {
		return err
	}
	b.layout = nil
	return nil
}

// inMemory is a blob.Bytes.
type inMemory []byte

func (m inMemory) Length() int { return len(m) }
func (m inMemory) Reader() io.ReadSeekCloser {
	return struct {
		io.ReadSeeker
		io.Closer
	}{bytes.NewReader(m), io.NopCloser(nil)}
}
func (m inMemory) WriteTo(w io.Writer) (int64, error) { return bytes.NewReader(m).WriteTo(w) }

func (b *bridge) put(ctx context.Context, file string, data blob.Bytes, opts blob.PutOptions) error {
	hashes, err := b.hashes(data)
	if err != nil {
		return err
	}
	return b.retry(ctx, "write", file, func(ctx context.Context, f fs.Fs) error {
		in := data.Reader()
		defer in.Close()
		final := name(file)
		first := final
		if b.staged {
			var suffix [8]byte
			rand.Read(suffix[:])
			first = final + ".tmp." + hex.EncodeToString(suffix[:])
		}
		info := object.NewStaticObjectInfo(first, time.Now(), int64(data.Length()), true, hashes, nil)
		o, err := b.send(ctx, f, in, info)
		if err == nil {
			err = b.whole(ctx, o, info)
		}
		if err == nil && b.staged {
			o, err = f.Features().Move(ctx, o, final)
			if err == nil {
				err = b.whole(ctx, o, info)
			}
		}
		if err != nil {
			b.discard(ctx, f, first, final)
			return err
		}
		if opts.GetModTime != nil {
			*opts.GetModTime = o.ModTime(ctx)
		}
		return nil
	})
}

// shownPauses is how long a blob is waited for that the remote took and does
// not show.
var shownPauses = []time.Duration{100 * time.Millisecond, 300 * time.Millisecond, 900 * time.Millisecond, 2700 * time.Millisecond}

// send puts a file and gives what the remote made of it. rclone looks at what it
// has put, and a remote may not show that at once. Then it is looked for again,
// and not sent again: a second put may be refused, or keep both.
func (b *bridge) send(ctx context.Context, f fs.Fs, in io.Reader, info *object.StaticObjectInfo) (fs.Object, error) {
	o, err := f.Put(ctx, in, info)
	for _, wait := range shownPauses {
		if !isNotFound(err) {
			return o, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(wait):
		}
		o, err = b.look(ctx, f, info.Remote())
	}
	if isNotFound(err) {
		// Not the error that stands for a blob that is not there.
		err = fmt.Errorf("the remote does not show what it was sent: %v", err)
	}
	return o, err
}

// hashes computes the checksums that the remote can check on arrival. Remotes
// that would have to read the file again for it are not asked.
func (b *bridge) hashes(data blob.Bytes) (map[hash.Type]string, error) {
	known := map[hash.Type]gohash.Hash{}
	var all []io.Writer
	for _, t := range b.fs.Hashes().Array() {
		switch {
		case b.fs.Features().SlowHash:
		case t == hash.MD5:
			known[t] = md5.New()
		case t == hash.SHA1:
			known[t] = sha1.New()
		}
		if h := known[t]; h != nil {
			all = append(all, h)
		}
	}
	sums := map[hash.Type]string{}
	if len(all) == 0 {
		return sums, nil
	}
	in := data.Reader()
	defer in.Close()
	if _, err := io.Copy(io.MultiWriter(all...), in); err != nil {
		return nil, fmt.Errorf("read blob: %w", err)
	}
	for t, h := range known {
		sums[t] = hex.EncodeToString(h.Sum(nil))
	}
	return sums, nil
}

// whole compares what the remote says it holds with what was sent.
func (b *bridge) whole(ctx context.Context, o fs.Object, sent *object.StaticObjectInfo) error {
	if o.Size() >= 0 && o.Size() != sent.Size() {
		return fserrors.RetryErrorf("the remote holds %d bytes of %d", o.Size(), sent.Size())
	}
	for _, t := range b.fs.Hashes().Array() {
		want, err := sent.Hash(ctx, t)
		if err != nil || want == "" || b.fs.Features().SlowHash {
			continue
		}
		got, err := o.Hash(ctx, t)
		if err == nil && got != "" && got != want {
			return fserrors.RetryErrorf("the remote holds %s %s, sent was %s", t, got, want)
		}
	}
	return nil
}

// discard removes what a failed put may have left under a temporary name. It
// never touches the final name: that could be an older, whole blob.
func (b *bridge) discard(ctx context.Context, f fs.Fs, temporary, final string) {
	if temporary == final {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if o, err := f.NewObject(ctx, temporary); err == nil {
		// A file that stays has a name that no reader looks at.
		_ = o.Remove(ctx)
	}
}

// DeleteBlobInPath removes a blob; one that is not there is no error.
func (b *bridge) DeleteBlobInPath(ctx context.Context, _, file string) error {
	err := b.retry(ctx, "delete", file, func(ctx context.Context, f fs.Fs) error {
		o, err := f.NewObject(ctx, name(file))
		if err != nil {
			return err
		}
		return o.Remove(ctx)
	})
	if errors.Is(err, blob.ErrBlobNotFound) {
		return nil
	}
	return err
}

// ReadDir lists one folder; one that does not exist is empty.
func (b *bridge) ReadDir(ctx context.Context, dir string) ([]os.FileInfo, error) {
	var list []os.FileInfo
	err := b.retry(ctx, "list", dir, func(ctx context.Context, f fs.Fs) error {
		entries, err := f.List(ctx, name(dir))
		if err != nil {
			return err
		}
		list = list[:0]
		for _, e := range entries {
			_, isDir := e.(fs.Directory)
			listed := entry{name: path.Base(e.Remote()), dir: isDir, size: e.Size()}
			if !isDir {
				listed.time = e.ModTime(ctx)
			}
			list = append(list, listed)
		}
		return nil
	})
	if errors.Is(err, blob.ErrBlobNotFound) {
		return nil, nil
	}
	return list, err
}

// name turns a path of the sharded layout into one of rclone's: relative, "/"
// between parts, "" for the root.
func name(p string) string { return strings.TrimPrefix(p, "/") }

// entry is one listed file or folder.
type entry struct {
	name string
	dir  bool
	size int64
	time time.Time
}

func (e entry) Name() string       { return e.name }
func (e entry) Size() int64        { return e.size }
func (e entry) ModTime() time.Time { return e.time }
func (e entry) IsDir() bool        { return e.dir }
func (e entry) Sys() any           { return nil }
func (e entry) Mode() os.FileMode {
	if e.dir {
		return os.ModeDir | 0o700
	}
	return 0o600
}

// retry runs one request until it succeeds or trying again cannot help, and
// gives its error the meaning that kopia knows.
func (b *bridge) retry(ctx context.Context, verb, file string, request func(context.Context, fs.Fs) error) error {
	ctx = fs.CopyConfig(ctx, b.conf)
	for attempt := 0; ; attempt++ {
		used := b.live.Load()
		err := ctx.Err()
		if err == nil {
			err = request(ctx, *used)
		}
		switch {
		case err == nil:
			b.patience.answer()
			return nil
		case isNotFound(err):
			b.patience.answer()
			return blob.ErrBlobNotFound
		case errors.Is(err, blob.ErrInvalidRange):
			return fmt.Errorf("%s %s: %w", verb, file, blob.ErrInvalidRange)
		case ctx.Err() != nil:
			return fmt.Errorf("%s %s: %w", verb, file, context.Cause(ctx))
		}
		wait, again := b.patience.again(attempt, err)
		if !again {
			return fmt.Errorf("%s %s: %w%s", verb, file, b.secrets.clean(err), clockHint(err))
		}
		b.renew(used)
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s %s: %w", verb, file, context.Cause(ctx))
		case <-time.After(wait):
		}
	}
}

// renew lets requests go through another fs.Fs than the one that failed, where
// rclone slows down all requests of one after a failure: its backend for S3
// lets one through every two seconds then, and the next failure comes before
// it is back to its pace. Each request here waits for itself already.
func (b *bridge) renew(used *fs.Fs) {
	if b.anew == nil || b.live.Load() != used {
		return
	}
	if f, err := b.anew(b.conf); err == nil {
		b.live.CompareAndSwap(used, &f)
	}
}

func isNotFound(err error) bool {
	return errors.Is(err, fs.ErrorObjectNotFound) || errors.Is(err, fs.ErrorDirNotFound) ||
		errors.Is(err, fs.ErrorNotAFile) || errors.Is(err, fs.ErrorIsDir) || errors.Is(err, os.ErrNotExist)
}

func isDenied(err error) bool {
	return errors.Is(err, fs.ErrorPermissionDenied) || errors.Is(err, os.ErrPermission)
}

// isFull knows the system's error, rclone's own, which it gives when it reserves
// the space beforehand, and what servers answer.
func isFull(err error) bool {
	return errors.Is(err, errNoSpace) || errors.Is(err, file.ErrDiskFull) || isFullAnswer(err)
}

// clockTolerance is the difference between clocks at which servers begin to
// refuse signed requests; most allow more.
const clockTolerance = 4 * time.Minute

// clockHint says that a refusal is probably about the clock, and by how much
// it is off. A refused HEAD carries no reason, but every answer has a date.
func clockHint(err error) string {
	var response *smithyhttp.ResponseError
	if !errors.As(err, &response) || response.Response == nil || response.Response.Response == nil {
		return ""
	}
	there, dateErr := http.ParseTime(response.Response.Header.Get("Date"))
	off := time.Until(there).Round(time.Second)
	if dateErr != nil || off.Abs() < clockTolerance {
		return ""
	}
	direction := "behind"
	if off < 0 {
		direction = "ahead of"
	}
	return fmt.Sprintf("; hint: the clock of this machine is %s %s that of the remote", off.Abs(), direction)
}
