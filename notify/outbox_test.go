package notify_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
)

var errAway = errors.New("the store is away")

// outbox is an outbox in memory that behaves: leases, due times, takeover, and a clock.
type outbox struct {
	mu      sync.Mutex
	entries map[string]delivery.Entry
	due     map[string]time.Time
	order   []string
	regs    map[delivery.RegID]delivery.Registration
	signal  chan struct{}
	takes   int
	updates int
	away    bool
	looks   int
	job     func(delivery.Entry) (delivery.Entry, error)
	lost    func(delivery.Entry) bool // an update that never reaches the store

	joins    bool // notices wait for others
	asked    []delivery.Gathering
	gathered []delivery.Gathered // what every mail tells of
	marks    []mark
}

var _ delivery.Outbox = (*outbox)(nil)

func newOutbox() *outbox {
	return &outbox{
		entries: map[string]delivery.Entry{}, due: map[string]time.Time{},
		regs: map[delivery.RegID]delivery.Registration{}, signal: make(chan struct{}, 1),
	}
}

// add stores an entry as of now and returns its id.
func (o *outbox) add(tb testing.TB, kind delivery.EntryKind, reg delivery.Registration, data any) string {
	tb.Helper()
	raw, err := json.Marshal(data)
	require.NoError(tb, err)
	o.mu.Lock()
	id := "e" + strconv.Itoa(len(o.order))
	o.entries[id] = delivery.Entry{
		ID: id, Kind: kind, CompanyKey: reg.CompanyKey, NetworkKey: reg.NetworkKey, ExternalID: reg.ExternalID, AppID: reg.AppID,
		At: time.Now().UnixMilli(), Data: raw, State: delivery.EntryPending,
	}
	o.order = append(o.order, id)
	o.due[id] = time.Now()
	if _, known := o.regs[reg.RegID]; !known && reg.Name != "" {
		o.regs[reg.RegID] = reg
	}
	o.mu.Unlock()
	o.call()
	return id
}

func (o *outbox) Take(ctx context.Context, n int, lease time.Duration) ([]delivery.Entry, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.takes++
	if o.away {
		return nil, errAway
	}
	var out []delivery.Entry
	ids := slices.Clone(o.order)
	slices.SortStableFunc(ids, func(a, b string) int { return o.due[a].Compare(o.due[b]) })
	for _, id := range ids {
		e := o.entries[id]
		if len(out) == n || e.State != delivery.EntryPending || o.due[id].After(time.Now()) {
			continue
		}
		o.due[id] = time.Now().Add(lease)
		out = append(out, e)
	}
	return out, ctx.Err()
}

func (o *outbox) Update(ctx context.Context, e delivery.Entry) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if o.away {
		return errAway
	}
	o.updates++
	if o.lost != nil && o.lost(e) {
		return nil
	}
	o.entries[e.ID] = e
	o.due[e.ID] = time.UnixMilli(e.NextTry)
	return nil
}

func (o *outbox) RunJob(_ context.Context, e delivery.Entry) (delivery.Entry, error) {
	if o.job == nil {
		return e, errAway
	}
	return o.job(e)
}

// Gather lets each notice go by itself, but those of bots named "joins …". The contract tests of delivery hold the real store to its promises.
func (o *outbox) Gather(_ context.Context, e delivery.Entry, _ delivery.Contact, g delivery.Gathering) (string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked = append(o.asked, g)
	if o.joins {
		return "mail of " + e.ID, nil
	}
	return "", nil
}

func (o *outbox) Gathered(_ context.Context, e delivery.Entry) ([]delivery.Gathered, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.away {
		return nil, errAway
	}
	return o.gathered, nil
}

func (o *outbox) Mark(_ context.Context, to delivery.Contact, until time.Time, why string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.marks = append(o.marks, mark{to, until, why})
	return nil
}

// mark is what was noted with a contact.
type mark struct {
	to    delivery.Contact
	until time.Time
	why   string
}

func (o *outbox) List(context.Context, string, int, func(delivery.Entry) bool, ...delivery.EntryKind) ([]delivery.Entry, error) {
	return nil, nil
}

func (o *outbox) Waiting(context.Context) (int64, time.Duration, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.looks++
	if o.away {
		return 0, 0, errAway
	}
	var n int64
	var lag time.Duration
	for id, e := range o.entries {
		if e.State == delivery.EntryPending {
			n++
			lag = max(lag, time.Since(o.due[id]))
		}
	}
	return n, lag, nil
}

// Signal also calls when an entry becomes due, half a second late at most, as a carrier does.
func (o *outbox) Signal() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	wait := time.Hour
	for id, e := range o.entries {
		if e.State == delivery.EntryPending {
			wait = min(wait, time.Until(o.due[id]))
		}
	}
	if wait < time.Hour {
		time.AfterFunc(max(wait, 500*time.Millisecond), o.call)
	}
	return o.signal
}

func (o *outbox) call() {
	select {
	case o.signal <- struct{}{}:
	default:
	}
}

func (o *outbox) Registration(_ context.Context, id delivery.RegID) (delivery.Registration, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.away {
		return delivery.Registration{}, errAway
	}
	reg, ok := o.regs[id]
	if !ok {
		return delivery.Registration{}, delivery.ErrNotFound
	}
	return reg, nil
}

func (o *outbox) Now() time.Time { return time.Now() }

// setAway makes the store come and go.
func (o *outbox) setAway(away bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.away = away
}

func (o *outbox) entry(id string) delivery.Entry {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.entries[id]
}

func (o *outbox) taken() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.takes
}

// acme is a registration as its owner wrote it.
func acme() delivery.Registration {
	return delivery.Registration{
		RegID: delivery.RegID{
			Entity: delivery.Entity{CompanyKey: "acme", NetworkKey: "whatsapp", ExternalID: "channel-1"}, AppID: "acme-bot",
		},
		Name: "Acme assistant", CallbackURL: "https://bot.example.org/hook?key=s3cret", ContactName: "On Call", ContactEmail: "oncall@example.org",
		Mode: delivery.Live, Owner: "Chat team", RunbookURL: "https://wiki.example.org/acme-bot", WhenDown: delivery.HandOff,
	}
}

// at is a time of the day that all stories play on.
func at(clock string) int64 {
	t, err := time.Parse(time.DateTime, "2026-03-01 "+clock)
	if err != nil {
		panic(err)
	}
	return t.UnixMilli()
}

// down is the transition of a bot that went DOWN.
func down() health.Transition {
	return health.Transition{
		Number: 2, Kind: health.ToDown, From: health.Degraded, To: health.Down, At: at("10:02:00"), Since: at("10:02:00"),
		PausedUntil: at("10:04:00"), Incident: at("10:00:00"), DownSince: at("10:02:00"), Notice: true,
		Reason: "nothing acknowledged and at least 10 failed", Failed: 118,
		ByClass: map[health.Class]int64{health.Timeout: 20, health.Refused: 98}, HandedOff: 41, Undelivered: 118,
		FailedRequests: []string{"r-9f-3", "r-9f-2", "r-9f-1"},
	}
}
