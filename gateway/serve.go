package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/pulsegate/pulsegate/delivery"
)

// requestIDHeader is on every answer.
const requestIDHeader = "x-amzn-RequestId"

// call is one request as a handler sees it.
type call struct {
	bearer           // of its token
	admin     string // the administrator who makes it, if it is not made with a token
	requestID string
	path      string
	method    string
	header    http.Header
	query     url.Values
	body      []byte
	param     func(string) string // as sent; use value
}

// answer is what a handler returns when all went well, or as well as it could.
type answer struct {
	status int
	data   any         // nil: none
	bare   bool        // data is the whole body, request id and all; else it stands under "data"
	header http.Header // further headers
	text   []byte      // the whole body, when it is not JSON

	stream func(ctx context.Context, s *stream) error // writes data, row by row, when it may be too much to be held; nil: it is not
}

// serve answers one request: it gives it an id, reads it, asks the route's handler, writes what came of it, and counts it. It is the
// only place that touches a ResponseWriter.
func (g *Gateway) serve(w http.ResponseWriter, req *http.Request, r Route, param func(string) string) {
	began := time.Now()
	c := &call{requestID: uuid.Must(uuid.NewV7()).String(), path: req.URL.Path, method: req.Method, header: req.Header, param: param}
	a, err := g.ask(w, req, r, c)
	if err != nil {
		a = g.refuse(err, r, c)
	}
	if g.draining.Load() {
		w.Header().Set("Connection", "close")
	}
	status := 0
	if a.stream != nil {
		status = g.writeStream(w, req, a, r, c)
	} else {
		status = write(w, a, c.requestID)
	}
	g.metrics.meters[r.Name].note(status, time.Since(began))
}

// ask runs the handler of r for a request whose token and body are good. A panic becomes an error.
func (g *Gateway) ask(w http.ResponseWriter, req *http.Request, r Route, c *call) (a answer, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicked{kind: fmt.Sprintf("%T", p), stack: debug.Stack()}
		}
	}()
	if err := g.admit(req, r, c); err != nil {
		return answer{}, err
	}
	if c.query, err = url.ParseQuery(req.URL.RawQuery); err != nil {
		return answer{}, say(errBad, "The query is not well formed")
	}
	if len(r.Scopes) > 0 && (req.Method == http.MethodPost || req.Method == http.MethodPut) { // of a stranger nothing is read
		in := &body{ReadCloser: req.Body, of: &g.bodies}
		defer func() { g.bodies.give(in.held) }() // what a lane still holds of it is bounded there
		if c.body, err = readBody(w, req, in); err != nil {
			return answer{}, err
		}
	}
	ctx, cancel := context.WithTimeout(req.Context(), g.limit(r))
	defer cancel()
	return r.handle(g, ctx, c)
}

// admit checks who makes a request, whether the route is open to it, and whether it has not asked for too much.
func (g *Gateway) admit(req *http.Request, r Route, c *call) error {
	if len(r.Scopes) == 0 {
		return nil
	}
	if r.byPassword() {
		return g.admitAdministrator(req, c)
	}
	kind, token, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	if !strings.EqualFold(kind, "Bearer") {
		return errUnauthorized
	}
	now := g.now()
	b, err := g.bearerOf(strings.TrimSpace(token), now)
	if err != nil {
		return errUnauthorized
	}
	if g.Access != nil {
		switch err := g.Access.admits(b.name, now); {
		case errors.Is(err, ErrToken):
			return errUnauthorized
		case err != nil:
			return err
		}
		if over := g.Access.rates.take(req.Context(), b.name); over != nil {
			return over
		}
	}
	c.bearer = b
	if slices.Contains(r.Scopes, b.Scope) {
		return nil
	}
	return errForbidden
}

// bearerOf is who has a token, which is ours or the other issuer's: each is held against the keys and the algorithms of its own side only.
func (g *Gateway) bearerOf(token string, now time.Time) (bearer, error) {
	b, err := g.Tokens.verify(token, now)
	if err != nil && g.Issuer != nil {
		return g.Issuer.verify(token, now)
	}
	return b, err
}

// now is the store's time.
func (g *Gateway) now() time.Time { return g.Carrier.Outbox().Now() }

// readBody reads the whole body, at most bodyLimit bytes.
func readBody(w http.ResponseWriter, req *http.Request, in *body) ([]byte, error) {
	switch {
	case req.ContentLength > bodyLimit:
		return nil, errTooLarge
	case !in.of.fits(req.ContentLength):
		return nil, errBusy
	}
	var b bytes.Buffer
	b.Grow(int(min(max(req.ContentLength, 0), 64<<10)) + bytes.MinRead) // no more: the length is only a promise
	_, err := b.ReadFrom(http.MaxBytesReader(w, in, bodyLimit))
	var large *http.MaxBytesError
	switch {
	case err == nil:
		return b.Bytes(), nil
	case errors.As(err, &large):
		return nil, errTooLarge
	case errors.Is(err, errBusy):
		return nil, errBusy
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, errSlow
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return nil, say(errBad, "The body ended too early")
	default:
		return nil, say(errBad, "The body could not be read")
	}
}

