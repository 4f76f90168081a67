package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport/spdy"
)

// spdy runs the command over the older transport, for servers and proxies that
// do not take WebSockets.
func (e *execution) spdy(ctx context.Context, cfg *rest.Config) error {
	transport, upgrader, err := spdy.RoundTripperFor(cfg)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url.String(), nil)
	if err != nil {
		return err
	}
	conn, _, err := spdy.Negotiate(upgrader, &http.Client{Transport: transport}, req, remotecommand.StreamProtocolV4Name)
	if err != nil {
		return err
	}
	e.connected = true
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	status, err := conn.CreateStream(execHeader(corev1.StreamTypeError))
	if err != nil {
		return ended(err)
	}
	var stdin io.WriteCloser
	if e.Stdin != nil {
		stdin, err = conn.CreateStream(execHeader(corev1.StreamTypeStdin))
		if err != nil {
			return ended(err)
		}
	}
	beat := make(chan struct{}, 1)
	outputs := make(chan error, 2)
	copies := 0
	for _, s := range []struct {
		name string
		id   byte
		to   io.Writer
	}{{corev1.StreamTypeStdout, remotecommand.StreamStdOut, e.Stdout}, {corev1.StreamTypeStderr, remotecommand.StreamStdErr, e.Stderr}} {
		if s.to == nil {
			continue
		}
		from, err := conn.CreateStream(execHeader(s.name))
		if err != nil {
			return ended(err)
		}
		copies++
		go func() { outputs <- e.drain(s.id, from, beat) }()
	}
	if e.Silence > 0 {
		go e.listen(ctx, beat)
	}
	if stdin != nil {
		go e.sendStdin(stdin, stdin.Close)
	}
	said := make(chan error, 1)
	go func() {
		var err error
		e.status, err = io.ReadAll(io.LimitReader(status, maxStatus))
		said <- err
	}()
	// The outputs first: the status may overtake them.
	for range copies {
		if err := <-outputs; err != nil {
			e.fail(err)
			<-said
			return err
		}
	}
	select {
	case err := <-said:
		if err != nil && !errors.Is(err, io.EOF) {
			return ended(err)
		}
		return nil
	case <-ctx.Done():
		conn.Close()
		<-said
		return context.Cause(ctx)
	}
}

// drain delivers one output to its end.
func (e *execution) drain(id byte, from io.Reader, beat chan<- struct{}) error {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		select {
		case beat <- struct{}{}:
		default:
		}
		if problem := e.take(id, buffer[:n]); problem != nil {
			return problem
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return ended(err)
		}
	}
}

// listen ends the execution when nothing was written for too long.
func (e *execution) listen(ctx context.Context, beat <-chan struct{}) {
	timer := time.NewTimer(e.Silence)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-beat:
			timer.Reset(e.Silence)
		case <-timer.C:
			e.fail(fmt.Errorf("%w: it wrote nothing for %s", ErrStreamEnded, e.Silence))
			return
		}
	}
}
