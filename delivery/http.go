package delivery

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pulsegate/pulsegate/health"
)

const (
	maxResponseBytes = 64 << 10
	maxAnswerHeader  = 16 << 10
	maxMessageBytes  = 512
	idleTime         = time.Minute            // how long connections without a try are kept
	drainTime        = 500 * time.Millisecond // how long a response body may take after its status decided
	tlsTime          = 5 * time.Second
	maxTrusts        = 256 // certificate sets whose connections are kept
	userAgent        = "Pulsegate/1"
)

// dialFunc opens a connection to a bot.
type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// caller makes tries: one HTTP request each, over kept connections. Safe for concurrent use.
type caller struct {
	dial  dialFunc
	roots *x509.CertPool // trusted for every bot
	idle  int            // connections to one host that are kept: as many as may be in use, because many bots may live there
	usual *links
	plain *plain // for http, where it can

	through func(http.RoundTripper) http.RoundTripper // nil, but for tests that stand between a try and the network

	mu      sync.Mutex
	trusted map[string]*links // by the certificates that a registration brings; connections are not shared between them
}

// links are the connections to the bots. A second try, when the first had no answer at all, goes over a connection of its own: the first
// one's may be dead without a sign of it, and so may be others that are kept.
type links struct{ kept, fresh *http.Transport }

// newCaller returns a caller that trusts the system's authorities and those of bundle, PEM certificates that were checked before,
// and keeps so many idle connections to a host.
func newCaller(dial dialFunc, bundle string, idle int) *caller {
	c := &caller{dial: unharmed(dial), roots: systemRoots(), idle: idle, trusted: map[string]*links{}}
	c.roots.AppendCertsFromPEM([]byte(bundle))
	c.usual = c.newLinks(c.roots)
	c.plain = &plain{dial: c.dial, most: idle, idleTime: idleTime}
	return c
}

func (c *caller) newLinks(roots *x509.CertPool) *links {
	l := &links{c.newTransport(roots), c.newTransport(roots)}
	l.fresh.DisableKeepAlives = true
	return l
}

func (c *caller) newTransport(roots *x509.CertPool) *http.Transport {
	return &http.Transport{
		Proxy:                  nil, // a proxy would hide the callback address from the guard
		DialContext:            c.dial,
		ForceAttemptHTTP2:      true,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		TLSHandshakeTimeout:    tlsTime,
		MaxResponseHeaderBytes: maxAnswerHeader,
		DisableCompression:     true, // what a bot packed is never unpacked
		MaxIdleConns:           0,
		MaxIdleConnsPerHost:    c.idle,
		IdleConnTimeout:        idleTime,
		ReadBufferSize:         1 << 10, // ten thousand tries in flight have ten thousand of these
		WriteBufferSize:        4 << 10, // an ordinary event and its header go in one write
		HTTP2: &http.HTTP2Config{
			SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second, WriteByteTimeout: 10 * time.Second,
			MaxReceiveBufferPerStream: maxResponseBytes, MaxReceiveBufferPerConnection: 1 << 20, // a bot may not fill more than we read
		},
	}
}

// unharmed makes a panic of dial an error: net/http dials in goroutines of its own, where nobody else would catch it.
func unharmed(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("dial: panic with a %T", p)
			}
		}()
		return dial(ctx, network, addr)
	}
}

