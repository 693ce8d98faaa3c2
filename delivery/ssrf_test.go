package delivery_test

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
	"github.com/stretchr/testify/require"
)

// spelling is one way to write an address that is not public.
type spelling struct {
	host  string // as it stands in a URL
	addr  string // that a name could stand for; empty: no name server can say it
	never bool   // not even an operator may allow it
	odd   bool   // it is refused for how it is written, whatever is allowed
}

// spellings are the ranges that callbacks may not reach, and the ways around a check that have been tried elsewhere.
func spellings() []spelling {
	list := []spelling{}
	for _, a := range []string{
		"127.0.0.1", "127.0.0.2", "127.255.255.254", "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1", "192.168.255.255",
		"100.64.0.1", "100.127.255.255", "0.1.2.3", "192.0.0.1", "192.0.0.8", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1",
		"240.0.0.1", "254.255.255.254", "::1", "0:0:0:0:0:0:0:1", "::127.0.0.1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:7f00:1", "0:0:0:0:0:ffff:10.0.0.1", "::ffff:192.168.0.1",
		"::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::a00:1", "64:ff9b:1::7f00:1", "2002:7f00:1::", "2002:a00:1::1", "2002:808:808::1", "2001::1", "2001:0:808:808::80ff:fffe",
		"2001:db8::1", "2001:10::1", "2001:20::1", "3fff::1", "5f00::1", "100::1", "fc00::1", "fd12:3456:789a::1", "fec0::1", "2606:4700::5efe:7f00:1", "2606:4700::200:5efe:a00:1", "4000::1", "::a:b:c",
	} {
		list = append(list, spelling{host: a, addr: a})
	}
	for _, a := range []string{
		"169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192", "0.0.0.0", "224.0.0.1", "239.255.255.255", "255.255.255.255", "::", "::ffff:169.254.169.254",
		"::169.254.169.254", "::ffff:0:169.254.169.254", "64:ff9b::169.254.169.254", "64:ff9b:1::169.254.169.254", "2002:a9fe:a9fe::1", "2001::5601:5601", "2606:4700::5efe:a9fe:a9fe",
		"fd00:ec2::254", "fd20:ce::254", "fe80::1", "fe80::a9fe:a9fe", "ff02::1", "ff0e::1",
	} {
		list = append(list, spelling{host: a, addr: a, never: true})
	}
	list = append(list, spelling{host: "fe80::1%25lo", never: true})
	for _, a := range []string{"localhost", "LocalHost", "localhost.", "a.b.localhost", "127.0.0.1.", "①②⑦.0.0.1", "127。0。0。1", "１２７.0.0.1", "127.0.0.①", "ｌocalhost"} {
		list = append(list, spelling{host: a})
	}
	for _, a := range []string{
		"127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0X7F.0.0.1", "0177.0.0.1", "017700000001", "127.0.0.01", "0", "1.2.3.4.5", "127.0.0.0x1", "0x", "①②⑦.1", "256.256.256.256", "a.1.",
	} {
		list = append(list, spelling{host: a, odd: true})
	}
	return list
}

func (s spelling) url(scheme, port string) string {
	if strings.Contains(s.host, ":") {
		return scheme + "://[" + s.host + "]:" + port + "/"
	}
	return scheme + "://" + s.host + ":" + port + "/"
}

func TestD11EverySpellingIsRefusedAtRegistration(t *testing.T) {
	all := spellings()
	require.GreaterOrEqual(t, len(all), 60)
	everything := delivery.GuardConfig{Allow: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}
	for _, s := range all {
		problem := delivery.URLProblem(delivery.GuardConfig{}, s.url("https", "8443"))
		require.True(t, strings.HasPrefix(problem, "callbackUrl"), "%s: %q", s.host, problem)
		allowed := delivery.URLProblem(everything, s.url("https", "8443"))
		if s.never || s.odd {
			require.NotEmpty(t, allowed, s.host)
		} else {
			require.Empty(t, allowed, "%s, when it is allowed", s.host)
		}
	}
	for _, public := range []string{"8.8.8.8", "[2606:4700::1111]", "[64:ff9b::808:808]", "bücher.example", "xn--bcher-kva.example", "my_bot.example", "a1.b2", "1.2.3.example"} {
		require.Empty(t, delivery.URLProblem(delivery.GuardConfig{}, "https://"+public+"/"), public)
	}
	t.Attr("measured", fmt.Sprintf("%d spellings and ranges refused at registration", len(all)))
}

