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
	"github.com/stretchr/testify/require"
)

// A process that had no file left to open a connection with took that for the bots' failure.
func TestAWantOfOurOwnIsNoFailureOfTheBot(t *testing.T) {
	for _, want := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.EADDRNOTAVAIL} {
		t.Run(want.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBot(t)
				b.status(http.StatusInternalServerError)
				var dials atomic.Int64
				client := newMiniredis(t)
				r := startReplica(t, client, b, func(c *delivery.Config) {
					c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
						if n := dials.Add(1); n <= 3 || n == 5 { // before the first try, and before the second
							return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("socket", want)}
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
