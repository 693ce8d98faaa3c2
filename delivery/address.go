package delivery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// GuardConfig says which callback addresses may be called.
type GuardConfig struct {
	Allow     []netip.Prefix // refused ranges that the operator allows; never link-local, metadata or multicast
	AllowHTTP bool           // callback URLs may be http
	Deny      []string       // host:port of the gateway's own listeners, Redis and SMTP: never called
}

// guard decides about callback addresses: at registration, for a clear message, and at every dial on the address that is really
// connected to, for the truth.
type guard struct {
	cfg  GuardConfig
	deny []netip.AddrPort
}

// errBlocked is wrapped by every refusal of the guard.
var errBlocked = errors.New("callback address is not allowed")

// never are ranges that no allow list opens: link-local, multicast, unspecified, and the metadata services of the clouds.
var never = prefixes("169.254.0.0/16", "fe80::/10", "100.100.100.200/32", "fd00:ec2::254/128", "168.63.129.16/32", "224.0.0.0/4", "ff00::/8",
	"0.0.0.0/32", "::/128", "255.255.255.255/32")

// refused are ranges that are not the public internet (the special-purpose registries of RFC 6890 and its successors).
var refused = prefixes("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
	"192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
	"::/8", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "3fff::/20", "5f00::/16", "fc00::/7", "fec0::/10")

func prefixes(texts ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(texts))
	for i, t := range texts {
		out[i] = netip.MustParsePrefix(t)
	}
	return out
}

func newGuard(cfg GuardConfig) *guard {
	g := &guard{cfg: cfg}
	for _, hostPort := range cfg.Deny {
		if ap, err := netip.ParseAddrPort(hostPort); err == nil {
			g.deny = append(g.deny, netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()))
		}
	}
	return g
}

// embedded returns the IPv4 address inside an IPv6 address that carries one: mapped, compatible, NAT64, 6to4 or Teredo.
func embedded(a netip.Addr) (netip.Addr, bool) {
	b := a.As16()
	v4 := func(i int) (netip.Addr, bool) { return netip.AddrFrom4([4]byte(b[i : i+4])), true }
	switch {
	case a.Is4():
		return a, false
	case a.Is4In6():
		return a.Unmap(), true
	case netip.MustParsePrefix("64:ff9b::/96").Contains(a):
		return v4(12)
	case netip.MustParsePrefix("2002::/16").Contains(a):
		return v4(2)
	case netip.MustParsePrefix("2001::/32").Contains(a):
		for i := 12; i < 16; i++ {
			b[i] ^= 0xff
		}
		return v4(12)
	case netip.MustParsePrefix("::/96").Contains(a) && !a.IsLoopback() && !a.IsUnspecified():
		return v4(12)
	}
	return a, false
}

// check refuses an address and port that may not be called.
func (g *guard) check(ap netip.AddrPort) error {
	addr := ap.Addr().WithZone("")
	if v4, ok := embedded(addr); ok {
		return g.check(netip.AddrPortFrom(v4, ap.Port()))
	}
	inside := func(list []netip.Prefix) bool {
		return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(addr) })
	}
	if inside(never) {
		return fmt.Errorf("%w: %s can never be called", errBlocked, addr)
	}
	for _, d := range g.deny {
		if d.Port() == ap.Port() && (d.Addr() == addr || d.Addr().IsUnspecified() && addr.IsLoopback()) {
			return fmt.Errorf("%w: %s is the gateway's own", errBlocked, ap)
		}
	}
	if inside(refused) && !inside(g.cfg.Allow) {
		return fmt.Errorf("%w: %s is not a public address, and the operator's allow list (--allow-callback) does not name it", errBlocked, addr)
	}
	return nil
}

// dialer connects to checked addresses only: the check sees the address that the connection goes to, whatever the name resolved to.
func (g *guard) dialer() func(ctx context.Context, network, addr string) (net.Conn, error) {
	d := &net.Dialer{Timeout: 2 * time.Second, KeepAlive: 30 * time.Second}
	d.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("%w: %s", errBlocked, address)
		}
		return g.check(ap)
	}
	return d.DialContext
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
	case u.Fragment != "":
		return "callbackUrl may not hold a fragment"
	}
	port := 443
	if u.Scheme == "http" {
		port = 80
	}
	if p := u.Port(); p != "" {
		port, err = strconv.Atoi(p)
		if err != nil || port < 1 || port > 65535 || (port < 1024 && port != 80 && port != 443) {
			return "callbackUrl must have the port 80, 443, or one from 1024 to 65535"
		}
	}
	if strings.EqualFold(u.Hostname(), "localhost") {
		u.Host = "127.0.0.1"
	}
	if addr, err := netip.ParseAddr(u.Hostname()); err == nil {
		if err := g.check(netip.AddrPortFrom(addr, uint16(port))); err != nil {
			return "callbackUrl: " + err.Error()
		}
	}
	return ""
}
