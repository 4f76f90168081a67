package kube

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const widget = `{"apiVersion":"shop.example/v1","kind":"Widget","metadata":{"name":"a:b","namespace":"den","uid":"1"},"big":9007199254740993}`

func TestWritesSayWhatTheServerMustKnow(t *testing.T) {
	var got string
	c := against(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = r.Method + " " + r.URL.RequestURI() + " " + r.Header.Get("Content-Type") + " " + string(body)
		io.WriteString(w, widget)
	}))
	ctx := t.Context()
	zero := int64(0)
	for _, x := range []struct {
		name string
		call func() error
		want string
	}{
		{"create", func() error { _, err := c.Create(ctx, widgets, "den", []byte(widget), WriteOptions{}); return err },
			"POST /apis/shop.example/v1/namespaces/den/widgets?fieldManager=kubectl-backup application/json " + widget},
		{"create, dry", func() error {
			_, err := c.Create(ctx, widgets, "den", []byte("{}"), WriteOptions{DryRun: true, FieldManager: "x", Validation: "Strict"})
			return err
		}, "POST /apis/shop.example/v1/namespaces/den/widgets?dryRun=All&fieldManager=x&fieldValidation=Strict application/json {}"},
		{"replace", func() error {
			_, err := c.Replace(ctx, widgets, "den", "a:b", []byte("{}"), WriteOptions{})
			return err
		},
			"PUT /apis/shop.example/v1/namespaces/den/widgets/a:b?fieldManager=kubectl-backup application/json {}"},
		{"status", func() error {
			_, err := c.ReplaceSubresource(ctx, widgets, "den", "a", "status", []byte("{}"), WriteOptions{})
			return err
		}, "PUT /apis/shop.example/v1/namespaces/den/widgets/a/status?fieldManager=kubectl-backup application/json {}"},
		{"apply", func() error {
			_, err := c.Apply(ctx, namespaces, "", "a", []byte("{}"), WriteOptions{Force: true})
			return err
		}, "PATCH /api/v1/namespaces/a?fieldManager=kubectl-backup&force=true application/apply-patch+yaml {}"},
		{"merge patch", func() error {
			_, err := c.Patch(ctx, widgets, "den", "a", types.MergePatchType, []byte("{}"), WriteOptions{})
			return err
		}, "PATCH /apis/shop.example/v1/namespaces/den/widgets/a?fieldManager=kubectl-backup application/merge-patch+json {}"},
		{"delete", func() error {
			return c.Delete(ctx, widgets, "den", "a", DeleteOptions{UID: "u", Version: "7", Propagation: "Orphan", Grace: &zero, DryRun: true})
		}, `DELETE /apis/shop.example/v1/namespaces/den/widgets/a application/json {"apiVersion":"v1","dryRun":["All"],"gracePeriodSeconds":0,"kind":"DeleteOptions","preconditions":{"resourceVersion":"7","uid":"u"},"propagationPolicy":"Orphan"}`},
	} {
		if err := x.call(); err != nil {
			t.Fatalf("%s: %v", x.name, err)
		}
		if got != x.want {
			t.Errorf("%s sent\n%s\nwant\n%s", x.name, got, x.want)
		}
	}
	o, err := c.Get(ctx, widgets, "den", "a:b")
	if err != nil || string(o.Raw) != widget {
		t.Fatalf("%s, %v: bytes must be the server's", o.Raw, err)
	}
}

// A write is sent again only where the first one cannot have been carried out,
// or where carrying it out twice is the same.
func TestWhatIsSentAgain(t *testing.T) {
	ctx := t.Context()
	create := func(c *Cluster) error {
		_, err := c.Create(ctx, widgets, "den", []byte("{}"), WriteOptions{})
		return err
	}
	apply := func(c *Cluster) error {
		_, err := c.Apply(ctx, widgets, "den", "a", []byte("{}"), WriteOptions{})
		return err
	}
	for _, x := range []struct {
		name string
		call func(*Cluster) error
		code int // 0: the connection is dropped
		want int // requests
	}{
		{"create, turned away", create, 429, 2},
		{"create, unavailable", create, 503, 1},
		{"create, failed", create, 500, 1},
		{"create, conflict", create, 409, 1},
		{"create, no answer", create, 0, 1},
		{"apply, turned away", apply, 429, 2},
		{"apply, unavailable", apply, 503, 2},
		{"apply, failed by a webhook", apply, 500, 1},
		{"apply, no answer", apply, 0, 2},
	} {
		n := 0
		c := against(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if n++; n > 1 {
				io.WriteString(w, widget)
			} else if x.code == 0 {
				panic(http.ErrAbortHandler)
			} else {
				refuse(w, x.code, "", "no", "")
			}
		}))
		err := x.call(c)
		if n != x.want || (err == nil) != (x.want == 2) {
			t.Errorf("%s: %d requests, error %v; want %d requests", x.name, n, err, x.want)
		}
	}
}

