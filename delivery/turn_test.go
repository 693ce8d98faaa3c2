package delivery_test

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/stretchr/testify/require"
)

func TestBacklogsTakeTurnsWhenThereAreMoreThanPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newMiniredis(t)
		b := newBot(t)
		var at, most atomic.Int64
		b.answers(func(request) int {
			most.Store(max(most.Load(), at.Add(1)))
			defer at.Add(-1)
			time.Sleep(100 * time.Millisecond)
			return http.StatusAccepted
		})
		first := startReplica(t, client, b)
		const registrations, each = 24, 60
		for i := range registrations {
			require.NoError(t, first.Create(t.Context(), registration(fmt.Sprintf("e%d", i), "app", func(r *delivery.Registration) { r.MaxConcurrency = 1 })))
		}
		first.stop()
		asleep := startReplica(t, client, nil)
		asleep.stop() // it takes events in, and delivers none
		for i := range registrations {
			var in []delivery.Incoming
			for n := range each {
				in = append(in, message(fmt.Sprintf("e%d", i), "ann", n))
			}
			asleep.send(t, in...)
		}
		time.Sleep(10 * time.Second) // its leases end
		r := startReplica(t, client, b, func(c *delivery.Config) { c.Lanes = 8 })
		began := time.Now()
		seen := map[string]int{}
		soon(t, func() bool {
			clear(seen)
			for _, got := range b.requests() {
				seen[got.event["coordinate"].(map[string]any)["externalId"].(string)]++
			}
			return len(seen) == registrations
		}, "every registration to have its turn")
		for ext, n := range seen {
			require.Less(t, n, each, "%s was done at once", ext)
		}
		require.Less(t, time.Since(began), 15*time.Second)
		require.LessOrEqual(t, most.Load(), int64(16), "no more than have a place, and some who begin before others end")
		for range 10 {
			time.Sleep(5 * time.Second)
		}
		require.Len(t, b.requests(), registrations*each, "all is done in the end, and nothing twice")
		v := verify(t, client)
		require.Empty(t, v.Findings)
		require.Zero(t, v.Queued)
		r.stop()
	})
}
