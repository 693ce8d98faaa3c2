package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// RenewKeys replaces the ring of sealing keys while the carrier works: the first seals from now on, all open. A ring that lacks a key that
// secrets are sealed with is refused. After an error the ring is what it was; ErrUnavailable says that the store could not be asked.
func (c *Carrier) RenewKeys(ctx context.Context, keys ...[]byte) error {
	required, err := (&Vault{c.store}).Required(ctx)
	if err != nil {
		return err
	}
	for _, id := range required {
		if !slices.ContainsFunc(keys, func(key []byte) bool { return KeyID(key) == id }) {
			return fmt.Errorf("the new ring of keys lacks key %s, which secrets in the store are sealed with", id)
		}
	}
	if err := c.cfg.Sealer.renew(keys...); err != nil {
		return err
	}
	c.views.forget() // what could not be read may be readable now
	select {
	case c.renewed <- struct{}{}:
	default:
	}
	return nil
}

// ringPrefix begins the channels by which gateways tell their sealing keys: its rest is the replica and the ids of the keys, the current
// one first.
const ringPrefix = "pg:ring:"

func (c *Carrier) ringChannel() string {
	return ringPrefix + c.cfg.Replica + ":" + strings.Join(c.cfg.Sealer.ids(), ",")
}

// Vault is the store as whoever replaces sealing keys sees it. Safe for concurrent use.
type Vault struct{ s *store }

// Sealed is what a walk through all registrations has found or done.
type Sealed struct {
	Registrations int64
	Secrets       map[string]int64 // how many are sealed with a key, by its id
	Resealed      int64            // registrations that were sealed anew
	Unreadable    []string         // names of registrations with a secret that no key of the ring opens
	changed       int64            // registrations that somebody else wrote meanwhile
}

// Settled says that every secret is sealed with one key, and with no other.
func (s Sealed) Settled(key string) bool {
	for id, n := range s.Secrets {
		if id != key && n > 0 {
			return false
		}
	}
	return s.changed == 0 && len(s.Unreadable) == 0
}

// Renew replaces the ring that the vault works with.
func (v *Vault) Renew(keys ...[]byte) error { return v.s.sealer.renew(keys...) }

// Count walks through all registrations and changes nothing. progress, which may be nil, hears how many it has seen.
func (v *Vault) Count(ctx context.Context, progress func(seen int64)) (Sealed, error) {
	return v.s.walkSecrets(ctx, progress, func(held, string) (string, bool, error) { return "", false, nil })
}

// Reseal seals the secrets of all registrations with the current key, while gateways work: their registrations count as unchanged. What is
// sealed with it already is left as it is, so a walk that was broken off is simply made again. One that somebody writes meanwhile is left
// to the next walk.
//
// A crash leaves some sealed with the old key and some with the new: both open, as long as both keys are in the ring.
func (v *Vault) Reseal(ctx context.Context, progress func(seen int64)) (Sealed, error) {
	return v.s.walkSecrets(ctx, progress, func(h held, text string) (string, bool, error) {
		data, err := v.s.sealer.pack(&h)
		return string(data), err == nil && string(data) != text, err
	})
}

// keysOf are the ids of the keys that a stored registration is sealed with.
func keysOf(text string) ([]string, error) {
	var st stored
	if err := json.Unmarshal([]byte(text), &st); err != nil {
		return nil, fmt.Errorf("decode registration: %w", err)
	}
	var ids []string
	for _, sealed := range []string{st.Sealed, st.OldSealed} {
		if sealed != "" {
			ids = append(ids, sealedBy(sealed))
		}
	}
	return ids, nil
}

// see notes one registration in what was found, and returns what it is to be replaced by.
func (s *store) see(found *Sealed, id RegID, text string, renew renewal) (next string, change bool) {
	found.Registrations++
	ids, err := keysOf(text)
	old := false
	for _, key := range ids {
		found.Secrets[key]++
		old = old || key != s.sealer.current()
	}
	h, broken := s.sealer.unpack(text)
	if err = errors.Join(err, broken); err != nil {
		found.Unreadable = append(found.Unreadable, id.member())
		return "", false
	}
	if !old {
		return "", false
	}
	if next, change, err = renew(*h, text); err != nil {
		found.Unreadable = append(found.Unreadable, id.member())
		return "", false
	}
	return next, change
}

// renewal is what a registration is to be replaced by, if it is.
type renewal func(h held, text string) (next string, change bool, err error)
