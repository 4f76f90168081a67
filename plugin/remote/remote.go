// Package remote makes any place that rclone can reach a kopia blob.Storage.
//
// File names are those of kopia's own filesystem provider (a sharded tree of
// names in [a-z0-9_.-], suffix .f, layout in .shards), so the stock kopia
// program opens the same files. Every blob has a known size before it is sent,
// and appears under its name whole or not at all: where a remote shows files
// while they are being written, a blob is written under a temporary name first
// and then moved.
//
// Configuration is text in memory. It is never read from or written to a file
// of rclone's, two open remotes never see each other's sections, and secrets
// are cut out of every error and name that leaves the package.
//
// It does not know what the blobs mean, does not trust listings to say whether
// a put worked, and keeps no cache of contents. What a remote does wrong after
// it said yes (late listings, ghosts) is plugin/repository's to bear.
package remote

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/blob/sharded"
	_ "github.com/rclone/rclone/backend/all" // every backend is the point of using rclone
	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/config"
	"github.com/rclone/rclone/fs/fspath"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// listParallelism is how many folders are listed at once. Most remotes answer
// a listing in one round trip, so this hides latency, not load.
const listParallelism = 8

// Open opens the remote that a BackupRemote names. conf is more configuration
// in the format of rclone.conf, or nil; sections of the spec win over it. A
// remote or backend that does not exist is a *v1alpha1.UsageError. Nothing is
// written, and a folder that does not exist yet is no error.
func Open(ctx context.Context, spec v1alpha1.BackupRemoteSpec, conf []byte) (blob.Storage, error) {
	if spec.Path == "" {
		return nil, usage("spec.path", "the remote has no path", "set it to a folder or to remote:path in rclone's notation")
	}
	quiet()
	sections, err := sectionsOf(spec.Config, conf)
	if err != nil {
		return nil, err
	}
	parsed, err := fspath.Parse(spec.Path)
	if err != nil {
		return nil, usage("spec.path", fmt.Sprintf("%q is not a path in rclone's notation: %v", v1alpha1.RedactPath(spec.Path), err), "write remote:path, or a local path")
	}
	if top := sections[parsed.Name]; top["type"] == "s3" && top[unaskedOption] == "" {
		top[unaskedOption] = "true" // what wraps a remote may need to know sizes
	}
	secrets := newScrubber(sections, parsed.Config)

	lease, err := memory.lease(sections)
	if err != nil {
		return nil, err
	}
	secrets.lease = lease
	target := lease.rewrite(spec.Path)
	if parsed.Name == "" { // a plain path is a remote of type local, with our options
		target = lease.name(localSection) + ":" + spec.Path
	}
	if !strings.HasSuffix(target, ":") && !strings.HasSuffix(target, "/") {
		// So that no backend asks first whether this is a file: an answer that
		// it may not, or for another reason does not, give is taken for a yes.
		target += "/"
	}
	ctx, ci := fs.AddConfig(ctx)
	if err := configure(ctx, ci, spec.Limits); err != nil {
		lease.release()
		return nil, err
	}
	f, err := fs.NewFs(ctx, target)
	if err != nil {
		lease.release()
		return nil, secrets.openError(err, spec.Path, parsed.Name, sections)
	}
	b := &bridge{fs: f, conf: ctx, secrets: secrets, patience: newPatience(spec.Limits), staged: showsPartialFiles(f), unasked: unasked(target)}
	b.live.Store(&f)
	if isA(f, "s3") {
		b.anew = func(ctx context.Context) (fs.Fs, error) { return fs.NewFs(ctx, target) }
	}
	return &storage{
		Storage: sharded.New(b, "", sharded.Options{ListParallelism: listParallelism}, true),
		bridge:  b,
		display: v1alpha1.RedactPath(spec.Path),
		lease:   lease,
	}, nil
}

// storage is the sharded layout over a bridge.
type storage struct {
	sharded.Storage
	blob.DefaultProviderImplementation

	bridge  *bridge
	display string
	lease   *lease
	once    sync.Once
}

// ConnectionInfo names the type only: there is nothing here that may be
// written down.
func (s *storage) ConnectionInfo() blob.ConnectionInfo {
	return blob.ConnectionInfo{Type: "kubectl-backup-remote", Config: struct{}{}}
}

// DisplayName is the path as the user wrote it, its parameters hidden.
func (s *storage) DisplayName() string { return s.display }

// Close forgets the configuration. It may be called more than once.
func (s *storage) Close(ctx context.Context) error {
	var err error
	s.once.Do(func() {
		if shutdown := s.bridge.fs.Features().Shutdown; shutdown != nil {
			err = s.bridge.secrets.clean(shutdown(ctx))
		}
		s.lease.release()
	})
	return err
}

var quiet = sync.OnceFunc(func() {
	// rclone logs to stderr by itself, in its own words and with its own ideas
	// of what is secret. Everything it has to say also comes back as an error.
	fs.GetConfig(context.Background()).LogLevel = fs.LogLevelCritical
	config.SetData(memory)
	config.LoadedData()
})

func usage(field, message, hint string) error {
	return &v1alpha1.UsageError{Err: &v1alpha1.FieldError{Path: field, Message: message, Hint: hint}}
}

// openError says what is wrong with a remote that could not be opened.
func (s *scrubber) openError(err error, path, name string, known map[string]map[string]string) error {
	shown := v1alpha1.RedactPath(path)
	switch {
	case errors.Is(err, fs.ErrorNotFoundInConfigFile):
		return usage("spec.path", fmt.Sprintf("remote %q is not configured", name), "configured: "+names(known)+"; add it under spec.config or in the rclone.conf Secret")
	case errors.Is(err, fs.ErrorIsFile):
		return usage("spec.path", fmt.Sprintf("%q is a file", shown), "a remote is a folder")
	case strings.Contains(err.Error(), "didn't find backend called"):
		return usage("spec.config", s.text(err.Error()), "the type must be one of rclone's backends, such as s3, sftp, webdav, local")
	}
	return fmt.Errorf("open remote %s: %w", shown, s.clean(err))
}
