package repository

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/content"
	"github.com/kopia/kopia/repo/object"
)

// program is who writes, as kopia shows it.
const program = "kubectl-backup"

// objects is what reading needs of kopia. Its repo.Repository has it.
type objects interface {
	OpenObject(context.Context, object.ID) (object.Reader, error)
	VerifyObject(context.Context, object.ID) ([]content.ID, error)
	ContentInfo(context.Context, content.ID) (content.Info, error)
}

// writer is what storing needs of kopia. Its repo.RepositoryWriter has it.
type writer interface {
	NewObjectWriter(context.Context, object.WriterOptions) object.Writer
	Flush(context.Context) error
	// Close drops what was not flushed.
	Close(context.Context) error
}

// engine is what volumes need of kopia.
type engine interface {
	objects
	ContentReader() content.Reader
	// newWriter makes a writer that tells the bytes that it has sent.
	newWriter(ctx context.Context, purpose string, sent func(int64)) (writer, error)
	Close(context.Context) error
}

// direct is a repository that kopia has opened.
type direct struct{ repo.DirectRepository }

func (d direct) newWriter(ctx context.Context, purpose string, sent func(int64)) (writer, error) {
	_, w, err := d.NewDirectWriter(ctx, repo.WriteSessionOptions{Purpose: purpose, OnUpload: sent})
	return w, err
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
		ClientOptions: repo.ClientOptions{Hostname: program, Username: program, ReadOnly: o.ReadOnly},
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
