package health_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

var rules = health.Rules{}.WithDefaults()

// world is one registration in a store.
type world struct {
	*stage
	t     testing.TB
	store *health.Store
	keys  health.Keys
}

func newWorld(t testing.TB, s *stage) *world {
	return &world{stage: s, t: t, store: health.NewStore(s.client, rules), keys: keysOf("bot")}
}

// stands puts fields of the standing.
func (w *world) stands(fields ...any) {
	w.t.Helper()
	require.NoError(w.t, w.client.HSet(w.t.Context(), w.keys.Standing, fields...).Err())
}

func (w *world) field(name string) string {
	v, err := w.client.HGet(w.t.Context(), w.keys.Standing, name).Result()
	if !errors.Is(err, redis.Nil) {
		require.NoError(w.t, err)
	}
	return v
}

// outcomes counts acknowledgements, and failures by timeout.
func (w *world) outcomes(acknowledged, failed int) {
	if acknowledged > 0 {
		w.window(w.t, w.keys.Window, rules.Window.Milliseconds(), "count", health.Acknowledged.Index(), acknowledged)
	}
	if failed > 0 {
		w.window(w.t, w.keys.Window, rules.Window.Milliseconds(), "count", health.Timeout.Index(), failed)
	}
}

func (w *world) rejudge() health.Reading {
	w.t.Helper()
	r, err := w.store.Rejudge(w.t.Context(), w.keys)
	require.NoError(w.t, err)
	return r
}

// transit makes the transition that a reading asks for, with one listed entry and one job.
func (w *world) transit(r health.Reading) bool {
	w.t.Helper()
	done, err := w.store.Transit(w.t.Context(), w.keys, r, rules.Judge(r.Standing, r.Counts, r.At), func(t health.Transition) []health.OutboxEntry {
		text, err := json.Marshal(t)
		require.NoError(w.t, err)
		return []health.OutboxEntry{
			{ID: fmt.Sprint("notice ", t.Number), Owed: true, Listed: true, JSON: text},
			{ID: fmt.Sprint("job ", t.Number), Owed: true, JSON: []byte(`{"job":true}`)},
		}
	})
	require.NoError(w.t, err)
	return done
}

// looks is when the timer looks at the registration again; zero when it does not.
func (w *world) looks() time.Time {
	w.t.Helper()
	score, err := w.client.ZScore(w.t.Context(), w.keys.Judge, w.keys.Member).Result()
	if errors.Is(err, redis.Nil) {
		return time.Time{}
	}
	require.NoError(w.t, err)
	return time.UnixMilli(int64(score))
}

// dump is everything in the store, as text.
func (w *world) dump() string {
	ctx := w.t.Context()
	keys, err := w.client.Keys(ctx, "*").Result()
	require.NoError(w.t, err)
	sort.Strings(keys)
	var b strings.Builder
	for _, k := range keys {
		if w.client.Type(ctx, k).Val() == "zset" {
			fmt.Fprintln(&b, k, w.client.ZRangeWithScores(ctx, k, 0, -1).Val())
		} else {
			fmt.Fprintln(&b, k, w.client.HGetAll(ctx, k).Val())
		}
	}
	return b.String()
}

func TestRegistrationNeverSeenIsHealthyAndLeavesNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, s *stage) {
		w := newWorld(t, s)
		r := w.rejudge()
		require.Equal(t, health.Standing{State: health.Healthy, Judged: true}, r.Standing)
		require.Equal(t, health.Counts{ByClass: map[health.Class]int64{}}, r.Counts)
		require.WithinDuration(t, s.now(), r.At, 10*time.Second)
		require.Empty(t, w.dump())
	})
}

