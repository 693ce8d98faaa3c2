package gateway

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	issuerEvery = 5 * time.Minute  // between two looks at the keys
	issuerSoon  = 10 * time.Second // after one that failed, and at the earliest when a token names a key that is not known
	issuerKeep  = time.Hour        // that keys stay good that cannot be read again
	issuerTime  = 5 * time.Second  // for one look
	issuerLimit = 1 << 20          // bytes of the keys
)

// IssuerConfig says whose tokens are good beside our own. URL and Name must be set.
type IssuerConfig struct {
	URL      string            // where its keys are: a JSON Web Key Set
	Name     string            // what "iss" must be
	Audience string            // what "aud" must hold; empty: pulsegate
	Company  string            // the claim that holds the company key; empty: companyKey
	Scope    string            // the claim that holds the scope; empty: scope
	App      string            // the claim that holds the app ID; empty: appId
	Client   http.RoundTripper // nil: one with limits, without a proxy
	Log      *slog.Logger      // nil: nothing is logged
}

// Issuer believes the tokens of another issuer: those signed by a key of its key set with RS256, ES256 or EdDSA, and never by a shared
// secret. A token must name its key, to the letter, and the key be of the kind that the algorithm wants. Keys are read every five minutes,
// and soon when a token names an unknown one; while they cannot be read, those that are known stay good for an hour after the last time
// that they could. Safe for concurrent use.
type Issuer struct {
	cfg    IssuerConfig
	client *http.Client
	parser *jwt.Parser
	wanted chan struct{}
	seen   cache

	mu   sync.RWMutex
	keys map[string]issuerKey
	read time.Time // when the keys were read last; zero: never
	text [sha256.Size]byte
}

// NewIssuer returns an Issuer that believes nothing until Fetch or Run has read its keys.
func NewIssuer(cfg IssuerConfig) (*Issuer, error) {
	if cfg.URL == "" || cfg.Name == "" || cfg.Name == tokenParty {
		return nil, fmt.Errorf("new issuer: URL and Name must be set, and Name may not be %s", tokenParty)
	}
	cfg.Audience = cmp.Or(cfg.Audience, tokenParty)
	cfg.Company, cfg.Scope, cfg.App = cmp.Or(cfg.Company, "companyKey"), cmp.Or(cfg.Scope, "scope"), cmp.Or(cfg.App, "appId")
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Client == nil {
		cfg.Client = &http.Transport{
			Proxy: nil, TLSHandshakeTimeout: issuerTime, ResponseHeaderTimeout: issuerTime, MaxResponseHeaderBytes: headerLimit, MaxConnsPerHost: 1,
			IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
		}
	}
	return &Issuer{
		cfg: cfg, wanted: make(chan struct{}, 1),
		client: &http.Client{
			Transport: cfg.Client, Timeout: issuerTime,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		parser: jwt.NewParser(jwt.WithValidMethods([]string{"RS256", "ES256", "EdDSA"}), jwt.WithStrictDecoding(), jwt.WithoutClaimsValidation()),
	}, nil
}

// Run keeps the keys up to date until ctx ends.
func (i *Issuer) Run(ctx context.Context) error {
	defer i.client.CloseIdleConnections()
	failing := false
	for {
		err := i.Fetch(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !failing:
			i.cfg.Log.Warn("the keys of the issuer cannot be read", "issuer", i.cfg.Name, "goodFor", issuerKeep, "error", err)
		case err == nil && failing:
			i.cfg.Log.Info("the keys of the issuer are read again", "issuer", i.cfg.Name)
		}
		failing = err != nil
		if !i.pause(ctx, failing) {
			return nil
		}
	}
}

// pause waits until it is time to look again; false: the context has ended.
func (i *Issuer) pause(ctx context.Context, failing bool) bool {
	soon := time.NewTimer(issuerSoon)
	defer soon.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-soon.C:
	}
	if failing {
		return true
	}
	late := time.NewTimer(issuerEvery - issuerSoon)
	defer late.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-late.C:
	case <-i.wanted:
	}
	return true
}

// Fetch reads the keys. After an error those that were known stay as they are.
func (i *Issuer) Fetch(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, i.cfg.URL, http.NoBody)
	if err != nil {
		return errors.New("read keys: the URL is not well formed")
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	res, err := i.client.Do(req)
	if err != nil {
		return fmt.Errorf("read keys: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("read keys: status %d", res.StatusCode)
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, issuerLimit+1))
	switch {
	case err != nil:
		return fmt.Errorf("read keys: %w", err)
	case len(text) > issuerLimit:
		return fmt.Errorf("read keys: more than %d bytes", issuerLimit)
	}
	keys, err := parseKeySet(text)
	if err != nil {
		return fmt.Errorf("read keys: %w", err)
	}
	digest := sha256.Sum256(text)
	i.mu.Lock()
	defer i.mu.Unlock()
	if digest != i.text {
		i.seen.empty() // of tokens whose key may be gone
	}
	i.keys, i.read, i.text = keys, time.Now(), digest
	return nil
}

