package delivery_test

import (
	"fmt"
	"slices"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
)

// The settings of the world that the model describes: all of them small, so that a step may reach any of them.
const (
	modelQueue   = 6
	modelWindow  = 12 * time.Second
	modelPause   = 6 * time.Second
	modelMin     = 3
	modelTimeout = 2 * time.Second
	modelHold    = 20 * time.Second
	modelLease   = 6 * time.Second
)

// made is one delivery, as the model knows it.
type made struct {
	id, event, author string
	fresh             bool // an event of a source; else a delivery made once more
	at                time.Time
	own               time.Time // when the event says that its time is up; zero: it says nothing
	fate              delivery.Fate
	handoff           delivery.HandoffKind
	ended             time.Time // zero: it waits or is under way
	crashes           int       // that it has seen waiting
}

// try is one request as the bot got it.
type try struct {
	id, author string
	at, ended  time.Time // ended: zero while it is under way
	ok         bool
}

// model is what must be true of one registration, in plain words: no scripts, no lanes, no leases. It is told what was asked of the
// gateway and what the bot got, and says which fates are right.
type model struct {
	mode    delivery.Mode
	hold    bool
	ttl     time.Duration
	all     []*made // in the order of their acceptance
	tries   []*try
	reset   time.Time // when the window was emptied last
	crashed time.Time // when a gateway was killed last
	changed time.Time // when the registration was changed last
}

func (m *model) waiting() (n int) {
	for _, d := range m.all {
		if d.ended.IsZero() {
			n++
		}
	}
	return n
}

// receipt is the fate that a delivery has at once, in the state of health that was read just before.
func (m *model) receipt(now time.Time, h health.Standing, own time.Time, queued int) delivery.Fate {
	switch {
	case m.mode == delivery.Maintenance:
		return delivery.InMaintenance
	case !own.IsZero() && !own.After(now):
		return delivery.Expired
	case h.State == health.Down && now.Before(h.PausedUntil) && !m.hold:
		return delivery.Suppressed
	case queued >= modelQueue:
		return delivery.Overflow
	}
	return delivery.Queued
}

// expires is when a delivery's time is up by what the registration says now; zero is never.
func (m *model) expires(d *made) time.Time {
	ttl := m.ttl
	if ttl == 0 && m.hold {
		ttl = modelHold
	}
	at := d.own
	if by := d.at.Add(ttl); ttl > 0 && (at.IsZero() || by.Before(at)) {
		at = by
	}
	return at
}

// late says that a moment is too late for a delivery whose time was up to expire: more than a second after it; or after the registration
// was changed; or after the end of the lease that a gateway left when it was killed; and of a trial that failed, after that.
func (m *model) late(d *made, up, at time.Time) bool {
	for _, other := range []time.Time{m.changed, m.crashed.Add(modelLease + 500*time.Millisecond)} {
		if up.Before(other) {
			up = other
		}
	}
	up = up.Add(time.Second)
	return at.After(up) && !m.busy(d, up) && !m.busy(d, at.Add(-time.Second))
}

func (m *model) triesOf(id string) (list []*try) {
	for _, t := range m.tries {
		if t.id == id {
			list = append(list, t)
		}
	}
	return list
}

// wrongFate says what is wrong with the fate that a delivery has got, or "". held: events were held at some time since it was accepted.
func (m *model) wrongFate(d *made, held bool) string {
	tries := m.triesOf(d.id)
	acknowledged := slices.ContainsFunc(tries, func(t *try) bool { return t.ok })
	refused := slices.ContainsFunc(tries, func(t *try) bool { return !t.ok })
	switch d.fate {
	case delivery.Delivered:
		if !acknowledged {
			return "the bot has not acknowledged it"
		}
	case delivery.Failed:
		if !refused {
			return "no try of it failed"
		}
	case delivery.Expired:
		up := m.expires(d)
		if up.IsZero() || d.ended.Before(up.Truncate(time.Millisecond)) {
			return fmt.Sprintf("its time is up at %v", up)
		}
		if len(tries) > 0 && !held && d.crashes == 0 {
			return "it was under way"
		}
		if m.late(d, up, d.ended) {
			return fmt.Sprintf("its time was up at %v", up)
		}
	case delivery.InMaintenance:
		if m.changed.Before(d.at) && m.mode != delivery.Maintenance {
			return "there was no maintenance"
		}
	case delivery.Suppressed, delivery.Overflow:
		if len(tries) > 0 && d.crashes == 0 && !held {
			return "it was under way"
		}
	default:
		return "no such fate here"
	}
	if n := 2 * (1 + d.crashes); len(tries) > n && !held {
		return fmt.Sprintf("%d tries, %d are allowed", len(tries), n)
	}
	return ""
}

