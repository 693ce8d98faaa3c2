package delivery

import (
	"bytes"
	"encoding/json"
	"sort"

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
	edits := make([]edit, 0, 4)
	bot, err := jsontext.AppendQuote(nil, r.AppID)
	if err != nil {
		return nil, err
	}
	if ev.botID.given() {
		edits = append(edits, edit{ev.botID, bot})
	} else {
		edits = append(edits, edit{span{ev.coordinate, ev.coordinate}, append(append([]byte(`"botId":`), bot...), ',')})
	}
	set := func(name string, at span, value []byte) {
		if at.given() {
			edits = append(edits, edit{at, value})
			return
		}
		text := make([]byte, 0, len(name)+len(value)+4)
		text = append(append(append(text, ',', '"'), name...), '"', ':')
		edits = append(edits, edit{span{ev.end, ev.end}, append(text, value...)})
	}
	if len(r.Metadata) > 0 {
		set("metadata", ev.metadata, r.Metadata)
	}
	set("health", ev.health, healthValue(state, c))
	if owner != nil {
		value, err := json.Marshal(owner)
		if err != nil {
			return nil, err
		}
		set("owner", ev.ownerAt, value)
	}
	return apply(ev.body, edits), nil
}

func healthValue(state health.State, c health.Counts) []byte {
	b := make([]byte, 0, 72)
	b = append(append(b, `{"status":"`...), state...)
	b = appendInt(append(b, `","failureCount":`...), c.Failed)
	b = appendInt(append(b, `,"successCount":`...), c.Acknowledged)
	return append(b, '}')
}

// apply carries out edits that do not overlap; insertions at one place keep their order.
func apply(body []byte, edits []edit) []byte {
	sort.SliceStable(edits, func(i, j int) bool { return edits[i].at.from < edits[j].at.from })
	size := len(body)
	for _, e := range edits {
		size += len(e.text)
	}
	out := bytes.NewBuffer(make([]byte, 0, size))
	last := int64(0)
	for _, e := range edits {
		out.Write(body[last:e.at.from])
		out.Write(e.text)
		last = e.at.to
	}
	out.Write(body[last:])
	return out.Bytes()
}
