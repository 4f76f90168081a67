package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-backup/kubectl-backup/integration/objectstore"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// spoiled is an S3 server behind toxiproxy, both where pods reach them.
type spoiled struct {
	*objectstore.Server
	t        testing.TB
	yaml     string // of a remote named main, by way of the proxy
	control  string // toxiproxy's own address
	upstream string
}

// startSpoiled starts both, with a repository. limits is YAML for the remote.
func startSpoiled(t testing.TB, limits v1alpha1.RemoteLimits) *spoiled {
	t.Helper()
	host := clusters(t).Src.HostAddress()
	server, err := objectstore.Start(t.TempDir(), host+":0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	s := &spoiled{Server: server, t: t, upstream: server.Address()}

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s.control = listener.Addr().String()
	require.NoError(t, listener.Close())
	_, port, err := net.SplitHostPort(s.control)
	require.NoError(t, err)
	proxy := exec.Command(filepath.Join(root(t), "bin", "toxiproxy"), "-host", "127.0.0.1", "-port", port)
	require.NoError(t, proxy.Start())
	t.Cleanup(func() {
		proxy.Process.Kill()
		proxy.Wait()
	})
	await(t, "toxiproxy", func() (bool, error) {
		conn, err := net.Dial("tcp", s.control)
		if err != nil {
			return false, nil
		}
		return true, conn.Close()
	})
	var made struct{ Listen string }
	require.NoError(t, json.Unmarshal(s.ask(http.MethodPost, "/proxies", map[string]any{"name": "s3", "listen": host + ":0", "upstream": s.upstream, "enabled": true}), &made))
	remote := server.SpecThrough(made.Listen, "prod")
	remote.Limits = limits
	raw, err := yaml.Marshal(map[string]any{"apiVersion": v1alpha1.APIVersion, "kind": "BackupRemote", "metadata": map[string]any{"name": "main"}, "spec": remote})
	require.NoError(t, err)
	s.yaml = string(raw)
	r := backup(t, "init", "-f", spec(t, s.yaml))
	require.Equal(t, 0, r.code, r.stderr)
	return s
}

func (s *spoiled) ask(method, path string, body any) []byte {
	s.t.Helper()
	raw, err := json.Marshal(body)
	require.NoError(s.t, err)
	request, err := http.NewRequest(method, "http://"+s.control+path, bytes.NewReader(raw))
	require.NoError(s.t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(s.t, err)
	defer response.Body.Close()
	var answer bytes.Buffer
	_, err = answer.ReadFrom(response.Body)
	require.NoError(s.t, err)
	require.Less(s.t, response.StatusCode, 300, "%s", answer.String())
	return answer.Bytes()
}

// toxic spoils what the server sends (downstream) or is sent (upstream), of
// this share of the connections.
func (s *spoiled) toxic(kind, stream string, share float64, attributes map[string]any) {
	s.t.Helper()
	s.ask(http.MethodPost, "/proxies/s3/toxics", map[string]any{"name": kind + "-" + stream, "type": kind, "stream": stream, "toxicity": share, "attributes": attributes})
}

// reachable says whether the proxy lets anybody through.
func (s *spoiled) reachable(yes bool) {
	s.t.Helper()
	s.ask(http.MethodPost, "/proxies/s3", map[string]any{"enabled": yes})
}

// mend takes all faults away.
func (s *spoiled) mend() {
	s.t.Helper()
	s.Break(nil)
	s.KeepConnections(true)
	s.ask(http.MethodPost, "/reset", nil)
}

// sent waits until a run has sent the server so many bytes.
func (s *spoiled) sent(p *running, more int64) {
	s.t.Helper()
	before := s.Counts().BytesIn
	await(s.t, "data at the server", func() (bool, error) {
		select {
		case <-p.ended:
			return false, fmt.Errorf("the run ended: %s%s", p.errOut.String(), p.out.String())
		default:
		}
		return s.Counts().BytesIn > before+more, nil
	})
}

// TestRemoteFaults has a bucket behind a network, each bad in its own way,
// while volumes travel from Jobs and from this machine. A run completes, or
// fails with one clear error; whatever is listed is whole; the next run
// succeeds.
func TestRemoteFaults(t *testing.T) {
	ns := namespace(t, "faults")
	folders := twoVolumes(t, ns, 1<<20)
	s := startSpoiled(t, v1alpha1.RemoteLimits{})
	const volume = 24 << 20
	streams := everything(ns) + "  mover: {transport: Stream}\n"
	for _, x := range []struct {
		name   string
		policy string
		begin  func()           // before the run
		during func(p *running) // while it is on its way
		words  []string         // of the error; none where the run completes
		limit  time.Duration
	}{
		{name: "latency", policy: everything(ns), limit: time.Minute, begin: func() {
			s.toxic("latency", "downstream", 1, map[string]any{"latency": 100, "jitter": 50})
		}},
		{name: "resets", policy: everything(ns), limit: 2 * time.Minute, begin: func() {
			s.KeepConnections(false) // one request, one connection
			s.toxic("reset_peer", "upstream", 0.05, map[string]any{"timeout": 20})
			s.toxic("reset_peer", "downstream", 0.05, map[string]any{"timeout": 0})
		}},
		{name: "busy in bursts", policy: everything(ns), limit: 5 * time.Minute, begin: func() {
			s.Break(objectstore.Busy(3*time.Second, 3*time.Second))
		}},
		{name: "uploads that are cut", policy: streams, limit: time.Minute, begin: func() {
			s.Break(objectstore.CutUploads(4, 1<<20))
		}},
		{name: "an outage of a minute", policy: everything(ns), limit: 4 * time.Minute, during: func(p *running) {
			s.sent(p, 4<<20)
			s.reachable(false)
			<-time.After(time.Minute) // it is the length that matters
			s.reachable(true)
		}},
		{name: "full", policy: streams, limit: time.Minute, begin: func() {
			s.Break(s.Full(s.Size()+8<<20, http.StatusInsufficientStorage, "StorageFull"))
		}, words: []string{"StorageFull", "no space"}},
		{name: "a quota", policy: everything(ns), limit: 2 * time.Minute, begin: func() {
			s.Break(s.Full(s.Size()+8<<20, http.StatusForbidden, "QuotaExceeded"))
		}, words: []string{"QuotaExceeded", "no space"}},
		{name: "rights that were taken", policy: streams, limit: time.Minute, during: func(p *running) {
			s.sent(p, 4<<20)
			s.Break(objectstore.Forbidden())
		}, words: []string{"AccessDenied"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			for _, dir := range folders { // no case is helped by what another has stored
				fillRandom(t, filepath.Join(dir, "file"), volume)
			}
			f := spec(t, x.policy, s.yaml)
			had := listed(t, f)
			if x.begin != nil {
				x.begin()
			}
			defer s.mend()
			began, refused := time.Now(), s.Counts().Refused
			p := start(t, "run", "-f", f, "-o", "json")
			if x.during != nil {
				x.during(p)
			}
			r := p.waitFor(t, x.limit)
			t.Logf("it ended after %.0f s with %d; %d requests were refused", time.Since(began).Seconds(), r.code, s.Counts().Refused-refused)
			s.mend()
			ids := listed(t, f)
			if x.words == nil {
				require.Equal(t, 0, r.code, "%s\n%s", r.stderr, r.stdout)
				require.Len(t, ids, len(had)+1)
			} else {
				failedClearly(t, r, x.words...)
				require.Len(t, ids, len(had), "a run that failed is listed")
			}
			if len(ids) > 0 {
				whole(t, f, "latest")
			}
			require.Empty(t, traces(t, ns))
			if x.words != nil {
				good(t, ns, f)
			}
		})
	}
	t.Run("all that is listed is whole", func(t *testing.T) {
		f := spec(t, everything(ns), s.yaml)
		for _, id := range listed(t, f) {
			whole(t, f, id)
		}
	})
}

// TestLockedBucket: where nothing may be overwritten or deleted, init says so,
// backups and restores work, nothing is put twice, and whole backups are what
// delete leaves.
func TestLockedBucket(t *testing.T) {
	ns := namespace(t, "locked")
	twoVolumes(t, ns, 1<<20)
	server, err := objectstore.Start(t.TempDir(), "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	server.Lock()
	raw, err := yaml.Marshal(map[string]any{"apiVersion": v1alpha1.APIVersion, "kind": "BackupRemote", "metadata": map[string]any{"name": "main"}, "spec": server.Spec("prod")})
	require.NoError(t, err)
	f := spec(t, everything(ns)+"  mover: {transport: Stream}\n", string(raw))
	r := backup(t, "init", "-f", f)
	require.Equal(t, 0, r.code, r.stderr)
	require.Contains(t, r.stderr, "overwrite: refused, delete: refused")
	ids := []string{good(t, ns, f).Backup, good(t, ns, f).Backup}
	for key, times := range server.Stored() {
		require.Equal(t, 1, times, key)
	}
	dropNamespace(t, "src", ns+"-copy")
	d, r := document(t, "restore", ids[0], "-f", f, "--map-namespace", ns+"="+ns+"-copy")
	require.Equal(t, 0, r.code, "%s\n%+v", r.stderr, d.Objects)

	r = backup(t, append([]string{"delete", "--yes", "-f", f}, ids...)...)
	require.Equal(t, 3, r.code, r.stderr)
	require.Equal(t, 2, strings.Count(r.stderr, "warning: backup "), r.stderr)
	require.Empty(t, r.stdout)
	require.Equal(t, ids, listed(t, f))
	whole(t, f, ids[0])
	r = backup(t, "cleanup", "-n", ns)
	require.Equal(t, 0, r.code, r.stderr)
}

// failedClearly is what should be seen of a run that could not keep anything: the
// error is said once, in few words, and it is in the document.
func failedClearly(t testing.TB, r result, words ...string) {
	t.Helper()
	d := decode(t, r)
	require.Equal(t, v1alpha1.ResultFailed, d.Result)
	require.Equal(t, 1, r.code, r.stderr)
	require.NotEmpty(t, d.Error)
	require.Less(t, len(d.Error), 600, "an error that is too long to read: %s", d.Error)
	for _, w := range words {
		if strings.Contains(d.Error, w) {
			return
		}
	}
	require.Fail(t, "unclear", "none of %q is in %s", words, d.Error)
}
