package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/gateway"
)

// pipes is a listener within the process, which lives in fake time too.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

func (p *pipes) dial() net.Conn {
	here, there := net.Pipe()
	p.conns <- there
	return here
}

// serveOver serves the stage's public face over pipes; read counts the bytes of bodies that were read.
func (s *stage) serveOver(t testing.TB, read *atomic.Int64) *pipes {
	p := newPipes()
	srv := gateway.Server("", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = &countedBody{r.Body, read}
		s.gateway.Handler().ServeHTTP(w, r)
	}))
	done := make(chan error, 1)
	go func() { done <- srv.Serve(p) }()
	t.Cleanup(func() {
		_ = srv.Close()
		require.ErrorIs(t, <-done, http.ErrServerClosed)
	})
	return p
}

type countedBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}

// exchangeOver writes what send writes, and returns the status of the answer, 0 when there is none, and when the connection was closed.
func exchangeOver(p *pipes, head string, send func(io.Writer)) (status int, closed time.Duration) {
	conn := p.dial()
	defer func() { _ = conn.Close() }()
	began := time.Now()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		if _, err := io.WriteString(conn, head); err == nil {
			send(conn)
		}
	}()
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	if err == nil {
		status = res.StatusCode
		_, _ = io.Copy(io.Discard, res.Body)
		if res.Close {
			_, _ = io.Copy(io.Discard, in)
		}
	}
	closed = time.Since(began)
	_ = conn.Close()
	<-sent
	return status, closed
}

func TestE01BodiesAreBoundedWhateverTheyClaim(t *testing.T) {
	const limit = 8 << 20
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.register(t, "acme/own", "LIVE")
		var read atomic.Int64
		p := s.serveOver(t, &read)
		post := "POST /bots/v3/events HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer " + s.as(t, gateway.ScopeSource, "acme") + "\r\n"
		event := "[" + message("a", "1") + "]"
		whole := event + strings.Repeat(" ", limit-len(event))
		text := func(body string) func(io.Writer) { return func(w io.Writer) { _, _ = io.WriteString(w, body) } }
		chunk := fmt.Sprintf("%x\r\n%s\r\n", 64<<10, strings.Repeat(" ", 64<<10))
		endless := func(w io.Writer) {
			for {
				if _, err := io.WriteString(w, chunk); err != nil {
					return
				}
			}
		}
		drip := func(w io.Writer) {
			for {
				if _, err := io.WriteString(w, " "); err != nil {
					return
				}
				<-time.After(time.Second)
			}
		}
		rows := []struct {
			name, head string
			send       func(io.Writer)
			status     int
			most       int64         // bytes of the body that are read
			closed     time.Duration // at the latest
		}{
			{"as long as may be", fmt.Sprintf("Content-Length: %d\r\nConnection: close\r\n\r\n", limit), text(whole), 202, limit, time.Second},
			{"a byte more", fmt.Sprintf("Content-Length: %d\r\n\r\n", limit+1), text(whole + " "), 413, 0, time.Second},
			{"a byte more in chunks", "Transfer-Encoding: chunked\r\n\r\n", text(fmt.Sprintf("%x\r\n%s \r\n0\r\n\r\n", limit+1, whole)), 413, limit + 1, time.Second},
			{"chunks without end", "Transfer-Encoding: chunked\r\n\r\n", endless, 413, limit + 1, time.Second},
			{"a length of 8 EiB", "Content-Length: 9223372036854775807\r\n\r\n", text("{}"), 413, 0, 16 * time.Second},
			{"a longer length than body, and silence", "Content-Length: 100\r\n\r\n", text("{}"), 408, 2, 16 * time.Second},
			{"a length twice", "Content-Length: 2\r\nContent-Length: 3\r\n\r\n", text("{}"), 400, 0, time.Second},
			{"length and chunks", "Content-Length: 2\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n", text("2\r\n{}\r\n0\r\n\r\n"), 422, 2, time.Second},
			{"a negative length", "Content-Length: -1\r\n\r\n", text("{}"), 400, 0, time.Second},
			{"1 byte a second", "Content-Length: 100000\r\n\r\n", drip, 408, 20, 16 * time.Second},
			{"1 byte a second of a header", "X-Slow: ", drip, 0, 0, 6 * time.Second},
		}
		for _, row := range rows {
			read.Store(0)
			status, closed := exchangeOver(p, post+row.head, row.send)
			require.Equal(t, row.status, status, row.name)
			require.LessOrEqual(t, read.Load(), row.most, row.name)
			require.LessOrEqual(t, closed, row.closed, row.name)
		}
		t.Attr("measured", fmt.Sprintf("%d kinds of bodies: at most %d bytes read; 1 byte a second ends after 15 s, of a header after 5 s", len(rows), limit+1))
	})
}

