package delivery

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// Accept takes events in and returns one receipt for each, in order, within two seconds. A receipt without Err means that the store has
// the event. The company is the caller's; an event for another company's coordinate is an unknown entity.
func (c *Carrier) Accept(ctx context.Context, company string, events []Incoming) []Receipt {
	until := time.Now().Add(acceptTime)
	if at, ok := ctx.Deadline(); ok && at.Before(until) {
		until = at
	}
	receipts := make([]Receipt, len(events))
	work := make([]*accepted, len(events))
	for i, in := range events {
		ev, err := in.event, error(nil)
		if ev == nil {
			ev, err = c.parser.parse(in.Body)
		}
		if err == nil && ev.entity.CompanyKey != company {
			err = ErrUnknownEntity
		}
		if err != nil {
			receipts[i].Err = err
			continue
		}
		work[i] = &accepted{ev: ev, part: newPart(c.store.now().UnixMilli()), key: in.Key}
		if ev.ownID != "" {
			work[i].key = "id:" + ev.ownID
		} else if in.Key != "" {
			work[i].key = "key:" + in.Key
		}
	}
	c.acceptAll(ctx, until, work)
	for i, ac := range work {
		if ac != nil {
			receipts[i] = ac.receipt()
		}
	}
	c.metrics.countReceipts(receipts)
	return receipts
}

func (ac *accepted) receipt() Receipt {
	switch {
	case ac.err != nil:
		return Receipt{Err: ac.err}
	case ac.state == "reused":
		return Receipt{Err: ErrKeyReused}
	case ac.state == "ok" || ac.state == "seen":
		return Receipt{ID: ac.view.regs[0].names.events + ac.part, Fate: ac.fate}
	default:
		return Receipt{Err: unavailable("accept", errors.New("the registrations kept changing"))}
	}
}

// acceptAll stores the events, repeating those whose registrations had changed: each time because somebody else got something done.
func (c *Carrier) acceptAll(ctx context.Context, until time.Time, work []*accepted) {
	for range 50 { // or until the time is up
		var left []*accepted
		for _, ac := range work {
			if ac != nil && ac.err == nil && (ac.state == "" || ac.state == "stale") {
				left = append(left, ac)
			}
		}
		if len(left) == 0 {
			return
		}
		c.acceptOnce(ctx, until, left)
	}
}

func (c *Carrier) acceptOnce(ctx context.Context, until time.Time, work []*accepted) {
	fresh := map[Entity]*view{} // a stale entity is loaded once
	var calls []*acceptCall     // one for each shard
	for _, ac := range work {
		e := ac.ev.entity
		v := fresh[e]
		if v == nil {
			stale := ac.state == "stale"
			if v, ac.err = c.viewBy(ctx, until, e, stale); ac.err == nil && !stale && v.hidesLive() { // is it still so?
				v, ac.err = c.viewBy(ctx, until, e, true)
			}
			if ac.err != nil {
				continue
			}
			if len(work) > 1 {
				fresh[e] = v
			}
		}
		if ac.err = ac.again.refusal(v); ac.err != nil {
			continue
		}
		switch {
		case v.hidesLive():
			ac.err = unavailable("accept", errHidden)
			continue
		case len(v.regs) == 0:
			ac.err = ErrUnknownEntity
			continue
		}
		ac.view = v
		sh := v.regs[0].names.shard
		i := slices.IndexFunc(calls, func(call *acceptCall) bool { return call.shard == sh })
		if i < 0 {
			i = len(calls)
			calls = append(calls, &acceptCall{shard: sh, until: until})
		}
		calls[i].events = append(calls[i].events, ac)
	}
	var wg sync.WaitGroup
	for _, call := range calls {
		switch err := c.store.reach.acceptRefusal(call.shard); {
		case err != nil:
			call.refuse(err)
		case len(calls) == 1:
			c.accepts.do(call)
		default:
			wg.Go(func() { c.accepts.do(call) })
		}
	}
	wg.Wait()
}

