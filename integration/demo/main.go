// Command demo shows the main job on real clusters: an application of two
// workloads is saved, deleted, and brought back in another namespace of
// another cluster with another storage class. It calls the real program, as
// kubectl's plugin, and shows each command before what it prints. It ends
// well only where what came back is equal to what was there.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	var o options
	flag.StringVar(&o.context, "context", "", "use two namespaces of this existing cluster instead of two clusters of our own")
	flag.BoolVar(&o.keep, "keep", false, "leave everything as it is at the end")
	flag.StringVar(&o.postgres, "image-postgres", "", "image with PostgreSQL for --context (postgres:17 or like it)")
	flag.StringVar(&o.busybox, "image-busybox", "", "image with busybox for --context")
	flag.StringVar(&o.mover, "image-mover", "", "image with this program for --context")
	flag.Parse()

	started := time.Now()
	say("1. The place: %s", o.describe())
	p, err := preparePlace(ctx, o)
	if err != nil {
		return err
	}
	defer func() {
		// Cleaning up is not cancelled by what ended the demo.
		err = errors.Join(err, p.leave(context.WithoutCancel(ctx)))
	}()
	app := &application{place: p}

	say("2. The application: PostgreSQL with a claim, and a web server that calls it and has an emptyDir")
	if err := app.install(ctx); err != nil {
		return err
	}
	before, err := app.checksums(ctx, p.source, namespace)
	if err != nil {
		return err
	}
	before.print()

	say("3. A repository for backups: encrypted, on any remote that rclone reaches; here, a folder")
	if err := p.backup(ctx, "init"); err != nil {
		return err
	}
	say("4. The plan: what a run would save, what has to share a point in time, and why; nothing is written")
	if err := p.backup(ctx, "plan", "--context", p.source, "-f", policy); err != nil {
		return err
	}
	say("5. The run: does what the plan shows")
	if err := p.backup(ctx, "run", "--context", p.source, "-f", policy); err != nil {
		return err
	}
	if err := p.backup(ctx, "list"); err != nil {
		return err
	}
	say("6. The disaster: the application is deleted, with its data")
	if err := p.kubectl(ctx, p.source, "delete", "namespace", namespace, "--timeout=120s"); err != nil {
		return err
	}
	say("7. The restore: %s", p.restoreTitle())
	arguments := []string{"restore", "latest", "--context", p.source, "--to-context", p.target, "--map-namespace", namespace + "=" + restored}
	if err := p.backup(ctx, append(arguments, p.classMap...)...); err != nil {
		return err
	}
	say("8. The proof: what came back against what was there")
	after, err := app.checksums(ctx, p.target, restored)
	if err != nil {
		return err
	}
	if err := compare(before, after); err != nil {
		return err
	}
	fmt.Printf("\nEverything came back equal, %s after the start.\n", time.Since(started).Round(time.Second))
	return nil
}

func say(format string, args ...any) {
	fmt.Printf("\n== %s\n", fmt.Sprintf(format, args...))
}

// compare prints a line per thing and returns an error where one differs.
func compare(before, after checksums) error {
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintf(table, "\nWHAT\tBEFORE (sha256)\tAFTER (sha256)\tVERDICT\n")
	differs := false
	for i, b := range before {
		verdict := "equal"
		if after[i].sum != b.sum {
			verdict, differs = "DIFFERENT", true
		}
		fmt.Fprintf(table, "%s\t%.16s\t%.16s\t%s\n", b.what, b.sum, after[i].sum, verdict)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if differs {
		return errors.New("what came back is not what was there")
	}
	return nil
}
