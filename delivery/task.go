package delivery

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/pulsegate/pulsegate/health"
)

const (
	maxTries   = 2
	retryDelay = 200 * time.Millisecond
	retryMax   = 2 * time.Second
	askAhead   = 256                    // events that may start next, whose owners are asked together with those of events that start now
	freshFor   = 100 * time.Millisecond // how long what a reply said may be acted on without asking again
)

// task is one delivery in the hands of a lane.
type task struct {
	sid     string
	part    string
	origin  string // part of the event that it delivers once more, or ""
	body    []byte
	author  string
	kind    byte
	ev      *event // nil when the stored event cannot be read
	owner   Owner
	version string    // of the entity, when fresh was said
	fresh   time.Time // when owner and registration were known to be right; zero: ask
	reg     *held     // that the latest try began with
	tries   int
	trial   int64 // the number of the transition to DOWN that it is the trial of, or 0
	debug   bool
	dead    bool // expired, by the store's word
	last    outcome
	retryAt time.Time

	// Of the latest try.
	lane    *lane
	reading health.Reading // what was known of the bot
	began   time.Time
}

func newTask(q queuedEvent, p *Parser) *task {
	t := &task{sid: q.sid, part: q.part, origin: q.origin, body: q.body, author: q.author, kind: q.kind}
	if ev, err := p.parse(q.body); err == nil {
		t.ev = ev
	}
	return t
}

// settledAs is the task with its fate, which it has under a transition if it was not tried.
func (t *task) settledAs(f Fate, now health.Standing) settled {
	d := settled{sid: t.sid, part: t.part, origin: t.origin, fate: f, o: t.last, tries: t.tries, began: now.Number, ev: t.ev, body: t.body}
	if t.tries > 0 {
		d.began = t.reading.Standing.Number
	}
	if t.reg != nil {
		d.url = t.reg.CallbackURL
		d.handoff = t.kind == 'm' && t.reg.Mode == Live && (f == Failed || f == Suppressed || f == Overflow || f == Expired)
	}
	switch f {
	case Delivered, Failed:
		d.counts = !t.debug && t.ev != nil
	case Suppressed:
		d.counts = true
		d.o = outcome{class: health.Suppressed}
	default:
		d.o = outcome{}
	}
	return d
}

// retryWait is the time before the second try: 200 ms plus jitter, or as long as the bot asked, up to 2 s.
func retryWait(o outcome) time.Duration {
	if o.retryAfter > 0 {
		return min(o.retryAfter, retryMax)
	}
	return retryDelay + rand.N(retryDelay/2)
}

// timeout is the time of one try.
func (c *Carrier) timeout(t *task) time.Duration {
	switch {
	case t.debug:
		return debugTryTime
	case t.reg.DeliveryTimeout > 0:
		return t.reg.DeliveryTimeout
	default:
		return c.cfg.DeliveryTimeout
	}
}

// try makes one try and returns how it ended. A panic here is our own fault and costs one delivery, not the process.
func (c *Carrier) try(ctx context.Context, t *task) (o outcome) {
	defer func() {
		if p := recover(); p != nil {
			c.log.Error("try panicked", "registration", t.reg.member(), "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			o = outcome{class: health.Broken, message: "the gateway could not make the request"}
		}
	}()
	r := t.reading
	state := c.cfg.Rules.Judge(r.Standing, r.Counts, r.At).State
	var owner *Owner
	if t.kind == 'm' {
		owner = &t.owner
	}
	body, err := t.ev.splice(&t.reg.Registration, state, r.Counts, owner)
	if err != nil {
		return outcome{class: health.Broken, message: "the event cannot be prepared for the bot"}
	}
	now := c.store.now()
	p := call{
		to: t.reg.callback, body: body, eventID: t.reg.names.events + cmp.Or(t.origin, t.part), requestID: t.reg.names.requests + t.part, try: t.tries + 1,
		timestamp: now.Unix(), timeout: c.timeout(t), creds: t.reg.Credentials,
		trust: t.reg.CACertificate, fresh: t.tries > 0 && t.last.class != health.Status,
	}
	p.creds.Secret = t.reg.secret
	if now.Before(t.reg.oldUntil) {
		p.oldSecret = t.reg.oldSecret
	}
	o = c.caller.do(ctx, p)
	c.metrics.countTry(o)
	return o
}
