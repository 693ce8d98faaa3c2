package delivery

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/pulsegate/pulsegate/health"
)

const (
	secretOverlap = 24 * time.Hour // how long an old HMAC secret signs beside the new one
	changeRepeats = 20             // of a change that met another change of the same entity
)

// Create writes a new registration; ErrExists if there is one.
func (c *Carrier) Create(ctx context.Context, r Registration) error {
	return c.write(ctx, r, false)
}

// Put creates a registration or replaces it as a whole.
func (c *Carrier) Put(ctx context.Context, r Registration) error {
	return c.write(ctx, r, true)
}

func (c *Carrier) write(ctx context.Context, r Registration, replace bool) error {
	if r.Mode == "" {
		r.Mode = Live
	}
	if r.WhenDown == "" {
		r.WhenDown = HandOff
	}
	r.Platform = "LITHIUM"
	if problems := c.Problems(r); len(problems) > 0 {
		return &ValidationError{problems}
	}
	return c.change(ctx, r.RegID, func(v *view, old *held) (*held, error) {
		if old != nil && !replace {
			return nil, ErrExists
		}
		if old == nil && len(v.regs)+v.hiddenBeside(r.AppID) >= MaxRegistrations {
			return nil, ErrTooMany
		}
		if r.Mode == Live && v.liveBeside(r.AppID) {
			return nil, ErrLiveTaken
		}
		return c.replaced(r, old), nil
	})
}

// Problems are all that is wrong with a registration, each naming its field: what Validate sees, and what goes by this gateway's settings
// and the store's clock. It asks nobody.
func (c *Carrier) Problems(r Registration) []string {
	problems := Validate(r)
	if r.CallbackURL != "" {
		if p := c.guard.problem(r.CallbackURL); p != "" {
			problems = append(problems, p)
		}
	}
	if r.DebugUntil.After(c.store.now().Add(maxDebug)) {
		problems = append(problems, "debugUntil may not be more than 1 hour ahead")
	}
	return problems
}

// replaced is the new registration with what it keeps of the old one.
func (c *Carrier) replaced(r Registration, old *held) *held {
	now := c.store.now().Truncate(time.Millisecond)
	r.Created, r.LastUpdated = now, now
	if !r.DebugUntil.After(now) {
		r.DebugUntil = time.Time{}
	}
	h := newHeld(r)
	h.secret = r.Credentials.Secret
	h.Credentials.Secret = ""
	if old == nil {
		return h
	}
	h.Created = old.Created
	switch {
	case h.Credentials.Type == HMAC && old.Credentials.Type == HMAC && old.secret != h.secret:
		h.oldSecret, h.oldUntil = old.secret, now.Add(secretOverlap)
	case old.secret == h.secret:
		h.oldSecret, h.oldUntil = old.oldSecret, old.oldUntil
	}
	return h
}

// SetMode switches a registration's mode.
func (c *Carrier) SetMode(ctx context.Context, id RegID, m Mode) error {
	if m != Live && m != Maintenance && m != Monitoring {
		return &ValidationError{[]string{"mode must be LIVE, MAINTENANCE or MONITORING"}}
	}
	return c.change(ctx, id, func(v *view, old *held) (*held, error) {
		if old == nil {
			return nil, ErrNotFound
		}
		if m == Live && v.liveBeside(id.AppID) {
			return nil, ErrLiveTaken
		}
		h := *old
		h.Mode, h.LastUpdated = m, c.store.now().Truncate(time.Millisecond)
		return &h, nil
	})
}

// Delete takes a registration out. What waits for it is withdrawn, and its conversations go to agents.
func (c *Carrier) Delete(ctx context.Context, id RegID) error {
	return c.change(ctx, id, func(v *view, old *held) (*held, error) {
		if old == nil && !v.hidden(id.AppID) { // one that cannot be read can go
			return nil, ErrNotFound
		}
		return nil, nil
	})
}

