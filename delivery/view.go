package delivery

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"
)

// held is a registration as this replica uses it: with its secrets opened.
type held struct {
	Registration
	names     *names
	secret    Secret
	oldSecret Secret // signs beside secret until oldUntil
	oldUntil  time.Time
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
	h := &held{Registration: st.Registration, names: st.Registration.names(), oldUntil: st.OldUntil}
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

// views caches what this replica knows of entities. A view may be out of date: every script is told its version and refuses another.
type views struct {
	mu sync.RWMutex
	m  map[Entity]*view
}

func (c *views) get(e Entity) *view {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.m[e]
}

func (c *views) put(e Entity, v *view) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(v.regs) == 0 {
		delete(c.m, e)
		return
	}
	c.m[e] = v
}
