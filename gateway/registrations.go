package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
)

// registration is a registration on the wire, as it is read. It has no place for a secret.
type registration struct {
	Platform        string                 `json:"platform,omitempty"`
	CompanyKey      string                 `json:"companyKey"`
	NetworkKey      string                 `json:"networkKey"`
	NetworkInstance string                 `json:"networkInstance,omitempty"`
	ExternalID      string                 `json:"externalId"`
	AppID           string                 `json:"appId"`
	Name            string                 `json:"name,omitempty"`
	CallbackURL     string                 `json:"callbackUrl"`
	Mode            delivery.Mode          `json:"mode"`
	PublicFilter    *delivery.PublicFilter `json:"publicFilter,omitempty"`
	Credentials     credentials            `json:"credentials"`
	CACertificate   string                 `json:"caCertificate,omitempty"` // public, so it may be shown
	Contact         *contact               `json:"contact,omitempty"`
	AvatarURL       string                 `json:"avatarUrl,omitempty"`
	Metadata        rawJSON                `json:"metadata,omitempty"`
	Owner           string                 `json:"owner,omitempty"`
	RunbookURL      string                 `json:"runbookUrl,omitempty"`
	TimeoutMs       int64                  `json:"deliveryTimeoutMs,omitempty"`
	MaxConcurrency  int                    `json:"maxConcurrency,omitempty"`
	MaxPerSecond    int                    `json:"maxPerSecond,omitempty"`
	WhenDown        delivery.WhenDown      `json:"whenDown,omitempty"`
	TimeToLiveMs    int64                  `json:"timeToLiveMs,omitempty"`
	DebugUntil      int64                  `json:"debugUntil,omitempty"` // epoch milliseconds
	Created         int64                  `json:"createdEpochMillis"`
	LastUpdated     int64                  `json:"lastUpdatedEpochMillis"`
}

// credentials are what may be told of credentials.
type credentials struct {
	Type     delivery.CredentialType `json:"type"`
	Identity string                  `json:"identity,omitempty"`
}

// contact is whom notices go to.
type contact struct {
	Email string `json:"email,omitempty"`
	Name  string `json:"name,omitempty"`
}

// onWire is r as it is answered.
func onWire(r delivery.Registration) registration {
	w := registration{
		Platform: r.Platform, CompanyKey: r.CompanyKey, NetworkKey: r.NetworkKey, NetworkInstance: r.NetworkInstance,
		ExternalID: r.ExternalID, AppID: r.AppID, Name: r.Name, CallbackURL: r.CallbackURL, Mode: r.Mode,
		PublicFilter: r.PublicFilter, Credentials: credentials{Type: r.Credentials.Type, Identity: r.Credentials.Identity},
		CACertificate: r.CACertificate, AvatarURL: r.AvatarURL, Metadata: rawJSON(r.Metadata), Owner: r.Owner, RunbookURL: r.RunbookURL,
		TimeoutMs: r.DeliveryTimeout.Milliseconds(), MaxConcurrency: r.MaxConcurrency, MaxPerSecond: r.MaxPerSecond, WhenDown: r.WhenDown,
		TimeToLiveMs: r.TimeToLive.Milliseconds(),
		DebugUntil:   millis(r.DebugUntil), Created: millis(r.Created), LastUpdated: millis(r.LastUpdated),
	}
	if r.ContactEmail != "" || r.ContactName != "" {
		w.Contact = &contact{Email: r.ContactEmail, Name: r.ContactName}
	}
	return w
}

// millis is t in epoch milliseconds; 0 when there is no time.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// listed is the answer that lists registrations.
func listed(all []delivery.Registration, err error) (answer, error) {
	if err != nil {
		return answer{}, err
	}
	rows := make([]registration, len(all))
	for i, r := range all {
		rows[i] = onWire(r)
	}
	return answer{status: http.StatusOK, data: rows}, nil
}

// done is the answer 202 to a call whose success has nothing to tell.
func done(err error) (answer, error) { return answer{status: http.StatusAccepted}, err }

// unknown gives ErrNotFound its words.
func unknown(err error, words string) error {
	if errors.Is(err, delivery.ErrNotFound) {
		return say(err, words)
	}
	return err
}

// noSuchBot gives ErrNotFound the words of calls that name a bot.
func noSuchBot(err error, id delivery.RegID) error {
	return unknown(err, fmt.Sprintf("No such bot %s for company %s network %s external id %s",
		id.AppID, id.CompanyKey, id.NetworkKey, id.ExternalID))
}

