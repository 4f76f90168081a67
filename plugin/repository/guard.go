package repository

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/content"
)

// guard stands between kopia and a remote, and makes up for what remotes do
// after they said yes. Kopia trusts listings, retries a failed listing for
// ever, and takes one blob that cannot be fetched for the end; here
//
//   - own puts and deletes show in listings at once, however late the remote's
//     own listing is;
//   - a blob that is not found is asked for again, and an index blob that is
//     listed but never found (a ghost) is left out of listings from then on;
//   - a put that is refused because the name exists is a success if the bytes
//     are equal (an earlier attempt whose answer was lost);
//   - a delete of kopia's session marker that is refused is no error, so that
//     object lock works;
//   - a listing or a put that keeps failing ends the run with that one error
//     instead of an endless wait;
//   - small reads of pack blobs are served from few larger ones.
//
// It also measures how far the remote's clock is from this machine's.
type guard struct {
	blob.Storage

	now  func() time.Time
	dead context.Context // ends when the remote is given up, with the reason
	kill context.CancelCauseFunc

	mu      sync.Mutex
	put     map[blob.ID]blob.Metadata // own puts
	deleted map[blob.ID]bool
	ghosts  map[blob.ID]bool
	missing map[blob.ID]bool // waited for in vain
	ghost   func()           // called when an index blob turns out to be a ghost
	exists  bool             // there is a repository
	skew    time.Duration
	skewed  bool // skew was measured

	windows windowCache
	ahead   *ahead // nil where nothing was fetched ahead
}

func newGuard(st blob.Storage, now func() time.Time) *guard {
	g := &guard{
		Storage: st, now: now,
		put: map[blob.ID]blob.Metadata{}, deleted: map[blob.ID]bool{}, ghosts: map[blob.ID]bool{}, missing: map[blob.ID]bool{},
	}
	g.dead, g.kill = context.WithCancelCause(context.Background())
	g.windows.fetch, g.windows.lookup = g.get, g.GetMetadata
	return g
}

// Names of blobs. Kopia's are p and q (packs), x (index), s (session markers);
// ours is the record.
const (
	recordPrefix  = "kb-"
	claimPrefix   = "kbinit-"
	indexPrefix   = "x"
	kopiaFormatID = "kopia.repository"
)

func isIndex(id blob.ID) bool { return strings.HasPrefix(string(id), indexPrefix) }
func isPack(id blob.ID) bool {
	return strings.HasPrefix(string(id), string(content.PackBlobIDPrefixRegular)) || strings.HasPrefix(string(id), string(content.PackBlobIDPrefixSpecial))
}
func isRecord(id blob.ID) bool { return strings.HasPrefix(string(id), recordPrefix) }

// notFoundPauses is how long a blob that should be there is waited for.
var notFoundPauses = []time.Duration{100 * time.Millisecond, 300 * time.Millisecond, 900 * time.Millisecond}

// failedPauses is how long a listing is tried again before the run ends. A
// bridge to a real remote has tried for longer by itself.
var failedPauses = []time.Duration{200 * time.Millisecond, time.Second}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

func (g *guard) GetBlob(ctx context.Context, id blob.ID, offset, length int64, out blob.OutputBuffer) error {
	if isPack(id) && length > 0 && length < windowSize/4 {
		return g.windows.read(ctx, id, offset, length, out)
	}
	return g.get(ctx, id, offset, length, out)
}

// get fetches a blob. Only names that are there by all that is known are worth
// waiting for; others may well be absent.
func (g *guard) get(ctx context.Context, id blob.ID, offset, length int64, out blob.OutputBuffer) error {
	if offset == 0 && length < 0 {
		if data, ok := g.ahead.blob(id); ok {
			out.Reset()
			_, err := out.Write(data)
			return err
		}
	}
	expected := isIndex(id) || isPack(id) || isRecord(id)
	g.mu.Lock()
	if g.ghosts[id] && id == kopiaSettingsID {
		g.mu.Unlock()
		return blob.ErrBlobNotFound
	}
	if _, own := g.put[id]; own || id == kopiaFormatID && g.exists {
		expected = true
	}
	expected = expected && !g.missing[id]
	g.mu.Unlock()
	for attempt := 0; ; attempt++ {
		out.Reset()
		err := g.Storage.GetBlob(ctx, id, offset, length, out)
		if !errors.Is(err, blob.ErrBlobNotFound) {
			return err
		}
		if !expected || attempt == len(notFoundPauses) {
			g.mu.Lock()
			g.missing[id] = true
			g.mu.Unlock()
			if isIndex(id) {
				g.exclude(id)
			}
			return err
		}
		if err := pause(ctx, notFoundPauses[attempt]); err != nil {
			return err
		}
	}
}

