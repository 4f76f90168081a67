// Package repository keeps backups on a remote: Kubernetes objects, volumes
// and the records that make them backups. The engine is kopia's, and what is
// stored are ordinary kopia snapshots, so the stock kopia program lists,
// verifies and restores them. spec/FORMAT.md is the text that this package
// implements.
//
// A backup exists when its record does, and the record is one blob that is put
// after everything it names. There are no locks: a process that is killed
// leaves nothing that stops the next one, and nothing that looks like a backup.
//
// Nothing is kept on disk here: no configuration, no cache, no password. It
// takes any kopia blob.Storage, and knows no cluster and no rclone.
package repository

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/content"
)

var (
	// ErrNoRepository says that there is no repository at the remote.
	ErrNoRepository = errors.New("no repository there")
	// ErrWrongKey says that the password does not open the repository.
	ErrWrongKey = errors.New("the password does not open the repository")
	// ErrExists says that there is a repository already.
	ErrExists = errors.New("a repository is there already")
	// ErrNoRecord says that no backup has that id, or that none matches.
	ErrNoRecord = errors.New("no such backup")
	// ErrDamaged says that something that a record names cannot be read.
	ErrDamaged = errors.New("damaged")
	// ErrStorage says that the remote does not take or give data any more. A
	// run cannot go on after it.
	ErrStorage = errors.New("the remote failed")
)

var errReadOnly = errors.New("the repository was opened for reading only")

// OpenOptions say how to open a repository.
type OpenOptions struct {
	// ReadOnly refuses every write.
	ReadOnly bool
	// Clock is the time now; nil means time.Now.
	Clock func() time.Time
}

// Repository is an open repository. Its methods may be used from many
// goroutines.
type Repository struct {
	guard *guard
	rep   repo.DirectRepository
	now   func() time.Time
	key   []byte // seals records

	readOnly bool

	recent  recent
	closing sync.Once
}

// Open opens the repository on a storage and closes that storage in Close. When
// it fails the storage stays the caller's.
// It takes most of a second: the key is derived from the password so that
// guessing is slow. That is why a process opens a repository once.
func Open(ctx context.Context, st blob.Storage, password string, o OpenOptions) (*Repository, error) {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	g := newGuard(st, o.Clock)
	ctx, cancel := g.bind(ctx)
	defer cancel()
	format, err := readFormat(ctx, st)
	switch {
	case errors.Is(err, blob.ErrBlobNotFound):
		return nil, fmt.Errorf("%s: %w", st.DisplayName(), ErrNoRepository)
	case err != nil:
		return nil, fmt.Errorf("open repository at %s: %w", st.DisplayName(), g.explain(ctx, err))
	}
	g.exists = true
	g.ahead = lookAhead(ctx, st, format)
	defer g.ahead.end()
	for {
		excluded := len(g.excluded())
		rep, err := g.attempt(ctx, password, o)
		switch {
		case err == nil:
			r := &Repository{guard: g, rep: rep, now: o.Clock, readOnly: o.ReadOnly}
			if r.key, err = rep.DeriveKey(recordKeyPurpose, recordKeyLength); err != nil {
				return nil, errors.Join(fmt.Errorf("derive the key of records: %w", err), rep.Close(ctx))
			}
			return r, nil
		case errors.Is(err, repo.ErrInvalidPassword):
			return nil, fmt.Errorf("%s: %w", st.DisplayName(), ErrWrongKey)
		}
		g.excludeDamagedIndex(err)
		if ctx.Err() != nil || len(g.excluded()) == excluded {
			return nil, fmt.Errorf("open repository at %s: %w", st.DisplayName(), g.explain(ctx, err))
		}
		// Go on without those index blobs: what only they named is damaged.
	}
}

// readFormat reads the blob that says that there is a repository. It may be
// there and not be given yet: then there is no error and no content.
func readFormat(ctx context.Context, st blob.Storage) ([]byte, error) {
	var format buffer
	err := st.GetBlob(ctx, kopiaFormatID, 0, -1, &format)
	if errors.Is(err, blob.ErrBlobNotFound) {
		_, err = st.GetMetadata(ctx, kopiaFormatID)
		return nil, err
	}
	return format.Bytes(), err
}

// attempt opens the repository once. Kopia keeps a listing for minutes, so it
// cannot go on after a ghost; it is stopped there instead of trying ten times.
func (g *guard) attempt(ctx context.Context, password string, o OpenOptions) (repo.DirectRepository, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g.ghost = cancel
	rep, err := openKopia(ctx, g, password, o)
	g.mu.Lock()
	g.ghost = nil
	g.mu.Unlock()
	return rep, err
}

// damagedIndex finds the index blob that kopia could not decrypt: it names it
// only in the text of its error.
var damagedIndex = regexp.MustCompile(`error loading index blob (x[0-9a-z_-]+):`)

func (g *guard) excludeDamagedIndex(err error) {
	if found := damagedIndex.FindStringSubmatch(err.Error()); found != nil {
		g.exclude(blob.ID(found[1]))
	}
}

