// Command kubectl-backup is a kubectl plugin that backs up and restores
// workloads. This file knows about streams, signals and exit codes and
// nothing else; the commands are in package plugin.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	_ "github.com/kubectl-backup/kubectl-backup/cmd/kubectl-backup/internal/collector" // before all others
	_ "github.com/kubectl-backup/kubectl-backup/cmd/kubectl-backup/internal/english"
	"github.com/kubectl-backup/kubectl-backup/plugin"
)

func main() {
	ends := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as under nohup
		ends = append(ends, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
	code := plugin.Main(ctx, os.Args, streams)
	stop()
	os.Exit(code)
}
