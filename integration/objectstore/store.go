package objectstore

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rclone/gofakes3"
)

// store keeps objects as files called as their keys are, and what S3 tells of
// them beside their content in memory. An object appears whole or not at all.
type store struct {
	dir     string // of the bucket
	staging string // uploads under way, on the same file system

	mu      sync.RWMutex
	objects map[string]object
	written map[string]int
}

type object struct {
	size     int64
	md5      []byte
	modified time.Time
	metadata map[string]string
}

var _ gofakes3.Backend = (*store)(nil)

// openStore reads what is there already.
func openStore(dir string) (*store, error) {
	s := &store{dir: filepath.Join(dir, Bucket), staging: filepath.Join(dir, "uploads"), objects: map[string]object{}, written: map[string]int{}}
	err := errors.Join(os.MkdirAll(s.dir, 0o755), os.RemoveAll(s.staging), os.MkdirAll(s.staging, 0o755))
	if err != nil {
		return nil, fmt.Errorf("object store: %w", err)
	}
	err = filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		sum := md5.New()
		n, err := io.Copy(sum, f)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		key, err := filepath.Rel(s.dir, path)
		s.objects[key] = object{size: n, md5: sum.Sum(nil), modified: info.ModTime()}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("object store: %w", err)
	}
	return s, nil
}

func (s *store) has(key string) bool {
	_, ok := s.lookup(key)
	return ok
}

func (s *store) lookup(key string) (object, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	o, ok := s.objects[key]
	return o, ok
}

func (s *store) writes() map[string]int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return maps.Clone(s.written)
}

func (s *store) size() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var n int64
	for _, o := range s.objects {
		n += o.size
	}
	return n
}

func (s *store) path(key string) string { return filepath.Join(s.dir, filepath.FromSlash(key)) }

// ListBuckets and the rest are gofakes3's Backend.
func (s *store) ListBuckets(context.Context) ([]gofakes3.BucketInfo, error) {
	return []gofakes3.BucketInfo{{Name: Bucket, CreationDate: gofakes3.NewContentTime(time.Unix(0, 0))}}, nil
}

func (s *store) BucketExists(_ context.Context, name string) (bool, error) {
	return name == Bucket, nil
}

func (s *store) CreateBucket(_ context.Context, name string) error {
	if name == Bucket {
		return gofakes3.ResourceError(gofakes3.ErrBucketAlreadyExists, name)
	}
	return gofakes3.ErrorMessage(gofakes3.ErrTooManyBuckets, "there is one bucket: "+Bucket)
}

func (s *store) DeleteBucket(_ context.Context, name string) error {
	return gofakes3.ResourceError(gofakes3.ErrBucketNotEmpty, name)
}

