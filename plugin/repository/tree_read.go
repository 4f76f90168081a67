package repository

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/kopia/kopia/repo/object"
	"github.com/kopia/kopia/snapshot"
	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
)

const (
	// treeAhead is how many entries are fetched ahead of their turn.
	treeAhead = 64
	// treePiece is how much of a large file is read at once.
	treePiece = 1 << 20
)

// ReadTree sends a volume from the repository and closes the encoder. prefix
// is the path of one file or directory in it, in raw bytes, or empty for all;
// the directories above it come along, as Partial ones. A file of several
// names of which only some are below prefix comes with its content all the
// same.
//
// What cannot be read back is an issue in the stream, and the tree goes on;
// the error is about the way to the data, or about the encoder. What the
// sender said when the volume was saved is not repeated: see TreeIssues.
func ReadTree(ctx context.Context, r objects, root *snapshot.DirEntry, enc *volume.Encoder, prefix string) error {
	_, err := readTree(ctx, r, root, enc, prefix)
	return err
}

// VerifyTree reads a whole volume, as a restore would, and returns what is
// damaged and how many bytes were good. Stored checksums are checked with it.
func VerifyTree(ctx context.Context, r objects, root *snapshot.DirEntry) ([]volume.Issue, int64, error) {
	enc := volume.NewEncoder(io.Discard)
	issues, err := readTree(ctx, r, root, enc, "")
	return issues, enc.Totals().Bytes, err
}

// TreeIssues returns what the sender said about paths when the volume was
// saved, without reading the volume.
func TreeIssues(ctx context.Context, r objects, root *snapshot.DirEntry) ([]volume.Issue, error) {
	t := &treeReader{ctx: ctx, r: r}
	children, err := t.list("", root.ObjectID)
	if err != nil {
		return nil, err
	}
	a, err := openAttributes(ctx, r, attributesOf(children))
	if err != nil {
		return nil, err
	}
	defer a.close()
	return a.footer.Issues, nil
}

func attributesOf(children []child) object.ID {
	for _, c := range children {
		if c.entry.Name == attributesName {
			return c.entry.ObjectID
		}
	}
	return object.EmptyID
}

func readTree(ctx context.Context, r objects, root *snapshot.DirEntry, enc *volume.Encoder, prefix string) ([]volume.Issue, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t, wait := walkTree(ctx, cancel, r, root, treeScope{prefix: prefix})
	for j := range t.ordered {
		if j.done != nil {
			<-j.done
		}
		if ctx.Err() == nil {
			if err := t.send(enc, j); err != nil {
				cancel(err)
			}
		}
	}
	wait()
	if err := context.Cause(ctx); err != nil {
		return t.issues.List(), fmt.Errorf("read volume: %w", err)
	}
	return t.issues.List(), enc.Close()
}

// treeScope says what of a tree is wanted.
type treeScope struct {
	// prefix is the path of one file or folder, which comes with the folders
	// above it; empty means all.
	prefix string
	// names says that only entries are wanted: no file is fetched ahead of its
	// turn.
	names bool
	// shallow ends one level below the prefix.
	shallow bool
}

// walkTree begins to read the entries of a tree, which come from the channel
// ordered. The function that is returned is called at the end: it passes over
// what is left and waits.
func walkTree(ctx context.Context, cancel context.CancelCauseFunc, r objects, root *snapshot.DirEntry, s treeScope) (*treeReader, func()) {
	t := &treeReader{
		ctx: ctx, r: r, treeScope: s, groups: map[string]*group{},
		ordered: make(chan *treeJob, treeAhead), work: make(chan *treeJob, treeAhead),
	}
	var workers sync.WaitGroup
	for range max(3, runtime.GOMAXPROCS(0)+1) {
		workers.Go(func() {
			for j := range t.work {
				j.fetch(t)
				close(j.done)
			}
		})
	}
	workers.Go(func() {
		defer close(t.ordered)
		defer close(t.work)
		if err := t.walk(root); err != nil {
			cancel(err)
		}
	})
	return t, func() {
		for range t.ordered {
			continue
		}
		workers.Wait()
	}
}

// treeJob is one entry on its way to the stream.
type treeJob struct {
	entry  *volume.Entry
	stored volume.Type // as kopia has it
	id     object.ID
	size   int64
	holes  []volume.Extent
	issue  error
	done   chan struct{} // nil where nothing is fetched ahead
	data   []byte
}

type treeReader struct {
	ctx context.Context
	r   objects
	treeScope
	attributes    *attributesReader
	groups        map[string]*group // by the path that was the first name in the volume
	ordered, work chan *treeJob
	found         bool          // the prefix
	issues        volume.Issues // added to by send only
}

