package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
)

// listLimit is how many rows a list has at most.
const listLimit = 1000

// entry is what all entries of the outbox have in common on the wire. Times are epoch milliseconds.
type entry struct {
	ID         string              `json:"id"`
	NetworkKey string              `json:"networkKey"`
	ExternalID string              `json:"externalId"`
	AppID      string              `json:"appId"`
	State      delivery.EntryState `json:"state"`
	Tries      int                 `json:"tries"`
	LastError  string              `json:"lastError,omitempty"`
	Created    int64               `json:"createdEpochMillis"`
	NextTry    int64               `json:"nextTryEpochMillis,omitempty"`
	Completed  int64               `json:"completedEpochMillis,omitempty"`
}

// entryOnWire is e as it is answered.
func entryOnWire(e delivery.Entry) entry {
	w := entry{
		ID: e.ID, NetworkKey: e.NetworkKey, ExternalID: e.ExternalID, AppID: e.AppID, State: e.State, Tries: e.Tries,
		LastError: e.LastError, Created: e.At, Completed: e.DoneAt,
	}
	if e.State == delivery.EntryPending {
		w.NextTry = e.NextTry
	}
	return w
}

// handoff is one handoff on the wire.
type handoff struct {
	entry
	Kind      delivery.HandoffKind `json:"kind"`
	Tags      []string             `json:"tags"`
	Author    author               `json:"author"`
	Owner     delivery.Owner       `json:"owner"`
	Reason    string               `json:"reason,omitempty"`
	Comment   string               `json:"comment,omitempty"`
	RequestID string               `json:"requestId,omitempty"` // of the delivery that caused it
}

// notice is one notice on the wire.
type notice struct {
	entry
	Kind         health.Kind  `json:"kind"`
	From         health.State `json:"from"`
	To           health.State `json:"to"`
	Number       int64        `json:"number"` // of the transition
	Reason       string       `json:"reason"`
	FailureCount int64        `json:"failureCount"`
	SuccessCount int64        `json:"successCount"`
	Flapping     bool         `json:"flapping,omitempty"` // held back for the hour's digest, because the bot changes often
	Mail         string       `json:"mail,omitempty"`     // the mail that tells of it together with others, whose state this is
	PausedUntil  int64        `json:"pausedUntil,omitempty"`
	HandedOff    int64        `json:"handedOff"`
	Undelivered  int64        `json:"undelivered"`
}

// getHandoffs lists handoffs, newest first.
func (g *Gateway) getHandoffs(ctx context.Context, c *call) (answer, error) {
	return list(ctx, g, c, delivery.EntryHandoff, func(e delivery.Entry, h delivery.Handoff) (handoff, bool) {
		return handoff{
			entry: entryOnWire(e), Kind: h.HandoffKind, Tags: []string{delivery.ParentTag, h.HandoffKind.Tag()},
			Author: author{ID: h.AuthorID, FullName: h.AuthorName}, Owner: h.Owner,
			Reason: h.Reason, Comment: h.Comment, RequestID: h.RequestID,
		}, true
	})
}

// getNotices lists notices, newest first. A transition that nobody is told of is no notice.
func (g *Gateway) getNotices(ctx context.Context, c *call) (answer, error) {
	return list(ctx, g, c, delivery.EntryTransition, func(e delivery.Entry, t health.Transition) (notice, bool) {
		return notice{
			entry: entryOnWire(e), Kind: t.Kind, From: t.From, To: t.To, Number: t.Number, Reason: t.Reason,
			Flapping: t.Held, Mail: e.Mail, FailureCount: t.Failed, SuccessCount: t.Acknowledged, PausedUntil: t.PausedUntil,
			HandedOff: t.HandedOff, Undelivered: t.Undelivered,
		}, t.Notice
	})
}

// list answers with the outbox entries of a kind that the token may see, at most ?limit of them (100 unless told, 1,000 at most), of
// one app if ?appId names it.
func list[D, W any](
	ctx context.Context, g *Gateway, c *call, kind delivery.EntryKind, wire func(delivery.Entry, D) (W, bool),
) (answer, error) {
	limit, err := c.limit()
	if err != nil {
		return answer{}, err
	}
	app := c.query.Get("appId")
	if app != "" {
		if err := c.may(app); err != nil {
			return answer{}, err
		}
	}
	var unread error
	read := map[string]D{} // by the entry's id
	entries, err := g.Carrier.Outbox().List(ctx, c.CompanyKey, limit, func(e delivery.Entry) bool {
		if e.CompanyKey != c.CompanyKey || c.may(e.AppID) != nil || app != "" && app != e.AppID {
			return false
		}
		var data D
		if err := json.Unmarshal(e.Data, &data); err != nil {
			unread = fmt.Errorf("read %s entry %s: %w", kind, e.ID, err)
			return false
		}
		read[e.ID] = data
		_, ok := wire(e, data)
		return ok
	}, kind)
	if err = cmp.Or(err, unread); err != nil {
		return answer{}, err
	}
	rows := []W{}
	for _, e := range entries { // as they are now: whether a mail has told of them is known by the end
		row, _ := wire(e, read[e.ID])
		rows = append(rows, row)
	}
	return answer{status: http.StatusOK, data: rows}, nil
}

// limit is how many rows the caller wants.
func (c *call) limit() (int, error) {
	text := c.query.Get("limit")
	if text == "" {
		return 100, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > listLimit {
		return 0, incorrect("limit")
	}
	return n, nil
}
