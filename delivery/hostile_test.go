package delivery_test

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
	"github.com/stretchr/testify/require"
)

func TestD01RedirectsAreNotFollowed(t *testing.T) {
	var watch watchedDial
	r := outward(t, watch.on)
	canary := startWildBot(t, accepting)
	bot := startWildBot(t, answering(func(r *http.Request) string {
		status, to, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		where := map[string]string{"other": canary.url("/stolen"), "metadata": "http://169.254.169.254/latest/meta-data", "itself": "/again"}[to]
		return fmt.Sprintf("HTTP/1.1 %s Elsewhere\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n", status, where)
	}))
	cases := map[string]string{}
	for _, status := range []string{"301", "302", "303", "307", "308"} {
		for _, to := range []string{"other", "metadata", "itself"} {
			cases[status+" to "+to] = bot.url("/" + status + "/" + to)
		}
	}
	together(t, r, cases, func(url string) string { return url }, func(t *testing.T, url string, rec delivery.Record) {
		require.Equal(t, delivery.Failed, rec.Fate)
		require.Equal(t, health.Status, rec.Class)
		require.Contains(t, url, rec.Code)
		require.Contains(t, rec.Message, "redirects are not followed")
	})
	require.Zero(t, canary.conns.Load())
	watch.addrs.Range(func(addr, _ any) bool { require.Equal(t, bot.addr, addr); return true })
	for _, r := range bot.all() {
		require.NotContains(t, r.URL.Path, "again")
	}
	require.EqualValues(t, 2*len(cases), bot.requests.Load())
	t.Attr("measured", fmt.Sprintf("%d redirects, %d requests to where they point", len(cases), canary.conns.Load()))
}

// allocated is how many bytes f allocates at most, whoever else allocates meanwhile included.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// flood writes zeros, in chunks if so, until the other side is gone or n bytes are written.
func (b *wildBot) flood(c net.Conn, n int64, chunked bool) {
	block := make([]byte, 16<<10)
	if chunked {
		block = []byte("4000\r\n" + string(block) + "\r\n")
	}
	for ; n > 0; n -= 16 << 10 {
		if _, err := c.Write(block); err != nil {
			break
		}
	}
	b.gone(c)
}

