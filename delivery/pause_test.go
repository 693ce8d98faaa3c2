package delivery_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// number is that of the event that a bot got.
func (q request) number() int { return int(q.event["n"].(float64)) }

// A try from the time before counted against the one that a DOWN bot may have: with a debugged one, for ten minutes.
func TestTriesOfTheTimeBeforeDoNotKeepTheTrialWaiting(t *testing.T) {
	for _, debugged := range []bool{true, false} {
		t.Run(fmt.Sprint(debugged), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBot(t)
				status := http.StatusInternalServerError
				var mu sync.Mutex
				b.answers(func(q request) int {
					mu.Lock()
					defer mu.Unlock()
					if q.number() == 1 {
						return 0
					}
					return status
				})
				r := startReplica(t, newMiniredis(t), b, func(c *delivery.Config) { c.DeliveryTimeout = 30 * time.Minute })
				require.NoError(t, r.Create(t.Context(), registration("e1", "app", func(reg *delivery.Registration) {
					if debugged {
						reg.DebugUntil = r.Now().Add(time.Minute)
					}
				})))
				r.send(t, message("e1", "ann", 1))
				<-time.After(61 * time.Second)
				for i := range 10 {
					r.send(t, message("e1", fmt.Sprint("other ", i), 10+i))
				}
				soon(t, func() bool { return r.healthOf(t, "app").Standing.State == health.Down }, "DOWN")
				mu.Lock()
				status = http.StatusAccepted
				mu.Unlock()
				<-time.After(121 * time.Second)
				trial := r.send(t, message("e1", "ben", 100))
				<-time.After(time.Second)
				require.Equal(t, delivery.Delivered, r.fate(t, trial[0].ID).Fate)
				require.NotEqual(t, health.Down, r.healthOf(t, "app").Standing.State)
				require.Equal(t, delivery.RequestPending, r.fate(t, r.send(t, message("e1", "ann", 2))[0].ID).State, "an author's come one after the other")
			})
		})
	}
}

// A trial whose second try ended when the bot was not DOWN any more had no fate, counted for nothing, and was made again.
func TestATrialThatOutlivesTheOutageIsADeliveryLikeAnyOther(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		r := startReplica(t, client, b, shortPause)
		reg := holding("e1")
		require.NoError(t, r.Create(t.Context(), reg))
		r.goesDown(t, b, "e1")
		down := r.healthOf(t, "app").Standing
		soon(t, func() bool { return r.Now().After(down.PausedUntil) }, "the end of the pause")
		tries := len(b.requests())
		answer := make(chan struct{})
		b.answers(func(request) int { <-answer; return http.StatusServiceUnavailable })
		trial := r.send(t, message("e1", "ann", 100))
		soon(t, func() bool { return len(b.requests()) > tries }, "the trial")
		reg.CallbackURL = "http://bot.example/corrected"
		require.NoError(t, r.Put(t.Context(), reg))
		close(answer)
		rec := r.settled(t, trial[0].ID)
		require.Equal(t, delivery.Failed, rec.Fate)
		require.Equal(t, 2, rec.Tries)
		require.Len(t, b.requests(), tries+2)
		balanced(t, client)
	})
}

// Events that were held waited until the slowest of the tries that were under way had ended, though another had ended the pause.
func TestHeldEventsDoNotWaitForASlowTry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBot(t)
		late := make(chan struct{})
		b.answers(func(q request) int {
			switch q.number() {
			case 1:
				<-late
				return http.StatusAccepted
			case 2:
				<-time.After(25 * time.Second)
				return http.StatusAccepted
			case 100, 101:
				return http.StatusAccepted
			}
			return http.StatusInternalServerError
		})
		client := newMiniredis(t)
		r := startReplica(t, client, b, func(c *delivery.Config) { c.DeliveryTimeout = 30 * time.Second })
		require.NoError(t, r.Create(t.Context(), holding("e1")))
		began := time.Now()
		slow := r.send(t, message("e1", "one", 1), message("e1", "two", 2))
		for i := range 10 {
			r.send(t, message("e1", fmt.Sprint("other ", i), 10+i))
		}
		soon(t, func() bool { return r.healthOf(t, "app").Standing.State == health.Down }, "DOWN")
		held := r.send(t, message("e1", "ann", 100), message("e1", "two", 101))
		<-time.After(2 * time.Second)
		close(late)
		<-time.After(2 * time.Second)
		require.Equal(t, delivery.Delivered, r.fate(t, held[0].ID).Fate)
		require.Equal(t, delivery.Queued, r.fate(t, held[1].ID).Fate, "its author's first is under way")
		<-time.After(25*time.Second - time.Since(began))
		for _, rc := range append(slow, held[1]) {
			require.Equal(t, delivery.Delivered, r.settled(t, rc.ID).Fate)
			require.Equal(t, 1, timesSeen(b, rc.ID))
		}
		balanced(t, client)
	})
}

