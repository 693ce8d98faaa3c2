package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
)

// outbox implements Outbox over a Carrier's store.
type outbox struct{ c *Carrier }

// Outbox returns what notify consumes.
func (c *Carrier) Outbox() Outbox { return outbox{c} }

func (o outbox) Signal() <-chan struct{} { return o.c.signal }
func (o outbox) Now() time.Time          { return o.c.store.now() }

func (o outbox) Registration(ctx context.Context, id RegID) (Registration, error) {
	return o.c.Registration(ctx, id)
}

func (o outbox) RunJob(ctx context.Context, e Entry) (Entry, error) { return o.c.runJob(ctx, e) }

func (o outbox) Take(ctx context.Context, n int, lease time.Duration) ([]Entry, error) {
	asked, err := o.c.store.busy(outboxKeys)
	if err != nil {
		return nil, unavailable("take outbox entries", err)
	}
	var entries []Entry
	for len(asked) > 0 && len(entries) < n {
		share := max(1, (n-len(entries))/len(asked))
		got, more, err := o.takeFrom(asked, share, lease)
		entries = append(entries, got...)
		if err != nil && len(entries) == 0 {
			return nil, unavailable("take outbox entries", err)
		}
		asked = more // those with a full share may have more
	}
	sort.SliceStable(entries, func(i, j int) bool { return entries[i].At < entries[j].At })
	return entries, ctx.Err()
}

// takeFrom takes up to share entries from each shard, and says which shards gave as many.
func (o outbox) takeFrom(shards []health.Shard, share int, lease time.Duration) (entries []Entry, full []health.Shard, err error) {
	s := o.c.store
	calls := make([]scriptCall, len(shards))
	for i, sh := range shards {
		calls[i] = scriptCall{s.scripts.take, []string{noticesKey(sh), outKey(sh), outDataKey(sh)}, []any{share, lease.Milliseconds()}}
	}
	replies, errs := s.pipeline(calls)
	for i, reply := range replies {
		for j := 1; j+1 < len(reply); j += 2 {
			var e Entry
			if err := json.Unmarshal([]byte(toText(reply[j+1])), &e); err != nil {
				o.c.log.Error("outbox entry cannot be read", "entry", toText(reply[j]), "error", err)
				continue
			}
			entries = append(entries, e)
		}
		if errs[i] == nil && len(reply) == 1+2*share {
			full = append(full, shards[i])
		}
	}
	return entries, full, errors.Join(errs...)
}

// entryKey is the sorted set that an entry waits in.
func entryKey(sh health.Shard, kind EntryKind) string {
	if kind == EntryTransition || kind == EntryMail {
		return noticesKey(sh)
	}
	return outKey(sh)
}

// entryShard is the shard that an entry's id names.
func entryShard(id string) (health.Shard, error) {
	head, _, _ := strings.Cut(id, "-")
	n, err := strconv.ParseUint(head, 16, 8)
	if err != nil || n >= health.Shards {
		return 0, fmt.Errorf("outbox entry %q: names no shard", id)
	}
	return health.Shard(n), nil
}

func (o outbox) Update(ctx context.Context, e Entry) error {
	sh, err := entryShard(e.ID)
	if err != nil {
		return err
	}
	next := int64(0)
	if e.State == EntryPending {
		next = max(e.NextTry, 1)
	}
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode outbox entry: %w", err)
	}
	s := o.c.store
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	s.trips.Add(1)
	keys := []string{entryKey(sh, e.Kind), outDataKey(sh), toldKey(sh, e.CompanyKey, e.Kind), mailKey(sh, e.ID)}
	if err := s.scripts.update.Run(ctx, s.client, keys, e.ID, data, next, flagText(e.Kind != EntryJob)).Err(); err != nil {
		return unavailable("update outbox entry", err)
	}
	return nil
}

func (o outbox) List(ctx context.Context, company string, n int, keep func(Entry) bool, kinds ...EntryKind) ([]Entry, error) {
	var places []*listPlace
	for sh := range health.Shard(health.Shards) {
		for _, k := range kinds {
			places = append(places, &listPlace{shard: sh, key: toldKey(sh, company, k), open: true})
		}
	}
	var entries []Entry
	for page := int64(max(n, listPage)); slices.ContainsFunc(places, func(p *listPlace) bool { return p.open }); {
		if err := o.listOn(ctx, places, page); err != nil {
			return nil, err
		}
		for _, p := range places {
			for _, e := range decodeEntries(p.data) {
				if p.kept < n && (keep == nil || keep(e)) {
					entries, p.kept = append(entries, e), p.kept+1
				}
			}
			p.open = p.open && p.kept < n
		}
	}
	sort.SliceStable(entries, func(i, j int) bool { return entries[i].At > entries[j].At })
	seen := map[string]bool{} // what was written meanwhile has moved others to the next page
	entries = slices.DeleteFunc(entries, func(e Entry) bool {
		again := seen[e.ID]
		seen[e.ID] = true
		return again
	})
	entries = entries[:min(n, len(entries))]
	return entries, o.withMails(ctx, entries)
}

// listPage is how many entries of one shard are read at once, at least.
const listPage = 256

// listPlace is where entries are listed, newest first: how far they were read, and how many of them are wanted.
type listPlace struct {
	shard health.Shard
	key   string
	read  int64
	kept  int
	open  bool // there may be more
	data  []any
}

