package delivery

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pulsegate/pulsegate/health"
)

// Check names what a finding is about.
type Check string

// The checks.
const (
	CheckLoss      Check = "loss"      // nothing went from the store while gateways ran
	CheckLedger    Check = "ledger"    // accepted is the sum of the fates and of what is queued
	CheckQueue     Check = "queue"     // events and bytes of a queue are as many as are noted
	CheckWindow    Check = "window"    // the sums of a window are those of its slots
	CheckAttention Check = "attention" // who has work or is unwell is looked at, and nobody who is not there
	CheckIndex     Check = "index"     // every registration stands in its indexes, and nothing else does
	CheckOutbox    Check = "outbox"    // what somebody must be told is there, and will be told
	CheckLeftover  Check = "leftover"  // no keys without a registration
)

// Checks are all checks, the gravest first.
func Checks() []Check {
	return []Check{CheckLoss, CheckLedger, CheckQueue, CheckWindow, CheckAttention, CheckIndex, CheckOutbox, CheckLeftover}
}

// Finding is one thing that is not as it must be.
type Finding struct {
	Check   Check  `json:"check"`
	Of      string `json:"of"`      // a registration's name, a key, or the id of an outbox entry, as it lies in Redis
	Problem string `json:"problem"` // in words, with the figures
	Warning bool   `json:"warning"` // no event and no notice is lost by it
}

// Verification is what a look at the whole store found.
type Verification struct {
	Registrations int            `json:"registrations"` // deleted ones with events under way too
	Gateways      int            `json:"gateways"`      // that run on this Redis now
	Accepted      int64          `json:"accepted"`
	Fates         map[Fate]int64 `json:"fates"` // all final ones
	Queued        int64          `json:"queued"`
	Unmeasured    int            `json:"unmeasured"` // long queues that moved all the time, so that their bytes could not be added up
	Findings      []Finding      `json:"findings"`   // by check, then by what they are of
}

// Balanced says that nothing was found but warnings.
func (v Verification) Balanced() bool {
	return !slices.ContainsFunc(v.Findings, func(f Finding) bool { return !f.Warning })
}

// String is the ledger of the whole store in one line.
func (v Verification) String() string {
	return fmt.Sprintf("verified %d registrations: %s", v.Registrations, ledger{accepted: v.Accepted, fates: v.Fates, queued: v.Queued})
}

// expiredWithin is how late an event may expire.
const expiredWithin = time.Second

// attendedWithin is how late a gateway may be that looks twice a second and whose leases last 6 s.
const attendedWithin = 30 * time.Second

// facts are what one registration's keys held at one moment. A time of 0 says that it does not stand there.
type facts struct {
	id         RegID
	at         int64 // the store's clock, in ms
	version    string
	registered bool
	deleted    bool   // it was registered before
	name       string // in hashes
	due        int64
	judged     int64
	standing   map[string]string
	window     map[string]string
	waiting    int64 // length of the queue
	bytes      int64 // of the queue's events
	measured   bool  // bytes is known
	expiring   int64 // events that stand among those with a time of their own
	expires    int64 // the first such time
	inApp      bool  // in the index of its app
	inCompany  bool  // in the index of its company
}

func (f facts) number(field string) int64 { return toInt(f.standing[field]) }

// ledger is the registration's, with what lies in its queue.
func (f facts) ledger() ledger {
	l := readLedger(f.standing)
	l.queued = f.waiting
	return l
}

// leaving says that the registration was deleted, and that the last of its events are under way.
func (f facts) leaving() bool {
	return !f.registered && f.deleted && f.standing["off"] == "2" && (f.waiting > 0 || f.standing["lo"] != "")
}

// counts says that the registration's ledger is part of the whole.
func (f facts) counts() bool { return f.registered || f.leaving() }

// indexed says that the registration stands in the indexes exactly if it is there.
func (f facts) indexed() bool { return f.inApp == f.registered && f.inCompany == f.registered }

// findings are all that is wrong with a registration. running: a gateway works on this Redis.
func (f facts) findings(running bool) []Finding {
	if !f.counts() {
		return f.strayFindings()
	}
	found := f.ledgerFindings()
	if problem := windowProblem(f.window); problem != "" {
		found = append(found, f.finding(CheckWindow, "%s", problem))
	}
	found = append(found, f.attentionFindings(running)...)
	if f.registered {
		found = append(found, f.indexFindings()...)
	}
	return found
}

func (f facts) finding(c Check, format string, args ...any) Finding {
	return Finding{Check: c, Of: f.id.member(), Problem: fmt.Sprintf(format, args...)}
}

func (f facts) warning(c Check, format string, args ...any) Finding {
	w := f.finding(c, format, args...)
	w.Warning = true
	return w
}

