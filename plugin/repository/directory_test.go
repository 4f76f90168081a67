package repository

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/kopia/kopia/fs"
	"github.com/kopia/kopia/repo/object"
	"github.com/kopia/kopia/snapshot"
	"github.com/stretchr/testify/require"
)

// TestEntriesAreWrittenAsKopiaWritesThem compares with kopia's own form, of
// which a new version may have more fields.
func TestEntriesAreWrittenAsKopiaWritesThem(t *testing.T) {
	require.Equal(t, 9, reflect.TypeFor[snapshot.DirEntry]().NumField())
	id := func(s string) object.ID {
		id, err := object.ParseID(s)
		require.NoError(t, err)
		return id
	}
	entries := []*snapshot.DirEntry{{Name: "a", Type: snapshot.EntryTypeFile}}
	for _, name := range []string{"", "a", "a b.c", `a"b`, `a\b`, "<a>", "a&b", "tab\t", "del\x7f", "grün", "\u2028", "/~ !'"} {
		for _, kind := range []snapshot.EntryType{snapshot.EntryTypeFile, snapshot.EntryTypeDirectory, snapshot.EntryTypeSymlink, snapshot.EntryTypeUnknown} {
			entries = append(entries, &snapshot.DirEntry{
				Name: name, Type: kind, Permissions: snapshot.Permissions(fileMode(0o4751)), FileSize: 1 << 40,
				ModTime: fs.UTCTimestampFromTime(time.Unix(1_700_000_000, 120)), UserID: 1<<32 - 1, GroupID: 1000,
				ObjectID: id("Ixfedcba9876543210fedcba9876543210"),
			})
		}
	}
	for _, at := range []int64{-1 << 63, -1, 1, 1e9, 1<<63 - 1} {
		entries = append(entries, &snapshot.DirEntry{
			Name: "time", Type: snapshot.EntryTypeFile, Permissions: 0o7, FileSize: -1, ModTime: fs.UTCTimestamp(at), ObjectID: id("00000000000000000000000000000001"),
		})
	}
	entries = append(entries, &snapshot.DirEntry{Name: "summary", Type: snapshot.EntryTypeFile, DirSummary: &fs.DirectorySummary{TotalFileCount: 1}})
	for _, e := range entries {
		want, err := json.Marshal(e)
		require.NoError(t, err)
		got, err := appendEntry([]byte("before"), e)
		require.NoError(t, err)
		require.Equal(t, "before"+string(want), string(got))
	}
}
