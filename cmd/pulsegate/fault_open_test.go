package main_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestC05OpenLoop posts at a rate whatever becomes of what was posted before, and measures from when each event was due.
func TestC05OpenLoop(t *testing.T) {
	for _, rate := range sized([]int{200, 400}, []int{1_000, 2_000}) {
		t.Run(fmt.Sprint(rate, " a second"), func(t *testing.T) { openLoop(t, rate, sized(2, 30)) })
	}
}

func openLoop(t *testing.T, rate, seconds int) {
	const bots = 50
	w := openWard(t, bots, 0)
	w.run(t, bots, rate, rate) // warm
	before, events := w.well.count(), rate*seconds
	l := startLoad(t, w.fleet, loadConfig{rate: rate, pages: bots, limit: events, first: w.number, writers: 256})
	l.finish(t)
	require.Empty(t, l.refusals)
	var accepts []time.Duration
	var first, last time.Time
	for _, e := range l.ids {
		accepts = append(accepts, e.accepted.Sub(e.due))
		if first.IsZero() || e.due.Before(first) {
			first = e.due
		}
		if e.accepted.After(last) {
			last = e.accepted
		}
	}
	eventually(t, func() bool { return w.well.count() >= before+events }, "all of it arrives")
	w.drained(t)
	accept, arrive := newFigures(accepts, last.Sub(first)), l.dueToArrival(w.well.all()[before:])
	require.Equal(t, events, arrive.n, "each once")
	require.True(t, balanced(ledger(t, w.store)))
	require.InEpsilon(t, float64(rate), arrive.perSecond, 0.1, "the loop kept its rate")
	measured(t, "%d events at %d/s to %d bots, from when they were due: accepted p50 %v, p99 %v, p99.9 %v; at the bot p50 %v, p99 %v; %.0f/s arrived, all of them",
		events, rate, bots, accept.p50, accept.p99, quantile(accepts, .999), arrive.p50, arrive.p99, arrive.perSecond)
}
