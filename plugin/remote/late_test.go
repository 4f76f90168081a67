package remote_test

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kopia/kopia/repo/blob"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// lateStore is as much of an S3 server as a blob needs. It does not find an
// object the first few times that it is asked for.
type lateStore struct {
	misses int

	mu     sync.Mutex
	data   map[string][]byte
	missed map[string]int
	puts   map[string]int
}

func (s *lateStore) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := r.URL.Path
	if r.Method == http.MethodPut {
		s.data[name], _ = io.ReadAll(r.Body)
		s.missed[name] = 0
		s.puts[name]++
		return
	}
	data, ok := s.data[name]
	if !ok || s.missed[name] < s.misses {
		s.missed[name]++
		w.WriteHeader(http.StatusNotFound)
		return
	}
	sum := md5.Sum(data)
	w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:])+`"`)
	w.Header().Set("Content-Length", fmt.Sprint(len(data)))
	w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
	if r.Method == http.MethodGet {
		w.Write(data)
	}
}

// TestBlobThatIsShownLate: what a remote took and does not find for a moment is
// stored all the same, and is sent once. What it never finds is an error, and
// not that of a blob that is not there.
func TestBlobThatIsShownLate(t *testing.T) {
	for name, c := range map[string]struct {
		misses int
		ok     bool
	}{"at once": {0, true}, "at the second look": {1, true}, "at the fourth": {3, true}, "never": {1 << 20, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &lateStore{misses: c.misses, data: map[string][]byte{}, missed: map[string]int{}, puts: map[string]int{}}
			server := httptest.NewServer(s)
			defer server.Close()
			once := 0
			st := open(t, v1alpha1.BackupRemoteSpec{Path: "store:bucket/x", Limits: v1alpha1.RemoteLimits{Retries: &once}, Config: map[string]map[string]string{"store": {
				"type": "s3", "provider": "Other", "endpoint": server.URL, "access_key_id": "id", "secret_access_key": "secret-of-the-store", "no_check_bucket": "true",
			}}}, "")
			var at time.Time
			err := st.PutBlob(t.Context(), "kb-late", bytesOf("what is sent"), blob.PutOptions{GetModTime: &at})
			for path, n := range s.puts {
				require.Equal(t, 1, n, "%s was sent again", path)
			}
			if !c.ok {
				require.ErrorContains(t, err, "does not show")
				require.NotErrorIs(t, err, blob.ErrBlobNotFound)
				return
			}
			require.NoError(t, err)
			require.WithinDuration(t, time.Now(), at, time.Minute)
			require.True(t, strings.HasPrefix(string(s.data["/bucket/x/kb-late.f"]), "what is"))
		})
	}
}
