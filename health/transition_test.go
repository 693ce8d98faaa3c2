package health_test

import (
	"testing"
	"time"

	"github.com/pulsegate/pulsegate/health"
	"github.com/stretchr/testify/require"
)

// made judges a standing with counts at noon and returns the transition and what it leads to.
func made(t testing.TB, was health.Standing, c health.Counts) (health.Transition, health.Standing) {
	t.Helper()
	rules := health.Rules{}.WithDefaults()
	v := rules.Judge(was, c, noon)
	require.NotEqual(t, health.None, v.Kind)
	return rules.Next(health.Reading{At: noon, Standing: was, Counts: c}, v)
}

func TestTransitionsLeadToTheirStanding(t *testing.T) {
	pause := noon.Add(2 * time.Minute)
	told := trialFailed(down())
	told.StillDown = 1
	for _, row := range []struct {
		name   string
		was    health.Standing
		counts health.Counts
		kind   health.Kind
		want   health.Standing
	}{
		{"an incident begins", healthy(), counts(1, 1), health.ToDegraded, health.Standing{
			State: health.Degraded, Since: noon, Number: 2, Incident: noon, Judged: true,
		}},
		{"an incident goes on", unverified(), counts(1, 1), health.ToDegraded, health.Standing{
			State: health.Degraded, Since: noon, Number: 5, Incident: unverified().Incident, Judged: true,
		}},
		{"an outage begins", degraded(), counts(0, 10), health.ToDown, health.Standing{
			State: health.Down, Since: noon, Number: 3, Incident: degraded().Incident, DownSince: noon, PausedUntil: pause, Judged: true,
		}},
		{"an outage begins the incident", healthy(), counts(0, 10), health.ToDown, health.Standing{
			State: health.Down, Since: noon, Number: 2, Incident: noon, DownSince: noon, PausedUntil: pause, Judged: true,
		}},
		{"the first trial failed", trialFailed(down()), counts(0, 10), health.StillDown, health.Standing{
			State: health.Down, Since: down().Since, Number: 4, Incident: down().Incident, DownSince: down().DownSince, PausedUntil: pause,
			StillDown: 1, Judged: true,
		}},
		{"another trial failed, untold", told, counts(0, 10), health.StillDown, health.Standing{
			State: health.Down, Since: down().Since, Number: 4, Incident: down().Incident, DownSince: down().DownSince, PausedUntil: pause,
			StillDown: 1, Judged: true,
		}},
		{"a trial was acknowledged", over(down()), counts(1, 10), health.ToDegraded, health.Standing{
			State: health.Degraded, Since: noon, Number: 4, Incident: down().Incident, Judged: true,
		}},
		{"the window emptied after the pause", over(down()), counts(0, 0), health.ToUnverified, health.Standing{
			State: health.Healthy, Since: noon, Number: 4, Incident: down().Incident, Judged: true,
		}},
		{"verified: the incident is over, the state keeps its time", unverified(), counts(1, 0), health.ToHealthy, health.Standing{
			State: health.Healthy, Since: unverified().Since, Number: 5, Verified: true, Judged: true,
		}},
		{"the last failure left", degraded(), counts(4, 0), health.ToHealthy, health.Standing{
			State: health.Healthy, Since: noon, Number: 3, Verified: true, Judged: true,
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			tr, next := made(t, row.was, row.counts)
			next.Notices = health.Notices{} // TestNotices… tell of them
			require.Equal(t, row.want, next)
			require.Equal(t, row.kind, tr.Kind)
			require.Equal(t, row.was.State, tr.From)
			require.Equal(t, next.State, tr.To)
			require.Equal(t, row.was.Number+1, tr.Number)
			require.Equal(t, noon.UnixMilli(), tr.At)
			require.Equal(t, row.was.Since.UnixMilli(), tr.Since, "since when it was as it was")
			require.Zero(t, health.Rules{}.WithDefaults().Judge(next, row.counts, noon).Kind, "the same facts ask for nothing more")
		})
	}
}

