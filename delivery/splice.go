package delivery

import (
	"cmp"
	"slices"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/pulsegate/pulsegate/health"
)

// edit replaces a stretch of the event's bytes; an insertion has an empty stretch.
type edit struct {
	at   span
	text []byte
}

// splice returns the event as the registration's bot gets it: the bytes as they came, with the fields set that are the gateway's.
func (ev *event) splice(r *Registration, state health.State, c health.Counts, owner *Owner) ([]byte, error) {
	var room [4]edit
	edits, text := room[:0], make([]byte, 0, 256)
	add := func(at span, from int) { edits = append(edits, edit{at, text[from:len(text):len(text)]}) }
	// set begins a field that follows the others, or replaces the value of one that is there.
	set := func(name string, at span) (span, int) {
		from := len(text)
		if at.given() {
			return at, from
		}
		text = append(append(append(text, ',', '"'), name...), '"', ':')
		return span{ev.end, ev.end}, from
	}
	at, from := ev.botID, 0
	var err error
	if !at.given() {
		at, text = span{ev.coordinate, ev.coordinate}, append(text, `"botId":`...)
	}
	if text, err = jsontext.AppendQuote(text, r.AppID); err != nil {
		return nil, err
	}
	if !ev.botID.given() {
		text = append(text, ',')
	}
	add(at, from)
	switch {
	case len(r.Metadata) > 0:
		at, from = set("metadata", ev.metadata)
		text = append(text, r.Metadata...)
		add(at, from)
	case ev.metadata.given(): // a bot takes it for its own registration's, so the source's may not stand there
		from = len(text)
		text = append(text, '{', '}')
		add(ev.metadata, from)
	}
	at, from = set("health", ev.health)
	text = appendHealth(text, state, c)
	add(at, from)
	if owner != nil {
		at, from = set("owner", ev.ownerAt)
		if text, err = owner.appendTo(text); err != nil {
			return nil, err
		}
		add(at, from)
	}
	return apply(ev.body, edits), nil
}

func appendHealth(b []byte, state health.State, c health.Counts) []byte {
	b = append(append(b, `{"status":"`...), state...)
	b = appendInt(append(b, `","failureCount":`...), c.Failed)
	b = appendInt(append(b, `,"successCount":`...), c.Acknowledged)
	return append(b, '}')
}

// appendTo writes the owner as a bot reads it.
func (o *Owner) appendTo(b []byte) (out []byte, err error) {
	if b, err = jsontext.AppendQuote(append(b, `{"type":`...), string(o.Type)); err != nil {
		return nil, err
	}
	if o.AppID != "" {
		if b, err = jsontext.AppendQuote(append(b, `,"appId":`...), o.AppID); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

// apply carries out edits that do not overlap; insertions at one place keep their order.
func apply(body []byte, edits []edit) []byte {
	slices.SortStableFunc(edits, func(a, b edit) int { return cmp.Compare(a.at.from, b.at.from) })
	size := len(body)
	for _, e := range edits {
		size += len(e.text)
	}
	out, last := make([]byte, 0, size), int64(0)
	for _, e := range edits {
		out = append(append(out, body[last:e.at.from]...), e.text...)
		last = e.at.to
	}
	return append(out, body[last:]...)
}
