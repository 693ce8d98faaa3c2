package delivery

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
)

const (
	recordPage  = 100
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
	return c.store.findRecord(ctx, reg, p)
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
		r, err := c.store.findRecord(ctx, at.reg, at.id)
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

// Records returns the records of an app, newest first; ErrNotFound for an unknown app.
func (c *Carrier) Records(ctx context.Context, company, appID string, q RecordQuery) ([]Record, error) {
	regs, err := c.OfApp(ctx, company, appID)
	if err != nil {
		return nil, err
	}
	if len(regs) == 0 {
		return nil, ErrNotFound
	}
	if q.Limit <= 0 {
		q.Limit = 1000
	}
	since := c.store.now().Add(-q.From)
	var out []Record
	for _, r := range regs {
		got, err := c.store.records(ctx, r, q, since)
		if err != nil {
			return nil, err
		}
		out = append(out, got...)
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].Created.After(out[j].Created) })
	return out[:min(len(out), q.Limit)], nil
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
	key, keep := r.Reg.okLogKey(), int64(keepSuccess)
	values := []any{"i", part, "f", "", "c", "", "o", r.Code, "m", clip(r.Message, maxMessageBytes), "a", r.Created.UnixMilli(), "h", string(r.Handoff), "g", OriginBot}
	if r.State == RequestError {
		key, keep = r.Reg.errLogKey(), keepFailures
		values = append(values, "p", r.Payload, "e", "1")
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	s.trips.Add(1)
	p := s.client.Pipeline()
	p.XAdd(ctx, &redis.XAddArgs{Stream: key, MaxLen: keep, Values: values})
	p.PExpire(ctx, key, recordTime)
	if _, err := p.Exec(ctx); err != nil {
		return unavailable("note call", err)
	}
	return nil
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
	from := strconv.FormatInt(max(0, p.ms-recordSlack.Milliseconds()), 10)
	for _, key := range []string{reg.queueKey(), reg.errLogKey(), reg.okLogKey()} {
		for next := from; next != ""; {
			page, err := s.page(ctx, key, next)
			if err != nil {
				return Record{}, err
			}
			for _, m := range page {
				if toText(m.Values["i"]) == p.part {
					return recordOf(reg, m, key == reg.queueKey()), nil
				}
			}
			next = ""
			if len(page) == recordPage {
				next = "(" + page[len(page)-1].ID
			}
		}
	}
	return Record{}, ErrNotFound
}

func (s *store) page(ctx context.Context, key, from string) ([]redis.XMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	s.trips.Add(1)
	page, err := s.client.XRangeN(ctx, key, from, "+", recordPage).Result()
	if err != nil {
		return nil, unavailable("read records", err)
	}
	return page, nil
}

// records reads a registration's records that a query asks for, newest first from each place they lie in.
func (s *store) records(ctx context.Context, r Registration, q RecordQuery, since time.Time) ([]Record, error) {
	want := func(st RequestState) bool { return len(q.States) == 0 || slices.Contains(q.States, st) }
	type stream struct {
		key     string
		pending bool
	}
	var streams []stream
	if want(RequestPending) && q.Origin != OriginBot {
		streams = append(streams, stream{r.queueKey(), true})
	}
	if want(RequestError) || want(RequestSuccess) {
		streams = append(streams, stream{r.errLogKey(), false}, stream{r.okLogKey(), false})
	}
	var out []Record
	for _, p := range streams {
		ctx, cancel := context.WithTimeout(ctx, storeTimeout)
		s.trips.Add(1)
		got, err := s.client.XRevRangeN(ctx, p.key, "+", strconv.FormatInt(since.UnixMilli(), 10), int64(q.Limit)).Result()
		cancel()
		if err != nil {
			return nil, unavailable("read records", err)
		}
		for _, m := range got {
			rec := recordOf(r.RegID, m, p.pending)
			if p.pending {
				rec.CallbackURL = r.CallbackURL
			}
			if want(rec.State) && (q.Origin == "" || q.Origin == rec.Origin) {
				out = append(out, rec)
			}
		}
	}
	return out, nil
}

// recordOf reads one stream entry. Its own id is when it was written: accepted, for one in the queue; completed, for one in a log.
func recordOf(reg RegID, m redis.XMessage, pending bool) Record {
	get := func(name string) string { return toText(m.Values[name]) }
	ms, _, _ := strings.Cut(m.ID, "-")
	at := time.UnixMilli(toInt(ms))
	r := Record{
		ID: reg.requestPrefix() + get("i"), EventID: reg.eventPrefix() + cmp.Or(get("w"), get("i")), Reg: reg, Origin: OriginGateway, Created: at, LastUpdated: at,
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
