package main_test

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/cmd/rig"
)

const clusterPages = 30

// clusterScene is a gateway on a cluster of three masters and three replicas, with a load on the pages of one master and another on the rest.
type clusterScene struct {
	cluster *rig.Cluster
	store   *redis.ClusterClient
	fleet   *fleet
	bot     *recorder
	audit   *auditor
	slot    int // of a page of the sick master
	sick    *load
	others  *load
}

func startClusterScene(t *testing.T) *clusterScene {
	t.Helper()
	s := &clusterScene{cluster: rig.StartCluster(t, 3, 3)}
	s.store = s.cluster.NewClient(t)
	s.bot = startRecorder(t, slow(5*time.Millisecond))
	s.fleet = startFleet(t, 1, "--redis", s.cluster.URL)
	registerPages(t, s.fleet.at(0), clusterPages, s.bot.url, nil)
	slots := s.slotsOfPages(t)
	s.slot = slots[0]
	master := s.cluster.Master(s.slot)
	var sick, others []int
	for page, slot := range slots {
		if s.cluster.Master(slot) == master {
			sick = append(sick, page)
		} else {
			others = append(others, page)
		}
	}
	require.NotEmpty(t, others)
	s.audit = startAuditor(t, s.store)
	s.sick = startLoad(t, s.fleet, loadConfig{
		rate: 30, pages: clusterPages, only: sick, writers: 4,
		rest: 4 * time.Second / 30, // as many requests while they are refused: what a source's impatience costs is not what a dead master costs
	})
	s.others = startLoad(t, s.fleet, loadConfig{rate: sized(100, 150), pages: clusterPages, only: others})
	return s
}

// slotsOfPages finds the slot that each page's keys lie in.
func (s *clusterScene) slotsOfPages(t *testing.T) []int {
	t.Helper()
	slots := make([]int, clusterPages) // no page lies in slot 0
	for _, node := range s.cluster.Nodes[:3] {
		keys, err := node.Client().Keys(t.Context(), "pg:{*}:st:*").Result()
		require.NoError(t, err)
		for _, key := range keys {
			slot, err := node.Client().ClusterKeySlot(t.Context(), key).Result()
			require.NoError(t, err)
			page, err := strconv.Atoi(key[strings.LastIndex(key, "-")+1:])
			require.NoError(t, err, key)
			slots[page] = int(slot)
		}
	}
	require.NotContains(t, slots, 0)
	return slots
}

// finish ends both loads and requires that nothing is amiss. Lost is only what was confirmed right before a kill.
func (s *clusterScene) finish(t *testing.T, kills []time.Time) (events, forgotten int64, lost int) {
	t.Helper()
	s.sick.stop()
	s.others.stop()
	found := awaitFates(t, s.store)
	events = s.sick.count.Load() + s.others.count.Load()
	for _, l := range []*load{s.sick, s.others} {
		for _, e := range l.carriedTo(s.bot).lost {
			require.True(t, killShortlyAfter(kills, e.accepted), "only what was confirmed right before a kill is lost")
			lost++
		}
		l.saysNothingOfRedis(t)
	}
	verifyCommand(t, "--redis", s.cluster.URL)
	return events, events - found.Accepted, lost
}

// times is what the others' deliveries took in a stretch of time.
func (s *clusterScene) times(t *testing.T, from, to time.Time) []time.Duration {
	t.Helper()
	eventually(t, func() bool { return len(s.others.carriedTo(s.bot).lost) == 0 }, "the others' events have come")
	return s.others.timesTo(s.bot, from, to)
}

