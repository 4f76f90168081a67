package volume_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
	"github.com/stretchr/testify/require"
)

// sample is a stream with each kind of frame.
func sample(t testing.TB) []byte {
	var b bytes.Buffer
	e := volume.NewEncoder(&b)
	entry := func(v volume.Entry) { require.NoError(t, e.Entry(&v)) }
	entry(volume.Entry{Type: volume.Dir, Mode: 0o1755, UID: 1<<32 - 1, ModTime: time.Unix(-5, 17)})
	entry(volume.Entry{Path: "a", Type: volume.Dir, Partial: true})
	entry(volume.Entry{Path: "a/f", Type: volume.File, Linked: true, Size: 12, Xattrs: []volume.Xattr{{Name: "user.x", Value: []byte{0, 255}}, {Name: "user.y"}}})
	require.NoError(t, e.Data([]byte("some ")))
	require.NoError(t, e.Hole(1<<41))
	for i := range byte(2) {
		require.NoError(t, e.Data(bytes.Repeat([]byte{i, 1, 2, 3}, 1<<18)))
	}
	require.NoError(t, e.End(volume.Changed, "it grew"))
	require.NoError(t, e.Issue(volume.Issue{Path: "a/gone", Kind: volume.Vanished}))
	entry(volume.Entry{Path: "b", Type: volume.HardLink, Link: "a/f"})
	entry(volume.Entry{Path: "c", Type: volume.Symlink, Link: "\xff\xfe"})
	entry(volume.Entry{Path: "d", Type: volume.BlockDevice, Device: 1<<40 + 3})
	entry(volume.Entry{Path: "e", Type: volume.File})
	require.NoError(t, e.End(volume.OK, ""))
	require.NoError(t, e.Close())
	return b.Bytes()
}

// drain reads a whole stream.
func drain(d *volume.Decoder) ([]*volume.Entry, int64, error) {
	var all []*volume.Entry
	var length int64
	for {
		e, err := d.Next()
		if err != nil {
			return all, length, err
		}
		all = append(all, e)
		for e.Type == volume.File {
			r, err := d.Run()
			if err == io.EOF {
				break
			}
			if err != nil {
				return all, length, err
			}
			length += int64(len(r.Data)) + r.Hole
		}
	}
}

func TestStreamRoundTrip(t *testing.T) {
	d := volume.NewDecoder(bytes.NewReader(sample(t)))
	all, length, err := drain(d)
	require.Equal(t, io.EOF, err)
	require.Len(t, all, 7)
	require.EqualValues(t, 1<<41+5+1<<21, length)
	require.Equal(t, volume.Totals{Entries: 7, Files: 5, Bytes: length, Issues: 2}, d.Totals())
	require.Equal(t, []volume.Issue{
		{Path: "a/f", Kind: volume.Changed, What: "it grew"}, {Path: "a/gone", Kind: volume.Vanished},
	}, d.Issues())
	require.True(t, all[0].ModTime.Equal(time.Unix(-5, 17)))
	require.True(t, all[1].Partial && all[2].Linked)
	require.True(t, all[1].ModTime.IsZero())
	require.Equal(t, []byte{0, 255}, all[2].Xattrs[0].Value)
	require.Equal(t, "a/f", all[3].Link)
	require.Equal(t, "\xff\xfe", all[4].Link)
	require.EqualValues(t, 1<<40+3, all[5].Device)
	_, err = d.Next()
	require.Equal(t, io.EOF, err, "the end stays the end")
}

func TestStreamCutAnywhereIsTruncated(t *testing.T) {
	s := sample(t)
	for n := 0; n < len(s); n++ {
		if n == 400 { // the long run of data
			n = len(s) - 400
		}
		_, _, err := drain(volume.NewDecoder(bytes.NewReader(s[:n])))
		require.ErrorIs(t, err, volume.ErrTruncated, "cut at %d", n)
	}
}

func TestStreamWithAFlippedBitIsAnError(t *testing.T) {
	s := sample(t)
	r := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		at := r.IntN(len(s))
		if r.IntN(2) == 0 {
			at = r.IntN(300)
		}
		bad := slices.Clone(s)
		bad[at] ^= 1 << r.IntN(8)
		_, _, err := drain(volume.NewDecoder(bytes.NewReader(bad)))
		require.Error(t, err)
		if at != 8 { // the version
			require.True(t, errors.Is(err, volume.ErrCorrupt) || errors.Is(err, volume.ErrTruncated), "byte %d: %v", at, err)
		}
	}
}

func TestStreamOfAnotherVersionSaysSo(t *testing.T) {
	s := sample(t)
	s[8] = 9
	_, err := volume.NewDecoder(bytes.NewReader(s)).Next()
	require.ErrorContains(t, err, "format 9")
	_, err = volume.NewDecoder(strings.NewReader("sh: kubectl-backup: not found\n")).Next()
	require.ErrorIs(t, err, volume.ErrCorrupt)
}

