package source

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	"github.com/go-git/go-git/v5/storage/memory"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const gitPrefix = "git::"

// gitSource is git::URL//path?ref=REF, taken apart.
type gitSource struct {
	url     string // without credentials, as given to the transport
	local   string // the folder, where the repository is on this machine
	path    string // inside the repository; "." is all of it
	ref     string // branch, tag or commit; empty is the default branch
	shown   string // the whole, without credentials
	auth    transport.AuthMethod
	secrets []string
}

// likeSCP is user@host:path, which is not a URL but common for SSH.
var likeSCP = regexp.MustCompile(`^(?:([^@/:]+)@)?([^/:@]+):([^/].*|/.*)$`)

func parseGit(raw string) (*gitSource, error) {
	address, query, _ := cutLast(strings.TrimPrefix(raw, gitPrefix), "?")
	s := &gitSource{path: "."}
	if err := s.parseQuery(address, query); err != nil {
		return nil, err
	}
	scheme, rest, isURL := strings.Cut(address, "://")
	if !isURL {
		scheme, rest = "", address
	}
	if i := strings.Index(rest, "//"); i >= 0 {
		s.path = path.Clean(strings.Trim(rest[i+2:], "/"))
		rest = rest[:i]
	}
	if s.path == ".." || strings.HasPrefix(s.path, "../") {
		return nil, v1alpha1.Usagef("%s: the path leads out of the repository", redactURL(address))
	}
	if rest == "" {
		return nil, v1alpha1.Usagef("%s names no repository; write git::URL//path?ref=REF", redactURL(raw))
	}
	var err error
	switch m := likeSCP.FindStringSubmatch(rest); {
	case scheme == "file":
		if s.local, err = url.PathUnescape(rest); err != nil {
			return nil, v1alpha1.Usagef("%s is not a URL", address)
		}
		s.url = "file://" + rest
	case scheme == "http", scheme == "https", scheme == "ssh":
		err = s.parseURL(scheme + "://" + rest)
	case scheme != "":
		err = v1alpha1.Usagef("%s: Git repositories are read over https, http, ssh and file, or as a local path, not over %q", redactURL(address), scheme)
	case m != nil && (m[1] != "" || len(m[2]) > 1): // one letter alone is a drive of Windows
		s.url = rest
		s.auth = sshAuth(m[1], "")
	default:
		s.local = rest
		absolute, absErr := filepath.Abs(rest)
		if absErr != nil {
			return nil, fmt.Errorf("read %s: %w", rest, absErr)
		}
		s.url = "file://" + filepath.ToSlash(absolute)
	}
	if err != nil {
		return nil, err
	}
	s.shown = gitPrefix + s.url
	if s.path != "." {
		s.shown += "//" + s.path
	}
	if s.ref != "" {
		s.shown += "?ref=" + s.ref
	}
	return s, nil
}

func (s *gitSource) parseQuery(address, query string) error {
	if query == "" {
		return nil
	}
	for _, pair := range strings.Split(query, "&") {
		key, value, _ := strings.Cut(pair, "=")
		if key != "ref" {
			return v1alpha1.Usagef("%s: a Git source takes ?ref=, not ?%s=", redactURL(address), key)
		}
		ref, err := url.PathUnescape(value)
		if err != nil {
			return v1alpha1.Usagef("%s: %q is not a ref", redactURL(address), value)
		}
		s.ref = ref
	}
	return nil
}

func (s *gitSource) parseURL(raw string) error {
	u, secrets, err := splitURL(raw)
	if err != nil {
		return err
	}
	s.secrets = secrets
	s.url = redactURL(raw)
	name, password := "", ""
	if u.User != nil {
		name = u.User.Username()
		password, _ = u.User.Password()
	}
	switch {
	case u.Scheme == "ssh":
		s.auth = sshAuth(name, password)
	case u.User != nil:
		s.auth = &githttp.BasicAuth{Username: name, Password: password}
	}
	return nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func readGit(ctx context.Context, raw string) ([]text, error) {
	s, err := parseGit(raw)
	if err != nil {
		return nil, err
	}
	texts, err := s.read(ctx)
	if err != nil {
		return nil, scrub(err, s.secrets)
	}
	return texts, nil
}

func (s *gitSource) read(ctx context.Context) ([]text, error) {
	var repository *git.Repository
	var start plumbing.Hash
	var err error
	if s.local != "" {
		repository, start, err = s.openLocal()
	} else {
		repository, start, err = s.fetch(ctx)
	}
	if err != nil {
		return nil, err
	}
	commit, err := peel(repository, start)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.shown, err)
	}
	tree, err := commit.Tree()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", s.shown, err)
	}
	return s.texts(repository, tree, v1alpha1.Provenance{
		Source: s.shown, URL: s.url, Ref: s.ref, Commit: commit.Hash.String(),
	})
}

