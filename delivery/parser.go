package delivery

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Parser reads the envelopes of events. Its zero value is ready; it keeps what one reading leaves for the next. Safe for concurrent use.
type Parser struct{ readers sync.Pool }

// Parse reads one event, which must be one strict JSON value without anything behind it, and gives it the caller's key. Its errors are
// *EventError. The event keeps body.
func (p *Parser) Parse(body []byte, key string) (Incoming, error) {
	ev, err := p.parse(body)
	return Incoming{Body: body, Key: key, event: ev}, err
}

func (p *Parser) parse(body []byte) (*event, error) {
	if len(body) > MaxEventBytes {
		return nil, &EventError{Field: "event", Problem: fmt.Sprintf("may not be larger than %d bytes", MaxEventBytes)}
	}
	r, ok := p.readers.Get().(*reader)
	if !ok {
		r = &reader{dec: new(jsontext.Decoder)}
	}
	return p.use(r, body)
}

// use reads with a reader. A panic is our own fault, and costs one event and one reader, not the process.
func (p *Parser) use(r *reader, body []byte) (ev *event, err error) {
	defer func() {
		if fault := recover(); fault != nil {
			ev, err = nil, fmt.Errorf("parse event: panic with a %T", fault)
		}
	}()
	ev, err = r.read(body)
	p.readers.Put(r)
	return ev, err
}

// reader walks the tokens of one event. It may be used again for the next.
type reader struct {
	dec        *jsontext.Decoder
	source     bytes.Buffer // what dec reads, in place
	ev         *event
	typ        string
	op         string
	normalized string // stands in for the author of an event that is not a message

	ownerFault error

	opened int64 // just after the brace of the object that was entered last
}

// read reads one event. Nothing of it stays in the reader.
func (r *reader) read(body []byte) (*event, error) {
	*r = reader{dec: r.dec, source: *bytes.NewBuffer(body), ev: &event{body: body}}
	ev := r.ev
	defer func() { r.ev, r.source, r.ownerFault = nil, bytes.Buffer{}, nil }()
	r.dec.Reset(&r.source)
	if err := r.object("event", (*reader).top); err != nil {
		return nil, err
	}
	ev.end = r.dec.InputOffset() - 1
	if _, err := r.dec.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, &EventError{Field: "event", Problem: fmt.Sprintf("has trailing data after byte %d", ev.end+1), Malformed: true}
	}
	return ev, r.check()
}

// object walks one object and calls field for each member, which must consume the value.
func (r *reader) object(name string, field func(r *reader, name []byte) error) error {
	if k := r.dec.PeekKind(); k != '{' && k != 0 {
		return &EventError{Field: name, Problem: "must be a JSON object", Malformed: name == "event"}
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return r.malformed(err)
	}
	r.opened = r.dec.InputOffset()
	for r.dec.PeekKind() == '"' {
		quoted, err := r.dec.ReadValue()
		if err != nil {
			return r.malformed(err)
		}
		key, err := unquoted(quoted)
		if err != nil {
			return r.malformed(err)
		}
		if err := field(r, key); err != nil {
			return err
		}
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return r.malformed(err)
	}
	return nil
}

// unquoted is the text of a JSON string; where nothing is escaped, it is a part of v.
func unquoted(v jsontext.Value) ([]byte, error) {
	if bytes.IndexByte(v, '\\') < 0 {
		return v[1 : len(v)-1], nil
	}
	return jsontext.AppendUnquote(nil, v)
}

func (r *reader) malformed(err error) error {
	problem := fmt.Sprintf("is not valid JSON near byte %d", r.dec.InputOffset())
	if errors.Is(err, jsontext.ErrDuplicateName) {
		problem = fmt.Sprintf("has a duplicate key near byte %d", r.dec.InputOffset())
	}
	return &EventError{Field: "event", Problem: problem, Malformed: true}
}

// value skips a value and returns where it stands.
func (r *reader) value() (span, jsontext.Value, error) {
	v, err := r.dec.ReadValue()
	if err != nil {
		return span{}, nil, r.malformed(err)
	}
	end := r.dec.InputOffset()
	return span{end - int64(len(v)), end}, v, nil
}

func (r *reader) text(field string, into *string) error {
	_, v, err := r.value()
	if err != nil {
		return err
	}
	switch v.Kind() {
	case 'n':
	case '"':
		b, err := unquoted(v)
		if err != nil {
			return r.malformed(err)
		}
		*into = string(b)
	default:
		return &EventError{Field: field, Problem: "must be a string"}
	}
	return nil
}

func (r *reader) boolean(field string, into *bool) error {
	_, v, err := r.value()
	if err != nil {
		return err
	}
	switch v.Kind() {
	case 't', 'f', 'n':
		*into = v.Kind() == 't'
		return nil
	}
	return &EventError{Field: field, Problem: "must be true or false"}
}

// A number below is in seconds by mistake; one above is beyond the year 9999.
const (
	firstMoment = 100_000_000_000
	lastMoment  = 253_402_300_799_999
)

// moment reads a time: epoch milliseconds, or a text as RFC 3339 has it. The empty text and null are none.
func (r *reader) moment(field string, into *int64) error {
	_, v, err := r.value()
	if err != nil {
		return err
	}
	var ms int64
	switch v.Kind() {
	case 'n':
		return nil
	case '0':
		ms, err = strconv.ParseInt(string(v), 10, 64)
	case '"':
		var text []byte
		if text, err = unquoted(v); err == nil && len(text) == 0 {
			return nil
		}
		var at time.Time
		if at, err = time.Parse(time.RFC3339, string(text)); err == nil {
			ms = at.UnixMilli()
		}
	default:
		return &EventError{Field: field, Problem: momentProblem}
	}
	switch {
	case err != nil:
		return &EventError{Field: field, Problem: momentProblem}
	case ms < firstMoment:
		return &EventError{Field: field, Problem: "is before 1973: write milliseconds, not seconds"}
	case ms > lastMoment:
		return &EventError{Field: field, Problem: "is after the year 9999"}
	}
	*into = ms
	return nil
}

const momentProblem = "must be a time: epoch milliseconds, or a text like 2026-01-31T12:00:00Z"

func (r *reader) integers(field string, into *[]int64) error {
	_, v, err := r.value()
	if err != nil || v.Kind() == 'n' {
		return err
	}
	dec := jsontext.NewDecoder(bytes.NewReader(v))
	if tok, err := dec.ReadToken(); err != nil || tok.Kind() != '[' {
		return &EventError{Field: field, Problem: "must be an array of integers"}
	}
	for dec.PeekKind() != ']' {
		item, err := dec.ReadValue()
		if err != nil {
			return r.malformed(err)
		}
		n, err := strconv.ParseInt(string(item), 10, 64)
		if err != nil {
			return &EventError{Field: field, Problem: "must be an array of integers"}
		}
		*into = append(*into, n)
	}
	return nil
}
