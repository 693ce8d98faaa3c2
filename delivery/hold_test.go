package delivery_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// shortPause is a pause that a test can wait for, over a window in which nothing leaves.
func shortPause(cfg *delivery.Config) {
	cfg.Rules = health.Rules{Window: 10 * time.Minute, Pause: 600 * time.Millisecond}
}

// transition waits for the next transition after a number.
func (r *replica) transition(t testing.TB, number int64) health.Standing {
	t.Helper()
	var s health.Standing
	soon(t, func() bool { s = r.healthOf(t, "app").Standing; return s.Number > number }, "a transition")
	require.Equal(t, number+1, s.Number, "one transition, and no other")
	return s
}

func TestH09TheTrialIsAnEventThatWaits(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		r := startReplica(t, client, b, shortPause)
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
		r.goesDown(t, b, "e1")
		down := r.healthOf(t, "app")
		require.EqualValues(t, 10, down.Counts.Failed)
		tries := len(b.requests())
		soon(t, func() bool { return r.Now().After(down.Standing.PausedUntil) }, "the end of the pause")
		require.Len(t, b.requests(), tries, "nothing is made up for a trial")

		trial := r.send(t, message("e1", "ann", 100))
		require.Equal(t, delivery.Failed, r.settled(t, trial[0].ID).Fate)
		still := r.transition(t, down.Standing.Number)
		require.Equal(t, health.Down, still.State)
		require.Len(t, b.requests(), tries+2)
		require.EqualValues(t, 11, r.healthOf(t, "app").Counts.Failed, "a trial that fails is one failure")

		b.status(http.StatusAccepted)
		soon(t, func() bool { return r.Now().After(still.PausedUntil) }, "the end of the pause")
		trial = r.send(t, message("e1", "ann", 101))
		require.Equal(t, delivery.Delivered, r.settled(t, trial[0].ID).Fate)
		up := r.transition(t, still.Number)
		require.Equal(t, health.Degraded, up.State)
		counts := r.healthOf(t, "app").Counts
		require.EqualValues(t, 1, counts.Acknowledged)
		require.EqualValues(t, 11, counts.Failed)
		require.Equal(t, []float64{100, 100, 101}, numbersOf(b)[tries:])
		balanced(t, client)
		t.Attr("measured", "2 trials, both events that waited; the failed one counted once for 2 tries; the acknowledged one ended DOWN")
	})
}

func TestH09ATrialOfHeldEventsIsNoFailure(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		r := startReplica(t, client, b, shortPause)
		require.NoError(t, r.Create(t.Context(), holding("e1")))
		r.goesDown(t, b, "e1")
		down := r.healthOf(t, "app")
		tries := len(b.requests())
		var rcs []delivery.Receipt
		for i := range 5 {
			rcs = append(rcs, r.send(t, message("e1", []string{"ann", "ben"}[i%2], 100+i))...)
		}
		number := down.Standing.Number
		for range 3 {
			still := r.transition(t, number)
			require.Equal(t, health.Down, still.State)
			number = still.Number
		}
		require.Equal(t, down.Counts, r.healthOf(t, "app").Counts, "held events are not failures")
		for _, rc := range rcs {
			require.Equal(t, delivery.Queued, r.fate(t, rc.ID).Fate)
		}
		b.status(http.StatusAccepted)
		for _, rc := range rcs {
			require.Equal(t, delivery.Delivered, r.settled(t, rc.ID).Fate)
		}
		trials := numbersOf(b)[tries:]
		failed := len(trials) - len(rcs)
		require.GreaterOrEqual(t, failed, 6)
		for _, n := range trials[:failed+1] {
			require.Equal(t, 100.0, n, "the trial is the head of the queue, again and again")
		}
		order := map[string][]float64{}
		for _, q := range b.requests()[tries+failed:] {
			author := q.event["author"].(map[string]any)["id"].(string)
			order[author] = append(order[author], q.event["n"].(float64))
		}
		require.Equal(t, map[string][]float64{"ann": {100, 102, 104}, "ben": {101, 103}}, order)
		balanced(t, client)
		t.Attr("measured", fmt.Sprintf("%d failed trials of the head, 0 counted as failures; 5 held events in order after the next", failed/2))
	})
}

