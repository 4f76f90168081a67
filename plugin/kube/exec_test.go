package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	gorilla "github.com/gorilla/websocket"
	"k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

const (
	exitedWell = `{"metadata":{},"status":"Success"}`
	exitedSix  = `{"metadata":{},"status":"Failure","reason":"NonZeroExitCode","message":"command terminated","details":{"causes":[{"reason":"ExitCode","message":"6"}]}}`
	noProgram  = `{"metadata":{},"status":"Failure","code":500,"message":"Internal error occurred: exec: \"pg_dump\": executable file not found in $PATH"}`
)

// process is the far end of one command: what it writes, and how it ends.
type process interface {
	stdout(string)
	stderr(string)
	exit(status string)
	stdin() io.Reader
	cut() // the connection breaks
	end() // the connection is closed in good order
}

// socketProcess is a process behind a WebSocket.
type socketProcess struct {
	conn *gorilla.Conn
}

func (p *socketProcess) send(stream byte, s string) {
	p.conn.WriteMessage(gorilla.BinaryMessage, append([]byte{stream}, s...))
}
func (p *socketProcess) stdout(s string) { p.send(remotecommand.StreamStdOut, s) }
func (p *socketProcess) stderr(s string) { p.send(remotecommand.StreamStdErr, s) }
func (p *socketProcess) exit(s string)   { p.send(remotecommand.StreamErr, s) }
func (p *socketProcess) cut()            { p.conn.NetConn().Close() }
func (p *socketProcess) end() {
	p.conn.WriteControl(gorilla.CloseMessage, gorilla.FormatCloseMessage(gorilla.CloseNormalClosure, ""), time.Now().Add(time.Second))
	p.conn.Close()
}
func (p *socketProcess) stdin() io.Reader {
	r, w := io.Pipe()
	go func() {
		for {
			_, m, err := p.conn.ReadMessage()
			switch {
			case err != nil:
				w.CloseWithError(err)
				return
			case m[0] == remotecommand.StreamClose:
				w.Close()
				return
			default:
				w.Write(m[1:])
			}
		}
	}()
	return r
}

// spdyProcess is a process behind SPDY.
type spdyProcess struct {
	conn    httpstream.Connection
	streams map[string]httpstream.Stream
}

func (p *spdyProcess) stdout(s string) { io.WriteString(p.streams["stdout"], s) }
func (p *spdyProcess) stderr(s string) { io.WriteString(p.streams["stderr"], s) }
func (p *spdyProcess) exit(s string)   { io.WriteString(p.streams["error"], s) }
func (p *spdyProcess) stdin() io.Reader {
	return p.streams["stdin"]
}
func (p *spdyProcess) cut() { p.conn.Close() }
func (p *spdyProcess) end() {
	for _, s := range p.streams {
		s.Close()
	}
}

// executes is a server whose commands do as run says, over one transport; the
// other is refused.
func executes(t *testing.T, transport string, streams int, run func(process)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if gorilla.IsWebSocketUpgrade(r) {
			if transport != "WebSocket" {
				http.Error(w, "no", http.StatusBadRequest)
				return
			}
			upgrader := gorilla.Upgrader{Subprotocols: []string{remotecommand.StreamProtocolV5Name}}
			conn, err := upgrader.Upgrade(w, r, nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			run(&socketProcess{conn})
			return
		}
		if r.Method != http.MethodPost {
			t.Errorf("SPDY by %s", r.Method)
		}
		made := make(chan httpstream.Stream, 4)
		if _, err := httpstream.Handshake(r, w, []string{remotecommand.StreamProtocolV4Name}); err != nil {
			t.Error(err)
			return
		}
		conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, _ <-chan struct{}) error {
			made <- s
			return nil
		})
		if conn == nil {
			return
		}
		defer conn.Close()
		p := &spdyProcess{conn: conn, streams: map[string]httpstream.Stream{}}
		for range streams {
			select {
			case s := <-made:
				p.streams[s.Headers().Get("streamType")] = s
			case <-time.After(5 * time.Second):
				t.Error("the streams were not made")
				return
			}
		}
		run(p)
		<-conn.CloseChan()
	})
}

func TestExecIsDoneOnlyWhenTheServerSaysSo(t *testing.T) {
	var exit *ExitError
	for name, x := range map[string]struct {
		run  func(process)
		good func(error) bool
		out  string
	}{
		"success": {func(p process) { p.stdout("one"); p.stderr("note"); p.stdout("two"); p.exit(exitedWell); p.end() },
			func(err error) bool { return err == nil }, "onetwo"},
		"exit code": {func(p process) { p.stdout("one"); p.stderr("disk full\n"); p.exit(exitedSix); p.end() },
			func(err error) bool {
				return errors.As(err, &exit) && exit.Code == 6 && exit.Stderr == "disk full" && strings.Contains(err.Error(), "disk full") && !NoCommand(err)
			}, "one"},
		"no such program": {func(p process) { p.exit(noProgram); p.end() },
			func(err error) bool { return NoCommand(err) && !errors.Is(err, ErrStreamEnded) }, ""},
		"closed without a word": {func(p process) { p.stdout("one"); p.end() },
			func(err error) bool { return errors.Is(err, ErrStreamEnded) }, "one"},
		"cut": {func(p process) { p.stdout("one"); p.cut() },
			func(err error) bool { return errors.Is(err, ErrStreamEnded) }, "*"},
		"half a status": {func(p process) { p.exit(exitedWell[:10]); p.end() },
			func(err error) bool { return errors.Is(err, ErrStreamEnded) }, ""},
	} {
		for _, transport := range []string{"WebSocket", "SPDY"} {
			t.Run(name+" over "+transport, func(t *testing.T) {
				c := against(t, executes(t, transport, 3, x.run))
				var out, errs bytes.Buffer
				err := c.Exec(t.Context(), ExecOptions{Namespace: "den", Pod: "p", Container: "main", Command: []string{"work"}, Stdout: &out, Stderr: &errs})
				if !x.good(err) {
					t.Errorf("error %v", err)
				}
				if x.out != "*" && out.String() != x.out {
					t.Errorf("output %q, want %q", out.String(), x.out)
				}
				if err != nil && !strings.Contains(err.Error(), "run work in pod den/p container main") {
					t.Errorf("error %v does not say what was run", err)
				}
			})
		}
	}
}

