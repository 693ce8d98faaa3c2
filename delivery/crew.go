package delivery

import "sync"

// crewIdle is how many goroutines wait for their next try.
const crewIdle = 256

// crew makes tries, each in a goroutine. One that has ended its try waits for the next: a new one would have to grow its stack first, which
// costs as much as half of what net/http does on it. Safe for concurrent use.
type crew struct {
	mu        sync.Mutex
	idle      []chan *task // the one that was busy last comes last, and goes on first
	dismissed bool
	all       sync.WaitGroup
}

// start makes a try of a task in hand; its lane is told when it has ended.
func (c *crew) start(t *task) {
	c.mu.Lock()
	if n := len(c.idle); n > 0 {
		next := c.idle[n-1]
		c.idle = c.idle[:n-1]
		c.mu.Unlock()
		next <- t
		return
	}
	c.mu.Unlock()
	c.all.Go(func() { c.work(t) })
}

// work makes one try after the other, until there is no place to wait for the next, or no next.
func (c *crew) work(t *task) {
	next := make(chan *task, 1)
	for t != nil && c.waits(t, next) {
		t = <-next
	}
}

// waits makes a try, and says whether another may come.
func (c *crew) waits(t *task, next chan *task) bool {
	t.lane.makeTry(t)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dismissed || len(c.idle) == crewIdle {
		return false
	}
	c.idle = append(c.idle, next)
	return true
}

// dismiss ends the crew when the tries under way have ended. Nothing may be started any more.
func (c *crew) dismiss() {
	c.mu.Lock()
	c.dismissed = true
	for _, next := range c.idle {
		next <- nil
	}
	c.idle = nil
	c.mu.Unlock()
	c.all.Wait()
}
