package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
)

// event is what the fake reads of an event.
type event struct {
	ID         string
	Type       string
	Coordinate struct{ CompanyKey, NetworkKey, ExternalID, Scope string }
	ExpiresAt  json.RawMessage
	Author     struct{ ID, FullName string }
}

func (f *fakeCarrier) Accept(_ context.Context, company string, events []delivery.Incoming) []delivery.Receipt {
	defer f.lock()()
	if f.panics {
		panic(string(events[0].Body))
	}
	out := make([]delivery.Receipt, len(events))
	for i, in := range events {
		out[i] = f.acceptOne(company, in)
	}
	return out
}

func (f *fakeCarrier) acceptOne(company string, in delivery.Incoming) delivery.Receipt {
	if f.away {
		return delivery.Receipt{Err: delivery.ErrUnavailable}
	}
	var ev event
	if err := json.Unmarshal(in.Body, &ev); err != nil {
		return delivery.Receipt{Err: &delivery.EventError{Field: "event", Problem: "has a member of the wrong type"}}
	}
	at := delivery.Entity{CompanyKey: ev.Coordinate.CompanyKey, NetworkKey: ev.Coordinate.NetworkKey, ExternalID: ev.Coordinate.ExternalID}
	switch {
	case at.NetworkKey == "":
		return delivery.Receipt{Err: &delivery.EventError{Field: "coordinate.networkKey", Problem: "may not be empty"}}
	case ev.Type == "message" && ev.Author.ID == "":
		return delivery.Receipt{Err: &delivery.EventError{Field: "author.id", Problem: "may not be empty"}}
	case at.CompanyKey != company:
		return delivery.Receipt{Err: delivery.ErrUnknownEntity}
	}
	if _, err := new(delivery.Parser).Parse(in.Body, ""); err != nil {
		return delivery.Receipt{Err: err}
	}
	if ev.ID != "" {
		in.Key = "own:" + ev.ID
	}
	if before, ok := f.seen[in.Key]; ok && in.Key != "" {
		if before.body != string(in.Body) {
			return delivery.Receipt{Err: delivery.ErrKeyReused}
		}
		return before.receipt
	}
	receipt, err := f.route(at, ev, in.Body)
	if err != nil {
		return delivery.Receipt{Err: err}
	}
	f.seen[in.Key] = accepted{body: string(in.Body), receipt: receipt}
	f.bodies = append(f.bodies, bytes.Clone(in.Body))
	return receipt
}

// route makes one record per registration of the entity.
func (f *fakeCarrier) route(at delivery.Entity, ev event, body []byte) (delivery.Receipt, error) {
	receipt := delivery.Receipt{ID: f.newID("ev"), Fate: delivery.InMaintenance}
	known := false
	for id, r := range f.regs {
		if id.Entity != at {
			continue
		}
		known = true
		if r.Mode == delivery.Live {
			receipt.Fate = delivery.Queued
			f.controls[at.ExternalID+"|"+ev.Author.ID] = delivery.Control{
				Entity: at, AuthorID: ev.Author.ID, AuthorName: ev.Author.FullName, LastUpdated: time.Now(),
				Owner: delivery.Owner{Type: delivery.Bot, AppID: id.AppID},
			}
		}
		rec := delivery.Record{
			ID: f.newID("rq"), EventID: receipt.ID, Reg: id, CallbackURL: r.CallbackURL, Origin: delivery.OriginGateway,
			State: delivery.RequestPending, Fate: receipt.Fate, Payload: body, Created: time.Now(), LastUpdated: time.Now(),
		}
		var ms int64
		switch {
		case ev.Coordinate.Scope == "PUBLIC":
			rec.State, rec.Fate, rec.Payload = delivery.RequestSuccess, delivery.Filtered, nil
		case json.Unmarshal(ev.ExpiresAt, &ms) == nil && ms > 0 && ms < time.Now().UnixMilli():
			rec.State, rec.Fate, rec.Message = delivery.RequestError, delivery.Expired, "not tried: its time was up"
			rec.Handoff = delivery.AutomaticHandoff
		}
		if receipt.Fate = rec.Fate; rec.State != delivery.RequestPending {
			rec.Completed = rec.Created
		}
		f.records = append(f.records, rec)
	}
	if !known {
		return receipt, delivery.ErrUnknownEntity
	}
	return receipt, nil
}

func (f *fakeCarrier) Record(_ context.Context, company, id string) (delivery.Record, error) {
	defer f.lock()()
	for _, r := range f.records {
		if r.ID == id && r.Reg.CompanyKey == company {
			return r, nil
		}
	}
	return delivery.Record{}, delivery.ErrNotFound
}

func (f *fakeCarrier) Redeliver(ctx context.Context, company, requestID, key string) (delivery.Redelivery, error) {
	r, err := f.Record(ctx, company, requestID)
	defer f.lock()()
	reg, known := f.regs[r.Reg]
	before, made := f.seen["again:"+requestID+key]
	switch {
	case err != nil:
		return delivery.Redelivery{}, err
	case r.Origin == delivery.OriginBot:
		return delivery.Redelivery{}, delivery.ErrNoDelivery
	case r.State == delivery.RequestPending:
		return delivery.Redelivery{}, delivery.ErrUnderWay
	case len(r.Payload) == 0:
		return delivery.Redelivery{}, delivery.ErrNoPayload
	case !known:
		return delivery.Redelivery{}, delivery.ErrDeleted
	case reg.Mode == delivery.Maintenance:
		return delivery.Redelivery{}, delivery.ErrMaintenance
	case made && key != "":
		return delivery.Redelivery{ID: before.body, EventID: r.EventID, Fate: delivery.Queued}, nil
	}
	r.ID, r.State, r.Fate, r.Message, r.Handoff = f.newID("rq"), delivery.RequestPending, delivery.Queued, "", ""
	r.Created, r.Completed = time.Now(), time.Time{}
	f.records = append(f.records, r)
	f.seen["again:"+requestID+key] = accepted{body: r.ID}
	return delivery.Redelivery{ID: r.ID, EventID: r.EventID, Fate: r.Fate}, nil
}

func (f *fakeCarrier) Records(
	_ context.Context, company, appID string, q delivery.RecordQuery,
) (out []delivery.Record, err error) {
	if _, err := f.ofApp(company, appID); err != nil {
		return nil, err
	}
	defer f.lock()()
	for _, r := range f.records {
		if r.Reg.CompanyKey == company && r.Reg.AppID == appID && (q.Origin == "" || q.Origin == r.Origin) &&
			(len(q.States) == 0 || slices.Contains(q.States, r.State)) {
			out = append(out, r)
		}
	}
	return out, nil
}

func (f *fakeCarrier) EventRecords(_ context.Context, company, eventID string) (out []delivery.Record, err error) {
	defer f.lock()()
	for _, r := range f.records {
		if r.Reg.CompanyKey == company && r.EventID == eventID {
			out = append(out, r)
		}
	}
	if len(out) == 0 {
		return nil, delivery.ErrNotFound
	}
	return out, nil
}

func (f *fakeCarrier) NoteCall(_ context.Context, r delivery.Record) (delivery.Record, error) {
	defer f.lock()()
	f.records = append(f.records, r)
	return r, nil
}

func (f *fakeCarrier) NewCallID(delivery.RegID) string {
	defer f.lock()()
	return f.newID("call")
}