func TestExecSendsItsInputToTheEnd(t *testing.T) {
	sent := strings.Repeat("0123456789abcdef", 20000)
	for _, transport := range []string{"WebSocket", "SPDY"} {
		c := against(t, executes(t, transport, 4, func(p process) {
			got, err := io.ReadAll(p.stdin())
			p.stdout(fmt.Sprint(len(got), err, string(got) == sent))
			p.exit(exitedWell)
			p.end()
		}))
		var out bytes.Buffer
		if err := c.Exec(t.Context(), ExecOptions{Namespace: "den", Pod: "p", Command: []string{"cat"}, Stdin: strings.NewReader(sent), Stdout: &out}); err != nil {
			t.Fatalf("%s: %v", transport, err)
		}
		if want := fmt.Sprint(len(sent), error(nil), true); out.String() != want {
			t.Errorf("%s: %s, want %s", transport, out.String(), want)
		}
	}
}

// broken takes nothing, and gives some bytes and then an error once the command
// runs.
type broken struct {
	err     error
	running chan struct{}
}

func (b broken) Read(p []byte) (int, error)  { <-b.running; return copy(p, "part"), b.err }
func (b broken) Write(p []byte) (int, error) { return 0, b.err }

// What goes wrong on our side ends the command's connection, and never looks to
// either side like a good end.
func TestExecEndsWithOurOwnError(t *testing.T) {
	own := errors.New("the remote is full")
	for _, transport := range []string{"WebSocket", "SPDY"} {
		c := against(t, executes(t, transport, 3, func(p process) {
			p.stdout("data")
			p.stdout("data")
			p.exit(exitedWell)
			p.end()
		}))
		if err := c.Exec(t.Context(), ExecOptions{Namespace: "den", Pod: "p", Command: []string{"send"}, Stdout: broken{err: own}}); !errors.Is(err, own) {
			t.Errorf("%s, writer: %v", transport, err)
		}
		ended, running := make(chan error, 1), make(chan struct{})
		c = against(t, executes(t, transport, 4, func(p process) {
			close(running)
			_, err := io.ReadAll(p.stdin())
			ended <- err
		}))
		if err := c.Exec(t.Context(), ExecOptions{Namespace: "den", Pod: "p", Command: []string{"receive"}, Stdin: broken{own, running}, Stdout: io.Discard}); !errors.Is(err, own) {
			t.Errorf("%s, reader: %v", transport, err)
		}
		if err := <-ended; err == nil && transport == "WebSocket" {
			t.Errorf("%s: the command saw a good end of a broken input", transport)
		}
	}
}

func TestExecEndsWithItsContextAndInSilence(t *testing.T) {
	for _, transport := range []string{"WebSocket", "SPDY"} {
		free := make(chan struct{})
		c := against(t, executes(t, transport, 3, func(p process) { p.stdout("x"); <-free }))
		ctx, cancel := context.WithCancel(t.Context())
		err := c.Exec(ctx, ExecOptions{Namespace: "den", Pod: "p", Command: []string{"hang"}, Stdout: writer(func([]byte) { cancel() })})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", transport, err)
		}
		err = c.Exec(t.Context(), ExecOptions{Namespace: "den", Pod: "p", Command: []string{"hang"}, Stdout: io.Discard, Silence: 30 * time.Millisecond})
		if !errors.Is(err, ErrStreamEnded) || !strings.Contains(err.Error(), "wrote nothing") {
			t.Errorf("%s: %v", transport, err)
		}
		close(free)
	}
}

type writer func([]byte)

func (w writer) Write(p []byte) (int, error) { w(p); return len(p), nil }

// TestExecWhoseReaderStops: an API server gives up a WebSocket that takes
// nothing for a minute, and what we write to may well stop for longer.
func TestExecWhoseReaderStops(t *testing.T) {
	defer func(pace time.Duration) { spoolPace = pace }(spoolPace)
	spoolPace = 100 * time.Millisecond
	const patience, messages = time.Second, 1200 // more than sockets hold
	message := strings.Repeat("x", 32<<10)
	sent := make(chan struct{})
	c := against(t, executes(t, "WebSocket", 3, func(p process) {
		defer close(sent)
		conn := p.(*socketProcess).conn
		for n := range messages {
			conn.SetWriteDeadline(time.Now().Add(patience))
			if err := conn.WriteMessage(gorilla.BinaryMessage, append([]byte{remotecommand.StreamStdOut}, message...)); err != nil {
				t.Errorf("message %d: %v", n, err)
				return
			}
		}
		p.exit(exitedWell)
		p.end()
	}))
	got, stopped := 0, false
	out := writer(func(b []byte) {
		got += len(b)
		if stopped {
			return
		}
		stopped = true
		select {
		case <-sent: // all of it, without us
		case <-time.After(4 * patience):
		}
	})
	if err := c.Exec(t.Context(), ExecOptions{Namespace: "den", Pod: "p", Command: []string{"cat"}, Stdout: out}); err != nil {
		t.Fatal(err)
	}
	if got != messages*len(message) {
		t.Errorf("%d bytes of %d came", got, messages*len(message))
	}
}
