package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"time"
)

// verdict is what a check prints, as one line of JSON.
type verdict struct {
	First  int64 `json:"first"`
	Second int64 `json:"second"`
	Rows   int64 `json:"rows"`
	// Faults are what copies of one moment could not show.
	Faults []string `json:"faults"`
}

// check compares the three stores. What it finds is no error of its own.
func check(ctx context.Context, first, second, server string) error {
	v := verdict{Faults: []string{}}
	fault := func(format string, args ...any) { v.Faults = append(v.Faults, fmt.Sprintf(format, args...)) }
	for _, f := range []struct {
		path string
		last *int64
	}{{first, &v.First}, {second, &v.Second}} {
		content, err := os.ReadFile(f.path)
		if err != nil {
			return err
		}
		if *f.last, err = sequence(content); err != nil {
			fault("%s: %v", f.path, err)
		}
	}
	rows, err := countRows(ctx, server)
	if err != nil {
		return err
	}
	v.Rows = rows.count
	if rows.count > 0 && (rows.least != 1 || rows.most != rows.count) {
		fault("the table has %d rows from %d to %d", rows.count, rows.least, rows.most)
	}
	if v.Second > v.First {
		fault("the second file has %d, the first ends at %d", v.Second, v.First)
	}
	if rows.most > v.Second {
		fault("the table has %d, the second file ends at %d", rows.most, v.Second)
	}
	return json.NewEncoder(os.Stdout).Encode(v)
}

type counted struct{ count, least, most int64 }

// countRows waits for a server that is starting.
func countRows(ctx context.Context, server string) (c counted, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var t *table
	for {
		if t, err = connect(ctx, server); err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return c, err
		case <-time.After(200 * time.Millisecond):
		}
	}
	defer t.close()
	rows, err := t.query("SELECT count(*), coalesce(min(n), 0), coalesce(max(n), 0) FROM numbers")
	if err != nil {
		return c, err
	}
	if len(rows) != 1 || len(rows[0]) != 3 {
		return c, fmt.Errorf("the server answered %v", rows)
	}
	for i, into := range []*int64{&c.count, &c.least, &c.most} {
		if *into, err = strconv.ParseInt(rows[0][i], 10, 64); err != nil {
			return c, err
		}
	}
	return c, nil
}
