package health_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/pulsegate/pulsegate/health"
	"github.com/stretchr/testify/require"
)

// noon is when the tests judge.
var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// healthy is a registration with an acknowledgement behind it.
func healthy() health.Standing {
	return health.Standing{State: health.Healthy, Verified: true, Judged: true, Number: 1, Since: noon.Add(-time.Hour)}
}

// unverified is HEALTHY from an empty window, in an incident that is still open.
func unverified() health.Standing {
	return health.Standing{State: health.Healthy, Judged: true, Number: 4, Since: noon.Add(-time.Minute), Incident: noon.Add(-time.Hour)}
}

func degraded() health.Standing {
	return health.Standing{State: health.Degraded, Judged: true, Number: 2, Since: noon.Add(-time.Minute), Incident: noon.Add(-time.Minute)}
}

// down is DOWN since a minute, with a minute of the pause to go.
func down() health.Standing {
	return health.Standing{
		State: health.Down, Judged: true, Number: 3, Since: noon.Add(-time.Minute), DownSince: noon.Add(-time.Minute),
		PausedUntil: noon.Add(time.Minute), Incident: noon.Add(-3 * time.Minute),
	}
}

// over is a pause that is over: the next event is the trial.
func over(s health.Standing) health.Standing {
	s.PausedUntil = noon.Add(-time.Second)
	return s
}

// trialFailed is a pause that is over, and whose trial has failed.
func trialFailed(s health.Standing) health.Standing {
	s = over(s)
	s.TrialFailed = true
	return s
}

func holding(s health.Standing) health.Standing { s.Holding = true; return s }

// counts are acknowledgements, and failures by timeout.
func counts(acknowledged, failed int64) health.Counts {
	c := health.Counts{Acknowledged: acknowledged, Failed: failed, ByClass: map[health.Class]int64{}}
	if failed > 0 {
		c.ByClass[health.Timeout] = failed
	}
	return c
}

// picture is the decision table for 10 attempts: a row for each number of failures from 0, a column for each number of
// acknowledgements from 0. H is HEALTHY, g DEGRADED, D DOWN.
var picture = []string{
	"HHHHHHHHHHHHH",
	"ggggggggggggg",
	"ggggggggggggg",
	"ggggggggggggg",
	"ggggggggggggg",
	"ggggggggggggg",
	"ggggggggggggg",
	"ggggggggggggg",
	"ggggggggggggg",
	"ggggggggggggg",
	"Dgggggggggggg",
	"Dgggggggggggg",
	"Dgggggggggggg",
}

var letters = map[byte]health.State{'H': health.Healthy, 'g': health.Degraded, 'D': health.Down}

func TestH01EveryPairOfCountsIsJudgedByTheTable(t *testing.T) {
	for f, row := range picture {
		for a := range row {
			for _, s := range []health.Standing{healthy(), unverified(), degraded()} {
				v := health.Rules{}.Judge(s, counts(int64(a), int64(f)), noon)
				require.Equal(t, letters[row[a]], v.State, "%d acknowledged, %d failed, was %s", a, f, s.State)
				require.NotEmpty(t, v.Reason)
			}
		}
	}
}

func TestAnyNumberOfAttemptsIsJudgedByTheTable(t *testing.T) {
	for _, least := range []int64{1, 2, 3, 9, 11, 12, 13} {
		for a := range int64(13) {
			for f := range int64(13) {
				want := health.Degraded
				if f == 0 {
					want = health.Healthy
				} else if a < 1 && f > least-1 {
					want = health.Down
				}
				v := health.Rules{MinAttempts: least}.Judge(degraded(), counts(a, f), noon)
				require.Equal(t, want, v.State, "%d acknowledged, %d failed, %d attempts", a, f, least)
			}
		}
	}
}

func TestDownIsHeldWhateverTheCountsWithoutAnAcknowledgement(t *testing.T) {
	for f := range int64(13) {
		v := health.Rules{}.Judge(down(), counts(0, f), noon)
		require.Equal(t, health.Down, v.State)
		require.Equal(t, health.None, v.Kind)
		require.Contains(t, v.Reason, "DOWN is held: delivery is paused until 2026-11-20T12:01:00Z")
	}
	for f := int64(1); f < 13; f++ {
		v := health.Rules{}.Judge(over(down()), counts(0, f), noon)
		require.Equal(t, health.Down, v.State)
		require.Equal(t, health.None, v.Kind, "ageing and late failures change counts only")
		require.Contains(t, v.Reason, "DOWN is held: the pause is over, and the next event is the trial")
	}
}

