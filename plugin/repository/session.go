package repository

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kopia/kopia/fs"
	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/blob"
	kopia "github.com/kopia/kopia/repo/object"
	"github.com/kopia/kopia/snapshot"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Names in the folder of a backup.
const (
	objectsFolder = "objects"
	reportFile    = "report.json"
	linesFile     = "report-objects.json"
)

// objectWriters is how many objects are hashed, compressed and encrypted at
// once. It is more than there are cores: one of them is away uploading when a
// pack is full.
const objectWriters = 4

// coarseClock is what cannot be told from the rounding of a remote's times, of
// which some have whole seconds and some two. Backups that follow each other
// that closely are in order by the machine's own clock.
const coarseClock = 3 * time.Second

// Session writes one backup. Its methods may be called from many goroutines,
// but Commit and Abort only after all others.
type Session struct {
	r      *Repository
	id     string
	w      repo.DirectRepositoryWriter
	cancel context.CancelFunc
	stored atomic.Int64
	before map[blob.ID]bool

	queue   chan job
	workers sync.WaitGroup
	drained sync.Once
	closed  sync.Once // kopia counts closes, so a second one would end the repository

	mu      sync.Mutex
	err     error
	kinds   map[string][]row
	added   int
	volumes map[string]*writtenVolume
}

type job struct {
	o   *object.Object
	seq int
}

// row is one line of a kind's index: small, since all of them are in memory.
type row struct {
	name string // as in the folder
	id   kopia.ID
	size int64
	seq  int
}

// NewSession starts a backup. Its id is known at once, for labelling what the
// run makes elsewhere.
func (r *Repository) NewSession(ctx context.Context) (*Session, error) {
	if r.readOnly {
		return nil, errReadOnly
	}
	id, err := newID(r.now())
	if err != nil {
		return nil, err
	}
	ctx, cancel := r.guard.bind(ctx)
	s := &Session{
		r: r, id: id, cancel: cancel, before: r.guard.knownPuts(),
		queue: make(chan job, 2*objectWriters), kinds: map[string][]row{}, volumes: map[string]*writtenVolume{},
	}
	if _, s.w, err = r.rep.NewDirectWriter(ctx, repo.WriteSessionOptions{Purpose: "backup " + id, OnUpload: s.count}); err != nil {
		cancel()
		return nil, fmt.Errorf("start a backup: %w", r.guard.explain(ctx, err))
	}
	for range objectWriters {
		s.workers.Add(1)
		go func() {
			defer s.workers.Done()
			for j := range s.queue {
				if err := s.write(ctx, j); err != nil {
					s.fail(r.guard.explain(ctx, err))
				}
			}
		}()
	}
	return s, nil
}

// ID is the backup's id, should it be committed.
func (s *Session) ID() string { return s.id }

// Stored is what the session has added to the remote so far, in bytes.
func (s *Session) Stored() int64 { return s.stored.Load() }

func (s *Session) count(n int64) { s.stored.Add(n) }

func (s *Session) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

func (s *Session) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// AddObject stores an object's bytes exactly as they are. The object must not
// change afterwards. It may return before the bytes are stored; an error comes
// back from a later call, at the latest from Commit. Of two objects with the
// same Ref.Key the one added last is kept.
func (s *Session) AddObject(ctx context.Context, o *object.Object) error {
	s.mu.Lock()
	s.added++
	j := job{o: o, seq: s.added}
	err := s.err
	s.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case s.queue <- j:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *Session) write(ctx context.Context, j job) error {
	if s.failure() != nil {
		return nil // the backup is lost; only the queue is emptied
	}
	out := s.w.NewObjectWriter(ctx, kopia.WriterOptions{Compressor: compressor, MetadataCompressor: compressor})
	defer out.Close()
	if _, err := out.Write(j.o.Raw); err != nil {
		return fmt.Errorf("store %s: %w", j.o.Ref, err)
	}
	id, err := out.Result()
	if err != nil {
		return fmt.Errorf("store %s: %w", j.o.Ref, err)
	}
	kind := kindName(j.o.Ref)
	line := row{name: fileName(j.o.Ref), id: id, size: int64(len(j.o.Raw)), seq: j.seq}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kinds[kind] = append(s.kinds[kind], line)
	return nil
}

// Commit makes the backup: it stores the indexes and the report, waits until
// all of it is on the remote, and puts the record last. It fills in what it
// knows better than the caller (ID, times, counts, parts).
func (s *Session) Commit(ctx context.Context, rec Record) (string, error) {
	id, err := s.commit(ctx, rec)
	if err != nil {
		return "", fmt.Errorf("backup %s: %w", s.id, s.r.guard.explain(ctx, err))
	}
	return id, nil
}

