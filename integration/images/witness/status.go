package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"sync"
	"time"
)

const statusPort = "7001"

// status is how far a writer or relay is.
type status struct {
	mu           sync.Mutex
	acknowledged int64
	last         time.Time
	longest      time.Duration
}

func (s *status) acknowledge(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acknowledged = n
	s.longest = max(s.longest, time.Since(s.last))
	s.last = time.Now()
}

// tell answers how far it is, and the longest wait for a number to be
// acknowledged since it was last asked.
func (s *status) tell(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	answer := map[string]any{"acknowledged": s.acknowledged, "longestSeconds": max(s.longest, time.Since(s.last)).Seconds()}
	s.longest = 0
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// serve answers questions and obeys, until the context ends.
func serve(ctx context.Context, j *journal, s *status) error {
	listener, err := net.Listen("tcp", ":"+statusPort)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", s.tell)
	mux.HandleFunc("GET /pause", func(http.ResponseWriter, *http.Request) { j.pause() })
	mux.HandleFunc("GET /resume", func(http.ResponseWriter, *http.Request) { j.resume() })
	context.AfterFunc(ctx, func() { listener.Close() })
	go func() { _ = http.Serve(listener, mux) }()
	return nil
}
