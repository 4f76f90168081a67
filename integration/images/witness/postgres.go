package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// table is the table of numbers, over one connection. It speaks the few words
// of PostgreSQL's protocol that it needs, as user postgres without a password.
type table struct {
	conn net.Conn
	in   *bufio.Reader
	stop func() bool
}

// openTable connects, makes the table where it is missing, and adds the
// numbers up to last that it lacks.
func openTable(ctx context.Context, server string, last int64) (*table, error) {
	t, err := connect(ctx, server)
	if err != nil {
		return nil, err
	}
	if _, err = t.query("CREATE TABLE IF NOT EXISTS numbers (n bigint PRIMARY KEY)"); err == nil {
		_, err = t.query(fmt.Sprintf("INSERT INTO numbers SELECT n FROM generate_series((SELECT coalesce(max(n), 0) + 1 FROM numbers), %d) AS n", last))
	}
	if err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func connect(ctx context.Context, server string) (*table, error) {
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", server)
	if err != nil {
		return nil, err
	}
	t := &table{conn: conn, in: bufio.NewReader(conn)}
	t.stop = context.AfterFunc(ctx, func() { conn.Close() })
	start := binary.BigEndian.AppendUint32(nil, 3<<16) // the protocol's version
	start = append(start, "user\x00postgres\x00database\x00postgres\x00\x00"...)
	if _, err = conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(start)+4)), start...)); err == nil {
		_, err = t.answer()
	}
	if err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *table) close() {
	t.stop()
	t.conn.Close()
}

func (t *table) insert(n int64) error {
	_, err := t.query("INSERT INTO numbers VALUES (" + strconv.FormatInt(n, 10) + ")")
	return err
}

// query runs one statement and returns the rows as text.
func (t *table) query(sql string) ([][]string, error) {
	message := append([]byte{'Q'}, binary.BigEndian.AppendUint32(nil, uint32(len(sql)+5))...)
	if _, err := t.conn.Write(append(append(message, sql...), 0)); err != nil {
		return nil, err
	}
	return t.answer()
}

// answer reads until the server is ready for the next statement.
func (t *table) answer() (rows [][]string, failed error) {
	for {
		kind, body, err := t.message()
		if err != nil {
			return nil, err
		}
		switch kind {
		case 'R':
			if method := binary.BigEndian.Uint32(body); method != 0 {
				return nil, errors.New("the server asks for a password")
			}
		case 'E':
			failed = serverError(body)
			if bytes.HasPrefix(body, []byte("SFATAL")) {
				return nil, failed // and no more follows
			}
		case 'D':
			row, err := columns(body)
			if err != nil {
				return nil, err
			}
			rows = append(rows, row)
		case 'Z':
			return rows, failed
		}
	}
}

func (t *table) message() (kind byte, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(t.in, head[:]); err != nil {
		return 0, nil, err
	}
	length := binary.BigEndian.Uint32(head[1:])
	if length < 4 || length > 1<<20 {
		return 0, nil, fmt.Errorf("a message of %d bytes", length)
	}
	body = make([]byte, length-4)
	_, err = io.ReadFull(t.in, body)
	return head[0], body, err
}

func columns(body []byte) ([]string, error) {
	n := int(binary.BigEndian.Uint16(body))
	row := make([]string, 0, n)
	for rest := body[2:]; n > 0; n-- {
		if len(rest) < 4 {
			return nil, io.ErrUnexpectedEOF
		}
		length := int(int32(binary.BigEndian.Uint32(rest)))
		rest = rest[4:]
		length = max(length, 0) // null
		if len(rest) < length {
			return nil, io.ErrUnexpectedEOF
		}
		row = append(row, string(rest[:length]))
		rest = rest[length:]
	}
	return row, nil
}

// serverError is the message among the fields of an error.
func serverError(body []byte) error {
	for field := range bytes.SplitSeq(body, []byte{0}) {
		if len(field) > 1 && field[0] == 'M' {
			return errors.New(string(field[1:]))
		}
	}
	return errors.New("the server sent an error without a message")
}
