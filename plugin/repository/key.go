package repository

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/blob/readonly"
	"github.com/kopia/kopia/repo/content"
	"github.com/kopia/kopia/repo/format"
	"github.com/kopia/kopia/repo/object"
)

// volumeKey is what kopia.repository holds behind the password, as far as
// volumes need it. Whoever has it can read and write all of the repository, but
// does not know the password, and has not spent the time and the memory that
// its derivation costs.
type volumeKey struct {
	Repository []byte               `json:"repository"` // unique id
	Contents   format.ContentFormat `json:"contents"`
	Objects    format.ObjectFormat  `json:"objects"`
}

// Key opens the volumes of this repository in another process, by OpenVolumes.
// It is a secret, and as long-lived as the repository. It is nil where kopia
// has to open the repository by itself: where something is set up in it that
// this package never does, such as the retention of an object lock.
func (r *Repository) Key(ctx context.Context) (json.RawMessage, error) {
	m := r.rep.FormatManager()
	settings, err := m.BlobCfgBlob(ctx)
	if err != nil {
		return nil, fmt.Errorf("settings of the repository: %w", r.guard.explain(ctx, err))
	}
	upgrade, err := m.UpgradeLockIntent(ctx)
	if err != nil {
		return nil, fmt.Errorf("settings of the repository: %w", r.guard.explain(ctx, err))
	}
	features, err := m.RequiredFeatures(ctx)
	if err != nil {
		return nil, fmt.Errorf("settings of the repository: %w", r.guard.explain(ctx, err))
	}
	if settings.IsRetentionEnabled() || upgrade != nil || len(features) > 0 || !m.SupportsPasswordChange() {
		return nil, nil
	}
	k := volumeKey{Repository: m.UniqueID(), Contents: m.ScrubbedContentFormat(), Objects: m.ObjectFormat()}
	k.Contents.MasterKey, k.Contents.HMACSecret = m.GetMasterKey(), m.GetHmacSecret()
	return json.Marshal(k)
}

// OpenVolumes opens the volumes of a repository with its Key, and closes the
// storage in Close. When it fails the storage stays the caller's. Where another
// repository is there than the one that the key is of, it is ErrOther.
func OpenVolumes(ctx context.Context, st blob.Storage, key json.RawMessage, o OpenOptions) (*Volumes, error) {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	var k volumeKey
	if err := json.Unmarshal(key, &k); err != nil {
		return nil, errors.New("the key of the repository is not in its form") // the cause would repeat parts of it
	}
	provider, err := format.NewFormattingOptionsProvider(&k.Contents, nil)
	if err != nil {
		return nil, fmt.Errorf("key of the repository: %w", err)
	}
	g := newGuard(st, o.Clock)
	ctx, cancel := g.bind(ctx)
	defer cancel()
	g.ahead = lookAhead(ctx, st)
	defer g.ahead.end()
	if err := g.holdsRepository(ctx, k.Repository); err != nil {
		return nil, err
	}
	v := &Volumes{guard: g, readOnly: o.ReadOnly}
	if err := g.open(ctx, func(ctx context.Context) (err error) {
		v.engine, err = openKeyed(ctx, g, provider, k.Objects, o)
		return err
	}); err != nil {
		return nil, err
	}
	return v, nil
}

// holdsRepository makes sure that a remote has the repository with an id.
func (g *guard) holdsRepository(ctx context.Context, id []byte) error {
	var there buffer
	g.exists = true // by all that is known
	switch err := g.get(ctx, kopiaFormatID, 0, -1, &there); {
	case errors.Is(err, blob.ErrBlobNotFound):
		return fmt.Errorf("%s: %w", g.DisplayName(), ErrNoRepository)
	case err != nil:
		return fmt.Errorf("open repository at %s: %w", g.DisplayName(), g.explain(ctx, err))
	}
	found, err := format.ParseKopiaRepositoryJSON(there.Bytes())
	if err != nil {
		return fmt.Errorf("open repository at %s: %w", g.DisplayName(), err)
	}
	if !bytes.Equal(found.UniqueID, id) {
		return fmt.Errorf("%s: %w", g.DisplayName(), ErrOther)
	}
	return nil
}

// keyed is the part of kopia's repository that volumes need, put together
// without a password.
type keyed struct {
	*content.WriteManager
	shared  *content.SharedManager
	objects format.ObjectFormat
}

func openKeyed(ctx context.Context, g *guard, provider format.Provider, objects format.ObjectFormat, o OpenOptions) (engine, error) {
	var st blob.Storage = g
	if o.ReadOnly {
		st = readonly.NewWrapper(g)
	}
	shared, err := content.NewSharedManager(ctx, st, provider, &content.CachingOptions{}, &content.ManagerOptions{TimeNow: o.Clock}, nil, nil)
	if err != nil {
		return nil, err
	}
	return &keyed{WriteManager: content.NewWriteManager(ctx, shared, content.SessionOptions{}, ""), shared: shared, objects: objects}, nil
}

func (k *keyed) OpenObject(ctx context.Context, id object.ID) (object.Reader, error) {
	return object.Open(ctx, k.WriteManager, id)
}

func (k *keyed) VerifyObject(ctx context.Context, id object.ID) ([]content.ID, error) {
	return object.VerifyObject(ctx, k.WriteManager, id)
}

func (k *keyed) ContentReader() content.Reader { return k.WriteManager }

func (k *keyed) newWriter(ctx context.Context, purpose string, sent func(int64)) (writer, error) {
	contents := content.NewWriteManager(ctx, k.shared, content.SessionOptions{SessionUser: program, SessionHost: program, OnUpload: sent}, purpose)
	objects, err := object.NewObjectManager(ctx, contents, k.objects, nil)
	return &keyedWriter{contents: contents, objects: objects}, err
}

func (k *keyed) Close(ctx context.Context) error { return k.shared.CloseShared(ctx) }

// keyedWriter is a writer of its own; what it has not flushed is in its memory
// alone.
type keyedWriter struct {
	contents *content.WriteManager
	objects  *object.Manager
}

func (w *keyedWriter) NewObjectWriter(ctx context.Context, o object.WriterOptions) object.Writer {
	return w.objects.NewWriter(ctx, o)
}

func (w *keyedWriter) Flush(ctx context.Context) error { return w.contents.Flush(ctx) }

func (w *keyedWriter) Close(context.Context) error { return nil }
