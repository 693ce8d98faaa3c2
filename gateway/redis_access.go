package gateway

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
)

//go:embed access.lua
var accessLua string

//go:embed issue.lua
var issueLua string

//go:embed withdraw.lua
var withdrawLua string

//go:embed revoke.lua
var revokeLua string

//go:embed revoked.lua
var revokedLua string

//go:embed lease.lua
var leaseLua string

// AccessStore keeps in Redis what decides who may come in: the tokens of apps, what was revoked, the administrators, and how much each
// token may still ask for. It holds no token, no password and no key in clear. Safe for concurrent use.
type AccessStore struct {
	client  redis.UniversalClient
	scripts struct{ issue, withdraw, revoke, revoked, lease *redis.Script }
}

// NewAccessStore returns the store on a client, which the caller closes.
func NewAccessStore(client redis.UniversalClient) *AccessStore {
	s := &AccessStore{client: client}
	s.scripts.issue = redis.NewScript(accessLua + issueLua)
	s.scripts.withdraw = redis.NewScript(accessLua + withdrawLua)
	s.scripts.revoke = redis.NewScript(accessLua + revokeLua)
	s.scripts.revoked = redis.NewScript(accessLua + revokedLua)
	s.scripts.lease = redis.NewScript(leaseLua)
	return s
}

// accessTime is how long one round trip may take.
const accessTime = 2 * time.Second

// tokenName is how a token is called in the store: by the digest of its issuer and id.
type tokenName [16]byte

// nameToken is the name of a token.
func nameToken(issuer, id string) tokenName {
	return tokenName(nameOf(issuer, id))
}

// nameOf is the digest of two texts.
func nameOf(a, b string) []byte {
	sum := sha256.Sum256([]byte(a + "\x00" + b))
	return sum[:16]
}

func (n tokenName) String() string { return hex.EncodeToString(n[:]) }

// accessShard is where everything lies that one script must see, and what every gateway asks for four times a second.
const accessShard = health.Shard(0)

func revokedKey() string { return accessShard.Key("revoked") }        // hash: name -> from and until; #: the last number; @: name of the list
func orderKey() string   { return accessShard.Key("revokedorder") }   // zset: name by number
func endsKey() string    { return accessShard.Key("revokeduntil") }   // zset: name by the moment when nothing of it is left
func adminsKey() string  { return accessShard.Key("administrators") } // hash: name -> administrator
func appTokenKey(company, app string) string { // hash: id, name, kid, iat, exp; old, grace; company, app
	return accessShard.Key("apptoken", hex.EncodeToString(nameOf(company, app)))
}

// arrivalKey is the string of a lease: the moment at which all that was lent is used up, in us.
func arrivalKey(kind string, name tokenName) string {
	return health.Shard(binary.BigEndian.Uint16(name[:])%health.Shards).Key("arrival", kind, name.String())
}

// away makes an error of the store one that callers read as 503.
func away(what string, err error) error {
	return fmt.Errorf("%s: %w", what, errors.Join(delivery.ErrUnavailable, err))
}

// AppToken is the one token of an app, as it is kept: enough to make the same token once more.
type AppToken struct {
	ID, Key         string // Key is the name of the key that signs it
	Issued, Expires time.Time
}

// tokenOrder is what is asked of issue.lua.
type tokenOrder struct {
	what         string // create, read or refresh
	company, app string
	id           string        // of a new token
	keys         string        // names of the ring's keys, the current one first
	key          string        // the one that would sign
	ttl, grace   time.Duration // of the new one; of the old one
	old          tokenName     // that is refreshed
	oldUntil     time.Time
}

// issue makes, replaces or reads the token of an app. The outcome is made, active, none or other.
func (s *AccessStore) issue(ctx context.Context, o tokenOrder) (outcome string, t AppToken, err error) {
	ctx, cancel := context.WithTimeout(ctx, accessTime)
	defer cancel()
	keys := []string{appTokenKey(o.company, o.app), revokedKey(), orderKey(), endsKey()}
	reply, err := s.scripts.issue.Run(ctx, s.client, keys, o.what, o.id, nameToken(tokenParty, o.id).String(), o.key, int64(o.ttl.Seconds()),
		o.grace.Milliseconds(), o.company, o.app, o.old.String(), o.oldUntil.UnixMilli(), "", o.keys).StringSlice()
	if err != nil {
		return "", t, away("issue token", err)
	}
	if len(reply) != 6 {
		return "", t, away("issue token", errors.New("a reply of another shape"))
	}
	issued, _ := strconv.ParseInt(reply[3], 10, 64)
	expires, _ := strconv.ParseInt(reply[4], 10, 64)
	return reply[0], AppToken{ID: reply[1], Key: reply[2], Issued: time.Unix(issued, 0), Expires: time.Unix(expires, 0)}, nil
}

// revocation is one token that is refused from a moment on.
type revocation struct {
	name        tokenName
	from, until time.Time // a zero from is now; until is when the token has ended anyway
}

// withdraw revokes an app's token, those before it that still are in their grace, and others. It returns how many were revoked and the id
// of the app's.
func (s *AccessStore) withdraw(ctx context.Context, company, app string, others ...revocation) (int64, string, error) {
	ctx, cancel := context.WithTimeout(ctx, accessTime)
	defer cancel()
	args := make([]any, 0, 2*len(others))
	for _, r := range others {
		args = append(args, r.name.String(), r.until.UnixMilli())
	}
	reply, err := s.scripts.withdraw.Run(ctx, s.client, []string{appTokenKey(company, app), revokedKey(), orderKey(), endsKey()}, args...).Slice()
	if err != nil || len(reply) != 2 {
		return 0, "", away("revoke token", err)
	}
	count, _ := reply[0].(int64)
	id, _ := reply[1].(string)
	return count, id, nil
}

