package gateway_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/gateway"
)

// expected is the status that a call gets which is good but for its token: with nobody's, a source's, its own bot's, another bot's,
// another company's admin's token, and its own admin's.
type expected struct{ nobody, source, own, other, foreign, admin int }

// matrix is who may call what, written down once more and independently of the routes.
func matrix() map[string]expected {
	acts := expected{401, 403, 501, 403, 404, 501}
	return map[string]expected{
		"healthz": {200, 200, 200, 200, 200, 200}, "readyz": {200, 200, 200, 200, 200, 200}, "openapi": {200, 200, 200, 200, 200, 200},
		"events": {401, 202, 403, 403, 404, 202}, "event": {401, 404, 403, 403, 404, 404},
		"registrations": {401, 403, 200, 200, 200, 200}, "registrations_of_entity": {401, 403, 200, 200, 404, 200},
		"registration_create": {401, 403, 409, 403, 404, 409}, "registration_put": {401, 403, 202, 403, 404, 202},
		"registration": {401, 403, 200, 403, 404, 200}, "registration_delete": {401, 403, 204, 403, 404, 204},
		"mode": {401, 403, 202, 403, 404, 202}, "health": {401, 403, 200, 403, 404, 200},
		"control": {401, 403, 200, 403, 404, 200}, "control_put": {401, 403, 200, 403, 404, 200},
		"request": {401, 403, 200, 403, 404, 200}, "redeliver": {401, 403, 409, 403, 404, 409}, "requests": {401, 403, 200, 403, 404, 200},
		"handoffs": {401, 403, 200, 200, 200, 200}, "notices": {401, 403, 200, 200, 200, 200},
		"audit": {401, 403, 403, 403, 200, 200},
		"tag":   acts, "tag_remove": acts, "note": acts, "priority": acts, "workqueue": acts, "resolve": acts, "authors": acts,
		"authors_attributes": acts, "respond": acts, "form": acts,
		"token_create": {401, 401, 401, 401, 401, 401}, "token": {401, 401, 401, 401, 401, 401}, // by password only
		"token_refresh": {401, 403, 200, 403, 403, 403}, "token_revoke": {401, 403, 200, 403, 400, 400},
	}
}

// bodyFor is a good body for a route.
func bodyFor(r gateway.Route) string {
	const coordinate = `"coordinate":{"companyKey":"acme","networkKey":"sms","externalId":"e","botId":"own"},"author":{"id":"a"}`
	switch {
	case r.Name == "events":
		return `{"type":"message",` + coordinate + `}`
	case strings.HasPrefix(r.Name, "registration_"):
		return `{"companyKey":"acme","networkKey":"sms","externalId":"e","appId":"own","callbackUrl":"https://b.example/",
			"credentials":{"type":"HMAC","secret":"s3cret"}}`
	case r.Name == "control_put":
		return `{"owner":{"type":"AGENT"},` + coordinate + `}`
	default:
		return `{` + coordinate + `}`
	}
}

func TestE06EveryRouteIsOpenToItsScopesOnly(t *testing.T) {
	rows := matrix()
	t.Attr("measured", fmt.Sprintf("%d routes x nobody, source, own bot, other bot, other company, admin: as the table says", len(rows)))
	for _, r := range gateway.Routes() {
		want, ok := rows[r.Name]
		require.True(t, ok, "route %s is missing in the matrix", r.Name)
		delete(rows, r.Name)
		t.Run(r.Name, func(t *testing.T) {
			ask := func(scope gateway.Scope, who string) int {
				s := newStage(t)
				s.register(t, "acme/own", "LIVE")
				s.register(t, "acme/other", "MONITORING")
				res := s.do(t, s.as(t, gateway.ScopeSource, "acme"), http.MethodPost, "/bots/v3/events", bodyFor(gateway.Route{Name: "events"}))
				require.Equal(t, http.StatusAccepted, res.Code)
				path := strings.NewReplacer(":networkKey", "sms", ":externalId", "e", ":appId", "own", ":mode", "live", "*", "a",
					":id", recordOf(s, "own")).Replace(r.Path)
				token := ""
				if scope != "" {
					token = s.as(t, scope, who)
				}
				return s.do(t, token, r.Method, path, bodyFor(r)).Code
			}
			got := expected{
				nobody: ask("", ""), source: ask(gateway.ScopeSource, "acme"), own: ask(gateway.ScopeBot, "acme/own"),
				other: ask(gateway.ScopeBot, "acme/other"), foreign: ask(gateway.ScopeAdmin, "rival"), admin: ask(gateway.ScopeAdmin, "acme"),
			}
			if r.Name == "control" {
				want.other = 200 // it is registered there as well
			}
			require.Equal(t, want, got)
		})
	}
	require.Empty(t, rows)
}

