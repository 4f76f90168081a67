package volume

import "fmt"

// Allocated is what a storage system says of the content of a device: its
// first Size bytes hold data in the extents only, and are zeros elsewhere.
type Allocated struct {
	Size int64
	// Extents are in order and do not overlap.
	Extents []Extent
}

// of returns the extents that may hold data on a device of a size, of which the
// storage may know a part only.
func (a *Allocated) of(size int64) ([]Extent, error) {
	all := make([]Extent, 0, len(a.Extents)+1)
	var end int64
	for _, x := range a.Extents {
		if x.Offset < end || x.Length <= 0 || x.Length > a.Size-x.Offset {
			return nil, fmt.Errorf("data at byte %d, of %d bytes, is listed after byte %d of %d", x.Offset, x.Length, end, a.Size)
		}
		if end = x.Offset + x.Length; end > size {
			return nil, fmt.Errorf("data is listed up to byte %d, and the device has %d", end, size)
		}
		all = append(all, x)
	}
	if a.Size < size {
		all = append(all, Extent{a.Size, size - a.Size})
	}
	return all, nil
}

// gaps are what lies between extents, up to a size.
func gaps(extents []Extent, size int64) []Extent {
	var all []Extent
	var end int64
	for _, x := range append(extents[:len(extents):len(extents)], Extent{Offset: size}) {
		if x.Offset > end {
			all = append(all, Extent{end, x.Offset - end})
		}
		end = x.Offset + x.Length
	}
	return all
}
