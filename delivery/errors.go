package delivery

import (
	"errors"
	"strings"
)

// The sentinels of this room; the gateway has one table from them to HTTP statuses.
var (
	ErrNotFound      = errors.New("not found")                                                                                               // registration, author, record
	ErrUnknownEntity = errors.New("no bot is registered for this coordinate")                                                                // accept: 404
	ErrExists        = errors.New("registration exists already")                                                                             // create: 409
	ErrLiveTaken     = errors.New("another registration of this entity is LIVE")                                                             // 409
	ErrTooMany       = errors.New("this entity has 10 registrations already")                                                                // 409
	ErrStale         = errors.New("control has changed since, nothing was changed")                                                          // 409
	ErrKeyReused     = errors.New("this id was accepted before with another body")                                                           // 422
	ErrUnderWay      = errors.New("the delivery has no fate yet: it waits or is under way")                                                  // 409
	ErrNoDelivery    = errors.New("this request is a call by a bot, not a delivery")                                                         // 409
	ErrMaintenance   = errors.New("the registration is in MAINTENANCE: nothing is delivered to it")                                          // 409
	ErrNoPayload     = errors.New("the payload is kept no more: it is kept with the last 10,000 failures, for 31 days, and with no success") // 410
	ErrDeleted       = errors.New("the registration has been deleted")                                                                       // 410
	ErrUnavailable   = errors.New("the store is away or full, try again")                                                                    // 503 with Retry-After
)

// ValidationError lists every problem of a registration at once, each naming its field.
type ValidationError struct{ Problems []string }

// Error joins the problems.
func (e *ValidationError) Error() string { return strings.Join(e.Problems, "; ") }

// EventError is a fault of an event, naming the field and the fix.
type EventError struct {
	Field     string // "coordinate.networkKey", or "event" for the whole
	Problem   string // "may not be empty"
	Malformed bool   // not JSON, or not an object: 400; else 422
}

// Error reads "field problem".
func (e *EventError) Error() string { return e.Field + " " + e.Problem }

// reasonOf names an error for a metric label.
func reasonOf(err error) string {
	var fault *EventError
	var store *StoreError
	switch {
	case errors.As(err, &fault):
		return "invalid"
	case errors.Is(err, ErrUnknownEntity):
		return "unknown_entity"
	case errors.Is(err, ErrKeyReused):
		return "key_reused"
	case errors.As(err, &store) && (store.Condition == StoreFull || store.Condition == StoreUnconfirmed):
		return string(store.Condition)
	default:
		return "unavailable"
	}
}
