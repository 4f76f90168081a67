package freeze

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
)

// shells are what images have as sh.
var shells = [][]string{{"dash"}, {"bash", "--posix"}, {"busybox", "sh"}}

// container runs commands on this machine, as a kubelet does in a container,
// and can break the connection in the ways in which it breaks there.
type container struct {
	shell []string
	env   []string
	dir   string
	// deaf: the command's input stays open when the connection is lost.
	deaf bool
	// lose closes the connection at once.
	lose chan struct{}
	// started receives the process.
	started chan *os.Process
	ended   chan struct{}
}

func newContainer(t *testing.T, shell []string) *container {
	if _, err := exec.LookPath(shell[0]); err != nil {
		t.Fatalf("%s is needed: %v", shell[0], err)
	}
	return &container{shell: shell, dir: t.TempDir(), lose: make(chan struct{}), started: make(chan *os.Process, 1), ended: make(chan struct{})}
}

func (c *container) Exec(ctx context.Context, o kube.ExecOptions) error {
	cmd := exec.Command(c.shell[0], append(c.shell[1:], o.Command[1:]...)...)
	cmd.Dir, cmd.Env = c.dir, append(os.Environ(), c.env...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	c.started <- cmd.Process
	go func() {
		io.Copy(stdin, o.Stdin)
		if !c.deaf {
			stdin.Close()
		}
	}()
	read := make(chan struct{})
	go func() {
		io.Copy(o.Stdout, stdout)
		close(read)
	}()
	exited := make(chan error, 1)
	go func() {
		<-read
		exited <- cmd.Wait()
		close(c.ended)
	}()
	gone := func() {
		if !c.deaf {
			stdin.Close()
		}
	}
	select {
	case err := <-exited:
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() >= 0 {
			return &kube.ExitError{Code: exit.ExitCode(), Stderr: stderr.String()}
		}
		return err
	case <-ctx.Done():
		gone()
		return context.Cause(ctx)
	case <-c.lose:
		gone()
		return kube.ErrStreamEnded
	}
}

func (c *container) path(name string) string { return filepath.Join(c.dir, name) }

// there waits until a file is there, or is not.
func (c *container) there(t *testing.T, name string, want bool, within time.Duration) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, err := os.Stat(c.path(name))
		return (err == nil) == want
	}, max(within, 50*time.Millisecond), 10*time.Millisecond, "%s: there should be %v", name, want)
}

// lines are those of a file that the commands write.
func (c *container) lines(t *testing.T, name string) []string {
	t.Helper()
	content, err := os.ReadFile(c.path(name))
	require.NoError(t, err)
	return strings.Fields(string(content))
}

// hold freezes a target in the container.
func (c *container) hold(ctx context.Context, target Target) (*Session, error) {
	target.Namespace, target.Pod, target.Container = "den", "store-0", "db"
	target, err := target.timed()
	if err != nil {
		return nil, err
	}
	s, err := open(ctx, c, target)
	if err != nil {
		return nil, err
	}
	return s, s.freeze(ctx)
}

// everyShell runs a test with each shell, at the same time.
func everyShell(t *testing.T, test func(*testing.T, *container)) {
	t.Parallel()
	for _, shell := range shells {
		t.Run(shell[0], func(t *testing.T) {
			t.Parallel()
			test(t, newContainer(t, shell))
		})
	}
}
