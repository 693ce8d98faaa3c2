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
	rounds   = 100
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
		c.InFlight, c.Rules.MinAttempts = inFlight, 1_000_000
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
	for n := range rounds { // of 100 ms
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

func at(host string) func(*delivery.Registration) {
	return func(r *delivery.Registration) { r.CallbackURL = "http://" + host + ".example/" + r.AppID }
}
