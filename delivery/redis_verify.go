package delivery

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
)

//go:embed verify.lua
var verifyLua string

// VerifyConfig is what Verify needs.
type VerifyConfig struct {
	Client   redis.UniversalClient         // as a Carrier's
	Progress func(what string, done int64) // is told how far it has come, often; nil: nobody is
}

const (
	verifyBatch = 64   // registrations in one round trip
	verifyPage  = 64   // events of a queue in one step
	verifyScan  = 1000 // names in one step of a scan
	verifyLooks = 3    // at something that moves
)

// Verify holds everything in the store against everything else: of every registration the ledger (accepted is the sum of the fates and
// of what is queued), the queue, the window, its place in due and judge and in the indexes; then the outbox, and keys that nobody has.
// It changes nothing, and gateways may go on meanwhile: what must balance is read in one step of Redis, and what lies elsewhere is looked at
// again before it is found missing. At last the sum over all registrations is held against the ledger of the store. That somebody comes late is a finding only while a gateway runs. It needs no key: secrets stay sealed.
//
// The counters of a registration go with it when it is deleted and the last of its events has its fate, so the sums are those of the
// registrations that are there, not of all time.
//
// An error says that the store could not be read, not that something is wrong with it.
func Verify(ctx context.Context, cfg VerifyConfig) (Verification, error) {
	v := &verifier{
		store: &store{clock: newClock(nil), client: cfg.Client, reach: newReach(cfg.Client, 0, slog.New(slog.DiscardHandler))}, script: redis.NewScript(health.Lua() + verifyLua), progress: cfg.Progress,
		found: map[RegID]bool{}, indexes: map[string]bool{}, told: map[string]bool{},
		talking: map[Entity]bool{}, controls: map[Entity]int64{}, states: map[health.State]int64{health.Degraded: 0, health.Down: 0},
		result: Verification{Fates: map[Fate]int64{}, Findings: []Finding{}},
	}
	if v.progress == nil {
		v.progress = func(string, int64) {}
	}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"begin", v.begin},
		{"begin sums", v.beginSums},
		{"find keys", v.scanKeys},
		{"find registrations", v.scanShards},
		{"read indexes", v.scanIndexes},
		{"verify registrations", v.registrations},
		{"verify sums", v.checkSums},
		{"verify outbox", v.outbox},
		{"verify conversations", v.conversations},
	} {
		if err := step.do(ctx); err != nil {
			return Verification{}, fmt.Errorf("verify store: %s: %w", step.name, err)
		}
	}
	v.finish()
	return v.result, nil
}

// verifier is one verification under way. Not safe for concurrent use.
type verifier struct {
	store    *store // its client and its pipeline
	script   *redis.Script
	progress func(string, int64)

	found      map[RegID]bool // every registration that anything names
	indexes    map[string]bool
	told       map[string]bool
	registered [health.Shards]int64
	totals     [health.Shards]string // the numbers of registrations as they were noted before
	result     Verification

	began  totals // before anything else was read
	noted  ledger // the sum over all registrations
	states map[health.State]int64
	unread bool // something could not be read: the sums are not those of all

	talking  map[Entity]bool  // entities with authors that are ongoing
	controls map[Entity]int64 // authors whose control is kept
}

func (v *verifier) find(c Check, of, problem string) {
	v.result.Findings = append(v.result.Findings, Finding{Check: c, Of: of, Problem: problem})
}

func (v *verifier) warn(c Check, of, problem string) {
	v.result.Findings = append(v.result.Findings, Finding{Check: c, Of: of, Problem: problem, Warning: true})
}

// finish puts the findings in order.
func (v *verifier) finish() {
	slices.SortStableFunc(v.result.Findings, func(a, b Finding) int {
		if a.Check != b.Check {
			return slices.Index(Checks(), a.Check) - slices.Index(Checks(), b.Check)
		}
		return strings.Compare(a.Of+"\n"+a.Problem, b.Of+"\n"+b.Problem)
	})
}