// exclude leaves an index blob out of listings from now on, and hides the
// settings.
func (g *guard) exclude(id blob.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ghosts[id] = true
	if g.ghost != nil {
		g.ghost()
	}
}

func (g *guard) excluded() []blob.ID {
	g.mu.Lock()
	defer g.mu.Unlock()
	var list []blob.ID
	for id := range g.ghosts {
		list = append(list, id)
	}
	return list
}

// include adds index blobs that a record names to listings, if they are there.
// It says whether any was new.
func (g *guard) include(ctx context.Context, ids []blob.ID) (bool, error) {
	added := false
	for _, id := range ids {
		m, err := g.Storage.GetMetadata(ctx, id)
		if errors.Is(err, blob.ErrBlobNotFound) {
			continue // merged into another by maintenance
		}
		if err != nil {
			return added, fmt.Errorf("look up index blob %s: %w", id, err)
		}
		m.BlobID = id
		g.mu.Lock()
		if _, known := g.put[id]; !known {
			g.put[id] = m
			added = true
		}
		delete(g.ghosts, id)
		g.mu.Unlock()
	}
	return added, nil
}

func (g *guard) ListBlobs(ctx context.Context, prefix blob.ID, each func(blob.Metadata) error) error {
	list, ok := g.ahead.listing(prefix)
	if !ok {
		var err error
		if list, err = g.list(ctx, prefix); err != nil {
			return err
		}
	}
	g.mu.Lock()
	seen := make(map[blob.ID]bool, len(list))
	kept := list[:0]
	for _, m := range list {
		if seen[m.BlobID] || g.deleted[m.BlobID] || g.ghosts[m.BlobID] {
			continue
		}
		seen[m.BlobID] = true
		kept = append(kept, m)
	}
	for id, m := range g.put {
		if !seen[id] && strings.HasPrefix(string(id), string(prefix)) && !g.ghosts[id] {
			kept = append(kept, m)
		}
	}
	g.mu.Unlock()
	for _, m := range kept {
		if err := each(m); err != nil {
			return err
		}
	}
	return nil
}

// list is the remote's own listing.
func (g *guard) list(ctx context.Context, prefix blob.ID) ([]blob.Metadata, error) {
	for attempt := 0; ; attempt++ {
		list, err := listAll(ctx, g.Storage, prefix)
		if err == nil {
			return list, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if attempt == len(failedPauses) {
			err = fmt.Errorf("%w: list %s*: %w", ErrStorage, prefix, err)
			g.kill(err)
			return nil, err
		}
		if err := pause(ctx, failedPauses[attempt]); err != nil {
			return nil, err
		}
	}
}

func (g *guard) GetMetadata(ctx context.Context, id blob.ID) (blob.Metadata, error) {
	for attempt := 0; ; attempt++ {
		m, err := g.Storage.GetMetadata(ctx, id)
		g.mu.Lock()
		_, own := g.put[id]
		wait := (own || isPack(id)) && !g.missing[id] && attempt < len(notFoundPauses)
		if errors.Is(err, blob.ErrBlobNotFound) && !wait && isPack(id) {
			g.missing[id] = true
		}
		g.mu.Unlock()
		if !errors.Is(err, blob.ErrBlobNotFound) || !wait {
			return m, err
		}
		if err := pause(ctx, notFoundPauses[attempt]); err != nil {
			return m, err
		}
	}
}

func (g *guard) PutBlob(ctx context.Context, id blob.ID, data blob.Bytes, opts blob.PutOptions) error {
	var modified time.Time
	if opts.GetModTime == nil {
		opts.GetModTime = &modified
	}
	before := g.now()
	err := g.Storage.PutBlob(ctx, id, data, opts)
	after := g.now()
	if err != nil && ctx.Err() == nil && g.holds(ctx, id, data) {
		err = nil
	}
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err = fmt.Errorf("%w: put %s: %w", ErrStorage, id, err)
		g.kill(err)
		return err
	}
	m := blob.Metadata{BlobID: id, Length: int64(data.Length()), Timestamp: *opts.GetModTime}
	g.mu.Lock()
	defer g.mu.Unlock()
	if m.Timestamp.IsZero() {
		m.Timestamp = after
	} else {
		g.skew = m.Timestamp.Sub(before.Add(after.Sub(before) / 2))
		g.skewed = true
	}
	g.put[id] = m
	delete(g.deleted, id)
	return nil
}

