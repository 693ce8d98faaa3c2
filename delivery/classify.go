package delivery

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
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

// withoutSecrets is a text of the bot's without the credentials of the call, which a bot may well send back.
func (p call) withoutSecrets(text string) string {
	secrets := []string{string(p.creds.Secret), string(p.oldSecret)}
	if p.creds.Type != HMAC {
		secrets = append(secrets, strings.TrimPrefix(basicAuth(p.creds.Identity, p.creds.Secret), "Basic "))
	}
	for _, s := range secrets {
		if quoted := strconv.Quote(s); quoted != `"`+s+`"` { // as some errors show what a bot wrote
			secrets = append(secrets, quoted[1:len(quoted)-1])
		}
	}
	for _, s := range secrets {
		if s == "" {
			continue
		}
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
