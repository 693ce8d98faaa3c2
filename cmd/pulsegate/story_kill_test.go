package main_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	kills      = 10
	pages      = 8 // registrations under load
	concurrent = 4 // deliveries at once of each
)

// TestKilledGatewayLosesNothing kills a gateway ten times under load. Every accepted event reaches one fate, every outcome counts once,
// and a bot sees an event again only if its delivery was under way at a kill.
func TestKilledGatewayLosesNothing(t *testing.T) {
	url, store := storyRedis(t)
	bot := startRecorder(t, func(a arrival, gone <-chan struct{}) int {
		select {
		case <-time.After(time.Duration(rand.IntN(20)) * time.Millisecond):
		case <-gone:
		}
		if a.n%10 == 0 {
			return http.StatusInternalServerError
		}
		return http.StatusAccepted
	})
	data := t.TempDir()
	start := func() *gatewayProcess { return startGateway(t, data, "--redis", url, "--health-window", "1h") }
	p := start()
	for i := range pages {
		require.Equal(t, http.StatusAccepted, registerBot(t, p, pageName(i), "app-"+pageName(i), bot.url, map[string]any{"maxConcurrency": concurrent}))
	}
	load := startLoad(t, p)
	var killed []time.Time
	for range kills {
		begun := load.stored.Load()
		eventually(t, func() bool { return load.stored.Load() > begun+int64(100+rand.IntN(300)) }, "events are accepted")
		killed = append(killed, time.Now())
		require.NoError(t, p.command.Process.Kill())
		<-p.ended
		p = start()
		load.gateway.Store(p)
	}
	ids := load.stop()
	var sums map[string]int
	require.Eventually(t, func() bool { sums = ledger(t, store); return balanced(sums) }, 30*time.Second, 100*time.Millisecond, "every event has a fate")
	require.Equal(t, len(ids), sums["accepted"])
	checkFates(t, p, ids)
	checkOutcomes(t, p, sums)
	again := checkArrivals(t, bot.all(), ids, killed)
	t.Logf("%d events accepted over %d kills: %v; %d deliveries came again", len(ids), kills, sums, again)
}

func pageName(i int) string { return fmt.Sprintf("page-%d", i) }

// load posts events until it is stopped; each is posted again until it is accepted.
type load struct {
	gateway atomic.Pointer[gatewayProcess]
	stored  atomic.Int64
	done    chan struct{}
	posters sync.WaitGroup
	mu      sync.Mutex
	ids     map[string]bool
}

func startLoad(t testing.TB, p *gatewayProcess) *load {
	l := &load{done: make(chan struct{}), ids: map[string]bool{}}
	l.gateway.Store(p)
	s := newPoster(t)
	for i := range pages {
		l.posters.Go(func() {
			for n := 1; !l.over(); n++ {
				l.post(s, eventOf(pageName(i), fmt.Sprintf("author-%d", n%7), n))
				<-time.After(10 * time.Millisecond)
			}
		})
	}
	return l
}

func (l *load) over() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// post posts one event until it is accepted, however long that takes: the source's part of the promise.
func (l *load) post(s *poster, event string) {
	for {
		if status, id, _ := s.post(l.gateway.Load(), event); status == http.StatusAccepted && id != "" {
			l.mu.Lock()
			l.ids[id] = true
			l.mu.Unlock()
			l.stored.Add(1)
			return
		}
		<-time.After(20 * time.Millisecond)
	}
}

// stop ends the load and returns the ids of all events.
func (l *load) stop() map[string]bool {
	close(l.done)
	l.posters.Wait()
	return l.ids
}

// checkFates reads what became of each event.
func checkFates(t *testing.T, p *gatewayProcess, ids map[string]bool) {
	s := newPoster(t)
	for id := range ids {
		rows := s.records(t, p, id)
		require.Len(t, rows, 1, id)
		require.Contains(t, []string{"delivered", "failed"}, rows[0].Fate)
	}
}

// checkOutcomes compares the windows, which are long enough to hold everything, with the ledger.
func checkOutcomes(t *testing.T, p *gatewayProcess, sums map[string]int) {
	s := newPoster(t)
	acknowledged, failed := 0, 0
	for i := range pages {
		h := s.health(t, p, "app-"+pageName(i))
		acknowledged += h.SuccessCount
		failed += h.FailureCount
	}
	require.Equal(t, sums["delivered"], acknowledged, "each acknowledgement counts once")
	require.Equal(t, sums["failed"], failed, "each failure counts once")
}

// checkArrivals holds what the bot saw against what was accepted, and returns how many deliveries began anew.
func checkArrivals(t *testing.T, got []arrival, ids map[string]bool, killed []time.Time) (again int) {
	first := map[string]time.Time{} // when each event was last seen as a first try
	for _, a := range got {
		require.True(t, ids[a.id], "the bot sees accepted events only")
		if a.try != 1 {
			continue
		}
		if before, ok := first[a.id]; ok {
			again++
			require.True(t, killBetween(killed, before, a.at), "an event comes again only after a kill")
		}
		first[a.id] = a.at
	}
	require.Len(t, first, len(ids), "every event was seen")
	require.LessOrEqual(t, again, kills*pages*concurrent)
	return again
}

func killBetween(killed []time.Time, from, to time.Time) bool {
	for _, at := range killed {
		if at.After(from) && at.Before(to) {
			return true
		}
	}
	return false
}
