package delivery

import (
	"context"
	"slices"
	"sort"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// Records returns the records of an app, newest first, those of its deleted registrations too; ErrNotFound for an app of which nothing is known.
// Of their payloads there are at most 16 MiB.
func (c *Carrier) Records(ctx context.Context, company, appID string, q RecordQuery) ([]Record, error) {
	regs, err := c.OfApp(ctx, company, appID)
	if err != nil {
		return nil, err
	}
	gone, err := c.store.deletedOf(ctx, company, appID)
	if err != nil {
		return nil, err
	}
	for _, id := range gone {
		if !slices.ContainsFunc(regs, func(r Registration) bool { return r.RegID == id }) {
			regs = append(regs, Registration{RegID: id})
		}
	}
	if len(regs) == 0 {
		return nil, ErrNotFound
	}
	if q.Limit <= 0 {
		q.Limit = 1000
	}
	since, room := c.store.now().Add(-q.From), listPayload
	var out []Record
	for _, r := range regs {
		got, err := c.store.records(ctx, r, q, since, &room)
		if err != nil {
			return nil, err
		}
		out = append(out, got...)
		sort.SliceStable(out, func(i, j int) bool { return out[i].Created.After(out[j].Created) })
		out = out[:min(len(out), q.Limit)]
	}
	return out, nil
}

// records reads a registration's records that a query asks for, newest first from each place they lie in. Payloads take what is left of room.
func (s *store) records(ctx context.Context, r Registration, q RecordQuery, since time.Time, room *int) ([]Record, error) {
	want := func(st RequestState) bool { return len(q.States) == 0 || slices.Contains(q.States, st) }
	var out []Record
	places := []struct {
		key     string
		pending bool
		asked   bool
	}{
		{r.queueKey(), true, want(RequestPending) && q.Origin != OriginBot},
		{r.errLogKey(), false, want(RequestError)},
	}
	for _, p := range places {
		if !p.asked {
			continue
		}
		got := 0
		err := s.newest(ctx, p.key, since, func(m redis.XMessage) bool {
			rec := recordOf(r.RegID, m, p.pending)
			if !want(rec.State) || q.Origin != "" && q.Origin != rec.Origin {
				return true
			}
			if p.pending {
				rec.CallbackURL = r.CallbackURL
			}
			if *room -= len(rec.Payload); *room < 0 {
				rec.Payload = nil
			}
			out, got = append(out, rec), got+1
			return got < q.Limit
		})
		if err != nil {
			return nil, err
		}
	}
	if !want(RequestSuccess) {
		return out, nil
	}
	got := 0
	return out, s.okRecords(ctx, r.RegID, func(rec Record) bool {
		if rec.Completed.Before(since) {
			return false
		}
		if q.Origin == "" || q.Origin == rec.Origin {
			out, got = append(out, rec), got+1
		}
		return got < q.Limit
	})
}

// listRead is how many bytes of payloads a list looks through at most, to find what is asked for.
const listRead = 256 << 20

// newest reads a stream from its end back to a moment, until want says that it is enough.
func (s *store) newest(ctx context.Context, key string, since time.Time, want func(redis.XMessage) bool) error {
	first, size := strconv.FormatInt(since.UnixMilli(), 10), 0
	for last := "+"; ; {
		ctx, cancel := context.WithTimeout(ctx, storeTimeout)
		s.trips.Add(1)
		page, err := s.client.XRevRangeN(ctx, key, last, first, payloadPage).Result()
		cancel()
		if err != nil {
			return unavailable("read records", err)
		}
		for _, m := range page {
			if !want(m) {
				return nil
			}
			size += len(toText(m.Values["p"])) + len(toText(m.Values["b"]))
		}
		if len(page) < payloadPage || size > listRead {
			return nil
		}
		last = "(" + page[len(page)-1].ID
	}
}
