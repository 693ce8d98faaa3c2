package main_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/delivery"
)

// sized is the size of a row of the fault checklist: full for `make faults`, short for `make test`.
func sized[T any](short, full T) T {
	if os.Getenv("PULSEGATE_FAULTS") == "full" {
		return full
	}
	return short
}

// measured reports what a row measured, for the table of `make faults`.
func measured(t *testing.T, format string, args ...any) {
	t.Helper()
	t.Attr("measured", fmt.Sprintf(format, args...))
}

// fleet are gateways on one store, some of which are killed and started again.
type fleet struct {
	data string
	args []string

	mu  sync.Mutex
	all []*gatewayProcess
}

// startFleet starts n gateways with one key file.
func startFleet(t testing.TB, n int, args ...string) *fleet {
	t.Helper()
	f := &fleet{data: t.TempDir(), args: args}
	for range n {
		f.all = append(f.all, f.startOne(t))
	}
	return f
}

func (f *fleet) startOne(t testing.TB) *gatewayProcess {
	t.Helper()
	return startGateway(t, f.data, f.args...)
}

// at is one of them; any number will do.
func (f *fleet) at(n int) *gatewayProcess {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.all[n%len(f.all)]
}

// replace starts another gateway in the place of the i-th, which has ended or will.
func (f *fleet) replace(t testing.TB, i int) {
	t.Helper()
	p := f.startOne(t)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all[i] = p
}

// kill ends the i-th gateway by SIGKILL, and returns when.
func (f *fleet) kill(t testing.TB, i int) time.Time {
	t.Helper()
	p := f.at(i)
	at := time.Now()
	require.NoError(t, p.command.Process.Kill())
	<-p.ended
	return at
}

// auditor reads the ledger of a live store every second, each registration by one script. A store that is away is asked again.
type auditor struct {
	samples  atomic.Int64
	mu       sync.Mutex
	findings []string
	stop     func()
}

func startAuditor(t testing.TB, client redis.UniversalClient) *auditor {
	a := new(auditor)
	a.stop = background(func(int) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		found, err := delivery.Verify(ctx, delivery.VerifyConfig{Client: client})
		if err != nil {
			<-time.After(100 * time.Millisecond)
			return
		}
		a.samples.Add(1)
		if !found.Balanced() {
			a.mu.Lock()
			a.findings = append(a.findings, fmt.Sprintf("%+v", found.Findings))
			a.mu.Unlock()
		}
		<-time.After(time.Second)
	})
	t.Cleanup(a.stop)
	return a
}

// balanced requires that the store was in order each time, and returns how often.
func (a *auditor) balanced(t testing.TB) int64 {
	t.Helper()
	a.stop()
	require.Empty(t, a.findings, "the ledger balances in every sample")
	require.NotZero(t, a.samples.Load())
	return a.samples.Load()
}

// stored is an event that a gateway has accepted.
type stored struct {
	page     int
	due      time.Time // by the rate, whatever kept it from being posted
	posted   time.Time // for the first time
	accepted time.Time
}

// loadConfig says what a source posts.
type loadConfig struct {
	rate    int   // events a second
	pages   int   // in turn
	only    []int // these pages, in turn; nil: all of them
	writers int   // requests at once; 0 means 32
	limit   int   // events; 0 means until it is stopped
	tries   int   // of one event, each at another gateway, before a failure is visible; 0: each is one
	first   int   // number of the first event: those of loads on one store must differ, or they are the same event

	rest time.Duration // after a refusal; 0 means 20 ms
}

// load posts events at a rate, each again until it is accepted, at the next gateway of a fleet: a source's part of the promise.
type load struct {
	cfg     loadConfig
	fleet   *fleet
	poster  *poster
	posted  atomic.Int64
	count   atomic.Int64 // accepted
	visible atomic.Int64 // failures that outlast the tries
	slowest atomic.Int64 // request, in ns
	stop    func()
	given   chan struct{} // closed: what is not accepted by now is given up

	mu       sync.Mutex
	ids      map[string]stored // by the gateway's id
	refusals map[string]int    // by status and what was said
	bare     int               // refusals without Retry-After
}

// startLoad starts to post.
func startLoad(t testing.TB, f *fleet, cfg loadConfig) *load {
	if cfg.writers == 0 {
		cfg.writers = 32
	}
	if cfg.rest == 0 {
		cfg.rest = 20 * time.Millisecond
	}
	l := &load{cfg: cfg, fleet: f, poster: newPoster(t), ids: map[string]stored{}, refusals: map[string]int{}, given: make(chan struct{})}
	l.poster.client.Transport.(*http.Transport).MaxIdleConnsPerHost = cfg.writers
	done := make(chan struct{})
	var writers sync.WaitGroup
	began := time.Now()
	for range cfg.writers {
		writers.Go(func() {
			for {
				n := int(l.posted.Add(1))
				if cfg.limit > 0 && n > cfg.limit {
					return
				}
				due := began.Add(time.Duration(n) * time.Second / time.Duration(cfg.rate))
				select {
				case <-done:
					return
				case <-time.After(time.Until(due)):
				}
				l.post(cfg.first+n, due)
			}
		})
	}
	l.stop = sync.OnceFunc(func() { close(done); writers.Wait() })
	t.Cleanup(func() { close(l.given); l.stop() })
	return l
}

// finish waits until all of a limited number is accepted.
func (l *load) finish(t testing.TB) {
	t.Helper()
	require.Eventually(t, func() bool { return l.count.Load() >= int64(l.cfg.limit) }, 3*time.Minute, 20*time.Millisecond, "everything is accepted")
	l.stop()
}