func TestWarningsReachTheCaller(t *testing.T) {
	c := against(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Warning", `299 - "unknown field \"spec.colour\""`)
		w.Header().Add("Warning", `299 - "second"`)
		io.WriteString(w, widget)
	}))
	var got []string
	_, err := c.Create(t.Context(), widgets, "den", []byte("{}"), WriteOptions{Warn: func(s string) { got = append(got, s) }})
	if err != nil || len(got) != 2 || got[0] != `unknown field "spec.colour"` || got[1] != "second" {
		t.Fatalf("%q, %v", got, err)
	}
}

// A server that accepts and is silent, before or inside its answer, is an error.
func TestSilenceIsAnError(t *testing.T) {
	for name, first := range map[string]string{"before the answer": "", "inside the answer": `{"items":[`} {
		free := make(chan struct{})
		c := against(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if first != "" {
				io.WriteString(w, first)
				w.(http.Flusher).Flush()
			}
			<-free
		}))
		c.stall = 20 * time.Millisecond
		_, err := c.List(t.Context(), configMaps, ListOptions{}, nil)
		close(free)
		if !errors.Is(err, errStalled) {
			t.Errorf("silent %s: %v", name, err)
		}
	}
}

func TestADeadServerIsNamed(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	c, err := New(&rest.Config{Host: server.URL}, "")
	if err != nil {
		t.Fatal(err)
	}
	c.backoff = time.Millisecond
	_, err = c.Identity(t.Context())
	if err == nil || !strings.Contains(err.Error(), server.URL) || !strings.Contains(err.Error(), "is it up") {
		t.Fatalf("error %v", err)
	}
	if _, _, err := c.Kinds(t.Context()); err == nil || !strings.Contains(err.Error(), "is it up") {
		t.Fatalf("error %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	c.backoff = time.Hour
	if _, err = c.Identity(ctx); err == nil {
		t.Fatal("no error")
	}
}

func TestDeniedIsOnlyAMissingRight(t *testing.T) {
	for _, x := range []struct {
		text, verb, resource string
		ok                   bool
	}{
		{`secrets is forbidden: User "a b" cannot list resource "secrets" in API group "" at the cluster scope`, "list", "secrets", true},
		{`deployments.apps "x" is forbidden: User "a" cannot patch resource "deployments/scale" in API group "apps" in the namespace "n": not yours`, "patch", "deployments/scale", true},
		{`forbidden: User "a" cannot get path "/metrics"`, "get", "/metrics", true},
		{`pods "x" is forbidden: exceeded quota: q, requested: pods=1, used: pods=5, limited: pods=5`, "", "", false},
		{`pods "x" is forbidden: violates PodSecurity "restricted:latest": privileged`, "", "", false},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			refuse(w, 403, metav1.StatusReasonForbidden, x.text, "")
		}))
		c, err := New(&rest.Config{Host: server.URL}, "")
		if err != nil {
			t.Fatal(err)
		}
		_, ours := c.Get(t.Context(), pods, "n", "x")
		typed, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
		if err != nil {
			t.Fatal(err)
		}
		_, theirs := typed.CoreV1().Pods("n").Get(t.Context(), "x", metav1.GetOptions{})
		for _, err := range []error{ours, theirs} {
			verb, resource, ok := Denied(err)
			if verb != x.verb || resource != x.resource || ok != x.ok || !apierrors.IsForbidden(err) {
				t.Errorf("%s: %q %q %v from %v", x.text, verb, resource, ok, err)
			}
			if !x.ok && !strings.Contains(err.Error(), x.text) {
				t.Errorf("the server's words are lost: %v", err)
			}
		}
		server.Close()
	}
}
