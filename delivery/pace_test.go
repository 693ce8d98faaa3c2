package delivery_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/stretchr/testify/require"
)

// most is the greatest number of requests that any second saw.
func most(got []request) int {
	n, first := 0, 0
	for i, q := range got {
		for q.at.Sub(got[first].at) >= time.Second {
			first++
		}
		n = max(n, i-first+1)
	}
	return n
}

func paced(perSecond int) func(*delivery.Registration) {
	return func(r *delivery.Registration) { r.MaxPerSecond = perSecond }
}

// Second tries count, rests earn no burst, and the rate is used up.
func TestMaxPerSecondHoldsOverAnySecond(t *testing.T) {
	for _, perSecond := range []int{1, 7, 50, 200} {
		t.Run(fmt.Sprint(perSecond), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBot(t)
				b.answers(func(q request) int {
					if q.header.Get("Pulsegate-Try") == "1" && q.event["n"].(float64) < 2 {
						return 500
					}
					return 202
				})
				r := startReplica(t, newMiniredis(t), b)
				require.NoError(t, r.Create(t.Context(), registration("e1", "app", paced(perSecond))))
				began := time.Now()
				for i := range 2 * perSecond {
					r.send(t, message("e1", fmt.Sprint("a", i), i))
				}
				soon(t, func() bool { return len(b.requests()) == 2*perSecond+2 }, "all of them")
				require.Less(t, time.Since(began), 3*time.Second+time.Duration(3*float64(time.Second)/float64(perSecond)), "the rate is used up")
				for i := range perSecond + 1 { // after a rest, lanes end and begin
					<-time.After(700 * time.Millisecond / time.Duration(perSecond))
					r.send(t, message("e1", fmt.Sprint("b", i), 1000+i))
				}
				soon(t, func() bool { return len(b.requests()) == 3*perSecond+3 }, "all of them")
				require.LessOrEqual(t, most(b.requests()), perSecond)
			})
		})
	}
}

// An idle registration's event goes out at once, whatever it allows.
func TestMaxPerSecondDelaysNoLoneEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBot(t)
		r := startReplica(t, newMiniredis(t), b)
		require.NoError(t, r.Create(t.Context(), registration("e1", "app", paced(1))))
		for i := range 5 {
			sent := time.Now()
			r.send(t, message("e1", "ann", i))
			synctest.Wait()
			got := b.requests()
			require.Len(t, got, i+1)
			require.Less(t, got[i].at.Sub(sent), time.Millisecond)
			<-time.After(3 * time.Second)
		}
	})
}

// Who takes over at once from a gateway that died does not know when that one's last try was, and waits as if it had been just now.
func TestMaxPerSecondHoldsOverTheDeathOfAGateway(t *testing.T) {
	for _, perSecond := range []int{1, 5} {
		t.Run(fmt.Sprint(perSecond), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lines, clients := newLines(t, 2)
				b := newBot(t)
				mine := func(c *delivery.Config) { c.Lineage = "gw" }
				dead := startReplica(t, clients[0], b, mine)
				require.NoError(t, dead.Create(t.Context(), registration("e1", "app", paced(perSecond))))
				for i := range 4 * perSecond {
					dead.send(t, message("e1", fmt.Sprint("a", i), i))
				}
				soon(t, func() bool { return len(b.requests()) == perSecond }, "tries in this second")
				lines[0].cut()
				dead.Kill()
				startReplica(t, clients[1], b, mine)
				soon(t, func() bool { return len(b.requests()) >= 4*perSecond }, "the rest")
				lines[0].heal()
				<-time.After(10 * time.Second) // its client gives up what it still dials
				require.LessOrEqual(t, most(b.requests()), perSecond)
			})
		})
	}
}
