package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strconv"
)

// streamPiece is how much of a long answer is held before it is sent, in bytes.
const streamPiece = 64 << 10

// stream writes the rows of a long answer, of which only a piece is held at a time.
type stream struct {
	w       http.ResponseWriter
	call    *call
	pending bytes.Buffer
	encoder *json.Encoder
	sent    bool
	rows    int
	next    string // where the next page begins; "": this is the last
}

// row adds one row.
func (s *stream) row(v any) error {
	separator := byte(',')
	if s.rows == 0 {
		separator = '['
		s.pending.WriteString(`{"data":`)
	}
	s.pending.WriteByte(separator)
	if err := s.encoder.Encode(v); err != nil {
		return err
	}
	s.pending.Truncate(s.pending.Len() - 1) // the encoder ends a value with a line
	s.rows++
	if s.pending.Len() < streamPiece {
		return nil
	}
	return s.flush(false)
}

// end closes the list.
func (s *stream) end() error {
	if s.rows == 0 {
		s.pending.WriteString(`{"data":[`)
	}
	s.pending.WriteByte(']')
	if s.next != "" {
		next, err := json.Marshal(s.next)
		if err != nil {
			return err
		}
		s.pending.WriteString(`,"next":`)
		s.pending.Write(next)
	}
	s.pending.WriteString(`,"requestId":"` + s.call.requestID + `"}`)
	return s.flush(true)
}

// flush sends what is pending; last: nothing follows.
func (s *stream) flush(last bool) error {
	if !s.sent {
		s.sent = true
		h := s.w.Header()
		h.Set(requestIDHeader, s.call.requestID)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Type", "application/json; charset=utf-8")
		if last {
			h.Set("Content-Length", strconv.Itoa(s.pending.Len()))
		}
		s.w.WriteHeader(http.StatusOK)
	}
	_, err := s.w.Write(s.pending.Bytes())
	s.pending.Reset()
	return err
}

// writeStream writes an answer row by row, and returns its status. What fails before anything was sent is answered as ever; after that the
// connection is broken, so that nobody takes a part for the whole.
func (g *Gateway) writeStream(w http.ResponseWriter, req *http.Request, a answer, r Route, c *call) int {
	// The request's own context ends with its read deadline. Whoever has gone is noticed by the next piece.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(req.Context()), writeTime)
	defer cancel()
	s := &stream{w: w, call: c}
	s.encoder = json.NewEncoder(&s.pending)
	s.encoder.SetEscapeHTML(false)
	err := a.stream(ctx, s)
	if err == nil {
		err = s.end()
	}
	switch {
	case err == nil:
		return a.status
	case s.sent:
		g.Log.Warn("long answer broken off", "route", r.Name, "requestId", c.requestID, "err", err)
		panic(http.ErrAbortHandler)
	}
	return write(w, g.refuse(err, r, c), c.requestID)
}
