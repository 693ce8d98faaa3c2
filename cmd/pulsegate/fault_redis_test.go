package main_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/cmd/rig"
)

// TestR05KillingRedisLosesNothing kills the redis-server again and again under eight writers. The gateway stays up, answers 503 meanwhile, and
// accepts again within 2 s of the server's first PONG.
func TestR05KillingRedisLosesNothing(t *testing.T) {
	for name, args := range map[string][]string{"everysec": rig.AppendOnly(), "always": rig.AppendAlways()} {
		t.Run(name, func(t *testing.T) { killRedis(t, name, args, sized(2, 20)) })
	}
}

func killRedis(t *testing.T, name string, args []string, kills int) {
	server := rig.StartServer(t, rig.ServerConfig{Args: args})
	bot := startRecorder(t, restless)
	f := startFleet(t, 1, "--redis", server.URL, "--health-window", "1h")
	registerPages(t, f.at(0), killPages, bot.url, map[string]any{"maxConcurrency": concurrent})
	audit := startAuditor(t, server.Client())
	load := startLoad(t, f, loadConfig{rate: sized(150, 400), pages: killPages, writers: 8})
	var slowest time.Duration
	for range kills {
		begun := load.count.Load()
		eventually(t, func() bool { return load.count.Load() > begun+100 }, "events are accepted")
		server.Kill()
		refused := load.refusedWith(http.StatusServiceUnavailable)
		eventually(t, func() bool { return load.refusedWith(http.StatusServiceUnavailable) > refused }, "the gateway says that its store is away")
		server.Launch()
		server.AwaitAnswer()
		back, before := time.Now(), load.count.Load()
		eventually(t, func() bool { return load.count.Load() > before }, "events are accepted again")
		slowest = max(slowest, time.Since(back))
	}
	load.stop()
	require.LessOrEqual(t, slowest, 2*time.Second, "accepting goes on after the first PONG")
	found := awaitFates(t, server.Client())
	c := load.carriedTo(bot)
	require.Empty(t, c.lost)
	if name == "always" { // else what was delivered and forgotten before it was confirmed comes under another id when the source repeats it
		require.Zero(t, c.doubled)
	}
	require.LessOrEqual(t, c.doubled, 8*kills)
	require.Equal(t, load.count.Load(), found.Accepted)
	load.saysNothingOfRedis(t)
	require.Zero(t, load.refusedWith(0), "the gateway answers always")
	require.Zero(t, load.bare, "with Retry-After")
	require.Less(t, time.Duration(load.slowest.Load()), 4*time.Second, "no request is held")
	verifyCommand(t, "--redis", server.URL)
	require.Zero(t, f.at(0).stop(t), f.at(0).errs)
	measured(t, "%s: %d kills, %d events, 0 lost, %d came again, %d under another id, accepting again within %.1f s of PONG, slowest request %.1f s, ledger balanced in %d samples",
		name, kills, found.Accepted, c.again, c.doubled, slowest.Seconds(), time.Duration(load.slowest.Load()).Seconds(), audit.balanced(t))
}
