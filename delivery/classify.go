package delivery

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unicode"

	"github.com/pulsegate/pulsegate/health"
)

// classify turns an error of a connection into an outcome. What the bot wrote is in some of these errors, so their texts are clipped
// and made harmless, and decide nothing.
func classify(err error) outcome {
	var dns *net.DNSError
	var op *net.OpError
	dialing := errors.As(err, &op) && op.Op == "dial"
	switch {
	case (dialing || errors.As(err, &dns)) && isShortage(err):
		return outcome{message: "this gateway is short of files", short: true}
	case errors.Is(err, errBlocked):
		return outcome{class: health.Blocked, message: blockedMessage(err)}
	case errors.As(err, &dns):
		return outcome{class: health.DNS, message: "the callback host does not resolve: " + clip(harmless(dns.Err), 200)}
	case dialing && isTimeout(err):
		return outcome{class: health.Timeout, message: "no connection in time"}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), isTimeout(err):
		return outcome{class: health.Timeout, message: "no answer in time"}
	case isTLS(err):
		return outcome{class: health.TLS, message: "no trusted TLS connection: " + clip(harmless(err.Error()), 300)}
	case dialing:
		return outcome{class: health.Refused, message: refusedMessage(err)}
	default:
		return outcome{class: health.Broken, message: "the connection broke, or the answer was not HTTP: " + clip(harmless(err.Error()), 200)}
	}
}

// isShortage says that this process, or its machine, has no file left for a connection, or for asking where the bot is: that says nothing of the bot.
// Of an error of a resolver, which keeps no other, its own words tell.
func isShortage(err error) bool {
	var dns *net.DNSError
	named := errors.As(err, &dns)
	return slices.ContainsFunc([]syscall.Errno{syscall.EMFILE, syscall.ENFILE}, func(e syscall.Errno) bool {
		return errors.Is(err, e) || named && strings.HasSuffix(dns.Err, e.Error())
	})
}

func refusedMessage(err error) string {
	if errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH) {
		return "the callback address cannot be reached"
	}
	return "connection refused"
}

func blockedMessage(err error) string {
	text := err.Error()
	if i := strings.Index(text, errBlocked.Error()); i >= 0 {
		text = text[i:]
	}
	return clip(harmless(text), maxMessageBytes)
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// isTLS knows the errors of a handshake by their types, and those without a type by how they begin: what a bot wrote never stands there.
func isTLS(err error) bool {
	var (
		cert    *tls.CertificateVerificationError
		record  tls.RecordHeaderError
		alert   tls.AlertError
		unknown x509.UnknownAuthorityError
		host    x509.HostnameError
		invalid x509.CertificateInvalidError
	)
	text := err.Error()
	return errors.As(err, &cert) || errors.As(err, &record) || errors.As(err, &alert) || errors.As(err, &unknown) ||
		errors.As(err, &host) || errors.As(err, &invalid) || strings.HasPrefix(text, "tls: ") || strings.HasPrefix(text, "remote error: tls: ")
}

func clip(s string, max int) string {
	if len(s) <= max {
		return s
	}
	return strings.ToValidUTF8(s[:max], "")
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

// spellings are the ways in which a secret may stand in what a bot sends back: in JSON, in an error that quotes it, in a URL, in base64.
func spellings(secret string) []string {
	list := []string{secret}
	for _, s := range []string{
		jsonText(secret, true), jsonText(secret, false), strconv.Quote(secret)[1 : len(strconv.Quote(secret))-1], url.QueryEscape(secret), url.PathEscape(secret),
		base64.StdEncoding.EncodeToString([]byte(secret)), base64.RawURLEncoding.EncodeToString([]byte(secret)), hex.EncodeToString([]byte(secret)),
	} {
		if !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}

// jsonText is a text as it stands in a JSON string.
func jsonText(s string, html bool) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(html)
	if enc.Encode(s) != nil { // a text can always be written
		return s
	}
	return strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(b.String()), `"`), `"`)
}

// withoutSecrets is a text of the bot's without the credentials of the call, which a bot may well send back.
func (p call) withoutSecrets(text string) string {
	secrets := []string{string(p.creds.Secret), string(p.oldSecret)}
	if p.creds.Type != HMAC {
		secrets = append(secrets, strings.TrimPrefix(basicAuth(p.creds.Identity, p.creds.Secret), "Basic "))
	}
	var spelt []string
	for _, s := range secrets {
		if s != "" {
			spelt = append(spelt, spellings(s)...)
		}
	}
	for _, s := range spelt {
		text = strings.ReplaceAll(text, s, "[credentials]")
		for n := min(len(s)-1, len(text)); n >= 4; n-- { // cut off where the reading ended
			if strings.HasSuffix(text, s[:n]) {
				text = text[:len(text)-n]
				break
			}
		}
	}
	return text
}
