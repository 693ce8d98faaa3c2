package health_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// counting is a script like those that count outcomes. It also says how many arguments it handed to Redis, keys and fields, and whether the window
// was calm.
// KEYS win · ARGV span, what to do (count, calm, look, peek), kind, n
var counting = redis.NewScript(`
local store, touched = redis, 0
local redis = {pcall = store.pcall, call = function(...) touched = touched + select('#', ...) - 1; return store.call(...) end}
` + health.Lua() + `
local now, span, calm = clock(), tonumber(ARGV[1])
if ARGV[2] == 'calm' then
  calm = window_calm(KEYS[1], now, span)
  if calm then window_acknowledge(calm, tonumber(ARGV[4])) end
end
local w = window_open(KEYS[1], now, span)
if ARGV[2] == 'count' or ARGV[2] == 'calm' and not calm then window_count(w, tonumber(ARGV[3]), tonumber(ARGV[4])) end
if ARGV[2] ~= 'peek' and not calm then window_close(w) end
return {num(now), num(window_leaves(w)), num(touched), window_counts(w), calm and '1' or ''}
`)

// counted is what the script answered.
type counted struct {
	now, leaves, touched int64
	kinds                [9]int64
	calm                 bool
}

func (s *stage) window(t testing.TB, key string, span int64, do string, kind, n int) counted {
	t.Helper()
	reply, err := counting.Run(t.Context(), s.client, []string{key}, span, do, kind, n).Slice()
	require.NoError(t, err)
	number := func(v any) int64 {
		n, err := strconv.ParseInt(v.(string), 10, 64)
		require.NoError(t, err)
		return n
	}
	c := counted{now: number(reply[0]), leaves: number(reply[1]), touched: number(reply[2]), calm: reply[4] != ""}
	for i, v := range strings.Fields(reply[3].(string)) {
		c.kinds[i] = number(v)
	}
	return c
}

// naive is the window as a list of outcomes: an outcome at t counts at now while floor(now/r) - floor(t/r) < 120.
type naive struct {
	span     int64
	seen     int64         // the last slot written: a clock that steps back stays there
	lives    time.Duration // until the store forgets an unused window
	outcomes []outcome
}

type outcome struct {
	slot int64
	kind int
}

func (n *naive) slot(now int64) int64 { return max(now*120/n.span, n.seen) }

// at returns the counts, and when the oldest outcome leaves.
func (n *naive) at(now int64) (kinds [9]int64, leaves int64) {
	for _, o := range n.outcomes {
		if n.slot(now)-o.slot >= 120 {
			continue
		}
		kinds[o.kind]++
		if first := ((o.slot+120)*n.span + 119) / 120; leaves == 0 || first < leaves {
			leaves = first
		}
	}
	return kinds, leaves
}

// write counts outcomes and drops those that have left.
func (n *naive) write(now int64, kind, many int) {
	slot, kept := n.slot(now), n.outcomes[:0:0]
	for _, o := range n.outcomes {
		if slot-o.slot < 120 {
			kept = append(kept, o)
		}
	}
	if many == 0 && len(kept) == len(n.outcomes) {
		return
	}
	longer := n.seen == 0 || slot/30 != n.seen/30 // what is written first in a quarter of the window makes it live longer
	if n.outcomes, n.seen = kept, slot; longer {
		n.lives = 2 * time.Duration(n.span) * time.Millisecond
	}
	for range many {
		n.outcomes = append(n.outcomes, outcome{slot, kind})
	}
}

func (n *naive) elapse(d time.Duration) {
	if n.lives -= d; n.lives <= 0 {
		n.outcomes, n.seen = nil, 0
	}
}

// leap draws how far the clock moves before the next step: often to where something changes.
func (s *stage) leap(d draw, n *naive) time.Duration {
	now, ms := s.now().UnixMilli(), int64(0)
	_, leaves := n.at(now)
	switch d("leap", 0, 9) {
	case 0:
		ms = int64(d("within a slot", 0, int(n.span/120)))
	case 1: // the first moment of a slot
		ms = ((now*120/n.span+int64(d("slots", 1, 40)))*n.span+119)/120 - now
	case 2: // the last moment before a slot
		ms = ((now*120/n.span+int64(d("slots", 1, 40)))*n.span+119)/120 - now - 1
	case 3:
		ms = max(leaves-now-int64(d("before it leaves", 0, 1)), 0)
	case 4:
		ms = n.span + int64(d("around a window", -2, 2))
	case 5:
		ms = int64(d("idle", int(n.span), 3*int(n.span)))
	case 6:
		if s.back != nil {
			ms = -int64(d("back", 1, 3*int(n.span)/2))
		}
	case 7, 8:
		ms = int64(d("slots apart", 0, int(n.span/8)))
	}
	return time.Duration(ms) * time.Millisecond
}

