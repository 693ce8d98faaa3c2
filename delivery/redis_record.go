package delivery

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
)

const (
	recordPage  = 100
	payloadPage = 32        // records that are read at once with their payloads: at most 8 MiB
	listPayload = 16 << 20  // bytes of payloads in one list; who wants the others reads their records one by one
	recordSlack = time.Hour // how far a gateway's idea of the store's clock may be off when it made an id
)

// Record returns one request record by its id; ErrNotFound when there is none, or it is another company's.
func (c *Carrier) Record(ctx context.Context, company, id string) (Record, error) {
	p, ok := parseID(id)
	if !ok || p.kind != 'r' {
		return Record{}, ErrNotFound
	}
	member, err := c.store.named(ctx, p)
	if err != nil {
		return Record{}, err
	}
	reg, err := parseMember(member)
	if err != nil || reg.CompanyKey != company {
		return Record{}, ErrNotFound
	}
	return c.findRecord(ctx, reg, p)
}

// findRecord looks for the record of a delivery. Where one goes that still waits is where its registration has its bot now.
func (c *Carrier) findRecord(ctx context.Context, reg RegID, p parsedID) (Record, error) {
	r, err := c.store.findRecord(ctx, reg, p)
	if err != nil || r.State != RequestPending {
		return r, err
	}
	v, err := c.freshView(ctx, reg.Entity)
	if err != nil {
		return Record{}, err
	}
	if now := v.find(reg.AppID); now != nil {
		r.CallbackURL = now.CallbackURL
	}
	return r, nil
}

// EventRecords returns a record for each registration that an event went to, and for each time that it was delivered once more; ErrNotFound
// when there is none.
func (c *Carrier) EventRecords(ctx context.Context, company, eventID string) ([]Record, error) {
	p, ok := parseID(eventID)
	if !ok || p.kind != 'e' {
		return nil, ErrNotFound
	}
	member, err := c.store.named(ctx, p)
	if err != nil {
		return nil, err
	}
	id, err := parseMember(member + ":")
	if err != nil || id.CompanyKey != company {
		return nil, ErrNotFound
	}
	v, err := c.freshView(ctx, id.Entity)
	if err != nil {
		return nil, err
	}
	apps := slices.Clone(v.gone)
	for _, r := range v.regs {
		apps = append(apps, r.AppID)
	}
	slices.Sort(apps)
	again, err := c.store.madeAgain(ctx, id.Entity, p)
	if err != nil {
		return nil, err
	}
	var places []place
	for _, app := range slices.Compact(apps) {
		places = append(places, place{RegID{id.Entity, app}, p})
	}
	var out []Record
	for _, at := range append(places, again...) {
		r, err := c.findRecord(ctx, at.reg, at.id)
		if err == nil {
			out = append(out, r)
		} else if err != ErrNotFound {
			return nil, err
		}
	}
	if len(out) == 0 {
		return nil, ErrNotFound
	}
	return out, nil
}

// place is where the record of a delivery lies.
type place struct {
	reg RegID
	id  parsedID
}

// madeAgain names the deliveries that were made once more of an event, oldest first.
func (s *store) madeAgain(ctx context.Context, e Entity, p parsedID) ([]place, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	s.trips.Add(1)
	list, err := s.client.LRange(ctx, e.againKey(p.part), 0, -1).Result()
	if err != nil {
		return nil, unavailable("read records", err)
	}
	var places []place
	for _, item := range list {
		part, app, _ := strings.Cut(item, " ")
		if again, ok := p.of(part); ok {
			places = append(places, place{RegID{e, app}, again})
		}
	}
	return places, nil
}

// NewCallID makes a request id for a call by a bot.
func (c *Carrier) NewCallID(id RegID) string {
	return id.requestPrefix() + newPart(c.store.now().UnixMilli())
}

// NoteCall stores the record of a call by a bot, and returns it as stored.
func (c *Carrier) NoteCall(ctx context.Context, r Record) (Record, error) {
	if r.ID == "" {
		r.ID = c.NewCallID(r.Reg)
	}
	r.Origin = OriginBot
	p, ok := parseID(r.ID)
	if !ok {
		return r, fmt.Errorf("note call: request id %q is not one of ours", r.ID)
	}
	now := c.store.now()
	if r.Created.IsZero() {
		r.Created = now
	}
	r.Completed, r.LastUpdated = now, now
	return r, c.store.noteCall(ctx, r, p.part)
}

func (s *store) noteCall(ctx context.Context, r Record, part string) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	s.trips.Add(1)
	p := s.client.Pipeline()
	key, message := r.Reg.okLogKey(), clip(r.Message, maxMessageBytes)
	if r.State == RequestError {
		key = r.Reg.errLogKey()
		values := []any{"i", part, "f", "", "c", "", "o", r.Code, "m", message, "a", r.Created.UnixMilli(), "h", string(r.Handoff), "g", OriginBot, "p", r.Payload, "e", "1", "u", r.CallbackURL, "t", r.Tries, "l", r.Latency.Milliseconds()}
		p.XAdd(ctx, &redis.XAddArgs{Stream: key, MaxLen: s.keep.failures, Values: values})
	} else {
		done, created := strconv.FormatInt(r.Completed.UnixMilli(), 10), strconv.FormatInt(r.Created.UnixMilli(), 10)
		p.LPush(ctx, key, strings.Join([]string{
			done, "0", part, "", "", r.Code, strconv.Itoa(r.Tries), strconv.FormatInt(r.Latency.Milliseconds(), 10), created, string(r.Handoff), OriginBot, "", r.CallbackURL, message,
		}, "\n"))
		p.LTrim(ctx, key, 0, s.keep.successes-1)
	}
	p.PExpire(ctx, key, recordTime)
	if _, err := p.Exec(ctx); err != nil {
		return unavailable("note call", err)
	}
	return nil
}

