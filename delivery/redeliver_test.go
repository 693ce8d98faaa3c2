package delivery_test

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// ended waits until a delivery has its fate.
func (r *replica) ended(t testing.TB, requestID string) delivery.Record {
	t.Helper()
	var rec delivery.Record
	soon(t, func() (done bool) {
		var err error
		rec, err = r.Record(t.Context(), "acme", requestID)
		return err == nil && rec.State != delivery.RequestPending
	}, "a fate of "+requestID)
	return rec
}

func (r *replica) again(t testing.TB, requestID string) delivery.Redelivery {
	t.Helper()
	made, err := r.Redeliver(t.Context(), "acme", requestID, "")
	require.NoError(t, err)
	return made
}

func TestRedeliveryIsANewDeliveryOfTheSameEvent(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		b.status(http.StatusInternalServerError)
		r := startReplica(t, client, b)
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
		require.NoError(t, r.Create(t.Context(), registration("e1", "mon", func(r *delivery.Registration) { r.Mode = delivery.Monitoring })))
		in := message("e1", "ann", 1)
		in.Key = "k" // accepted once; deliveries once more are not taken for it
		rc := r.send(t, in)
		first := r.failedAt(t, rc[0].ID, "app")
		r.failedAt(t, rc[0].ID, "mon")

		second := r.again(t, first.ID)
		require.NotEqual(t, first.ID, second.ID)
		require.Equal(t, rc[0].ID, second.EventID)
		require.Equal(t, delivery.Queued, second.Fate)
		failed := r.ended(t, second.ID)
		require.Equal(t, delivery.Failed, failed.Fate)
		require.Empty(t, failed.Handoff, "the conversation is an agent's already")
		require.Equal(t, first.EventID, failed.EventID)
		require.Equal(t, first.Payload, failed.Payload)

		b.status(http.StatusAccepted)
		third := r.again(t, second.ID)
		require.Equal(t, delivery.Delivered, r.ended(t, third.ID).Fate)
		last := b.requests()[len(b.requests())-1]
		require.Equal(t, rc[0].ID, last.header.Get("webhook-id"))
		require.Equal(t, third.ID, last.header.Get("X-Request-Id"))
		require.Equal(t, map[string]any{"type": "AGENT"}, last.event["owner"], "it says nothing new of the conversation")
		_, err := r.Redeliver(t.Context(), "acme", third.ID, "")
		require.ErrorIs(t, err, delivery.ErrNoPayload)

		rows, err := r.EventRecords(t.Context(), "acme", rc[0].ID)
		require.NoError(t, err)
		var ids []string
		for _, row := range rows {
			ids = append(ids, row.Reg.AppID+" "+string(row.Fate))
		}
		require.Equal(t, []string{"app failed", "mon failed", "app failed", "app delivered"}, ids)
		v := balanced(t, client)
		require.EqualValues(t, 4, v.Accepted)
		require.EqualValues(t, 2, r.healthOf(t, "app").Counts.Failed)
	})
}

// failedAt waits until an event has failed at an app.
func (r *replica) failedAt(t testing.TB, eventID, app string) delivery.Record {
	t.Helper()
	var rec delivery.Record
	soon(t, func() bool {
		rows, err := r.EventRecords(t.Context(), "acme", eventID)
		require.NoError(t, err)
		i := slices.IndexFunc(rows, func(r delivery.Record) bool { return r.Reg.AppID == app && r.Fate == delivery.Failed })
		if i >= 0 {
			rec = rows[i]
		}
		return i >= 0
	}, "the failure at "+app)
	return rec
}

