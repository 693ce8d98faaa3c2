package delivery_test

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/pulsegate/pulsegate/cmd/rig"
	"github.com/pulsegate/pulsegate/delivery"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// confirmedBy starts a replica of the gateway that accepts what one replica of the store has confirmed.
func confirmedBy(t testing.TB, client redis.UniversalClient, b *bot) *replica {
	return startReplica(t, client, b, func(c *delivery.Config) { c.Replicas = 1 })
}

// clientOf returns a client of its own for a server.
func clientOf(t testing.TB, addr string) redis.UniversalClient {
	return newClient(t, func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	})
}

func withID(in delivery.Incoming, id string) delivery.Incoming {
	in.Body = append([]byte(`{"id":"`+id+`",`), in.Body[1:]...)
	return in
}

func TestWhatNoReplicaConfirmsIsRefusedAndDeliveredOnce(t *testing.T) {
	for name, start := range map[string]func(t *testing.T) (client func() redis.UniversalClient, followers []*rig.Server){
		"redis-server": func(t *testing.T) (func() redis.UniversalClient, []*rig.Server) {
			primary := rig.StartServer(t, rig.ServerConfig{Args: rig.AppendOnly()})
			return func() redis.UniversalClient { return clientOf(t, primary.Addr) }, []*rig.Server{rig.StartReplica(t, primary)}
		},
		"cluster": func(t *testing.T) (func() redis.UniversalClient, []*rig.Server) {
			cluster := rig.StartCluster(t, 3, 3)
			return func() redis.UniversalClient { return cluster.NewClient(t) }, cluster.Nodes[3:]
		},
	} {
		t.Run(name, func(t *testing.T) {
			client, followers := start(t)
			b := newBot(t)
			r := confirmedBy(t, client(), b)
			soon(t, func() bool { return r.Put(t.Context(), registration("e1", "app")) == nil }, "a replica that has caught up")
			sure := func(r *replica, id string) {
				soon(t, func() bool { _, err := r.ask(t, withID(message("e1", id, 0), id)); return err == nil }, id)
			}
			sure(r, "ann")
			other := confirmedBy(t, client(), b)
			sure(other, "ben")

			for _, f := range followers {
				f.Pause()
			}
			event := withID(message("e1", "ann", 1), "once")
			took, err := r.ask(t, event)
			require.Equal(t, delivery.StoreUnconfirmed, refusedAs(t, err))
			require.Less(t, took, 2*time.Second)
			took, err = r.ask(t, message("e1", "ann", 2))
			require.Equal(t, delivery.StoreUnconfirmed, refusedAs(t, err))
			require.Less(t, took, 100*time.Millisecond, "it is known by now: nothing is written")
			_, err = other.ask(t, event)
			require.Equal(t, delivery.StoreUnconfirmed, refusedAs(t, err), "what was seen before waits for the replica too")
			require.Error(t, other.Create(t.Context(), registration("e2", "app")), "a registration counts as little")
			require.Equal(t, delivery.StoreUnconfirmed, r.Store().Condition)

			for _, f := range followers {
				f.Resume()
			}
			for i, again := range []*replica{r, other, r} {
				soon(t, func() bool { _, err = again.ask(t, event); return err == nil }, fmt.Sprint("confirmed, ", i))
			}
			soon(t, func() bool { return len(b.requests()) == 3 }, "both of before, and the one that was refused")
			require.NoError(t, r.Ready(t.Context()))
			soon(t, func() bool { return verify(t, client()).Queued == 0 }, "nothing waits")
			require.Len(t, b.requests(), 3)
		})
	}
}
