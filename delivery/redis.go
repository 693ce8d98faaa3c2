package delivery

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
)

//go:embed alone.lua
var aloneLua string

//go:embed common.lua
var commonLua string

//go:embed conversation.lua
var conversationLua string

//go:embed accept_plain.lua
var acceptPlainLua string

//go:embed settle_plain.lua
var settlePlainLua string

//go:embed accept.lua
var acceptLua string

//go:embed settle.lua
var settleLua string

//go:embed look.lua
var lookLua string

//go:embed change.lua
var changeLua string

//go:embed wake.lua
var wakeLua string

//go:embed control.lua
var controlLua string

//go:embed handoffs.lua
var handoffsLua string

//go:embed gather.lua
var gatherLua string

//go:embed mark.lua
var markLua string

//go:embed take.lua
var takeLua string

//go:embed update.lua
var updateLua string

// What the store keeps, and for how long.
const (
	leaseTime    = 6 * time.Second
	controlTime  = 31 * 24 * time.Hour // 30 days after the last event, which is noted once a day
	ongoingTime  = 24 * time.Hour      // if nothing else is set
	recordTime   = 32 * 24 * time.Hour // 31 days after the last record, which is noted once a day
	recordMost   = 31 * 24 * time.Hour // of one record of a failure
	storeTimeout = 2 * time.Second     // of one round trip
	acceptTime   = 2 * time.Second     // of an accept in all, its place in the queue included
	batchTime    = time.Second         // of one batch of accepts
)

// keep is how many records are kept of each registration.
type keep struct{ successes, failures int64 }

// store speaks to Redis: every script, and every way in which a reply is read. Safe for concurrent use.
type store struct {
	*clock
	client   redis.UniversalClient
	health   *health.Store
	sealer   *Sealer
	window   time.Duration
	hold     time.Duration // time to live of what is held
	dedupe   time.Duration // how long the id of an event is known
	ongoing  time.Duration // after its last message a conversation is ongoing for so long
	keep     keep
	cluster  bool          // a script has one slot
	nextTime atomic.Int64  // when a cluster is asked for its clock again, in Unix nanoseconds
	trips    atomic.Int64  // round trips, for the metrics
	singles  chan struct{} // round trips that lanes and the timer make on their own
	worked   atomic.Bool   // something was accepted, settled or changed since the keeper looked
	scripts  scripts
	reach    *reach
	sick     *ailments

	replicas int                                   // that must confirm what is accepted before it counts as stored
	untold   untold                                // the server does not say whether its append-only file is written
	masters  atomic.Pointer[[health.Shards]string] // of a cluster
	lineage  string
	heirEnd  atomic.Int64          // until when leases of the same lineage are taken over, in ms of this machine's clock
	fit      atomic.Pointer[error] // what is wrong with the data that this store holds; nil: that has not been seen yet
}

type scripts struct {
	accept, acceptPlain, settle, settlePlain, look, change, control, handoffs, take, update, gather, mark, deed *redis.Script
}

func (sc scripts) all() []*redis.Script {
	return []*redis.Script{
		sc.accept, sc.acceptPlain, sc.settle, sc.settlePlain, sc.look, sc.change, sc.control, sc.handoffs, sc.take, sc.update, sc.gather, sc.mark, sc.deed,
	}
}

// works says that one of the calls changes what is known of registrations and events.
func (sc scripts) works(calls []scriptCall) bool {
	return slices.ContainsFunc(calls, func(c scriptCall) bool {
		return c.script == sc.accept || c.script == sc.acceptPlain || c.script == sc.settle || c.script == sc.settlePlain || c.script == sc.change
	})
}

func newStore(cfg Config) *store {
	lua := func(parts ...string) *redis.Script { return redis.NewScript(health.Lua() + strings.Join(parts, "\n")) }
	_, cluster := cfg.Client.(*redis.ClusterClient)
	known := newReach(cfg.Client, cfg.Replicas, cfg.Log)
	cfg.Client.AddHook(known)
	return &store{
		clock: newClock(cfg.Clock), reach: known, sick: newAilments(cfg.Log), replicas: cfg.Replicas, cluster: cluster, client: cfg.Client, health: health.NewStore(cfg.Client, cfg.Rules), sealer: cfg.Sealer, window: cfg.Rules.Window,
		hold: cfg.HoldTime, dedupe: cfg.DedupeTime, ongoing: cfg.OngoingTime, keep: keep{cfg.KeepSuccesses, cfg.KeepFailures}, lineage: cfg.Lineage, singles: make(chan struct{}, singlesMost),
		scripts: scripts{
			accept: lua(aloneLua, commonLua, wakeLua, conversationLua, acceptLua), acceptPlain: lua(aloneLua, conversationLua, acceptPlainLua), settle: lua(aloneLua, commonLua, settleLua),
			settlePlain: lua(aloneLua, settlePlainLua), look: lua(lookLua), change: lua(aloneLua, commonLua, wakeLua, changeLua),
			control: lua(wakeLua, controlLua), handoffs: lua(aloneLua, commonLua, handoffsLua), take: lua(takeLua), update: lua(updateLua), gather: lua(gatherLua), mark: lua(markLua),
			deed: lua(deedLua),
		},
	}
}

