package repository

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kopia/kopia/fs"
	"github.com/kopia/kopia/repo/compression"
	"github.com/kopia/kopia/repo/content"
	"github.com/kopia/kopia/repo/object"
	"github.com/kopia/kopia/snapshot"
)

// compressor is used for everything: it costs less time than the encryption.
const compressor = compression.Name("zstd-fastest")

// fineSplitter cuts indexes and reports into pieces of about 128 KiB where
// their content says so, so that a change costs the pieces that it is in.
const fineSplitter = "DYNAMIC-128K-BUZHASH"

const (
	directoryPrefix = content.IDPrefix("k")
	directoryStream = "kopia:directory"
)

// writeDirectory writes a kopia directory of files, as snapshotfs would, but
// streams it: a kind can have a hundred thousand objects. Entries must be
// sorted by name, directories before files. Times are the epoch, so that the
// same entries give the same bytes.
func writeDirectory(ctx context.Context, w writer, entries func(yield func(*snapshot.DirEntry) error) error) (*snapshot.DirEntry, error) {
	out := w.NewObjectWriter(ctx, object.WriterOptions{
		Description: "directory", Prefix: directoryPrefix,
		Compressor: compressor, MetadataCompressor: compressor, Splitter: fineSplitter,
	})
	defer out.Close()
	summary := fs.DirectorySummary{TotalDirCount: 1}
	separator := `{"stream":"` + directoryStream + `","entries":[`
	var line []byte
	err := entries(func(e *snapshot.DirEntry) (err error) {
		if line, err = appendEntry(append(line[:0], separator...), e); err != nil {
			return err
		}
		separator = ",\n"
		switch {
		case e.DirSummary != nil:
			summary.TotalDirCount += e.DirSummary.TotalDirCount
			summary.TotalFileCount += e.DirSummary.TotalFileCount
			summary.TotalFileSize += e.DirSummary.TotalFileSize
			summary.TotalSymlinkCount += e.DirSummary.TotalSymlinkCount
		case e.Type == snapshot.EntryTypeFile:
			summary.TotalFileCount++
			summary.TotalFileSize += e.FileSize
		case e.Type == snapshot.EntryTypeSymlink:
			summary.TotalSymlinkCount++
		}
		// kopia shows and restores this as the time of the directory.
		summary.MaxModTime = max(summary.MaxModTime, e.ModTime)
		if e.DirSummary != nil {
			summary.MaxModTime = max(summary.MaxModTime, e.DirSummary.MaxModTime)
		}
		_, err = out.Write(line)
		return err
	})
	if err != nil {
		return nil, err
	}
	if summary.TotalFileCount == 0 && summary.TotalDirCount == 1 {
		if _, err := io.WriteString(out, separator); err != nil {
			return nil, err
		}
	}
	end, err := json.Marshal(summary)
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(out, "],\"summary\":%s}\n", end); err != nil {
		return nil, err
	}
	id, err := out.Result()
	if err != nil {
		return nil, err
	}
	return &snapshot.DirEntry{Type: snapshot.EntryTypeDirectory, Permissions: 0o700, ObjectID: id, DirSummary: &summary}, nil
}

// appendEntry appends an entry as json.Marshal writes it. Files with plain names
// are by far the most, and are put together here in a fraction of the time.
func appendEntry(b []byte, e *snapshot.DirEntry) ([]byte, error) {
	if e.Type != snapshot.EntryTypeFile || e.DirSummary != nil || !plain(e.Name) {
		line, err := json.Marshal(e)
		return append(b, line...), err
	}
	b = append(b, `{"name":"`...)
	b = append(b, e.Name...)
	b = append(b, `","type":"f"`...)
	if e.Permissions != 0 {
		b = append(b, `,"mode":"0`...)
		b = strconv.AppendInt(b, int64(e.Permissions), 8)
		b = append(b, '"')
	}
	if e.FileSize != 0 {
		b = strconv.AppendInt(append(b, `,"size":`...), e.FileSize, 10)
	}
	if e.ModTime != 0 {
		b = append(b, `,"mtime":"`...)
		b = e.ModTime.ToTime().UTC().AppendFormat(b, time.RFC3339Nano)
		b = append(b, '"')
	}
	if e.UserID != 0 {
		b = strconv.AppendUint(append(b, `,"uid":`...), uint64(e.UserID), 10)
	}
	if e.GroupID != 0 {
		b = strconv.AppendUint(append(b, `,"gid":`...), uint64(e.GroupID), 10)
	}
	b = e.ObjectID.Append(append(b, `,"obj":"`...))
	return append(b, `"}`...), nil
}