// TestR09KilledMasterCostsTheOtherShardsNothing kills the master of some pages, several times, and holds the deliveries of the other pages meanwhile
// against those before and after.
func TestR09KilledMasterCostsTheOtherShardsNothing(t *testing.T) {
	pairs, stretch := sized(1, 5), sized(time.Second, 8*time.Second)
	s := startClusterScene(t)
	eventually(t, func() bool { return s.others.count.Load() > 100 && s.sick.count.Load() > 20 }, "events are accepted")
	var kills []time.Time
	var back time.Duration
	var p50, p99 []float64
	for range pairs {
		quiet := time.Now()
		<-time.After(stretch / 2)
		before := s.sick.count.Load()
		master := s.cluster.Master(s.slot)
		killed := time.Now()
		kills = append(kills, killed)
		master.Kill()
		eventually(t, func() bool { return s.sick.refusedWith(http.StatusServiceUnavailable) > 0 }, "the sick shards are refused")
		eventually(t, func() bool { return s.sick.count.Load() > before+8 }, "the sick shards are back")
		back = max(back, time.Since(killed))
		<-time.After(time.Until(killed.Add(stretch)))
		over := time.Now()
		master.Restart()
		s.cluster.AwaitWhole()
		again := time.Now()
		<-time.After(stretch / 2)
		calm, sick := append(s.times(t, quiet, killed), s.times(t, again, again.Add(stretch/2))...), s.times(t, killed, over)
		slices.Sort(calm)
		p50 = append(p50, float64(quantile(sick, .5))/float64(quantile(calm, .5)))
		p99 = append(p99, float64(quantile(sick, .99))/float64(quantile(calm, .99)))
		t.Logf("the others: p50 %v p99 %v of %d; with a dead master: p50 %v p99 %v of %d", quantile(calm, .5), quantile(calm, .99), len(calm),
			quantile(sick, .5), quantile(sick, .99), len(sick))
	}
	require.LessOrEqual(t, back, 10*time.Second)
	require.Empty(t, s.others.refusals, "the others have no errors")
	median50, median99 := median(p50), median(p99)
	if pairs >= 5 {
		require.LessOrEqual(t, median50, 1.10)
		require.LessOrEqual(t, median99, 1.5)
	}
	events, forgotten, lost := s.finish(t, kills)
	measured(t, "3+3 nodes, %d masters killed, %d events: other shards 0 errors, p50 %.2f and p99 %.2f times the quiet run (median of %d pairs); "+
		"killed shards back within %.1f s; %d forgotten, %d lost; ledger balanced in %d samples",
		pairs, events, median50, median99, pairs, back.Seconds(), forgotten, lost, s.audit.balanced(t))
}

// TestR09ReshardUnderLoad moves slots, those of some pages among them, from one master to another.
func TestR09ReshardUnderLoad(t *testing.T) {
	moved := sized(100, 1_000)
	s := startClusterScene(t)
	eventually(t, func() bool { return s.others.count.Load() > 100 && s.sick.count.Load() > 20 }, "events are accepted")
	from := s.cluster.Master(s.slot)
	first := max(0, s.slot-moved/2)
	for s.cluster.Master(first) != from {
		first++
	}
	to := s.cluster.Nodes[slices.IndexFunc(s.cluster.Nodes[:3], func(n *rig.Server) bool { return n != from })]
	began, before := time.Now(), s.sick.count.Load()
	s.cluster.Move(first, first+moved-1, to)
	took := time.Since(began)
	eventually(t, func() bool { return s.sick.count.Load() > before+20 }, "events of the moved pages are accepted")
	require.Equal(t, to, s.cluster.Master(s.slot))
	require.Empty(t, s.others.refusals, "the others have no errors")
	events, forgotten, lost := s.finish(t, nil)
	require.Zero(t, forgotten)
	require.Zero(t, lost)
	measured(t, "%d slots moved in %.1f s under %d events: other shards 0 errors, moved ones %d refusals, 0 lost, ledger balanced in %d samples",
		moved, took.Seconds(), events, s.sick.refusedWith(http.StatusServiceUnavailable), s.audit.balanced(t))
}

// median is the middle of a few figures.
func median(figures []float64) float64 {
	slices.Sort(figures)
	return figures[len(figures)/2]
}
