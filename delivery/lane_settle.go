package delivery

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/pulsegate/pulsegate/health"
)

// settle makes one round trip. It returns true when the lane has ended.
func (l *lane) settle() bool {
	call := l.settleCall()
	began := time.Now()
	stop := l.cutAtLeaseEnd()
	l.c.settles.do(call)
	stop()
	if call.err != nil {
		return l.storeAway(call.err)
	}
	if call.lost {
		l.c.metrics.lost.Inc()
		return true
	}
	l.take_ = false
	if call.trialFailed != "" {
		l.trialFail = 0
	}
	l.c.metrics.countSettled(call)
	if call.handedOff > 0 {
		l.c.changed()
		l.mu.Lock()
		l.outdated() // they are agents' now
		l.mu.Unlock()
	}
	l.outcomes = slices.Delete(l.outcomes, 0, len(call.outcomes)) // their room is used again
	l.plain = 0                                                   // if any are left they have waited long enough
	l.failing = len(l.outcomes) > 0 && l.failing
	l.heard(call.state, began)
	l.append(call)
	for i, t := range l.asking[:len(call.got)] {
		if t.tries == 0 { // a second try says who owned the conversation at the first
			t.owner, t.fresh, t.version = call.got[i], began, l.state.version
		}
	}
	clear(l.asking)
	if call.rested {
		l.c.slots.rested(&l.share)
		l.judgeNow()
		return true
	}
	if err := l.reload(); err != nil {
		l.reapBy(1) // what was found to be expired is looked for again
		return l.storeAway(err)
	}
	l.reaped(call)
	l.backoff = 0
	if l.judgeNow() || l.view.version != l.state.version {
		l.mu.Lock()
		l.again = true
		l.mu.Unlock()
		return false
	}
	l.launch()
	return false
}

func (l *lane) settleCall() *settleCall {
	n := min(len(l.outcomes), settleBatch)
	rest := l.idle() && n == len(l.outcomes) && (l.known || !l.take_) && !l.reapDue()
	room, bytes := l.room()
	renew := time.Since(l.renewed) >= renewEvery
	l.mu.Lock()
	l.more = l.more || renew // a renewal looks for what no message told of
	quiet := !renew && !l.again && !l.take_
	rest = rest && len(l.inbox) == 0 && len(l.finished) == 0
	if !l.more && !rest || l.releasing || bytes == 0 {
		room = 0
	}
	l.more, l.again = l.more && room == 0, false
	l.mu.Unlock()
	call := &l.call
	*call = settleCall{id: l.id, names: l.names, token: l.token, take: l.take_, cursor: l.cursor, outcomes: l.outcomes[:n:n], state: l.state}
	call.max, call.maxBytes, call.mayRest = room, bytes, rest
	if l.known && l.ramp.Width != l.state.reading.Notes.RampWidth {
		call.ramp = strconv.Itoa(l.ramp.Width)
	}
	if l.trialFail != 0 && n == len(l.outcomes) {
		call.trialFailed = strconv.FormatInt(l.trialFail, 10)
	}
	l.askForExpired(call)
	if l.asking = append(l.asking[:0], l.staged...); len(l.staged) > 0 {
		l.asking = l.lines.heads(l.asking, askAhead)
	}
	for _, t := range l.asking {
		call.owners = append(call.owners, t.author)
	}
	call.quiet = quiet && (room == 0 || rest) && call.ramp == "" && call.trialFailed == "" && call.reap == 0 && len(call.owners) == 0
	return call
}

// cutAtLeaseEnd ends the lane's tries at the moment when its lease ends, should it still be waiting for the store then: from that moment on somebody
// else may deliver. What it returns is to be called when it waits no more.
func (l *lane) cutAtLeaseEnd() (stop func()) {
	left := time.Until(l.leaseEnd)
	if l.running == 0 || left > 2*storeTimeout { // no wait is longer: for the batch before, and for its own
		return func() {}
	}
	end := time.AfterFunc(left, l.stopTries)
	return func() {
		if !end.Stop() {
			l.releasing, l.resumes = true, false // its tries cannot begin any more, whatever the store said in the end
		}
	}
}