func (f facts) ledgerFindings() []Finding {
	var found []Finding
	switch {
	case len(f.standing) == 0:
		found = append(found, f.finding(CheckLedger, "its standing and its counters are gone"))
	case f.ledger().discrepancy() != 0:
		found = append(found, f.finding(CheckLedger, "%s", f.ledger()))
	}
	if n := f.number("qn"); n != f.waiting {
		found = append(found, f.finding(CheckQueue, "%d events are noted, %d wait", n, f.waiting))
	}
	if n := f.number("qb"); f.measured && n != f.bytes {
		found = append(found, f.finding(CheckQueue, "%d bytes are noted, %d wait", n, f.bytes))
	}
	if f.expiring > f.waiting {
		found = append(found, f.finding(CheckQueue, "%d events that will expire are noted, %d wait", f.expiring, f.waiting))
	}
	if n := f.number("xp"); n != f.expires {
		found = append(found, f.finding(CheckQueue, "the first event expires at %d, and %d is noted", f.expires, n))
	}
	return found
}

func (f facts) attentionFindings(running bool) []Finding {
	var found []Finding
	state := health.State(f.standing["s"])
	if f.waiting > 0 && f.due == 0 {
		found = append(found, f.finding(CheckAttention, "%d events wait, but it does not stand in due: nobody will attend to it", f.waiting))
	}
	if f.expires > 0 && f.standing["lo"] == "" && f.due > max(f.expires, f.at)+expiredWithin.Milliseconds() {
		found = append(found, f.finding(CheckAttention, "an event expires at %s, but nobody will look before %s", utc(f.expires), utc(f.due)))
	}
	if (state == health.Down || state == health.Degraded) && f.standing["off"] == "" && f.judged == 0 {
		found = append(found, f.finding(CheckAttention, "it is %s, but does not stand in judge: the timer will not look at it", state))
	}
	if running && f.late(f.due) {
		found = append(found, f.finding(CheckAttention, "nobody has attended to it since %s", utc(f.due)))
	}
	if running && f.late(f.judged) {
		found = append(found, f.finding(CheckAttention, "nobody has judged it since %s", utc(f.judged)))
	}
	return found
}

func (f facts) late(at int64) bool { return at > 0 && f.at-at > attendedWithin.Milliseconds() }

func utc(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339) }

func (f facts) indexFindings() []Finding {
	var found []Finding
	if f.name != f.id.member() {
		found = append(found, f.finding(CheckIndex, "it is missing from %s: its request ids lead nowhere", hashesKey(f.id.shard())))
	}
	if !f.inApp {
		found = append(found, f.finding(CheckIndex, "it is missing from %s", appIndexKey(f.id.CompanyKey, f.id.AppID)))
	}
	if !f.inCompany {
		found = append(found, f.finding(CheckIndex, "it is missing from %s", companyIndexKey(f.id.CompanyKey)))
	}
	return found
}

// strayFindings are about what is left of a registration that is not there.
func (f facts) strayFindings() []Finding {
	var found []Finding
	for set, at := range map[string]int64{"due": f.due, "judge": f.judged} {
		if at > 0 && len(f.standing) == 0 {
			found = append(found, f.finding(CheckAttention, "it stands in %s, but there is no such registration", set))
		}
	}
	for key, in := range map[string]bool{appIndexKey(f.id.CompanyKey, f.id.AppID): f.inApp, companyIndexKey(f.id.CompanyKey): f.inCompany} {
		if in {
			found = append(found, f.warning(CheckIndex, "it stands in %s, but there is no such registration: readers leave it out", key))
		}
	}
	switch {
	case f.waiting > 0:
		found = append(found, f.finding(CheckLeftover, "%d events wait, but there is no such registration", f.waiting))
	case f.expiring > 0:
		found = append(found, f.finding(CheckLeftover, "%d events that will expire are noted, but there is no such registration", f.expiring))
	case len(f.standing) > 0 || len(f.window) > 0:
		found = append(found, f.warning(CheckLeftover, "its standing or its window is left, but there is no such registration"))
	}
	return found
}

// windowFields are a packed window's sums: span, last slot seen, oldest slot, then the counts; a slot has its number, then the counts.
const (
	windowCounts = 9
	windowSums   = 3 + windowCounts
	windowSlot   = 1 + windowCounts
)

// windowProblem says what is wrong with a window, or "".
func windowProblem(fields map[string]string) string {
	if len(fields) == 0 {
		return ""
	}
	sums := numbers(fields["sum"], windowSums)
	if sums == nil {
		return "its sums cannot be read"
	}
	added, oldest := make([]int64, windowCounts), int64(0)
	for field, text := range fields {
		if field == "sum" {
			continue
		}
		slot := numbers(text, windowSlot)
		if slot == nil {
			return "its slot " + strconv.Quote(field) + " cannot be read"
		}
		if oldest == 0 || slot[0] < oldest {
			oldest = slot[0]
		}
		for i, n := range slot[1:] {
			added[i] += n
		}
	}
	switch {
	case !slices.Equal(sums[3:], added):
		return fmt.Sprintf("its sums are %v, its slots add up to %v", sums[3:], added)
	case sums[2] != oldest:
		return fmt.Sprintf("its oldest slot is %d, and %d is noted", oldest, sums[2])
	}
	return ""
}

// numbers reads a packed field of n numbers, whose zeros at the end are left out; nil when it holds anything else.
func numbers(text string, n int) []int64 {
	parts := strings.Fields(text)
	if len(parts) == 0 || len(parts) > n {
		return nil
	}
	list := make([]int64, n)
	for i, part := range parts {
		var err error
		if list[i], err = strconv.ParseInt(part, 10, 64); err != nil {
			return nil
		}
	}
	return list
}
