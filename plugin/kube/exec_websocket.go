package kube

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	gorilla "github.com/gorilla/websocket"
	"k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport/websocket"
)

const (
	// pingEvery keeps proxies from taking the connection for idle.
	pingEvery = 15 * time.Second
	// maxUnheard is how long not even a ping may be answered. It is long, since
	// a command that is slow to read its input holds up the answers too.
	maxUnheard = 5 * time.Minute
	// lingerAfterStatus is how long the rest may take after the exit status.
	lingerAfterStatus = 10 * time.Second
)

// webSocket runs the command over the protocol v5.channel.k8s.io: each message
// is one byte that names a stream, and data.
//
// client-go's executor is not used: it takes a connection without a status for
// success, drops what our writers refuse to take, and ends a stream whose
// reader is slow for a minute.
func (e *execution) webSocket(ctx context.Context, cfg *rest.Config) error {
	transport, holder, err := websocket.RoundTripperFor(cfg)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.url.String(), nil)
	if err != nil {
		return err
	}
	conn, err := websocket.Negotiate(transport, holder, req, remotecommand.StreamProtocolV5Name)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	s := &socket{conn: conn}
	conn.SetPongHandler(func(string) error { return s.heard(maxUnheard) })
	go s.ping(ctx)
	if e.Stdin != nil {
		go e.sendStdin(s, s.closeStdin)
	}
	return e.receive(ctx, s)
}

// receive hands out what the server sends until it closes the connection, and
// returns when all of it was taken.
func (e *execution) receive(ctx context.Context, s *socket) (err error) {
	if e.Stdout != nil {
		out := newSpool(e.Stdout, func(err error) { e.fail(fmt.Errorf("take its output: %w", err)) })
		defer context.AfterFunc(ctx, func() { out.drop(context.Cause(ctx)) })()
		defer func() {
			if refused := out.close(); err == nil {
				err = refused
			}
		}()
		e.Stdout = out
	}
	buffer := make([]byte, 64<<10)
	silent := time.AfterFunc(max(e.Silence, time.Nanosecond), func() {
		if e.Silence > 0 {
			e.fail(fmt.Errorf("%w: it wrote nothing for %s", ErrStreamEnded, e.Silence))
		}
	})
	defer silent.Stop()
	patience := maxUnheard
	for {
		// The clock runs while we wait for the server, not while our own
		// writers are busy.
		if err := s.heard(patience); err != nil {
			return ended(err)
		}
		if e.Silence > 0 {
			silent.Reset(e.Silence)
		}
		_, message, err := s.conn.NextReader()
		silent.Stop()
		if err != nil {
			return ended(err)
		}
		var stream [1]byte
		if _, err := io.ReadFull(message, stream[:]); err != nil {
			return ended(err)
		}
		for {
			n, err := message.Read(buffer)
			if problem := e.take(stream[0], buffer[:n]); problem != nil {
				e.fail(problem)
				return problem
			}
			if err == io.EOF {
				break
			}
			if err != nil {
				return ended(err)
			}
		}
		if len(e.status) > 0 {
			patience = lingerAfterStatus
		}
	}
}

// take delivers a piece of one stream.
func (e *execution) take(stream byte, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	switch stream {
	case remotecommand.StreamStdOut:
		if e.Stdout == nil {
			return nil
		}
		if _, err := e.Stdout.Write(p); err != nil {
			return fmt.Errorf("take its output: %w", err)
		}
	case remotecommand.StreamStdErr:
		if _, err := e.Stderr.Write(p); err != nil {
			return fmt.Errorf("take its error output: %w", err)
		}
	case remotecommand.StreamErr:
		e.status = append(e.status, p...)
	}
	return nil
}

// socket is a connection that several goroutines write to.
type socket struct {
	conn *gorilla.Conn
	mu   sync.Mutex
}

// Write sends a piece of the command's input.
func (s *socket) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w, err := s.conn.NextWriter(gorilla.BinaryMessage)
	if err != nil {
		return 0, err
	}
	if _, err := w.Write([]byte{remotecommand.StreamStdIn}); err != nil {
		return 0, err
	}
	n, err := w.Write(p)
	if err != nil {
		return n, err
	}
	return n, w.Close()
}

// closeStdin ends the command's input; its output goes on.
func (s *socket) closeStdin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn.WriteMessage(gorilla.BinaryMessage, []byte{remotecommand.StreamClose, remotecommand.StreamStdIn})
}

func (s *socket) heard(patience time.Duration) error {
	return s.conn.SetReadDeadline(time.Now().Add(patience))
}

func (s *socket) ping(ctx context.Context) {
	ticker := time.NewTicker(pingEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			// A failure shows in reading.
			_ = s.conn.WriteControl(gorilla.PingMessage, nil, time.Now().Add(pingEvery))
		}
	}
}