func TestTransitionIsStoredWithWhatItOwes(t *testing.T) {
	onBoth(t, func(t *testing.T, s *stage) {
		w := newWorld(t, s)
		w.stands("s", "HEALTHY", "v", "1", "n", 6, "si", 1000, "ho", 2, "ud", 3, "f5", "r2 r1")
		w.outcomes(0, 10)
		r := w.rejudge()
		require.True(t, w.transit(r))
		at := r.At.UnixMilli()

		after := w.rejudge()
		require.Equal(t, health.Standing{
			State: health.Down, Since: r.At, PausedUntil: r.At.Add(2 * time.Minute), Number: 7, Incident: r.At, DownSince: r.At, Judged: true,
			Notices: health.Notices{Down: true},
		}, after.Standing)
		require.Equal(t, []redis.Z{{Score: float64(at), Member: "notice 7"}}, w.client.ZRangeWithScores(t.Context(), w.keys.Notices, 0, -1).Val())
		require.Equal(t, []redis.Z{{Score: float64(at), Member: "job 7"}}, w.client.ZRangeWithScores(t.Context(), w.keys.Out, 0, -1).Val())
		require.Equal(t, []string{"notice 7"}, w.client.ZRange(t.Context(), w.keys.Told, 0, -1).Val(), "people do not list jobs")
		data := w.client.HGetAll(t.Context(), w.keys.OutData).Val()
		require.JSONEq(t, `{"job":true}`, data["job 7"])
		var told health.Transition
		require.NoError(t, json.Unmarshal([]byte(data["notice 7"]), &told))
		require.Equal(t, health.Transition{
			Number: 7, Kind: health.ToDown, From: health.Healthy, To: health.Down, At: at, Since: 1000, PausedUntil: at + 120_000, Incident: at,
			Notice: true, Reason: "none of 10 deliveries in the window was acknowledged (10 timeout)", Failed: 10,
			ByClass: map[health.Class]int64{health.Timeout: 10}, HandedOff: 2, Undelivered: 3, FailedRequests: []string{"r2", "r1"},
		}, told)
	})
}

func TestTransitionIsRefusedWhenAFactHasChanged(t *testing.T) {
	for _, row := range []struct {
		name         string
		acknowledged int
		failed       int
		change       func(w *world)
		refused      bool
	}{
		{"nothing changed", 3, 4, func(*world) {}, false},
		{"more of the same", 3, 4, func(w *world) { w.outcomes(2, 2) }, false},
		{"another transition was made", 3, 4, func(w *world) { w.stands("n", 2) }, true},
		{"the first acknowledgement", 0, 10, func(w *world) { w.outcomes(1, 0) }, true},
		{"the tenth failure", 0, 9, func(w *world) { w.outcomes(0, 1) }, true},
		{"an eleventh failure", 0, 10, func(w *world) { w.outcomes(0, 1) }, false},
		{"the last acknowledgement left", 1, 0, func(w *world) {
			w.client.Del(w.t.Context(), w.keys.Window)
			w.outcomes(0, 4)
		}, true},
		{"the window emptied", 3, 4, func(w *world) { w.client.Del(w.t.Context(), w.keys.Window) }, true},
		{"it went to MAINTENANCE", 3, 4, func(w *world) { w.stands("off", "1") }, true},
		{"it was deleted", 3, 4, func(w *world) { w.stands("off", "2") }, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, s *stage) {
				w := newWorld(t, s)
				w.stands("s", "HEALTHY", "n", 1)
				w.outcomes(row.acknowledged, row.failed)
				r := w.rejudge()
				row.change(w)
				before := w.dump()
				require.Equal(t, !row.refused, w.transit(r))
				if row.refused {
					require.Equal(t, before, w.dump(), "a refusal writes nothing")
				}
			})
		})
	}
}

func TestFirstFailureAfterTheReadingRefusesToVerify(t *testing.T) {
	onBoth(t, func(t *testing.T, s *stage) {
		w := newWorld(t, s)
		w.outcomes(1, 0)
		r := w.rejudge()
		w.outcomes(0, 1)
		require.False(t, w.transit(r))
		require.True(t, w.transit(w.rejudge()))
		require.Equal(t, "DEGRADED", w.field("s"))
	})
}

func TestOfManyReplicasOneMakesTheTransition(t *testing.T) {
	onBoth(t, func(t *testing.T, s *stage) {
		w := newWorld(t, s)
		w.outcomes(1, 1)
		var replicas sync.WaitGroup
		results, r := make([]bool, 8), w.rejudge()
		for i := range results {
			replicas.Go(func() {
				v := rules.Judge(r.Standing, r.Counts, r.At)
				results[i], _ = health.NewStore(s.client, rules).Transit(t.Context(), w.keys, r, v, func(health.Transition) []health.OutboxEntry {
					return []health.OutboxEntry{{ID: fmt.Sprint("from ", i), Owed: true, Listed: true, JSON: []byte("{}")}}
				})
			})
		}
		replicas.Wait()
		won := 0
		for _, done := range results {
			if done {
				won++
			}
		}
		require.Equal(t, 1, won)
		require.EqualValues(t, 1, w.client.ZCard(t.Context(), w.keys.Notices).Val())
		require.EqualValues(t, 2, w.client.HLen(t.Context(), w.keys.OutData).Val(), "the entry, and how many there are")
		require.Equal(t, "1", w.field("n"))
	})
}

