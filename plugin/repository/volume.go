package repository

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/kopia/kopia/repo"

	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// VolumeResult says what became of one volume.
type VolumeResult struct {
	// Snapshot is the id under which the volume is read again. The stock kopia
	// program takes it too, as the object to list or restore.
	Snapshot string
	// Files counts what is below the root, Bytes the content of files, holes
	// included.
	Files, Bytes int64
	// Stored is what it added to the remote, in bytes.
	Stored int64
	// Unreadable counts the paths whose content is missing or in doubt.
	Unreadable int
	// Issues has a sentence for each path that changed, vanished or could not
	// be read, names escaped.
	Issues   []string
	Warnings []string
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
	result, err := s.writeVolume(ctx, line, in)
	if err != nil {
		return VolumeResult{}, fmt.Errorf("store volume: %w", s.r.guard.explain(ctx, err))
	}
	return result, nil
}

func (s *Session) writeVolume(ctx context.Context, line v1alpha1.VolumeLine, in *volume.Decoder) (VolumeResult, error) {
	ctx, cancel := s.r.guard.bind(ctx)
	defer cancel()
	// A writer of its own, so that what it stores can be counted, and so that
	// what a broken stream leaves half written is dropped with it.
	var stored atomic.Int64
	_, w, err := s.r.rep.NewDirectWriter(ctx, repo.WriteSessionOptions{Purpose: "volume", OnUpload: func(n int64) {
		stored.Add(n)
		s.count(n)
	}})
	if err != nil {
		return VolumeResult{}, err
	}
	defer w.Close(context.WithoutCancel(ctx))
	tree, err := WriteTree(ctx, w, in)
	if err != nil {
		return VolumeResult{}, err
	}
	if err := w.Flush(ctx); err != nil {
		return VolumeResult{}, err
	}
	id := tree.Root.ObjectID.String()
	files := tree.Totals.Entries - 1 // the root is no file
	v := &writtenVolume{
		part: VolumePart{Ref: line.Ref, Volume: line.Volume, Snapshot: id, Files: files, Bytes: tree.Totals.Bytes, Root: tree.Root},
		path: volumePath(line),
	}
	s.mu.Lock()
	s.volumes[v.path+"\x00"+id] = v
	s.mu.Unlock()
	result := VolumeResult{Snapshot: id, Files: files, Bytes: tree.Totals.Bytes, Stored: stored.Load()}
	for _, issue := range tree.Issues {
		result.Issues = append(result.Issues, issue.String())
		if issue.Lost() {
			result.Unreadable++
		}
	}
	return result, nil
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
func (r *Repository) ReadVolume(ctx context.Context, rec Record, snapshotID string, out *volume.Encoder) error {
	ctx, cancel := r.guard.bind(ctx)
	defer cancel()
	for _, part := range rec.Volumes {
		if part.Snapshot != snapshotID || part.Root == nil {
			continue
		}
		if _, err := r.root(ctx, rec); err != nil && ctx.Err() != nil { // fetches indexes that are not listed yet
			return fmt.Errorf("volume %s of backup %s: %w", part.Ref, rec.ID, r.guard.explain(ctx, err))
		}
		if err := ReadTree(ctx, r.rep, part.Root, out, ""); err != nil {
			return fmt.Errorf("volume %s of backup %s: %w", part.Ref, rec.ID, r.guard.explain(ctx, err))
		}
		return nil
	}
	return fmt.Errorf("volume %s: not in backup %s", snapshotID, rec.ID)
}
