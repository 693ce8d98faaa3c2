package gateway

import (
	"bytes"
	"context"
	"errors"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/pulsegate/pulsegate/delivery"
)

const (
	eventLimit = 256 << 10 // bytes of one event
	batchLimit = 1000      // events of one request
	keyLimit   = 255       // bytes of an Idempotency-Key
)

// piece is one event of a body, byte for byte as it came, or why it is none.
type piece struct {
	body []byte
	err  error
}

// split cuts a body into its events: one object, a JSON array, or one object per line. A fault of one event is that event's
// own; an error means that the body as a whole cannot be cut. batch is false for a lone object.
func split(body []byte, contentType string) (pieces []piece, batch bool, err error) {
	trimmed := bytes.Trim(body, jsonSpace)
	switch {
	case len(trimmed) == 0:
		return nil, false, say(errBad, "The body holds no event")
	case isLines(contentType):
		pieces, err = splitLines(body)
		return pieces, true, err
	case trimmed[0] == '[':
		pieces, err = splitArray(body)
		return pieces, true, err
	}
	end, err := firstValue(body)
	if err != nil {
		return []piece{{err: malformed(err, 0)}}, false, nil
	}
	rest := body[end:]
	next := bytes.TrimLeft(rest, jsonSpace)
	if len(next) == 0 {
		return []piece{checked(trimmed)}, false, nil
	}
	if bytes.IndexByte(rest[:len(rest)-len(next)], '\n') >= 0 {
		pieces, err = splitLines(body)
		return pieces, true, err
	}
	fault := &jsonFault{what: "something follows the JSON value", offset: int64(len(body) - len(next))}
	return []piece{{err: malformed(fault, 0)}}, false, nil
}

// isLines tells by its declared type that a body has one event per line.
func isLines(contentType string) bool {
	kind, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false
	}
	switch kind {
	case "application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines":
		return true
	}
	return false
}

// splitArray cuts a JSON array.
func splitArray(body []byte) ([]piece, error) {
	spans, err := elements(body, batchLimit)
	var fault *jsonFault
	if errors.As(err, &fault) {
		return []piece{{err: malformed(fault, 0)}}, nil
	}
	if err != nil {
		return nil, err
	}
	if len(spans) == 0 {
		return nil, say(errBad, "The body holds no event")
	}
	pieces := make([]piece, len(spans))
	for i, s := range spans {
		text := body[s[0]:s[1]]
		if err := checkJSON(text); err != nil {
			pieces[i] = piece{err: malformed(err, s[0])}
			continue
		}
		pieces[i] = checked(text)
	}
	return pieces, nil
}

// splitLines cuts a body with one event per line; empty lines do not count.
func splitLines(body []byte) ([]piece, error) {
	var pieces []piece
	var at int64
	for line := range bytes.Lines(body) {
		start := at
		at += int64(len(line))
		text := bytes.Trim(line, jsonSpace)
		if len(text) == 0 {
			continue
		}
		if len(pieces) == batchLimit {
			return nil, errTooMany
		}
		if err := checkJSON(line); err != nil {
			pieces = append(pieces, piece{err: malformed(err, start)})
			continue
		}
		pieces = append(pieces, checked(text))
	}
	return pieces, nil
}

// checked is the piece of an event that is well-formed JSON.
func checked(text []byte) piece {
	switch {
	case text[0] != '{':
		return piece{err: &delivery.EventError{Field: "event", Problem: "must be a JSON object", Malformed: true}}
	case len(text) > eventLimit:
		return piece{err: &delivery.EventError{Field: "event", Problem: "may not be larger than 256 KiB"}}
	}
	return piece{body: text}
}

// malformed is the fault of an event that starts at offset start of the body.
func malformed(err error, start int64) error {
	var f *jsonFault
	if !errors.As(err, &f) {
		return err
	}
	moved := jsonFault{what: f.what, offset: f.offset + start}
	return &delivery.EventError{Field: "event", Problem: "is not valid JSON: " + moved.Error(), Malformed: true}
}

// receipt is what is answered to one event.
type receipt struct {
	ID        string        `json:"id,omitempty"`
	Fate      delivery.Fate `json:"fate,omitempty"`
	Error     string        `json:"error,omitempty"`
	Retryable *bool         `json:"retryable,omitempty"` // with an error: the same again may succeed
}

// postEvents takes one event, an array or lines of events in.
func (g *Gateway) postEvents(ctx context.Context, c *call) (answer, error) {
	pieces, batch, err := split(c.body, c.header.Get("Content-Type"))
	if err != nil {
		return answer{}, err
	}
	key, err := idempotencyKey(c.header)
	if err != nil {
		return answer{}, err
	}
	return receipts(g.accept(ctx, c.CompanyKey, pieces, key, batch), c.requestID), nil
}

