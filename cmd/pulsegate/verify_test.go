package main_test

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/cmd/rig"
)

// verified is what verify --json prints.
type verified struct {
	Balanced                bool
	Registrations, Gateways int
	Accepted, Queued        int64
	Fates                   map[string]int64
	Findings                []struct{ Check, Of, Problem string }
	Unmeasured              int
}

func TestVerifyTellsWhetherARunningAndAStoppedGatewayBalance(t *testing.T) {
	bot := startRecorder(t, func(arrival, <-chan struct{}) int { return http.StatusOK })
	data := t.TempDir()
	p := startGateway(t, data)
	status, answer := p.register(t, bot.url)
	require.Equal(t, http.StatusAccepted, status, answer)
	for range 3 {
		p.send(t, "hello")
	}
	eventually(t, func() bool { _, out, _ := run("verify", "--data", data); return out == balancedLine }, "all three delivered")
	exit, out, errs := run("verify", "--data", data, "--json")
	require.Zero(t, exit, errs)
	var found verified
	require.NoError(t, json.Unmarshal([]byte(out), &found))
	require.Equal(t, 1, found.Gateways)
	require.True(t, found.Balanced)
	require.Equal(t, []int64{3, 3, 0}, []int64{found.Accepted, found.Fates["delivered"], found.Queued})
	require.Zero(t, p.stop(t))

	exit, out, errs = run("verify", "--data", data)
	require.Zero(t, exit, errs)
	require.Equal(t, balancedLine, out)

	store := open(t, data)
	keys, err := store.Client.Keys(t.Context(), "pg:*:st:*").Result()
	require.NoError(t, err)
	require.Len(t, keys, 1)
	require.NoError(t, store.Client.HIncrBy(t.Context(), keys[0], "c:accepted", 1).Err())
	require.NoError(t, store.Client.SAdd(t.Context(), "pg:app:demo:my-bot", "demo:chat:page-2:my-bot").Err())
	require.NoError(t, store.Stop(context.Background()))

	exit, out, errs = run("verify", "--data", data)
	require.Equal(t, 1, exit)
	require.Contains(t, errs, "pulsegate: redis-server as a child, data in "+data+" does not balance\n")
	require.Equal(t, `LEDGER: accepted is not the sum of the fates and of what is queued
  wrong  demo:chat:page-1:my-bot  accepted 4 != delivered 3 + failed 0 + suppressed 0 + maintenance 0 + overflow 0 + expired 0 + withdrawn 0 + filtered 0 + queued 0
  wrong  pg:{*}:led               the registrations do not add up to it: accepted 4, not 3

INDEX: registrations and indexes differ
  warning  demo:chat:page-2:my-bot  it stands in pg:app:demo:my-bot, but there is no such registration: readers leave it out

verified 1 registrations: accepted 4 != delivered 3 + failed 0 + suppressed 0 + maintenance 0 + overflow 0 + expired 0 + withdrawn 0 + filtered 0 + queued 0
`, out)
	exit, out, _ = run("verify", "--data", data, "--json")
	require.Equal(t, 1, exit)
	require.NoError(t, json.Unmarshal([]byte(out), &found))
	require.False(t, found.Balanced)
	require.Len(t, found.Findings, 3)
}

const balancedLine = "verified 1 registrations: accepted 3 = delivered 3 + failed 0 + suppressed 0 + maintenance 0 + overflow 0 + expired 0 + withdrawn 0 + filtered 0 + queued 0\n"

func TestVerifyWorksOnANamedRedis(t *testing.T) {
	exit, out, errs := run("verify", "--redis", rig.StartServer(t, rig.ServerConfig{}).URL)
	require.Zero(t, exit, errs)
	require.Contains(t, out, "no gateway has ever worked on this Redis")
	require.Contains(t, out, "verified 0 registrations: accepted 0 = ")
}

func TestVerifyRefusesWhatItCannotVerify(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		exit int
		says string
	}{
		"no data":      {[]string{"--data", t.TempDir()}, 2, "no gateway has run a redis-server there"},
		"no scheme":    {[]string{"--redis", "http://h"}, 2, "--redis: the scheme must be redis"},
		"nobody there": {[]string{"--redis", "redis://" + rig.FreeAddress(t)}, 1, "reach the store (Redis at 127.0.0.1:"},
	} {
		began := time.Now()
		exit, out, errs := run(append([]string{"verify"}, c.args...)...)
		require.Equal(t, c.exit, exit, name)
		require.Empty(t, out, name)
		require.Contains(t, errs, c.says, name)
		require.Less(t, time.Since(began), 10*time.Second, name)
	}
	t.Setenv("PATH", t.TempDir())
	exit, _, errs := run("verify", "--data", t.TempDir())
	require.Equal(t, 2, exit)
	require.Contains(t, errs, "no redis-server is on the PATH; name the Redis with --redis")
}
