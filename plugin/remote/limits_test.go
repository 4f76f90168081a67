package remote

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/kopia/kopia/repo/blob"
	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/fserrors"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// answer is one of S3's with this status.
func answer(status int) error {
	return fserrors.RetryError(&smithyhttp.ResponseError{Response: &smithyhttp.Response{Response: &http.Response{StatusCode: status}}, Err: errors.New("busy")})
}

func TestPatience(t *testing.T) {
	two := 2
	busy := fserrors.RetryError(errors.New("503"))
	for name, c := range map[string]struct {
		limits   v1alpha1.RemoteLimits
		answered bool
		err      error
		retries  int
	}{
		"busy":                      {v1alpha1.RemoteLimits{}, true, busy, defaultRetries},
		"busy, fewer":               {v1alpha1.RemoteLimits{Retries: &two}, true, busy, 2},
		"busy, none":                {v1alpha1.RemoteLimits{Retries: new(int)}, true, busy, 0},
		"busy from the beginning":   {v1alpha1.RemoteLimits{}, false, answer(http.StatusServiceUnavailable), defaultRetries},
		"never answered":            {v1alpha1.RemoteLimits{}, false, busy, unclearRetries},
		"refused":                   {v1alpha1.RemoteLimits{}, false, syscall.ECONNREFUSED, refusedRetries},
		"refused for a while":       {v1alpha1.RemoteLimits{}, true, syscall.ECONNREFUSED, defaultRetries},
		"reset":                     {v1alpha1.RemoteLimits{}, true, fmt.Errorf("put: %w", syscall.ECONNRESET), defaultRetries},
		"unclear":                   {v1alpha1.RemoteLimits{}, true, errors.New("something"), unclearRetries},
		"denied":                    {v1alpha1.RemoteLimits{}, true, fs.ErrorPermissionDenied, 0},
		"denied in the words of S3": {v1alpha1.RemoteLimits{}, true, fmt.Errorf("delete: %w", &smithy.GenericAPIError{Code: "AccessDenied"}), 0},
		"full":                      {v1alpha1.RemoteLimits{}, true, syscall.ENOSPC, 0},
		"full in the words of S3":   {v1alpha1.RemoteLimits{}, true, &smithy.GenericAPIError{Code: "QuotaExceeded"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPatience(c.limits)
			if c.answered {
				p.answer()
			}
			n := 0
			for ; n < 100; n++ {
				wait, again := p.again(n, c.err)
				if !again {
					break
				}
				require.Positive(t, wait)
				require.LessOrEqual(t, wait, maxPause*5/4)
			}
			require.Equal(t, c.retries, n)
		})
	}
}

// TestPatienceIsShared: what has been down for as long as one request is tried
// is not waited for by the next one as well, until it answers again.
func TestPatienceIsShared(t *testing.T) {
	p := newPatience(v1alpha1.RemoteLimits{})
	require.Greater(t, p.total, time.Minute, "an outage of a minute is outlasted")
	p.answer()
	p.failing = time.Now().Add(-p.total - time.Second)
	_, again := p.again(0, syscall.ECONNREFUSED)
	require.False(t, again)
	p.answer()
	_, again = p.again(0, syscall.ECONNREFUSED)
	require.True(t, again)
}

func TestRemoteSaysWhenToComeAgain(t *testing.T) {
	p := newPatience(v1alpha1.RemoteLimits{})
	p.answer()
	wait, again := p.again(0, fserrors.NewErrorRetryAfter(7*time.Second))
	require.True(t, again)
	require.InDelta(t, 7, wait.Seconds(), 0.5)
}

// TestRetriesOverHTTP counts requests at a server. rclone's S3 makes each of
// ours twice where it fails, whatever it is told.
func TestRetriesOverHTTP(t *testing.T) {
	one := 1
	for name, c := range map[string]struct {
		retries  *int
		status   int
		fails    int64
		requests int64
		ok       bool
	}{
		"passes":    {nil, http.StatusServiceUnavailable, 2, 3, true},
		"too often": {&one, http.StatusServiceUnavailable, 1000, 4, false},
		"final":     {nil, http.StatusInsufficientStorage, 1000, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var broken atomic.Bool
			var requests atomic.Int64
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !broken.Load() || requests.Add(1) > c.fails {
					w.WriteHeader(http.StatusNotFound)
					return
				}
				w.WriteHeader(c.status)
			}))
			defer server.Close()
			st, err := Open(t.Context(), v1alpha1.BackupRemoteSpec{Path: "store:bucket/x", Limits: v1alpha1.RemoteLimits{Retries: c.retries},
				Config: map[string]map[string]string{"store": {
					"type": "s3", "provider": "Other", "endpoint": server.URL, "access_key_id": "id", "secret_access_key": "secret-of-the-store",
				}}}, nil)
			require.NoError(t, err)
			defer st.Close(t.Context())
			_, err = st.GetMetadata(t.Context(), "first")
			require.ErrorIs(t, err, blob.ErrBlobNotFound)
			broken.Store(true)
			_, err = st.GetMetadata(t.Context(), "second")
			if c.ok {
				require.ErrorIs(t, err, blob.ErrBlobNotFound)
			} else {
				require.Error(t, err)
				require.NotErrorIs(t, err, blob.ErrBlobNotFound)
			}
			require.Equal(t, c.requests, requests.Load())
		})
	}
}

func TestBandwidthThatIsNone(t *testing.T) {
	for _, bad := range []string{"fast", "0", "-1M"} {
		_, err := Open(t.Context(), v1alpha1.BackupRemoteSpec{Path: t.TempDir(), Limits: v1alpha1.RemoteLimits{Bandwidth: bad}}, nil)
		var usage *v1alpha1.UsageError
		require.ErrorAs(t, err, &usage, bad)
		require.ErrorContains(t, err, "spec.limits.bandwidth")
	}
}
