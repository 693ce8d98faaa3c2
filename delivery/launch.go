package delivery

import (
	"slices"
	"time"

	"github.com/pulsegate/pulsegate/health"
)

// verdicts on a task before a try: nothing but `proceed` makes a request.
type disposal int

const (
	proceed  disposal = iota
	wait              // not now
	settleAs          // it has a fate without a try
)

// dispose says whether a task may be tried now, or which fate it has without.
func (l *lane) dispose(t *task) (disposal, Fate) {
	st := l.state.reading.Standing
	switch {
	case l.state.cut != "" && !after(t.sid, l.state.cut):
		return settleAs, l.state.cutFate
	case l.reg == nil:
		return settleAs, Withdrawn
	case l.reg.Mode == Maintenance:
		return settleAs, InMaintenance
	case l.expired(t):
		return settleAs, Expired
	case t.ev == nil:
		t.last = outcome{class: health.Broken, message: "the stored event cannot be read"}
		return settleAs, Failed
	case st.State == health.Down && t.tries > 0 && t.trial == 0:
		return settleAs, Failed // a second try that was pending when the bot became DOWN
	case st.State == health.Down && l.paused():
		if l.reg.WhenDown == Hold {
			return wait, ""
		}
		return settleAs, Suppressed
	}
	return proceed, ""
}

// paused says whether the pause of a DOWN bot still runs, by the store's clock.
func (l *lane) paused() bool {
	return l.c.store.now().Before(l.state.reading.Standing.PausedUntil)
}

// width is how many deliveries may be under way.
func (l *lane) width() int {
	if l.state.reading.Standing.State == health.Down {
		return 1 // the trial
	}
	if w := l.ramp.Width; w > 0 && w < l.limit() {
		return w
	}
	return l.limit()
}

// free is how many more deliveries may be under way. Where the width is narrow, what began before it was does not count, nor does what is debugged: a bot
// that hangs with the tries of the time before is asked all the same whether it is back.
func (l *lane) free() int {
	all := l.limit() - l.under
	width := l.width()
	if width >= l.limit() {
		return all
	}
	for _, t := range l.staged {
		if t.tries == 0 {
			width--
		}
	}
	for _, t := range l.tried {
		if !t.debug && t.reading.Standing.Number >= l.narrow {
			width--
		}
	}
	return min(all, width)
}

// stage decides what starts next. What was heard a moment ago starts at once; the rest goes by the store first, which says who owns the
// conversation, and whether the registration is still the same.
func (l *lane) stage() {
	now := time.Now()
	l.paced = false
	if l.refused = false; l.asked {
		defer l.returnUnwanted()
	}
	l.asked = false
	l.stageRetries(now)
	if l.releasing || l.reg == nil && l.view == nil {
		return
	}
	l.sweep()
	if l.state.reading.Standing.State == health.Down && len(l.outcomes) > 0 {
		return // the trial decides first
	}
	l.mu.Lock()
	ask, changed := l.again || l.failing || l.trialFail != 0, l.changed
	l.mu.Unlock()
	for room := l.free(); room > 0 && len(l.outcomes) < settleBatch && l.lines.waits() && l.admits(now); room-- {
		t := l.lines.next()
		l.under++
		if !ask && l.mayStart(t, now, changed) {
			l.start(t)
		} else {
			l.staged = append(l.staged, t)
		}
	}
}

// mayStart says whether what is known of the task is fresh enough to start without a round trip: it is from after the last change that was told of.
func (l *lane) mayStart(t *task, now, changed time.Time) bool {
	if now.Sub(t.fresh) > freshFor || !t.fresh.After(changed) || t.version != l.state.version || now.After(l.leaseEnd) {
		return false
	}
	d, _ := l.dispose(t)
	return d == proceed
}

func (l *lane) stageRetries(now time.Time) {
	keep := l.retries[:0]
	for _, t := range l.retries {
		if t.retryAt.After(now) || !l.admits(now) {
			keep = append(keep, t)
		} else {
			l.staged = append(l.staged, t)
		}
	}
	l.retries = keep
}

