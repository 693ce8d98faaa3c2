package delivery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/pulsegate/pulsegate/health"
)

type limits struct{ events, bytes int64 }

// Carrier carries accepted events to their fate. It holds nothing that Redis does not have, so any number of replicas may work on one
// store. Safe for concurrent use.
type Carrier struct {
	cfg     Config
	store   *store
	views   *views
	guard   *guard
	caller  *caller
	crew    crew[*task] // makes tries
	keeper  *keeper
	log     *slog.Logger
	slots   *slots        // tries at once
	signal  chan struct{} // something was put into the outbox
	renewed chan struct{} // the ring of sealing keys has changed
	born    time.Time
	metrics *metrics
	ahead   readAhead
	turns   turns
	judging chan [health.Shards][]string // whom the timer has to judge
	unwell  sparing                      // of registrations that the store keeps from being served or judged
	parser  Parser
	books   *bookkeeper

	accepts *batcher[*acceptCall]
	settles *batcher[*settleCall]
	tokens  atomic.Int64

	mu       sync.Mutex
	lanes    map[RegID]*lane
	running  bool // Run has begun and is not draining: lanes may start
	laneWork crew[*lane]
	tryCtx   context.Context // ends when tries must end
	stopTry  context.CancelFunc
}

// New returns a carrier. Its error names the setting that is wrong.
func New(cfg Config) (*Carrier, error) {
	cfg.Rules = cfg.Rules.WithDefaults()
	if err := cfg.Rules.Validate(); err != nil {
		return nil, err
	}
	if cfg.Client == nil || cfg.Sealer == nil {
		return nil, errors.New("delivery: a Redis client and a sealer are needed")
	}
	cfg.DeliveryTimeout = orDefault(cfg.DeliveryTimeout, 5*time.Second)
	cfg.QueueEvents = orDefault(cfg.QueueEvents, 100_000)
	cfg.QueueBytes = orDefault(cfg.QueueBytes, 256<<20)
	cfg.HoldTime = orDefault(cfg.HoldTime, 24*time.Hour)
	cfg.DedupeTime, cfg.OngoingTime = orDefault(cfg.DedupeTime, 24*time.Hour), orDefault(cfg.OngoingTime, ongoingTime)
	cfg.KeepFailures, cfg.KeepSuccesses = orDefault(cfg.KeepFailures, 10_000), orDefault(cfg.KeepSuccesses, 1000)
	if cfg.InFlight = orDefault(cfg.InFlight, 24_576); cfg.InFlight < 1 {
		return nil, fmt.Errorf("tries in flight: %d is none", cfg.InFlight)
	}
	if strings.ContainsAny(cfg.Lineage, ".: ") {
		return nil, fmt.Errorf("lineage %q: may not hold dots, colons or blanks", cfg.Lineage)
	}
	if cfg.Replica == "" {
		cfg.Replica = uuid.NewString()
		if cfg.Lineage != "" {
			cfg.Replica = cfg.Lineage + "." + cfg.Replica
		}
	}
	if strings.ContainsAny(cfg.Replica, ": ") {
		return nil, fmt.Errorf("replica name %q: may not hold colons or blanks", cfg.Replica)
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if p := CertificateProblem(cfg.CallbackCA); p != "" {
		return nil, fmt.Errorf("certificates for callbacks: the bundle %s", p)
	}
	c := &Carrier{
		cfg: cfg, store: newStore(cfg), views: newViews(viewsBytes), guard: newGuard(cfg.Guard), log: cfg.Log,
		slots: newSlots(cfg.InFlight), signal: make(chan struct{}, 1), renewed: make(chan struct{}, 1), lanes: map[RegID]*lane{}, metrics: newMetrics(),
		judging: make(chan [health.Shards][]string), born: time.Now(),
	}
	c.turns.most = int64(orDefault(cfg.Lanes, lanesMost))
	c.books = newBookkeeper(c.store, orDefault(cfg.MetricsRegistrations, booksDefault), c.log)
	dial := cfg.Dial
	if dial == nil {
		dial = c.guard.dialer()
	}
	c.caller = newCaller(dial, cfg.CallbackCA, cfg.InFlight)
	c.keeper = newKeeper(c.store, cfg.Log)
	c.crew.do, c.laneWork.do = func(t *task) { t.lane.makeTry(t) }, (*lane).live
	c.accepts = &batcher[*acceptCall]{
		run: c.runAccepts, late: (*acceptCall).late, weight: (*acceptCall).weigh, max: batchWeight,
		place: func(call *acceptCall) string { return c.store.place(call.shard) },
	}
	c.settles = &batcher[*settleCall]{
		run: c.store.settle, weight: (*settleCall).weigh, max: batchWeight,
		place: func(call *settleCall) string { return c.store.place(call.names.shard) },
	}
	c.tryCtx, c.stopTry = context.WithCancel(context.Background())
	return c, nil
}

func orDefault[T int | int64 | time.Duration](v, fallback T) T {
	if v == 0 {
		return fallback
	}
	return v
}

// token makes a fencing token: the replica's name and a number, so that no two leases ever share one.
func (c *Carrier) token() string { return fmt.Sprintf("%s:%d", c.cfg.Replica, c.tokens.Add(1)) }

// acceptToken is the token of what an accept claims: none when no lane may start.
func (c *Carrier) acceptToken() string {
	c.mu.Lock()
	running := c.running
	c.mu.Unlock()
	if !running {
		return ""
	}
	return c.token()
}

// leaseOf is the token of the lane that this replica has for a registration, or "" when nobody seems to hold it: the last that is known is that a
// lane of ours gave it back. It is false when nothing is known. All this may be otherwise by now: the store knows.
func (c *Carrier) leaseOf(id RegID) (token string, known bool) {
	c.mu.Lock()
	l, running := c.lanes[id], c.running
	c.mu.Unlock()
	switch {
	case !running:
		return "", false
	case l != nil:
		return l.token, true
	}
	return "", c.slots.wasRested(id)
}

// Ready says whether events can be taken in; nil means ready.
func (c *Carrier) Ready(ctx context.Context) error {
	if s := c.store.reach.status(); s.Serving == 0 && c.store.reach.live.Load() {
		return &StoreError{Condition: s.Condition, what: "ask", err: errAsked}
	}
	return c.store.prepare(ctx)
}

// Store says how the store is.
func (c *Carrier) Store() StoreStatus {
	s := c.store.reach.status()
	s.Losses = c.keeper.told()
	return s
}

// Now is the store's clock, as well as this replica knows it.
func (c *Carrier) Now() time.Time { return c.store.now() }

// changed hints notify that the outbox has something new.
func (c *Carrier) changed() {
	select {
	case c.signal <- struct{}{}:
	default:
	}
}

const (
	lookEvery  = 500 * time.Millisecond
	drainBound = 20 * time.Second
)

// Run claims, tries, settles and judges until ctx ends. Then it starts nothing new, lets tries under way finish for at most 20 s, gives
// its leases back, and returns nil. It owns every goroutine of the room.
func (c *Carrier) Run(ctx context.Context) error {
	c.store.inherits(time.Now().Add(leaseTime)) // none of a former process lasts longer
	c.mu.Lock()
	c.running = true
	c.mu.Unlock()
	var loops, probes sync.WaitGroup
	probing, stop := context.WithCancel(context.WithoutCancel(ctx))
	probes.Go(func() { c.store.reach.run(probing) })
	loops.Go(func() { c.lookLoop(ctx) })
	loops.Go(func() { c.judgeLoop(ctx) })
	loops.Go(func() { c.wakeLoop(ctx) })
	<-ctx.Done()
	loops.Wait()
	c.drain()
	stop()
	probes.Wait()
	return nil
}

// drain ends all lanes.
func (c *Carrier) drain() {
	c.mu.Lock()
	c.running = false
	for _, l := range c.lanes {
		l.poke()
	}
	c.mu.Unlock()
	done := make(chan struct{})
	go func() { c.laneWork.dismiss(); close(done) }()
	select {
	case <-done:
	case <-time.After(drainBound):
		c.stopTry() // what still hangs will be delivered again by whoever claims it
		<-done
	}
	c.stopTry()
	c.crew.dismiss()
	c.caller.close()
}

// lookLoop finds what nobody attends to: work whose holder died, and judgements that are due.
func (c *Carrier) lookLoop(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for inherited := false; ; {
		c.store.locate(ctx)
		c.prepare(ctx)
		inherited = inherited || c.inherit(ctx)
		c.keeper.look(ctx)
		found, err := c.store.look()
		if err != nil && conditionOf(err) == StoreReachable { // else the store is not well, and that has been said
			c.log.Warn("cannot look for work", "error", err)
		}
		var shards sync.WaitGroup
		claims, left := c.turns.claims(c.ahead.lanes.Load()), [health.Shards]bool{}
		for i := range found {
			shards.Go(func() { left[i] = c.attend(found[i], claims[i]) })
		}
		shards.Wait()
		c.turns.crowded.Store(slices.Contains(left[:], true))
		c.handOver(found)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// inherit takes over what a former process of the same lineage held when it died. It returns whether that has been done.
func (c *Carrier) inherit(ctx context.Context) bool {
	heir := c.store.heir()
	if heir == "" {
		return true
	}
	ids, err := c.store.heldBy(ctx, heir)
	for _, id := range ids {
		c.claim(id)
	}
	if len(ids) > 0 {
		c.log.Info("taking over what this gateway held before it was started again", "registrations", len(ids))
	}
	return err == nil
}

// prepare looks whether the store holds our data, and says once when it holds another's.
func (c *Carrier) prepare(ctx context.Context) {
	before := c.store.fit.Load()
	if err := c.store.prepare(ctx); err != nil && !errors.Is(err, ErrUnavailable) && c.store.fit.Load() != before {
		c.log.Error("the store does not hold our data", "error", err)
	}
}

// attend claims at most so many registrations of a shard, and says whether it left any that are due.
func (c *Carrier) attend(l looked, claims int) (left bool) {
	for _, m := range l.due {
		if claims == 0 {
			left = true
			break
		}
		id, err := parseMember(m)
		if err != nil {
			c.log.Error("due registration cannot be read", "error", err)
			continue
		}
		if c.claim(id) {
			claims--
		}
	}
	if l.outbox > 0 {
		c.changed()
	}
	return left
}

// handOver gives those who are to be judged to the timer, unless it is still busy with others: then the next look finds them again.
func (c *Carrier) handOver(found [health.Shards]looked) {
	var due [health.Shards][]string
	for i := range found {
		due[i] = found[i].judge
	}
	select {
	case c.judging <- due:
	default:
	}
}

// judgeLoop is the timer. It is not part of the look, so that many judgements keep nobody from being claimed.
func (c *Carrier) judgeLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case due := <-c.judging:
			var shards sync.WaitGroup
			for _, members := range due {
				shards.Go(func() {
					for _, m := range members {
						if id, err := parseMember(m); err == nil && ctx.Err() == nil {
							c.rejudge(ctx, id)
						}
					}
				})
			}
			shards.Wait()
		}
	}
}

// rejudge is the timer's judgement of one registration: outcomes may have left its window.
func (c *Carrier) rejudge(ctx context.Context, id RegID) {
	r, err := c.store.rejudge(ctx, id)
	if err != nil {
		c.unwell.warn(c.log, "health not judged, the next look repeats it", id, err)
		return
	}
	if _, err := c.judge(ctx, id, r); err != nil {
		c.unwell.warn(c.log, "judgements not stored, will be repeated", id, err)
	}
}

func (c *Carrier) wake(id RegID) {
	c.mu.Lock()
	l := c.lanes[id]
	c.mu.Unlock()
	if l != nil {
		l.readOn()
	}
}
