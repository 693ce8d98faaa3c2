package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
)

// Garbage is collected when it is gcMost percent of what is alive, as long as that is little: what a gateway passes on is garbage at once, and
// memory is traded for time. However much is alive, garbage may take some gcSpare bytes, but at least gcLeast percent.
const (
	gcMost  = 400
	gcLeast = 25
	gcSpare = 96 << 20
)

// keepMemory makes this process trade memory for time as long as that is cheap, until stop is called. It looks after each collection, so that
// a process that grows fast neither collects all the time nor takes a multiple of what it needs. GOGC in the environment is left as it is.
func keepMemory() (stop func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	ended := new(atomic.Bool)
	debug.SetGCPercent(gcMost)
	awaitCollection(ended)
	return func() { ended.Store(true) }
}

// awaitCollection leaves something behind that the next collection finds, and so is told of it.
func awaitCollection(ended *atomic.Bool) {
	runtime.AddCleanup(new([64]byte), func(ended *atomic.Bool) {
		if ended.Load() {
			return
		}
		debug.SetGCPercent(gcPercent(heldMemory()))
		awaitCollection(ended)
	}, ended)
}

// gcPercent is how much garbage there may be, in percent of what is alive (bytes).
func gcPercent(alive uint64) int {
	return int(min(max(gcSpare*100/max(alive, 1), gcLeast), gcMost))
}

// heldMemory is what this process cannot do without: what was alive when garbage was collected last, and its stacks. In bytes.
func heldMemory() uint64 {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}}
	metrics.Read(samples)
	sum := uint64(0)
	for _, s := range samples {
		if s.Value.Kind() == metrics.KindUint64 {
			sum += s.Value.Uint64()
		}
	}
	return sum
}
