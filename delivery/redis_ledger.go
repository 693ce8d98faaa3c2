package delivery

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
)

//go:embed ledger.lua
var ledgerLua string

//go:embed ledgers.lua
var ledgersLua string

var ledgersScript = redis.NewScript(ledgersLua)

// books are what the metrics tell of the whole store.
type books struct {
	total     ledger // of all time, deleted registrations included
	forgotten int64  // deliveries that the store had confirmed and knows no more
	states    map[health.State]int64
	shown     []shownLedger // by name
	rest      ledger        // of all that are not shown
}

// shownLedger is the ledger of one registration; queued is what lies in its queue.
type shownLedger struct {
	name string
	ledger
}

const (
	booksAge     = 2 * time.Second // how long a look at the books serves further scrapes
	booksTime    = time.Second     // for one look
	booksSample  = 4               // busy registrations looked at, for each that is shown
	booksNames   = 8               // names read when there are few registrations, for each that is shown
	booksDefault = 200             // registrations shown
)

// bookkeeper reads the books for the metrics, at a cost that does not grow with the number of registrations. Safe for concurrent use.
type bookkeeper struct {
	store  *store
	script *redis.Script
	log    *slog.Logger

	mu         sync.Mutex // guards all below, and is held while looking: scrapes share one look
	favourites favourites
	looked     time.Time
	last       books
	known      bool
	unread     bool // that it cannot be read has been told
}

func newBookkeeper(s *store, shown int, log *slog.Logger) *bookkeeper {
	return &bookkeeper{
		store: s, script: redis.NewScript(ledgerLua), log: log,
		favourites: favourites{limit: max(shown, 0), points: map[string]float64{}, shown: map[string]bool{}},
	}
}

// read returns the books as they were at most two seconds ago; false while the store is away.
func (b *bookkeeper) read() (books, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.known && time.Since(b.looked) < booksAge {
		return b.last, true
	}
	ctx, cancel := context.WithTimeout(context.Background(), booksTime)
	defer cancel()
	now, err := b.look(ctx)
	if err != nil {
		if !b.unread {
			b.log.Warn("the ledger cannot be read, and is missing from the metrics", "error", err)
		}
		b.unread = true
		return books{}, false // the rest of the page is still true
	}
	now.forgotten = b.last.forgotten
	if gone := b.last.total.accepted - now.total.accepted; gone > 0 {
		now.forgotten += gone
		b.log.Error("the store has gone back: it has forgotten deliveries that it had confirmed", "deliveries", gone)
	}
	b.last, b.known, b.looked, b.unread = now, true, time.Now(), false
	return now, true
}

// look reads everything. The registrations are read before the totals, so that what is left of these never goes back.
func (b *bookkeeper) look(ctx context.Context) (books, error) {
	few, err := b.choose(ctx)
	if err != nil {
		return books{}, err
	}
	out := books{states: map[health.State]int64{}}
	if out.shown, err = b.registrations(ctx, b.favourites.choose(few)); err != nil {
		return books{}, err
	}
	if err := b.totals(ctx, &out); err != nil {
		return books{}, err
	}
	out.rest = out.total
	for _, s := range out.shown {
		out.rest = out.rest.plus(s.ledger, -1)
	}
	out.rest.queued = max(out.rest.queued, 0) // what moved while we read
	return out, nil
}

// choose looks at who has work, and when there are few registrations, at the names of all.
func (b *bookkeeper) choose(ctx context.Context) (few []string, err error) {
	limit := b.favourites.limit
	if limit == 0 {
		return nil, nil
	}
	pipe := b.store.client.Pipeline()
	var busy []*redis.StringSliceCmd
	var sizes []*redis.IntCmd
	for sh := range health.Shard(health.Shards) {
		busy = append(busy, pipe.ZRandMember(ctx, dueKey(sh), booksSample*limit/health.Shards+1))
		sizes = append(sizes, pipe.HLen(ctx, hashesKey(sh)))
	}
	b.store.trips.Add(1)
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, err
	}
	var seen []string
	names := int64(0)
	for sh := range busy {
		seen = append(seen, busy[sh].Val()...)
		names += sizes[sh].Val()
	}
	b.favourites.look(seen)
	if names > int64(booksNames*limit) {
		return nil, nil
	}
	return b.names(ctx)
}

