package gateway

import (
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

// Scope is what a token may be used for. Its text is the spelling in the token.
type Scope string

// The scopes. A token never reaches another company, whatever its scope.
const (
	ScopeAdmin  Scope = "admin"  // everything of its company
	ScopeSource Scope = "source" // hands in events and asks what became of them
	ScopeBot    Scope = "bot"    // one bot: its own app ID
)

const (
	tokenParty  = "pulsegate" // issuer and audience
	tokenLeeway = 30 * time.Second
	tokenLimit  = 8 << 10 // bytes, checked before anything is parsed
)

// ErrToken is the one answer to every token that is not good; why it is not is never told to its bearer.
var ErrToken = errors.New("token is not valid")

// Claims are what a token says of its bearer.
type Claims struct {
	CompanyKey string
	Scope      Scope
	AppID      string    // the bot; for ScopeBot only
	ID         string    // of this token; Sign makes one when it is empty
	Issued     time.Time // set by Sign, to the second
	Expires    time.Time // set by Sign, to the second
}

// check reports the first claim that does not go with the others.
func (c Claims) check() error {
	switch {
	case c.CompanyKey == "":
		return errors.New("company may not be empty")
	case c.Scope == ScopeBot && c.AppID == "":
		return errors.New("scope bot needs an app ID")
	case c.Scope != ScopeBot && c.AppID != "":
		return errors.New("only scope bot takes an app ID")
	case c.Scope != ScopeAdmin && c.Scope != ScopeSource && c.Scope != ScopeBot:
		return errors.New("scope must be admin, source or bot")
	}
	return nil
}

// wireClaims is the token as it is written.
type wireClaims struct {
	CompanyKey string `json:"companyKey"`
	AppID      string `json:"appId,omitempty"`
	Scope      Scope  `json:"scope"`
	jwt.RegisteredClaims
}

// signingKey is one key of the ring, and the name by which tokens that it signed call it.
type signingKey struct {
	id  string
	key []byte
}

// Tokens signs bearer tokens with one key and verifies them with every key of its ring. Safe for concurrent use.
type Tokens struct {
	ring   []signingKey // the first signs
	parser *jwt.Parser
	seen   cache
}

// NewTokens returns the Tokens of a ring of secret keys of at least 32 bytes each: the first signs, all verify. The signing keys are
// derived from them, so that the same secrets may serve other purposes as well.
func NewTokens(keys ...[]byte) (*Tokens, error) {
	if len(keys) == 0 {
		return nil, errors.New("token keys: there is none")
	}
	t := new(Tokens)
	for _, key := range keys {
		if len(key) < 32 {
			return nil, fmt.Errorf("token key: has %d bytes, must have at least 32", len(key))
		}
		signing, err := hkdf.Key(sha512.New, key, nil, "pulsegate bearer tokens v1", sha512.Size)
		if err != nil {
			return nil, fmt.Errorf("derive token key: %w", err)
		}
		id := sha256.Sum256(append([]byte("key id "), signing...))
		t.ring = append(t.ring, signingKey{id: hex.EncodeToString(id[:8]), key: signing})
	}
	t.parser = jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodHS512.Alg()}),
		jwt.WithIssuer(tokenParty),
		jwt.WithAudience(tokenParty),
		jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(),
		jwt.WithLeeway(tokenLeeway),
		jwt.WithStrictDecoding(),
	)
	return t, nil
}

// Sign returns a token that says c and is good for ttl from now. Claims that do not go together are an error.
func (t *Tokens) Sign(c Claims, ttl time.Duration) (string, error) {
	if err := c.check(); err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	if ttl <= 0 {
		return "", errors.New("sign token: time to live must be positive")
	}
	if c.ID == "" {
		c.ID = uuid.NewString()
	}
	now := time.Now()
	token := jwt.NewWithClaims(jwt.SigningMethodHS512, wireClaims{
		CompanyKey: c.CompanyKey, AppID: c.AppID, Scope: c.Scope,
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: tokenParty, Audience: jwt.ClaimStrings{tokenParty}, ID: c.ID,
			IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(ttl)),
		},
	})
	token.Header["kid"] = t.ring[0].id
	text, err := token.SignedString(t.ring[0].key)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return text, nil
}

// Verify returns what a token says, or an error that wraps ErrToken and holds nothing of the token.
func (t *Tokens) Verify(token string) (Claims, error) {
	if len(token) > tokenLimit {
		return Claims{}, fmt.Errorf("verify token: %w", ErrToken)
	}
	digest := sha256.Sum256([]byte(token))
	if c, ok := t.seen.find(digest, time.Now()); ok {
		return c, nil
	}
	var w wireClaims
	if _, err := t.parser.ParseWithClaims(token, &w, t.keyFor); err != nil {
		return Claims{}, fmt.Errorf("verify token: %w", ErrToken)
	}
	c := Claims{CompanyKey: w.CompanyKey, Scope: w.Scope, AppID: w.AppID, ID: w.ID, Expires: w.ExpiresAt.Time}
	if w.IssuedAt != nil {
		c.Issued = w.IssuedAt.Time
	}
	if c.check() != nil {
		return Claims{}, fmt.Errorf("verify token: %w", ErrToken)
	}
	t.seen.keep(digest, c)
	return c, nil
}

// keyFor is the key that a token names, which must be one of the ring, to the letter. Tokens made before keys had names name none, and
// are held against all. A header with extensions that must be understood is refused.
func (t *Tokens) keyFor(token *jwt.Token) (any, error) {
	if _, ok := token.Header["crit"]; ok {
		return nil, ErrToken
	}
	named, ok := token.Header["kid"]
	if !ok {
		var all jwt.VerificationKeySet
		for _, k := range t.ring {
			all.Keys = append(all.Keys, k.key)
		}
		return all, nil
	}
	for _, k := range t.ring {
		if named == k.id {
			return k.key, nil
		}
	}
	return nil, ErrToken
}
