package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
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
	return c.WaitForEach(ctx, k, namespace, []string{name}, func(_ string, o *object.Object) (bool, error) { return cond(o) })
}

// WaitForEach is WaitFor for several objects of one kind and namespace, with one
// watch. cond is called from one goroutine, and not again for an object that it
// holds for.
func (c *Cluster) WaitForEach(ctx context.Context, k Kind, namespace string, names []string, cond func(name string, o *object.Object) (bool, error)) error {
	w := &waiter{c: c, kind: k, namespace: namespace, cond: cond, waiting: make(map[string]bool, len(names))}
	for _, n := range names {
		w.waiting[n] = true
	}
	if len(names) == 1 {
		w.only = "metadata.name=" + names[0]
	}
	for wait := c.backoff; ; wait = min(2*wait, 2*time.Second) {
		version, err := w.look(ctx)
		if err == nil && version != "" && len(w.waiting) > 0 {
			err = w.watch(ctx, version)
		}
		if len(w.waiting) == 0 || err != nil {
			return w.ended(ctx, err)
		}
		// The watch ended, as watches do. Never in a busy loop.
		if err := sleep(ctx, wait); err != nil {
			return w.ended(ctx, err)
		}
	}
}

type waiter struct {
	c         *Cluster
	kind      Kind
	namespace string
	only      string // a field selector
	cond      func(string, *object.Object) (bool, error)
	waiting   map[string]bool // those for which the condition does not hold yet
	// last is the name that was asked for last, and seen what was there.
	last string
	seen *object.Object
}

// condError is an error of the caller's condition.
type condError struct{ error }

func (w *waiter) check(name string, o *object.Object) error {
	if !w.waiting[name] {
		return nil
	}
	w.last, w.seen = name, o
	ok, err := w.cond(name, o)
	if err != nil {
		return condError{err}
	}
	if ok {
		delete(w.waiting, name)
	}
	return nil
}

func (w *waiter) ended(ctx context.Context, err error) error {
	var own condError
	if errors.As(err, &own) {
		return own.error
	}
	if err == nil || ctx.Err() == nil {
		return err
	}
	names := slices.Sorted(maps.Keys(w.waiting))
	last := "never seen"
	switch {
	case w.seen != nil:
		last = "last seen: " + Summary(w.seen)
	case w.last != "":
		last = "last seen: it does not exist"
	}
	what := names[0]
	if more := len(names) - 1; more > 0 {
		what = fmt.Sprintf("%s and %d more", what, more)
		last = w.last + " " + last
	}
	return fmt.Errorf("wait for %s %s in namespace %q: %w (%s)", w.kind, what, w.namespace, context.Cause(ctx), last)
}

// look reads the objects by a list, which has a version to watch from even when
// they are not there. It is empty where the list is not from one point in time.
func (w *waiter) look(ctx context.Context) (version string, err error) {
	absent := maps.Clone(w.waiting)
	list, err := w.c.List(ctx, w.kind, ListOptions{Namespace: w.namespace, FieldSelector: w.only}, func(o *object.Object) error {
		delete(absent, o.Ref.Name)
		return w.check(o.Ref.Name, o)
	})
	if err != nil {
		return "", err
	}
	for name := range absent {
		if err := w.check(name, nil); err != nil {
			return "", err
		}
	}
	if !list.Consistent {
		return "", nil
	}
	return list.Version, nil
}

// watch follows the objects until the condition holds for each or the watch
// ends, which is no error.
func (w *waiter) watch(ctx context.Context, version string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	q := url.Values{"watch": {"true"}, "resourceVersion": {version}}
	if w.only != "" {
		q.Set("fieldSelector", w.only)
	}
	r := request{verb: "watch", method: http.MethodGet, kind: w.kind, namespace: w.namespace, query: q}
	resp, err := w.c.send(ctx, r)
	if err != nil {
		if _, again := w.c.again(r, err, 1); again || isExpired(err) {
			return nil
		}
		return explain(w.c, r, err)
	}
	defer resp.Body.Close()
	events := json.NewDecoder(resp.Body)
	for len(w.waiting) > 0 {
		var event struct {
			Type   string          `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		if err := events.Decode(&event); err != nil {
			return ctx.Err()
		}
		switch event.Type {
		case "ADDED", "MODIFIED", "DELETED":
			o, err := object.Parse(event.Object)
			if err != nil {
				return fmt.Errorf("%s: %w", r, err)
			}
			now := o
			if event.Type == "DELETED" {
				now = nil
			}
			if err := w.check(o.Ref.Name, now); err != nil {
				return err
			}
		case "ERROR":
			var status metav1.Status
			if err := json.Unmarshal(event.Object, &status); err != nil {
				return fmt.Errorf("%s: %w", r, err)
			}
			if err := error(&apierrors.StatusError{ErrStatus: status}); !isExpired(err) && status.Code < 500 {
				return explain(w.c, r, err)
			}
			return nil
		}
	}
	return nil
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
