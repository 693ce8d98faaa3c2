package delivery_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

// nameServer answers name service questions over UDP, and over TCP what is too long for that.
type nameServer struct {
	udp, tcp string // addresses
	mu       sync.Mutex
	names    map[string]func(n int64) named // by the name without its dot at the end; n counts from 1
	count    map[string]int64               // of questions for addresses of the older kind
	asking   []net.Conn                     // of its resolvers
	stopped  bool
}

// named is what a name server says of a name.
type named struct {
	rcode dnsmessage.RCode
	alias string
	addrs []netip.Addr
	after time.Duration
}

// addresses is a name that always stands for these addresses.
func addresses(texts ...string) func(int64) named {
	n := named{}
	for _, text := range texts {
		n.addrs = append(n.addrs, netip.MustParseAddr(text))
	}
	return func(int64) named { return n }
}

func startNameServer(t testing.TB, names map[string]func(int64) named) *nameServer {
	s := &nameServer{names: names, count: map[string]int64{}}
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s.udp, s.tcp = packets.LocalAddr().String(), ln.Addr().String()
	stop := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := packets.ReadFrom(buf)
			if err != nil {
				return
			}
			question := slices.Clone(buf[:n])
			work.Go(func() {
				if answer := s.answer(question, 512, stop); answer != nil {
					_, _ = packets.WriteTo(answer, from)
				}
			})
		}
	})
	work.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			work.Go(func() { defer c.Close(); s.serveTCP(c, stop) })
		}
	})
	t.Cleanup(func() { s.hangUp(); close(stop); _ = packets.Close(); _ = ln.Close(); work.Wait() })
	return s
}

func (s *nameServer) serveTCP(c net.Conn, stop <-chan struct{}) {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	var size uint16
	for binary.Read(c, binary.BigEndian, &size) == nil {
		question := make([]byte, size)
		if _, err := io.ReadFull(c, question); err != nil {
			return
		}
		answer := s.answer(question, 65535, stop)
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}

// answer is the answer to one question, cut short if it is longer than most.
func (s *nameServer) answer(question []byte, most int, stop <-chan struct{}) []byte {
	var m dnsmessage.Message
	if m.Unpack(question) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	says := s.lookUp(q)
	if says.after > 0 {
		select {
		case <-time.After(says.after):
		case <-stop:
			return nil
		}
	}
	m.Header.Response, m.Header.RecursionAvailable, m.Header.RCode, m.Additionals = true, true, says.rcode, nil
	owner := q.Name
	if says.alias != "" {
		alias := dnsmessage.MustNewName(says.alias + ".")
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: head(owner, dnsmessage.TypeCNAME), Body: &dnsmessage.CNAMEResource{CNAME: alias}})
		owner = alias
	}
	for _, a := range says.addrs {
		switch {
		case a.Is4() && q.Type == dnsmessage.TypeA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: head(owner, q.Type), Body: &dnsmessage.AResource{A: a.As4()}})
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: head(owner, q.Type), Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	answer, err := m.Pack()
	if err == nil && len(answer) > most {
		m.Header.Truncated, m.Answers = true, nil
		answer, err = m.Pack()
	}
	if err != nil {
		return nil
	}
	return answer
}

func head(name dnsmessage.Name, kind dnsmessage.Type) dnsmessage.ResourceHeader {
	return dnsmessage.ResourceHeader{Name: name, Type: kind, Class: dnsmessage.ClassINET, TTL: 0}
}

// lookUp counts the questions for a name; those for both kinds of addresses are one.
func (s *nameServer) lookUp(q dnsmessage.Question) named {
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	s.mu.Lock()
	defer s.mu.Unlock()
	says, ok := s.names[name]
	if !ok {
		says, ok = s.names["*"]
	}
	if !ok {
		return named{rcode: dnsmessage.RCodeNameError}
	}
	if q.Type == dnsmessage.TypeA {
		s.count[name]++
	}
	return says(max(1, s.count[name]))
}

// resolver asks the name server and nobody else. Whoever asked may have given up long ago and the resolver still wait for the answer: all
// that it has open ends with the server.
func (s *nameServer) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		address := s.udp
		if strings.HasPrefix(network, "tcp") {
			address = s.tcp
		}
		var d net.Dialer
		c, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.stopped {
			_ = c.Close()
			return nil, net.ErrClosed
		}
		s.asking = append(s.asking, c)
		return c, nil
	}}
}

// hangUp ends what the resolvers have open.
func (s *nameServer) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	for _, c := range s.asking {
		_ = c.Close()
	}
}

// on lets a replica ask the name server, and call the addresses that are allowed.
func (s *nameServer) on(allow ...netip.Prefix) func(*delivery.Config) {
	return func(c *delivery.Config) { c.Guard.Resolver, c.Guard.Allow = s.resolver(), allow }
}

// neighbours are two bots at the same port: one at an address that stands for the public ones, and a canary at one that is not allowed.
func neighbours(t testing.TB) (public, canary *wildBot, port string) {
	for range 100 {
		inside, err := net.Listen("tcp", "127.0.0.2:0")
		require.NoError(t, err)
		_, port, _ = net.SplitHostPort(inside.Addr().String())
		outside, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			require.NoError(t, inside.Close())
			continue
		}
		return startWildBotOn(t, outside, accepting), startWildBotOn(t, inside, accepting), port
	}
	t.Fatal("no port is free at both addresses")
	return nil, nil, ""
}

// public is the only address that is allowed where neighbours live.
var public = netip.MustParsePrefix("127.0.0.1/32")

