package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
)

const (
	callTime    = 10 * time.Second // one call to the platform, from dialing to the end of the answer
	answerBytes = 64 << 10         // read of an answer
)

// Platform is the API of the platform that bots act on: it gets handoffs, and the calls of bots that the gateway passes on.
// Safe for concurrent use. Close it when it is no longer needed.
type Platform struct {
	base      string
	token     delivery.Secret
	transport *http.Transport
	client    *http.Client
}

// NewPlatform returns the platform at base (http or https, without user, query and fragment; its path is kept), to which calls prove
// themselves with the bearer token (white space around it does not count; empty: without). It opens no connection. Proxies from the
// environment are not used, and redirects are not followed.
func NewPlatform(base string, token delivery.Secret) (*Platform, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("platform URL: must be http:// or https:// with a host, without user, query and fragment")
	}
	token = delivery.Secret(strings.TrimSpace(string(token)))
	if strings.ContainsFunc(string(token), func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, errors.New("platform token: must be one word of printable ASCII")
	}
	dialer := net.Dialer{Timeout: callTime}
	return newPlatform(strings.TrimRight(base, "/"), token, dialer.DialContext), nil
}

func newPlatform(base string, token delivery.Secret, dial Dial) *Platform {
	transport := &http.Transport{
		Proxy:                  nil,
		DialContext:            dial,
		TLSHandshakeTimeout:    callTime,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    32,
		IdleConnTimeout:        time.Minute,
		MaxResponseHeaderBytes: 16 << 10,
	}
	return &Platform{base: base, token: token, transport: transport, client: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Through returns the same platform reached by another dialer, with connections of its own.
func (p *Platform) Through(dial Dial) *Platform { return newPlatform(p.base, p.token, dial) }

// Close closes the connections that are not in use.
func (p *Platform) Close() { p.transport.CloseIdleConnections() }

// Pass makes one call for a bot: method and at, the path (with its query, from /bots/v3/ on) as the bot sent them, the body untouched, the
// token ours. It takes at most 10 s, and at most 64 KiB of the answer are read. An error means that there is no answer, and says
// neither token nor address; a status of any kind is no error. The header is free of what belongs to our connection alone.
func (p *Platform) Pass(ctx context.Context, method, at string, body []byte) (status int, header http.Header, answer []byte, err error) {
	if !underAPI(at) {
		return 0, nil, nil, errors.New("call platform: path must lie under /bots/v3/")
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, p.base+at, bytes.NewReader(body))
	if err != nil {
		return 0, nil, nil, errors.New("call platform: method or path is malformed")
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	req.Header.Set("User-Agent", "Pulsegate")
	if p.token != "" {
		req.Header.Set("Authorization", "Bearer "+string(p.token))
	}
	res, err := p.client.Do(req)
	if err != nil {
		return 0, nil, nil, fmt.Errorf("call platform: %w", withoutURL(err))
	}
	defer func() { _ = res.Body.Close() }()
	answer, err = io.ReadAll(io.LimitReader(res.Body, answerBytes))
	if err != nil {
		return 0, nil, nil, fmt.Errorf("read answer of platform: %w", withoutURL(err))
	}
	if p.token != "" { // which the platform may well send back, and the bot must not have
		answer = bytes.ReplaceAll(answer, []byte(p.token), []byte("[token]"))
		answer = answer[:min(len(answer), answerBytes)]
	}
	return res.StatusCode, ownHeader(res.Header), answer, nil
}

// underAPI reports whether a path stays within the bots' API whatever its dots and escapes.
func underAPI(p string) bool {
	u, err := url.Parse(p)
	return err == nil && strings.HasPrefix(p, "/bots/v3/") && strings.HasPrefix(path.Clean(u.Path), "/bots/v3/")
}

// withoutURL strips the address that net/http puts before an error.
func withoutURL(err error) error {
	var at *url.Error
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}

// ownHeader copies a header without the fields of one connection, of its framing, and of sessions.
func ownHeader(h http.Header) http.Header {
	h = h.Clone()
	for _, f := range h.Values("Connection") {
		for name := range strings.SplitSeq(f, ",") {
			h.Del(strings.TrimSpace(name))
		}
	}
	for _, name := range []string{
		"Connection", "Content-Length", "Keep-Alive", "Proxy-Authenticate", "Proxy-Connection", "Set-Cookie",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade",
	} {
		h.Del(name)
	}
	return h
}

// answered is what the platform's answer to a call means.
type answered string

// The meanings. They are also the values of the metric's label.
const (
	callOK      answered = "ok"
	callAgain   answered = "again"   // worth another try
	callRefused answered = "refused" // for good
)

// meaning of a status: 2xx is done; a 4xx that does not speak of time or of a passing conflict is final; all else may pass.
func meaning(status int) answered {
	switch {
	case status >= 200 && status < 300:
		return callOK
	case status == http.StatusRequestTimeout, status == http.StatusConflict, status == http.StatusTooManyRequests:
		return callAgain
	case status >= 400 && status < 500:
		return callRefused
	default:
		return callAgain
	}
}

// retryAfter reads a Retry-After header, in seconds or as a date; 0 when there is none or it is malformed, at most 10 minutes.
func retryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if value == "" {
		return 0
	}
	if strings.Trim(value, "0123456789") == "" {
		seconds, err := strconv.ParseInt(value, 10, 32)
		if err != nil {
			return longestRetryAfter // digits, but more than fit
		}
		return min(time.Duration(seconds)*time.Second, longestRetryAfter)
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return max(0, min(at.Sub(now), longestRetryAfter))
}
