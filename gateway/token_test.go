package gateway_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/gateway"
)

func TestTokenSaysWhatWasSigned(t *testing.T) {
	s := newStage(t)
	for _, c := range []gateway.Claims{
		{CompanyKey: "acme", Scope: gateway.ScopeAdmin},
		{CompanyKey: "acme", Scope: gateway.ScopeSource},
		{CompanyKey: "Ünïcode 会社", Scope: gateway.ScopeBot, AppID: "bot/1", ID: "fixed"},
	} {
		token, err := s.tokens.Sign(c, time.Hour)
		require.NoError(t, err)
		got, err := s.tokens.Verify(token)
		require.NoError(t, err)
		require.NotEmpty(t, got.ID)
		require.Equal(t, time.Hour, got.Expires.Sub(got.Issued))
		if c.ID == "" {
			got.ID = ""
		}
		got.Issued, got.Expires = time.Time{}, time.Time{}
		require.Equal(t, c, got)
	}
}

func TestTokenIsNotSignedForClaimsThatDoNotGoTogether(t *testing.T) {
	s := newStage(t)
	for _, c := range []gateway.Claims{
		{},
		{Scope: gateway.ScopeAdmin},
		{CompanyKey: "acme"},
		{CompanyKey: "acme", Scope: "root"},
		{CompanyKey: "acme", Scope: gateway.ScopeBot},
		{CompanyKey: "acme", Scope: gateway.ScopeSource, AppID: "a"},
	} {
		_, err := s.tokens.Sign(c, time.Hour)
		require.Error(t, err)
	}
	_, err := s.tokens.Sign(gateway.Claims{CompanyKey: "acme", Scope: gateway.ScopeAdmin}, 0)
	require.Error(t, err)
	_, err = gateway.NewTokens([]byte("short"))
	require.Error(t, err)
}

func TestTokenEndsAfterItsTimeAndTheLeeway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens, err := gateway.NewTokens(bytes.Repeat([]byte("k"), 32))
		require.NoError(t, err)
		token, err := tokens.Sign(gateway.Claims{CompanyKey: "acme", Scope: gateway.ScopeAdmin}, time.Minute)
		require.NoError(t, err)
		<-time.After(89 * time.Second)
		_, err = tokens.Verify(token)
		require.NoError(t, err)
		<-time.After(2 * time.Second)
		_, err = tokens.Verify(token)
		require.ErrorIs(t, err, gateway.ErrToken)
	})
}

// good are the claims of a token that is accepted; each bad token differs from it in one thing.
func good() jwt.MapClaims {
	now := time.Now().Unix()
	return jwt.MapClaims{
		"companyKey": "acme", "scope": "admin", "iss": "pulsegate", "aud": "pulsegate", "iat": now, "exp": now + 3600, "jti": "1",
	}
}

// signed is a token as anybody may make it who knows the key.
func signed(t testing.TB, method jwt.SigningMethod, key any, claims jwt.MapClaims, header map[string]any) string {
	token := jwt.NewWithClaims(method, claims)
	maps.Copy(token.Header, header)
	text, err := token.SignedString(key)
	require.NoError(t, err)
	return text
}

// signingKey is the key that tokens of the stage are signed with.
func signingKey(t testing.TB) []byte {
	key, err := hkdf.Key(sha512.New, bytes.Repeat([]byte("k"), 32), nil, "pulsegate bearer tokens v1", 64)
	require.NoError(t, err)
	return key
}

// badTokens are tokens that nobody may come in with.
func badTokens(t testing.TB) map[string]string {
	key := signingKey(t)
	hs := jwt.SigningMethodHS512
	fine := signed(t, hs, key, good(), nil)
	parts := strings.Split(fine, ".")
	raw := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	bad := map[string]string{
		"empty": "", "blank": " ", "word": "nonsense", "one dot": ".", "two dots": "..", "many dots": strings.Repeat(".", 10_000),
		"100 KB": strings.Repeat("a", 100<<10), "long but well formed": signed(t, hs, key, with("x", strings.Repeat("y", 8<<10)), nil),
		"no signature": parts[0] + "." + parts[1] + ".", "two parts": parts[0] + "." + parts[1], "four parts": fine + ".x",
		"other payload": parts[0] + "." + raw(`{"companyKey":"other","scope":"admin"}`) + "." + parts[2],
		"cut":           fine[:len(fine)-2], "padding": fine + "==", "space inside": parts[0] + " ." + parts[1] + "." + parts[2],
		"null header": raw("null") + "." + parts[1] + "." + parts[2], "array header": raw("[]") + "." + parts[1] + "." + parts[2],
		"null payload": parts[0] + "." + raw("null") + "." + parts[2], "not base64": "!!." + parts[1] + "." + parts[2],
		"alg none":           signed(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, good(), nil),
		"alg NONE by header": raw(`{"alg":"NONE","typ":"JWT"}`) + "." + parts[1] + ".",
		"alg number":         raw(`{"alg":512}`) + "." + parts[1] + "." + parts[2],
		"alg missing":        raw(`{"typ":"JWT"}`) + "." + parts[1] + "." + parts[2],
		"HS256":              signed(t, jwt.SigningMethodHS256, key, good(), nil), "HS384": signed(t, jwt.SigningMethodHS384, key, good(), nil),
		"ES256":     signed(t, jwt.SigningMethodES256, ec, good(), nil),
		"other key": signed(t, hs, []byte("other"), good(), nil), "empty key": signed(t, hs, []byte{}, good(), nil),
		"the secret itself": signed(t, hs, bytes.Repeat([]byte("k"), 32), good(), nil),
		"crit":              signed(t, hs, key, good(), map[string]any{"crit": []string{"b64"}}),
		"kid traversal":     signed(t, hs, []byte(""), good(), map[string]any{"kid": "../../dev/null"}),
	}
	for name, claims := range badClaims() {
		bad[name] = signed(t, hs, key, claims, nil)
	}
	return bad
}

