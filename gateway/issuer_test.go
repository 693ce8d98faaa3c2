package gateway_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/gateway"
)

// otherIssuer is an issuer with three keys, whose key set can change and go away.
type otherIssuer struct {
	rsa *rsa.PrivateKey
	ec  *ecdsa.PrivateKey
	ed  ed25519.PrivateKey

	mu   sync.Mutex
	keys []map[string]any
	body string // instead of the keys
	down bool
	asks int
}

func newOtherIssuer(t testing.TB) *otherIssuer {
	o := new(otherIssuer)
	var err error
	o.rsa, err = rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	o.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	_, o.ed, err = ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	b64 := base64.RawURLEncoding.EncodeToString
	point, err := o.ec.PublicKey.Bytes()
	require.NoError(t, err)
	o.keys = []map[string]any{
		{"kty": "RSA", "kid": "r", "alg": "RS256", "use": "sig", "n": b64(o.rsa.N.Bytes()), "e": b64(big.NewInt(int64(o.rsa.E)).Bytes())},
		{"kty": "EC", "kid": "e", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:])},
		{"kty": "OKP", "kid": "d", "crv": "Ed25519", "x": b64(o.ed.Public().(ed25519.PublicKey))},
		{"kty": "oct", "kid": "o", "alg": "HS512", "k": b64([]byte("a shared secret that nobody may use"))},
		{"kty": "RSA", "kid": "enc", "use": "enc", "n": b64(o.rsa.N.Bytes()), "e": "AQAB"},
		{"kty": "EC", "kid": "twice", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:])},
		{"kty": "EC", "kid": "twice", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:])},
	}
	return o
}

// RoundTrip implements http.RoundTripper: it serves the key set.
func (o *otherIssuer) RoundTrip(*http.Request) (*http.Response, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asks++
	if o.down {
		return nil, errors.New("no route to host")
	}
	text, err := json.Marshal(map[string]any{"keys": o.keys})
	if o.body != "" {
		text = []byte(o.body)
	}
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(text)), Header: http.Header{}}, err
}

func (o *otherIssuer) change(f func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f()
}

// asked is how often its keys were read.
func (o *otherIssuer) asked() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.asks
}

// issuer is the gateway's side of it, its keys read.
func (o *otherIssuer) issuer(t testing.TB) *gateway.Issuer {
	i, err := gateway.NewIssuer(gateway.IssuerConfig{URL: "https://issuer.example/keys", Name: "https://issuer.example", Audience: "api", Client: o, Scope: "scp", Company: "tenant", App: "bot"})
	require.NoError(t, err)
	require.NoError(t, i.Fetch(t.Context()))
	return i
}

// theirs are claims of a token of the other issuer that is good.
func theirs() jwt.MapClaims {
	now := time.Now().Unix()
	return jwt.MapClaims{"iss": "https://issuer.example", "aud": []string{"x", "api"}, "exp": now + 3600, "iat": now, "scp": "openid admin", "tenant": "acme", "jti": "j"}
}

func theirsWith(name string, value any) jwt.MapClaims {
	c := theirs()
	c[name] = value
	return c
}

func TestTokensOfAnotherIssuerAreGoodByItsKeys(t *testing.T) {
	o := newOtherIssuer(t)
	issuer := o.issuer(t)
	s := newStage(t, func(c *gateway.Config) { c.Issuer = issuer })
	kid := func(id string) map[string]any { return map[string]any{"kid": id} }
	for range 2 { // the second time they are remembered
		require.Equal(t, 200, s.ask(t, signed(t, jwt.SigningMethodRS256, o.rsa, theirs(), kid("r"))))
		require.Equal(t, 200, s.ask(t, signed(t, jwt.SigningMethodES256, o.ec, theirs(), kid("e"))))
		require.Equal(t, 200, s.ask(t, signed(t, jwt.SigningMethodEdDSA, o.ed, theirs(), kid("d"))))
	}
	require.Equal(t, 200, s.ask(t, s.as(t, gateway.ScopeAdmin, "acme")), "our own stay good")
	own := theirsWith("scp", []string{"bot"})
	own["bot"] = "own"
	s.register(t, "acme/own", "LIVE")
	bot := signed(t, jwt.SigningMethodEdDSA, o.ed, own, kid("d"))
	require.Equal(t, 200, s.do(t, bot, http.MethodGet, "/bots/v3/health/appId/own", "").Code)
	require.Equal(t, 403, s.do(t, bot, http.MethodGet, "/bots/v3/health/appId/other", "").Code)
	require.Equal(t, 403, s.do(t, bot, http.MethodPut, "/bots/v3/tokens/appId/own", "").Code, "its issuer refreshes it")
	require.Equal(t, 200, s.do(t, bot, http.MethodDelete, "/bots/v3/tokens/appId/own", "").Code)
	require.Equal(t, 401, s.ask(t, bot), "revoked by its id")
}

