package delivery_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pulsegate/pulsegate/cmd/rig"
	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/stretchr/testify/require"
)

// lineLog keeps what was logged.
type lineLog struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lineLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lineLog) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSpace(l.text.String()), "\n")
}

// Many registrations that become DOWN at one moment each wanted a connection for their transition. Over a slow network that took them all:
// accepts were refused, and a store that was well was taken for one that is away.
func TestCrowdThatGoesDownLeavesTheStoreToTheOthers(t *testing.T) {
	const registrations = 600
	server := rig.StartServer(t, rig.ServerConfig{})
	wire := rig.NewWire(t, server.Addr)
	client := redis.NewClient(&redis.Options{
		Addr: wire.Addr(), PoolSize: 20, MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		MaxRetries: -1, ContextTimeoutEnabled: true, DisableIdentity: true, ReadTimeout: 2 * time.Second, WriteTimeout: 2 * time.Second,
	})
	t.Cleanup(func() { _ = client.Close() })
	released := make(chan struct{})
	b := newBot(t)
	b.answers(func(q request) int {
		if strings.HasPrefix(q.host, "well") {
			return http.StatusAccepted
		}
		<-released
		return http.StatusInternalServerError
	})
	r := startReplica(t, client, b, func(c *delivery.Config) { c.Rules = health.Rules{MinAttempts: 1} })
	require.NoError(t, r.Create(t.Context(), registration("well", "app", at("well"))))
	var events []delivery.Incoming
	for i := range registrations {
		require.NoError(t, r.Create(t.Context(), registration(fmt.Sprint("e", i), "app", at("sick"))))
		events = append(events, message(fmt.Sprint("e", i), "ann", 0))
	}
	for len(events) > 0 {
		r.send(t, events[:20]...) // few enough to be taken in time on a busy machine
		events = events[20:]
	}
	wire.Delay(20 * time.Millisecond)
	close(released)
	down, n := func() float64 { return scrape(t, r)["health_registrations{state=DOWN}"] }, 0
	for began := time.Now(); down() < registrations; n++ {
		require.Less(t, time.Since(began), time.Minute, "%v are DOWN", down())
		r.Accept(t.Context(), "acme", []delivery.Incoming{message("well", "ann", n)}) // as it may: a machine without time for it is slow by itself
	}
	require.Zero(t, client.PoolStats().WaitCount, "nobody waits for a connection")
	t.Logf("%d accepts beside %d transitions", n, registrations)
}

// Thousands of registrations that cannot be served while the store is away were told of one by one.
func TestStoreThatIsAwayIsToldOfOnce(t *testing.T) {
	const registrations = 200
	server := rig.StartServer(t, rig.ServerConfig{})
	released := make(chan struct{})
	b := newBot(t)
	b.answers(func(request) int { <-released; return http.StatusAccepted })
	var said lineLog
	r := startReplica(t, clientOf(t, server.Addr), b, func(c *delivery.Config) {
		c.Log = slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelWarn}))
	})
	var events []delivery.Incoming
	for i := range registrations {
		require.NoError(t, r.Create(t.Context(), registration(fmt.Sprint("e", i), "app")))
		events = append(events, message(fmt.Sprint("e", i), "ann", 0))
	}
	r.send(t, events...)
	soon(t, func() bool { return len(b.requests()) == registrations }, "tries")
	server.Kill()
	close(released)
	told := func() (n int) {
		for _, line := range said.lines() {
			if strings.Contains(line, "not served for the moment") {
				n++
			}
		}
		return n
	}
	soon(t, func() bool { return told() > 0 }, "it is told of")
	soon(t, func() bool { return r.Store().Condition != delivery.StoreReachable }, "it is known to be away")
	require.Equal(t, 1, told())
	server.Restart()
}
