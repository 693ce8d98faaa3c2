package health_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/pulsegate/pulsegate/cmd/rig"
	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// epoch is where the settable clock starts; it is no multiple of any window used here.
var epoch = time.UnixMilli(1_790_000_000_123)

// stage is a store to test on, and its clock.
type stage struct {
	client redis.UniversalClient
	pass   func(time.Duration) // moves the clock on
	back   func(time.Duration) // sets the clock back; nil where it cannot be
	spans  []int64             // windows to test with, in ms
	now    func() time.Time    // the store's clock
}

// onBoth runs a test on a store in memory with a settable clock, and on a real server with the real one.
func onBoth(t *testing.T, test func(t *testing.T, s *stage)) {
	t.Run("miniredis", func(t *testing.T) { test(t, inMemory(t)) })
	t.Run("redis-server", func(t *testing.T) { test(t, onServer(t)) })
}

func inMemory(t testing.TB) *stage {
	m := miniredis.NewMiniRedis()
	now := epoch
	m.SetTime(now)
	t.Cleanup(m.Close)
	s := &stage{
		client: newClient(t, func(context.Context, string, string) (net.Conn, error) { return m.Dial() }),
		spans:  []int64{120, 121, 997, 1_000, 7_777, 60_000, 90_001, 120_000, 600_000},
		now:    func() time.Time { return now },
	}
	s.pass = func(d time.Duration) {
		now = now.Add(d)
		m.SetTime(now)
		m.FastForward(d)
	}
	s.back = func(d time.Duration) {
		now = now.Add(-d)
		m.SetTime(now)
	}
	return s
}

// onServer starts a redis-server of the test's own, which ends with it.
func onServer(t testing.TB) *stage {
	t.Helper()
	c := rig.StartServer(t, rig.ServerConfig{Args: []string{"--hz", "500"}}).Client()
	return &stage{
		client: c, spans: []int64{120, 125, 181},
		pass: func(d time.Duration) { // the server itself waits, for an element that never comes
			err := c.Do(t.Context(), "BLPOP", "nothing", fmt.Sprintf("%.6f", d.Seconds())).Err()
			require.ErrorIs(t, err, redis.Nil)
		},
		now: func() time.Time { return serverTime(t, c) },
	}
}

func serverTime(t testing.TB, c redis.UniversalClient) time.Time {
	now, err := c.Time(t.Context()).Result()
	require.NoError(t, err)
	return now
}

func newClient(t testing.TB, dial func(context.Context, string, string) (net.Conn, error)) redis.UniversalClient {
	c := redis.NewClient(&redis.Options{
		Addr: "127.0.0.1:1", Dialer: dial, ContextTimeoutEnabled: true, MaxRetries: -1, ReadTimeout: 10 * time.Second,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// keysOf are the keys of a registration of the tests.
func keysOf(member string) health.Keys {
	s := health.Shard(5)
	return health.Keys{
		Standing: s.Key("st", member), Window: s.Key("win", member), Judge: s.Key("judge"), Due: s.Key("due"), Notices: s.Key("notices"),
		Out: s.Key("out"), OutData: s.Key("outd"), Ledger: s.Key("led"), Told: s.Key("told", "transition"), Member: member,
	}
}

// draw chooses a number from low to high; the label says what for.
type draw func(label string, low, high int) int

// seeded draws the same numbers in every run.
func seeded(seed uint64) draw {
	r := rand.New(rand.NewPCG(seed, 17))
	return func(_ string, low, high int) int { return low + r.IntN(high-low+1) }
}

// pick draws one of a list.
func pick[T any](d draw, label string, from []T) T { return from[d(label, 0, len(from)-1)] }