// okRecord reads one line of the log of what needs no attention; false for what is none.
func okRecord(reg RegID, line string) (Record, bool) {
	f := strings.SplitN(line, "\n", 14)
	if len(f) < 14 {
		return Record{}, false
	}
	done := time.UnixMilli(toInt(f[0]))
	r := Record{
		ID: reg.requestPrefix() + f[2], EventID: reg.eventPrefix() + cmp.Or(f[11], f[2]), Reg: reg, Origin: OriginGateway, State: RequestSuccess,
		Fate: Fate(f[3]), Class: health.Class(f[4]), Code: f[5], Tries: int(toInt(f[6])), Latency: time.Duration(toInt(f[7])) * time.Millisecond,
		Created: time.UnixMilli(toInt(f[8])), Completed: done, LastUpdated: done, Handoff: HandoffKind(f[9]), CallbackURL: f[12], Message: f[13],
	}
	if f[10] == OriginBot {
		r.Origin, r.EventID = OriginBot, ""
	}
	return r, true
}

// okRecords reads the log of what needs no attention, newest first, until want says that it is enough.
func (s *store) okRecords(ctx context.Context, reg RegID, want func(Record) bool) error {
	for from := int64(0); ; from += recordPage {
		ctx, cancel := context.WithTimeout(ctx, storeTimeout)
		s.trips.Add(1)
		lines, err := s.client.LRange(ctx, reg.okLogKey(), from, from+recordPage-1).Result()
		cancel()
		if err != nil {
			return unavailable("read records", err)
		}
		for _, line := range lines {
			if r, ok := okRecord(reg, line); ok && !want(r) {
				return nil
			}
		}
		if len(lines) < recordPage {
			return nil
		}
	}
}

// named returns the registration or entity whose digest an id holds.
func (s *store) named(ctx context.Context, p parsedID) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	s.trips.Add(1)
	member, err := s.client.HGet(ctx, hashesKey(p.shard), p.digest).Result()
	if err == redis.Nil {
		return "", ErrNotFound
	}
	if err != nil {
		return "", unavailable("look up id", err)
	}
	return member, nil
}

// findRecord looks for a delivery in the queue and in the logs, from the time in its id on.
func (s *store) findRecord(ctx context.Context, reg RegID, p parsedID) (Record, error) {
	from := max(0, p.ms-recordSlack.Milliseconds())
	for _, key := range []string{reg.queueKey(), reg.errLogKey()} {
		if key == reg.errLogKey() {
			from = max(from, s.now().Add(-recordMost).UnixMilli()) // what is older goes by and by
		}
		for next := strconv.FormatInt(from, 10); next != ""; {
			page, err := s.page(ctx, key, next)
			if err != nil {
				return Record{}, err
			}
			for _, m := range page {
				queued := key == reg.queueKey()
				if part := toText(m.Values["i"]); part == p.part || queued && part != "" && part[1:] == p.part {
					return recordOf(reg, m, queued), nil
				}
			}
			next = ""
			if len(page) == payloadPage {
				next = "(" + page[len(page)-1].ID
			}
		}
	}
	found, id := Record{}, reg.requestPrefix()+p.part
	err := s.okRecords(ctx, reg, func(r Record) bool {
		if r.ID == id {
			found = r
		}
		return found.ID == ""
	})
	if err == nil && found.ID == "" {
		err = ErrNotFound
	}
	return found, err
}

func (s *store) page(ctx context.Context, key, from string) ([]redis.XMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	s.trips.Add(1)
	page, err := s.client.XRangeN(ctx, key, from, "+", payloadPage).Result()
	if err != nil {
		return nil, unavailable("read records", err)
	}
	return page, nil
}

// recordOf reads one stream entry. Its own id is when it was written: accepted, for one in the queue; completed, for one in a log.
func recordOf(reg RegID, m redis.XMessage, pending bool) Record {
	get := func(name string) string { return toText(m.Values[name]) }
	part := get("i")
	if pending && part != "" {
		part = part[1:] // after the kind
	}
	ms, _, _ := strings.Cut(m.ID, "-")
	at := time.UnixMilli(toInt(ms))
	r := Record{
		ID: reg.requestPrefix() + part, EventID: reg.eventPrefix() + cmp.Or(get("w"), part), Reg: reg, Origin: OriginGateway, Created: at, LastUpdated: at,
		CallbackURL: get("u"), Fate: Fate(get("f")), Class: health.Class(get("c")), Code: get("o"), Message: get("m"),
		Tries: int(toInt(get("t"))), Latency: time.Duration(toInt(get("l"))) * time.Millisecond, Handoff: HandoffKind(get("h")),
	}
	if pending {
		r.State, r.Fate, r.Payload = RequestPending, Queued, []byte(get("b"))
		return r
	}
	if r.Message == "" {
		r.Message = r.Fate.words()
	}
	if ms := toInt(get("a")); ms > 0 {
		r.Created = time.UnixMilli(ms)
	}
	r.Completed = at
	r.State = RequestError
	if r.Fate == Delivered || r.Fate == Filtered {
		r.State = RequestSuccess
	}
	if get("g") == OriginBot {
		r.Origin, r.EventID, r.State = OriginBot, "", RequestSuccess
		if get("e") == "1" {
			r.State = RequestError
		}
	}
	if p := get("p"); p != "" {
		r.Payload = []byte(p)
	}
	return r
}
