package delivery_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/stretchr/testify/require"
)

// TestC01HangingBotsLeaveTheOthersTheirShareOfFewSlots has far more hanging registrations with a backlog than there are tries in flight,
// and holds what the well ones wait to exact time.
func TestC01HangingBotsLeaveTheOthersTheirShareOfFewSlots(t *testing.T) {
	for _, hanging := range []int{20, 100} {
		t.Run(fmt.Sprint(hanging, " hang"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { fewSlots(t, 64, hanging) })
		})
	}
}

const (
	wellBots = 20
	rounds   = 100 // of 100 ms: every hanging registration has had its first timeouts, and begins again
)

func fewSlots(t *testing.T, inFlight, hanging int) {
	b := newBot(t)
	b.answers(func(q request) int {
		if strings.HasPrefix(q.host, "hang") {
			return 0
		}
		<-time.After(5 * time.Millisecond)
		return 202
	})
	r := startReplica(t, newMiniredis(t), b, func(c *delivery.Config) {
		c.InFlight, c.Rules.MinAttempts, c.DeliveryTimeout = inFlight, 1_000_000, 2*time.Second
	})
	for i := range hanging {
		require.NoError(t, r.Create(t.Context(), registration(fmt.Sprint("h", i), "app", at("hang"))))
	}
	for i := range wellBots {
		require.NoError(t, r.Create(t.Context(), registration(fmt.Sprint("w", i), "app", at("well"))))
	}
	sent := map[float64]time.Time{}
	for i := range wellBots { // that they are quick is known before
		r.send(t, message(fmt.Sprint("w", i), "ann", 1_000_000+i))
		sent[float64(1_000_000+i)] = time.Now()
	}
	<-time.After(100 * time.Millisecond)
	for i := range hanging { // more than it may have under way, for as long as the test lasts
		var backlog []delivery.Incoming
		for k := range 40 {
			backlog = append(backlog, message(fmt.Sprint("h", i), fmt.Sprint("a", k), 1_000_000))
		}
		r.send(t, backlog...)
	}
	for n := range rounds {
		for i := range wellBots {
			no := n*wellBots + i
			sent[float64(no)] = time.Now()
			r.send(t, message(fmt.Sprint("w", i), fmt.Sprint("a", no), no))
		}
		<-time.After(100 * time.Millisecond)
	}
	synctest.Wait()
	var waits []time.Duration
	tries := 0
	for _, q := range b.requests() {
		if strings.HasPrefix(q.host, "hang") {
			tries++
		} else {
			waits = append(waits, q.at.Sub(sent[q.event["n"].(float64)]))
		}
	}
	slices.Sort(waits)
	require.Len(t, waits, (rounds+1)*wellBots, "every event of a well bot has arrived, once")
	worst, typical := waits[len(waits)-1], waits[len(waits)/2]
	require.LessOrEqual(t, typical, time.Millisecond)
	require.LessOrEqual(t, worst, 100*time.Millisecond, "nobody waits for the sick bots")
	require.Greater(t, tries, inFlight, "the sick bots have their share, too")
	t.Attr("measured", fmt.Sprintf("%d tries in flight at most, %d hanging registrations of 32 and %d well ones: these wait %v typically, %v at worst",
		inFlight, hanging, wellBots, typical, worst))
}

// TestBusyBotLeavesSlotsToTheOthers lets one registration have a backlog of tries that take 0.9 s, which is not slow, and may have more of them at
// once than there are slots. It gets a part of them, so that another one's event never waits.
func TestBusyBotLeavesSlotsToTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBot(t)
		b.answers(func(q request) int {
			if strings.HasPrefix(q.host, "busy") {
				<-time.After(900 * time.Millisecond)
			}
			return 202
		})
		r := startReplica(t, newMiniredis(t), b, func(c *delivery.Config) { c.InFlight = 64 })
		require.NoError(t, r.Create(t.Context(), registration("busy", "app", at("busy"), func(r *delivery.Registration) { r.MaxConcurrency = 100 })))
		require.NoError(t, r.Create(t.Context(), registration("well", "app", at("well"))))
		r.send(t, message("busy", "first", 0), message("well", "first", 0))
		<-time.After(2 * time.Second) // both are known to be quick
		var backlog []delivery.Incoming
		for k := range 400 {
			backlog = append(backlog, message("busy", fmt.Sprint("a", k), k))
		}
		r.send(t, backlog...)
		most := 0
		for n := range 40 {
			<-time.After(100*time.Millisecond + time.Millisecond*time.Duration(n))
			most = max(most, r.TriesUnderWay())
			id := r.send(t, message("well", "ann", n))[0].ID
			<-time.After(6 * time.Millisecond) // it is settled at the next beat
			require.Equal(t, delivery.Delivered, r.fate(t, id).Fate, "%d tries are under way", r.TriesUnderWay())
		}
		require.Greater(t, most, 4, "it has more than one at once")
		require.Less(t, most, 32)
	})
}

func at(host string) func(*delivery.Registration) {
	return func(r *delivery.Registration) { r.CallbackURL = "http://" + host + ".example/" + r.AppID }
}

// TestLanesThatLeaveHoldNoSlot, also when they are granted one as they leave the line.
func TestLanesThatLeaveHoldNoSlot(t *testing.T) {
	require.Zero(t, delivery.SlotsHeld(200, 2000))
}
