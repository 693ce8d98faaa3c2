package delivery

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
)

// confirmTime is how long the replicas may take to confirm what was written.
const confirmTime = 700 * time.Millisecond

// errUnconfirmed stands beside a reply whose writes too few replicas have confirmed.
var errUnconfirmed = errors.New("too few replicas have confirmed it in time")

// confirmed runs one script whose writes must be kept as long as those of an accept.
func (s *store) confirmed(ctx context.Context, script *redis.Script, keys []string, args ...any) ([]any, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	t := newTrip([]scriptCall{{script, keys, args}})
	t.replicas, t.untold = s.replicas, &s.untold
	s.carry(ctx, t)
	return t.replies[0], t.errs[0]
}

// pipeline runs scripts in one round trip, and returns a reply or an error for each.
func (s *store) pipeline(calls []scriptCall) ([][]any, []error) {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	t := newTrip(calls)
	s.carry(ctx, t)
	return t.replies, t.errs
}

// scriptCall is one run of a script. The first key says where it goes.
type scriptCall struct {
	script *redis.Script
	keys   []string
	args   []any
}

// command is the call as one command. Keys go by reference: nothing is allocated for each of them.
func (c scriptCall) command(ctx context.Context) *redis.Cmd {
	args := append(make([]any, 0, 3+len(c.keys)+len(c.args)), "evalsha", c.script.Hash(), len(c.keys))
	for i := range c.keys {
		args = append(args, &c.keys[i])
	}
	cmd := redis.NewCmd(ctx, append(args, c.args...)...)
	cmd.SetFirstKeyPos(3)
	return cmd
}

// trip is scripts that are run at once, and what came of each run: a reply, an error, or with errUnconfirmed both.
type trip struct {
	calls    []scriptCall
	replicas int     // that must confirm the writes
	untold   *untold // the server does not say whether its file is written; nil: that does not matter

	replies [][]any
	errs    []error
}

func newTrip(calls []scriptCall) *trip {
	return &trip{calls: calls, replies: make([][]any, len(calls)), errs: make([]error, len(calls))}
}

func (t *trip) all() []int {
	list := make([]int, len(t.calls))
	for i := range list {
		list[i] = i
	}
	return list
}

// carry makes a trip.
func (s *store) carry(ctx context.Context, t *trip) {
	s.trips.Add(1)
	if s.scripts.works(t.calls) {
		s.worked.Store(true)
	}
	cluster, ok := s.client.(*redis.ClusterClient)
	switch {
	case ok:
		s.carryOnCluster(ctx, cluster, t)
	case len(t.calls) == 1 && t.replicas == 0 && t.untold == nil:
		cmd := t.calls[0].command(ctx)
		_ = s.client.Process(ctx, cmd) // the command has its error
		if redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") {
			cmd = t.calls[0].script.Run(ctx, s.client, t.calls[0].keys, t.calls[0].args...)
		}
		t.replies[0], t.errs[0] = cmd.Slice()
	default:
		t.on(ctx, s.client, t.all())
	}
	for i, err := range t.errs {
		if errors.Is(err, errUnconfirmed) {
			s.reach.set(s.partOf(t.calls[i]), StoreUnconfirmed, err)
		}
	}
}

// pipeliner is what a pipeline can be sent to.
type pipeliner interface{ Pipeline() redis.Pipeliner }

// on carries calls over one connection of one server. A script that the server does not know was not run: its text goes with the first of
// its calls then, and with all of them should the server forget it again meanwhile.
func (t *trip) on(ctx context.Context, server pipeliner, which []int) {
	f := watch(server, t.untold)
	if f != nil {
		defer f.close()
		server = f.conn
	}
	for round := 0; round < 3 && len(which) > 0; round++ {
		pipe := server.Pipeline()
		cmds := make([]*redis.Cmd, len(which))
		for k, i := range which {
			c := t.calls[i]
			first := k == 0 || t.calls[which[k-1]].script != c.script
			if round == 2 || round == 1 && first {
				cmds[k] = c.script.Eval(ctx, pipe, c.keys, c.args...)
				continue
			}
			cmds[k] = c.command(ctx)
			_ = pipe.Process(ctx, cmds[k]) // only queues it
		}
		var replicas *redis.Cmd
		if t.replicas > 0 { // of this connection: it counts who has what was written before on it
			replicas = pipe.Do(ctx, "wait", t.replicas, confirmTime.Milliseconds())
		}
		f.ask(ctx, pipe)
		_, _ = pipe.Exec(ctx) // each command has its own error
		unwritten := f.written(ctx)
		var unknown []int
		for k, i := range which {
			t.replies[i], t.errs[i] = cmds[k].Slice()
			switch {
			case redis.HasErrorPrefix(t.errs[i], "NOSCRIPT"):
				unknown = append(unknown, i)
			case t.errs[i] == nil && !t.confirmedBy(replicas):
				t.errs[i] = &StoreError{Condition: StoreUnconfirmed, what: "confirm", err: errUnconfirmed}
			case t.errs[i] == nil:
				t.errs[i] = unwritten
			}
		}
		which = unknown
	}
}

