package delivery_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// One registration that could not be read kept events, health and lists from every other of its entity, and from lists with others.
func TestUnreadableRegistrationIsLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // a lease has to run out
		client := newMiniredis(t)
		b := newBot(t)
		r := startReplica(t, client, b, func(c *delivery.Config) { c.DeliveryTimeout = 300 * time.Millisecond })
		watching := func(r *delivery.Registration) { r.Mode = delivery.Monitoring }
		require.NoError(t, r.Create(t.Context(), registration("e1", "live")))
		require.NoError(t, r.Create(t.Context(), registration("e1", "other", watching)))
		hang := make(chan struct{})
		b.answers(func(q request) int {
			if q.event["coordinate"].(map[string]any)["botId"] == "other" {
				<-hang
			}
			return 202
		})
		rc := r.send(t, message("e1", "ann", 1), message("e1", "ann", 2))
		s := &sabotage{t: t, client: client}
		reg := onlyKey(t, client, "pg:*:reg:acme:whatsapp:e1")
		whole := client.HGet(t.Context(), reg, "a:other").Val()
		s.do("HSET", reg, "a:other", `{"registration":"broken"`)
		s.do("HINCRBY", reg, "ver", 1)
		r.stop() // the second event stays for whoever comes next
		close(hang)
		r = startReplica(t, client, b)
		soon(t, func() bool { return scrape(t, r)["store_ailments_total"] > 0 }, "somebody tries to work on it")

		regs, err := r.OfEntity(t.Context(), entity("e1"))
		require.NoError(t, err)
		require.Len(t, regs, 1)
		require.Equal(t, "live", r.healthOf(t, "live").Registration.AppID)
		more := r.send(t, message("e1", "ben", 3))
		require.Equal(t, delivery.Delivered, r.settled(t, more[0].ID).Fate, "the other is not kept from its events")
		require.ErrorIs(t, r.Create(t.Context(), registration("e1", "new")), delivery.ErrLiveTaken, "who cannot be read may be LIVE")

		s.do("HSET", reg, "a:other", whole)
		s.do("HINCRBY", reg, "ver", 1)
		soon(t, func() bool { return verify(t, client).Queued == 0 }, "its events waited, and are delivered")
		recs, err := r.EventRecords(t.Context(), "acme", rc[1].ID)
		require.NoError(t, err)
		require.Len(t, recs, 2)
		for _, rec := range recs {
			require.Equal(t, delivery.Delivered, rec.Fate)
		}
	})
}

// An event for an entity of which nothing can be read is not for nobody.
func TestEntityThatCannotBeReadIsNotUnknown(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		r := startReplica(t, client, newBot(t))
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
		s := &sabotage{t: t, client: client}
		reg := onlyKey(t, client, "pg:*:reg:acme:whatsapp:e1")
		s.do("HSET", reg, "a:app", "broken")
		s.do("HINCRBY", reg, "ver", 1)
		_, err := r.ask(t, message("e1", "ann", 1))
		require.ErrorIs(t, err, delivery.ErrUnavailable)
		require.NoError(t, r.Put(t.Context(), registration("e1", "app")), "writing it anew mends it")
		r.send(t, message("e1", "ann", 1))
	})
}