// judgement is a row of a table of rules.
type judgement struct {
	name     string
	was      health.Standing
	counts   health.Counts
	state    health.State
	kind     health.Kind
	notice   bool
	verified bool
}

func (j judgement) check(t *testing.T) {
	t.Run(j.name, func(t *testing.T) {
		v := health.Rules{}.Judge(j.was, j.counts, noon)
		require.NotEmpty(t, v.Reason)
		v.Reason = ""
		require.Equal(t, health.Verdict{State: j.state, Kind: j.kind, Notice: j.notice, Verified: j.verified}, v)
	})
}

func TestJudgementsOutsideDown(t *testing.T) {
	fresh := health.Standing{Judged: true} // a new registration
	worse := healthy()
	worse.Verified = false // debugging has run out, or it is new; there is no incident
	for _, j := range []judgement{
		{"new: nothing yet", fresh, counts(0, 0), health.Healthy, health.None, false, false},
		{"new: first acknowledgement, silent", fresh, counts(1, 0), health.Healthy, health.ToHealthy, false, true},
		{"new: first failure", fresh, counts(0, 1), health.Degraded, health.ToDegraded, true, false},
		{"new: acknowledgement and failure", fresh, counts(1, 1), health.Degraded, health.ToDegraded, true, false},
		{"new: ten failures at once", fresh, counts(0, 10), health.Down, health.ToDown, true, false},
		{"healthy: stays", healthy(), counts(5, 0), health.Healthy, health.None, false, true},
		{"healthy: an empty window shows as unverified", healthy(), counts(0, 0), health.Healthy, health.None, false, false},
		{"healthy: first failure", healthy(), counts(5, 1), health.Degraded, health.ToDegraded, true, false},
		{"healthy: straight to DOWN", healthy(), counts(0, 10), health.Down, health.ToDown, true, false},
		{"unverified: stays", unverified(), counts(0, 0), health.Healthy, health.None, false, false},
		{"unverified: first acknowledgement ends the incident", unverified(), counts(1, 0), health.Healthy, health.ToHealthy, true, true},
		{"unverified: failure continues the incident silently", unverified(), counts(0, 1), health.Degraded, health.ToDegraded, false, false},
		{"unverified: failure beside an acknowledgement", unverified(), counts(3, 1), health.Degraded, health.ToDegraded, false, false},
		{"unverified: DOWN is always told", unverified(), counts(0, 10), health.Down, health.ToDown, true, false},
		{"unverified without an incident: first failure is told", worse, counts(0, 1), health.Degraded, health.ToDegraded, true, false},
		{"unverified without an incident: verified silently", worse, counts(1, 0), health.Healthy, health.ToHealthy, false, true},
		{"degraded: stays", degraded(), counts(5, 1), health.Degraded, health.None, false, false},
		{"degraded: one failure too few for DOWN", degraded(), counts(0, 9), health.Degraded, health.None, false, false},
		{"degraded: an acknowledgement keeps it from DOWN", degraded(), counts(1, 1000), health.Degraded, health.None, false, false},
		{"degraded: the last acknowledgement left", degraded(), counts(0, 10), health.Down, health.ToDown, true, false},
		{"degraded: the last failure left", degraded(), counts(1, 0), health.Healthy, health.ToHealthy, true, true},
		{"degraded: the window emptied", degraded(), counts(0, 0), health.Healthy, health.ToUnverified, false, false},
	} {
		j.check(t)
	}
}

