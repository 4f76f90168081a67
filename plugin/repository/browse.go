package repository

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/kopia/kopia/snapshot"

	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
)

const (
	// shownNames is how many names an error about a path lists.
	shownNames = 10
	// mostLinks is how many symbolic links one path may lead through.
	mostLinks = 40
	// longestLink bounds what is read of a link's target, as Linux does.
	longestLink = 4096
)

// PathError says why a path of a volume leads nowhere.
type PathError struct {
	// Path is what was asked for, At the nearest folder above it that is there.
	Path, At string
	// Reason is a sentence.
	Reason string
	// Names are the first names in At, where that helps; More counts the others.
	Names []string
	More  int
}

func (e *PathError) Error() string {
	text := fmt.Sprintf("path %s: %s", shown(e.Path), e.Reason)
	if len(e.Names) == 0 {
		return text
	}
	names := make([]string, len(e.Names))
	for i, n := range e.Names {
		names[i] = volume.Escape(n)
	}
	text += fmt.Sprintf("; %s holds %s", shown(e.At), strings.Join(names, ", "))
	if e.More > 0 {
		text += fmt.Sprintf(" and %d more", e.More)
	}
	return text
}

// shown writes a path for people; the root of a volume is a slash.
func shown(path string) string {
	if path == "" {
		return "/"
	}
	return volume.Escape(path)
}

// Resolve finds a path of a volume and says how it is called there without
// symbolic links. The links are those of the volume: one that leads out of it
// is a PathError, and so is a path that is not there. Where the last part is a
// link, follow says whether what it names is meant, or the link itself.
func (r *Repository) Resolve(ctx context.Context, part VolumePart, path string, follow bool) (string, error) {
	ctx, cancel := r.guard.bind(ctx)
	defer cancel()
	found, _, err := r.find(ctx, part, path, follow)
	if err != nil {
		return "", r.browsing(ctx, part, err)
	}
	return found, nil
}

// Files calls each for the file at a path, or for what is in the folder there,
// in the order of the bytes of their names; recursive goes on below. Contents
// are not read. What is damaged is in the error, after the rest.
func (r *Repository) Files(ctx context.Context, part VolumePart, path string, recursive bool, each func(*volume.Entry) error) error {
	ctx, cancel := r.guard.bind(ctx)
	defer cancel()
	prefix, _, err := r.find(ctx, part, path, true)
	if err == nil {
		err = r.files(ctx, part, prefix, recursive, each)
	}
	return r.browsing(ctx, part, err)
}