// confused are tokens that nobody may come in with, though the other issuer is believed.
func confused(t testing.TB, o *otherIssuer) map[string]string {
	kid := func(id any) map[string]any { return map[string]any{"kid": id} }
	der, err := x509.MarshalPKIXPublicKey(&o.rsa.PublicKey)
	require.NoError(t, err)
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	ed := []byte(o.ed.Public().(ed25519.PublicKey))
	shared := []byte("a shared secret that nobody may use")
	good := func(c jwt.MapClaims) string { return signed(t, jwt.SigningMethodRS256, o.rsa, c, kid("r")) }
	bad := map[string]string{
		"none":                           signed(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, theirs(), kid("r")),
		"HS256 with the public key":      signed(t, jwt.SigningMethodHS256, public, theirs(), kid("r")),
		"HS512 with the public key":      signed(t, jwt.SigningMethodHS512, public, theirs(), kid("r")),
		"HS512 with the public key, DER": signed(t, jwt.SigningMethodHS512, der, theirs(), kid("r")),
		"HS256 with the modulus":         signed(t, jwt.SigningMethodHS256, o.rsa.N.Bytes(), theirs(), kid("r")),
		"HS512 with the edwards key":     signed(t, jwt.SigningMethodHS512, ed, theirs(), kid("d")),
		"HS512 with the shared key":      signed(t, jwt.SigningMethodHS512, shared, theirs(), kid("o")),
		"HS256 with the shared key":      signed(t, jwt.SigningMethodHS256, shared, theirs(), kid("o")),
		"our key, their claims":          signed(t, jwt.SigningMethodHS512, signingKey(t), theirs(), nil),
		"our key, their kid":             signed(t, jwt.SigningMethodHS512, signingKey(t), theirs(), kid("r")),
		"our claims, their key":          signed(t, jwt.SigningMethodRS256, o.rsa, goodClaims(), kid("r")),
		"RS384":                          signed(t, jwt.SigningMethodRS384, o.rsa, theirs(), kid("r")),
		"RS512":                          signed(t, jwt.SigningMethodRS512, o.rsa, theirs(), kid("r")),
		"PS256":                          signed(t, jwt.SigningMethodPS256, o.rsa, theirs(), kid("r")),
		"RS256 under the EC key's id":    signed(t, jwt.SigningMethodRS256, o.rsa, theirs(), kid("e")),
		"ES256 under the RSA key's id":   signed(t, jwt.SigningMethodES256, o.ec, theirs(), kid("r")),
		"EdDSA under the EC key's id":    signed(t, jwt.SigningMethodEdDSA, o.ed, theirs(), kid("e")),
		"a key for encrypting":           signed(t, jwt.SigningMethodRS256, o.rsa, theirs(), kid("enc")),
		"an id that two keys have":       signed(t, jwt.SigningMethodES256, o.ec, theirs(), kid("twice")),
		"no kid":                         signed(t, jwt.SigningMethodRS256, o.rsa, theirs(), nil),
		"empty kid":                      signed(t, jwt.SigningMethodRS256, o.rsa, theirs(), kid("")),
		"kid in capitals":                signed(t, jwt.SigningMethodRS256, o.rsa, theirs(), kid("R")),
		"kid with a blank":               signed(t, jwt.SigningMethodRS256, o.rsa, theirs(), kid("r ")),
		"kid traversal":                  signed(t, jwt.SigningMethodRS256, o.rsa, theirs(), kid("../../keys/r")),
		"kid list":                       signed(t, jwt.SigningMethodRS256, o.rsa, theirs(), kid([]string{"r"})),
		"kid SQL":                        signed(t, jwt.SigningMethodRS256, o.rsa, theirs(), kid("r' OR 1=1 --")),
		"jku":                            signed(t, jwt.SigningMethodRS256, o.rsa, theirs(), map[string]any{"jku": "https://evil.example/keys"}),
		"jwk inside":                     signed(t, jwt.SigningMethodRS256, o.rsa, theirs(), map[string]any{"kid": "other", "jwk": o.keys[0]}),
		"crit":                           signed(t, jwt.SigningMethodRS256, o.rsa, theirs(), map[string]any{"kid": "r", "crit": []string{"b64"}}),
		"other iss":                      good(theirsWith("iss", "https://issuer.example/")), "our iss": good(theirsWith("iss", "pulsegate")),
		"other aud": good(theirsWith("aud", "pulsegate")), "no aud": good(theirsWith("aud", nil)),
		"expired": good(theirsWith("exp", time.Now().Unix()-31)), "no exp": good(theirsWith("exp", nil)), "not yet": good(theirsWith("nbf", time.Now().Unix()+60)),
		"no scope": good(theirsWith("scp", "openid")), "two scopes": good(theirsWith("scp", "admin bot")), "scope object": good(theirsWith("scp", map[string]any{"admin": true})),
		"no tenant": good(theirsWith("tenant", "")), "tenant list": good(theirsWith("tenant", []string{"acme"})), "bot without app": good(theirsWith("scp", "bot")),
	}
	return bad
}

