package delivery_test

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

const (
	recoveryRate    = 50                     // tries a second that the bot allows
	recoveryAnswer  = 500 * time.Millisecond // how long it takes for each: at its rate 25 are under way
	recoveryAuthors = 97
	rampSteps       = 5 // 1, 2, 4, 8 and 16 at once: each waits for its answers
)

// TestH04RecoveryKeepsToWhatTheBotAllows lets a bot come back that many events were held for.
func TestH04RecoveryKeepsToWhatTheBotAllows(t *testing.T) {
	full := os.Getenv("PULSEGATE_FAULTS") == "full"
	t.Run("in process", func(t *testing.T) {
		events := 500
		if full {
			events = 10_000
		}
		synctest.Test(t, func(t *testing.T) { recoverBot(t, newMiniredis(t), events, health.Rules{}) })
	})
	t.Run("redis-server", func(t *testing.T) {
		events := 150
		if full {
			events = 1_000
		}
		recoverBot(t, newRedisServer(t), events, health.Rules{Window: 10 * time.Minute, Pause: 600 * time.Millisecond})
	})
}

// rampWatch notes how many deliveries a bot had at once, after how many acknowledgements.
type rampWatch struct {
	mu            sync.Mutex
	begun, acked  int
	widest        int
	broken        string // what was wider than the ramp
	widths        []int
	first, latest time.Time
}

// width is that of the ramp after so many acknowledgements in a row.
func width(acked int) int {
	w := 1
	for acked >= w && 2*w < delivery.DefaultConcurrency {
		acked -= w
		w *= 2
	}
	if acked >= w {
		return delivery.DefaultConcurrency
	}
	return w
}

// acknowledges answers after a while.
func (w *rampWatch) acknowledges(request) int {
	w.mu.Lock()
	if w.begun == 0 {
		w.first = time.Now()
	}
	w.begun++
	at := w.begun - w.acked
	if at > w.widest {
		w.widest = at
		w.widths = append(w.widths, at)
	}
	if at > width(w.acked) && w.broken == "" {
		w.broken = fmt.Sprintf("%d at once after %d acknowledgements", at, w.acked)
	}
	w.mu.Unlock()
	<-time.After(recoveryAnswer)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.acked++
	w.latest = time.Now()
	return http.StatusAccepted
}

func (w *rampWatch) answered() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.acked
}

func recoverBot(t *testing.T, client redis.UniversalClient, events int, rules health.Rules) {
	b := newBot(t)
	r := startReplica(t, client, b, func(c *delivery.Config) { c.Rules = rules })
	require.NoError(t, r.Create(t.Context(), registration("e1", "app", paced(recoveryRate), func(g *delivery.Registration) { g.WhenDown = delivery.Hold })))
	r.goesDown(t, b, "e1")
	for at := 0; at < events; at += 500 {
		var batch []delivery.Incoming
		for n := at; n < min(at+500, events); n++ {
			batch = append(batch, message("e1", fmt.Sprint("author ", n%recoveryAuthors), 1000+n))
		}
		r.send(t, batch...)
	}
	tries := len(b.requests())
	watch := new(rampWatch)
	b.answers(watch.acknowledges)
	down := r.healthOf(t, "app").Standing
	require.Equal(t, health.Down, down.State)
	theory := time.Duration(events)*time.Second/recoveryRate + rampSteps*recoveryAnswer
	deadline, again := time.Now().Add(3*time.Minute+2*theory), 0
	for watch.answered() < events {
		require.True(t, time.Now().Before(deadline), "%d of %d", watch.answered(), events)
		<-time.After(min(theory/20, time.Second))
		if watch.answered() > 0 && r.healthOf(t, "app").Standing.State == health.Down {
			again++
		}
	}
	soon(t, func() bool { return balanced(t, client).Queued == 0 }, "all of them settled")
	got := b.requests()[tries:]
	require.Len(t, got, events, "each once")
	last := map[string]float64{}
	for _, q := range got {
		author := q.event["author"].(map[string]any)["id"].(string)
		require.Greater(t, q.event["n"].(float64), last[author], "in order")
		last[author] = q.event["n"].(float64)
	}
	took, fastest := got[events-1].at.Sub(watch.first), most(got)
	require.LessOrEqual(t, fastest, recoveryRate*105/100)
	require.LessOrEqual(t, took, theory*5/4)
	require.Empty(t, watch.broken)
	require.Equal(t, []int{1, 2}, watch.widths[:2], "the ramp begins at one")
	require.GreaterOrEqual(t, watch.widest, recoveryRate/3, "and ends")
	require.LessOrEqual(t, again, 1, "the first acknowledgement ends DOWN, a moment later")
	require.True(t, slices.Contains([]int64{1, 2}, r.healthOf(t, "app").Standing.Number-down.Number), "DEGRADED, and HEALTHY when the failures are old")
	t.Attr("measured", fmt.Sprintf("%d waiting, %d/s allowed: never more than %d in a second, drained in %.2f of the theory, up to %d at once after 1, 2, 4 …; DOWN once, order kept",
		events, recoveryRate, fastest, float64(took)/float64(theory), watch.widest))
}