// idempotencyKey is the caller's name for this request, or empty.
func idempotencyKey(h http.Header) (string, error) {
	key := strings.TrimSpace(h.Get("Idempotency-Key"))
	printable := func(r rune) bool { return r < ' ' || r > '~' }
	if len(key) > keyLimit || strings.ContainsFunc(key, printable) {
		return "", say(errBad, "Idempotency-Key must be at most 255 printable ASCII characters")
	}
	return key, nil
}

// accept hands the good pieces to the carrier and returns one receipt per piece, in order.
func (g *Gateway) accept(ctx context.Context, company string, pieces []piece, key string, batch bool) []delivery.Receipt {
	all := make([]delivery.Receipt, len(pieces))
	good := make([]delivery.Incoming, 0, len(pieces))
	places := make([]int, 0, len(pieces))
	for i, p := range pieces {
		if p.err != nil {
			all[i].Err = p.err
			continue
		}
		in := delivery.Incoming{Body: p.body, Key: key}
		if batch && key != "" {
			in.Key = key + "\x00" + strconv.Itoa(i) // the header itself can hold no NUL
		}
		good, places = append(good, in), append(places, i)
		all[i].Err = errNoReceipt // until there is one: only what is known to be stored is answered as stored
	}
	if len(good) == 0 {
		return all // the carrier has nothing to do
	}
	for i, r := range g.Carrier.Accept(ctx, company, good) {
		all[places[i]] = r
	}
	for _, i := range places {
		if f, _ := faultFor(all[i].Err, general); all[i].Err != nil && f.status == http.StatusInternalServerError {
			g.Log.Error("event was not accepted", "err", all[i].Err)
			break // one line for all of a request
		}
	}
	return all
}

// receipts is the answer to what was handed in: 202 when anything was stored, else what all refusals have in common.
func receipts(all []delivery.Receipt, requestID string) answer {
	data := make([]receipt, len(all))
	statuses := map[int]bool{}
	var words []string
	for i, r := range all {
		if r.Err == nil {
			statuses[http.StatusAccepted] = true
			data[i] = receipt{ID: r.ID, Fate: r.Fate}
			continue
		}
		f, w := faultFor(r.Err, general)
		statuses[f.status] = true
		retryable := f.status >= http.StatusInternalServerError
		data[i] = receipt{Error: strings.Join(w, "; "), Retryable: &retryable}
		if len(words) == 0 || words[len(words)-1] != data[i].Error {
			words = append(words, data[i].Error)
		}
	}
	a := answer{status: overall(statuses), data: data}
	if a.status == http.StatusAccepted {
		return a
	}
	a.header, a.bare = http.Header{}, true
	if a.status == http.StatusServiceUnavailable {
		a.header.Set("Retry-After", "1")
	}
	a.data = map[string]any{"error": map[string]any{"messages": words}, "data": data, "requestId": requestID}
	return a
}

// overall is the status of an answer to several events: the first of these that any of them has.
func overall(statuses map[int]bool) int {
	for _, s := range []int{
		http.StatusAccepted, http.StatusServiceUnavailable, http.StatusInternalServerError,
		http.StatusBadRequest, http.StatusUnprocessableEntity,
	} {
		if statuses[s] {
			return s
		}
	}
	return http.StatusNotFound
}

// fateOf is what became of an event at one registration.
type fateOf struct {
	RequestID   string                `json:"requestId"`
	NetworkKey  string                `json:"networkKey"`
	ExternalID  string                `json:"externalId"`
	AppID       string                `json:"appId"`
	Fate        delivery.Fate         `json:"fate"`
	State       delivery.RequestState `json:"state"`
	Tries       int                   `json:"tries"`
	Handoff     delivery.HandoffKind  `json:"handoff,omitempty"`
	Created     int64                 `json:"createdEpochMillis"`
	Completed   int64                 `json:"completedEpochMillis,omitempty"`
	LastUpdated int64                 `json:"lastUpdatedEpochMillis,omitempty"`
}

// getEvent tells what became of an event, one row per registration that it went to.
func (g *Gateway) getEvent(ctx context.Context, c *call) (answer, error) {
	id, err := c.value("id")
	if err != nil {
		return answer{}, err
	}
	records, err := g.Carrier.EventRecords(ctx, c.CompanyKey, id)
	if err != nil {
		return answer{}, unknown(err, id+" not found")
	}
	rows := make([]fateOf, len(records))
	for i, r := range records {
		rows[i] = fateOf{
			RequestID: r.ID, NetworkKey: r.Reg.NetworkKey, ExternalID: r.Reg.ExternalID, AppID: r.Reg.AppID,
			Fate: r.Fate, State: r.State, Tries: r.Tries, Handoff: r.Handoff,
			Created: millis(r.Created), Completed: millis(r.Completed), LastUpdated: millis(r.LastUpdated),
		}
	}
	return answer{status: http.StatusOK, data: rows}, nil
}