// goodClaims are those of our own tokens.
func goodClaims() jwt.MapClaims { return good() }

func TestE05MalformedTokensAreRefusedFastAndCheaply(t *testing.T) {
	o := newOtherIssuer(t)
	issuer := o.issuer(t)
	s := newStage(t, func(c *gateway.Config) { c.Issuer = issuer })
	bad := badTokens(t)
	for name, token := range confused(t, o) {
		bad["issuer: "+name] = token
	}
	require.GreaterOrEqual(t, len(bad), 40)
	var slowest time.Duration
	var most uint64
	for name, token := range bad {
		best, least := time.Hour, ^uint64(0)
		for range 5 { // the machine may be busy with other things; what the token itself costs is the least of several
			req := httptest.NewRequest(http.MethodGet, "/bots/v3/registrations", http.NoBody)
			req.Header["Authorization"] = []string{"Bearer " + token}
			res := httptest.NewRecorder()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			began := time.Now()
			s.gateway.Handler().ServeHTTP(res, req)
			best = min(best, time.Since(began))
			runtime.ReadMemStats(&after)
			least = min(least, after.TotalAlloc-before.TotalAlloc)
			require.Equal(t, http.StatusUnauthorized, res.Code, name)
			require.JSONEq(t, `{"error":{"message":"Unauthorized","requestId":"`+res.Header().Get("x-amzn-RequestId")+`"}}`, res.Body.String(), name)
		}
		require.Less(t, best, 50*time.Millisecond, name)
		require.Less(t, least, uint64(1<<20), name)
		slowest, most = max(slowest, best), max(most, least)
	}
	require.Empty(t, s.log.String())
	t.Attr("measured", fmt.Sprintf("%d tokens, 401 each; the slowest %v, the dearest %d KiB", len(bad), slowest.Round(time.Microsecond), most>>10))
}

func TestE05KeysOfAnIssuerRotateAndOutliveAnOutageOfAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOtherIssuer(t)
		issuer := o.issuer(t)
		access := newAccess(t, gateway.AccessConfig{Patience: 24 * time.Hour})
		s := newStage(t, func(c *gateway.Config) { c.Issuer, c.Access = issuer, access })
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- issuer.Run(ctx) }()
		defer func() {
			cancel()
			require.NoError(t, <-done)
		}()
		claims := theirs()
		claims["exp"] = time.Now().Add(24 * time.Hour).Unix()
		token := func(kid string) string {
			return signed(t, jwt.SigningMethodEdDSA, o.ed, claims, map[string]any{"kid": kid})
		}
		synctest.Wait()
		<-time.After(time.Minute)
		require.Equal(t, 200, s.ask(t, token("d")))

		o.change(func() { o.keys[2]["kid"] = "young" })
		require.Equal(t, 401, s.ask(t, token("young")), "not known yet, and asked for")
		<-time.After(time.Second)
		require.Equal(t, 200, s.ask(t, token("young")))
		require.Equal(t, 401, s.ask(t, token("d")), "its key is gone, though it was remembered as good")

		asks := o.asked()
		for i := range 100 {
			require.Equal(t, 401, s.ask(t, token(fmt.Sprint("guess", i))))
			<-time.After(100 * time.Millisecond)
		}
		require.LessOrEqual(t, o.asked()-asks, 2, "who guesses ids does not make the gateway ask")

		<-time.After(10 * time.Minute)
		o.change(func() { o.down = true })
		<-time.After(54 * time.Minute)
		require.Equal(t, 200, s.ask(t, token("young")), "for 54 minutes and more the keys are believed")
		require.Contains(t, s.do(t, "", http.MethodGet, "/readyz", "").Body.String(), "issuer: its keys cannot be read")
		<-time.After(7 * time.Minute)
		require.Equal(t, 401, s.ask(t, token("young")))
		o.change(func() { o.down = false })
		<-time.After(11 * time.Second)
		require.Equal(t, 200, s.ask(t, token("young")))
		t.Attr("measured", "a new key is known within 1 s of its first token; keys outlive an outage of 54 minutes and not one of 61; 100 guessed ids: at most 2 looks")
	})
}

