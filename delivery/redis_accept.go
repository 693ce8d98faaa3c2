package delivery

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pulsegate/pulsegate/health"
)

// accepted is one event on its way into the store, and what the store answered.
type accepted struct {
	ev   *event
	part string
	what string // its kind and part, as they lie in the queue
	key  string // dedupe key, or ""
	view *view

	again *again // nil: an event of a source

	// The answer.
	state string // "ok", "seen", "reused" or "stale"; "" when err is set
	fate  Fate
	owner Owner
	fates []acceptedFate // one per target
	err   error
}

// acceptedFate is what became of one delivery of an event.
type acceptedFate struct {
	target   *held
	fate     Fate
	sid      string // in the queue
	previous string // the id before it
	handed   HandoffKind
}

// claimed is a registration whose lease came with an accept.
type claimed struct {
	target *held
	token  string
	over   bool // from a holder whose lease ran out
	lane   laneState
}

// acceptCall is what one caller hands in for one shard: it goes in one piece.
type acceptCall struct {
	shard  health.Shard
	events []*accepted
	until  time.Time // when it must have been carried out
	claims []claimed // of the call's registrations, filled in by the first call that touches them
}

// acceptTargets are the registrations that get a delivery, the LIVE one first, and why the rest of the entity's customers go to agents.
func acceptTargets(v *view) (targets []*held, kind HandoffKind) {
	if l := v.live(); l != nil {
		targets = append(targets, l)
		for _, r := range v.regs {
			if r.Mode == Monitoring {
				targets = append(targets, r)
			}
		}
		return targets, AutomaticHandoff
	}
	kind = AutomaticHandoff
	for _, r := range v.regs {
		if r.Mode == Maintenance {
			kind = MaintenanceHandoff
		}
	}
	return v.regs, kind
}

// acceptGroup is the events of one entity in one batch.
type acceptGroup struct {
	view    *view
	targets []*held
	events  []*accepted
	call    *acceptCall
	token   string // of the lane that has the registration, when all is as usual
}

func groupAccepts(calls []*acceptCall) []*acceptGroup {
	type version struct {
		entity  Entity
		version string
	}
	var groups []*acceptGroup
	index := map[version]*acceptGroup{}
	for _, c := range calls {
		for _, a := range c.events {
			at := version{a.ev.entity, a.view.version}
			g := index[at]
			if g == nil {
				g = &acceptGroup{view: a.view, targets: a.view.targets, call: c}
				index[at] = g
				groups = append(groups, g)
			}
			a.view = g.view // callers may have loaded the same version each for themselves
			g.events = append(g.events, a)
		}
	}
	return groups
}

// accept carries out a batch of calls in one round trip, and in another what was not as it usually is. Where token returns "", no registration is
// claimed; lease is as Carrier.leaseOf.
func (s *store) accept(calls []*acceptCall, token func() string, lease func(RegID) (string, bool), lim limits) {
	ctx, cancel := context.WithTimeout(context.Background(), batchTime)
	defer cancel()
	var scripts []acceptScript
	for _, bundle := range bundles(s, calls, func(c *acceptCall) health.Shard { return c.shard }) {
		usual, rest := parted(groupAccepts(bundle), lease)
		scripts = append(scripts, s.acceptPlainScript(usual, token(), lim), s.acceptScript(rest, token(), lim))
	}
	s.acceptTrip(ctx, scripts)
	var again []acceptScript
	for _, sc := range scripts {
		again = append(again, s.acceptScript(sc.left(), token(), lim))
	}
	s.acceptTrip(ctx, again)
}

// acceptScript is one script of a batch: what it takes in, and how its reply is read.
type acceptScript struct {
	call   scriptCall
	groups []*acceptGroup
	token  string // of what it claims
	plain  bool   // it takes in what is as usual
}

// acceptTrip carries out those scripts that have something to take in.
func (s *store) acceptTrip(ctx context.Context, scripts []acceptScript) {
	scripts = slices.DeleteFunc(slices.Clone(scripts), func(sc acceptScript) bool { return len(sc.groups) == 0 })
	if len(scripts) == 0 {
		return
	}
	calls := make([]scriptCall, len(scripts))
	for i, sc := range scripts {
		calls[i] = sc.call
	}
	t := newTrip(calls)
	t.replicas, t.untold = s.replicas, &s.untold
	s.carry(ctx, t)
	for i, sc := range scripts {
		s.readAccept(sc, t.replies[i], t.errs[i])
	}
}