// fresh says that the keys may be believed.
func (i *Issuer) fresh() bool {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return !i.read.IsZero() && time.Since(i.read) < issuerKeep
}

// warning is what is amiss, in words; empty: nothing.
func (i *Issuer) warning() string {
	i.mu.RLock()
	defer i.mu.RUnlock()
	switch since := time.Since(i.read); {
	case i.read.IsZero():
		return "issuer: its keys have not been read yet, none of its tokens is believed"
	case since >= issuerKeep:
		return "issuer: its keys could not be read for an hour, none of its tokens is believed"
	case since >= 2*issuerEvery:
		return "issuer: its keys cannot be read, those known are good for an hour after they were"
	}
	return ""
}

// verify returns what a token of the issuer says.
func (i *Issuer) verify(token string, now time.Time) (bearer, error) {
	if len(token) > tokenLimit || !i.fresh() {
		return bearer{}, ErrToken
	}
	digest := sha256.Sum256([]byte(token))
	if b, ok := i.seen.find(digest, now); ok {
		return b, nil
	}
	i.mu.RLock()
	text := i.text
	i.mu.RUnlock()
	claims := jwt.MapClaims{}
	if _, err := i.parser.ParseWithClaims(token, claims, i.keyFor); err != nil {
		return bearer{}, ErrToken
	}
	rules := jwt.NewValidator(
		jwt.WithIssuer(i.cfg.Name), jwt.WithAudience(i.cfg.Audience), jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(tokenLeeway),
		jwt.WithTimeFunc(func() time.Time { return now }),
	)
	if err := rules.Validate(claims); err != nil {
		return bearer{}, ErrToken
	}
	b, err := i.bearer(claims, digest)
	if err != nil {
		return bearer{}, ErrToken
	}
	i.mu.RLock()
	defer i.mu.RUnlock()
	if i.text == text { // else its key may be gone meanwhile
		i.seen.keep(digest, b)
	}
	return b, nil
}

// bearer is what the claims of a good token say. One without an id is named by its digest.
func (i *Issuer) bearer(claims jwt.MapClaims, digest [sha256.Size]byte) (bearer, error) {
	expires, err := claims.GetExpirationTime()
	if err != nil || expires == nil {
		return bearer{}, ErrToken
	}
	b := bearer{foreign: true}
	b.Expires = expires.Time
	if issued, err := claims.GetIssuedAt(); err == nil && issued != nil {
		b.Issued = issued.Time
	}
	b.CompanyKey, _ = claims[i.cfg.Company].(string)
	b.Scope = scopeIn(claims[i.cfg.Scope])
	if b.Scope == ScopeBot {
		b.AppID, _ = claims[i.cfg.App].(string)
	}
	if b.ID, _ = claims["jti"].(string); b.ID == "" {
		b.ID = hex.EncodeToString(digest[:16])
	}
	b.name = nameToken(i.cfg.Name, b.ID)
	return b, b.check()
}

// scopeIn finds the one scope in a claim: a text with blanks between, or a list of texts. More than one, or none, is no scope.
func scopeIn(claim any) (found Scope) {
	var words []string
	switch c := claim.(type) {
	case string:
		words = strings.Fields(c)
	case []any:
		for _, word := range c {
			text, _ := word.(string)
			words = append(words, text)
		}
	}
	for _, s := range []Scope{ScopeAdmin, ScopeSource, ScopeBot} {
		if !slices.Contains(words, string(s)) {
			continue
		}
		if found != "" {
			return ""
		}
		found = s
	}
	return found
}

// keyFor is the key that a token names. One that is not known has the keys read again, soon; the token is refused meanwhile.
func (i *Issuer) keyFor(token *jwt.Token) (any, error) {
	if _, ok := token.Header["crit"]; ok {
		return nil, ErrToken
	}
	id, _ := token.Header["kid"].(string)
	i.mu.RLock()
	key, ok := i.keys[id]
	i.mu.RUnlock()
	switch {
	case id == "":
		return nil, ErrToken
	case !ok:
		select {
		case i.wanted <- struct{}{}:
		default:
		}
		return nil, ErrToken
	case key.algorithm != token.Method.Alg():
		return nil, ErrToken
	}
	return key.public, nil
}
