package delivery

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/pulsegate/pulsegate/health"
)

const (
	renewEvery  = 2 * time.Second
	settleBatch = 256
	linger      = 500 * time.Millisecond // how long a lane without work keeps its lease, where events come so close to each other
)

// lane works on one registration for as long as this replica holds its lease. It alone starts, settles and judges the registration's
// deliveries. Its fields below the mutex belong to its goroutine.
type lane struct {
	c     *Carrier
	id    RegID
	names *names
	token string
	nudge chan struct{}

	mu       sync.Mutex
	inbox    []offered
	finished []finished
	more     bool      // the queue may hold events after the cursor
	wakes    time.Time // when the timer ends
	quiet    bool      // nobody waits for the end of a try: the lane need not be woken for one

	take_     bool // the lease is not ours yet: the first settle claims it
	view      *view
	swept     string // the cut that no event read so far is under
	reg       *held  // nil when deleted
	state     laneState
	known     bool // state has been heard
	cursor    string
	lines     lines
	held      int64 // as all lanes together know it
	mean      int   // bytes of an event
	under     int   // staged, running or waiting for their second try
	running   int
	staged    []*task // start after the next reply
	asking    []*task // staged, and those that may start next: whose conversation it is is asked
	retries   []*task
	tried     map[string]*task // under way, by stream id: they do not expire
	reapAt    int64            // when to look for what has expired, in ms of the store's clock; 0: never
	reapedAt  int64            // when that was done last
	outcomes  []settled
	plain     int       // of them: acknowledgements that change nothing but counts
	settleBy  time.Time // when these are settled at the latest
	failing   bool      // outcomes holds a failure: nothing starts before it is judged
	trialFail int64     // the number of the transition whose trial failed, or 0
	born      time.Time
	again     bool      // what was heard is out of date: ask before anything starts
	changed   time.Time // and then by nothing that is known from before
	releasing bool      // the lease ended, the process drains, or events are held: finish and give back
	ramp      health.Ramp
	share     share // of the tries in flight
	asked     bool  // for a slot, in vain
	pace      pace
	others    bool      // another process may have made tries a moment ago
	refused   bool      // a try could begin but for the tries in flight, or
	paced     bool      // but for the pace
	short     time.Time // the process had no file left: no try begins before
	narrow    int64     // the transition since which the width is narrow: what began before does not count
	astray    int64     // events that wait by the books and are nowhere
	whole     bool      // the queue is being read from its beginning
	resumes   bool      // releasing only for a pause: when that is over the lane goes on
	renewed   time.Time
	leaseEnd  time.Time
	worked    time.Time // when there was work last
	linger    time.Duration
	backoff   time.Duration
	tryCtx    context.Context
	stopTries context.CancelFunc
	tries     sync.WaitGroup
	timer     *time.Timer
	call      settleCall // the latest: there is one at a time
}

// offered is an event that this replica has just stored, and the id before it in the queue.
type offered struct {
	*task
	previous string
}

// finished is a try that ended.
type finished struct {
	t  *task
	o  outcome
	at time.Time
}

// startLane starts a lane for a lease that came with an accept, on the events that came with it. If others wait there too, it reads
// the queue from its beginning.
func (c *Carrier) startLane(cl *claimed, offers []offered, began time.Time) {
	l := c.newLane(cl.target.RegID, cl.target.names, cl.token)
	l.heard(cl.lane, began)
	l.others = cl.over
	l.reg, l.inbox = cl.target, offers
	l.pace.limit(l.reg.MaxPerSecond, began, l.others)
	l.cursor, l.more = "0-0", int64(len(offers)) < cl.lane.waiting
	if !l.more && len(offers) > 0 {
		l.cursor = offers[0].previous
	}
	l.begin()
}

// claim starts a lane that takes the lease first, unless this replica works on the registration already; then it returns false.
func (c *Carrier) claim(id RegID) bool {
	c.mu.Lock()
	busy := c.lanes[id] != nil
	c.mu.Unlock()
	if busy {
		return false
	}
	l := c.newLane(id, id.names(), c.token())
	l.take_, l.more, l.cursor, l.others = true, true, "0-0", true
	l.begin()
	return true
}