// shard is where all of a group lies.
func (g *acceptGroup) shard() health.Shard { return g.targets[0].names.shard }

func (s *store) acceptScript(groups []*acceptGroup, token string, lim limits) acceptScript {
	sc := acceptScript{groups: groups, token: token}
	if len(groups) == 0 {
		return sc
	}
	a := &argv{}
	a.arg(s.window.Milliseconds(), token, leaseTime.Milliseconds(), s.dedupe.Milliseconds(), controlTime.Milliseconds(),
		s.ongoing.Milliseconds(), lim.events, lim.bytes, s.keep.successes, s.keep.failures, recordTime.Milliseconds(), s.hold.Milliseconds(), s.heir())
	at := shardsOf(a, groups, (*acceptGroup).shard)
	a.arg(len(groups))
	for _, g := range groups {
		g.put(a, at)
	}
	sc.call = scriptCall{s.scripts.accept, a.keys, a.args}
	return sc
}

func (g *acceptGroup) put(a *argv, at map[health.Shard]int) {
	n := g.view.regs[0].names // all of an entity share what is used here
	a.arg(at[n.shard])
	a.keys = append(a.keys, g.view.keys...)
	a.args = append(a.args, g.view.args...)
	a.arg(len(g.events))
	for _, ev := range g.events {
		ev.put(a, g.targets)
	}
}

// prepare makes what every accept for the entity sends.
func (v *view) prepare() {
	if len(v.regs) == 0 {
		return
	}
	var kind HandoffKind
	v.targets, kind = acceptTargets(v)
	live := ""
	if l := v.live(); l != nil {
		live = l.AppID
	}
	n, a := v.regs[0].names, &argv{}
	a.key(n.reg, n.own, n.told)
	a.arg(v.version, live, strings.Join([]string{n.where, string(kind), kind.Tag()}, "\n"), len(v.targets))
	for _, t := range v.targets {
		a.key(t.names.standing, t.names.window, t.names.queue, t.names.ok, t.names.failed)
		a.arg(t.names.member, role(t), flagText(t.WhenDown == Hold), strings.Join([]string{t.names.requests, t.CallbackURL, t.AppID}, "\n"))
	}
	v.keys, v.args = a.keys, a.args
}

func role(r *held) string {
	switch r.Mode {
	case Live:
		return "L"
	case Monitoring:
		return "M"
	default:
		return "X"
	}
}