// group is a file with several names.
type group struct {
	// attributes are those of the first name where they are needed before, or
	// without, that name.
	early      bool
	attributes *attributes
	delivered  string
	sent       bool
}

type child struct {
	name  string // in the bytes of the volume
	entry *snapshot.DirEntry
}

// list reads a directory, sorted as the stream is.
func (t *treeReader) list(path string, id object.ID) ([]child, error) {
	var children []child
	err := readDirectory(t.ctx, t.r, id, func(e *snapshot.DirEntry) error {
		c := child{trueName(e.Name), e}
		if c.name == "" || c.name == "." || c.name == ".." || strings.ContainsAny(c.name, "/\x00") {
			return fmt.Errorf("the name %s cannot be", volume.Escape(c.name))
		}
		children = append(children, c)
		return nil
	})
	slices.SortFunc(children, func(a, b child) int { return strings.Compare(a.name, b.name) })
	return children, err
}

func (t *treeReader) walk(root *snapshot.DirEntry) error {
	children, err := t.list("", root.ObjectID)
	if err != nil {
		return err
	}
	id := attributesOf(children)
	children = slices.DeleteFunc(children, func(c child) bool { return c.entry.Name == attributesName || c.entry.Name == knownName })
	if err := t.findGroups(id); err != nil {
		return err
	}
	if t.attributes, err = openAttributes(t.ctx, t.r, id); err != nil {
		return err
	}
	defer t.attributes.close()
	j, err := t.join("", root)
	if err != nil {
		return err
	}
	if t.prefix == "" {
		t.found = true
	}
	j.entry.Partial = j.entry.Partial || t.prefix != ""
	if err := t.emit(j); err != nil {
		return err
	}
	if err := t.folder("", children); err != nil {
		return err
	}
	if !t.found {
		return fmt.Errorf("%s is not in the volume", volume.Escape(t.prefix))
	}
	if rest := t.attributes.peek(); rest != nil && t.prefix == "" && !t.shallow {
		return fmt.Errorf("%w: they name %s, which has no directory", errAttributes, volume.Escape(rest.entry.Path))
	}
	return nil
}

// scope says whether a path is delivered, and whether it is so only because
// it is above the prefix.
func (t *treeReader) scope(path string) (in, above bool) {
	switch {
	case t.shallow && t.below(path):
		return false, false
	case t.prefix == "" || path == t.prefix || strings.HasPrefix(path, t.prefix+"/"):
		return true, false
	case path == "" || strings.HasPrefix(t.prefix, path+"/"):
		return true, true
	}
	return false, false
}

// below says whether a path is more than one level below the prefix.
func (t *treeReader) below(path string) bool {
	rest, inside := path, true
	if t.prefix != "" {
		rest, inside = strings.CutPrefix(path, t.prefix+"/")
	}
	return inside && strings.Contains(rest, "/")
}

// findGroups goes through the attributes before all else for the files that
// have several names: which is first may be outside of the prefix, or, in a
// volume that came as a tar, come later than others.
func (t *treeReader) findGroups(id object.ID) error {
	early := false
	if err := t.eachAttributes(id, func(a *attributes) {
		if a.entry.Type != volume.HardLink {
			return
		}
		in, _ := t.scope(a.entry.Path)
		firstIn, firstAbove := t.scope(a.entry.Link)
		if !in {
			return
		}
		g := t.groups[a.entry.Link]
		if g == nil {
			g = &group{}
			t.groups[a.entry.Link] = g
		}
		if !firstIn || firstAbove || volume.Compare(a.entry.Link, a.entry.Path) > 0 {
			g.early, early = true, true
		}
	}); err != nil || !early {
		return err
	}
	return t.eachAttributes(id, func(a *attributes) {
		if g := t.groups[a.entry.Path]; g != nil && g.early {
			g.attributes = a
		}
	})
}

func (t *treeReader) eachAttributes(id object.ID, each func(*attributes)) error {
	a, err := openAttributes(t.ctx, t.r, id)
	if err != nil {
		return err
	}
	defer a.close()
	for {
		v, err := a.next()
		if err != nil || v == nil {
			return err
		}
		each(v)
	}
}

// folder delivers what is in a directory: what kopia has, merged with what
// only the attributes have.
func (t *treeReader) folder(path string, children []child) error {
	for i, c := range children {
		children[i].entry = nil // not needed twice, and there may be many
		p := strings.TrimPrefix(path+"/"+c.name, "/")
		if err := t.only(path, p); err != nil {
			return err
		}
		in, above := t.scope(p)
		if !in {
			continue
		}
		j, err := t.join(p, c.entry)
		if err != nil {
			return err
		}
		t.found = t.found || p == t.prefix
		if j.entry.Type != volume.Dir {
			if above {
				return fmt.Errorf("%s is not in the volume: %s is a %s", volume.Escape(t.prefix), volume.Escape(p), j.entry.Type)
			}
			if err := t.emit(j); err != nil {
				return err
			}
			continue
		}
		if t.shallow && !above && p != t.prefix {
			if err := t.emit(j); err != nil {
				return err
			}
			continue
		}
		below, err := t.list(p, c.entry.ObjectID)
		if err != nil {
			if t.ctx.Err() != nil {
				return err
			}
			j.issue, below = err, nil
		}
		j.entry.Partial = j.entry.Partial || above || err != nil
		if err := t.emit(j); err != nil {
			return err
		}
		if err := t.folder(p, below); err != nil {
			return err
		}
	}
	return t.only(path, "")
}

