// Command witness is an application whose data show at which moment each of
// its volumes was copied. It is static and needs no shell, no tools, no libc.
//
// Three stores hold the same numbers: a writer appends 1, 2, 3, ... to a file,
// each durable before it tells the relay; the relay appends it to a file of its
// own, and when that is durable to a table of PostgreSQL; then the writer hears
// that it was acknowledged. So at every moment the relay's numbers are a prefix
// of the writer's, and the rows a prefix of the relay's. Copies that are not of
// one moment show it.
//
//	witness write --file /data/numbers --next relay:7000
//	witness relay --file /data/numbers --postgres db:5432
//	witness check --first /a/numbers --second /b/numbers --postgres 127.0.0.1:5432
//
// A writer or relay that starts on the file of an earlier one goes on where it
// ended. At port 7001, GET /status tells how far it is; GET /pause answers when
// nothing is being written any more, until GET /resume.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "witness:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("a role is needed: write, relay or check")
	}
	role := args[0]
	flags := flag.NewFlagSet(role, flag.ContinueOnError)
	file := flags.String("file", "", "where to append the numbers")
	next := flags.String("next", "", "the relay's address")
	postgres := flags.String("postgres", "", "the server's address")
	scratch := flags.String("scratch", "", "a directory to write a file into at the start; none: write nothing")
	firstFile := flags.String("first", "", "the writer's file")
	secondFile := flags.String("second", "", "the relay's file")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if *scratch != "" {
		if err := os.WriteFile(filepath.Join(*scratch, "seen"), []byte("by the "+role+"\n"), 0o644); err != nil {
			return err
		}
	}
	switch role {
	case "write":
		return write(ctx, *file, *next)
	case "relay":
		return relay(ctx, *file, *postgres)
	case "check":
		return check(ctx, *firstFile, *secondFile, *postgres)
	}
	return fmt.Errorf("no role is called %q", role)
}
