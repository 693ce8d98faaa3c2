package delivery

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
)

//go:embed deed.lua
var deedLua string

// How much of a company's audit trail is kept, of each kind of deeds.
const (
	deedsKept = 20_000
	deedsTime = 400 * 24 * time.Hour
	deedsPage = 500
)

// companyShard is where a company's audit trail lies.
func companyShard(company string) health.Shard {
	h := fnv.New32a()
	h.Write([]byte(company))
	return health.Shard(h.Sum32() % health.Shards)
}

// deedKeys are, in the company's own slot: a hash of deeds whose end is not known (# -> the last number given), the list of deeds, and the
// list of those of bots' daily work.
func deedKeys(company string) []string {
	sh := companyShard(company)
	return []string{sh.Key("deeding", company), sh.Key("deeds", company), sh.Key("daily", company)}
}

// deed writes that a deed begins, or how it ended.
func (s *store) deed(ctx context.Context, what, mark string, d Deed) error {
	text, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("encode deed: %w", err)
	}
	_, err = s.confirmed(ctx, s.scripts.deed, deedKeys(d.Company), what, mark, text, flagText(d.Action.routine()), deedsKept, deedsTime.Milliseconds())
	if err != nil {
		return unavailable("write audit trail", err)
	}
	return nil
}

// deeds reads a company's trail, newest first; on the first page those come first that have no end yet.
func (s *store) deeds(ctx context.Context, company string, q DeedQuery) ([]Deed, error) {
	var out []Deed
	keys := deedKeys(company)
	if q.Before == 0 {
		open, err := s.openDeeds(ctx, company, keys[0])
		if err != nil {
			return nil, err
		}
		out = open
	}
	for _, key := range keys[1:] {
		got, err := s.deedsOf(ctx, company, key, q)
		if err != nil {
			return nil, err
		}
		out = append(out, got...)
	}
	out = slices.DeleteFunc(out, func(d Deed) bool { return !q.wants(d, s.now()) })
	slices.SortStableFunc(out, func(a, b Deed) int {
		switch {
		case a.Number == 0 || b.Number == 0:
			return int(min(1, a.Number)) - int(min(1, b.Number)) // those without an end first
		default:
			return int(b.Number - a.Number)
		}
	})
	return out[:min(len(out), q.Limit)], nil
}

// wants says that a deed is asked for.
func (q DeedQuery) wants(d Deed, now time.Time) bool {
	return (q.From == 0 || !d.At.Before(now.Add(-q.From))) && (q.AppID == "" || q.AppID == d.AppID) && (q.Before == 0 || d.Number < q.Before)
}

// openDeeds reads the deeds whose end is not known.
func (s *store) openDeeds(ctx context.Context, company, key string) ([]Deed, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	s.trips.Add(1)
	fields, err := s.client.HGetAll(ctx, key).Result()
	if err != nil {
		return nil, unavailable("read audit trail", err)
	}
	var out []Deed
	for mark, value := range fields {
		at, rest, _ := strings.Cut(value, " ")
		_, text, ok := strings.Cut(rest, " ")
		if mark == "#" || !ok {
			continue
		}
		if d, err := readDeed(company, toInt(at), DeedPending, text); err == nil {
			out = append(out, d)
		}
	}
	slices.SortFunc(out, func(a, b Deed) int { return b.At.Compare(a.At) })
	return out, nil
}

// deedsOf reads as many deeds of one list as a query wants.
func (s *store) deedsOf(ctx context.Context, company, key string, q DeedQuery) ([]Deed, error) {
	var out []Deed
	for from := int64(0); ; from += deedsPage {
		lines, err := s.deedLines(ctx, key, from)
		if err != nil {
			return nil, err
		}
		for _, line := range lines {
			f := strings.SplitN(line, " ", 4)
			if len(f) < 4 {
				continue
			}
			d, err := readDeed(company, toInt(f[1]), DeedOutcome(f[2]), f[3])
			if d.Number = toInt(f[0]); err != nil || !q.wants(d, s.now()) {
				continue
			}
			if out = append(out, d); len(out) == q.Limit {
				return out, nil
			}
		}
		if len(lines) < deedsPage {
			return out, nil
		}
	}
}

func (s *store) deedLines(ctx context.Context, key string, from int64) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	s.trips.Add(1)
	lines, err := s.client.LRange(ctx, key, from, from+deedsPage-1).Result()
	if err != nil && err != redis.Nil {
		return nil, unavailable("read audit trail", err)
	}
	return lines, nil
}
