package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
)

// WaitFor waits until cond holds for an object, which is nil while there is no
// such object. It watches, and looks anew where the watch is lost. An error of
// cond ends the wait and is returned as it is. The error at the end of the
// context says what was last seen.
func (c *Cluster) WaitFor(ctx context.Context, k Kind, namespace, name string, cond func(*object.Object) (bool, error)) error {
	w := &waiter{c: c, kind: k, namespace: namespace, name: name, cond: cond}
	for wait := c.backoff; ; wait = min(2*wait, 2*time.Second) {
		version, ok, err := w.look(ctx)
		if ok || err != nil {
			return w.ended(ctx, err)
		}
		ok, err = w.watch(ctx, version)
		if ok || err != nil {
			return w.ended(ctx, err)
		}
		// The watch ended, as watches do. Never in a busy loop.
		if err := sleep(ctx, wait); err != nil {
			return w.ended(ctx, err)
		}
	}
}

type waiter struct {
	c               *Cluster
	kind            Kind
	namespace, name string
	cond            func(*object.Object) (bool, error)
	asked           bool
	seen            *object.Object
}

// condError is an error of the caller's condition.
type condError struct{ error }

func (w *waiter) check(o *object.Object) (bool, error) {
	w.asked, w.seen = true, o
	ok, err := w.cond(o)
	if err != nil {
		err = condError{err}
	}
	return ok, err
}

func (w *waiter) ended(ctx context.Context, err error) error {
	var own condError
	if errors.As(err, &own) {
		return own.error
	}
	if err == nil || ctx.Err() == nil {
		return err
	}
	last := "never seen"
	switch {
	case w.seen != nil:
		last = "last seen: " + Summary(w.seen)
	case w.asked:
		last = "last seen: it does not exist"
	}
	return fmt.Errorf("wait for %s %s in namespace %q: %w (%s)", w.kind, w.name, w.namespace, context.Cause(ctx), last)
}

func (w *waiter) query() url.Values {
	return url.Values{"fieldSelector": {"metadata.name=" + w.name}}
}

// look reads the object by a list, which has a version to watch from even when
// the object is not there.
func (w *waiter) look(ctx context.Context) (version string, ok bool, err error) {
	body, err := w.c.read(ctx, request{verb: "list", method: http.MethodGet, kind: w.kind, namespace: w.namespace, query: w.query()})
	if err != nil {
		return "", false, err
	}
	var found *object.Object
	meta, err := object.ParseList(body, w.kind.GVK.GroupVersion().String(), w.kind.GVK.Kind, func(o *object.Object) error {
		found = o
		return nil
	})
	if err != nil {
		return "", false, err
	}
	ok, err = w.check(found)
	return meta.Version, ok, err
}

// watch follows the object until the condition holds or the watch ends, which
// is no error.
func (w *waiter) watch(ctx context.Context, version string) (bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	q := w.query()
	q.Set("watch", "true")
	q.Set("resourceVersion", version)
	r := request{verb: "watch", method: http.MethodGet, kind: w.kind, namespace: w.namespace, query: q}
	resp, err := w.c.send(ctx, r)
	if err != nil {
		if _, again := w.c.again(r, err, 1); again || isExpired(err) {
			return false, nil
		}
		return false, explain(w.c, r, err)
	}
	defer resp.Body.Close()
	events := json.NewDecoder(resp.Body)
	for {
		var event struct {
			Type   string          `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		if err := events.Decode(&event); err != nil {
			if ctx.Err() != nil {
				return false, ctx.Err()
			}
			return false, nil
		}
		switch event.Type {
		case "ADDED", "MODIFIED":
			o, err := object.Parse(event.Object)
			if err != nil {
				return false, fmt.Errorf("%s: %w", r, err)
			}
			if ok, err := w.check(o); ok || err != nil {
				return ok, err
			}
		case "DELETED":
			if ok, err := w.check(nil); ok || err != nil {
				return ok, err
			}
		case "ERROR":
			var status metav1.Status
			if err := json.Unmarshal(event.Object, &status); err != nil {
				return false, fmt.Errorf("%s: %w", r, err)
			}
			if err := error(&apierrors.StatusError{ErrStatus: status}); !isExpired(err) && status.Code < 500 {
				return false, explain(w.c, r, err)
			}
			return false, nil
		}
	}
}

// condition is one of an object's status.conditions.
type condition struct {
	Type, Status, Reason, Message string
}

func conditionsOf(raw []byte) (phase string, all []condition) {
	var o struct {
		Status struct {
			Phase      string
			Conditions []condition
		}
	}
	// What has other types in these fields has no conditions that we know.
	if json.Unmarshal(raw, &o) != nil {
		return "", nil
	}
	return o.Status.Phase, o.Status.Conditions
}

func conditionOf(raw []byte, name string) (condition, bool) {
	_, all := conditionsOf(raw)
	for _, c := range all {
		if c.Type == name {
			return c, true
		}
	}
	return condition{}, false
}

// Summary is the state of an object in a few words.
func Summary(o *object.Object) string {
	var words []string
	phase, all := conditionsOf(o.Raw)
	if phase != "" {
		words = append(words, "phase "+phase)
	}
	for _, c := range all {
		word := c.Type + "=" + c.Status
		if c.Reason != "" {
			word += " (" + c.Reason + ")"
		}
		words = append(words, word)
	}
	if o.Deleting {
		words = append(words, "being deleted")
		var m struct {
			Metadata struct{ Finalizers []string }
			Status   struct {
				Error struct{ Message string }
			}
		}
		if json.Unmarshal(o.Raw, &m) == nil {
			if len(m.Metadata.Finalizers) > 0 {
				words = append(words, "held by finalizers "+strings.Join(m.Metadata.Finalizers, " "))
			}
			// Snapshots say so; other kinds have no such field, or another one.
			if said := strings.Join(strings.Fields(m.Status.Error.Message), " "); said != "" {
				words = append(words, "its error: "+said)
			}
		}
	}
	if len(words) == 0 {
		return "it exists, at resourceVersion " + o.Version
	}
	return strings.Join(words, ", ")
}

// tail keeps the end of what is written to it.
type tail struct {
	next  io.Writer
	bytes []byte
}

// maxTail is enough for a last error message.
const maxTail = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.bytes = append(t.bytes, p[max(0, len(p)-maxTail):]...)
	if over := len(t.bytes) - maxTail; over > 0 {
		t.bytes = append(t.bytes[:0], t.bytes[over:]...)
	}
	if t.next == nil {
		return len(p), nil
	}
	return t.next.Write(p)
}

func (t *tail) String() string {
	return strings.TrimSpace(string(bytes.ToValidUTF8(t.bytes, []byte("?"))))
}
