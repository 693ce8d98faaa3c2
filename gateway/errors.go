package gateway

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/pulsegate/pulsegate/delivery"
)

// The gateway's own sentinels; those of package delivery stand beside them in faults.
var (
	errUnauthorized = errors.New("no good token")
	errForbidden    = errors.New("this token may not do that")
	errNotOwner     = errors.New("the bot does not own the conversation of this author")
	errMode         = errors.New("the bot's mode does not allow this call")
	errNoRoute      = errors.New("no such resource")
	errMethod       = errors.New("this resource does not know this method")
	errBad          = errors.New("the request is not understood")
	errTooLarge     = errors.New("the body is larger than 8 MiB")
	errTooMany      = errors.New("at most 1,000 events in one request")
	errSlow         = errors.New("the body did not arrive in time")
	errBusy         = errors.New("too much is being taken in at once, try again")
	errNoPlatform   = errors.New("no platform is set for this gateway: it cannot pass this call on (--platform-url)")
	errNoReceipt    = errors.New("no receipt was given for the event") // a fault of our own
	errLimited      = errors.New("too many requests, try again later")
	errNoToken      = errors.New("no token exists")
	errTokenExists  = errors.New("a token already exists")
	errPlatform     = errors.New("the platform did not answer, try again")
)

// dialect is how a group of calls words its errors.
type dialect int

// The dialects.
const (
	general  dialect = iota
	reading          // of registrations
	writing          // of registrations
	deleting         // of registrations
	issuing          // of tokens, in the manner of the older API
	ending           // of tokens
)

// envelope is the shape of an error on the wire; each also carries the request id.
type envelope int

// The envelopes of the API.
const (
	manyMessages envelope = iota // {"error":{"messages":[…]},"requestId":…}
	oneMessage                   // {"error":{"message":…},"requestId":…}
	unauthorized                 // {"error":{"message":…,"requestId":…}}
	plainErrors                  // {"errors":[…],"requestId":…}
	failStatus                   // {"status":"fail","message":…}, of the older API
	nothing                      // {}
)

// fault is one row of the error table: this error, in this dialect (general: in any), is answered so.
type fault struct {
	err      error
	in       dialect
	status   int
	envelope envelope
	words    string // empty: those of the error itself
}

// faults is the one table from errors to answers. The first row that fits counts; what fits none is our own fault: 500.
var faults = []fault{
	{err: errUnauthorized, status: http.StatusUnauthorized, envelope: unauthorized, words: "Unauthorized"},
	{err: errLimited, status: http.StatusTooManyRequests},
	{err: errNoToken, in: ending, status: http.StatusBadRequest, envelope: nothing},
	{err: errNoToken, status: http.StatusNotFound},
	{err: errTokenExists, status: http.StatusConflict},
	{err: errForbidden, status: http.StatusForbidden},
	{err: errNotOwner, status: http.StatusForbidden},
	{err: errMode, status: http.StatusForbidden},
	{err: errNoRoute, status: http.StatusNotFound},
	{err: errMethod, status: http.StatusMethodNotAllowed},
	{err: errBad, in: writing, status: http.StatusBadRequest, envelope: plainErrors},
	{err: errBad, status: http.StatusBadRequest},
	{err: errSlow, status: http.StatusRequestTimeout},
	{err: errTooLarge, status: http.StatusRequestEntityTooLarge},
	{err: errTooMany, status: http.StatusRequestEntityTooLarge},
	{err: errBusy, status: http.StatusServiceUnavailable},
	{err: errNoPlatform, status: http.StatusNotImplemented},
	{err: errPlatform, status: http.StatusBadGateway},
	{err: delivery.ErrNotFound, in: reading, status: http.StatusNotFound, envelope: oneMessage, words: "No bot registration found"},
	{err: delivery.ErrNotFound, in: writing, status: http.StatusNotFound, envelope: oneMessage, words: "No bot registration found"},
	{err: delivery.ErrNotFound, in: deleting, status: http.StatusNotFound, envelope: oneMessage, words: "No bot registration found"},
	{err: delivery.ErrNotFound, status: http.StatusNotFound},
	{err: delivery.ErrUnknownEntity, status: http.StatusNotFound},
	{err: delivery.ErrExists, in: writing, status: http.StatusConflict, envelope: plainErrors},
	{err: delivery.ErrLiveTaken, in: writing, status: http.StatusConflict, envelope: plainErrors},
	{err: delivery.ErrLiveTaken, status: http.StatusConflict},
	{err: delivery.ErrTooMany, in: writing, status: http.StatusConflict, envelope: plainErrors},
	{err: delivery.ErrStale, status: http.StatusConflict},
	{err: delivery.ErrUnderWay, status: http.StatusConflict},
	{err: delivery.ErrNoDelivery, status: http.StatusConflict},
	{err: delivery.ErrMaintenance, status: http.StatusConflict},
	{err: delivery.ErrNoPayload, status: http.StatusGone},
	{err: delivery.ErrDeleted, status: http.StatusGone},
	{err: delivery.ErrKeyReused, status: http.StatusUnprocessableEntity},
	{err: delivery.ErrUnavailable, status: http.StatusServiceUnavailable},
	{err: context.DeadlineExceeded, status: http.StatusServiceUnavailable, words: delivery.StoreAway.Reason()},
	{err: context.Canceled, status: http.StatusServiceUnavailable, words: delivery.ErrUnavailable.Error()},
}

