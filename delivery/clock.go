package delivery

import (
	"sync/atomic"
	"time"
)

// clock is the store's clock, as well as this replica knows it. The wall clock of a gateway decides nothing: what passes between two
// answers of the store is measured by it, and a step of it does not count as passing, since Go measures by the clock that never steps.
// Safe for concurrent use.
type clock struct {
	wall   func() time.Time
	began  time.Time
	offset atomic.Int64 // what the store's clock showed when ours began, in ms; a guess until the store has been heard
}

func newClock(wall func() time.Time) *clock {
	if wall == nil {
		wall = time.Now
	}
	c := &clock{wall: wall, began: wall()}
	c.offset.Store(c.began.UnixMilli())
	return c
}

// passed is how long this clock has run, in ms.
func (c *clock) passed() int64 { return c.wall().Sub(c.began).Milliseconds() }

// now is the store's time.
func (c *clock) now() time.Time { return time.UnixMilli(c.offset.Load() + c.passed()) }

// heard notes the store's time from a reply, in ms.
func (c *clock) heard(ms int64) {
	if ms > 0 {
		c.offset.Store(ms - c.passed())
	}
}
