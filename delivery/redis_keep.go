package delivery

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
)

//go:embed keep.lua
var keepLua string

// lossesKey is a hash: what went from the store while gateways ran, in words. Whoever has dealt with it deletes it.
const lossesKey = "pg:losses"

const (
	keepOnCluster = time.Second     // between two looks at a cluster, which is asked once for each shard
	lossesEvery   = 2 * time.Second // between two looks at what was lost
	keepQuiet     = 8 * time.Second // between two close looks at a server on which nobody has work
)

// keeper notices when data goes from the store while this gateway runs: somebody deletes keys, empties it, or starts it again on nothing.
// It puts back what the rest tells, and leaves word of what cannot be put back. look is for one goroutine; the rest is safe for concurrent use.
type keeper struct {
	s      *store
	log    *slog.Logger
	script *redis.Script
	mend   *mender
	count  atomic.Int64 // losses that this process has noticed

	known  [health.Shards]kept // as last seen
	vain   map[health.Shard]kept
	looked time.Time // closely
	listed time.Time

	mu     sync.Mutex
	losses []string // of all gateways, the oldest first
}

// kept is what a shard holds, by its own account.
type kept struct {
	maker                                         string // who made the shard's marker; "": it is not there
	queued, unwell, due, judged, waiting, pending int64
}

func newKeeper(s *store, log *slog.Logger) *keeper {
	return &keeper{s: s, log: log, script: redis.NewScript(keepLua), mend: newMender(s), vain: map[health.Shard]kept{}}
}

func makerKey(sh health.Shard) string { return sh.Key("maker") } // string: marks a shard that has been in use

// look compares what is there with what must be.
func (k *keeper) look(ctx context.Context) {
	if k.s.cluster && time.Since(k.looked) < keepOnCluster {
		return
	}
	defer k.list(ctx)
	if k.quiet(ctx) {
		return
	}
	k.looked = time.Now()
	now, known := k.read()
	var emptied []health.Shard
	for sh := range health.Shard(health.Shards) {
		if !known[sh] {
			k.s.worked.Store(true) // the next look is a close one again
			continue
		}
		if was := k.known[sh]; was.maker != "" && was.maker != now[sh].maker {
			emptied = append(emptied, sh)
		}
	}
	if len(emptied) > 0 && !k.emptied(ctx, emptied) {
		k.s.worked.Store(true) // the next look finds it again
		return
	}
	k.putBack(ctx, now, known)
	for sh := range health.Shard(health.Shards) {
		if known[sh] && now[sh].maker != "" {
			k.known[sh] = now[sh]
		}
	}
}

// quiet says that a close look can wait: nobody had work on a single server at the last one, nobody has now, this replica has done nothing
// meanwhile, and the markers are the same. A close look asks seven things of each shard, and an idle store is looked at twice a second; this
// asks two in all.
func (k *keeper) quiet(ctx context.Context) bool {
	if k.s.cluster || k.s.worked.Swap(false) || time.Since(k.looked) >= keepQuiet {
		return false
	}
	var makers, sets []string
	for sh := range health.Shard(health.Shards) {
		if was := k.known[sh]; was != (kept{maker: was.maker}) {
			return false
		}
		makers, sets = append(makers, makerKey(sh)), append(sets, attentionKeys(sh)...)
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	k.s.trips.Add(1)
	pipe := k.s.client.Pipeline()
	there, marked := pipe.Exists(ctx, sets...), pipe.MGet(ctx, makers...)
	if _, err := pipe.Exec(ctx); err != nil || there.Val() > 0 {
		return false
	}
	for sh, marker := range marked.Val() {
		if marker != k.known[sh].maker {
			return false
		}
	}
	return true
}

// read asks for every shard what it holds, in one step of a single server.
func (k *keeper) read() (now [health.Shards]kept, known [health.Shards]bool) {
	calls := make([]scriptCall, 1)
	if k.s.cluster {
		calls = make([]scriptCall, health.Shards)
	}
	for sh := range health.Shard(health.Shards) {
		c := &calls[int(sh)%len(calls)]
		c.script = k.script
		c.keys = append(c.keys, makerKey(sh), ledgerKey(sh), dueKey(sh), judgeKey(sh), noticesKey(sh), outKey(sh), outDataKey(sh))
	}
	replies, errs := k.s.pipeline(calls)
	for i, reply := range replies {
		for j, item := range reply {
			v := toSlice(item)
			if sh := i + j; errs[i] == nil && len(v) == 7 {
				now[sh] = kept{toText(v[0]), toInt(v[1]), toInt(v[2]), toInt(v[3]), toInt(v[4]), toInt(v[5]), toInt(v[6])}
				known[sh] = true
			}
		}
	}
	return now, known
}

// emptied leaves word of shards that have lost everything, and marks them as made anew. It is false when they could not be marked.
func (k *keeper) emptied(ctx context.Context, shards []health.Shard) bool {
	markers, err := k.s.mark(ctx, shards)
	if err != nil {
		return false
	}
	queued := int64(0)
	for i, sh := range shards {
		queued += k.known[sh].queued
		k.known[sh] = kept{maker: markers[i]}
	}
	k.s.reach.again.Store(true) // what says whose data it is has gone too
	k.lost(ctx, markers[0], fmt.Sprintf("the store was emptied, or another took its place: %d of %d shards held nothing of what they had held; %d events had been queued there a moment before",
		len(shards), health.Shards, queued))
	return true
}

// mark marks shards that have no marker, and returns the markers of all.
func (s *store) mark(ctx context.Context, shards []health.Shard) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	markers, err := s.markers(ctx, shards)
	if err != nil || !slices.Contains(markers, "") {
		return markers, err // nothing is written where all are marked: a full Redis would refuse it
	}
	pipe := s.client.Pipeline()
	s.trips.Add(1)
	ours := uuid.NewString() // one for all that are marked together
	for i, sh := range shards {
		if markers[i] == "" {
			pipe.SetNX(ctx, makerKey(sh), ours, 0)
		}
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, unavailable("mark shards", err)
	}
	return s.markers(ctx, shards)
}

