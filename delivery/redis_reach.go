package delivery

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
)

const (
	probeEvery = 200 * time.Millisecond
	probeTime  = time.Second            // for one probe
	longWait   = 400 * time.Millisecond // a deadline that ended sooner says nothing of the store
)

// reach knows how the store is, from what became of the commands that were sent. While a part of it is known to be away nothing is sent
// there but one probe at a time, and every command fails at once. It is a hook of the client, so no command goes by it. It refuses only
// while run runs. Safe for concurrent use.
type reach struct {
	client redis.UniversalClient
	log    *slog.Logger
	parts  []*part // one, or on a cluster one for each shard
	live   atomic.Bool
	again  atomic.Bool // a part is back: whether the data is still ours has to be looked at

	replicas int // that must confirm writes
}

// part is what may be away by itself.
type part struct {
	name  string // for the log
	probe string // a key of it that never exists
	doubt chan struct{}

	mu        sync.Mutex
	condition Condition
	since     time.Time
	back      chan struct{} // closed when it blocks no more
}

func newReach(client redis.UniversalClient, replicas int, log *slog.Logger) *reach {
	r := &reach{client: client, replicas: replicas, log: log}
	n := 1
	if _, cluster := client.(*redis.ClusterClient); cluster {
		n = health.Shards
	}
	for i := range n {
		sh := health.Shard(i)
		name := "store"
		if n > 1 {
			name = "shard " + shardHex(sh)
		}
		r.parts = append(r.parts, &part{
			name: name, probe: sh.Key("probe"), doubt: make(chan struct{}, 1), condition: StoreReachable, since: time.Now(), back: make(chan struct{}),
		})
	}
	return r
}

// of is the part that a shard lies in.
func (r *reach) of(sh health.Shard) *part { return r.parts[int(sh)%len(r.parts)] }

// ofCommand is the part that a command goes to; nil for what lies in no shard of a cluster.
func (r *reach) ofCommand(cmd redis.Cmder) *part {
	if len(r.parts) == 1 {
		return r.parts[0]
	}
	for _, arg := range cmd.Args()[1:] {
		if text, ok := arg.(string); ok {
			if sh, ok := shardOf(text); ok {
				return r.of(sh)
			}
		}
	}
	return nil
}

// shardTags is the way back from a hash tag to its shard.
var shardTags = func() map[string]health.Shard {
	tags := make(map[string]health.Shard, health.Shards)
	for sh := range health.Shard(health.Shards) {
		tags[hashTag(sh.Key(""))] = sh
	}
	return tags
}()

func hashTag(key string) string {
	rest, ok := strings.CutPrefix(key, "pg:{")
	if !ok {
		return ""
	}
	tag, _, _ := strings.Cut(rest, "}")
	return tag
}

// shardOf is the shard that a key lies in.
func shardOf(key string) (health.Shard, bool) {
	sh, ok := shardTags[hashTag(key)]
	return sh, ok
}

// refusal is why nothing may be asked of a part now, or nil.
func (r *reach) refusal(p *part) error {
	if !r.live.Load() {
		return nil
	}
	if c := p.now(); c.blocks() {
		return &StoreError{Condition: c, what: "ask", err: errAsked}
	}
	return nil
}

// acceptRefusal is why nothing may be accepted into a shard now, or nil.
func (r *reach) acceptRefusal(sh health.Shard) error {
	p := r.of(sh)
	if r.live.Load() && p.now() == StoreUnconfirmed {
		return &StoreError{Condition: StoreUnconfirmed, what: "accept", err: errAsked}
	}
	return r.refusal(p)
}

func (p *part) now() Condition {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.condition
}

// errAsked stands behind a refusal: nothing was sent.
var errAsked = errors.New("it is known not to answer, nothing was sent")

// backOf is closed when the part of a shard blocks no more.
func (r *reach) backOf(sh health.Shard) <-chan struct{} {
	p := r.of(sh)
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.back
}

// tellsOf is what an error says of whoever answered it after so long a wait. It is not sure when another command may well succeed.
func tellsOf(err error, waited time.Duration) (c Condition, sure bool) {
	var answer redis.Error
	var known *StoreError
	var network net.Error
	switch {
	case err == nil, errors.Is(err, redis.Nil):
		return StoreReachable, true
	case errors.As(err, &known), errors.Is(err, context.Canceled), errors.Is(err, redis.ErrClosed):
		return StoreReachable, false
	case errors.As(err, &answer):
		return tellsOfReply(answer.Error()), true
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return StoreAway, waited >= longWait
	default:
		return StoreAway, errors.Is(err, syscall.ECONNREFUSED)
	}
}

// replies are beginnings of error replies, as they stand alone or in the error of a script, and what they say.
var replies = []struct {
	text string
	says Condition
}{
	{"OOM ", StoreFull},
	{"MISCONF ", StoreUnwritable},
	{"NOREPLICAS ", StoreUnwritable},
	{"READONLY ", StoreReadOnly},
	{"LOADING ", StoreLoading},
	{"NOAUTH ", StoreRefusing},
	{"WRONGPASS ", StoreRefusing},
	{"NOPERM ", StoreRefusing},
	{"max number of clients", StoreRefusing},
	{"CLUSTERDOWN ", StoreAway},
	{"MASTERDOWN ", StoreAway},
	{"BUSY ", StoreAway},
}