func (c *Carrier) newLane(id RegID, n *names, token string) *lane {
	l := &lane{c: c, id: id, names: n, token: token, born: time.Now(), timer: time.NewTimer(time.Hour), nudge: make(chan struct{}, 1), lines: lines{m: map[string]*line{}}, tried: map[string]*task{}}
	l.tryCtx, l.stopTries = context.WithCancel(c.tryCtx)
	l.share = c.slots.join(id, l.nudge)
	if c.slots.restedWithin(&l.share, linger) {
		l.linger = linger
	}
	return l
}

// begin registers the lane and runs it, unless the process drains: then it gives the lease back. A lane that is ending may still stand in
// its place: that one gave its lease back.
func (l *lane) begin() {
	l.c.mu.Lock()
	draining := !l.c.running
	if draining || l.take_ && l.c.lanes[l.id] != nil { // or an accept was faster: it has the lease
		l.c.mu.Unlock()
		l.stopTries()
		if draining && !l.take_ {
			l.c.settles.do(&settleCall{id: l.id, names: l.names, token: l.token, cursor: "0-0", mayRest: true})
		}
		return
	}
	defer l.c.mu.Unlock()
	l.c.lanes[l.id] = l
	l.c.ahead.lanes.Add(1)
	l.c.laneWork.start(l)
}

// live is a lane's life, from its registration on.
func (l *lane) live() {
	l.runUnharmed()
	l.c.ahead.leave(l.held)
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	if l.c.lanes[l.id] == l {
		delete(l.c.lanes, l.id)
	}
}

