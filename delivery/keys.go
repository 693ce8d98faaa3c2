package delivery

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net/url"
	"strconv"
	"strings"

	"github.com/pulsegate/pulsegate/health"
)

// shard is where all keys of an entity lie.
func (e Entity) shard() health.Shard {
	h := fnv.New32a()
	h.Write([]byte(e.member()))
	return health.Shard(h.Sum32() % health.Shards)
}

// member is the entity's name in sets and hashes: its ids escaped and joined.
func (e Entity) member() string {
	return url.QueryEscape(e.CompanyKey) + ":" + url.QueryEscape(e.NetworkKey) + ":" + url.QueryEscape(e.ExternalID)
}

// member is the registration's name in sets and hashes.
func (id RegID) member() string { return id.Entity.member() + ":" + url.QueryEscape(id.AppID) }

// Cursor is where a list goes on after this registration.
func (id RegID) Cursor() string { return id.member() }

func (e Entity) key(noun string, more ...string) string {
	return e.shard().Key(noun, append([]string{e.CompanyKey, e.NetworkKey, e.ExternalID}, more...)...)
}

func (id RegID) key(noun string) string { return id.Entity.key(noun, id.AppID) }

// parseMember is the way back from RegID.member.
func parseMember(m string) (RegID, error) {
	parts := strings.Split(m, ":")
	if len(parts) != 4 {
		return RegID{}, fmt.Errorf("registration name %q: want 4 parts", m)
	}
	for i, p := range parts {
		s, err := url.QueryUnescape(p)
		if err != nil {
			return RegID{}, fmt.Errorf("registration name %q: %w", m, err)
		}
		parts[i] = s
	}
	return RegID{Entity{parts[0], parts[1], parts[2]}, parts[3]}, nil
}

// The keys of one shard, each with its type and what it holds.
func dueKey(s health.Shard) string     { return s.Key("due") }     // zset: registration -> when it deserves attention
func judgeKey(s health.Shard) string   { return s.Key("judge") }   // zset: registration -> when the timer judges it
func outKey(s health.Shard) string     { return s.Key("out") }     // zset: handoffs and jobs -> when they are due
func noticesKey(s health.Shard) string { return s.Key("notices") } // zset: transitions to tell -> when they are due
func outDataKey(s health.Shard) string { return s.Key("outd") }    // hash: outbox entry -> JSON
func hashesKey(s health.Shard) string  { return s.Key("hashes") }  // hash: short hash in ids -> registration or entity
func ledgerKey(s health.Shard) string  { return s.Key("led") }     // hash: what became of all deliveries, those of deleted registrations too

// shardKeys are what every accept and every settlement says of a shard. Only read.
var shardKeys = func() (all [health.Shards]struct {
	keys [5]string
	hex  string
},
) {
	for i := range all {
		s := health.Shard(i)
		all[i].keys, all[i].hex = [...]string{dueKey(s), judgeKey(s), outKey(s), outDataKey(s), ledgerKey(s)}, shardHex(s)
	}
	return all
}()

func toldKey(s health.Shard, company string, kind EntryKind) string { // zset: outbox entry -> when it was written
	return s.Key("told", company, string(kind))
}

func (e Entity) regKey() string                  { return e.key("reg") }         // hash: version, registrations, tombstones
func (e Entity) ownKey() string                  { return e.key("own") }         // zset: authors of ongoing conversations by last message
func (e Entity) controlKey(author string) string { return e.key("ctl", author) } // hash: owner of the author's conversation
func (e Entity) dedupeKey(name string) string    { return e.key("dup", name) }   // string: event, body hash, fate
func (e Entity) againKey(part string) string     { return e.key("again", part) } // list: deliveries made once more of an event

func (id RegID) standingKey() string { return id.key("st") }  // hash: standing, lease, queue size, ledger
func (id RegID) windowKey() string   { return id.key("win") } // hash: window
func (id RegID) queueKey() string    { return id.key("q") }   // stream: events waiting or under way
func (id RegID) expiryKey() string   { return id.key("x") }   // zset: events of the queue with a time of their own -> when they have expired
func (id RegID) okLogKey() string    { return id.key("ok") }  // list: request records that need no attention, newest first
func (id RegID) errLogKey() string   { return id.key("log") } // stream: request records of failures, and of calls by bots

// Indexes live outside the shards, sets of registrations each: written before, removed after; readers drop what dangles.
func appIndexKey(company, app string) string {
	return "pg:app:" + url.QueryEscape(company) + ":" + url.QueryEscape(app)
}

func companyIndexKey(company string) string { return "pg:company:" + url.QueryEscape(company) }

// deletedIndexKey is a zset of the registrations that are gone, and whose records may still be there, by when they went.
func deletedIndexKey(company, app string) string {
	return "pg:deleted:" + url.QueryEscape(company) + ":" + url.QueryEscape(app)
}

