package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
)

// farthest is how far back records may be asked for.
const farthest = 31 * 24 * time.Hour

// backPattern is a quantity and its unit: minutes, hours or days.
var backPattern = regexp.MustCompile(`^([0-9]{1,6})([mhd])$`)

// record is a request record on the wire. Times are epoch milliseconds.
type record struct {
	ID          string                `json:"id"`
	CompanyKey  string                `json:"companyKey"`
	NetworkKey  string                `json:"networkKey"`
	ExternalID  string                `json:"externalId"`
	AppID       string                `json:"appId"`
	EventID     string                `json:"eventId,omitempty"`
	CallbackURL string                `json:"callbackUrl,omitempty"`
	Origin      string                `json:"origin"`
	State       delivery.RequestState `json:"state"`
	Details     details               `json:"details"`
	Payload     rawJSON               `json:"payload,omitempty"`
	Fate        delivery.Fate         `json:"fate,omitempty"`
	Tries       int                   `json:"tries"`
	LatencyMs   int64                 `json:"latencyMs"`
	Handoff     delivery.HandoffKind  `json:"handoff,omitempty"`
	Created     int64                 `json:"createdEpochMillis"`
	Completed   int64                 `json:"completedEpochMillis,omitempty"`
	LastUpdated int64                 `json:"lastUpdatedEpochMillis"`
}

// details say how a request ended; all are empty while it is under way.
type details struct {
	Code    string       `json:"code,omitempty"` // an HTTP status; a text on the wire
	Message string       `json:"message,omitempty"`
	Class   health.Class `json:"class,omitempty"`
}

// recordOnWire is r as it is answered, but for its payload.
func recordOnWire(r delivery.Record) record {
	return record{
		ID: r.ID, CompanyKey: r.Reg.CompanyKey, NetworkKey: r.Reg.NetworkKey, ExternalID: r.Reg.ExternalID, AppID: r.Reg.AppID,
		EventID: r.EventID, CallbackURL: r.CallbackURL, Origin: r.Origin, State: r.State,
		Details: details{Code: r.Code, Message: r.Message, Class: r.Class},
		Fate:    r.Fate, Tries: r.Tries, LatencyMs: r.Latency.Milliseconds(), Handoff: r.Handoff,
		Created: millis(r.Created), Completed: millis(r.Completed), LastUpdated: millis(r.LastUpdated),
	}
}

// payloadText is a payload as a JSON string.
func payloadText(payload []byte) rawJSON {
	if len(payload) == 0 {
		return nil
	}
	text, _ := json.Marshal(string(payload)) // a string can always be written
	return text
}

// getRequest reads one record; its payload is JSON.
func (g *Gateway) getRequest(ctx context.Context, c *call) (answer, error) {
	id, err := c.value("id")
	if err != nil {
		return answer{}, err
	}
	r, err := g.Carrier.Record(ctx, c.CompanyKey, id)
	if err != nil {
		return answer{}, unknown(err, id+" not found")
	}
	if err := c.may(r.Reg.AppID); err != nil {
		return answer{}, err
	}
	w := recordOnWire(r)
	if w.Payload = rawJSON(r.Payload); checkJSON(r.Payload) != nil {
		w.Payload = payloadText(r.Payload)
	}
	return answer{status: http.StatusOK, data: w}, nil
}

// redelivery is the answer to a delivery that is made once more.
type redelivery struct {
	ID      string        `json:"id"`
	EventID string        `json:"eventId"`
	Fate    delivery.Fate `json:"fate"`
}

// postRedeliver makes the delivery of a record once more.
func (g *Gateway) postRedeliver(ctx context.Context, c *call) (answer, error) {
	id, err := c.value("id")
	if err != nil {
		return answer{}, err
	}
	key, err := idempotencyKey(c.header)
	if err != nil {
		return answer{}, err
	}
	r, err := g.Carrier.Record(ctx, c.CompanyKey, id)
	if err != nil {
		return answer{}, unknown(err, id+" not found")
	}
	if err := c.may(r.Reg.AppID); err != nil {
		return answer{}, err
	}
	var made delivery.Redelivery
	d := delivery.Deed{Action: delivery.RequestRedeliver, Details: map[string]string{"of": id}}.On(r.Reg)
	err = g.audited(ctx, c, d, func(ctx context.Context) (err error) {
		made, err = g.Carrier.Redeliver(ctx, c.CompanyKey, id, key)
		d.Details["made"] = made.ID
		return err
	})
	if err != nil {
		return answer{}, unknown(err, id+" not found")
	}
	return answer{status: http.StatusAccepted, data: redelivery{made.ID, made.EventID, made.Fate}}, nil
}

// getRequests lists the records of an app; their payloads are JSON in strings.
func (g *Gateway) getRequests(ctx context.Context, c *call) (answer, error) {
	app, err := c.ownApp()
	if err != nil {
		return answer{}, err
	}
	q, err := c.recordQuery()
	if err != nil {
		return answer{}, err
	}
	records, err := g.Carrier.Records(ctx, c.CompanyKey, app, q)
	if err != nil {
		return answer{}, unknown(err, app+" not found")
	}
	rows := make([]record, len(records))
	for i, r := range records {
		rows[i] = recordOnWire(r)
		rows[i].Payload = payloadText(r.Payload)
	}
	return answer{status: http.StatusOK, data: rows}, nil
}

// recordQuery reads which records the query asks for.
func (c *call) recordQuery() (q delivery.RecordQuery, err error) {
	if q.From, err = back(c.query.Get("from")); err != nil {
		return q, err
	}
	for _, text := range c.query["state"] {
		if text == "" {
			continue
		}
		state := delivery.RequestState(strings.ToUpper(text))
		switch state {
		case delivery.RequestPending, delivery.RequestSuccess, delivery.RequestError:
		default:
			return q, incorrect("state")
		}
		if !slices.Contains(q.States, state) {
			q.States = append(q.States, state)
		}
	}
	switch origin := strings.ToUpper(c.query.Get("origin")); origin {
	case "", delivery.OriginGateway, delivery.OriginBot:
		q.Origin = origin
	default:
		return q, incorrect("origin")
	}
	return q, nil
}

// incorrect is the fault of a query parameter.
func incorrect(name string) error { return say(errBad, `Incorrect syntax in "`+name+`"`) }

// back reads how far back to look for records: 1 day if nothing is said, 31 days at most.
func back(text string) (time.Duration, error) { return backBy(text, 24*time.Hour, farthest) }

// backBy reads how far back to look: a number of minutes, hours or days, if nothing is said unsaid, and at most most.
func backBy(text string, unsaid, most time.Duration) (time.Duration, error) {
	if text == "" {
		return unsaid, nil
	}
	m := backPattern.FindStringSubmatch(text)
	if m == nil {
		return 0, incorrect("from")
	}
	n, _ := strconv.Atoi(m[1]) // six digits
	unit := map[string]time.Duration{"m": time.Minute, "h": time.Hour, "d": 24 * time.Hour}[m[2]]
	if d := time.Duration(n) * unit; d > 0 && d <= most {
		return d, nil
	}
	return 0, incorrect("from")
}