func TestHeadOfHeldEventsExpiresAndTheNextIsTheTrial(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		r := startReplica(t, client, b, shortPause)
		require.NoError(t, r.Create(t.Context(), holding("e1")))
		r.goesDown(t, b, "e1")
		number := r.healthOf(t, "app").Standing.Number
		at := r.Now().Add(2500 * time.Millisecond)
		rcs := r.send(t, until(message("e1", "ann", 100), at), message("e1", "ann", 101), message("e1", "ben", 102))
		r.transition(t, number)
		require.Equal(t, delivery.Queued, r.fate(t, rcs[0].ID).Fate, "a trial that failed leaves its event where it is")
		rec := r.settled(t, rcs[0].ID)
		require.Equal(t, delivery.Expired, rec.Fate)
		require.GreaterOrEqual(t, rec.Completed.Sub(at), -time.Millisecond)
		require.Equal(t, health.Down, r.healthOf(t, "app").Standing.State, "an expiry is no acknowledgement")
		tries := len(b.requests())
		soon(t, func() bool { return len(b.requests()) > tries }, "the next trial")
		require.Equal(t, 101.0, numbersOf(b)[tries])
		b.status(http.StatusAccepted)
		for _, rc := range rcs[1:] {
			require.Equal(t, delivery.Delivered, r.settled(t, rc.ID).Fate)
		}
		require.EqualValues(t, 10, r.healthOf(t, "app").Counts.Failed)
		balanced(t, client)
	})
}

func TestWhatIsHeldGoesWithItsRegistration(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		r := startReplica(t, client, b, func(c *delivery.Config) { c.QueueEvents = 12 })
		reg := holding("e1")
		require.NoError(t, r.Create(t.Context(), reg))
		for _, fate := range []delivery.Fate{delivery.InMaintenance, delivery.Withdrawn} {
			r.goesDown(t, b, "e1")
			var held []delivery.Receipt
			for i := range 12 {
				in := message("e1", fmt.Sprint("held ", i), i)
				if i%2 == 0 {
					in = until(in, r.Now().Add(time.Hour))
				}
				held = append(held, r.send(t, in)...)
			}
			require.Equal(t, delivery.Overflow, r.send(t, message("e1", "one too many", 1))[0].Fate)
			ctl, err := r.Control(t.Context(), entity("e1"), "one too many")
			require.NoError(t, err)
			require.Equal(t, delivery.Agent, ctl.Owner.Type)
			tries := len(b.requests())
			if fate == delivery.Withdrawn {
				require.NoError(t, r.Delete(t.Context(), reg.RegID))
			} else {
				require.NoError(t, r.SetMode(t.Context(), reg.RegID, delivery.Maintenance))
			}
			for _, rc := range held {
				require.Equal(t, fate, r.settled(t, rc.ID).Fate)
			}
			require.Len(t, b.requests(), tries)
			soon(t, func() bool { return len(allKeys(t, client, "pg:*:x:*")) == 0 }, "nothing of their times to be left")
			balanced(t, client)
			if fate == delivery.InMaintenance {
				require.NoError(t, r.SetMode(t.Context(), reg.RegID, delivery.Live))
			}
		}
	})
}

