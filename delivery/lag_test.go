package delivery_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// lag is a hook that keeps a replica waiting for each of its round trips, in ns.
type lag struct{ atomic.Int64 }

func (l *lag) DialHook(next redis.DialHook) redis.DialHook { return next }

func (l *lag) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if err := l.wait(ctx); err != nil {
			cmd.SetErr(err)
			return err
		}
		return next(ctx, cmd)
	}
}

func (l *lag) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if err := l.wait(ctx); err != nil {
			for _, cmd := range cmds {
				cmd.SetErr(err)
			}
			return err
		}
		return next(ctx, cmds)
	}
}

func (l *lag) wait(ctx context.Context) error {
	select {
	case <-time.After(time.Duration(l.Load())):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestLanesThatWaitToJudgeKeepTheirLeases: many bots change at one moment, on a store that is slow but well. One lane after the other makes its
// transition; those that wait renew their leases, and nobody delivers beside them.
func TestLanesThatWaitToJudgeKeepTheirLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const bots = 300
		_, clients := newLines(t, 2)
		slow := &lag{}
		b := newBot(t)
		b.answers(func(q request) int {
			if q.event["author"].(map[string]any)["id"] == "slow" {
				<-time.After(10 * time.Second)
			} else {
				<-time.After(time.Second)
			}
			return http.StatusAccepted // the first one makes the bot verified: a transition
		})
		patient := func(c *delivery.Config) { c.DeliveryTimeout = 20 * time.Second }
		var r *replica
		for _, client := range clients {
			client.AddHook(slow)
			r = startReplica(t, client, b, patient)
		}
		for i := range bots {
			require.NoError(t, r.Create(t.Context(), registration(fmt.Sprint("e", i), "app")))
		}
		var sent []delivery.Receipt
		for i := range bots {
			sent = append(sent, r.send(t, message(fmt.Sprint("e", i), "slow", i), message(fmt.Sprint("e", i), "quick", i))...)
		}
		slow.Store(int64(200 * time.Millisecond))
		<-time.After(time.Minute)
		slow.Store(0)
		for _, rc := range sent {
			require.Equal(t, 1, timesSeen(b, rc.ID))
		}
		require.EqualValues(t, 2*bots, balanced(t, clients[0]).Fates[delivery.Delivered])
	})
}

// TestTriesEndWithTheLease: a replica from which the store has gone makes no request any more when another may deliver, wherever it waits just then.
func TestTriesEndWithTheLease(t *testing.T) {
	for _, after := range []time.Duration{100 * time.Millisecond, 500 * time.Millisecond, 1900 * time.Millisecond, 3900 * time.Millisecond} {
		t.Run(after.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, clients := newLines(t, 2)
				gone := &lag{}
				clients[0].AddHook(gone)
				b := newBot(t)
				var cut time.Time
				done := make(chan struct{})
				stale := startReplica(t, clients[0], b, func(c *delivery.Config) {
					c.DeliveryTimeout = 20 * time.Second
					c.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) { // takes long to connect
						<-ctx.Done()
						cut = time.Now()
						close(done)
						return nil, ctx.Err()
					}
				})
				require.NoError(t, stale.Create(t.Context(), registration("e1", "app")))
				stale.send(t, message("e1", "ann", 1))
				<-time.After(after)
				gone.Store(int64(time.Hour))
				startReplica(t, clients[1], b)
				soon(t, func() bool { return len(b.requests()) > 0 }, "the other takes over")
				<-done
				require.False(t, cut.After(b.requests()[0].at), "cut %v after the other had delivered", cut.Sub(b.requests()[0].at))
				gone.Store(0)
			})
		})
	}
}

// tardy is a hook that lets the next call for which when says so be carried out, and its answer come so late, whatever the context says.
type tardy struct {
	by     time.Duration
	before bool // it waits before the call, and not after it
	when   func(args string) bool
	armed  atomic.Bool
}

func (l *tardy) DialHook(next redis.DialHook) redis.DialHook { return next }

func (l *tardy) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		return l.do(func() error { return next(context.WithoutCancel(ctx), cmd) }, cmd)
	}
}

func (l *tardy) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		return l.do(func() error { return next(context.WithoutCancel(ctx), cmds) }, cmds...)
	}
}

func (l *tardy) do(next func() error, cmds ...redis.Cmder) error {
	late := slices.ContainsFunc(cmds, func(cmd redis.Cmder) bool {
		var text strings.Builder
		for _, arg := range cmd.Args() {
			if s, ok := arg.(*string); ok {
				arg = *s
			}
			fmt.Fprint(&text, arg, " ")
		}
		return l.armed.Load() && l.when(text.String()) && l.armed.CompareAndSwap(true, false)
	})
	if late && l.before {
		<-time.After(l.by)
	}
	err := next()
	if late && !l.before {
		<-time.After(l.by)
	}
	return err
}

// A lane that heard of its lease only when that would have been over had cut its tries, and held the lease ever after with nobody to deliver.
func TestALaneThatHearsTooLateOfItsLeaseGivesTheRegistrationBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, clients := newLines(t, 1)
		late := &tardy{by: 4500 * time.Millisecond, when: func(args string) bool { return strings.Contains(args, ":st:") }}
		clients[0].AddHook(late)
		b := newBot(t)
		hangs := make(chan struct{})
		b.answers(func(q request) int {
			if q.number() == 1 {
				<-hangs
			}
			return http.StatusAccepted
		})
		r := startReplica(t, clients[0], b, func(c *delivery.Config) { c.DeliveryTimeout = time.Minute })
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
		rcs := r.send(t, message("e1", "ann", 1), message("e1", "ann", 2))
		<-time.After(1900 * time.Millisecond)
		late.armed.Store(true) // the renewal
		<-time.After(5 * time.Second)
		require.False(t, late.armed.Load())
		close(hangs)
		<-time.After(time.Second)
		rcs = append(rcs, r.send(t, message("e1", "ben", 3))...)
		<-time.After(10 * time.Second)
		for _, rc := range rcs {
			require.Equal(t, delivery.Delivered, r.fate(t, rc.ID).Fate)
		}
		balanced(t, clients[0])
	})
}

// Who began to talk while a change was on its way stayed with a bot that was gone: the moment of the change was that of the asking.
func TestConversationsThatBeginWhileABotLeavesAreHandedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, clients := newLines(t, 2)
		late := &tardy{by: time.Second, before: true, when: func(args string) bool { return strings.Contains(args, ":reg:") && strings.HasPrefix(args, "evalsha") }}
		clients[0].AddHook(late)
		b := newBot(t)
		b.status(0)
		r, other := startReplica(t, clients[0], b), startReplica(t, clients[1], b)
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
		late.armed.Store(true)
		gone := make(chan error, 1)
		go func() { gone <- r.Delete(t.Context(), registration("e1", "app").RegID) }()
		<-time.After(500 * time.Millisecond)
		rc := other.send(t, message("e1", "ann", 1))
		require.Equal(t, delivery.Queued, rc[0].Fate)
		require.NoError(t, <-gone)
		require.False(t, late.armed.Load())
		r.runJobs(t)
		owner, err := r.Control(t.Context(), entity("e1"), "ann")
		require.NoError(t, err)
		require.Equal(t, delivery.Agent, owner.Owner.Type)
	})
}
