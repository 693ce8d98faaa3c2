package gateway

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Rate is how much may be asked for: so many a second, and so many at once after a rest. The zero Rate is no limit.
type Rate struct {
	PerSecond float64
	Burst     int
}

// limited is the error of who has asked for too much.
type limited struct{ wait time.Duration }

// Error says it in words for the caller.
func (l *limited) Error() string {
	return fmt.Sprintf("too many requests, try again in %d s", l.seconds())
}

// Unwrap gives it its status.
func (l *limited) Unwrap() error { return errLimited }

// seconds is the wait in whole seconds, as Retry-After has it: never too short.
func (l *limited) seconds() int64 { return int64((l.wait + time.Second - 1) / time.Second) }

const (
	rateParts  = 50                     // an allowance is lent out by the fiftieth of a second
	rateTokens = 4096                   // whose allowance is remembered; past it those that rest are forgotten
	rateWait   = 100 * time.Millisecond // that a request waits for a lease that is under way
	rateRest   = time.Minute
)

// rates bounds what each token may ask for over all gateways. The allowance is kept in Redis; a gateway borrows small parts of it ahead of
// need, so that a request costs no round trip. It may use one part that it has not got yet, which it owes and pays with the next lease: so
// nothing is given twice, and at any time each gateway is off by one part at most. Safe for concurrent use.
type rates struct {
	store *AccessStore
	rate  Rate
	each  time.Duration // between two requests at the full rate
	part  int64

	mu  sync.RWMutex
	all map[tokenName]*allowance

	ending  sync.Mutex
	ended   bool
	leasing sync.WaitGroup
}

func newRates(store *AccessStore, rate Rate) *rates {
	r := &rates{store: store, rate: rate, all: map[tokenName]*allowance{}}
	if rate.PerSecond > 0 {
		r.each = time.Duration(float64(time.Second) / rate.PerSecond)
		r.part = int64(max(1, min(rate.PerSecond/rateParts, float64(rate.Burst)/4)))
	}
	return r
}

// end lets the leases under way end, and begins no more.
func (r *rates) end() {
	r.ending.Lock()
	r.ended = true
	r.ending.Unlock()
	r.leasing.Wait()
}

// begin says whether a lease may begin; who was told so calls leasing.Done.
func (r *rates) begin() bool {
	r.ending.Lock()
	defer r.ending.Unlock()
	if !r.ended {
		r.leasing.Add(1)
	}
	return !r.ended
}

// take is nil when a token may make one request more; else it says how long to wait.
func (r *rates) take(ctx context.Context, name tokenName) *limited {
	if r.rate.PerSecond <= 0 {
		return nil
	}
	return r.of(name).take(ctx)
}

// of is the allowance of a token.
func (r *rates) of(name tokenName) *allowance {
	r.mu.RLock()
	a := r.all[name]
	r.mu.RUnlock()
	if a != nil {
		return a
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if a = r.all[name]; a != nil {
		return a
	}
	if len(r.all) >= rateTokens {
		r.forget()
	}
	a = &allowance{of: r, key: arrivalKey("token", name)}
	r.all[name] = a
	return a
}

// forget drops the allowances that rest, or all of them when few do. What they had borrowed, or owe, is forgotten with them: a part at most.
func (r *rates) forget() {
	for name, a := range r.all {
		if time.Since(time.Unix(a.used.Load(), 0)) > rateRest {
			delete(r.all, name)
		}
	}
	if len(r.all) > rateTokens/2 {
		clear(r.all)
	}
}

// allowance is what this gateway has borrowed for one token.
type allowance struct {
	of   *rates
	key  string
	used atomic.Int64 // when, in s

	mu    sync.Mutex
	have  int64         // less than nothing: it is owed, one part at most
	until time.Time     // nothing is lent before
	lease chan struct{} // closed when the lease under way has ended; nil: none is
	alone time.Time     // what is kept in Redis, while Redis is away
}

// take takes one. It borrows when there is little left, and waits a moment for the lease when there is nothing.
func (a *allowance) take(ctx context.Context) *limited {
	ok, wait, lease := a.try(time.Now())
	if !ok && wait <= 0 {
		return a.await(ctx, lease)
	}
	if !ok {
		return &limited{wait: wait}
	}
	return nil
}

// await takes one when the lease under way has ended, or the one after it: others wait as well.
func (a *allowance) await(ctx context.Context, lease chan struct{}) *limited {
	ctx, cancel := context.WithTimeout(ctx, rateWait)
	defer cancel()
	for {
		select {
		case <-lease:
		case <-ctx.Done():
			return a.tryAlone(time.Now())
		}
		ok, wait, next := a.try(time.Now())
		switch {
		case ok:
			return nil
		case wait > 0:
			return &limited{wait: wait}
		}
		lease = next
	}
}

// try takes one if it may; else it says how long there will be none, or which lease to wait for.
func (a *allowance) try(now time.Time) (ok bool, wait time.Duration, lease chan struct{}) {
	a.used.Store(now.Unix())
	a.mu.Lock()
	defer a.mu.Unlock()
	wait = a.until.Sub(now)
	if a.have <= 0 && wait > 0 {
		return false, wait, nil
	}
	if a.have <= a.of.part/2 && wait <= 0 && a.lease == nil {
		a.borrow()
	}
	if a.have > 0 || a.of.part > 1 && a.have > -a.of.part {
		a.have--
		return true, 0, nil
	}
	return false, 0, a.lease
}

// borrow asks for what is owed and one part. It is called under a.mu.
func (a *allowance) borrow() {
	r, owed, ended := a.of, max(0, -a.have), make(chan struct{})
	a.lease = ended
	if !r.begin() {
		a.lease = nil
		a.have = r.part // this gateway is about to stop, and lets nobody wait
		return
	}
	go func() {
		defer r.leasing.Done()
		defer close(ended)
		lent, wait, err := r.store.lease(context.Background(), a.key, r.rate, owed, r.part)
		a.mu.Lock()
		defer a.mu.Unlock()
		if err != nil {
			lent, wait = a.lend(owed, time.Now())
		}
		a.lease = nil
		a.have += owed + lent
		if lent < r.part { // it is used up: who asks more often than this gets it in smaller pieces, but no more of it
			a.until = time.Now().Add(max(wait, time.Duration(r.part)*r.each/2))
		}
	}()
}

// tryAlone takes one without the store, which takes too long to answer.
func (a *allowance) tryAlone(now time.Time) *limited {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.have > 0 {
		a.have--
		return nil
	}
	lent, wait := a.lend(0, now)
	if lent == 0 {
		return &limited{wait: wait}
	}
	a.have += lent - 1
	return nil
}

// lend lends by this gateway's own clock, while the store is away: then the limit holds for each gateway by itself. It is called under a.mu.
func (a *allowance) lend(owed int64, now time.Time) (lent int64, wait time.Duration) {
	r := a.of
	if a.alone.Before(now) {
		a.alone = now
	}
	a.alone = a.alone.Add(time.Duration(owed) * r.each)
	room := now.Add(time.Duration(r.rate.Burst) * r.each).Sub(a.alone)
	lent = min(r.part, max(0, int64(room/r.each)))
	a.alone = a.alone.Add(time.Duration(lent) * r.each)
	if lent == 0 {
		wait = max(time.Microsecond, r.each-room)
	}
	return lent, wait
}