// panicked is a panic of a handler. Its value is not kept: it might hold a payload.
type panicked struct {
	kind  string
	stack []byte
}

// Error names the type of the value.
func (p *panicked) Error() string { return "panic with a " + p.kind }

// refuse turns an error into its answer. Only what is our own fault is logged: callers read of theirs in the answer.
func (g *Gateway) refuse(err error, r Route, c *call) answer {
	f, words := faultFor(err, r.in)
	a := answer{status: f.status, data: f.envelope.body(words, c.requestID), bare: true, header: http.Header{}}
	var p *panicked
	switch {
	case errors.As(err, &p):
		g.Log.Error("request panicked", "route", r.Name, "requestId", c.requestID, "panic", p.kind, "stack", string(p.stack))
	case f.status == http.StatusInternalServerError:
		g.Log.Error("request failed", "route", r.Name, "requestId", c.requestID, "err", err)
	}
	var over *limited
	switch {
	case errors.As(err, &over):
		a.header.Set("Retry-After", strconv.FormatInt(over.seconds(), 10))
	case f.status == http.StatusServiceUnavailable:
		a.header.Set("Retry-After", "1")
	case f.status == http.StatusUnauthorized && r.byPassword():
		a.header.Set("WWW-Authenticate", `Basic realm="pulsegate", charset="UTF-8"`)
	case f.status == http.StatusUnauthorized:
		a.header.Set("WWW-Authenticate", "Bearer")
	}
	return a
}

// write puts an answer on the wire, with the request id in its header, and returns its status.
func write(w http.ResponseWriter, a answer, requestID string) int {
	h := w.Header()
	maps.Copy(h, a.header)
	v := [...]string{requestID, "nosniff", "no-store", "application/json; charset=utf-8", ""} // the headers' values, in one piece
	h["X-Amzn-Requestid"], h["X-Content-Type-Options"], h["Cache-Control"] = v[0:1:1], v[1:2:2], v[2:3:3]
	if a.status == http.StatusNoContent {
		w.WriteHeader(a.status)
		return a.status
	}
	status, body := encode(a, requestID)
	if a.text != nil {
		v[3], body = a.header.Get("Content-Type"), a.text
	}
	v[4] = strconv.Itoa(len(body))
	h["Content-Type"], h["Content-Length"] = v[3:4:4], v[4:5:5]
	w.WriteHeader(status)
	_, _ = w.Write(body) // a caller that has gone has no use for the error
	return status
}

// encode is the status and the body of an answer.
func encode(a answer, requestID string) (int, []byte) {
	if list, ok := a.data.(receiptList); ok && !a.bare {
		return a.status, list.append(make([]byte, 0, 64+128*len(list)), requestID)
	}
	var data any = struct {
		Data      any    `json:"data,omitempty"`
		RequestID string `json:"requestId"`
	}{a.data, requestID}
	if a.bare {
		data = a.data
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(data); err != nil {
		return http.StatusInternalServerError, []byte(`{"error":{"messages":["Internal error"]},"requestId":"` + requestID + `"}`)
	}
	return a.status, bytes.TrimRight(b.Bytes(), "\n")
}

// valueLimit is how long an id in a path may be, in bytes.
const valueLimit = 512

// value is a part of the path, unescaped once. It is refused when it could not be the id of anything.
func (c *call) value(name string) (string, error) {
	v, err := url.PathUnescape(c.param(name))
	if err != nil || v == "" || len(v) > valueLimit || !utf8.ValidString(v) || name != "*" && strings.ContainsFunc(v, unicode.IsControl) {
		if name == "*" {
			name = "author"
		}
		return "", say(errBad, "Invalid "+name)
	}
	return v, nil
}

// values are several parts of the path, in order.
func (c *call) values(names ...string) ([]string, error) {
	all := make([]string, len(names))
	for i, name := range names {
		v, err := c.value(name)
		if err != nil {
			return nil, err
		}
		all[i] = v
	}
	return all, nil
}

// entity is the entity that the path names, in the company of the token.
func (c *call) entity() (delivery.Entity, error) {
	v, err := c.values("networkKey", "externalId")
	if err != nil {
		return delivery.Entity{}, err
	}
	return delivery.Entity{CompanyKey: c.CompanyKey, NetworkKey: v[0], ExternalID: v[1]}, nil
}

// regID is the registration that the path names, in the company of the token.
func (c *call) regID() (delivery.RegID, error) {
	e, err := c.entity()
	if err != nil {
		return delivery.RegID{}, err
	}
	app, err := c.value("appId")
	return delivery.RegID{Entity: e, AppID: app}, err
}

// may is nil when the token reaches the app: a bot's reaches its own only.
func (c *call) may(appID string) error {
	if c.Scope == ScopeBot && c.AppID != appID {
		return say(errForbidden, "This token is for another bot")
	}
	return nil
}
