// Package images makes the container images of the tests as archives that
// containerd imports. No registry and no container tool is needed: contents
// are our own programs and Debian's packages.
//
// Each image is called localhost/<name>, with the tags latest and dev. Pods
// with the tag latest need imagePullPolicy IfNotPresent or Never.
//
// The package makes images for this machine's architecture only.
package images

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Builder makes images and keeps them.
type Builder struct {
	// Root is the repository, where the small programs of the images are.
	Root string
	// Cache is where archives are kept, called by what is in them.
	Cache string
	// Log receives a line per image that is made anew.
	Log io.Writer
}

// image is what goes into one archive.
type image struct {
	name string
	// recipe stands for the content where that takes long to make; else the
	// content stands for itself.
	recipe string
	config v1.Config
	fill   func(*layer) error
}

// Pause, the image of each pod's first container: one program that waits.
func (b *Builder) Pause(ctx context.Context) (string, error) {
	return b.program(ctx, "pause", v1.Config{Entrypoint: []string{"/pause"}})
}

// Static is an image with one program and nothing else: see its flags.
func (b *Builder) Static(ctx context.Context) (string, error) {
	return b.program(ctx, "static", v1.Config{Entrypoint: []string{"/static"}})
}

// Witness is an image with one program whose data show when they were copied,
// and nothing else: see its package comment.
func (b *Builder) Witness(ctx context.Context) (string, error) {
	return b.program(ctx, "witness", v1.Config{Entrypoint: []string{"/witness"}})
}

// Harbour is an image with one program that converts and admits objects of an
// application's own kind, and nothing else: see its package comment.
func (b *Builder) Harbour(ctx context.Context) (string, error) {
	return b.program(ctx, "harbour", v1.Config{Entrypoint: []string{"/harbour"}})
}

// Plugin is an image with the plugin's static program at /kubectl-backup and
// nothing else.
func (b *Builder) Plugin(binary string) (string, error) {
	return b.binary("kubectl-backup", binary, v1.Config{Entrypoint: []string{"/kubectl-backup"}})
}

// program builds a command beside this file and makes an image of it.
func (b *Builder) program(ctx context.Context, name string, config v1.Config) (string, error) {
	binary := filepath.Join(b.Cache, "bin", name)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, "./images/"+name)
	cmd.Dir = filepath.Join(b.Root, "integration")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("image %s: go build: %w:\n%s", name, err, bytes.TrimSpace(out))
	}
	return b.binary(name, binary, config)
}

// binary makes an image of one static program.
func (b *Builder) binary(name, path string, config v1.Config) (string, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("image %s: %w", name, err)
	}
	return b.archive(image{name: name, config: config, fill: func(l *layer) error {
		return errors.Join(l.dir("tmp", 0o1777, 0), l.file(name, 0o755, content))
	}})
}

// Busybox is Debian's static busybox under all its names. Beware: its wget and
// nc crash on host names that do not exist (the C library's fault); nslookup
// does not.
func (b *Builder) Busybox(ctx context.Context) (string, error) {
	content, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return "", fmt.Errorf("image busybox: %w (hint: install the package busybox-static)", err)
	}
	applets, err := exec.CommandContext(ctx, "/bin/busybox", "--list").Output()
	if err != nil {
		return "", fmt.Errorf("image busybox: list its names: %w", err)
	}
	return b.archive(image{
		name: "busybox", config: v1.Config{Cmd: []string{"sh"}, Env: []string{"PATH=/bin:/sbin:/usr/bin"}},
		fill: func(l *layer) error {
			err := errors.Join(
				l.dir("tmp", 0o1777, 0), l.dir("root", 0o700, 0), l.dir("etc", 0o755, 0), l.dir("usr/bin", 0o755, 0), l.dir("var", 0o755, 0),
				l.file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/tmp:/bin/sh\n")),
				l.file("etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\n")),
				l.file("bin/busybox", 0o755, content),
				l.symlink("usr/bin/env", "/bin/busybox"),
			)
			for applet := range strings.FieldsSeq(string(applets)) {
				if applet != "busybox" {
					err = errors.Join(err, l.symlink("bin/"+applet, "/bin/busybox"))
				}
			}
			return err
		},
	})
}

