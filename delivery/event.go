package delivery

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
)

// Limits of an event. Ids longer than these would make keys that nobody can read.
const (
	MaxEventBytes  = 256 << 10
	maxIDBytes     = 256
	maxAuthorBytes = 512
)

// Incoming is one event as a source hands it in.
type Incoming struct {
	Body []byte
	Key  string // the Idempotency-Key header, made distinct within a batch by its index; the event's own id comes before it

	event *event // of Body, when a Parser has read it
}

// span is a stretch of the event's bytes; zero when the field is absent.
type span struct{ from, to int64 }

func (s span) given() bool { return s.to > 0 }

// event is the envelope of an event: what the gateway must know of it, and where the fields that it sets stand. The bytes themselves
// are never rewritten.
type event struct {
	body      []byte
	entity    Entity
	kind      byte // m message, d update that closes the conversation, c control, o other
	ownID     string
	author    string
	name      string
	messageID string
	public    bool
	targeted  bool
	tagIDs    []int64
	owner     Owner // of a control event

	botID, metadata, health, ownerAt span  // where the values stand that the gateway replaces
	coordinate, end                  int64 // just after the brace that opens coordinate; at the brace that closes the event
}

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
	defer p.readers.Put(r)
	return r.read(body)
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

func (r *reader) top(name []byte) (err error) {
	ev := r.ev
	switch string(name) {
	case "id":
		return r.text("id", &ev.ownID)
	case "type":
		return r.text("type", &r.typ)
	case "operation":
		return r.text("operation", &r.op)
	case "coordinate":
		if r.dec.PeekKind() == 'n' {
			_, _, err = r.value()
			return err
		}
		return r.object("coordinate", (*reader).inCoordinate)
	case "author":
		if r.dec.PeekKind() == 'n' {
			_, _, err = r.value()
			return err
		}
		return r.object("author", (*reader).inAuthor)
	case "metadata":
		ev.metadata, _, err = r.value()
		return err
	case "health":
		ev.health, _, err = r.value()
		return err
	case "owner":
		return r.inOwner()
	case "targeted":
		return r.boolean("targeted", &ev.targeted)
	case "sourceTagIds":
		return r.integers("sourceTagIds", &ev.tagIDs)
	}
	_, _, err = r.value()
	return err
}

func (r *reader) inCoordinate(name []byte) (err error) {
	ev := r.ev
	if ev.coordinate == 0 {
		ev.coordinate = r.opened
	}
	switch string(name) {
	case "companyKey":
		return r.text("coordinate.companyKey", &ev.entity.CompanyKey)
	case "networkKey":
		return r.text("coordinate.networkKey", &ev.entity.NetworkKey)
	case "externalId":
		return r.text("coordinate.externalId", &ev.entity.ExternalID)
	case "messageId":
		return r.text("coordinate.messageId", &ev.messageID)
	case "normalizedAuthorId":
		return r.text("coordinate.normalizedAuthorId", &r.normalized)
	case "scope":
		var scope string
		if err := r.text("coordinate.scope", &scope); err != nil {
			return err
		}
		if scope != "" && scope != "PRIVATE" && scope != "PUBLIC" {
			return &EventError{Field: "coordinate.scope", Problem: "must be PRIVATE or PUBLIC"}
		}
		ev.public = scope == "PUBLIC"
		return nil
	case "botId":
		ev.botID, _, err = r.value()
		return err
	}
	_, _, err = r.value()
	return err
}

func (r *reader) inAuthor(name []byte) error {
	switch string(name) {
	case "id":
		return r.text("author.id", &r.ev.author)
	case "fullName":
		return r.text("author.fullName", &r.ev.name)
	}
	_, _, err := r.value()
	return err
}

func (r *reader) inOwner() error {
	at, v, err := r.value()
	if err != nil {
		return err
	}
	r.ev.ownerAt = at
	if v.Kind() != '{' {
		return nil
	}
	inner := &reader{dec: jsontext.NewDecoder(bytes.NewReader(v)), ev: r.ev}
	var typ string
	err = inner.object("owner", func(inner *reader, name []byte) error {
		switch string(name) {
		case "type":
			return inner.text("owner.type", &typ)
		case "appId":
			return inner.text("owner.appId", &r.ev.owner.AppID)
		}
		_, _, err := inner.value()
		return err
	})
	r.ev.owner.Type = OwnerType(typ)
	r.ownerFault = err // of a control event only: on others the field is the gateway's, and is replaced
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

// check applies the rules on the fields, naming the first that is broken.
func (r *reader) check() error {
	ev := r.ev
	if ev.author == "" && r.typ != "message" {
		ev.author = r.normalized
	}
	for _, f := range []struct {
		name, value string
		max         int
		required    bool
	}{
		{"type", r.typ, 64, true},
		{"coordinate.companyKey", ev.entity.CompanyKey, maxIDBytes, true},
		{"coordinate.networkKey", ev.entity.NetworkKey, maxIDBytes, true},
		{"coordinate.externalId", ev.entity.ExternalID, maxIDBytes, true},
		{"author.id", ev.author, maxAuthorBytes, r.typ == "message" || r.typ == "control"},
		{"author.fullName", ev.name, 4096, false},
		{"coordinate.messageId", ev.messageID, 4096, false},
		{"id", ev.ownID, maxIDBytes, false},
	} {
		if f.required && f.value == "" {
			return &EventError{Field: f.name, Problem: "may not be empty"}
		}
		if len(f.value) > f.max {
			return &EventError{Field: f.name, Problem: fmt.Sprintf("may not be longer than %d bytes", f.max)}
		}
	}
	switch {
	case r.typ == "message":
		ev.kind = 'm'
	case r.typ == "control":
		ev.kind = 'c'
		if r.ownerFault != nil {
			return r.ownerFault
		}
		if ev.owner.Type != Bot && ev.owner.Type != Agent {
			return &EventError{Field: "owner.type", Problem: "must be AGENT or BOT"}
		}
		if ev.owner.Type == Bot && (ev.owner.AppID == "" || len(ev.owner.AppID) > maxIDBytes) {
			return &EventError{Field: "owner.appId", Problem: fmt.Sprintf("must name a bot in at most %d bytes", maxIDBytes)}
		}
		if ev.owner.Type == Agent {
			ev.owner.AppID = ""
		}
	case r.typ == "update" && r.op == "CLOSED" && ev.author != "":
		ev.kind = 'd'
	default:
		ev.kind = 'o'
	}
	return nil
}

// admitted says whether a registration with this filter gets the event.
func (ev *event) admitted(f *PublicFilter) bool {
	if !ev.public {
		return true
	}
	if f == nil {
		return false
	}
	return f.IncludeTargeted && ev.targeted || slices.ContainsFunc(ev.tagIDs, func(id int64) bool {
		return slices.Contains(f.IncludeSourceTagIDs, id)
	})
}

func (ev *event) scope() string {
	if ev.public {
		return "PUBLIC"
	}
	return "PRIVATE"
}

func (ev *event) hash() string {
	sum := sha256.Sum256(ev.body)
	return hex.EncodeToString(sum[:12])
}
