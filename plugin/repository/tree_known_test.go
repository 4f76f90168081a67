package repository

import (
	"bufio"
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/kopia/kopia/repo/object"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
)

// closable is an object of which nothing but its end is asked.
type closable struct {
	object.Reader
	closed int
}

func (c *closable) Close() error { c.closed++; return nil }

func TestKnownFilesAreReadAsTheyWereWritten(t *testing.T) {
	var files []known
	for i, path := range []string{"a", "a/" + strings.Repeat("long", 50_000), "a/\xff\n", "b", "c0"} {
		id, err := object.ParseID([]string{
			"00112233445566778899aabbccddeeff", "Ix00112233445566778899aabbccddeeff", "k00112233445566778899aabbccddeeff",
			"Z00112233445566778899aabbccddeeff", "IIff",
		}[i])
		require.NoError(t, err)
		files = append(files, known{path: path, xattrs: i%2 == 1, object: id, id: volume.Identity{
			Type: volume.File, Mode: 0o7777, Size: int64(i) << 40, Inode: 1<<64 - 1,
			Modified: time.Unix(-5, int64(i)), Changed: time.Unix(1<<33, 999_999_999),
		}})
	}
	var list bytes.Buffer
	w := &knownWriter{w: bufio.NewWriter(&list)}
	for _, f := range files {
		require.NoError(t, w.add(&f))
	}
	require.NoError(t, w.w.Flush())
	require.Equal(t, int64(list.Len()), w.size)
	read := func(list []byte) (*knownReader, *closable) {
		in := &closable{}
		k := &knownReader{in: in, r: bufio.NewReader(bytes.NewReader(list[len(knownMagic):]))}
		k.advance()
		return k, in
	}

	k, in := read(list.Bytes())
	for _, f := range files {
		require.Nil(t, k.find(f.path[:len(f.path)-1]), "what is not known")
		require.Equal(t, &f, k.find(f.path))
		require.Equal(t, &f, k.find(f.path))
	}
	require.Nil(t, k.find("d"))
	require.NoError(t, k.err)
	k.close()
	require.Equal(t, 1, in.closed)

	// What comes before the damage is known all the same.
	k, in = read(list.Bytes()[:list.Len()-1])
	require.NotNil(t, k.find("b"))
	require.Nil(t, k.find("c0"))
	require.Error(t, k.err)
	require.Nil(t, k.find("d"))
	require.Equal(t, 1, in.closed)
}
