package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/gateway"
)

// malformedBodies are bodies that no call understands.
func malformedBodies() []string {
	bodies := []string{
		"", " ", "\n\n", "\x00", "\ufeff{}", "null", "true", "7", "-", "1e", "01", "+1", ".5", "1.", "NaN", "Infinity", `"`, `"a`, `'a'`, "a",
		"[", "]", "[[", "[]", "[,]", "[1,]", "[1 2]", "[null]", "[[]]", "[{}", "[{},", "[{}]]", "[{}],[{}]", "[{}] {}", "[1,2,3]", `["a"]`,
		"{", "}", "{{", "{,}", "{}}", "{} {}", "{}\n{}", "{}x", "{}\x00", "{a:1}", "{'a':1}", `{"a"}`, `{"a":}`, `{"a":1,}`, `{"a" 1}`, `{"a":1 "b":2}`,
		`{"a":1,"a":1}`, `{"a":{"b":1,"b":2}}`, `{"a":1,"\u0061":2}`, `{"":1,"":2}`, `{1:2}`, `{null:1}`, `{"a":undefined}`, `{"a":0x10}`, `{"a":01}`,
		`{"a":1.}`, `{"a":.1}`, `{"a":-}`, `{"a":1e}`, `{"a":+1}`, `{"a":tru}`, `{"a":TRUE}`, `{"a":nul}`, `{"a":"\x"}`, `{"a":"\u12"}`, `{"a":"\ud800"}`,
		`{"a":"\ud800\u0041"}`, `{"a":"\udc00"}`, "{\"a\":\"\n\"}", "{\"a\":\"\t\"}", "{\"a\":\"\x00\"}", "{\"a\":\"\xff\"}", "{\"a\":\"\xc3\x28\"}",
		"{\"a\":\"\xed\xa0\x80\"}", "{\"a\":\"\xf8\x88\x80\x80\x80\"}", "{\"\xff\":1}", "\xff\xfe{\x00}\x00", "{/*c*/}", "{//c\n}", "# c\n{}",
		`{"a":1}garbage`, `{"a":1};`, `{"a":1},`, "{}\n[", "{}\n]", "[]\n[]", "[{}\n{}]", "--b\r\n\r\n{}", "a=1&b=2", "<event/>", "%7B%7D",
		`{"coordinate":7}`, `{"coordinate":[]}`, `{"coordinate":{"networkKey":7}}`, `{"coordinate":{"networkKey":null}}`, `{"author":"x"}`, `{"author":{"id":[]}}`,
		`{"type":{}}`, `{"coordinate":{"networkKey":"sms","externalId":"e","botId":7},"owner":"AGENT"}`, `{"lastUpdateTS":{}}`, `{"owner":{"type":7}}`,
		`{"coordinate":{"networkKey":"` + strings.Repeat("n", 600) + `","externalId":"e","botId":"own"}}`, `{"credentials":"x","contact":7}`, `{"metadata":"x"}`,
		`{"deliveryTimeoutMs":99999999999999999999}`, `{"deliveryTimeoutMs":9223372036854775807}`, `{"maxConcurrency":1.5}`, `{"debugUntil":"soon"}`, `{"mode":["LIVE"]}`,
	}
	for _, n := range []int{100, 101, 10_001, 200_000} {
		bodies = append(bodies, strings.Repeat("[", n), strings.Repeat("[", n)+strings.Repeat("]", n), strings.Repeat(`{"a":`, n)+"1"+strings.Repeat("}", n))
	}
	return bodies
}

// spoiled are good bodies with bytes changed, cut out or doubled, by a seed.
func spoiled(n int) []string {
	random := rand.New(rand.NewPCG(1, 2))
	var bodies []string
	for len(bodies) < n {
		body := []byte(bodyFor(gateway.Routes()[random.IntN(len(gateway.Routes()))]))
		for range 1 + random.IntN(4) {
			switch at := random.IntN(len(body)); random.IntN(4) {
			case 0:
				body[at] = byte(random.IntN(256))
			case 1:
				body = slices.Delete(body, at, min(len(body), at+1+random.IntN(8)))
			case 2:
				body = slices.Concat(body[:at], body)
			default:
				body = append(body[:at:at], append([]byte(`"{[,:]}\u0`)[random.IntN(10):], body[at:]...)...)
			}
			if len(body) == 0 {
				body = []byte("{")
			}
		}
		bodies = append(bodies, string(body))
	}
	return bodies
}