// storeAway keeps the outcomes and tries again later. Past the lease's end tries are ended: somebody else may deliver.
func (l *lane) storeAway(err error) bool {
	l.mu.Lock()
	l.more, l.again = true, true // whatever was to be heard was not
	l.mu.Unlock()
	l.unstage()
	l.c.mu.Lock()
	draining := !l.c.running
	l.c.mu.Unlock()
	if draining && len(l.outcomes) == 0 && l.running == 0 {
		return true // nothing is owed: the lease runs out by itself
	}
	if l.c.tryCtx.Err() != nil || l.take_ && time.Since(l.born) > leaseTime {
		return true // stopping, or the lease was never ours; until then the reply that was lost may have given it
	}
	if l.backoff == 0 {
		l.c.unwell.warn(l.c.log, "registrations are not served for the moment", l.id, err)
	}
	l.backoff = min(max(2*l.backoff, 100*time.Millisecond), time.Second)
	timer := time.NewTimer(l.backoff)
	defer timer.Stop()
	defer l.cutAtLeaseEnd()()
	select {
	case <-timer.C:
	case <-l.c.store.reach.backOf(l.names.shard):
	case <-l.c.tryCtx.Done():
	}
	return false
}

func (l *lane) heard(st laneState, began time.Time) {
	was, is := l.state.reading.Standing, st.reading.Standing
	if l.known && is.Number != was.Number && (is.State == health.Down || was.State == health.Down || is.State == health.Healthy && !is.Verified) {
		l.narrow = is.Number
	}
	l.state, l.known = st, true
	if st.lease > 0 {
		l.renewed, l.leaseEnd = began, began.Add(st.lease)
	}
	if w := st.reading.Notes.RampWidth; w != l.ramp.Width {
		l.ramp = health.Ramp{Width: w}
	}
}

// append takes in the events that were read.
func (l *lane) append(call *settleCall) {
	size := 0
	l.whole = l.whole || call.cursor == "0-0"
	for _, q := range call.events {
		size += len(q.body)
		if after(q.sid, l.cursor) {
			l.cursor = q.sid
			if l.tried[q.sid] == nil { // a lane that took up the queue again finds what is under way there, too
				l.push(newTask(q, &l.c.parser))
			}
		}
	}
	if len(call.events) > 0 && (len(call.events) == call.max || size >= call.maxBytes || l.holding()) {
		l.mu.Lock()
		l.more = true
		l.mu.Unlock()
		return
	}
	if call.max > 0 && !call.quiet && l.state.reading.Standing.State != health.Down {
		l.missing()
	}
}

// missing compares what waits with what the lane has in hand, all of it having been read. A store that has forgotten settlements has the events in its
// queue again, behind the cursor: the next lane reads that from its beginning. What is missing after such a reading is an error of the books.
func (l *lane) missing() {
	n := l.state.waiting - int64(l.lines.events+l.under+len(l.outcomes))
	if l.whole {
		l.astray, l.whole = max(n, 0), false
	} else if n > l.astray {
		l.resumes = false
		l.release()
	}
}

// judgeNow judges what was heard and says whether that changed anything.
func (l *lane) judgeNow() bool {
	if len(l.outcomes) > 0 {
		return false // more to settle first
	}
	changed, err := l.c.judge(context.Background(), l.id, l.state.reading)
	if err != nil {
		l.c.unwell.warn(l.c.log, "judgements not stored, will be repeated", l.id, err)
	}
	return changed
}

// reload makes sure that the registration is that of the version just heard, or of a later one.
func (l *lane) reload() error {
	if l.view != nil && l.view.version == l.state.version {
		return nil
	}
	v := l.c.views.get(l.id.Entity)
	if v == nil || v.version != l.state.version {
		var err error
		err = l.c.store.single(l.tryCtx, func(ctx context.Context) error {
			v, err = l.c.viewOf(ctx, l.id.Entity, true)
			return err
		})
		if err != nil {
			return err
		}
	}
	if v.hidden(l.id.AppID) { // it is not deleted: its events wait
		return errHidden
	}
	before := l.timeToLive()
	l.view, l.reg = v, v.find(l.id.AppID)
	if l.reg != nil {
		l.pace.limit(l.reg.MaxPerSecond, time.Now(), l.others)
	}
	if l.timeToLive() != before {
		l.reapBy(1) // what was read before may have expired by what it says now
	}
	return nil
}

var errHidden = errors.New("the registration cannot be read")
