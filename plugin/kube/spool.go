package kube

import (
	"io"
	"sync"
	"time"
)

// spool stands between a connection and a writer that may block for long. The
// API server gives up a WebSocket to which it cannot write for a minute, and a
// remote that is slow or has to be asked again takes nothing for longer than
// that. So while the writer blocks, the spool takes a little at a time, as much
// as opens the connection's window again.
type spool struct {
	w    io.Writer
	pace time.Duration
	fail func(error) // is told at once that the writer refused something

	mu     sync.Mutex
	change *sync.Cond
	queue  [][]byte
	size   int
	limit  int // what is taken before the writer must be done with some of it
	closed bool
	err    error
	done   chan struct{}
}

const (
	// spoolStep is taken at once, and again at each pace while the writer blocks.
	// It is more than the part of a large window that TCP opens it for.
	spoolStep = 1 << 20
	// spoolMax bounds the memory of one stream. It is full after twenty minutes.
	spoolMax = 64 * spoolStep
)

// spoolPace is well below the minute that an API server waits.
var spoolPace = 20 * time.Second

func newSpool(w io.Writer, fail func(error)) *spool {
	s := &spool{w: w, pace: spoolPace, fail: fail, limit: spoolStep, done: make(chan struct{})}
	s.change = sync.NewCond(&s.mu)
	go s.run()
	return s
}

// run writes what is queued until the spool is closed and empty.
func (s *spool) run() {
	defer close(s.done)
	for {
		s.mu.Lock()
		for len(s.queue) == 0 && !s.closed {
			s.change.Wait()
		}
		if len(s.queue) == 0 || s.err != nil {
			s.mu.Unlock()
			return
		}
		p := s.queue[0]
		s.queue = s.queue[1:]
		s.mu.Unlock()

		_, err := s.w.Write(p)

		s.mu.Lock()
		s.size -= len(p)
		if s.err == nil {
			s.err = err
		}
		if s.size < spoolStep {
			s.limit = spoolStep
		}
		s.change.Broadcast()
		s.mu.Unlock()
		if err != nil {
			s.fail(err)
		}
	}
}

// Write takes a copy of p, and blocks while the writer is behind.
func (s *spool) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.size >= s.limit {
		more := time.AfterFunc(s.pace, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.limit = min(s.limit+spoolStep, spoolMax)
			s.change.Broadcast()
		})
		defer more.Stop()
	}
	for s.size >= s.limit && s.err == nil {
		s.change.Wait()
	}
	if s.err != nil {
		return 0, s.err
	}
	s.queue, s.size = append(s.queue, append([]byte(nil), p...)), s.size+len(p)
	s.change.Broadcast()
	return len(p), nil
}

// drop forgets what is queued: nobody wants it any more.
func (s *spool) drop(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = cause
	}
	s.change.Broadcast()
}

// close waits until everything is written, or the writer refused something.
func (s *spool) close() error {
	s.mu.Lock()
	s.closed = true
	s.change.Broadcast()
	s.mu.Unlock()
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
