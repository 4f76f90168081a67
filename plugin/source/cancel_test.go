package source

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestCancelled has a server, and a standard input, that never say anything.
func TestCancelled(t *testing.T) {
	serveSSH(t, t.TempDir()) // for the home folder and known hosts
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	accepted := make(chan net.Conn, 16)
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	silent, feeder := io.Pipe()
	defer feeder.Close()
	for _, name := range []string{
		"-",
		"http://u:hush@" + listener.Addr().String() + "/p.yaml",
		"git::http://u:hush@" + listener.Addr().String() + "/r.git",
		"git::ssh://git:hush@" + listener.Addr().String() + "/r.git",
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			done := make(chan error, 1)
			go func() {
				_, err := Load(ctx, Request{Files: []string{name}, Stdin: silent})
				done <- err
			}()
			if name != "-" {
				defer (<-accepted).Close()
			}
			cancel()
			select {
			case err := <-done:
				require.ErrorIs(t, err, context.Canceled)
				require.NotContains(t, err.Error(), "hush")
			case <-time.After(10 * time.Second):
				t.Fatal("still waiting")
			}
		})
	}
}
