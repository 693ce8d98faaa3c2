package delivery

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/pulsegate/pulsegate/health"
)

const (
	maxResponseBytes = 64 << 10
	maxMessageBytes  = 512
	drainTime        = 500 * time.Millisecond // how long a response body may take after its status decided
	userAgent        = "Pulsegate/1"
)

// caller makes tries: one HTTP request each, over kept connections. Safe for concurrent use.
type caller struct {
	transport *http.Transport
}

func newCaller(dial func(ctx context.Context, network, addr string) (net.Conn, error)) *caller {
	return &caller{transport: &http.Transport{
		Proxy:                  nil, // a proxy would hide the callback address from the guard
		DialContext:            dial,
		ForceAttemptHTTP2:      true,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    5 * time.Second,
		MaxResponseHeaderBytes: 16 << 10,
		DisableCompression:     true,
		MaxIdleConns:           0,
		MaxIdleConnsPerHost:    256,
		IdleConnTimeout:        60 * time.Second,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second},
	}}
}

func (c *caller) close() { c.transport.CloseIdleConnections() }

// call is what one try needs.
type call struct {
	url       string
	body      []byte
	eventID   string
	requestID string
	try       int
	timestamp int64 // seconds of the store's clock
	timeout   time.Duration
	creds     Credentials
	oldSecret Secret // signs beside the present one for a while after a change
}

// do makes one request and says how it ended. It never returns an error: what a bot does is an outcome.
func (c *caller) do(ctx context.Context, p call) outcome {
	tryCtx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	began := time.Now()
	req, err := http.NewRequestWithContext(tryCtx, http.MethodPost, p.url, bytes.NewReader(p.body))
	if err != nil {
		return outcome{class: health.Broken, message: "callback URL cannot be called"}
	}
	p.setHeaders(req.Header)
	res, err := c.transport.RoundTrip(req)
	if err != nil {
		o := classify(err)
		o.latency = time.Since(began)
		o.cancelled = ctx.Err() != nil
		return o
	}
	o := outcome{code: res.StatusCode, latency: time.Since(began)}
	snippet := drain(res.Body, res.ContentLength, cancel)
	if o.code != http.StatusOK && o.code != http.StatusAccepted {
		o.class = health.Status
		o.message = statusMessage(o.code, snippet)
		o.retryAfter = retryAfter(res.Header.Get("Retry-After"), time.Now())
	}
	return o
}

func (p call) setHeaders(h http.Header) {
	h["Content-Type"] = []string{"application/json; charset=utf-8"}
	h["User-Agent"] = []string{userAgent}
	h["X-Request-Id"] = []string{p.requestID}
	h["x-amzn-RequestId"] = []string{p.requestID}
	h["webhook-id"] = []string{p.eventID}
	h["webhook-timestamp"] = []string{strconv.FormatInt(p.timestamp, 10)}
	h["Pulsegate-Try"] = []string{strconv.Itoa(p.try)}
	switch p.creds.Type {
	case HMAC:
		sig := sign(p.creds.Secret, p.eventID, p.timestamp, p.body)
		if p.oldSecret != "" {
			sig += " " + sign(p.oldSecret, p.eventID, p.timestamp, p.body)
		}
		h["webhook-signature"] = []string{sig}
	default:
		r := http.Request{Header: h}
		r.SetBasicAuth(p.creds.Identity, string(p.creds.Secret))
	}
}

// drain reads what keeps the connection usable, within bounds of size and time, and returns the beginning. The status has decided by then.
func drain(body io.ReadCloser, length int64, cancel context.CancelFunc) []byte {
	defer body.Close()
	if length == 0 {
		return nil
	}
	if length > maxResponseBytes {
		cancel()
		return nil
	}
	timer := time.AfterFunc(drainTime, cancel)
	defer timer.Stop()
	head := make([]byte, maxMessageBytes)
	n, _ := io.ReadFull(body, head)
	if n == len(head) {
		if _, err := io.CopyN(io.Discard, body, maxResponseBytes); err == nil {
			cancel() // more than the bound: the connection is not worth keeping
		}
	}
	return head[:n]
}

// statusMessage is the status in words and the beginning of the body, made harmless for terminals.
func statusMessage(code int, snippet []byte) string {
	text := harmless(string(snippet))
	msg := strings.TrimSpace(http.StatusText(code) + " " + strings.TrimSpace(text))
	if code == http.StatusUnauthorized || code == http.StatusForbidden {
		msg = "the bot refused the credentials: " + msg
	}
	return clip(msg, maxMessageBytes)
}

func clip(s string, max int) string {
	if len(s) <= max {
		return s
	}
	return strings.ToValidUTF8(s[:max], "")
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

// classify turns a transport's error into an outcome.
func classify(err error) outcome {
	var dns *net.DNSError
	var op *net.OpError
	switch {
	case errors.Is(err, errBlocked):
		return outcome{class: health.Blocked, message: blockedMessage(err)}
	case errors.As(err, &dns):
		return outcome{class: health.DNS, message: "the callback host does not resolve: " + clip(dns.Err, 200)}
	case isTLS(err):
		return outcome{class: health.TLS, message: "no trusted TLS connection: " + clip(err.Error(), 300)}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), isTimeout(err):
		return outcome{class: health.Timeout, message: "no answer in time"}
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH),
		errors.As(err, &op) && op.Op == "dial":
		return outcome{class: health.Refused, message: "connection refused"}
	default:
		return outcome{class: health.Broken, message: "the connection broke, or the answer was not HTTP: " + clip(harmless(err.Error()), 200)}
	}
}

func blockedMessage(err error) string {
	text := err.Error()
	if i := strings.Index(text, errBlocked.Error()); i >= 0 {
		text = text[i:]
	}
	return clip(text, maxMessageBytes)
}

// harmless is a text of the bot's without what could move a terminal's cursor or turn the direction of writing.
func harmless(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, ""))
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

func isTLS(err error) bool {
	var (
		cert    *tls.CertificateVerificationError
		record  tls.RecordHeaderError
		alert   tls.AlertError
		unknown x509.UnknownAuthorityError
		host    x509.HostnameError
		invalid x509.CertificateInvalidError
	)
	return errors.As(err, &cert) || errors.As(err, &record) || errors.As(err, &alert) || errors.As(err, &unknown) ||
		errors.As(err, &host) || errors.As(err, &invalid) || strings.Contains(err.Error(), "tls: ") || strings.Contains(err.Error(), "TLS handshake timeout")
}
