package delivery

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/pulsegate/pulsegate/health"
)

// laneState is what claim and settle replies say of a registration.
type laneState struct {
	version string
	reading health.Reading
	cut     string // events up to this one are not delivered: they get cutFate
	cutFate Fate
	waiting int64 // events in the queue
	expires int64 // when the first of them has expired, in ms, as far as the lane must know; 0: never
}

// queued is one event as it lies in the queue.
type queuedEvent struct {
	sid    string
	part   string
	author string
	kind   byte
	body   []byte
	origin string // part of the event that this is a delivery of once more, or ""
}

// settled is one delivery that has its fate.
type settled struct {
	sid     string
	part    string
	fate    Fate
	counts  bool // enters the window
	o       outcome
	tries   int
	url     string
	ev      *event // nil when it could not be read
	body    []byte
	handoff bool // an undeliverable message of a LIVE registration
	origin  string
}

// settleCall settles one registration's outcomes, renews or takes its lease, and reads on.
type settleCall struct {
	id          RegID
	names       *names
	token       string
	take        bool   // a claim: the lease may be free
	mayRest     bool   // nothing else is under way: the lease may be given back
	trialFailed string // the number of the transition whose trial failed, or ""
	ramp        string // the new width, or ""
	cursor      string
	max         int // events to read
	maxBytes    int
	outcomes    []settled
	owners      []string // authors whose conversations' owners are wanted
	reap        int      // expired events to look for; 0: none
	reapBytes   int
	tried       []string // events under way, which do not expire

	// The answer.
	err       error
	lost      bool
	rested    bool
	state     laneState
	events    []queuedEvent
	got       []Owner
	reaped    []queuedEvent // expired
	reapNext  int64         // when to look for more, in ms; 0: never
	handedOff int64
}

// weigh is how much of a batch a call takes.
func (c *settleCall) weigh() int { return 1 + len(c.outcomes) }

// settle carries out a batch of calls in one round trip.
func (s *store) settle(calls []*settleCall) {
	shareReading(calls)
	lists, bundled := bundles(s, calls, func(c *settleCall) health.Shard { return c.names.shard })
	pipeline := make([]scriptCall, len(bundled))
	for i, list := range lists {
		a := &argv{}
		a.arg(s.window.Milliseconds(), leaseTime.Milliseconds(), controlTime.Milliseconds(), keepSuccess, keepFailures, recordTime.Milliseconds(), s.hold.Milliseconds())
		at := a.shards(list)
		a.arg(len(bundled[i]))
		for _, c := range bundled[i] {
			a.arg(at[c.names.shard])
			c.put(a)
		}
		pipeline[i] = scriptCall{a.keys, a.args}
	}
	replies, errs := s.pipeline(s.scripts.settle, pipeline)
	for i, group := range bundled {
		if errs[i] == nil && len(replies[i]) != 1+len(group) {
			errs[i] = fmt.Errorf("settle: reply of %d parts", len(replies[i]))
		}
		for j, c := range group {
			if errs[i] != nil {
				c.err = unavailable("settle", errs[i])
				continue
			}
			s.heard(toInt(replies[i][0]))
			c.read(replies[i][0], toSlice(replies[i][1+j]))
		}
	}
}

// Of what one batch reads. A backlog on many registrations must not make one reply that comes too late.
const (
	batchEvents = 4096
	batchBytes  = 8 << 20
)

// shareReading bounds what the calls of a batch read together; each may still read something.
func shareReading(calls []*settleCall) {
	readers := 0
	for _, c := range calls {
		if c.max > 0 {
			readers++
		}
		if c.reap > 0 {
			readers++
		}
	}
	for _, c := range calls {
		if c.max > 0 {
			c.max, c.maxBytes = min(c.max, max(1, batchEvents/readers)), min(c.maxBytes, batchBytes/readers)
		}
		if c.reap > 0 {
			c.reap, c.reapBytes = min(c.reap, max(1, batchEvents/readers)), batchBytes/readers
		}
	}
}

