package objectstore

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// Fault decides what becomes of a request; nil means that it is served. It is
// called from many goroutines.
type Fault func(*http.Request) *Failure

// Failure is an answer without service: an error in S3's words, or a
// connection that ends when half of the body has been read.
type Failure struct {
	Status int
	Code   string
	Cut    bool
}

// Busy answers 503 for a while, serves for a while, and so on.
func Busy(refuse, serve time.Duration) Fault {
	began := time.Now()
	return func(*http.Request) *Failure {
		if time.Since(began)%(refuse+serve) >= refuse {
			return nil
		}
		return &Failure{Status: http.StatusServiceUnavailable, Code: "SlowDown"}
	}
}

// Forbidden refuses all uploads, as for credentials whose rights were taken.
func Forbidden() Fault {
	return uploads(func(*http.Request) *Failure { return &Failure{Status: http.StatusForbidden, Code: "AccessDenied"} })
}

// Full refuses uploads beyond a total size, in the words of servers that have
// a quota (403 QuotaExceeded) or that count their disks (507 StorageFull).
func (s *Server) Full(limit int64, status int, code string) Fault {
	return uploads(func(r *http.Request) *Failure {
		if s.Size()+max(r.ContentLength, 0) <= limit {
			return nil
		}
		return &Failure{Status: status, Code: code}
	})
}

// CutUploads ends the connections of the next n uploads of at least so many
// bytes when half has been read.
func CutUploads(n int64, atLeast int64) Fault {
	var left atomic.Int64
	left.Store(n)
	return uploads(func(r *http.Request) *Failure {
		if r.ContentLength < atLeast || left.Add(-1) < 0 {
			return nil
		}
		return &Failure{Cut: true}
	})
}

func uploads(f Fault) Fault {
	return func(r *http.Request) *Failure {
		if r.Method != http.MethodPut {
			return nil
		}
		return f(r)
	}
}

// guard counts, fails and locks in front of a handler.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := &countedBody{ReadCloser: r.Body, add: func(n int) { s.count(func(c *Counts) { c.BytesIn += int64(n) }) }}
		r.Body = body
		s.count(func(c *Counts) { c.request(r) })
		failure := s.judge(r)
		if failure == nil {
			next.ServeHTTP(&countedWriter{ResponseWriter: w, add: func(n int) { s.count(func(c *Counts) { c.BytesOut += int64(n) }) }}, r)
			return
		}
		s.count(func(c *Counts) { c.Refused++ })
		if failure.Cut {
			_, _ = io.CopyN(io.Discard, r.Body, r.ContentLength/2)
			hangUp(w)
			return
		}
		// Read first: a client that is still sending would see the end of the
		// connection and not the answer.
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(failure.Status)
		fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>%s</Message></Error>`, failure.Code, failure.Code)
	})
}

// hangUp ends the connection with a reset.
func hangUp(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	conn.Close()
}

// judge asks the fault, then the lock.
func (s *Server) judge(r *http.Request) *Failure {
	s.mu.Lock()
	fault, locked := s.fault, s.locked
	s.mu.Unlock()
	if fault != nil {
		if f := fault(r); f != nil {
			return f
		}
	}
	key := keyOf(r)
	switch {
	case !locked:
	case r.Method == http.MethodDelete && key != "", r.Method == http.MethodPost && r.URL.Query().Has("delete"):
		return &Failure{Status: http.StatusForbidden, Code: "AccessDenied"}
	case r.Method == http.MethodPut && key != "" && s.store.has(key):
		return &Failure{Status: http.StatusForbidden, Code: "AccessDenied"}
	case r.Method == http.MethodPut && key != "" && !hasChecksum(r.Header):
		return &Failure{Status: http.StatusBadRequest, Code: "InvalidRequest"}
	}
	return nil
}

func hasChecksum(h http.Header) bool {
	if h.Get("Content-MD5") != "" {
		return true
	}
	for name := range h {
		if strings.HasPrefix(name, "X-Amz-Checksum-") || name == "X-Amz-Trailer" {
			return true
		}
	}
	return false
}

// keyOf is the object that a request is about, or empty.
func keyOf(r *http.Request) string {
	key, _ := strings.CutPrefix(r.URL.Path, "/"+Bucket)
	return strings.TrimPrefix(key, "/")
}

func (s *Server) count(f func(*Counts)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.counts)
}

func (c *Counts) request(r *http.Request) {
	c.Requests++
	object := keyOf(r) != ""
	switch {
	case r.Method == http.MethodPut && object:
		c.Puts++
	case r.Method == http.MethodGet && object:
		c.Gets++
	case r.Method == http.MethodGet:
		c.Lists++
	case r.Method == http.MethodDelete || r.URL.Query().Has("delete"):
		c.Deletes++
	}
}

type countedBody struct {
	io.ReadCloser
	add func(int)
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.add(n)
	return n, err
}

type countedWriter struct {
	http.ResponseWriter
	add func(int)
}

func (w *countedWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.add(n)
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (w *countedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