func TestD02EndlessBodiesAreNotRead(t *testing.T) {
	heads := map[string]struct {
		head    string
		chunked bool
		fate    delivery.Fate
	}{
		"1 GiB after 202":          {"HTTP/1.1 202 Accepted\r\nContent-Length: 1073741824\r\n\r\n", false, delivery.Delivered},
		"1 GiB after 500":          {"HTTP/1.1 500 Broken\r\nContent-Length: 1073741824\r\n\r\n", false, delivery.Failed},
		"endless chunks":           {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", true, delivery.Delivered},
		"endless chunks after 500": {"HTTP/1.1 500 Broken\r\nTransfer-Encoding: chunked\r\n\r\n", true, delivery.Failed},
		"endless until the end":    {"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", false, delivery.Delivered},
		"body after 204":           {"HTTP/1.1 204 No Content\r\n\r\n", false, delivery.Failed},
		"body beyond its length":   {"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n", false, delivery.Delivered},
	}
	log.SetOutput(io.Discard) // net/http tells it what a bot says unasked
	t.Cleanup(func() { log.SetOutput(os.Stderr) })
	var mostRead int64
	var mostHeap uint64
	for name, h := range heads {
		t.Run(name, func(t *testing.T) {
			var watch watchedDial
			r := outward(t, watch.on)
			bot := startWildBot(t, func(b *wildBot, c net.Conn, _ int64) {
				if b.read(bufio.NewReader(c)) != nil && b.say(c, h.head) {
					b.flood(c, 1<<30, h.chunked)
				}
			})
			var rec delivery.Record
			require.NoError(t, r.Create(t.Context(), registration("e", "app", func(r *delivery.Registration) { r.CallbackURL = bot.url("/") })))
			heap := allocated(func() {
				rec = r.settled(t, r.send(t, message("e", "ann", 1))[0].ID)
				soon(t, func() bool { return bot.closed.Load() == bot.conns.Load() }, "connections to be closed")
			})
			require.Equal(t, h.fate, rec.Fate)
			tries := int64(rec.Tries)
			require.LessOrEqual(t, watch.read.Load()/tries, int64(64<<10+8<<10), "64 KiB, and what one read of the connection brings beyond")
			require.Less(t, heap/uint64(tries), uint64(1<<20))
			require.LessOrEqual(t, len(rec.Message), 512)
			mostRead, mostHeap = max(mostRead, watch.read.Load()/tries), max(mostHeap, heap/uint64(tries))
		})
	}
	t.Attr("measured", fmt.Sprintf("at most %d KiB read of a response, %d KiB allocated for a whole delivery, connections closed", mostRead>>10, mostHeap>>10))
}

func TestD03PackedBodiesAreNotUnpacked(t *testing.T) {
	inflated := size(1<<30, 64<<20)
	zeros := io.LimitReader(zeroReader{}, int64(inflated))
	var zipped, deflated bytes.Buffer
	z, err := gzip.NewWriterLevel(&zipped, gzip.BestSpeed)
	require.NoError(t, err)
	d, err := flate.NewWriter(&deflated, flate.BestSpeed)
	require.NoError(t, err)
	_, err = io.Copy(io.MultiWriter(z, d), zeros)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	require.NoError(t, d.Close())
	bombs := map[string]string{"gzip": zipped.String(), "deflate": deflated.String(), "br": strings.Repeat("\xcb\xff", 60_000)}
	var most uint64
	for encoding, body := range bombs {
		t.Run(encoding, func(t *testing.T) {
			answer := fmt.Appendf(nil, "HTTP/1.1 500 Broken\r\nContent-Encoding: %s\r\nContent-Length: %d\r\n\r\n%s", encoding, len(body), body)
			bot := startWildBot(t, func(b *wildBot, c net.Conn, _ int64) {
				if b.read(bufio.NewReader(c)) != nil {
					_, _ = c.Write(answer)
					b.gone(c)
				}
			})
			r := outward(t)
			require.NoError(t, r.Create(t.Context(), registration("e", "app", func(r *delivery.Registration) { r.CallbackURL = bot.url("/") })))
			var rec delivery.Record
			heap := allocated(func() { rec = r.settled(t, r.send(t, message("e", "ann", 1))[0].ID) })
			require.Equal(t, health.Status, rec.Class)
			require.LessOrEqual(t, len(rec.Message), 512)
			require.Less(t, heap/2, uint64(1<<20), "for each of two tries")
			for _, req := range bot.all() {
				require.Empty(t, req.Header.Get("Accept-Encoding"), "nothing packed is asked for")
			}
			most = max(most, heap/2)
		})
	}
	t.Attr("measured", fmt.Sprintf("%d MiB packed into %d KiB: %d KiB allocated for a try", inflated>>20, zipped.Len()>>10, most>>10))
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestD04DrippingEndsAtTheTimeout(t *testing.T) {
	timeout := time.Duration(size(5, 1)) * time.Second
	r := outward(t, func(c *delivery.Config) { c.DeliveryTimeout = timeout })
	type slow struct {
		bot    *wildBot
		scheme string
	}
	afterRequest := func(f func(b *wildBot, c net.Conn)) slow {
		return slow{startWildBot(t, func(b *wildBot, c net.Conn, _ int64) {
			if b.read(bufio.NewReader(c)) != nil {
				f(b, c)
			}
			b.gone(c)
		}), "http://"}
	}
	cases := map[string]slow{
		"nothing":     afterRequest(func(*wildBot, net.Conn) {}),
		"status line": afterRequest(func(b *wildBot, c net.Conn) { b.drip(c, "HTTP/1.1 200 "+strings.Repeat("O", 1000)) }),
		"headers": afterRequest(func(b *wildBot, c net.Conn) {
			b.say(c, "HTTP/1.1 200 OK\r\n")
			b.drip(c, "X-Drip: "+strings.Repeat("a", 1000))
		}),
		"hundreds": afterRequest(func(b *wildBot, c net.Conn) { b.drip(c, "HTTP/1.1 100 Continue\r\n\r\n") }),
		"handshake": {startWildBot(t, func(b *wildBot, c net.Conn, _ int64) {
			b.drip(c, "\x16\x03\x03\x3f\xff\x02\x00\x3f\xfb"+strings.Repeat("\x03", 1000))
			b.gone(c)
		}), "https://"},
		"silent handshake": {startWildBot(t, func(b *wildBot, c net.Conn, _ int64) { b.gone(c) }), "https://"},
	}
	var worst time.Duration
	together(t, r, cases, func(s slow) string { return s.scheme + s.bot.addr + "/" }, func(t *testing.T, s slow, rec delivery.Record) {
		require.Equal(t, delivery.Failed, rec.Fate)
		require.Equal(t, health.Timeout, rec.Class, rec.Message)
		require.Equal(t, 2, rec.Tries)
		requireBounded(t, timeout, rec.Latency)
		worst = max(worst, (rec.Latency - timeout).Abs())
		if s.scheme == "http://" {
			soon(t, func() bool { return s.bot.closed.Load() == s.bot.conns.Load() }, "the connections to be closed")
		}
	})
	r.free(t)
	t.Attr("measured", fmt.Sprintf("%d kinds of dripping ended at %v, at most %d ms off; every slot released", len(cases), timeout, worst.Milliseconds()))
}

func TestD04BotThatDoesNotReadEndsAtTheTimeout(t *testing.T) {
	r := outward(t)
	bot := startWildBot(t, func(_ *wildBot, c net.Conn, _ int64) {
		_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
		<-t.Context().Done()
	})
	require.NoError(t, r.Create(t.Context(), registration("e", "app", func(r *delivery.Registration) { r.CallbackURL = bot.url("/") })))
	in := message("e", "ann", 1)
	in.Body = append(in.Body[:len(in.Body)-1], `,"padding":"`+strings.Repeat("p", 250<<10)+`"}`...)
	rec := r.settled(t, r.send(t, in)[0].ID)
	require.Equal(t, health.Timeout, rec.Class, rec.Message)
	requireBounded(t, time.Second, rec.Latency)
	r.free(t)
	t.Attr("measured", fmt.Sprintf("a bot that reads nothing of 250 KiB: the try ended after %v", rec.Latency))
}

func TestD05EndlessBodyIsAcknowledgedByItsStatus(t *testing.T) {
	r := outward(t, func(c *delivery.Config) { c.DeliveryTimeout = 20 * time.Second })
	said := make(chan time.Time, 4)
	bot := startWildBot(t, func(b *wildBot, c net.Conn, _ int64) {
		if b.read(bufio.NewReader(c)) == nil {
			return
		}
		b.say(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		said <- time.Now()
		b.drip(c, "1\r\na\r\n")
	})
	require.NoError(t, r.Create(t.Context(), registration("e", "app", func(r *delivery.Registration) { r.CallbackURL = bot.url("/") })))
	id := r.send(t, message("e", "ann", 1))[0].ID
	at := <-said
	r.free(t)
	released := time.Since(at)
	rec := r.settled(t, id)
	require.Equal(t, delivery.Delivered, rec.Fate)
	require.Equal(t, 1, rec.Tries)
	require.Less(t, rec.Latency, released)
	require.LessOrEqual(t, released, time.Second)
	t.Attr("measured", fmt.Sprintf("acknowledged after %v, slot released %d ms after the status", rec.Latency, released.Milliseconds()))
}

func TestD06GarbageHasAClass(t *testing.T) {
	const none = health.Acknowledged
	headers := func(n int, text string) string {
		return "HTTP/1.1 200 OK\r\n" + strings.Repeat(text, n) + "Content-Length: 0\r\n\r\n"
	}
	cases := map[string]struct {
		answer string
		class  health.Class
	}{
		"headers of 2 MB":             {headers(1, "X: "+strings.Repeat("a", 2<<20)+"\r\n"), health.Broken},
		"10,000 headers":              {headers(10_000, "X-Header: value\r\n"), health.Broken},
		"NUL in a header":             {headers(1, "X: a\x00b\r\n"), health.Broken},
		"NUL in a header's name":      {headers(1, "X\x00Y: a\r\n"), health.Broken},
		"header without a colon":      {headers(1, "nonsense\r\n"), health.Broken},
		"blank before the colon":      {headers(1, "X : a\r\n"), none},
		"two lengths":                 {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", health.Broken},
		"negative length":             {"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", health.Broken},
		"length that is no number":    {"HTTP/1.1 200 OK\r\nContent-Length: 1e3\r\n\r\n", health.Broken},
		"unknown transfer encoding":   {"HTTP/1.1 200 OK\r\nTransfer-Encoding: rot13\r\n\r\n", health.Broken},
		"HTTP/0.9":                    {"<html>hello</html>", health.Broken},
		"another protocol":            {"220 smtp.example ESMTP\r\n", health.Broken},
		"TLS on a plain port":         {"\x15\x03\x01\x00\x02\x02\x50", health.Broken},
		"binary":                      {"\x00\xff\xfe\x1b[2J\x07" + strings.Repeat("\x80", 5000), health.Broken},
		"status of four digits":       {"HTTP/1.1 2000 OK\r\n\r\n", health.Broken},
		"status of letters":           {"HTTP/1.1 20x OK\r\n\r\n", health.Broken},
		"negative status":             {"HTTP/1.1 -20 OK\r\n\r\n", health.Broken},
		"version that is none":        {"HTTP/x.y 200 OK\r\n\r\n", health.Broken},
		"end within the headers":      {"HTTP/1.1 200 OK\r\nX: ", health.Broken},
		"nothing at all":              {"", health.Broken},
		"pretends to be TLS trouble":  {headers(1, "X\x00 remote error: tls: bad certificate\r\n"), health.Broken},
		"line feeds alone":            {"HTTP/1.1 202 Accepted\nContent-Length: 0\n\n", none},
		"no reason":                   {"HTTP/1.1 202\r\nContent-Length: 0\r\n\r\n", none},
		"chunk size that is none":     {"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", none},
		"chunk too large":             {"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n", none},
		"body shorter than said":      {"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", none},
		"chunk size of a failure":     {"HTTP/1.1 500 Broken\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", health.Status},
		"failure cut off in its body": {"HTTP/1.1 503 Sorry\r\nContent-Length: 100\r\n\r\nsho", health.Status},
	}
	r := outward(t)
	together(t, r, cases, func(c struct {
		answer string
		class  health.Class
	},
	) string {
		return startWildBot(t, func(b *wildBot, conn net.Conn, _ int64) {
			if b.read(bufio.NewReader(conn)) != nil {
				b.say(conn, c.answer)
				_ = conn.(*net.TCPConn).CloseWrite()
				b.gone(conn)
			}
		}).url("/")
	}, func(t *testing.T, c struct {
		answer string
		class  health.Class
	}, rec delivery.Record,
	) {
		require.Equal(t, c.class, rec.Class, rec.Message)
		requireHarmless(t, rec.Message)
		if c.class == none {
			require.Equal(t, delivery.Delivered, rec.Fate)
			return
		}
		require.Equal(t, delivery.Failed, rec.Fate)
		require.Equal(t, 2, rec.Tries)
	})
	require.Zero(t, r.TriesUnderWay())
	t.Attr("measured", fmt.Sprintf("%d kinds of garbage, each with its class, no panic", len(cases)))
}

// requireHarmless requires a message in words that moves no terminal's cursor and is not that of a fault of our own.
func requireHarmless(t testing.TB, message string) {
	t.Helper()
	require.LessOrEqual(t, len(message), 512)
	require.NotContains(t, message, "gateway could not")
	require.False(t, strings.ContainsFunc(message, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' }), "%q", message)
}

func TestD06DeadConnectionsHaveAClass(t *testing.T) {
	r := outward(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	nobody := closed.Addr().String()
	require.NoError(t, closed.Close())
	const either health.Class = "refused or broken" // as the reset meets the dial or what comes after it
	reset := func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) }
	cases := map[string]struct {
		url   string
		class health.Class
	}{
		"nobody listens":         {"http://" + nobody + "/", health.Refused},
		"nobody listens for TLS": {"https://" + nobody + "/", health.Refused},
		"reset at once":          {startWildBot(t, func(_ *wildBot, c net.Conn, _ int64) { reset(c) }).url("/"), either},
		"end at once":            {startWildBot(t, func(*wildBot, net.Conn, int64) {}).url("/"), health.Broken},
		"reset after the request": {startWildBot(t, func(b *wildBot, c net.Conn, _ int64) {
			b.read(bufio.NewReader(c))
			reset(c)
		}).url("/"), health.Broken},
		"reset within the answer": {startWildBot(t, func(b *wildBot, c net.Conn, _ int64) {
			b.read(bufio.NewReader(c))
			b.say(c, "HTTP/1.1 200 OK\r\nX: ")
			reset(c)
		}).url("/"), health.Broken},
		"plain answer to TLS": {"https" + strings.TrimPrefix(startWildBot(t, func(b *wildBot, c net.Conn, _ int64) {
			b.say(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
			b.gone(c)
		}).url("/"), "http"), health.TLS},
	}
	together(t, r, cases, func(c struct {
		url   string
		class health.Class
	},
	) string {
		return c.url
	}, func(t *testing.T, c struct {
		url   string
		class health.Class
	}, rec delivery.Record,
	) {
		require.Equal(t, delivery.Failed, rec.Fate)
		if c.class != either {
			require.Equal(t, c.class, rec.Class, rec.Message)
		} else {
			require.Contains(t, []health.Class{health.Refused, health.Broken}, rec.Class, rec.Message)
		}
		requireHarmless(t, rec.Message)
	})
	t.Attr("measured", fmt.Sprintf("%d kinds of dead connections, each with its class", len(cases)))
}

// numberOf is the number in the text of the event that a request carries; the message helper puts it into the id as well.
func statusAnswer(r *http.Request) string {
	code, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
	return fmt.Sprintf("HTTP/1.1 %d Status\r\nContent-Length: 0\r\n\r\n", code)
}

func TestD07OnlyTwoStatusesAcknowledge(t *testing.T) {
	r := outward(t, func(c *delivery.Config) { c.DeliveryTimeout = 500 * time.Millisecond })
	bot := startWildBot(t, answering(statusAnswer))
	ids := map[int]string{}
	for code := 100; code < 600; code++ {
		ext := fmt.Sprint("s", code)
		require.NoError(t, r.Create(t.Context(), registration(ext, "app", func(r *delivery.Registration) { r.CallbackURL = bot.url(fmt.Sprint("/", code)) })))
		ids[code] = r.send(t, message(ext, "ann", 1))[0].ID
	}
	acknowledged := []int{}
	for code := 100; code < 600; code++ {
		rec := r.settled(t, ids[code])
		switch {
		case code == 200 || code == 202:
			require.Equal(t, delivery.Delivered, rec.Fate, code)
			require.Equal(t, 1, rec.Tries, code)
			acknowledged = append(acknowledged, code)
			continue
		case code < 200 && code != 101:
			require.Equal(t, health.Timeout, rec.Class, "%d announces an answer that never comes", code)
		default:
			require.Equal(t, health.Status, rec.Class, code)
			require.Equal(t, fmt.Sprint(code), rec.Code)
		}
		require.Equal(t, delivery.Failed, rec.Fate, code)
		require.Equal(t, 2, rec.Tries, code)
		require.Equal(t, code == 401 || code == 403, strings.HasPrefix(rec.Message, "the bot refused the credentials"), "%d %s", code, rec.Message)
		require.Equal(t, code == 410, strings.Contains(rec.Message, "gone from this address"), "%d %s", code, rec.Message)
	}
	t.Attr("measured", fmt.Sprintf("statuses 100 to 599: acknowledged are %v; 401 and 403 name the credentials", acknowledged))
}

func TestD07AnswerAfterEarlyHintsCounts(t *testing.T) {
	r := outward(t)
	bot := startWildBot(t, answering(func(*http.Request) string {
		return strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 100) + "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
	}))
	require.Equal(t, delivery.Delivered, r.deliver(t, "e", bot.url("/")).Fate)
	t.Attr("measured", "100 times 103 and then 202: acknowledged")
}

func TestD07RetryAfterIsKeptUpToTwoSeconds(t *testing.T) {
	t.Parallel()
	usual := 200 * time.Millisecond
	cases := map[string]struct {
		value string
		least time.Duration
	}{
		"1 second":        {"1", time.Second},
		"two seconds":     {"2", 2 * time.Second},
		"an hour":         {"3600", 2 * time.Second},
		"3,000 years":     {"99999999999", 2 * time.Second},
		"overflow":        {"99999999999999999999999999", usual},
		"negative":        {"-5", usual},
		"none":            {"", usual},
		"zero":            {"0", usual},
		"words":           {"soon", usual},
		"date far ahead":  {time.Now().Add(time.Hour).UTC().Format(http.TimeFormat), 2 * time.Second},
		"date in a while": {time.Now().Add(time.Minute).UTC().Format(time.RFC850), 2 * time.Second},
		"date gone by":    {time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat), usual},
	}
	r := outward(t)
	var mu sync.Mutex
	at := map[string][]time.Time{}
	bot := startWildBot(t, answering(func(r *http.Request) string {
		mu.Lock()
		defer mu.Unlock()
		name := r.URL.Query().Get("case")
		at[name] = append(at[name], time.Now())
		return fmt.Sprintf("HTTP/1.1 %d Later\r\nRetry-After: %s\r\nContent-Length: 0\r\n\r\n", []int{429, 503}[len(name)%2], cases[name].value)
	}))
	names := map[string]string{}
	for name := range cases {
		names[name] = name
	}
	var longest time.Duration
	together(t, r, names, func(name string) string { return bot.url("/?case=" + strings.ReplaceAll(name, " ", "+")) }, func(t *testing.T, name string, rec delivery.Record) {
		require.Equal(t, 2, rec.Tries)
		mu.Lock()
		defer mu.Unlock()
		waited := at[name][1].Sub(at[name][0])
		require.GreaterOrEqual(t, waited, cases[name].least-5*time.Millisecond) // the bot's clock starts after the gateway's
		require.Less(t, waited, cases[name].least+900*time.Millisecond)
		longest = max(longest, waited)
	})
	t.Attr("measured", fmt.Sprintf("%d spellings of Retry-After, the longest wait %d ms", len(cases), longest.Milliseconds()))
}

// deadOnReuse answers the first request of each connection, and lets the connection die once it has read the second.
func deadOnReuse(die func(c net.Conn)) func(*wildBot, net.Conn, int64) {
	return func(b *wildBot, c net.Conn, _ int64) {
		in := bufio.NewReader(c)
		if b.read(in) == nil {
			return
		}
		b.say(c, "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
		if b.read(in) != nil {
			die(c)
		}
	}
}

// requireEveryTryOnce requires that the ledger's tries are the requests that the bot saw: no id twice with the same number of the try.
func requireEveryTryOnce(t testing.TB, recs []delivery.Record, seen []http.Header) {
	t.Helper()
	tries, keys := 0, []string{}
	for _, rec := range recs {
		tries += rec.Tries
	}
	for _, h := range seen {
		keys = append(keys, h.Get("webhook-id")+" try "+h.Get("Pulsegate-Try"))
	}
	slices.Sort(keys)
	require.Len(t, slices.Compact(slices.Clone(keys)), len(keys), "a request was sent again behind the ledger's back: %v", keys)
	require.Equal(t, len(seen), tries)
}

func TestD08NoRequestIsRepeatedInSecret(t *testing.T) {
	t.Parallel()
	trust := newAuthority(t)
	events := size(500, 20)
	r := outward(t, func(c *delivery.Config) { c.CallbackCA = trust.pem })
	bots, ids := map[string]*wildBot{}, map[string][]string{}
	for how, die := range map[string]func(net.Conn){
		"end":   func(net.Conn) {},
		"reset": func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) },
	} {
		dieWithin := func(c net.Conn) { die(c.(*tls.Conn).NetConn()) }
		bots[how+" over http"] = startWildBot(t, deadOnReuse(die))
		bots[how+" over https"] = startWildBot(t, overTLS(trust.serverConfig(t), deadOnReuse(dieWithin)))
	}
	for name, bot := range bots {
		_, scheme, _ := strings.Cut(name, " over ")
		ids[name] = r.sendAll(t, registration(name, "app", func(r *delivery.Registration) { r.CallbackURL = scheme + "://" + bot.addr + "/" }), events)
	}
	requests := 0
	for name, bot := range bots {
		t.Run(name, func(t *testing.T) {
			recs := r.settledAll(t, ids[name])
			headers := []http.Header{}
			for _, q := range bot.all() {
				headers = append(headers, q.Header)
			}
			requireEveryTryOnce(t, recs, headers)
			require.Greater(t, len(headers), events, "connections did die")
			for _, rec := range recs {
				require.Equal(t, delivery.Delivered, rec.Fate)
			}
			requests += len(headers)
		})
	}
	t.Attr("measured", fmt.Sprintf("%d events, %d requests at bots whose connections die on reuse, as many tries in the ledger", 4*events, requests))
}

// sendAll registers a bot, sends it events of one author, and returns their ids.
func (r *replica) sendAll(t testing.TB, reg delivery.Registration, n int) []string {
	require.NoError(t, r.Create(t.Context(), reg))
	var ids []string
	for i := range n {
		ids = append(ids, r.send(t, message(reg.ExternalID, "ann", i))[0].ID)
	}
	return ids
}

// settledAll waits for the fates of events, however many there are.
func (r *replica) settledAll(t testing.TB, ids []string) []delivery.Record {
	t.Helper()
	recs := make([]delivery.Record, len(ids))
	for i := range ids {
		recs[i] = r.settled(t, ids[i])
	}
	return recs
}
