package repository

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/blob"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// settleTime is how long a claim is left for others to see before it is
// decided on. It has to be longer than one put takes.
const settleTime = 2 * time.Second

// staleClaim is the age, by the remote's clock, at which a claim is taken for
// one whose owner died.
const staleClaim = time.Minute

// keyDerivation is how the password becomes a key: empty means kopia's choice,
// scrypt. Tests, which open hundreds of repositories, take a cheaper one.
var keyDerivation = ""

// hashing names contents by a keyed hash of 128 bits. On machines with wide
// vector instructions it takes a sixth of the time of kopia's default.
const hashing = "BLAKE3-256-128"

// Initialize makes a repository, in kopia's newest format.
// Of several that start at the same moment one succeeds and the others get
// ErrExists. A password that CheckPassword refuses is a *v1alpha1.UsageError.
func Initialize(ctx context.Context, st blob.Storage, password string) error {
	return initialize(ctx, st, password, settleTime)
}

func initialize(ctx context.Context, st blob.Storage, password string, settle time.Duration) error {
	if err := CheckPassword(password); err != nil {
		return &v1alpha1.UsageError{Err: err}
	}
	g := newGuard(st, time.Now)
	ctx, cancel := g.bind(ctx)
	defer cancel()
	exists := func() error {
		_, err := st.GetMetadata(ctx, kopiaFormatID)
		switch {
		case err == nil:
			return fmt.Errorf("%s: %w", st.DisplayName(), ErrExists)
		case !errors.Is(err, blob.ErrBlobNotFound):
			return fmt.Errorf("look for a repository at %s: %w", st.DisplayName(), g.explain(ctx, err))
		}
		return nil
	}
	if err := exists(); err != nil {
		return err
	}
	if err := orphans(ctx, g); err != nil {
		return fmt.Errorf("%s: %w", st.DisplayName(), g.explain(ctx, err))
	}
	claim, err := claimRemote(ctx, g, settle)
	if err == nil {
		if err = exists(); err == nil {
			options := &repo.NewRepositoryOptions{FormatBlockKeyDerivationAlgorithm: keyDerivation}
			options.BlockFormat.Hash = hashing
			err = g.explain(ctx, repo.Initialize(ctx, g, options, password))
		}
	}
	if claim != "" {
		// A claim that cannot be removed is harmless: nobody looks at claims
		// once there is a repository.
		_ = g.DeleteBlob(context.WithoutCancel(ctx), claim)
	}
	switch {
	case errors.Is(err, repo.ErrAlreadyInitialized):
		return fmt.Errorf("%s: %w", st.DisplayName(), ErrExists)
	case err != nil && !errors.Is(err, ErrExists):
		return fmt.Errorf("make a repository at %s: %w", st.DisplayName(), err)
	}
	return err
}

// orphans refuses a place with backups in it. New keys there would be the end
// of them, whether the blob with their keys is lost or only not shown. What is
// listed and not there is no backup.
func orphans(ctx context.Context, g *guard) error {
	listed, err := listAll(ctx, g, recordPrefix)
	if err != nil {
		return err
	}
	for _, m := range listed {
		switch _, err := g.GetMetadata(ctx, m.BlobID); {
		case err == nil:
			return fmt.Errorf("backups are there (%s), and the blob %s, which holds their keys, is not\nhint: put the copy of it back, or take another folder", m.BlobID, kopiaFormatID)
		case !errors.Is(err, blob.ErrBlobNotFound):
			return err
		}
	}
	return nil
}

// Rights are what a remote lets its user do to a blob that is there: nil, or
// why not. Backups need neither; deleting them needs Delete.
type Rights struct{ Overwrite, Delete error }

// Probe finds out by a blob of its own, which stays where it cannot be deleted.
func Probe(ctx context.Context, st blob.Storage) (Rights, error) {
	name, err := claimName()
	if err != nil {
		return Rights{}, err
	}
	put := func(text string) error {
		var data buffer
		data.WriteString(text)
		return st.PutBlob(ctx, name, &data, blob.PutOptions{})
	}
	if err := put("kubectl-backup looks whether this can be overwritten\n"); err != nil {
		return Rights{}, fmt.Errorf("put a blob to try: %w", err)
	}
	return Rights{Overwrite: put("and deleted\n"), Delete: st.DeleteBlob(ctx, name)}, ctx.Err()
}

func claimName() (blob.ID, error) {
	var nonce [12]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return "", fmt.Errorf("claim: %w", err)
	}
	return blob.ID(claimPrefix + hex.EncodeToString(nonce[:])), nil
}

// claimRemote decides between several first runs on remotes that have no
// exclusive create. A claim is a blob with a random name. Whoever sees the
// claim of another before making one's own yields at once, so that it keeps
// nobody else from winning; of those that made theirs before seeing any other,
// the lowest name wins. It is decided only after a pause that is longer than
// the time between one's own look and one's own put. The age of other claims is
// known by one's own, which is why there is one in any case.
func claimRemote(ctx context.Context, g *guard, settle time.Duration) (blob.ID, error) {
	mine, err := claimName()
	if err != nil {
		return "", err
	}
	started := time.Now()
	earlier, err := claims(ctx, g)
	if err != nil {
		return "", err
	}
	var data buffer
	data.WriteString("a first run of kubectl-backup is making a repository here\n")
	if err := g.PutBlob(ctx, mine, &data, blob.PutOptions{}); err != nil {
		return "", err
	}
	own, err := g.GetMetadata(ctx, mine)
	if err != nil {
		return mine, err
	}
	live := func(other blob.Metadata) bool { return own.Timestamp.Sub(other.Timestamp) < staleClaim }
	for _, m := range earlier {
		if live(m) {
			return mine, errClaimed
		}
	}
	if err := pause(ctx, max(settle, 2*time.Since(started))); err != nil {
		return mine, err
	}
	all, err := claims(ctx, g)
	if err != nil {
		return mine, err
	}
	for id, m := range all {
		if id < mine && live(m) {
			return mine, errClaimed
		}
	}
	return mine, nil
}

var errClaimed = fmt.Errorf("another first run is making it, or died less than a minute ago (try again then): %w", ErrExists)

func claims(ctx context.Context, g *guard) (map[blob.ID]blob.Metadata, error) {
	found := map[blob.ID]blob.Metadata{}
	err := g.ListBlobs(ctx, claimPrefix, func(m blob.Metadata) error {
		found[m.BlobID] = m
		return nil
	})
	return found, err
}