// world is a gateway over a real carrier, which runs, with a bot that keeps what it gets.
type world struct {
	*stage
	store *miniredis.Miniredis
	bot   *httptest.Server
	got   chan []byte
}

func newWorld(t testing.TB) *world {
	w := &world{store: miniredis.RunT(t), got: make(chan []byte, 256)}
	w.bot = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.got <- body
	}))
	t.Cleanup(w.bot.Close)
	client := redis.NewClient(&redis.Options{Addr: w.store.Addr(), ContextTimeoutEnabled: true, MaxRetries: -1})
	t.Cleanup(func() { _ = client.Close() })
	sealer, err := delivery.NewSealer(bytes.Repeat([]byte("s"), 32))
	require.NoError(t, err)
	guard := delivery.GuardConfig{AllowHTTP: true, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	carrier, err := delivery.New(delivery.Config{Client: client, Sealer: sealer, Guard: guard})
	require.NoError(t, err)
	require.NoError(t, carrier.Ready(t.Context()))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- carrier.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	access := newAccess(t, gateway.AccessConfig{Store: gateway.NewAccessStore(client)})
	w.stage = newStage(t, func(c *gateway.Config) { c.Carrier, c.Access = carrier, access })
	return w
}

// put registers the world's bot under an app ID and returns the status.
func (w *world) put(t testing.TB, token, app string) int {
	body, err := json.Marshal(map[string]any{
		"networkKey": "sms", "externalId": "e", "appId": "PLACE", "callbackUrl": w.bot.URL, "mode": "LIVE",
		"credentials": map[string]string{"type": "BASIC_AUTH", "identity": "gw", "secret": "hush"},
	})
	require.NoError(t, err)
	quoted := []byte(`"` + app + `"`) // as it is, for what no JSON can hold
	if utf8.ValidString(app) {
		quoted, err = json.Marshal(app)
		require.NoError(t, err)
	}
	return w.do(t, token, http.MethodPut, "/bots/v3/registrations", strings.Replace(string(body), `"PLACE"`, string(quoted), 1)).Code
}

