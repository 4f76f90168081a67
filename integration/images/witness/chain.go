package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"time"
)

// window is how many numbers may be on their way: enough to keep all three
// stores busy.
const window = 16

const relayPort = "7000"

// write appends numbers and sends them on, as fast as they come back.
func write(ctx context.Context, file, next string) error {
	j, err := openJournal(file)
	if err != nil {
		return err
	}
	s := &status{last: time.Now()}
	if err := serve(ctx, j, s); err != nil {
		return err
	}
	return again(ctx, "relay", func() error { return writeTo(ctx, j, s, next) })
}

// again repeats what ends when a connection does.
func again(ctx context.Context, what string, work func() error) error {
	for {
		err := work()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		fmt.Fprintf(os.Stderr, "witness: %s: %v\n", what, err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// writeTo works on one connection. The relay begins with its last number; what
// it lacks is sent again.
func writeTo(ctx context.Context, j *journal, s *status, next string) error {
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", next)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	answers := bufio.NewReader(conn)
	var has int64
	if _, err := fmt.Fscanf(answers, "%d\n", &has); err != nil {
		return err
	}
	free := make(chan struct{}, window)
	for range window {
		free <- struct{}{}
	}
	ended := make(chan error, 1)
	go func() {
		for {
			var n int64
			if _, err := fmt.Fscanf(answers, "%d\n", &n); err != nil {
				ended <- err
				return
			}
			s.acknowledge(n)
			select {
			case free <- struct{}{}:
			default: // an answer to what an earlier connection sent
			}
		}
	}()
	for {
		select {
		case err := <-ended:
			return err
		case <-free:
		}
		n := has + 1
		if n > j.last {
			if n, err = j.append(); err != nil {
				return err
			}
		}
		has = n
		if _, err := fmt.Fprintf(conn, "%d\n", n); err != nil {
			return err
		}
	}
}

// relay appends what it is told and passes it on to PostgreSQL.
func relay(ctx context.Context, file, server string) error {
	j, err := openJournal(file)
	if err != nil {
		return err
	}
	s := &status{last: time.Now()}
	if err := serve(ctx, j, s); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", ":"+relayPort)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	return again(ctx, "writer", func() error {
		db, err := openTable(ctx, server, j.last)
		if err != nil {
			return err
		}
		defer db.close()
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		defer conn.Close()
		return relayFrom(j, s, conn, db)
	})
}

// relayFrom works on one connection: one goroutine makes numbers durable in
// the file, another in the table.
func relayFrom(j *journal, s *status, conn net.Conn, db *table) error {
	if _, err := fmt.Fprintf(conn, "%d\n", j.last); err != nil {
		return err
	}
	durable := make(chan int64, window)
	inserted := make(chan error, 1)
	go func() {
		for n := range durable {
			err := db.insert(n)
			if err == nil {
				s.acknowledge(n)
				_, err = fmt.Fprintf(conn, "%d\n", n)
			}
			if err != nil {
				conn.Close() // which ends the reading below
				for range durable {
				}
				inserted <- err
				return
			}
		}
		inserted <- nil
	}()
	err := receive(j, bufio.NewReader(conn), durable)
	close(durable)
	if insertErr := <-inserted; insertErr != nil {
		return insertErr
	}
	return err
}

func receive(j *journal, in *bufio.Reader, durable chan<- int64) error {
	for {
		var n int64
		if _, err := fmt.Fscanf(in, "%d\n", &n); err != nil {
			return err
		}
		if n != j.last+1 {
			return fmt.Errorf("got %d after %d", n, j.last)
		}
		if _, err := j.append(); err != nil {
			return err
		}
		durable <- n
	}
}
