package main_test

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	healthyBots = 99
	sickTimeout = 5 * time.Second
	stretch     = 2500 * time.Millisecond // of one measurement
)

// TestSickBotCostsTheOthersNothing measures the time from posting an event to its arrival at one of 99 healthy bots, with and without a
// bot beside them that hangs until the timeout, in alternating pairs.
func TestSickBotCostsTheOthersNothing(t *testing.T) {
	url, store := storyRedis(t)
	p := startGateway(t, t.TempDir(), "--redis", url, "--delivery-timeout", sickTimeout.String(), "--health-min-attempts", "1000000")
	healthy := startRecorder(t, accepts)
	var hang sync.Map // "hang": a channel that ends the hanging
	sick := startRecorder(t, func(_ arrival, gone <-chan struct{}) int {
		released, _ := hang.Load("hang")
		select {
		case <-released.(chan struct{}):
			return http.StatusAccepted
		case <-gone:
			return 0
		}
	})
	for i := range healthyBots {
		require.Equal(t, http.StatusAccepted, registerBot(t, p, fmt.Sprintf("page-%d", i), "well", healthy.url, nil))
	}
	require.Equal(t, http.StatusAccepted, registerBot(t, p, "sick", "sick", sick.url, nil))
	measure := func(withSick bool, round int) []time.Duration {
		released := make(chan struct{})
		hang.Store("hang", released)
		times := postToAll(t, p, healthy, withSick, round)
		close(released)
		eventually(t, func() bool { return balanced(ledger(t, store)) }, "what waited for the sick bot is delivered")
		return times
	}
	measure(false, 0) // warm
	var best float64
	for pair := 1; pair <= 5; pair++ {
		without := measure(false, 2*pair)
		with := measure(true, 2*pair+1)
		ratio := float64(quantile(with, .5)) / float64(quantile(without, .5))
		t.Logf("without: p50 %v p99 %v of %d; with a sick bot: p50 %v p99 %v max %v of %d; ratio of the medians %.2f",
			quantile(without, .5), quantile(without, .99), len(without), quantile(with, .5), quantile(with, .99), quantile(with, 1), len(with), ratio)
		require.Less(t, quantile(with, 1), sickTimeout, "nobody waits for the sick bot's timeout")
		if best == 0 || ratio < best {
			best = ratio
		}
		if pair >= 2 && best <= 1.25 {
			break
		}
	}
	require.LessOrEqual(t, best, 1.25, "the median of the healthy bots")
	require.NotEmpty(t, sick.all())
}

// postToAll posts events to the healthy bots in turn, and to the sick one between them, and returns how long each took to a healthy bot.
func postToAll(t testing.TB, p *gatewayProcess, healthy *recorder, withSick bool, round int) []time.Duration {
	s := newPoster(t)
	before := len(healthy.all())
	sent := map[string]time.Time{}
	var posting sync.WaitGroup
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	n := 0
	for end := time.Now().Add(stretch); time.Now().Before(end); n++ {
		author := fmt.Sprintf("author-%d-%d", round, n)
		sent[author] = time.Now()
		event, other := eventOf(fmt.Sprintf("page-%d", n%healthyBots), author, n), eventOf("sick", author, n)
		posting.Go(func() { s.post(p, event) })
		if withSick && n%5 == 0 {
			posting.Go(func() { s.post(p, other) })
		}
		<-tick.C
	}
	posting.Wait()
	eventually(t, func() bool { return len(healthy.all()) == before+n }, "the healthy bots get everything")
	var times []time.Duration
	for _, a := range healthy.all()[before:] {
		times = append(times, a.at.Sub(sent[a.author]))
	}
	slices.Sort(times)
	return times
}

// quantile reads a quantile of sorted times.
func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[int(q*float64(len(sorted)-1))].Round(10 * time.Microsecond)
}
