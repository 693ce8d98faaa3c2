package gateway_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pulsegate/pulsegate/gateway"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stage is a gateway over a fake carrier, with everything around it in reach.
type stage struct {
	gateway *gateway.Gateway
	carrier *fakeCarrier
	tokens  *gateway.Tokens
	access  *gateway.Access
	log     *bytes.Buffer
}

// newStage builds a stage; each of change alters the gateway's settings.
func newStage(t testing.TB, change ...func(*gateway.Config)) *stage {
	t.Helper()
	tokens, err := gateway.NewTokens(bytes.Repeat([]byte("k"), 32))
	require.NoError(t, err)
	s := &stage{carrier: newFakeCarrier(), tokens: tokens, log: &bytes.Buffer{}}
	registry := prometheus.NewRegistry()
	cfg := gateway.Config{
		Carrier: s.carrier, Tokens: tokens, Metrics: registry,
		Tier: func() string { return "memory" }, Log: slog.New(slog.NewTextHandler(s.log, nil)),
	}
	for _, c := range change {
		c(&cfg)
	}
	if cfg.Access == nil {
		cfg.Access = newAccess(t, gateway.AccessConfig{})
	}
	s.access = cfg.Access
	s.gateway, err = gateway.New(cfg)
	require.NoError(t, err)
	registry.MustRegister(s.gateway)
	return s
}

// adminPassword is that of the administrators of the tests.
const adminPassword = "correct horse battery"

// newAccess is an Access over a store in the process, which has read its list once.
func newAccess(t testing.TB, cfg gateway.AccessConfig) *gateway.Access {
	t.Helper()
	if cfg.Store == nil {
		_, client := bubbleStore(t)
		cfg.Store = gateway.NewAccessStore(client)
	}
	access, err := gateway.NewAccess(cfg)
	require.NoError(t, err)
	require.NoError(t, access.Sync(t.Context()))
	return access
}

// basic are the credentials of an administrator, as a header has them.
func basic(name, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password))
}

// as is a token; who is company or company/app.
func (s *stage) as(t testing.TB, scope gateway.Scope, who string) string {
	t.Helper()
	company, app, _ := strings.Cut(who, "/")
	token, err := s.tokens.Sign(gateway.Claims{Scope: scope, CompanyKey: company, AppID: app}, time.Hour)
	require.NoError(t, err)
	return token
}

// do makes a request and checks what is true of every answer.
func (s *stage) do(t testing.TB, token, method, path, body string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res := httptest.NewRecorder()
	s.gateway.Handler().ServeHTTP(res, req)
	CheckAnswer(t, res, method+" "+path+"\n"+res.Body.String())
	checkDescribed(t, req, body, res)
	return res
}

// register creates a registration of who (company/app) on network sms, entity e.
func (s *stage) register(t testing.TB, who, mode string) {
	t.Helper()
	company, app, _ := strings.Cut(who, "/")
	res := s.do(t, s.as(t, gateway.ScopeAdmin, company), http.MethodPost, "/bots/v3/registrations",
		`{"networkKey":"sms","externalId":"e","appId":"`+app+`","name":"Bot","callbackUrl":"https://bot.example.org/","mode":"`+mode+
			`","credentials":{"type":"BASIC_AUTH","identity":"gw","secret":"s3cret"}}`)
	require.Equal(t, http.StatusAccepted, res.Code, res.Body)
}

// fakePlatform answers every call alike and remembers what it was asked.
type fakePlatform struct {
	status int
	answer string
	calls  []string
}

// Pass implements gateway.Platform.
func (p *fakePlatform) Pass(_ context.Context, method, path string, body []byte) (int, http.Header, []byte, error) {
	p.calls = append(p.calls, method+" "+path+" "+string(body))
	if p.status == 0 {
		return 0, nil, nil, errors.New("dial platform: no route")
	}
	return p.status, http.Header{"Retry-After": {"7"}, "X-Platform": {"inner"}}, []byte(p.answer), nil
}