// change writes what decide makes of the present registration; nil means that it is deleted. The rules are checked against one version
// of the entity and stored only if it is still the same, so that two replicas can never break them together.
func (c *Carrier) change(ctx context.Context, id RegID, decide func(*view, *held) (*held, error)) error {
	added := false // to the indexes
	for range changeRepeats {
		v, err := c.freshView(ctx, id.Entity)
		if err != nil {
			return err
		}
		old := v.find(id.AppID)
		next, err := decide(v, old)
		if err != nil {
			if added && old == nil { // somebody else's change came first
				_ = c.unindex(ctx, id) // the answer is the same; what stays, readers drop
			}
			return err
		}
		if next != nil {
			if err := c.store.addIndex(ctx, id); err != nil {
				return err
			}
			added = true
		}
		done, err := c.store.change(ctx, id, v.version, next, effectsOf(old, next, c.store.now()))
		if err != nil {
			return err
		}
		if !done {
			continue
		}
		c.wake(id)
		c.changed()
		switch {
		case next == nil:
			return errors.Join(c.store.noteDeleted(ctx, id), c.unindex(ctx, id))
		case old == nil: // one that lost against another change may have taken it out before this one was written
			if err := c.store.addIndex(ctx, id); err != nil {
				return err
			}
		}
		_, err = c.freshView(ctx, id.Entity)
		return err
	}
	return unavailable("change registration", fmt.Errorf("others kept changing it"))
}

// unindex takes a registration that is not there out of the indexes, and puts it back if it was created meanwhile: whoever creates one puts
// it in before and after it is written, so whichever of the two is later finds it. A crash before it is put back leaves it out of lists until
// it is written again; it works.
func (c *Carrier) unindex(ctx context.Context, id RegID) error {
	if err := c.store.dropIndex(ctx, id); err != nil {
		return err
	}
	v, err := c.freshView(ctx, id.Entity)
	if err != nil || v.find(id.AppID) == nil {
		return err
	}
	return c.store.addIndex(ctx, id)
}

// effects are what a change does beside writing the registration.
type effects struct {
	reset  bool // the window starts empty, and a pause is over
	trial  bool // delivery starts with one at a time
	cut    Fate // of the events that wait; "": they stay
	off    string
	closes bool // an open incident ends without a notice
	debug  time.Time
	job    *Job // hand off the ongoing conversations
}

// effectsOf says what follows from a change. It is pure.
func effectsOf(old, next *held, now time.Time) effects {
	var e effects
	wasLive := old != nil && old.Mode == Live || old == nil && next == nil // one that could not be read may have been
	switch {
	case next == nil:
		e = effects{reset: true, cut: Withdrawn, off: "2", closes: true}
		e.handOver(wasLive, AutomaticHandoff, "deleted", now)
		return e
	case next.Mode == Maintenance:
		e.off = "1"
		if old == nil || old.Mode != Maintenance {
			e.reset, e.closes = true, true
		}
		if old != nil && old.Mode != Maintenance {
			e.cut = InMaintenance
		}
		e.handOver(wasLive, MaintenanceHandoff, "maintenance", now)
	case wasLive && next.Mode != Live:
		e.handOver(true, AutomaticHandoff, "mode", now)
	}
	if next.DebugUntil.After(now) {
		e.debug = next.DebugUntil
	}
	if old == nil {
		e.reset = true
		return e
	}
	changed := next.CallbackURL != old.CallbackURL || next.Credentials != old.Credentials || next.CACertificate != old.CACertificate || next.secret != old.secret
	left := old.Mode == Maintenance && next.Mode != Maintenance
	debugging := e.debug.After(old.DebugUntil)
	e.trial = changed || left
	e.reset = e.reset || e.trial || debugging
	return e
}

func (e *effects) handOver(live bool, kind HandoffKind, reason string, now time.Time) {
	if live {
		e.job = &Job{HandoffKind: kind, Reason: reason}
	}
}

// Registration returns one registration, without its secret.
func (c *Carrier) Registration(ctx context.Context, id RegID) (Registration, error) {
	v, err := c.freshView(ctx, id.Entity)
	if err != nil {
		return Registration{}, err
	}
	if h := v.find(id.AppID); h != nil {
		return h.Registration, nil
	}
	return Registration{}, ErrNotFound
}

