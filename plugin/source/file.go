package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

func readStdin(stdin io.Reader) ([]text, error) {
	if stdin == nil {
		return nil, v1alpha1.Usagef(`there is no standard input to read "-" from`)
	}
	data, err := readAll("standard input", stdin)
	if err != nil {
		return nil, err
	}
	return []text{{name: "stdin", data: data, from: v1alpha1.Provenance{Source: "-"}}}, nil
}

func readAll(name string, r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(data) > maxSize {
		return nil, v1alpha1.Usagef("%s holds more than %d MiB, which no policy does", name, maxSize>>20)
	}
	return data, nil
}

// readPath reads a file, or every document below a folder in the order of
// their paths.
func readPath(ctx context.Context, name string) ([]text, error) {
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, v1alpha1.Usagef("%s does not exist%s", name, near(name))
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	files := []string{name}
	if info.IsDir() {
		if files, err = documentsBelow(name); err != nil {
			return nil, err
		}
		if len(files) == 0 {
			return nil, v1alpha1.Usagef("%s holds no .yaml, .yml or .json file", name)
		}
	}
	texts := make([]text, len(files))
	for i, f := range files {
		data, err := readFile(f)
		if err != nil {
			return nil, err
		}
		texts[i] = text{name: f, data: data, from: v1alpha1.Provenance{Source: name}}
	}
	if w := trace(ctx, name, texts); w != nil {
		for i := range texts {
			texts[i].from = w.at(texts[i].from, w.paths[i])
		}
	}
	return texts, nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	defer f.Close()
	return readAll(name, f)
}

func documentsBelow(root string) ([]string, error) {
	var files []string
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("read %s: %w", root, err)
		}
		relative, err := filepath.Rel(root, name)
		if err != nil || relative == "." {
			return err
		}
		if entry.IsDir() {
			if strings.HasPrefix(entry.Name(), ".") {
				return fs.SkipDir
			}
			return nil
		}
		if !isDocument(filepath.ToSlash(relative)) {
			return nil
		}
		// A link is read as what it points to, which is how a mounted
		// ConfigMap looks; a link to a folder is not followed.
		if info, err := os.Stat(name); err != nil || info.Mode().IsRegular() {
			files = append(files, name)
		}
		return nil
	})
	slices.SortFunc(files, func(a, b string) int { return strings.Compare(filepath.ToSlash(a), filepath.ToSlash(b)) })
	return files, err
}

// near names the neighbour that was probably meant.
func near(name string) string {
	entries, err := os.ReadDir(filepath.Dir(name))
	if err != nil {
		return ""
	}
	var candidates []string
	for _, e := range entries {
		candidates = append(candidates, e.Name())
	}
	return didYouMean(filepath.Base(name), candidates)
}

func didYouMean(word string, candidates []string) string {
	if n := v1alpha1.Nearest(word, candidates); n != "" {
		return fmt.Sprintf("; did you mean %q?", n)
	}
	return ""
}

// readURL reads one file from a web server.
func readURL(ctx context.Context, raw string) ([]text, error) {
	u, secrets, err := splitURL(raw)
	if err != nil {
		return nil, err
	}
	shown := redactURL(raw)
	user := u.User
	u.User = nil
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, v1alpha1.Usagef("%s is not a URL", shown)
	}
	if user != nil {
		password, _ := user.Password()
		request.SetBasicAuth(user.Username(), password)
	}
	client := http.Client{Timeout: time.Minute}
	response, err := client.Do(request)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err // it holds the URL, which may hold a token
		}
		return nil, fmt.Errorf("read %s: %w", shown, scrub(err, secrets))
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("read %s: the server answers %s", shown, response.Status)
	}
	data, err := readAll(shown, response.Body)
	if err != nil {
		return nil, scrub(err, secrets)
	}
	return []text{{name: shown, data: data, from: v1alpha1.Provenance{Source: shown, URL: shown}}}, nil
}