func (s *stage) move(n *naive, by time.Duration, micros int) {
	switch {
	case by < 0 && s.back != nil:
		s.back(-by)
	case by > 0:
		s.pass(by)
		if s.back != nil {
			n.elapse(by)
		}
	}
	if s.back != nil && micros > 0 { // the fraction of a millisecond does not matter
		at := s.now()
		s.back(at.Sub(at.Truncate(time.Millisecond)) - time.Duration(micros)*time.Microsecond)
	}
}

// history is a window under test beside its list.
type history struct {
	*stage
	n     *naive
	k     health.Keys
	rules health.Rules
	store *health.Store
	well  bool // nothing fails
}

func newHistory(t testing.TB, s *stage, member string, d draw) *history {
	h := &history{stage: s, n: &naive{span: pick(d, "window", s.spans)}, k: keysOf(member)}
	h.rules = health.Rules{Window: time.Duration(h.n.span) * time.Millisecond}.WithDefaults()
	h.store, h.well = health.NewStore(s.client, h.rules), d("well", 0, 1) == 1
	state := pick(d, "state", []health.State{health.Healthy, health.Degraded, health.Down})
	until := s.now().Add(time.Duration(d("pause", 0, int(2*h.n.span))) * time.Millisecond)
	err := s.client.HSet(t.Context(), h.k.Standing, "s", string(state), "n", 3, "pu", until.UnixMilli(), "v", d("verified", 0, 1)).Err()
	require.NoError(t, err)
	return h
}

// step does one thing, and compares the window with the list after it.
func (h *history) step(t testing.TB, d draw) {
	do := pick(d, "do", []string{"count", "count", "calm", "calm", "look", "peek", "judge"})
	if do == "judge" {
		r, err := h.store.Rejudge(t.Context(), h.k)
		require.NoError(t, err)
		h.n.write(r.At.UnixMilli(), 0, 0)
		h.checkJudged(t, r)
		return
	}
	kind, many := d("kind", 0, 8), d("many", 1, 3)
	if do == "calm" || h.well {
		kind = 0
	}
	got := h.window(t, h.k.Window, h.n.span, do, kind, many)
	if do == "look" {
		many = 0
	}
	if do != "peek" {
		h.n.write(got.now, kind, many)
	}
	kinds, leaves := h.n.at(got.now)
	require.Equal(t, kinds, got.kinds, "counts after %q", do)
	require.Equal(t, leaves, got.leaves, "leave time after %q", do)
}

// checkHistory draws one history, on a clock of its own.
func checkHistory(t testing.TB, s *stage, member string, d draw) {
	h := newHistory(t, s, member, d)
	for range d("steps", 5, 40) {
		s.move(h.n, s.leap(d, h.n), d("microseconds", 0, 999))
		h.step(t, d)
	}
}

// checkJudged compares a reading with the list, and holds the next look to its rule: at the latest a second after a transition is
// owed, otherwise when the facts next change by themselves, and never when they cannot.
func (h *history) checkJudged(t testing.TB, r health.Reading) {
	now := r.At.UnixMilli()
	kinds, leaves := h.n.at(now)
	want := health.Counts{Acknowledged: kinds[0], ByClass: map[health.Class]int64{}}
	for i, c := range health.Classes() {
		if kinds[i+1] > 0 {
			want.ByClass[c] = kinds[i+1]
			want.Failed += kinds[i+1]
		}
	}
	require.Equal(t, want, r.Counts)
	at := leaves
	if r.Standing.State == health.Healthy && want.Failed == 0 {
		at = 0
	}
	if r.Standing.State == health.Down && at == 0 {
		at = r.Standing.PausedUntil.UnixMilli()
	}
	if h.rules.Judge(r.Standing, r.Counts, r.At).Kind != health.None && (at == 0 || at > now+1000) {
		at = now + 1000
	}
	score, err := h.client.ZScore(t.Context(), h.k.Judge, h.k.Member).Result()
	if at == 0 {
		require.ErrorIs(t, err, redis.Nil)
		return
	}
	require.NoError(t, err)
	require.Equal(t, max(at, now+1), int64(score), "next look of %s with %+v", r.Standing.State, r.Counts)
}

func TestWindowEqualsAListOfOutcomes(t *testing.T) {
	t.Run("miniredis", func(t *testing.T) { // the same few every time; TestH01RandomHistoriesEqualAListOfOutcomes draws a thousand others
		s := inMemory(t)
		for i := range 100 {
			checkHistory(t, s, fmt.Sprint("history ", i), seeded(uint64(i)))
		}
	})
	t.Run("redis-server", func(t *testing.T) {
		s, d := onServer(t), seeded(1000)
		var together []*history // they share the time that really passes
		for i := range 30 {
			together = append(together, newHistory(t, s, fmt.Sprint("history ", i), d))
		}
		for range 40 {
			s.pass(max(s.leap(d, together[d("history", 0, 29)].n), time.Millisecond))
			for _, h := range together {
				h.step(t, d)
			}
		}
	})
}

