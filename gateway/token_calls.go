package gateway

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/pulsegate/pulsegate/delivery"
)

const (
	appTokenTime  = 90 * 24 * time.Hour
	appTokenGrace = 10 * time.Minute // that a token stays good which was refreshed
)

// errNoAccess is what a gateway answers that keeps no tokens.
var errNoAccess = &worded{err: errNoPlatform, words: []string{"this gateway makes no tokens"}}

// admitAdministrator checks name and password of a request. What it says of them is a bearer of the whole company.
func (g *Gateway) admitAdministrator(req *http.Request, c *call) error {
	if g.Access == nil {
		return errNoAccess
	}
	name, password, ok := req.BasicAuth()
	if !ok {
		return errUnauthorized
	}
	company, err := g.Access.admins.company(req.Context(), name, password)
	if err != nil {
		return err
	}
	c.bearer, c.admin = bearer{Claims: Claims{CompanyKey: company, Scope: ScopeAdmin}}, name
	return nil
}

// tokenData is a token on the wire.
type tokenData struct {
	Token   string `json:"token"`
	Expires int64  `json:"expiresAtMillis"`
}

// older is an answer of the older API.
type older struct {
	Status string    `json:"status"`
	Data   tokenData `json:"data"`
}

// postToken makes the token of an app, unless there is one.
func (g *Gateway) postToken(ctx context.Context, c *call) (answer, error) {
	data, err := g.audit(ctx, c, delivery.TokenCreate, tokenOrder{what: "create"}, errTokenExists)
	return answer{status: http.StatusOK, bare: true, data: older{Status: "success", Data: data}}, err
}

// getToken returns the token of an app: it is made again from what is known of it.
func (g *Gateway) getToken(ctx context.Context, c *call) (answer, error) {
	outcome, _, data, err := g.issue(ctx, c, tokenOrder{what: "read"})
	switch {
	case err != nil:
		return answer{}, err
	case outcome != "active":
		return answer{}, errNoToken
	}
	return answer{status: http.StatusOK, bare: true, data: older{Status: "success", Data: data}}, nil
}

// putToken replaces the token that the request came with; it stays good for ten minutes. The same call again, with the same token, is
// answered with the same new token, so that it can be repeated when its answer was lost.
func (g *Gateway) putToken(ctx context.Context, c *call) (answer, error) {
	switch {
	case g.Access == nil:
		return answer{}, errNoAccess
	case c.foreign:
		return answer{}, say(errForbidden, "This token is refreshed by its issuer")
	}
	order := tokenOrder{what: "refresh", grace: appTokenGrace, old: c.name, oldUntil: c.Expires.Add(2 * tokenLeeway)}
	data, err := g.audit(ctx, c, delivery.TokenRefresh, order, say(errTokenExists, "another token of this app is active: refresh that one"))
	return answer{status: http.StatusOK, data: data}, err
}

// audit makes a token and keeps that in the audit trail; refused is the error when another token stands in its way.
func (g *Gateway) audit(ctx context.Context, c *call, a delivery.Action, o tokenOrder, refused error) (data tokenData, err error) {
	app, err := c.value("appId")
	if err != nil {
		return data, err
	}
	d := delivery.Deed{Action: a, AppID: app, Details: map[string]string{}}
	err = g.audited(ctx, c, d, func(ctx context.Context) error {
		outcome, kept, made, err := g.issue(ctx, c, o)
		switch {
		case err != nil:
			return err
		case outcome == "other" || outcome == "active" && o.what == "create":
			return refused
		}
		d.Details["tokenId"] = kept.ID
		data = made
		return nil
	})
	return data, err
}

// issue asks the store for the token of the app that the path names, and signs it.
func (g *Gateway) issue(ctx context.Context, c *call, o tokenOrder) (outcome string, kept AppToken, data tokenData, err error) {
	if o.app, err = c.value("appId"); err != nil {
		return "", kept, data, err
	}
	if err := c.may(o.app); err != nil {
		return "", kept, data, err
	}
	o.company, o.id, o.ttl = c.CompanyKey, uuid.NewString(), appTokenTime
	o.keys = g.Tokens.keyNames()
	o.key, _, _ = strings.Cut(o.keys, " ")
	outcome, kept, err = g.Access.Store.issue(ctx, o)
	if err != nil || kept.ID == "" {
		return outcome, kept, data, err
	}
	claims := Claims{CompanyKey: o.company, Scope: ScopeBot, AppID: o.app, ID: kept.ID, Issued: kept.Issued, Expires: kept.Expires}
	token, err := g.Tokens.signWith(kept.Key, claims)
	return outcome, kept, tokenData{Token: token, Expires: kept.Expires.UnixMilli()}, err
}

// deleteToken revokes the token of an app, those that were refreshed into it and are still good, and the one that a bot came with.
func (g *Gateway) deleteToken(ctx context.Context, c *call) (answer, error) {
	if g.Access == nil {
		return answer{}, errNoAccess
	}
	app, err := c.value("appId")
	if err != nil {
		return answer{}, err
	}
	if err := c.may(app); err != nil {
		return answer{}, err
	}
	var own []revocation
	if c.Scope == ScopeBot {
		own = append(own, revocation{name: c.name, until: c.Expires.Add(2 * tokenLeeway)})
	}
	d := delivery.Deed{Action: delivery.TokenRevoke, AppID: app, Details: map[string]string{}}
	err = g.audited(ctx, c, d, func(ctx context.Context) error {
		count, id, err := g.Access.Store.withdraw(ctx, c.CompanyKey, app, own...)
		if err != nil {
			return err
		}
		if count == 0 {
			return errNoToken
		}
		d.Details["tokenId"] = cmp.Or(id, c.ID)
		return nil
	})
	if err != nil {
		return answer{}, err
	}
	if err := g.Access.Sync(ctx); err != nil && !errors.Is(err, context.Canceled) {
		g.Log.Warn("this gateway learns of a revoked token later", "error", err)
	}
	return answer{status: http.StatusOK, bare: true, data: struct{}{}}, nil
}