// listOn reads the next page of each place that is open.
func (o outbox) listOn(ctx context.Context, places []*listPlace, page int64) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	s, p := o.c.store, o.c.store.client.Pipeline()
	ids := make([]*redis.StringSliceCmd, len(places))
	for i, at := range places {
		if at.data = nil; at.open {
			ids[i] = p.ZRevRange(ctx, at.key, at.read, at.read+page-1)
		}
	}
	s.trips.Add(2)
	if _, err := p.Exec(ctx); err != nil {
		return unavailable("list outbox", err)
	}
	p = s.client.Pipeline()
	data := make([]*redis.SliceCmd, len(places))
	for i, at := range places {
		if ids[i] == nil {
			continue
		}
		list := ids[i].Val()
		at.read += int64(len(list))
		at.open = int64(len(list)) == page
		if len(list) > 0 {
			data[i] = p.HMGet(ctx, outDataKey(at.shard), list...)
		}
	}
	if p.Len() == 0 {
		return nil
	}
	if _, err := p.Exec(ctx); err != nil {
		return unavailable("list outbox", err)
	}
	for i, cmd := range data {
		if cmd != nil {
			places[i].data = cmd.Val()
		}
	}
	return nil
}

// decodeEntries returns the entries that can be read.
func decodeEntries(data []any) []Entry {
	var entries []Entry
	for _, v := range data {
		var e Entry
		if json.Unmarshal([]byte(toText(v)), &e) == nil {
			entries = append(entries, e)
		}
	}
	return entries
}

func (o outbox) Waiting(ctx context.Context) (int64, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	s := o.c.store
	p := s.client.Pipeline()
	var counts []*redis.IntCmd
	var oldest []*redis.ZSliceCmd
	for sh := range health.Shard(health.Shards) {
		for _, key := range []string{noticesKey(sh), outKey(sh)} {
			counts = append(counts, p.ZCard(ctx, key))
			oldest = append(oldest, p.ZRangeWithScores(ctx, key, 0, 0))
		}
	}
	s.trips.Add(1)
	if _, err := p.Exec(ctx); err != nil {
		return 0, 0, unavailable("count outbox", err)
	}
	n, lag := int64(0), time.Duration(0)
	for i := range counts {
		n += counts[i].Val()
		for _, z := range oldest[i].Val() {
			lag = max(lag, s.now().Sub(time.UnixMilli(int64(z.Score))))
		}
	}
	return n, lag, nil
}

// conversations reads one page of an entity's ongoing conversations, and where the next one begins: "" at the end. A cursor is worth something to the
// process that gave it; after a restart or a failover it begins anew.
func (s *store) conversations(ctx context.Context, e Entity, cursor string) (authors []string, next string, err error) {
	of, number, _ := strings.Cut(cursor, ":")
	from, _ := strconv.ParseUint(number, 10, 64)
	server, pairs, to, err := s.scanConversations(ctx, e.ownKey(), from)
	if err == nil && from != 0 && server != of {
		server, pairs, to, err = s.scanConversations(ctx, e.ownKey(), 0)
	}
	if err != nil {
		return nil, "", unavailable("read conversations", err)
	}
	old := float64(s.now().Add(-s.ongoing).UnixMilli())
	for i := 0; i+1 < len(pairs); i += 2 {
		if last, err := strconv.ParseFloat(pairs[i+1], 64); err == nil && last >= old {
			authors = append(authors, pairs[i])
		}
	}
	if to != 0 {
		next = server + ":" + strconv.FormatUint(to, 10)
	}
	return authors, next, nil
}

// scanConversations reads one page, and says which process it is of; "" of one that does not say.
func (s *store) scanConversations(ctx context.Context, key string, from uint64) (server string, pairs []string, to uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	var master pipeliner = s.client
	if cluster, ok := s.client.(*redis.ClusterClient); ok {
		if master, err = cluster.MasterForKey(ctx, key); err != nil {
			return "", nil, 0, err
		}
	}
	s.trips.Add(1)
	p := master.Pipeline()
	info, page := p.Info(ctx, "server"), p.ZScan(ctx, key, from, "", jobBatch)
	if _, err = p.Exec(ctx); err != nil && info.Err() == nil && page.Err() == nil {
		return "", nil, 0, err // of the connection, which the commands do not have
	}
	_, server, _ = strings.Cut(info.Val(), "run_id:")
	server, _, _ = strings.Cut(server, "\r")
	pairs, to, err = page.Result()
	return server, pairs, to, err
}

// handOff hands a batch of conversations to agents. Repeating it changes nothing.
func (s *store) handOff(ctx context.Context, job Job, e Entry, authors []string) (int64, error) {
	if len(authors) == 0 {
		return 0, nil
	}
	id := e.regID()
	sh := id.shard()
	keys := []string{outKey(sh), outDataKey(sh), toldKey(sh, id.CompanyKey, EntryHandoff), id.standingKey()}
	args := []any{id.Entity.where(), id.AppID, e.At, string(job.HandoffKind), job.HandoffKind.Tag(), controlTime.Milliseconds(), job.Reason}
	for _, a := range authors {
		keys = append(keys, id.controlKey(a))
		args = append(args, a, e.ID+"-"+digest(a))
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	s.trips.Add(1)
	n, err := s.scripts.handoffs.Run(ctx, s.client, keys, args...).Int64()
	if err != nil {
		return 0, unavailable("hand off conversations", err)
	}
	return n, nil
}
