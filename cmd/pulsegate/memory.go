package main

import (
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// gcPercent trades memory for time: what a gateway holds is small, and what it passes on is garbage at once. GOGC overrides it.
	gcPercent = 400
	// roomy is how much memory that trade may take, in bytes. A gateway that holds much itself is content with half as much again.
	roomy = 160 << 20
)

// keepMemory makes this process trade memory for time as long as that is cheap, until stop is called, which waits for the end. Settings of
// Go's own in the environment are left as they are.
func keepMemory() (stop func()) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") != "" {
		return func() {}
	}
	debug.SetMemoryLimit(roomy)
	ending, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ending:
				return
			case <-tick.C:
				debug.SetMemoryLimit(max(roomy, heldMemory()*3/2))
			}
		}
	}()
	return func() { close(ending); <-ended }
}

// heldMemory is what this process cannot do without: what was alive when garbage was collected last, and its stacks.
func heldMemory() int64 {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(samples)
	sum := uint64(0)
	for _, s := range samples {
		if s.Value.Kind() == metrics.KindUint64 {
			sum += s.Value.Uint64()
		}
	}
	return int64(sum)
}
