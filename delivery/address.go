package delivery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"golang.org/x/net/idna"
)

// connectTime bounds the way to a connection: resolving the name and connecting to an address.
const connectTime = 2 * time.Second

// GuardConfig says which callback addresses may be called.
type GuardConfig struct {
	Allow     []netip.Prefix          // refused ranges that the operator allows; never link-local, metadata or multicast
	AllowHTTP bool                    // callback URLs may be http
	Deny      []string                // host:port of the gateway's own listeners, Redis and SMTP: never called
	Peers     func() []netip.AddrPort // further addresses of that kind, as they are now; nil: none
	Resolver  *net.Resolver           // nil: the system's name servers, asked without help of the C library
}

// guard decides about callback addresses: at registration, for a clear message, and at every dial on the addresses that the name stands
// for then, for the truth.
type guard struct {
	cfg  GuardConfig
	deny []netip.AddrPort
}

// errBlocked is wrapped by every refusal of the guard.
var errBlocked = errors.New("callback address is not allowed")

// never are ranges that no allow list opens: link-local, multicast, unspecified, and the metadata services of the clouds.
var never = prefixes("169.254.0.0/16", "fe80::/10", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32", "fd00:ec2::254/128",
	"fd20:ce::254/128", "224.0.0.0/4", "ff00::/8", "0.0.0.0/32", "::/128", "255.255.255.255/32")

// refused are ranges that are not the public internet (the special-purpose registries of RFC 6890 and its successors), those that lead to
// an IPv4 address by a way that is out of use, and all of IPv6 that is not given out, which is everything but 2000::/3.
var refused = prefixes("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
	"192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
	"::/3", "4000::/2", "8000::/1", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")

// nat64 addresses lead to the IPv4 address at their end, by a translator that networks without IPv4 have: they are judged like it.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// carrying are other IPv6 ranges whose addresses carry an IPv4 address, the byte that it begins at, and whether its bits are turned.
var carrying = []struct {
	netip.Prefix
	at     int
	turned bool
}{
	{netip.MustParsePrefix("64:ff9b:1::/48"), 12, false},  // NAT64 of a network's own
	{netip.MustParsePrefix("2002::/16"), 2, false},        // 6to4
	{netip.MustParsePrefix("2001::/32"), 12, true},        // Teredo
	{netip.MustParsePrefix("::/96"), 12, false},           // IPv4-compatible
	{netip.MustParsePrefix("::ffff:0:0:0/96"), 12, false}, // IPv4-translated
}

// closedPorts are ports above 1023 where no webhook listens, but stores, queues and the control of machines do.
var closedPorts = []uint16{
	1433, 1521, 2049, 2181, 2375, 2376, 2379, 2380, 3306, 3389, 4369, 5060, 5061, 5432, 5672, 5900, 5985, 5986, 6000, 6379, 6443,
	6665, 6666, 6667, 6668, 6669, 6697, 9042, 9092, 9200, 9300, 10250, 10255, 11211, 16379, 26379, 27017, 27018, 27019,
}

func prefixes(texts ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(texts))
	for i, t := range texts {
		out[i] = netip.MustParsePrefix(t)
	}
	return out
}

func newGuard(cfg GuardConfig) *guard {
	g := &guard{cfg: cfg}
	if g.cfg.Resolver == nil {
		g.cfg.Resolver = &net.Resolver{PreferGo: true} // threads of the C library that wait for a sick name server are few, and shared by all bots
	}
	for _, hostPort := range cfg.Deny {
		if ap, err := netip.ParseAddrPort(hostPort); err == nil {
			g.deny = append(g.deny, netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()))
		}
	}
	return g
}

// carried returns the IPv4 address inside an IPv6 address that carries one.
func carried(a netip.Addr) (netip.Addr, bool) {
	b := a.As16()
	if isatap := b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe; isatap {
		return netip.AddrFrom4([4]byte(b[12:16])), true
	}
	for _, c := range carrying {
		if !c.Contains(a) || a.IsLoopback() || a.IsUnspecified() {
			continue
		}
		v4 := [4]byte(b[c.at : c.at+4])
		for i := range v4 {
			if c.turned {
				v4[i] ^= 0xff
			}
		}
		return netip.AddrFrom4(v4), true
	}
	return a, false
}

// check refuses an address and port that may not be called.
func (g *guard) check(ap netip.AddrPort) error {
	addr := ap.Addr().WithZone("").Unmap()
	if nat64.Contains(addr) {
		b := addr.As16()
		addr = netip.AddrFrom4([4]byte(b[12:16]))
	}
	if addr.Is6() {
		if v4, ok := carried(addr); ok {
			if err := g.check(netip.AddrPortFrom(v4, ap.Port())); err != nil {
				return fmt.Errorf("%w (inside %s)", err, addr)
			}
		}
	}
	inside := func(list []netip.Prefix) bool {
		return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(addr) })
	}
	switch {
	case inside(never):
		return fmt.Errorf("%w: %s can never be called", errBlocked, addr)
	case g.own(addr, ap.Port()):
		return fmt.Errorf("%w: %s is the gateway's own", errBlocked, netip.AddrPortFrom(addr, ap.Port()))
	case inside(refused) && !inside(g.cfg.Allow):
		return fmt.Errorf("%w: %s is not a public address, and the operator's allow list (--allow-callback) does not name it", errBlocked, addr)
	case !openPort(ap.Port()):
		return fmt.Errorf("%w: %s", errBlocked, portRule(ap.Port()))
	}
	return nil
}

