package delivery_test

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// One test for each fault that was here once.

// Events that came together to a gateway that knew nothing of their entity yet started a lane each, under one lease.
func TestOneLeaseHasOneLane(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		maker := startReplica(t, client, b)
		for e := range 5 {
			require.NoError(t, maker.Create(t.Context(), registration(fmt.Sprint("e", e), "app")))
		}
		maker.stop()
		r := startReplica(t, client, b)
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() { r.send(t, message(fmt.Sprint("e", i%5), "ann", i)) })
		}
		wg.Wait()
		soon(t, func() bool {
			hs, err := r.Health(t.Context(), "acme", "app")
			n := int64(0)
			for _, h := range hs {
				n += h.Counts.Acknowledged
			}
			return err == nil && n == 100
		}, "all outcomes")
		require.Len(t, b.requests(), 100, "nothing is delivered twice")
	})
}

func holding(ext string) delivery.Registration {
	return registration(ext, "app", func(r *delivery.Registration) { r.WhenDown = delivery.Hold })
}

// The author of a held event whose trial failed, when the bot was not DOWN any more, stayed busy for ever.
func TestHeldEventIsReadAgainWhenItsTrialFailsTooLate(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		b.status(503)
		r := startReplica(t, client, b, quick)
		reg := holding("e1")
		require.NoError(t, r.Create(t.Context(), reg))
		for i := range 12 {
			r.send(t, message("e1", fmt.Sprint("a", i), i))
		}
		soon(t, func() bool { return !r.healthOf(t, "app").Standing.PausedUntil.IsZero() }, "DOWN")
		inTrial, answer := make(chan struct{}, 9), make(chan struct{})
		b.answers(func(request) int { inTrial <- struct{}{}; <-answer; return 503 })
		rcs := r.send(t, message("e1", "ann", 100))
		<-inTrial
		rcs = append(rcs, r.send(t, message("e1", "ann", 101))...)
		reg.CallbackURL = "http://bot.example/corrected"
		require.NoError(t, r.Put(t.Context(), reg))
		close(answer)
		soon(t, func() bool { return len(inTrial) > 0 }, "the second try")
		b.status(202)
		for _, rc := range rcs {
			r.send(t, message("e1", "ben", 1)) // others keep the lane at work
			r.settled(t, rc.ID)
		}
	})
}

// Held events waited for the end of a pause that an acknowledgement had ended.
func TestHeldEventsGoOutWhenALateAcknowledgementEndsThePause(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		late := make(chan struct{})
		b.answers(func(q request) int {
			if q.event["author"].(map[string]any)["id"] == "slow" {
				<-late
				return 202
			}
			return 503
		})
		r := startReplica(t, client, b, func(c *delivery.Config) { c.DeliveryTimeout = time.Minute })
		require.NoError(t, r.Create(t.Context(), holding("e1")))
		r.send(t, message("e1", "slow", 0))
		for i := range 12 {
			r.send(t, message("e1", fmt.Sprint("a", i), i+1))
		}
		soon(t, func() bool { return !r.healthOf(t, "app").Standing.PausedUntil.IsZero() }, "DOWN")
		rc := r.send(t, message("e1", "held", 100))
		b.status(202)
		close(late)
		require.Equal(t, delivery.Delivered, r.settled(t, rc[0].ID).Fate, "long before the pause would have ended")
		require.Equal(t, health.Degraded, r.healthOf(t, "app").Verdict.State)
	})
}

// A job left out conversations that stood behind those whose customers wrote again meanwhile.
func TestJobLeavesNobodyOutWhileCustomersGoOnWriting(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		r := startReplica(t, client, newBot(t))
		reg := registration("e1", "app")
		require.NoError(t, r.Create(t.Context(), reg))
		messages := func(n int) (in []delivery.Incoming) {
			for i := range n {
				in = append(in, message("e1", fmt.Sprint("a", i), i))
			}
			return in
		}
		r.send(t, messages(250)...)
		require.NoError(t, r.SetMode(t.Context(), reg.RegID, delivery.Monitoring))
		entries, err := r.Outbox().Take(t.Context(), 100, time.Minute)
		require.NoError(t, err)
		for _, e := range entries {
			for e.Kind == delivery.EntryJob && e.State == delivery.EntryPending {
				e, err = r.Outbox().RunJob(t.Context(), e)
				require.NoError(t, err)
				r.send(t, messages(80)...)
			}
		}
		for i := range 250 {
			ctl, err := r.Control(t.Context(), entity("e1"), fmt.Sprint("a", i))
			require.NoError(t, err)
			require.Equal(t, delivery.Agent, ctl.Owner.Type, i)
		}
	})
}

