// Command bench measures the plugin against what it is built on: a bare list
// of client-go, a bare loop of creates, the stock kopia and restic programs on
// the same files. Every figure is a ratio of two measurements of one run, taken in
// turns several times, and its median is what counts, so that a slow machine
// makes both sides slow.
//
// It prints a table and writes .bench/results.json. It says which aims are
// met and does not fail where one is missed. Clusters are its own, below
// .bench, and are ended afterwards.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/kubectl-backup/kubectl-backup/integration/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is what every measurement needs.
type bench struct {
	root    string // the repository
	scratch string // for remotes, specs and caches
	runs    int
	scale   int // by which volumes are smaller than they should be
	results results
}

// parts are the measurements that share a cluster.
var parts = []struct {
	name string
	need need
	run  func(*bench, context.Context, *cluster.Cluster) error
}{
	{"objects", controlPlane, (*bench).objects},
	{"volumes", node, (*bench).volumes},
	{"parallel", node, (*bench).parallel},
	{"movers", nothing, (*bench).movers},
}

// need says how much of a cluster a part needs.
type need int

const (
	nothing need = iota
	controlPlane
	node
)

func run(ctx context.Context) error {
	b := &bench{}
	only := flag.String("only", "", "measure and print one part: objects, volumes, parallel or movers")
	flag.IntVar(&b.runs, "runs", 3, "how often each is measured; movers: at most twice")
	flag.IntVar(&b.scale, "scale", 1, "divide the volumes of movers, to try the measurement itself")
	flag.Parse()

	var err error
	if b.root, err = cluster.RepositoryRoot(); err != nil {
		return err
	}
	dir := filepath.Join(b.root, ".bench")
	b.scratch = filepath.Join(dir, "scratch"+*only)
	if err := os.RemoveAll(b.scratch); err != nil {
		return err
	}
	if err := os.MkdirAll(b.scratch, 0o755); err != nil {
		return err
	}
	for _, p := range parts {
		if *only != "" && *only != p.name {
			continue
		}
		if p.need == nothing {
			err = p.run(b, ctx, nil)
		} else {
			err = b.part(ctx, filepath.Join(dir, "cluster"), p.need == controlPlane, p.run)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	if err := os.RemoveAll(b.scratch); err != nil {
		return err
	}
	if *only == "" {
		if err := b.results.write(filepath.Join(dir, "results.json")); err != nil {
			return err
		}
	}
	return b.results.print(os.Stdout)
}

// part runs measurements on a cluster of their own.
func (b *bench) part(ctx context.Context, dir string, noNode bool, run func(*bench, context.Context, *cluster.Cluster) error) (err error) {
	clusters, err := cluster.Up(ctx, dir, cluster.Options{Only: []string{"src"}, NoNode: noNode, Log: os.Stderr})
	defer func() {
		err = errors.Join(err, cluster.Down(context.WithoutCancel(ctx), dir, os.Stderr))
	}()
	if err != nil {
		return err
	}
	return run(b, ctx, clusters.Src)
}

// say reports progress; results come at the end.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s  %s\n", time.Now().Format(time.TimeOnly), strings.TrimSpace(fmt.Sprintf(format, args...)))
}