// pageLimit is the greatest ?limit of a listing of registrations.
const pageLimit = 10_000

// getRegistrations lists the registrations of the token's company, of which a bot sees its own: all of them, or with ?limit so many from
// the first after ?after on, and where the next page begins.
func (g *Gateway) getRegistrations(_ context.Context, c *call) (answer, error) {
	limit := 0
	if text := c.query.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > pageLimit {
			return answer{}, incorrect("limit")
		}
		limit = n
	}
	company, after := c.CompanyKey, c.query.Get("after")
	return answer{status: http.StatusOK, stream: func(ctx context.Context, s *stream) error {
		last := ""
		for r, err := range g.Carrier.OfCompany(ctx, company, after) {
			if err != nil {
				return err
			}
			if c.may(r.AppID) != nil {
				continue
			}
			if limit > 0 && s.rows == limit {
				s.next = last
				return nil
			}
			if err := s.row(onWire(r)); err != nil {
				return err
			}
			last = r.Cursor()
		}
		return nil
	}}, nil
}

// getEntity lists the registrations of one entity, of which a bot sees its own; none is an error.
func (g *Gateway) getEntity(ctx context.Context, c *call) (answer, error) {
	e, err := c.entity()
	if err != nil {
		return answer{}, err
	}
	all, err := g.Carrier.OfEntity(ctx, e)
	all = slices.DeleteFunc(slices.Clone(all), func(r delivery.Registration) bool { return c.may(r.AppID) != nil })
	if err == nil && len(all) == 0 {
		err = delivery.ErrNotFound
	}
	return listed(all, err)
}

// getRegistration reads one registration.
func (g *Gateway) getRegistration(ctx context.Context, c *call) (answer, error) {
	id, err := c.ownRegID()
	if err != nil {
		return answer{}, err
	}
	r, err := g.Carrier.Registration(ctx, id)
	return answer{status: http.StatusOK, data: onWire(r)}, err
}

// postRegistration creates a registration.
func (g *Gateway) postRegistration(ctx context.Context, c *call) (answer, error) {
	r, err := g.registration(c)
	if err != nil {
		return answer{}, err
	}
	return done(g.audited(ctx, c, changeOf(r, delivery.RegistrationCreate), func(ctx context.Context) error { return g.Carrier.Create(ctx, r) }))
}

// putRegistration creates or replaces a registration.
func (g *Gateway) putRegistration(ctx context.Context, c *call) (answer, error) {
	r, err := g.registration(c)
	if err != nil {
		return answer{}, err
	}
	return done(g.audited(ctx, c, changeOf(r, delivery.RegistrationPut), func(ctx context.Context) error { return g.Carrier.Put(ctx, r) }))
}

// changeOf is how the audit trail tells of a registration that is written.
func changeOf(r delivery.Registration, a delivery.Action) delivery.Deed {
	return delivery.Deed{Action: a, Details: map[string]string{"mode": string(r.Mode)}}.On(r.RegID)
}

// deleteRegistration deletes a registration.
func (g *Gateway) deleteRegistration(ctx context.Context, c *call) (answer, error) {
	id, err := c.ownRegID()
	if err != nil {
		return answer{}, err
	}
	err = g.audited(ctx, c, delivery.Deed{Action: delivery.RegistrationDelete}.On(id), func(ctx context.Context) error { return g.Carrier.Delete(ctx, id) })
	return answer{status: http.StatusNoContent}, err
}

// putMode changes the mode of a registration; its name may be written in any letter case.
func (g *Gateway) putMode(ctx context.Context, c *call) (answer, error) {
	id, err := c.ownRegID()
	if err != nil {
		return answer{}, err
	}
	text, err := c.value("mode")
	if err != nil {
		return answer{}, err
	}
	mode := delivery.Mode(strings.ToUpper(text))
	switch mode {
	case delivery.Live, delivery.Maintenance, delivery.Monitoring:
		d := delivery.Deed{Action: delivery.ModeSwitch, Details: map[string]string{"mode": string(mode)}}.On(id)
		err = g.audited(ctx, c, d, func(ctx context.Context) error { return g.Carrier.SetMode(ctx, id, mode) })
		return done(noSuchBot(err, id))
	}
	return answer{}, say(errBad, "Invalid mode: "+text)
}

// ownRegID is the registration that the path names, if the token may read and change it.
func (c *call) ownRegID() (delivery.RegID, error) {
	id, err := c.regID()
	if err != nil {
		return id, err
	}
	return id, c.may(id.AppID)
}
