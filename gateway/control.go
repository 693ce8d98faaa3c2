package gateway

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/pulsegate/pulsegate/delivery"
)

// control is who owns the conversation of an author, on the wire.
type control struct {
	Type          string         `json:"type"`
	Author        author         `json:"author"`
	Coordinate    coordinate     `json:"coordinate"`
	Owner         delivery.Owner `json:"owner"`
	Tags          []string       `json:"tags,omitempty"`
	LastUpdatedTS int64          `json:"lastUpdatedTS"` // epoch milliseconds
}

// author is a customer on the wire.
type author struct {
	ID       string `json:"id"`
	FullName string `json:"fullName,omitempty"`
}

// coordinate is an entity on the wire.
type coordinate struct {
	CompanyKey string `json:"companyKey"`
	NetworkKey string `json:"networkKey"`
	ExternalID string `json:"externalId"`
}

// undetermined is the owner's type on the wire when nobody owns the conversation.
const undetermined = "UNDETERMINED"

// getControl tells who owns the conversation of an author. A bot may ask on the entities where it is registered.
func (g *Gateway) getControl(ctx context.Context, c *call) (answer, error) {
	e, err := c.entity()
	if err != nil {
		return answer{}, err
	}
	name, err := c.value("*")
	if err != nil {
		return answer{}, err
	}
	if !delivery.ValidNetworkKey(e.NetworkKey) {
		return answer{}, say(errBad, "Invalid networkKey "+e.NetworkKey)
	}
	if err := g.mayLookAt(ctx, c, e); err != nil {
		return answer{}, err
	}
	ctl, err := g.Carrier.Control(ctx, e, name)
	if err != nil {
		return answer{}, unknown(err, "No control of author "+name+" is known")
	}
	return answer{status: http.StatusOK, data: controlOnWire(ctl)}, nil
}

// mayLookAt is nil when the token reaches the entity: a bot's reaches those where the bot is registered.
func (g *Gateway) mayLookAt(ctx context.Context, c *call, e delivery.Entity) error {
	if c.Scope != ScopeBot {
		return nil
	}
	_, err := g.Carrier.Registration(ctx, delivery.RegID{Entity: e, AppID: c.AppID})
	if errors.Is(err, delivery.ErrNotFound) {
		return say(errForbidden, "This bot is not registered for this network and external id")
	}
	return err
}

// controlOnWire is ctl as it is answered.
func controlOnWire(ctl delivery.Control) control {
	w := control{
		Type: "control", Author: author{ID: ctl.AuthorID, FullName: ctl.AuthorName}, Owner: ctl.Owner, Tags: ctl.Tags,
		Coordinate:    coordinate{CompanyKey: ctl.Entity.CompanyKey, NetworkKey: ctl.Entity.NetworkKey, ExternalID: ctl.Entity.ExternalID},
		LastUpdatedTS: millis(ctl.LastUpdated),
	}
	if w.Owner.Type == delivery.Undetermined {
		w.Owner.Type = undetermined
	}
	return w
}

// putControl passes the control of a conversation on; the answer is the whole object as it came.
func (g *Gateway) putControl(ctx context.Context, c *call) (answer, error) {
	f, to, err := c.addressed()
	if err != nil {
		return answer{}, err
	}
	ch, err := change(f, to, c.body)
	if err != nil {
		return answer{}, err
	}
	reg, err := g.Carrier.Registration(ctx, to.reg)
	if err != nil {
		return answer{}, noSuchBot(err, to.reg)
	}
	return g.recorded(ctx, c, reg, func(ctx context.Context) (answer, error) {
		d := delivery.Deed{Action: delivery.ControlPass, Details: map[string]string{"author": ch.AuthorID, "owner": string(ch.Owner.Type), "ownerAppId": ch.Owner.AppID}}
		err := g.audited(ctx, c, d.On(to.reg), func(ctx context.Context) error {
			_, err := g.Carrier.PassControl(ctx, ch)
			return err
		})
		return answer{status: http.StatusOK, data: rawJSON(c.body)}, noSuchBot(err, to.reg)
	})
}

// change reads a change of control.
func change(f fields, to address, body []byte) (delivery.ControlChange, error) {
	owner, _ := f.object("owner")
	ch := delivery.ControlChange{
		Entity: to.reg.Entity, AppID: to.reg.AppID, AuthorID: to.author, AuthorName: to.authorName,
		Owner:   delivery.Owner{Type: delivery.OwnerType(owner.text("type")), AppID: owner.text("appId")},
		Comment: f.text("comment"), LastUpdateTS: f.stamp("lastUpdateTS", "lastUpdatedTS"), Body: body,
	}
	f.require(ch.AuthorID, "author.id")
	if kind := f.text("type"); kind != "" && kind != "control" {
		f.wrong("type", "control")
	}
	switch ch.Owner.Type {
	case delivery.Bot:
		f.require(ch.Owner.AppID, "owner.appId")
	case delivery.Agent:
		ch.Owner.AppID = ""
	default:
		f.wrong("owner.type", "AGENT or BOT")
	}
	return ch, f.fault()
}

// stamp is a time in epoch milliseconds, a number or a text, under the first name that is present.
func (f fields) stamp(names ...string) int64 {
	for _, name := range names {
		raw := strings.Trim(string(f.raw(name)), `"`)
		if raw == "" {
			continue
		}
		n, err := strconv.ParseInt(raw, 10, 64)
		if err != nil {
			f.wrong(name, "epoch milliseconds")
		}
		return n
	}
	return 0
}

// require notes that a member is missing; a member of the wrong type has been noted already.
func (f fields) require(value, name string) {
	if value != "" {
		return
	}
	for _, p := range *f.problems {
		if first := beforeSpace(p); name == first || strings.HasPrefix(name, first+".") {
			return
		}
	}
	*f.problems = append(*f.problems, name+" may not be empty")
}

// fault is an error with all problems so far, or nil.
func (f fields) fault() error {
	if len(*f.problems) == 0 {
		return nil
	}
	return say(errBad, *f.problems...)
}

// address is where a call by a bot is meant for.
type address struct {
	reg        delivery.RegID
	author     string
	authorName string
}

// addressed reads the coordinate and the author of a call by a bot, and checks that the token may speak for that bot.
func (c *call) addressed() (fields, address, error) {
	f, err := readFields(c.body)
	if err != nil {
		return f, address{}, err
	}
	at, _ := f.object("coordinate")
	who, _ := f.object("author")
	to := address{author: who.text("id"), authorName: who.text("fullName")}
	to.reg.CompanyKey, to.reg.AppID = at.text("companyKey"), at.text("botId")
	to.reg.NetworkKey, to.reg.ExternalID = at.text("networkKey"), at.text("externalId")
	if to.reg.CompanyKey == "" {
		to.reg.CompanyKey = c.CompanyKey
	}
	if to.reg.AppID == "" {
		to.reg.AppID = c.AppID
	}
	f.require(to.reg.NetworkKey, "coordinate.networkKey")
	f.require(to.reg.ExternalID, "coordinate.externalId")
	f.require(to.reg.AppID, "coordinate.botId")
	switch {
	case f.fault() != nil:
		return f, to, f.fault()
	case !delivery.ValidNetworkKey(to.reg.NetworkKey):
		return f, to, say(errBad, "Invalid networkKey "+to.reg.NetworkKey)
	case to.reg.CompanyKey != c.CompanyKey:
		return f, to, noSuchBot(delivery.ErrNotFound, to.reg)
	}
	return f, to, c.may(to.reg.AppID)
}