// runUnharmed ends the lane at a panic, not the process: when its lease has ended, somebody begins anew.
func (l *lane) runUnharmed() {
	defer func() {
		if p := recover(); p != nil {
			l.c.log.Error("lane panicked", "registration", l.names.member, "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
		}
	}()
	l.run()
}

func (l *lane) poke() {
	select {
	case l.nudge <- struct{}{}:
	default:
	}
}

// take is given an event that was just stored.
func (l *lane) take(o offered) {
	l.mu.Lock()
	l.inbox = append(l.inbox, o)
	if o.kind == 'c' || o.kind == 'd' { // it says whose the conversation is
		l.outdated()
	}
	l.mu.Unlock()
	l.poke()
}

// readOn is told that the queue may have more.
func (l *lane) readOn() {
	l.mu.Lock()
	l.more = true
	l.outdated()
	l.mu.Unlock()
	l.poke()
}

// outdated says that the registration or a conversation may have changed: nothing starts by what was heard before. The lane is locked.
func (l *lane) outdated() { l.again, l.changed = true, time.Now() }

func (l *lane) run() {
	defer l.tries.Wait()
	defer l.stopTries()
	defer l.leave()
	defer l.timer.Stop()
	for {
		l.collect()
		l.stage()
		l.noteHeld()
		if l.mustSettle() {
			if l.settle() {
				return
			}
			continue
		}
		l.wait()
	}
}

// collect takes in what happened since the last turn.
func (l *lane) collect() {
	l.mu.Lock()
	inbox, ended := l.inbox, l.finished
	l.inbox, l.finished = nil, nil
	l.mu.Unlock()
	for _, f := range ended {
		l.ended(f)
	}
	for _, o := range inbox {
		switch {
		case !after(o.sid, l.cursor):
		case o.previous == l.cursor && l.mayHold() && !l.releasing:
			l.cursor = o.sid
			l.push(o.task)
		default:
			l.mu.Lock()
			l.more = true
			l.mu.Unlock()
		}
	}
	l.c.mu.Lock()
	draining := !l.c.running
	l.c.mu.Unlock()
	switch {
	case draining, l.known && time.Now().After(l.leaseEnd), l.turnOver():
		l.resumes = false
		l.release()
	case l.holds():
		l.resumes = l.resumes || !l.releasing
		l.release()
	case l.resumes && len(l.outcomes) == 0 && l.trialFail == 0:
		l.resume()
	case l.releasing:
		l.release() // whatever the last reply brought
	}
}

// release stops new work. What runs may finish, unless the lease is over: then somebody else may be delivering already.
func (l *lane) release() {
	l.releasing = true
	if l.known && time.Now().After(l.leaseEnd) {
		l.stopTries()
		for _, t := range l.retries {
			l.left(t)
		}
		l.retries = nil
	}
	keep := l.staged[:0]
	for _, t := range l.staged {
		if t.tries > 0 {
			keep = append(keep, t)
		} else {
			l.under--
			l.c.slots.give(&l.share, 0)
		}
	}
	l.staged = keep
	l.lines = lines{m: map[string]*line{}}
}

// ended takes in one try.
func (l *lane) ended(f finished) {
	t := f.t
	l.running--
	switch {
	case f.o.cancelled:
		l.left(t)
		return // no outcome: whoever holds the lease next delivers it
	case f.o.short:
		l.shortOf(t)
		return
	}
	t.tries++
	t.last = f.o
	if !f.o.acknowledged() && t.tries < maxTries && !t.debug && f.o.class != health.Blocked {
		t.retryAt = time.Now().Add(retryWait(f.o))
		l.retries = append(l.retries, t)
		return
	}
	l.conclude(t)
	if n := len(l.outcomes); n > 0 && l.outcomes[n-1].sid == t.sid && l.outcomes[n-1].plain() {
		if l.plain++; n == 1 {
			l.settleBy = l.c.beatAfter(f.at)
		}
	}
}

// conclude gives a tried task its fate.
func (l *lane) conclude(t *task) {
	fate := Failed
	if t.last.acknowledged() {
		fate = Delivered
	}
	if !t.debug {
		l.ramp = l.ramp.Count(fate == Delivered, l.limit())
		l.failing = l.failing || fate == Failed
		if t.trial != 0 && fate == Failed {
			l.trialFail = t.trial
		}
	}
	if fate == Failed && l.isTrial(t) && t.reg.WhenDown == Hold {
		l.resumes = l.resumes || !l.releasing
		l.left(t) // it stays at the head of the queue, without a fate, and is read again from there
		l.release()
		return
	}
	l.finish(t, fate)
}

func (l *lane) finish(t *task, fate Fate) {
	l.left(t)
	l.lines.done(t.author)
	l.outcomes = append(l.outcomes, t.settledAs(fate, l.state.reading.Standing))
}

func (l *lane) limit() int {
	if l.reg != nil && l.reg.MaxConcurrency > 0 {
		return l.reg.MaxConcurrency
	}
	return DefaultConcurrency
}

func (l *lane) mustSettle() bool {
	l.mu.Lock()
	more, again := l.more, l.again
	l.mu.Unlock()
	room, bytes := l.room()
	switch {
	case len(l.staged) > 0, again, l.take_, l.trialFail != 0, l.reapDue():
		return true
	case more && room > 0 && bytes > 0 && !l.releasing:
		return true
	case len(l.outcomes) > 0:
		return !l.defers()
	case l.idle():
		return true
	}
	return time.Since(l.renewed) >= renewEvery
}

// idle says that the lane has had no work for a while, or may take none: it gives the lease back.
func (l *lane) idle() bool {
	if l.under > 0 || l.lines.events > 0 {
		l.worked = time.Now()
		return false
	}
	return !time.Now().Before(l.idleAt())
}

// idleAt is when a lane without work gives the lease back.
func (l *lane) idleAt() time.Time {
	at := l.worked.Add(l.linger)
	if l.releasing || l.view != nil && l.reg == nil { // the next event is not for this lane
		at = l.worked
	}
	if l.pace.next.After(at) { // so that the next lane owes nothing
		at = l.pace.next
	}
	return at
}
