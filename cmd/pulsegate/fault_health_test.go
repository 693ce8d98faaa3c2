package main_test

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
)

// TestH02DownForAnHour keeps a bot off for an hour, with five gateways and messages all the while.
func TestH02DownForAnHour(t *testing.T) {
	t.Parallel() // it lives in fake time
	minutes := sized(8, 60)
	synctest.Test(t, func(t *testing.T) {
		s := openScene(t, storyStore(t))
		for range 5 {
			s.join()
		}
		s.register(0, "oncall@example.net")
		s.behaves(manner{status: 503})
		for range 10 {
			s.message(0)
		}
		time.Sleep(2 * time.Second)
		require.Equal(t, health.Down, s.health(0).Verdict.State)
		s.bot.take()
		var trials []time.Time
		began := time.Now()
		for time.Since(began) < time.Duration(minutes)*time.Minute {
			for range 3 {
				s.message(0)
			}
			time.Sleep(time.Second)
			seen, _ := s.bot.take()
			for _, r := range seen {
				if r.try == 1 {
					trials = append(trials, time.Now())
				}
			}
		}
		shortest := time.Hour
		for i := 1; i < len(trials); i++ {
			shortest = min(shortest, trials[i].Sub(trials[i-1]))
		}
		require.InDelta(t, minutes/2, len(trials), 1)
		require.GreaterOrEqual(t, shortest, 119*time.Second)
		measured(t, "5 gateways, %d min: %d trials, never two within %v", minutes, len(trials), shortest)
	})
}

// outage plays ten minutes of a bot that goes and comes back, with messages all the while; meanwhile is called each second.
func (s *scene) outage(meanwhile func(second int)) {
	for second := range 10 * 60 {
		switch second {
		case 30:
			s.behaves(manner{status: 500})
		case 300:
			s.behaves(manner{status: 202})
		}
		meanwhile(second)
		s.message(0)
		time.Sleep(time.Second)
	}
}

// story is what became of the bot: one line for each transition, with its second.
func (s *scene) story(began time.Time) []string {
	var lines []string
	for _, e := range s.timeline(0) {
		second := float64(e.made.At-began.UnixMilli()) / 1000
		lines = append(lines, fmt.Sprintf("%.0f %s %s->%s told %v", second, e.made.Kind, e.made.From, e.made.To, e.made.Notice))
	}
	return lines
}

// TestR20WrongWallClocksChangeNothing plays the same outage with right and with wrong clocks.
func TestR20WrongWallClocksChangeNothing(t *testing.T) {
	t.Parallel() // it lives in fake time
	play := func(t *testing.T, wrong ...time.Duration) (lines, tries []string) {
		synctest.Test(t, func(t *testing.T) {
			s := openScene(t, storyStore(t))
			for _, by := range wrong {
				s.join(func(cfg *delivery.Config) { cfg.Clock = func() time.Time { return time.Now().Add(by) } })
			}
			s.register(0, "oncall@example.net")
			began := time.Now()
			s.outage(func(second int) {
				seen, _ := s.bot.take()
				tries = append(tries, fmt.Sprint(second, " ", len(seen)))
			})
			time.Sleep(3 * time.Minute)
			lines = s.story(began)
		})
		return lines, tries
	}
	right, tries := play(t, 0, 0, 0)
	wrong, others := play(t, 0, 10*time.Minute, -10*time.Minute)
	require.Equal(t, right, wrong)
	require.Equal(t, tries, others, "and the bot sees the same, second by second")
	require.Len(t, right, 6, strings.Join(right, "\n"))
	measured(t, "3 gateways, 10 min fast and slow: %d of %d transitions at the same second", len(wrong), len(right))
}

// TestR21StoreClockThatJumpsBack plays an outage on a store whose clock goes back five seconds at some moment, as after a failover.
func TestR21StoreClockThatJumpsBack(t *testing.T) {
	t.Parallel() // it lives in fake time
	var moments []int
	for second := sized(282, 32); second < 530; second += sized(500, 11) {
		moments = append(moments, second)
	}
	steady := jumpingOutage(t, -1)
	most := 0
	for _, at := range moments {
		jumped := jumpingOutage(t, at)
		require.LessOrEqual(t, len(jumped), len(steady)+1, "back at %d:\n%s\nsteady:\n%s", at, strings.Join(jumped, "\n"), strings.Join(steady, "\n"))
		require.Equal(t, kindsOf(steady), slices.Compact(kindsOf(jumped)), "back at %d", at)
		most = max(most, len(jumped)-len(steady))
	}
	measured(t, "%d outages, the store's clock 5 s back at another moment each: no count below 0, at most %d extra transitions", len(moments), most)
}

// setTo sets a store's clock to so many seconds before now.
func setTo(server *miniredis.Miniredis, seconds int64) {
	server.SetTime(time.Now().Add(-time.Duration(seconds) * time.Second))
}

// kindsOf are the changes alone, without their times.
func kindsOf(story []string) []string {
	var kinds []string
	for _, line := range story {
		_, kind, _ := strings.Cut(line, " ")
		kinds = append(kinds, kind)
	}
	return kinds
}

// jumpingOutage plays the outage, with the store's clock five seconds back from a moment on; a negative one: never.
func jumpingOutage(t *testing.T, at int) (story []string) {
	synctest.Test(t, func(t *testing.T) {
		server := miniredis.NewMiniRedis()
		t.Cleanup(server.Close)
		server.ClockTTL(true)
		var back atomic.Int64 // in seconds
		done := make(chan struct{})
		ticking := make(chan struct{})
		tick := time.NewTicker(20 * time.Millisecond)
		setTo(server, 0)
		go func() { // the store's clock runs, wherever it stands
			defer close(ticking)
			for {
				select {
				case <-tick.C:
					setTo(server, back.Load())
				case <-done:
					return
				}
			}
		}()
		defer func() { tick.Stop(); close(done); <-ticking }()
		s := openScene(t, storyClient(t, server))
		leave := []func(){s.join(), s.join()}
		s.register(0, "oncall@example.net")
		began := time.Now()
		s.outage(func(second int) {
			if second == at {
				back.Store(5)
				setTo(server, 5)
			}
			h, err := s.replicas[0].Health(t.Context(), "acme", appName(0))
			require.NoError(t, err)
			require.GreaterOrEqual(t, h[0].Counts.Acknowledged, int64(0))
			require.GreaterOrEqual(t, h[0].Counts.Failed, int64(0))
			for class, n := range h[0].Counts.ByClass {
				require.Positive(t, n, "%s at %d", class, second)
			}
		})
		story = s.story(began)
		for _, f := range leave {
			f()
		}
	})
	return story
}
