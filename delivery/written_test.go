package delivery_test

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// syncing makes a store say that it syncs its append-only file until a time.
type syncing struct {
	until   time.Time
	refuses bool // it does not say
}

// refusal is an answer of a server's that is an error.
type refusal string

func (r refusal) Error() string { return string(r) }
func (refusal) RedisError()     {}

func (*syncing) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (s *syncing) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if s.tell(cmd) {
			return nil
		}
		return err
	}
}

func (s *syncing) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		for _, cmd := range cmds {
			s.tell(cmd)
		}
		return err
	}
}

func (s *syncing) tell(cmd redis.Cmder) bool {
	info, ok := cmd.(*redis.StringCmd)
	if !ok || cmd.Name() != "info" {
		return false
	}
	if s.refuses {
		info.SetErr(refusal("NOPERM this user has no permissions to run the 'info' command"))
		return true
	}
	info.SetErr(nil)
	info.SetVal("aof_enabled:1\r\naof_pending_bio_fsync:0\r\n")
	if time.Now().Before(s.until) {
		info.SetVal("aof_enabled:1\r\naof_pending_bio_fsync:1\r\n")
	}
	return true
}

// A server that refused the question for a moment was never asked again.
func TestR05AServerThatRefusedToSayIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := newMiniredis(t), new(syncing)
		client.AddHook(server)
		r := startReplica(t, client, newBot(t))
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
		server.refuses = true
		r.send(t, message("e1", "ann", 1))
		server.refuses, server.until = false, time.Now().Add(time.Minute)
		r.send(t, message("e1", "ann", 2))
		<-time.After(11 * time.Second)
		_, err := r.ask(t, message("e1", "ann", 3))
		require.Equal(t, delivery.StoreUnwritable, refusedAs(t, err))
	})
}

// TestR05NothingIsConfirmedThatTheServerHoldsInMemoryOnly has the server say that a sync keeps it from writing what it was told.
func TestR05NothingIsConfirmedThatTheServerHoldsInMemoryOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := newMiniredis(t), new(syncing)
		client.AddHook(server)
		b := newBot(t)
		r := startReplica(t, client, b)
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))

		server.until = time.Now().Add(300 * time.Millisecond)
		began := time.Now()
		r.send(t, message("e1", "ann", 1))
		require.GreaterOrEqual(t, time.Since(began), 300*time.Millisecond, "the answer waits for the end of the sync")
		waited := time.Since(began)

		server.until = time.Now().Add(10 * time.Second)
		began = time.Now()
		event := withID(message("e1", "ann", 2), "own")
		_, err := r.ask(t, event)
		require.Equal(t, delivery.StoreUnwritable, refusedAs(t, err))
		require.Less(t, time.Since(began), 2*time.Second, "not for ever")
		require.Error(t, r.Create(t.Context(), registration("e2", "app")), "a registration counts as little")

		server.until = time.Time{}
		began = time.Now()
		_, err = r.ask(t, event)
		require.NoError(t, err)
		require.Less(t, time.Since(began), 10*time.Millisecond, "without a sync nothing waits")
		soon(t, func() bool { return verify(t, client).Queued == 0 }, "nothing waits")
		require.Len(t, b.requests(), 2, "what was refused is stored once all the same")
		t.Attr("measured", "an accept under a sync of 300 ms was answered after "+waited.String()+", under one of 10 s refused in time")
	})
}