// peel follows tags to the commit that they stand for.
func peel(r *git.Repository, hash plumbing.Hash) (*object.Commit, error) {
	for {
		tag, err := r.TagObject(hash)
		if errors.Is(err, plumbing.ErrObjectNotFound) {
			commit, err := r.CommitObject(hash)
			if err != nil {
				return nil, v1alpha1.Usagef("%s is not a commit: %w", hash, err)
			}
			return commit, nil
		}
		if err != nil {
			return nil, err
		}
		hash = tag.Target
	}
}

func (s *gitSource) openLocal() (*git.Repository, plumbing.Hash, error) {
	// A folder inside a repository is not meant: that is what //path is for.
	r, err := git.PlainOpenWithOptions(s.local, &git.PlainOpenOptions{EnableDotGitCommonDir: true})
	if errors.Is(err, git.ErrRepositoryNotExists) {
		return nil, plumbing.ZeroHash, v1alpha1.Usagef("%s is not a Git repository; write git::REPOSITORY//path", s.local)
	}
	if err != nil {
		return nil, plumbing.ZeroHash, fmt.Errorf("open Git repository %s: %w", s.local, err)
	}
	iter, err := r.References()
	if err != nil {
		return nil, plumbing.ZeroHash, fmt.Errorf("read the refs of %s: %w", s.local, err)
	}
	refs := refTable{}
	if err := iter.ForEach(func(ref *plumbing.Reference) error { refs[ref.Name()] = ref; return nil }); err != nil {
		return nil, plumbing.ZeroHash, fmt.Errorf("read the refs of %s: %w", s.local, err)
	}
	ref, err := s.choose(refs)
	if err != nil {
		return nil, plumbing.ZeroHash, err
	}
	if ref != nil {
		return r, ref.Hash(), nil
	}
	hash, err := s.findCommit(r, refs)
	return r, hash, err
}

// fetch brings what is needed of a repository into memory: one commit where
// the server can give that, all branches and tags where only their history
// can tell what a shortened commit id means.
func (s *gitSource) fetch(ctx context.Context) (*git.Repository, plumbing.Hash, error) {
	r, err := git.Init(memory.NewStorage(), nil)
	if err != nil {
		return nil, plumbing.ZeroHash, err
	}
	remote, err := r.CreateRemote(&config.RemoteConfig{Name: "origin", URLs: []string{s.url}})
	if err != nil {
		return nil, plumbing.ZeroHash, v1alpha1.Usagef("%s: %w", s.url, err)
	}
	advertised, err := remote.ListContext(ctx, &git.ListOptions{Auth: s.auth})
	if err != nil {
		return nil, plumbing.ZeroHash, s.explain(ctx, err)
	}
	refs := refTable{}
	for _, ref := range advertised {
		refs[ref.Name()] = ref
	}
	ref, err := s.choose(refs)
	if err != nil {
		return nil, plumbing.ZeroHash, err
	}
	get := func(depth int, specs ...config.RefSpec) error {
		return remote.FetchContext(ctx, &git.FetchOptions{Auth: s.auth, Depth: depth, Tags: git.NoTags, RefSpecs: specs})
	}
	if ref != nil {
		if err := get(1, config.RefSpec("+"+ref.Name().String()+":"+ref.Name().String())); err != nil {
			return nil, plumbing.ZeroHash, s.explain(ctx, err)
		}
		return r, ref.Hash(), nil
	}
	if plumbing.IsHash(s.ref) {
		if get(1, config.RefSpec(s.ref+":refs/heads/wanted")) == nil {
			return r, plumbing.NewHash(s.ref), nil
		}
		// The server gives no single commits, or does not have it.
	}
	if err := get(0, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"); err != nil && !errors.Is(err, git.NoErrAlreadyUpToDate) {
		return nil, plumbing.ZeroHash, s.explain(ctx, err)
	}
	hash, err := s.findCommit(r, refs)
	return r, hash, err
}