// own says whether something of the gateway's own listens there. What listens at one loopback address, or at all addresses, is taken to
// listen at every loopback address.
func (g *guard) own(addr netip.Addr, port uint16) bool {
	is := func(d netip.AddrPort) bool {
		return d.Port() == port && (d.Addr() == addr || addr.IsLoopback() && (d.Addr().IsLoopback() || d.Addr().IsUnspecified()))
	}
	return slices.ContainsFunc(g.deny, is) || g.cfg.Peers != nil && slices.ContainsFunc(g.cfg.Peers(), is)
}

func openPort(port uint16) bool {
	return port == 80 || port == 443 || port >= 1024 && !slices.Contains(closedPorts, port)
}

func portRule(port uint16) string {
	if port < 1024 {
		return fmt.Sprintf("the port must be 80, 443, or one from 1024 to 65535, not %d", port)
	}
	return fmt.Sprintf("port %d belongs to a service that is no bot", port)
}

// dialer connects to checked addresses only: all that the name stands for are checked before any is tried, and the one that is connected
// to is checked again, whatever it came from.
func (g *guard) dialer() dialFunc {
	d := &net.Dialer{Timeout: connectTime, KeepAlive: 30 * time.Second, Resolver: g.cfg.Resolver}
	d.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("%w: %s", errBlocked, address)
		}
		return g.check(ap)
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		resolved := func(found httptrace.DNSDoneInfo) {
			if err := g.checkAll(found.Addrs, addr); err != nil {
				cancel(err) // before the first connection: the dialer looks at its context then
			}
		}
		conn, err := d.DialContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{DNSDone: resolved}), network, addr)
		if cause := context.Cause(ctx); err != nil && errors.Is(cause, errBlocked) {
			return nil, cause
		}
		return conn, err
	}
}

// checkAll refuses a name if any address that it stands for may not be called.
func (g *guard) checkAll(found []net.IPAddr, hostPort string) error {
	host, text, _ := net.SplitHostPort(hostPort)
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return fmt.Errorf("%w: port %s", errBlocked, text)
	}
	for _, ip := range found {
		addr, ok := netip.AddrFromSlice(ip.IP)
		if !ok {
			return fmt.Errorf("%w: %s has an address that is none", errBlocked, host)
		}
		if err := g.check(netip.AddrPortFrom(addr, uint16(port))); err != nil {
			return fmt.Errorf("%w (address of %s)", err, host)
		}
	}
	return nil
}

// problem says what is wrong with a callback URL, or "".
func (g *guard) problem(text string) string {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return "callbackUrl is not a URL"
	case u.Scheme != "https" && u.Scheme != "http":
		return "callbackUrl must begin with https:// (or http://, if the operator allows it)"
	case u.Scheme == "http" && !g.cfg.AllowHTTP:
		return "callbackUrl must be https (the operator can allow http with --allow-http)"
	case u.Hostname() == "":
		return "callbackUrl must name a host"
	case u.User != nil:
		return "callbackUrl may not hold a user or password: use credentials"
	case u.Fragment != "" || strings.Contains(text, "#"):
		return "callbackUrl may not hold a fragment"
	case strings.Contains(text, " "):
		return "callbackUrl may not hold blanks"
	}
	port := uint64(443)
	if u.Scheme == "http" {
		port = 80
	}
	if p := u.Port(); p != "" {
		if port, err = strconv.ParseUint(p, 10, 16); err != nil {
			return "callbackUrl: there is no port " + p + ": ports end at 65535"
		}
	}
	if !openPort(uint16(port)) {
		return "callbackUrl: " + portRule(uint16(port))
	}
	return g.hostProblem(u.Hostname(), uint16(port))
}

// hostProblem says what is wrong with the host of a callback URL, as far as it can be seen without asking a name server, or "". It reads
// the host as the transport will: other writings of an address come to light.
func (g *guard) hostProblem(host string, port uint16) string {
	addr, err := netip.ParseAddr(host)
	if err != nil {
		name := host
		if strings.ContainsFunc(host, func(r rune) bool { return r > unicode.MaxASCII }) {
			if name, err = idna.Lookup.ToASCII(host); err != nil {
				return "callbackUrl must name a host as it can stand in the name service"
			}
		}
		name = strings.ToLower(strings.TrimSuffix(name, "."))
		if name == "localhost" || strings.HasSuffix(name, ".localhost") {
			name = "127.0.0.1"
		}
		if addr, err = netip.ParseAddr(name); err != nil && numeric(name) {
			return "callbackUrl must name its host by a name, or by an address in its usual form"
		}
	}
	if err != nil {
		return ""
	}
	if err := g.check(netip.AddrPortFrom(addr, port)); err != nil {
		return "callbackUrl: " + err.Error()
	}
	return ""
}

// numeric says whether a host that is no address would be read as one by some: its last part is a number, decimal or hexadecimal.
func numeric(host string) bool {
	last := host[strings.LastIndexByte(host, '.')+1:]
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(last, "0123456789") == ""
}
