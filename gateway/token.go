package gateway

import (
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
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
	ring   atomic.Pointer[[]signingKey] // the first signs
	parser *jwt.Parser
	seen   cache
}

// NewTokens returns the Tokens of a ring of secret keys of at least 32 bytes each: the first signs, all verify. The signing keys are
// derived from them, so that the same secrets may serve other purposes as well.
func NewTokens(keys ...[]byte) (*Tokens, error) {
	t := new(Tokens)
	t.parser = jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodHS512.Alg()}),
		jwt.WithStrictDecoding(),
		jwt.WithoutClaimsValidation(), // read does that, by another clock
	)
	return t, t.Renew(keys...)
}

// Renew replaces the ring of secret keys, while tokens are signed and verified. After an error it is what it was.
func (t *Tokens) Renew(keys ...[]byte) error {
	if len(keys) == 0 {
		return errors.New("token keys: there is none")
	}
	var ring []signingKey
	for _, key := range keys {
		if len(key) < 32 {
			return fmt.Errorf("token key: has %d bytes, must have at least 32", len(key))
		}
		signing, err := hkdf.Key(sha512.New, key, nil, "pulsegate bearer tokens v1", sha512.Size)
		if err != nil {
			return fmt.Errorf("derive token key: %w", err)
		}
		id := sha256.Sum256(append([]byte("key id "), signing...))
		ring = append(ring, signingKey{id: hex.EncodeToString(id[:8]), key: signing})
	}
	t.ring.Store(&ring)
	t.seen.forget() // those of a key that is gone are good no more
	return nil
}

// Sign returns a token that says c and is good for ttl from now. Claims that do not go together are an error.
func (t *Tokens) Sign(c Claims, ttl time.Duration) (string, error) {
	if ttl <= 0 {
		return "", errors.New("sign token: time to live must be positive")
	}
	if c.ID == "" {
		c.ID = uuid.NewString()
	}
	c.Issued = time.Now()
	c.Expires = c.Issued.Add(ttl)
	return t.signWith((*t.ring.Load())[0].id, c)
}

// signWith returns the token that says c, signed by the key of a name. The same claims and key always make the same token.
func (t *Tokens) signWith(id string, c Claims) (string, error) {
	if err := c.check(); err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	key := t.key(id)
	if key == nil {
		return "", fmt.Errorf("sign token: key %s is not in the ring", id)
	}
	token := jwt.NewWithClaims(jwt.SigningMethodHS512, wireClaims{
		CompanyKey: c.CompanyKey, AppID: c.AppID, Scope: c.Scope,
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: tokenParty, Audience: jwt.ClaimStrings{tokenParty}, ID: c.ID,
			IssuedAt: jwt.NewNumericDate(c.Issued), ExpiresAt: jwt.NewNumericDate(c.Expires),
		},
	})
	token.Header["kid"] = id
	text, err := token.SignedString(key)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return text, nil
}

// key is the key of a name; nil when the ring has none.
func (t *Tokens) key(id string) []byte {
	for _, k := range *t.ring.Load() {
		if k.id == id {
			return k.key
		}
	}
	return nil
}

// keyNames are the names of all keys, with blanks between.
func (t *Tokens) keyNames() string {
	ring := *t.ring.Load()
	names := make([]string, len(ring))
	for i, k := range ring {
		names[i] = k.id
	}
	return strings.Join(names, " ")
}

// Verify returns what a token says, or an error that wraps ErrToken and holds nothing of the token. Whether it was revoked, it does not know.
func (t *Tokens) Verify(token string) (Claims, error) {
	b, err := t.verify(token, time.Now())
	return b.Claims, err
}

// bearer is what is known of who has a token.
type bearer struct {
	Claims
	name    tokenName
	foreign bool // its token is another issuer's
}

// verify is Verify at the time of the store's clock: that of this machine may be wrong.
func (t *Tokens) verify(token string, now time.Time) (bearer, error) {
	if len(token) > tokenLimit {
		return bearer{}, fmt.Errorf("verify token: %w", ErrToken)
	}
	digest := sha256.Sum256([]byte(token))
	if b, ok := t.seen.find(digest, now); ok {
		return b, nil
	}
	ring := t.ring.Load()
	b, err := t.read(token, now)
	if err != nil {
		return bearer{}, fmt.Errorf("verify token: %w", ErrToken)
	}
	if t.seen.keep(digest, b); t.ring.Load() != ring {
		t.seen.forget() // it may be of a key that has just gone
	}
	return b, nil
}

// read reads a token that nobody has shown lately.
func (t *Tokens) read(token string, now time.Time) (bearer, error) {
	var w wireClaims
	if _, err := t.parser.ParseWithClaims(token, &w, t.keyFor); err != nil {
		return bearer{}, err
	}
	if err := jwt.NewValidator(append(claimRules(), jwt.WithTimeFunc(func() time.Time { return now }))...).Validate(w); err != nil {
		return bearer{}, err
	}
	c := Claims{CompanyKey: w.CompanyKey, Scope: w.Scope, AppID: w.AppID, ID: w.ID, Expires: w.ExpiresAt.Time}
	if w.IssuedAt != nil {
		c.Issued = w.IssuedAt.Time
	}
	return bearer{Claims: c, name: nameToken(tokenParty, c.ID)}, c.check()
}

// claimRules are what the claims of our own tokens are held against.
func claimRules() []jwt.ParserOption {
	return []jwt.ParserOption{
		jwt.WithIssuer(tokenParty), jwt.WithAudience(tokenParty), jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(tokenLeeway),
	}
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
		for _, k := range *t.ring.Load() {
			all.Keys = append(all.Keys, k.key)
		}
		return all, nil
	}
	if id, ok := named.(string); ok {
		if key := t.key(id); key != nil {
			return key, nil
		}
	}
	return nil, ErrToken
}
