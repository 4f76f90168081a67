package source

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// traceLimit is how long the search for a file's repository may take.
const traceLimit = 3 * time.Second

// trace adds to the provenance of local files which commit of which repository
// they lie in, and whether they differ from it. root is the file or folder
// that was named. A file outside of Git has no such provenance, and a
// repository that cannot be read must not keep anybody from a backup, so
// nothing here is an error.
func trace(ctx context.Context, root string, texts []text) *worktree {
	ctx, cancel := context.WithTimeout(ctx, traceLimit)
	defer cancel()
	done := make(chan *worktree, 1)
	go func() {
		var w *worktree
		defer func() {
			// go-git meets repositories here that nobody asked us to read.
			if recover() != nil {
				w = nil
			}
			done <- w
		}()
		w = inspect(root, texts)
	}()
	select {
	case w := <-done:
		return w
	case <-ctx.Done():
		return nil
	}
}

// worktree is what was learned about the repository around some files.
type worktree struct {
	url, branch, commit string
	dirty               bool
	root                string   // path of what was named, inside the repository
	paths               []string // of the texts, inside the repository; empty outside
}

// at is a provenance with what the worktree adds to it.
func (w *worktree) at(from v1alpha1.Provenance, path string) v1alpha1.Provenance {
	from.URL, from.Ref, from.Commit, from.Path, from.Dirty = w.url, w.branch, w.commit, path, w.dirty
	return from
}

func inspect(root string, texts []text) *worktree {
	real, err := realPath(root)
	if err != nil {
		return nil
	}
	info, err := os.Stat(real)
	if err != nil {
		return nil
	}
	start := real
	if !info.IsDir() {
		start = filepath.Dir(real)
	}
	r, err := git.PlainOpenWithOptions(start, &git.PlainOpenOptions{DetectDotGit: true, EnableDotGitCommonDir: true})
	if err != nil {
		return nil
	}
	files, err := r.Worktree()
	if err != nil {
		return nil
	}
	top, err := realPath(files.Filesystem.Root())
	if err != nil {
		return nil
	}
	head, err := r.Head()
	if err != nil {
		return nil
	}
	commit, err := r.CommitObject(head.Hash())
	if err != nil {
		return nil
	}
	tree, err := commit.Tree()
	if err != nil {
		return nil
	}
	w := &worktree{url: originOf(r), commit: head.Hash().String(), root: inside(top, real)}
	if head.Name().IsBranch() {
		w.branch = head.Name().Short()
	}
	for _, t := range texts {
		name, err := realPath(filepath.Dir(t.name))
		if err != nil {
			return nil
		}
		name = inside(top, filepath.Join(name, filepath.Base(t.name)))
		w.paths = append(w.paths, name)
		if name == "" || !committed(r, tree, name, t.data) {
			w.dirty = true
		}
	}
	if info.IsDir() && removed(tree, w.root, top) {
		w.dirty = true
	}
	return w
}

func realPath(name string) (string, error) {
	absolute, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(absolute)
}

// inside is the slash path of name below top, or empty where it is elsewhere.
func inside(top, name string) string {
	relative, err := filepath.Rel(top, name)
	if err != nil || !filepath.IsLocal(relative) {
		return ""
	}
	return filepath.ToSlash(relative)
}

// committed says whether a file holds what the commit has.
func committed(r *git.Repository, tree *object.Tree, name string, data []byte) bool {
	entry, err := tree.FindEntry(name)
	if err != nil {
		return false
	}
	if entry.Hash == plumbing.ComputeHash(plumbing.BlobObject, data) {
		return true
	}
	// A link, or line ends that the checkout changed.
	stored, err := blob(r, tree, name)
	return err == nil && slices.Equal(withoutCR(stored), withoutCR(data))
}

func withoutCR(data []byte) []byte {
	return slices.DeleteFunc(slices.Clone(data), func(c byte) bool { return c == '\r' })
}

// removed says whether the commit has a document in a folder that is no longer
// there.
func removed(tree *object.Tree, folder, top string) bool {
	sub, err := subtree(tree, folder)
	if err != nil {
		return false // the whole folder is new, so its files are dirty
	}
	known, err := documentsIn(sub, folder)
	return err == nil && slices.ContainsFunc(known, func(name string) bool {
		_, err := os.Lstat(filepath.Join(top, filepath.FromSlash(name)))
		return errors.Is(err, fs.ErrNotExist)
	})
}

// originOf is the URL that the repository was cloned from, without
// credentials, or empty.
func originOf(r *git.Repository) string {
	remotes, err := r.Remotes()
	if err != nil || len(remotes) == 0 {
		return ""
	}
	chosen := remotes[0].Config()
	for _, remote := range remotes {
		switch c := remote.Config(); {
		case c.Name == git.DefaultRemoteName:
			return redactURL(c.URLs[0])
		case c.Name < chosen.Name:
			chosen = c
		}
	}
	return redactURL(chosen.URLs[0])
}