// post posts the n-th event until it is accepted, however long that takes.
func (l *load) post(n int, due time.Time) {
	page := n % l.cfg.pages
	if l.cfg.only != nil {
		page = l.cfg.only[n%len(l.cfg.only)]
	}
	e := stored{page: page, due: due, posted: time.Now()}
	event := eventOf(pageName(page), fmt.Sprintf("author-%d", n%97), n)
	for try := 1; ; try++ {
		began := time.Now()
		a := l.poster.ask(l.fleet.at(n+try), event)
		took := time.Since(began)
		for slowest := l.slowest.Load(); int64(took) > slowest && !l.slowest.CompareAndSwap(slowest, int64(took)); slowest = l.slowest.Load() {
		}
		if a.status == http.StatusAccepted && a.id != "" {
			e.accepted = time.Now()
			l.note(e, a.id)
			return
		}
		l.refused(a)
		if try > l.cfg.tries {
			l.visible.Add(1)
		}
		select {
		case <-time.After(l.cfg.rest):
		case <-l.given:
			return
		}
	}
}

func (l *load) note(e stored, id string) {
	l.mu.Lock()
	l.ids[id] = e
	l.mu.Unlock()
	l.count.Add(1)
}

func (l *load) refused(a answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refusals[fmt.Sprint(a.status, " ", a.text)]++
	if a.status != 0 && a.header.Get("Retry-After") == "" {
		l.bare++
	}
}

// refusedWith counts the refusals with a status; 0: no answer.
func (l *load) refusedWith(status int) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for said, count := range l.refusals {
		if strings.HasPrefix(said, fmt.Sprint(status, " ")) {
			n += count
		}
	}
	return n
}

// saysNothingOfRedis requires that no answer held words of the store'l.
func (l *load) saysNothingOfRedis(t testing.TB) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for said := range l.refusals {
		for _, word := range []string{"READONLY", "MOVED", "ASK ", "CLUSTERDOWN", "LOADING", "TRYAGAIN", "CROSSSLOT", "NOREPLICAS", "MASTERDOWN", "127.0.0.1"} {
			require.NotContains(t, said, word)
		}
	}
}

// carried is what became of what a load posted, as a bot saw it.
type carried struct {
	lost    []stored
	again   int           // deliveries that began anew: a first try of an event that had one before
	strange int           // events that nobody was told are accepted
	doubled int           // events of the source's that came under two ids
	longest time.Duration // from acceptance to the first arrival
}

// carriedTo holds what a bot saw against what was accepted.
func (l *load) carriedTo(bot *recorder) carried {
	l.mu.Lock()
	defer l.mu.Unlock()
	var c carried
	seen, names := map[string]bool{}, map[string]string{}
	for _, a := range bot.all() {
		e, ok := l.ids[a.id]
		switch {
		case !ok && !seen[a.id]:
			c.strange++
		case a.try == 1 && seen[a.id]:
			c.again++
		case !seen[a.id]:
			c.longest = max(c.longest, a.at.Sub(e.accepted))
		}
		event := fmt.Sprint(a.page, " ", a.n)
		if name, ok := names[event]; ok && name != a.id {
			c.doubled++
		}
		seen[a.id], names[event] = true, a.id
	}
	for id, e := range l.ids {
		if !seen[id] {
			c.lost = append(c.lost, e)
		}
	}
	return c
}

// timesTo are the times, sorted, from posting events to their arrival at a bot, of those posted in a stretch of time.
func (l *load) timesTo(bot *recorder, from, to time.Time) []time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	var times []time.Duration
	seen := map[string]bool{}
	for _, a := range bot.all() {
		e, ok := l.ids[a.id]
		if ok && !seen[a.id] && e.posted.After(from) && e.posted.Before(to) {
			times = append(times, a.at.Sub(e.posted))
		}
		seen[a.id] = true
	}
	slices.Sort(times)
	return times
}

// acceptedBetween counts what was accepted in a stretch of time.
func (l *load) acceptedBetween(from, to time.Time) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.ids {
		if e.accepted.After(from) && e.accepted.Before(to) {
			n++
		}
	}
	return n
}

// nothingLost requires that a bot saw everything that was accepted, under one id, and nothing else.
func (l *load) nothingLost(t testing.TB, bot *recorder) carried {
	t.Helper()
	c := l.carriedTo(bot)
	require.Empty(t, c.lost)
	require.Zero(t, c.strange, "the bot sees accepted events only")
	require.Zero(t, c.doubled, "each under one id")
	return c
}

// awaitFates waits until nothing is queued and nothing amiss in a store, and returns what verify finds.
func awaitFates(t testing.TB, client redis.UniversalClient) delivery.Verification {
	t.Helper()
	var found delivery.Verification
	require.Eventually(t, func() bool {
		var err error
		found, err = delivery.Verify(context.Background(), delivery.VerifyConfig{Client: client})
		return err == nil && found.Queued == 0
	}, 2*time.Minute, 100*time.Millisecond, "every event has a fate")
	return found
}

// verifyCommand requires that `pulsegate verify` finds a store in order.
func verifyCommand(t testing.TB, args ...string) {
	t.Helper()
	status, out, errs := run(append([]string{"verify"}, args...)...)
	require.Zero(t, status, "%s%s", out, errs)
}

// registerPages registers one bot on each of n pages.
func registerPages(t testing.TB, p *gatewayProcess, n int, url string, fields map[string]any) {
	t.Helper()
	for i := range n {
		require.Equal(t, http.StatusAccepted, registerBot(t, p, pageName(i), "app-"+pageName(i), url, fields))
	}
}

func pageName(i int) string { return fmt.Sprintf("page-%d", i) }
