package main_test

import (
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// figures are what one run says of deliveries, from when each event was due to be posted to its arrival.
type figures struct {
	n             int
	p50, p95, p99 time.Duration
	most          time.Duration
	perSecond     float64 // that arrived
}

// dueToArrival are the figures of a load's events among arrivals.
func (l *load) dueToArrival(got []arrival) figures {
	l.mu.Lock()
	defer l.mu.Unlock()
	var times []time.Duration
	var first, last time.Time
	for _, a := range got {
		e, ok := l.ids[a.id]
		if !ok || a.try != 1 {
			continue
		}
		times = append(times, a.at.Sub(e.due))
		if first.IsZero() || e.due.Before(first) {
			first = e.due
		}
		if a.at.After(last) {
			last = a.at
		}
	}
	return newFigures(times, last.Sub(first))
}

// newFigures sums up times that were taken within a stretch.
func newFigures(times []time.Duration, stretch time.Duration) figures {
	slices.Sort(times)
	f := figures{n: len(times), perSecond: float64(len(times)) / stretch.Seconds()}
	if f.n > 0 {
		f.p50, f.p95, f.p99, f.most = quantile(times, .5), quantile(times, .95), quantile(times, .99), quantile(times, 1)
	}
	return f
}

// medianOf is the median over several runs.
func medianOf[T time.Duration | float64](runs []figures, of func(figures) T) T {
	values := make([]T, len(runs))
	for i, f := range runs {
		values[i] = of(f)
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// ratioOf is the median, over pairs of runs, of how many times as much the second of each took.
func ratioOf(without, with []figures, of func(figures) time.Duration) float64 {
	var ratios []float64
	for i := range with {
		ratios = append(ratios, float64(of(with[i]))/float64(of(without[i])))
	}
	return median(ratios)
}

func p50Of(f figures) time.Duration { return f.p50 }
func p95Of(f figures) time.Duration { return f.p95 }
func p99Of(f figures) time.Duration { return f.p99 }
func perSecondOf(f figures) float64 { return f.perSecond }

// ward is a gateway with well bots and sick ones. The sick ones hang or answer, as they are told; they never become DOWN, so that they are
// tried all the time.
type ward struct {
	store    *redis.Client
	fleet    *fleet
	well     *recorder
	released atomic.Pointer[chan struct{}] // closed: the sick bots answer
	wellBots int                           // on the first pages
	number   int                           // of events so far
}

const hangTimeout = 5 * time.Second

func openWard(t *testing.T, well, sick int) *ward {
	t.Helper()
	url, store := storyRedis(t)
	w := &ward{store: store, well: startRecorder(t, accepts), wellBots: well}
	w.fleet = startFleet(t, 1, "--redis", url, "--delivery-timeout", hangTimeout.String(), "--health-min-attempts", "1000000")
	bad := startRecorder(t, func(_ arrival, gone <-chan struct{}) int {
		select {
		case <-*w.released.Load():
			return http.StatusAccepted
		case <-gone:
			return 0
		}
	})
	w.hang()()
	registerPages(t, w.fleet.at(0), well, w.well.url, nil)
	for i := range sick {
		name := pageName(well + i)
		require.Equal(t, http.StatusAccepted, registerBot(t, w.fleet.at(0), name, "app-"+name, bad.url, nil))
	}
	return w
}

// hang makes the sick bots hang, until release is called.
func (w *ward) hang() (release func()) {
	c := make(chan struct{})
	w.released.Store(&c)
	return func() { close(c) }
}

// run posts so many events to all pages in turn, and returns what became of those of the well bots.
func (w *ward) run(t *testing.T, pages, events, rate int) figures {
	t.Helper()
	before := w.well.count()
	l := startLoad(t, w.fleet, loadConfig{rate: rate, pages: pages, limit: events, first: w.number, writers: 64})
	w.number += events
	l.finish(t)
	require.Empty(t, l.refusals)
	due := 0
	for _, e := range l.ids {
		if e.page < w.wellBots {
			due++
		}
	}
	eventually(t, func() bool { return w.well.count() >= before+due }, "the well bots get everything")
	f := l.dueToArrival(w.well.all()[before:])
	require.Equal(t, due, f.n, "each once")
	return f
}

// drained waits until nothing waits for anybody.
func (w *ward) drained(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool { return queued(t, w.store) == 0 }, time.Minute, 50*time.Millisecond, "what waited for the sick bots is delivered")
}

// TestC01HangingBotsCostTheOthersNothing posts to many bots of which some hang until the timeout, and to the same ones while all are well, by
// turns.
func TestC01HangingBotsCostTheOthersNothing(t *testing.T) {
	bots, sick, rate, pairs := sized(40, 200), sized(4, 10), sized(200, 650), sized(1, 9)
	stretch := sized(2, 6) // seconds
	w := openWard(t, bots-sick, sick)
	w.run(t, bots, rate, rate) // warm
	var without, with []figures
	for range pairs {
		without = append(without, w.run(t, bots, stretch*rate, rate))
		release := w.hang()
		with = append(with, w.run(t, bots, stretch*rate, rate))
		release()
		w.drained(t)
		calm, ill := without[len(without)-1], with[len(with)-1]
		t.Logf("without: %.0f/s p50 %v p99 %v most %v; with: %.0f/s p50 %v p99 %v most %v", calm.perSecond, calm.p50, calm.p99, calm.most,
			ill.perSecond, ill.p50, ill.p99, ill.most)
		require.Less(t, ill.most, hangTimeout/2, "nobody waits for a sick bot's timeout")
	}
	p50, p99 := ratioOf(without, with, p50Of), ratioOf(without, with, p99Of)
	require.True(t, balanced(ledger(t, w.store)))
	measured(t, "%d bots, %d/s: %.0f deliveries/s to the %d well ones, median %v, p99 %v; with %d that hang for %v: %.0f/s, %v, %v (p50 %.2f, p99 %.2f times, median of %d pairs)",
		bots, rate, medianOf(without, perSecondOf), bots-sick, medianOf(without, p50Of), medianOf(without, p99Of), sick, hangTimeout,
		medianOf(with, perSecondOf), medianOf(with, p50Of), medianOf(with, p99Of), p50, p99, pairs)
	if pairs >= 5 {
		require.LessOrEqual(t, p50, 1.10)
		require.LessOrEqual(t, p99, 1.5)
	}
}

// TestC02BusyBotCostsTheOthersLittle gives one bot a hundred times what each of the others gets.
func TestC02BusyBotCostsTheOthersLittle(t *testing.T) {
	others, each, pairs, stretch := 20, 5, sized(1, 5), sized(1, 10)
	w := openWard(t, others, 0)
	hot := startRecorder(t, accepts)
	require.Equal(t, http.StatusAccepted, registerBot(t, w.fleet.at(0), pageName(others), "app-hot", hot.url, nil))
	w.run(t, others, others*each, others*each) // warm
	var without, with []figures
	posted, got := 0, 0
	for range pairs {
		without = append(without, w.run(t, others, stretch*others*each, others*each))
		busy := startLoad(t, w.fleet, loadConfig{rate: 100 * each, pages: others + 1, only: []int{others}, first: 1_000_000 + posted, writers: 64})
		with = append(with, w.run(t, others, stretch*others*each, others*each))
		busy.stop()
		require.Empty(t, busy.refusals)
		posted += int(busy.posted.Load())
		got += int(busy.count.Load())
		eventually(t, func() bool { return hot.count() == got }, "the busy bot gets its own")
		calm, loud := without[len(without)-1], with[len(with)-1]
		t.Logf("alone: p50 %v p95 %v; beside: p50 %v p95 %v", calm.p50, calm.p95, loud.p50, loud.p95)
	}
	w.drained(t)
	require.True(t, balanced(ledger(t, w.store)))
	p95 := ratioOf(without, with, p95Of)
	measured(t, "%d bots at %d/s each: p95 %v; beside one at %d/s: %v (%.2f times, median of %d pairs)", others, each, medianOf(without, p95Of),
		100*each, medianOf(with, p95Of), p95, pairs)
	if pairs >= 5 {
		require.Less(t, p95, 2.0)
	}
}
