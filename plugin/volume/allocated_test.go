//go:build linux

package volume

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// scattered is the image of a device with data at random places, and what of it
// is allocated, which is more.
func scattered(t *testing.T, random *rand.Rand) (path string, a Allocated) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "device")
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	a.Size = 1 + random.Int64N(40<<20)
	require.NoError(t, f.Truncate(a.Size))
	for at := random.Int64N(a.Size); at < a.Size; {
		n := 1 + random.Int64N(min(a.Size-at, 3<<20))
		b := make([]byte, random.Int64N(n+1)) // less than is allocated
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		_, err := f.WriteAt(b, at)
		require.NoError(t, err)
		a.Extents = append(a.Extents, Extent{at, n})
		at += n
		if random.IntN(4) > 0 { // else the next one begins where this one ends
			at += random.Int64N(8 << 20)
		}
	}
	return path, a
}

// data is what a device tells, as one map of its bytes.
func data(t *testing.T, d *Device) []Extent {
	t.Helper()
	var all []Extent
	require.NoError(t, d.Data(func(x Extent) error { all = append(all, x); return nil }))
	return all
}

// TestLimitedReadsTheSame has random layouts, of devices that are larger than
// what the storage speaks of as well.
func TestLimitedReadsTheSame(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	for range 50 {
		path, a := scattered(t, random)
		if random.IntN(3) == 0 && len(a.Extents) > 0 {
			a.Size = a.Extents[len(a.Extents)-1].Offset + a.Extents[len(a.Extents)-1].Length
		}
		d, err := OpenDevice(path, false)
		require.NoError(t, err)
		_, err = d.Limit(a)
		require.NoError(t, err)
		got := make([]byte, d.Size())
		for _, x := range data(t, d) {
			_, err := d.ReadAt(got[x.Offset:x.Offset+x.Length], x.Offset)
			require.NoError(t, err)
		}
		require.NoError(t, d.Close())
		want, err := os.ReadFile(path)
		require.NoError(t, err)
		require.True(t, string(want) == string(got))
	}
}

// TestLimitIsChecked: what cannot be true of a device leaves it as it is, to be
// read as a whole.
func TestLimitIsChecked(t *testing.T) {
	const size = 16 << 20
	path := filepath.Join(t.TempDir(), "device")
	require.NoError(t, os.WriteFile(path, slices.Concat([]byte(strings.Repeat("x", 1<<20)), make([]byte, size-1<<20)), 0o600))
	for name, x := range map[string]struct {
		listed Allocated
		says   string
	}{
		"nothing":                {Allocated{Size: size}, "where none is listed"},
		"less than there is":     {Allocated{size, []Extent{{0, 1<<20 - 4096}}}, "where none is listed"},
		"another place":          {Allocated{size, []Extent{{1 << 20, 1 << 20}}}, "where none is listed"},
		"not in order":           {Allocated{size, []Extent{{1 << 20, 1 << 20}, {0, 1 << 20}}}, "after byte"},
		"twice":                  {Allocated{size, []Extent{{0, 2 << 20}, {1 << 20, 1 << 20}}}, "after byte"},
		"before the beginning":   {Allocated{size, []Extent{{-1, 2 << 20}}}, "after byte"},
		"no bytes":               {Allocated{size, []Extent{{0, 2 << 20}, {4 << 20, 0}}}, "after byte"},
		"behind what there is":   {Allocated{size, []Extent{{0, 2 << 20}, {8 << 20, 9 << 20}}}, "after byte"},
		"more than can be added": {Allocated{size, []Extent{{0, 2 << 20}, {8 << 20, 1<<63 - 1}}}, "after byte"},
		"of a larger one":        {Allocated{2 * size, []Extent{{0, 2 << 20}, {size, 4096}}}, "the device has"},
	} {
		d, err := OpenDevice(path, false)
		require.NoError(t, err)
		_, err = d.Limit(x.listed)
		require.ErrorContains(t, err, x.says, name)
		require.Equal(t, []Extent{{0, size}}, data(t, d), name)
		_, err = d.Limit(Allocated{2 * size, []Extent{{0, 1 << 20}}})
		require.NoError(t, err, "a volume may be said to be larger than the device")
		require.Equal(t, []Extent{{0, 1 << 20}}, data(t, d), name)
		require.NoError(t, d.Close())
	}
}
