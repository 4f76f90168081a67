package images

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// debian is an image that is made of Debian's packages and runs one server.
type debian struct {
	name string
	// packages, with all that they depend on, are in the image.
	packages []string
	// without are dependencies that a container has no use for.
	without []string
	// dropped are folders and files that the image leaves out.
	dropped []string
	// shell is the program in usr/bin that is called sh.
	shell string
	// writable are folders that the server may make files in.
	writable []string
	// entrypoint is a script; config is the rest of the image's.
	entrypoint []byte
	config     v1.Config
}

// Of every image are left out manuals, and what configures packages, makes
// users and starts services.
var (
	uselessPackages = []string{
		"debconf", "debconf-2.0", "perl", "perl-base", "dpkg", "adduser", "init-system-helpers", "libc-l10n", "install-info", "locales", "locales-all",
		"lsb-base", "sysvinit-utils", "procps",
	}
	uselessFiles = []string{
		"usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian", "usr/share/bug", "usr/share/info",
	}
)

// serverUser is the uid and gid of each server.
const serverUser = 999

// debian makes an image. It is made anew when what it is made from changes
// here, and not when Debian updates a package.
func (b *Builder) debian(ctx context.Context, d debian) (string, error) {
	d.without = slices.Concat(d.without, uselessPackages)
	d.dropped = slices.Concat(d.dropped, uselessFiles)
	d.config.Entrypoint = []string{"/entrypoint"}
	recipe := strings.Join(slices.Concat(d.packages, d.without, d.dropped, d.writable, []string{d.shell}), " ")
	return b.archive(image{
		name: d.name, recipe: recipe + "\n" + string(d.entrypoint), config: d.config,
		fill: func(l *layer) error { return b.fillDebian(ctx, l, d) },
	})
}

func (b *Builder) fillDebian(ctx context.Context, l *layer, d debian) error {
	for _, merged := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := errors.Join(l.dir("usr/"+merged, 0o755, 0), l.symlink(merged, "usr/"+merged)); err != nil {
			return err
		}
	}
	err := errors.Join(
		l.dir("tmp", 0o1777, 0), l.dir("root", 0o700, 0), l.symlink("var/run", "/run"),
		l.file("etc/passwd", 0o644, fmt.Appendf(nil, "root:x:0:0:root:/root:/bin/sh\n%s:x:%d:%d::/tmp:/bin/sh\n", d.name, serverUser, serverUser)),
		l.file("etc/group", 0o644, fmt.Appendf(nil, "root:x:0:\n%s:x:%d:\n", d.name, serverUser)),
		l.file("entrypoint", 0o755, d.entrypoint),
		l.symlink("usr/bin/sh", d.shell),
	)
	for _, dir := range d.writable {
		err = errors.Join(err, l.dir(dir, 0o1777, serverUser))
	}
	if err != nil {
		return err
	}
	debs := filepath.Join(b.Cache, "debs-"+d.name)
	if err := download(ctx, d, debs); err != nil {
		// The usual reason: lists of packages are old, or were never fetched.
		if out, err := exec.CommandContext(ctx, "apt-get", "update", "-q").CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get update: %w:\n%s", err, out)
		}
		if err := download(ctx, d, debs); err != nil {
			return err
		}
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := unpack(ctx, l, file, d.dropped); err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(file), err)
		}
	}
	return os.RemoveAll(debs)
}

// download fetches packages into an empty directory.
func download(ctx context.Context, d debian, dir string) error {
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return err
	}
	packages, err := closure(ctx, d.packages, d.without)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"download", "-q", "-o", "APT::Sandbox::User=root"}, packages...)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get download: %w:\n%s", err, out)
	}
	return nil
}

// closure returns packages with all that they depend on, but for some. Of
// alternatives it takes the first that is a package.
func closure(ctx context.Context, packages, without []string) ([]string, error) {
	dependencies, err := dependenciesOf(ctx, packages)
	if err != nil {
		return nil, err
	}
	all := slices.Clone(packages)
	for {
		var next []string
		for _, d := range dependencies {
			if !slices.Contains(all, d) && !slices.Contains(without, d) {
				all = append(all, d)
				next = append(next, d)
			}
		}
		if len(next) == 0 {
			return all, nil
		}
		if dependencies, err = dependenciesOf(ctx, next); err != nil {
			return nil, err
		}
	}
}

func dependenciesOf(ctx context.Context, packages []string) ([]string, error) {
	out, err := exec.CommandContext(ctx, "apt-cache", append([]string{
		"depends", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances",
	}, packages...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("apt-cache depends %s: %w", strings.Join(packages, " "), err)
	}
	var list []string
	alternative := false // the line before ended in "or"
	for line := range strings.Lines(string(out)) {
		kind, name, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok {
			continue // the package itself, or a provider of a virtual one
		}
		or := strings.HasPrefix(kind, "|")
		if taken := alternative; !taken && !strings.HasPrefix(name, "<") {
			list = append(list, name)
			alternative = or
			continue
		}
		alternative = alternative && or
	}
	return list, nil
}

// unpack adds a package's files to a layer. /bin, /sbin and /lib are links to
// their namesakes in /usr, as on every system of this release.
func unpack(ctx context.Context, l *layer, deb string, without []string) error {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err = copyFiles(l, tar.NewReader(pipe), without)
	if err != nil {
		// Not read to its end, it would wait forever.
		err = errors.Join(err, pipe.Close())
	} else if _, err = io.Copy(io.Discard, pipe); err != nil {
		return errors.Join(err, cmd.Wait())
	}
	if waitErr := cmd.Wait(); waitErr != nil && err == nil {
		err = fmt.Errorf("dpkg-deb: %w: %s", waitErr, stderr.Bytes())
	}
	return err
}

func copyFiles(l *layer, archive *tar.Reader, without []string) error {
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		path := merged(h.Name)
		dropped := slices.ContainsFunc(without, func(d string) bool { return path == d || strings.HasPrefix(path, d+"/") })
		if path == "." || dropped {
			continue
		}
		h.Name = path
		if h.Typeflag == tar.TypeLink {
			h.Linkname = merged(h.Linkname)
		}
		if err := l.entry(h, archive); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
}

func merged(path string) string {
	path = filepath.Clean(strings.TrimPrefix(path, "./"))
	switch first, _, _ := strings.Cut(path, "/"); first {
	case "bin", "sbin", "lib", "lib64":
		return "usr/" + path
	}
	return path
}