// viewBy returns what is known of an entity, loaded by a moment if it must be.
func (c *Carrier) viewBy(ctx context.Context, until time.Time, e Entity, anew bool) (*view, error) {
	if v := c.views.get(e); v != nil && !anew {
		return v, nil
	}
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	return c.viewOf(ctx, e, true)
}

// refuse leaves an error of the store with every event of a call.
func (call *acceptCall) refuse(err error) {
	for _, ac := range call.events {
		ac.err = unavailable("accept", err)
	}
}

// late refuses a call that has waited in the queue for so long that a batch might not end in time. Nothing of it was sent.
func (call *acceptCall) late() bool {
	if time.Until(call.until) > batchTime-lateBy {
		return false
	}
	call.refuse(errQueued)
	return true
}

// lateBy is what a call that waited for one whole batch may be late without harm.
const lateBy = 50 * time.Millisecond

var errQueued = &StoreError{Condition: StoreAway, what: "wait for others", err: errors.New("the store takes too long")}

// weigh is how much of a batch a call takes: its events, and its bytes where they are many.
func (call *acceptCall) weigh() int {
	n := len(call.events)
	for _, ac := range call.events {
		n += len(ac.ev.body) / weightBytes
	}
	return n
}

// What one batch holds, so that no script keeps Redis from others for long.
const (
	batchWeight = 512
	weightBytes = 4 << 10 // that count as much as an event
)

// viewOf returns what is known of an entity, loading it when nothing is known or anew is set.
func (c *Carrier) viewOf(ctx context.Context, e Entity, anew bool) (*view, error) {
	if v := c.views.get(e); v != nil && !anew {
		return v, nil
	}
	v, err := c.store.loadView(ctx, e)
	if err != nil {
		return nil, err
	}
	c.views.put(e, v)
	return v, nil
}

// freshView loads an entity for a caller that brings no events. Only what is remembered anyway is brought up to date: what has no
// traffic takes no memory here.
func (c *Carrier) freshView(ctx context.Context, e Entity) (*view, error) {
	v, err := c.store.loadView(ctx, e)
	if err == nil && c.views.get(e) != nil {
		c.views.put(e, v)
	}
	return v, err
}

// runAccepts carries out one group commit and hands what was queued to the lanes of this replica.
func (c *Carrier) runAccepts(calls []*acceptCall) {
	began := time.Now()
	c.store.accept(calls, c.acceptToken, c.leaseOf, limits{c.cfg.QueueEvents, c.cfg.QueueBytes})
	for _, call := range calls {
		for i := range call.claims {
			cl := &call.claims[i]
			c.startLane(cl, offersFor(calls, cl.target), began)
		}
	}
	for _, call := range calls {
		for _, ac := range call.events {
			c.metrics.countFates(ac)
			for _, f := range ac.fates {
				if f.sid != "" {
					c.offer(ac, f)
				}
			}
			if ac.state == "ok" && ac.fate != Queued {
				c.changed()
			}
		}
	}
}

// offersFor are the events that calls put into a registration's queue, in order.
func offersFor(calls []*acceptCall, target *held) []offered {
	var out []offered
	for _, call := range calls {
		for _, ac := range call.events {
			for _, f := range ac.fates {
				if f.sid != "" && f.target == target {
					out = append(out, ac.offer(f))
				}
			}
		}
	}
	return out
}

func (ac *accepted) offer(f acceptedFate) offered {
	ev := ac.ev
	return offered{&task{
		sid: f.sid, part: ac.part, origin: ac.origin(), body: ev.body, author: ev.author, kind: ev.kind, ev: ev, owner: ac.owner, version: ac.view.version,
		fresh: time.Now(),
	}, f.previous}
}

// offer hands an event that was just stored to the lane, if it is this replica's, so that it need not be read again.
func (c *Carrier) offer(ac *accepted, f acceptedFate) {
	c.mu.Lock()
	l := c.lanes[f.target.RegID]
	c.mu.Unlock()
	if l != nil {
		l.take(ac.offer(f))
	}
}
