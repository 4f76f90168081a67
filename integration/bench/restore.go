package main

import (
	"context"
	"fmt"
	"time"
)

// restore compares restoring the objects with a bare loop of creates of the
// same objects by as many workers. Each goes to a namespace of its own. Of
// many it compares the rate of the last tenth with that of the first.
func (o *objectBench) restore(ctx context.Context) error {
	var pairs []pair
	for n := range o.runs {
		say("restore %d of %d: %d objects", n+1, o.runs, o.stored)
		into := "restored-" + o.stage(n)
		var seen *arrivals
		theirs := 0.0
		if o.stored == few {
			created := fmt.Sprintf("created-%d", n)
			if err := o.namespace(ctx, created); err != nil {
				return err
			}
			started := time.Now()
			if err := o.create(ctx, created, 0, o.stored); err != nil {
				return err
			}
			theirs = time.Since(started).Seconds()
		} else {
			var err error
			if seen, err = o.arriving(ctx, into, o.stored); err != nil {
				return err
			}
		}
		u, err := o.back(ctx, o.remote(o.stage(n)), source, into, o.stored)
		if err != nil {
			return err
		}
		o.peak("restore", u)
		if seen == nil {
			pairs = append(pairs, pair{u.seconds, theirs})
			continue
		}
		first, last, err := seen.tenths()
		if err != nil {
			return err
		}
		pairs = append(pairs, pair{last, first})
	}
	if o.stored == few {
		o.results.add(fmt.Sprintf("restore of %d objects", o.stored), fmt.Sprintf("creates by %d workers", workers), "objects per second / objects per second",
			atLeast(0.7), pairs, faster, "%.1f s, creates %.1f s")
	} else {
		o.results.add(fmt.Sprintf("restore of %d objects, rate of the last tenth", o.stored), "the first tenth", "objects per second / objects per second",
			atLeast(0.8), pairs, faster, "%.1f s, the first %.1f s")
	}
	return nil
}

// back restores the latest backup into another namespace.
func (o *objectBench) back(ctx context.Context, remote, from, into string, objects int) (usage, error) {
	u, d, err := o.plugin.call(ctx, "restore", "latest", "--remote", remote, "--map-namespace", from+"="+into)
	if err == nil && len(d.Objects) < objects {
		err = fmt.Errorf("the restore has %d of %d objects", len(d.Objects), objects)
	}
	return u, err
}
