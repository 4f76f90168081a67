package repository

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/kopia/kopia/repo/object"
	"github.com/kopia/kopia/snapshot"

	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// CaptureOptions say how a volume is read by the process that stores it.
type CaptureOptions struct {
	// Line names the volume.
	Line v1alpha1.VolumeLine
	// Previous is an earlier backup of the same volume. Files that are as they
	// were then are not read.
	Previous *VolumePart
	// CutAt is the moment that the data stands still at, as for a snapshot;
	// zero means that the volume is read as it is now.
	CutAt time.Time
	// Allocated, if set, is asked once what of a device holds data; the rest is
	// not read. Where it fails, or says what cannot be true, all is read, and
	// Whole of the result says why.
	Allocated func(context.Context) (volume.Allocated, error)
	// Workers is how many files are read at once; 0 means twice the number of
	// processors, and at least four.
	Workers int
	// Progress, if set, is called with the bytes that were dealt with since
	// the last call, from any goroutine.
	Progress func(int64)
}

// CaptureFolder stores the files below root as a volume, and waits until it is
// on the remote. It is for the process that has the volume mounted: what comes
// of it, a Session of another process adds to a backup by AddVolume. The
// volume is as one that WriteVolume stores. What is wrong inside the tree is
// in the result; the error is about the root or the remote.
//
// When it is stopped half way, by whatever, most of what it sent is not sent
// again by the next one.
func (r *Volumes) CaptureFolder(ctx context.Context, root string, o CaptureOptions) (VolumeResult, VolumePart, error) {
	return r.capture(ctx, o, func(ctx context.Context, cancel context.CancelCauseFunc, relay *relay) (captured, error) {
		return captureFolder(ctx, cancel, r.engine, relay, root, o)
	})
}

// CaptureDevice stores a block device, or the image of one, as CaptureFolder
// stores a folder. Blocks of zeros cost nothing, and blocks that an earlier
// backup has are not stored again.
func (r *Volumes) CaptureDevice(ctx context.Context, path string, o CaptureOptions) (VolumeResult, VolumePart, error) {
	return r.capture(ctx, o, func(ctx context.Context, cancel context.CancelCauseFunc, relay *relay) (captured, error) {
		return captureDevice(ctx, cancel, relay, path, o)
	})
}

// captured is a volume that was read here.
type captured struct {
	root   *snapshot.DirEntry
	totals volume.Totals
	issues []volume.Issue
	read   int64
	known  object.ID
	block  bool
	whole  string
}

func (r *Volumes) capture(ctx context.Context, o CaptureOptions, read func(context.Context, context.CancelCauseFunc, *relay) (captured, error)) (VolumeResult, VolumePart, error) {
	if r.readOnly {
		return VolumeResult{}, VolumePart{}, errReadOnly
	}
	ctx, stop := r.guard.bind(ctx)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var stored atomic.Int64
	var c captured
	err := r.relayed(ctx, cancel, "volume", func(n int64) { stored.Add(n) }, func(relay *relay) (err error) {
		c, err = read(ctx, cancel, relay)
		return err
	})
	if err != nil {
		return VolumeResult{}, VolumePart{}, fmt.Errorf("store volume %s: %w", o.Line.Ref, r.guard.explain(ctx, err))
	}
	part := partOf(o.Line, c)
	result := VolumeResult{
		Snapshot: part.Snapshot, Files: part.Files, Bytes: part.Bytes, Read: c.read, Stored: stored.Load(), Whole: c.whole,
	}
	result.say(c.issues)
	return result, part, nil
}

// relayed calls do with a relay of new writers, and flushes and closes them.
func (r *Volumes) relayed(ctx context.Context, cancel context.CancelCauseFunc, purpose string, sent func(int64), do func(*relay) error) error {
	next := func() (writer, *atomic.Int64, error) {
		var n atomic.Int64
		w, err := r.engine.newWriter(ctx, purpose, func(more int64) {
			n.Add(more)
			sent(more)
		})
		return w, &n, err
	}
	base, _, err := next()
	if err != nil {
		return err
	}
	// Closing a writer drops what it has not flushed.
	defer base.Close(context.WithoutCancel(ctx))
	l := &relay{ctx: ctx, fail: cancel, base: base, began: time.Now(), next: func() (*leg, error) {
		w, n, err := next()
		if err != nil {
			return nil, err
		}
		return &leg{w: w, sent: n.Load, since: time.Now(), close: func() error { return w.Close(context.WithoutCancel(ctx)) }}, nil
	}}
	if err := do(l); err != nil {
		l.drop()
		return err
	}
	if err := base.Flush(ctx); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// AddVolume adds a volume that another process stored to the backup. Whether
// it belongs to it is decided by the report that Commit gets, as for
// WriteVolume. It is an error if the volume cannot be found on the remote.
func (s *Session) AddVolume(ctx context.Context, line v1alpha1.VolumeLine, part VolumePart) error {
	ctx, cancel := s.r.guard.bind(ctx)
	defer cancel()
	part.Ref, part.Volume = line.Ref, line.Volume
	if part.Root == nil || part.Root.ObjectID.String() != part.Snapshot {
		return fmt.Errorf("volume %s: its mover did not say where it is", line.Ref)
	}
	if err := s.r.await(ctx, part.Root.ObjectID); err != nil {
		return fmt.Errorf("volume %s: what its mover stored: %w", line.Ref, s.r.guard.explain(ctx, err))
	}
	s.keep(line, part)
	return nil
}

// indexPauses is how long the index blobs of another process are waited for,
// on remotes whose listings are late.
var indexPauses = []time.Duration{200 * time.Millisecond, time.Second, 3 * time.Second, 10 * time.Second, 20 * time.Second, 30 * time.Second}

// await refreshes the indexes until an object that another process stored is
// found in them.
func (r *Repository) await(ctx context.Context, id object.ID) error {
	for attempt := 0; ; attempt++ {
		if err := r.rep.Refresh(ctx); err != nil {
			return err
		}
		_, err := present(ctx, r.rep, id)
		if err == nil || attempt == len(indexPauses) || ctx.Err() != nil || !isNotFound(err) {
			return err
		}
		if err := pause(ctx, indexPauses[attempt]); err != nil {
			return err
		}
	}
}
