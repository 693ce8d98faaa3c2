package notify

import (
	"math/rand/v2"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
)

// schedule says when a failed entry is tried again: after first, doubling up to most.
type schedule struct{ first, most time.Duration }

// The schedules of the three lanes.
var (
	mailSchedule     = schedule{5 * time.Second, 15 * time.Minute}
	platformSchedule = schedule{time.Second, 10 * time.Minute}
	jobSchedule      = schedule{time.Second, time.Minute}
)

// longestRetryAfter bounds what a Retry-After of the platform can ask for.
const longestRetryAfter = 10 * time.Minute

// after is the wait behind the given number of failed tries, up to a fifth shorter by chance, so that entries that failed together
// do not all come back together.
func (s schedule) after(tries int) time.Duration {
	wait := s.first
	for i := 1; i < tries && wait < s.most; i++ {
		wait *= 2
	}
	wait = min(wait, s.most)
	return wait - rand.N(wait/5+1)
}

// finish ends an entry in a final state; why may be empty.
func finish(e delivery.Entry, state delivery.EntryState, now time.Time, why string) delivery.Entry {
	e.State, e.DoneAt, e.NextTry, e.LastError = state, now.UnixMilli(), 0, line(why, 300)
	return e
}

// done ends an entry that was told.
func done(e delivery.Entry, now time.Time) delivery.Entry {
	e.Tries++
	return finish(e, delivery.EntryDone, now, "")
}

// keep ends an entry that there is nobody to tell.
func keep(e delivery.Entry, now time.Time, why string) delivery.Entry {
	return finish(e, delivery.EntryKept, now, why)
}

// refuse ends an entry that was refused for good.
func refuse(e delivery.Entry, now time.Time, why string) delivery.Entry {
	e.Tries++
	return finish(e, delivery.EntryRefused, now, why)
}

// again counts a failed try and makes the entry due after wait, or gives it up when that is past its deadline.
func again(e delivery.Entry, now time.Time, wait, deadline time.Duration, why string) delivery.Entry {
	e.Tries++
	next := now.Add(wait)
	if tooLate(e, next, deadline) {
		return finish(e, delivery.EntryGivenUp, now, why)
	}
	e.State, e.NextTry, e.LastError = delivery.EntryPending, next.UnixMilli(), line(why, 300)
	return e
}

// later makes an entry due after wait without counting a try: the fault was not the receiver's.
func later(e delivery.Entry, now time.Time, wait time.Duration) delivery.Entry {
	e.State, e.NextTry = delivery.EntryPending, now.Add(wait).UnixMilli()
	return e
}

// tooLate reports whether at is past the time that an entry may be tried.
func tooLate(e delivery.Entry, at time.Time, deadline time.Duration) bool {
	return at.Sub(time.UnixMilli(e.At)) > deadline
}
