package freeze

import (
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	ossignal "os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
)

// TestMain lets more tests run at once than there are processors: most of them
// wait for the end of some time.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "12"); err != nil {
		panic(err)
	}
	// What we are ignoring since we were started, our children would ignore too,
	// and no shell can change that.
	ossignal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	os.Exit(m.Run())
}

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
	return &container{
		shell: shell, dir: t.TempDir(), lose: make(chan struct{}), started: make(chan *os.Process, 1), ended: make(chan struct{}),
	}
}

func (c *container) Exec(ctx context.Context, o kube.ExecOptions) error {
	cmd := exec.Command(c.shell[0], append(c.shell[1:], o.Command[1:]...)...)
	cmd.Dir, cmd.Env = c.dir, append(os.Environ(), c.env...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	// Pipes of our own: what Wait waits for is the process alone.
	stdout, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd.Stdout = theirs
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			// As a container runtime says it.
			return errors.New(`exec: "sh": executable file not found in $PATH`)
		}
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
		err := cmd.Wait()
		<-read
		exited <- err
		close(c.ended)
	}()
	gone := func() {
		stdout.Close()
		if !c.deaf {
			stdin.Close()
		}
	}
	select {
	case err := <-exited:
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			return err
		}
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return &kube.ExitError{Code: 128 + int(status.Signal())} // as a container runtime says it
		}
		return &kube.ExitError{Code: exit.ExitCode()}
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
	is := func() bool {
		_, err := os.Stat(c.path(name))
		return (err == nil) == want
	}
	if !is() {
		require.Eventually(t, is, max(within, 20*time.Millisecond), 10*time.Millisecond, "%s: there should be %v", name, want)
	}
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

func hours(n int) *metav1.Duration { return &metav1.Duration{Duration: time.Duration(n) * time.Hour} }