// A lane whose trial of a held event failed made no other as long as a try of the time before hung.
func TestTrialsOfHeldEventsGoOnBesideATryThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBot(t)
		var well atomic.Bool
		b.answers(func(q request) int {
			switch {
			case q.number() == 1:
				return 0
			case well.Load():
				return http.StatusAccepted
			}
			return http.StatusInternalServerError
		})
		r := startReplica(t, newMiniredis(t), b, func(c *delivery.Config) { c.DeliveryTimeout = 30 * time.Minute })
		require.NoError(t, r.Create(t.Context(), holding("e1")))
		r.send(t, message("e1", "one", 1))
		for i := range 10 {
			r.send(t, message("e1", fmt.Sprint("other ", i), 10+i))
		}
		soon(t, func() bool { return r.healthOf(t, "app").Standing.State == health.Down }, "DOWN")
		held := r.send(t, message("e1", "ann", 100))
		<-time.After(5 * time.Minute)
		require.GreaterOrEqual(t, timesSeen(b, held[0].ID), 4, "two trials of two tries each")
		require.Equal(t, delivery.Queued, r.fate(t, held[0].ID).Fate)
		well.Store(true)
		<-time.After(3 * time.Minute)
		require.Equal(t, delivery.Delivered, r.fate(t, held[0].ID).Fate)
	})
}

// What was handed off before an incident began was told as its cost.
func TestAnIncidentCostsWhatCameAfterItsBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBot(t)
		b.answers(func(request) int { <-time.After(3 * time.Second); return http.StatusAccepted })
		r := startReplica(t, newMiniredis(t), b, func(c *delivery.Config) { c.QueueEvents = 1 })
		reg := registration("e1", "app")
		require.NoError(t, r.Create(t.Context(), reg))
		overflow := 0
		for i := range 10 {
			if r.send(t, message("e1", fmt.Sprint("author ", i), i))[0].Fate == delivery.Overflow {
				overflow++
			}
		}
		require.Equal(t, 9, overflow)
		<-time.After(10 * time.Second)
		b.status(http.StatusBadRequest)
		reg.DebugUntil = r.Now().Add(time.Minute)
		require.NoError(t, r.Put(t.Context(), reg))
		for i := range 5 {
			r.settled(t, r.send(t, message("e1", fmt.Sprint("debugged ", i), i))[0].ID)
		}
		<-time.After(2 * time.Minute)
		failed := r.settled(t, r.send(t, message("e1", "ann", 1))[0].ID)
		soon(t, func() bool { return r.healthOf(t, "app").Standing.State == health.Degraded }, "DEGRADED")
		listed, err := r.Outbox().List(t.Context(), "acme", 10, nil, delivery.EntryTransition)
		require.NoError(t, err)
		var degraded health.Transition
		for _, e := range listed {
			var tr health.Transition
			require.NoError(t, json.Unmarshal(e.Data, &tr))
			if tr.To == health.Degraded {
				degraded = tr
			}
		}
		require.EqualValues(t, 1, degraded.HandedOff)
		require.EqualValues(t, 1, degraded.Undelivered)
		require.Equal(t, []string{failed.ID}, degraded.FailedRequests)
	})
}
