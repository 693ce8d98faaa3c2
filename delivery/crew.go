package delivery

import "sync"

// crewIdle is how many goroutines of a crew wait for more work.
const crewIdle = 256

// crew does work that takes turns in goroutines: tries, lanes. A goroutine that has ended one piece of work waits for the next: a new one would have to
// grow its stack first, which costs as much as half of what net/http does on it. Safe for concurrent use.
type crew[W any] struct {
	do func(W)

	mu        sync.Mutex
	idle      []chan W // the one that was busy last comes last, and goes on first
	dismissed bool
	all       sync.WaitGroup
}

// start has a piece of work done.
func (c *crew[W]) start(w W) {
	c.mu.Lock()
	if n := len(c.idle); n > 0 {
		next := c.idle[n-1]
		c.idle = c.idle[:n-1]
		c.mu.Unlock()
		next <- w
		return
	}
	c.mu.Unlock()
	c.all.Go(func() { c.work(w) })
}

// work does one piece after the other, until there is no place to wait for the next, or no next.
func (c *crew[W]) work(w W) {
	next := make(chan W, 1)
	for more := true; more && c.waits(w, next); {
		w, more = <-next
	}
}

// waits does a piece of work, and says whether another may come.
func (c *crew[W]) waits(w W, next chan W) bool {
	c.do(w)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dismissed || len(c.idle) == crewIdle {
		return false
	}
	c.idle = append(c.idle, next)
	return true
}

// dismiss ends the crew when the work under way has ended. Nothing may be started any more.
func (c *crew[W]) dismiss() {
	c.mu.Lock()
	c.dismissed = true
	for _, next := range c.idle {
		close(next)
	}
	c.idle = nil
	c.mu.Unlock()
	c.all.Wait()
}
