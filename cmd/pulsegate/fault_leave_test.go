package main_test

import (
	"fmt"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// slow answers after a while.
func slow(d time.Duration) func(arrival, <-chan struct{}) int {
	return func(_ arrival, gone <-chan struct{}) int {
		select {
		case <-time.After(d):
			return http.StatusAccepted
		case <-gone:
			return 0
		}
	}
}

// TestR16ReplicaThatLeavesHandsOverItsWork stops a gateway that holds the leases of all that waits, while another has joined.
func TestR16ReplicaThatLeavesHandsOverItsWork(t *testing.T) {
	events := sized(240, 2_400)
	url, store := storyRedis(t)
	bot := startRecorder(t, slow(time.Duration(sized(300, 100))*time.Millisecond)) // much is left whatever time the other takes to start
	f := startFleet(t, 1, "--redis", url)
	registerPages(t, f.at(0), killPages, bot.url, map[string]any{"maxConcurrency": 2})
	audit := startAuditor(t, store)
	load := startLoad(t, f, loadConfig{rate: 2_000, pages: killPages, limit: events})
	load.finish(t)
	leaving := f.at(0)
	f.replace(t, 0)
	pending := queued(t, store)
	require.Greater(t, pending, events/4, "much is left to do")
	require.Zero(t, leaving.stop(t), leaving.errs)
	found := awaitFates(t, store)
	require.EqualValues(t, events, found.Fates["delivered"])
	c := load.nothingLost(t, bot)
	require.Zero(t, c.again, "what was under way was finished first")
	_, metrics := f.at(0).get(f.at(0).ops + "/metrics")
	require.Regexp(t, `(?m)^pulsegate_delivery_tries_total\{class="[a-z]+"\} [1-9]`, metrics, "the other did the rest")
	taken := checkResumed(t, bot.all(), nil)
	require.Less(t, taken, 5*time.Second, "its leases were given back, and did not have to end")
	verifyCommand(t, "--redis", url)
	measured(t, "left with %d of %d events pending: 0 lost, 0 came again, no registration stood still for more than %.1f s, ledger balanced in %d samples",
		pending, events, taken.Seconds(), audit.balanced(t))
}

// TestR17StopUnderLoadLosesAndRepeatsNothing stops a gateway in the middle of its work, several times.
func TestR17StopUnderLoadLosesAndRepeatsNothing(t *testing.T) {
	stops := sized(1, 10)
	url, store := storyRedis(t)
	bot := startRecorder(t, slow(50*time.Millisecond))
	f := startFleet(t, 1, "--redis", url, "--drain-grace", "2s")
	registerPages(t, f.at(0), killPages, bot.url, nil)
	audit := startAuditor(t, store)
	load := startLoad(t, f, loadConfig{rate: sized(150, 400), pages: killPages})
	var slowest time.Duration
	for range stops {
		begun := load.count.Load()
		eventually(t, func() bool { return load.count.Load() > begun+100 }, "events are accepted")
		p := f.at(0)
		began := time.Now()
		require.NoError(t, p.command.Process.Signal(syscall.SIGTERM))
		eventually(t, func() bool { status, _ := p.get(p.ops + "/readyz"); return status == http.StatusServiceUnavailable }, "it is not ready first")
		status, _ := p.get(p.api + "/healthz")
		require.Equal(t, http.StatusOK, status, "and still answers")
		require.Zero(t, p.wait(t), p.errs)
		slowest = max(slowest, time.Since(began))
		f.replace(t, 0)
	}
	load.stop()
	require.Less(t, slowest, 20*time.Second)
	found := awaitFates(t, store)
	require.Equal(t, load.count.Load(), found.Fates["delivered"])
	c := load.nothingLost(t, bot)
	require.Zero(t, c.again)
	verifyCommand(t, "--redis", url)
	measured(t, "%d stops, %d events: not ready first, exit 0 within %.1f s, 0 lost, 0 came again, ledger balanced in %d samples",
		stops, found.Accepted, slowest.Seconds(), audit.balanced(t))
}

// TestR17SecondSignalEndsAtOnceAndLosesNothing signals twice a gateway whose bots do not answer.
func TestR17SecondSignalEndsAtOnceAndLosesNothing(t *testing.T) {
	t.Parallel() // it waits for the end of a lease
	events := sized(100, 1_000)
	url, store := storyRedis(t)
	hanging := make(chan struct{})
	bot := startRecorder(t, func(_ arrival, gone <-chan struct{}) int {
		select {
		case <-hanging:
			return http.StatusAccepted
		case <-gone:
			return 0
		}
	})
	f := startFleet(t, 1, "--redis", url, "--delivery-timeout", "30s")
	registerPages(t, f.at(0), killPages, bot.url, nil)
	load := startLoad(t, f, loadConfig{rate: 1_000, pages: killPages, limit: events})
	load.finish(t)
	p := f.at(0)
	require.NoError(t, p.command.Process.Signal(syscall.SIGTERM))
	eventually(t, func() bool { status, _ := p.get(p.ops + "/readyz"); return status == http.StatusServiceUnavailable }, "it stops")
	began := time.Now()
	require.Equal(t, 1, p.stop(t))
	took := time.Since(began)
	require.Less(t, took, 3*time.Second)
	close(hanging)
	f.replace(t, 0)
	found := awaitFates(t, store)
	require.EqualValues(t, events, found.Fates["delivered"])
	load.nothingLost(t, bot)
	verifyCommand(t, "--redis", url)
	measured(t, "second signal: exit 1 after %.2f s with %d events waiting, 0 lost", took.Seconds(), events)
}

// TestR18RollingRestartIsNotSeen restarts three gateways one after the other behind a client that tries the next one.
func TestR18RollingRestartIsNotSeen(t *testing.T) {
	rounds, rate := sized(1, 5), sized(150, 300)
	url, store := storyRedis(t)
	bot := startRecorder(t, slow(20*time.Millisecond))
	f := startFleet(t, 3, "--redis", url)
	registerPages(t, f.at(0), killPages, bot.url, nil)
	audit := startAuditor(t, store)
	load := startLoad(t, f, loadConfig{rate: rate, pages: killPages, tries: 3})
	for n := range 3 * rounds {
		begun := load.count.Load()
		eventually(t, func() bool { return load.count.Load() > begun+int64(rate/4) }, "events are accepted")
		require.Zero(t, f.at(n).stop(t), f.at(n).errs)
		f.replace(t, n%3)
	}
	load.stop()
	found := awaitFates(t, store)
	require.Equal(t, load.count.Load(), found.Fates["delivered"])
	c := load.nothingLost(t, bot)
	require.Zero(t, c.again)
	require.Zero(t, load.visible.Load(), fmt.Sprint(load.refusals))
	verifyCommand(t, "--redis", url)
	measured(t, "%d restarts of 3 gateways, %d events at %d/s: 0 lost, 0 came again, 0 failures seen, longest delivery %.1f s, ledger balanced in %d samples",
		3*rounds, found.Accepted, rate, c.longest.Seconds(), audit.balanced(t))
}
