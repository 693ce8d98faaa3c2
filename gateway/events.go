package gateway

import (
	"bytes"
	"context"
	"encoding/json"
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
	at   int64 // where it starts in the body
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
	case bytes.IndexByte(trimmed, '\n') < 0: // the usual case; whether it is one JSON value is seen when it is parsed
		return []piece{checked(trimmed, 0)}, false, nil
	}
	end, err := firstValue(body)
	if err != nil && hasObjectLine(trimmed) {
		pieces, err = splitLines(body)
		return pieces, true, err
	}
	if err != nil {
		return []piece{{err: malformed(err, 0)}}, false, nil
	}
	rest := body[end:]
	next := bytes.TrimLeft(rest, jsonSpace)
	if len(next) == 0 {
		return []piece{checked(trimmed, 0)}, false, nil
	}
	if bytes.IndexByte(rest[:len(rest)-len(next)], '\n') >= 0 {
		pieces, err = splitLines(body)
		return pieces, true, err
	}
	fault := &jsonFault{what: "something follows the JSON value", offset: int64(len(body) - len(next))}
	return []piece{{err: malformed(fault, 0)}}, false, nil
}

// hasObjectLine tells by its lines that a body whose first value is broken has one event per line: the others are not to suffer for it.
func hasObjectLine(body []byte) bool {
	for line := range bytes.Lines(body) {
		if line[0] == '{' && checkJSON(line) == nil {
			return true
		}
	}
	return false
}

// isLines tells by its declared type that a body has one event per line.
func isLines(contentType string) bool {
	if rest, usual := strings.CutPrefix(contentType, "application/json"); usual && (rest == "" || rest[0] == ';') {
		return false
	}
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
		pieces[i] = checked(body[s[0]:s[1]], s[0])
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
		pieces = append(pieces, checked(text, start+int64(bytes.Index(line, text))))
	}
	return pieces, nil
}

// checked is the piece of text, which starts at a byte of the body, if text may be an event.
func checked(text []byte, at int64) piece {
	if len(text) > eventLimit {
		return piece{err: &delivery.EventError{Field: "event", Problem: "may not be larger than 256 KiB"}}
	}
	return piece{body: text, at: at}
}

// parse reads the envelope of a piece. What is not JSON is looked at again, to say what is wrong and where in the whole body.
func (g *Gateway) parse(p piece, key string) (delivery.Incoming, error) {
	if p.err != nil {
		return delivery.Incoming{}, p.err
	}
	if at := tooDeep(p.body); at >= 0 {
		return delivery.Incoming{}, malformed(&jsonFault{what: "nested more than 100 deep", offset: at}, p.at)
	}
	in, err := g.parser.Parse(p.body, key)
	var event *delivery.EventError
	if err == nil || !errors.As(err, &event) || !event.Malformed {
		return in, err
	}
	if fault := checkJSON(p.body); fault != nil {
		return in, malformed(fault, p.at)
	}
	return in, err
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

// receiptList is the answer to a request whose events were stored, or some of them.
type receiptList []receipt

// append writes the answer's body. Ids, fates and the request id are ours and hold nothing to escape.
func (l receiptList) append(to []byte, requestID string) []byte {
	to = append(to, `{"data":[`...)
	for i, r := range l {
		if i > 0 {
			to = append(to, ',')
		}
		if r.Error != "" {
			text, _ := json.Marshal(r) // strings and a flag: it cannot fail
			to = append(to, text...)
			continue
		}
		to = append(append(to, `{"id":"`...), r.ID...)
		to = append(append(append(to, `","fate":"`...), r.Fate...), `"}`...)
	}
	return append(append(append(to, `],"requestId":"`...), requestID...), `"}`...)
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
		own := key
		if batch && key != "" {
			own = key + "\x00" + strconv.Itoa(i) // the header itself can hold no NUL
		}
		in, err := g.parse(p, own)
		if err != nil {
			all[i].Err = err
			continue
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
		if all[i].Err == nil {
			continue
		}
		if f, _ := faultFor(all[i].Err, general); f.status == http.StatusInternalServerError {
			g.Log.Error("event was not accepted", "err", all[i].Err)
			break // one line for all of a request
		}
	}
	return all
}

// receipts is the answer to what was handed in: 202 when anything was stored, else what all refusals have in common.
func receipts(all []delivery.Receipt, requestID string) answer {
	data := make(receiptList, len(all))
	statuses := make(map[int]bool, 2)
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
