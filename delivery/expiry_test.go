package delivery_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// until is a message that is of no use from a moment on.
func until(in delivery.Incoming, at time.Time) delivery.Incoming {
	return delivery.Incoming{Body: fmt.Appendf(nil, `{"expiresAt":%d,%s`, at.UnixMilli(), in.Body[1:])}
}

// expiredOnTime waits for an event to expire and returns how late that was.
func (r *replica) expiredOnTime(t testing.TB, id string, at time.Time) time.Duration {
	t.Helper()
	rec := r.settled(t, id)
	require.Equal(t, delivery.Expired, rec.Fate, "%+v", rec)
	require.Equal(t, delivery.RequestError, rec.State)
	require.Zero(t, rec.Tries)
	require.NotEmpty(t, rec.Payload)
	require.NotEmpty(t, rec.Message)
	late := rec.Completed.Sub(at.Truncate(time.Millisecond))
	require.GreaterOrEqual(t, late, time.Duration(0))
	bound := time.Second
	if !strings.Contains(t.Name(), "in process") {
		bound = 5 * time.Second // the machine is shared
	}
	require.LessOrEqual(t, late, bound)
	return late
}

// balanced holds the whole store against itself.
func balanced(t testing.TB, client redis.UniversalClient) delivery.Verification {
	t.Helper()
	v := verify(t, client)
	require.Empty(t, v.Findings)
	return v
}

// pass lets time pass: in a bubble only.
func pass(d time.Duration) { <-time.NewTimer(d).C }

// goesDown makes a registration of the app DOWN, by messages of authors of their own.
func (r *replica) goesDown(t testing.TB, b *bot, ext string) {
	b.status(http.StatusInternalServerError)
	for i := range 10 {
		r.send(t, message(ext, fmt.Sprint("down ", i), i))
	}
	soon(t, func() bool { return !r.healthOf(t, "app").Standing.PausedUntil.IsZero() }, "DOWN")
}

func TestExpiredWhenAcceptedIsHandedOffAndNotTried(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		r := startReplica(t, client, b)
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
		at := r.Now().Add(-time.Second)
		rc := r.send(t, until(message("e1", "ann", 1), at))
		require.Equal(t, delivery.Expired, rc[0].Fate)
		rec := r.settled(t, rc[0].ID)
		require.Equal(t, delivery.AutomaticHandoff, rec.Handoff)
		r.expiredOnTime(t, rc[0].ID, rec.Completed)
		require.Equal(t, health.Counts{ByClass: map[health.Class]int64{}}, r.healthOf(t, "app").Counts, "it does not enter the window")
		require.Empty(t, b.requests())
		require.EqualValues(t, 1, balanced(t, client).Fates[delivery.Expired])
		require.EqualValues(t, 1, scrape(t, r)["delivery_deliveries_total{fate=expired}"])
	})
}

func TestExpiresBehindAHangingEventOfTheSameAuthor(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		hanging := make(chan struct{})
		b.answers(func(r request) int {
			if r.event["n"].(float64) == 1 {
				<-hanging
			}
			return http.StatusAccepted
		})
		one := startReplica(t, client, b, func(c *delivery.Config) { c.DeliveryTimeout = time.Minute })
		two := startReplica(t, client, b)
		require.NoError(t, one.Create(t.Context(), registration("e1", "app")))
		first := one.send(t, message("e1", "ann", 1))
		soon(t, func() bool { return len(b.requests()) == 1 }, "the first try")
		near, far := one.Now().Add(700*time.Millisecond), time.UnixMilli(2_000_000_000_000)
		own := one.send(t, until(message("e1", "ann", 2), far), until(message("e1", "ann", 3), near), message("e1", "ann", 4))
		others := two.send(t, until(message("e1", "ann", 5), near))
		late := max(one.expiredOnTime(t, own[1].ID, near), one.expiredOnTime(t, others[0].ID, near))
		require.Equal(t, delivery.Queued, one.fate(t, first[0].ID).Fate)
		close(hanging)
		for _, rc := range []delivery.Receipt{first[0], own[0], own[2]} {
			require.Equal(t, delivery.Delivered, one.settled(t, rc.ID).Fate)
		}
		var seen []float64
		for _, q := range b.requests() {
			seen = append(seen, q.event["n"].(float64))
		}
		require.Equal(t, []float64{1, 2, 4}, seen)
		require.Zero(t, balanced(t, client).Queued)
		t.Logf("expired %v late", late)
	})
}