func TestTransitionCarriesWhatPeopleAreTold(t *testing.T) {
	rules := health.Rules{}.WithDefaults()
	r := health.Reading{At: noon, Standing: over(down()), Counts: counts(1, 12), Notes: health.Notes{
		HandedOff: 3, Undelivered: 14, FailedRequests: []string{"b", "a"},
	}}
	tr, _ := rules.Next(r, rules.Judge(r.Standing, r.Counts, r.At))
	require.Equal(t, health.Transition{
		Number: 4, Kind: health.ToDegraded, From: health.Down, To: health.Degraded, At: noon.UnixMilli(), Since: down().Since.UnixMilli(),
		Incident: down().Incident.UnixMilli(), DownSince: down().DownSince.UnixMilli(), Notice: true,
		Reason: "12 of 13 deliveries in the window failed (12 timeout)", Acknowledged: 1, Failed: 12,
		ByClass: map[health.Class]int64{health.Timeout: 12}, HandedOff: 3, Undelivered: 14, FailedRequests: []string{"b", "a"},
	}, tr)
	tr, _ = made(t, unverified(), counts(1, 0))
	require.Equal(t, unverified().Incident.UnixMilli(), tr.Incident, "the recovery names the incident that it ends")
}

// The documented outage: a message a second, the bot switched off and on again.
func TestWalkthroughOfAnOutage(t *testing.T) {
	l := &life{rules: health.Rules{}.WithDefaults(), standing: healthy()}
	at := func(s int) time.Time { return noon.Add(time.Duration(s) * time.Second) }
	steps := []struct {
		second int
		counts health.Counts
		trial  bool
		kind   health.Kind
		told   bool
	}{
		{0, counts(119, 1), false, health.ToDegraded, true},
		{60, counts(59, 61), false, health.None, false},
		{119, counts(0, 120), false, health.ToDown, true},
		{180, counts(0, 120), false, health.None, false},
		{239, counts(0, 120), true, health.StillDown, true},
		{300, counts(0, 120), false, health.None, false},
		{360, counts(1, 119), false, health.ToDegraded, true},
		{420, counts(61, 59), false, health.None, false},
		{480, counts(120, 0), false, health.ToHealthy, true},
		{481, counts(120, 0), false, health.None, false},
	}
	for _, s := range steps {
		l.standing.TrialFailed = s.trial
		tr := l.judge(s.counts, at(s.second))
		require.Equal(t, s.kind, tr.Kind, "second %d", s.second)
		require.Equal(t, s.told, tr.Notice, "second %d", s.second)
	}
	require.Equal(t, health.Healthy, l.standing.State)
	require.True(t, l.standing.Incident.IsZero())
}

// checkLife plays random counts and trials, and holds each step to what is always so.
func checkLife(t testing.TB, d draw) {
	l := &life{rules: health.Rules{}.WithDefaults(), standing: health.Standing{State: health.Healthy, Judged: true}}
	now := noon
	for range 60 {
		now = now.Add(time.Duration(d("seconds", 0, 150)) * time.Second)
		was := l.standing
		l.standing.TrialFailed = was.State == health.Down && !now.Before(was.PausedUntil) && d("trial fails", 0, 1) == 1
		c := counts(int64(d("acknowledged", 0, 3)), int64(d("failed", 0, 12)))
		tr := l.judge(c, now)
		s := l.standing
		if tr.Kind == health.None {
			continue
		}
		require.Equal(t, was.Number+1, s.Number)
		require.Equal(t, s.State == health.Down, !s.PausedUntil.IsZero(), "a pause is part of DOWN")
		require.Equal(t, s.State == health.Down, !s.DownSince.IsZero())
		require.False(t, s.Verified && s.State != health.Healthy)
		require.Equal(t, s.Verified, s.Incident.IsZero(), "an incident lasts until an acknowledgement verifies")
		require.False(t, s.TrialFailed)
		require.False(t, tr.Notice && tr.Kind == health.ToUnverified, "an empty window tells nobody")
		require.Equal(t, health.None, l.rules.Judge(s, c, now).Kind, "judging again changes nothing")
		if was.State == health.Down && s.State == health.Down {
			require.Equal(t, health.StillDown, tr.Kind)
			require.Equal(t, was.DownSince, s.DownSince)
		}
	}
}

func TestLivesKeepTheirPromises(t *testing.T) {
	for i := range 2000 {
		checkLife(t, seeded(uint64(i)))
	}
}