// names are those of all registrations and entities that there are, or were.
func (b *bookkeeper) names(ctx context.Context) (names []string, err error) {
	pipe := b.store.client.Pipeline()
	var asked []*redis.StringSliceCmd
	for sh := range health.Shard(health.Shards) {
		asked = append(asked, pipe.HVals(ctx, hashesKey(sh)))
	}
	b.store.trips.Add(1)
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, err
	}
	for _, a := range asked {
		for _, name := range a.Val() {
			if _, err := parseMember(name); err == nil {
				names = append(names, name)
			}
		}
	}
	return names, nil
}

// registrations reads the ledgers of registrations, each in one step. Those that are gone are left out, and forgotten.
func (b *bookkeeper) registrations(ctx context.Context, names []string) ([]shownLedger, error) {
	var calls []scriptCall
	var known []string
	for _, name := range names {
		if id, err := parseMember(name); err == nil {
			calls = append(calls, scriptCall{b.script, []string{id.regKey(), id.standingKey(), id.queueKey()}, []any{id.AppID}})
			known = append(known, name)
		}
	}
	if len(calls) == 0 || ctx.Err() != nil {
		return nil, ctx.Err()
	}
	replies, errs := b.store.pipeline(calls)
	shown := make([]shownLedger, 0, len(known))
	for i, name := range known {
		if isSick(errs[i]) {
			b.store.sick.note(name, "a ledger cannot be read, the others are told without it", errs[i])
			continue
		}
		if errs[i] != nil {
			return nil, errs[i]
		}
		if len(replies[i]) != 3 || toInt(replies[i][0]) == 0 {
			b.favourites.drop(name)
			continue
		}
		l := readLedger(toFields(replies[i][2]))
		l.queued = toInt(replies[i][1])
		shown = append(shown, shownLedger{name, l})
	}
	return shown, nil
}

// ledgers reads the ledger of the store in one step, or that of each shard on a cluster, where each balances by itself.
func (s *store) ledgers(ctx context.Context) ([]map[string]string, error) {
	var keys []string
	for sh := range health.Shard(health.Shards) {
		keys = append(keys, ledgerKey(sh))
	}
	calls := []scriptCall{{ledgersScript, keys, nil}}
	if _, cluster := s.client.(*redis.ClusterClient); cluster {
		calls = calls[:0]
		for _, key := range keys {
			calls = append(calls, scriptCall{ledgersScript, []string{key}, nil})
		}
	}
	replies, errs := s.pipeline(calls)
	var all []map[string]string
	for i, reply := range replies {
		if errs[i] != nil {
			return nil, fmt.Errorf("read the ledger of the store: %w", errs[i])
		}
		for _, fields := range reply {
			all = append(all, toFields(fields))
		}
	}
	return all, ctx.Err()
}

// totals reads the ledger of the store, and how many registrations each shard has.
func (b *bookkeeper) totals(ctx context.Context, out *books) error {
	ledgers, err := b.store.ledgers(ctx)
	if err != nil {
		return err
	}
	pipe := b.store.client.Pipeline()
	var numbers []*redis.StringCmd
	for sh := range health.Shard(health.Shards) {
		numbers = append(numbers, pipe.HGet(ctx, hashesKey(sh), "#"))
	}
	b.store.trips.Add(1)
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return err
	}
	for sh, fields := range ledgers {
		out.total = out.total.plus(readLedger(fields), 1)
		n, _ := numbers[sh].Int64() // none yet
		for _, state := range []health.State{health.Degraded, health.Down} {
			of := toInt(fields["s:"+string(state)])
			out.states[state] += of
			n -= of
		}
		out.states[health.Healthy] += n
	}
	return nil
}
