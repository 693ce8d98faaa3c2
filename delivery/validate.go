package delivery

import (
	"bytes"
	"fmt"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// Limits of a registration.
const (
	MaxRegistrations   = 10 // of one entity
	DefaultConcurrency = 32
	maxConcurrency     = 1000
	maxPerSecond       = 10_000
	minTryTime         = 500 * time.Millisecond
	maxTryTime         = 30 * time.Second
	maxDebug           = time.Hour
	minTimeToLive      = time.Second
	maxTimeToLive      = 31 * 24 * time.Hour
	maxCertificates    = 16 << 10 // bytes of PEM
	debugTryTime       = 10 * time.Minute
)

// Validate lists every problem of a registration that can be seen without the store, each naming its field. It is pure.
func Validate(r Registration) []string {
	var p []string
	add := func(format string, args ...any) { p = append(p, fmt.Sprintf(format, args...)) }
	if r.Platform != "" && r.Platform != "LITHIUM" {
		add("platform must be LITHIUM")
	}
	for _, f := range []struct {
		name, value string
		max         int
		required    bool
	}{
		{"companyKey", r.CompanyKey, maxIDBytes, true},
		{"networkKey", r.NetworkKey, maxIDBytes, true},
		{"externalId", r.ExternalID, maxIDBytes, true},
		{"appId", r.AppID, maxIDBytes, true},
		{"name", r.Name, 256, false},
		{"callbackUrl", r.CallbackURL, 2048, true},
		{"credentials.identity", r.Credentials.Identity, 256, r.Credentials.Type != HMAC},
		{"credentials.secret", string(r.Credentials.Secret), 4096, true},
		{"contact.name", r.ContactName, 256, false},
		{"contact.email", r.ContactEmail, 254, false},
		{"avatarUrl", r.AvatarURL, 2048, false},
		{"owner", r.Owner, 256, false},
		{"runbookUrl", r.RunbookURL, 2048, false},
		{"networkInstance", r.NetworkInstance, 256, false},
	} {
		switch {
		case f.required && f.value == "":
			add("%s may not be empty", f.name)
		case len(f.value) > f.max:
			add("%s may not be longer than %d bytes", f.name, f.max)
		case !utf8.ValidString(f.value):
			add("%s must be UTF-8", f.name)
		case strings.IndexFunc(f.value, unicode.IsControl) >= 0:
			add("%s may not hold control characters", f.name)
		}
	}
	if r.NetworkKey != "" && !ValidNetworkKey(r.NetworkKey) {
		add("networkKey may not hold blanks or any of / \\ < > \" { }")
	}
	if len(r.CACertificate) > maxCertificates {
		add("caCertificate may not be longer than %d bytes", maxCertificates)
	} else if problem := CertificateProblem(r.CACertificate); problem != "" {
		add("caCertificate %s", problem)
	}
	p = append(p, invisible(r)...)
	p = append(p, validateChoices(r)...)
	p = append(p, validateLinks(r)...)
	if problem := metadataProblem(r.Metadata); problem != "" {
		add("%s", problem)
	}
	return p
}

// ValidNetworkKey tells whether s could be the key of a network: a word without blanks and quotes.
func ValidNetworkKey(s string) bool {
	return s != "" && len(s) <= maxIDBytes && !strings.ContainsFunc(s, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || strings.ContainsRune(`/\<>"{}`, r)
	})
}

// invisible names ids with characters that make two ids look alike (direction marks, zero-width).
func invisible(r Registration) []string {
	var p []string
	for _, f := range [][2]string{{"companyKey", r.CompanyKey}, {"networkKey", r.NetworkKey}, {"externalId", r.ExternalID}, {"appId", r.AppID}} {
		if strings.IndexFunc(f[1], func(c rune) bool { return unicode.Is(unicode.Cf, c) }) >= 0 {
			p = append(p, f[0]+" may not hold invisible characters")
		}
	}
	return p
}

func validateChoices(r Registration) []string {
	var p []string
	if r.Credentials.Type != BasicAuth && r.Credentials.Type != HMAC {
		p = append(p, "credentials.type must be BASIC_AUTH or HMAC")
	}
	if r.Credentials.Type == BasicAuth && strings.Contains(r.Credentials.Identity, ":") {
		p = append(p, "credentials.identity may not hold a colon with BASIC_AUTH")
	}
	if r.Mode != "" && r.Mode != Live && r.Mode != Maintenance && r.Mode != Monitoring {
		p = append(p, "mode must be LIVE, MAINTENANCE or MONITORING")
	}
	if r.WhenDown != "" && r.WhenDown != HandOff && r.WhenDown != Hold {
		p = append(p, "whenDown must be handoff or hold")
	}
	if r.DeliveryTimeout != 0 && (r.DeliveryTimeout < minTryTime || r.DeliveryTimeout > maxTryTime) {
		p = append(p, fmt.Sprintf("deliveryTimeoutMs must be from %d to %d", minTryTime.Milliseconds(), maxTryTime.Milliseconds()))
	}
	if r.TimeToLive != 0 && (r.TimeToLive < minTimeToLive || r.TimeToLive > maxTimeToLive) {
		p = append(p, fmt.Sprintf("timeToLiveMs must be from %d to %d", minTimeToLive.Milliseconds(), maxTimeToLive.Milliseconds()))
	}
	if r.MaxConcurrency < 0 || r.MaxConcurrency > maxConcurrency {
		p = append(p, fmt.Sprintf("maxConcurrency must be from 1 to %d", maxConcurrency))
	}
	if r.MaxPerSecond < 0 || r.MaxPerSecond > maxPerSecond {
		p = append(p, fmt.Sprintf("maxPerSecond must be from 1 to %d", maxPerSecond))
	}
	return p
}

func validateLinks(r Registration) []string {
	var p []string
	if e := r.ContactEmail; e != "" {
		if _, err := MailAddress(e); err != nil {
			p = append(p, "contact.email "+err.Error())
		}
	}
	for _, f := range [][2]string{{"avatarUrl", r.AvatarURL}, {"runbookUrl", r.RunbookURL}} {
		if f[1] == "" {
			continue
		}
		if u, err := url.Parse(f[1]); err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" {
			p = append(p, f[0]+" must be an http or https URL")
		}
	}
	return p
}

// metadataProblem checks that metadata is a flat JSON object.
func metadataProblem(raw []byte) string {
	if len(raw) == 0 {
		return ""
	}
	if len(raw) > 16<<10 {
		return "metadata may not be larger than 16384 bytes"
	}
	dec := jsontext.NewDecoder(bytes.NewReader(raw))
	if tok, err := dec.ReadToken(); err != nil || tok.Kind() != '{' {
		return "metadata must be a flat object"
	}
	for dec.PeekKind() != '}' {
		name, err := dec.ReadToken()
		if err != nil {
			return "metadata is not valid JSON"
		}
		key := name.String()
		v, err := dec.ReadValue()
		if err != nil {
			return "metadata is not valid JSON"
		}
		if v.Kind() == '{' || v.Kind() == '[' {
			return fmt.Sprintf("metadata must be flat: %q holds an object or array", clip(key, 64))
		}
	}
	return ""
}
