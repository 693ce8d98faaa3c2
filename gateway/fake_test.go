package gateway_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
)

// fakeCarrier behaves like the carrier towards the gateway, in memory, but delivers nothing: accepted events stay queued.
type fakeCarrier struct {
	mu       sync.Mutex
	away     bool // the store does not answer
	panics   bool // the next accept panics
	breaksAt int  // the row of a company's listing at which the store goes away; 0: none
	regs     map[delivery.RegID]delivery.Registration
	controls map[string]delivery.Control
	seen     map[string]accepted
	records  []delivery.Record
	entries  []delivery.Entry
	deeds    []delivery.Deed
	bodies   [][]byte // of accepted events, as they came
	ids      int
}

// accepted is what the fake remembers of an idempotency key.
type accepted struct {
	body    string
	receipt delivery.Receipt
}

func newFakeCarrier() *fakeCarrier {
	return &fakeCarrier{
		regs: map[delivery.RegID]delivery.Registration{}, controls: map[string]delivery.Control{}, seen: map[string]accepted{},
	}
}

func (f *fakeCarrier) lock() func() {
	f.mu.Lock()
	return f.mu.Unlock
}

func (f *fakeCarrier) newID(prefix string) string {
	f.ids++
	return fmt.Sprintf("%s-0-%06d", prefix, f.ids)
}

func (f *fakeCarrier) Create(_ context.Context, r delivery.Registration) error {
	defer f.lock()()
	if _, ok := f.regs[r.RegID]; ok {
		return fmt.Errorf("create registration: %w", delivery.ErrExists)
	}
	return f.put(r)
}

func (f *fakeCarrier) Put(_ context.Context, r delivery.Registration) error {
	defer f.lock()()
	return f.put(r)
}

func (f *fakeCarrier) Problems(r delivery.Registration) []string { return delivery.Validate(r) }

func (f *fakeCarrier) put(r delivery.Registration) error {
	if f.away {
		return delivery.ErrUnavailable
	}
	if problems := f.Problems(r); len(problems) > 0 {
		return &delivery.ValidationError{Problems: problems}
	}
	others := 0
	for id, o := range f.regs {
		if id.Entity != r.Entity || id == r.RegID {
			continue
		}
		others++
		if o.Mode == delivery.Live && r.Mode == delivery.Live {
			return delivery.ErrLiveTaken
		}
	}
	if others >= 10 {
		return delivery.ErrTooMany
	}
	r.LastUpdated = time.Now()
	if r.Created = r.LastUpdated; !f.regs[r.RegID].Created.IsZero() {
		r.Created = f.regs[r.RegID].Created
	}
	r.Credentials.Secret = ""
	if r.WhenDown == "" {
		r.WhenDown = delivery.HandOff
	}
	f.regs[r.RegID] = r
	return nil
}

func (f *fakeCarrier) SetMode(_ context.Context, id delivery.RegID, m delivery.Mode) error {
	defer f.lock()()
	r, ok := f.regs[id]
	if !ok {
		return delivery.ErrNotFound
	}
	for other, o := range f.regs {
		if m == delivery.Live && other.Entity == id.Entity && other != id && o.Mode == delivery.Live {
			return delivery.ErrLiveTaken
		}
	}
	if r.Mode == delivery.Live && m != delivery.Live {
		kind := delivery.AutomaticHandoff
		if m == delivery.Maintenance {
			kind = delivery.MaintenanceHandoff
		}
		f.handOffAll(id, kind, "mode")
	}
	r.Mode, r.LastUpdated = m, time.Now()
	f.regs[id] = r
	return nil
}

func (f *fakeCarrier) Delete(_ context.Context, id delivery.RegID) error {
	defer f.lock()()
	if _, ok := f.regs[id]; !ok {
		return delivery.ErrNotFound
	}
	f.handOffAll(id, delivery.AutomaticHandoff, "deleted")
	delete(f.regs, id)
	return nil
}

// handOffAll gives all conversations of an app to agents.
func (f *fakeCarrier) handOffAll(id delivery.RegID, kind delivery.HandoffKind, reason string) {
	for key, ctl := range f.controls {
		if ctl.Entity == id.Entity && ctl.Owner.AppID == id.AppID {
			ctl.Owner, ctl.LastUpdated = delivery.Owner{Type: delivery.Agent}, time.Now()
			f.controls[key] = ctl
			f.append(delivery.EntryHandoff, id, delivery.Handoff{
				HandoffKind: kind, AuthorID: ctl.AuthorID, AuthorName: ctl.AuthorName, Owner: ctl.Owner, Reason: reason,
			})
		}
	}
}

// append writes an entry to the outbox.
func (f *fakeCarrier) append(kind delivery.EntryKind, id delivery.RegID, data any) {
	text, _ := json.Marshal(data)
	f.entries = append(f.entries, delivery.Entry{
		ID: f.newID("out"), Kind: kind, CompanyKey: id.CompanyKey, NetworkKey: id.NetworkKey, ExternalID: id.ExternalID,
		AppID: id.AppID, At: time.Now().UnixMilli(), Data: text, State: delivery.EntryKept,
	})
}

func (f *fakeCarrier) Registration(_ context.Context, id delivery.RegID) (delivery.Registration, error) {
	defer f.lock()()
	if f.away {
		return delivery.Registration{}, delivery.ErrUnavailable
	}
	r, ok := f.regs[id]
	if !ok {
		return r, delivery.ErrNotFound
	}
	return r, nil
}

