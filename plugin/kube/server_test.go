package kube

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
)

var (
	configMaps = Kind{GVK: schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}, Resource: "configmaps", Namespaced: true}
	widgets    = Kind{GVK: schema.GroupVersionKind{Group: "shop.example", Version: "v1", Kind: "Widget"}, Resource: "widgets", Namespaced: true}
)

// against makes a cluster of a handler, impatient enough for tests.
func against(t *testing.T, handler http.Handler) *Cluster {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	c, err := New(&rest.Config{Host: server.URL}, "test")
	if err != nil {
		t.Fatal(err)
	}
	c.backoff, c.stall = time.Millisecond, 2*time.Second
	return c
}

// shelf serves one list of numbered config maps in pages, as a real server
// does, and lets a test spoil single answers.
type shelf struct {
	mu     sync.Mutex
	names  []string
	size   int // bytes of data in each
	starts int // lists begun
	pages  int // requests
	// spoil, where set, may answer request number n (from 1) itself.
	spoil func(n int, w http.ResponseWriter, r *http.Request) bool
	// asked collects the limits asked for.
	asked []string
}

func shelfOf(n int) *shelf {
	s := &shelf{}
	for i := range n {
		s.names = append(s.names, fmt.Sprintf("c%05d", i))
	}
	return s
}

// uidOf is stable: the same name is the same object.
func uidOf(name string) string {
	n, _ := strconv.Atoi(name[1:])
	return fmt.Sprintf("00000000-0000-4000-8000-%012d", n)
}

func (s *shelf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pages++
	q := r.URL.Query()
	if q.Get("continue") == "" {
		s.starts++
	}
	s.asked = append(s.asked, q.Get("limit"))
	if s.spoil != nil && s.spoil(s.pages, w, r) {
		return
	}
	w.Write(s.page(q.Get("continue"), q.Get("limit")))
}

func (s *shelf) page(token, limit string) []byte {
	from, _ := strconv.Atoi(token)
	n, _ := strconv.Atoi(limit)
	to := min(from+n, len(s.names))
	items := []map[string]any{}
	for _, name := range s.names[from:to] {
		items = append(items, map[string]any{
			"metadata": map[string]any{"name": name, "namespace": "den", "uid": uidOf(name), "resourceVersion": "5"},
			"data":     map[string]string{"filler": string(make([]byte, s.size))},
		})
	}
	meta := map[string]any{"resourceVersion": "9"}
	if to < len(s.names) {
		meta["continue"] = strconv.Itoa(to)
	}
	out, _ := json.Marshal(map[string]any{"kind": "ConfigMapList", "apiVersion": "v1", "metadata": meta, "items": items})
	return out
}

// refuse answers with a Status, as API servers do.
func refuse(w http.ResponseWriter, code int, reason metav1.StatusReason, message, token string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, ListMeta: metav1.ListMeta{Continue: token},
		Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message,
	})
}