func TestD11RegistrationSaysWhatIsWrong(t *testing.T) {
	r := outward(t, func(c *delivery.Config) { c.Guard.Allow = nil })
	err := r.Create(t.Context(), registration("e", "app", func(r *delivery.Registration) { r.CallbackURL = "http://169.254.169.254/latest" }))
	var invalid *delivery.ValidationError
	require.ErrorAs(t, err, &invalid)
	require.Equal(t, []string{"callbackUrl: callback address is not allowed: 169.254.169.254 can never be called"}, invalid.Problems)
	for url, want := range map[string]string{
		"http://u:p@bot.example/": "user or password", "http://u@bot.example/": "user or password", "http://bot.example/#": "fragment", "http://bot.example/a b": "blanks", "http://bot.example:0/": "port",
		"http://bot.example:22/": "not 22", "http://bot.example:25/": "not 25", "http://bot.example:6379/": "port 6379", "http://bot.example:2375/": "port 2375", "http://bot.example:11211/": "port 11211",
		"http://bot.example:65536/": "port", "gopher://bot.example/": "must begin with", "file:///etc/passwd": "must begin with", "http://[::1": "not a URL", "http:bot.example": "must name a host",
	} {
		require.ErrorContains(t, r.Create(t.Context(), registration("e", "app", func(r *delivery.Registration) { r.CallbackURL = url })), want, url)
	}
}

func TestD11EverySpellingIsRefusedAtTheDial(t *testing.T) {
	canary := startWildBot(t, accepting)
	_, port, _ := net.SplitHostPort(canary.addr)
	names := map[string]func(int64) named{"*": addresses("127.0.0.1")} // a resolver that reads everything as loopback
	cases, byName := map[string]string{}, map[string]spelling{}
	for i, s := range spellings() {
		if s.addr != "" {
			name := fmt.Sprintf("n%d.test", i)
			names[name] = addresses(s.addr)
			cases[s.addr], byName[s.addr] = "http://"+name+":"+port+"/", s
		}
	}
	server := startNameServer(t, names)
	dial := delivery.GuardedDial(delivery.GuardConfig{Resolver: server.resolver()})
	for _, s := range spellings() {
		conn, err := dial(t.Context(), "tcp", net.JoinHostPort(strings.Replace(s.host, "%25", "%", 1), port))
		require.Error(t, err, s.host)
		require.Nil(t, conn)
		require.Contains(t, []health.Class{health.Blocked, health.DNS}, delivery.ClassOf(err), s.host)
	}
	r := outward(t, server.on())
	together(t, r, cases, func(url string) string { return url }, func(t *testing.T, _ string, rec delivery.Record) {
		require.Equal(t, delivery.Failed, rec.Fate)
		require.Equal(t, health.Blocked, rec.Class, rec.Message)
		require.Equal(t, 1, rec.Tries, "no second try: it would meet the same")
		require.Contains(t, rec.Message, "callback address is not allowed")
	})
	require.Zero(t, canary.conns.Load())

	everything := delivery.GuardConfig{Allow: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}
	for addr, s := range byName {
		err := delivery.CheckAddress(everything, netip.AddrPortFrom(netip.MustParseAddr(addr), 443))
		require.Equal(t, s.never, err != nil, addr)
	}
	t.Attr("measured", fmt.Sprintf("%d spellings dialled, %d ranges by name: 0 connections at the canary, class blocked; metadata refused even when all is allowed",
		len(spellings()), len(cases)))
}

func TestD11AllowedRangesWork(t *testing.T) {
	bot := startWildBot(t, accepting)
	_, port, _ := net.SplitHostPort(bot.addr)
	server := startNameServer(t, map[string]func(int64) named{"inside.test": addresses("127.0.0.1"), "localhost": addresses("127.0.0.1")})
	r := outward(t, server.on(loopback...))
	for i, host := range []string{"127.0.0.1", "inside.test", "localhost.", "①②⑦.0.0.1", "[::ffff:127.0.0.1]"} {
		rec := r.deliver(t, fmt.Sprint("e", i), "http://"+host+":"+port+"/")
		require.Equal(t, delivery.Delivered, rec.Fate, host+": "+rec.Message)
	}
	require.EqualValues(t, 5, bot.requests.Load())
}

