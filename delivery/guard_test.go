package delivery_test

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/mail"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
	"github.com/stretchr/testify/require"
)

func TestGuardRefusesEverythingThatIsNotPublic(t *testing.T) {
	for _, addr := range []string{
		"127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.64.0.1", "100.100.100.200",
		"0.0.0.0", "0.1.2.3", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.9", "240.0.0.1", "255.255.255.255",
		"224.0.0.1", "168.63.129.16", "192.88.99.1", "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
		"64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::1", "2001::1", "2001:db8::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1", "3fff::1", "5f00::1", "100::1",
	} {
		require.Error(t, delivery.CheckAddress(delivery.GuardConfig{}, netip.AddrPortFrom(netip.MustParseAddr(addr), 443)), addr)
	}
	for _, addr := range []string{"8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808", "100.63.255.255", "100.128.0.1", "172.32.0.1"} {
		require.NoError(t, delivery.CheckAddress(delivery.GuardConfig{}, netip.AddrPortFrom(netip.MustParseAddr(addr), 443)), addr)
	}
}

func TestAllowListOpensRangesButNeverMetadataOrOurOwn(t *testing.T) {
	cfg := delivery.GuardConfig{Allow: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}, Deny: []string{"127.0.0.1:6379", "[::]:8080"}}
	ok := func(addr string, port uint16) error {
		return delivery.CheckAddress(cfg, netip.AddrPortFrom(netip.MustParseAddr(addr), port))
	}
	require.NoError(t, ok("127.0.0.1", 443))
	require.NoError(t, ok("10.1.2.3", 443))
	require.Error(t, ok("127.0.0.1", 6379))
	require.Error(t, ok("::ffff:127.0.0.1", 6379))
	require.Error(t, ok("::1", 8080))
	for _, never := range []string{"169.254.169.254", "fe80::1", "100.100.100.200", "fd00:ec2::254", "168.63.129.16", "224.0.0.1", "0.0.0.0", "64:ff9b::a9fe:a9fe"} {
		require.Error(t, ok(never, 443), never)
	}
}

func TestCallbackURLProblems(t *testing.T) {
	for url, want := range map[string]string{
		"https://bot.example.org/hook": "", "https://bot.example.org:8443/": "", "http://bot.example.org/": "must be https", "ftp://x/": "must begin with https",
		"https://": "must name a host", "https://u:p@bot.example.org/": "user or password", "https://bot.example.org/#x": "fragment", "https://bot.example.org:22/": "port must be 80, 443",
		"https://127.0.0.1/": "not a public address", "https://[::1]/": "not a public address", "https://localhost/": "not a public address", "https://169.254.169.254/": "can never be called", "://": "not a URL",
	} {
		got := delivery.URLProblem(delivery.GuardConfig{}, url)
		if want == "" {
			require.Empty(t, got, url)
		} else {
			require.Contains(t, got, want, url)
		}
	}
}

// FuzzAddress holds that an address inside a mapped or translated one is judged like itself.
func FuzzAddress(f *testing.F) {
	f.Add([]byte{127, 0, 0, 1})
	f.Add([]byte{169, 254, 169, 254})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != 4 {
			return
		}
		v4 := netip.AddrFrom4([4]byte(b))
		plain := delivery.CheckAddress(delivery.GuardConfig{}, netip.AddrPortFrom(v4, 443))
		mapped := delivery.CheckAddress(delivery.GuardConfig{}, netip.AddrPortFrom(netip.AddrFrom16(v4.As16()), 443))
		require.Equal(t, plain == nil, mapped == nil, v4)
	})
}

// FuzzCallbackURL holds that no spelling of an address that is not public passes, whatever is around it.
func FuzzCallbackURL(f *testing.F) {
	for _, s := range spellings() {
		f.Add(s.url("https", "8443"))
	}
	f.Add("https://bot.example/a?b=c")
	f.Fuzz(func(t *testing.T, text string) {
		if delivery.URLProblem(delivery.GuardConfig{}, text) != "" {
			return
		}
		u, err := url.Parse(text)
		require.NoError(t, err)
		require.Equal(t, "https", u.Scheme)
		require.Nil(t, u.User)
		if addr, err := netip.ParseAddr(u.Hostname()); err == nil {
			require.NoError(t, delivery.CheckAddress(delivery.GuardConfig{}, netip.AddrPortFrom(addr, 443)), text)
		}
		req, err := http.NewRequest(http.MethodPost, text, nil)
		require.NoError(t, err)
		require.NotContains(t, req.URL.RequestURI(), " ", "the request line stays whole")
	})
}

