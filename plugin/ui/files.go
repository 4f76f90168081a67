package ui

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// StoredVolumes writes the volumes of a backup. Formats are table and json.
func StoredVolumes(w io.Writer, backup string, lines []v1alpha1.StoredVolume, format string) error {
	if format == "json" {
		return Value(w, map[string]any{"apiVersion": v1alpha1.APIVersion, "kind": "VolumeList", "backup": backup, "items": orEmpty(lines)}, format)
	}
	t := &text{}
	if len(lines) == 0 {
		t.line("no volumes")
		return t.flush(w)
	}
	var rows [][]string
	for _, l := range lines {
		files, kind := fmt.Sprint(l.Files), "files"
		if l.Device {
			files, kind = "", "device"
		}
		rows = append(rows, []string{l.Name, kind, files, size(l.Bytes)})
	}
	t.columns([]string{"VOLUME", "HOLDS", "FILES", "SIZE"}, rows, "")
	return t.flush(w)
}

// FileList writes files as they come: there may be millions. Close ends it.
type FileList struct {
	out    *bufio.Writer
	folder string
	json   bool
	count  int
}

// Files begins the list of what is at a path of a volume. Formats are table
// and json.
func Files(w io.Writer, backup, volume, path, format string) (*FileList, error) {
	l := &FileList{out: bufio.NewWriterSize(w, 64<<10), folder: path, json: format == "json"}
	if !l.json {
		return l, nil
	}
	_, err := l.out.WriteString(`{"apiVersion":` + encoded(v1alpha1.APIVersion) + `,"kind":"FileList","backup":` + encoded(backup) + `,"volume":` + encoded(volume) + `,"items":[`)
	return l, err
}

func encoded(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		return strconv.Quote(err.Error()) // text and structs of text: not reached
	}
	return string(raw)
}

// Add writes one file.
func (l *FileList) Add(f v1alpha1.StoredFile) error {
	if l.json {
		separator := ",\n"
		if l.count == 0 {
			separator = "\n"
		}
		l.count++
		_, err := l.out.WriteString(separator + encoded(f))
		return err
	}
	name := f.Path
	if f.PathBytes != nil {
		name = string(f.PathBytes)
	}
	name = plain(strings.TrimPrefix(name, l.folder+"/"))
	if f.Link != "" {
		link := f.Link
		if f.LinkBytes == nil {
			link = plain(link)
		}
		name += " -> " + link
	}
	modified := f.Modified
	if len(modified) > len("2006-01-02T15:04:05") {
		modified = modified[:len("2006-01-02T15:04:05")] + "Z"
	}
	_, err := fmt.Fprintf(l.out, "%s%s %5d %5d %12d %-20s %s\n", letterOf[f.Type], f.Mode, f.UID, f.GID, f.Size, modified, name)
	return err
}

var letterOf = map[string]string{
	"file": "-", "directory": "d", "symbolic link": "l", "named pipe": "p", "socket": "s", "character device": "c", "block device": "b", "hard link": "h",
}

// plain is a name as it is, or in quotes where it would not stay in its line.
func plain(name string) string {
	if q := strconv.Quote(name); q[1:len(q)-1] != name || strings.TrimSpace(name) != name {
		return q
	}
	return name
}

// Close ends the list; failed is why it is not whole, or nil.
func (l *FileList) Close(failed error) error {
	if l.json {
		end := "\n]}\n"
		if failed != nil {
			end = "\n],\"error\":" + encoded(failed.Error()) + "}\n"
		}
		if _, err := l.out.WriteString(end); err != nil {
			return err
		}
	}
	return l.out.Flush()
}
