package delivery_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// full says that tests run in the size of their row in the checklist, and not in the short one.
func full() bool { return os.Getenv("PULSEGATE_FAULTS") == "full" }

// size is the full size or the short one.
func size(fullSize, short int) int {
	if full() {
		return fullSize
	}
	return short
}

// loopback are the addresses that the bots of the tests live at.
var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// outward starts a replica on a redis-server of its own that may call loopback addresses, and that no failures make DOWN.
func outward(t testing.TB, change ...func(*delivery.Config)) *replica {
	return outwardOn(t, newRedisServer(t), change...)
}

func outwardOn(t testing.TB, client redis.UniversalClient, change ...func(*delivery.Config)) *replica {
	return startReplica(t, client, nil, append([]func(*delivery.Config){func(c *delivery.Config) {
		c.Guard = delivery.GuardConfig{AllowHTTP: true, Allow: loopback}
		c.Rules = health.Rules{MinAttempts: 1 << 40}
		c.DeliveryTimeout = time.Second
	}}, change...)...)
}

// deliver registers a bot at url on an entity of its own, sends it one event, and returns what became of it.
func (r *replica) deliver(t testing.TB, ext, url string, change ...func(*delivery.Registration)) delivery.Record {
	require.NoError(t, r.Create(t.Context(), registration(ext, "app-"+ext, append(change, func(r *delivery.Registration) { r.CallbackURL = url })...)))
	return r.settled(t, r.send(t, message(ext, "ann", 1))[0].ID)
}

// together runs one delivery for each case at the same time, and checks each by its name.
func together[C any](t *testing.T, r *replica, cases map[string]C, url func(C) string, check func(t *testing.T, c C, rec delivery.Record)) {
	t.Helper()
	events, n := map[string]string{}, 0
	for name, c := range cases {
		ext := fmt.Sprint("case-", n)
		n++
		require.NoError(t, r.Create(t.Context(), registration(ext, "app-"+ext, func(r *delivery.Registration) { r.CallbackURL = url(c) })))
		events[name] = r.send(t, message(ext, "ann", 1))[0].ID
	}
	for name, id := range events {
		t.Run(name, func(t *testing.T) { check(t, cases[name], r.settled(t, id)) })
	}
}

// wildBot is a bot at a real address that does to each connection whatever it is told.
type wildBot struct {
	addr     string
	conns    atomic.Int64
	closed   atomic.Int64 // connections whose other side is gone, as seen by gone
	requests atomic.Int64 // read as a whole
	sent     atomic.Int64 // bytes

	mu   sync.Mutex
	seen []*http.Request
	open map[net.Conn]bool
}

// startWildBot serves each connection, the n-th from 1 on, until the test ends. The connection is closed when serve returns.
func startWildBot(t testing.TB, serve func(b *wildBot, c net.Conn, n int64)) *wildBot {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return startWildBotOn(t, ln, serve)
}

func startWildBotOn(t testing.TB, ln net.Listener, serve func(b *wildBot, c net.Conn, n int64)) *wildBot {
	b := &wildBot{addr: ln.Addr().String(), open: map[net.Conn]bool{}}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			b.own(c, true)
			n := b.conns.Add(1)
			work.Go(func() {
				defer b.own(c, false)
				serve(b, c, n)
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		b.mu.Lock()
		for c := range b.open {
			_ = c.Close()
		}
		b.mu.Unlock()
		work.Wait()
	})
	return b
}

func (b *wildBot) own(c net.Conn, yes bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if yes {
		b.open[c] = true
		return
	}
	delete(b.open, c)
	_ = c.Close()
}

func (b *wildBot) url(path string) string { return "http://" + b.addr + path }

// read reads one request as a whole; nil when the other side is gone.
func (b *wildBot) read(in *bufio.Reader) *http.Request {
	r, err := http.ReadRequest(in)
	if err != nil {
		return nil
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return nil
	}
	b.requests.Add(1)
	b.mu.Lock()
	b.seen = append(b.seen, r)
	b.mu.Unlock()
	return r
}

// say writes bytes as they are, and tells whether the other side was there.
func (b *wildBot) say(c net.Conn, text string) bool {
	n, err := io.WriteString(c, text)
	b.sent.Add(int64(n))
	return err == nil
}

// drip writes a byte every 50 ms until the other side is gone.
func (b *wildBot) drip(c net.Conn, text string) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		if !b.say(c, string(text[i%len(text)])) {
			return
		}
		<-tick.C
	}
}

// gone waits until the other side is gone.
func (b *wildBot) gone(c net.Conn) {
	_, _ = io.Copy(io.Discard, c)
	b.closed.Add(1)
}

func (b *wildBot) all() []*http.Request {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]*http.Request(nil), b.seen...)
}

// answering serves requests with one answer each, as it stands, and then waits for the other side to go.
func answering(answer func(r *http.Request) string) func(*wildBot, net.Conn, int64) {
	return func(b *wildBot, c net.Conn, _ int64) {
		in := bufio.NewReader(c)
		for {
			r := b.read(in)
			if r == nil {
				b.closed.Add(1)
				return
			}
			if !b.say(c, answer(r)) {
				return
			}
		}
	}
}

// accepting serves requests as a bot in good health does.
func accepting(b *wildBot, c net.Conn, n int64) {
	answering(func(*http.Request) string { return "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n" })(b, c, n)
}

// overTLS puts TLS around what serve does; a handshake that fails ends the connection.
func overTLS(cfg *tls.Config, serve func(b *wildBot, c net.Conn, n int64)) func(*wildBot, net.Conn, int64) {
	return func(b *wildBot, c net.Conn, n int64) {
		secure := tls.Server(c, cfg)
		if secure.HandshakeContext(context.Background()) != nil {
			b.closed.Add(1)
			return
		}
		serve(b, secure, n)
		_ = secure.Close()
	}
}

// watchedDial counts what is read from bots and notes what is dialled, behind the guard.
type watchedDial struct {
	read, dialled atomic.Int64
	addrs         sync.Map
}

func (w *watchedDial) on(c *delivery.Config) {
	dial := delivery.GuardedDial(c.Guard)
	c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		w.dialled.Add(1)
		w.addrs.Store(addr, true)
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &countedConn{conn, w}, nil
	}
}

type countedConn struct {
	net.Conn
	w *watchedDial
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.w.read.Add(int64(n))
	return n, err
}

// free waits until no try holds a slot, and returns how long that took.
func (r *replica) free(t testing.TB) time.Duration {
	t.Helper()
	began := time.Now()
	soon(t, func() bool { return r.TriesUnderWay() == 0 }, "every slot to be released")
	return time.Since(began)
}

// requireBounded requires that the last try ended at the timeout, within the 250 ms that the checklist gives.
func requireBounded(t testing.TB, timeout, latency time.Duration) {
	t.Helper()
	require.InDelta(t, timeout.Seconds(), latency.Seconds(), 0.25, "the try ends at its timeout")
}