func TestEndOfAPauseStartsTheRamp(t *testing.T) {
	onBoth(t, func(t *testing.T, s *stage) {
		w := newWorld(t, s)
		w.stands("s", "DOWN", "n", 3, "pu", s.now().UnixMilli(), "rw", 0)
		w.outcomes(1, 10)
		require.True(t, w.transit(w.rejudge()))
		require.Equal(t, 1, w.rejudge().Notes.RampWidth)

		w.stands("s", "DEGRADED", "rw", 8)
		w.client.Del(t.Context(), w.keys.Window)
		w.outcomes(1, 0)
		require.True(t, w.transit(w.rejudge()))
		require.Equal(t, 8, w.rejudge().Notes.RampWidth, "another transition leaves the ramp alone")
	})
}

func TestEndOfAnIncidentForgetsWhatItCost(t *testing.T) {
	onBoth(t, func(t *testing.T, s *stage) {
		w := newWorld(t, s)
		w.stands("s", "DEGRADED", "n", 3, "in", 5000, "ho", 2, "ud", 3, "f5", "r2 r1", "fc", "timeout", "fa", 6000, "fr", "r2")
		require.True(t, w.transit(w.rejudge()), "HEALTHY from an empty window")
		r := w.rejudge()
		require.Equal(t, health.Healthy, r.Standing.State)
		require.EqualValues(t, 2, r.Notes.HandedOff, "the incident goes on")
		w.outcomes(1, 0)
		require.True(t, w.transit(w.rejudge()))
		r = w.rejudge()
		require.True(t, r.Standing.Verified)
		require.True(t, r.Standing.Incident.IsZero())
		require.Equal(t, health.Notes{FailureClass: health.Timeout, FailureAt: time.UnixMilli(6000), FailureRequest: "r2", FailedRequests: []string{}}, r.Notes)
	})
}

func TestFirstAcknowledgementDoesNotMoveSince(t *testing.T) {
	onBoth(t, func(t *testing.T, s *stage) {
		w := newWorld(t, s)
		w.outcomes(1, 0)
		require.True(t, w.transit(w.rejudge()))
		r := w.rejudge()
		require.True(t, r.Standing.Verified)
		require.True(t, r.Standing.Since.IsZero(), "it has been HEALTHY since it was made")
	})
}

func TestWindowStartsEmptyWhenDebuggingHasRunOut(t *testing.T) {
	s := inMemory(t)
	w := newWorld(t, s)
	w.stands("s", "DEGRADED", "v", "0", "n", 2, "dbg", s.now().Add(time.Second).UnixMilli())
	w.outcomes(1, 3)
	r := w.rejudge()
	require.True(t, r.Standing.Debug)
	require.EqualValues(t, 3, r.Counts.Failed)
	s.pass(time.Second)
	r = w.rejudge()
	require.False(t, r.Standing.Debug)
	require.Equal(t, counts(0, 0), r.Counts)
	require.Empty(t, w.field("dbg"))
	require.Equal(t, "0", w.field("v"))
	require.True(t, w.transit(r))
	r = w.rejudge()
	require.Equal(t, health.Healthy, r.Standing.State)
	require.False(t, r.Standing.Verified)
	require.Zero(t, w.looks())
}

func TestStandingIsReadFieldByField(t *testing.T) {
	onBoth(t, func(t *testing.T, s *stage) {
		w := newWorld(t, s)
		later := s.now().Add(time.Hour).UnixMilli()
		w.stands("s", "DOWN", "si", 1, "pu", later, "n", 9, "v", "1", "in", 3, "ds", 4, "sd", 5, "tf", 9, "dbg", later, "la", 6,
			"fc", "dns", "fa", 7, "fr", "r", "f5", "r q p", "ho", 8, "ud", 10, "rw", 4, "hd", 1, "qn", 2)
		ms := time.UnixMilli
		want := health.Standing{
			State: health.Down, Since: ms(1), PausedUntil: ms(later), Number: 9, Verified: true, TrialFailed: true, Incident: ms(3),
			DownSince: ms(4), StillDown: 5, Debug: true, Judged: true, Holding: true,
		}
		notes := health.Notes{
			LastAcknowledgedAt: ms(6), FailureClass: health.DNS, FailureAt: ms(7), FailureRequest: "r", FailedRequests: []string{"r", "q", "p"},
			HandedOff: 8, Undelivered: 10, RampWidth: 4,
		}
		r := w.rejudge()
		require.Equal(t, want, r.Standing)
		require.Equal(t, notes, r.Notes)
		w.stands("tf", 8, "off", 1, "qn", 0)
		r = w.rejudge()
		require.False(t, r.Standing.TrialFailed, "the trial of another transition")
		require.False(t, r.Standing.Judged)
		require.False(t, r.Standing.Holding, "nothing waits")
	})
}

