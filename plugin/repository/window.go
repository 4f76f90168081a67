package repository

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	"github.com/kopia/kopia/repo/blob"
)

// Objects are small and lie one after another in packs, so reading them one
// request each would cost a round trip per object. A window is a piece of a
// pack that is fetched at once; the memory that windows take is bounded.
const (
	windowSize = 2 << 20
	maxWindows = 8
)

// windowCache keeps the pieces of packs that were read last. Packs never
// change, so nothing here goes stale.
type windowCache struct {
	fetch  func(ctx context.Context, id blob.ID, offset, length int64, out blob.OutputBuffer) error
	lookup func(ctx context.Context, id blob.ID) (blob.Metadata, error)

	mu      sync.Mutex
	recent  []*window // oldest first
	lengths map[blob.ID]int64
}

type window struct {
	id    blob.ID
	start int64

	once sync.Once
	data []byte
	err  error
}

// read copies length bytes of a pack, which may reach over two windows.
func (c *windowCache) read(ctx context.Context, id blob.ID, offset, length int64, out blob.OutputBuffer) error {
	out.Reset()
	for length > 0 {
		start := offset - offset%windowSize
		data, err := c.window(ctx, id, start)
		if err != nil {
			return err
		}
		from := offset - start
		n := min(length, int64(len(data))-from)
		if n <= 0 {
			return fmt.Errorf("%s ends before byte %d: %w", id, offset, blob.ErrInvalidRange)
		}
		if _, err := out.Write(data[from : from+n]); err != nil {
			return err
		}
		offset += n
		length -= n
	}
	return nil
}

func (c *windowCache) window(ctx context.Context, id blob.ID, start int64) ([]byte, error) {
	for {
		w := c.find(id, start)
		mine := false
		w.once.Do(func() {
			mine = true
			w.data, w.err = c.load(ctx, id, start)
		})
		if w.err == nil {
			return w.data, nil
		}
		c.forget(w)
		if mine || ctx.Err() != nil {
			return nil, w.err
		}
		// Another reader failed, perhaps because it was cancelled.
	}
}

func (c *windowCache) load(ctx context.Context, id blob.ID, start int64) ([]byte, error) {
	length, err := c.length(ctx, id)
	if err != nil {
		return nil, err
	}
	if start >= length {
		return nil, fmt.Errorf("%s ends before byte %d: %w", id, start, blob.ErrInvalidRange)
	}
	size := min(windowSize, length-start)
	var out buffer
	out.Grow(int(size) + bytes.MinRead) // so that reading into it does not copy it again
	if err := c.fetch(ctx, id, start, size, &out); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func (c *windowCache) length(ctx context.Context, id blob.ID) (int64, error) {
	c.mu.Lock()
	n, ok := c.lengths[id]
	c.mu.Unlock()
	if ok {
		return n, nil
	}
	m, err := c.lookup(ctx, id)
	if err != nil {
		return 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lengths == nil {
		c.lengths = map[blob.ID]int64{}
	}
	c.lengths[id] = m.Length
	return m.Length, nil
}

func (c *windowCache) find(id blob.ID, start int64) *window {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, w := range c.recent {
		if w.id == id && w.start == start {
			copy(c.recent[i:], c.recent[i+1:])
			c.recent[len(c.recent)-1] = w
			return w
		}
	}
	if len(c.recent) == maxWindows {
		c.recent = c.recent[1:]
	}
	w := &window{id: id, start: start}
	c.recent = append(c.recent, w)
	return w
}

func (c *windowCache) forget(gone *window) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, w := range c.recent {
		if w == gone {
			c.recent = append(c.recent[:i:i], c.recent[i+1:]...)
			return
		}
	}
}