// markers reads who made shards; "": nobody yet.
func (s *store) markers(ctx context.Context, shards []health.Shard) ([]string, error) {
	pipe := s.client.Pipeline()
	s.trips.Add(1)
	got := make([]*redis.StringCmd, len(shards))
	for i, sh := range shards {
		got[i] = pipe.Get(ctx, makerKey(sh))
	}
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return nil, unavailable("read the marks of shards", err)
	}
	markers := make([]string, len(shards))
	for i := range got {
		if err := got[i].Err(); err != nil && !errors.Is(err, redis.Nil) {
			return nil, unavailable("read the marks of shards", err)
		}
		markers[i] = got[i].Val()
	}
	return markers, nil
}

// lost leaves word of a loss, once for an id however many gateways notice it.
func (k *keeper) lost(ctx context.Context, id, what string) {
	k.count.Add(1)
	k.log.Error("the store has lost data", "what", what)
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	k.s.trips.Add(1)
	text := k.s.now().UTC().Format(time.RFC3339) + " " + what
	if err := k.s.client.HSetNX(ctx, lossesKey, id, text).Err(); err != nil {
		k.log.Error("cannot leave word of lost data in the store", "error", err)
	}
	k.listed = time.Time{}
}

// list reads what was lost, whoever noticed it.
func (k *keeper) list(ctx context.Context) {
	if time.Since(k.listed) < lossesEvery {
		return
	}
	k.listed = time.Now()
	if k.s.cluster { // they lie with one master, which may be away
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, quickTime)
		defer cancel()
	}
	losses, err := k.s.losses(ctx)
	if err != nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.losses = losses
}

// losses are the words that were left of what went, the oldest first.
func (s *store) losses(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	s.trips.Add(1)
	losses, err := s.client.HVals(ctx, lossesKey).Result()
	if err != nil {
		return nil, unavailable("read losses", err)
	}
	slices.Sort(losses) // they begin with the time
	return losses, nil
}

func (k *keeper) told() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.losses)
}

// putBack mends what contradicts itself: events that are queued while nobody is due, registrations that are unwell while none will be
// judged, entries of the outbox that stand in no set. What could not be mended is not tried again until it changes.
func (k *keeper) putBack(ctx context.Context, now [health.Shards]kept, known [health.Shards]bool) {
	var whole kept // only the sum over the shards of a single server means anything
	for sh := range now {
		whole.queued, whole.unwell = whole.queued+now[sh].queued, whole.unwell+now[sh].unwell
		whole.due, whole.judged = whole.due+now[sh].due, whole.judged+now[sh].judged
	}
	for sh := range health.Shard(health.Shards) {
		is, account := now[sh], whole
		if k.s.cluster {
			account = is
		}
		unseen := account.queued > 0 && account.due == 0 || account.unwell > 0 && account.judged == 0
		if !known[sh] || is.maker == "" || !unseen && is.waiting == is.pending {
			delete(k.vain, sh)
			continue
		}
		if before, ok := k.vain[sh]; ok && before == is {
			continue
		}
		k.vain[sh] = is
		k.mendShard(ctx, sh, unseen, is)
	}
}

func (k *keeper) mendShard(ctx context.Context, sh health.Shard, unseen bool, is kept) {
	if unseen {
		n, err := k.mend.registrations(ctx, sh)
		k.mended(ctx, sh, n, "registrations had lost their place among those that are looked at, and were put back", err)
	}
	if is.waiting != is.pending {
		n, err := k.mend.outbox(ctx, sh)
		if n == 0 && is.waiting < is.pending && err == nil {
			k.lost(ctx, uuid.NewString(), fmt.Sprintf("shard %s: %d entries of the outbox are gone", shardHex(sh), is.pending-is.waiting))
		}
		k.mended(ctx, sh, n, "entries of the outbox had lost their place, and were put back", err)
	}
}

func (k *keeper) mended(ctx context.Context, sh health.Shard, n int64, what string, err error) {
	if err != nil {
		delete(k.vain, sh) // again at the next look
		k.log.Warn("cannot mend the store", "shard", shardHex(sh), "error", err)
	}
	if n > 0 {
		k.lost(ctx, uuid.NewString(), fmt.Sprintf("shard %s: %d %s", shardHex(sh), n, what))
	}
}