func TestRedeliveryObeysWhatHoldsForAnyDelivery(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		r := startReplica(t, client, b, quick, func(c *delivery.Config) { c.QueueEvents = 12; c.DeliveryTimeout = 30 * time.Second })
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
		late := r.send(t, until(message("e1", "ann", 1), r.Now().Add(-time.Second)))
		rec := r.settled(t, late[0].ID)

		// Its author's events are delivered one at a time, in order; one that has expired is delivered on request.
		hanging := make(chan struct{})
		release := sync.OnceFunc(func() { close(hanging) })
		t.Cleanup(release)
		b.answers(func(q request) int {
			if q.event["n"].(float64) == 2 {
				<-hanging
			}
			return http.StatusAccepted
		})
		before := r.send(t, message("e1", "ann", 2))
		soon(t, func() bool { return len(b.requests()) == 1 }, "the first try")
		made := r.again(t, rec.ID)
		after := r.send(t, message("e1", "ann", 3))
		waits := r.record(t, made.ID)
		require.Equal(t, delivery.RequestPending, waits.State)
		require.NotEmpty(t, waits.CallbackURL)
		_, err := r.Redeliver(t.Context(), "acme", made.ID, "")
		require.ErrorIs(t, err, delivery.ErrUnderWay)

		// A queue that is full takes it as little as any.
		for i := range 9 {
			require.Equal(t, delivery.Queued, r.send(t, message("e1", "ann", 10+i))[0].Fate)
		}
		full := r.again(t, rec.ID)
		require.Equal(t, delivery.Overflow, full.Fate)
		release()
		require.Equal(t, delivery.Delivered, r.ended(t, made.ID).Fate)
		for _, rc := range []delivery.Receipt{before[0], after[0]} {
			require.Equal(t, delivery.Delivered, r.settled(t, rc.ID).Fate)
		}
		require.Equal(t, []float64{2, 1, 3}, numbersOf(b)[:3])

		// Nor does it go to a bot that is DOWN.
		soon(t, func() bool { return r.healthOf(t, "app").Counts.Acknowledged == 0 }, "the window to be empty")
		r.goesDown(t, b, "e1")
		tries := len(b.requests())
		require.Equal(t, delivery.Suppressed, r.again(t, full.ID).Fate)
		require.Len(t, b.requests(), tries)
		balanced(t, client)
	})
}

// numbersOf are the numbers of the events as the bot got them.
func numbersOf(b *bot) []float64 {
	var numbers []float64
	for _, q := range b.requests() {
		numbers = append(numbers, q.event["n"].(float64))
	}
	return numbers
}

func (r *replica) record(t testing.TB, requestID string) delivery.Record {
	t.Helper()
	rec, err := r.Record(t.Context(), "acme", requestID)
	require.NoError(t, err)
	return rec
}

func TestRedeliveryWithAKeyIsMadeOnce(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		r := startReplica(t, client, newBot(t))
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
		rec := r.settled(t, r.send(t, until(message("e1", "ann", 1), r.Now().Add(-time.Second)))[0].ID)
		var made sync.Map
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				again, err := r.Redeliver(t.Context(), "acme", rec.ID, fmt.Sprint("k", i%2))
				if err == nil {
					made.Store(again, true)
				}
			})
		}
		wg.Wait()
		n := 0
		made.Range(func(again, _ any) bool { n++; r.ended(t, again.(delivery.Redelivery).ID); return true })
		require.Equal(t, 2, n, "one for each key")
		require.EqualValues(t, 3, balanced(t, client).Accepted)
	})
}

func TestRedeliveryIsRefusedWithAReason(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		r := startReplica(t, client, newBot(t))
		reg := registration("e1", "app")
		require.NoError(t, r.Create(t.Context(), reg))
		rec := r.settled(t, r.send(t, until(message("e1", "ann", 1), r.Now().Add(-time.Second)))[0].ID)
		try := func(company, id string) error {
			_, err := r.Redeliver(t.Context(), company, id, "")
			return err
		}
		require.ErrorIs(t, try("other", rec.ID), delivery.ErrNotFound)
		require.ErrorIs(t, try("acme", "nothing"), delivery.ErrNotFound)
		require.ErrorIs(t, try("acme", rec.EventID), delivery.ErrNotFound)
		call, err := r.NoteCall(t.Context(), delivery.Record{Reg: reg.RegID, State: delivery.RequestError, Payload: []byte(`{}`)})
		require.NoError(t, err)
		require.ErrorIs(t, try("acme", call.ID), delivery.ErrNoDelivery)
		require.NoError(t, r.SetMode(t.Context(), reg.RegID, delivery.Maintenance))
		require.ErrorIs(t, try("acme", rec.ID), delivery.ErrMaintenance)
		require.NoError(t, r.Delete(t.Context(), reg.RegID))
		require.ErrorIs(t, try("acme", rec.ID), delivery.ErrDeleted)
		require.EqualValues(t, 0, balanced(t, client).Queued)
	})
}
