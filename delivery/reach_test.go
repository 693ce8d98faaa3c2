package delivery_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pulsegate/pulsegate/cmd/rig"
	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
	"github.com/stretchr/testify/require"
)

// ask accepts one event without an error being a failure.
func (r *replica) ask(t testing.TB, in delivery.Incoming) (time.Duration, error) {
	began := time.Now()
	receipts := r.Accept(t.Context(), "acme", []delivery.Incoming{in})
	return time.Since(began), receipts[0].Err
}

// refusedAs is the condition that an accept was refused for.
func refusedAs(t testing.TB, err error) delivery.Condition {
	t.Helper()
	require.ErrorIs(t, err, delivery.ErrUnavailable)
	var store *delivery.StoreError
	require.ErrorAs(t, err, &store)
	return store.Condition
}

// A store that stopped answering held every accept for two seconds, and those behind a batch that was stuck for four.
func TestNobodyWaitsLongForAStoreThatHangs(t *testing.T) {
	server := rig.StartServer(t, rig.ServerConfig{})
	r := startReplica(t, server.Client(), newBot(t))
	require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
	r.send(t, message("e1", "ann", 0))
	server.Pause()
	var longest time.Duration
	var mu sync.Mutex
	var callers sync.WaitGroup
	for i := range 40 { // they come while the first of them hang
		callers.Go(func() {
			<-time.After(time.Duration(i) * 50 * time.Millisecond)
			took, err := r.ask(t, message("e1", fmt.Sprint("a", i), i))
			mu.Lock()
			defer mu.Unlock()
			require.Equal(t, delivery.StoreAway, refusedAs(t, err))
			longest = max(longest, took)
		})
	}
	callers.Wait()
	require.Less(t, longest, 2300*time.Millisecond)
	require.Equal(t, delivery.StoreAway, r.Store().Condition)
	require.Error(t, r.Ready(t.Context()))
	quick := 0
	for i := range 50 {
		if took, err := r.ask(t, message("e1", "ann", i)); err != nil && took < 50*time.Millisecond {
			quick++
		}
	}
	require.Greater(t, quick, 45, "nobody waits for a store that is known to be away")
	server.Resume()
	began := time.Now()
	soon(t, func() bool { _, err := r.ask(t, message("e1", "ann", 100)); return err == nil }, "the store is back")
	require.Less(t, time.Since(began), 2*time.Second)
	require.NoError(t, r.Ready(t.Context()))
}

// A master of a cluster that hung, and was not dead, kept the timer of all shards from its work for seconds: what lies with one master was asked for first.
func TestAMasterThatHangsKeepsTheTimerOfTheOthersFromNothing(t *testing.T) {
	cluster := rig.StartCluster(t, 3, 0)
	client := cluster.NewClient(t)
	b := newBot(t)
	r := startReplica(t, client, b, quick)
	for i := range 12 {
		require.NoError(t, r.Create(t.Context(), registration(fmt.Sprint("e", i), fmt.Sprint("app", i))))
		r.settled(t, r.send(t, message(fmt.Sprint("e", i), "ann", i))[0].ID)
	}
	cluster.Nodes[0].Pause()
	defer cluster.Nodes[0].Resume()
	b.status(400)
	var late []time.Duration
	for i := range 12 {
		if _, err := r.ask(t, message(fmt.Sprint("e", i), "ann", i)); err != nil {
			continue // it lies with the one that hangs
		}
		standing := delivery.StandingKey(registration(fmt.Sprint("e", i), fmt.Sprint("app", i)).RegID)
		is := func(state health.State) func() bool {
			return func() bool { return client.HGet(t.Context(), standing, "s").Val() == string(state) }
		}
		soon(t, is(health.Degraded), "DEGRADED")
		began := time.Now()
		soon(t, is(health.Healthy), "HEALTHY, when the window is empty")
		late = append(late, time.Since(began)-1200*time.Millisecond)
		if len(late) == 3 {
			break
		}
	}
	require.Len(t, late, 3)
	slices.Sort(late)
	require.Less(t, late[1], 1200*time.Millisecond, "%v", late)
}
