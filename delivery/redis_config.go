package delivery

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
)

// Config is what a Carrier is made of.
type Config struct {
	Client               redis.UniversalClient // bounds its calls by their contexts, and does not retry them
	Replicas             int                   // that must confirm an event, a registration or a change of control before it counts as stored; 0: none
	Rules                health.Rules
	DeliveryTimeout      time.Duration // of one try; 0 means 5 s
	QueueEvents          int64         // waiting events of one registration; 0 means 100,000
	QueueBytes           int64         // their bytes; 0 means 256 MiB
	HoldTime             time.Duration // how long an event is held for a DOWN bot whose registration says nothing of it; 0 means 24 h
	DedupeTime           time.Duration // how long the id of an event is known; 0 means 24 h
	OngoingTime          time.Duration // how long after its last message a conversation is ongoing; 0 means 24 h
	KeepFailures         int64         // records of failures that are kept of one registration; 0 means 10,000
	KeepSuccesses        int64         // records of successes; 0 means 1,000
	InFlight             int           // tries at once in this process; 0 means 24,576
	Lanes                int           // registrations worked on at once in this process, before those with a backlog take turns; 0 means 2,048
	MetricsRegistrations int           // that have series of their own in the metrics; 0 means 200, less than 0 none
	Replica              string        // unique name of this process, without colons; "" makes one
	Lineage              string        // name without dots and colons that no other living process has, and that this one had when it ran last; "" is none
	Sealer               *Sealer       // seals secrets at rest
	Guard                GuardConfig
	CallbackCA           string       // PEM certificates that callbacks are trusted by, beside the system's
	Log                  *slog.Logger // nil means slog.Default

	// Dial, when set, replaces the guarded dialer: for tests with bots that have no address.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Clock, when set, replaces the wall clock: for tests with one that is wrong, which must change nothing.
	Clock func() time.Time
}

// wakeLoop hears of events that other replicas took in for registrations that this one holds. By a second channel, which nobody speaks on,
// it tells which sealing keys it has: the server forgets that with the connection.
func (c *Carrier) wakeLoop(ctx context.Context) {
	ring := c.ringChannel()
	sub := c.store.client.Subscribe(ctx, "pg:wake:"+c.cfg.Replica, ring)
	defer sub.Close()
	ch := sub.ChannelWithSubscriptions()
	for {
		select {
		case <-ctx.Done():
			unsubscribe(context.WithoutCancel(ctx), sub, ch)
			return
		case <-c.renewed:
			next := c.ringChannel()
			if next == ring {
				continue
			}
			if err := errors.Join(sub.Subscribe(ctx, next), sub.Unsubscribe(ctx, ring)); err != nil && ctx.Err() == nil {
				c.log.Warn("cannot tell which keys this gateway has", "error", err) // told again when the connection is
			}
			ring = next
		case m, ok := <-ch:
			if !ok {
				return
			}
			if m, ok := m.(*redis.Message); ok {
				if id, err := parseMember(m.Payload); err == nil {
					c.wake(id)
				}
			}
		}
	}
}

// unsubscribeTime is how long the store may take to confirm that a replica listens no more.
const unsubscribeTime = 500 * time.Millisecond

// unsubscribe ends what a replica listens to, and waits until the store has it so: gateways are counted by what is listened to, and the end of
// a connection is noticed some time later.
func unsubscribe(ctx context.Context, sub *redis.PubSub, ch <-chan any) {
	ctx, cancel := context.WithTimeout(ctx, unsubscribeTime)
	defer cancel()
	if sub.Unsubscribe(ctx) != nil {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case m, ok := <-ch:
			if s, is := m.(*redis.Subscription); !ok || is && s.Kind == "unsubscribe" {
				return
			}
		}
	}
}
