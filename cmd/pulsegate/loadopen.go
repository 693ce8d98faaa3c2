package main

import (
	"context"
	"iter"
	"math/rand/v2"
	"time"
)

// arrivals are how long after the beginning each of so many requests is due: a Poisson process of a rate a second, the same one in each
// run with the same figures.
func arrivals(requests int64, rate float64) iter.Seq[time.Duration] {
	return func(yield func(time.Duration) bool) {
		random := rand.New(rand.NewPCG(1, uint64(requests)))
		at := 0.0
		for range requests {
			at += random.ExpFloat64() / rate
			if !yield(time.Duration(at * float64(time.Second))) {
				return
			}
		}
	}
}

// schedule decides when each request of an open loop is due. One that finds no free connection stays due at its time, so that a slow
// answer is not hidden by the requests that it kept from being sent. The returned function waits for the next one; false when there is
// none.
func (l *load) schedule(ctx context.Context) func() (shot, bool) {
	due := make(chan shot, 1<<16)
	go func() {
		defer close(due)
		n := int64(0)
		for after := range arrivals((l.events+l.Batch-1)/l.Batch, l.rate/float64(l.Batch)) {
			at := l.began.Add(after)
			sleepUntil(at)
			select {
			case due <- shot{number: l.first + n, events: min(l.Batch, l.events-n), due: at}:
			case <-ctx.Done():
				return
			}
			n += l.Batch
		}
	}()
	return func() (shot, bool) {
		s, ok := <-due
		return s, ok
	}
}