func TestE03SpoiledBodiesAreNeverOurFault(t *testing.T) {
	s := newStage(t, func(c *gateway.Config) { c.Platform = &fakePlatform{status: http.StatusAccepted} })
	s.register(t, "acme/own", "LIVE")
	require.NoError(t, s.access.Store.AddAdministrator(t.Context(), "ops", "acme", adminPassword))
	admin, codes, asked := s.as(t, gateway.ScopeAdmin, "acme"), map[int]int{}, 0
	bodies := append(malformedBodies(), spoiled(sized(120, 2000))...)
	require.GreaterOrEqual(t, len(bodies), 200)
	for _, r := range gateway.Routes() {
		path := strings.NewReplacer(":networkKey", "sms", ":externalId", "e", ":appId", "own", ":mode", "live", "*", "a", ":id", "x").Replace(r.Path)
		if strings.HasPrefix(path, "/api/v2/") {
			continue // below: they cost a password each
		}
		for _, body := range bodies {
			req := httptest.NewRequest(r.Method, path, strings.NewReader(body))
			req.Header.Set("Authorization", "Bearer "+admin)
			res := httptest.NewRecorder()
			s.gateway.Handler().ServeHTTP(res, req)
			require.Less(t, res.Code, 500, "%s %.200q", path, body)
			codes[res.Code]++
			asked++
		}
	}
	for _, body := range bodies[:20] {
		res := s.do(t, "", http.MethodPost, owner("own"), body, "Authorization", basic("ops", adminPassword))
		require.Contains(t, []int{200, 409}, res.Code)
	}
	require.Empty(t, s.log.String(), "no panic")
	t.Attr("measured", fmt.Sprintf("%d bodies on every route, %d requests: no 5xx, no panic", len(bodies), asked))
}

func TestMalformedBodiesAreTheCallersFault(t *testing.T) {
	bodies := malformedBodies()
	require.GreaterOrEqual(t, len(bodies), 100)
	platform := &fakePlatform{status: http.StatusAccepted}
	s := newStage(t, func(c *gateway.Config) { c.Platform = platform })
	s.register(t, "acme/own", "LIVE")
	admin := s.as(t, gateway.ScopeAdmin, "acme")
	for _, r := range gateway.Routes() {
		if r.Method == http.MethodGet || r.Method == http.MethodDelete || r.Name == "mode" {
			continue
		}
		for _, body := range bodies {
			res := s.do(t, admin, r.Method, r.Path, body)
			require.GreaterOrEqual(t, res.Code, 400, "%s %.80q", r.Path, body)
			require.Less(t, res.Code, 500, "%s %.80q", r.Path, body)
		}
	}
	require.Empty(t, platform.calls)
	require.Empty(t, s.log.String())
}

func TestOddPathsAreNobodys(t *testing.T) {
	s := newStage(t)
	s.register(t, "acme/own", "LIVE")
	admin := s.as(t, gateway.ScopeAdmin, "acme")
	odd := []string{
		"%2F", "..", "%2e%2e", "%00", "own%00", "own%0a", "own%2Fx", strings.Repeat("a", 513), "%e2%80%ae", "own%e2%80%8b", "%7B%7D", "*", ":", "own%20",
		"OWN", "%ff", "%c3%28", "own%25", "o%77n%2F..", "%", "own;x=1",
	}
	for _, id := range odd {
		for _, path := range []string{
			"/bots/v3/registrations/network/sms/externalId/e/appId/", "/bots/v3/health/appId/", "/bots/v3/request/", "/bots/v3/events/",
			"/bots/v3/request/appId/", "/bots/v3/control/network/sms/externalId/e/author/",
		} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://gw.example"+path+id, nil)
			if err != nil {
				continue // no client can send it
			}
			req.Header.Set("Authorization", "Bearer "+admin)
			res := httptest.NewRecorder()
			s.gateway.Handler().ServeHTTP(res, req)
			CheckAnswer(t, res, path+id)
			checkDescribed(t, req, "", res)
			require.Contains(t, []int{400, 404}, res.Code, path+id)
		}
	}
	res := s.do(t, admin, http.MethodGet, "/bots/v3/registrations/network/s%6ds/externalId/%65/appId/own", "")
	require.Equal(t, http.StatusOK, res.Code)
}