// OfEntity returns the registrations of an entity, ordered by app id.
func (c *Carrier) OfEntity(ctx context.Context, e Entity) ([]Registration, error) {
	v, err := c.freshView(ctx, e)
	if err != nil {
		return nil, err
	}
	out := make([]Registration, len(v.regs))
	for i, h := range v.regs {
		out[i] = h.Registration
	}
	return out, nil
}

// OfCompany returns the registrations of a company, ordered by network, entity and app, from the first after a cursor on; "": from the
// first of all. They are read some hundred at a time, as they are asked for, so a company may be big. An error ends the sequence.
func (c *Carrier) OfCompany(ctx context.Context, company, after string) iter.Seq2[Registration, error] {
	return c.indexed(ctx, companyIndexKey(company), after, func(id RegID) bool { return id.CompanyKey == company })
}

// OfApp returns the registrations of an app within a company, ordered by network and entity.
func (c *Carrier) OfApp(ctx context.Context, company, appID string) ([]Registration, error) {
	var all []Registration
	for r, err := range c.indexed(ctx, appIndexKey(company, appID), "", func(id RegID) bool { return id.CompanyKey == company && id.AppID == appID }) {
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// loadChunk is how many registrations of a long list are read at once.
const loadChunk = 250

// indexed reads the registrations that an index names after a cursor; what dangles is left out.
func (c *Carrier) indexed(ctx context.Context, key, after string, belongs func(RegID) bool) iter.Seq2[Registration, error] {
	return func(yield func(Registration, error) bool) {
		members, err := c.store.indexed(ctx, key, after)
		if err != nil {
			yield(Registration{}, err)
			return
		}
		for few := range slices.Chunk(members, loadChunk) {
			regs, err := c.loadSome(ctx, few, belongs)
			if err != nil {
				yield(Registration{}, err)
				return
			}
			for _, r := range regs {
				if !yield(r, nil) {
					return
				}
			}
		}
	}
}

// loadSome reads the registrations of these names that belong.
func (c *Carrier) loadSome(ctx context.Context, members []string, belongs func(RegID) bool) ([]Registration, error) {
	var ids []RegID
	entities := map[Entity]bool{}
	for _, m := range members {
		if id, err := parseMember(m); err == nil && belongs(id) {
			ids, entities[id.Entity] = append(ids, id), true
		}
	}
	loaded, err := c.store.loadViews(ctx, entities)
	if err != nil {
		return nil, err
	}
	out := make([]Registration, 0, len(ids))
	for _, id := range ids {
		if h := loaded[id.Entity].find(id.AppID); h != nil {
			out = append(out, h.Registration)
		}
	}
	return out, nil
}

// Health returns the health of every registration of an app; ErrNotFound when there is none. It reads each shard once.
func (c *Carrier) Health(ctx context.Context, company, appID string) ([]Health, error) {
	regs, err := c.OfApp(ctx, company, appID)
	if err != nil {
		return nil, err
	}
	if len(regs) == 0 {
		return nil, ErrNotFound
	}
	readings, err := c.store.readHealth(ctx, regs)
	if err != nil {
		return nil, err
	}
	out := make([]Health, 0, len(regs))
	for i, r := range regs {
		if !readings[i].Sick {
			out = append(out, c.healthOf(r, readings[i]))
		}
	}
	if len(out) == 0 {
		return nil, unavailable("read health", errSick)
	}
	return out, nil
}

func (c *Carrier) healthOf(r Registration, rd health.Reading) Health {
	v := c.cfg.Rules.Judge(rd.Standing, rd.Counts, rd.At)
	h := Health{Registration: r, Counts: rd.Counts, Standing: rd.Standing, Verdict: v, Window: c.cfg.Rules.Window, LastAcknowledgedAt: rd.Notes.LastAcknowledgedAt}
	if h.Standing.Since.IsZero() {
		h.Standing.Since = r.Created
	}
	if v.State != h.Standing.State { // not stored yet: it changed a moment ago
		h.Standing.State, h.Standing.Since = v.State, rd.At
	}
	if v.State != health.Down {
		h.Standing.PausedUntil = time.Time{}
	}
	if !rd.Notes.FailureAt.IsZero() {
		h.LastFailure = &Failure{Class: rd.Notes.FailureClass, At: rd.Notes.FailureAt, RequestID: rd.Notes.FailureRequest}
	}
	return h
}
