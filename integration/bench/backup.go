package main

import (
	"context"
	"fmt"
	"path/filepath"
)

// backup compares runs with bare lists of the same objects: a first one into
// an empty repository, and one where nothing has changed since.
func (o *objectBench) backup(ctx context.Context) error {
	var first, again, added []pair
	for n := range o.runs {
		say("run %d of %d: %d objects", n+1, o.runs, o.stored)
		theirs, err := o.bareList(ctx)
		if err != nil {
			return err
		}
		remote := o.remote(o.stage(n))
		if err := o.plugin.init(ctx, "--remote", remote); err != nil {
			return err
		}
		run := func() (usage, error) {
			u, d, err := o.plugin.call(ctx, "run", "-f", o.spec, "--remote", remote)
			if err == nil && len(d.Objects) < o.stored {
				err = fmt.Errorf("the run has %d of %d objects", len(d.Objects), o.stored)
			}
			return u, err
		}
		u, err := run()
		if err != nil {
			return err
		}
		first = append(first, pair{u.seconds, theirs})
		o.peak("run", u)
		before, err := folderSize(remote)
		if err != nil {
			return err
		}
		if u, err = run(); err != nil {
			return err
		}
		again = append(again, pair{u.seconds, theirs})
		o.peak("run, nothing changed", u)
		after, err := folderSize(remote)
		if err != nil {
			return err
		}
		added = append(added, pair{float64(after-before) / 1024, 200})
	}
	if o.stored != few {
		return nil // many are for the memory alone
	}
	o.results.add(fmt.Sprintf("run of %d objects", o.stored), "a paged list with client-go", "duration / duration",
		atMost(2), first, share, "%.2f s, list %.2f s")
	o.results.add(fmt.Sprintf("run of %d objects, nothing changed", o.stored), "a paged list with client-go", "duration / duration",
		atMost(2), again, share, "%.2f s, list %.2f s")
	o.results.add("bytes that it adds", "200 KiB", "bytes / bytes",
		atMost(1), added, share, "%.0f KiB of %.0f KiB")
	return nil
}

// remote is the folder of a repository.
func (o *objectBench) remote(name string) string { return filepath.Join(o.scratch, "remote-"+name) }

// stage names the n-th measurement with as many objects as now.
func (o *objectBench) stage(n int) string { return fmt.Sprintf("%d-%d", o.stored, n) }
