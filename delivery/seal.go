package delivery

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
)

// Sealer keeps secrets at rest: AES-256-GCM with a random nonce, bound to the registration and field that a secret belongs to, so that
// a sealed secret moved elsewhere does not open. Safe for concurrent use.
type Sealer struct {
	ring atomic.Pointer[[]sealingKey] // the first seals, all open
}

// sealingKey is one key of the ring, and the name by which what it sealed calls it.
type sealingKey struct {
	id   string
	aead cipher.AEAD
}

// NewSealer returns a sealer for a ring of keys of 32 bytes: the first seals, all of them open what they have sealed.
func NewSealer(keys ...[]byte) (*Sealer, error) {
	s := new(Sealer)
	if err := s.renew(keys...); err != nil {
		return nil, err
	}
	return s, nil
}

// renew replaces the ring. After an error it is what it was.
func (s *Sealer) renew(keys ...[]byte) error {
	if len(keys) == 0 {
		return errors.New("sealing keys: there is none")
	}
	var ring []sealingKey
	for _, key := range keys {
		if len(key) != 32 {
			return fmt.Errorf("sealing key: want 32 bytes, have %d", len(key))
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return fmt.Errorf("sealing key: %w", err)
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return fmt.Errorf("sealing key: %w", err)
		}
		ring = append(ring, sealingKey{id: KeyID(key), aead: aead})
	}
	s.ring.Store(&ring)
	return nil
}

// KeyID is the name of a sealing key: it tells nothing of the key.
func KeyID(key []byte) string {
	sum := sha256.Sum256(append([]byte("key id "), key...))
	return hex.EncodeToString(sum[:4])
}

// current is the id of the key that seals.
func (s *Sealer) current() string { return (*s.ring.Load())[0].id }

// ids are the ids of all keys, the current one first.
func (s *Sealer) ids() []string {
	var list []string
	for _, k := range *s.ring.Load() {
		list = append(list, k.id)
	}
	return list
}

// sealedBy is the id of the key that sealed a text; "" for none.
func sealedBy(sealed string) string {
	if parts := strings.Split(sealed, "."); len(parts) == 3 {
		return parts[1]
	}
	return ""
}

// key is the key of an id, of exactly that; nil when the ring has none.
func (s *Sealer) key(id string) cipher.AEAD {
	for _, k := range *s.ring.Load() {
		if k.id == id {
			return k.aead
		}
	}
	return nil
}

// seal returns "v1.<key id>.<base64>".
func (s *Sealer) seal(secret Secret, owner, field string) string {
	if secret == "" {
		return ""
	}
	k := (*s.ring.Load())[0]
	box := k.aead.Seal(nil, nil, []byte(secret), []byte(owner+"\x00"+field))
	return "v1." + k.id + "." + base64.RawURLEncoding.EncodeToString(box)
}

// open is the way back from seal. Its errors never show the secret.
func (s *Sealer) open(sealed, owner, field string) (Secret, error) {
	if sealed == "" {
		return "", nil
	}
	parts := strings.Split(sealed, ".")
	if len(parts) != 3 || parts[0] != "v1" {
		return "", errors.New("open secret: not a sealed secret")
	}
	key := s.key(parts[1])
	if key == nil {
		return "", fmt.Errorf("open secret: sealed with key %s, and this gateway has key %s: start it with the right --key-file", parts[1], strings.Join(s.ids(), ", "))
	}
	box, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return "", errors.New("open secret: damaged")
	}
	text, err := key.Open(nil, nil, box, []byte(owner+"\x00"+field))
	if err != nil {
		return "", errors.New("open secret: it belongs to another registration, or is damaged")
	}
	return Secret(text), nil
}