// FuzzMailAddress holds that what passes as a contact's address is one mailbox in ASCII, which stays itself.
func FuzzMailAddress(f *testing.F) {
	for _, s := range []string{"a@example.org", `"on call"@example.org`, "a@bücher.example", "A <a@e.org>", "a@e.org\r\nBcc: b@e.org", "a@[127.0.0.1]", "a@b@c", `"a\@b"@e.org`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		address, err := delivery.MailAddress(text)
		if err != nil {
			return
		}
		for _, r := range address {
			require.True(t, r >= ' ' && r < 127, "%q", address)
		}
		line := strings.TrimSuffix(strings.TrimPrefix((&mail.Address{Address: address}).String(), "<"), ">") // as it is written into the envelope
		again, err := delivery.MailAddress(line)
		require.NoError(t, err, line)
		require.Equal(t, address, again)
		require.NotContains(t, address[strings.LastIndexByte(address, '@'):], ">")
	})
}

// FuzzCertificates holds that what passes as certificates can be trusted.
func FuzzCertificates(f *testing.F) {
	f.Add("")
	f.Add("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
	f.Add(newAuthority(f).pem)
	f.Fuzz(func(t *testing.T, text string) {
		if text != "" && delivery.CertificateProblem(text) == "" {
			require.True(t, x509.NewCertPool().AppendCertsFromPEM([]byte(text)))
		}
	})
}

func TestBlockedAddressOpensNoConnection(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	opened := make(chan struct{}, 1)
	go func() {
		if c, err := ln.Accept(); err == nil {
			_ = c.Close()
			opened <- struct{}{}
		}
	}()
	r := startReplica(t, newRedisServer(t), nil)
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	// The name is public to the eye; where it leads is known at dial only.
	reg := registration("e1", "app", func(r *delivery.Registration) { r.CallbackURL = "http://ip6-localhost:" + port + "/" })
	require.NoError(t, r.Create(t.Context(), reg))
	rec := r.settled(t, r.send(t, message("e1", "ann", 1))[0].ID)
	require.Equal(t, delivery.Failed, rec.Fate)
	require.Contains(t, []health.Class{health.Blocked, health.DNS}, rec.Class)
	require.EqualValues(t, 1, r.healthOf(t, "app").Counts.ByClass[rec.Class])
	select {
	case <-opened:
		t.Fatal("a connection was opened")
	default:
	}
}

func TestRetryAfterIsReadWithCare(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "1": time.Second, "-5": 0, "99999999999": time.Hour, "x": 0, "99999999999999999999999": 0,
		"Sat, 21 Nov 2026 12:00:01 GMT": time.Second, "Sat, 21 Nov 2026 11:00:00 GMT": 0,
	} {
		require.Equal(t, want, delivery.RetryAfter(value, now), value)
	}
}

// FuzzRetryAfter holds that no header makes a wait negative.
func FuzzRetryAfter(f *testing.F) {
	f.Add("1")
	f.Add("Sat, 21 Nov 2026 12:00:01 GMT")
	f.Fuzz(func(t *testing.T, value string) {
		require.GreaterOrEqual(t, delivery.RetryAfter(value, time.Unix(1e9, 0)), time.Duration(0))
	})
}

func TestTransportErrorsHaveAClass(t *testing.T) {
	require.Equal(t, health.Timeout, delivery.ClassOf(context.DeadlineExceeded))
	require.Equal(t, health.DNS, delivery.ClassOf(&net.DNSError{Err: "no such host"}))
	require.Equal(t, health.Refused, delivery.ClassOf(&net.OpError{Op: "dial", Err: errors.New("x")}))
	require.Equal(t, health.TLS, delivery.ClassOf(errors.New("remote error: tls: bad certificate")))
	require.Equal(t, health.Broken, delivery.ClassOf(errors.New("malformed HTTP response")))
}