func TestH01OutcomeCountsUntilItsSlotIs120SlotsOld(t *testing.T) {
	s := inMemory(t)
	first := s.window(t, "w", 120_000, "count", 3, 1)
	require.Equal(t, first.now/1000*1000+120_000, first.leaves)
	s.pass(time.Duration(first.leaves-first.now-1) * time.Millisecond)
	require.EqualValues(t, 1, s.window(t, "w", 120_000, "peek", 0, 0).kinds[3])
	s.pass(time.Millisecond)
	require.Equal(t, [9]int64{}, s.window(t, "w", 120_000, "peek", 0, 0).kinds)
}

func TestWindowStaysSmallAndCheapHoweverManyOutcomes(t *testing.T) {
	s := inMemory(t)
	most, mean, steps := int64(0), int64(0), int64(3000)
	for i := range steps {
		s.pass(time.Duration(i%7) * 100 * time.Millisecond)
		got := s.window(t, "w", 120_000, "count", int(i%9), 1000)
		most, mean = max(most, got.touched), mean+got.touched
		fields, err := s.client.HLen(t.Context(), "w").Result()
		require.NoError(t, err)
		require.LessOrEqual(t, fields, int64(121), "a field for each slot, and the sums")
	}
	require.LessOrEqual(t, mean/steps, int64(30), "arguments of a step on average")
	require.LessOrEqual(t, most, int64(60), "arguments of one step under steady traffic")
	size, err := s.client.HGetAll(t.Context(), "w").Result()
	require.NoError(t, err)
	bytes := 0
	for f, v := range size {
		bytes += len(f) + len(v)
	}
	require.Less(t, bytes, 16<<10)
}

func TestCountingCostsTheSameInAFullWindow(t *testing.T) {
	s := inMemory(t)
	s.window(t, "w", 120_000, "count", 1, 1)
	first := s.window(t, "w", 120_000, "count", 1, 1)
	for range 119 {
		s.pass(time.Second)
		s.window(t, "w", 120_000, "count", 1, 1_000_000)
	}
	require.Equal(t, first.touched, s.window(t, "w", 120_000, "count", 1, 1).touched)
}

func TestWindowOfALongIdleBotIsDroppedInOneStep(t *testing.T) {
	s := inMemory(t)
	for range 120 {
		s.window(t, "w", 120_000, "count", 2, 1)
		s.pass(time.Second)
	}
	s.pass(2 * time.Minute)
	got := s.window(t, "w", 120_000, "look", 0, 0)
	require.Equal(t, [9]int64{}, got.kinds)
	require.LessOrEqual(t, got.touched, int64(300))
	require.EqualValues(t, 1, s.client.HLen(t.Context(), "w").Val(), "only the sums are left")
	s.pass(4 * time.Minute)
	require.Zero(t, s.client.Exists(t.Context(), "w").Val(), "an unused window is forgotten")
}

func TestClockThatStepsBackCountsIntoTheLastSlotSeen(t *testing.T) {
	s := inMemory(t)
	s.window(t, "w", 120_000, "count", 0, 2)
	s.pass(time.Minute)
	before := s.window(t, "w", 120_000, "count", 1, 1)
	s.back(30 * time.Second)
	got := s.window(t, "w", 120_000, "count", 1, 1)
	require.Equal(t, [9]int64{2, 2}, got.kinds)
	require.Equal(t, before.leaves, got.leaves, "what has been counted leaves when it would have")
	s.pass(30*time.Second + 119*time.Second)
	require.Equal(t, [9]int64{0, 2}, s.window(t, "w", 120_000, "look", 0, 0).kinds, "both failures stand in the slot seen last")
}

func TestWindowOfAnotherLengthStartsEmpty(t *testing.T) {
	onBoth(t, func(t *testing.T, s *stage) {
		s.window(t, "w", 120_000, "count", 1, 5)
		require.Equal(t, [9]int64{}, s.window(t, "w", 60_000, "look", 0, 0).kinds)
		require.Equal(t, [9]int64{0, 5}, s.window(t, "w", 120_000, "look", 0, 0).kinds, "looking alone changes nothing")
		require.Equal(t, [9]int64{1}, s.window(t, "w", 60_000, "count", 0, 1).kinds)
		require.EqualValues(t, 2, s.client.HLen(t.Context(), "w").Val(), "nothing of the old window is left")
		require.Equal(t, [9]int64{}, s.window(t, "w", 120_000, "look", 0, 0).kinds)
	})
}