func TestD11ABlockedAddressIsNamedAsAFaultOfTheSettings(t *testing.T) {
	server := startNameServer(t, map[string]func(int64) named{"inside.test": addresses("10.0.0.1")})
	r := outward(t, server.on(), func(c *delivery.Config) { c.Rules.MinAttempts = 3 })
	require.NoError(t, r.Create(t.Context(), registration("e", "app", func(r *delivery.Registration) { r.CallbackURL = "http://inside.test/" })))
	for i := range 3 {
		r.settled(t, r.send(t, message("e", fmt.Sprint("a", i), i))[0].ID)
	}
	soon(t, func() bool { return !r.healthOf(t, "app").Standing.PausedUntil.IsZero() }, "DOWN")
	h := r.healthOf(t, "app")
	require.EqualValues(t, 3, h.Counts.ByClass[health.Blocked])
	require.Equal(t, health.Blocked, h.LastFailure.Class)
	require.Contains(t, h.Verdict.Reason, "the callback address is not allowed")
}

func TestD12ProxiesOfTheEnvironmentAreIgnored(t *testing.T) {
	proxy, bot := startWildBot(t, accepting), startWildBot(t, accepting)
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
		t.Setenv(name, proxy.url("/"))
	}
	t.Setenv("NO_PROXY", "")
	_, port, _ := net.SplitHostPort(bot.addr)
	r := outward(t, startNameServer(t, map[string]func(int64) named{"bot.test": addresses("127.0.0.1")}).on(public))
	require.Equal(t, delivery.Delivered, r.deliver(t, "e", "http://bot.test:"+port+"/").Fate)
	require.Zero(t, proxy.conns.Load())
	require.EqualValues(t, 1, bot.requests.Load())
	t.Attr("measured", "HTTP_PROXY, HTTPS_PROXY and ALL_PROXY set: 0 connections to the proxy")
}

func TestD13TheGatewaysOwnPartsAreNoBots(t *testing.T) {
	api, ops := startWildBot(t, accepting), startWildBot(t, accepting)
	_, apiPort, _ := net.SplitHostPort(api.addr)
	_, opsPort, _ := net.SplitHostPort(ops.addr)
	server := startNameServer(t, map[string]func(int64) named{"own.test": addresses("127.0.0.1"), "own6.test": addresses("::ffff:127.0.0.1"), "near.test": addresses("127.9.9.9")})
	r := outward(t, func(c *delivery.Config) {
		c.Guard = delivery.GuardConfig{AllowHTTP: true, Allow: loopback, Resolver: server.resolver(), Deny: []string{api.addr, "[::]:" + opsPort}}
	})
	for _, port := range []string{apiPort, opsPort} {
		for _, host := range []string{"127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "127.0.0.2", "①②⑦.0.0.1"} {
			err := r.Create(t.Context(), registration("e", "app", func(r *delivery.Registration) { r.CallbackURL = "http://" + host + ":" + port + "/" }))
			require.ErrorContains(t, err, "is the gateway's own", host)
		}
		for _, name := range []string{"own", "own6", "near"} {
			rec := r.deliver(t, name+port, "http://"+name+".test:"+port+"/")
			require.Equal(t, health.Blocked, rec.Class, rec.Message)
			require.Contains(t, rec.Message, "is the gateway's own")
		}
	}
	require.Zero(t, api.conns.Load()+ops.conns.Load())
	t.Attr("measured", "own listeners by 6 spellings at registration and 3 names at the dial, loopback allowed: 0 connections")
}

func TestD13ServersThatTheStoreMovesToAreNoBots(t *testing.T) {
	server := startWildBot(t, accepting)
	var moved atomic.Bool
	r := outward(t, func(c *delivery.Config) {
		c.Guard = delivery.GuardConfig{AllowHTTP: true, Allow: loopback, Peers: func() (list []netip.AddrPort) {
			if moved.Load() {
				list = append(list, netip.MustParseAddrPort(server.addr))
			}
			return list
		}}
	})
	require.Equal(t, delivery.Delivered, r.deliver(t, "e", server.url("/")).Fate)
	moved.Store(true)
	err := r.Create(t.Context(), registration("e2", "app", func(r *delivery.Registration) { r.CallbackURL = server.url("/") }))
	require.ErrorContains(t, err, "is the gateway's own")
}