// names are what the hot path calls a registration by, made once for each registration and lane.
type names struct {
	shard                               health.Shard
	member                              string // in sets and hashes
	reg, own, told                      string // keys of the entity, and of the company's handoffs
	standing, window, queue, ok, failed string // keys of the registration
	expiry                              string
	due                                 string // of the shard
	control, dedupe                     string // what the keys of its authors' control, and of its events' own ids, begin with
	events, requests                    string // what the ids of events and deliveries begin with
	where                               string // the entity, as members of a JSON object
	settleKeys                          []string
	settleArgs                          []any // what every settlement says of the registration
}

func (id RegID) names() *names {
	n := &names{
		shard: id.shard(), member: id.member(), reg: id.regKey(), own: id.ownKey(), told: toldKey(id.shard(), id.CompanyKey, EntryHandoff),
		standing: id.standingKey(), window: id.windowKey(), queue: id.queueKey(), expiry: id.expiryKey(), ok: id.okLogKey(), failed: id.errLogKey(),
		control: strings.TrimSuffix(id.controlKey("."), "."), dedupe: strings.TrimSuffix(id.dedupeKey("."), "."), events: id.eventPrefix(), requests: id.requestPrefix(),
		where: id.Entity.where(), due: dueKey(id.shard()),
	}
	n.settleKeys = []string{n.reg, n.standing, n.window, n.queue, n.ok, n.failed, n.told}
	n.settleArgs = []any{n.member, strings.Join([]string{n.requests, n.where, id.AppID}, "\n")}
	return n
}

// where names the entity as members of a JSON object, as outbox entries do.
func (e Entity) where() string {
	text, err := json.Marshal(struct {
		CompanyKey string `json:"companyKey"`
		NetworkKey string `json:"networkKey"`
		ExternalID string `json:"externalId"`
	}{e.CompanyKey, e.NetworkKey, e.ExternalID})
	if err != nil {
		return `"companyKey":""` // three texts: it cannot happen
	}
	return string(text[1 : len(text)-1])
}

// controlOf is the key of one author's control.
func (n *names) controlOf(author string) string { return n.control + url.QueryEscape(author) }

// dedupeOf is the key of an event's own id, or of a caller's key for it.
func (n *names) dedupeOf(key string) string { return n.dedupe + digest(key) }

// healthKeys are the keys of a registration that health works on.
func (id RegID) healthKeys() health.Keys {
	s := id.shard()
	return health.Keys{
		Standing: id.standingKey(), Window: id.windowKey(), Judge: judgeKey(s), Due: dueKey(s), Notices: noticesKey(s), Out: outKey(s), OutData: outDataKey(s),
		Ledger: ledgerKey(s), Told: toldKey(s, id.CompanyKey, EntryTransition), Member: id.member(),
	}
}

var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// digest is a short name for any text: 80 bits of SHA-256, so that two texts do not meet.
func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base32Lower.EncodeToString(sum[:10])
}

// Ids are "e" or "r", the shard in hex, the digest of the entity or registration, and the delivery's own part, which is the same for
// an event and for its deliveries. None holds a dot, because the id of an event is signed.
func (e Entity) eventPrefix() string {
	return fmt.Sprintf("e%x-%s-", int(e.shard()), digest(e.member()))
}

func (id RegID) requestPrefix() string {
	return fmt.Sprintf("r%x-%s-", int(id.shard()), digest(id.member()))
}

// newPart makes the own part of an id, which nobody can guess; its first 12 hex digits are the time in ms.
func newPart(ms int64) string {
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:8], uint64(ms)<<16)
	_, _ = rand.Read(raw[6:]) // never fails
	var text [32]byte
	hex.Encode(text[:], raw[:])
	return string(text[:])
}

// parsedID is an event or request id taken apart.
type parsedID struct {
	kind   byte // 'e' or 'r'
	shard  health.Shard
	digest string
	part   string
	ms     int64 // when the event was accepted, roughly
}

// of is the id of another delivery at the same place.
func (p parsedID) of(part string) (parsedID, bool) {
	if len(part) != len(p.part) {
		return p, false
	}
	ms, err := strconv.ParseInt(part[:12], 16, 64)
	p.part, p.ms = part, ms
	return p, err == nil
}

func parseID(id string) (parsedID, bool) {
	head, rest, ok := strings.Cut(id, "-")
	dig, part, ok2 := strings.Cut(rest, "-")
	if !ok || !ok2 || len(head) != 2 || (head[0] != 'e' && head[0] != 'r') || len(part) != 32 {
		return parsedID{}, false
	}
	n, err := strconv.ParseUint(head[1:], 16, 8)
	if err != nil || n >= health.Shards {
		return parsedID{}, false
	}
	ms, err := strconv.ParseInt(part[:12], 16, 64)
	if err != nil {
		return parsedID{}, false
	}
	return parsedID{kind: head[0], shard: health.Shard(n), digest: dig, part: part, ms: ms}, true
}
