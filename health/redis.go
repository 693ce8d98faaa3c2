package health

import (
	"context"
	_ "embed"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

//go:embed window.lua
var windowLua string

//go:embed standing.lua
var standingLua string

//go:embed rejudge.lua
var rejudgeLua string

//go:embed transition.lua
var transitionLua string

//go:embed read.lua
var readLua string

// Lua returns the functions of the window, the standing and the outbox, to be put in front of a script that counts outcomes.
func Lua() string { return windowLua + standingLua }

// Store keeps windows and standings in Redis. Safe for concurrent use by any number of replicas.
type Store struct {
	client     redis.UniversalClient
	rules      Rules
	rejudge    *redis.Script
	transition *redis.Script
	read       *redis.Script
}

// NewStore returns a store over a client that bounds its calls in time and does not retry them by itself.
func NewStore(client redis.UniversalClient, rules Rules) *Store {
	return &Store{
		client:     client,
		rules:      rules.WithDefaults(),
		rejudge:    redis.NewScript(Lua() + rejudgeLua),
		transition: redis.NewScript(Lua() + transitionLua),
		read:       redis.NewScript(Lua() + readLua),
	}
}

// Keys are the keys of one registration's health; Member is its name in the shard's sorted sets.
type Keys struct {
	Standing, Window, Judge, Due, Notices, Out, OutData, Told, Ledger string
	Member                                                            string
}

// Reading is a standing and its counts at one moment of the store's clock.
type Reading struct {
	At       time.Time
	Standing Standing
	Counts   Counts
	Notes    Notes
	Sick     bool // what stands there cannot be read, and the rest says nothing
}

// Notes are what is remembered for people, not for judging.
type Notes struct {
	LastAcknowledgedAt time.Time
	FailureClass       Class
	FailureAt          time.Time
	FailureRequest     string
	FailedRequests     []string // newest first
	HandedOff          int64    // since the incident began
	Undelivered        int64    // since the incident began
	RampWidth          int
}

// Rejudge moves the window on to now and returns what is in it.
func (s *Store) Rejudge(ctx context.Context, k Keys) (Reading, error) {
	keys := []string{k.Standing, k.Window, k.Judge}
	reply, err := s.rejudge.Run(ctx, s.client, keys, s.rules.Window.Milliseconds(), k.Member, s.rules.MinAttempts).Slice()
	if err != nil {
		return Reading{}, fmt.Errorf("rejudge: %w", err)
	}
	if len(reply) != 3 {
		return Reading{}, fmt.Errorf("rejudge: reply of %d parts", len(reply))
	}
	return readingOf(fromMillis(fmt.Sprint(reply[0])), texts(reply[1]), strings.Fields(fmt.Sprint(reply[2]))), nil
}

// Read returns the readings of registrations of one shard, in order, in one round trip, without changing anything. Those that cannot be read are Sick.
func (s *Store) Read(ctx context.Context, keys []Keys) ([]Reading, error) {
	names := make([]string, 0, 2*len(keys))
	for _, k := range keys {
		names = append(names, k.Standing, k.Window)
	}
	reply, err := s.read.Run(ctx, s.client, names, s.rules.Window.Milliseconds()).Slice()
	if err != nil {
		return nil, fmt.Errorf("read health: %w", err)
	}
	if len(reply) != 1+2*len(keys) {
		return nil, fmt.Errorf("read health: reply of %d parts", len(reply))
	}
	readings := make([]Reading, len(keys))
	for i := range keys {
		if readings[i].Sick = fmt.Sprint(reply[1+2*i]) == ""; readings[i].Sick {
			continue
		}
		readings[i] = readingOf(fromMillis(fmt.Sprint(reply[0])), texts(reply[1+2*i]), strings.Fields(fmt.Sprint(reply[2+2*i])))
	}
	return readings, nil
}

// OutboxEntry is one entry that a transition puts into the outbox.
type OutboxEntry struct {
	ID     string
	Owed   bool // somebody is to act on it; else it has had its end already, and is listed only
	Listed bool // people may list it
	JSON   []byte
}

// Transit makes the transition of a verdict, judged on reading, unless a fact has changed since; then it returns false: judge again.
// The entries are built from the transition, so that they carry what was stored.
func (s *Store) Transit(ctx context.Context, k Keys, r Reading, v Verdict, entries func(Transition) []OutboxEntry) (bool, error) {
	t, next := s.rules.next(r, v)
	argv := []any{
		s.rules.Window.Milliseconds(), k.Member,
		r.Standing.Number, flag(r.Counts.Acknowledged == 0), flag(r.Counts.Failed == 0), flag(r.Counts.Failed >= s.rules.MinAttempts), s.rules.MinAttempts,
		string(next.State), flag(next.Verified), millis(next.PausedUntil), millis(next.Incident), millis(next.DownSince), next.StillDown,
		rampWidth(r, v), t.At, next.Notices.text(),
	}
	for _, e := range entries(t) {
		argv = append(argv, e.ID, flag(e.Owed), flag(e.Listed), e.JSON)
	}
	keys := []string{k.Standing, k.Window, k.Judge, k.Due, k.Notices, k.OutData, k.Told, k.Out, k.Ledger}
	done, err := s.transition.Run(ctx, s.client, keys, argv...).Int()
	if err != nil {
		return false, fmt.Errorf("make transition: %w", err)
	}
	return done == 1, nil
}

// rampWidth is 1 when a pause ends; otherwise the width stays as it is.
func rampWidth(r Reading, v Verdict) string {
	if r.Standing.State == Down && v.State != Down {
		return "1"
	}
	return ""
}

func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMillis(s string) time.Time {
	ms := parseInt(s)
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// ParseReading reads what scripts of other rooms return: the time in ms, the fields of the standing in lines, the counts between blanks.
func ParseReading(now int64, standing, counts string) Reading {
	return readingOf(fromMillis(strconv.FormatInt(now, 10)), strings.Split(standing, "\n"), strings.Fields(counts))
}

// WellReading is the reading of a bot that is HEALTHY, verified, judged and not debugging, as far as a lane goes by it: the time in ms, the number of
// its last transition, the width of its ramp, and the counts between blanks. What it was before, and what people were told, is not in it.
func WellReading(now, number int64, ramp int, counts string) Reading {
	return Reading{
		At: time.UnixMilli(now), Counts: parseCounts(strings.Fields(counts)), Notes: Notes{RampWidth: ramp},
		Standing: Standing{State: Healthy, Verified: true, Judged: true, Number: number},
	}
}

// Heard is the reading at a later time, with other counts, of a bot whose standing is as it was.
func (r Reading) Heard(now int64, counts string) Reading {
	c := parseCounts(strings.Fields(counts))
	r.At = time.UnixMilli(now)
	if c.Acknowledged > r.Counts.Acknowledged {
		r.Notes.LastAcknowledgedAt = r.At
	}
	r.Counts = c
	return r
}

func readingOf(at time.Time, v, counts []string) Reading {
	for len(v) < 22 {
		v = append(v, "")
	}
	r := Reading{At: at, Counts: parseCounts(counts)}
	if r.Counts.ByClass == nil {
		r.Counts.ByClass = map[Class]int64{}
	}
	number := parseInt(v[3])
	r.Standing = Standing{
		State: State(v[0]), Since: fromMillis(v[1]), PausedUntil: fromMillis(v[2]), Number: number, Verified: v[4] == "1",
		Incident: fromMillis(v[5]), DownSince: fromMillis(v[6]), StillDown: parseInt(v[7]),
		TrialFailed: v[8] != "" && parseInt(v[8]) == number, Debug: fromMillis(v[9]).After(r.At), Judged: v[10] == "",
		Holding: v[19] == "1" && parseInt(v[20]) > 0, Notices: parseNotices(v[21]),
	}
	if r.Standing.State == "" {
		r.Standing.State = Healthy
	}
	r.Notes = Notes{
		LastAcknowledgedAt: fromMillis(v[11]), FailureClass: Class(v[12]), FailureAt: fromMillis(v[13]), FailureRequest: v[14],
		FailedRequests: strings.Fields(v[15]), HandedOff: parseInt(v[16]), Undelivered: parseInt(v[17]), RampWidth: int(parseInt(v[18])),
	}
	return r
}

func parseCounts(v []string) Counts {
	var c Counts
	for i, text := range v {
		n := parseInt(text)
		switch {
		case i == 0:
			c.Acknowledged = n
		case n > 0 && i <= len(Classes()):
			if c.ByClass == nil {
				c.ByClass = map[Class]int64{}
			}
			c.ByClass[Classes()[i-1]] = n
			c.Failed += n
		}
	}
	return c
}

func parseInt(s string) int64 {
	if s == "" {
		return 0 // as much is; an error costs more than all the rest
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func texts(reply any) []string {
	items, ok := reply.([]any)
	if !ok {
		return nil
	}
	out := make([]string, len(items))
	for i, it := range items {
		if s, ok := it.(string); ok {
			out[i] = s
		}
	}
	return out
}
