// Package collector stops the garbage collector before the packages that do
// work when they are linked in get to it: they allocate more than the least
// that a collection begins at, and nearly all of it stays, so that collecting
// meanwhile only costs time. plugin.Main lets it go on.
//
// Packages are initialized in the order of their paths, as soon as what they
// import is. This one imports so little that it is among the first.
package collector

import (
	"os"
	"runtime/debug"
)

func init() {
	// Who sets these has decided.
	if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetGCPercent(-1)
	}
}
