package delivery

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

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
	expires   int64 // when it is of no use any more, in epoch ms; 0: never

	botID, metadata, health, ownerAt span  // where the values stand that the gateway replaces
	coordinate, end                  int64 // just after the brace that opens coordinate; at the brace that closes the event
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
	case "expiresAt":
		return r.moment("expiresAt", &ev.expires)
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
