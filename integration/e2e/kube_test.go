package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
)

const toolImage = "localhost/busybox:dev"

// restConfig is how to reach one of the two clusters.
func restConfig(t testing.TB, contextName string) *rest.Config {
	t.Helper()
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		&clientcmd.ClientConfigLoadingRules{ExplicitPath: clusters(t).Kubeconfig()}, &clientcmd.ConfigOverrides{CurrentContext: contextName}).ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	cfg.QPS = -1
	return cfg
}

func clusterOf(t testing.TB, cfg *rest.Config) *kube.Cluster {
	t.Helper()
	c, err := kube.New(cfg, "src")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func kindOf(t testing.TB, c *kube.Cluster, group, kind string) kube.Kind {
	t.Helper()
	k, err := c.FindKind(t.Context(), group, "", kind)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// scratch is a new namespace, gone after the test.
func scratch(t testing.TB, c *kube.Cluster) string {
	t.Helper()
	ns, err := c.Typed().CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "kube-test-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Typed().CoreV1().Namespaces().Delete(context.Background(), ns.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	// Pods are refused before the namespace has its account.
	account := kindOf(t, c, "", "ServiceAccount")
	if err := c.WaitFor(t.Context(), account, ns.Name, "default", func(o *object.Object) (bool, error) { return o != nil, nil }); err != nil {
		t.Fatal(err)
	}
	return ns.Name
}

// fill makes n small config maps.
func fill(t testing.TB, c *kube.Cluster, namespace string, n int) {
	t.Helper()
	k := kindOf(t, c, "", "ConfigMap")
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := int(next.Add(1)); i <= n; i = int(next.Add(1)) {
				raw := fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m%05d","labels":{"app":"fill","part":"p%d"},"annotations":{"note":"made for a test"}},"data":{"number":"%d","text":%q}}`,
					i, i%7, i, strings.Repeat("some settings of a small application\n", 12))
				if _, err := c.Create(context.Background(), k, namespace, []byte(raw), kube.WriteOptions{}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// front is a reverse proxy before the real server that may answer by itself.
type front struct {
	mu     sync.Mutex
	starts map[string]int // lists begun, by path
	answer func(w http.ResponseWriter, r *http.Request) bool
}

func startFront(t *testing.T, cfg *rest.Config, answer func(http.ResponseWriter, *http.Request) bool) (*front, *kube.Cluster) {
	t.Helper()
	target, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	transport, err := rest.TransportFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, Transport: transport}
	f := &front{starts: map[string]int{}, answer: answer}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if q.Get("limit") != "" && q.Get("continue") == "" {
			f.mu.Lock()
			f.starts[r.URL.Path]++
			f.mu.Unlock()
		}
		if !f.answer(w, r) {
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return f, clusterOf(t, &rest.Config{Host: server.URL})
}

func expire(w http.ResponseWriter, token string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusGone)
	json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, ListMeta: metav1.ListMeta{Continue: token},
		Status: metav1.StatusFailure, Code: http.StatusGone, Reason: metav1.StatusReasonExpired,
		Message: "The provided continue parameter is too old to display a consistent list result.",
	})
}

func TestListWhoseTokenExpires(t *testing.T) {
	cfg := restConfig(t, "src")
	direct := clusterOf(t, cfg)
	namespace := scratch(t, direct)
	fill(t, direct, namespace, 1200)
	maps, secrets := kindOf(t, direct, "", "ConfigMap"), kindOf(t, direct, "", "Secret")
	for name, fresh := range map[string]bool{"fresh token": true, "no token": false} {
		t.Run(name, func(t *testing.T) {
			var spoiled atomic.Bool
			f, c := startFront(t, cfg, func(w http.ResponseWriter, r *http.Request) bool {
				token := r.URL.Query().Get("continue")
				if token == "" || !strings.HasSuffix(r.URL.Path, "/configmaps") || !spoiled.CompareAndSwap(false, true) {
					return false
				}
				if !fresh {
					token = ""
				}
				expire(w, token)
				return true
			})
			uids := map[string]int{}
			result, err := c.List(t.Context(), maps, kube.ListOptions{Namespace: namespace, LabelSelector: "app=fill"}, func(o *object.Object) error { uids[o.UID]++; return nil })
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.List(t.Context(), secrets, kube.ListOptions{Namespace: namespace}, func(*object.Object) error { return nil }); err != nil {
				t.Fatal(err)
			}
			if len(uids) != 1200 || result.Count != 1200 || result.Consistent {
				t.Errorf("%d objects, %+v", len(uids), result)
			}
			for uid, n := range uids {
				if n != 1 {
					t.Errorf("%s came %d times", uid, n)
				}
			}
			if n := f.starts["/api/v1/namespaces/"+namespace+"/secrets"]; n != 1 {
				t.Errorf("another kind was listed %d times", n)
			}
		})
	}
	t.Run("always", func(t *testing.T) {
		f, c := startFront(t, cfg, func(w http.ResponseWriter, r *http.Request) bool {
			token := r.URL.Query().Get("continue")
			if token != "" {
				expire(w, token)
			}
			return token != ""
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := c.List(ctx, maps, kube.ListOptions{Namespace: namespace}, func(*object.Object) error { return nil })
		if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "configmaps") {
			t.Fatalf("error %v", err)
		}
		if n := f.starts["/api/v1/namespaces/"+namespace+"/configmaps"]; n > 10 {
			t.Errorf("begun %d times", n)
		}
	})
}

func TestAggregatedAPIThatIsDown(t *testing.T) {
	c := clusterOf(t, restConfig(t, "src"))
	namespace := scratch(t, c)
	ctx := t.Context()
	if _, err := c.Typed().CoreV1().Services(namespace).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "nobody-there"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 443}}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	services := kindOf(t, c, "apiregistration.k8s.io", "APIService")
	if _, err := c.Create(ctx, services, "", fmt.Appendf(nil, `{"apiVersion":"apiregistration.k8s.io/v1","kind":"APIService","metadata":{"name":"v1.lagoon.example.net"},
		"spec":{"group":"lagoon.example.net","version":"v1","groupPriorityMinimum":1000,"versionPriority":15,"insecureSkipTLSVerify":true,"service":{"namespace":%q,"name":"nobody-there","port":443}}}`, namespace), kube.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Delete(context.Background(), services, "", "v1.lagoon.example.net", kube.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	// Discovery takes a moment to notice; from then on it must say so each time.
	var reasons []string
	for deadline := time.Now().Add(time.Minute); len(reasons) < 3; {
		if time.Now().After(deadline) {
			t.Fatalf("the group that is down was named %d times", len(reasons))
		}
		if err := c.Refresh(ctx); err != nil {
			t.Fatal(err)
		}
		kinds, unread, err := c.Kinds(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if len(kinds) < 40 {
			t.Fatalf("only %d kinds are left", len(kinds))
		}
		for _, u := range unread {
			if u.Group == "lagoon.example.net" && u.Version == "v1" && strings.Contains(u.Reason, "APIService v1.lagoon.example.net is not available: ") {
				reasons = append(reasons, u.Reason)
			}
		}
	}
	if reasons[0] != reasons[2] {
		t.Errorf("reasons differ: %q", reasons)
	}
}

func TestKindsOfARealServer(t *testing.T) {
	c := clusterOf(t, restConfig(t, "src"))
	kinds, _, err := c.Kinds(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[schema.GroupKind]bool{}
	uids := map[string]string{}
	for _, k := range kinds {
		if seen[k.GVK.GroupKind()] {
			t.Errorf("%s twice", k)
		}
		seen[k.GVK.GroupKind()] = true
		if !k.Can("list") {
			continue
		}
		if _, err := c.List(t.Context(), k, kube.ListOptions{}, func(o *object.Object) error {
			if o.UID == "" {
				return nil
			}
			if other, ok := uids[o.UID]; ok {
				t.Errorf("%s is listed as %s and as %s", o.UID, other, o.Ref)
			}
			uids[o.UID] = o.Ref.String()
			return nil
		}); err != nil {
			t.Errorf("list %s: %v", k, err)
		}
	}
	if len(uids) < 20 {
		t.Errorf("only %d objects in a whole cluster", len(uids))
	}
	id, err := c.Identity(t.Context())
	if err != nil || id.UID == "" || !strings.HasPrefix(id.Version, "v1.") {
		t.Errorf("identity %+v, %v", id, err)
	}
}

func TestRightsThatLackAreNamed(t *testing.T) {
	cfg := restConfig(t, "src")
	cfg.Impersonate = rest.ImpersonationConfig{UserName: "visitor"}
	c := clusterOf(t, cfg)
	secrets := kindOf(t, clusterOf(t, restConfig(t, "src")), "", "Secret")
	for namespace, says := range map[string]string{"": "kubectl create clusterrole NAME --verb=list --resource=secrets", "default": "kubectl create role NAME -n default --verb=list --resource=secrets"} {
		_, err := c.List(t.Context(), secrets, kube.ListOptions{Namespace: namespace}, func(*object.Object) error { return nil })
		verb, what, ok := kube.Denied(err)
		if !ok || verb != "list" || what != "secrets" || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v, want %q", err, says)
		}
	}
	err := c.Exec(t.Context(), kube.ExecOptions{Namespace: "default", Pod: "none", Command: []string{"true"}})
	if verb, what, ok := kube.Denied(err); !ok || verb != "create" || what != "pods/exec" {
		t.Errorf("error %v", err)
	}
	id, err := c.Identity(t.Context())
	if err != nil || id.UID != "" || id.Version == "" {
		t.Errorf("identity of a visitor: %+v, %v", id, err)
	}
}

// A new kind is found once it is served, and what is written comes back as it
// was: numbers that no float holds, field order, odd strings.
func TestNewKindKeepsItsBytes(t *testing.T) {
	c := clusterOf(t, restConfig(t, "src"))
	namespace := scratch(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	crds := kindOf(t, c, "apiextensions.k8s.io", "CustomResourceDefinition")
	if _, err := c.Create(ctx, crds, "", []byte(`{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"gauges.kube-test.example.net"},"spec":{"group":"kube-test.example.net","scope":"Namespaced",
		"names":{"kind":"Gauge","plural":"gauges","singular":"gauge"},"versions":[{"name":"v1","served":true,"storage":true,"subresources":{"status":{}},"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}}`), kube.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Delete(context.Background(), crds, "", "gauges.kube-test.example.net", kube.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	gauges, err := c.WaitKind(ctx, "kube-test.example.net", "v1", "Gauge")
	if err != nil || !gauges.Has("status") {
		t.Fatalf("%+v, %v", gauges, err)
	}
	spec := `"spec":{"big":9007199254740993,"max":9223372036854775807,"float":1.5,"null":null,"empty":{},"list":[],"yes":"yes","octal":"0123","text":"}]\"\\ å 😀 <&>"}`
	made := func(name string) []byte {
		return []byte(`{"apiVersion":"kube-test.example.net/v1","kind":"Gauge","metadata":{"name":"` + name + `"},` + spec + `}`)
	}
	numbers := func(o *object.Object) string {
		content, err := o.Content()
		if err != nil {
			t.Fatal(err)
		}
		s := content["spec"].(map[string]any)
		return fmt.Sprint(s["big"], s["max"], s["float"], s["null"], s["yes"], s["octal"], s["text"])
	}
	want, err := object.Parse(made("one"))
	if err != nil {
		t.Fatal(err)
	}
	// It takes another moment until the new kind can be written.
	var created *object.Object
	for created == nil {
		if created, err = c.Create(ctx, gauges, namespace, made("one"), kube.WriteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
	}
	if numbers(created) != numbers(want) {
		t.Errorf("created %s, want %s", numbers(created), numbers(want))
	}
	var listed *object.Object
	if _, err := c.List(ctx, gauges, kube.ListOptions{Namespace: namespace}, func(o *object.Object) error { listed = o; return nil }); err != nil {
		t.Fatal(err)
	}
	got, err := c.Get(ctx, gauges, namespace, "one")
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(got.Raw)) != strings.TrimSpace(string(listed.Raw)) {
		t.Errorf("a list gives other bytes than a get:\n%s\n%s", listed.Raw, got.Raw)
	}
	if _, err := c.ReplaceSubresource(ctx, gauges, namespace, "one", "status", []byte(strings.Replace(string(got.Raw), `"spec":`, `"status":{"seen":9007199254740993},"spec":`, 1)), kube.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, err = c.Get(ctx, gauges, namespace, "one"); err != nil || !strings.Contains(string(got.Raw), `"seen":9007199254740993`) {
		t.Errorf("status: %s, %v", got.Raw, err)
	}
	applied, err := c.Apply(ctx, gauges, namespace, "two", made("two"), kube.WriteOptions{Force: true})
	if err != nil {
		t.Fatal(err)
	}
	if numbers(applied) != numbers(want) {
		t.Errorf("applied %s, want %s", numbers(applied), numbers(want))
	}
	if _, err := c.Create(ctx, gauges, namespace, made("three"), kube.WriteOptions{DryRun: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(ctx, gauges, namespace, "three"); !apierrors.IsNotFound(err) {
		t.Errorf("a dry run left something: %v", err)
	}
	if err := c.Delete(ctx, gauges, namespace, "one", kube.DeleteOptions{UID: "another"}); !apierrors.IsConflict(err) {
		t.Errorf("deleted by a wrong UID: %v", err)
	}
}

// toolPod is a running pod with a shell.
func toolPod(t testing.TB, c *kube.Cluster, namespace string) *corev1.Pod {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if _, err := c.CreatePod(ctx, podNamed(namespace, "tool", toolImage)); err != nil {
		t.Fatal(err)
	}
	pod, err := c.WaitPodRunning(ctx, namespace, "tool")
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

func podNamed(namespace, name, image string) *corev1.Pod {
	zero := int64(0)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{kube.LabelTemporary: "true"}},
		Spec: corev1.PodSpec{TerminationGracePeriodSeconds: &zero, RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{
			Name: "tool", Image: image, ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"sleep", "3600"},
		}}},
	}
}

// throttled hashes what it takes, no faster than it may.
type throttled struct {
	hash  hash.Hash
	n     int64
	speed int64 // bytes a second; 0: as fast as it comes
	at    func(n int64)
	start time.Time
}

func (w *throttled) Write(p []byte) (int, error) {
	if w.start.IsZero() {
		w.start = time.Now()
	}
	w.hash.Write(p)
	w.n += int64(len(p))
	if w.at != nil {
		w.at(w.n)
	}
	if w.speed > 0 {
		due := w.start.Add(time.Duration(w.n * int64(time.Second) / w.speed))
		<-time.After(time.Until(due))
	}
	return len(p), nil
}

// cutter passes connections on to the real server and can cut them all.
type cutter struct {
	mu    sync.Mutex
	conns []net.Conn
}

func startCutter(t *testing.T, target string) (*cutter, string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	c := &cutter{}
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", target)
			if err != nil {
				in.Close()
				continue
			}
			c.mu.Lock()
			c.conns = append(c.conns, in, out)
			c.mu.Unlock()
			go func() { io.Copy(out, in); out.Close() }()
			go func() { io.Copy(in, out); in.Close() }()
		}
	}()
	return c, listener.Addr().String()
}

func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		conn.Close()
	}
}

const (
	streamSize = 200 << 20
	cutAt      = 60 << 20
	// lines are known bytes that any shell can make.
	makeStream = "yes 0123456789abcdefghijklmnopqrstuvwxyz | head -c 209715200"
)

func knownHash() string {
	line := []byte("0123456789abcdefghijklmnopqrstuvwxyz\n")
	h := sha256.New()
	all := bytes.Repeat(line, streamSize/len(line)+1)
	h.Write(all[:streamSize])
	return fmt.Sprintf("%x", h.Sum(nil))
}

func TestExecOfALargeStream(t *testing.T) {
	cfg := restConfig(t, "src")
	c := clusterOf(t, cfg)
	namespace := scratch(t, c)
	toolPod(t, c, namespace)
	run := func(c *kube.Cluster, script string, out *throttled, silence time.Duration) error {
		out.hash = sha256.New()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		return c.Exec(ctx, kube.ExecOptions{Namespace: namespace, Pod: "tool", Command: []string{"sh", "-c", script}, Stdout: out, Silence: silence})
	}
	want := knownHash()

	t.Run("throttled but whole", func(t *testing.T) {
		// Between the kubelet and its runtime the end of a stream whose reader
		// is slow may get lost although all report success. That is why who
		// needs every byte counts them and begins again, as captures do.
		for attempt := 1; ; attempt++ {
			out := &throttled{speed: 20 << 20}
			if err := run(c, makeStream, out, 0); err != nil {
				t.Fatal(err)
			}
			if out.n == streamSize {
				if got := fmt.Sprintf("%x", out.hash.Sum(nil)); got != want {
					t.Errorf("all bytes, but hash %s", got)
				}
				break
			}
			t.Logf("attempt %d: %d bytes", attempt, out.n)
			if attempt == 3 {
				t.Fatal("no attempt was whole")
			}
		}
	})
	t.Run("connection cut", func(t *testing.T) {
		target, err := url.Parse(cfg.Host)
		if err != nil {
			t.Fatal(err)
		}
		cutter, address := startCutter(t, target.Host)
		through := rest.CopyConfig(cfg)
		through.Host = "https://" + address
		var once sync.Once
		out := &throttled{at: func(n int64) {
			if n > cutAt {
				once.Do(cutter.cut)
			}
		}}
		if err := run(clusterOf(t, through), makeStream, out, 0); !errors.Is(err, kube.ErrStreamEnded) {
			t.Errorf("error %v after %d bytes", err, out.n)
		}
	})
	t.Run("command killed", func(t *testing.T) {
		var once sync.Once
		out := &throttled{speed: 100 << 20, at: func(n int64) {
			if n > cutAt {
				once.Do(func() {
					if err := run(c, "kill -9 $(cat /tmp/pid)", &throttled{}, 0); err != nil {
						t.Error(err)
					}
				})
			}
		}}
		err := run(c, "echo $$ > /tmp/pid; exec yes 0123456789abcdefghijklmnopqrstuvwxyz", out, 0)
		var exit *kube.ExitError
		if !errors.As(err, &exit) || exit.Code != 137 {
			t.Errorf("error %v after %d bytes", err, out.n)
		}
	})
	t.Run("output closed while the command lives", func(t *testing.T) {
		out := &throttled{}
		err := run(c, "yes | head -c 62914560; exec >&- 2>&-; sleep 600", out, 3*time.Second)
		if !errors.Is(err, kube.ErrStreamEnded) || out.n != cutAt {
			t.Errorf("error %v after %d bytes", err, out.n)
		}
	})
	t.Run("input to its end", func(t *testing.T) {
		pattern := bytes.Repeat([]byte("0123456789abcdefghijklmnopqrstuvwxyz\n"), 1<<20)
		var out bytes.Buffer
		err := c.Exec(t.Context(), kube.ExecOptions{Namespace: namespace, Pod: "tool", Command: []string{"sh", "-c", "sha256sum; echo after"}, Stdin: bytes.NewReader(pattern), Stdout: &out})
		if want := fmt.Sprintf("%x  -\nafter\n", sha256.Sum256(pattern)); err != nil || out.String() != want {
			t.Errorf("%q, %v; want %q", out.String(), err, want)
		}
	})
	t.Run("exit code and last words", func(t *testing.T) {
		err := run(c, "echo no space >&2; exit 7", &throttled{}, 0)
		var exit *kube.ExitError
		if !errors.As(err, &exit) || exit.Code != 7 || exit.Stderr != "no space" {
			t.Errorf("error %v", err)
		}
	})
	t.Run("no such program", func(t *testing.T) {
		err := c.Exec(t.Context(), kube.ExecOptions{Namespace: namespace, Pod: "tool", Command: []string{"/opt/none"}})
		if !kube.NoCommand(err) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("no such pod", func(t *testing.T) {
		err := c.Exec(t.Context(), kube.ExecOptions{Namespace: namespace, Pod: "none", Command: []string{"true"}})
		if !apierrors.IsNotFound(err) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("pod deleted", func(t *testing.T) {
		var once sync.Once
		out := &throttled{speed: 100 << 20, at: func(n int64) {
			if n > cutAt {
				once.Do(func() {
					if err := c.DeletePod(context.Background(), namespace, "tool", ""); err != nil {
						t.Error(err)
					}
				})
			}
		}}
		if err := run(c, makeStream, out, 0); err == nil {
			t.Errorf("success after %d bytes", out.n)
		}
	})
}

func TestPodsForAPurpose(t *testing.T) {
	c := clusterOf(t, restConfig(t, "src"))
	namespace := scratch(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()

	pod := toolPod(t, c, namespace)
	extra := corev1.EphemeralContainer{
		EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "extra", Image: toolImage, ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"sleep", "3600"}},
		TargetContainerName:      "tool",
	}
	if err := c.AddEphemeralContainer(ctx, namespace, pod.Name, extra); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := c.Exec(ctx, kube.ExecOptions{Namespace: namespace, Pod: pod.Name, Container: "extra", Command: []string{"echo", "here"}, Stdout: &out}); err != nil || out.String() != "here\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	extra.Name, extra.Command = "wrong", []string{"/opt/none"}
	if err := c.AddEphemeralContainer(ctx, namespace, pod.Name, extra); err == nil || !strings.Contains(err.Error(), "container wrong") {
		t.Errorf("an ephemeral container that cannot start: %v", err)
	}

	absent := podNamed(namespace, "absent", "localhost/no-such-image:1")
	absent.Spec.Containers[0].ImagePullPolicy = corev1.PullNever
	if _, err := c.CreatePod(ctx, absent); err != nil {
		t.Fatal(err)
	}
	if _, err := c.WaitPodRunning(ctx, namespace, "absent"); err == nil || !strings.Contains(err.Error(), "ErrImageNeverPull") {
		t.Errorf("a pod without its image: %v", err)
	}

	for _, name := range []string{pod.Name, "absent"} {
		if err := c.DeletePod(ctx, namespace, name, ""); err != nil {
			t.Fatal(err)
		}
	}
	left, err := c.Typed().CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil || len(left.Items) != 0 {
		t.Fatalf("%d pods are left, %v", len(left.Items), err)
	}
	if err := c.DeletePod(ctx, namespace, "absent", ""); err != nil {
		t.Errorf("a pod that is gone: %v", err)
	}

	if _, err := c.Typed().CoreV1().ResourceQuotas(namespace).Create(ctx, &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "none"}, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("0")}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// The quota counts from when its controller has seen it.
	if err := c.WaitFor(ctx, kindOf(t, c, "", "ResourceQuota"), namespace, "none", func(o *object.Object) (bool, error) {
		return o != nil && bytes.Contains(o.Raw, []byte(`"used":{"pods"`)), nil
	}); err != nil {
		t.Fatal(err)
	}
	_, err = c.CreatePod(ctx, podNamed(namespace, "over", toolImage))
	if _, _, denied := kube.Denied(err); err == nil || denied || !strings.Contains(err.Error(), "exceeded quota: none") {
		t.Errorf("over the quota: %v", err)
	}
}

// BenchmarkExec is how fast a stream comes out of a container.
func BenchmarkExec(b *testing.B) {
	c := clusterOf(b, restConfig(b, "src"))
	namespace := scratch(b, c)
	toolPod(b, c, namespace)
	b.SetBytes(streamSize)
	for b.Loop() {
		if err := c.Exec(context.Background(), kube.ExecOptions{Namespace: namespace, Pod: "tool", Command: []string{"dd", "if=/dev/zero", "bs=1M", "count=200"}, Stdout: io.Discard}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkInventory lists 10,000 small objects, against what client-go does in
// the same pages, typed and not; the faster of these counts.
func BenchmarkInventory(b *testing.B) {
	cfg := restConfig(b, "src")
	c := clusterOf(b, cfg)
	namespace := scratch(b, c)
	const n = 10000
	fill(b, c, namespace, n)
	maps := kindOf(b, c, "", "ConfigMap")
	typed, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		b.Fatal(err)
	}
	untyped, err := dynamic.NewForConfig(cfg)
	if err != nil {
		b.Fatal(err)
	}
	dynamicClient := untyped.Resource(schema.GroupVersionResource{Version: "v1", Resource: "configmaps"})
	ours := func() int {
		count := 0
		if _, err := c.List(context.Background(), maps, kube.ListOptions{Namespace: namespace, LabelSelector: "app=fill"}, func(*object.Object) error { count++; return nil }); err != nil {
			b.Fatal(err)
		}
		return count
	}
	theirs := func(page func(metav1.ListOptions) (int, string, error)) func() int {
		return func() int {
			count, token := 0, ""
			for {
				items, next, err := page(metav1.ListOptions{Limit: 500, Continue: token, LabelSelector: "app=fill"})
				if err != nil {
					b.Fatal(err)
				}
				count += items
				if token = next; token == "" {
					return count
				}
			}
		}
	}
	withTypes := theirs(func(o metav1.ListOptions) (int, string, error) {
		l, err := typed.CoreV1().ConfigMaps(namespace).List(context.Background(), o)
		return len(l.Items), l.Continue, err
	})
	without := theirs(func(o metav1.ListOptions) (int, string, error) {
		l, err := dynamicClient.Namespace(namespace).List(context.Background(), o)
		return len(l.Items), l.GetContinue(), err
	})
	timed := func(least time.Duration, list func() int) time.Duration {
		start := time.Now()
		if got := list(); got != n {
			b.Fatalf("%d objects", got)
		}
		return min(least, time.Since(start))
	}
	for b.Loop() {
		// In turns, so that a busy moment of the machine meets them all.
		a, t, u := time.Hour, time.Hour, time.Hour
		for range 7 {
			a, t, u = timed(a, ours), timed(t, withTypes), timed(u, without)
		}
		b.ReportMetric(float64(n)/a.Seconds(), "objects/s")
		b.ReportMetric(float64(n)/t.Seconds(), "typed/s")
		b.ReportMetric(float64(n)/u.Seconds(), "untyped/s")
		b.ReportMetric(min(t, u).Seconds()/a.Seconds(), "ratio")
	}
}