func TestSealedSecretsOpenOnlyWhereTheyBelong(t *testing.T) {
	s, err := delivery.NewSealer([]byte(strings.Repeat("k", 32)))
	require.NoError(t, err)
	sealed := s.Seal("hush", "reg-1", "secret")
	require.NotContains(t, sealed, "hush")
	back, err := s.Open(sealed, "reg-1", "secret")
	require.NoError(t, err)
	require.Equal(t, delivery.Secret("hush"), back)
	for _, wrong := range [][2]string{{"reg-2", "secret"}, {"reg-1", "other"}} {
		_, err := s.Open(sealed, wrong[0], wrong[1])
		require.Error(t, err)
	}
	other, err := delivery.NewSealer([]byte(strings.Repeat("j", 32)))
	require.NoError(t, err)
	_, err = other.Open(sealed, "reg-1", "secret")
	require.ErrorContains(t, err, "--key-file")
	_, err = delivery.NewSealer([]byte("short"))
	require.Error(t, err)
	_, err = delivery.NewSealer()
	require.Error(t, err)
}

func TestARingOpensWhatAnyOfItsKeysHasSealed(t *testing.T) {
	old, err := delivery.NewSealer([]byte(strings.Repeat("k", 32)))
	require.NoError(t, err)
	ring, err := delivery.NewSealer([]byte(strings.Repeat("j", 32)), []byte(strings.Repeat("k", 32)))
	require.NoError(t, err)
	back, err := ring.Open(old.Seal("hush", "reg-1", "secret"), "reg-1", "secret")
	require.NoError(t, err)
	require.Equal(t, delivery.Secret("hush"), back)
	_, err = old.Open(ring.Seal("hush", "reg-1", "secret"), "reg-1", "secret")
	require.ErrorContains(t, err, "--key-file", "the first key seals")
}

// FuzzIDs holds that no id breaks out of its place in a name.
func FuzzIDs(f *testing.F) {
	f.Add("acme", "{x}", "a:b", "*\n%2F\x00")
	f.Fuzz(func(t *testing.T, a, b, c, d string) {
		id := delivery.RegID{Entity: delivery.Entity{CompanyKey: a, NetworkKey: b, ExternalID: c}, AppID: d}
		back, err := delivery.MemberRoundTrip(id)
		require.NoError(t, err)
		require.Equal(t, id, back)
	})
}

func TestStrangeIDsAreNotOurs(t *testing.T) {
	for _, id := range []string{"", "-", "e", "r-", "e7-abc", "x7-abc-" + strings.Repeat("0", 32), "rg-abc-" + strings.Repeat("0", 32), "r7-abc-" + strings.Repeat("z", 32)} {
		require.False(t, delivery.IDOf(id), id)
	}
	require.True(t, delivery.IDOf("r7-abc-"+strings.Repeat("0", 32)))
}

func TestEveryFaultOfARegistrationIsListedAtOnce(t *testing.T) {
	got := delivery.Validate(delivery.Registration{
		Name: "a\nb", MaxConcurrency: -1, DeliveryTimeout: time.Millisecond, ContactEmail: "Ann <a@b.c>", Mode: "X", WhenDown: "never", Metadata: []byte(`{"a":{}}`), RunbookURL: "javascript:1",
		RegID: delivery.RegID{AppID: "a\u202eb"},
	})
	for _, want := range []string{
		"companyKey may not be empty", "networkKey may not be empty", "externalId may not be empty", "callbackUrl may not be empty", "credentials.type must be",
		"credentials.secret may not be empty", "credentials.identity may not be empty", "name may not hold control characters", "appId may not hold invisible characters", "mode must be",
		"whenDown must be", "deliveryTimeoutMs must be", "maxConcurrency must be", "contact.email must be", "runbookUrl must be", `metadata must be flat: "a"`,
	} {
		found := false
		for _, p := range got {
			found = found || strings.HasPrefix(p, want)
		}
		require.True(t, found, "%s in %v", want, got)
	}
	require.Empty(t, delivery.Validate(registration("e", "app")))
}