func (s *gitSource) explain(ctx context.Context, err error) error {
	hint := ""
	switch message := err.Error(); {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, transport.ErrEmptyRemoteRepository):
		return v1alpha1.Usagef("%s holds no commit", s.url)
	case errors.Is(err, transport.ErrRepositoryNotFound):
		hint = "; check the URL and whether you may read it"
	case errors.Is(err, transport.ErrAuthenticationRequired), errors.Is(err, transport.ErrAuthorizationFailed):
		hint = "; put a user and password or a token into the URL"
	case strings.Contains(message, "knownhosts:"), strings.Contains(message, "known_hosts"):
		hint = "; add the host's key to ~/.ssh/known_hosts, or name a file with it in SSH_KNOWN_HOSTS"
	case strings.Contains(message, "unable to authenticate"):
		hint = "; offer a key through an SSH agent or as ~/.ssh/id_ed25519, id_ecdsa or id_rsa without a passphrase"
	}
	return fmt.Errorf("read Git repository %s: %w%s", s.url, err, hint)
}

type refTable map[plumbing.ReferenceName]*plumbing.Reference

// resolve follows symbolic refs.
func (t refTable) resolve(name plumbing.ReferenceName) *plumbing.Reference {
	for range 10 {
		ref := t[name]
		if ref == nil || ref.Type() == plumbing.HashReference {
			return ref
		}
		name = ref.Target()
	}
	return nil
}

// short are the names that a person would write.
func (t refTable) short() []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(t)) {
		if (name.IsBranch() || name.IsTag()) && !strings.HasSuffix(name.String(), "^{}") {
			names = append(names, name.Short())
		}
	}
	return names
}

var commitID = regexp.MustCompile(`^[0-9a-fA-F]{4,40}$`)

// choose finds the ref that is meant, or nil where only a commit can be.
func (s *gitSource) choose(refs refTable) (*plumbing.Reference, error) {
	if s.ref == "" {
		head := refs[plumbing.HEAD]
		if head == nil || refs.resolve(plumbing.HEAD) == nil {
			return nil, v1alpha1.Usagef("%s has no default branch; name one with ?ref=%s", s.url, listed(refs.short()))
		}
		if head.Type() == plumbing.SymbolicReference {
			s.ref = head.Target().Short()
		}
		return refs.resolve(plumbing.HEAD), nil
	}
	if ref := refs.resolve(plumbing.ReferenceName(s.ref)); ref != nil {
		return ref, nil
	}
	tag, branch := refs.resolve(plumbing.NewTagReferenceName(s.ref)), refs.resolve(plumbing.NewBranchReferenceName(s.ref))
	switch {
	case tag != nil && branch != nil:
		return nil, v1alpha1.Usagef("%q is both a branch and a tag in %s; write ?ref=%s or ?ref=%s", s.ref, s.url, branch.Name(), tag.Name())
	case tag != nil:
		return tag, nil
	case branch != nil:
		return branch, nil
	}
	if tracked := refs.resolve(plumbing.ReferenceName("refs/remotes/" + s.ref)); tracked != nil {
		return tracked, nil
	}
	if !commitID.MatchString(s.ref) {
		return nil, s.noSuchRef(refs)
	}
	return nil, nil
}

func (s *gitSource) noSuchRef(refs refTable) error {
	names := refs.short()
	hint := didYouMean(s.ref, names)
	if hint == "" {
		hint = listed(names)
	}
	return v1alpha1.Usagef("there is no branch, tag or commit %q in %s%s", s.ref, s.url, hint)
}

// listed shows some of the names that there are.
func listed(names []string) string {
	const shown = 8
	switch {
	case len(names) == 0:
		return ""
	case len(names) > shown:
		return fmt.Sprintf("; there are %s and %d more", strings.Join(names[:shown], ", "), len(names)-shown)
	}
	return "; there are " + strings.Join(names, ", ")
}

// findCommit finds a commit by its id or the front of it.
func (s *gitSource) findCommit(r *git.Repository, refs refTable) (plumbing.Hash, error) {
	prefix := strings.ToLower(s.ref)
	if plumbing.IsHash(prefix) {
		if _, err := peel(r, plumbing.NewHash(prefix)); err != nil {
			return plumbing.ZeroHash, s.noSuchRef(refs)
		}
		return plumbing.NewHash(prefix), nil
	}
	found, err := commitsWithPrefix(r, prefix)
	switch {
	case err != nil:
		return plumbing.ZeroHash, fmt.Errorf("search %s for commit %s: %w", s.url, s.ref, err)
	case len(found) == 0:
		return plumbing.ZeroHash, s.noSuchRef(refs)
	case len(found) > 1:
		return plumbing.ZeroHash, v1alpha1.Usagef("%q is the beginning of several commits in %s: %s", s.ref, s.url, strings.Join(found, ", "))
	}
	return plumbing.NewHash(found[0]), nil
}