func TestErrorsOfTheCarrierHaveTheirAnswers(t *testing.T) {
	for _, row := range []struct {
		err    error
		status int
		body   string
	}{
		{delivery.ErrExists, 409, `"errors":["registration exists already"]`},
		{delivery.ErrLiveTaken, 409, `"errors":["another registration of this entity is LIVE"]`},
		{delivery.ErrTooMany, 409, `"errors":["this entity has 10 registrations already"]`},
		{&delivery.ValidationError{Problems: []string{"a", "b"}}, 422, `"errors":["a","b"]`},
		{delivery.ErrUnavailable, 503, `"error":{"messages":["the store is away or full, try again"]}`},
		{context.DeadlineExceeded, 503, `"error":{"messages":["the store does not answer, try again"]}`},
		{errors.New("READONLY redis.secret.internal"), 500, `"error":{"messages":["Internal error"]}`},
	} {
		s := newStage(t, func(c *gateway.Config) { c.Carrier = failing{Carrier: c.Carrier, err: row.err} })
		res := s.do(t, s.as(t, gateway.ScopeAdmin, "acme"), http.MethodPut, "/bots/v3/registrations", bodyFor(gateway.Route{Name: "registration_put"}))
		require.Equal(t, row.status, res.Code)
		require.Contains(t, res.Body.String(), row.body)
		require.Equal(t, row.status == 503, res.Header().Get("Retry-After") == "1")
		require.Equal(t, row.status == 500, strings.Contains(s.log.String(), "request failed"))
	}
}

// failing is a carrier that fails to write and to delete registrations.
type failing struct {
	gateway.Carrier
	err error
}

func (f failing) Put(context.Context, delivery.Registration) error { return f.err }

func (f failing) Delete(context.Context, delivery.RegID) error { return f.err }

func TestDeleteThatFailsHasAnAnswerOfItsOwn(t *testing.T) {
	s := newStage(t, func(c *gateway.Config) { c.Carrier = failing{Carrier: c.Carrier, err: errors.New("odd")} })
	res := s.do(t, s.as(t, gateway.ScopeAdmin, "acme"), http.MethodDelete, "/bots/v3/registrations/network/sms/externalId/e/appId/own", "")
	require.Equal(t, http.StatusInternalServerError, res.Code)
	require.Contains(t, res.Body.String(), `"errors":["Unable to delete registration"]`)
}

func TestE14PanicBecomesOneAnswerAndOneLineWithoutThePayload(t *testing.T) {
	s := newStage(t)
	s.carrier.panics = true
	res := s.do(t, s.as(t, gateway.ScopeSource, "acme"), http.MethodPost, "/bots/v3/events", message("a", `"private words"`))
	require.Equal(t, http.StatusInternalServerError, res.Code)
	require.Contains(t, res.Body.String(), `"messages":["Internal error"]`)
	require.Equal(t, 1, strings.Count(s.log.String(), "\n"))
	require.Contains(t, s.log.String(), "request panicked")
	require.NotContains(t, s.log.String(), "private words")
}

func TestStoreThatIsAwayIsAnsweredWith503Everywhere(t *testing.T) {
	s := newStage(t)
	s.carrier.away = true
	admin := s.as(t, gateway.ScopeAdmin, "acme")
	for _, path := range []string{"/bots/v3/registrations", "/bots/v3/health/appId/own", "/bots/v3/request/appId/own"} {
		res := s.do(t, admin, http.MethodGet, path, "")
		require.Equal(t, http.StatusServiceUnavailable, res.Code, path)
		require.Equal(t, "1", res.Header().Get("Retry-After"))
	}
}

func TestBodyLargerThanTheLimitIsRefused(t *testing.T) {
	s := newStage(t)
	s.register(t, "acme/own", "LIVE")
	source := s.as(t, gateway.ScopeSource, "acme")
	filler := message("a", `"`+strings.Repeat("x", 250_000)+`"`)
	batch := "[" + strings.TrimSuffix(strings.Repeat(filler+",", 33), ",") + "]"
	batch += strings.Repeat(" ", 8<<20-len(batch))
	send := func(body io.Reader) *httptest.ResponseRecorder {
		req := httptest.NewRequest(http.MethodPost, "/bots/v3/events", body)
		req.Header.Set("Authorization", "Bearer "+source)
		res := httptest.NewRecorder()
		s.gateway.Handler().ServeHTTP(res, req)
		CheckAnswer(t, res, "large body")
		if res.Code != http.StatusAccepted { // that would print 8 MiB
			checkDescribed(t, req, "", res)
		}
		return res
	}
	require.Equal(t, http.StatusAccepted, send(strings.NewReader(batch)).Code)
	require.Equal(t, http.StatusRequestEntityTooLarge, send(strings.NewReader(batch+" ")).Code)
	res := send(io.MultiReader(strings.NewReader(batch), strings.NewReader(" "))) // of unknown length
	require.Equal(t, http.StatusRequestEntityTooLarge, res.Code)
	require.Contains(t, res.Body.String(), `{"error":{"messages":["the body is larger than 8 MiB"]}`)
	require.Equal(t, http.StatusRequestTimeout, send(failingReader{err: timeoutError{}}).Code)
	require.Equal(t, http.StatusBadRequest, send(failingReader{err: io.ErrUnexpectedEOF}).Code)
}

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }

// timeoutError is what a connection's deadline looks like.
type timeoutError struct{ net.OpError }

func (timeoutError) Error() string { return "i/o timeout" }

func (timeoutError) Is(target error) bool { return target.Error() == "i/o timeout" }

func TestServerHasEveryLimit(t *testing.T) {
	srv := gateway.Server("127.0.0.1:0", http.NotFoundHandler())
	require.Equal(t, 5*time.Second, srv.ReadHeaderTimeout)
	require.Equal(t, 15*time.Second, srv.ReadTimeout)
	require.Equal(t, 30*time.Second, srv.WriteTimeout)
	require.Equal(t, time.Minute, srv.IdleTimeout)
	require.Equal(t, 16<<10, srv.MaxHeaderBytes)
}

// ops asks the ops listener.
func (s *stage) ops(path string) *httptest.ResponseRecorder {
	res := httptest.NewRecorder()
	s.gateway.OpsHandler().ServeHTTP(res, httptest.NewRequest(http.MethodGet, path, nil))
	return res
}

func TestReadinessSaysWhatIsMissingAndNoMore(t *testing.T) {
	s := newStage(t)
	require.Contains(t, s.ops("/readyz").Body.String(), `{"ready":true,"tier":"memory","store":"reachable","missing":[],"warnings":[],"requestId":`)
	s.carrier.away = true
	res := s.ops("/readyz")
	CheckAnswer(t, res, "store away")
	require.Equal(t, http.StatusServiceUnavailable, res.Code)
	require.Contains(t, res.Body.String(), `"missing":["store: it does not answer, or is not prepared yet"]`)
	s.carrier.away = false
	s.gateway.Drain()
	res = s.do(t, "", http.MethodGet, "/readyz", "")
	require.Equal(t, http.StatusServiceUnavailable, res.Code)
	require.Equal(t, "close", res.Header().Get("Connection"))
	require.Contains(t, res.Body.String(), `"missing":["draining: this gateway is about to stop"]`)
	require.Equal(t, http.StatusOK, s.ops("/healthz").Code)
	require.Equal(t, http.StatusOK, s.do(t, s.as(t, gateway.ScopeAdmin, "acme"), http.MethodGet, "/bots/v3/registrations", "").Code)
}

func TestOpsListenerShowsMetricsAndNothingOfTheAPI(t *testing.T) {
	s := newStage(t)
	s.do(t, "", http.MethodGet, "/bots/v3/registrations", "")
	s.do(t, "", http.MethodGet, "/somewhere/else", "")
	text := s.ops("/metrics").Body.String()
	require.Contains(t, text, `pulsegate_gateway_requests_total{code="401",route="registrations"} 1`)
	require.Contains(t, text, `pulsegate_gateway_requests_total{code="404",route="unknown"} 1`)
	require.Contains(t, text, `pulsegate_gateway_request_seconds_count{route="registrations"} 1`)
	problems, err := testutil.CollectAndLint(s.gateway)
	require.NoError(t, err)
	require.Empty(t, problems)
	require.Equal(t, http.StatusNotFound, s.ops("/bots/v3/registrations").Code)
	require.Equal(t, http.StatusNotFound, s.do(t, "", http.MethodGet, "/metrics", "").Code)
}

func TestEveryAnswerHasItsIDEvenToOptions(t *testing.T) {
	s := newStage(t)
	for _, path := range []string{"/bots/v3/events", "/nothing"} {
		res := httptest.NewRecorder()
		s.gateway.Handler().ServeHTTP(res, httptest.NewRequest(http.MethodOptions, path, nil))
		require.NotEmpty(t, res.Header().Get("x-amzn-RequestId"))
	}
}

func TestGatewayNeedsACarrierAndTokens(t *testing.T) {
	_, err := gateway.New(gateway.Config{})
	require.ErrorContains(t, err, "Carrier")
	_, err = gateway.New(gateway.Config{Carrier: newFakeCarrier()})
	require.ErrorContains(t, err, "Tokens")
}

