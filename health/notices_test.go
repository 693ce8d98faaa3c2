package health_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pulsegate/pulsegate/health"
	"github.com/stretchr/testify/require"
)

// flap takes a bot to DEGRADED and back so many times, so far apart, and lists what became of the notices: o out, h held back.
func (l *life) flap(times int, apart time.Duration, at *time.Time) string {
	var told strings.Builder
	for range times {
		for _, c := range []health.Counts{counts(5, 1), counts(5, 0)} {
			if t := l.judge(c, *at); t.Notice && t.Held {
				told.WriteByte('h')
			} else if t.Notice {
				told.WriteByte('o')
			}
			*at = at.Add(apart)
		}
	}
	return told.String()
}

func TestNoticesOfABotThatFlapsAreHeldBackPastFourAnHour(t *testing.T) {
	l, at := &life{standing: healthy(), rules: health.Rules{}.WithDefaults()}, noon
	require.Equal(t, "oooo"+strings.Repeat("h", 26), l.flap(15, time.Minute, &at))
	require.True(t, l.rules.Judge(l.standing, counts(5, 0), at).Flapping)
	require.Contains(t, l.rules.Judge(l.standing, counts(5, 0), at).Reason, "flapping")
	at = noon.Add(time.Hour - time.Millisecond)
	require.Equal(t, "ho", l.flap(1, time.Millisecond, &at), "the first of the four is an hour old")
	at = at.Add(time.Hour)
	require.False(t, l.rules.Judge(l.standing, counts(5, 0), at).Flapping)
	require.NotContains(t, l.rules.Judge(l.standing, counts(5, 0), at).Reason, "flapping")
	require.Equal(t, "oooohh", l.flap(3, time.Minute, &at))
}

func TestNoticesFourAnHourAreNotFlapping(t *testing.T) {
	l, at := &life{standing: healthy(), rules: health.Rules{}.WithDefaults()}, noon
	require.Equal(t, strings.Repeat("o", 200), l.flap(100, 15*time.Minute, &at))
	require.False(t, l.rules.Judge(l.standing, counts(5, 0), at).Flapping)
}

func TestNoticesOfDownAndOfTheRecoveryAreNeverHeldBack(t *testing.T) {
	recovered := counts(1, 10)
	for name, way := range map[string]func(*life, *time.Time) health.Transition{
		"a trial is acknowledged": func(l *life, at *time.Time) health.Transition { return l.judge(recovered, *at) },
		"the window empties, and an acknowledgement verifies": func(l *life, at *time.Time) health.Transition {
			*at = at.Add(3 * time.Minute)
			require.Equal(t, health.ToUnverified, l.judge(counts(0, 0), *at).Kind)
			return l.judge(counts(1, 0), *at)
		},
		"the window empties, and the incident goes on first": func(l *life, at *time.Time) health.Transition {
			*at = at.Add(3 * time.Minute)
			l.judge(counts(0, 0), *at)
			require.False(t, l.judge(counts(0, 1), *at).Notice)
			return l.judge(counts(1, 0), *at)
		},
		"a failed trial came between": func(l *life, at *time.Time) health.Transition {
			*at = at.Add(2 * time.Minute)
			require.True(t, l.trial(*at))
			return l.judge(recovered, *at)
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, at := &life{standing: healthy(), rules: health.Rules{}.WithDefaults()}, noon
			require.Equal(t, "oooohhhhhh", l.flap(5, time.Second, &at))
			for range 3 {
				tr := l.judge(counts(0, 10), at)
				require.Equal(t, health.ToDown, tr.Kind)
				require.False(t, tr.Held)
				back := way(l, &at)
				require.True(t, back.Notice)
				require.False(t, back.Held, "people who know of DOWN hear at once that it is over")
				l.judge(counts(5, 0), at)
				at = at.Add(time.Second)
				require.True(t, l.judge(counts(5, 1), at).Held, "it flaps on")
			}
		})
	}
}

// TestH05FlappingBotIsToldOfFourTimesAnHour changes every ten seconds for half an hour. TestH05FlappingBotOfTwoGateways plays it whole.
func TestH05FlappingBotIsToldOfFourTimesAnHour(t *testing.T) {
	l, at := &life{standing: healthy(), rules: health.Rules{}.WithDefaults()}, noon
	told := l.flap(90, 10*time.Second, &at)
	require.Equal(t, "oooo"+strings.Repeat("h", 176), told)
	require.EqualValues(t, 181, l.standing.Number, "every change is a transition")
	t.Attr("measured", fmt.Sprintf("%d changes: %d notices at once, %d held back for the digest", len(told), strings.Count(told, "o"), strings.Count(told, "h")))
}

func TestH06OneFailureOfOneEventIsNotDown(t *testing.T) {
	for failed, want := range map[int64]health.State{1: health.Degraded, 9: health.Degraded, 10: health.Down} {
		for _, s := range []health.Standing{{Judged: true}, healthy(), unverified(), degraded()} {
			require.Equal(t, want, health.Rules{}.Judge(s, counts(0, failed), noon).State, "%d failed, was %s", failed, s.State)
		}
	}
	t.Attr("measured", "1 event, 1 failure: DEGRADED; DOWN from the 10th failure without an acknowledgement on")
}
