package delivery_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pulsegate/pulsegate/cmd/rig"
	"github.com/pulsegate/pulsegate/delivery"
	"github.com/stretchr/testify/require"
)

// A store that takes events in and whose answers are lost: each source sends its event again.
func TestR04LostRepliesLeaveOneEntryForEachID(t *testing.T) {
	server := rig.StartServer(t, rig.ServerConfig{Args: rig.AppendOnly()})
	wire := rig.NewWire(t, server.Addr)
	b := newBot(t)
	r := startReplica(t, clientOf(t, wire.Addr()), b)
	require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
	n := size(1000, 200)
	var known []delivery.Incoming // conversations of which nothing is new later: the store takes them in at once
	for i := range n {
		known = append(known, message("e1", fmt.Sprint("author ", i), i))
	}
	for chunk := range slices.Chunk(known, 100) {
		r.send(t, chunk...)
	}
	soon(t, func() bool { return verify(t, server.Client()).Fates[delivery.Delivered] == int64(n) }, "the first events")
	wire.Cut(rig.ToClient)
	var lost atomic.Int64
	var sources sync.WaitGroup
	for s := range n / 100 {
		sources.Go(func() {
			var left []delivery.Incoming
			for i := s * 100; i < s*100+100; i++ {
				left = append(left, withID(message("e1", fmt.Sprint("author ", i), i), fmt.Sprint("id-", i)))
			}
			for len(left) > 0 && t.Context().Err() == nil {
				var again []delivery.Incoming
				for i, rc := range r.Accept(t.Context(), "acme", left) {
					if rc.Err != nil {
						again = append(again, left[i])
					}
				}
				lost.Add(int64(len(again)))
				left = again
				pause(t.Context(), 100*time.Millisecond)
			}
		})
	}
	soon(t, func() bool { return lost.Load() >= int64(n) }, "every source to be left without an answer")
	stored := verify(t, server.Client()).Accepted - int64(n)
	require.Positive(t, stored, "some of it was stored all the same")
	wire.Pass()
	sources.Wait()
	soon(t, func() bool { return verify(t, server.Client()).Queued == 0 }, "everything to be delivered")
	v := balanced(t, server.Client())
	require.EqualValues(t, 2*n, v.Accepted, "one entry for each id")
	require.Len(t, b.requests(), 2*n, "one delivery for each")
	t.Attr("measured", fmt.Sprintf("%d events, %d answers lost, %d of them after the write: 1 entry and 1 delivery each", n, lost.Load(), stored))
}

func TestR10FullStoreRefusesAtOnceAndDrains(t *testing.T) {
	server := rig.StartServer(t, rig.ServerConfig{Args: rig.AppendOnly()})
	b := newBot(t)
	start := func() *replica {
		return startReplica(t, clientOf(t, server.Addr), b, func(c *delivery.Config) { c.Lineage = "gate" })
	}
	r := start()
	require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
	hanging := make(chan struct{})
	release := sync.OnceFunc(func() { close(hanging) })
	t.Cleanup(release)
	b.answers(func(request) int { <-hanging; return 202 })
	for i := range size(5000, 300) {
		r.send(t, message("e1", fmt.Sprint("author ", i), i))
	}
	require.NoError(t, server.Client().ConfigSet(t.Context(), "maxmemory", "1mb").Err())
	var took []time.Duration
	for i := range 21 {
		began := time.Now()
		rc := r.Accept(t.Context(), "acme", []delivery.Incoming{message("e1", "late", i)})[0]
		took = append(took, time.Since(began))
		require.Equal(t, delivery.StoreFull, refusedAs(t, rc.Err))
	}
	require.EqualValues(t, size(5000, 300), scrape(t, r)["delivery_ledger_accepted_deliveries_total"], "the metrics tell the ledger of a full store")
	r.Kill() // whoever comes takes the lease of a full store, with nothing to settle
	release()
	r.stop()
	r = start()
	soon(t, func() bool { return verify(t, server.Client()).Queued == 0 }, "everything to be delivered while the store is full")
	v := balanced(t, server.Client())
	require.EqualValues(t, size(5000, 300), v.Fates[delivery.Delivered])
	require.NoError(t, server.Client().ConfigSet(t.Context(), "maxmemory", "0").Err())
	soon(t, func() bool {
		return r.Accept(t.Context(), "acme", []delivery.Incoming{message("e1", "late", 1)})[0].Err == nil
	}, "events to be taken in again")
	require.Less(t, middle(took), 50*time.Millisecond)
	t.Attr("measured", fmt.Sprintf("refused within %v (median of 21); %d waiting events delivered while the store was full", middle(took).Round(time.Microsecond), size(5000, 300)))
}

func TestR13FlushedScriptsFailNobody(t *testing.T) {
	server := rig.StartServer(t, rig.ServerConfig{})
	b := newBot(t)
	r := startReplica(t, server.Client(), b)
	require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(size(10, 2))*time.Second)
	defer cancel()
	var flushing sync.WaitGroup
	flushed := 0
	flushing.Go(func() {
		for pause(ctx, 100*time.Millisecond) {
			if server.Client().ScriptFlush(t.Context()).Err() == nil {
				flushed++
			}
		}
	})
	sent := 0
	for ; ctx.Err() == nil; sent++ {
		r.send(t, message("e1", fmt.Sprint("author ", sent%20), sent))
		_, err := r.Health(t.Context(), "acme", "app")
		require.NoError(t, err)
	}
	flushing.Wait()
	soon(t, func() bool { return verify(t, server.Client()).Queued == 0 }, "everything to be delivered")
	require.EqualValues(t, sent, balanced(t, server.Client()).Fates[delivery.Delivered])
	require.Greater(t, flushed, size(80, 10))
	t.Attr("measured", fmt.Sprintf("%d flushes, %d events and as many questions: 0 failed", flushed, sent))
}

// pause waits, and says whether the context is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// middle is the median.
func middle(took []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(took))[len(took)/2]
}
