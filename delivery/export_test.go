package delivery

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
)

// Doors for the tests of this room into its pure functions.

// ParseAndSplice parses an event and returns it as the bot app would get it.
func ParseAndSplice(body []byte, r Registration, owner *Owner) ([]byte, error) {
	ev, err := new(Parser).parse(body)
	if err != nil {
		return nil, err
	}
	return ev.splice(&r, health.Degraded, health.Counts{Acknowledged: 23, Failed: 2}, owner)
}

// CheckAddress asks a guard about an address.
func CheckAddress(cfg GuardConfig, ap netip.AddrPort) error { return newGuard(cfg).check(ap) }

// URLProblem asks a guard about a callback URL.
func URLProblem(cfg GuardConfig, url string) string { return newGuard(cfg).problem(url) }

// RetryAfter reads a Retry-After header.
func RetryAfter(value string, now time.Time) time.Duration { return retryAfter(value, now) }

// ClassOf classifies a transport's error.
func ClassOf(err error) health.Class { return classify(err).class }

// ControlKey is the key of an author's control on an entity, and OngoingKey that of the entity's list of ongoing authors.
func ControlKey(e Entity, author string) string { return e.controlKey(author) }

// OngoingKey is told of at ControlKey.
func OngoingKey(e Entity) string { return e.ownKey() }

// StandingKey is where a registration's standing lies.
func StandingKey(id RegID) string { return id.standingKey() }

// Seal and Open are the sealer's two ways.
func (s *Sealer) Seal(secret Secret, owner, field string) string { return s.seal(secret, owner, field) }

// Open is the way back from Seal.
func (s *Sealer) Open(sealed, owner, field string) (Secret, error) {
	return s.open(sealed, owner, field)
}

// IDOf takes an id apart and says whether it is one of ours.
func IDOf(id string) bool { _, ok := parseID(id); return ok }

// MemberRoundTrip encodes a registration's name and reads it back.
func MemberRoundTrip(id RegID) (RegID, error) { return parseMember(id.member()) }

// TriesUnderWay is how many tries hold a slot.
func (c *Carrier) TriesUnderWay() int { return c.slots.inFlight() }

// Unusual says that a command runs a script for what is not as usual.
func (c *Carrier) Unusual(cmd redis.Cmder) bool {
	args := cmd.Args()
	return len(args) > 1 && (args[1] == c.store.scripts.accept.Hash() || args[1] == c.store.scripts.settle.Hash())
}

// Settles says that a command settles.
func (c *Carrier) Settles(cmd redis.Cmder) bool {
	args := cmd.Args()
	return len(args) > 1 && (args[1] == c.store.scripts.settlePlain.Hash() || args[1] == c.store.scripts.settle.Hash())
}

// GuardedDial is the way to bots that a carrier with such a guard takes.
func GuardedDial(cfg GuardConfig) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return newGuard(cfg).dialer()
}

// Views is a cache of views.
type Views struct{ v *views }

// NewViews returns a cache of two generations of so many bytes.
func NewViews(limit int) Views { return Views{newViews(limit)} }

// Put takes a view of one registration in.
func (v Views) Put(r Registration) {
	v.v.put(r.Entity, &view{version: "1", regs: []*held{{Registration: r, names: r.names()}}})
}

// Has says whether an entity is known, and uses it.
func (v Views) Has(e Entity) bool { return v.v.get(e) != nil }

// Len is how many entities are known.
func (v Views) Len() int { return len(v.v.young) + len(v.v.old) }

// Through puts something between tries and the network. Nothing may have been sent yet.
func (c *Carrier) Through(wrap func(http.RoundTripper) http.RoundTripper) { c.caller.through = wrap }

// Kill cuts off every try under way, as the end of the process would.
func (c *Carrier) Kill() { c.stopTry() }

// Trier returns a try of an event at a registration, without a queue, and says how it ended.
func (c *Carrier) Trier(r Registration, body []byte) func(ctx context.Context) health.Class {
	h := newHeld(r)
	h.secret = r.Credentials.Secret
	t := newTask(queuedEvent{sid: "1-0", part: newPart(1), author: "ann", kind: 'm', body: body}, &c.parser)
	t.reg = h
	return func(ctx context.Context) health.Class { return c.try(ctx, t).class }
}

// KeepConnections keeps idle connections for so long. Nothing may have been sent yet.
func (c *Carrier) KeepConnections(d time.Duration) { c.caller.plain.idleTime = d }

// SlotsHeld lets lanes come to few slots and leave again, with or without one, and returns how many slots are held when all have left.
func SlotsHeld(lanes, rounds int) int {
	s := newSlots(8)
	var all sync.WaitGroup
	for g := range lanes {
		all.Go(func() {
			for range rounds {
				sh := s.join(RegID{AppID: strconv.Itoa(g)}, make(chan struct{}, 1))
				if s.take(&sh, time.Now()) {
					runtime.Gosched()
					s.give(&sh, time.Millisecond)
				}
				s.unwanted(&sh)
			}
		})
	}
	all.Wait()
	return s.inFlight()
}