// Becoming DOWN hands the conversations over even where events are held: their customers do not wait for a bot that is away.
func TestHeldEventsComeToTheBotWhileAgentsHaveTheConversation(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		hanging := make(chan struct{})
		release := sync.OnceFunc(func() { close(hanging) })
		t.Cleanup(release)
		b.answers(func(q request) int {
			if q.event["n"].(float64) == 100 {
				<-hanging
			}
			return http.StatusInternalServerError
		})
		r := startReplica(t, client, b, shortPause, func(c *delivery.Config) { c.DeliveryTimeout = time.Minute })
		require.NoError(t, r.Create(t.Context(), holding("e1")))
		first := r.send(t, message("e1", "ann", 100))
		for i := range 10 {
			r.send(t, message("e1", fmt.Sprint("down ", i), i))
		}
		soon(t, func() bool { return r.healthOf(t, "app").Standing.State == health.Down }, "DOWN")
		owner := func() delivery.Owner {
			ctl, err := r.Control(t.Context(), entity("e1"), "ann")
			require.NoError(t, err)
			return ctl.Owner
		}
		require.Equal(t, delivery.Owner{Type: delivery.Bot, AppID: "app"}, owner())
		r.runJobs(t)
		require.Equal(t, delivery.Owner{Type: delivery.Agent}, owner())
		held := r.send(t, message("e1", "ann", 101))
		require.Equal(t, delivery.Queued, held[0].Fate)
		b.status(http.StatusAccepted)
		release()
		require.Equal(t, delivery.Failed, r.settled(t, first[0].ID).Fate, "its second try is not made")
		require.Equal(t, delivery.Delivered, r.settled(t, held[0].ID).Fate)
		last := b.requests()[len(b.requests())-1]
		require.Equal(t, 101.0, last.event["n"])
		require.Equal(t, map[string]any{"type": "AGENT"}, last.event["owner"])
		require.Equal(t, delivery.Owner{Type: delivery.Agent}, owner())
	})
}

// TestHeldEventsFollowTheirTrialAtOnce: of what is held only some is read for the trial, and the rest must not wait for the next look at the queue.
func TestHeldEventsFollowTheirTrialAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBot(t)
		r := startReplica(t, newMiniredis(t), b, shortPause)
		require.NoError(t, r.Create(t.Context(), holding("e1")))
		r.goesDown(t, b, "e1")
		before := len(b.requests())
		for i := range 100 {
			r.send(t, message("e1", fmt.Sprint("a", i), 1000+i))
		}
		b.status(http.StatusAccepted)
		soon(t, func() bool { return len(b.requests()) > before }, "the trial")
		tried := b.requests()[before].at
		soon(t, func() bool { return len(b.requests()) == before+100 }, "the rest")
		require.Less(t, b.requests()[before+99].at.Sub(tried), 20*time.Millisecond)
	})
}

func TestManyHeldEventsExpireInBatches(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		n := 1_000
		if strings.HasSuffix(t.Name(), "redis-server") {
			n = size(100_000, 5_000)
		}
		b := newBot(t)
		r := startReplica(t, client, b)
		require.NoError(t, r.Create(t.Context(), holding("e1")))
		require.NoError(t, r.Create(t.Context(), registration("e2", "other")))
		r.goesDown(t, b, "e1")
		b.status(http.StatusAccepted)
		at := r.Now().Add(time.Duration(3+n/5_000) * time.Second)
		for sent := 0; sent < n; sent += 1_000 {
			var in []delivery.Incoming
			for i := range 1_000 {
				in = append(in, until(message("e1", fmt.Sprint("a", (sent+i)%700), sent+i), at))
			}
			r.send(t, in...)
		}
		require.True(t, r.Now().Before(at), "the machine is too slow for this test")
		soon(t, func() bool { return r.Now().After(at) }, "the time to be up")
		began, slowest := time.Now(), time.Duration(0)
		for int(scrape(t, r)["delivery_deliveries_total{fate=expired}"]) < n {
			sent := time.Now()
			rc := r.send(t, message("e2", "ann", 1))
			r.settled(t, rc[0].ID)
			slowest = max(slowest, time.Since(sent))
			require.Less(t, time.Since(began), 2*time.Minute)
		}
		took := time.Since(began)
		require.EqualValues(t, n, balanced(t, client).Fates[delivery.Expired])
		t.Attr("measured", fmt.Sprintf("%d events expired in %v, others delivered meanwhile in at most %v", n, took.Round(time.Millisecond), slowest.Round(time.Millisecond)))
	})
}