func (s *Session) commit(ctx context.Context, rec Record) (string, error) {
	ctx, cancel := s.r.guard.bind(ctx)
	defer cancel()
	defer s.cancel()
	s.drain()
	defer s.close(context.WithoutCancel(ctx))
	if err := s.failure(); err != nil {
		return "", err
	}

	rec.ID = s.id
	if rec.Document != nil {
		rec.Result = rec.Document.Result
	}
	tree, err := s.writeTree(ctx, &rec)
	if err != nil {
		return "", err
	}
	rec.Tree = tree.ObjectID.String()
	if err := s.saveSnapshots(ctx, &rec, tree); err != nil {
		return "", err
	}
	if err := s.w.Flush(ctx); err != nil {
		return "", err
	}

	rec.Finished = s.r.now().UTC()
	rec.Started = rec.Started.UTC()
	rec.Committed = rec.Finished
	if skew, measured := s.r.guard.clockSkew(); measured && skew.Abs() > coarseClock {
		rec.Committed = rec.Finished.Add(skew)
		if skew.Abs() > maxClockSkew {
			rec.ClockSkew = skew
		}
	}
	rec.Stored = s.Stored()
	rec.IndexBlobs = s.r.guard.ownIndexBlobs(s.before)
	if err := s.r.writeRecord(ctx, rec); err != nil {
		return "", err
	}
	return rec.ID, nil
}

// Abort gives the backup up. What was uploaded is not referred to by anything.
// After a Commit that failed it does nothing.
func (s *Session) Abort(ctx context.Context) error {
	s.fail(errors.New("the backup was given up"))
	s.cancel()
	s.drain()
	return s.close(ctx)
}

func (s *Session) drain() {
	s.drained.Do(func() { close(s.queue) })
	s.workers.Wait()
}

func (s *Session) close(ctx context.Context) error {
	var err error
	s.closed.Do(func() { err = s.w.Close(ctx) })
	if err != nil {
		return fmt.Errorf("end the session: %w", err)
	}
	return nil
}

