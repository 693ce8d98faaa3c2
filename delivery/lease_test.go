package delivery_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/pulsegate/pulsegate/delivery"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// storeLine is one replica's way to a store that others reach, too.
type storeLine struct {
	m    *miniredis.Miniredis
	mu   sync.Mutex
	down bool
	open []net.Conn
}

func newLines(t testing.TB, n int) (lines []*storeLine, clients []redis.UniversalClient) {
	m := miniredis.NewMiniRedis()
	m.ClockTTL(true)
	t.Cleanup(m.Close)
	for range n {
		l := &storeLine{m: m}
		lines, clients = append(lines, l), append(clients, newClient(t, l.dial))
	}
	return lines, clients
}

func (l *storeLine) dial(context.Context, string, string) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		return nil, net.ErrClosed
	}
	c, err := roomy(l.m.Dial())
	if err == nil {
		l.open = append(l.open, c)
	}
	return c, err
}

func (l *storeLine) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = true
	for _, c := range l.open {
		_ = c.Close()
	}
	l.open = nil
}

func (l *storeLine) heal() { l.mu.Lock(); l.down = false; l.mu.Unlock() }

// TestR22TheFencingTokenRefusesWhoIsNotTheHolderAnyMore has a replica that believes it holds a bot whose lease another has: what it writes
// is refused, though it comes first.
func TestR22TheFencingTokenRefusesWhoIsNotTheHolderAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lines, clients := newLines(t, 2)
		b := newBot(t)
		var mu sync.Mutex
		seen := map[float64]int{}
		b.answers(func(q request) int {
			n := q.event["n"].(float64)
			mu.Lock()
			seen[n]++
			first := seen[n] == 1
			mu.Unlock()
			switch {
			case n != 1:
				return 202
			case first: // to the stale holder
				<-time.After(time.Second)
				return 202
			default: // to the holder, later
				<-time.After(2 * time.Second)
				return 500
			}
		})
		stale := startReplica(t, clients[0], b, func(c *delivery.Config) { c.Lineage = "gw" })
		require.NoError(t, stale.Create(t.Context(), registration("e1", "app")))
		rc := stale.send(t, message("e1", "ann", 1))
		synctest.Wait()
		require.Len(t, b.requests(), 1)
		lines[0].cut()
		holder := startReplica(t, clients[1], b, func(c *delivery.Config) { c.Lineage = "gw" }) // as if it were the same, after a kill
		synctest.Wait()
		require.Len(t, b.requests(), 2, "it takes over at once")
		<-time.After(1500 * time.Millisecond)
		lines[0].heal()
		for i := range 20 {
			holder.send(t, message("e1", fmt.Sprint("b", i), 10+i))
		}
		require.Equal(t, delivery.Failed, holder.settled(t, rc[0].ID).Fate, "the holder's outcome")
		h := holder.healthOf(t, "app")
		require.Equal(t, []int64{20, 1}, []int64{h.Counts.Acknowledged, h.Counts.Failed})
		mu.Lock()
		defer mu.Unlock()
		require.Equal(t, 3, seen[1], "one by the stale holder, two by the holder")
		for i := range 20 {
			require.Equal(t, 1, seen[float64(10+i)])
		}
		t.Attr("measured", "two replicas on one bot: the stale outcome refused though it came first, 1 delivery of 21 made twice")
	})
}

// TestAHeirTakesOverAtOnce has a replica die with work in hand: one of its lineage takes it over at once, another when the lease ends.
func TestAHeirTakesOverAtOnce(t *testing.T) {
	for lineage, within := range map[string][2]time.Duration{"gw": {0, 100 * time.Millisecond}, "other": {5 * time.Second, 7 * time.Second}} {
		t.Run(lineage, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lines, clients := newLines(t, 2)
				b := newBot(t)
				b.status(0)
				dead := startReplica(t, clients[0], b, func(c *delivery.Config) { c.Lineage = "gw" })
				for e := range 5 {
					require.NoError(t, dead.Create(t.Context(), registration(fmt.Sprint("e", e), "app")))
					for i := range 40 {
						dead.send(t, message(fmt.Sprint("e", e), fmt.Sprint("a", i), i))
					}
				}
				synctest.Wait()
				before := len(b.requests())
				require.Equal(t, 5*32, before)
				lines[0].cut()
				b.status(202)
				died := time.Now()
				heir := startReplica(t, clients[1], b, func(c *delivery.Config) { c.Lineage = lineage })
				soon(t, func() bool { return len(b.requests()) >= before+5*40 }, "all of it")
				at := b.requests()[before].at.Sub(died)
				require.GreaterOrEqual(t, at, within[0])
				require.LessOrEqual(t, at, within[1])
				hs, err := heir.Health(t.Context(), "acme", "app")
				require.NoError(t, err)
				require.Len(t, hs, 5)
				lines[0].heal()
				<-time.After(10 * time.Second) // its client gives up what it still dials
			})
		})
	}
}

// TestTheLeaseOfTheLivingIsLeftToThem has a gateway take in an event for a bot that another is at work for: one that has just started, with a name of
// its own, and one that shares the other's name, as on a copied disk, and has run for longer than a lease.
func TestTheLeaseOfTheLivingIsLeftToThem(t *testing.T) {
	for lineage, after := range map[string]time.Duration{"other": 0, "gw": 7 * time.Second} {
		t.Run(lineage, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, b := newMiniredis(t), newBot(t)
				b.status(0)
				holder := startReplica(t, client, b, func(c *delivery.Config) { c.Lineage = "gw" })
				require.NoError(t, holder.Create(t.Context(), registration("e1", "app")))
				started := func() *replica {
					return startReplica(t, client, b, func(c *delivery.Config) { c.Lineage = lineage })
				}
				var other *replica
				if after > 0 {
					other = started()
					<-time.After(after)
				}
				for i := range 5 {
					holder.send(t, message("e1", fmt.Sprint("a", i), i))
				}
				synctest.Wait()
				if other == nil {
					other = started()
				}
				other.send(t, message("e1", "late", 5))
				<-time.After(3 * time.Second)
				seen := map[any]int{}
				for _, q := range b.requests() {
					seen[q.event["n"]]++
				}
				require.Len(t, seen, 6)
				require.Len(t, b.requests(), 6, "each is tried once")
			})
		})
	}
}

// What is accepted while a gateway stops was left under its lease, which nobody renewed.
func TestWhatADrainingGatewayAcceptsIsTakenUpByAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newMiniredis(t)
		b := newBot(t)
		b.answers(func(q request) int {
			if q.event["n"].(float64) == 0 {
				<-time.After(4 * time.Second)
			}
			return 202
		})
		r := startReplica(t, client, b)
		for e := range 2 {
			require.NoError(t, r.Create(t.Context(), registration(fmt.Sprint("e", e), "app")))
		}
		r.send(t, message("e0", "ann", 0))
		synctest.Wait()
		stopped := make(chan struct{})
		go func() { defer close(stopped); r.stop() }()
		synctest.Wait()
		startReplica(t, client, b)
		sent := time.Now()
		r.send(t, message("e1", "ann", 1))
		soon(t, func() bool { return len(b.requests()) == 2 }, "the other takes it")
		require.Less(t, b.requests()[1].at.Sub(sent), time.Second)
		<-stopped
	})
}
