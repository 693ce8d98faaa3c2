package delivery

import (
	"slices"
	"strings"

	"github.com/pulsegate/pulsegate/health"
)

// What follows is about events that are as usual, which accept_plain.lua takes in.

// parted tells the groups that are as usual from the others.
func parted(groups []*acceptGroup, lease func(RegID) (string, bool)) (usual, rest []*acceptGroup) {
	for _, g := range groups {
		plain := g.usual()
		if plain {
			g.token, plain = lease(g.targets[0].RegID)
		}
		if plain {
			usual = append(usual, g)
		} else {
			rest = append(rest, g)
		}
	}
	return usual, rest
}

// usual says that a group holds customers' private messages for a LIVE bot alone.
func (g *acceptGroup) usual() bool {
	return len(g.targets) == 1 && g.targets[0].Mode == Live && !slices.ContainsFunc(g.events, func(ac *accepted) bool {
		return ac.ev.kind != 'm' || ac.ev.author == "" || ac.ev.public || ac.ev.expires != 0 || ac.again != nil
	})
}

// left are the groups of events that a script left to the other one.
func (sc acceptScript) left() (groups []*acceptGroup) {
	if !sc.plain {
		return nil
	}
	for _, g := range sc.groups {
		i := slices.IndexFunc(g.events, func(ac *accepted) bool { return ac.state == "" && ac.err == nil })
		if i >= 0 {
			groups = append(groups, &acceptGroup{view: g.view, targets: g.targets, call: g.call, events: g.events[i:]})
		}
	}
	return groups
}

// acceptPlainScript takes in events for registrations that this replica holds, or that nobody does: those it claims with a token.
func (s *store) acceptPlainScript(groups []*acceptGroup, token string, lim limits) acceptScript {
	sc := acceptScript{groups: groups, token: token, plain: true}
	if len(groups) == 0 {
		return sc
	}
	a := &argv{}
	a.key(ledgerKey(groups[0].shard()))
	a.arg(s.dedupe.Milliseconds(), lim.events, lim.bytes, s.window.Milliseconds(), leaseTime.Milliseconds(), token, controlTime.Milliseconds(), s.ongoing.Milliseconds(), len(groups))
	for _, g := range groups {
		g.putPlain(a)
	}
	sc.call = scriptCall{s.scripts.acceptPlain, a.keys, a.args}
	return sc
}

func (g *acceptGroup) putPlain(a *argv) {
	t := g.targets[0]
	a.key(t.names.reg, t.names.standing, t.names.queue, t.names.own, t.names.window, t.names.due)
	a.arg(&g.view.version, &t.AppID, &g.token, &t.names.member, 0, len(g.events))
	count, before := len(a.args)-2, len(a.keys)
	for _, ac := range g.events {
		ac.what = string(ac.ev.kind) + ac.part
		a.key(t.names.controlOf(ac.ev.author))
		seen := ""
		if ac.key != "" {
			seen = ac.part + " " + ac.ev.hash() + " " + string(Queued)
			a.key(t.names.dedupeOf(ac.key))
		}
		a.arg(&ac.what, &ac.ev.author, &ac.ev.name, ac.ev.body, seen)
	}
	a.args[count] = len(a.keys) - before
}

// readPlain reads what became of the events that were taken in as usual, the first of the group. The others have no state yet.
func (g *acceptGroup) readPlain(now int64, reply any, token string) {
	text, ok := reply.(string)
	if !ok {
		claim := toSlice(reply)
		text = toText(claim[0])
		g.call.claims = append(g.call.claims, claimed{target: g.targets[0], token: token, lane: g.view.wellLane(now, toText(claim[1]))})
	}
	previous, rest, more := strings.Cut(text, "\n")
	for _, ac := range g.events {
		if !more {
			return
		}
		var line string
		line, rest, more = strings.Cut(rest, "\n")
		switch {
		case line == "r":
			ac.state = "reused"
		case strings.HasPrefix(line, "s"):
			seen := strings.Fields(line[1:])
			ac.state, ac.part, ac.fate = "seen", seen[0], Fate(seen[len(seen)-1])
		default:
			ac.state, ac.fate, ac.owner = "ok", Queued, Owner{Type: Agent}
			if line[0] == 'b' {
				ac.owner = Owner{Type: Bot, AppID: g.targets[0].AppID}
			}
			ac.fates = []acceptedFate{{target: g.targets[0], fate: Queued, sid: line[1:], previous: previous}}
			previous = line[1:]
		}
	}
}

// wellLane is what the lane of a bot in good health must know to begin, as accept_plain.lua says it.
func (v *view) wellLane(now int64, text string) laneState {
	f := strings.SplitN(text, "\n", 5)
	stamp := strings.Split(f[0], " ")
	return laneState{
		version: v.version, reading: health.WellReading(now, toInt(stamp[0]), int(toInt(stamp[4])), f[1]), stamp: f[0],
		cut: f[2], cutFate: Fate(f[3]), waiting: toInt(f[4]), lease: leaseTime,
	}
}