// only delivers the entries of a directory that kopia has no form of, as far
// as they come before the path next, or all if next is empty.
func (t *treeReader) only(dir, next string) error {
	for {
		a := t.attributes.peek()
		if a == nil || next != "" && volume.Compare(a.entry.Path, next) >= 0 {
			return nil
		}
		if next == "" && dir != "" && !strings.HasPrefix(a.entry.Path, dir+"/") {
			return nil
		}
		if _, err := t.attributes.next(); err != nil {
			return err
		}
		if in, above := t.scope(a.entry.Path); !in || above {
			continue
		}
		t.found = t.found || a.entry.Path == t.prefix
		switch a.entry.Type {
		case volume.File, volume.Dir, volume.Symlink:
			// Below a directory that is damaged.
			if err := t.emit(&treeJob{entry: a.entry, issue: errors.New("it is in a directory that cannot be read")}); err != nil {
				return err
			}
			continue
		}
		j := &treeJob{entry: a.entry}
		t.name(j)
		if err := t.emit(j); err != nil {
			return err
		}
	}
}

// join makes the entry from what kopia has and the attributes have.
func (t *treeReader) join(path string, de *snapshot.DirEntry) (*treeJob, error) {
	types := map[snapshot.EntryType]volume.Type{
		snapshot.EntryTypeFile: volume.File, snapshot.EntryTypeDirectory: volume.Dir, snapshot.EntryTypeSymlink: volume.Symlink,
	}
	j := &treeJob{id: de.ObjectID, size: de.FileSize, stored: types[de.Type]}
	if j.stored == 0 {
		return nil, fmt.Errorf("%s: unknown type %q", volume.Escape(path), de.Type)
	}
	if a := t.attributes.peek(); a != nil && a.entry.Path == path {
		if _, err := t.attributes.next(); err != nil {
			return nil, err
		}
		j.entry, j.holes = a.entry, a.holes
	} else {
		j.entry = &volume.Entry{
			Path: path, Type: j.stored, Mode: unixMode(os.FileMode(de.Permissions)),
			UID: de.UserID, GID: de.GroupID, ModTime: de.ModTime.ToTime(), Size: de.FileSize,
		}
	}
	t.name(j)
	return j, nil
}

// name makes the first name of a file that is delivered the one with the
// content, and the others further names of that one.
func (t *treeReader) name(j *treeJob) {
	e := j.entry
	first := e.Path
	if e.Type == volume.HardLink {
		first = e.Link
	}
	g := t.groups[first]
	switch {
	case g == nil:
		return
	case g.sent:
		j.entry = &volume.Entry{Path: e.Path, Type: volume.HardLink, Link: g.delivered, Mode: e.Mode, UID: e.UID, GID: e.GID, ModTime: e.ModTime, Size: e.Size}
		return
	case e.Type == volume.HardLink && g.attributes != nil:
		full := *g.attributes.entry
		full.Path = e.Path
		j.entry, j.holes = &full, g.attributes.holes
	case e.Type == volume.HardLink:
		// Nothing of note: what kopia keeps of the first name, it keeps of
		// this one as well.
		e.Type, e.Link = j.stored, ""
	}
	j.entry.Linked = true
	g.delivered, g.sent = e.Path, true
}

// emit hands a job on, to be fetched if it is small.
func (t *treeReader) emit(j *treeJob) error {
	small := j.entry.Type == volume.File && j.size <= treeSmallFile && !t.names || j.entry.Type == volume.Symlink
	if small && j.issue == nil {
		j.done = make(chan struct{})
		select {
		case t.work <- j:
		case <-t.ctx.Done():
			return context.Cause(t.ctx)
		}
	}
	select {
	case t.ordered <- j:
		return nil
	case <-t.ctx.Done():
		return context.Cause(t.ctx)
	}
}

// fetch reads a small file or the target of a link.
func (j *treeJob) fetch(t *treeReader) {
	in, err := t.r.OpenObject(t.ctx, j.id)
	if err != nil {
		j.issue = err
		return
	}
	defer in.Close()
	if in.Length() != j.size {
		j.issue = fmt.Errorf("it has %d bytes where its directory says %d", in.Length(), j.size)
		return
	}
	j.data = make([]byte, j.size)
	if _, err := io.ReadFull(in, j.data); err != nil {
		j.issue = err
	}
}

