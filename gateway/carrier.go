package gateway

import (
	"context"
	"iter"
	"net/http"

	"github.com/pulsegate/pulsegate/delivery"
)

// Carrier is what the gateway asks of the room that carries events; *delivery.Carrier is one. Every method is safe for concurrent
// use, and answers with the sentinels of package delivery: ErrNotFound, ErrUnavailable and so on.
type Carrier interface {
	Events
	Registrations
	Conversations
	Records
	Trail
	// Health returns the health of every registration of an app; ErrNotFound when there is none.
	Health(ctx context.Context, company, appID string) ([]delivery.Health, error)
	// Outbox is where handoffs and notices are listed, and whose clock is the store's.
	Outbox() delivery.Outbox
	// Ready is nil when the store answers and everything that it needs is loaded.
	Ready(ctx context.Context) error
	// Store says how the store is.
	Store() delivery.StoreStatus
}

// Events takes events in.
type Events interface {
	// Accept stores events of a company and returns one receipt per event, in order. It returns after everything accepted is stored.
	Accept(ctx context.Context, company string, events []delivery.Incoming) []delivery.Receipt
}

// Registrations keeps the registrations.
type Registrations interface {
	Create(ctx context.Context, r delivery.Registration) error
	Put(ctx context.Context, r delivery.Registration) error
	// Problems lists all for which Create and Put would refuse r by itself, each naming its field first. It does not ask the store.
	Problems(r delivery.Registration) []string
	SetMode(ctx context.Context, id delivery.RegID, m delivery.Mode) error
	Delete(ctx context.Context, id delivery.RegID) error
	Registration(ctx context.Context, id delivery.RegID) (delivery.Registration, error)
	OfEntity(ctx context.Context, e delivery.Entity) ([]delivery.Registration, error)
	// OfCompany returns the registrations of a company in order, from the first after a cursor on; an error ends the sequence.
	OfCompany(ctx context.Context, company, after string) iter.Seq2[delivery.Registration, error]
}

// Conversations knows who owns the conversation of an author.
type Conversations interface {
	Control(ctx context.Context, e delivery.Entity, authorID string) (delivery.Control, error)
	PassControl(ctx context.Context, ch delivery.ControlChange) (delivery.Control, error)
}

// Records keeps what became of events and calls.
type Records interface {
	Record(ctx context.Context, company, id string) (delivery.Record, error)
	Records(ctx context.Context, company, appID string, q delivery.RecordQuery) ([]delivery.Record, error)
	EventRecords(ctx context.Context, company, eventID string) ([]delivery.Record, error)
	// Redeliver makes the delivery of a record once more; with a key, once for all calls with it.
	Redeliver(ctx context.Context, company, requestID, key string) (delivery.Redelivery, error)
	// NoteCall stores the record of a call by a bot.
	NoteCall(ctx context.Context, r delivery.Record) (delivery.Record, error)
	// NewCallID makes the request id of a call by a bot.
	NewCallID(id delivery.RegID) string
}

// Trail keeps who did what.
type Trail interface {
	// Audit does something and keeps word of it; what cannot be kept is not done. The error is that of do, or ErrUnavailable.
	Audit(ctx context.Context, d delivery.Deed, do func(context.Context) error) error
	// Deeds lists what was done in a company, newest first.
	Deeds(ctx context.Context, company string, q delivery.DeedQuery) ([]delivery.Deed, error)
}

// Platform is where calls of bots about conversations are passed on to.
type Platform interface {
	// Pass hands one call on and returns the platform's answer, whatever its status; an error means that there was none. The path
	// begins with /bots/v3/.
	Pass(ctx context.Context, method, path string, body []byte) (status int, header http.Header, answer []byte, err error)
}
