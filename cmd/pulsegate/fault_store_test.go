package main_test

import (
	"context"
	"net"
	"net/http"
	"os/exec"
	"runtime"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	main "github.com/pulsegate/pulsegate/cmd/pulsegate"
)

// TestR19KilledGatewayAndItsOwnStore kills gateways that bring their own store: the one in process says beforehand what that means; a child
// loses nothing, goes with its gateway, and leaves its files in order.
func TestR19KilledGatewayAndItsOwnStore(t *testing.T) {
	t.Run("memory", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		p := startGateway(t, t.TempDir())
		require.Contains(t, p.printed, "durability tier: memory")
		status, text := p.get(p.ops + "/readyz")
		require.Equal(t, http.StatusOK, status)
		require.Contains(t, text, `"tier":"memory"`)
		require.NoError(t, p.command.Process.Kill())
		<-p.ended
		require.Contains(t, p.errs.String(), "THEY DO NOT SURVIVE ITS END")
		measured(t, "in process: banner and /readyz said memory before the kill")
	})
	t.Run("child", func(t *testing.T) { killWithChild(t, sized(2, 20)) })
}

func killWithChild(t *testing.T, kills int) {
	bot := startRecorder(t, restless)
	f := startFleet(t, 1, "--health-window", "1h")
	registerPages(t, f.at(0), killPages, bot.url, map[string]any{"maxConcurrency": concurrent})
	store := redis.NewClient(&redis.Options{MaxRetries: -1, ContextTimeoutEnabled: true, Dialer: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", noted(t, f.data)) // where it lies changes with each child
	}})
	t.Cleanup(func() { _ = store.Close() })
	audit := startAuditor(t, store)
	load := startLoad(t, f, loadConfig{rate: sized(150, 400), pages: killPages})
	for range kills {
		begun := load.count.Load()
		eventually(t, func() bool { return load.count.Load() > begun+100 }, "events are accepted")
		var child string
		eventually(t, func() bool {
			info, err := store.Info(t.Context(), "server").Result()
			child = main.Field(info, "process_id")
			return err == nil
		}, "the child answers")
		f.kill(t, 0)
		if runtime.GOOS == "linux" { // elsewhere nothing ties a child to its gateway: the next one joins it
			eventually(t, func() bool { return exec.Command("kill", "-0", child).Run() != nil }, "the child has gone")
		}
		f.replace(t, 0)
	}
	load.stop()
	found := awaitFates(t, store)
	require.Equal(t, load.count.Load(), found.Accepted)
	c := load.nothingLost(t, bot)
	samples := audit.balanced(t)
	require.Zero(t, f.at(0).stop(t), f.at(0).errs)
	verifyCommand(t, "--data", f.data)
	measured(t, "child: %d kills, %d events, 0 lost, %d came again, the child went with its gateway each time, ledger balanced in %d samples",
		kills, found.Accepted, c.again, samples)
}