func TestJudgementsInDown(t *testing.T) {
	for _, j := range []judgement{
		{"paused: held over an empty window", down(), counts(0, 0), health.Down, health.None, false, false},
		{"paused: acknowledgement of a try under way", down(), counts(1, 10), health.Degraded, health.ToDegraded, true, false},
		{"paused: acknowledgement alone in the window", down(), counts(1, 0), health.Healthy, health.ToHealthy, true, true},
		{"over: empty window", over(down()), counts(0, 0), health.Healthy, health.ToUnverified, false, false},
		{"over: few failures left", over(down()), counts(0, 3), health.Down, health.None, false, false},
		{"trial acknowledged, failures in the window", over(down()), counts(1, 120), health.Degraded, health.ToDegraded, true, false},
		{"trial acknowledged, nothing else", over(down()), counts(1, 0), health.Healthy, health.ToHealthy, true, true},
		{"trial failed: still DOWN", trialFailed(down()), counts(0, 10), health.Down, health.StillDown, true, false},
		{"trial failed: too few failures for DOWN", trialFailed(down()), counts(0, 1), health.Degraded, health.ToDegraded, true, false},
		{"trial failed, a late acknowledgement beside it", trialFailed(down()), counts(1, 10), health.Degraded, health.ToDegraded, true, false},
		{"trial failed, and its failure has left", trialFailed(down()), counts(0, 0), health.Healthy, health.ToUnverified, false, false},
		{"holding: an empty window releases nothing", holding(over(down())), counts(0, 0), health.Down, health.None, false, false},
		{"holding: trial failed, another pause", holding(trialFailed(down())), counts(0, 1), health.Down, health.StillDown, true, false},
		{"holding: trial failed over an empty window", holding(trialFailed(down())), counts(0, 0), health.Down, health.StillDown, true, false},
		{"holding: the trial's acknowledgement", holding(over(down())), counts(1, 10), health.Degraded, health.ToDegraded, true, false},
	} {
		j.check(t)
	}
}

func TestPauseIsOverAtItsEndAndNotBefore(t *testing.T) {
	s := down()
	rules := health.Rules{}
	require.Equal(t, health.None, rules.Judge(s, counts(0, 0), s.PausedUntil.Add(-time.Millisecond)).Kind)
	require.Equal(t, health.ToUnverified, rules.Judge(s, counts(0, 0), s.PausedUntil).Kind)
}

func TestRegistrationInMaintenanceIsNotJudged(t *testing.T) {
	for _, s := range []health.Standing{healthy(), unverified(), degraded(), trialFailed(down())} {
		s.Judged = false
		v := health.Rules{}.Judge(s, counts(0, 50), noon)
		require.Equal(t, health.Verdict{State: s.State, Verified: s.Verified, Reason: "not judged: the registration is in MAINTENANCE"}, v)
	}
}

// life plays judgements of one registration through, as the store would keep them.
type life struct {
	rules    health.Rules
	standing health.Standing
}

// judge judges at a moment, makes the transition, and returns it.
func (l *life) judge(c health.Counts, at time.Time) health.Transition {
	v := l.rules.Judge(l.standing, c, at)
	if v.Kind == health.None {
		return health.Transition{}
	}
	var made health.Transition
	made, l.standing = l.rules.Next(health.Reading{At: at, Standing: l.standing, Counts: c}, v)
	return made
}

// trial fails a trial, and says whether people are told.
func (l *life) trial(at time.Time) bool {
	l.standing.TrialFailed = true
	return l.judge(counts(0, 120), at).Notice
}

func TestStillDownIsToldAtFirstAndEachTimeTheOutageHasDoubled(t *testing.T) {
	l := &life{standing: degraded(), rules: health.Rules{}.WithDefaults()}
	require.Equal(t, health.ToDown, l.judge(counts(0, 10), noon).Kind)
	var told []int
	for at := 2; at <= 70; at += 2 {
		if l.trial(noon.Add(time.Duration(at) * time.Minute)) {
			told = append(told, at)
		}
	}
	require.Equal(t, []int{2, 4, 8, 16, 32, 64}, told, "minutes of the outage")
	require.EqualValues(t, 2+1+35, l.standing.Number, "each failed trial is a transition")
}

func TestStillDownWaitsForTheTrialThatReachesTheDoubling(t *testing.T) {
	l := &life{standing: degraded(), rules: health.Rules{}.WithDefaults()}
	l.judge(counts(0, 10), noon)
	require.True(t, l.trial(noon.Add(3*time.Minute)))
	require.False(t, l.trial(noon.Add(4*time.Minute-time.Millisecond)))
	require.True(t, l.trial(noon.Add(4*time.Minute)))
	require.False(t, l.trial(noon.Add(8*time.Minute-time.Millisecond)))
	require.True(t, l.trial(noon.Add(8*time.Minute)))
}