// oddValues are values of a member that nobody knows; bad ones are no strict JSON.
func oddValues() (good, bad map[string]string) {
	good = map[string]string{
		"null": `null`, "array": `[1,[2,{"a":[]}]]`, "1e400": `1e400`, "-1e-400": `-1e-400`, "30 digits": `123456789012345678901234567890`,
		"30 digits and a point": `0.123456789012345678901234567890`, "minus nought": `-0`, "1.0": `1.0`, "1E+2": `1E+2`, "case twins": `{"a":1,"A":2}`,
		"__proto__": `{"__proto__":{"admin":true},"constructor":{"prototype":{}}}`, "200 KB of text": `"` + strings.Repeat("x", 200<<10) + `"`,
		"escapes": `"\u0041\/\b\u00e9\ud83d\ude00"`, "spaces": `{ "a" :	1 }`, "NUL, escaped": `"\u0000"`, "line separators": "\"\u2028\u2029\"", "combining": "\"e\u0301 \u00e9\"",
		"depth 90": strings.Repeat("[", 90) + strings.Repeat("]", 90), "markup": `"<script>&amp;</script>"`, "keys out of order": `{"z":1,"a":2,"":3}`, "right to left": "\"\u202eabc\"",
	}
	bad = map[string]string{
		"nothing": ``, "duplicate keys": `{"a":1,"a":2}`, "duplicate keys, escaped": `{"a":1,"\u0061":2}`, "lone surrogate": `"\ud800"`, "bad UTF-8": "\"\xff\"",
		"overlong": "\"\xc0\x80\"", "surrogate in UTF-8": "\"\xed\xa0\x80\"", "NUL": "\"\x00\"", "NUL outside": "\x00", "depth 10,001": strings.Repeat("[", 10_001) + strings.Repeat("]", 10_001),
		"NaN": `NaN`, "Infinity": `-Infinity`, "hex": `0x10`, "leading nought": `01`, "plus": `+1`, "trailing comma": `[1,]`, "comment": `/*c*/1`, "single quotes": `'a'`, "BOM inside": "\ufeff1",
		"control character": "\"\n\"", "bad escape": `"\x41"`, "unterminated": `"a`,
	}
	return good, bad
}

func TestE03EventsAreStrictJSONAndPassByteForByte(t *testing.T) {
	w := newWorld(t)
	admin := w.as(t, gateway.ScopeAdmin, "acme")
	require.Equal(t, http.StatusAccepted, w.put(t, admin, "own"))
	good, bad := oddValues()
	offset := regexp.MustCompile(`at byte \d+`)
	for name, value := range bad {
		res := w.do(t, admin, http.MethodPost, "/bots/v3/events", message("a", value))
		require.Equal(t, http.StatusBadRequest, res.Code, name)
		require.Regexp(t, offset, res.Body.String(), name)
	}
	for name, body := range map[string]string{"BOM": "\ufeff" + message("a", "1"), "trailing data": message("a", "1") + " x", "two": message("a", "1") + message("b", "1"), "null": "null", "nothing": ""} {
		res := w.do(t, admin, http.MethodPost, "/bots/v3/events", body)
		require.Contains(t, []int{400, 422}, res.Code, name)
	}
	require.Equal(t, http.StatusUnprocessableEntity, w.do(t, admin, http.MethodPost, "/bots/v3/events", message("a", `"`+strings.Repeat("x", 1<<20)+`"`)).Code, "1 MB of text")
	for name, value := range good {
		in := message("author "+name, value)
		require.Equal(t, http.StatusAccepted, w.do(t, admin, http.MethodPost, "/bots/v3/events", in).Code, name)
		var out, before map[string]json.RawMessage
		select {
		case body := <-w.got:
			require.NoError(t, json.Unmarshal(body, &out), name)
			require.True(t, bytes.Contains(body, []byte(value)), name)
		case <-time.After(30 * time.Second):
			require.Fail(t, "not delivered", name)
		}
		require.NoError(t, json.Unmarshal([]byte(in), &before))
		for member, text := range before {
			if member != "coordinate" { // to which the bot's id is added
				require.Equal(t, sha256.Sum256(text), sha256.Sum256(out[member]), "%s: %s", name, member)
			}
		}
	}
	require.Empty(t, w.log.String())
	t.Attr("measured", fmt.Sprintf("%d values refused with their offset, %d delivered with the same SHA-256", len(bad), len(good)))
}

