package delivery_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/stretchr/testify/require"
)

// flood hands in batches for one registration from several sources until the context ends, and counts what became of the events.
type flood struct {
	queued, overflow, refused, others atomic.Int64
	sources                           sync.WaitGroup
}

func (f *flood) run(ctx context.Context, r *replica, ext string) {
	text := strings.Repeat("x", 900)
	for s := range 4 {
		f.sources.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				in := make([]delivery.Incoming, 100)
				for i := range in {
					in[i] = message(ext, fmt.Sprintf("%d-%d", s, (n+i)%50), i)
					in[i].Body = append(in[i].Body[:len(in[i].Body)-1], `,"more":"`+text+`"}`...)
				}
				for _, rc := range r.Accept(context.Background(), "acme", in) {
					switch {
					case errors.Is(rc.Err, delivery.ErrUnavailable):
						f.refused.Add(1)
					case rc.Err != nil:
						f.others.Add(1)
					case rc.Fate == delivery.Queued:
						f.queued.Add(1)
					case rc.Fate == delivery.Overflow:
						f.overflow.Add(1)
					default:
						f.others.Add(1)
					}
				}
			}
		})
	}
}

func TestC06IngestFasterThanDeliveryOverflowsAndHarmsNobody(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(100)) // what is held counts, not how much garbage the other tests may leave
	client := newRedisServer(t)
	b := newBot(t)
	b.keep = false // the heap is to be that of a gateway
	b.answers(func(q request) int {
		if strings.HasSuffix(q.host, "slow.example") {
			timer := time.NewTimer(50 * time.Millisecond)
			<-timer.C
		}
		return http.StatusAccepted
	})
	r := startReplica(t, client, b, func(c *delivery.Config) { c.QueueEvents = int64(size(20_000, 2_000)) })
	require.NoError(t, r.Create(t.Context(), registration("e1", "app", func(r *delivery.Registration) { r.CallbackURL = "http://slow.example/" })))
	require.NoError(t, r.Create(t.Context(), registration("e2", "other")))
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(size(60, 2))*time.Second)
	defer cancel()
	var f flood
	f.run(ctx, r, "e1")
	var heap uint64
	slowest, quick := time.Duration(0), 0
	for ctx.Err() == nil {
		began := time.Now()
		r.settled(t, r.send(t, message("e2", "ann", quick))[0].ID)
		quick, slowest = quick+1, max(slowest, time.Since(began))
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		heap = max(heap, m.HeapInuse)
		for _, found := range verify(t, client).Findings {
			require.True(t, found.Warning, "%+v", found)
		}
	}
	f.sources.Wait()
	require.Zero(t, f.refused.Load(), "nothing is refused while the store has room")
	require.Zero(t, f.others.Load())
	require.Positive(t, f.overflow.Load())
	require.Less(t, heap, uint64(256<<20))
	v := balanced(t, client)
	require.EqualValues(t, f.overflow.Load(), v.Fates[delivery.Overflow])
	require.EqualValues(t, f.queued.Load()+f.overflow.Load()+int64(quick), v.Accepted)
	t.Attr("measured", fmt.Sprintf("%d events in, %d delivered, %d overflow, 0 refused; heap at most %d MB; another bot's events in at most %v",
		v.Accepted, v.Fates[delivery.Delivered], v.Fates[delivery.Overflow], heap>>20, slowest.Round(time.Millisecond)))
}

func TestC06OnlyAFullStoreRefuses(t *testing.T) {
	client := newRedisServer(t)
	b := newBot(t)
	r := startReplica(t, client, b)
	require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
	hanging := make(chan struct{})
	release := sync.OnceFunc(func() { close(hanging) })
	t.Cleanup(release)
	b.answers(func(request) int { <-hanging; return http.StatusAccepted })
	require.NoError(t, client.ConfigSet(t.Context(), "maxmemory", fmt.Sprint(size(64, 12)<<20)).Err())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var f flood
	f.run(ctx, r, "e1")
	soon(t, func() bool { return f.refused.Load() > 0 }, "the store to be full")
	cancel()
	f.sources.Wait()
	require.Zero(t, f.others.Load())
	stored := f.queued.Load()
	release()
	soon(t, func() bool {
		rc := r.Accept(t.Context(), "acme", []delivery.Incoming{message("e1", "ann", 1)})
		if rc[0].Err == nil {
			stored++
		}
		return rc[0].Err == nil
	}, "room again, by delivering alone")
	soon(t, func() bool { return verify(t, client).Queued == 0 }, "everything to be delivered")
	v := balanced(t, client)
	require.EqualValues(t, stored, v.Fates[delivery.Delivered], "what was refused is not delivered, what was stored is")
	t.Attr("measured", fmt.Sprintf("%d events stored in %d MB, then refused; all of them delivered, and room again", stored, size(64, 12)))
}
