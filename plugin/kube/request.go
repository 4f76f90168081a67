package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const (
	// maxTries and retryFor bound the patience with a server that is ill: what
	// comes first ends it. The caller's deadline may end it sooner.
	maxTries   = 6
	retryFor   = 45 * time.Second
	maxBackoff = 8 * time.Second
	// maxStatus bounds what is read of an error's body.
	maxStatus = 256 << 10
)

// errStalled is the cause when a server accepts a request and then is silent.
var errStalled = errors.New("the API server stopped answering")

// request is one call of the API server. Verb is the one that access rights
// speak of; the rest says what it is about, for errors.
type request struct {
	verb, method string
	kind         Kind
	namespace    string
	name         string
	subresource  string
	path         []string // instead of kind, for what is not a resource
	query        url.Values
	body         []byte
	contentType  string
	// repeatable says that a call that is not a GET may be sent again although
	// the first one may have been carried out.
	repeatable bool
	// warn takes the warnings that the server adds to its answer.
	warn func(string)
}

// String says what is being done to what: "list secrets in namespace x".
func (r request) String() string {
	if r.path != nil {
		return r.verb + " /" + strings.Join(r.path, "/")
	}
	resource := r.kind.String()
	if r.subresource != "" {
		resource += "/" + r.subresource
	}
	s := r.verb + " " + resource
	if r.name != "" {
		s += " " + r.name
	}
	if r.namespace != "" {
		s += " in namespace " + r.namespace
	}
	return s
}

func (r request) safe() bool { return r.repeatable || r.method == http.MethodGet }

func (c *Cluster) url(r request) *url.URL {
	path := r.path
	if path == nil {
		if r.kind.GVK.Group == "" {
			path = []string{"api", r.kind.GVK.Version}
		} else {
			path = []string{"apis", r.kind.GVK.Group, r.kind.GVK.Version}
		}
		if r.kind.Namespaced && r.namespace != "" {
			path = append(path, "namespaces", url.PathEscape(r.namespace))
		}
		path = append(path, r.kind.Resource)
		if r.name != "" {
			path = append(path, url.PathEscape(r.name))
		}
		if r.subresource != "" {
			path = append(path, r.subresource)
		}
	}
	u := c.base.JoinPath(path...)
	u.RawQuery = r.query.Encode()
	return u
}

// read sends the request and returns the whole answer, trying again where that
// is safe.
func (c *Cluster) read(ctx context.Context, r request) ([]byte, error) {
	var body []byte
	err := c.try(ctx, r, func(resp *http.Response) (err error) {
		body, err = io.ReadAll(resp.Body)
		return err
	})
	return body, err
}

// try sends the request until take has the answer, an error is final, or
// patience ends. take may be called again after it failed on a broken answer.
func (c *Cluster) try(ctx context.Context, r request, take func(*http.Response) error) error {
	start := time.Now()
	for n := 1; ; n++ {
		err := c.once(ctx, r, take)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", r, context.Cause(ctx))
		}
		wait, again := c.again(r, err, n)
		if !again || time.Since(start)+wait > retryFor {
			return explain(c, r, err)
		}
		if err := sleep(ctx, wait); err != nil {
			return fmt.Errorf("%s: %w; the last try said: %w", r, err, explain(c, r, err))
		}
	}
}

// once sends the request one time, and gives up when the server is silent for
// too long, before or inside its answer.
func (c *Cluster) once(ctx context.Context, r request, take func(*http.Response) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	guard := time.AfterFunc(c.stall, func() { cancel(errStalled) })
	defer guard.Stop()
	resp, err := c.send(ctx, r)
	if err == nil {
		resp.Body = &guarded{ReadCloser: resp.Body, guard: guard, limit: c.stall}
		err = take(resp)
		resp.Body.Close()
	}
	if err != nil && context.Cause(ctx) == errStalled {
		return fmt.Errorf("%w for %s", errStalled, c.stall)
	}
	return err
}

// guarded lets the server be slow, but not silent.
type guarded struct {
	io.ReadCloser
	guard *time.Timer
	limit time.Duration
}