// The table above knows statuses alone, and those of a listing do not tell whose rows are in it.
func TestE06BotReadsRegistrationsOfItsOwnOnly(t *testing.T) {
	s := newStage(t)
	s.register(t, "acme/own", "LIVE")
	s.register(t, "acme/other", "MONITORING")
	const entity = "/bots/v3/registrations/network/sms/externalId/e"
	read := func(scope gateway.Scope, who, path string) (int, string) {
		res := s.do(t, s.as(t, scope, who), http.MethodGet, path, "")
		var apps []string
		for _, app := range []string{"own", "other"} {
			if strings.Contains(res.Body.String(), `"appId":"`+app+`"`) {
				apps = append(apps, app)
			}
		}
		return res.Code, strings.Join(apps, " ")
	}
	for _, c := range []struct {
		scope     gateway.Scope
		who, path string
		status    int
		apps      string
	}{
		{gateway.ScopeAdmin, "acme", "/bots/v3/registrations", 200, "own other"},
		{gateway.ScopeBot, "acme/own", "/bots/v3/registrations", 200, "own"},
		{gateway.ScopeBot, "acme/other", "/bots/v3/registrations?limit=1", 200, "other"},
		{gateway.ScopeBot, "acme/nobody", "/bots/v3/registrations", 200, ""},
		{gateway.ScopeAdmin, "acme", entity, 200, "own other"},
		{gateway.ScopeBot, "acme/own", entity, 200, "own"},
		{gateway.ScopeBot, "acme/other", entity, 200, "other"},
		{gateway.ScopeBot, "acme/nobody", entity, 404, ""},
		{gateway.ScopeBot, "acme/own", entity + "/appId/own", 200, "own"},
		{gateway.ScopeBot, "acme/own", entity + "/appId/other", 403, ""},
		{gateway.ScopeBot, "acme/own", entity + "/appId/nobody", 403, ""}, // not even whether it is there
		{gateway.ScopeBot, "acme/nobody", entity + "/appId/own", 403, ""},
	} {
		status, apps := read(c.scope, c.who, c.path)
		require.Equal(t, c.status, status, "%s %s", c.who, c.path)
		require.Equal(t, c.apps, apps, "%s %s", c.who, c.path)
	}
	t.Attr("measured", "12 readings of registrations: a bot reads its own, another's is 403 or left out")
}

// recordOf is the id of a record of an app.
func recordOf(s *stage, app string) string {
	defer s.carrier.lock()()
	for _, r := range s.carrier.records {
		if r.Reg.AppID == app {
			return r.ID
		}
	}
	return ""
}

func TestOnlyProbesNeedNoToken(t *testing.T) {
	for _, r := range gateway.Routes() {
		open := slices.Contains([]string{"/healthz", "/readyz", "/openapi.yaml"}, r.Path)
		require.Equal(t, open, len(r.Scopes) == 0, r.Path)
		if !open && r.Name != "token_refresh" { // which is the bearer's own affair
			require.True(t, slices.Contains(r.Scopes, gateway.ScopeAdmin), r.Path)
		}
	}
}

func TestBotMayNotAskForControlWhereItIsNotRegistered(t *testing.T) {
	s := newStage(t)
	s.register(t, "acme/own", "LIVE")
	res := s.do(t, s.as(t, gateway.ScopeBot, "acme/stranger"), http.MethodGet, "/bots/v3/control/network/sms/externalId/e/author/a", "")
	require.Equal(t, http.StatusForbidden, res.Code)
}

func TestListsShowABotItsOwnOnly(t *testing.T) {
	s := newStage(t)
	s.register(t, "acme/own", "LIVE")
	s.register(t, "acme/other", "MONITORING")
	admin := s.as(t, gateway.ScopeAdmin, "acme")
	for _, who := range []string{"own", "other"} {
		body := strings.ReplaceAll(bodyFor(gateway.Route{Name: "control_put"}), `"botId":"own"`, `"botId":"`+who+`"`)
		require.Equal(t, http.StatusOK, s.do(t, admin, http.MethodPut, "/bots/v3/control", body).Code)
	}
	count := func(token, query string) int {
		res := s.do(t, token, http.MethodGet, "/bots/v3/handoffs"+query, "")
		require.Equal(t, http.StatusOK, res.Code, res.Body)
		return strings.Count(res.Body.String(), `"appId"`)
	}
	require.Equal(t, 2, count(admin, ""))
	require.Equal(t, 1, count(admin, "?appId=own"))
	require.Equal(t, 1, count(admin, "?limit=1"))
	require.Equal(t, 1, count(s.as(t, gateway.ScopeBot, "acme/own"), ""))
	require.Equal(t, 0, count(s.as(t, gateway.ScopeAdmin, "rival"), ""))
	require.Equal(t, http.StatusForbidden, s.do(t, s.as(t, gateway.ScopeBot, "acme/own"), http.MethodGet, "/bots/v3/notices?appId=other", "").Code)
	require.Equal(t, http.StatusBadRequest, s.do(t, admin, http.MethodGet, "/bots/v3/notices?limit=0", "").Code)
}