// same holds a setting to the one that the data was made with: the first gateway writes the first of ours, and every word of it must be
// one of ours.
func (s *store) same(ctx context.Context, key, sentence string, ours ...string) error {
	theirs, err := s.client.Get(ctx, key).Result()
	if errors.Is(err, redis.Nil) {
		if err := s.client.SetNX(ctx, key, ours[0], 0).Err(); err != nil {
			return unavailable("check "+key, err)
		}
		theirs, err = s.client.Get(ctx, key).Result()
	}
	if err != nil {
		return unavailable("check "+key, err)
	}
	if slices.ContainsFunc(strings.Fields(theirs), func(word string) bool { return !slices.Contains(ours, word) }) {
		return fmt.Errorf(sentence, theirs, strings.Join(ours, ", "))
	}
	return nil
}

// prepare makes sure that the data is ours, once, and again when the store had been away: then it may be another.
func (s *store) prepare(ctx context.Context) error {
	again := s.reach.again.Swap(false)
	if known := s.fit.Load(); known != nil && !again {
		return *known
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	err := s.load(ctx)
	if errors.Is(err, ErrUnavailable) {
		if known := s.fit.Load(); known != nil {
			s.reach.again.Store(true)
			return *known
		}
		return err
	}
	s.fit.Store(&err)
	return err
}

// load makes sure that the server knows the scripts and that its data has our number of shards and our key.
func (s *store) load(ctx context.Context) error {
	if err := s.same(ctx, "pg:shards", "this Redis holds data in %s shards, and this gateway has %s: use the gateway that made it, or another database", strconv.Itoa(health.Shards)); err != nil {
		return err
	}
	if err := s.same(ctx, "pg:key", "the secrets in this Redis are sealed with key %s, and this gateway has key %s: start it with the --key-file that made them", s.sealer.ids()...); err != nil {
		return err
	}
	every := make([]health.Shard, health.Shards)
	for i := range every {
		every[i] = health.Shard(i)
	}
	if _, err := s.mark(ctx, every); err != nil {
		return err
	}
	for _, script := range s.scripts.all() {
		if err := script.Load(ctx, s.client).Err(); err != nil {
			return unavailable("load scripts", err)
		}
	}
	t, err := s.client.Time(ctx).Result()
	if err != nil {
		return unavailable("read clock", err)
	}
	s.heard(t.UnixMilli())
	return nil
}

// loadView reads an entity's registrations.
func (s *store) loadView(ctx context.Context, e Entity) (*view, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	s.trips.Add(1)
	fields, err := s.client.HGetAll(ctx, e.regKey()).Result()
	if err != nil {
		return nil, unavailable("load registrations", err)
	}
	return s.readView(e, fields), nil
}

// readView reads an entity. A registration that cannot be read is left out, told of, and known as such: it has not been deleted.
func (s *store) readView(e Entity, fields map[string]string) *view {
	v := &view{version: "0"}
	for name, value := range fields {
		switch {
		case name == "ver":
			v.version = value
		case strings.HasPrefix(name, "a:"):
			h, err := s.sealer.unpack(value)
			if err != nil {
				v.unreadable = append(v.unreadable, name[2:])
				s.sick.note(RegID{e, name[2:]}.member(), "registration cannot be read and is left out", err)
				continue
			}
			v.regs = append(v.regs, h)
		case strings.HasPrefix(name, "g:"):
			v.gone = append(v.gone, name[2:])
		}
	}
	sort.Slice(v.regs, func(i, j int) bool { return v.regs[i].AppID < v.regs[j].AppID })
	slices.Sort(v.gone)
	v.prepare()
	return v
}

// looked is what needs attention in one shard.
type looked struct {
	due, judge []string // registrations
	outbox     int64    // entries due
}

// lookLimit bounds what one look returns of a shard; the next comes half a second later.
const lookLimit = 512

// look asks all shards in which something needs attention, now or later.
func (s *store) look() ([health.Shards]looked, error) {
	var found [health.Shards]looked
	shards, err := s.busy(attentionKeys)
	if err != nil || len(shards) == 0 {
		return found, err
	}
	calls := make([]scriptCall, len(shards))
	for i, sh := range shards {
		calls[i] = scriptCall{s.scripts.look, []string{dueKey(sh), judgeKey(sh), noticesKey(sh), outKey(sh)}, []any{lookLimit}}
	}
	replies, errs := s.pipeline(calls)
	for i, reply := range replies {
		if errs[i] != nil || len(reply) != 4 {
			continue
		}
		s.heard(toInt(reply[0]))
		found[shards[i]] = looked{toTexts(reply[1]), toTexts(reply[2]), toInt(reply[3])}
	}
	return found, errors.Join(errs...)
}

func toInt(v any) int64 {
	switch v := v.(type) {
	case int64:
		return v
	case string:
		if v == "" {
			return 0
		}
		n, err := strconv.ParseInt(v, 10, 64)
		if err == nil {
			return n
		}
	}
	return 0
}

func toText(v any) string {
	s, _ := v.(string)
	return s
}

func toSlice(v any) []any {
	s, _ := v.([]any)
	return s
}

func toTexts(v any) []string {
	items := toSlice(v)
	out := make([]string, len(items))
	for i, it := range items {
		out[i] = toText(it)
	}
	return out
}