// tellsOfReply is what an error reply says; a store that found only this one command wrong is reachable. What a script raises again, as ours
// do with what the server refuses to everybody, begins with a word more.
func tellsOfReply(text string) Condition {
	text = strings.TrimPrefix(text, "ERR ")
	for _, r := range replies {
		if strings.HasPrefix(text, r.text) || strings.Contains(text, "-"+r.text) {
			return r.says
		}
	}
	return StoreReachable
}

// isSick says that a server that is well found the keys of a script wrong.
func isSick(err error) bool {
	var answer redis.Error
	return errors.As(err, &answer) && !errors.Is(err, redis.Nil) && tellsOfReply(answer.Error()) == StoreReachable
}

// note takes in what became of a command. Only the probe finds a part well again.
func (r *reach) note(p *part, err error, waited time.Duration) {
	c, sure := tellsOf(err, waited)
	switch {
	case c == StoreReachable || p == nil:
	case sure:
		r.set(p, c, err)
	default:
		p.ask()
	}
}

// ask has the part probed soon.
func (p *part) ask() {
	select {
	case p.doubt <- struct{}{}:
	default:
	}
}

// set notes how a part is, and says so once.
func (r *reach) set(p *part, c Condition, err error) {
	p.mu.Lock()
	was, since := p.condition, p.since
	if was == c {
		p.mu.Unlock()
		return
	}
	p.condition, p.since = c, time.Now()
	if was.blocks() && !c.blocks() {
		close(p.back)
		p.back = make(chan struct{})
	}
	p.mu.Unlock()
	if was.blocks() && !c.blocks() {
		r.again.Store(true)
	}
	if c == StoreReachable {
		r.log.Info("store is well again", "part", p.name, "was", string(was), "for", time.Since(since).Round(time.Millisecond))
		return
	}
	r.log.Error("store is not well", "part", p.name, "condition", string(c), "was", string(was), "error", err)
	p.ask()
}

// run probes what is not well, until ctx ends.
func (r *reach) run(ctx context.Context) {
	r.live.Store(true)
	defer r.live.Store(false)
	var probers sync.WaitGroup
	for _, p := range r.parts {
		probers.Go(func() { r.watch(ctx, p) })
	}
	probers.Wait()
}

// watch waits for a doubt about a part, and probes it until it is well.
func (r *reach) watch(ctx context.Context, p *part) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.doubt:
		}
		for !r.probe(ctx, p) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(probeEvery):
			}
		}
	}
}

// ask makes a write that changes nothing, which needs all that an accept needs.
func (r *reach) ask(ctx context.Context, p *part) error {
	if r.replicas == 0 {
		return r.client.SetRange(ctx, p.probe, 0, "").Err()
	}
	var server interface{ Pipeline() redis.Pipeliner } = r.client
	if cluster, ok := r.client.(*redis.ClusterClient); ok {
		master, err := cluster.MasterForKey(ctx, p.probe)
		if err != nil {
			return err
		}
		server = master
	}
	pipe := server.Pipeline()
	write := pipe.SetRange(ctx, p.probe, 0, "")
	wait := pipe.Do(ctx, "wait", r.replicas, confirmTime.Milliseconds())
	_, _ = pipe.Exec(ctx) // each command has its own error
	if n, err := wait.Int(); write.Err() == nil && (err != nil || n < r.replicas) {
		return &StoreError{Condition: StoreUnconfirmed, what: "confirm", err: errUnconfirmed}
	}
	return write.Err()
}

// probed marks the commands of the probe.
type probed struct{}

// probe asks a part and says whether it is well.
func (r *reach) probe(ctx context.Context, p *part) bool {
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, probed{}, true), probeTime)
	defer cancel()
	err := r.ask(ctx, p)
	c, sure := tellsOf(err, probeTime)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return true // the end of run
	}
	switch {
	case errors.Is(err, errUnconfirmed):
		c = StoreUnconfirmed
	case !sure:
		c = StoreAway
	}
	r.set(p, c, err)
	if cluster, ok := r.client.(*redis.ClusterClient); ok && c != StoreReachable {
		cluster.ReloadState(ctx) // another may serve it by now
	}
	return c == StoreReachable
}

// status is how the whole store is.
func (r *reach) status() StoreStatus {
	s := StoreStatus{Condition: StoreReachable, Parts: len(r.parts)}
	order := map[Condition]int{}
	for i, c := range Conditions() {
		order[c] = i
	}
	for _, p := range r.parts {
		p.mu.Lock()
		c, since := p.condition, p.since
		p.mu.Unlock()
		if c.serves() {
			s.Serving++
		}
		if s.Since.IsZero() || order[c] > order[s.Condition] {
			s.Condition, s.Since = c, since
		}
	}
	return s
}
