package images

import (
	"archive/tar"
	"bytes"
	"context"
	_ "embed"
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

//go:embed postgres.sh
var postgresEntrypoint []byte

// postgresPackages, with all that they depend on, are in the image.
var postgresPackages = []string{"postgresql-15", "postgresql-client-15", "bash", "coreutils", "findutils", "grep", "sed", "tar"}

// postgresWithout are dependencies that a container has no use for:
// Debian's wrappers around clusters, just-in-time compilation, other locales,
// what configures packages.
var postgresWithout = []string{
	"postgresql-common", "postgresql-client-common", "libllvm14", "locales", "locales-all", "ssl-cert",
	"debconf", "debconf-2.0", "perl", "perl-base", "dpkg", "adduser", "init-system-helpers", "libc-l10n", "install-info",
}

// postgresDropped are folders of the packages that the image leaves out.
var postgresDropped = []string{
	"usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian", "usr/share/bug", "usr/share/info",
	"usr/lib/postgresql/15/lib/bitcode", "usr/lib/postgresql/15/lib/llvmjit.so",
}

// postgresUser is the uid and gid of the server.
const postgresUser = 999

// Postgres is PostgreSQL 15 from Debian's packages, with bash, GNU tar and
// coreutils. See postgres.sh for its variables. The data are initialized when
// it starts on an empty PGDATA.
func (b *Builder) Postgres(ctx context.Context) (string, error) {
	recipe := strings.Join(slices.Concat(postgresPackages, postgresWithout, postgresDropped), " ")
	return b.archive(image{
		name: "postgres", recipe: recipe + "\n" + string(postgresEntrypoint),
		config: v1.Config{
			Entrypoint: []string{"/entrypoint"},
			// Ends sessions and stops; SIGTERM would wait for clients.
			StopSignal: "SIGINT",
			Env: []string{
				"PATH=/usr/lib/postgresql/15/bin:/usr/sbin:/usr/bin:/sbin:/bin", "PGDATA=/var/lib/postgresql/data", "PGUSER=postgres", "LC_ALL=C",
			},
		},
		fill: func(l *layer) error { return b.fillPostgres(ctx, l) },
	})
}

func (b *Builder) fillPostgres(ctx context.Context, l *layer) error {
	for _, merged := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := errors.Join(l.dir("usr/"+merged, 0o755, 0), l.symlink(merged, "usr/"+merged)); err != nil {
			return err
		}
	}
	err := errors.Join(
		l.dir("tmp", 0o1777, 0), l.dir("root", 0o700, 0),
		l.dir("run/postgresql", 0o1777, postgresUser), l.symlink("var/run", "/run"),
		l.dir("var/lib/postgresql", 0o1777, postgresUser),
		l.file("etc/passwd", 0o644, fmt.Appendf(nil, "root:x:0:0:root:/root:/bin/bash\npostgres:x:%d:%d::/var/lib/postgresql:/bin/bash\n", postgresUser, postgresUser)),
		l.file("etc/group", 0o644, fmt.Appendf(nil, "root:x:0:\npostgres:x:%d:\n", postgresUser)),
		l.file("entrypoint", 0o755, postgresEntrypoint),
		l.symlink("usr/bin/sh", "bash"),
	)
	if err != nil {
		return err
	}
	debs := filepath.Join(b.Cache, "debs")
	if err := download(ctx, debs); err != nil {
		// The usual reason: lists of packages are old, or were never fetched.
		if out, err := exec.CommandContext(ctx, "apt-get", "update", "-q").CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get update: %w:\n%s", err, out)
		}
		if err := download(ctx, debs); err != nil {
			return err
		}
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := unpack(ctx, l, file, postgresDropped); err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(file), err)
		}
	}
	return os.RemoveAll(debs)
}

// download fetches the packages into an empty directory.
func download(ctx context.Context, dir string) error {
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return err
	}
	packages, err := closure(ctx, postgresPackages, postgresWithout)
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
