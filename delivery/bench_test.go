package delivery_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/redis/go-redis/v9"
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
	server := newRedisServer(b)
	r := startReplica(b, server, nil, func(c *delivery.Config) {
		c.Guard.Allow = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	for i := range regs {
		reg := registration(fmt.Sprint("e", i), "app", func(r *delivery.Registration) { r.CallbackURL = srv.URL })
		require.NoError(b, r.Create(b.Context(), reg))
	}
	pad := `,"pad":"` + strings.Repeat("x", 800) + `","id":"`
	b.ReportAllocs()
	b.SetParallelism(32)
	began := redisCPU(b, server)
	b.ResetTimer()
	var n atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := int(n.Add(1))
			in := message(fmt.Sprint("e", i%regs), fmt.Sprint("author ", i%max(1, 997/regs)), i)
			in.Body = append(append(in.Body[:len(in.Body)-1], pad...), strconv.Itoa(i)+`"}`...)
			if rc := r.Accept(b.Context(), "acme", []delivery.Incoming{in}); rc[0].Err != nil {
				b.Error(rc[0].Err)
				return
			}
		}
	})
	<-done
	b.StopTimer()
	b.ReportMetric((redisCPU(b, server)-began)*1e6/float64(b.N), "redis-us/op")
}

// redisCPU is the CPU time, in seconds, that a redis-server has used.
func redisCPU(b *testing.B, client redis.UniversalClient) float64 {
	text, err := client.Info(b.Context(), "cpu").Result()
	require.NoError(b, err)
	sum := 0.0
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name == "used_cpu_sys" || name == "used_cpu_user" {
			seconds, err := strconv.ParseFloat(value, 64)
			require.NoError(b, err)
			sum += seconds
		}
	}
	return sum
}
