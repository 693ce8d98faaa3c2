package main_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/cmd/rig"
)

// TestR07PrimaryLostWhileItsReplicaIsCutOff cuts the replication for 1.5 s, kills the primary and promotes the replica. The tier process loses
// what was confirmed meanwhile, and nothing else; the tier replicated confirms nothing meanwhile, and loses nothing.
func TestR07PrimaryLostWhileItsReplicaIsCutOff(t *testing.T) {
	for _, tier := range []string{"process", "replicated"} {
		t.Run(tier, func(t *testing.T) { losePrimary(t, tier) })
	}
}

func losePrimary(t *testing.T, tier string) {
	primary := rig.StartServer(t, rig.ServerConfig{Args: rig.AppendOnly()})
	link, front := rig.NewWire(t, primary.Addr), rig.NewWire(t, primary.Addr)
	replica := rig.StartReplicaAt(t, primary, link.Addr())
	rig.StartReplica(t, replica) // so that it has one itself when it is the primary
	bot := startRecorder(t, slow(10*time.Millisecond))
	f := startFleet(t, 1, "--redis", "redis://"+front.Addr(), "--durability", tier)
	registerPages(t, f.at(0), killPages, bot.url, map[string]any{"maxConcurrency": concurrent})
	store := clientAt(t, front.Addr())
	audit := startAuditor(t, store)
	load := startLoad(t, f, loadConfig{rate: sized(200, 400), pages: killPages})
	eventually(t, func() bool { return load.count.Load() > 200 }, "events are accepted")

	stalled := make(chan struct{})
	bot.answers(func(arrival, <-chan struct{}) int { <-stalled; return http.StatusAccepted }) // what comes now waits in Redis
	link.Drop()
	cut := time.Now()
	<-time.After(1500 * time.Millisecond)
	primary.Kill()
	killed := time.Now()
	replica.Promote()
	front.To(replica.Addr)
	close(stalled)
	before := load.count.Load()
	eventually(t, func() bool { return load.count.Load() > before+200 }, "events are accepted again")
	load.stop()
	eventually(t, func() bool {
		_, metrics := f.at(0).get(f.at(0).ops + "/metrics")
		return strings.Contains(metrics, "pulsegate_store_servers_changed_total 1\n")
	}, "the metric shows that the server is another")

	found := awaitFates(t, store)
	c := load.carriedTo(bot)
	forgotten := load.count.Load() - found.Accepted
	for _, e := range c.lost {
		require.WithinRange(t, e.accepted, cut.Add(-100*time.Millisecond), killed, "only what was confirmed while the replica was cut off is lost")
	}
	load.saysNothingOfRedis(t)
	verifyCommand(t, "--redis", replica.URL)
	alone := load.acceptedBetween(cut.Add(300*time.Millisecond), killed) // what was confirmed before may have been answered a little later
	if tier == "process" {
		require.Positive(t, alone, "the primary confirms alone")
		require.Positive(t, forgotten, "the replica does not know what the primary confirmed alone")
	} else {
		require.Zero(t, alone, "nothing is accepted that no replica has")
		require.Zero(t, forgotten)
		require.Empty(t, c.lost)
		require.NotZero(t, load.refusedWith(http.StatusServiceUnavailable), "what no replica has is refused")
	}
	measured(t, "%s: %d confirmed, %d of them forgotten, %d lost, %d came again, %d requests refused, the metric shows the change, ledger balanced in %d samples",
		tier, load.count.Load(), forgotten, len(c.lost), c.again, load.refusedWith(http.StatusServiceUnavailable), audit.balanced(t))
}

// clientAt is a client of whoever answers at an address.
func clientAt(t testing.TB, addr string) *redis.Client {
	client := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, ContextTimeoutEnabled: true})
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// TestR08SentinelPromotesAReplicaUnderLoad kills the master that sentinels watch. Accepting goes on within 8 s, nobody reads Redis's own
// words, and nothing is taken in twice.
func TestR08SentinelPromotesAReplicaUnderLoad(t *testing.T) {
	for _, tier := range []string{"process", "replicated"} {
		t.Run(tier, func(t *testing.T) { failOver(t, tier, sized(1, 3)) })
	}
}

func failOver(t *testing.T, tier string, failovers int) {
	master := rig.StartServer(t, rig.ServerConfig{Args: rig.AppendOnly()})
	servers := map[string]*rig.Server{master.Addr: master}
	for range 2 { // so that the new master has one
		replica := rig.StartReplica(t, master)
		servers[replica.Addr] = replica
	}
	sentinels := rig.StartSentinels(t, master, 3)
	bot := startRecorder(t, slow(20*time.Millisecond))
	f := startFleet(t, 1, "--redis", sentinels.URL, "--durability", tier)
	registerPages(t, f.at(0), killPages, bot.url, nil)
	store := redis.NewFailoverClient(&redis.FailoverOptions{
		MasterName: rig.MasterName, SentinelAddrs: sentinels.Addresses(), MaxRetries: -1, ContextTimeoutEnabled: true,
	})
	t.Cleanup(func() { _ = store.Close() })
	audit := startAuditor(t, store)
	load := startLoad(t, f, loadConfig{rate: 200, pages: killPages})
	var slowest time.Duration
	var kills []time.Time
	for range failovers {
		before := load.count.Load()
		eventually(t, func() bool { return load.count.Load() > before+200 }, "events are accepted")
		addr, err := sentinels.Master(t.Context())
		require.NoError(t, err)
		servers[addr].Kill()
		killed := time.Now()
		kills = append(kills, killed)
		before = load.count.Load()
		eventually(t, func() bool { return load.count.Load() > before+20 }, "events are accepted again")
		slowest = max(slowest, time.Since(killed))
		if len(kills) < failovers {
			servers[addr].Restart()
			servers[addr].AwaitLink()
		}
	}
	load.stop()
	require.LessOrEqual(t, slowest, 8*time.Second)
	found := awaitFates(t, store)
	c := load.carriedTo(bot)
	forgotten := load.count.Load() - found.Accepted
	for _, e := range c.lost {
		require.True(t, killShortlyAfter(kills, e.accepted), "only what was confirmed right before a kill is lost")
	}
	if tier == "replicated" {
		require.Empty(t, c.lost)
		require.Zero(t, forgotten)
	}
	require.Zero(t, c.doubled, "nothing is taken in twice")
	load.saysNothingOfRedis(t)
	verifyCommand(t, "--redis", sentinels.URL)
	measured(t, "%s: %d failovers, %d events at 200/s, accepting again within %.1f s, %d forgotten, %d lost, %d came again, 0 taken in twice, ledger balanced in %d samples",
		tier, failovers, load.count.Load(), slowest.Seconds(), forgotten, len(c.lost), c.again, audit.balanced(t))
}

// killShortlyAfter tells whether there was a kill within a second after a moment.
func killShortlyAfter(kills []time.Time, at time.Time) bool {
	for _, killed := range kills {
		if d := killed.Sub(at); d > -100*time.Millisecond && d < time.Second {
			return true
		}
	}
	return false
}