func TestE04OddIDsStayInTheirPlace(t *testing.T) {
	w := newWorld(t)
	acme, rival := w.as(t, gateway.ScopeAdmin, "acme"), w.as(t, gateway.ScopeAdmin, "rival")
	require.NoError(t, w.access.Store.AddAdministrator(t.Context(), "ops", "acme", adminPassword))
	ids := []string{
		"a/b", "..", "../..", "%2F", "%00", "\x00", strings.Repeat("k", 1<<10), strings.Repeat("k", 513), "\u202eabc", "a\u200bb", "\ufeffa", "\u00e9", "e\u0301", "{}", "{x}", "}:{",
		"{18}", "*", "?", "[a-z]", ":", "a:b", "a\nb", "a\r\nb", " ", "\t", "a b", "\\", "\"", "'", "pg:{18}:due", "#", "-", "\xff", "\xc0\xaf", "👾", "%", "%zz", "a;b", "a,b", "a|b", "null",
	}
	tagged := regexp.MustCompile(`^pg:(\{\d+\}:[^{}]*|(app|company|deleted):[^{}]*|[a-z]+)$`)
	keys := 0
	check := func(id string) {
		for _, key := range w.store.Keys() {
			require.Regexp(t, tagged, key, "%q", id)
			require.NotRegexp(t, `:rival\b`, key)
			keys++
		}
	}
	taken := 0
	for _, id := range ids {
		status := w.put(t, acme, id)
		require.Contains(t, []int{202, 400, 409, 422}, status, "%q", id)
		path := "/bots/v3/registrations/network/sms/externalId/e/appId/" + url.PathEscape(id)
		if status == http.StatusAccepted {
			taken++
			check(id)
			res := w.do(t, acme, http.MethodGet, path, "")
			require.Equal(t, http.StatusOK, res.Code, "%q", id)
			for _, other := range ids {
				if other != id {
					require.NotEqual(t, http.StatusOK, w.do(t, acme, http.MethodGet, "/bots/v3/registrations/network/sms/externalId/e/appId/"+url.PathEscape(other), "").Code, "%q is taken for %q", other, id)
				}
			}
			require.Equal(t, http.StatusNotFound, w.do(t, rival, http.MethodGet, path, "").Code)
			require.Equal(t, http.StatusNoContent, w.do(t, acme, http.MethodDelete, path, "").Code)
		} else {
			require.Contains(t, []int{400, 404, 405}, w.do(t, acme, http.MethodGet, path, "").Code, "%q", id)
		}
	}
	require.Positive(t, taken)
	made := 0
	for _, id := range []string{"{}", "a:b", "*", "\u00e9", "e\u0301", "pg:{18}:due"} {
		res := w.do(t, "", http.MethodPost, owner(url.PathEscape(id)), "", "Authorization", basic("ops", adminPassword))
		require.Equal(t, http.StatusOK, res.Code, "%q", id)
		made++
	}
	check("tokens")
	t.Attr("measured", fmt.Sprintf("%d ids: %d taken and found by themselves only, the others 400, 404, 405 or 422; %d looks at keys, one hash tag in each", len(ids), taken, keys))
	require.Equal(t, 6, made)
}

func TestE08WrongSignaturesTakeTheSameTimeHoweverMuchOfThemIsRight(t *testing.T) {
	s := newStage(t)
	token := s.as(t, gateway.ScopeAdmin, "acme")
	at := strings.LastIndexByte(token, '.') + 1
	flip := func(i int) string {
		c := byte('A')
		if token[i] == c {
			c = 'B'
		}
		return token[:i] + string(c) + token[i+1:]
	}
	wrong := []string{flip(at), flip(len(token) - 6)} // the first character of the signature, and one near its end
	tries := sized(2000, 10_000)
	// A noisy machine can move one run by chance; a difference that is there shows in each.
	t.Attr("measured", fmt.Sprintf("%d tries of each: Welch t %.2f between a signature that is wrong at its beginning and at its end", tries, leastWelch(t, s, wrong, tries)))
}

