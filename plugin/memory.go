package plugin

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync"
)

// enough is the memory, in bytes, up to which the garbage collector may take
// its time. Commands for small clusters never come near it.
const enough = 224 << 20

// first is the memory, in bytes, at which garbage is collected for the first
// time. What the packages are after their start, and what deriving the key of a
// repository takes, are below it, so a command with little to do never collects.
const first = 128 << 20

// boundMemory keeps garbage from doubling what a command needs for a large
// cluster: beyond enough, the collector leaves a quarter of what is live to it,
// not as much again. A limit alone would do for what stays below it, and would
// make the collector run all the time for what does not; so it follows what is
// live. In a container it never leaves so much that the container is ended for
// it. Who sets GOGC or GOMEMLIMIT has decided otherwise.
func boundMemory() {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	most := allowed()
	debug.SetMemoryLimit(min(most, first))
	debug.SetGCPercent(-1)
	usual := sync.OnceFunc(func() { debug.SetGCPercent(100) })
	afterEachCollection(func() {
		usual()
		sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(sample)
		debug.SetMemoryLimit(min(most, max(enough, int64(sample[0].Value.Uint64())/4*5)))
	})
}

// allowed is nine tenths of the memory that the container may use, in bytes.
func allowed() int64 {
	raw, err := os.ReadFile("/sys/fs/cgroup/memory.max")
	if err != nil {
		raw, err = os.ReadFile("/sys/fs/cgroup/memory/memory.limit_in_bytes")
	}
	if err == nil {
		if limit, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64); err == nil && limit > 0 {
			return limit / 10 * 9
		}
	}
	return math.MaxInt64
}

// afterEachCollection calls f, from a goroutine of its own, when garbage was
// collected: a finalizer that sets itself again.
func afterEachCollection(f func()) {
	type canary struct{ _ [16]byte }
	var set func()
	set = func() {
		runtime.SetFinalizer(&canary{}, func(*canary) {
			f()
			set()
		})
	}
	set()
}
