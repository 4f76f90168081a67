// Command e2e runs the tests of package e2e, several at a time: each on a pair
// of clusters of its own, which is started where it does not run and is not
// ended. Most of what a test does is to wait for pods, so this saves more time
// than there are processors.
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubectl-backup/kubectl-backup/integration/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var r runner
	cmd := &cobra.Command{
		Use: "e2e", Short: "Run the end-to-end tests on several pairs of clusters at once", Args: cobra.NoArgs,
		SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r.out = cmd.OutOrStdout()
			return r.run(cmd.Context())
		},
	}
	cmd.Flags().IntVar(&r.pairs, "pairs", 2, "pairs of clusters; the first is .cluster, the others .cluster-2 and so on")
	cmd.Flags().StringVar(&r.pattern, "run", ".", "only the tests whose names match, as for go test")
	cmd.Flags().DurationVar(&r.timeout, "timeout", 30*time.Minute, "how long one test may take before it counts as hanging")
	return cmd
}

// runner is one run of all tests.
type runner struct {
	pairs   int
	pattern string
	timeout time.Duration

	root, program string // the repository, and the test program
	mu            sync.Mutex
	out           io.Writer
	failed        []string
}

func (r *runner) run(ctx context.Context) (err error) {
	if r.pairs < 1 {
		return fmt.Errorf("--pairs %d: at least one is needed", r.pairs)
	}
	if r.root, err = cluster.RepositoryRoot(); err != nil {
		return err
	}
	scratch, err := os.MkdirTemp("", "e2e")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	r.program = filepath.Join(scratch, "e2e.test")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-o", r.program, "./e2e")
	build.Dir, build.Stderr = filepath.Join(r.root, "integration"), os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build the tests: %w", err)
	}
	for n := range r.pairs {
		if _, err := cluster.Up(ctx, r.pair(n), cluster.Options{Log: os.Stderr}); err != nil {
			return err
		}
	}
	names, err := r.names(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	r.all(ctx, names)
	if err := context.Cause(ctx); err != nil {
		return err
	}
	took := time.Since(began).Round(time.Second)
	if len(r.failed) > 0 {
		return fmt.Errorf("%d of %d tests failed in %s: %s", len(r.failed), len(names), took, strings.Join(r.failed, ", "))
	}
	fmt.Fprintf(r.out, "ok: %d tests in %s\n", len(names), took)
	return nil
}

// pair is the folder of one pair of clusters.
func (r *runner) pair(n int) string {
	dir := filepath.Join(r.root, ".cluster")
	if n > 0 {
		dir += "-" + strconv.Itoa(n+1)
	}
	return dir
}

// names are the tests, in the order of their files.
func (r *runner) names(ctx context.Context) (names []string, err error) {
	list := r.command(ctx, 0, "-test.list", r.pattern)
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("list the tests: %w", err)
	}
	for name := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(name, "Test") {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("no test matches %q", r.pattern)
	}
	return names, nil
}

// all hands the tests out, one at a time to each pair.
func (r *runner) all(ctx context.Context, names []string) {
	queue := make(chan string)
	var workers sync.WaitGroup
	for n := range r.pairs {
		workers.Go(func() {
			for name := range queue {
				r.one(ctx, n, name)
			}
		})
	}
	for _, name := range names {
		select {
		case queue <- name:
		case <-ctx.Done():
		}
	}
	close(queue)
	workers.Wait()
}

// one runs a test and prints what it printed, if it failed.
func (r *runner) one(ctx context.Context, n int, name string) {
	var out bytes.Buffer
	cmd := r.command(ctx, n, "-test.run", "^"+name+"$", "-test.timeout", r.timeout.String())
	cmd.Stdout, cmd.Stderr = &out, &out
	began := time.Now()
	err := cmd.Run()
	took := time.Since(began).Seconds()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		fmt.Fprintf(r.out, "ok   %6.1fs  %s\n", took, name)
		return
	}
	r.failed = append(r.failed, name)
	fmt.Fprintf(r.out, "FAIL %6.1fs  %s, on %s: %v\n%s\n", took, name, filepath.Base(r.pair(n)), err, out.Bytes())
}

// command is the test program on one of the pairs, in the folder of its
// package, as the go command runs it.
func (r *runner) command(ctx context.Context, n int, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, r.program, args...)
	cmd.Dir = filepath.Join(r.root, "integration", "e2e")
	cmd.Env = append(os.Environ(), "E2E_CLUSTER="+r.pair(n))
	cmd.WaitDelay = 10 * time.Second // a program that it started may hold its output
	return cmd
}