func TestReadingSurvivesWhatItCannotRead(t *testing.T) {
	for _, reply := range []string{"", "x", "\n\n", " 7 x", "\n-\n1e3\n99999999999999999999", "- 1e3 99999999999999999999"} {
		r := health.ParseReading(0, reply, reply)
		require.NotEmpty(t, r.Standing.State)
		require.True(t, r.Standing.Judged)
		require.True(t, r.At.IsZero())
	}
}

func TestReadChangesNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, s *stage) {
		w := newWorld(t, s)
		short := health.NewStore(s.client, health.Rules{Window: 120 * time.Millisecond})
		other := keysOf("other")
		w.stands("s", "DEGRADED", "dbg", s.now().UnixMilli(), "n", 4)
		w.window(t, w.keys.Window, 120, "count", 1, 5)
		s.pass(130 * time.Millisecond)
		before := w.dump()
		got, err := short.Read(t.Context(), []health.Keys{w.keys, other, w.keys})
		require.NoError(t, err)
		require.Len(t, got, 3)
		require.Equal(t, health.Degraded, got[0].Standing.State)
		require.Equal(t, counts(0, 0), got[0].Counts, "what has left is not shown")
		require.Equal(t, health.Standing{State: health.Healthy, Judged: true}, got[1].Standing)
		require.Equal(t, got[0], got[2])
		require.Equal(t, before, w.dump())
		got, err = short.Read(t.Context(), nil)
		require.NoError(t, err)
		require.Empty(t, got)
	})
}

func TestListOfNoticesDropsItsOldestUnlessItIsStillDue(t *testing.T) {
	onBoth(t, func(t *testing.T, s *stage) {
		w := newWorld(t, s)
		fill := redis.NewScript(`for i = 1, 10000 do
  redis.call('ZADD', KEYS[1], i, 'old ' .. i)
  redis.call('HSET', KEYS[2], 'old ' .. i, '{}')
end`)
		err := fill.Run(t.Context(), s.client, []string{w.keys.Told, w.keys.OutData}).Err()
		require.ErrorIs(t, err, redis.Nil)
		w.outcomes(1, 1)
		require.True(t, w.transit(w.rejudge()))
		require.EqualValues(t, 10_000, w.client.ZCard(t.Context(), w.keys.Told).Val())
		require.False(t, w.client.HExists(t.Context(), w.keys.OutData, "old 1").Val())

		w.client.ZAdd(t.Context(), w.keys.Notices, redis.Z{Score: 1, Member: "old 2"})
		w.client.Del(t.Context(), w.keys.Window)
		w.outcomes(1, 0)
		require.True(t, w.transit(w.rejudge()))
		require.True(t, w.client.HExists(t.Context(), w.keys.OutData, "old 2").Val(), "a notice that is owed is kept")
		require.EqualValues(t, 10_001, w.client.ZCard(t.Context(), w.keys.Told).Val())

		w.outcomes(1, 1)
		require.True(t, w.transit(w.rejudge()))
		require.True(t, w.client.HExists(t.Context(), w.keys.OutData, "old 2").Val())
		require.False(t, w.client.HExists(t.Context(), w.keys.OutData, "old 3").Val(), "what is owed keeps nothing else in the list")
		require.EqualValues(t, 10_001, w.client.ZCard(t.Context(), w.keys.Told).Val())
	})
}

func TestFullRedisStillJudges(t *testing.T) {
	w := newWorld(t, onServer(t))
	w.outcomes(1, 1)
	require.NoError(t, w.client.ConfigSet(t.Context(), "maxmemory", "1").Err())
	require.ErrorContains(t, w.client.Set(t.Context(), "k", "v", 0).Err(), "OOM")
	require.True(t, w.transit(w.rejudge()))
	require.Equal(t, "DEGRADED", w.field("s"))
}

func TestStoreThatIsAwayIsAnErrorThatSaysWhatFailed(t *testing.T) {
	w := newWorld(t, inMemory(t))
	require.NoError(t, w.client.Close())
	_, err := w.store.Rejudge(t.Context(), w.keys)
	require.ErrorContains(t, err, "rejudge: ")
	_, err = w.store.Read(t.Context(), []health.Keys{w.keys})
	require.ErrorContains(t, err, "read health: ")
	_, err = w.store.Transit(t.Context(), w.keys, health.Reading{}, health.Verdict{}, func(health.Transition) []health.OutboxEntry { return nil })
	require.ErrorContains(t, err, "make transition: ")
}