func shardHex(sh health.Shard) string { return strconv.FormatInt(int64(sh), 16) }

func (c *settleCall) put(a *argv) {
	id, n := c.id, c.names
	a.key(n.reg, n.standing, n.window, n.queue, n.ok, n.failed, n.told)
	a.arg(id.CompanyKey, id.NetworkKey, id.ExternalID, n.member, n.requests, c.token)
	take, expiry := 0, c.reap > 0
	for i := range c.outcomes {
		expiry = expiry || c.outcomes[i].expires()
	}
	if c.take {
		take = 1
	}
	if expiry {
		take += withExpiry
	}
	a.arg(take)
	a.flag(c.mayRest)
	a.arg(c.trialFailed, c.ramp, c.cursor, c.max, c.maxBytes, id.AppID)
	if expiry {
		a.key(n.expiry)
		a.arg(c.reap, c.reapBytes, strings.Join(c.tried, " "))
	}
	a.arg(len(c.outcomes))
	for i := range c.outcomes {
		c.outcomes[i].put(a, n)
	}
	a.arg(len(c.owners))
	for _, author := range c.owners {
		a.key(n.controlOf(author))
	}
}

func (d *settled) put(a *argv, n *names) {
	kind := -1
	if d.counts {
		kind = d.o.class.Index()
	}
	code := ""
	if d.o.code != 0 {
		code = strconv.Itoa(d.o.code)
	}
	body := d.body
	if d.fate == Delivered {
		body = nil
	}
	a.arg(d.sid, d.part, string(d.fate), kind, string(d.o.class), code, d.o.message, d.tries, d.o.latency.Milliseconds(), d.url, body, len(d.body))
	handoff, has := d.handoff && d.ev != nil, 0
	if handoff {
		has += withAuthor
	}
	if d.expires() {
		has += withExpiry
	}
	if d.origin != "" {
		a.arg(has+withOrigins, d.origin)
	} else {
		a.arg(has)
	}
	if handoff {
		kind := AutomaticHandoff
		if d.fate == InMaintenance {
			kind = MaintenanceHandoff
		}
		a.key(n.controlOf(d.ev.author))
		a.arg(d.ev.author, d.ev.name, d.ev.messageID, d.ev.scope(), string(kind), kind.Tag())
	}
}

func (c *settleCall) read(now any, reply []any) {
	if len(reply) < 11 {
		c.lost = true
		return
	}
	c.rested = toText(reply[0]) == "rest"
	c.state = laneState{
		version: toText(reply[1]), reading: health.ParseReading(now, reply[2], reply[3]),
		cut: toText(reply[4]), cutFate: Fate(toText(reply[5])), waiting: toInt(reply[6]),
	}
	c.events = toQueued(reply[7])
	for _, item := range toSlice(reply[8]) {
		o := toTexts(item)
		c.got = append(c.got, Owner{Type: OwnerType(o[0]), AppID: o[1]})
	}
	c.handedOff = toInt(reply[9])
	c.state.expires = toInt(reply[10])
	if len(reply) > 11 {
		if r := toSlice(reply[11]); len(r) == 2 {
			c.reapNext, c.reaped = toInt(r[0]), toQueued(r[1])
		}
	}
}

func toQueued(reply any) []queuedEvent {
	items := toSlice(reply)
	events := make([]queuedEvent, len(items))
	for i, item := range items {
		f := toTexts(item)
		events[i] = queuedEvent{sid: f[0], part: f[1], author: f[2], kind: 'o', body: []byte(f[4])}
		if f[3] != "" {
			events[i].kind = f[3][0]
		}
		if len(f) > 5 {
			events[i].origin = f[5]
		}
	}
	return events
}

// expires says whether the event stands among those with a time of their own.
func (d *settled) expires() bool { return d.origin == "" && d.ev != nil && d.ev.expires != 0 }

func toTextInt(n int64) string { return strconv.FormatInt(n, 10) }