// begin looks at what this Redis is, and counts the gateways by the channels that they listen on.
func (v *verifier) begin(ctx context.Context) error {
	shards, err := v.store.client.Get(ctx, "pg:shards").Result()
	switch {
	case errors.Is(err, redis.Nil):
		v.warn(CheckLeftover, "pg:shards", "it is not there: no gateway has ever worked on this Redis")
	case err != nil:
		return err
	case shards != strconv.Itoa(health.Shards):
		return fmt.Errorf("this Redis holds data in %s shards, and %d are known here", shards, health.Shards)
	}
	losses, err := v.store.losses(ctx)
	if err != nil {
		return err
	}
	for _, loss := range losses {
		v.find(CheckLoss, lossesKey, loss+" (delete this key when it has been dealt with)")
	}
	channels := map[string]bool{}
	err = v.onMasters(ctx, func(ctx context.Context, server redis.Cmdable) error {
		list, err := server.PubSubChannels(ctx, "pg:wake:*").Result()
		if err != nil && ctx.Err() == nil {
			return nil // not every user may ask: then nobody is known to run
		}
		for _, c := range list {
			channels[c] = true
		}
		return err
	})
	v.result.Gateways = len(channels)
	return err
}

// registrations verifies every registration that was found.
func (v *verifier) registrations(ctx context.Context) error {
	ids := slices.SortedFunc(maps.Keys(v.found), func(a, b RegID) int { return strings.Compare(a.member(), b.member()) })
	done := int64(0)
	for batch := range slices.Chunk(ids, verifyBatch) {
		list, err := v.read(ctx, batch)
		if err != nil {
			return err
		}
		if err := v.readIndexes(ctx, list); err != nil {
			return err
		}
		for _, f := range list {
			v.count(f)
		}
		done += int64(len(batch))
		v.progress("registrations", done)
	}
	return v.checkTotals(ctx)
}

// count adds a registration to the sums.
func (v *verifier) count(f facts) {
	v.result.Findings = append(v.result.Findings, f.findings(v.result.Gateways > 0)...)
	if f.registered {
		v.registered[f.id.shard()]++
	}
	if !f.counts() {
		return
	}
	v.result.Registrations++
	v.addUp(f)
	l := f.ledger()
	v.result.Accepted += l.accepted
	v.result.Queued += l.queued
	for fate, n := range l.fates {
		v.result.Fates[fate] += n
	}
	if !f.measured {
		v.result.Unmeasured++
	}
}

// checkTotals holds the numbers of registrations to what is noted, unless it has changed meanwhile.
func (v *verifier) checkTotals(ctx context.Context) error {
	for sh := range health.Shard(health.Shards) {
		noted, err := v.store.client.HGet(ctx, hashesKey(sh), "#").Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
		if n := toInt(noted); noted == v.totals[sh] && n != v.registered[sh] {
			v.warn(CheckIndex, hashesKey(sh), fmt.Sprintf("%d registrations are noted, %d are there: the metrics count wrong", n, v.registered[sh]))
		}
	}
	return nil
}

// read reads registrations, each in one step, and measures their queues.
func (v *verifier) read(ctx context.Context, ids []RegID) ([]facts, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	calls := make([]scriptCall, len(ids))
	for i, id := range ids {
		calls[i] = v.call(id, "", 0)
	}
	replies, errs := v.store.pipeline(calls)
	list := make([]facts, 0, len(ids))
	for i, id := range ids {
		p, err := readPage(id, replies[i], errs[i])
		if err != nil && isSick(errs[i]) {
			v.unread = true
			v.find(CheckLedger, id.member(), "its keys cannot be read: "+errs[i].Error())
			continue
		}
		if err != nil {
			return nil, err
		}
		f := p.facts
		if f.measured = p.waiting == 0; !f.measured && f.counts() {
			if f, err = v.measure(ctx, id); err != nil {
				return nil, err
			}
		}
		list = append(list, f)
	}
	return list, nil
}

