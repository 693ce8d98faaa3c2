package delivery_test

import (
	"context"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
	"github.com/stretchr/testify/require"
)

// A process that had no file left to open a connection with took that for the bots' failure.
func TestAWantOfOurOwnIsNoFailureOfTheBot(t *testing.T) {
	for name, want := range map[string]error{
		"too many open files":           &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", syscall.EMFILE)},
		"too many open files in system": &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", syscall.ENFILE)},
		"no file to ask the resolver": &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{
			Name: "bot.example", Err: "dial udp 192.0.2.1:53: socket: too many open files", IsTemporary: true,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBot(t)
				b.status(http.StatusInternalServerError)
				var dials atomic.Int64
				client := newMiniredis(t)
				r := startReplica(t, client, b, func(c *delivery.Config) {
					c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
						if n := dials.Add(1); n <= 3 || n == 5 { // before the first try, and before the second
							return nil, want
						}
						return b.dial(ctx, network, addr)
					}
				})
				require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
				rc := r.send(t, message("e1", "ann", 1), message("e1", "ann", 2))
				soon(t, func() bool { return len(b.requests()) == 1 }, "the first try")
				b.status(http.StatusAccepted)
				for i := range rc {
					rec := r.settled(t, rc[i].ID)
					require.Equal(t, delivery.Delivered, rec.Fate)
					require.Equal(t, 2-i, rec.Tries, "what was not made is no try")
				}
				counts := r.healthOf(t, "app").Counts
				require.Equal(t, []int64{2, 0}, []int64{counts.Acknowledged, counts.Failed})
				require.Equal(t, "2", b.requests()[1].header.Get("Pulsegate-Try"))
				balanced(t, client)
			})
		})
	}
}

// A machine without a way to a bot's kind of address has that for ever: the bot is told of as it is.
func TestAnAddressWithoutAWayToItIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startReplica(t, newMiniredis(t), newBot(t), func(c *delivery.Config) {
			c.Dial = func(_ context.Context, network, _ string) (net.Conn, error) {
				return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.EADDRNOTAVAIL)}
			}
		})
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
		rec := r.settled(t, r.send(t, message("e1", "ann", 1))[0].ID)
		require.Equal(t, delivery.Failed, rec.Fate)
		require.Equal(t, health.Refused, rec.Class)
	})
}
