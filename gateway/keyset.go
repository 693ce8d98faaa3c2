package gateway

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"slices"
)

const (
	keySetMost = 100  // keys
	rsaLeast   = 2048 // bits
	rsaMost    = 8192
)

// issuerKey is a public key, and the one algorithm that it is for.
type issuerKey struct {
	algorithm string
	public    crypto.PublicKey
}

// wireKey is a JSON Web Key, as far as it concerns us.
type wireKey struct {
	Kind      string   `json:"kty"`
	ID        string   `json:"kid"`
	Use       string   `json:"use"`
	Purposes  []string `json:"key_ops"`
	Algorithm string   `json:"alg"`
	Curve     string   `json:"crv"`
	X         string   `json:"x"`
	Y         string   `json:"y"`
	N         string   `json:"n"`
	E         string   `json:"e"`
}

// parseKeySet reads a JSON Web Key Set. Keys that are of no use here are left out: those without an id or for something else, of other
// kinds, shared secrets, weak ones, and all that share an id. A set in which nothing is left is an error.
func parseKeySet(text []byte) (map[string]issuerKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, errors.New("not a JSON Web Key Set")
	}
	if len(set.Keys) > keySetMost {
		return nil, errors.New("more than 100 keys")
	}
	keys, seen := map[string]issuerKey{}, map[string]bool{}
	for _, raw := range set.Keys {
		var w wireKey
		if json.Unmarshal(raw, &w) != nil || w.ID == "" {
			continue
		}
		if seen[w.ID] {
			delete(keys, w.ID)
			continue
		}
		seen[w.ID] = true
		if key, ok := w.key(); ok {
			keys[w.ID] = key
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("no key in it is of use: RS256, ES256 or EdDSA, with an id")
	}
	return keys, nil
}

// key is the key for verifying signatures with the one algorithm that goes with its kind.
func (w wireKey) key() (key issuerKey, ok bool) {
	if w.Use != "" && w.Use != "sig" || len(w.Purposes) > 0 && !slices.Contains(w.Purposes, "verify") {
		return key, false
	}
	switch {
	case w.Kind == "RSA":
		key.algorithm = "RS256"
		key.public, ok = w.rsa()
	case w.Kind == "EC" && w.Curve == "P-256":
		key.algorithm = "ES256"
		key.public, ok = w.ecdsa()
	case w.Kind == "OKP" && w.Curve == "Ed25519":
		key.algorithm = "EdDSA"
		x, err := base64.RawURLEncoding.DecodeString(w.X)
		key.public, ok = ed25519.PublicKey(x), err == nil && len(x) == ed25519.PublicKeySize
	}
	return key, ok && (w.Algorithm == "" || w.Algorithm == key.algorithm)
}

func (w wireKey) rsa() (crypto.PublicKey, bool) {
	n, badN := base64.RawURLEncoding.DecodeString(w.N)
	e, badE := base64.RawURLEncoding.DecodeString(w.E)
	if badN != nil || badE != nil || len(e) > 4 {
		return nil, false
	}
	key := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
	bits := key.N.BitLen()
	return key, bits >= rsaLeast && bits <= rsaMost && key.E >= 3 && key.E%2 == 1
}

func (w wireKey) ecdsa() (crypto.PublicKey, bool) {
	x, badX := base64.RawURLEncoding.DecodeString(w.X)
	y, badY := base64.RawURLEncoding.DecodeString(w.Y)
	if badX != nil || badY != nil || len(x) != 32 || len(y) != 32 {
		return nil, false
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
	return key, err == nil
}
