package gateway

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
)

// trailTime is how far back the audit trail may be asked for.
const trailTime = 400 * 24 * time.Hour

// deed is one entry of the audit trail on the wire.
type deed struct {
	ID         int64                `json:"id,omitempty"` // greater for what was done later; none while it is pending
	At         int64                `json:"atEpochMillis"`
	Action     delivery.Action      `json:"action"`
	Outcome    delivery.DeedOutcome `json:"outcome"`
	By         delivery.Actor       `json:"by"`
	RequestID  string               `json:"requestId"`
	NetworkKey string               `json:"networkKey,omitempty"`
	ExternalID string               `json:"externalId,omitempty"`
	AppID      string               `json:"appId,omitempty"`
	Details    map[string]string    `json:"details,omitempty"`
}

// audited does what d says on behalf of the caller, and keeps it in the audit trail of the company. What cannot be kept is not done.
func (g *Gateway) audited(ctx context.Context, c *call, d delivery.Deed, do func(context.Context) error) error {
	d.Company, d.RequestID = c.CompanyKey, c.requestID
	d.By = delivery.Actor{TokenID: c.ID, Scope: string(c.Scope), AppID: c.AppID, Admin: c.admin}
	return g.Carrier.Audit(ctx, d, do)
}

// getAudit lists the audit trail of the token's company, newest first: at most ?limit deeds of the time ?from, and of those that are older
// than ?before.
func (g *Gateway) getAudit(ctx context.Context, c *call) (answer, error) {
	var q delivery.DeedQuery
	var err error
	if q.Limit, err = c.limit(); err != nil {
		return answer{}, err
	}
	if q.From, err = backBy(c.query.Get("from"), trailTime, trailTime); err != nil {
		return answer{}, err
	}
	if text := c.query.Get("before"); text != "" {
		if q.Before, err = strconv.ParseInt(text, 10, 64); err != nil || q.Before < 1 {
			return answer{}, incorrect("before")
		}
	}
	q.AppID = c.query.Get("appId")
	deeds, err := g.Carrier.Deeds(ctx, c.CompanyKey, q)
	if err != nil {
		return answer{}, err
	}
	rows := make([]deed, len(deeds))
	for i, d := range deeds {
		rows[i] = deed{
			ID: d.Number, At: millis(d.At), Action: d.Action, Outcome: d.Outcome, By: d.By, RequestID: d.RequestID,
			NetworkKey: d.NetworkKey, ExternalID: d.ExternalID, AppID: d.AppID, Details: d.Details,
		}
	}
	return answer{status: http.StatusOK, data: rows}, nil
}