func TestD15CredentialsAreSentRightOrRefusedByName(t *testing.T) {
	long := strings.Repeat("x", 8<<10)
	cases := map[string]struct {
		kind             delivery.CredentialType
		identity, secret string
		problem          string // empty: it is accepted
	}{
		"colon in the secret":        {delivery.BasicAuth, "gw", "a:b:c", ""},
		"colon in the identity":      {delivery.BasicAuth, "g:w", "s", "credentials.identity may not hold a colon"},
		"colon with HMAC":            {delivery.HMAC, "g:w", "s", ""},
		"line feed in the secret":    {delivery.BasicAuth, "gw", "s\nX-Evil: 1", "credentials.secret may not hold control characters"},
		"CRLF in the identity":       {delivery.BasicAuth, "gw\r\nX-Evil: 1", "s", "credentials.identity may not hold control characters"},
		"CRLF with HMAC":             {delivery.HMAC, "gw", "s\r\n", "credentials.secret may not hold control characters"},
		"NUL":                        {delivery.BasicAuth, "gw", "s\x00", "credentials.secret may not hold control characters"},
		"beyond ASCII":               {delivery.BasicAuth, "jürgen", "пароль€😀", ""},
		"beyond ASCII with HMAC":     {delivery.HMAC, "", "пароль€😀", ""},
		"not UTF-8":                  {delivery.BasicAuth, "gw", "\xff\xfe", "credentials.secret must be UTF-8"},
		"blanks and quotes":          {delivery.BasicAuth, "g w", ` "s\' `, ""},
		"secret of 4 KiB":            {delivery.BasicAuth, "gw", long[:4<<10], ""},
		"secret of 8 KiB":            {delivery.BasicAuth, "gw", long, "credentials.secret may not be longer than 4096 bytes"},
		"HMAC secret of 8 KiB":       {delivery.HMAC, "gw", long, "credentials.secret may not be longer than 4096 bytes"},
		"identity of 8 KiB":          {delivery.BasicAuth, long, "s", "credentials.identity may not be longer than 256 bytes"},
		"no secret":                  {delivery.BasicAuth, "gw", "", "credentials.secret may not be empty"},
		"no identity":                {delivery.BasicAuth, "", "s", "credentials.identity may not be empty"},
		"another kind of credential": {"BEARER", "gw", "s", "credentials.type must be"},
	}
	r := outward(t)
	accepted := 0
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			bot := startWildBot(t, accepting)
			reg := registration(name, "app", func(r *delivery.Registration) {
				r.CallbackURL = bot.url("/")
				r.Credentials = delivery.Credentials{Type: c.kind, Identity: c.identity, Secret: delivery.Secret(c.secret)}
			})
			err := r.Create(t.Context(), reg)
			if c.problem != "" {
				require.ErrorContains(t, err, c.problem)
				return
			}
			require.NoError(t, err)
			accepted++
			require.Equal(t, delivery.Delivered, r.settled(t, r.send(t, message(name, "ann", 1))[0].ID).Fate)
			got := bot.all()[0]
			require.Empty(t, got.Header.Get("X-Evil"))
			if c.kind == delivery.BasicAuth {
				identity, secret, ok := got.BasicAuth()
				require.True(t, ok)
				require.Equal(t, c.identity+" "+c.secret, identity+" "+secret)
			} else {
				require.Regexp(t, `^v1,[A-Za-z0-9+/]{43}=$`, got.Header.Get("webhook-signature"))
			}
		})
	}
	t.Attr("measured", fmt.Sprintf("%d kinds of credentials: %d sent as they are, the others refused with the field named", len(cases), accepted))
}

func TestD15WhatABotSendsBackOfItsCredentialsIsNotKept(t *testing.T) {
	const secret = "correct horse \"battery\" staple"
	basic := base64.StdEncoding.EncodeToString([]byte("gw:" + secret))
	echo := map[string]func(r *http.Request) string{
		"body": func(r *http.Request) string {
			text := "you sent " + r.Header.Get("Authorization") + " which is " + secret
			return fmt.Sprintf("HTTP/1.1 500 Broken\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
		},
		"cut off": func(r *http.Request) string {
			text := strings.Repeat("x", 512-20) + secret
			return fmt.Sprintf("HTTP/1.1 500 Broken\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
		},
		"status line": func(r *http.Request) string { return r.Header.Get("Authorization") + " " + secret + "\r\n\r\n" },
		"header":      func(r *http.Request) string { return "HTTP/1.1 200 OK\r\n" + secret + "\r\n\r\n" },
	}
	urls := map[string]string{}
	for name, answer := range echo {
		urls[name] = startWildBot(t, answering(answer)).url("/")
	}
	r := outward(t)
	for name, url := range urls {
		rec := r.deliver(t, name, url, func(r *delivery.Registration) { r.Credentials.Secret = secret })
		require.Equal(t, delivery.Failed, rec.Fate)
		for _, piece := range []string{basic, basic[:30], secret, "correct horse", "horse", "staple"} {
			require.NotContains(t, rec.Message, piece, name)
		}
	}
	t.Attr("measured", fmt.Sprintf("%d ways of sending credentials back: nothing of them in the request record", len(echo)))
}
