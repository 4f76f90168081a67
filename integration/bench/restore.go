package main

import (
	"context"
	"fmt"
	"time"
)

// restore compares restoring the objects with a bare loop of creates of the
// same objects by as many workers. Each goes to a namespace of its own.
func (o *objectBench) restore(ctx context.Context) error {
	var pairs []pair
	for n := range o.runs {
		say("restore %d of %d: %d objects", n+1, o.runs, o.stored)
		theirs := 0.0
		if o.stored == few { // many are for the memory alone
			created := fmt.Sprintf("created-%d", n)
			if err := o.namespace(ctx, created); err != nil {
				return err
			}
			started := time.Now()
			if err := o.create(ctx, created, 0, o.stored); err != nil {
				return err
			}
			theirs = time.Since(started).Seconds()
		}
		u, d, err := o.plugin.call(ctx, "restore", "latest", "--remote", o.remote(n),
			"--map-namespace", fmt.Sprintf("%s=restored-%d-%d", source, o.stored, n))
		if err != nil {
			return err
		}
		if len(d.Objects) < o.stored {
			return fmt.Errorf("the restore has %d of %d objects", len(d.Objects), o.stored)
		}
		pairs = append(pairs, pair{u.seconds, theirs})
		o.peak("restore", u)
	}
	if o.stored == few {
		o.results.add(fmt.Sprintf("restore of %d objects", o.stored), fmt.Sprintf("creates by %d workers", workers), "objects per second / objects per second",
			atLeast(0.7), pairs, faster, "%.1f s, creates %.1f s")
	}
	return nil
}
