package repository

import (
	"context"
	"errors"
	"sync"
	"time"
)

// A checkpoint makes what was stored so far known to whoever comes after a
// crash: data that no index names is sent again. There is one for every 64 MiB
// that were sent or every ten seconds, and later, since each adds an index
// blob to the repository, for every 32nd part of all that was done.
const (
	checkpointBytes = 64 << 20
	checkpointTime  = 10 * time.Second
	checkpointShare = 32
)

// relay is a writer to the repository that makes checkpoints while others
// write: it goes on with another writer of kopia's, and flushes the one before
// beside it. What is written to one must not be read from another, so nothing
// here reads.
type relay struct {
	ctx   context.Context
	fail  func(error)
	base  writer
	next  func() (*leg, error) // nil where base is all there is
	began time.Time

	mu       sync.Mutex
	current  *leg
	sent     int64 // by the legs before
	flushing bool
	flushes  sync.WaitGroup
}

// leg is one of the writers. All but sent is protected by the relay.
type leg struct {
	w     writer
	close func() error
	sent  func() int64
	since time.Time
	users int
	left  bool
}

// fixed is a relay of one writer, which the caller flushes.
func fixed(ctx context.Context, w writer, fail func(error)) *relay {
	return &relay{ctx: ctx, fail: fail, base: w, current: &leg{w: w}}
}

// use calls do with the writer of the moment.
func (r *relay) use(do func(writer) error) error {
	l, err := r.enter()
	if err != nil {
		return err
	}
	defer r.leave(l)
	return do(l.w)
}

func (r *relay) enter() (*leg, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next != nil && (r.current == nil || !r.flushing && r.due(r.current)) {
		l, err := r.next()
		if err != nil {
			return nil, err
		}
		if old := r.current; old != nil {
			r.retire(old)
		}
		r.current = l
	}
	r.current.users++
	return r.current, nil
}

func (r *relay) due(l *leg) bool {
	sent := l.sent()
	return sent >= max(checkpointBytes, (r.sent+sent)/checkpointShare) ||
		time.Since(l.since) >= max(checkpointTime, time.Since(r.began)/checkpointShare)
}

// retire flushes a leg once nobody uses it any more.
func (r *relay) retire(l *leg) {
	l.left, r.flushing = true, true
	r.sent += l.sent()
	r.flushes.Add(1)
	if l.users == 0 {
		go r.flush(l)
	}
}

func (r *relay) leave(l *leg) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l.users--
	if l.left && l.users == 0 {
		go r.flush(l)
	}
}

func (r *relay) flush(l *leg) {
	defer r.flushes.Done()
	if err := errors.Join(l.w.Flush(r.ctx), l.close()); err != nil {
		r.fail(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flushing = false
}

// end flushes what is left, and waits. It is called once nobody uses the
// relay any more.
func (r *relay) end() {
	r.mu.Lock()
	if l := r.current; r.next != nil && l != nil {
		r.retire(l)
		r.current = nil
	}
	r.mu.Unlock()
	r.flushes.Wait()
}

// drop gives up what is not flushed, once nobody uses the relay any more.
func (r *relay) drop() {
	r.flushes.Wait()
	if l := r.current; r.next != nil && l != nil {
		r.current = nil
		_ = l.close() // it holds no connection, and the error is known already
	}
}
