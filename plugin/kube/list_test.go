package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
)

// collect lists and counts how often each object came.
func collect(t *testing.T, c *Cluster, o ListOptions) (map[string]int, ListResult, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	got := map[string]int{}
	result, err := c.List(ctx, configMaps, o, func(o *object.Object) error {
		got[o.Ref.Name]++
		if !strings.HasPrefix(string(o.Raw), `{"apiVersion":"v1","kind":"ConfigMap",`) {
			t.Errorf("an item without its kind: %.80s", o.Raw)
		}
		return nil
	})
	return got, result, err
}

func wantAll(t *testing.T, got map[string]int, names []string) {
	t.Helper()
	for _, name := range names {
		if got[name] != 1 {
			t.Errorf("%s came %d times", name, got[name])
		}
	}
	if len(got) != len(names) {
		t.Errorf("%d objects, want %d", len(got), len(names))
	}
}

// Whatever happens to single answers on the way, the list is whole and nothing
// comes twice; where it is not from one point in time, it says so.
func TestListSurvives(t *testing.T) {
	gone := func(token string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			refuse(w, http.StatusGone, metav1.StatusReasonExpired, "The provided continue parameter is too old", token)
		}
	}
	status := func(code int) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { refuse(w, code, "", "try later", "") }
	}
	once := func(n int, answer func(http.ResponseWriter)) func(*shelf) {
		return func(s *shelf) {
			s.spoil = func(at int, w http.ResponseWriter, _ *http.Request) bool {
				if at == n {
					answer(w)
				}
				return at == n
			}
		}
	}
	for _, c := range []struct {
		name       string
		spoil      func(*shelf)
		starts     int
		consistent bool
	}{
		{"nothing happens", func(*shelf) {}, 1, true},
		{"an expired token with a fresh one", once(2, gone("500")), 1, false},
		{"an expired token with none", once(2, gone("")), 2, false},
		{"an expired token on the last page", once(3, gone("")), 2, false},
		{"a fresh token again and again, with progress between", func(s *shelf) {
			s.spoil = func(n int, w http.ResponseWriter, r *http.Request) bool {
				if n%2 == 1 || r.URL.Query().Get("continue") == "" {
					return false
				}
				gone(r.URL.Query().Get("continue"))(w)
				return true
			}
		}, 1, false},
		{"too many requests", once(2, status(429)), 1, true},
		{"an internal error", once(2, status(500)), 1, true},
		{"unavailable", once(3, status(503)), 1, true},
		{"a proxy's own page", once(2, func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(http.StatusBadGateway)
			w.Write([]byte("<html>bad gateway</html>"))
		}), 1, true},
		{"an answer that is cut", once(2, func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "100000")
			w.Write([]byte(`{"kind":"ConfigMapList","apiVersion":"v1","items":[{"metadata":{"name":"half"`))
		}), 1, true},
		{"an answer that is cut and closed as if whole", once(2, func(w http.ResponseWriter) {
			w.Write([]byte(`{"kind":"ConfigMapList","apiVersion":"v1","items":[{"metadata":{"name":"half","uid":"x"}}`))
		}), 1, true},
		{"a connection that is dropped", once(2, func(http.ResponseWriter) { panic(http.ErrAbortHandler) }), 1, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := shelfOf(1200)
			c.spoil(s)
			got, result, err := collect(t, against(t, s), ListOptions{Namespace: "den"})
			if err != nil {
				t.Fatal(err)
			}
			wantAll(t, got, s.names)
			if result.Consistent != c.consistent || s.starts != c.starts || result.Starts != c.starts || result.Count != 1200 {
				t.Errorf("%+v after %d starts, want consistent %v and %d starts", result, s.starts, c.consistent, c.starts)
			}
		})
	}
}