// A gateway that stopped while it suppressed what waited left the rest lying until the end of the pause.
func TestAnotherReplicaGoesOnSuppressing(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		b.status(0)
		r := startReplica(t, client, b, func(c *delivery.Config) { c.DeliveryTimeout = 500 * time.Millisecond })
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
		var rcs []delivery.Receipt
		for i := range 900 {
			rcs = append(rcs, r.send(t, message("e1", fmt.Sprint("a", i), i))...)
		}
		soon(t, func() bool { return !r.healthOf(t, "app").Standing.PausedUntil.IsZero() }, "DOWN")
		r.stop()
		other := startReplica(t, client, b)
		for _, rc := range rcs[800:] {
			require.Equal(t, delivery.Suppressed, other.settled(t, rc.ID).Fate)
		}
	})
}

// Outcomes of tries that began before a change counted in the window that it had emptied: a bot that was mended, or registered anew, went DOWN without
// one request to it.
func TestTriesFromBeforeAChangeSayNothingOfTheBotAfterIt(t *testing.T) {
	put := func(t *testing.T, r *replica, change func(*delivery.Registration)) {
		require.NoError(t, r.Put(t.Context(), registration("e", "app", change)))
	}
	changes := map[string]func(t *testing.T, r *replica){
		"another address": func(t *testing.T, r *replica) { put(t, r, at("mended")) },
		"another secret": func(t *testing.T, r *replica) {
			put(t, r, func(reg *delivery.Registration) { reg.Credentials.Secret = "of its own" })
		},
		"registered anew": func(t *testing.T, r *replica) {
			require.NoError(t, r.Delete(t.Context(), delivery.RegID{Entity: entity("e"), AppID: "app"}))
			put(t, r, at("mended"))
		},
		"maintenance": func(t *testing.T, r *replica) {
			put(t, r, func(reg *delivery.Registration) { reg.Mode = delivery.Maintenance })
			put(t, r, func(reg *delivery.Registration) { reg.Mode = delivery.Live })
		},
	}
	for name, change := range changes {
		for _, late := range []int{http.StatusNotFound, http.StatusAccepted} {
			t.Run(fmt.Sprint(name, ", ", late), func(t *testing.T) {
				onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
					b := newBot(t)
					r := startReplica(t, client, b)
					require.NoError(t, r.Create(t.Context(), registration("e", "app")))
					gate := make(chan struct{})
					open := sync.OnceFunc(func() { close(gate) })
					t.Cleanup(open)
					var tries atomic.Int64
					b.answers(func(request) int {
						if tries.Add(1) <= 12 { // the first tries; another follows each that failed
							return http.StatusServiceUnavailable
						}
						<-gate
						return late
					})
					for i := range 12 {
						r.send(t, message("e", fmt.Sprint("a", i), i))
					}
					soon(t, func() bool { return tries.Load() == 24 }, "the second tries")
					change(t, r)
					b.status(http.StatusAccepted)
					open()
					soon(t, func() bool { return verify(t, client).Queued == 0 }, "all to have their fates")
					h := r.healthOf(t, "app")
					require.Equal(t, health.Healthy, h.Standing.State)
					require.Zero(t, h.Counts.Acknowledged+h.Counts.Failed)
					require.Nil(t, h.LastFailure)
					require.Equal(t, delivery.Delivered, r.settled(t, r.send(t, message("e", "ann", 100))[0].ID).Fate)
					require.EqualValues(t, 1, r.healthOf(t, "app").Counts.Acknowledged)
					require.Zero(t, r.healthOf(t, "app").Counts.Failed)
					balanced(t, client)
				})
			})
		}
	}
}
