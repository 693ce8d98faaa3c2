package delivery

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pulsegate/pulsegate/health"
)

// laneState is what claim and settle replies say of a registration.
type laneState struct {
	version string
	reading health.Reading
	cut     string // events up to this one are not delivered: they get cutFate
	cutFate Fate
	waiting int64         // events in the queue
	expires int64         // when the first of them has expired, in ms, as far as the lane must know; 0: never
	stamp   string        // of the standing: what is said of it again only when it has changed
	lease   time.Duration // that is left; 0: it was not looked at
}

// stampOf is the stamp of a standing: n tf dbg off rw hd, as settle.lua puts it together.
func stampOf(standing string) string {
	f := strings.Split(standing, "\n")
	if len(f) < 20 {
		return ""
	}
	return strings.Join([]string{f[3], f[8], f[9], f[10], f[18], f[19]}, " ")
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
	began   int64 // number of the transition under which its last try did, or under which it has its fate without one
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
	delivered   int      // of the outcomes: those that need no more than to be counted
	owners      []string // authors whose conversations' owners are wanted
	reap        int      // expired events to look for; 0: none
	reapBytes   int
	tried       []string // events under way, which do not expire
	quiet       bool     // the lease needs no renewal, and nothing is asked for

	// The answer; state is what is known before, too.
	err       error
	settled   bool // by the script for what is plain
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

// settle carries out a batch of calls in one round trip, and in another those that turned out to be less plain than they seemed.
func (s *store) settle(calls []*settleCall) {
	shareReading(calls)
	var scripts []settleScript
	for _, bundle := range bundles(s, calls, (*settleCall).shard) {
		var plain, rest []*settleCall
		for _, c := range bundle {
			if c.plain() {
				plain = append(plain, c)
			} else {
				rest = append(rest, c)
			}
		}
		scripts = append(scripts, s.settlePlainScript(plain), s.settleScript(rest))
	}
	s.settleTrip(scripts)
	var again []settleScript
	for _, sc := range scripts {
		if sc.plain {
			left := slices.DeleteFunc(sc.calls, func(c *settleCall) bool { return c.settled || c.err != nil })
			again = append(again, s.settleScript(left))
		}
	}
	s.settleTrip(again)
}

func (c *settleCall) shard() health.Shard { return c.names.shard }

// settleScript is one script of a batch: what it settles, and how its reply is read.
type settleScript struct {
	call  scriptCall
	calls []*settleCall
	plain bool
}

// settleTrip carries out those scripts that have something to settle.
func (s *store) settleTrip(scripts []settleScript) {
	scripts = slices.DeleteFunc(slices.Clone(scripts), func(sc settleScript) bool { return len(sc.calls) == 0 })
	if len(scripts) == 0 {
		return
	}
	calls := make([]scriptCall, len(scripts))
	for i, sc := range scripts {
		calls[i] = sc.call
	}
	replies, errs := s.pipeline(calls)
	for i, sc := range scripts {
		s.readSettle(sc, replies[i], errs[i])
	}
}

func (s *store) readSettle(sc settleScript, reply []any, err error) {
	if err == nil && len(reply) != 2+len(sc.calls) {
		err = fmt.Errorf("settle: reply of %d parts", len(reply))
	}
	if err != nil {
		for _, c := range sc.calls {
			c.err = unavailable("settle", err)
		}
		return
	}
	now := toInt(reply[0])
	s.heard(now)
	s.sick.tell(reply[1+len(sc.calls)])
	for i, c := range sc.calls {
		if sc.plain {
			c.readPlain(now, toText(reply[1+i]))
		} else {
			c.read(now, reply[1+i])
		}
	}
}

func (s *store) settleScript(calls []*settleCall) settleScript {
	sc := settleScript{calls: calls}
	if len(calls) == 0 {
		return sc
	}
	a := &argv{}
	a.arg(s.window.Milliseconds(), leaseTime.Milliseconds(), controlTime.Milliseconds(), s.keep.successes, s.keep.failures, recordTime.Milliseconds(), s.hold.Milliseconds(), s.heir())
	at := shardsOf(a, calls, (*settleCall).shard)
	a.arg(len(calls))
	for _, c := range calls {
		a.arg(at[c.names.shard])
		c.put(a)
	}
	sc.call = scriptCall{s.scripts.settle, a.keys, a.args}
	return sc
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
	n := c.names
	a.keys = append(a.keys, n.settleKeys...)
	a.args = append(a.args, n.settleArgs...)
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
	a.arg(&c.token, take)
	a.flag(c.mayRest)
	a.arg(&c.trialFailed, &c.ramp, &c.state.stamp, &c.cursor, c.max, c.maxBytes)
	if expiry {
		a.key(n.expiry)
		a.arg(c.reap, c.reapBytes, strings.Join(c.tried, " "))
	}
	c.putDelivered(a)
	a.arg(len(c.outcomes) - c.delivered)
	for i := range c.outcomes {
		if d := &c.outcomes[i]; !c.simple(d) {
			d.put(a, n)
		}
	}
	a.arg(len(c.owners))
	for _, author := range c.owners {
		a.key(n.controlOf(author))
	}
}

// plain says that an outcome needs nothing but to be counted and noted.
func (d *settled) plain() bool {
	return d.fate == Delivered && d.counts && d.origin == "" && !d.expires()
}

// simple says that an outcome is plain, and that its try began under the transition that the lane knows of: these are counted together.
func (c *settleCall) simple(d *settled) bool {
	return d.plain() && d.began == c.state.reading.Standing.Number
}

// putDelivered writes the acknowledged deliveries: how many they are, their ids, their records.
func (c *settleCall) putDelivered(a *argv) {
	c.delivered = 0
	for i := range c.outcomes {
		if c.simple(&c.outcomes[i]) {
			c.delivered++
		}
	}
	a.arg(c.delivered)
	for i := range c.outcomes {
		if d := &c.outcomes[i]; c.simple(d) {
			a.args = append(a.args, &d.sid)
		}
	}
	for i := range c.outcomes {
		if d := &c.outcomes[i]; c.simple(d) {
			a.args = append(a.args, d.record())
		}
	}
}

// record is the request record of an acknowledged delivery, but for the time at which it was settled.
func (d *settled) record() []byte {
	b := make([]byte, 0, 128+len(d.url))
	b = append(strconv.AppendInt(b, int64(len(d.body)), 10), '\n')
	b = append(append(b, d.part...), '\n')
	b = append(append(b, d.fate...), "\n\n"...)
	b = append(strconv.AppendInt(b, int64(d.o.code), 10), '\n')
	b = append(strconv.AppendInt(b, int64(d.tries), 10), '\n')
	b = append(strconv.AppendInt(b, d.o.latency.Milliseconds(), 10), '\n')
	accepted, _, _ := strings.Cut(d.sid, "-")
	b = append(append(b, accepted...), "\n\n\n\n"...)
	return append(append(b, d.url...), '\n')
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
	a.arg(d.sid, d.part, string(d.fate), kind, string(d.o.class), code, d.o.message, d.tries, d.o.latency.Milliseconds(), d.url, body, len(d.body), d.began)
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

func (c *settleCall) read(now int64, reply any) {
	parts := toSlice(reply)
	line := toText(reply)
	if len(parts) > 0 {
		line = toText(parts[0])
	}
	f := strings.SplitN(line, "\n", 10)
	if len(f) < 10 {
		if c.lost = line != "sick"; !c.lost {
			c.err = unavailable("settle", errSick)
		}
		return
	}
	c.rested = f[0] == "rest"
	st := laneState{version: f[1], waiting: toInt(f[3]), cut: f[5], cutFate: Fate(f[6]), expires: toInt(f[7]), stamp: f[9], lease: time.Duration(toInt(f[2])) * time.Millisecond}
	c.handedOff = toInt(f[4])
	if standing := text(parts, 1); standing != "" {
		st.reading = health.ParseReading(now, standing, f[8])
	} else {
		st.reading = c.state.reading.Heard(now, f[8])
	}
	c.state = st
	if len(parts) < 4 {
		return
	}
	c.events = toQueued(parts[2])
	for _, owner := range toTexts(parts[3]) {
		kind, app, _ := strings.Cut(owner, "\n")
		c.got = append(c.got, Owner{Type: OwnerType(kind), AppID: app})
	}
	if len(parts) > 4 {
		if r := toSlice(parts[4]); len(r) == 2 {
			c.reapNext, c.reaped = toInt(r[0]), toQueued(r[1])
		}
	}
}

// toQueued reads events as a settlement lists them, five items each.
func toQueued(reply any) []queuedEvent {
	items := toTexts(reply)
	events := make([]queuedEvent, 0, len(items)/5)
	for ; len(items) >= 5; items = items[5:] {
		q := queuedEvent{sid: items[0], author: items[2], kind: 'o', body: []byte(items[3]), origin: items[4]}
		if items[1] != "" {
			q.kind, q.part = items[1][0], items[1][1:]
		}
		events = append(events, q)
	}
	return events
}

// expires says whether the event stands among those with a time of their own.
func (d *settled) expires() bool { return d.origin == "" && d.ev != nil && d.ev.expires != 0 }

func text(parts []any, i int) string {
	if i < len(parts) {
		return toText(parts[i])
	}
	return ""
}
