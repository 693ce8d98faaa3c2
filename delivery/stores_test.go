package delivery_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// onBothStores runs a contract test on the in-memory store in fake time, and on a real redis-server in real time.
func onBothStores(t *testing.T, contract func(t *testing.T, client redis.UniversalClient)) {
	t.Run("in process", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { contract(t, newMiniredis(t)) })
	})
	t.Run("redis-server", func(t *testing.T) { contract(t, newRedisServer(t)) })
}

// newRedisServer starts a redis-server of the test's own on a unix socket.
func newRedisServer(t testing.TB) redis.UniversalClient {
	bin, err := exec.LookPath("redis-server")
	require.NoError(t, err, "install redis-server (Debian: apt-get install redis-server), or run make test, which does")
	dir, err := os.MkdirTemp("", "pg")
	require.NoError(t, err)
	sock := filepath.Join(dir, "s")
	cmd := exec.Command(bin, "--port", "0", "--unixsocket", sock, "--save", "", "--appendonly", "no", "--dir", dir)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = os.RemoveAll(dir)
	})
	c := newClient(t, func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", sock)
	})
	require.Eventually(t, func() bool { return c.Ping(context.Background()).Err() == nil }, 10*time.Second, 5*time.Millisecond)
	return c
}

// quick are rules under which a story of minutes takes a second.
func quick(cfg *delivery.Config) {
	cfg.Rules = health.Rules{Window: 1200 * time.Millisecond, Pause: 600 * time.Millisecond}
	cfg.DeliveryTimeout = 500 * time.Millisecond
}

// soon waits until the condition holds, in fake or in real time.
func soon(t testing.TB, cond func() bool, what string) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		require.True(t, time.Now().Before(deadline), "waited in vain: %s", what)
		<-tick.C
	}
}

// settled waits until an event has its final fate.
func (r *replica) settled(t testing.TB, id string) delivery.Record {
	t.Helper()
	var rec delivery.Record
	soon(t, func() bool {
		recs, err := r.EventRecords(t.Context(), "acme", id)
		if err != nil || len(recs) != 1 {
			return false
		}
		rec = recs[0]
		return rec.Fate != delivery.Queued
	}, "a fate of "+id)
	return rec
}
