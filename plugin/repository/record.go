package repository

import (
	"bytes"
	"cmp"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/snapshot"
	"golang.org/x/sync/errgroup"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Record is one backup: what identifies it, and where its parts are. Once
// written it is never changed.
type Record struct {
	// ID is sortable by time and readable, such as 20261125-013000-4f2ac1.
	ID string `json:"id"`
	// Started and Finished are by the clock of the machine that ran.
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`
	// Committed is Finished by the remote's clock, as far as it was measured.
	Committed time.Time `json:"committed"`
	// ClockSkew is how far the remote's clock was ahead of the machine's.
	ClockSkew   time.Duration        `json:"clockSkewNanoseconds,omitempty"`
	Cluster     v1alpha1.Cluster     `json:"cluster"`
	Policy      string               `json:"policy,omitempty"`
	Source      *v1alpha1.Provenance `json:"source,omitempty"`
	ToolVersion string               `json:"toolVersion,omitempty"`
	Labels      map[string]string    `json:"labels,omitempty"`
	Result      v1alpha1.Result      `json:"result,omitempty"`
	// Drill is what the policy said about drills.
	Drill *v1alpha1.Drill `json:"drill,omitempty"`

	// Namespaces of what was saved, and the nodes, pods and containers that
	// its volumes were read from: sorted, each once.
	Namespaces []string `json:"namespaces,omitempty"`
	Nodes      []string `json:"nodes,omitempty"`
	Pods       []string `json:"pods,omitempty"`
	Containers []string `json:"containers,omitempty"`

	// Objects and ObjectBytes count what Tree holds.
	Objects     int   `json:"objects"`
	ObjectBytes int64 `json:"objectBytes"`
	// Stored is what the run added to the remote, in bytes.
	Stored int64 `json:"stored"`
	// Volumes are the volumes that the report names as saved.
	Volumes []VolumePart `json:"volumes,omitempty"`
	// Tree is the kopia object of the folder that holds the report and the
	// objects, Snapshot the kopia snapshot of it.
	Tree     string `json:"tree"`
	Snapshot string `json:"snapshot"`
	// IndexBlobs are the index blobs that the run wrote. They lead to all that
	// is new in it, also where a listing does not show them yet.
	IndexBlobs []blobPart `json:"indexBlobs,omitempty"`

	// Document is the run's report. Commit stores it as a part of its own;
	// Repository.Document reads it.
	Document *v1alpha1.Document `json:"-"`
	// Members, given to Commit, names the objects that belong to the backup by
	// Ref.Key; nil means all that were added.
	Members map[v1alpha1.Ref]bool `json:"-"`

	// Time is what records are ordered by: Committed, unless the remote says
	// that the record was written before that.
	Time time.Time `json:"-"`
	// Damaged says why the record, or a part of it, cannot be read, or is empty.
	Damaged string `json:"-"`
	// Warnings are sentences about the record, such as a clock that was off.
	Warnings []string `json:"-"`
}

// VolumePart is one volume of a backup. As JSON it takes less than a kilobyte.
type VolumePart struct {
	Ref    v1alpha1.Ref `json:"ref"`
	Volume string       `json:"volume,omitempty"`
	// Snapshot is the kopia object of the tree, and the id in the report.
	Snapshot string `json:"snapshot"`
	// Manifest is the kopia snapshot of it.
	Manifest string `json:"manifest"`
	Files    int64  `json:"files"`
	Bytes    int64  `json:"bytes"`
	// Root is the tree's top folder, with its owner, mode and time.
	Root *snapshot.DirEntry `json:"root"`
	// Known is the kopia object that says what the files were when they were
	// read, for the next backup.
	Known string `json:"known,omitempty"`
	// Block says that the volume is a device: the tree has one file, its content.
	Block bool `json:"block,omitempty"`
}

// blobPart names a blob and its size.
type blobPart struct {
	ID     string `json:"id"`
	Length int64  `json:"length"`
}

const (
	recordKeyPurpose = "kubectl-backup record 1"
	recordKeyLength  = 32
	recordMagic      = "KBR1"
	idTime           = "20060102-150405"
)

var idPattern = regexp.MustCompile(`^\d{8}-\d{6}-[0-9a-f]{6}$`)

func newID(now time.Time) (string, error) {
	var suffix [3]byte
	if _, err := rand.Read(suffix[:]); err != nil {
		return "", fmt.Errorf("backup id: %w", err)
	}
	return now.UTC().Format(idTime) + "-" + hex.EncodeToString(suffix[:]), nil
}

func recordBlob(id string) blob.ID { return blob.ID(recordPrefix + id) }

// seal encrypts a record. Its id is authenticated too: a record's bytes under
// another record's name are refused.
func (r *Repository) seal(rec Record) ([]byte, error) {
	sealed, err := r.sealed(recordMagic, rec.ID, rec)
	if err != nil {
		return nil, fmt.Errorf("seal record: %w", err)
	}
	return sealed, nil
}

func (r *Repository) unseal(id string, sealed []byte) (Record, error) {
	var rec Record
	err := r.unsealed(recordMagic, id, sealed, &rec)
	return rec, err
}

// sealed encrypts a value as JSON. Its magic and name are authenticated too.
func (r *Repository) sealed(magic, name string, v any) ([]byte, error) {
	plain, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	aead, err := r.aead()
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	return aead.Seal(append([]byte(magic), nonce...), nonce, plain, []byte(magic+name)), nil
}

// unsealed reads what sealed made.
func (r *Repository) unsealed(magic, name string, sealed []byte, v any) error {
	aead, err := r.aead()
	if err != nil {
		return err
	}
	rest, ok := bytes.CutPrefix(sealed, []byte(magic))
	if !ok || len(rest) < aead.NonceSize() {
		return errors.New("it is not a record of this version")
	}
	plain, err := aead.Open(nil, rest[:aead.NonceSize()], rest[aead.NonceSize():], []byte(magic+name))
	if err != nil {
		return errors.New("its bytes were changed, or it belongs to another repository")
	}
	if err := json.Unmarshal(plain, v); err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	return nil
}

func (r *Repository) aead() (cipher.AEAD, error) {
	block, err := aes.NewCipher(r.key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// recordReaders is how many records are fetched at once.
const recordReaders = 8

// Records calls each for every backup, oldest first. A record that cannot be
// read comes with its ID and Damaged set, and stops nobody. Records of all
// clusters come; filter by Cluster.UID.
func (r *Repository) Records(ctx context.Context, each func(Record) error) error {
	ctx, cancel := r.guard.bind(ctx)
	defer cancel()
	var found []blob.Metadata
	err := r.guard.ListBlobs(ctx, recordPrefix, func(m blob.Metadata) error {
		if idPattern.MatchString(strings.TrimPrefix(string(m.BlobID), recordPrefix)) {
			found = append(found, m)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list backups: %w", r.guard.explain(ctx, err))
	}
	records := make([]Record, len(found))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(recordReaders)
	for i, m := range found {
		group.Go(func() error {
			id := strings.TrimPrefix(string(m.BlobID), recordPrefix)
			rec, err := r.readRecord(ctx, id, m)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				rec = unreadable(id, m, err)
			}
			records[i] = rec
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("read backups: %w", r.guard.explain(ctx, err))
	}
	slices.SortFunc(records, func(a, b Record) int {
		return cmp.Or(a.Time.Compare(b.Time), strings.Compare(a.ID, b.ID))
	})
	for _, rec := range records {
		if err := each(rec); err != nil {
			return err
		}
	}
	return nil
}

// Record reads one backup's record by its id. It asks for that one blob and
// does not depend on listings. An unreadable one is ErrDamaged, and comes with
// its ID and Damaged set, as from Records.
func (r *Repository) Record(ctx context.Context, id string) (Record, error) {
	ctx, cancel := r.guard.bind(ctx)
	defer cancel()
	if !idPattern.MatchString(id) {
		return Record{}, fmt.Errorf("backup %q: %w", id, ErrNoRecord)
	}
	var m blob.Metadata
	var err error
	for attempt := 0; ; attempt++ {
		m, err = r.guard.GetMetadata(ctx, recordBlob(id))
		if !errors.Is(err, blob.ErrBlobNotFound) || attempt == len(notFoundPauses) {
			break
		}
		if err := pause(ctx, notFoundPauses[attempt]); err != nil {
			return Record{}, err
		}
	}
	switch {
	case errors.Is(err, blob.ErrBlobNotFound):
		return Record{}, fmt.Errorf("backup %s: %w", id, ErrNoRecord)
	case err != nil:
		return Record{}, fmt.Errorf("backup %s: %w", id, r.guard.explain(ctx, err))
	}
	rec, err := r.readRecord(ctx, id, m)
	if err != nil {
		return unreadable(id, m, err), fmt.Errorf("backup %s: %w", id, r.guard.explain(ctx, err))
	}
	return rec, nil
}

// unreadable stands for a record that cannot be read.
func unreadable(id string, m blob.Metadata, err error) Record {
	return Record{ID: id, Time: idToTime(id, m.Timestamp), Damaged: err.Error()}
}

func (r *Repository) readRecord(ctx context.Context, id string, m blob.Metadata) (Record, error) {
	var sealed buffer
	if err := r.guard.GetBlob(ctx, recordBlob(id), 0, -1, &sealed); err != nil {
		if errors.Is(err, blob.ErrBlobNotFound) {
			return Record{}, fmt.Errorf("record is listed but not there: %w", ErrDamaged)
		}
		return Record{}, fmt.Errorf("read record: %w", err)
	}
	rec, err := r.unseal(id, sealed.Bytes())
	if err != nil {
		return Record{}, fmt.Errorf("record: %w: %w", ErrDamaged, err)
	}
	rec.Time = rec.Committed
	if w := clockWarning(rec.ClockSkew, true); w != "" {
		rec.Warnings = append(rec.Warnings, strings.Replace(w, "this machine's clock is", "the clock of the machine that ran it was", 1))
	}
	// A record cannot have been finished after it was written: then the time
	// in it is wrong, and the remote's is the better one.
	if ahead := rec.Committed.Sub(m.Timestamp); !m.Timestamp.IsZero() && ahead > maxClockSkew {
		rec.Time = m.Timestamp
		rec.Warnings = append(rec.Warnings, fmt.Sprintf("clock: its time lies %s after the time at which the remote received it; it is ordered by the latter", ahead.Round(time.Second)))
	}
	if ahead := rec.Time.Sub(r.now()); ahead > maxClockSkew {
		rec.Warnings = append(rec.Warnings, fmt.Sprintf("clock: its time lies %s in the future", ahead.Round(time.Second)))
	}
	return rec, nil
}

func idToTime(id string, written time.Time) time.Time {
	t, err := time.Parse(idTime, id[:len(idTime)])
	if err != nil || (!written.IsZero() && t.After(written)) {
		return written
	}
	return t
}

// Latest is the newest readable backup that match accepts; nil accepts all. A
// record whose time lies in the future is taken only if there is no other. The
// record's Warnings say what is doubtful about its time.
func (r *Repository) Latest(ctx context.Context, match func(Record) bool) (Record, error) {
	var latest, future *Record
	var damaged []string
	limit := r.now().Add(maxClockSkew)
	err := r.Records(ctx, func(rec Record) error {
		switch {
		case rec.Damaged != "":
			damaged = append(damaged, rec.ID)
		case match != nil && !match(rec):
		case rec.Time.After(limit):
			future = &rec
		default:
			latest = &rec
		}
		return nil
	})
	if err != nil {
		return Record{}, err
	}
	if latest == nil {
		latest = future
	} else if future != nil {
		latest.Warnings = append(latest.Warnings, fmt.Sprintf("clock: backup %s was passed over, since its time lies in the future", future.ID))
	}
	if latest == nil {
		if len(damaged) > 0 {
			return Record{}, fmt.Errorf("%w: none can be read; damaged: %s", ErrNoRecord, strings.Join(damaged, ", "))
		}
		return Record{}, ErrNoRecord
	}
	return *latest, nil
}

// writeRecord puts a sealed record and reads it back: what a listing says
// does not matter.
func (r *Repository) writeRecord(ctx context.Context, rec Record) error {
	id := recordBlob(rec.ID)
	if _, err := r.guard.Storage.GetMetadata(ctx, id); err == nil {
		return fmt.Errorf("a backup with the id %s exists", rec.ID)
	} else if !errors.Is(err, blob.ErrBlobNotFound) {
		return err
	}
	sealed, err := r.seal(rec)
	if err != nil {
		return err
	}
	var data, back buffer
	data.Write(sealed)
	if err := r.guard.PutBlob(ctx, id, &data, blob.PutOptions{}); err != nil {
		return err
	}
	if err := r.guard.GetBlob(ctx, id, 0, -1, &back); err != nil {
		return fmt.Errorf("read the record back: %w", err)
	}
	if !bytes.Equal(back.Bytes(), sealed) {
		return fmt.Errorf("read the record back: %w: the remote returned other bytes", ErrDamaged)
	}
	return nil
}
