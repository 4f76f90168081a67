package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
)

// aim is what a figure should be.
type aim struct {
	value float64
	// atMost says that less is better; otherwise more is.
	atMost bool
}

func atLeast(v float64) aim { return aim{v, false} }
func atMost(v float64) aim  { return aim{v, true} }

// result is one figure. Ratio is the median of Runs, and so is every number
// in the note.
type result struct {
	Name  string  `json:"name"`
	Ratio float64 `json:"ratio"`
	Aim   float64 `json:"aim"`
	// Better is "higher" or "lower".
	Better string `json:"better"`
	Met    bool   `json:"met"`
	// Against is what 1 stands for.
	Against string `json:"against"`
	// Unit says what is divided by what.
	Unit string    `json:"unit"`
	Runs []float64 `json:"runs"`
	// Note has the two numbers behind the ratio.
	Note string `json:"note"`
}

type results []result

// pair is one measurement: ours and what it is compared with, in one unit.
type pair struct{ ours, theirs float64 }

// add makes a figure of measurements; ratio says how a pair becomes one.
func (r *results) add(name, against, unit string, a aim, pairs []pair, ratio func(pair) float64, format string) {
	f := result{Name: name, Against: against, Unit: unit, Aim: a.value, Better: "higher"}
	if a.atMost {
		f.Better = "lower"
	}
	var ours, theirs []float64
	for _, p := range pairs {
		f.Runs = append(f.Runs, round(ratio(p)))
		ours, theirs = append(ours, p.ours), append(theirs, p.theirs)
	}
	f.Ratio = median(f.Runs)
	f.Met = f.Ratio >= a.value
	if a.atMost {
		f.Met = f.Ratio <= a.value
	}
	f.Note = fmt.Sprintf(format, median(ours), median(theirs))
	say("%s: %.2f (%s)", f.Name, f.Ratio, f.Note)
	*r = append(*r, f)
}

// faster is how many times ours does in the time that theirs takes.
func faster(p pair) float64 { return p.theirs / p.ours }

// share is ours in units of theirs.
func share(p pair) float64 { return p.ours / p.theirs }

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

func round(v float64) float64 { return float64(int(v*1000+0.5)) / 1000 }

func (r results) write(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

func (r results) print(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "FIGURE\tRATIO\tAIM\tMET\tAGAINST\tMEASURED")
	for _, f := range r {
		sign, met := ">=", "yes"
		if f.Better == "lower" {
			sign = "<="
		}
		if !f.Met {
			met = "NO"
		}
		fmt.Fprintf(table, "%s\t%.2f\t%s %g\t%s\t%s\t%s\n", f.Name, f.Ratio, sign, f.Aim, met, f.Against, f.Note)
	}
	return table.Flush()
}
