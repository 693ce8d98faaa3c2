package delivery_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pulsegate/pulsegate/cmd/rig"
	"github.com/pulsegate/pulsegate/delivery"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// everywhere flushes a server, or every master of a cluster.
func everywhere(t testing.TB, client redis.UniversalClient, args ...any) {
	if _, ok := client.(*redis.ClusterClient); !ok {
		require.NoError(t, client.Do(t.Context(), args...).Err())
		return
	}
	for _, node := range cluster.Nodes[:clusterMasters] {
		require.NoError(t, node.Client().Do(t.Context(), args...).Err())
	}
}

// losses are what a verification says went from the store.
func losses(t testing.TB, client redis.UniversalClient) (found []string) {
	for _, f := range verify(t, client).Findings {
		if f.Check == delivery.CheckLoss {
			found = append(found, f.Problem)
		}
	}
	return found
}

// within waits for a condition and returns how long it took.
func within(t testing.TB, limit time.Duration, cond func() bool, what string) time.Duration {
	t.Helper()
	began := time.Now()
	soon(t, cond, what)
	took := time.Since(began)
	require.Less(t, took, limit, what)
	return took
}

func TestR14EmptiedStoreWorksAgainAndSaysSo(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		r := startReplica(t, client, b)
		other := startReplica(t, client, b)
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
		for i := range 20 {
			r.settled(t, r.send(t, message("e1", fmt.Sprint("a", i), i))[0].ID)
		}
		require.Empty(t, r.Store().Losses)
		everywhere(t, client, "FLUSHALL")
		took := within(t, 2*time.Second, func() bool {
			if r.Put(t.Context(), registration("e1", "app")) != nil {
				return false
			}
			_, err := r.ask(t, message("e1", "ann", 100))
			return err == nil
		}, "it works again")
		soon(t, func() bool { return len(b.requests()) == 21 }, "the new event is delivered")
		soon(t, func() bool { return len(r.Store().Losses) > 0 && len(other.Store().Losses) > 0 }, "both know of it")
		require.Len(t, r.Store().Losses, 1, "two noticed, one word is left")
		require.Contains(t, r.Store().Losses[0], "16 of 16 shards held nothing of what they had held")
		require.Len(t, losses(t, client), 1)
		require.False(t, verify(t, client).Balanced())
		require.GreaterOrEqual(t, scrape(t, r)["store_losses_total"]+scrape(t, other)["store_losses_total"], 1.0)
		require.NoError(t, r.Ready(t.Context()), "it is ready, and says that it lost data")
		require.NoError(t, client.Del(t.Context(), "pg:losses").Err())
		soon(t, func() bool { return len(r.Store().Losses) == 0 }, "somebody has dealt with it")
		t.Attr("measured", fmt.Sprintf("emptied while running: accepts and delivers again after %v, the loss is in log, metric, /readyz and verify", took.Round(time.Millisecond)))
	})
}

// A store that was emptied and took nothing in at first was marked anew later, and nobody said that it had lost everything.
func TestR14EmptiedStoreThatTakesNothingInIsToldOfLater(t *testing.T) {
	server := rig.StartServer(t, rig.ServerConfig{})
	r := startReplica(t, server.Client(), newBot(t))
	require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
	r.settled(t, r.send(t, message("e1", "ann", 1))[0].ID)
	refuses := server.Client().TxPipeline()
	refuses.FlushAll(t.Context())
	refuses.ConfigSet(t.Context(), "min-replicas-to-write", "1")
	_, err := refuses.Exec(t.Context())
	require.NoError(t, err)
	<-time.After(2 * time.Second) // several looks
	require.NoError(t, server.Client().ConfigSet(t.Context(), "min-replicas-to-write", "0").Err())
	soon(t, func() bool { return len(r.Store().Losses) > 0 }, "the loss to be told of")
	require.Len(t, losses(t, server.Client()), 1)
}

func TestR14DeletedIndexesArePutBack(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		b.status(503)
		r := startReplica(t, client, b, func(c *delivery.Config) { c.Rules.Pause = time.Minute })
		require.NoError(t, r.Create(t.Context(), holding("e1")))
		for i := range 12 {
			r.send(t, message("e1", fmt.Sprint("a", i), i))
		}
		soon(t, func() bool { return !r.healthOf(t, "app").Standing.PausedUntil.IsZero() }, "DOWN")
		r.send(t, message("e1", "held", 100))
		soon(t, func() bool { return scrape(t, r)["delivery_lanes"] == 0 }, "what is held waits for the end of the pause")
		waiting, _, err := r.Outbox().Waiting(t.Context())
		require.NoError(t, err)
		require.Positive(t, waiting)
		keys := allKeys(t, client, "pg:*")
		var gone []string
		for _, key := range keys {
			for _, noun := range []string{"}:due", "}:judge", "}:out", "}:notices"} {
				if strings.HasSuffix(key, noun) {
					gone = append(gone, key)
				}
			}
		}
		require.Len(t, gone, 4)
		require.NoError(t, client.Del(t.Context(), gone...).Err())
		took := within(t, 2*time.Second, func() bool {
			return !slices.ContainsFunc(gone, func(key string) bool { return client.Exists(t.Context(), key).Val() == 0 })
		}, "all are back")
		again, _, err := r.Outbox().Waiting(t.Context())
		require.NoError(t, err)
		require.Equal(t, waiting, again, "every entry is told yet")
		for _, f := range verify(t, client).Findings {
			require.Equal(t, delivery.CheckLoss, f.Check, f)
		}
		require.NotEmpty(t, losses(t, client), "it was noticed")
		t.Attr("measured", fmt.Sprintf("due, judge, out and notices deleted: back after %v with every member, and told of", took.Round(time.Millisecond)))
	})
}
