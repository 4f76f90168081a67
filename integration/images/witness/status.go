package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	statusPort = "7001"
	// socket is not a file: a container may have no place that can be written.
	socket = "@witness"
)

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

// ServeHTTP tells how far it is, and the longest wait for a number to be
// acknowledged since it was last asked.
func (s *status) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	answer := map[string]any{"acknowledged": s.acknowledged, "longestSeconds": max(s.longest, time.Since(s.last)).Seconds()}
	s.longest = 0
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// serve answers questions over HTTP, and pause and resume over a socket.
func serve(ctx context.Context, j *journal, s *status) error {
	questions, err := net.Listen("tcp", ":"+statusPort)
	if err != nil {
		return err
	}
	orders, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { questions.Close(); orders.Close() })
	go func() { _ = http.Serve(questions, s) }()
	go func() {
		for {
			conn, err := orders.Accept()
			if err != nil {
				return
			}
			obey(j, conn)
		}
	}()
	return nil
}

// obey handles one order at a time; the answer comes when it is done.
func obey(j *journal, conn net.Conn) {
	defer conn.Close()
	order, err := io.ReadAll(io.LimitReader(conn, 16))
	if err != nil {
		return
	}
	switch string(order) {
	case "pause":
		j.pause()
	case "resume":
		j.resume()
	default:
		return
	}
	fmt.Fprint(conn, "done")
}

// control gives an order to the witness of this container.
func control(order string) error {
	conn, err := net.DialTimeout("unix", socket, 5*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := fmt.Fprint(conn, order); err != nil {
		return err
	}
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	if string(answer) != "done" {
		return errors.New("the witness did not obey: " + order)
	}
	return nil
}
