package gateway_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/gateway"
	"github.com/pulsegate/pulsegate/health"
)

// data is the answer to an admin's GET without its request id.
func (s *stage) data(t testing.TB, path string) string {
	res := s.do(t, s.as(t, gateway.ScopeAdmin, "acme"), http.MethodGet, path, "")
	require.Equal(t, http.StatusOK, res.Code, res.Body)
	text, _, found := strings.Cut(res.Body.String(), `,"requestId":"`+res.Header().Get("x-amzn-RequestId"))
	require.True(t, found)
	return text + "}"
}

// sick is a carrier whose one registration is DOWN.
type sick struct{ gateway.Carrier }

func (sick) Health(context.Context, string, string) ([]delivery.Health, error) {
	at := func(ms int64) time.Time { return time.UnixMilli(ms) }
	return []delivery.Health{{
		Registration: delivery.Registration{
			RegID: delivery.RegID{Entity: delivery.Entity{CompanyKey: "acme", NetworkKey: "sms", ExternalID: "e"}, AppID: "own"}, Mode: delivery.Live,
		},
		Counts:             health.Counts{Failed: 12, ByClass: map[health.Class]int64{health.Timeout: 2, health.Suppressed: 10}},
		Standing:           health.Standing{State: health.Down, Since: at(1000), PausedUntil: at(2000), Debug: true},
		Verdict:            health.Verdict{State: health.Down, Reason: "12 failed, none acknowledged"},
		Window:             1500 * time.Millisecond,
		LastAcknowledgedAt: at(500),
		LastFailure:        &delivery.Failure{Class: health.Timeout, At: at(1500), RequestID: "rq"},
	}}, nil
}

func TestHealthShowsWhatIsBehindTheState(t *testing.T) {
	s := newStage(t, func(c *gateway.Config) { c.Carrier = sick{Carrier: c.Carrier} })
	require.JSONEq(t, `{"data":[{"status":"DOWN","failureCount":12,"successCount":0,"networkKey":"sms","externalId":"e","appId":"own",
		"mode":"LIVE","since":1000,"pausedUntil":2000,"verified":false,"debug":true,"reason":"12 failed, none acknowledged",
		"failuresByClass":{"timeout":2,"suppressed":10},"windowSeconds":1.5,"lastAcknowledgedAt":500,
		"lastFailure":{"class":"timeout","at":1500,"requestId":"rq"}}]}`, s.data(t, "/bots/v3/health/appId/own"))
}

func TestNoticesShowWhatWasToldAndHowFarItCame(t *testing.T) {
	s := newStage(t)
	id := delivery.RegID{Entity: delivery.Entity{CompanyKey: "acme", NetworkKey: "sms", ExternalID: "e"}, AppID: "own"}
	s.carrier.append(delivery.EntryTransition, id, health.Transition{
		Number: 3, Kind: health.ToDown, From: health.Degraded, To: health.Down, Notice: true, Reason: "why", Failed: 10, PausedUntil: 9, HandedOff: 2,
	})
	s.carrier.append(delivery.EntryTransition, id, health.Transition{Number: 4, Kind: health.ToUnverified})
	e := &s.carrier.entries[0]
	e.At, e.State, e.Tries, e.NextTry, e.LastError = 7, delivery.EntryPending, 2, 8, "421 later"
	require.JSONEq(t, `{"data":[{"id":"`+e.ID+`","networkKey":"sms","externalId":"e","appId":"own","state":"pending","tries":2,
		"lastError":"421 later","createdEpochMillis":7,"nextTryEpochMillis":8,"kind":"down","from":"DEGRADED","to":"DOWN","number":3,"reason":"why",
		"failureCount":10,"successCount":0,"pausedUntil":9,"handedOff":2,"undelivered":0}]}`, s.data(t, "/bots/v3/notices"))
}

