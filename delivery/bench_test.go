package delivery_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/stretchr/testify/require"
)

// BenchmarkEvent measures one event from accept to its settled outcome, on a real redis-server, 64 sources at once.
func BenchmarkEvent(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprintf("%d registrations", n), func(b *testing.B) { benchmarkEvent(b, n) })
	}
}

func benchmarkEvent(b *testing.B, regs int) {
	var got atomic.Int64
	done := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		if got.Add(1) == int64(b.N) {
			close(done)
		}
	}))
	b.Cleanup(srv.Close)
	r := startReplica(b, newRedisServer(b), nil, func(c *delivery.Config) {
		c.Guard.Allow = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	for i := range regs {
		reg := registration(fmt.Sprint("e", i), "app", func(r *delivery.Registration) { r.CallbackURL = srv.URL })
		require.NoError(b, r.Create(b.Context(), reg))
	}
	pad := `,"pad":"` + strings.Repeat("x", 800) + `"}`
	b.ReportAllocs()
	b.SetParallelism(32)
	b.ResetTimer()
	var n atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := int(n.Add(1))
			in := message(fmt.Sprint("e", i%regs), fmt.Sprint("author ", i%5000), i)
			in.Body = append(in.Body[:len(in.Body)-1], pad...)
			if rc := r.Accept(b.Context(), "acme", []delivery.Incoming{in}); rc[0].Err != nil {
				b.Error(rc[0].Err)
				return
			}
		}
	})
	<-done
}
