package delivery

import (
	"sync/atomic"
	"time"

	"github.com/pulsegate/pulsegate/health"
)

// What all lanes of a replica may hold together, however many registrations have a backlog.
const (
	readAheadAll  = 32 << 20 // bytes of events that were read and have no fate yet
	readAheadEach = 1 << 10  // that an event takes beside its body
	lanesMost     = 2048     // registrations worked on, before those that waited take turns
	claimsPart    = 8        // of these, that a look claims even then
	turnTime      = 2 * time.Second
)

// readAhead is what all lanes hold. When that is much, a lane that has less than its share still reads on: so memory is bounded, and
// whoever holds much for a slow bot takes nothing from the others. Safe for concurrent use.
type readAhead struct{ bytes, lanes atomic.Int64 }

// leave is called when a lane ends that held so much.
func (r *readAhead) leave(held int64) {
	r.bytes.Add(-held)
	r.lanes.Add(-1)
}

// share is what each lane may hold in any case.
func (r *readAhead) share() int64 { return readAheadAll / max(1, r.lanes.Load()) }

// noteHeld brings what all lanes hold up to date with what this one does.
func (l *lane) noteHeld() {
	held := int64(l.lines.bytes + l.lines.events*readAheadEach + (l.under+len(l.outcomes))*(l.mean+readAheadEach))
	if held != l.held {
		l.c.ahead.bytes.Add(held - l.held)
		l.held = held
	}
}

// mayHold says whether the lane may take in more.
func (l *lane) mayHold() bool {
	events, bytes := l.room()
	return events > 0 && bytes > 0
}

// room is how many events and bytes the lane may read.
func (l *lane) room() (events, bytes int) {
	if l.holding() && l.lines.events > 0 {
		return 0, 0 // the trial is at hand, and what it decides
	}
	events, bytes = l.lines.room()
	share := l.c.ahead.share()
	if free := readAheadAll - l.c.ahead.bytes.Load(); free > int64(bytes) || l.held == 0 && share > int64(bytes) {
		return events, bytes
	}
	left := share - l.held
	if l.held == 0 {
		left = max(left, 1) // one event, however big
	}
	if left <= 0 {
		return 0, 0
	}
	return min(events, int(left)/(l.mean+readAheadEach)+1), min(bytes, int(left))
}

// turns is the order of those that are due when there are more than a replica works on at once. Its look belongs to one goroutine.
type turns struct {
	most    int64
	looks   int         // so far
	crowded atomic.Bool // the last look left some
}

// claims is how many registrations of each shard this look may claim beside so many lanes. Some may always: those that wait come to their
// turn whoever else is busy.
func (t *turns) claims(lanes int64) (of [health.Shards]int) {
	n := int(max(t.most/claimsPart, t.most-lanes, 1))
	t.looks++
	for i := range of {
		if of[i] = n / health.Shards; (i+t.looks)%health.Shards < n%health.Shards {
			of[i]++
		}
	}
	return of
}

// turnOver says that others wait for this lane's place: it gives the registration back, which is due again behind them.
func (l *lane) turnOver() bool { return l.c.turns.crowded.Load() && time.Since(l.born) > turnTime }
