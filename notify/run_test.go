package notify_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/notify"
)

func TestStoreThatIsAwayIsAskedOnceASecondAndLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, m := newOutbox(), openMailbox(t, nil)
		cfg := withMail(o, m)
		var log bytes.Buffer
		cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
		_, stop := start(t, cfg)
		id := o.add(t, delivery.EntryTransition, acme(), down())
		o.setAway(true)
		before := o.taken()
		after(time.Minute)
		require.InDelta(t, 62, o.taken()-before, 4)
		o.setAway(false)
		after(2 * time.Second)
		require.Equal(t, delivery.EntryDone, o.entry(id).State)
		stop()
		require.Equal(t, 1, strings.Count(log.String(), "outbox cannot be read"))
		require.Equal(t, 1, strings.Count(log.String(), "outbox can be read again"))
	})
}

func TestStoreThatIsAwayForAMomentLosesNoMark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, m := newOutbox(), openMailbox(t, nil)
		m.data = func() error {
			o.setAway(true)
			time.AfterFunc(5*time.Second, func() { o.setAway(false) })
			return nil
		}
		start(t, withMail(o, m))
		id := o.add(t, delivery.EntryTransition, acme(), down())
		after(10 * time.Minute)
		require.Equal(t, delivery.EntryDone, o.entry(id).State)
		require.Len(t, m.all(), 1)
	})
}

func TestQuietOutboxIsLookedAtOnceInFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutbox()
		start(t, notify.Config{Outbox: o})
		after(time.Minute)
		require.InDelta(t, 12, o.taken(), 2)
	})
}

func TestStopFinishesWhatIsUnderWayAndGivesBackTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, m := newOutbox(), openMailbox(t, nil)
		m.hold = make(chan struct{})
		cfg := withMail(o, m)
		cfg.Workers = 1
		_, stop := start(t, cfg)
		first := o.add(t, delivery.EntryTransition, acme(), down())
		after(time.Second)
		second := o.add(t, delivery.EntryTransition, acme(), down())
		after(time.Second)
		time.AfterFunc(5*time.Second, func() { close(m.hold) })
		began := time.Now()
		stop()
		require.Equal(t, 5*time.Second, time.Since(began))
		require.Equal(t, delivery.EntryDone, o.entry(first).State)
		require.Equal(t, delivery.EntryPending, o.entry(second).State)
		require.LessOrEqual(t, o.entry(second).NextTry, time.Now().UnixMilli(), "due at once for another replica")
		require.Zero(t, o.entry(second).Tries)
	})
}

func TestStopIsBoundedWhateverTheMailServerDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, m := newOutbox(), openMailbox(t, nil)
		m.hold = make(chan struct{})
		defer close(m.hold)
		_, stop := start(t, withMail(o, m))
		id := o.add(t, delivery.EntryTransition, acme(), down())
		after(time.Second)
		began := time.Now()
		stop()
		require.LessOrEqual(t, time.Since(began), 18*time.Second)
		require.Equal(t, delivery.EntryPending, o.entry(id).State)
		require.Zero(t, o.entry(id).Tries)
	})
}

func TestPanicOnOneEntryCostsThatEntryOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutbox()
		o.job = func(delivery.Entry) (delivery.Entry, error) { panic("a fault of ours") }
		start(t, notify.Config{Outbox: o})
		bad := o.add(t, delivery.EntryJob, acme(), delivery.Job{})
		good := o.add(t, delivery.EntryHandoff, acme(), handoff())
		after(time.Minute)
		require.Equal(t, delivery.EntryRefused, o.entry(bad).State)
		require.Equal(t, delivery.EntryKept, o.entry(good).State)
	})
}

func TestJobRunsToItsEndWithAFreshLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutbox()
		var running, batches int
		o.job = func(e delivery.Entry) (delivery.Entry, error) {
			running++
			require.Equal(t, 1, running, "one replica at a time")
			require.Equal(t, strings.Repeat("x", batches), e.Cursor)
			<-time.After(2 * time.Second)
			running--
			batches++
			e.Cursor += "x"
			if batches == 30 {
				e.State = delivery.EntryDone
			}
			return e, nil
		}
		for range 3 {
			start(t, notify.Config{Outbox: o})
		}
		id := o.add(t, delivery.EntryJob, acme(), delivery.Job{})
		after(2 * time.Minute)
		require.Equal(t, 30, batches)
		require.Equal(t, delivery.EntryDone, o.entry(id).State)
		require.NotZero(t, o.entry(id).DoneAt)
	})
}

func TestLongJobsLetOthersHaveAGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutbox()
		seen := map[string]int{}
		o.job = func(e delivery.Entry) (delivery.Entry, error) {
			<-time.After(100 * time.Millisecond)
			o.mu.Lock()
			seen[e.ID]++
			o.mu.Unlock()
			return e, nil // never at its end
		}
		_, stop := start(t, notify.Config{Outbox: o})
		var ids []string
		for range 6 {
			ids = append(ids, o.add(t, delivery.EntryJob, acme(), delivery.Job{}))
		}
		after(2 * time.Minute)
		began := time.Now()
		stop()
		require.LessOrEqual(t, time.Since(began), 100*time.Millisecond, "no batch is begun after the end")
		for _, id := range ids {
			require.Greater(t, seen[id], 200)
			require.LessOrEqual(t, o.entry(id).NextTry, time.Now().UnixMilli())
		}
	})
}

func TestInterruptedJobGoesOnWhereItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutbox()
		fails := 0
		o.job = func(e delivery.Entry) (delivery.Entry, error) {
			if e.Cursor == "x" && fails < 5 {
				fails++
				return delivery.Entry{}, errAway
			}
			e.Cursor += "x"
			if e.Cursor == "xxx" {
				e.State = delivery.EntryDone
			}
			return e, nil
		}
		start(t, notify.Config{Outbox: o})
		id := o.add(t, delivery.EntryJob, acme(), delivery.Job{})
		after(500 * time.Millisecond)
		require.Equal(t, "x", o.entry(id).Cursor)
		require.Contains(t, o.entry(id).LastError, "away")
		after(5 * time.Minute)
		require.Equal(t, delivery.EntryDone, o.entry(id).State)
		require.Empty(t, o.entry(id).LastError)
	})
}

func TestMetricsCountNoticesCallsAndTheBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, m := newOutbox(), openMailbox(t, nil)
		platform, _ := openPlatform(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
		cfg := withMail(o, m)
		cfg.Platform = platform
		n, stop := start(t, cfg)
		o.add(t, delivery.EntryTransition, acme(), down())
		o.add(t, delivery.EntryHandoff, acme(), handoff())
		after(time.Second / 2)
		stop()
		after(10 * time.Second)
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(n)
		problems, err := testutil.GatherAndLint(registry)
		require.NoError(t, err)
		require.Empty(t, problems)
		require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP pulsegate_notify_notices_total Notices by what became of them; again counts tries that will be repeated, joined those that a mail tells of with others.
# TYPE pulsegate_notify_notices_total counter
pulsegate_notify_notices_total{result="again"} 0
pulsegate_notify_notices_total{result="givenup"} 0
pulsegate_notify_notices_total{result="joined"} 0
pulsegate_notify_notices_total{result="kept"} 0
pulsegate_notify_notices_total{result="refused"} 0
pulsegate_notify_notices_total{result="sent"} 1
# HELP pulsegate_notify_outbox_pending Outbox entries that wait or are under way.
# TYPE pulsegate_notify_outbox_pending gauge
pulsegate_notify_outbox_pending 1
# HELP pulsegate_notify_platform_calls_total Tag and control calls to the platform by their answer.
# TYPE pulsegate_notify_platform_calls_total counter
pulsegate_notify_platform_calls_total{result="again"} 1
pulsegate_notify_platform_calls_total{result="ok"} 0
pulsegate_notify_platform_calls_total{result="refused"} 0
`), "pulsegate_notify_notices_total", "pulsegate_notify_platform_calls_total", "pulsegate_notify_outbox_pending"))
		require.Equal(t, 1, o.looks, "scrapes within a second share one look")
		after(2 * time.Second)
		o.setAway(true)
		count, err := testutil.GatherAndCount(registry, "pulsegate_notify_outbox_pending", "pulsegate_notify_outbox_lag_seconds")
		require.NoError(t, err)
		require.Zero(t, count, "no figure rather than a stale one")
	})
}
