package gateway

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
)

const (
	// revokedEvery is the time between two looks at what was revoked: a quarter of the second within which every gateway must know.
	revokedEvery = 250 * time.Millisecond
	// revokedPatience is how long a gateway goes on that cannot read the list. Most of what a token is good for needs the same store, and
	// nothing can be revoked while it is away; so this is about a gateway that alone is cut off from the part of a cluster that has the list,
	// and long enough for a failover.
	revokedPatience = time.Minute
	revokedMany     = 1000 // of one look
)

// AccessConfig is what an Access is made of. Store must be set.
type AccessConfig struct {
	Store    *AccessStore
	Patience time.Duration // for how long tokens are believed while the list of revoked ones cannot be read; 0: a minute
	Rate     Rate          // of requests with one token, over all gateways; zero: no limit
	Log      *slog.Logger  // nil: nothing is logged
}

// Access knows what tokens do not say themselves: which were revoked, and how much each may still ask for. It keeps a copy of the list of
// revoked tokens, which Run keeps up to date, so that a request asks no store. Safe for concurrent use.
type Access struct {
	AccessConfig
	admins *administrators
	rates  *rates

	mu      sync.RWMutex
	revoked map[tokenName]revocation
	number  int64  // of the last revocation that is known
	list    string // the name of the list that it stands in
	swept   time.Time

	synced atomic.Pointer[time.Time] // when the list was read last; nil: never
	silent atomic.Bool               // that it cannot be read has been told
}

// NewAccess returns an Access that believes no token until Sync or Run has read the list.
func NewAccess(cfg AccessConfig) (*Access, error) {
	if cfg.Store == nil {
		return nil, errors.New("new access: Store is missing")
	}
	if cfg.Patience <= 0 {
		cfg.Patience = revokedPatience
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Access{
		AccessConfig: cfg, admins: newAdministrators(cfg.Store), rates: newRates(cfg.Store, cfg.Rate), revoked: map[tokenName]revocation{},
	}, nil
}

// Run keeps the list of revoked tokens up to date until ctx ends. A list that cannot be read is tried again; that is told once.
func (a *Access) Run(ctx context.Context) error {
	tick := time.NewTicker(revokedEvery)
	defer tick.Stop()
	defer a.rates.end()
	for {
		if err := a.Sync(ctx); err == nil {
			if a.silent.Swap(false) {
				a.Log.Info("the list of revoked tokens is read again")
			}
		} else if ctx.Err() == nil && !a.silent.Swap(true) {
			a.Log.Warn("the list of revoked tokens cannot be read", "goodFor", a.Patience, "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Sync reads what was revoked since the last time. A store that has lost revocations is told them again.
func (a *Access) Sync(ctx context.Context) error {
	for {
		a.mu.RLock()
		number, list := a.number, a.list
		a.mu.RUnlock()
		page, err := a.Store.revokedAfter(ctx, number, revokedMany)
		if err != nil {
			return err
		}
		lost := page.last < number || list != "" && page.of != list
		if lost {
			if err := a.restore(ctx); err != nil {
				return err
			}
			page.told, page.of = 0, ""
		}
		a.learn(page)
		if len(page.list) < revokedMany && !lost {
			now := time.Now()
			a.synced.Store(&now)
			return nil
		}
	}
}

// restore writes to the store what this gateway knows to be revoked, and the store has lost.
func (a *Access) restore(ctx context.Context) error {
	a.mu.RLock()
	list := make([]revocation, 0, len(a.revoked))
	for _, r := range a.revoked {
		list = append(list, r)
	}
	a.mu.RUnlock()
	a.Log.Warn("the store has lost revoked tokens; it is told them again", "tokens", len(list))
	for len(list) > 0 {
		n := min(len(list), revokedMany)
		if _, err := a.Store.revoke(ctx, list[:n]...); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}

// learn takes in a page of the list, and now and then forgets what has ended.
func (a *Access) learn(page revokedPage) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.number, a.list = page.told, page.of
	for _, r := range page.list {
		a.revoked[r.name] = r
	}
	if page.now.Sub(a.swept) < time.Minute {
		return
	}
	a.swept = page.now
	for name, r := range a.revoked {
		if r.until.Before(page.now) {
			delete(a.revoked, name)
		}
	}
}

// errUnsure is what a gateway answers that does not know whether a token was revoked.
var errUnsure = &worded{err: delivery.ErrUnavailable, words: []string{"whether this token was revoked cannot be known now, try again"}}

// admits is nil for a token that was not revoked, ErrToken for one that was, and an ErrUnavailable when that is not known.
func (a *Access) admits(name tokenName, now time.Time) error {
	if synced := a.synced.Load(); synced == nil || time.Since(*synced) > a.Patience {
		return errUnsure
	}
	a.mu.RLock()
	r, ok := a.revoked[name]
	a.mu.RUnlock()
	if ok && !now.Before(r.from) {
		return ErrToken
	}
	return nil
}

// concern is why this gateway is not ready, in words; empty: nothing.
func (a *Access) concern() string {
	if synced := a.synced.Load(); synced == nil || time.Since(*synced) > a.Patience {
		return "tokens: the list of revoked ones could not be read, no token is believed"
	}
	return ""
}

// Revoke revokes a token by its issuer, which is empty for our own tokens, and its id; until is when it ends anyway. It returns false when
// it had been revoked before, or has ended.
func (s *AccessStore) Revoke(ctx context.Context, issuer, id string, until time.Time) (bool, error) {
	if issuer == "" {
		issuer = tokenParty
	}
	n, err := s.revoke(ctx, revocation{name: nameToken(issuer, id), until: until.Add(2 * tokenLeeway)})
	return n > 0, err
}