// archive returns the path of an image's archive, made now unless the cache
// has it.
func (b *Builder) archive(i image) (string, error) {
	path, err := b.cached(i)
	if err != nil {
		return "", fmt.Errorf("image %s: %w", i.name, err)
	}
	return path, b.dropOlder(i.name, path)
}

func (b *Builder) cached(i image) (string, error) {
	config, err := json.Marshal(i.config)
	if err != nil {
		return "", err
	}
	var content []byte
	if i.recipe == "" {
		if content, err = i.content(); err != nil {
			return "", err
		}
	}
	path := filepath.Join(b.Cache, i.name+"-"+key([]byte(i.recipe), content, config)+".tar")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	fmt.Fprintf(b.Log, "image localhost/%s: making it\n", i.name)
	if i.recipe != "" {
		if content, err = i.content(); err != nil {
			return "", err
		}
	}
	return path, b.write(path, i, content)
}

// content is the image's one layer.
func (i image) content() ([]byte, error) {
	var content bytes.Buffer
	l := newLayer(&content)
	err := errors.Join(i.fill(l), l.tar.Close())
	return content.Bytes(), err
}

func (b *Builder) write(path string, i image, content []byte) error {
	// Not compressed: it never crosses a network.
	img, err := mutate.AppendLayers(empty.Image, static.NewLayer(content, types.DockerUncompressedLayer))
	if err != nil {
		return err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Config = "linux", runtime.GOARCH, i.config
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return err
	}
	refs := map[name.Reference]v1.Image{}
	for _, tag := range []string{"latest", "dev"} {
		ref, err := name.NewTag("localhost/" + i.name + ":" + tag)
		if err != nil {
			return err
		}
		refs[ref] = img
	}
	if err := os.MkdirAll(b.Cache, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(b.Cache, i.name+"-*.new")
	if err != nil {
		return err
	}
	if err := errors.Join(tarball.MultiRefWrite(refs, f), f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return os.Rename(f.Name(), path)
}

// dropOlder removes earlier archives of an image, but for those of the last
// hour: another process may be about to import one.
func (b *Builder) dropOlder(name, current string) error {
	older, err := filepath.Glob(filepath.Join(b.Cache, name+"-*.tar"))
	if err != nil {
		return err
	}
	for _, path := range older {
		// Another image's name may begin as this one's does.
		if path == current || len(path) != len(current) {
			continue
		}
		stat, err := os.Stat(path)
		if err != nil || time.Since(stat.ModTime()) < time.Hour {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func key(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d\n", len(p))
		h.Write(p)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// layer writes a file tree as a tar archive. Parents of a path are made as
// needed, and a path is written once.
type layer struct {
	tar  *tar.Writer
	seen map[string]bool
}

func newLayer(w io.Writer) *layer { return &layer{tar: tar.NewWriter(w), seen: map[string]bool{}} }

// claim tells whether a path is new, and makes its parents.
func (l *layer) claim(path string) (bool, error) {
	if l.seen[path] {
		return false, nil
	}
	l.seen[path] = true
	if parent := filepath.Dir(path); parent != "." && !l.seen[parent] {
		return true, l.dir(parent, 0o755, 0)
	}
	return true, nil
}

func (l *layer) dir(path string, mode int64, owner int) error {
	return l.entry(&tar.Header{Typeflag: tar.TypeDir, Name: path, Mode: mode, Uid: owner, Gid: owner}, nil)
}

func (l *layer) file(path string, mode int64, content []byte) error {
	return l.entry(&tar.Header{Typeflag: tar.TypeReg, Name: path, Mode: mode, Size: int64(len(content))}, bytes.NewReader(content))
}

func (l *layer) symlink(path, target string) error {
	return l.entry(&tar.Header{Typeflag: tar.TypeSymlink, Name: path, Linkname: target, Mode: 0o777}, nil)
}

func (l *layer) entry(h *tar.Header, content io.Reader) error {
	isNew, err := l.claim(h.Name)
	if err != nil || !isNew {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		h.Name += "/"
	}
	if err := l.tar.WriteHeader(h); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeReg {
		_, err = io.Copy(l.tar, content)
	}
	return err
}
