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
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/blob"
)

var (
	// ErrNoRepository says that there is no repository at the remote.
	ErrNoRepository = errors.New("no repository there")
	// ErrWrongKey says that the password does not open the repository.
	ErrWrongKey = errors.New("the password does not open the repository")
	// ErrOther says that the repository is not the one that a key is of.
	ErrOther = errors.New("another repository is there")
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
	*Volumes
	rep repo.DirectRepository
	now func() time.Time
	key []byte // seals records

	recent recent
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
	g.ahead = lookAhead(ctx, st)
	defer g.ahead.end()
	if format != nil {
		g.ahead.have(kopiaFormatID, format)
	}
	g.ahead.fetch(kopiaSettingsID)
	r := &Repository{now: o.Clock}
	if err := g.open(ctx, func(ctx context.Context) (err error) {
		r.rep, err = openKopia(ctx, g, password, o)
		return err
	}); err != nil {
		return nil, err
	}
	r.Volumes = &Volumes{guard: g, engine: direct{r.rep}, readOnly: o.ReadOnly}
	if r.key, err = r.rep.DeriveKey(recordKeyPurpose, recordKeyLength); err != nil {
		return nil, errors.Join(fmt.Errorf("derive the key of records: %w", err), r.rep.Close(ctx))
	}
	return r, nil
}

// open opens what is behind the guard. Blobs that cannot be read, and without
// which it can be opened, are left out: what only an index blob named is damaged.
func (g *guard) open(ctx context.Context, open func(context.Context) error) error {
	for {
		excluded := len(g.excluded())
		err := g.attempt(ctx, open)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, repo.ErrInvalidPassword):
			return fmt.Errorf("%s: %w", g.DisplayName(), ErrWrongKey)
		}
		g.excludeDamaged(err)
		if ctx.Err() != nil || len(g.excluded()) == excluded {
			return fmt.Errorf("open repository at %s: %w%s", g.DisplayName(), g.explain(ctx, err), formatHint(err))
		}
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

// attempt opens once. Kopia keeps a listing for minutes, so it cannot go on
// after a ghost; it is stopped there instead of trying ten times.
func (g *guard) attempt(ctx context.Context, open func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g.ghost = cancel
	err := open(ctx)
	g.mu.Lock()
	g.ghost = nil
	g.mu.Unlock()
	return err
}

// Kopia names a blob that is damaged only in the text of its error: an index
// blob, its settings, which have defaults, and the format, which has none.
var damagedIndex = regexp.MustCompile(`error loading index blob (x[0-9a-z_-]+):`)

const (
	damagedSettings = "deserialize blob config"
	damagedFormat   = "can't parse format blob"
)

func (g *guard) excludeDamaged(err error) {
	if found := damagedIndex.FindStringSubmatch(err.Error()); found != nil {
		g.exclude(blob.ID(found[1]))
	}
	if strings.Contains(err.Error(), damagedSettings) {
		g.exclude(kopiaSettingsID)
	}
}

func formatHint(err error) string {
	if !strings.Contains(err.Error(), damagedFormat) {
		return ""
	}
	return fmt.Sprintf("\nhint: the blob %s is damaged; it never changes, so put the copy of it back", kopiaFormatID)
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
