package delivery_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/pulsegate/pulsegate/cmd/rig"
	"github.com/pulsegate/pulsegate/delivery"
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