// lookBack bounds the look whether a put that failed came through all the
// same: a remote that is gone would otherwise be waited for twice.
const lookBack = 10 * time.Second

// holds says whether the remote has these bytes under this name already.
func (g *guard) holds(ctx context.Context, id blob.ID, data blob.Bytes) bool {
	ctx, cancel := context.WithTimeout(ctx, lookBack)
	defer cancel()
	var there buffer
	if err := g.Storage.GetBlob(ctx, id, 0, -1, &there); err != nil || there.Length() != data.Length() {
		return false
	}
	in := data.Reader()
	defer in.Close()
	sent, err := io.ReadAll(in)
	return err == nil && bytes.Equal(sent, there.Bytes())
}

func (g *guard) DeleteBlob(ctx context.Context, id blob.ID) error {
	err := g.Storage.DeleteBlob(ctx, id)
	if errors.Is(err, blob.ErrBlobNotFound) {
		err = nil
	}
	if err != nil && strings.HasPrefix(string(id), string(content.BlobIDPrefixSession)) && ctx.Err() == nil {
		return nil // a marker that stays is ignored by everybody after a while
	}
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.put, id)
	g.deleted[id] = true
	return nil
}

// Close does nothing: kopia closes a storage also when it could not open the
// repository, and the storage is still needed then. Repository.Close closes it.
func (g *guard) Close(context.Context) error { return nil }

// bind makes a context that also ends when the remote is given up.
func (g *guard) bind(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(g.dead, func() { cancel(context.Cause(g.dead)) })
	return ctx, func() {
		stop()
		cancel(context.Canceled)
	}
}

// explain replaces an error by the reason for which the remote was given up,
// if it was: what else failed then is a consequence of that.
func (g *guard) explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if cause := context.Cause(g.dead); cause != nil {
		return cause
	}
	if ctx.Err() != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w (%w)", context.Cause(ctx), err)
	}
	return err
}

// clockSkew is how far the remote's clock is ahead of this machine's.
func (g *guard) clockSkew() (skew time.Duration, measured bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.skew, g.skewed
}

// ownIndexBlobs are the index blobs that were put since before.
func (g *guard) ownIndexBlobs(before map[blob.ID]bool) []blobPart {
	g.mu.Lock()
	defer g.mu.Unlock()
	var list []blobPart
	for id, m := range g.put {
		if isIndex(id) && !before[id] {
			list = append(list, blobPart{ID: string(id), Length: m.Length})
		}
	}
	return list
}

func (g *guard) knownPuts() map[blob.ID]bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	known := make(map[blob.ID]bool, len(g.put))
	for id := range g.put {
		known[id] = true
	}
	return known
}

// buffer is a blob.OutputBuffer and blob.Bytes over plain memory.
type buffer struct{ bytes.Buffer }

// WriteTo does not empty the buffer, as that of bytes.Buffer would.
func (b *buffer) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(b.Bytes())
	return int64(n), err
}

func (b *buffer) Length() int { return b.Len() }
func (b *buffer) Reader() io.ReadSeekCloser {
	return nopCloser{bytes.NewReader(b.Bytes())}
}

type nopCloser struct{ io.ReadSeeker }

func (nopCloser) Close() error { return nil }
