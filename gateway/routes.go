package gateway

import (
	"context"
	"net/http"
)

// Route is one call of the API: how it is named, who may make it, who answers it.
type Route struct {
	Method string
	Path   string  // ":name" stands for one segment, "*" for the rest; values arrive unescaped
	Name   string  // the label of its metrics
	Scopes []Scope // whose tokens may call it; empty: no token is needed

	in      dialect
	handle  handler
	patient bool // it lists much, or waits for the platform
}

// byPassword says that administrators call it, by name and password, and not the bearers of tokens.
func (r Route) byPassword() bool { return r.in == issuing }

// handler answers one call. The gateway has read the body, checked the token and its scope; it writes the answer or the error.
type handler func(g *Gateway, ctx context.Context, c *call) (answer, error)

// Who may call. A bot's token is good for its own app ID only, which is checked where the app ID is known.
var (
	sources = []Scope{ScopeAdmin, ScopeSource}
	bots    = []Scope{ScopeAdmin, ScopeBot}
	admins  = []Scope{ScopeAdmin}
)

// Routes returns the whole public face, on one screen.
func Routes() []Route {
	const (
		get, post, put, del = http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete

		entity = "/network/:networkKey/externalId/:externalId"
		app    = entity + "/appId/:appId"
		owner  = "/api/v2/tokens/khorosapi/ownerId/:appId"
	)
	return append(opsRoutes(), []Route{
		{get, "/openapi.yaml", "openapi", nil, general, (*Gateway).getOpenAPI, false},

		{post, "/bots/v3/events", "events", sources, general, (*Gateway).postEvents, false},
		{get, "/bots/v3/events/:id", "event", sources, general, (*Gateway).getEvent, false},

		{get, "/bots/v3/registrations", "registrations", bots, reading, (*Gateway).getRegistrations, true},
		{post, "/bots/v3/registrations", "registration_create", bots, writing, (*Gateway).postRegistration, false},
		{put, "/bots/v3/registrations", "registration_put", bots, writing, (*Gateway).putRegistration, false},
		{get, "/bots/v3/registrations" + entity, "registrations_of_entity", bots, reading, (*Gateway).getEntity, false},
		{get, "/bots/v3/registrations" + app, "registration", bots, reading, (*Gateway).getRegistration, false},
		{del, "/bots/v3/registrations" + app, "registration_delete", bots, deleting, (*Gateway).deleteRegistration, false},
		{put, "/bots/v3/registrations" + app + "/mode/:mode", "mode", bots, general, (*Gateway).putMode, false},
		{get, "/bots/v3/health/appId/:appId", "health", bots, general, (*Gateway).getHealth, true},

		{get, "/bots/v3/control" + entity + "/author/*", "control", bots, general, (*Gateway).getControl, false},
		{put, "/bots/v3/control", "control_put", bots, general, (*Gateway).putControl, false},

		{get, "/bots/v3/request/:id", "request", bots, general, (*Gateway).getRequest, false},
		{post, "/bots/v3/request/:id/redeliver", "redeliver", bots, general, (*Gateway).postRedeliver, false},
		{get, "/bots/v3/request/appId/:appId", "requests", bots, general, (*Gateway).getRequests, true},
		{get, "/bots/v3/handoffs", "handoffs", bots, general, (*Gateway).getHandoffs, true},
		{get, "/bots/v3/notices", "notices", bots, general, (*Gateway).getNotices, true},
		{get, "/bots/v3/audit", "audit", admins, general, (*Gateway).getAudit, true},

		{put, "/bots/v3/tag", "tag", bots, general, (*Gateway).act, true},
		{put, "/bots/v3/tag/remove", "tag_remove", bots, general, (*Gateway).act, true},
		{put, "/bots/v3/note", "note", bots, general, (*Gateway).act, true},
		{put, "/bots/v3/priority", "priority", bots, general, (*Gateway).act, true},
		{put, "/bots/v3/workqueue", "workqueue", bots, general, (*Gateway).act, true},
		{put, "/bots/v3/resolve", "resolve", bots, general, (*Gateway).act, true},
		{put, "/bots/v3/authors", "authors", bots, general, (*Gateway).act, true},
		{put, "/bots/v3/authors/attributes", "authors_attributes", bots, general, (*Gateway).act, true},
		{post, owner, "token_create", admins, issuing, (*Gateway).postToken, true},
		{get, owner, "token", admins, issuing, (*Gateway).getToken, true},
		{put, "/bots/v3/tokens/appId/:appId", "token_refresh", []Scope{ScopeBot}, general, (*Gateway).putToken, false},
		{del, "/bots/v3/tokens/appId/:appId", "token_revoke", bots, ending, (*Gateway).deleteToken, false},

		{post, "/bots/v3/respond", "respond", bots, general, (*Gateway).speak, true},
		{post, "/bots/v3/form", "form", bots, general, (*Gateway).speak, true},
	}...)
}

// opsRoutes are on both listeners.
func opsRoutes() []Route {
	return []Route{
		{Method: http.MethodGet, Path: "/healthz", Name: "healthz", handle: (*Gateway).getHealthz},
		{Method: http.MethodGet, Path: "/readyz", Name: "readyz", handle: (*Gateway).getReadyz},
	}
}

// stray is the route of requests that fit none: they are answered with err.
func stray(err error) Route {
	return Route{Name: "unknown", handle: func(*Gateway, context.Context, *call) (answer, error) { return answer{}, err }}
}