func commitsWithPrefix(r *git.Repository, prefix string) ([]string, error) {
	// A repository on disk finds ids in its indexes; one in memory is searched.
	if indexed, ok := r.Storer.(interface {
		HashesWithPrefix(prefix []byte) ([]plumbing.Hash, error)
	}); ok {
		whole, err := hex.DecodeString(prefix[:len(prefix)/2*2])
		if err != nil {
			return nil, err
		}
		hashes, err := indexed.HashesWithPrefix(whole)
		if err != nil {
			return nil, err
		}
		var found []string
		for _, h := range hashes {
			if _, err := r.CommitObject(h); err == nil && strings.HasPrefix(h.String(), prefix) && !slices.Contains(found, h.String()) {
				found = append(found, h.String())
			}
		}
		return found, nil
	}
	commits, err := r.CommitObjects()
	if err != nil {
		return nil, err
	}
	var found []string
	err = commits.ForEach(func(c *object.Commit) error {
		if strings.HasPrefix(c.Hash.String(), prefix) {
			found = append(found, c.Hash.String())
		}
		return nil
	})
	return found, err
}

// texts reads the documents at the source's path from the objects of a tree.
func (s *gitSource) texts(r *git.Repository, tree *object.Tree, from v1alpha1.Provenance) ([]text, error) {
	files := []string{s.path}
	if sub, err := subtree(tree, s.path); err == nil {
		if files, err = documentsIn(sub, s.path); err != nil {
			return nil, fmt.Errorf("read %s: %w", s.shown, err)
		}
		if len(files) == 0 {
			return nil, v1alpha1.Usagef("%s holds no .yaml, .yml or .json file", s.shown)
		}
	}
	texts := make([]text, 0, len(files))
	for _, name := range files {
		data, err := blob(r, tree, name)
		if errors.Is(err, object.ErrEntryNotFound) || errors.Is(err, object.ErrDirectoryNotFound) {
			return nil, v1alpha1.Usagef("%s: there is no %s at commit %.12s%s", s.shown, name, from.Commit, nearIn(tree, name))
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", s.shown, err)
		}
		t := text{name: gitPrefix + s.url + "//" + name, data: data, from: from}
		if s.ref != "" {
			t.name += "?ref=" + s.ref
		}
		t.from.Path = name
		texts = append(texts, t)
	}
	return texts, nil
}

func subtree(tree *object.Tree, name string) (*object.Tree, error) {
	if name == "." {
		return tree, nil
	}
	return tree.Tree(name)
}

// documentsIn lists the documents below a tree in the order of their paths.
func documentsIn(tree *object.Tree, root string) ([]string, error) {
	var files []string
	walker := object.NewTreeWalker(tree, true, nil)
	defer walker.Close()
	for {
		name, entry, err := walker.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if entry.Mode != filemode.Dir && entry.Mode != filemode.Submodule && isDocument(name) {
			files = append(files, path.Join(root, name))
		}
	}
	slices.Sort(files)
	return files, nil
}

// blob reads a file of a tree. A symbolic link is followed inside the tree.
func blob(r *git.Repository, tree *object.Tree, name string) ([]byte, error) {
	for range 10 {
		entry, err := tree.FindEntry(name)
		if err != nil {
			return nil, err
		}
		if entry.Mode == filemode.Submodule {
			return nil, v1alpha1.Usagef("%s is a submodule; name its own repository", name)
		}
		b, err := r.BlobObject(entry.Hash)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		reader, err := b.Reader()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		data, err := readAll(name, reader)
		if err := errors.Join(err, reader.Close()); err != nil {
			return nil, err
		}
		if entry.Mode != filemode.Symlink {
			return data, nil
		}
		target := path.Join(path.Dir(name), string(data))
		if path.IsAbs(string(data)) || target == ".." || strings.HasPrefix(target, "../") {
			return nil, v1alpha1.Usagef("%s is a symbolic link that leads out of the repository", name)
		}
		name = target
	}
	return nil, v1alpha1.Usagef("%s is a symbolic link in a circle", name)
}

func nearIn(tree *object.Tree, name string) string {
	folder, err := subtree(tree, path.Dir(name))
	if err != nil {
		return ""
	}
	var candidates []string
	for _, e := range folder.Entries {
		candidates = append(candidates, e.Name)
	}
	return didYouMean(path.Base(name), candidates)
}
