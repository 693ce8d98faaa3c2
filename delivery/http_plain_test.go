package delivery_test

import (
	"bufio"
	"bytes"
	"context"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
	"github.com/stretchr/testify/require"
)

const acceptedAnswer = "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"

// plainTrier makes tries at a bot over http, one after the other, and requires that each is acknowledged.
func plainTrier(t *testing.T, bot *wildBot, change ...func(*delivery.Config)) (c *delivery.Carrier, try func()) {
	r := outward(t, change...)
	one := r.Trier(registration("e", "app", func(r *delivery.Registration) { r.CallbackURL = bot.url("/") }), message("e", "ann", 1).Body)
	return r.Carrier, func() { require.Equal(t, health.Class(""), one(t.Context())) }
}

func TestConnectionsAreUsedAgainWhereTheyCanBe(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer string
		conns  int64 // for three tries
	}{
		"no body":                     {acceptedAnswer, 1},
		"body":                        {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 1},
		"chunks":                      {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 1},
		"hints before it":             {"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + acceptedAnswer, 1},
		"the bot does not want it":    {"HTTP/1.1 202 Accepted\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", 3},
		"an old bot":                  {"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", 3},
		"more than its length":        {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokay", 3},
		"an answer that nobody asked": {acceptedAnswer + "HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n", 3},
	} {
		t.Run(name, func(t *testing.T) {
			bot := startWildBot(t, func(b *wildBot, conn net.Conn, _ int64) {
				for in := bufio.NewReader(conn); b.read(in) != nil && b.say(conn, c.answer); {
				}
			})
			_, try := plainTrier(t, bot)
			for range 3 {
				try()
			}
			require.EqualValues(t, 3, bot.requests.Load())
			require.Equal(t, c.conns, bot.conns.Load())
		})
	}
}

// A bot that closes after each answer, without a word of it, or that says something between two requests, costs no try.
func TestIdleConnectionThatChangedIsNotUsed(t *testing.T) {
	t.Parallel()
	for name, then := range map[string]string{"closed": "", "spoken": "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n"} {
		t.Run(name, func(t *testing.T) {
			answered, done := make(chan struct{}, 3), make(chan struct{}, 3)
			bot := startWildBot(t, func(b *wildBot, conn net.Conn, _ int64) {
				in := bufio.NewReader(conn)
				b.read(in)
				b.say(conn, acceptedAnswer)
				select {
				case <-answered:
				case <-t.Context().Done():
				}
				if b.say(conn, then); then == "" {
					_ = conn.Close()
				}
				done <- struct{}{}
				b.gone(conn)
			})
			_, try := plainTrier(t, bot)
			for range 3 {
				try()
				answered <- struct{}{}
				<-done
			}
			require.EqualValues(t, 3, bot.conns.Load())
			require.EqualValues(t, 3, bot.requests.Load())
		})
	}
}

func TestIdleConnectionOutlivesTheTimeoutOfItsTry(t *testing.T) {
	t.Parallel()
	bot := startWildBot(t, accepting)
	_, try := plainTrier(t, bot, func(c *delivery.Config) { c.DeliveryTimeout = 200 * time.Millisecond })
	for range 2 {
		try()
		<-time.After(250 * time.Millisecond)
	}
	require.EqualValues(t, 1, bot.conns.Load())
}

// A try whose lane has lost its lease must end, over a new connection as over one that was kept.
func TestTryEndsWithItsContext(t *testing.T) {
	t.Parallel()
	bot := startWildBot(t, func(b *wildBot, conn net.Conn, n int64) {
		in := bufio.NewReader(conn)
		if n == 2 && b.read(in) != nil {
			b.say(conn, acceptedAnswer)
		}
		b.read(in)
		b.gone(conn)
	})
	r := outward(t, func(c *delivery.Config) { c.DeliveryTimeout = 20 * time.Second })
	try := r.Trier(registration("e", "app", func(r *delivery.Registration) { r.CallbackURL = bot.url("/") }), message("e", "ann", 1).Body)
	for n := range int64(3) {
		ctx, cancel := context.WithCancel(t.Context())
		if n != 1 { // the second is answered
			go func() {
				soon(t, func() bool { return bot.requests.Load() == n+1 }, "the request")
				cancel()
			}()
		}
		began := time.Now()
		require.Equal(t, n == 1, try(ctx) == "")
		require.Less(t, time.Since(began), 10*time.Second)
		cancel()
	}
	require.EqualValues(t, 2, bot.conns.Load())
}

// Nothing is sent for a try whose lease has gone before it began, though there is a connection.
func TestTryWhoseContextHasEndedIsNotMade(t *testing.T) {
	t.Parallel()
	bot := startWildBot(t, accepting)
	r := outward(t)
	try := r.Trier(registration("e", "app", func(r *delivery.Registration) { r.CallbackURL = bot.url("/") }), message("e", "ann", 1).Body)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for range 50 {
		require.Empty(t, try(t.Context()))
		require.NotEmpty(t, try(ended))
	}
	require.EqualValues(t, 50, bot.requests.Load())
}

func TestIdleConnectionsAreClosedInTime(t *testing.T) {
	t.Parallel()
	bot := startWildBot(t, accepting)
	c, try := plainTrier(t, bot)
	c.KeepConnections(100 * time.Millisecond)
	try()
	soon(t, func() bool { return bot.closed.Load() == 1 }, "the idle connection to be closed")
	try()
	require.EqualValues(t, 2, bot.conns.Load())
}

// An event that does not fit into the buffers between the two goes another way: the bot may answer before it has read it.
func TestBotMayAnswerBeforeItHasReadALargeEvent(t *testing.T) {
	t.Parallel()
	narrow := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			require.NoError(t, syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10))
		})
	}}
	ln, err := narrow.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	bot := startWildBotOn(t, ln, func(b *wildBot, conn net.Conn, _ int64) {
		if _, err := conn.Read(make([]byte, 64)); err == nil && b.say(conn, acceptedAnswer) {
			<-t.Context().Done()
		}
	})
	r := outward(t, func(c *delivery.Config) {
		dial := delivery.GuardedDial(c.Guard)
		c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			if err == nil {
				err = conn.(*net.TCPConn).SetWriteBuffer(4 << 10)
			}
			return conn, err
		}
	})
	body := bytes.Replace(message("e", "ann", 1).Body, []byte(`"type"`), []byte(`"pad":"`+strings.Repeat("x", 200<<10)+`","type"`), 1)
	began := time.Now()
	require.Empty(t, r.Trier(registration("e", "app", func(r *delivery.Registration) { r.CallbackURL = bot.url("/") }), body)(t.Context()))
	require.Less(t, time.Since(began), time.Second)
}
