package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
)

// newMover is what this program is inside a pod. People do not call it.
func newMover(e *env) *cobra.Command {
	c := &cobra.Command{
		Use:     "mover",
		Short:   "Carry a volume's bytes; started inside pods by run and restore",
		Example: e.examples("mover send --root /volume > stream", "mover receive --root /volume < stream"),
		Args:    exactArgs(),
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	var root, device string
	rootFlag := func(c *cobra.Command) *cobra.Command {
		c.Flags().StringVar(&root, "root", "/volume", "folder that the volume is mounted at")
		c.Flags().StringVar(&device, "device", "", "device of a block volume, instead of a folder")
		return c
	}
	attended := false
	send := rootFlag(&cobra.Command{
		Use: "send", Short: "Read a folder or a device as a stream to stdout", Args: exactArgs(),
		Example: e.examples("mover send --root /volume > stream"),
		RunE: func(c *cobra.Command, _ []string) error {
			return moverSend(c.Context(), e, root, device, attended)
		},
	})
	send.Flags().BoolVar(&attended, "attended", false, "end when stdin does: whoever started it is gone")
	extra, into := newChoice("keep", "remove"), ""
	receive := rootFlag(&cobra.Command{
		Use: "receive", Short: "Fill a folder or a device from a stream on stdin; the report is on stdout", Args: exactArgs(),
		Example: e.examples("mover receive --root /volume < stream"),
		RunE: func(c *cobra.Command, _ []string) error {
			options := volume.WriteOptions{Extra: volume.Keep}
			if extra.value == "remove" {
				options.Extra = volume.Remove
			}
			if into != "" {
				// Mkdir refuses a name that is taken: nothing is written over.
				root = filepath.Join(root, into)
				if err := os.Mkdir(root, 0o755); err != nil {
					return fmt.Errorf("the new folder for the files: %w", err)
				}
			}
			var report volume.Report
			var err error
			if device != "" {
				report, err = volume.WriteDevice(c.Context(), volume.NewDecoder(e.In), device, false)
			} else {
				report, err = volume.WriteTree(c.Context(), volume.NewDecoder(e.In), root, options)
			}
			if err != nil {
				return err
			}
			return json.NewEncoder(e.Out).Encode(report)
		},
	})
	receive.Flags().StringVar(&into, "into", "", "name of a new folder in the root that the files go into")
	receive.Flags().Var(&extra, "extra", "what becomes of files that the stream does not have")
	idle, once := 10*time.Minute, ""
	wait := &cobra.Command{
		Use: "wait", Short: "Wait to be used, and end when nobody does", Args: exactArgs(),
		Example: e.examples("mover wait --idle 10m"),
		RunE:    func(c *cobra.Command, _ []string) error { return moverWaitOnce(c.Context(), idle, once) },
	}
	wait.Flags().DurationVar(&idle, "idle", idle, "end after nothing has run beside it for this long")
	wait.Flags().StringVar(&once, "once", "", "file that is made when the wait is ended with stop; where it exists there is no wait")
	c.AddCommand(
		send, receive, wait, newMoverTask(e),
		&cobra.Command{
			Use: "stop", Short: "End the wait in the same container", Args: exactArgs(), Example: e.examples("mover stop"),
			RunE: func(*cobra.Command, []string) error { return moverStop() },
		},
	)
	return c
}

// moverWaitOnce is moverWait for an init container: when the node restarts, the
// container runs again, in a pod that has its data.
func moverWaitOnce(ctx context.Context, idle time.Duration, once string) error {
	if once == "" {
		return moverWait(ctx, idle)
	}
	if _, err := os.Stat(once); err == nil {
		return nil
	}
	if err := moverWait(ctx, idle); err != nil {
		return err
	}
	return os.WriteFile(once, nil, 0o600)
}

// moverSend sends a folder or a device. A sender whose reader is gone may wait in a write
// for ever; the end of stdin ends it all the same.
func moverSend(ctx context.Context, e *env, root, device string, attended bool) error {
	sent, gone := make(chan error, 1), make(chan error, 1)
	go func() {
		if device != "" {
			sent <- volume.ReadDevice(ctx, device, volume.NewEncoder(e.Out))
			return
		}
		sent <- volume.ReadTree(ctx, root, volume.NewEncoder(e.Out))
	}()
	if attended {
		go func() {
			_, err := io.Copy(io.Discard, e.In)
			gone <- errors.Join(errors.New("the reader of the stream is gone"), err)
		}()
	}
	select {
	case err := <-sent:
		return err
	case err := <-gone:
		return err
	}
}

// moverWait keeps the container alive while other commands run in it. It is
// process 1 there and ends by itself when nobody comes, so that a container
// whose user died does not stay for ever.
func moverWait(ctx context.Context, idle time.Duration) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			others, err := beside()
			if err != nil {
				return err
			}
			if len(others) > 0 {
				last = now
			}
			if now.Sub(last) > idle {
				return fmt.Errorf("nobody used this mover for %s", idle)
			}
		}
	}
}