func TestConversationThatNobodyOwnsHasAnOwnerTypeOfItsOwn(t *testing.T) {
	s := newStage(t)
	s.carrier.controls["e|a"] = delivery.Control{
		Entity: delivery.Entity{CompanyKey: "acme", NetworkKey: "sms", ExternalID: "e"}, AuthorID: "a", LastUpdated: time.UnixMilli(5),
	}
	require.JSONEq(t, `{"data":{"type":"control","author":{"id":"a"},"coordinate":{"companyKey":"acme","networkKey":"sms","externalId":"e"},
		"owner":{"type":"UNDETERMINED"},"lastUpdatedTS":5}}`, s.data(t, "/bots/v3/control/network/sms/externalId/e/author/a"))
}

func TestFieldsOfARegistrationComeBackAsTheyWereWritten(t *testing.T) {
	s := newStage(t)
	until := time.Now().Add(time.Minute).Truncate(time.Second)
	for _, debugUntil := range []string{`"` + until.Format(time.RFC3339) + `"`, millisOf(until)} {
		body := `{"networkKey":"sms","externalId":"e","appId":"own","callbackUrl":"https://b.example/","mode":"monitoring","platform":null,"avatarUrl":"",
			"credentials":{"type":"HMAC","identity":"key-1","secret":"s3cret"},"contact":{"email":"a@example.org","name":"Ann"},"owner":"team",
			"runbookUrl":"https://r.example/","deliveryTimeoutMs":2500,"maxConcurrency":4,"whenDown":"hold","debugUntil":` + debugUntil + `,
			"metadata":{"n":1.00,"t":"<&>"}}`
		require.Equal(t, http.StatusAccepted, s.do(t, s.as(t, gateway.ScopeAdmin, "acme"), http.MethodPut, "/bots/v3/registrations", body).Code)
		got := s.data(t, "/bots/v3/registrations/network/sms/externalId/e/appId/own")
		for _, want := range []string{
			`"mode":"MONITORING"`, `"credentials":{"type":"HMAC","identity":"key-1"}`, `"contact":{"email":"a@example.org","name":"Ann"}`, `"owner":"team"`,
			`"deliveryTimeoutMs":2500`, `"maxConcurrency":4`, `"whenDown":"hold"`, `"debugUntil":` + millisOf(until), `"metadata":{"n":1.00,"t":"<&>"}`,
		} {
			require.Contains(t, got, want)
		}
		require.NotContains(t, got, "avatarUrl")
	}
}

func TestTypesOfARegistrationAreSaidTogetherWithItsValues(t *testing.T) {
	s := newStage(t)
	res := s.do(t, s.as(t, gateway.ScopeAdmin, "acme"), http.MethodPost, "/bots/v3/registrations",
		`{"appId":7,"externalId":"e","credentials":"none","debugUntil":"soon","deliveryTimeoutMs":9223372036854775807}`)
	require.Equal(t, http.StatusUnprocessableEntity, res.Code)
	for _, want := range []string{
		`"appId must be a string"`, `"credentials must be an object"`, `"debugUntil must be a time in epoch milliseconds"`,
		`"networkKey may not be empty"`, `"callbackUrl may not be empty"`, `"deliveryTimeoutMs `,
	} {
		require.Contains(t, res.Body.String(), want)
	}
	require.NotContains(t, res.Body.String(), "appId may not be empty")
	require.NotContains(t, res.Body.String(), "credentials.")
}

func millisOf(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }

// unprocessable is the text of the 422 with which the real carrier's gateway answers a registration.
func unprocessable(t *testing.T, s *stage, body string) string {
	t.Helper()
	res := s.do(t, s.as(t, gateway.ScopeAdmin, "acme"), http.MethodPut, "/bots/v3/registrations", body)
	require.Equal(t, http.StatusUnprocessableEntity, res.Code, res.Body)
	return res.Body.String()
}