func TestTimeToLiveOfARegistrationCountsFromAcceptance(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		hanging := make(chan struct{})
		b.answers(func(request) int { <-hanging; return http.StatusAccepted })
		r := startReplica(t, client, b, func(c *delivery.Config) { c.DeliveryTimeout = time.Minute })
		reg := registration("e1", "app", func(r *delivery.Registration) { r.TimeToLive = time.Second })
		require.NoError(t, r.Create(t.Context(), reg))
		first := r.send(t, message("e1", "ann", 1))
		soon(t, func() bool { return len(b.requests()) == 1 }, "the first try")
		rc := r.send(t, message("e1", "ann", 2))
		r.expiredOnTime(t, rc[0].ID, r.fate(t, rc[0].ID).Created.Add(time.Second))
		kept := r.send(t, message("e1", "ann", 3))
		reg.TimeToLive = 0
		require.NoError(t, r.Put(t.Context(), reg)) // what waits lives by what the registration says now
		last := r.send(t, message("e1", "ann", 4))
		reg.TimeToLive = 2 * time.Second
		require.NoError(t, r.Put(t.Context(), reg))
		r.expiredOnTime(t, last[0].ID, r.fate(t, last[0].ID).Created.Add(2*time.Second))
		require.Equal(t, delivery.Expired, r.settled(t, kept[0].ID).Fate)
		close(hanging)
		require.Equal(t, delivery.Delivered, r.settled(t, first[0].ID).Fate, "what is under way is not cut off")
		got, err := r.Registration(t.Context(), reg.RegID)
		require.NoError(t, err)
		require.Equal(t, 2*time.Second, got.TimeToLive)
	})
}

func TestWhatIsUnderWayDoesNotExpire(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		var slow time.Duration
		b.answers(func(q request) int {
			timer := time.NewTimer(slow)
			<-timer.C
			if q.header.Get("Pulsegate-Try") == "1" {
				return http.StatusServiceUnavailable
			}
			return http.StatusAccepted
		})
		slow = 600 * time.Millisecond
		r := startReplica(t, client, b)
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
		in := until(message("e1", "ann", 1), r.Now().Add(500*time.Millisecond))
		rc := r.send(t, in)
		rec := r.settled(t, rc[0].ID)
		require.Equal(t, delivery.Delivered, rec.Fate)
		require.Equal(t, 2, rec.Tries, "its second try began when its time was up")
		require.True(t, strings.HasPrefix(b.requests()[0].body, string(in.Body[:40])), "the bot gets its time as it came")
		require.Empty(t, allKeys(t, client, "pg:*:x:*"), "nothing of its time is left")
		balanced(t, client)
	})
}

func TestHeldEventsExpireWhenNothingElseHappens(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		r := startReplica(t, client, b, func(c *delivery.Config) { c.HoldTime = 3 * time.Second })
		require.NoError(t, r.Create(t.Context(), holding("e1")))
		r.goesDown(t, b, "e1")
		rcs := r.send(t, message("e1", "ann", 1))
		near := r.Now().Add(time.Second)
		rcs = append(rcs, r.send(t, message("e1", "ben", 2), until(message("e1", "cem", 3), near), until(message("e1", "ann", 4), near.Add(time.Hour)))...)
		tries := len(b.requests())
		r.expiredOnTime(t, rcs[2].ID, near)
		require.Equal(t, delivery.Queued, r.fate(t, rcs[0].ID).Fate)
		r.stop() // the gateway is restarted
		other := startReplica(t, client, b, func(c *delivery.Config) { c.HoldTime = 3 * time.Second })
		for _, i := range []int{0, 1, 3} {
			rec := other.fate(t, rcs[i].ID)
			other.expiredOnTime(t, rcs[i].ID, rec.Created.Add(3*time.Second))
		}
		require.Len(t, b.requests(), tries)
		require.Equal(t, health.Down, other.healthOf(t, "app").Standing.State)
		require.EqualValues(t, 4, balanced(t, client).Fates[delivery.Expired])
	})
}

// A long outage in no time: an event that is held through all the trials that fail expires on time.
func TestHeldForLongExpiresOnTime(t *testing.T) {
	t.Run("in process", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			minutes := size(60, 10)
			held := time.Duration(minutes) * time.Minute
			b := newBot(t)
			r := startReplica(t, newMiniredis(t), b, func(c *delivery.Config) { c.HoldTime = held })
			require.NoError(t, r.Create(t.Context(), holding("e1")))
			r.goesDown(t, b, "e1")
			rc := r.send(t, message("e1", "ann", 1))
			tries := len(b.requests())
			accepted := r.fate(t, rc[0].ID).Created
			pass(held - time.Minute)
			require.Equal(t, delivery.Queued, r.fate(t, rc[0].ID).Fate)
			require.InDelta(t, minutes-2, len(b.requests())-tries, 2, "two tries for each trial")
			require.Zero(t, r.healthOf(t, "app").Counts.Failed, "a held event is no failure")
			pass(61 * time.Second)
			r.expiredOnTime(t, rc[0].ID, accepted.Add(held))
		})
	})
}
