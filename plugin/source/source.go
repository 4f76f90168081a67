// Package source reads policies and remotes from where people keep them:
// files, folders, standard input, web servers, kustomizations and Git
// repositories, and notes where each came from.
//
// A Git repository is read from its objects, local or fetched into memory;
// nothing is checked out, and no git program is run. Credentials in URLs are
// used and then forgotten: they are in no name, provenance or error.
//
// It does not decide which policy is meant, and does not compile expressions.
package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// maxSize bounds one document file, in bytes. Policies are small; whatever is
// larger was named by mistake.
const maxSize = 16 << 20

// Request says what to read.
type Request struct {
	// Files are files, folders (read whole), "-", http(s) URLs and
	// git::URL//path?ref=REF.
	Files []string
	// Kustomize is a folder with a kustomization, or empty.
	Kustomize string
	// Stdin is what "-" stands for.
	Stdin io.Reader
}

// Loaded is what was read.
type Loaded struct {
	Documents *v1alpha1.Documents
	// Provenance is that of the first policy, or of the first file where there
	// is no policy. With several sources ask ProvenanceOf.
	Provenance v1alpha1.Provenance

	byFile map[string]v1alpha1.Provenance
}

// ProvenanceOf says where a policy of this load came from.
func (l *Loaded) ProvenanceOf(p *v1alpha1.BackupPolicy) v1alpha1.Provenance {
	return l.byFile[p.At("").File]
}

// text is one file that was read. name is unique and goes into errors.
type text struct {
	name string
	data []byte
	from v1alpha1.Provenance
}

// Load reads and decodes everything that a request names. What is wrong with
// the request or the documents is a v1alpha1.UsageError, which lists the
// faults of all files; a source that cannot be reached is another error.
func Load(ctx context.Context, r Request) (*Loaded, error) {
	if len(r.Files) == 0 && r.Kustomize == "" {
		return nil, v1alpha1.Usagef("nothing to read; name a file, folder, URL or Git repository with -f, or a kustomization with -k")
	}
	texts, err := interruptible(ctx, func() ([]text, error) { return read(ctx, r) })
	if err != nil {
		return nil, err
	}
	return decode(texts)
}

// interruptible returns when the context ends although work does not: neither
// a read from a terminal nor an SSH handshake can be stopped. What work gives
// later is dropped.
func interruptible(ctx context.Context, work func() ([]text, error)) ([]text, error) {
	type result struct {
		texts []text
		err   error
	}
	done := make(chan result, 1)
	go func() {
		texts, err := work()
		done <- result{texts, err}
	}()
	select {
	case r := <-done:
		return r.texts, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func read(ctx context.Context, r Request) ([]text, error) {
	var texts []text
	stdin := false
	for _, name := range r.Files {
		if name == "-" {
			if stdin {
				return nil, v1alpha1.Usagef(`"-" can be read once only`)
			}
			stdin = true
		}
		found, err := readSource(ctx, name, r.Stdin)
		if err != nil {
			return nil, err
		}
		texts = append(texts, found...)
	}
	if r.Kustomize != "" {
		built, err := build(ctx, r.Kustomize)
		if err != nil {
			return nil, err
		}
		texts = append(texts, built)
	}
	return texts, nil
}

func readSource(ctx context.Context, name string, stdin io.Reader) ([]text, error) {
	switch scheme, _, _ := strings.Cut(name, "://"); {
	case name == "":
		return nil, v1alpha1.Usagef("the name of a source is empty")
	case name == "-":
		return readStdin(stdin)
	case strings.HasPrefix(name, gitPrefix):
		return readGit(ctx, name)
	case scheme == "http" || scheme == "https":
		return readURL(ctx, name)
	case strings.Contains(name, "://"):
		return nil, v1alpha1.Usagef("%s: %q is not a scheme that documents are read from; use http, https, or git:: in front of the URL of a repository", redactURL(name), scheme)
	}
	return readPath(ctx, name)
}

func decode(texts []text) (*Loaded, error) {
	l := &Loaded{byFile: map[string]v1alpha1.Provenance{}}
	var decoded []*v1alpha1.Documents
	var faults []error
	for _, t := range texts {
		if _, twice := l.byFile[t.name]; twice {
			return nil, v1alpha1.Usagef("%s is named twice", t.name)
		}
		l.byFile[t.name] = t.from
		d, err := v1alpha1.Decode(t.name, t.data)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		decoded = append(decoded, d)
	}
	if len(faults) > 0 {
		return nil, &v1alpha1.UsageError{Err: errors.Join(faults...)}
	}
	merged, err := v1alpha1.Merge(decoded...)
	if err != nil {
		return nil, err
	}
	l.Documents = merged
	switch {
	case len(merged.Policies) > 0:
		l.Provenance = l.ProvenanceOf(merged.Policies[0])
	case len(merged.Remotes)+len(merged.Rewrites) > 0:
		l.Provenance = texts[0].from
	default:
		return nil, v1alpha1.Usagef("%s: no BackupPolicy, BackupRemote or RewriteSet in it%s", names(texts), passedOver(merged.Foreign))
	}
	return l, nil
}

func names(texts []text) string {
	var sources []string
	for _, t := range texts {
		if len(sources) == 0 || sources[len(sources)-1] != t.from.Source {
			sources = append(sources, t.from.Source)
		}
	}
	return strings.Join(sources, ", ")
}

func passedOver(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("; documents of other API groups that were passed over: %d", n)
}

// isDocument says whether a file of a folder is read. Hidden files are not,
// nor are those that tell kustomize how to build the others.
func isDocument(name string) bool {
	for _, part := range strings.Split(name, "/") {
		if strings.HasPrefix(part, ".") {
			return false
		}
	}
	switch base := path.Base(name); path.Ext(base) {
	case ".yaml", ".yml":
		return strings.TrimSuffix(base, path.Ext(base)) != "kustomization"
	case ".json":
		return true
	}
	return false
}