// links are the connections for a registration with these certificates of its own.
func (c *caller) links(pem string) *links {
	if pem == "" {
		return c.usual
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.trusted[pem]; l != nil {
		return l
	}
	for old, l := range c.trusted {
		if len(c.trusted) < maxTrusts {
			break
		}
		l.close() // its tries under way finish
		delete(c.trusted, old)
	}
	roots := c.roots.Clone()
	roots.AppendCertsFromPEM([]byte(pem))
	l := c.newLinks(roots)
	c.trusted[pem] = l
	return l
}

func (l *links) close() {
	l.kept.CloseIdleConnections()
	l.fresh.CloseIdleConnections() // none is idle, but some may still be on their way
}

func (c *caller) close() {
	c.plain.close()
	c.shed()
}

// shed closes all connections that are idle.
func (c *caller) shed() {
	c.usual.close()
	c.plain.shed()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.trusted {
		l.close()
	}
}

// call is what one try needs.
type call struct {
	to        *url.URL // nil: it cannot be called
	body      []byte
	eventID   string
	requestID string
	try       int
	timestamp int64 // seconds of the store's clock
	timeout   time.Duration
	creds     Credentials
	fresh     bool   // over a connection of its own
	oldSecret Secret // signs beside the present one for a while after a change
	trust     string // PEM certificates trusted for this bot beside the usual ones
}

// do makes one request and says how it ended. It never returns an error: what a bot does is an outcome.
func (c *caller) do(ctx context.Context, p call) outcome {
	if p.to == nil {
		return outcome{class: health.Broken, message: "callback URL cannot be called"}
	}
	tryCtx, cancel := ctx, context.CancelFunc(func() {})
	post := c.plain.post
	if c.through != nil || !p.speaksPlainly() {
		tryCtx, cancel = context.WithTimeout(ctx, p.timeout)
		post = c.post
	}
	defer cancel()
	began := time.Now()
	res, err := post(tryCtx, p)
	if err != nil {
		o := classify(err)
		o.message = p.withoutSecrets(o.message)
		o.latency = time.Since(began)
		o.cancelled = ctx.Err() != nil
		return o
	}
	o := outcome{code: res.StatusCode, latency: time.Since(began)}
	ok := o.code == http.StatusOK || o.code == http.StatusAccepted
	snippet := drain(res.Body, res.ContentLength, !ok, cancel)
	if !ok {
		o.class = health.Status
		o.message = statusMessage(o.code, p.withoutSecrets(snippet))
		o.retryAfter = retryAfter(res.Header.Get("Retry-After"), time.Unix(p.timestamp, 0).Add(o.latency))
	}
	return o
}

// post makes the request over an http.Transport.
func (c *caller) post(ctx context.Context, p call) (*http.Response, error) {
	// A body that net/http cannot rewind: over HTTP/2 it would send a request again that the bot has seen, and no try of ours would stand for that.
	// One that it knows to be in memory: it goes with the header, in one write.
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "", io.NopCloser(bytes.NewReader(p.body)))
	if err != nil {
		return nil, err
	}
	req.URL, req.Host = p.to, p.to.Host
	req.ContentLength = int64(len(p.body))
	for name, value := range p.headers() {
		req.Header[name] = []string{value}
	}
	l := c.links(p.trust)
	var transport http.RoundTripper = l.kept
	if p.fresh {
		transport = l.fresh
	}
	if c.through != nil {
		transport = c.through(transport)
	}
	return transport.RoundTrip(req)
}

// headers are those of a try, names as they go over the wire.
func (p call) headers() iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		_ = yield("User-Agent", userAgent) && yield("Content-Type", "application/json; charset=utf-8") &&
			yield("X-Request-Id", p.requestID) && yield("x-amzn-RequestId", p.requestID) && yield("webhook-id", p.eventID) &&
			yield("webhook-timestamp", strconv.FormatInt(p.timestamp, 10)) && yield("Pulsegate-Try", strconv.Itoa(p.try)) && yield(p.authentication())
	}
}

// authentication is the header that shows a bot who calls.
func (p call) authentication() (name, value string) {
	if p.creds.Type != HMAC {
		return "Authorization", basicAuth(p.creds.Identity, p.creds.Secret)
	}
	sig := sign(p.creds.Secret, p.eventID, p.timestamp, p.body)
	if p.oldSecret != "" {
		sig += " " + sign(p.oldSecret, p.eventID, p.timestamp, p.body)
	}
	return "webhook-signature", sig
}

// drain reads what keeps the connection usable, within bounds of size and time. The status has decided by then. It returns the
// beginning, if that is wanted.
func drain(body io.ReadCloser, length int64, wanted bool, cancel context.CancelFunc) string {
	defer body.Close()
	if length == 0 {
		return ""
	}
	if length > maxResponseBytes && !wanted {
		cancel()
		return ""
	}
	timer := time.AfterFunc(drainTime, cancel)
	defer timer.Stop()
	var head []byte
	if wanted {
		head = make([]byte, maxMessageBytes)
		n, _ := io.ReadFull(body, head)
		head = head[:n]
	}
	rest := maxResponseBytes - int64(len(head))
	if length > maxResponseBytes {
		cancel()
	} else if _, err := io.CopyN(io.Discard, body, rest); err == nil {
		cancel() // as much as the bound, or more: the connection is not worth keeping
	}
	return string(head)
}

// statusMessage is the status in words and the beginning of the body, made harmless for terminals.
func statusMessage(code int, snippet string) string {
	msg := strings.TrimSpace(http.StatusText(code) + " " + strings.TrimSpace(harmless(snippet)))
	switch {
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		msg = "the bot refused the credentials: " + msg
	case code == http.StatusGone:
		msg = "the bot says that it is gone from this address for good: " + msg
	case code >= 300 && code < 400:
		msg = "redirects are not followed: " + msg
	}
	return clip(msg, maxMessageBytes)
}

// retryAfter reads the header in seconds or as a date; anything else, and anything negative, is none.
func retryAfter(value string, now time.Time) time.Duration {
	if value == "" {
		return 0
	}
	if s, err := strconv.ParseInt(value, 10, 64); err == nil {
		return time.Duration(min(max(s, 0), 3600)) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}