// writeTree writes the folder of the backup: the report, and a folder of
// objects with a folder for each kind.
func (s *Session) writeTree(ctx context.Context, rec *Record) (*snapshot.DirEntry, error) {
	kinds := make([]string, 0, len(s.kinds))
	for kind := range s.kinds {
		kinds = append(kinds, kind)
	}
	slices.Sort(kinds)
	objects, err := writeDirectory(ctx, s.w, func(yield func(*snapshot.DirEntry) error) error {
		for _, kind := range kinds {
			e, count, size, err := s.writeKind(ctx, kind, rec.Members)
			if err != nil {
				return fmt.Errorf("index of %s: %w", kind, err)
			}
			if count == 0 {
				continue
			}
			rec.Objects += count
			rec.ObjectBytes += size
			if err := yield(e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	objects.Name = objectsFolder
	entries := []*snapshot.DirEntry{objects}
	if rec.Document != nil {
		report, lines, err := s.writeReport(ctx, rec.Document)
		if err != nil {
			return nil, fmt.Errorf("report: %w", err)
		}
		entries = append(entries, lines, report)
	}
	return writeDirectory(ctx, s.w, func(yield func(*snapshot.DirEntry) error) error {
		for _, e := range entries {
			if err := yield(e); err != nil {
				return err
			}
		}
		return nil
	})
}

// writeKind writes the index of one kind, sorted by name: the same objects
// give the same bytes, whatever order they came in.
func (s *Session) writeKind(ctx context.Context, kind string, members map[v1alpha1.Ref]bool) (e *snapshot.DirEntry, count int, size int64, err error) {
	rows := s.kinds[kind]
	slices.SortFunc(rows, func(a, b row) int { return cmp.Or(strings.Compare(a.name, b.name), b.seq-a.seq) })
	rows = slices.CompactFunc(rows, func(a, b row) bool { return a.name == b.name })
	if members != nil {
		rows = slices.DeleteFunc(rows, func(r row) bool { return !members[refOf(kind, r.name)] })
	}
	if len(rows) == 0 {
		return nil, 0, 0, nil
	}
	e, err = writeDirectory(ctx, s.w, func(yield func(*snapshot.DirEntry) error) error {
		for _, r := range rows {
			size += r.size
			if err := yield(&snapshot.DirEntry{Name: r.name, Type: snapshot.EntryTypeFile, Permissions: 0o600, FileSize: r.size, ObjectID: r.id}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, 0, 0, err
	}
	e.Name = kind
	return e, len(rows), size, nil
}

// writeReport stores the report in two parts: the lines of objects, which are
// many and mostly the same as last time, and the rest.
func (s *Session) writeReport(ctx context.Context, d *v1alpha1.Document) (report, lines *snapshot.DirEntry, err error) {
	lines, err = writeFile(ctx, s.w, linesFile, fineSplitter, func(out io.Writer) error {
		encoder := json.NewEncoder(out)
		encoder.SetEscapeHTML(false)
		for i := range d.Objects {
			if err := encoder.Encode(&d.Objects[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	rest := *d
	rest.Objects = nil
	rest.Backup = s.id
	report, err = writeFile(ctx, s.w, reportFile, fineSplitter, func(out io.Writer) error {
		return json.NewEncoder(out).Encode(&rest)
	})
	return report, lines, err
}

// saveSnapshots makes kopia snapshots of the backup's folder and of the
// volumes that the report names. They are what keeps the data from kopia's own
// maintenance, and what the stock kopia program lists.
func (s *Session) saveSnapshots(ctx context.Context, rec *Record, tree *snapshot.DirEntry) error {
	tags := map[string]string{"tag:backup": rec.ID}
	for key, value := range map[string]string{"policy": rec.Policy, "cluster": rec.Cluster.UID} {
		if value != "" {
			tags["tag:"+key] = value
		}
	}
	if rec.Source != nil && rec.Source.Commit != "" {
		tags["tag:commit"] = rec.Source.Commit
	}
	save := func(path, description string, root *snapshot.DirEntry) (string, error) {
		now := fs.UTCTimestampFromTime(s.r.now())
		host := rec.Cluster.UID
		if host == "" {
			host = "unknown-cluster"
		}
		m := &snapshot.Manifest{
			Source:      snapshot.SourceInfo{Host: host, UserName: program, Path: path},
			Description: description, StartTime: fs.UTCTimestampFromTime(rec.Started), EndTime: now,
			RootEntry: root, Tags: tags,
		}
		if sum := root.DirSummary; sum != nil {
			m.Stats.TotalFileCount, m.Stats.TotalFileSize, m.Stats.TotalDirectoryCount = int32(sum.TotalFileCount), sum.TotalFileSize, int32(sum.TotalDirCount)
		}
		id, err := snapshot.SaveSnapshot(ctx, s.w, m)
		return string(id), err
	}
	named := map[string]bool{}
	if rec.Document != nil {
		for _, line := range rec.Document.Volumes {
			named[line.Snapshot] = true
		}
	}
	s.mu.Lock()
	written := make([]*writtenVolume, 0, len(s.volumes))
	for _, v := range s.volumes {
		if named[v.part.Snapshot] {
			written = append(written, v)
		}
	}
	s.mu.Unlock()
	slices.SortFunc(written, func(a, b *writtenVolume) int { return strings.Compare(a.path, b.path) })
	var err error
	for _, v := range written {
		part := v.part
		if part.Manifest, err = save(v.path, "volume "+part.Ref.String()+" of backup "+rec.ID, part.Root); err != nil {
			return fmt.Errorf("snapshot of volume %s: %w", part.Ref, err)
		}
		rec.Volumes = append(rec.Volumes, part)
	}
	if rec.Snapshot, err = save("/objects/"+escaper.Replace(rec.Policy), "objects of backup "+rec.ID, tree); err != nil {
		return fmt.Errorf("snapshot of the objects: %w", err)
	}
	return nil
}

// kindName is the name of a kind's folder: Kind, or Kind.group.
func kindName(r v1alpha1.Ref) string {
	if r.Group == "" {
		return escaper.Replace(r.Kind)
	}
	return escaper.Replace(r.Kind + "." + r.Group)
}

// fileName is the name of an object's file in its kind's folder:
// namespace_name.json, or _name.json. A namespace holds no underscore.
func fileName(r v1alpha1.Ref) string {
	return escaper.Replace(r.Namespace+"_"+r.Name) + ".json"
}

// refOf reads the two names back. The version is not in them.
func refOf(kind, file string) v1alpha1.Ref {
	var r v1alpha1.Ref
	r.Kind, r.Group, _ = strings.Cut(unescaper.Replace(kind), ".")
	r.Namespace, r.Name, _ = strings.Cut(unescaper.Replace(strings.TrimSuffix(file, ".json")), "_")
	return r
}