func TestD10HostileNamesReachNothingInternal(t *testing.T) {
	t.Parallel()
	bot, canary, port := neighbours(t)
	var crowd, crowdWithCanary []string
	for i := range 1000 {
		crowd = append(crowd, fmt.Sprintf("127.1.%d.%d", i/250, 1+i%250))
	}
	crowdWithCanary = append(slices.Clone(crowd), "127.0.0.2")
	names := map[string]func(int64) named{
		"refused.test": func(int64) named { return named{rcode: dnsmessage.RCodeServerFailure} },
		"denied.test":  func(int64) named { return named{rcode: dnsmessage.RCodeRefused} },
		"slow.test":    func(int64) named { return named{after: 10 * time.Second} },
		"empty.test":   func(int64) named { return named{} },
		"crowd.test":   addresses(crowdWithCanary...),
		"alias.test": func(int64) named {
			return named{alias: "inside.test", addrs: []netip.Addr{netip.MustParseAddr("127.0.0.2")}}
		},
		"loop.test":     func(int64) named { return named{alias: "loop.test"} },
		"mixed.test":    addresses("127.0.0.1", "127.0.0.2"),
		"mixed6.test":   addresses("127.0.0.1", "::ffff:127.0.0.2"),
		"inside.test":   addresses("127.0.0.2"),
		"metadata.test": addresses("169.254.169.254"),
	}
	cases := map[string]struct {
		host  string
		class health.Class
	}{
		"NXDOMAIN": {"nobody.test", health.DNS}, "SERVFAIL": {"refused.test", health.DNS}, "REFUSED": {"denied.test", health.DNS}, "10 s delay": {"slow.test", health.DNS},
		"no address": {"empty.test", health.DNS}, "1,000 records, one internal": {"crowd.test", health.Blocked}, "alias to internal": {"alias.test", health.Blocked},
		"alias to itself": {"loop.test", health.DNS}, "public and internal": {"mixed.test", health.Blocked}, "public and mapped": {"mixed6.test", health.Blocked},
		"internal": {"inside.test", health.Blocked}, "metadata": {"metadata.test", health.Blocked},
	}
	r := outward(t, startNameServer(t, names).on(public, netip.MustParsePrefix("127.1.0.0/16")), func(c *delivery.Config) { c.DeliveryTimeout = 5 * time.Second })
	var worst time.Duration
	together(t, r, cases, func(c struct {
		host  string
		class health.Class
	},
	) string {
		return "http://" + c.host + ":" + port + "/"
	}, func(t *testing.T, c struct {
		host  string
		class health.Class
	}, rec delivery.Record,
	) {
		require.Equal(t, delivery.Failed, rec.Fate)
		require.Equal(t, c.class, rec.Class, rec.Message)
		require.LessOrEqual(t, rec.Latency, 5*time.Second)
		require.Equal(t, map[health.Class]int{health.Blocked: 1, health.DNS: 2}[c.class], rec.Tries)
		requireHarmless(t, rec.Message)
		worst = max(worst, rec.Latency)
	})
	require.Zero(t, canary.conns.Load())
	require.Zero(t, bot.conns.Load(), "a name with one address that is not allowed is not called at the others either")
	t.Attr("measured", fmt.Sprintf("%d hostile names: 0 connections to the internal listener, the slowest failed after %v", len(cases), worst))
}

func TestD10RebindingIsSeenAtEveryDial(t *testing.T) {
	bot, canary, port := neighbours(t)
	names := startNameServer(t, map[string]func(int64) named{"rebind.test": func(n int64) named {
		if n == 1 {
			return addresses("127.0.0.1")(n)
		}
		return addresses("127.0.0.2")(n)
	}})
	r := outward(t, names.on(public))
	url := "http://rebind.test:" + port + "/"
	require.Equal(t, delivery.Delivered, r.deliver(t, "e", url).Fate)
	bot.mu.Lock()
	for c := range bot.open {
		_ = c.Close() // so that the next event asks for the name again
	}
	bot.mu.Unlock()
	var rec delivery.Record
	soon(t, func() bool {
		rec = r.settled(t, r.send(t, message("e", "ann", 2))[0].ID)
		return rec.Class == health.Blocked
	}, "the next dial")
	require.Contains(t, rec.Message, "127.0.0.2 is not a public address")
	require.Zero(t, canary.conns.Load())
	t.Attr("measured", "public at the first look, internal at the second, TTL 0: delivered, then blocked; 0 connections to the internal listener")
}

func TestD10AThousandRecordsAreNotTriedForEver(t *testing.T) {
	_, canary, port := neighbours(t)
	var crowd []string
	for i := range 1000 {
		crowd = append(crowd, fmt.Sprintf("127.1.%d.%d", i/250, 1+i%250))
	}
	r := outward(t, startNameServer(t, map[string]func(int64) named{"crowd.test": addresses(crowd...)}).on(netip.MustParsePrefix("127.1.0.0/16")),
		func(c *delivery.Config) { c.DeliveryTimeout = 5 * time.Second })
	rec := r.deliver(t, "e", "http://crowd.test:"+port+"/")
	require.Contains(t, []health.Class{health.Refused, health.Timeout}, rec.Class, rec.Message)
	require.Less(t, rec.Latency, 3*time.Second)
	require.Zero(t, canary.conns.Load())
	t.Attr("measured", fmt.Sprintf("1,000 addresses where nobody listens: class %s after %v", rec.Class, rec.Latency))
}
