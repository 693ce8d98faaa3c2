package delivery_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/netip"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/stretchr/testify/require"
)

// What one event may allocate on its way: as seen when this was written, and a twentieth more.
const (
	acceptAllocs = 122  // alone, with a round trip of its own
	manyAllocs   = 1469 // 64 in one call
	tryAllocs    = 22
	drainAllocs  = 58 // reading, trying and settling
)

// raceSlack is how much more it may be under the race detector, which keeps pools from giving back what they were given.
const raceSlack = 1.35

func underRace() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

func TestAllocationsOfAnEventStayWhereTheyAre(t *testing.T) {
	slack := 1.0
	if underRace() {
		slack = raceSlack
	}
	for _, c := range []struct {
		name  string
		bench func(b *testing.B)
		most  float64
	}{{"accept", BenchmarkAccept, acceptAllocs}, {"accept 64", BenchmarkAcceptMany, manyAllocs}, {"try", BenchmarkTry, tryAllocs}, {"drain", BenchmarkDrain, drainAllocs}} {
		t.Run(c.name, func(t *testing.T) {
			got := testing.Benchmark(c.bench)
			require.Positive(t, got.N, "it did not run")
			t.Logf("%s: %d allocations, %d bytes", c.name, got.AllocsPerOp(), got.AllocedBytesPerOp())
			require.LessOrEqual(t, float64(got.AllocsPerOp()), slack*c.most, "an event allocates more than it did")
		})
	}
}

// BenchmarkAccept is an event taken in, from its bytes to the reply of the store.
func BenchmarkAccept(b *testing.B) { benchmarkAccept(b, 1) }

// BenchmarkAcceptMany is 64 of them taken in at once.
func BenchmarkAcceptMany(b *testing.B) { benchmarkAccept(b, 64) }

func benchmarkAccept(b *testing.B, n int) {
	c, _, _ := idleCarrier(b)
	var in []delivery.Incoming
	for i := range n {
		in = append(in, padded(i))
	}
	b.ReportAllocs()
	for b.Loop() {
		if rc := c.Accept(b.Context(), "acme", in); rc[0].Err != nil {
			b.Fatal(rc[0].Err)
		}
	}
}

// BenchmarkTry is one request to a bot that answers at once.
func BenchmarkTry(b *testing.B) {
	c, reg, _ := idleCarrier(b)
	try := c.Trier(reg, padded(1).Body)
	b.ReportAllocs()
	for b.Loop() {
		if class := try(b.Context()); class != "" {
			b.Fatal(class)
		}
	}
}

// BenchmarkDrain is an event that waits, from the queue to its fate.
func BenchmarkDrain(b *testing.B) {
	c, _, bot := idleCarrier(b)
	for i := range b.N {
		if rc := c.Accept(b.Context(), "acme", []delivery.Incoming{padded(i)}); rc[0].Err != nil {
			b.Fatal(rc[0].Err)
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	ctx, stop := context.WithCancel(b.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = c.Run(ctx) }()
	for b.N > int(bot.answered.Load()) {
		<-bot.told
	}
	stop() // what was answered is settled before it ends
	<-ended
	b.StopTimer()
}

// idleCarrier is a carrier that takes events in and does not run, with one registration whose bot allocates nothing.
func idleCarrier(b *testing.B) (*delivery.Carrier, delivery.Registration, *frugalBot) {
	bot := startFrugalBot(b)
	sealer, err := delivery.NewSealer([]byte("0123456789abcdef0123456789abcdef"))
	require.NoError(b, err)
	c, err := delivery.New(delivery.Config{
		Client: newRedisServer(b), Sealer: sealer, QueueEvents: 1 << 40, QueueBytes: 1 << 50,
		Guard: delivery.GuardConfig{AllowHTTP: true, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}},
	})
	require.NoError(b, err)
	soon(b, func() bool { return c.Ready(b.Context()) == nil }, "the store")
	reg := registration("e1", "app", func(r *delivery.Registration) { r.CallbackURL = "http://" + bot.addr })
	require.NoError(b, c.Create(b.Context(), reg))
	return c, reg, bot
}

func padded(n int) delivery.Incoming {
	in := message("e1", "author "+strconv.Itoa(n%500), n)
	in.Body = append(in.Body[:len(in.Body)-1], `,"pad":"`+strings.Repeat("x", 800)+`"}`...)
	return in
}

// frugalBot acknowledges what it gets, and allocates nothing for it.
type frugalBot struct {
	addr     string
	answered atomic.Int64
	told     chan struct{} // something was answered
}

func startFrugalBot(b *testing.B) *frugalBot {
	l, err := new(net.ListenConfig).Listen(b.Context(), "tcp", "127.0.0.1:0")
	require.NoError(b, err)
	bot := &frugalBot{addr: l.Addr().String(), told: make(chan struct{}, 1)}
	var serving sync.WaitGroup
	var open sync.Map // connections that a carrier which does not run never closes
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			open.Store(conn, nil)
			serving.Go(func() { bot.serve(conn) })
		}
	})
	b.Cleanup(func() {
		_ = l.Close()
		open.Range(func(conn, _ any) bool { return conn.(net.Conn).Close() == nil || true })
		serving.Wait()
	})
	return bot
}

func (bot *frugalBot) serve(conn net.Conn) {
	defer conn.Close()
	const length = "content-length: "
	r, size := bufio.NewReaderSize(conn, 8<<10), 0
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		if len(line) > len(length) && strings.EqualFold(string(line[:len(length)]), length) {
			size = 0
			for _, digit := range line[len(length) : len(line)-2] {
				size = 10*size + int(digit-'0')
			}
		}
		if len(line) > 2 {
			continue
		}
		if _, err := io.CopyN(io.Discard, r, int64(size)); err != nil {
			return
		}
		if _, err := io.WriteString(conn, "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"); err != nil {
			return
		}
		bot.answered.Add(1)
		select {
		case bot.told <- struct{}{}:
		default:
		}
	}
}