func TestAKeySetThatIsOfNoUseChangesNothing(t *testing.T) {
	o := newOtherIssuer(t)
	issuer := o.issuer(t)
	s := newStage(t, func(c *gateway.Config) { c.Issuer = issuer })
	token := signed(t, jwt.SigningMethodRS256, o.rsa, theirs(), map[string]any{"kid": "r"})
	for _, body := range []string{
		"{", "[]", `{"keys":[]}`, `{"keys":"r"}`, `{"keys":[{"kty":"oct","kid":"o","k":"AA"}]}`, `{"keys":[{"kty":"RSA","kid":"r","n":"AQ","e":"AQAB"}]}`,
		`{"keys":[{"kty":"EC","kid":"e","crv":"P-256","x":"AA","y":"AA"}]}`, `{"keys":[` + strings.Repeat(`{},`, 101) + `{}]}`, strings.Repeat(" ", 2<<20),
	} {
		o.change(func() { o.body = body })
		require.Error(t, issuer.Fetch(t.Context()), body[:min(len(body), 40)])
		require.Equal(t, 200, s.ask(t, token))
	}
	for _, cfg := range []gateway.IssuerConfig{{}, {URL: "https://x"}, {Name: "x"}, {URL: "https://x", Name: "pulsegate"}} {
		_, err := gateway.NewIssuer(cfg)
		require.Error(t, err)
	}
}

func FuzzKeySet(f *testing.F) {
	o := newOtherIssuer(f)
	text, err := json.Marshal(map[string]any{"keys": o.keys})
	require.NoError(f, err)
	for _, body := range []string{string(text), `{"keys":[{"kty":"RSA","kid":"r","n":"AQ","e":"AQAB"}]}`, `{"keys":[{"kty":"EC","kid":"e","crv":"P-256","x":"","y":""}]}`, `{"keys":{}}`, `[]`, `{`} {
		f.Add(body)
	}
	issuer, err := gateway.NewIssuer(gateway.IssuerConfig{URL: "https://issuer.example/keys", Name: "x", Client: o})
	require.NoError(f, err)
	f.Fuzz(func(_ *testing.T, body string) {
		o.change(func() { o.body = body })
		_ = issuer.Fetch(context.Background()) // it is read or it is not, and nothing breaks
	})
}

func TestKeysAreReadOverTheNetworkWithinBounds(t *testing.T) {
	o := newOtherIssuer(t)
	text, err := json.Marshal(map[string]any{"keys": o.keys})
	require.NoError(t, err)
	var followed bool
	mux := http.NewServeMux()
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(text) })
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/target", http.StatusFound) })
	mux.HandleFunc("/target", func(w http.ResponseWriter, _ *http.Request) { followed = true; _, _ = w.Write(text) })
	mux.HandleFunc("/error", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	mux.HandleFunc("/endless", func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := w.Write(bytes.Repeat([]byte(" "), 64<<10)); err != nil {
				return
			}
		}
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1") // nobody is there
	for path, want := range map[string]string{"/keys": "", "/moved": "status 302", "/error": "status 500", "/endless": "more than 1048576 bytes", "/none": "status 404"} {
		issuer, err := gateway.NewIssuer(gateway.IssuerConfig{URL: server.URL + path, Name: "x"})
		require.NoError(t, err)
		err = issuer.Fetch(t.Context())
		if want == "" {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, want)
		}
	}
	require.False(t, followed)
}
