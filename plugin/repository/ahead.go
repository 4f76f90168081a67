package repository

import (
	"context"
	"strings"
	"sync"

	"github.com/kopia/kopia/repo/blob"
	"golang.org/x/sync/errgroup"
)

// Index blobs are fetched ahead only where they are few and small: a large
// repository has some that others have replaced, and that kopia does not read.
const (
	aheadBlobs   = 64
	aheadBytes   = 8 << 20
	aheadReaders = 8
)

// kopiaSettingsID is a blob that kopia reads next to that of the format.
const kopiaSettingsID = "kopia.blobcfg"

// ahead is what kopia is going to ask a remote for, one after the other, once it
// has the key of the repository, asked for at once: to derive the key from the
// password keeps one processor busy, for longer than most remotes take to
// answer. What could not
// be had is asked for again by whoever needs it, and everything is handed out
// once: what is read a second time was not good enough, or has become old.
type ahead struct {
	get     func(blob.ID) ([]byte, error)
	list    func() ([]blob.Metadata, error) // of all index blobs
	readers errgroup.Group
	end     func() // nothing is on its way after it, and nothing handed out

	mu    sync.Mutex
	told  map[blob.ID]bool                   // prefixes whose listing was handed out
	blobs map[blob.ID]func() ([]byte, error) // what was not; each waits for its blob
}

// lookAhead begins with the index blobs.
func lookAhead(ctx context.Context, from blob.Storage) *ahead {
	ctx, cancel := context.WithCancel(ctx)
	a := &ahead{told: map[blob.ID]bool{}, blobs: map[blob.ID]func() ([]byte, error){}}
	a.readers.SetLimit(aheadReaders)
	a.end = func() {
		cancel()
		_ = a.readers.Wait() // what failed is asked for again
		a.mu.Lock()
		defer a.mu.Unlock()
		a.told, a.blobs = nil, nil
	}
	a.get = func(id blob.ID) ([]byte, error) {
		var data buffer
		err := from.GetBlob(ctx, id, 0, -1, &data)
		return data.Bytes(), err
	}
	var indexes []func() error
	a.list = sync.OnceValues(func() ([]blob.Metadata, error) {
		list, err := listAll(ctx, from, indexPrefix)
		if err == nil && few(list) {
			for _, m := range list {
				indexes = append(indexes, a.expect(m.BlobID))
			}
		}
		return list, err
	})
	a.readers.Go(func() error {
		_, err := a.list()
		for _, read := range indexes {
			a.readers.Go(read)
		}
		return err
	})
	return a
}

// expect makes a blob one that is handed out, and returns what reads it.
func (a *ahead) expect(id blob.ID) func() error {
	read := sync.OnceValues(func() ([]byte, error) { return a.get(id) })
	a.mu.Lock()
	defer a.mu.Unlock()
	a.blobs[id] = read
	return func() error {
		_, err := read()
		return err
	}
}

// fetch begins to read a blob that is going to be asked for.
func (a *ahead) fetch(id blob.ID) { a.readers.Go(a.expect(id)) }

// have hands out a blob that was read already.
func (a *ahead) have(id blob.ID, data []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.blobs[id] = func() ([]byte, error) { return data, nil }
}

func listAll(ctx context.Context, from blob.Storage, prefix blob.ID) ([]blob.Metadata, error) {
	var list []blob.Metadata
	err := from.ListBlobs(ctx, prefix, func(m blob.Metadata) error {
		list = append(list, m)
		return nil
	})
	return list, err
}

func few(list []blob.Metadata) bool {
	var size int64
	for _, m := range list {
		size += m.Length
	}
	return len(list) <= aheadBlobs && size <= aheadBytes
}

// listing is that of the index blobs with a prefix, if it was made ahead.
func (a *ahead) listing(prefix blob.ID) ([]blob.Metadata, bool) {
	if a == nil || !isIndex(prefix) {
		return nil, false
	}
	a.mu.Lock()
	fresh := a.told != nil && !a.told[prefix]
	if fresh {
		a.told[prefix] = true
	}
	a.mu.Unlock()
	if !fresh {
		return nil, false
	}
	all, err := a.list()
	if err != nil {
		return nil, false
	}
	var list []blob.Metadata
	for _, m := range all {
		if strings.HasPrefix(string(m.BlobID), string(prefix)) {
			list = append(list, m)
		}
	}
	return list, true
}

// blob is a whole blob, if it was fetched ahead.
func (a *ahead) blob(id blob.ID) ([]byte, bool) {
	if a == nil {
		return nil, false
	}
	a.mu.Lock()
	read := a.blobs[id]
	delete(a.blobs, id)
	a.mu.Unlock()
	if read == nil {
		return nil, false
	}
	data, err := read()
	return data, err == nil
}
