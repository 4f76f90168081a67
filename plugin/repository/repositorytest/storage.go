// Package repositorytest holds the suite that a repository has to pass on any
// storage, and a storage in memory that misbehaves as remotes do. It is used
// by tests only.
package repositorytest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kopia/kopia/repo/blob"
)

// Memory is a storage in memory with the faults of remotes. Set the fields
// before use; the zero value has none.
type Memory struct {
	blob.DefaultProviderImplementation

	// ListDelay is how late puts and deletes show in listings.
	ListDelay time.Duration
	// MissAfterPut is how often a blob is not found after it was put.
	MissAfterPut int
	// Ghosts are listed and not there.
	Ghosts []blob.ID
	// DenyOverwrite and DenyDelete are object lock.
	DenyOverwrite, DenyDelete bool
	// Capacity is in bytes; 0 is unlimited.
	Capacity int64
	// FailAfter lets so many puts pass and then fails all requests; 0 never.
	FailAfter int
	// ReadOnlyAfter lets so many puts pass and then refuses puts; 0 never.
	ReadOnlyAfter int
	// Clock is the storage's time; nil means time.Now.
	Clock func() time.Time

	mu       sync.Mutex
	blobs    map[blob.ID]*stored
	puts     []blob.ID
	used     int64
	requests int
}

type stored struct {
	data    []byte
	time    time.Time // of the last put or delete
	gone    bool
	misses  int
	changes time.Time // real time of the last put or delete
}

// Puts lists the names that were put, in order, repetitions included.
func (m *Memory) Puts() []blob.ID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.puts)
}

// Requests counts requests of all kinds.
func (m *Memory) Requests() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.requests
}

// Blobs lists the blobs that are there.
func (m *Memory) Blobs() []blob.ID {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ids []blob.ID
	for id, b := range m.blobs {
		if !b.gone {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// Size is the length of all blobs, in bytes.
func (m *Memory) Size() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	var n int64
	for _, b := range m.blobs {
		if !b.gone {
			n += int64(len(b.data))
		}
	}
	return n
}

// Copy is another storage with the same blobs and no faults.
func (m *Memory) Copy() *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &Memory{blobs: map[blob.ID]*stored{}}
	for id, b := range m.blobs {
		if !b.gone {
			c.blobs[id] = &stored{data: slices.Clone(b.data), time: b.time}
		}
	}
	return c
}

// Remove loses a blob.
func (m *Memory) Remove(id blob.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.blobs, id)
}

// early is a place in a blob that is in use: packs end in a second copy of
// their index that nobody reads.
const early = 100

// Flip changes one bit of a blob.
func (m *Memory) Flip(id blob.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.blobs[id]
	b.data = slices.Clone(b.data)
	b.data[min(early, len(b.data)/2)] ^= 1
}

// Truncate leaves the first bytes of a blob.
func (m *Memory) Truncate(id blob.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.blobs[id]
	b.data = b.data[:min(early, len(b.data)/2)]
}

func (m *Memory) now() time.Time {
	if m.Clock != nil {
		return m.Clock()
	}
	return time.Now()
}

var errGone = errors.New("connection refused")

func (m *Memory) request(ctx context.Context) error {
	m.requests++
	if m.FailAfter > 0 && len(m.puts) >= m.FailAfter {
		return errGone
	}
	return ctx.Err()
}

// GetBlob implements blob.Storage.
func (m *Memory) GetBlob(ctx context.Context, id blob.ID, offset, length int64, out blob.OutputBuffer) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.request(ctx); err != nil {
		return err
	}
	b := m.blobs[id]
	if b == nil || b.gone {
		return blob.ErrBlobNotFound
	}
	if b.misses > 0 {
		b.misses--
		return blob.ErrBlobNotFound
	}
	out.Reset()
	data := b.data
	if length >= 0 {
		if offset < 0 || offset+length > int64(len(data)) {
			return blob.ErrInvalidRange
		}
		data = data[offset : offset+length]
	}
	_, err := out.Write(data)
	return err
}

// GetMetadata implements blob.Storage.
func (m *Memory) GetMetadata(ctx context.Context, id blob.ID) (blob.Metadata, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.request(ctx); err != nil {
		return blob.Metadata{}, err
	}
	b := m.blobs[id]
	if b == nil || b.gone {
		return blob.Metadata{}, blob.ErrBlobNotFound
	}
	return blob.Metadata{BlobID: id, Length: int64(len(b.data)), Timestamp: b.time}, nil
}

// PutBlob implements blob.Storage. Names that a simple file system refuses, or
// does not tell apart, are refused.
func (m *Memory) PutBlob(ctx context.Context, id blob.ID, data blob.Bytes, opts blob.PutOptions) error {
	in := data.Reader()
	defer in.Close()
	content, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.request(ctx); err != nil {
		return err
	}
	if m.ReadOnlyAfter > 0 && len(m.puts) >= m.ReadOnlyAfter {
		return fmt.Errorf("put %s: %w", id, syscall.EROFS)
	}
	if strings.Trim(string(id), "abcdefghijklmnopqrstuvwxyz0123456789_.-") != "" {
		return fmt.Errorf("put %s: the name has a character that this remote refuses", id)
	}
	if m.Capacity > 0 && m.used+int64(len(content)) > m.Capacity {
		return fmt.Errorf("put %s: %w", id, syscall.ENOSPC)
	}
	if old := m.blobs[id]; old != nil && !old.gone && m.DenyOverwrite {
		return fmt.Errorf("put %s: access denied: the object is locked", id)
	}
	if m.blobs == nil {
		m.blobs = map[blob.ID]*stored{}
	}
	m.puts = append(m.puts, id)
	m.used += int64(len(content))
	m.blobs[id] = &stored{data: content, time: m.now(), misses: m.MissAfterPut, changes: time.Now()}
	if opts.GetModTime != nil {
		*opts.GetModTime = m.blobs[id].time
	}
	return nil
}

// DeleteBlob implements blob.Storage.
func (m *Memory) DeleteBlob(ctx context.Context, id blob.ID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.request(ctx); err != nil {
		return err
	}
	if m.DenyDelete {
		return fmt.Errorf("delete %s: access denied until its lock ends", id)
	}
	if b := m.blobs[id]; b != nil {
		b.gone, b.changes = true, time.Now()
	}
	return nil
}

// ListBlobs implements blob.Storage.
func (m *Memory) ListBlobs(ctx context.Context, prefix blob.ID, each func(blob.Metadata) error) error {
	m.mu.Lock()
	if err := m.request(ctx); err != nil {
		m.mu.Unlock()
		return err
	}
	var list []blob.Metadata
	for id, b := range m.blobs {
		settled := time.Since(b.changes) >= m.ListDelay
		if shown := settled != b.gone; shown && strings.HasPrefix(string(id), string(prefix)) {
			list = append(list, blob.Metadata{BlobID: id, Length: int64(len(b.data)), Timestamp: b.time})
		}
	}
	for _, id := range m.Ghosts {
		if strings.HasPrefix(string(id), string(prefix)) {
			list = append(list, blob.Metadata{BlobID: id, Length: 100, Timestamp: m.now()})
		}
	}
	m.mu.Unlock()
	for _, b := range list {
		if err := each(b); err != nil {
			return err
		}
	}
	return nil
}

// ConnectionInfo implements blob.Storage.
func (m *Memory) ConnectionInfo() blob.ConnectionInfo {
	return blob.ConnectionInfo{Type: "memory", Config: struct{}{}}
}

// DisplayName implements blob.Storage.
func (m *Memory) DisplayName() string { return "memory" }
