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
)

// Sealer keeps secrets at rest: AES-256-GCM with a random nonce, bound to the registration and field that a secret belongs to, so that
// a sealed secret moved elsewhere does not open. Safe for concurrent use.
type Sealer struct {
	aead  cipher.AEAD
	keyID string
}

// NewSealer returns a sealer for a key of 32 bytes.
func NewSealer(key []byte) (*Sealer, error) {
	if len(key) != 32 {
		return nil, fmt.Errorf("sealing key: want 32 bytes, have %d", len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("sealing key: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("sealing key: %w", err)
	}
	sum := sha256.Sum256(append([]byte("key id "), key...))
	return &Sealer{aead: aead, keyID: hex.EncodeToString(sum[:4])}, nil
}

// seal returns "v1.<key id>.<base64>".
func (s *Sealer) seal(secret Secret, owner, field string) string {
	if secret == "" {
		return ""
	}
	box := s.aead.Seal(nil, nil, []byte(secret), []byte(owner+"\x00"+field))
	return "v1." + s.keyID + "." + base64.RawURLEncoding.EncodeToString(box)
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
	if parts[1] != s.keyID {
		return "", fmt.Errorf("open secret: sealed with key %s, and this gateway has key %s: start it with the right --key-file", parts[1], s.keyID)
	}
	box, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return "", errors.New("open secret: damaged")
	}
	text, err := s.aead.Open(nil, nil, box, []byte(owner+"\x00"+field))
	if err != nil {
		return "", errors.New("open secret: it belongs to another registration, or is damaged")
	}
	return Secret(text), nil
}