// confirmedBy says that the replicas that a WAIT counted are enough.
func (t *trip) confirmedBy(wait *redis.Cmd) bool {
	if wait == nil {
		return true
	}
	n, err := wait.Int()
	return err == nil && n >= t.replicas
}

// carryOnCluster carries each call to the master of its slot, over a connection of its own for each master: nothing is repeated by the
// client, because an event without an id may not be, and replicas confirm what was written on the connection that they are asked on.
func (s *store) carryOnCluster(ctx context.Context, cluster *redis.ClusterClient, t *trip) {
	left := t.all()
	for round := 0; round < 10 && len(left) > 0; round++ {
		if round > 0 && t.replicas == 0 {
			s.follow(ctx, cluster, t, left)
			return
		}
		if round > 0 && !rest(ctx, 50*time.Millisecond) {
			return
		}
		s.carryToMasters(ctx, cluster, t, left)
		var moved []int
		for _, i := range left {
			if isMoved(t.errs[i]) {
				moved = append(moved, i)
			}
		}
		if left = moved; len(left) > 0 {
			cluster.ReloadState(ctx)
		}
	}
}

// carryToMasters makes one attempt at each call.
func (s *store) carryToMasters(ctx context.Context, cluster *redis.ClusterClient, t *trip, which []int) {
	at := map[*redis.Client][]int{}
	for _, i := range which {
		p := s.partOf(t.calls[i])
		if t.errs[i] = s.reach.refusal(p); t.errs[i] != nil {
			continue
		}
		master, err := cluster.MasterForKey(ctx, t.calls[i].keys[0])
		if err != nil {
			t.errs[i] = fmt.Errorf("find master: %w", err)
			s.reach.note(p, err, 0)
			continue
		}
		at[master] = append(at[master], i)
	}
	began := time.Now()
	visit := func(master *redis.Client, list []int) {
		t.on(ctx, master, list)
		for _, i := range list {
			if t.errs[i] != nil {
				s.reach.note(s.partOf(t.calls[i]), t.errs[i], time.Since(began))
			}
		}
	}
	var visits sync.WaitGroup
	for master, list := range at {
		if len(at) == 1 {
			visit(master, list)
			break
		}
		visits.Go(func() { visit(master, list) })
	}
	visits.Wait()
}

// partOf is the part of the store that a call goes to.
func (s *store) partOf(c scriptCall) *part {
	sh, _ := shardOf(c.keys[0])
	return s.reach.of(sh)
}

// follow carries calls whose slot is moving, one by one, wherever the cluster sends them. Nobody is asked whether that is written.
func (s *store) follow(ctx context.Context, cluster *redis.ClusterClient, t *trip, which []int) {
	for _, i := range which {
		t.replies[i], t.errs[i] = t.calls[i].script.Run(ctx, cluster, t.calls[i].keys, t.calls[i].args...).Slice()
	}
}

// isMoved says that a call was not carried out because its slot is, or will be, with another master.
func isMoved(err error) bool {
	return redis.HasErrorPrefix(err, "MOVED") || redis.HasErrorPrefix(err, "ASK ") || redis.HasErrorPrefix(err, "TRYAGAIN")
}

// rest waits; false when the context ended first.
func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// place names the master that a shard lies on, as it was known a moment ago: calls to one place go together. Where they really go is
// decided when they go.
func (s *store) place(sh health.Shard) string {
	masters := s.masters.Load()
	if masters == nil {
		return ""
	}
	return masters[sh]
}

// locate finds out on which master of a cluster each shard lies. A shard whose master is not known is a place of its own.
func (s *store) locate(ctx context.Context) {
	cluster, ok := s.client.(*redis.ClusterClient)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	var masters [health.Shards]string
	for i := range masters {
		sh := health.Shard(i)
		masters[i] = "shard " + shardHex(sh)
		if master, err := cluster.MasterForKey(ctx, dueKey(sh)); err == nil {
			masters[i] = master.Options().Addr
		}
	}
	s.masters.Store(&masters)
}