func (f *fakeCarrier) find(fits func(delivery.RegID) bool) (all []delivery.Registration, err error) {
	defer f.lock()()
	if f.away {
		return nil, delivery.ErrUnavailable
	}
	for id, r := range f.regs {
		if fits(id) {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b delivery.Registration) int {
		return cmp.Or(cmp.Compare(a.ExternalID, b.ExternalID), cmp.Compare(a.AppID, b.AppID))
	})
	return all, nil
}

func (f *fakeCarrier) OfEntity(_ context.Context, e delivery.Entity) ([]delivery.Registration, error) {
	return f.find(func(id delivery.RegID) bool { return id.Entity == e })
}

func (f *fakeCarrier) OfCompany(_ context.Context, company, after string) iter.Seq2[delivery.Registration, error] {
	return func(yield func(delivery.Registration, error) bool) {
		all, err := f.find(func(id delivery.RegID) bool { return id.CompanyKey == company && id.Cursor() > after })
		for i, r := range all {
			if f.breaksAt > 0 && i == f.breaksAt {
				err = delivery.ErrUnavailable
				break
			}
			if !yield(r, nil) {
				return
			}
		}
		if err != nil {
			yield(delivery.Registration{}, err)
		}
	}
}

func (f *fakeCarrier) ofApp(company, appID string) ([]delivery.Registration, error) {
	all, err := f.find(func(id delivery.RegID) bool { return id.CompanyKey == company && id.AppID == appID })
	if err == nil && len(all) == 0 {
		err = delivery.ErrNotFound
	}
	return all, err
}

func (f *fakeCarrier) Health(_ context.Context, company, appID string) ([]delivery.Health, error) {
	all, err := f.ofApp(company, appID)
	out := make([]delivery.Health, len(all))
	for i, r := range all {
		out[i] = delivery.Health{
			Registration: r, Window: 2 * time.Minute, Standing: health.Standing{State: health.Healthy, Since: r.Created},
			Verdict: health.Verdict{State: health.Healthy, Reason: "no failure in the window"},
		}
	}
	return out, err
}

func (f *fakeCarrier) Control(_ context.Context, e delivery.Entity, authorID string) (delivery.Control, error) {
	defer f.lock()()
	ctl, ok := f.controls[e.ExternalID+"|"+authorID]
	if !ok || ctl.Entity != e {
		return ctl, delivery.ErrNotFound
	}
	return ctl, nil
}

func (f *fakeCarrier) PassControl(_ context.Context, ch delivery.ControlChange) (delivery.Control, error) {
	defer f.lock()()
	id := delivery.RegID{Entity: ch.Entity, AppID: ch.AppID}
	if _, ok := f.regs[id]; !ok {
		return delivery.Control{}, delivery.ErrNotFound
	}
	key := ch.Entity.ExternalID + "|" + ch.AuthorID
	ctl := f.controls[key]
	var tags []string
	if ch.LastUpdateTS != 0 && ch.LastUpdateTS < ctl.LastUpdated.UnixMilli() {
		return ctl, delivery.ErrStale
	}
	if ch.Owner.Type == delivery.Agent {
		f.append(delivery.EntryHandoff, id, delivery.Handoff{
			HandoffKind: delivery.StandardHandoff, AuthorID: ch.AuthorID, AuthorName: ch.AuthorName, Owner: ch.Owner,
			Comment: ch.Comment, Reason: "control",
		})
		tags = []string{delivery.ParentTag, delivery.StandardHandoff.Tag()}
	}
	ctl = delivery.Control{
		Entity: ch.Entity, AuthorID: ch.AuthorID, AuthorName: ch.AuthorName, Owner: ch.Owner, Tags: tags, LastUpdated: time.Now(),
	}
	f.controls[key] = ctl
	return ctl, nil
}

func (f *fakeCarrier) Ready(context.Context) error {
	defer f.lock()()
	if f.away {
		return fmt.Errorf("dial redis.secret.internal:6379: %w", delivery.ErrUnavailable)
	}
	return nil
}

func (f *fakeCarrier) Store() delivery.StoreStatus {
	defer f.lock()()
	if f.away {
		return delivery.StoreStatus{Condition: delivery.StoreAway, Parts: 1}
	}
	return delivery.StoreStatus{Condition: delivery.StoreReachable, Parts: 1, Serving: 1}
}

func (f *fakeCarrier) Outbox() delivery.Outbox { return fakeOutbox{f: f} }

// fakeOutbox lists; the gateway asks for nothing else.
type fakeOutbox struct {
	delivery.Outbox
	f *fakeCarrier
}

func (o fakeOutbox) Now() time.Time { return time.Now() }

func (o fakeOutbox) List(_ context.Context, company string, n int, keep func(delivery.Entry) bool, kinds ...delivery.EntryKind) (out []delivery.Entry, _ error) {
	defer o.f.lock()()
	for _, e := range slices.Backward(o.f.entries) {
		if e.CompanyKey == company && slices.Contains(kinds, e.Kind) && len(out) < n && (keep == nil || keep(e)) {
			out = append(out, e)
		}
	}
	return out, nil
}

// isCanary tells whether a text holds what must never leave the gateway.
func isCanary(s string) bool {
	return strings.Contains(s, "s3cret") || strings.Contains(s, "redis.secret.internal")
}
