package delivery

import (
	"context"
	"time"
)

// Redelivery is a delivery made once more.
type Redelivery struct {
	ID      string // its own request id
	EventID string // the webhook-id: that of the first delivery
	Fate    Fate   // Queued, or what it had at once
}

// again says which delivery is made once more.
type again struct {
	origin string // part of the event
	app    string
}

// refusal says why a registration gets no delivery once more; nil: it does. Of an event that is new, again is nil.
func (a *again) refusal(v *view) error {
	if a == nil {
		return nil
	}
	switch r := v.find(a.app); {
	case r == nil:
		return ErrDeleted
	case r.Mode == Maintenance:
		return ErrMaintenance
	}
	return nil
}

// origin is the part of the event that is delivered once more, or "".
func (ac *accepted) origin() string {
	if ac.again == nil {
		return ""
	}
	return ac.again.origin
}

// Redeliver delivers once more what a request record holds: as a new delivery of the same event, at the end of the queue, with all that
// holds for any delivery. It says nothing new of the conversation, so it changes no owner; a public filter and the event's own expiresAt,
// which were heeded the first time, are not asked again. With a key the same call again is answered alike, for 24 h.
//
// Its errors: ErrNotFound, ErrUnderWay, ErrNoDelivery, ErrNoPayload, ErrDeleted, ErrMaintenance, ErrUnavailable.
func (c *Carrier) Redeliver(ctx context.Context, company, requestID, key string) (Redelivery, error) {
	rec, err := c.Record(ctx, company, requestID)
	if err != nil {
		return Redelivery{}, err
	}
	ac, err := c.anew(rec, key)
	if err != nil {
		return Redelivery{}, err
	}
	until := time.Now().Add(acceptTime)
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	if _, err := c.viewOf(ctx, rec.Reg.Entity, true); err != nil { // what is known here of the mode may be out of date
		return Redelivery{}, err
	}
	c.acceptAll(ctx, until, []*accepted{ac})
	receipt := ac.receipt()
	if receipt.Err != nil {
		return Redelivery{}, receipt.Err
	}
	return Redelivery{ID: rec.Reg.requestPrefix() + ac.part, EventID: rec.EventID, Fate: ac.fate}, nil
}

// anew is the event of a record on its way into the store.
func (c *Carrier) anew(rec Record, key string) (*accepted, error) {
	switch {
	case rec.Origin == OriginBot:
		return nil, ErrNoDelivery
	case rec.State == RequestPending:
		return nil, ErrUnderWay
	case len(rec.Payload) == 0:
		return nil, ErrNoPayload
	}
	ev, err := c.parser.parse(rec.Payload)
	if err != nil {
		return nil, err
	}
	event, ok := parseID(rec.EventID)
	if !ok {
		return nil, ErrNotFound
	}
	ac := &accepted{ev: ev, part: newPart(c.store.now().UnixMilli()), again: &again{event.part, rec.Reg.AppID}}
	if key != "" {
		ac.key = "again:" + rec.ID + " " + key
	}
	return ac, nil
}