// A frame that is lost, doubled or out of order has a good checksum of its own.
func TestStreamWithFramesMovedIsCorrupt(t *testing.T) {
	s := sample(t)
	var frames [][]byte
	for b := s[9:]; len(b) > 0; {
		n := 9 + int(b[1]) + int(b[2])<<8 + int(b[3])<<16 + int(b[4])<<24
		frames = append(frames, b[:n])
		b = b[n:]
	}
	try := func(f [][]byte) {
		_, _, err := drain(volume.NewDecoder(io.MultiReader(bytes.NewReader(s[:9]), bytes.NewReader(bytes.Join(f, nil)))))
		require.ErrorIs(t, err, volume.ErrCorrupt)
	}
	for i := range len(frames) - 1 {
		try(slices.Delete(slices.Clone(frames), i, i+1))
		try(slices.Insert(slices.Clone(frames), i, frames[i]))
		if i+2 < len(frames) {
			swapped := slices.Clone(frames)
			swapped[i], swapped[i+1] = swapped[i+1], swapped[i]
			try(swapped)
		}
	}
}

func TestStreamRefusesPathsThatLeadOut(t *testing.T) {
	for _, p := range []string{"..", "a/../b", "/etc", "a//b", "a/", ".", "a/.", "x\x00y", "no-such-dir/f"} {
		var b bytes.Buffer
		e := volume.NewEncoder(&b)
		require.NoError(t, e.Entry(&volume.Entry{Type: volume.Dir}))
		require.NoError(t, e.Entry(&volume.Entry{Path: p, Type: volume.FIFO}))
		require.NoError(t, e.Close())
		_, _, err := drain(volume.NewDecoder(&b))
		require.ErrorIs(t, err, volume.ErrCorrupt, "%q", p)
	}
	for _, link := range []string{"../../etc/passwd", "", "/etc/passwd"} {
		var b bytes.Buffer
		e := volume.NewEncoder(&b)
		require.NoError(t, e.Entry(&volume.Entry{Type: volume.Dir}))
		require.NoError(t, e.Entry(&volume.Entry{Path: "x", Type: volume.HardLink, Link: link}))
		require.NoError(t, e.Close())
		_, _, err := drain(volume.NewDecoder(&b))
		require.ErrorIs(t, err, volume.ErrCorrupt, "%q", link)
	}
}

func TestEncoderRefusesWhatWouldNotDecode(t *testing.T) {
	e := volume.NewEncoder(io.Discard)
	require.NoError(t, e.Entry(&volume.Entry{Type: volume.Dir}))
	require.Error(t, e.Data([]byte("x")), "a directory has no content")
	require.NoError(t, e.Entry(&volume.Entry{Path: "f", Type: volume.File}))
	require.Error(t, e.Entry(&volume.Entry{Path: "g", Type: volume.File}), "f has no end")
	require.Error(t, e.Close())
}

func TestEscapedPathsAreOneLineAndText(t *testing.T) {
	for p, want := range map[string]string{
		"": ".", "plain/name": "plain/name", "grüße": "grüße", "a\nb": `"a\nb"`, "\xff": `"\xff"`, "end ": `"end "`, `q"`: `"q\""`,
	} {
		require.Equal(t, want, volume.Escape(p))
		b, err := json.Marshal(volume.Escape(p))
		require.NoError(t, err)
		require.NotContains(t, string(b), `\ufffd`)
	}
}

func TestIssuesStayBounded(t *testing.T) {
	var l volume.Issues
	for i := range 50_000 {
		l.Add(volume.Issue{Path: fmt.Sprint(i), Kind: volume.NotSet})
	}
	l.Add(volume.Issue{Path: "late", Kind: volume.NotWritten})
	list := l.List()
	require.Less(t, len(list), 30_000)
	last := list[len(list)-1]
	require.Contains(t, last.What, "30001 more")
	require.True(t, last.Kind.Lost(), "a loss among those left off is still a loss")
}

func TestCompareIsTheOrderOfTheStream(t *testing.T) {
	in := []string{"", "a", "a/b", "a/b/c", "a/c", "a b", "a-b", "a.b", "a.b/c", "b", "\xff"}
	shuffled := slices.Clone(in)
	rand.New(rand.NewPCG(3, 4)).Shuffle(len(in), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	slices.SortFunc(shuffled, volume.Compare)
	require.Equal(t, in, shuffled)
}

func FuzzDecoder(f *testing.F) {
	s := sample(f)
	f.Add(s[:300])
	f.Add(append(slices.Clone(s[:200]), s[len(s)-300:]...))
	f.Add([]byte("\x89KBVOL\r\n\x01D\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, _, err := drain(volume.NewDecoder(bytes.NewReader(b)))
		if err == nil {
			t.Fatal("a stream has an end")
		}
		for _, e := range all {
			if strings.HasPrefix(e.Path, "/") || strings.Contains("/"+e.Path+"/", "/../") {
				t.Fatalf("%q leads out", e.Path)
			}
		}
	})
}
