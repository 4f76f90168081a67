package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
)

// ExecOptions say what to run, and where.
type ExecOptions struct {
	Namespace, Pod string
	Container      string // empty: the pod's default
	Command        []string
	// Stdin, where set, is sent to its end, which the command then sees as the
	// end of its input. An error of Stdin ends the command's connection
	// instead. A Read may still be under way when Exec returns.
	Stdin io.Reader
	// Stdout and Stderr may block: that is what slows the command down. They
	// may be written to from two goroutines, one each.
	Stdout, Stderr io.Writer
	// Silence, where set, is how long the command may write nothing while we
	// wait for it; then Exec ends with ErrStreamEnded.
	Silence time.Duration
}

// ErrStreamEnded says that the connection ended before the server said how the
// command ended. What was read may be only a part.
var ErrStreamEnded = errors.New("the stream ended before the command's exit status came")

// ExitError says that the command ran and ended with a code that is not 0.
type ExitError struct {
	Code   int
	Stderr string // the end of what it wrote there
}

func (e *ExitError) Error() string {
	s := "command ended with exit code " + strconv.Itoa(e.Code)
	if e.Stderr != "" {
		s += ": " + e.Stderr
	}
	return s
}

// NoCommand says whether a command could not be run because the container's
// image does not have it.
func NoCommand(err error) bool {
	var exit *ExitError
	if errors.As(err, &exit) {
		return exit.Code == 126 || exit.Code == 127
	}
	if err == nil {
		return false
	}
	text := err.Error()
	return strings.Contains(text, "executable file not found") ||
		strings.Contains(text, "exec: ") && strings.Contains(text, "no such file or directory")
}

// Exec runs a command in a container of a running pod and returns when it has
// ended. No error means that the server said that it ended with code 0; a
// connection that merely ends is ErrStreamEnded, never success.
//
// Even so: between the API server and the kubelet lies a second connection, and
// some API servers take its end for the command's success. Who needs every byte
// must have the command say how many there were.
func (c *Cluster) Exec(ctx context.Context, o ExecOptions) error {
	what := "run " + o.Command[0] + " in pod " + o.Namespace + "/" + o.Pod
	if o.Container != "" {
		what += " container " + o.Container
	}
	r := request{verb: "create", kind: pods, namespace: o.Namespace, name: o.Pod, subresource: "exec"}
	r.query = url.Values{"command": o.Command, "stderr": {"true"}}
	if o.Container != "" {
		r.query.Set("container", o.Container)
	}
	if o.Stdin != nil {
		r.query.Set("stdin", "true")
	}
	if o.Stdout != nil {
		r.query.Set("stdout", "true")
	}
	stderr := &tail{next: o.Stderr}
	o.Stderr = stderr

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	e := &execution{ExecOptions: o, cancel: cancel, url: c.url(r)}
	err := e.webSocket(ctx, c.config)
	if upgrade := new(httpstream.UpgradeFailureError); errors.As(err, &upgrade) || httpstream.IsHTTPSProxyError(err) {
		// The server's own word about the pod is final. Otherwise it may be
		// old, a proxy may not know WebSockets, or a right be given for POST
		// alone.
		var said *apierrors.StatusError
		if upgrade != nil && errors.As(upgrade.Cause, &said) {
			err = said
		}
		if !apierrors.IsNotFound(err) {
			if second := e.spdy(ctx, c.config); said == nil || second == nil || e.connected {
				err = second
			}
		}
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if len(e.status) > 0 && context.Cause(ctx) == nil {
		err = statusError(e.status, stderr.String())
	}
	if err == nil && len(e.status) == 0 {
		err = ErrStreamEnded
	}
	if err == nil {
		return nil
	}
	if denied := deniedBy(err, r); denied != nil {
		denied.Verb = r.verb // enough for either transport, whatever was checked first
		return fmt.Errorf("%s: %w", what, denied)
	}
	var exit *ExitError
	if text := stderr.String(); text != "" && !errors.As(err, &exit) {
		return fmt.Errorf("%s: %w (its last words: %s)", what, err, text)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// execution is one running command.
type execution struct {
	ExecOptions
	url    *url.URL
	cancel context.CancelCauseFunc
	status []byte // what the server said about the end
	// connected says that there was a stream, whatever became of it.
	connected bool
}

// ended is the error of a connection that broke.
func ended(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return ErrStreamEnded
	}
	return fmt.Errorf("%w: %w", ErrStreamEnded, err)
}

// fail ends the execution from our side.
func (e *execution) fail(err error) { e.cancel(err) }

// sendStdin copies our input into the command's and then closes that.
func (e *execution) sendStdin(w io.Writer, end func() error) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := e.Stdin.Read(buffer)
		if n > 0 {
			if _, err := w.Write(buffer[:n]); err != nil {
				return // the reader of the connection knows why
			}
		}
		if err == io.EOF {
			_ = end() // as above
			return
		}
		if err != nil {
			// An end that looks like a good one would be a lie.
			e.fail(fmt.Errorf("read what is to be sent: %w", err))
			return
		}
	}
}

// statusError reads the server's word about the end of the command.
func statusError(raw []byte, stderr string) error {
	var status metav1.Status
	if err := json.Unmarshal(raw, &status); err != nil {
		return fmt.Errorf("%w: unreadable exit status %q", ErrStreamEnded, raw)
	}
	switch {
	case status.Status == metav1.StatusSuccess:
		return nil
	case status.Status != metav1.StatusFailure:
		return fmt.Errorf("%w: unknown exit status %q", ErrStreamEnded, raw)
	case status.Reason == remotecommand.NonZeroExitCodeReason && status.Details != nil:
		for _, cause := range status.Details.Causes {
			if cause.Type == remotecommand.ExitCodeCauseType {
				if code, err := strconv.Atoi(cause.Message); err == nil {
					return &ExitError{Code: code, Stderr: stderr}
				}
			}
		}
	}
	return errors.New(status.Message)
}

// execHeader is what both transports put on the stream that it names.
func execHeader(stream string) http.Header {
	h := http.Header{}
	h.Set("streamType", stream)
	return h
}
