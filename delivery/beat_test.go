package delivery_test

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/stretchr/testify/require"
)

// startWell starts a replica with bots e0 to en in good health, each of which has had an event.
func startWell(t *testing.T, n int) (*replica, *bot, *counter) {
	b := newBot(t)
	client := newMiniredis(t)
	settles := &counter{}
	client.AddHook(settles)
	r := startReplica(t, client, b)
	wanted := r.Settles
	settles.wanted.Store(&wanted)
	for i := range n {
		require.NoError(t, r.Create(t.Context(), registration(fmt.Sprint("e", i), "app")))
	}
	for range 2 { // lanes that come soon after one another keep the lease for a while
		for i := range n {
			r.send(t, message(fmt.Sprint("e", i), "ann", 0))
		}
		<-time.After(100 * time.Millisecond)
	}
	settles.n.Store(0)
	return r, b, settles
}

// TestAcknowledgementsOfManyAreSettledTogether sends each of ten bots an event a millisecond.
func TestAcknowledgementsOfManyAreSettledTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, settles := startWell(t, 10)
		began := time.Now()
		var last string
		for n := range 50 {
			for i := range 10 {
				last = r.send(t, message(fmt.Sprint("e", i), fmt.Sprint("author ", n), n))[0].ID
			}
			<-time.After(time.Millisecond)
		}
		<-time.After(10 * time.Millisecond)
		require.Equal(t, delivery.Delivered, r.fate(t, last).Fate)
		beats := int64(time.Since(began) / (5 * time.Millisecond))
		require.Positive(t, settles.n.Load())
		require.LessOrEqual(t, settles.n.Load(), 2*beats+2, "on a beat the first goes ahead, and the others follow together")
	})
}

// TestNothingWaitsForABeat that somebody waits for: an author's next event, and the verdict on a failure.
func TestNothingWaitsForABeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, b, _ := startWell(t, 1)
		sent := time.Now()
		var batch []delivery.Incoming
		for n := range 20 {
			batch = append(batch, message("e0", "ann", n))
		}
		r.send(t, batch...)
		synctest.Wait()
		require.Len(t, b.requests(), 22, "no time has passed")
		require.Equal(t, sent, time.Now())

		<-time.After(10 * time.Millisecond)
		b.status(http.StatusInternalServerError)
		id := r.send(t, message("e0", "bob", 1))[0].ID
		for len(b.requests()) < 24 {
			<-time.After(100 * time.Microsecond)
		}
		synctest.Wait()
		require.Equal(t, delivery.Failed, r.fate(t, id).Fate)
	})
}

// TestEventsThatWaitedAreAskedAboutTogether lets 400 conversations wait behind tries that take long. One of them is given to an agent meanwhile.
func TestEventsThatWaitedAreAskedAboutTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, b, settles := startWell(t, 1)
		b.answers(func(q request) int {
			if q.event["n"].(float64) == 1 {
				<-time.After(300 * time.Millisecond)
			}
			return http.StatusAccepted
		})
		var batch []delivery.Incoming
		for i := range delivery.DefaultConcurrency {
			batch = append(batch, message("e0", fmt.Sprint("slow ", i), 1))
		}
		for i := range 400 {
			batch = append(batch, message("e0", fmt.Sprint("author ", i), 2))
		}
		r.send(t, batch...)
		<-time.After(200 * time.Millisecond)
		_, err := r.PassControl(t.Context(), delivery.ControlChange{Entity: entity("e0"), AppID: "app", AuthorID: "author 200", Owner: delivery.Owner{Type: delivery.Agent}})
		require.NoError(t, err)
		settles.n.Store(0)
		<-time.After(150 * time.Millisecond)
		require.Len(t, b.requests(), 2+len(batch))
		require.Less(t, settles.n.Load(), int64(400/delivery.DefaultConcurrency))
		for _, q := range b.requests() {
			want := map[string]any{"type": "BOT", "appId": "app"}
			if q.event["author"].(map[string]any)["id"] == "author 200" {
				want = map[string]any{"type": "AGENT"}
			}
			require.Equal(t, want, q.event["owner"])
		}
	})
}
