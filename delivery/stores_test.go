package delivery_test

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pulsegate/pulsegate/cmd/rig"
	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// onBothStores runs a contract test on the in-memory store in fake time, and on a real redis-server and a real cluster in real time.
func onBothStores(t *testing.T, contract func(t *testing.T, client redis.UniversalClient)) {
	t.Run("in process", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { contract(t, newMiniredis(t)) })
	})
	t.Run("redis-server", func(t *testing.T) {
		client := newRedisServer(t)
		watchKeys(t, client)
		contract(t, client)
	})
	t.Run("cluster", func(t *testing.T) {
		client := emptyCluster(t)
		contract(t, client)
		for _, node := range cluster.Nodes {
			said, err := node.Client().Info(t.Context(), "errorstats").Result()
			require.NoError(t, err)
			require.NotContains(t, said, "CROSSSLOT")
		}
	})
}

// newRedisServer starts a redis-server of the test's own.
func newRedisServer(t testing.TB) redis.UniversalClient {
	return rig.StartServer(t, rig.ServerConfig{}).Client()
}

// cluster is started by the first test that wants one and serves all that follow, one after the other.
var cluster struct {
	owner processOwner
	start sync.Once
	*rig.Cluster
}

// emptyCluster returns a client of a cluster of three masters that holds nothing; in full size each has a replica.
func emptyCluster(t testing.TB) redis.UniversalClient {
	cluster.start.Do(func() { cluster.Cluster = rig.StartCluster(&cluster.owner, clusterMasters, size(clusterMasters, 0)) })
	for _, node := range cluster.Nodes[:clusterMasters] {
		require.NoError(t, node.Client().FlushAll(t.Context()).Err())
	}
	return cluster.NewClient(t)
}

// clusterMasters come first among the nodes of the cluster.
const clusterMasters = 3

// TestMain ends what outlives a test, and sees that nothing does.
func TestMain(m *testing.M) {
	redis.SetLogger(mute{})
	debug.SetGCPercent(400) // the store in memory makes much garbage
	status := m.Run()
	cluster.owner.end()
	if err := goleak.Find(); err != nil && status == 0 {
		fmt.Fprintln(os.Stderr, "goroutines that outlive the tests:", err)
		status = 1
	}
	os.Exit(status)
}

// mute is a logger that says nothing: servers that are away are not news here.
type mute struct{}

func (mute) Printf(context.Context, string, ...any) {}

// processOwner owns what lives as long as the process.
type processOwner struct{ cleanups []func() }

func (o *processOwner) end() {
	for _, f := range slices.Backward(o.cleanups) {
		f()
	}
}

func (*processOwner) Helper()                      {}
func (o *processOwner) Cleanup(f func())           { o.cleanups = append(o.cleanups, f) }
func (*processOwner) Logf(string, ...any)          {}
func (*processOwner) Fatalf(text string, a ...any) { panic(fmt.Sprintf(text, a...)) }

func (o *processOwner) TempDir() string {
	dir, err := os.MkdirTemp("", "pulsegate-rig-")
	if err != nil {
		panic(err)
	}
	o.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
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