// revoke revokes tokens; it returns how many were not revoked before.
func (s *AccessStore) revoke(ctx context.Context, list ...revocation) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, accessTime)
	defer cancel()
	args := make([]any, 0, 3*len(list))
	for _, r := range list {
		from := int64(0)
		if !r.from.IsZero() {
			from = r.from.UnixMilli()
		}
		args = append(args, r.name.String(), from, r.until.UnixMilli())
	}
	count, err := s.scripts.revoke.Run(ctx, s.client, []string{revokedKey(), orderKey(), endsKey()}, args...).Int64()
	if err != nil {
		return 0, away("revoke tokens", err)
	}
	return count, nil
}

// revokedPage is a part of the list of what was revoked.
type revokedPage struct {
	now        time.Time
	last, told int64 // numbers
	list       []revocation
	of         string // name of the whole list; empty: nothing was ever revoked
}

// revokedAfter reads what was revoked after a number, at most n.
func (s *AccessStore) revokedAfter(ctx context.Context, number int64, n int) (p revokedPage, err error) {
	ctx, cancel := context.WithTimeout(ctx, accessTime)
	defer cancel()
	reply, err := s.scripts.revoked.Run(ctx, s.client, []string{revokedKey(), orderKey(), endsKey()}, number, n).Slice()
	if err != nil || len(reply) != 5 {
		return p, away("read revoked tokens", err)
	}
	p.now, p.last, p.told = time.UnixMilli(toNumber(reply[0])), toNumber(reply[1]), toNumber(reply[2])
	p.of, _ = reply[4].(string)
	rows, _ := reply[3].([]any)
	for i := 0; i+1 < len(rows); i += 2 {
		name, _ := rows[i].(string)
		span, _ := rows[i+1].(string)
		r := revocation{}
		var from, until int64
		if _, err := hex.Decode(r.name[:], []byte(name)); err != nil || len(name) != 2*len(r.name) {
			continue
		}
		if _, err := fmt.Sscan(span, &from, &until); err != nil {
			continue
		}
		r.from, r.until = time.UnixMilli(from), time.UnixMilli(until)
		p.list = append(p.list, r)
	}
	return p, nil
}

func toNumber(v any) int64 {
	text, _ := v.(string)
	n, _ := strconv.ParseInt(text, 10, 64)
	return n
}

// lease asks for a part of an allowance; what is owed was used already. When nothing is lent, wait says in how long one will be.
func (s *AccessStore) lease(ctx context.Context, key string, r Rate, owed, wanted int64) (lent int64, wait time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, accessTime)
	defer cancel()
	each := 1e6 / r.PerSecond
	reply, err := s.scripts.lease.Run(ctx, s.client, []string{key}, each, each*float64(r.Burst), owed, wanted).Int64Slice()
	if err != nil || len(reply) != 2 {
		return 0, 0, away("lease", err)
	}
	return reply[0], time.Duration(reply[1]) * time.Microsecond, nil
}

// Administrator may make, read and revoke the tokens of the apps of one company.
type Administrator struct {
	Name    string    `json:"name"`
	Company string    `json:"companyKey"`
	Hash    string    `json:"hash,omitempty"` // of the password: argon2id with its parameters and salt
	Since   time.Time `json:"since"`
}

// administrator reads one; ok is false when there is none of that name.
func (s *AccessStore) administrator(ctx context.Context, name string) (a Administrator, ok bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, accessTime)
	defer cancel()
	text, err := s.client.HGet(ctx, adminsKey(), name).Result()
	switch {
	case errors.Is(err, redis.Nil):
		return a, false, nil
	case err != nil:
		return a, false, away("read administrator", err)
	}
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		return a, false, fmt.Errorf("decode administrator: %w", err)
	}
	return a, true, nil
}

// writeAdministrator writes one, in place of another of that name.
func (s *AccessStore) writeAdministrator(ctx context.Context, a Administrator) error {
	text, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("encode administrator: %w", err)
	}
	if err := s.client.HSet(ctx, adminsKey(), a.Name, text).Err(); err != nil {
		return away("write administrator", err)
	}
	return nil
}

// RemoveAdministrator removes one; it returns false when there is none of that name. From then on the password opens nothing; tokens that
// were made with it stay good.
func (s *AccessStore) RemoveAdministrator(ctx context.Context, name string) (bool, error) {
	n, err := s.client.HDel(ctx, adminsKey(), name).Result()
	if err != nil {
		return false, away("remove administrator", err)
	}
	return n > 0, nil
}

// Administrators returns all of them, without what is kept of their passwords.
func (s *AccessStore) Administrators(ctx context.Context) ([]Administrator, error) {
	all, err := s.client.HGetAll(ctx, adminsKey()).Result()
	if err != nil {
		return nil, away("list administrators", err)
	}
	list := make([]Administrator, 0, len(all))
	for _, text := range all {
		var a Administrator
		if err := json.Unmarshal([]byte(text), &a); err != nil {
			return nil, fmt.Errorf("decode administrator: %w", err)
		}
		a.Hash = ""
		list = append(list, a)
	}
	return list, nil
}
