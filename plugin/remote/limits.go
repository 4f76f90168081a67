package remote

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/accounting"
	"github.com/rclone/rclone/fs/fserrors"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const (
	// defaultRetries with the pauses between them outlast an outage of a
	// minute: they take 85 s.
	defaultRetries = 10
	// unclearRetries is for errors that rclone does not call passing, and for
	// a remote that has never answered: the reason is rather in its
	// configuration, and somebody waits.
	unclearRetries = 3
	// refusedRetries is for a server that nobody runs.
	refusedRetries = 1

	firstPause = 400 * time.Millisecond
	maxPause   = 15 * time.Second

	// A connection on which nothing moves for so long is broken. No request is
	// for more than one blob, so that no server needs longer for its answer.
	idleTimeout    = fs.Duration(time.Minute)
	connectTimeout = fs.Duration(20 * time.Second)
)

// configure puts a remote's limits into rclone's configuration. Retries are
// made by this package, so that they are as many as the spec says; a few of
// rclone's backends make one more of their own.
// Bandwidth and requests are bounded by rclone, for all connections over a
// network that this process has.
func configure(ctx context.Context, ci *fs.ConfigInfo, limits v1alpha1.RemoteLimits) error {
	ci.LowLevelRetries = 1
	ci.UseServerModTime = true // the remote's clock, and no request per listed file
	ci.Timeout, ci.ConnectTimeout = idleTimeout, connectTimeout
	if limits.RequestsPerSecond > 0 {
		ci.TPSLimit = limits.RequestsPerSecond
		accounting.StartLimitTPS(ctx)
	}
	if limits.Bandwidth != "" {
		var perSecond fs.SizeSuffix
		if err := perSecond.Set(limits.Bandwidth); err != nil || perSecond <= 0 {
			return usage("spec.limits.bandwidth", "\""+limits.Bandwidth+"\" is not a bandwidth", "write it as in 10M for 10 MiB/s; leave it out for no limit")
		}
		accounting.TokenBucket.SetBwLimit(fs.BwPair{Tx: perSecond, Rx: perSecond})
	}
	return nil
}

// patience decides whether a request that failed is made again. It is shared by
// all requests of an open remote: one that answers nobody is given up once,
// and not by each request in turn.
type patience struct {
	retries int
	total   time.Duration // what the pauses of one request add up to

	mu       sync.Mutex
	answered bool      // the remote has ever answered
	failing  time.Time // since when every request has failed; zero while they do not
}

func newPatience(limits v1alpha1.RemoteLimits) *patience {
	p := &patience{retries: defaultRetries}
	if limits.Retries != nil {
		p.retries = *limits.Retries
	}
	for n := range p.retries {
		p.total += pauseAfter(n)
	}
	return p
}

// pauseAfter is the pause before retry n, counted from 0.
func pauseAfter(n int) time.Duration {
	if n > 10 {
		return maxPause
	}
	return min(firstPause<<n, maxPause)
}

// answer takes note that the remote did what it was asked, or said that there
// is no such thing.
func (p *patience) answer() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answered, p.failing = true, time.Time{}
}

// again says how long to wait before retry n of a request, or that it shall
// not be made.
func (p *patience) again(n int, err error) (time.Duration, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failing.IsZero() {
		p.failing = time.Now()
	}
	allowed := min(p.retries, unclearRetries)
	switch {
	case isFinal(err):
		return 0, false
	case isPassing(err) && (p.answered || isBusy(err)):
		allowed = p.retries
		if time.Since(p.failing) > p.total {
			return 0, false
		}
	case errors.Is(err, syscall.ECONNREFUSED), status(err) == http.StatusForbidden:
		// Forbidden is also what a clock that is off is answered.
		allowed = min(p.retries, refusedRetries)
	}
	if n >= allowed {
		return 0, false
	}
	wait := pauseAfter(n)
	// Not all at the same moment, nor in step with a server that is busy at
	// intervals.
	wait += time.Duration((rand.Float64() - 0.5) / 2 * float64(wait))
	if fserrors.IsRetryAfterError(err) {
		wait = min(max(wait, time.Until(fserrors.RetryAfterErrorTime(err))), p.total)
	}
	return wait, true
}

// isPassing says that the same request may well succeed later: the network, a
// server that is busy or asks to come again.
func isPassing(err error) bool {
	return fserrors.IsRetryError(err) || fserrors.IsRetryAfterError(err) || fserrors.ShouldRetry(err)
}

// isBusy says that the remote is there and has too much to do.
func isBusy(err error) bool {
	s := status(err)
	return s == http.StatusServiceUnavailable || s == http.StatusTooManyRequests || fserrors.IsRetryAfterError(err)
}

// isFinal says that the remote would answer the same again.
func isFinal(err error) bool {
	if fserrors.IsNoRetryError(err) || fserrors.IsFatalError(err) || isDenied(err) || isFull(err) || errors.Is(err, errReadOnly) {
		return true
	}
	var answer smithy.APIError
	return errors.As(err, &answer) && refusals[answer.ErrorCode()]
}

// refusals are codes of S3 that are about the request and not the moment.
var refusals = map[string]bool{
	"AccessDenied": true, "InvalidAccessKeyId": true, "SignatureDoesNotMatch": true, "AccountProblem": true, "AllAccessDisabled": true,
	"InvalidRequest": true, "InvalidArgument": true, "InvalidBucketName": true, "BadDigest": true, "NoSuchBucket": true, "MethodNotAllowed": true,
	"InvalidObjectState": true, "EntityTooLarge": true,
}

// fullCodes are what servers that speak S3 say when there is no room left.
var fullCodes = map[string]bool{
	"QuotaExceeded": true, "StorageFull": true, "XMinioStorageFull": true, "XMinioAdminBucketQuotaExceeded": true, "InsufficientCapacity": true,
}

func isFullAnswer(err error) bool {
	var answer smithy.APIError
	return errors.As(err, &answer) && fullCodes[answer.ErrorCode()] || status(err) == http.StatusInsufficientStorage
}

// status is the HTTP status of an answer of S3's, or 0.
func status(err error) int {
	var response *smithyhttp.ResponseError
	if !errors.As(err, &response) || response.Response == nil || response.Response.Response == nil {
		return 0
	}
	return response.HTTPStatusCode()
}
