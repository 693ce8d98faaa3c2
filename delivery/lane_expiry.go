package delivery

import (
	"slices"
	"time"
)

// An event whose time is up before its first try is of no use to anybody: it gets its fate without one. Which events those are is known to
// the store alone, which holds them all; the lane asks it when the first of them has expired, and says which ones it is at. Nothing here
// asks for a timer for each event: there is one moment for each lane, and one entry in due for a registration without.

const (
	reapBatch = settleBatch
	reapEvery = 100 * time.Millisecond // at most, unless there is more than fits into one batch
	reapTried = 500 * time.Millisecond // while something is under way that hides, in the store's answers, what expires behind it
)

// timeToLive is how long an event may wait for its first try by what its registration says; 0 means for ever.
func (l *lane) timeToLive() time.Duration {
	switch {
	case l.reg == nil:
		return 0
	case l.reg.TimeToLive == 0 && l.reg.WhenDown == Hold:
		return l.c.cfg.HoldTime
	}
	return l.reg.TimeToLive
}

// expiresAt is when a task that was not tried has expired, in ms of the store's clock; 0 means never.
func (l *lane) expiresAt(t *task) int64 {
	at := int64(0)
	if t.origin == "" && t.ev != nil {
		at = t.ev.expires
	}
	if ttl := l.timeToLive(); ttl > 0 {
		accepted, _ := splitID(t.sid)
		if own := int64(accepted) + ttl.Milliseconds(); at == 0 || own < at {
			at = own
		}
	}
	return at
}

// expired says that a task's time is up, as far as that is known here.
func (l *lane) expired(t *task) bool {
	if t.tries > 0 {
		return false // an event under way is not cut off
	}
	at := l.expiresAt(t)
	return t.dead || at > 0 && l.c.store.now().UnixMilli() >= at
}

// reapBy makes sure that the lane looks for expired events at a moment, in ms; 0 is none.
func (l *lane) reapBy(at int64) {
	if at > 0 && (l.reapAt == 0 || at < l.reapAt) {
		l.reapAt = at
	}
}

// reapDue says that it is time to look for expired events.
func (l *lane) reapDue() bool { return l.reapAt > 0 && l.c.store.now().UnixMilli() >= l.reapAt }

// reapTime is when that is by this machine's clock.
func (l *lane) reapTime() time.Time {
	return time.Now().Add(time.Duration(l.reapAt-l.c.store.now().UnixMilli()) * time.Millisecond)
}

// askForExpired makes a settle call ask for what has expired. All that is known to have must go with it, so that nothing comes twice.
func (l *lane) askForExpired(call *settleCall) {
	if !l.reapDue() || len(call.outcomes) < len(l.outcomes) {
		return
	}
	call.reap, call.reapBytes = reapBatch, readAheadBytes
	for sid := range l.tried {
		call.tried = append(call.tried, sid)
	}
}

// reaped takes in what a settle call found to be expired.
func (l *lane) reaped(call *settleCall) {
	if call.reap == 0 {
		l.reapBy(l.beyondReaped(call.state.expires))
		return
	}
	now := l.c.store.now()
	l.reapedAt, l.reapAt = now.UnixMilli(), 0
	for _, t := range l.tried {
		if at := l.expiresAt(t); at > 0 && at <= l.reapedAt {
			l.reapBy(now.Add(reapTried).UnixMilli())
			break
		}
	}
	if full := call.reapNext > 0 && len(call.reaped) > 0 && call.reapNext <= l.reapedAt; full {
		l.reapBy(l.reapedAt)
	} else if call.reapNext > 0 {
		l.reapBy(max(call.reapNext, now.Add(reapEvery).UnixMilli()))
	}
	for _, q := range call.reaped {
		t := l.unread(q)
		t.dead, t.reg = true, l.reg
		_, fate := l.dispose(t)
		l.outcomes = append(l.outcomes, t.settledAs(fate, l.state.reading.Standing))
	}
}

// beyondReaped is a moment that the store named, unless it is that of an event which the lane has at hand since it looked last.
func (l *lane) beyondReaped(at int64) int64 {
	if at <= l.reapedAt {
		return 0
	}
	return at
}

// unread takes a task out of what waits in the lane, or makes it when it was not read yet.
func (l *lane) unread(q queuedEvent) *task {
	if i := slices.IndexFunc(l.staged, func(t *task) bool { return t.sid == q.sid }); i >= 0 {
		t := l.staged[i]
		l.staged = slices.Delete(l.staged, i, i+1)
		l.c.slots.give(&l.share, 0)
		l.under--
		l.lines.passed(t.author)
		return t
	}
	if t := l.lines.remove(q.author, q.sid); t != nil {
		return t
	}
	return newTask(q, &l.c.parser)
}

// left notes that a task is under way no more.
func (l *lane) left(t *task) {
	l.under--
	delete(l.tried, t.sid)
}

// push takes in an event to be tried.
func (l *lane) push(t *task) {
	l.lines.push(t)
	l.mean = (3*l.mean + len(t.body)) / 4
	l.reapBy(l.expiresAt(t))
}