func (r *Repository) files(ctx context.Context, part VolumePart, prefix string, recursive bool, each func(*volume.Entry) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t, walked := walkTree(ctx, cancel, r.rep, part.Root, treeScope{prefix: prefix, names: true, shallow: !recursive})
	defer walked()
	var damaged error
	for j := range t.ordered {
		if j.done != nil {
			<-j.done
		}
		if ctx.Err() != nil {
			break
		}
		if j.issue != nil && damaged == nil {
			damaged = fmt.Errorf("path %s: %w: %w", shown(j.entry.Path), ErrDamaged, j.issue)
		}
		if j.entry.Type == volume.Symlink {
			j.entry.Link = string(j.data)
		}
		if in, above := t.scope(j.entry.Path); !in || above || j.entry.Path == prefix && j.entry.Type == volume.Dir {
			continue
		}
		if err := each(j.entry); err != nil {
			cancel(err)
			return err
		}
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return damaged
}

// ReadFile writes the content of one file of a volume, holes as zeros. Of a
// volume that is a device, the empty path is its content.
func (r *Repository) ReadFile(ctx context.Context, part VolumePart, path string, out io.Writer) error {
	ctx, cancel := r.guard.bind(ctx)
	defer cancel()
	if part.Block && strings.Trim(path, "/") == "" {
		path = volume.DeviceName
	}
	found, e, err := r.find(ctx, part, path, true)
	switch {
	case err != nil:
		return r.browsing(ctx, part, err)
	case e.Type != snapshot.EntryTypeFile:
		return r.browsing(ctx, part, &PathError{Path: found, Reason: "it is a folder, and has no content of its own"})
	}
	in, err := r.rep.OpenObject(ctx, e.ObjectID)
	if err != nil {
		return r.browsing(ctx, part, fmt.Errorf("path %s: %w", shown(found), r.damage(ctx, err)))
	}
	defer in.Close()
	// The reader is hidden, so that what fails is known to be the reading.
	copied := &fallible{Reader: in}
	n, err := io.Copy(out, copied)
	switch {
	case copied.err != nil:
		return r.browsing(ctx, part, fmt.Errorf("path %s after %d bytes: %w", shown(found), n, r.damage(ctx, copied.err)))
	case err != nil:
		return err
	case n != e.FileSize:
		return r.browsing(ctx, part, fmt.Errorf("path %s: %w: it has %d bytes where its folder says %d", shown(found), ErrDamaged, n, e.FileSize))
	}
	return nil
}

// fallible keeps why it could not be read.
type fallible struct {
	io.Reader
	err error
}

func (r *fallible) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

func (r *Repository) browsing(ctx context.Context, part VolumePart, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("volume %s: %w", part.Name(), r.guard.explain(ctx, err))
}

// Name is what people call a volume: namespace/claim, or namespace/pod/volume
// where it lives and dies with its pod.
func (p *VolumePart) Name() string {
	if p.Ref.Kind == "PersistentVolumeClaim" {
		return p.Ref.Namespace + "/" + p.Ref.Name
	}
	return p.Ref.Namespace + "/" + p.Ref.Name + "/" + p.Volume
}

// step is one folder on the way down.
type step struct {
	name  string
	entry *snapshot.DirEntry
}

// find walks down a path, part by part, and follows the volume's own links.
func (r *Repository) find(ctx context.Context, part VolumePart, path string, follow bool) (string, *snapshot.DirEntry, error) {
	if part.Root == nil {
		return "", nil, errors.New("the backup does not say where it is")
	}
	way := []step{{entry: part.Root}}
	rest := strings.Split(path, "/")
	links := 0
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		at := joined(way)
		here := way[len(way)-1].entry
		switch name {
		case "", ".":
			continue
		case "..":
			if len(way) == 1 {
				return "", nil, &PathError{Path: path, At: at, Reason: "it leads out of the volume"}
			}
			way = way[:len(way)-1]
			continue
		}
		if here.Type != snapshot.EntryTypeDirectory {
			return "", nil, &PathError{Path: path, At: at, Reason: fmt.Sprintf("%s is a file, and nothing is below it", shown(at))}
		}
		e, err := r.child(ctx, part, path, at, here, name)
		if err != nil {
			return "", nil, err
		}
		if e.Type != snapshot.EntryTypeSymlink || !follow && !slices.ContainsFunc(rest, func(s string) bool { return s != "" }) {
			way = append(way, step{name, e})
			continue
		}
		target, err := r.linkTarget(ctx, e)
		if err != nil {
			return "", nil, fmt.Errorf("path %s: %w", shown(path), r.damage(ctx, err))
		}
		link := strings.TrimPrefix(at+"/"+name, "/")
		if links++; links > mostLinks {
			return "", nil, &PathError{Path: path, At: at, Reason: "it leads through too many symbolic links"}
		}
		if strings.HasPrefix(target, "/") || leaves(len(way)-1, target) {
			return "", nil, &PathError{Path: path, At: at, Reason: fmt.Sprintf("the symbolic link %s leads out of the volume, to %s", shown(link), volume.Escape(target))}
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return joined(way), way[len(way)-1].entry, nil
}

// leaves says whether a relative target climbs above the root from a folder of
// that depth.
func leaves(depth int, target string) bool {
	for name := range strings.SplitSeq(target, "/") {
		switch name {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return true
			}
		default:
			depth++
		}
	}
	return false
}

func joined(way []step) string {
	names := make([]string, 0, len(way))
	for _, s := range way[1:] {
		names = append(names, s.name)
	}
	return strings.Join(names, "/")
}

var errFound = errors.New("found")

// child looks a name up in a folder, which may be large: it is not kept.
func (r *Repository) child(ctx context.Context, part VolumePart, path, at string, folder *snapshot.DirEntry, name string) (*snapshot.DirEntry, error) {
	missing := &PathError{Path: path, At: at, Reason: "it is not in the backup"}
	if at != "" {
		missing.Reason = fmt.Sprintf("%s is not in %s", volume.Escape(name), shown(at))
	}
	var found *snapshot.DirEntry
	err := readDirectory(ctx, r.rep, folder.ObjectID, func(e *snapshot.DirEntry) error {
		if at == "" && (e.Name == attributesName || e.Name == knownName) {
			return nil
		}
		switch its := trueName(e.Name); {
		case its == name:
			found = e
			return errFound
		case len(missing.Names) < shownNames:
			missing.Names = append(missing.Names, its)
		default:
			missing.More++
		}
		return nil
	})
	switch {
	case found != nil:
		return found, nil
	case err != nil:
		return nil, fmt.Errorf("path %s: folder %s: %w", shown(path), shown(at), r.damage(ctx, err))
	}
	// Pipes, sockets and device nodes are in the attributes alone.
	full := strings.TrimPrefix(at+"/"+name, "/")
	special, err := r.special(ctx, part, full)
	if err != nil {
		return nil, fmt.Errorf("path %s: %w", shown(path), r.damage(ctx, err))
	}
	if special != 0 {
		return nil, &PathError{Path: path, At: at, Reason: fmt.Sprintf("%s is a %s, and has no content", shown(full), special)}
	}
	if len(missing.Names) == 0 {
		missing.Reason += ", which is empty"
	}
	return nil, missing
}

// special is the type of a file that only the attributes know, or 0.
func (r *Repository) special(ctx context.Context, part VolumePart, path string) (volume.Type, error) {
	t := &treeReader{ctx: ctx, r: r.rep}
	children, err := t.list("", part.Root.ObjectID)
	if err != nil {
		return 0, err
	}
	var found volume.Type
	err = t.eachAttributes(attributesOf(children), func(a *attributes) {
		if a.entry.Path == path {
			found = a.entry.Type
		}
	})
	return found, err
}

func (r *Repository) linkTarget(ctx context.Context, e *snapshot.DirEntry) (string, error) {
	in, err := r.rep.OpenObject(ctx, e.ObjectID)
	if err != nil {
		return "", err
	}
	defer in.Close()
	target, err := io.ReadAll(io.LimitReader(in, longestLink+1))
	if err == nil && len(target) > longestLink {
		err = errors.New("its target is longer than a path can be")
	}
	return string(target), err
}
