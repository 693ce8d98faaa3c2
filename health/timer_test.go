package health_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/pulsegate/pulsegate/health"
	"github.com/stretchr/testify/require"
)

func TestTimerLooksWhenSomethingCanChange(t *testing.T) {
	s := inMemory(t)
	leaves := time.UnixMilli(epoch.UnixMilli()/1000*1000 + 120_000)
	in := func(d time.Duration) string { return fmt.Sprint(epoch.Add(d).UnixMilli()) }
	for _, row := range []struct {
		name                 string
		standing             []any
		acknowledged, failed int
		want                 time.Time
	}{
		{"healthy and idle", []any{"s", "HEALTHY", "v", "1"}, 0, 0, time.Time{}},
		{"healthy under traffic", []any{"s", "HEALTHY", "v", "1"}, 100, 0, time.Time{}},
		{"unverified and idle", []any{"s", "HEALTHY", "v", "0"}, 0, 0, time.Time{}},
		{"degraded", []any{"s", "DEGRADED"}, 5, 5, leaves},
		{"degraded with few failures", []any{"s", "DEGRADED"}, 0, 9, leaves},
		{"down", []any{"s", "DOWN", "pu", in(time.Minute)}, 0, 10, leaves},
		{"down over an empty window", []any{"s", "DOWN", "pu", in(time.Minute)}, 0, 0, epoch.Add(time.Minute)},
		{"debugging", []any{"s", "HEALTHY", "v", "1", "dbg", in(time.Hour)}, 0, 0, epoch.Add(time.Hour)},
		{"debugging ends before an outcome leaves", []any{"s", "DEGRADED", "dbg", in(time.Second)}, 5, 5, epoch.Add(time.Second)},
		{"maintenance", []any{"s", "DEGRADED", "off", "1"}, 5, 5, time.Time{}},
		{"owed: DEGRADED", []any{"s", "HEALTHY", "v", "1"}, 5, 1, epoch.Add(time.Second)},
		{"owed: DOWN", []any{"s", "DEGRADED"}, 0, 10, epoch.Add(time.Second)},
		{"owed: HEALTHY", []any{"s", "DEGRADED"}, 5, 0, epoch.Add(time.Second)},
		{"owed: HEALTHY from an empty window", []any{"s", "DEGRADED"}, 0, 0, epoch.Add(time.Second)},
		{"owed: verified", []any{"s", "HEALTHY", "v", "0"}, 1, 0, epoch.Add(time.Second)},
		{"owed: the trial was acknowledged", []any{"s", "DOWN", "pu", in(-time.Minute)}, 1, 10, epoch.Add(time.Second)},
		{"owed: the trial failed", []any{"s", "DOWN", "n", "3", "tf", "3", "pu", in(-time.Minute)}, 0, 10, epoch.Add(time.Second)},
		{"a trial of another time", []any{"s", "DOWN", "n", "3", "tf", "2", "pu", in(-time.Minute)}, 0, 10, leaves},
		{"the pause is over, an empty window", []any{"s", "DOWN", "pu", in(-time.Minute)}, 0, 0, epoch.Add(-time.Minute)},
	} {
		t.Run(row.name, func(t *testing.T) {
			require.NoError(t, s.client.FlushAll(t.Context()).Err())
			w := newWorld(t, s)
			w.stands(row.standing...)
			w.outcomes(row.acknowledged, row.failed)
			w.rejudge()
			want := row.want
			if !want.IsZero() && want.Before(epoch) {
				want = epoch.Add(time.Millisecond) // at once, but never twice in one moment
			}
			require.Equal(t, want, w.looks())
		})
	}
}

// The timer used to take a registration whose window had emptied out of its index before the transition was stored. If the process died
// in between, nobody ever looked again, and a bot without traffic stayed DEGRADED.
func TestTimerThatDiesBeforeTheTransitionLeavesItToTheNextLook(t *testing.T) {
	s := inMemory(t)
	w := newWorld(t, s)
	w.stands("s", "DEGRADED", "n", 2, "in", epoch.UnixMilli())
	w.outcomes(3, 1)
	w.rejudge()
	s.pass(w.looks().Sub(s.now()))
	require.EqualValues(t, 0, w.rejudge().Counts.Failed) // and then the process dies
	require.Equal(t, s.now().Add(time.Second), w.looks())
	s.pass(time.Second)
	require.True(t, w.transit(w.rejudge()))
	require.Equal(t, "HEALTHY", w.field("s"))
	require.Zero(t, w.looks())
}

func TestTransitionSaysWhenToLookNext(t *testing.T) {
	s := inMemory(t)
	w := newWorld(t, s)
	w.outcomes(0, 10)
	require.True(t, w.transit(w.rejudge()))
	leaves := time.UnixMilli(epoch.UnixMilli()/1000*1000 + 120_000)
	require.Equal(t, leaves, w.looks(), "DOWN looks when its counts change")
	s.pass(leaves.Sub(s.now()))
	require.Equal(t, health.Down, w.rejudge().Standing.State)
	require.Equal(t, epoch.Add(2*time.Minute), w.looks(), "then at the end of the pause")
	s.pass(w.looks().Sub(s.now()))
	require.True(t, w.transit(w.rejudge()))
	require.Equal(t, "HEALTHY", w.field("s"))
	require.Zero(t, w.looks())
}