// An outage may pass several doublings without a trial. They were made up for one trial after the other, a mail for each.
func TestDoublingsThatPassedWithoutATrialAreToldOfOnce(t *testing.T) {
	l := &life{standing: degraded(), rules: health.Rules{}.WithDefaults()}
	l.judge(counts(0, 10), noon)
	var told []int
	for at := 20; at <= 70; at += 2 {
		if l.trial(noon.Add(time.Duration(at) * time.Minute)) {
			told = append(told, at)
		}
	}
	require.Equal(t, []int{20, 32, 64}, told)
}

func TestStillDownOfAnEndlessOutageDoesNotOverflow(t *testing.T) {
	s := trialFailed(down())
	for _, n := range []int64{30, 31, 62, 63, 64, 1000} {
		s.StillDown, s.DownSince = n, noon.Add(-290*365*24*time.Hour)
		require.False(t, health.Rules{}.Judge(s, counts(0, 10), noon).Notice, "doubling %d", n)
	}
	s.StillDown = -1 // never written by the gateway
	require.True(t, health.Rules{}.Judge(s, counts(0, 10), noon).Notice)
}

func TestReasonsSayWhatFiredInWords(t *testing.T) {
	mixed := health.Counts{Acknowledged: 1, Failed: 9, ByClass: map[health.Class]int64{
		health.Status: 2, health.Suppressed: 4, health.Blocked: 2, health.Timeout: 1,
	}}
	debugging := healthy()
	debugging.Debug = true
	for _, row := range []struct {
		was    health.Standing
		counts health.Counts
		want   string
	}{
		{healthy(), counts(0, 0), "no outcome in the window"},
		{healthy(), counts(7, 0), "all 7 deliveries in the window were acknowledged"},
		{debugging, counts(7, 0), "debugging: outcomes stay out of the window; all 7 deliveries in the window were acknowledged"},
		{degraded(), counts(0, 10), "none of 10 deliveries in the window was acknowledged (10 timeout)"},
		{healthy(), mixed, "9 of 10 deliveries in the window failed (4 suppressed, 2 status, 2 blocked: the callback address is not allowed, 1 timeout)"},
		{healthy(), health.Counts{Failed: 1}, "1 of 1 deliveries in the window failed (class unknown)"},
		{trialFailed(down()), counts(0, 10), "the trial failed; none of 10 deliveries in the window was acknowledged (10 timeout)"},
		{down(), counts(0, 0), "DOWN is held: delivery is paused until 2026-11-20T12:01:00Z"},
		{over(down()), counts(0, 2), "DOWN is held: the pause is over, and the next event is the trial; 2 failed deliveries in the window (2 timeout)"},
	} {
		require.Equal(t, row.want, health.Rules{}.Judge(row.was, row.counts, noon).Reason)
	}
}

func TestJudgingIsPure(t *testing.T) {
	c := counts(3, 4)
	first := health.Rules{}.Judge(degraded(), c, noon)
	require.Equal(t, first, health.Rules{}.Judge(degraded(), c, noon))
	require.Equal(t, counts(3, 4), c)
}

func TestRulesHaveDefaultsAndLimits(t *testing.T) {
	def := health.Rules{Window: 2 * time.Minute, MinAttempts: 10, Pause: 2 * time.Minute}
	require.Equal(t, def, health.Rules{}.WithDefaults())
	require.Equal(t, def, health.Rules{Window: -1, MinAttempts: -1, Pause: -1}.WithDefaults())
	require.NoError(t, def.Validate())
	least := health.Rules{Window: 120 * time.Millisecond, MinAttempts: 1, Pause: 10 * time.Millisecond}
	require.NoError(t, least.Validate())
	least.Window--
	require.EqualError(t, least.Validate(), "health window 119.999999ms: must be at least 120ms")
	least.Window, least.Pause = time.Second, time.Millisecond
	require.EqualError(t, least.Validate(), "pause 1ms: must be at least 10ms")
}

func TestClassesKeepTheirPlacesInTheWindow(t *testing.T) {
	require.Zero(t, health.Acknowledged.Index())
	for i, c := range []string{"timeout", "refused", "dns", "tls", "status", "blocked", "broken", "suppressed"} {
		require.Equal(t, i+1, health.Class(c).Index(), fmt.Sprint("stored windows depend on it: ", c))
	}
}
