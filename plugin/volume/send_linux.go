package volume

import (
	"context"

	"golang.org/x/sys/unix"
)

// sender writes the jobs to the stream, in order.
type sender struct {
	ctx context.Context
	enc *Encoder
	// first holds the files with several names of which some are still to
	// come: memory is bounded by those.
	first map[fileID]*linked
}

type linked struct {
	path string
	left uint32 // names that are still to come
}

func (s *sender) send(j *job) error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	if e := j.entry; e != nil {
		if err := s.entry(j, e); err != nil {
			return err
		}
	}
	for _, i := range j.issues {
		if err := s.enc.Issue(i); err != nil {
			return err
		}
	}
	return nil
}

func (s *sender) entry(j *job, e *Entry) error {
	id := j.st.id()
	if e.Linked {
		if f := s.first[id]; f != nil {
			if f.left--; f.left == 0 {
				delete(s.first, id)
			}
			j.issues = nil // told with the first name
			return s.enc.Entry(&Entry{
				Path: e.Path, Type: HardLink, Link: f.path,
				Mode: e.Mode, UID: e.UID, GID: e.GID, ModTime: e.ModTime, Size: e.Size,
			})
		}
		s.first[id] = &linked{path: e.Path, left: j.st.Nlink - 1}
	}
	if err := s.enc.Entry(e); err != nil {
		return err
	}
	if e.Type != File {
		return nil
	}
	if j.whole {
		if err := s.enc.Data(j.data); err != nil {
			return err
		}
		return s.enc.End(j.end, j.what)
	}
	return s.stream(j.fd, &j.st)
}

// piece is a run on its way from the reading goroutine.
type piece struct {
	buf  []byte
	n    int
	hole int64
	err  error
}

// stream sends a large or sparse file. Reading runs ahead by a few buffers.
func (s *sender) stream(fd int, st *stat) error {
	const ahead = 3
	free := make(chan []byte, ahead)
	size := int64(maxData)
	if int64(st.Size) < size {
		size = max(int64(st.Size), 1)
	}
	for range ahead {
		free <- make([]byte, size)
	}
	ctx, cancel := context.WithCancel(s.ctx)
	pieces := make(chan piece, ahead)
	go func() {
		defer close(pieces)
		readRuns(ctx, fd, int64(st.Size), free, pieces)
	}()
	var sent int64
	var readErr, err error
	for p := range pieces {
		switch {
		case err != nil:
			continue
		case p.err != nil:
			readErr = p.err
		case p.hole > 0:
			err = s.enc.Hole(p.hole)
			sent += p.hole
		default:
			err = s.enc.Data(p.buf[:p.n])
			sent += int64(p.n)
			free <- p.buf
		}
		if err != nil {
			cancel()
		}
	}
	stopped := s.ctx.Err()
	cancel()
	if err != nil {
		return err
	}
	if stopped != nil {
		return stopped
	}
	return s.enc.End(verdict(fd, st, sent, readErr))
}

// readRuns reads the first size bytes of a file, asking the file system for
// the holes so that they are not read. What is written beyond size meanwhile
// is not chased.
func readRuns(ctx context.Context, fd int, size int64, free <-chan []byte, out chan<- piece) {
	send := func(p piece) bool {
		select {
		case out <- p:
			return true
		case <-ctx.Done():
			return false
		}
	}
	for at := int64(0); at < size; {
		data, err := unix.Seek(fd, at, unix.SEEK_DATA)
		switch {
		case err == unix.ENXIO: // nothing but a hole up to the end
			st, err := statFD(fd)
			if err != nil {
				send(piece{err: err})
				return
			}
			if n := min(size, int64(st.Size)) - at; n > 0 {
				send(piece{hole: n})
			}
			return
		case err != nil: // this file system does not know holes
			readData(ctx, fd, at, size, free, send)
			return
		}
		if data = min(data, size); data > at {
			if !send(piece{hole: data - at}) {
				return
			}
			at = data
			continue
		}
		hole, err := unix.Seek(fd, at, unix.SEEK_HOLE)
		if err != nil || hole <= at {
			// Cut or punched between the two questions.
			hole = size
		}
		next := readData(ctx, fd, at, min(hole, size), free, send)
		if next < min(hole, size) {
			return
		}
		at = next
	}
}

// readData reads from at to end and returns where it stopped.
func readData(ctx context.Context, fd int, at, end int64, free <-chan []byte, send func(piece) bool) int64 {
	for at < end {
		var buf []byte
		select {
		case buf = <-free:
		case <-ctx.Done():
			return at
		}
		n, err := readFull(fd, buf[:min(int64(len(buf)), end-at)], at)
		if n > 0 && !send(piece{buf: buf, n: n}) {
			return at
		}
		at += int64(n)
		if err != nil {
			send(piece{err: err})
			return -1
		}
		if n == 0 {
			return -1 // the file ends earlier than it did
		}
	}
	return at
}