func with(name string, value any) jwt.MapClaims {
	c := good()
	c[name] = value
	return c
}

func without(name string) jwt.MapClaims {
	c := good()
	delete(c, name)
	return c
}

// badClaims are claims that do not let anybody in, however well signed.
func badClaims() map[string]jwt.MapClaims {
	now := time.Now().Unix()
	return map[string]jwt.MapClaims{
		"no exp": without("exp"), "expired": with("exp", now-31), "exp text": with("exp", "tomorrow"), "exp null": with("exp", nil),
		"exp 0": with("exp", 0), "not yet": with("nbf", now+60), "issued later": with("iat", now+60),
		"no iss": without("iss"), "other iss": with("iss", "someone"), "iss list": with("iss", []string{"pulsegate"}),
		"no aud": without("aud"), "other aud": with("aud", "someone"), "other auds": with("aud", []string{"a", "b"}), "aud number": with("aud", 1),
		"no company": without("companyKey"), "empty company": with("companyKey", ""), "company number": with("companyKey", 7),
		"company object": with("companyKey", map[string]string{"a": "b"}),
		"no scope":       without("scope"), "other scope": with("scope", "root"), "scope case": with("scope", "ADMIN"),
		"scope list": with("scope", []string{"admin"}), "bot without app": with("scope", "bot"), "admin with app": with("appId", "a"),
		"app number": with("appId", 1),
	}
}

func TestBadTokensAreAllAnsweredAlike(t *testing.T) {
	s := newStage(t)
	bad := badTokens(t)
	require.GreaterOrEqual(t, len(bad), 40)
	for name, token := range bad {
		t.Run(name, func(t *testing.T) {
			_, err := s.tokens.Verify(token)
			require.ErrorIs(t, err, gateway.ErrToken)
			require.Equal(t, "verify token: token is not valid", err.Error())
			res := s.do(t, "", http.MethodGet, "/bots/v3/registrations", "", "Authorization", "Bearer "+token)
			require.Equal(t, http.StatusUnauthorized, res.Code)
			require.JSONEq(t, `{"error":{"message":"Unauthorized","requestId":"`+res.Header().Get("x-amzn-RequestId")+`"}}`, res.Body.String())
		})
	}
	require.Empty(t, s.log.String())
}

func TestAuthorizationHeaderIsReadAsTheStandardSays(t *testing.T) {
	s := newStage(t)
	token := s.as(t, gateway.ScopeAdmin, "acme")
	for header, want := range map[string]int{
		"Bearer " + token: 200, "bearer " + token: 200, "BEARER  " + token: 200,
		token: 401, "Basic " + token: 401, "Bearer": 401, "Bearer" + token: 401, "Bearer " + token + " x": 401,
	} {
		res := s.do(t, "", http.MethodGet, "/bots/v3/registrations", "", "Authorization", header)
		require.Equal(t, want, res.Code, header[:min(len(header), 12)])
	}
}

func TestKeyRingSignsWithTheFirstAndVerifiesWithAll(t *testing.T) {
	key := func(c string) []byte { return bytes.Repeat([]byte(c), 32) }
	old, err := gateway.NewTokens(key("k"))
	require.NoError(t, err)
	ring, err := gateway.NewTokens(key("n"), key("k"))
	require.NoError(t, err)
	_, err = gateway.NewTokens()
	require.Error(t, err)

	claims := gateway.Claims{CompanyKey: "acme", Scope: gateway.ScopeAdmin}
	before, err := old.Sign(claims, time.Hour)
	require.NoError(t, err)
	after, err := ring.Sign(claims, time.Hour)
	require.NoError(t, err)
	for _, token := range []string{before, after, signed(t, jwt.SigningMethodHS512, signingKey(t), good(), nil)} {
		_, err := ring.Verify(token)
		require.NoError(t, err)
	}
	_, err = old.Verify(after)
	require.ErrorIs(t, err, gateway.ErrToken)

	parsed, _, err := jwt.NewParser().ParseUnverified(after, jwt.MapClaims{})
	require.NoError(t, err)
	young := parsed.Header["kid"].(string)
	for _, kid := range []any{young, strings.ToUpper(young), young + " ", young[:8], "", nil, 7, []string{young}, map[string]string{"kid": young}} {
		token := signed(t, jwt.SigningMethodHS512, signingKey(t), good(), map[string]any{"kid": kid})
		_, err := ring.Verify(token)
		require.ErrorIs(t, err, gateway.ErrToken, "signed by the old key, named %v", kid)
	}
}

func FuzzTokenVerify(f *testing.F) {
	tokens, err := gateway.NewTokens(bytes.Repeat([]byte("k"), 32))
	require.NoError(f, err)
	for _, token := range badTokens(f) {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		c, err := tokens.Verify(token)
		if err == nil {
			t.Fatalf("a token that nobody signed was accepted: %v", c.Scope)
		}
	})
}

func TestManyTokensAreToldApart(t *testing.T) {
	s := newStage(t)
	for round := range 2 {
		for i := range 5000 {
			if round == 1 && i%10 != 0 {
				continue
			}
			company := "company-" + strconv.Itoa(i)
			token, err := s.tokens.Sign(gateway.Claims{CompanyKey: company, Scope: gateway.ScopeAdmin, ID: "same"}, time.Hour)
			require.NoError(t, err)
			for range 2 {
				got, err := s.tokens.Verify(token)
				require.NoError(t, err)
				require.Equal(t, company, got.CompanyKey)
			}
		}
	}
}
