package main_test

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	killPages  = 8 // registrations under load
	concurrent = 4 // deliveries at once of each
	leaseTime  = 6 * time.Second
)

// restless answers after up to 20 ms, and fails every tenth event.
func restless(a arrival, gone <-chan struct{}) int {
	select {
	case <-time.After(time.Duration(rand.IntN(20)) * time.Millisecond):
	case <-gone:
	}
	if a.n%10 == 0 {
		return http.StatusInternalServerError
	}
	return http.StatusAccepted
}

// TestR01KilledGatewaysLoseNothing kills a random one of two gateways again and again under load. Every accepted event reaches one fate,
// every outcome counts once, and a bot sees an event again only if its delivery was under way at a kill.
func TestR01KilledGatewaysLoseNothing(t *testing.T) {
	kills, rate, events := sized(3, 20), sized(150, 500), sized(750, 20_000)
	url, store := storyRedis(t)
	bot := startRecorder(t, restless)
	f := startFleet(t, 2, "--redis", url, "--health-window", "1h")
	registerPages(t, f.at(0), killPages, bot.url, map[string]any{"maxConcurrency": concurrent})
	audit := startAuditor(t, store)
	load := startLoad(t, f, loadConfig{rate: rate, pages: killPages, limit: events})
	var killed []time.Time
	for k := range kills {
		eventually(t, func() bool { return load.count.Load() >= int64((k+1)*events/(kills+1)-rand.IntN(rate)) }, "events are accepted")
		i := rand.IntN(2)
		killed = append(killed, f.kill(t, i))
		f.replace(t, i)
	}
	load.finish(t)
	found := awaitFates(t, store)
	require.EqualValues(t, events, found.Accepted)
	require.Equal(t, found.Accepted, found.Fates["delivered"]+found.Fates["failed"])
	checkOutcomes(t, f.at(0), found.Fates["delivered"], found.Fates["failed"])
	c := load.nothingLost(t, bot)
	require.LessOrEqual(t, c.again, kills*killPages*concurrent)
	checkComesAgainAfterKillsOnly(t, bot.all(), killed)
	resumed := checkResumed(t, bot.all(), killed)
	verifyCommand(t, "--redis", url)
	measured(t, "%d kills, %d events, 0 lost, %d came again, orphaned work resumed within %.1f s, ledger balanced in %d samples",
		kills, events, c.again, resumed.Seconds(), audit.balanced(t))
}

// checkOutcomes compares the windows, which are long enough to hold everything, with the ledger.
func checkOutcomes(t *testing.T, p *gatewayProcess, delivered, failed int64) {
	t.Helper()
	s := newPoster(t)
	var acknowledgements, failures int
	for i := range killPages {
		h := s.health(t, p, "app-"+pageName(i))
		acknowledgements += h.SuccessCount
		failures += h.FailureCount
	}
	require.EqualValues(t, delivered, acknowledgements, "each acknowledgement counts once")
	require.EqualValues(t, failed, failures, "each failure counts once")
}

// checkComesAgainAfterKillsOnly requires a kill between two deliveries of an event.
func checkComesAgainAfterKillsOnly(t *testing.T, got []arrival, killed []time.Time) {
	t.Helper()
	first := map[string]time.Time{}
	for _, a := range got {
		if a.try != 1 {
			continue
		}
		if before, ok := first[a.id]; ok {
			between := func(at time.Time) bool { return at.After(before.Add(-time.Second)) && at.Before(a.at) } // noted at the answer
			require.True(t, slices.ContainsFunc(killed, between), "an event comes again only after a kill")
		}
		first[a.id] = a.at
	}
}

// checkResumed requires that no registration stood still for more than 10 s after the kill that orphaned it, or after one that hit who
// took it up when its lease had ended. It returns the longest standstill.
func checkResumed(t *testing.T, got []arrival, killed []time.Time) (longest time.Duration) {
	t.Helper()
	last := map[string]time.Time{}
	for _, a := range got {
		page := a.page
		if before, ok := last[page]; ok {
			from := before
			for _, at := range killed {
				if at.After(before.Add(leaseTime)) && at.Before(a.at) {
					from = at
				}
			}
			require.Less(t, a.at.Sub(from), 10*time.Second, "%s goes on", page)
			longest = max(longest, a.at.Sub(from))
		}
		last[page] = a.at
	}
	return longest
}
