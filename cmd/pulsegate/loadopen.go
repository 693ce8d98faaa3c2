package main

import (
	"context"
	"math/rand/v2"
	"time"
)

// schedule decides when each request of an open loop is due: at random times that follow a Poisson process, the same ones in each run
// with the same rate. A request that finds no free connection stays due at its time, so that a slow answer is not hidden by the requests
// that it kept from being sent. The returned function waits for the next one; false when there is none.
func (l *load) schedule(ctx context.Context, rate float64) func() (shot, bool) {
	due := make(chan shot, 1<<16)
	random := rand.New(rand.NewPCG(1, uint64(l.events)))
	go func() {
		defer close(due)
		at := l.began
		for n := int64(0); n < l.events; n += l.Batch {
			at = at.Add(time.Duration(random.ExpFloat64() * float64(l.Batch) / rate * float64(time.Second)))
			sleepUntil(at)
			select {
			case due <- shot{number: l.first + n, events: min(l.Batch, l.events-n), due: at}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() (shot, bool) {
		s, ok := <-due
		return s, ok
	}
}
