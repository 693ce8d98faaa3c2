package delivery

import (
	"time"

	"github.com/pulsegate/pulsegate/health"
)

// beat is how far apart the moments are at which lanes settle what need not be settled at once. They are the same for all lanes, so that one script call
// settles for many: a call costs as much as three of its deliveries. A process that dies between two of them has those delivered again.
const beat = 5 * time.Millisecond

// beatAfter is the first of these moments after at.
func (c *Carrier) beatAfter(at time.Time) time.Time { return at.Add(beat - at.Sub(c.born)%beat) }

// well says that an acknowledgement changes nothing but counts.
func (s laneState) well() bool {
	st := s.reading.Standing
	return st.State == health.Healthy && st.Verified
}

// calm says that nobody waits for what the end of a try brings: neither an event, nor a verdict, nor another holder of the lease.
func (l *lane) calm() bool {
	return l.state.well() && l.lines.events == 0 && len(l.retries) == 0 && !l.refused && !l.releasing && !l.more
}

// defers says that what is to be settled can wait for the next beat: acknowledgements of a bot in good health, and not many.
func (l *lane) defers() bool {
	return l.plain == len(l.outcomes) && l.plain < settleBatch/4 && l.state.well() && !l.releasing && time.Now().Before(l.settleBy)
}

// wait sleeps until something happens or is due.
func (l *lane) wait() {
	select {
	case <-l.nudge:
		return
	default:
	}
	due := l.renewed.Add(renewEvery)
	if len(l.outcomes) > 0 {
		due = l.settleBy // a renewal, and the end, come with it
	} else if l.under == 0 && l.lines.events == 0 {
		due = earlier(due, l.idleAt())
	}
	due = l.nextStart(due)
	if l.reapAt > 0 {
		due = earlier(due, l.reapTime())
	}
	l.mu.Lock()
	if l.quiet = l.calm(); !l.quiet && len(l.finished) > 0 {
		l.mu.Unlock()
		return
	}
	if l.wakes = due; len(l.finished) > 0 { // since the turn began
		l.wakes = earlier(due, l.c.beatAfter(l.finished[0].at))
	}
	l.timer.Reset(max(time.Until(l.wakes), 0))
	l.mu.Unlock()
	select {
	case <-l.nudge:
		l.timer.Stop()
	case <-l.timer.C:
	}
}

// handIn takes the end of a try. A lane that is calm looks at it at the next beat.
func (l *lane) handIn(f finished) {
	l.mu.Lock()
	l.finished = append(l.finished, f)
	quiet := l.quiet && f.o.acknowledged()
	if at := l.c.beatAfter(f.at); quiet && at.Before(l.wakes) {
		l.wakes = at
		l.timer.Reset(time.Until(at))
	}
	l.mu.Unlock()
	if !quiet {
		l.poke()
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
