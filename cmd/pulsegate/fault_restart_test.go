package main_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestR01RestartedGatewayTakesUpItsBacklogAtOnce kills the only gateway with work in hand and starts it again on the same data directory: its
// leases are its own, and need not end first.
func TestR01RestartedGatewayTakesUpItsBacklogAtOnce(t *testing.T) {
	const waiting = 200
	url, store := storyRedis(t)
	bot := startRecorder(t, func(_ arrival, gone <-chan struct{}) int { <-gone; return 0 })
	f := startFleet(t, 1, "--redis", url)
	registerPages(t, f.at(0), killPages, bot.url, nil)
	load := startLoad(t, f, loadConfig{rate: 2_000, pages: killPages, limit: waiting})
	load.finish(t)
	f.kill(t, 0)
	bot.answers(accepts)
	f.replace(t, 0)
	up := time.Now()
	require.Eventually(t, func() bool {
		answered := map[string]bool{}
		for _, a := range bot.all() {
			if a.status == http.StatusAccepted {
				answered[a.id] = true
			}
		}
		return len(answered) == waiting
	}, 30*time.Second, 5*time.Millisecond, "all of it goes out")
	took := time.Since(up)
	require.Less(t, took, 4*time.Second, "long before the leases end")
	found := awaitFates(t, store)
	require.EqualValues(t, waiting, found.Fates["delivered"])
	measured(t, "%d events in hand at the kill: all delivered %.2f s after the restarted gateway was ready", waiting, took.Seconds())
}