func flagText(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

func (ac *accepted) put(a *argv, targets []*held) {
	ev, hash := ac.ev, ""
	if ac.key != "" {
		hash = ev.hash()
	}
	a.args = append(a.args, kindTexts[ev.kind], &ac.part, &ev.author, &ev.name, ev.body, hash, ac.rare(targets))
	if ev.author != "" {
		a.keys = append(a.keys, targets[0].names.controlOf(ev.author))
	}
	if ac.again == nil && ev.expires != 0 { // whoever asks for another delivery sees that its time is over
		for _, t := range targets {
			a.keys = append(a.keys, t.names.expiry)
		}
	}
	if ac.again != nil {
		a.keys = append(a.keys, ev.entity.againKey(ac.again.origin))
	}
	if ac.key != "" {
		a.keys = append(a.keys, targets[0].names.dedupeOf(ac.key))
	}
}

// kindTexts are the kinds of events as arguments of a script.
var kindTexts = map[byte]any{'m': "m", 'd': "d", 'c': "c", 'o': "o"}

// rare is what most events have nothing of, in lines; "" for an event that has none of it.
func (ac *accepted) rare(targets []*held) string {
	ev, expires := ac.ev, ""
	if !ev.public && ev.kind != 'c' && ev.expires == 0 && ac.again == nil {
		return ""
	}
	if ev.expires != 0 && ac.again == nil {
		expires = strconv.FormatInt(ev.expires, 10)
	}
	origin, app := "", ""
	if ac.again != nil {
		origin, app = ac.again.origin, ac.again.app
	}
	return strings.Join([]string{string(ac.wishes(targets)), expires, origin, app, string(ev.owner.Type), ev.owner.AppID}, "\n")
}

// wishes say of each target whether it gets the event: q to be queued, f filtered, n not at all.
func (ac *accepted) wishes(targets []*held) []byte {
	wishes := make([]byte, len(targets))
	for i, t := range targets {
		switch {
		case ac.again != nil && t.AppID != ac.again.app:
			wishes[i] = 'n'
		case ac.again == nil && !ac.ev.admitted(t.PublicFilter):
			wishes[i] = 'f'
		default:
			wishes[i] = 'q'
		}
	}
	return wishes
}

// What follows in the arguments of a settled outcome, as the sum of these.
const (
	withAuthor  = 1 // a handoff
	withExpiry  = 2 // the event has a time of its own
	withOrigins = 4 // the delivery is one made once more
)

// readAccept reads a reply. What no replica has confirmed is refused, though it is stored and will be delivered: the source that sends
// it again with its id is answered as if it had been accepted now.
func (s *store) readAccept(sc acceptScript, reply []any, err error) {
	if len(reply) == 2+len(sc.groups) {
		s.heard(toInt(reply[0]))
		s.sick.tell(reply[1+len(sc.groups)])
		for i, g := range sc.groups {
			if sc.plain {
				g.readPlain(toInt(reply[0]), reply[1+i], sc.token)
			} else {
				g.read(toInt(reply[0]), reply[1+i], sc.token)
			}
		}
	} else if err == nil {
		err = fmt.Errorf("reply of %d parts", len(reply))
	}
	if err == nil {
		return
	}
	for _, g := range sc.groups {
		for _, ac := range g.events {
			ac.err = unavailable("accept", err)
		}
	}
}

func (g *acceptGroup) read(now int64, reply any, token string) {
	parts := toSlice(reply)
	if len(parts) != 2 {
		for _, ac := range g.events {
			ac.answered(toText(reply))
		}
		return
	}
	lines := toSlice(parts[0])
	for _, ac := range g.events {
		lines = ac.read(lines, g.targets)
	}
	for i, item := range toSlice(parts[1]) {
		st := toSlice(item)
		if len(st) == 0 {
			continue // somebody holds it already
		}
		g.claimed(i, now, st, token)
	}
}

// claimed notes that the lease of a target came with the accept, and what the store said of it: standing, window, cut, its fate, events waiting, and
// whether the lease of somebody else had run out.
func (g *acceptGroup) claimed(target int, now int64, st []any, token string) {
	g.call.claims = append(g.call.claims, claimed{target: g.targets[target], token: token, over: toText(st[5]) == "1", lane: laneState{
		version: g.view.version, reading: health.ParseReading(now, toText(st[0]), toText(st[1])),
		cut: toText(st[2]), cutFate: Fate(toText(st[3])), waiting: toInt(st[4]), lease: leaseTime, stamp: stampOf(toText(st[0])),
	}})
}

// answered notes what became of the event. One that could not be stored for its entity's own sake is refused.
func (ac *accepted) answered(state string) {
	if ac.state = state; state == "sick" {
		ac.err = unavailable("accept", errSick)
	}
}

// read takes the event's lines off those of its group.
func (ac *accepted) read(lines []any, targets []*held) []any {
	if len(lines) == 0 {
		return nil // no answer: the caller is told to come again
	}
	state, rest, _ := strings.Cut(toText(lines[0]), "\n")
	ac.answered(state)
	lines = lines[1:]
	if ac.state == "seen" {
		var fate string
		ac.part, fate, _ = strings.Cut(rest, "\n")
		ac.fate = Fate(strings.TrimSuffix(fate, "\n"))
	}
	if ac.state != "ok" || len(lines) < len(targets) {
		return lines
	}
	fate, rest, _ := strings.Cut(rest, "\n")
	owner, app, _ := strings.Cut(rest, "\n")
	ac.fate, ac.owner = Fate(fate), Owner{Type: OwnerType(owner), AppID: app}
	ac.fates = make([]acceptedFate, 0, len(targets))
	for i, t := range targets {
		fate, rest, _ := strings.Cut(toText(lines[i]), "\n")
		if fate == "" {
			continue // not for this one
		}
		sid, rest, _ := strings.Cut(rest, "\n")
		previous, handed, _ := strings.Cut(rest, "\n")
		ac.fates = append(ac.fates, acceptedFate{target: t, fate: Fate(fate), sid: sid, previous: previous, handed: HandoffKind(handed)})
	}
	return lines[len(targets):]
}