// asked is a platform call of the own bot about author a.
const asked = `{"type":"note","note":"private words","coordinate":{"networkKey":"sms","externalId":"e","botId":"own"},"author":{"id":"a"}}`

func TestPlatformAnswersUnderOurRequestID(t *testing.T) {
	for _, row := range []struct {
		status int
		answer string
		want   int
		body   string
	}{
		{202, "", 202, `{"requestId":"ID"}`},
		{204, "", 202, `{"requestId":"ID"}`},
		{200, `{"data":{"messageId":"m","n":12345678901234567890},"requestId":"theirs"}`, 200, `{"data":{"messageId":"m","n":12345678901234567890},"requestId":"ID"}`},
		{400, `{"error":{"messages":["newWorkQueue may not be null"]}}`, 400, `{"error":{"messages":["newWorkQueue may not be null"]},"requestId":"ID"}`},
		{403, `{"error":{"message":"no","requestId":"theirs"}}`, 403, `{"error":{"message":"no","requestId":"ID"},"requestId":"ID"}`},
		{503, `<html>`, 503, `{"error":{"messages":["The platform answered 503"]},"requestId":"ID"}`},
		{401, `{}`, 502, `{"error":{"messages":["The platform answered 401 to the gateway"]},"requestId":"ID"}`},
		{302, ``, 502, `{"error":{"messages":["The platform answered 302 to the gateway"]},"requestId":"ID"}`},
		{0, ``, 502, `{"error":{"messages":["the platform did not answer, try again"]},"requestId":"ID"}`},
	} {
		platform := &fakePlatform{status: row.status, answer: row.answer}
		s := newStage(t, func(c *gateway.Config) { c.Platform = platform })
		s.register(t, "acme/own", "LIVE")
		bot := s.as(t, gateway.ScopeBot, "acme/own")
		res := s.do(t, bot, http.MethodPut, "/bots/v3/note", asked)
		id := res.Header().Get("x-amzn-RequestId")
		require.Equal(t, row.want, res.Code)
		require.Equal(t, strings.ReplaceAll(row.body, "ID", id), res.Body.String())
		require.Empty(t, res.Header().Get("X-Platform"))
		require.Equal(t, []string{"PUT /bots/v3/note " + asked}, platform.calls)
		checkRecord(t, s, bot, id, row.want)
		require.NotContains(t, s.log.String(), "private words")
	}
}

// checkRecord holds the record of a call against how the call ended.
func checkRecord(t *testing.T, s *stage, token, id string, status int) {
	t.Helper()
	var got struct {
		Data struct {
			ID, Origin, State string
			Details           struct{ Code string }
			Payload           json.RawMessage
		}
	}
	res := s.do(t, token, http.MethodGet, "/bots/v3/request/"+id, "")
	require.NoError(t, json.Unmarshal(res.Body.Bytes(), &got))
	require.Equal(t, id, got.Data.ID)
	require.Equal(t, "BOT", got.Data.Origin)
	if status < 300 {
		require.Equal(t, "SUCCESS", got.Data.State)
		require.Empty(t, got.Data.Payload)
		return
	}
	require.Equal(t, "ERROR", got.Data.State)
	require.True(t, bytes.Equal([]byte(asked), got.Data.Payload))
}

func TestBotThatDoesNotOwnTheConversationReachesNobody(t *testing.T) {
	platform := &fakePlatform{status: http.StatusOK}
	s := newStage(t, func(c *gateway.Config) { c.Platform = platform })
	s.register(t, "acme/own", "LIVE")
	bot := s.as(t, gateway.ScopeBot, "acme/own")
	respond := func() int { return s.do(t, bot, http.MethodPost, "/bots/v3/respond", asked).Code }
	require.Equal(t, http.StatusForbidden, respond(), "undetermined")
	s.post(t, message("a", "1"))
	require.Equal(t, http.StatusOK, respond(), "owned")
	handOver := strings.Replace(asked, `"type":"note"`, `"owner":{"type":"AGENT"}`, 1)
	require.Equal(t, http.StatusOK, s.do(t, bot, http.MethodPut, "/bots/v3/control", handOver).Code)
	require.Equal(t, http.StatusForbidden, respond(), "an agent's")
	require.Equal(t, http.StatusOK, s.do(t, bot, http.MethodPut, "/bots/v3/note", asked).Code, "not owning is no reason not to act")
	require.Len(t, platform.calls, 2)
}
