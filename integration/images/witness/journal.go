package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// recordSize is that of "000000000001\n".
const recordSize = 13

// journal is a file of numbers in sequence.
type journal struct {
	file *os.File
	last int64

	mu sync.Mutex // held while a number is written, and while paused

	orders sync.Mutex
	paused bool
}

// openJournal goes on after the last whole number.
func openJournal(path string) (*journal, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	last, err := sequence(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := f.Truncate(last * recordSize); err != nil {
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekEnd); err != nil {
		return nil, err
	}
	return &journal{file: f, last: last}, nil
}

// append makes the next number durable and returns it.
func (j *journal) append() (int64, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := j.last + 1
	if _, err := fmt.Fprintf(j.file, "%012d\n", n); err != nil {
		return 0, err
	}
	if err := j.file.Sync(); err != nil {
		return 0, err
	}
	j.last = n
	return n, nil
}

// pause returns when nothing is being written, and nothing will be until
// resume. Both may be called again.
func (j *journal) pause() {
	j.orders.Lock()
	defer j.orders.Unlock()
	if !j.paused {
		j.mu.Lock()
		j.paused = true
	}
}

func (j *journal) resume() {
	j.orders.Lock()
	defer j.orders.Unlock()
	if j.paused {
		j.paused = false
		j.mu.Unlock()
	}
}

// sequence is the last number of a journal's content. What follows the last
// whole record was being written; anything else that is not the next number is
// damage.
func sequence(content []byte) (int64, error) {
	var n int64
	for len(content) >= recordSize {
		if want := fmt.Appendf(nil, "%012d\n", n+1); !bytes.Equal(content[:recordSize], want) {
			return n, fmt.Errorf("record %d is %q", n+1, content[:recordSize])
		}
		n++
		content = content[recordSize:]
	}
	if want := fmt.Appendf(nil, "%012d\n", n+1); !bytes.HasPrefix(want, content) {
		return n, errors.New("what follows the last record is not the beginning of the next")
	}
	return n, nil
}