// faultFor returns the row of an error, with the words that the caller reads. The older API has one envelope for all errors.
func faultFor(err error, in dialect) (fault, []string) {
	f, words := rowFor(err, in)
	if in == issuing {
		f.envelope = failStatus
	}
	return f, words
}

// rowFor finds the row of an error.
func rowFor(err error, in dialect) (fault, []string) {
	var invalid *delivery.ValidationError
	if errors.As(err, &invalid) {
		return fault{err: err, status: http.StatusUnprocessableEntity, envelope: plainErrors}, invalid.Problems
	}
	var event *delivery.EventError
	if errors.As(err, &event) {
		return fault{err: err, status: eventStatus(event)}, []string{event.Error()}
	}
	for _, f := range faults {
		if errors.Is(err, f.err) && (f.in == general || f.in == in) {
			return f, wordsOf(f, err)
		}
	}
	if in == deleting {
		return fault{err: err, status: http.StatusInternalServerError, envelope: plainErrors}, []string{"Unable to delete registration"}
	}
	return fault{err: err, status: http.StatusInternalServerError}, []string{"Internal error"}
}

// eventStatus is 400 for what is no JSON object, 422 for an object that is no event.
func eventStatus(e *delivery.EventError) int {
	if e.Malformed {
		return http.StatusBadRequest
	}
	return http.StatusUnprocessableEntity
}

// wordsOf are what the caller reads of err: words chosen for it, those of its row, or those of the row's sentinel; never those of an
// error that another room has wrapped, which are for the log.
func wordsOf(f fault, err error) []string {
	var own *worded
	var store *delivery.StoreError
	var over *limited
	switch {
	case errors.As(err, &over):
		return []string{over.Error()}
	case f.words != "":
		return []string{f.words}
	case errors.As(err, &own):
		return own.words
	case f.err == delivery.ErrUnavailable && errors.As(err, &store):
		return []string{store.Condition.Reason()}
	default:
		return []string{f.err.Error()}
	}
}

// worded is an error with words for the caller.
type worded struct {
	err   error
	words []string
}

// Error joins the words.
func (w *worded) Error() string { return strings.Join(w.words, "; ") }

// Unwrap returns the error that decides the status.
func (w *worded) Unwrap() error { return w.err }

// say returns err with words for the caller.
func say(err error, words ...string) error { return &worded{err: err, words: words} }

// body is the error on the wire.
func (e envelope) body(words []string, requestID string) any {
	switch e {
	case oneMessage:
		return map[string]any{"error": map[string]any{"message": strings.Join(words, "; ")}, "requestId": requestID}
	case unauthorized:
		return map[string]any{"error": map[string]any{"message": strings.Join(words, "; "), "requestId": requestID}}
	case failStatus:
		return map[string]any{"status": "fail", "message": strings.Join(words, "; ")}
	case nothing:
		return struct{}{}
	case plainErrors:
		return map[string]any{"errors": words, "requestId": requestID}
	default:
		return map[string]any{"error": map[string]any{"messages": words}, "requestId": requestID}
	}
}
