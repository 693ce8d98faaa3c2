package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
)

// act answers a call of a bot that does not reach the customer: it is checked and passed on to the platform.
func (g *Gateway) act(ctx context.Context, c *call) (answer, error) {
	return g.passOn(ctx, c, func(_ context.Context, reg delivery.Registration, _ address) error {
		if reg.Mode == delivery.Maintenance {
			return say(errMode, "The bot is in MAINTENANCE")
		}
		return nil
	})
}

// speak answers a call of a bot that reaches the customer: only the LIVE bot may, and only while it owns the conversation.
func (g *Gateway) speak(ctx context.Context, c *call) (answer, error) {
	return g.passOn(ctx, c, func(ctx context.Context, reg delivery.Registration, to address) error {
		if reg.Mode != delivery.Live {
			return say(errMode, "The bot is in "+string(reg.Mode)+" and may not talk to the customer")
		}
		ctl, err := g.Carrier.Control(ctx, to.reg.Entity, to.author)
		owns := ctl.Owner == delivery.Owner{Type: delivery.Bot, AppID: to.reg.AppID}
		if errors.Is(err, delivery.ErrNotFound) || err == nil && !owns {
			return say(errNotOwner, "Bot "+to.reg.AppID+" does not own the conversation of author "+to.author)
		}
		return err
	})
}

// allowed decides whether a bot may make a call.
type allowed func(ctx context.Context, reg delivery.Registration, to address) error

// passOn checks a call of a bot, passes it on to the platform, and records what came of it.
func (g *Gateway) passOn(ctx context.Context, c *call, may allowed) (answer, error) {
	_, to, err := c.addressed()
	if err != nil {
		return answer{}, err
	}
	reg, err := g.Carrier.Registration(ctx, to.reg)
	if err != nil {
		return answer{}, noSuchBot(err, to.reg)
	}
	return g.recorded(ctx, c, reg, func(ctx context.Context) (answer, error) {
		if err := may(ctx, reg, to); err != nil {
			return answer{}, err
		}
		return g.ofPlatform(ctx, c)
	})
}

// recorded makes a call of a bot and keeps a request record of it. The record's id is the request id of the answer.
func (g *Gateway) recorded(
	ctx context.Context, c *call, reg delivery.Registration, do func(context.Context) (answer, error),
) (answer, error) {
	c.requestID = g.Carrier.NewCallID(reg.RegID)
	created := g.Carrier.Outbox().Now()
	began := time.Now()
	a, err := do(ctx)
	r := delivery.Record{
		ID: c.requestID, Reg: reg.RegID, CallbackURL: reg.CallbackURL, Origin: delivery.OriginBot, Tries: 1,
		Latency: time.Since(began), Created: created, Completed: g.Carrier.Outbox().Now(),
	}
	outcome(&r, a, err, c.body)
	r.LastUpdated = r.Completed
	kept, stop := context.WithTimeout(context.WithoutCancel(ctx), g.Timeout) // what was done is recorded, whoever has gone away
	defer stop()
	if _, err := g.Carrier.NoteCall(kept, r); err != nil {
		g.Log.Warn("call could not be recorded", "path", c.path, "requestId", c.requestID, "err", err)
	}
	return a, err
}

// outcome writes into r how a call ended; the payload is kept with failures.
func outcome(r *delivery.Record, a answer, err error, payload []byte) {
	status := a.status
	if err != nil {
		f, words := faultFor(err, general)
		status, r.Message = f.status, strings.Join(words, "; ")
	}
	r.Code, r.State = strconv.Itoa(status), delivery.RequestSuccess
	if status < 200 || status > 299 {
		r.State, r.Payload = delivery.RequestError, payload
		if r.Message == "" {
			r.Message = http.StatusText(status)
		}
	}
}

// ofPlatform passes the call on and returns the platform's answer with our request id.
func (g *Gateway) ofPlatform(ctx context.Context, c *call) (answer, error) {
	if g.Platform == nil {
		return answer{}, errNoPlatform
	}
	status, header, body, err := g.Platform.Pass(ctx, c.method, c.path, c.body)
	if err != nil {
		g.Log.Warn("platform did not answer", "path", c.path, "requestId", c.requestID, "err", err)
		return answer{}, errPlatform
	}
	if status < 200 || status > 599 || status/100 == 3 || status == http.StatusUnauthorized {
		g.Log.Warn("platform refused the gateway", "path", c.path, "requestId", c.requestID, "status", status)
		return answer{}, say(errPlatform, "The platform answered "+strconv.Itoa(status)+" to the gateway")
	}
	if status == http.StatusNoContent {
		status = http.StatusAccepted
	}
	a := answer{status: status, data: withRequestID(body, status, c.requestID), bare: true, header: http.Header{}}
	if after := header.Get("Retry-After"); after != "" {
		a.header.Set("Retry-After", after)
	}
	return a, nil
}

// withRequestID is the platform's answer under our request id, whatever id it gave itself.
func withRequestID(body []byte, status int, requestID string) any {
	var members map[string]rawJSON
	if checkJSON(body) != nil || json.Unmarshal(body, &members) != nil || members == nil {
		if status < 300 {
			return map[string]string{"requestId": requestID}
		}
		return manyMessages.body([]string{"The platform answered " + strconv.Itoa(status)}, requestID)
	}
	id, _ := json.Marshal(requestID) // a string can always be written
	members["requestId"] = id
	var inner map[string]rawJSON
	if json.Unmarshal(members["error"], &inner) == nil && inner["requestId"] != nil {
		inner["requestId"] = id
		members["error"], _ = json.Marshal(inner) // it has just been read
	}
	return members
}
