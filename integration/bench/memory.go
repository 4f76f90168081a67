package main

import "fmt"

// limitMiB is what no command should need, however many objects there are.
const limitMiB = 400

// peak remembers what a command needed.
func (o *objectBench) peak(command string, u usage) {
	if o.peaks[command] == nil {
		o.peaks[command] = map[int][]float64{}
	}
	o.peaks[command][o.stored] = append(o.peaks[command][o.stored], u.peakMiB)
}

// memory makes figures of the peaks: each against the limit, and how much
// more ten times as many objects need.
func (o *objectBench) memory() {
	for _, command := range []string{"run", "run, nothing changed", "restore"} {
		var growth []pair
		for _, count := range []int{few, many} {
			var pairs []pair
			for _, p := range o.peaks[command][count] {
				pairs = append(pairs, pair{p, limitMiB})
			}
			o.results.add(fmt.Sprintf("memory of %s, %d objects", command, count), fmt.Sprintf("%d MiB", limitMiB), "peak resident bytes / bytes",
				atMost(1), pairs, share, "%.0f MiB of %.0f MiB")
		}
		for i, p := range o.peaks[command][many] {
			growth = append(growth, pair{p, o.peaks[command][few][i]})
		}
		o.results.add(fmt.Sprintf("memory of %s, growth", command), fmt.Sprintf("itself with %d objects", few), "peak resident bytes / bytes",
			atMost(1.5), growth, share, fmt.Sprintf("%%.0f MiB with %d objects, %%.0f MiB with %d", many, few))
	}
}