func TestAllProblemsOfARegistrationAreNamedAtOnceWhoeverSeesThem(t *testing.T) {
	carrier := newCarrier(t)
	s := newStage(t, func(c *gateway.Config) { c.Carrier = carrier })
	late := millisOf(time.Now().Add(2 * time.Hour))
	for _, url := range []string{"ftp://x", "http://169.254.169.254/", "https://169.254.169.254/", "https://u:p@b.example/"} {
		for _, other := range []string{`"whenDown":"x"`, `"mode":"x"`, `"name":5`, `"deliveryTimeoutMs":1`, `"credentials":"none"`} {
			field, _, _ := strings.Cut(other[1:], `"`)
			got := unprocessable(t, s, `{"networkKey":"sms","externalId":"e","appId":"own","callbackUrl":"`+url+`","debugUntil":`+late+`,`+other+`}`)
			for _, want := range []string{`"callbackUrl`, `"debugUntil may not be more than 1 hour ahead"`, `"` + field + ` must be `} {
				require.Equal(t, 1, strings.Count(got, want), "%s beside %s: %s", url, other, got)
			}
		}
	}
}

func TestLimitsOfARegistrationMayNotBeZero(t *testing.T) {
	carrier := newCarrier(t)
	s := newStage(t, func(c *gateway.Config) { c.Carrier = carrier })
	body := func(limits string) string {
		return `{"networkKey":"sms","externalId":"e","appId":"own","callbackUrl":"https://b.example/","credentials":{"type":"HMAC","secret":"s3cret"}` + limits + `}`
	}
	fields := []string{"maxConcurrency", "maxPerSecond", "deliveryTimeoutMs", "timeToLiveMs"}
	for _, field := range fields {
		for _, value := range []string{"0", "-0", "-1"} {
			got := unprocessable(t, s, body(`,"`+field+`":`+value))
			require.Equal(t, 1, strings.Count(got, " must be from "), got)
			require.Contains(t, got, `"`+field+` must be from `)
		}
		for _, absent := range []string{"", `,"` + field + `":null`} {
			res := s.do(t, s.as(t, gateway.ScopeAdmin, "acme"), http.MethodPut, "/bots/v3/registrations", body(absent))
			require.Equal(t, http.StatusAccepted, res.Code, res.Body)
		}
	}
	require.Equal(t, 4, strings.Count(unprocessable(t, s, body(`,"`+strings.Join(fields, `":0,"`)+`":0`)), " must be from "), "all at once")
}

func TestEmptyStringsAreAbsentWhateverAFieldHolds(t *testing.T) {
	s := newStage(t)
	body := `{"networkKey":"sms","externalId":"e","appId":"own","name":"","callbackUrl":"https://b.example/","credentials":{"type":"HMAC","secret":"s3cret"}`
	for _, field := range []string{"metadata", "contact", "publicFilter", "deliveryTimeoutMs", "maxConcurrency", "maintenanceMode", "mode", "debugUntil", "whenDown"} {
		req, res := httptest.NewRequest(http.MethodPut, "/bots/v3/registrations", strings.NewReader(body+`,"`+field+`":""}`)), httptest.NewRecorder()
		req.Header.Set("Authorization", "Bearer "+s.as(t, gateway.ScopeAdmin, "acme"))
		s.gateway.Handler().ServeHTTP(res, req) // as nobody is told to write them, and some do
		require.Equal(t, http.StatusAccepted, res.Code, "%s: %s", field, res.Body)
	}
	req, res := httptest.NewRequest(http.MethodGet, "/bots/v3/request/appId/own?from=&state=&origin=", nil), httptest.NewRecorder()
	req.Header.Set("Authorization", "Bearer "+s.as(t, gateway.ScopeAdmin, "acme"))
	s.gateway.Handler().ServeHTTP(res, req)
	require.Equal(t, http.StatusOK, res.Code, res.Body)
	for _, path := range []string{"/healthz", "/readyz"} {
		req, res := httptest.NewRequest(http.MethodHead, path, nil), httptest.NewRecorder()
		s.gateway.Handler().ServeHTTP(res, req)
		require.Equal(t, http.StatusOK, res.Code, path)
		require.NotEmpty(t, res.Header().Get("x-amzn-RequestId"), path)
	}
}
