package blocks

import (
	"errors"
	"fmt"

	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
)

// granule is what ranges are rounded to, outwards: nobody reads less at a time,
// and a list of single sectors stays small.
const granule = 1 << 20

// errMalformed says that a list is not what the service promises. Asking again
// would not help.
var errMalformed = errors.New("its list of blocks is wrong")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errMalformed, fmt.Sprintf(format, args...))
}

// list is what has been said so far.
type list struct {
	kind     kind
	capacity int64
	length   int64 // of fixed blocks
	end      int64 // of the last range
	extents  []volume.Extent
	// from is where the stream was asked to begin, and fresh says that no range
	// of it came yet.
	from  int64
	fresh bool
}

// resume begins another stream behind what came of the one before.
func (l *list) resume() int64 {
	l.from, l.fresh = l.end, true
	return l.from
}

// add takes one message, after a look at all that can be checked in it.
func (l *list) add(r *response) error {
	switch {
	case r.kind != fixed && r.kind != variable:
		return malformed("it is of the unknown kind %d", r.kind)
	case r.capacity <= 0:
		return malformed("it is of a volume of %d bytes", r.capacity)
	case l.capacity == 0:
		l.kind, l.capacity = r.kind, r.capacity
	case l.kind != r.kind || l.capacity != r.capacity:
		return malformed("it was of kind %d for a volume of %d bytes, and then of kind %d for one of %d", l.kind, l.capacity, r.kind, r.capacity)
	}
	for _, x := range r.ranges {
		if err := l.check(x); err != nil {
			return err
		}
		l.fresh, l.end = false, x.Offset+x.Length
		l.append(x)
	}
	return nil
}

func (l *list) check(x volume.Extent) error {
	if x.Offset < 0 || x.Length <= 0 || x.Length > l.capacity-x.Offset {
		return malformed("%d bytes at byte %d are not inside of a volume of %d", x.Length, x.Offset, l.capacity)
	}
	end := x.Offset + x.Length
	// The first range of a stream may begin before the place that was asked for,
	// and has to end behind it.
	if l.fresh && end <= l.from || !l.fresh && x.Offset < l.end {
		return malformed("%d bytes at byte %d come after byte %d", x.Length, x.Offset, max(l.from, l.end))
	}
	if l.kind == variable {
		return nil
	}
	if l.length == 0 {
		l.length = x.Length
	}
	if x.Length != l.length && (x.Length > l.length || end != l.capacity) {
		return malformed("blocks of the fixed length %d are followed by one of %d", l.length, x.Length)
	}
	return nil
}

// append adds a range, rounded, and joined with those before that it meets.
func (l *list) append(x volume.Extent) {
	start := x.Offset - x.Offset%granule
	end := min((x.Offset+x.Length+granule-1)/granule*granule, l.capacity)
	for n := len(l.extents); n > 0; n-- {
		last := l.extents[n-1]
		if last.Offset+last.Length < start {
			break
		}
		start, end = min(start, last.Offset), max(end, last.Offset+last.Length)
		l.extents = l.extents[:n-1]
	}
	l.extents = append(l.extents, volume.Extent{Offset: start, Length: end - start})
}

// allocated is the whole of a list that has come to its end.
func (l *list) allocated() (volume.Allocated, error) {
	if l.capacity == 0 {
		return volume.Allocated{}, malformed("it ended without a word")
	}
	return volume.Allocated{Size: l.capacity, Extents: l.extents}, nil
}
