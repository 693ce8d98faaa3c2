package delivery

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"time"
)

// held is a registration as this replica uses it: with its secrets opened.
type held struct {
	Registration
	names     *names
	callback  *url.URL // nil: it cannot be called
	secret    Secret
	oldSecret Secret // signs beside secret until oldUntil
	oldUntil  time.Time
}

func newHeld(r Registration) *held {
	h := &held{Registration: r, names: r.names()}
	if callback, err := url.Parse(r.CallbackURL); err == nil {
		h.callback = callback
	}
	return h
}

// stored is a registration as it lies in Redis: its secrets are sealed.
type stored struct {
	Registration Registration `json:"registration"`
	Sealed       string       `json:"sealed"`
	OldSealed    string       `json:"oldSealed,omitempty"`
	OldUntil     time.Time    `json:"oldUntil,omitzero"`
}

// view is what is known of an entity at one version. It never changes; a new version is a new view.
type view struct {
	version string
	regs    []*held  // ordered by app id
	gone    []string // app ids of deleted registrations

	unreadable []string // app ids of registrations that are there but cannot be read

	// What every accept for the entity sends.
	targets []*held
	keys    []string
	args    []any
}

// hidden says that the entity has a registration of an app that cannot be read.
func (v *view) hidden(appID string) bool { return slices.Contains(v.unreadable, appID) }

// hidesLive says that the entity has no LIVE registration that can be read, and one that cannot: it may be that.
func (v *view) hidesLive() bool { return v.live() == nil && len(v.unreadable) > 0 }

// hiddenBeside counts those of other apps.
func (v *view) hiddenBeside(appID string) int {
	n := len(v.unreadable)
	if v.hidden(appID) {
		n--
	}
	return n
}

func (v *view) find(appID string) *held {
	for _, r := range v.regs {
		if r.AppID == appID {
			return r
		}
	}
	return nil
}

func (v *view) live() *held {
	for _, r := range v.regs {
		if r.Mode == Live {
			return r
		}
	}
	return nil
}

// liveBeside says that another app is LIVE, or may be: one that cannot be read may be.
func (v *view) liveBeside(appID string) bool {
	l := v.live()
	return l != nil && l.AppID != appID || v.hiddenBeside(appID) > 0
}

const secretField = "credentials.secret"

func (s *Sealer) pack(h *held) ([]byte, error) {
	st := stored{
		Registration: h.Registration,
		Sealed:       s.seal(h.secret, h.member(), secretField),
		OldSealed:    s.seal(h.oldSecret, h.member(), secretField),
		OldUntil:     h.oldUntil,
	}
	st.Registration.Credentials.Secret = ""
	data, err := json.Marshal(st)
	if err != nil {
		return nil, fmt.Errorf("encode registration: %w", err)
	}
	return data, nil
}

func (s *Sealer) unpack(data string) (*held, error) {
	var st stored
	if err := json.Unmarshal([]byte(data), &st); err != nil {
		return nil, fmt.Errorf("decode registration: %w", err)
	}
	h := newHeld(st.Registration)
	h.oldUntil = st.OldUntil
	h.Credentials.Secret = ""
	var err error
	if h.secret, err = s.open(st.Sealed, h.names.member, secretField); err != nil {
		return nil, err
	}
	if h.oldSecret, err = s.open(st.OldSealed, h.names.member, secretField); err != nil {
		return nil, err
	}
	return h, nil
}

// views caches what this replica knows of the entities that had traffic last. A view may be out of date: every script is told its version
// and refuses another. There are two generations: what is used moves into the young one, and when that is full it becomes the old one, whose
// views are forgotten. So what is kept is bounded, and what is used once in every generation stays.
type views struct {
	limit int // bytes of one generation

	mu         sync.RWMutex
	young, old map[Entity]*view
	bytes      int // of young
}

const (
	viewsBytes = 16 << 20 // of one generation
	heldBytes  = 1500     // of a registration, beside its texts
	namesTimes = 16       // how often its name stands in the keys that are made of it
)

func newViews(limit int) *views {
	return &views{limit: limit, young: map[Entity]*view{}, old: map[Entity]*view{}}
}

func (c *views) get(e Entity) *view {
	c.mu.RLock()
	v, young := c.young[e]
	if !young {
		v = c.old[e]
	}
	c.mu.RUnlock()
	if v == nil || young {
		return v
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.old[e] == v { // else somebody has put another meanwhile
		c.keep(e, v)
	}
	return v
}

func (c *views) put(e Entity, v *view) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keep(e, v)
}

// forget empties the cache: everything is read again when it is needed.
func (c *views) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.young, c.old, c.bytes = map[Entity]*view{}, map[Entity]*view{}, 0
}

// keep makes a view one of the young generation. The caller holds the lock.
func (c *views) keep(e Entity, v *view) {
	c.bytes -= c.young[e].size()
	delete(c.young, e)
	delete(c.old, e)
	if len(v.regs) == 0 {
		return
	}
	c.young[e] = v
	if c.bytes += v.size(); c.bytes > c.limit {
		c.young, c.old, c.bytes = map[Entity]*view{}, c.young, 0
	}
}

// size is roughly what a view takes in memory, in bytes; 0 when there is none.
func (v *view) size() int {
	if v == nil {
		return 0
	}
	n := 0
	for _, h := range v.regs {
		n += heldBytes + namesTimes*len(h.names.member) + len(h.Name) + len(h.CallbackURL) + len(h.AvatarURL) + len(h.RunbookURL) + len(h.Metadata)
	}
	return n
}