func (s *store) ListBucket(_ context.Context, bucket string, prefix *gofakes3.Prefix, page gofakes3.ListBucketPage) (*gofakes3.ObjectList, error) {
	if bucket != Bucket {
		return nil, gofakes3.BucketNotFound(bucket)
	}
	if prefix == nil {
		prefix = &gofakes3.Prefix{}
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	var keys []string
	for key := range s.objects {
		if strings.HasPrefix(key, prefix.Prefix) && key > page.Marker {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	list := gofakes3.NewObjectList()
	var folder string
	for i, key := range keys {
		var match gofakes3.PrefixMatch
		if !prefix.Match(key, &match) {
			continue
		}
		if match.CommonPrefix {
			// What the last page ended with must not begin this one.
			if match.MatchedPart != folder && !strings.HasPrefix(page.Marker, match.MatchedPart) {
				list.AddPrefix(match.MatchedPart)
			}
			folder = match.MatchedPart
		} else {
			o := s.objects[key]
			list.Add(&gofakes3.Content{Key: key, LastModified: gofakes3.NewContentTime(o.modified), ETag: quoted(o.md5), Size: o.size})
		}
		if page.MaxKeys > 0 && int64(len(list.Contents)+len(list.CommonPrefixes)) >= page.MaxKeys {
			list.NextMarker, list.IsTruncated = key, i+1 < len(keys)
			break
		}
	}
	return list, nil
}

func quoted(sum []byte) string { return `"` + hex.EncodeToString(sum) + `"` }

func (s *store) HeadObject(ctx context.Context, bucket, key string) (*gofakes3.Object, error) {
	o, err := s.GetObject(ctx, bucket, key, nil)
	if err != nil {
		return nil, err
	}
	err = o.Contents.Close()
	o.Contents = io.NopCloser(strings.NewReader(""))
	return o, err
}

func (s *store) GetObject(_ context.Context, bucket, key string, wanted *gofakes3.ObjectRangeRequest) (*gofakes3.Object, error) {
	if bucket != Bucket {
		return nil, gofakes3.BucketNotFound(bucket)
	}
	o, ok := s.lookup(key)
	if !ok {
		return nil, gofakes3.KeyNotFound(key)
	}
	part, err := wanted.Range(o.size)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(s.path(key))
	if err != nil {
		return nil, err
	}
	contents := io.ReadCloser(f)
	if part != nil {
		contents = struct {
			io.Reader
			io.Closer
		}{io.NewSectionReader(f, part.Start, part.Length), f}
	}
	metadata := maps.Clone(o.metadata)
	if metadata == nil {
		metadata = map[string]string{}
	}
	metadata["Last-Modified"] = o.modified.UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT")
	return &gofakes3.Object{Name: key, Metadata: metadata, Size: o.size, Contents: contents, Hash: o.md5, Range: part}, nil
}

func (s *store) PutObject(_ context.Context, bucket, key string, metadata map[string]string, in io.Reader, size int64) (gofakes3.PutObjectResult, error) {
	none := gofakes3.PutObjectResult{}
	if bucket != Bucket {
		return none, gofakes3.BucketNotFound(bucket)
	}
	if !filepath.IsLocal(filepath.FromSlash(key)) || strings.HasSuffix(key, "/") {
		return none, gofakes3.ErrorMessagef(gofakes3.ErrInvalidArgument, "%q is no key that a file can be called by", key)
	}
	f, err := os.CreateTemp(s.staging, "upload-")
	if err != nil {
		return none, err
	}
	sum := md5.New()
	n, err := io.Copy(io.MultiWriter(f, sum), in)
	if err == nil && size >= 0 && n != size {
		err = gofakes3.ErrIncompleteBody
	}
	if err := errors.Join(err, f.Close()); err != nil {
		os.Remove(f.Name())
		return none, first(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := errors.Join(os.MkdirAll(filepath.Dir(s.path(key)), 0o755), os.Rename(f.Name(), s.path(key))); err != nil {
		os.Remove(f.Name())
		return none, err
	}
	s.objects[key] = object{size: n, md5: sum.Sum(nil), modified: time.Now(), metadata: metadata}
	s.written[key]++
	return none, nil
}

// first is the part of an error that has a code of S3, which decides about the
// answer.
func first(err error) error {
	var code gofakes3.Error
	if errors.As(err, &code) {
		return code
	}
	return err
}

func (s *store) CopyObject(ctx context.Context, fromBucket, from, toBucket, to string, metadata map[string]string) (gofakes3.CopyObjectResult, error) {
	o, err := s.GetObject(ctx, fromBucket, from, nil)
	if err != nil {
		return gofakes3.CopyObjectResult{}, err
	}
	defer o.Contents.Close()
	if _, err := s.PutObject(ctx, toBucket, to, metadata, o.Contents, o.Size); err != nil {
		return gofakes3.CopyObjectResult{}, err
	}
	return gofakes3.CopyObjectResult{ETag: quoted(o.Hash), LastModified: gofakes3.NewContentTime(time.Now())}, nil
}

func (s *store) DeleteObject(_ context.Context, bucket, key string) (gofakes3.ObjectDeleteResult, error) {
	none := gofakes3.ObjectDeleteResult{}
	if bucket != Bucket {
		return none, gofakes3.BucketNotFound(bucket)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.objects[key]; !ok {
		return none, nil
	}
	delete(s.objects, key)
	return none, os.Remove(s.path(key))
}

func (s *store) DeleteMulti(ctx context.Context, bucket string, keys ...string) (gofakes3.MultiDeleteResult, error) {
	var result gofakes3.MultiDeleteResult
	for _, key := range keys {
		if _, err := s.DeleteObject(ctx, bucket, key); err != nil {
			result.Error = append(result.Error, gofakes3.ErrorResultFromError(err))
			continue
		}
		result.Deleted = append(result.Deleted, gofakes3.ObjectID{Key: key})
	}
	return result, nil
}