func (g *guarded) Read(p []byte) (int, error) {
	n, err := g.ReadCloser.Read(p)
	if n > 0 {
		g.guard.Reset(g.limit)
	}
	if err != nil && err != io.EOF {
		err = brokenError{err}
	}
	return n, err
}

// brokenError is an answer that ended in the middle.
type brokenError struct{ error }

func (e brokenError) Error() string { return "the answer broke off: " + e.error.Error() }
func (e brokenError) Unwrap() error { return e.error }

// send sends the request and returns an answer that is not an error. The
// caller closes its body.
func (c *Cluster) send(ctx context.Context, r request) (*http.Response, error) {
	var body io.Reader
	if r.body != nil {
		body = bytes.NewReader(r.body)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, c.url(r).String(), body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // the address is in our own message, once
		}
		return nil, err
	}
	if r.warn != nil {
		for _, h := range resp.Header.Values("Warning") {
			r.warn(warningText(h))
		}
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxStatus))
	seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
	var status metav1.Status
	if err := json.Unmarshal(text, &status); err == nil && status.Kind == "Status" && status.Status != metav1.StatusSuccess {
		if status.Code == 0 {
			status.Code = int32(resp.StatusCode)
		}
		if seconds > 0 {
			if status.Details == nil {
				status.Details = &metav1.StatusDetails{}
			}
			status.Details.RetryAfterSeconds = int32(seconds)
		}
		return nil, &apierrors.StatusError{ErrStatus: status}
	}
	resource := schema.GroupResource{Group: r.kind.GVK.Group, Resource: r.kind.Resource}
	return nil, apierrors.NewGenericServerResponse(resp.StatusCode, r.method, resource, r.name, strings.TrimSpace(string(text[:min(len(text), 512)])), seconds, true)
}

// warningText takes the text out of a Warning header: 299 - "text".
func warningText(header string) string {
	if i := strings.IndexByte(header, '"'); i >= 0 {
		if text, err := strconv.Unquote(header[i:]); err == nil {
			return text
		}
	}
	return header
}

// again decides whether a failed request is worth another try, and after what
// wait.
func (c *Cluster) again(r request, err error, tries int) (time.Duration, bool) {
	if tries >= maxTries {
		return 0, false
	}
	wait := min(c.backoff<<(tries-1), maxBackoff)
	wait += rand.N(wait/4 + 1)
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		s := status.Status()
		if s.Details != nil && s.Details.RetryAfterSeconds > 0 {
			// Asked to wait for longer than we are willing to: say so now.
			if asked := time.Duration(s.Details.RetryAfterSeconds) * time.Second; asked > wait {
				wait = asked
			}
		}
		switch s.Code {
		case http.StatusTooManyRequests:
			return wait, true // turned away before anything was done
		case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return wait, r.safe()
		case http.StatusInternalServerError:
			// A write that a webhook failed says 500 as well, each time.
			return wait, r.method == http.MethodGet
		}
		return 0, false
	}
	var broken brokenError
	var network net.Error
	var op *net.OpError
	switch {
	case errors.As(err, &op) && op.Op == "dial":
		return wait, true // it was never sent
	case errors.As(err, &broken), errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, errStalled):
		return wait, r.safe()
	default:
		// HTTP/2 has its own errors for connections that were lost; what take
		// says about a whole answer is final.
		return wait, r.safe() && strings.HasPrefix(err.Error(), "http2: ")
	}
}

// explain says what failed, and what a person could do about it.
func explain(c *Cluster, r request, err error) error {
	if denied := deniedBy(err, r); denied != nil {
		return denied
	}
	switch {
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%s: %w (the credentials of this context were refused: log in again)", r, err)
	case apierrors.ReasonForError(err) != metav1.StatusReasonUnknown:
		return fmt.Errorf("%s: %w", r, err)
	}
	var status apierrors.APIStatus
	var network net.Error
	if !errors.As(err, &status) && (errors.As(err, &network) || errors.Is(err, errStalled)) {
		return fmt.Errorf("%s: no answer from %s: %w (is it up, and is this the right context?)", r, c.server(), err)
	}
	return fmt.Errorf("%s: %w", r, err)
}

// sleep waits, or ends with the context's error.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// buffers are pages that were read and taken apart.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 1<<20); return &b }}