// readIndexes reads the places of registrations in the indexes, which lie in other slots. They are written before a registration and
// removed after it: what is missing there while the entity stays at one version is missing, and of what changes nothing can be said.
func (v *verifier) readIndexes(ctx context.Context, list []facts) error {
	pipe := v.store.client.Pipeline()
	var inApp, inCompany []*redis.BoolCmd
	for _, f := range list {
		inApp = append(inApp, pipe.SIsMember(ctx, appIndexKey(f.id.CompanyKey, f.id.AppID), f.id.member()))
		inCompany = append(inCompany, pipe.SIsMember(ctx, companyIndexKey(f.id.CompanyKey), f.id.member()))
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("read indexes: %w", err)
	}
	for i := range list {
		f := &list[i]
		if f.inApp, f.inCompany = inApp[i].Val(), inCompany[i].Val(); f.indexed() {
			continue
		}
		version, err := v.store.client.HGet(ctx, f.id.regKey(), "ver").Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			return fmt.Errorf("read version: %w", err)
		}
		if version != f.version && (version != "" || f.version != "0") {
			f.inApp, f.inCompany = f.registered, f.registered
		}
	}
	return nil
}

// measure adds up the bytes of a queue, a page at a time. It begins again when the queue has moved, and gives up on one that moves all
// the time.
func (v *verifier) measure(ctx context.Context, id RegID) (f facts, err error) {
	for range verifyLooks {
		first, err := v.page(ctx, id, "")
		if err != nil {
			return f, err
		}
		p, bytes := first, first.pageBytes
		for p.pageEvents == verifyPage && p.still(first) {
			if p, err = v.page(ctx, id, p.last); err != nil {
				return f, err
			}
			bytes += p.pageBytes
		}
		f = first.facts
		if p.still(first) {
			f.bytes, f.measured = bytes, true
			return f, nil
		}
	}
	return f, nil
}

// page is a registration's facts with one page of its queue.
type page struct {
	facts
	pageEvents int
	pageBytes  int64
	last       string // id of the page's last event
}

// still says that nothing has come to the queue or left it since another page was read.
func (p page) still(since page) bool {
	return p.waiting == since.waiting && p.number("c:accepted") == since.number("c:accepted")
}

func (v *verifier) page(ctx context.Context, id RegID, cursor string) (page, error) {
	if err := ctx.Err(); err != nil {
		return page{}, err
	}
	replies, errs := v.store.pipeline([]scriptCall{v.call(id, cursor, verifyPage)})
	return readPage(id, replies[0], errs[0])
}

func (v *verifier) call(id RegID, cursor string, count int) scriptCall {
	sh := id.shard()
	return scriptCall{
		v.script,
		[]string{id.regKey(), id.standingKey(), id.windowKey(), id.queueKey(), dueKey(sh), judgeKey(sh), hashesKey(sh), id.expiryKey()},
		[]any{id.AppID, id.member(), digest(id.member()), cursor, count},
	}
}

func readPage(id RegID, reply []any, err error) (page, error) {
	if err == nil && len(reply) != 15 {
		err = fmt.Errorf("reply of %d parts", len(reply))
	}
	if err != nil {
		return page{}, fmt.Errorf("read registration %s: %w", id.member(), err)
	}
	return page{
		facts: facts{
			id: id, at: toInt(reply[0]), version: toText(reply[1]), registered: toInt(reply[2]) == 1, deleted: toInt(reply[3]) == 1,
			name: toText(reply[4]), due: toInt(reply[5]), judged: toInt(reply[6]), standing: toFields(reply[7]), window: toFields(reply[8]),
			waiting: toInt(reply[9]), expiring: toInt(reply[13]), expires: toInt(reply[14]),
		},
		pageEvents: int(toInt(reply[10])), pageBytes: toInt(reply[11]), last: toText(reply[12]),
	}, nil
}

func toFields(v any) map[string]string {
	flat, fields := toTexts(v), map[string]string{}
	for i := 0; i+1 < len(flat); i += 2 {
		fields[flat[i]] = flat[i+1]
	}
	return fields
}