// admits takes a slot for one more try, if there is one and the pace allows it.
func (l *lane) admits(now time.Time) bool {
	switch {
	case l.refused:
	case !l.pace.allows(len(l.staged), now), now.Before(l.short):
		l.refused, l.paced = true, true
	case !l.c.slots.take(&l.share, now):
		l.refused, l.asked = true, true
	}
	return !l.refused
}

// returnUnwanted returns a slot that came after the lane had waited for one, if it has no use for it any more.
func (l *lane) returnUnwanted() {
	if !l.asked {
		l.c.slots.unwanted(&l.share)
	}
}

// nextStart is when a try may begin that waits for its moment, if that is before due. One that waits for a slot is told of it.
func (l *lane) nextStart(due time.Time) time.Time {
	now := time.Now()
	for _, t := range l.retries {
		if t.retryAt.Before(due) && (t.retryAt.After(now) || !l.refused) {
			due = t.retryAt
		}
	}
	if at := later(l.pace.at(len(l.staged)), l.short); l.paced && at.Before(due) {
		return at
	}
	return due
}

// unstage puts back what was to begin after a reply that did not come.
func (l *lane) unstage() {
	for _, t := range slices.Backward(l.staged) {
		l.c.slots.give(&l.share, 0)
		if t.tries > 0 {
			l.retries = append(l.retries, t)
		} else {
			l.under--
			l.lines.putBack(t)
		}
	}
	l.staged = nil
}

// leave ends the lane's part in the tries in flight. Those that are still under way hold their slots until they end.
func (l *lane) leave() {
	for range l.staged {
		l.c.slots.give(&l.share, 0)
	}
	l.staged = nil
	l.c.slots.unwanted(&l.share)
}

// sweep settles waiting events that have a fate without a try, a batch at a time.
func (l *lane) sweep() {
	st := l.state.reading.Standing
	cut := l.state.cut != "" && l.state.cut != l.swept
	if !cut && l.reg != nil && l.reg.Mode != Maintenance && (st.State != health.Down || !l.paused()) {
		return
	}
	tasks := l.lines.takeIf(settleBatch-min(len(l.outcomes), settleBatch), func(t *task) bool {
		d, _ := l.dispose(t)
		return d == settleAs
	})
	for _, t := range tasks {
		_, fate := l.dispose(t)
		t.reg = l.reg
		l.outcomes = append(l.outcomes, t.settledAs(fate, st))
	}
	if cut && len(tasks) == 0 && !after(l.state.cut, l.cursor) {
		l.swept = l.state.cut
	}
}

// launch starts what was staged, after a reply said that it still may.
func (l *lane) launch() {
	staged := l.staged
	l.staged = nil
	for _, t := range staged {
		switch d, fate := l.dispose(t); d {
		case proceed:
			l.start(t)
		case wait:
			l.staged = append(l.staged, t)
		case settleAs:
			l.c.slots.give(&l.share, 0)
			if t.reg == nil {
				t.reg = l.reg
			}
			if fate == Failed {
				l.conclude(t)
			} else {
				l.finish(t, fate)
			}
		}
	}
}

// start makes a try in a goroutine of the crew's.
func (l *lane) start(t *task) {
	t.reg = l.reg
	t.debug = l.c.store.now().Before(l.reg.DebugUntil)
	if st := l.state.reading.Standing; st.State == health.Down && t.trial == 0 {
		t.trial = st.Number
	}
	t.lane, t.reading, t.began = l, l.state.reading, time.Now()
	l.pace.begun(t.began)
	if t.began.After(l.leaseEnd) {
		l.stopTries() // this process stood still: somebody else may be delivering already
	}
	l.running++
	l.tried[t.sid] = t
	l.tries.Add(1)
	l.c.crew.start(t)
}

// makeTry makes a try that was started, and hands in how it ended.
func (l *lane) makeTry(t *task) {
	defer l.tries.Done()
	o := l.c.try(l.tryCtx, t)
	now := time.Now()
	l.c.slots.give(&l.share, max(now.Sub(t.began), 1))
	l.handIn(finished{t, o, now})
}
