package kube

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/google/uuid"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
)

const (
	defaultPage = 500
	// maxStarts bounds how often one list is begun when the server keeps
	// forgetting where it was.
	maxStarts = 5
	// maxPage bounds the bytes of one page: a larger one is asked for again in
	// smaller pieces. A single object may be larger.
	maxPage = 64 << 20
)

// ListOptions narrow a list on the server.
type ListOptions struct {
	Namespace     string // empty: all
	LabelSelector string
	FieldSelector string
	PageSize      int64 // 0: 500
}

// ListResult says what kind of a list it was.
type ListResult struct {
	Count int
	// Consistent says that all objects are from one point in time. It is false
	// when the server forgot that time before the list was read to its end.
	Consistent bool
	// Version is the resourceVersion of the last page.
	Version string
	// Starts counts how often the list was begun.
	Starts int
}

// List calls each for every object of a kind, in the server's order, from one
// goroutine, while the next page is on its way. No object comes twice. Memory
// is bounded by two pages. An error of each ends the list and is returned as
// it is; after any error, what was delivered is only a part.
func (c *Cluster) List(ctx context.Context, k Kind, o ListOptions, each func(*object.Object) error) (ListResult, error) {
	l := &lister{c: c, kind: k, options: o, each: each, limit: o.PageSize, seen: map[[16]byte]struct{}{}}
	if l.limit <= 0 {
		l.limit = defaultPage
	}
	l.result.Consistent = true
	for {
		l.result.Starts++
		err := l.walk(ctx)
		if !isExpired(err) {
			return l.result, err
		}
		if l.result.Starts == maxStarts {
			return l.result, fmt.Errorf("%s: began %d times and never reached the end: the server keeps dropping the place in the list: %w", l.request(""), maxStarts, err)
		}
		if len(l.seen) > 0 {
			l.result.Consistent = false
		}
		if err := sleep(ctx, c.backoff<<l.result.Starts); err != nil {
			return l.result, fmt.Errorf("%s: %w", l.request(""), err)
		}
	}
}

type lister struct {
	c       *Cluster
	kind    Kind
	options ListOptions
	each    func(*object.Object) error
	limit   int64
	result  ListResult
	seen    map[[16]byte]struct{}
}

// page is one answer, whole: of a page that breaks off nothing is delivered.
type page struct {
	items []*object.Object
	meta  object.ListMeta
	err   error
}

// walk reads the list once from its beginning.
func (l *lister) walk(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	next := l.ask(ctx, "")
	defer func() {
		cancel()
		<-next // nothing of ours runs on after the list is over
	}()
	expired := false
	token := ""
	for {
		p := <-next
		if p.err != nil {
			fresh := freshToken(p.err)
			// The server offers to go on from the same place at a later time.
			// Twice in a row without a page between is no progress.
			if isExpired(p.err) && fresh != "" && !expired {
				expired = true
				l.result.Consistent = false
				token = fresh
				next = l.ask(ctx, token)
				continue
			}
			next = done
			return p.err
		}
		expired = false
		last := p.meta.Continue == ""
		if p.meta.Continue == token && !last {
			next = done
			return fmt.Errorf("%s: the server gave the same continue token twice", l.request(token))
		}
		token = p.meta.Continue
		next = done
		if !last {
			next = l.ask(ctx, token)
		}
		l.result.Version = p.meta.Version
		for i, o := range p.items {
			p.items[i] = nil
			id := identityOf(o)
			if _, ok := l.seen[id]; ok {
				continue
			}
			l.seen[id] = struct{}{}
			l.result.Count++
			if err := l.each(o); err != nil {
				return err
			}
		}
		if last {
			return nil
		}
	}
}

// done is the channel of a page that nobody asked for.
var done = func() chan page { c := make(chan page); close(c); return c }()

// ask reads one page in the background.
func (l *lister) ask(ctx context.Context, token string) chan page {
	answer := make(chan page, 1)
	go func() {
		answer <- l.read(ctx, token)
		close(answer)
	}()
	return answer
}

func (l *lister) request(token string) request {
	query := url.Values{"limit": {strconv.FormatInt(l.limit, 10)}}
	if token != "" {
		query.Set("continue", token)
	}
	if l.options.LabelSelector != "" {
		query.Set("labelSelector", l.options.LabelSelector)
	}
	if l.options.FieldSelector != "" {
		query.Set("fieldSelector", l.options.FieldSelector)
	}
	return request{verb: "list", method: http.MethodGet, kind: l.kind, namespace: l.options.Namespace, query: query}
}

var errPageTooLarge = errors.New("the page is too large")

// read reads one page and takes it apart, asking for fewer objects where they
// are very large.
func (l *lister) read(ctx context.Context, token string) page {
	buffer := buffers.Get().(*[]byte)
	defer func() {
		if cap(*buffer) <= maxPage/4 {
			buffers.Put(buffer)
		}
	}()
	for {
		limit := int64(maxPage)
		if l.limit == 1 {
			limit = 1 << 40
		}
		var p page
		p.err = l.c.try(ctx, l.request(token), func(resp *http.Response) (err error) {
			*buffer, err = readInto((*buffer)[:0], resp.Body, limit)
			if err != nil {
				return err
			}
			p.items = make([]*object.Object, 0, l.limit)
			p.meta, err = object.ParseList(*buffer, l.kind.GVK.GroupVersion().String(), l.kind.GVK.Kind, func(o *object.Object) error {
				p.items = append(p.items, o)
				return nil
			})
			return err
		})
		if errors.Is(p.err, errPageTooLarge) {
			l.limit = max(1, l.limit/8)
			continue
		}
		return p
	}
}

// readInto reads all of r into b, up to a limit.
func readInto(b []byte, r io.Reader, limit int64) ([]byte, error) {
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case err == io.EOF:
			return b, nil
		case err != nil:
			return b, err
		case int64(len(b)) > limit:
			return b, errPageTooLarge
		}
	}
}

func isExpired(err error) bool {
	return err != nil && (apierrors.IsResourceExpired(err) || apierrors.IsGone(err))
}

// freshToken is the continue token inside an expiry, if there is one.
func freshToken(err error) string {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return status.Status().Continue
	}
	return ""
}

// identityOf is what makes an object the same one: its UID, in 16 bytes since
// one is kept for every object of a list. Some aggregated servers give none.
func identityOf(o *object.Object) [16]byte {
	if id, err := uuid.Parse(o.UID); err == nil {
		return id
	}
	sum := sha256.Sum256([]byte(o.Ref.Namespace + "/" + o.Ref.Name + "/" + o.UID))
	return [16]byte(sum[:16])
}
