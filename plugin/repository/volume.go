package repository

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"

	kopia "github.com/kopia/kopia/repo/object"

	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// VolumeResult says what became of one volume. As JSON it takes less than
// three kilobytes.
type VolumeResult struct {
	// Snapshot is the id under which the volume is read again. The stock kopia
	// program takes it too, as the object to list or restore.
	Snapshot string `json:"snapshot"`
	// Files counts what is below the root, Bytes the content of files, holes
	// included.
	Files int64 `json:"files"`
	Bytes int64 `json:"bytes"`
	// Read is what was read of it, in bytes: neither holes nor the files that
	// are as they were in an earlier backup.
	Read int64 `json:"read"`
	// Stored is what it added to the remote, in bytes.
	Stored int64 `json:"stored"`
	// Whole says why all of a device was read, where that was to be avoided.
	Whole string `json:"whole,omitempty"`
	// Unreadable counts the paths whose content is missing or in doubt.
	Unreadable int `json:"unreadable,omitempty"`
	// Issues has a sentence for each path that changed, vanished or could not
	// be read, names escaped. Where a process of its own stored the volume they
	// are the first few: Repository.VolumeIssues reads all.
	Issues   []string `json:"issues,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

const (
	// toldIssues bounds the bytes of the issues in a result that goes from one
	// process to another.
	toldIssues = 1500
	// toldIssue bounds the bytes of one of them.
	toldIssue = 300
)

// say counts issues, and names the first ones.
func (r *VolumeResult) say(issues []volume.Issue) {
	size := 0
	for n, issue := range issues {
		if issue.Lost() {
			r.Unreadable++
		}
		text := issue.String()
		if len(text) > toldIssue {
			text = strings.ToValidUTF8(text[:toldIssue], "") + "..."
		}
		if size += len(text); size <= toldIssues {
			r.Issues = append(r.Issues, text)
		} else if size-len(text) <= toldIssues {
			r.Issues = append(r.Issues, fmt.Sprintf("and %d more", len(issues)-n))
		}
	}
}

// partOf is the part of a record that a volume is.
func partOf(line v1alpha1.VolumeLine, c captured) VolumePart {
	part := VolumePart{
		Ref: line.Ref, Volume: line.Volume, Snapshot: c.root.ObjectID.String(), Block: c.block,
		Files: c.totals.Entries - 1, // the root is no file
		Bytes: c.totals.Bytes, Root: c.root,
	}
	if c.known != kopia.EmptyID {
		part.Known = c.known.String()
	}
	return part
}

// known is the object with the known files of a volume.
func (p *VolumePart) known() kopia.ID {
	id, err := kopia.ParseID(p.Known)
	if p.Known == "" || err != nil {
		return kopia.EmptyID
	}
	return id
}

// writtenVolume is a volume whose data is on the remote, not yet in a record.
type writtenVolume struct {
	part VolumePart
	path string // of the kopia snapshot
}

// WriteVolume stores one volume and waits until it is on the remote. It reads
// the stream to its trailer; a stream that ends early is an error and leaves
// no volume. Whether the volume belongs to the backup is decided by the report
// that Commit gets: its lines name snapshots. Several volumes may be written
// at once.
func (s *Session) WriteVolume(ctx context.Context, line v1alpha1.VolumeLine, in *volume.Decoder) (VolumeResult, error) {
	ctx, stop := s.r.guard.bind(ctx)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// Writers of its own, so that what it stores can be counted, and so that
	// what a broken stream leaves half written is dropped with them.
	var stored atomic.Int64
	sent := func(n int64) {
		stored.Add(n)
		s.count(n)
	}
	c := captured{block: line.VolumeMode == blockMode}
	var tree TreeResult
	err := s.r.relayed(ctx, cancel, "volume", sent, func(relay *relay) (err error) {
		tree, err = writeTree(ctx, cancel, relay, in, c.block)
		return err
	})
	if err != nil {
		return VolumeResult{}, fmt.Errorf("store volume: %w", s.r.guard.explain(ctx, err))
	}
	c.root, c.totals = tree.Root, tree.Totals
	part := partOf(line, c)
	s.keep(line, part)
	result := VolumeResult{Snapshot: part.Snapshot, Files: part.Files, Bytes: part.Bytes, Read: part.Bytes, Stored: stored.Load()}
	for _, issue := range tree.Issues {
		result.Issues = append(result.Issues, issue.String())
		if issue.Lost() {
			result.Unreadable++
		}
	}
	return result, nil
}

// blockMode is the volume mode of a device.
const blockMode = "Block"

// keep holds a volume for the report to name.
func (s *Session) keep(line v1alpha1.VolumeLine, part VolumePart) {
	v := &writtenVolume{part: part, path: volumePath(line)}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.volumes[v.path+"\x00"+part.Snapshot] = v
}

// volumePath is the path that kopia shows for a volume. Its parts hold no
// slash, so two volumes never share one.
func volumePath(line v1alpha1.VolumeLine) string {
	p := "/volumes/" + escaper.Replace(line.Ref.Namespace) + "/" + escaper.Replace(line.Ref.Name)
	if line.Ref.Kind != "PersistentVolumeClaim" {
		p += "/" + escaper.Replace(line.Volume)
	}
	return p
}

// ReadVolume sends a volume of a backup as a stream and closes the encoder. On
// an error the encoder stays open: a stream without its trailer is how the
// receiver knows. A damaged file is an issue in the stream, and is left out.
// prefix is the path of one file or folder in it, which comes with the folders
// above it, or empty for all.
func (r *Repository) ReadVolume(ctx context.Context, rec Record, snapshotID, prefix string, out *volume.Encoder) error {
	ctx, cancel := r.guard.bind(ctx)
	defer cancel()
	part, err := rec.volume(snapshotID)
	if err != nil {
		return err
	}
	if _, err := r.root(ctx, rec); err != nil && ctx.Err() != nil { // fetches indexes that are not listed yet
		return fmt.Errorf("volume %s of backup %s: %w", part.Ref, rec.ID, r.guard.explain(ctx, err))
	}
	if err := ReadTree(ctx, r.rep, part.Root, out, strings.Trim(prefix, "/")); err != nil {
		return fmt.Errorf("volume %s of backup %s: %w", part.Ref, rec.ID, r.guard.explain(ctx, err))
	}
	return nil
}

// volume is the part of a backup with that id.
func (rec *Record) volume(snapshotID string) (*VolumePart, error) {
	for i := range rec.Volumes {
		if part := &rec.Volumes[i]; part.Snapshot == snapshotID && part.Root != nil {
			return part, nil
		}
	}
	return nil, fmt.Errorf("volume %s: not in backup %s", snapshotID, rec.ID)
}

// VolumeIssues has a sentence for each path of a volume that changed, vanished
// or could not be read when it was stored.
func (r *Repository) VolumeIssues(ctx context.Context, part VolumePart) ([]string, error) {
	ctx, cancel := r.guard.bind(ctx)
	defer cancel()
	issues, err := TreeIssues(ctx, r.rep, part.Root)
	if err != nil {
		return nil, fmt.Errorf("issues of volume %s: %w", part.Ref, r.damage(ctx, err))
	}
	var list []string
	for _, issue := range issues {
		list = append(list, issue.String())
	}
	return list, nil
}