// leastWelch is the least Welch t of a few runs, which must be under 4.5.
func leastWelch(t *testing.T, s *stage, tokens []string, tries int) float64 {
	least := math.Inf(1)
	for range 5 {
		times := [2][]float64{}
		for i := range 2 * tries {
			which := (i ^ i>>1) & 1 // each first as often as the other
			began := time.Now()
			_, err := s.tokens.Verify(tokens[which])
			times[which] = append(times[which], float64(time.Since(began)))
			require.ErrorIs(t, err, gateway.ErrToken)
		}
		if least = min(least, math.Abs(welch(calm(times[0]), calm(times[1])))); least < 4.5 {
			break
		}
	}
	require.Less(t, least, 4.5)
	return least
}

// calm leaves out the slowest tenth: what the machine did meanwhile.
func calm(x []float64) []float64 {
	slices.Sort(x)
	return x[:len(x)*9/10]
}

// welch is the t of Welch's test.
func welch(a, b []float64) float64 {
	mean := func(x []float64) (m, v float64) {
		for _, y := range x {
			m += y / float64(len(x))
		}
		for _, y := range x {
			v += (y - m) * (y - m) / float64(len(x)-1)
		}
		return m, v / float64(len(x))
	}
	ma, va := mean(a)
	mb, vb := mean(b)
	return (ma - mb) / math.Sqrt(va+vb)
}

func TestE09OneKeyIsOneEventHoweverOftenItComes(t *testing.T) {
	w := newWorld(t)
	source := w.as(t, gateway.ScopeSource, "acme")
	require.Equal(t, http.StatusAccepted, w.put(t, w.as(t, gateway.ScopeAdmin, "acme"), "own"))
	post := func(body string) (int, string) {
		req := httptest.NewRequest(http.MethodPost, "/bots/v3/events", strings.NewReader(body))
		req.Header.Set("Authorization", "Bearer "+source)
		req.Header["Idempotency-Key"] = []string{"key-1"}
		res := httptest.NewRecorder()
		w.gateway.Handler().ServeHTTP(res, req)
		return res.Code, masked(res.Body.String())
	}
	var mu sync.Mutex
	answers := map[string]int{}
	var wait sync.WaitGroup
	for range 100 {
		wait.Go(func() {
			status, body := post(message("a", "1"))
			mu.Lock()
			defer mu.Unlock()
			answers[fmt.Sprint(status, " ", body)]++
		})
	}
	wait.Wait()
	require.Len(t, answers, 1, "%v", answers)
	for answer := range answers {
		require.True(t, strings.HasPrefix(answer, "202 "), answer)
	}
	first := <-w.got
	status, body := post(message("a", "2"))
	require.Equal(t, http.StatusUnprocessableEntity, status, body)
	w.store.FastForward(25 * time.Hour)
	require.Eventually(t, func() bool {
		status, body = post(message("a", "2"))
		return status == http.StatusAccepted
	}, 20*time.Second, 50*time.Millisecond, body)
	second := <-w.got
	require.NotEqual(t, first, second)
	require.Empty(t, w.got)
	t.Attr("measured", "100 at once: 1 event, 1 answer to all; another body: 422; after a day: a new event")
}

// masked is an answer without its request id.
func masked(body string) string {
	return regexp.MustCompile(`"requestId":"[^"]*"`).ReplaceAllString(body, `"requestId":"*"`)
}