// Close releases the repository.
func (r *Repository) Close(ctx context.Context) error {
	var err error
	r.closing.Do(func() { err = errors.Join(r.rep.Close(ctx), r.guard.Storage.Close(ctx)) })
	if err != nil {
		return fmt.Errorf("close repository: %w", err)
	}
	return nil
}

// Warnings are sentences about the repository as a whole: index blobs that
// could not be read, a clock that is off.
func (r *Repository) Warnings() []string {
	var list []string
	for _, id := range r.guard.excluded() {
		list = append(list, fmt.Sprintf("index blob %s is listed but cannot be read; backups that only it names are damaged", id))
	}
	if w := clockWarning(r.guard.clockSkew()); w != "" {
		list = append(list, w)
	}
	return list
}

// maxClockSkew is how far clocks may be apart before it is said. Times in
// records are corrected by any amount.
const maxClockSkew = 5 * time.Minute

func clockWarning(skew time.Duration, measured bool) string {
	if !measured || skew.Abs() <= maxClockSkew {
		return ""
	}
	direction := "ahead of"
	if skew > 0 {
		direction = "behind"
	}
	return fmt.Sprintf("clock: this machine's clock is %s %s the remote's; times are recorded by the remote's", skew.Abs().Round(time.Second), direction)
}

// Kopia opens a repository only from a configuration file that says where the
// storage is. The file that it gets holds nothing but the number of a storage
// that this process has open, and is gone before openKopia returns.

const handleType = "kubectl-backup-handle"

type handle struct {
	Number int `json:"number"`
}

var handles = struct {
	sync.Mutex
	next int
	open map[int]blob.Storage
}{open: map[int]blob.Storage{}}

func init() {
	blob.AddSupportedStorage(handleType, handle{}, func(_ context.Context, h *handle, _ bool) (blob.Storage, error) {
		handles.Lock()
		defer handles.Unlock()
		st, ok := handles.open[h.Number]
		if !ok {
			return nil, fmt.Errorf("storage %d is not open in this process", h.Number)
		}
		return st, nil
	})
}

func openKopia(ctx context.Context, g *guard, password string, o OpenOptions) (repo.DirectRepository, error) {
	handles.Lock()
	handles.next++
	number := handles.next
	handles.open[number] = g
	handles.Unlock()
	defer func() {
		handles.Lock()
		delete(handles.open, number)
		handles.Unlock()
	}()

	dir, err := os.MkdirTemp("", "kubectl-backup-") // mode 0700
	if err != nil {
		return nil, fmt.Errorf("folder for kopia's connection: %w", err)
	}
	defer os.RemoveAll(dir)
	config, err := json.Marshal(repo.LocalConfig{
		Storage:       &blob.ConnectionInfo{Type: handleType, Config: handle{Number: number}},
		Caching:       &content.CachingOptions{},
		ClientOptions: repo.ClientOptions{Hostname: "kubectl-backup", Username: "kubectl-backup", ReadOnly: o.ReadOnly},
	})
	if err != nil {
		return nil, fmt.Errorf("kopia's connection: %w", err)
	}
	file := filepath.Join(dir, "connection.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return nil, fmt.Errorf("kopia's connection: %w", err)
	}
	rep, err := repo.Open(ctx, file, password, &repo.Options{
		TimeNowFunc:          o.Clock,
		DisableRepositoryLog: true,
		OnFatalError: func(err error) { // kopia's default ends the process
			g.kill(fmt.Errorf("%w: %w", ErrStorage, err))
		},
	})
	if err != nil {
		return nil, err
	}
	direct, ok := rep.(repo.DirectRepository)
	if !ok {
		return nil, errors.Join(errors.New("not a repository on a storage"), rep.Close(ctx))
	}
	return direct, nil
}

// shortestPassword is in characters. Key derivation makes guessing slow, not
// impossible.
const shortestPassword = 8

var weak = map[string]bool{
	"password": true, "password1": true, "password123": true, "passw0rd": true, "12345678": true, "123456789": true,
	"1234567890": true, "qwertyui": true, "qwertyuiop": true, "11111111": true, "00000000": true, "changeme": true,
	"changeit": true, "letmein1": true, "iloveyou": true, "admin123": true, "administrator": true, "kubernetes": true,
	"kubectl-backup": true, "kubectlbackup": true, "backup123": true, "secret123": true, "abcdefgh": true, "abcd1234": true,
}

// CheckPassword refuses a password that anybody would guess.
func CheckPassword(password string) error {
	const hint = "hint: use at least 8 characters that are in nobody's list, such as the output of openssl rand -base64 24"
	distinct := map[rune]bool{}
	for _, c := range password {
		distinct[c] = true
	}
	switch n := len([]rune(password)); {
	case strings.TrimSpace(password) == "":
		return errors.New("the password is empty; " + hint)
	case n < shortestPassword:
		return fmt.Errorf("the password has %d characters; %s", n, hint)
	case weak[strings.ToLower(password)] || len(distinct) < 3:
		return errors.New("the password is one of those that are tried first; " + hint)
	}
	return nil
}
