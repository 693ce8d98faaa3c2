package gateway

import (
	"context"
	"maps"
	"net/http"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
)

// healthOf is the health of one registration on the wire. Times are epoch milliseconds.
type healthOf struct {
	Status             health.State           `json:"status"`
	FailureCount       int64                  `json:"failureCount"`
	SuccessCount       int64                  `json:"successCount"`
	NetworkKey         string                 `json:"networkKey"`
	ExternalID         string                 `json:"externalId"`
	AppID              string                 `json:"appId"`
	Mode               delivery.Mode          `json:"mode"`
	Since              int64                  `json:"since,omitempty"`
	PausedUntil        int64                  `json:"pausedUntil,omitempty"`
	Verified           bool                   `json:"verified"`
	Debug              bool                   `json:"debug"`
	Flapping           bool                   `json:"flapping,omitempty"` // a notice was held back within the hour
	Reason             string                 `json:"reason"`
	FailuresByClass    map[health.Class]int64 `json:"failuresByClass"`
	WindowSeconds      float64                `json:"windowSeconds"`
	LastAcknowledgedAt int64                  `json:"lastAcknowledgedAt,omitempty"`
	LastFailure        *failure               `json:"lastFailure,omitempty"`
}

// failure is the last failed outcome on the wire.
type failure struct {
	Class     health.Class `json:"class"`
	At        int64        `json:"at"`
	RequestID string       `json:"requestId"`
}

// getHealth lists the health of every registration of an app.
func (g *Gateway) getHealth(ctx context.Context, c *call) (answer, error) {
	app, err := c.ownApp()
	if err != nil {
		return answer{}, err
	}
	all, err := g.Carrier.Health(ctx, c.CompanyKey, app)
	if err != nil {
		return answer{}, unknown(err, app+" not found")
	}
	rows := make([]healthOf, len(all))
	for i, h := range all {
		rows[i] = healthOnWire(h)
	}
	return answer{status: http.StatusOK, data: rows}, nil
}

// healthOnWire is h as it is answered.
func healthOnWire(h delivery.Health) healthOf {
	w := healthOf{
		Status: h.Verdict.State, FailureCount: h.Counts.Failed, SuccessCount: h.Counts.Acknowledged,
		NetworkKey: h.Registration.NetworkKey, ExternalID: h.Registration.ExternalID, AppID: h.Registration.AppID,
		Mode: h.Registration.Mode, Since: millis(h.Standing.Since), PausedUntil: millis(h.Standing.PausedUntil),
		Verified: h.Verdict.Verified, Debug: h.Standing.Debug, Flapping: h.Verdict.Flapping, Reason: h.Verdict.Reason,
		FailuresByClass: map[health.Class]int64{}, WindowSeconds: h.Window.Seconds(), LastAcknowledgedAt: millis(h.LastAcknowledgedAt),
	}
	maps.Copy(w.FailuresByClass, h.Counts.ByClass)
	if f := h.LastFailure; f != nil {
		w.LastFailure = &failure{Class: f.Class, At: millis(f.At), RequestID: f.RequestID}
	}
	return w
}

// ownApp is the app that the path names, if the token reaches it.
func (c *call) ownApp() (string, error) {
	app, err := c.value("appId")
	if err != nil {
		return "", err
	}
	return app, c.may(app)
}