// busy says that a delivery was under way at a moment, or just had been: its second try might follow.
func (m *model) busy(d *made, at time.Time) bool {
	return slices.ContainsFunc(m.triesOf(d.id), func(t *try) bool {
		return !t.at.After(at) && (t.ended.IsZero() || t.ended.Add(time.Second).After(at))
	})
}

// overdue finds a delivery that waits though its time is up.
func (m *model) overdue(now time.Time) *made {
	for _, d := range m.all {
		up := m.expires(d)
		if d.ended.IsZero() && !up.IsZero() && m.late(d, up, now) {
			return d
		}
	}
	return nil
}

// began is when the last try of a delivery did, or when it got its fate without one.
func (m *model) began(d *made) time.Time {
	tries := m.triesOf(d.id)
	if len(tries) == 0 || d.fate == delivery.Suppressed {
		return d.ended
	}
	return slices.MaxFunc(tries, func(a, b *try) int { return a.at.Compare(b.at) }).at
}

// counts are the outcomes in the window: each delivery whose last try began since it was emptied, once. emptied is when that was: of what began in
// the same millisecond nobody knows whether it was before or after.
func (m *model) counts(now, emptied time.Time) (acknowledged, failed int64) {
	slot := func(at time.Time) int64 { return at.UnixMilli() * 120 / modelWindow.Milliseconds() }
	for _, d := range m.all {
		if d.ended.IsZero() || !m.began(d).After(emptied) || m.mode == delivery.Maintenance || slot(now)-slot(d.ended) >= 120 {
			continue
		}
		switch d.fate {
		case delivery.Delivered:
			acknowledged++
		case delivery.Failed, delivery.Suppressed:
			failed++
		}
	}
	return acknowledged, failed
}

// wrongHandoff finds a delivery whose conversation was handed off though it was not the bot's, or was not though it was. Of several of an
// author that ended in one moment, any may be the one.
func (m *model) wrongHandoff() *made {
	type moment struct {
		author string
		at     time.Time
	}
	together := map[moment][]*made{}
	var order []moment
	for _, d := range m.all {
		if at := (moment{d.author, d.ended}); !d.ended.IsZero() {
			if together[at] == nil {
				order = append(order, at)
			}
			together[at] = append(together[at], d)
		}
	}
	slices.SortStableFunc(order, func(a, b moment) int { return a.at.Compare(b.at) })
	agents := map[string]bool{}
	for _, at := range order {
		owed := !agents[at.author]
		var last *made
		for _, d := range together[at] {
			want := d.handsOff()
			if want == "" && d.handoff != "" || d.handoff != "" && (d.handoff != want || agents[at.author]) {
				return d
			}
			agents[at.author] = agents[at.author] || d.handoff != ""
			if want != "" {
				last = d
			}
		}
		if owed && last != nil && !agents[at.author] {
			return last
		}
	}
	return nil
}

// handsOff is the handoff that a delivery's fate asks for.
func (d *made) handsOff() delivery.HandoffKind {
	switch d.fate {
	case delivery.Failed, delivery.Suppressed, delivery.Overflow, delivery.Expired:
		return delivery.AutomaticHandoff
	case delivery.InMaintenance:
		if d.ended.Equal(d.at.Truncate(time.Millisecond)) { // when it was accepted; what waited is handed off by the job
			return delivery.MaintenanceHandoff
		}
	}
	return ""
}

// outOfOrder finds a try of an author's event that came before its turn.
func (m *model) outOfOrder() *try {
	place := map[string]int{}
	for i, d := range m.all {
		place[d.id] = i
	}
	last := map[string]int{}
	for _, t := range m.tries {
		if place[t.id] < last[t.author] {
			return t
		}
		last[t.author] = place[t.id]
	}
	return nil
}