// Objects that change places between two beginnings come once, and new ones too.
func TestListBegunAgainDeliversOnce(t *testing.T) {
	s := shelfOf(1200)
	s.spoil = func(n int, w http.ResponseWriter, r *http.Request) bool {
		if n != 3 {
			return false
		}
		s.names = append(append([]string{"c90000", "c90001"}, s.names[100:]...), s.names[:100]...)
		refuse(w, http.StatusGone, metav1.StatusReasonExpired, "too old", "")
		return true
	}
	got, result, err := collect(t, against(t, s), ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	wantAll(t, got, s.names)
	if result.Consistent {
		t.Error("a list of two points in time is called consistent")
	}
}

func TestListThatAlwaysExpiresEnds(t *testing.T) {
	for _, fresh := range []string{"", "500"} {
		s := shelfOf(1200)
		s.spoil = func(n int, w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Query().Get("continue") == "" {
				return false
			}
			refuse(w, http.StatusGone, metav1.StatusReasonExpired, "too old", fresh)
			return true
		}
		got, _, err := collect(t, against(t, s), ListOptions{})
		if err == nil || !strings.Contains(err.Error(), "configmaps") {
			t.Fatalf("error %v, want one that names the kind", err)
		}
		if s.starts > 5 || s.pages > 20 {
			t.Errorf("%d starts, %d requests", s.starts, s.pages)
		}
		for name, n := range got {
			if n != 1 {
				t.Errorf("%s came %d times", name, n)
			}
		}
	}
}

func TestListStopsAtOnceOnWhatIsFinal(t *testing.T) {
	for _, c := range []struct {
		name string
		code int
		text string
		is   func(error) bool
	}{
		{"forbidden", 403, `configmaps is forbidden: User "eve" cannot list resource "configmaps" in API group "" in the namespace "den"`, func(err error) bool {
			verb, resource, ok := Denied(err)
			var denied *DeniedError
			return ok && verb == "list" && resource == "configmaps" && errors.As(err, &denied) && denied.Namespace == "den" &&
				strings.Contains(err.Error(), "no right to list configmaps in namespace den (ask for: kubectl create role NAME -n den --verb=list --resource=configmaps)")
		}},
		{"gone", 404, "the server could not find the requested resource", apierrors.IsNotFound},
		{"no list", 405, "the server does not allow this method", apierrors.IsMethodNotSupported},
		{"logged out", 401, "Unauthorized", func(err error) bool {
			return apierrors.IsUnauthorized(err) && strings.Contains(err.Error(), "log in")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := shelfOf(3)
			s.spoil = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
				reason := map[int]metav1.StatusReason{403: metav1.StatusReasonForbidden, 404: metav1.StatusReasonNotFound, 405: metav1.StatusReasonMethodNotAllowed, 401: metav1.StatusReasonUnauthorized}[c.code]
				refuse(w, c.code, reason, c.text, "")
				return true
			}
			_, _, err := collect(t, against(t, s), ListOptions{Namespace: "den"})
			if err == nil || !c.is(err) || !strings.Contains(err.Error(), "configmaps") {
				t.Fatalf("error %v", err)
			}
			if s.pages != 1 {
				t.Errorf("%d requests for a final answer", s.pages)
			}
		})
	}
}

func TestListGivesUpOnAServerThatStaysIll(t *testing.T) {
	s := shelfOf(3)
	s.spoil = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
		refuse(w, 503, metav1.StatusReasonServiceUnavailable, "no endpoints", "")
		return true
	}
	_, _, err := collect(t, against(t, s), ListOptions{})
	if err == nil || s.pages != maxTries {
		t.Fatalf("error %v after %d requests", err, s.pages)
	}
}

func TestListEndsWithItsContextAndItsCaller(t *testing.T) {
	s := shelfOf(1200)
	c := against(t, s)
	stop := errors.New("enough")
	n := 0
	if _, err := c.List(t.Context(), configMaps, ListOptions{}, func(*object.Object) error {
		if n++; n == 700 {
			return stop
		}
		return nil
	}); err != stop {
		t.Fatalf("error %v, want the caller's own", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := c.List(ctx, configMaps, ListOptions{}, func(*object.Object) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
}

func TestVeryLargeObjectsAreAskedForInSmallerPages(t *testing.T) {
	s := shelfOf(12)
	s.size = 2 << 20 // escaped, each zero byte is six: 12 MiB an object
	got, _, err := collect(t, against(t, s), ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	wantAll(t, got, s.names)
	if last := s.asked[len(s.asked)-1]; last == "500" {
		t.Errorf("limits asked for: %v", s.asked)
	}
}

func TestSelectorAndNamespaceGoToTheServer(t *testing.T) {
	var seen string
	c := against(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = r.URL.Path + "?" + r.URL.RawQuery
		fmt.Fprint(w, `{"items":[]}`)
	}))
	for _, x := range []struct {
		kind Kind
		o    ListOptions
		want string
	}{
		{configMaps, ListOptions{}, "/api/v1/configmaps?limit=500"},
		{configMaps, ListOptions{Namespace: "den", PageSize: 7}, "/api/v1/namespaces/den/configmaps?limit=7"},
		{widgets, ListOptions{Namespace: "den", LabelSelector: "tier in (a,b)"}, "/apis/shop.example/v1/namespaces/den/widgets?labelSelector=tier+in+%28a%2Cb%29&limit=500"},
		{namespaces, ListOptions{}, "/api/v1/namespaces?limit=500"},
	} {
		if _, err := c.List(t.Context(), x.kind, x.o, nil); err != nil {
			t.Fatal(err)
		}
		if seen != x.want {
			t.Errorf("asked %s, want %s", seen, x.want)
		}
	}
}