func (t *treeReader) send(enc *volume.Encoder, j *treeJob) error {
	if j.issue != nil && t.ctx.Err() != nil {
		return j.issue // not damage, but the way to the data
	}
	switch {
	case j.issue != nil && j.entry.Type != volume.Dir:
		// No entry: an empty file must not replace one that the target has.
		return t.damaged(enc, j.entry.Path, j.issue)
	case j.entry.Type == volume.Symlink:
		j.entry.Link = string(j.data)
	}
	if err := enc.Entry(j.entry); err != nil {
		return err
	}
	if j.issue != nil {
		return t.damaged(enc, j.entry.Path, j.issue)
	}
	if j.entry.Type != volume.File {
		return nil
	}
	if j.done == nil {
		return t.large(enc, j)
	}
	var at int64
	for _, h := range append(slices.Clip(j.holes), volume.Extent{Offset: j.size}) {
		if h.Offset < at || h.Offset+h.Length > j.size {
			return fmt.Errorf("%w: a hole of %s", errAttributes, volume.Escape(j.entry.Path))
		}
		if err := enc.Data(j.data[at:h.Offset]); err != nil {
			return err
		}
		if err := enc.Hole(h.Length); err != nil {
			return err
		}
		at = h.Offset + h.Length
	}
	return enc.End(volume.OK, "")
}

func (t *treeReader) damaged(enc *volume.Encoder, path string, err error) error {
	i := volume.Issue{Path: volume.Escape(path), Kind: volume.Unreadable, What: "damaged in the repository: " + err.Error()}
	t.issues.Add(i)
	return enc.Issue(i)
}

// large sends a file piece by piece, with the reading a few pieces ahead.
func (t *treeReader) large(enc *volume.Encoder, j *treeJob) error {
	const ahead = 4
	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	free, pieces := make(chan []byte, ahead), make(chan []byte, ahead)
	for range ahead {
		free <- make([]byte, treePiece)
	}
	var readErr error // written before pieces is closed
	go func() {
		defer close(pieces)
		readErr = t.pieces(ctx, j, free, pieces)
	}()
	var at int64
	holes := j.holes
	send := func(b []byte) error {
		at += int64(len(b))
		return enc.Data(b)
	}
	skip := func() error {
		for len(holes) > 0 && holes[0].Offset == at {
			if err := enc.Hole(holes[0].Length); err != nil {
				return err
			}
			at += holes[0].Length
			holes = holes[1:]
		}
		return nil
	}
	var err error
	for b := range pieces {
		if err != nil {
			continue
		}
		if err = skip(); err == nil {
			err = send(b)
		}
		if err != nil {
			cancel()
			continue
		}
		free <- b[:cap(b)]
	}
	if err == nil && readErr == nil {
		err = skip()
	}
	switch {
	case err != nil:
		return err
	case t.ctx.Err() != nil:
		return context.Cause(t.ctx)
	case readErr != nil:
		i := volume.Issue{Path: volume.Escape(j.entry.Path), Kind: volume.Unreadable, What: fmt.Sprintf("damaged in the repository after %d bytes: %s", at, readErr)}
		t.issues.Add(i)
		return enc.End(i.Kind, i.What)
	}
	return enc.End(volume.OK, "")
}

// pieces reads the data between the holes. A piece does not reach over a hole.
func (t *treeReader) pieces(ctx context.Context, j *treeJob, free <-chan []byte, out chan<- []byte) error {
	in, err := t.r.OpenObject(ctx, j.id)
	if err != nil {
		return err
	}
	defer in.Close()
	if in.Length() != j.size {
		return fmt.Errorf("it has %d bytes where its directory says %d", in.Length(), j.size)
	}
	var at int64
	for _, h := range append(slices.Clip(j.holes), volume.Extent{Offset: j.size}) {
		if h.Offset < at || h.Offset+h.Length > j.size {
			return fmt.Errorf("%w: a hole", errAttributes)
		}
		if h.Offset > at {
			// Seeking does not read what is passed over.
			if _, err := in.Seek(at, io.SeekStart); err != nil {
				return err
			}
		}
		for at < h.Offset {
			var b []byte
			select {
			case b = <-free:
			case <-ctx.Done():
				return ctx.Err()
			}
			b = b[:min(int64(len(b)), h.Offset-at)]
			if _, err := io.ReadFull(in, b); err != nil {
				return err
			}
			select {
			case out <- b:
			case <-ctx.Done():
				return ctx.Err()
			}
			at += int64(len(b))
		}
		at = h.Offset + h.Length
	}
	return nil
}
