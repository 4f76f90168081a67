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

// ahead is what kopia is going to ask a remote for once it has derived the key
// of the repository from the password, asked for meanwhile: that keeps one
// processor busy, for longer than most remotes take to answer. What could not
// be had is asked for again by whoever needs it, and everything is handed out
// once: what is read a second time was not good enough, or has become old.
type ahead struct {
	list func() ([]blob.Metadata, error) // of all index blobs
	end  func()                          // nothing is on its way after it, and nothing handed out

	mu    sync.Mutex
	told  map[blob.ID]bool                   // prefixes whose listing was handed out
	blobs map[blob.ID]func() ([]byte, error) // what was not; each waits for its blob
}

// lookAhead begins. The blob of the format may be there already.
func lookAhead(ctx context.Context, from blob.Storage, format []byte) *ahead {
	ctx, cancel := context.WithCancel(ctx)
	a := &ahead{told: map[blob.ID]bool{}, blobs: map[blob.ID]func() ([]byte, error){}}
	if format != nil {
		a.blobs[kopiaFormatID] = func() ([]byte, error) { return format, nil }
	}
	var readers errgroup.Group
	readers.SetLimit(aheadReaders)
	a.end = func() {
		cancel()
		_ = readers.Wait() // what failed is asked for again
		a.mu.Lock()
		defer a.mu.Unlock()
		a.told, a.blobs = nil, nil
	}
	fetch := func(id blob.ID) func() ([]byte, error) {
		return sync.OnceValues(func() ([]byte, error) {
			var data buffer
			err := from.GetBlob(ctx, id, 0, -1, &data)
			return data.Bytes(), err
		})
	}
	var indexes []func() ([]byte, error)
	a.list = sync.OnceValues(func() ([]blob.Metadata, error) {
		list, err := listAll(ctx, from, indexPrefix)
		if err == nil && few(list) {
			a.mu.Lock()
			defer a.mu.Unlock()
			for _, m := range list {
				a.blobs[m.BlobID] = fetch(m.BlobID)
				indexes = append(indexes, a.blobs[m.BlobID])
			}
		}
		return list, err
	})
	settings := fetch(kopiaSettingsID)
	a.blobs[kopiaSettingsID] = settings
	begin := func(read func() ([]byte, error)) {
		readers.Go(func() error {
			_, err := read()
			return err
		})
	}
	begin(settings)
	readers.Go(func() error {
		_, err := a.list()
		for _, read := range indexes {
			begin(read)
		}
		return err
	})
	return a
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