// plain says that a name is the same in JSON.
func plain(name string) bool {
	for _, c := range []byte(name) {
		if c < ' ' || c > '~' || strings.IndexByte(`"\<>&`, c) >= 0 {
			return false
		}
	}
	return name != ""
}

// writeFile writes one file's content and returns its entry.
func writeFile(ctx context.Context, w writer, name, splitter string, write func(io.Writer) error) (*snapshot.DirEntry, error) {
	out := w.NewObjectWriter(ctx, object.WriterOptions{Description: name, Compressor: compressor, MetadataCompressor: compressor, Splitter: splitter})
	defer out.Close()
	counted := &countingWriter{Writer: out}
	if err := write(counted); err != nil {
		return nil, err
	}
	id, err := out.Result()
	if err != nil {
		return nil, err
	}
	return &snapshot.DirEntry{Name: name, Type: snapshot.EntryTypeFile, Permissions: 0o600, FileSize: counted.n, ObjectID: id}, nil
}

type countingWriter struct {
	io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.n += int64(n)
	return n, err
}

// readDirectory calls each for every entry of a kopia directory, in its order.
func readDirectory(ctx context.Context, r objects, id object.ID, each func(*snapshot.DirEntry) error) error {
	in, err := r.OpenObject(ctx, id)
	if err != nil {
		return err
	}
	defer in.Close()
	d := json.NewDecoder(in)
	if _, err := d.Token(); err != nil { // {
		return fmt.Errorf("directory %s: %w", id, err)
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return fmt.Errorf("directory %s: %w", id, err)
		}
		switch key {
		case "stream":
			var stream string
			if err := d.Decode(&stream); err != nil || stream != directoryStream {
				return fmt.Errorf("%s is not a directory", id)
			}
		case "entries":
			start, err := d.Token() // [, or null for none
			if err != nil {
				return fmt.Errorf("directory %s: %w", id, err)
			}
			if start == nil {
				continue
			}
			for d.More() {
				e := &snapshot.DirEntry{}
				if err := d.Decode(e); err != nil {
					return fmt.Errorf("directory %s: %w", id, err)
				}
				if err := each(e); err != nil {
					return err
				}
			}
			if _, err := d.Token(); err != nil { // ]
				return fmt.Errorf("directory %s: %w", id, err)
			}
		default:
			var skipped json.RawMessage
			if err := d.Decode(&skipped); err != nil {
				return fmt.Errorf("directory %s: %w", id, err)
			}
		}
	}
	if _, err := d.Token(); err != nil { // }: a directory that is cut short must not look short
		return fmt.Errorf("directory %s: %w", id, err)
	}
	return nil
}

// entriesOf reads a small directory whole.
func entriesOf(ctx context.Context, r objects, id object.ID) (map[string]*snapshot.DirEntry, []string, error) {
	found := map[string]*snapshot.DirEntry{}
	var names []string
	err := readDirectory(ctx, r, id, func(e *snapshot.DirEntry) error {
		found[e.Name] = e
		names = append(names, e.Name)
		return nil
	})
	slices.Sort(names)
	return found, names, err
}

// escape makes any text one path component: names of Kubernetes objects hold
// neither / nor % (the API server sees to it), but a name from somewhere else
// must not lead out of the tree.
var (
	escaper   = strings.NewReplacer("%", "%25", "/", "%2F")
	unescaper = strings.NewReplacer("%2F", "/", "%25", "%")
)