func TestE07WhatIsAnothersLooksAsIfItWereNotThere(t *testing.T) {
	for _, real := range []bool{false, true} {
		asked := 0
		build := func() *stage {
			if real {
				carrier := newCarrier(t)
				return newStage(t, func(c *gateway.Config) { c.Carrier = carrier })
			}
			return newStage(t)
		}
		theirs, empty := build(), build()
		theirs.register(t, "acme/own", "LIVE")
		theirs.register(t, "acme/other", "MONITORING")
		require.NoError(t, theirs.access.Store.AddAdministrator(t.Context(), "ops", "acme", adminPassword))
		token := tokenOf(t, theirs.do(t, "", http.MethodPost, owner("own"), "", "Authorization", basic("ops", adminPassword)).Body.Bytes())
		receipt := theirs.do(t, theirs.as(t, gateway.ScopeSource, "acme"), http.MethodPost, "/bots/v3/events", bodyFor(gateway.Route{Name: "events"}))
		require.Equal(t, http.StatusAccepted, receipt.Code)
		var stored struct{ Data []struct{ ID string } }
		require.NoError(t, json.Unmarshal(receipt.Body.Bytes(), &stored))
		for _, r := range gateway.Routes() {
			if len(r.Scopes) == 0 {
				continue
			}
			path := strings.NewReplacer(":networkKey", "sms", ":externalId", "e", ":appId", "own", ":mode", "maintenance", "*", "a", ":id", stored.Data[0].ID).Replace(r.Path)
			for _, who := range [][2]string{{"admin", "rival"}, {"source", "rival"}, {"bot", "rival/own"}, {"bot", "rival/none"}} {
				for _, body := range []string{bodyFor(r), strings.ReplaceAll(bodyFor(r), `"companyKey":"acme",`, ``), strings.ReplaceAll(bodyFor(r), `"acme"`, `"rival"`)} {
					answers := [2]string{}
					for i, s := range []*stage{theirs, empty} {
						res := s.do(t, s.as(t, gateway.Scope(who[0]), who[1]), r.Method, path, body)
						answers[i] = fmt.Sprint(res.Code, " ", varied.ReplaceAllString(masked(res.Body.String()), `"$1":"*"`))
					}
					require.Equal(t, answers[1], answers[0], "%s %s as %v with %s", r.Method, path, who, body)
					asked++
				}
			}
		}
		own := theirs.do(t, theirs.as(t, gateway.ScopeAdmin, "acme"), http.MethodGet, "/bots/v3/registrations/network/sms/externalId/e/appId/own", "")
		require.Equal(t, http.StatusOK, own.Code, "it is still there")
		require.Contains(t, own.Body.String(), `"mode":"LIVE"`)
		require.Equal(t, http.StatusOK, theirs.ask(t, token), "its token too")
		t.Attr("measured", fmt.Sprintf("%d requests of another company on every route: status and body as where there is nothing", asked))
	}
}

// varied is what differs from one gateway to the other, whatever is asked.
var varied = regexp.MustCompile(`"(id|createdEpochMillis|lastUpdatedEpochMillis|lastUpdatedTS|token|expiresAtMillis|atEpochMillis|at|since|tokenId)":("[^"]*"|\d+)`)

func TestE13OperationsAreNotOnThePublicListener(t *testing.T) {
	s := newStage(t)
	public := s.listen(t)
	private := []string{
		"/metrics", "/metrics/", "//metrics", "/%6detrics", "/./metrics", "/bots/../metrics", "/METRICS", "/debug", "/debug/pprof", "/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/cmdline",
		"/debug/pprof/profile?seconds=1", "/debug/vars", "/admin", "/internal", "/-/reload", "/bots/v3/metrics",
	}
	for _, path := range private {
		for _, token := range []string{"", s.as(t, gateway.ScopeAdmin, "acme")} {
			request := "GET " + path + " HTTP/1.1\r\nHost: 127.0.0.1:9090\r\nX-Forwarded-For: 127.0.0.1\r\nX-Original-URL: /metrics\r\n"
			if token != "" {
				request += "Authorization: Bearer " + token + "\r\n"
			}
			res := raw(t, public, request+"\r\n", nil)
			require.Equal(t, http.StatusNotFound, res.StatusCode, path)
			text, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			require.NotContains(t, string(text), "pulsegate_")
		}
	}
	rec := httptest.NewRecorder()
	s.gateway.OpsHandler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
	require.Equal(t, http.StatusOK, rec.Code)
	t.Attr("measured", fmt.Sprintf("%d paths with and without a token: 404", len(private)))
}
